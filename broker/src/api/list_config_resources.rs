//! ListConfigResources (74): what has settings (KIP-1142).

use chronik_core::controller::resource_type::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use chronik_core::metadata::ConfigResource as Resource;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ApiKey, ListConfigResourcesRequest, ListConfigResourcesResponse};

use super::{Api, Reply, Request, text};

pub const API: Api =
    Api { key: ApiKey::ListConfigResources, min: 0, max: 1, serve: super::Serve::Call(serve) };

/// Of the types that a version knows, client metrics have no settings here.
fn known(version: i16) -> &'static [i8] {
    if version == 0 { &[CLIENT_METRICS] } else { &[TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP] }
}

fn serve(mut request: Request) -> Reply {
    let body: ListConfigResourcesRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let known = known(request.head.version);
    let response = ListConfigResourcesResponse::default();
    if body.resource_types.iter().any(|wanted| !known.contains(wanted)) {
        let code = ResponseError::UnsupportedVersion.code();
        request.broker.metrics.error(API.key as i16, code);
        return request.head.reply(&response.with_error_code(code));
    }
    let wanted = |kind: i8| {
        let all = body.resource_types.is_empty();
        known.contains(&kind) && (all || body.resource_types.contains(&kind))
    };
    let image = request.broker.metadata.image();
    let resource = |kind: i8, name: &str| {
        ConfigResource::default().with_resource_type(kind).with_resource_name(text(name))
    };
    let mut resources = Vec::new();
    if wanted(GROUP) {
        // A group that has no settings of its own is not told, whether it is there or not.
        resources.extend(image.configs().filter_map(|(of, _)| match of {
            Resource::Group(id) => Some(resource(GROUP, id)),
            _ => None,
        }));
    }
    for kind in [BROKER_LOGGER, BROKER].into_iter().filter(|kind| wanted(*kind)) {
        let here = image.brokers().values().filter(|b| b.listener(&request.conn.listener).is_some());
        resources.extend(here.map(|b| resource(kind, &b.broker_id.to_string())));
    }
    if wanted(TOPIC) {
        resources.extend(image.topics().map(|topic| resource(TOPIC, &topic.name)));
    }
    request.head.reply(&response.with_config_resources(resources))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;

    async fn listed(fixture: &Fixture, version: i16, types: &[i8]) -> (i16, Vec<(i8, String)>) {
        let request = ListConfigResourcesRequest::default().with_resource_types(types.to_vec());
        let response: ListConfigResourcesResponse = fixture.call(version, &request).await;
        let resources = response.config_resources.iter();
        let each = resources.map(|r| (r.resource_type, r.resource_name.to_string()));
        (response.error_code, each.collect())
    }

    #[tokio::test]
    async fn groups_brokers_and_topics_have_settings() {
        let fixture = Fixture::new().await;
        fixture.register_broker(2, true).await;
        fixture.create_topic("a", 1).await;
        fixture.alter_config(GROUP, "g", "consumer.session.timeout.ms", Some("50000")).await;
        fixture.alter_config(GROUP, "gone", "consumer.session.timeout.ms", Some("50000")).await;
        fixture.alter_config(GROUP, "gone", "consumer.session.timeout.ms", None).await;
        let of = |kind: i8, id: &str| (kind, id.to_string());
        let loggers = vec![of(BROKER_LOGGER, "1"), of(BROKER_LOGGER, "2")];
        let (group, topic) = (of(GROUP, "g"), of(TOPIC, "a"));
        let brokers = vec![of(BROKER, "1"), of(BROKER, "2"), topic.clone()];
        let all = [vec![group.clone()], loggers.clone(), brokers].concat();
        assert_eq!(listed(&fixture, 1, &[]).await, (0, all.clone()));
        assert_eq!(listed(&fixture, 1, &[GROUP, TOPIC]).await, (0, vec![group, topic]));
        assert_eq!(listed(&fixture, 1, &[BROKER_LOGGER, CLIENT_METRICS]).await, (0, loggers));
        assert_eq!(
            listed(&fixture, 1, &[TOPIC, 1]).await,
            (ResponseError::UnsupportedVersion.code(), vec![])
        );
        // Version 0 asks for client metrics only.
        assert_eq!(listed(&fixture, 0, &[]).await, (0, vec![]));
        let elsewhere = fixture.on_listener("OTHER");
        assert_eq!(listed(&elsewhere, 1, &[BROKER]).await, (0, vec![]));
    }
}
