//! DescribeClientQuotas (48): there are none, but what is asked for has to make sense (KIP-546).

use std::collections::BTreeSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::{ApiKey, DescribeClientQuotasRequest, DescribeClientQuotasResponse};

use super::{Api, Reply, Request, text};

pub const API: Api =
    Api { key: ApiKey::DescribeClientQuotas, min: 0, max: 1, serve: super::Serve::Call(serve) };

/// Of this name.
const EXACT: i8 = 0;
/// The default of all names.
const DEFAULT: i8 = 1;
/// Of any name.
const SPECIFIED: i8 = 2;

fn serve(mut request: Request) -> Reply {
    let body: DescribeClientQuotasRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let response = match check(&body.components) {
        Ok(()) => DescribeClientQuotasResponse::default(),
        Err(why) => {
            let code = ResponseError::InvalidRequest.code();
            request.broker.metrics.error(API.key as i16, code);
            DescribeClientQuotasResponse::default()
                .with_error_code(code)
                .with_error_message(Some(text(why)))
                .with_entries(None)
        }
    };
    request.head.reply(&response)
}

fn check(components: &[ComponentData]) -> Result<(), String> {
    let mut types: BTreeSet<&str> = BTreeSet::new();
    for component in components {
        let entity = component.entity_type.as_str();
        if entity.is_empty() {
            return Err("Invalid empty entity type.".to_string());
        }
        if !types.insert(entity) {
            return Err(format!("Entity type {entity} cannot appear more than once in the filter."));
        }
        let also = |kind: &str| format!("Request specified {kind}, but also specified a match string.");
        match (component.match_type, &component._match) {
            (EXACT, None) => {
                return Err("Request specified MATCH_TYPE_EXACT, but set match string to null.".to_string());
            }
            (DEFAULT, Some(_)) => return Err(also("MATCH_TYPE_DEFAULT")),
            (SPECIFIED, Some(_)) => return Err(also("MATCH_TYPE_SPECIFIED")),
            (EXACT | DEFAULT | SPECIFIED, _) => {}
            (other, _) => return Err(format!("Unknown match type {other}")),
        }
    }
    if types.contains("ip") && (types.contains("user") || types.contains("client-id")) {
        let why = "Invalid entity filter component combination. IP filter component should not be used with user or clientId filter component.";
        return Err(why.to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;

    #[tokio::test]
    async fn there_are_no_quotas_in_any_version() {
        let fixture = Fixture::new().await;
        let of = |entity: &str, kind: i8, name: Option<&str>| {
            ComponentData::default()
                .with_entity_type(text(entity))
                .with_match_type(kind)
                .with_match(name.map(text))
        };
        let fine = [
            vec![],
            vec![of("user", EXACT, Some("u")), of("client-id", SPECIFIED, None)],
            vec![of("ip", DEFAULT, None)],
        ];
        let bad = [
            vec![of("", EXACT, Some("u"))],
            vec![of("user", EXACT, Some("u")), of("user", DEFAULT, None)],
            vec![of("user", EXACT, None)],
            vec![of("user", DEFAULT, Some("u"))],
            vec![of("user", SPECIFIED, Some("u"))],
            vec![of("user", 7, None)],
            vec![of("user", SPECIFIED, None), of("ip", SPECIFIED, None)],
        ];
        for version in 0..=1 {
            for (asked, code) in fine.iter().map(|a| (a, 0)).chain(bad.iter().map(|a| (a, 42))) {
                let request = DescribeClientQuotasRequest::default().with_components(asked.clone());
                let response: DescribeClientQuotasResponse = fixture.call(version, &request).await;
                assert_eq!(response.error_code, code, "{asked:?}");
                assert_eq!(response.entries, (code == 0).then(Vec::new));
                assert_eq!(response.error_message.unwrap_or_default().is_empty(), code == 0);
            }
        }
    }
}
