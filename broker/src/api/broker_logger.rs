//! BROKER_LOGGER, the configuration resource that stands for what this broker logs (KIP-412).

use std::collections::BTreeSet;

use chronik_core::controller::{AlterOp, ControllerError, ErrorCode};
use chronik_core::ids::BrokerId;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;

use super::incremental_alter_configs::ops;
use super::text;
use crate::logging::{LOGGERS, LoggerError};

/// Kafka's `ConfigSource`: a logger's level.
const DYNAMIC_BROKER_LOGGER: i8 = 6;

fn refuse<T>(why: impl Into<String>) -> Result<T, ControllerError> {
    Err(ControllerError::new(ErrorCode::InvalidRequest, why))
}

/// Every logger of the broker of this name, with its level.
pub fn describe(
    name: &str,
    this_broker: BrokerId,
) -> Result<Vec<DescribeConfigsResourceResult>, ControllerError> {
    match name.parse::<i32>() {
        _ if name.is_empty() => return refuse("Broker id must not be empty"),
        Err(_) => return refuse(format!("Broker id must be an integer, but it is: {name}")),
        Ok(id) if id != this_broker.0 => {
            return refuse(format!("Unexpected broker id, expected {this_broker} but received {name}"));
        }
        Ok(_) => {}
    }
    let told = LOGGERS.levels().into_iter().map(|(logger, level)| {
        DescribeConfigsResourceResult::default()
            .with_name(text(logger))
            .with_value(Some(text(level)))
            .with_config_source(DYNAMIC_BROKER_LOGGER)
    });
    Ok(told.collect())
}

/// Alters levels; they act at once.
pub fn alter(
    resource: &AlterConfigsResource,
    this_broker: BrokerId,
    validate_only: bool,
) -> Result<(), ControllerError> {
    let mut names = BTreeSet::new();
    if !resource.configs.iter().all(|config| names.insert(&config.name)) {
        return refuse("Error due to duplicate config keys");
    }
    let ops = ops(resource)?;
    let nulls = ops.iter().filter(|op| op.op != AlterOp::Delete && op.value.is_none());
    let nulls: Vec<&str> = nulls.map(|op| op.name.as_str()).collect();
    if !nulls.is_empty() {
        return refuse(format!("Null value not supported for : {}", nulls.join(", ")));
    }
    match resource.resource_name.parse::<i32>() {
        Ok(id) if id == this_broker.0 => {}
        Ok(id) => return refuse(format!("Unexpected node id. Expected {this_broker}, but received {id}")),
        Err(_) => {
            let name = &resource.resource_name;
            return refuse(format!("Node id must be an integer, but it is: {name}"));
        }
    }
    LOGGERS.alter(&ops, validate_only).map_err(|e| {
        let code = match e {
            LoggerError::Unknown(_) | LoggerError::Level { .. } => ErrorCode::InvalidConfig,
            LoggerError::Root | LoggerError::Operation(_) => ErrorCode::InvalidRequest,
        };
        ControllerError::new(code, e.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use chronik_core::controller::resource_type::BROKER_LOGGER;
    use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
    use kafka_protocol::messages::incremental_alter_configs_request::AlterableConfig;
    use kafka_protocol::messages::{
        DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest,
        IncrementalAlterConfigsResponse,
    };

    async fn level(fixture: &Fixture, logger: &str) -> (Option<String>, i8) {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(BROKER_LOGGER)
            .with_resource_name(text("1"))
            .with_configuration_keys(Some(vec![text(logger)]));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let response: DescribeConfigsResponse = fixture.call(4, &request).await;
        let result = &response.results[0];
        assert_eq!((result.error_code, result.configs.len()), (0, 1));
        let told = &result.configs[0];
        assert!(!told.read_only && !told.is_sensitive && told.synonyms.is_empty());
        (told.value.as_ref().map(|v| v.to_string()), told.config_source)
    }

    fn set(kind: i8, broker: &str, name: &str, value: Option<&str>) -> AlterConfigsResource {
        let config = AlterableConfig::default().with_name(text(name)).with_value(value.map(text));
        AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(broker))
            .with_configs(vec![config])
    }

    async fn alter(fixture: &Fixture, resources: Vec<AlterConfigsResource>) -> Vec<(i16, String)> {
        let request = IncrementalAlterConfigsRequest::default().with_resources(resources);
        let response: IncrementalAlterConfigsResponse = fixture.call(1, &request).await;
        let told = response.responses.into_iter();
        told.map(|r| (r.error_code, r.error_message.map(|m| m.to_string()).unwrap_or_default())).collect()
    }

    /// The loggers are the process's: no other test alters this one.
    #[tokio::test]
    async fn levels_are_altered_beside_settings_that_are_stored() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        let logger = "chronik_broker.placement";
        let both = vec![
            set(2, "a", "max.message.bytes", Some("777")),
            set(BROKER_LOGGER, "1", logger, Some("WARN")),
            set(2, "gone", "max.message.bytes", Some("777")),
        ];
        let codes: Vec<i16> = alter(&fixture, both).await.into_iter().map(|(code, _)| code).collect();
        assert_eq!(codes, [0, 0, 3]);
        assert_eq!(level(&fixture, logger).await, (Some("WARN".to_string()), DYNAMIC_BROKER_LOGGER));
        assert_eq!(fixture.broker.metadata.image().topic("a").unwrap().config.max_message_bytes, 777);

        for (resource, code, words) in [
            (set(BROKER_LOGGER, "7", logger, Some("INFO")), 42, "Unexpected node id. Expected 1"),
            (set(BROKER_LOGGER, "", logger, Some("INFO")), 42, "Node id must be an integer"),
            (set(BROKER_LOGGER, "1", "nobody", Some("INFO")), 40, "Logger nobody does not exist!"),
            (set(BROKER_LOGGER, "1", logger, Some("LOUD")), 40, "not a supported log level"),
            (set(BROKER_LOGGER, "1", logger, None), 42, "Null value not supported for : chronik"),
        ] {
            let told = alter(&fixture, vec![resource]).await;
            assert!(told[0].0 == code && told[0].1.contains(words), "{told:?}");
        }
        let twice = vec![set(BROKER_LOGGER, "1", logger, Some("INFO")); 2];
        let told = alter(&fixture, twice).await;
        assert!(told.iter().all(|(code, why)| *code == 42 && why.contains("at most once")), "{told:?}");
    }

    #[tokio::test]
    async fn only_this_brokers_loggers_are_told() {
        for (name, words) in [("", "must not be empty"), ("x", "must be an integer"), ("7", "expected 1")] {
            let e = describe(name, BrokerId(1)).unwrap_err();
            assert!(e.code == ErrorCode::InvalidRequest && e.message.contains(words), "{e:?}");
        }
    }
}
