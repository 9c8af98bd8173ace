//! IncrementalAlterConfigs (44): settings are changed one by one.

use chronik_core::controller::resource_type::BROKER_LOGGER;
use chronik_core::controller::{AlterOp, ConfigOp, ControllerError, ErrorCode, incremental_alter_configs};
use chronik_core::ids::BrokerId;
use chronik_core::metadata::ConfigResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{ApiKey, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use super::alter_configs::{CHANGE_MS, Names, answer, answers};
use super::{Api, Reply, Request, broker_logger};

pub const API: Api =
    Api { key: ApiKey::IncrementalAlterConfigs, min: 0, max: 1, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: IncrementalAlterConfigsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let broker = request.broker.clone();
    request.later(async move {
        let names = Names::of(body.resources.iter().map(|r| (r.resource_type, &*r.resource_name)));
        let this_broker = broker.config.broker_id;
        let stored = body.resources.iter().filter(|r| r.resource_type != BROKER_LOGGER);
        let parsed: Vec<_> = stored.map(|r| parse(r, &names, this_broker)).collect();
        let changes: Vec<(ConfigResource, Vec<ConfigOp>)> = parsed.iter().flatten().cloned().collect();
        let validate_only = body.validate_only;
        let decided = broker
            .change(CHANGE_MS, move |image| incremental_alter_configs(image, &changes, validate_only))
            .await;
        let mut stored = answers(&broker, API.key, parsed, decided).into_iter();
        let mut answered = Vec::with_capacity(body.resources.len());
        for resource in &body.resources {
            if resource.resource_type != BROKER_LOGGER {
                answered.extend(stored.next());
                continue;
            }
            // The levels of loggers are this process's alone: nothing is stored of them.
            let altered = names
                .once(BROKER_LOGGER, &resource.resource_name)
                .and_then(|()| broker_logger::alter(resource, this_broker, validate_only));
            answered.push(answer(&broker, API.key, altered));
        }
        let responses = body.resources.into_iter().zip(answered).map(|(resource, answer)| {
            AlterConfigsResourceResponse::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name)
                .with_error_code(answer.error_code)
                .with_error_message(answer.error_message)
        });
        IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
    })
}

fn parse(
    resource: &AlterConfigsResource,
    names: &Names<'_>,
    this_broker: BrokerId,
) -> Result<(ConfigResource, Vec<ConfigOp>), ControllerError> {
    let known = names.check(resource.resource_type, &resource.resource_name, this_broker)?;
    Ok((known, ops(resource)?))
}

