//! ApiVersions (18): what is served, from the table, and the features that are finalized (KIP-584); and who the client says
//! it is (KIP-511).

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};

use super::{Api, Reply, Request, TABLE, text};

pub const API: Api = Api { key: ApiKey::ApiVersions, min: 0, max: 4, serve: super::Serve::Call(serve) };

/// A feature and its level, which is the program's, and changes with it alone.
type Feature = (&'static str, i16);
/// With level 1, there are groups of the new protocol (KIP-848). As in Kafka, `group.coordinator.rebalance.protocols` does not
/// change it.
const GROUP_VERSION: Feature = ("group.version", 1);
/// With level 2, each transaction of a client that knows it has an epoch of its own (KIP-890). A client that does not know
/// features does as it always did.
const TRANSACTION_VERSION: Feature = ("transaction.version", 2);
/// Clients below this version cannot read that a feature's lowest level is 0: they are not told that it is supported, only
/// its level.
pub(super) const LEVEL_0_FROM: i16 = 4;

fn serve(mut request: Request) -> Reply {
    let body: ApiVersionsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let mut response = ApiVersionsResponse::default();
    if request.head.version >= 3 {
        let (name, version) = (body.client_software_name, body.client_software_version);
        if !is_software(&name) || !is_software(&version) {
            request.broker.metrics.error(ApiKey::ApiVersions as i16, ResponseError::InvalidRequest.code());
            return request.head.reply(&response.with_error_code(ResponseError::InvalidRequest.code()));
        }
        // A client that asks twice stays who it was.
        let _ = request.conn.software.set((name, version));
    }
    response.api_keys = told().map(row).collect();
    request.head.reply(&with_features(response, request.head.version))
}

/// The answer to a version that is not served: version 0 of the response, with the versions that are, so
/// that the client can ask again.
pub(super) fn unsupported(request: &Request) -> Reply {
    let response = ApiVersionsResponse::default()
        .with_error_code(ResponseError::UnsupportedVersion.code())
        .with_api_keys(vec![row(&API)]);
    match request.head.frame_of_version(&response, 0) {
        Ok(frame) => Reply::Now(frame),
        Err(e) => Reply::Close(e.to_string()),
    }
}

/// What is served and not told: a Kafka without a receiver for its clients' metrics tells nobody to send them.
const UNTOLD: [ApiKey; 2] = [ApiKey::GetTelemetrySubscriptions, ApiKey::PushTelemetry];

fn told() -> impl Iterator<Item = &'static Api> {
    TABLE.iter().filter(|api| !UNTOLD.contains(&api.key))
}

/// Versions that have no features leave them out.
pub(super) fn with_features(response: ApiVersionsResponse, version: i16) -> ApiVersionsResponse {
    let supported = |(name, level): Feature| {
        SupportedFeatureKey::default().with_name(text(name)).with_min_version(0).with_max_version(level)
    };
    let finalized = |(name, level): Feature| {
        FinalizedFeatureKey::default()
            .with_name(text(name))
            .with_min_version_level(level)
            .with_max_version_level(level)
    };
    let features = [GROUP_VERSION, TRANSACTION_VERSION];
    response
        .with_supported_features(
            features.into_iter().filter(|_| version >= LEVEL_0_FROM).map(supported).collect(),
        )
        .with_finalized_features_epoch(0)
        .with_finalized_features(features.map(finalized).to_vec())
}

fn row(api: &Api) -> ApiVersion {
    ApiVersion::default().with_api_key(api.key as i16).with_min_version(api.min).with_max_version(api.max)
}

/// Kafka's rule for a client's name and version: `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`.
fn is_software(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.chars().next()) && edge(text.chars().last()) && text.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use kafka_protocol::protocol::StrBytes;

    fn client(name: &'static str, version: &'static str) -> ApiVersionsRequest {
        ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(name))
            .with_client_software_version(StrBytes::from_static_str(version))
    }

    #[tokio::test]
    async fn tells_the_table_in_every_version() {
        let fixture = Fixture::new().await;
        for version in 0..=4 {
            let request = if version >= 3 { client("apache-kafka-java", "4.3.1") } else { client("", "") };
            let response: ApiVersionsResponse = fixture.call(version, &request).await;
            assert_eq!((response.error_code, response.api_keys.len()), (0, TABLE.len() - UNTOLD.len()));
            for (told, api) in response.api_keys.iter().zip(told()) {
                assert_eq!(
                    (told.api_key, told.min_version, told.max_version),
                    (api.key as i16, api.min, api.max)
                );
            }
        }
        assert_eq!(&*fixture.conn.software.get().unwrap().0, "apache-kafka-java");
    }

    #[tokio::test]
    async fn features_have_their_levels() {
        let fixture = Fixture::new().await;
        for version in [3, 4] {
            let told: ApiVersionsResponse = fixture.call(version, &client("java", "4.3.1")).await;
            let supported = told.supported_features.iter();
            let supported: Vec<_> =
                supported.map(|f| (f.name.as_str(), f.min_version, f.max_version)).collect();
            let all = [("group.version", 0, 1), ("transaction.version", 0, 2)];
            assert_eq!(supported, if version >= LEVEL_0_FROM { all.to_vec() } else { vec![] });
            let finalized = told.finalized_features.iter();
            let finalized: Vec<_> =
                finalized.map(|f| (f.name.as_str(), f.min_version_level, f.max_version_level)).collect();
            assert_eq!(finalized, [("group.version", 1, 1), ("transaction.version", 2, 2)]);
            assert_eq!(told.finalized_features_epoch, 0);
        }
    }

    #[tokio::test]
    async fn a_version_of_the_future_gets_version_0_and_error_35() {
        let fixture = Fixture::new().await;
        let frame =
            fixture.call_raw(ApiKey::ApiVersions as i16, 99, bytes::Bytes::from_static(b"\xff\xff")).await;
        // Size, correlation id, error, one key: 18 from 0 to 4.
        let expected = [0, 0, 0, 16, 0, 0, 0, 7, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4];
        assert_eq!(frame.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_client_that_cannot_be_named_is_refused() {
        let fixture = Fixture::new().await;
        for (name, version) in [("", "1"), ("a b", "1"), ("-a", "1"), ("a", "1."), ("a", "")] {
            let response: ApiVersionsResponse = fixture.call(3, &client(name, version)).await;
            assert_eq!((response.error_code, response.api_keys.len()), (42, 0), "{name:?} {version:?}");
        }
        assert!(fixture.conn.software.get().is_none());
    }
}
