//! CreateTopics (19).

use std::collections::BTreeSet;

use chronik_core::controller::{ControllerError, CreatedTopic, NewTopic, create_topics};
use chronik_core::ids::{BrokerId, TopicId, Uuid};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{ApiKey, CreateTopicsRequest, CreateTopicsResponse, TopicName};

use super::{Api, Reply, Request, text};

pub const API: Api = Api { key: ApiKey::CreateTopics, min: 2, max: 7, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: CreateTopicsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let broker = request.broker.clone();
    let version = request.head.version;
    request.later(async move {
        let topics: Vec<NewTopic> = body.topics.iter().map(new_topic).collect();
        let names: Vec<String> = topics.iter().map(|t| t.name.clone()).collect();
        let validate_only = body.validate_only;
        let mut fresh = || TopicId(Uuid::new_v4());
        let decided = broker
            .change(body.timeout_ms, move |image| create_topics(image, &topics, validate_only, &mut fresh))
            .await;
        let outcomes = decided.unwrap_or_else(|e| names.into_iter().map(|n| (n, Err(e.clone()))).collect());
        let results = once_each(outcomes).map(|(name, outcome)| {
            if let Err(e) = &outcome {
                broker.metrics.error(API.key as i16, e.code.code());
            }
            result(name, outcome, version)
        });
        CreateTopicsResponse::default().with_topics(results.collect())
    })
}

/// A name given twice is answered once.
pub(super) fn once_each<T>(outcomes: Vec<(String, T)>) -> impl Iterator<Item = (String, T)> {
    let mut seen = BTreeSet::new();
    outcomes.into_iter().filter(move |(name, _)| seen.insert(name.clone()))
}

fn new_topic(topic: &CreatableTopic) -> NewTopic {
    let brokers = |ids: &[kafka_protocol::messages::BrokerId]| ids.iter().map(|id| BrokerId(id.0)).collect();
    NewTopic {
        name: topic.name.to_string(),
        num_partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic.assignments.iter().map(|a| (a.partition_index, brokers(&a.broker_ids))).collect(),
        configs: topic
            .configs
            .iter()
            .map(|c| (c.name.to_string(), c.value.as_ref().map(|v| v.to_string())))
            .collect(),
    }
}

fn result(
    name: String,
    outcome: Result<CreatedTopic, ControllerError>,
    version: i16,
) -> CreatableTopicResult {
    let result = CreatableTopicResult::default().with_name(TopicName(text(name))).with_error_message(None);
    match outcome {
        Err(e) => result.with_error_code(e.code.code()).with_error_message(Some(text(e.message))),
        Ok(_) if version < 5 => result,
        Ok(created) => {
            let configs = created.configs.into_iter().map(|entry| {
                CreatableTopicConfigs::default()
                    .with_name(text(entry.name))
                    .with_value(entry.value.map(text))
                    .with_read_only(entry.read_only)
                    .with_config_source(entry.source as i8)
                    .with_is_sensitive(entry.sensitive)
            });
            result
                .with_topic_id(if version >= 7 { created.topic_id.0 } else { Uuid::nil() })
                .with_num_partitions(created.num_partitions)
                .with_replication_factor(created.replication_factor)
                .with_configs(Some(configs.collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use chronik_core::controller::ErrorCode;
    use kafka_protocol::messages::create_topics_request::CreatableTopicConfig;

    fn topic(name: &str, partitions: i32) -> CreatableTopic {
        CreatableTopic::default()
            .with_name(TopicName(text(name)))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
    }

    fn ask(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
        CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(10_000)
    }

    #[tokio::test]
    async fn topics_are_created_in_every_version() {
        let fixture = Fixture::new().await;
        for version in 2..=7 {
            let name = format!("t{version}");
            let setting = CreatableTopicConfig::default()
                .with_name(text("max.message.bytes"))
                .with_value(Some(text("1000")));
            let request = ask(vec![topic(&name, 3).with_configs(vec![setting])]);
            let response: CreateTopicsResponse = fixture.call(version, &request).await;
            let result = &response.topics[0];
            assert_eq!((result.error_code, &**result.name), (0, &*name), "{:?}", result.error_message);
            assert_eq!(result.error_message, None);
            let image = fixture.broker.metadata.image();
            let created = image.topic(&name).unwrap();
            assert_eq!((created.partitions.len(), created.config.max_message_bytes), (3, 1000));
            if version >= 5 {
                assert_eq!((result.num_partitions, result.replication_factor), (3, 1));
                let configs = result.configs.as_ref().unwrap();
                assert!(configs.iter().any(|c| &*c.name == "max.message.bytes" && c.config_source == 1));
            }
            assert_eq!(result.topic_id, if version >= 7 { created.id.0 } else { Uuid::nil() });
        }
    }

    #[tokio::test]
    async fn refusals_carry_kafkas_codes() {
        let fixture = Fixture::new().await;
        fixture.create_topic("there", 1).await;
        let bad_config =
            CreatableTopicConfig::default().with_name(text("no.such")).with_value(Some(text("1")));
        for (topic, code) in [
            (topic("there", 1), ErrorCode::TopicAlreadyExists),
            (topic("a b", 1), ErrorCode::InvalidTopic),
            (topic("x", 0), ErrorCode::InvalidPartitions),
            (topic("x", 1).with_replication_factor(2), ErrorCode::InvalidReplicationFactor),
            (topic("x", 1).with_configs(vec![bad_config]), ErrorCode::InvalidConfig),
        ] {
            let response: CreateTopicsResponse = fixture.call(7, &ask(vec![topic.clone()])).await;
            assert_eq!(response.topics[0].error_code, code.code(), "{topic:?}");
            assert!(response.topics[0].error_message.is_some());
        }
        assert!(fixture.broker.metadata.image().topic("x").is_none());
    }

    #[tokio::test]
    async fn a_name_given_twice_is_refused_and_the_others_are_not() {
        let fixture = Fixture::new().await;
        let request = ask(vec![topic("twice", 1), topic("once", 1), topic("twice", 1)]);
        let response: CreateTopicsResponse = fixture.call(7, &request).await;
        let codes: Vec<_> = response.topics.iter().map(|t| (t.name.to_string(), t.error_code)).collect();
        assert_eq!(codes, [("twice".to_string(), 42), ("once".to_string(), 0)]);
    }

    #[tokio::test]
    async fn validation_alone_creates_nothing() {
        let fixture = Fixture::new().await;
        let response: CreateTopicsResponse =
            fixture.call(7, &ask(vec![topic("x", 1)]).with_validate_only(true)).await;
        assert_eq!(response.topics[0].error_code, 0);
        assert!(fixture.broker.metadata.image().topic("x").is_none());
    }
}