/// What is to be done to the settings of a resource.
pub(super) fn ops(resource: &AlterConfigsResource) -> Result<Vec<ConfigOp>, ControllerError> {
    let op = |config: &AlterableConfig| {
        let op = AlterOp::from_wire(config.config_operation).ok_or_else(|| {
            let why = format!("Unknown operation type {}", config.config_operation);
            ControllerError::new(ErrorCode::InvalidRequest, why)
        })?;
        Ok(ConfigOp {
            name: config.name.to_string(),
            op,
            value: config.value.as_ref().map(|v| v.to_string()),
        })
    };
    resource.configs.iter().map(op).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use crate::api::text;

    fn op(name: &str, op: i8, value: Option<&str>) -> AlterableConfig {
        AlterableConfig::default().with_name(text(name)).with_config_operation(op).with_value(value.map(text))
    }

    fn on(resource_type: i8, name: &str, configs: Vec<AlterableConfig>) -> AlterConfigsResource {
        AlterConfigsResource::default()
            .with_resource_type(resource_type)
            .with_resource_name(text(name))
            .with_configs(configs)
    }

    fn ask(resources: Vec<AlterConfigsResource>) -> IncrementalAlterConfigsRequest {
        IncrementalAlterConfigsRequest::default().with_resources(resources)
    }

    #[tokio::test]
    async fn settings_are_set_and_removed_in_every_version() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        let max = || fixture.broker.metadata.image().topic("a").unwrap().config.max_message_bytes;
        let default = max();
        for version in 0..=1 {
            let set = ask(vec![on(2, "a", vec![op("max.message.bytes", 0, Some("777"))])]);
            let only: IncrementalAlterConfigsResponse =
                fixture.call(version, &set.clone().with_validate_only(true)).await;
            assert_eq!((only.responses[0].error_code, max()), (0, default));
            let response: IncrementalAlterConfigsResponse = fixture.call(version, &set).await;
            assert_eq!((response.responses[0].error_code, max()), (0, 777));
            assert_eq!(response.responses[0].error_message, None);
            let delete = ask(vec![on(2, "a", vec![op("max.message.bytes", 1, None)])]);
            let response: IncrementalAlterConfigsResponse = fixture.call(version, &delete).await;
            assert_eq!((response.responses[0].error_code, max()), (0, default));
        }
    }

    #[tokio::test]
    async fn a_wal_profile_is_defined_and_used() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        let define = ask(vec![on(4, "", vec![op("chronik.wal.profile.bulk.policy", 0, Some("hybrid"))])]);
        let response: IncrementalAlterConfigsResponse = fixture.call(1, &define).await;
        assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0].error_message);
        let using = ask(vec![on(2, "a", vec![op("chronik.wal.profile", 0, Some("bulk"))])]);
        let response: IncrementalAlterConfigsResponse = fixture.call(1, &using).await;
        assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0].error_message);
        let image = fixture.broker.metadata.image();
        assert_eq!(image.topic("a").unwrap().config.wal_profile.policy.name(), "hybrid");
    }

    #[tokio::test]
    async fn refusals_carry_kafkas_codes() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        let set = |name: &str, value: &str| vec![op(name, 0, Some(value))];
        for (resource, code) in [
            (on(2, "a", set("no.such", "1")), 40),
            (on(2, "a", set("max.message.bytes", "x")), 40),
            (on(2, "gone", set("max.message.bytes", "1")), 3),
            (on(2, "a", vec![op("max.message.bytes", 9, Some("1"))]), 42),
            (on(2, "a", vec![op("max.message.bytes", 0, None)]), 42),
            (on(2, "a", [set("segment.bytes", "2000000"), set("segment.bytes", "3000000")].concat()), 42),
            (on(2, "a b", set("max.message.bytes", "1")), 17),
            (on(2, "", set("max.message.bytes", "1")), 42),
            (on(4, "1", set("node.id", "2")), 42),
            (on(4, "x", set("message.max.bytes", "1")), 42),
            (on(4, "7", set("message.max.bytes", "1")), 42),
            (on(32, "g", set("consumer.session.timeout.ms", "1")), 40),
            (on(32, "", set("consumer.session.timeout.ms", "50000")), 42),
            (on(99, "a", set("x", "1")), 42),
        ] {
            let response: IncrementalAlterConfigsResponse =
                fixture.call(1, &ask(vec![resource.clone()])).await;
            let got = &response.responses[0];
            assert_eq!(got.error_code, code, "{resource:?}: {:?}", got.error_message);
            assert!(got.error_message.is_some());
        }
    }

    #[tokio::test]
    async fn each_resource_answers_for_itself() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        let max = vec![op("max.message.bytes", 0, Some("777"))];
        let request = ask(vec![on(99, "z", vec![]), on(2, "a", max.clone()), on(2, "gone", max.clone())]);
        let response: IncrementalAlterConfigsResponse = fixture.call(1, &request).await;
        let got: Vec<_> = response.responses.iter().map(|r| (&*r.resource_name, r.error_code)).collect();
        assert_eq!(got, [("z", 42), ("a", 0), ("gone", 3)]);
        let twice: IncrementalAlterConfigsResponse =
            fixture.call(1, &ask(vec![on(2, "a", max.clone()), on(2, "a", max)])).await;
        assert_eq!(twice.responses.iter().map(|r| r.error_code).collect::<Vec<_>>(), [42, 42]);
    }
}
