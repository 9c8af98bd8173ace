//! CreatePartitions (37): topics grow, and never shrink.

use chronik_core::controller::{NewPartitions, create_partitions};
use chronik_core::ids::BrokerId;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{ApiKey, CreatePartitionsRequest, CreatePartitionsResponse, TopicName};

use super::create_topics::once_each;
use super::{Api, Reply, Request, text};

pub const API: Api = Api { key: ApiKey::CreatePartitions, min: 0, max: 3, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: CreatePartitionsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let broker = request.broker.clone();
    request.later(async move {
        let topics: Vec<NewPartitions> = body.topics.iter().map(new_partitions).collect();
        let names: Vec<String> = topics.iter().map(|t| t.name.clone()).collect();
        let validate_only = body.validate_only;
        let decided = broker
            .change(body.timeout_ms, move |image| create_partitions(image, &topics, validate_only))
            .await;
        let outcomes = decided.unwrap_or_else(|e| names.into_iter().map(|n| (n, Err(e.clone()))).collect());
        let results = once_each(outcomes).map(|(name, outcome)| {
            let result = CreatePartitionsTopicResult::default()
                .with_name(TopicName(text(name)))
                .with_error_message(None);
            match outcome {
                Ok(()) => result,
                Err(e) => {
                    broker.metrics.error(API.key as i16, e.code.code());
                    let message = Some(e.message).filter(|message| !message.is_empty());
                    result.with_error_code(e.code.code()).with_error_message(message.map(text))
                }
            }
        });
        CreatePartitionsResponse::default().with_results(results.collect())
    })
}

fn new_partitions(topic: &CreatePartitionsTopic) -> NewPartitions {
    let assignments = topic
        .assignments
        .as_ref()
        .map(|list| list.iter().map(|a| a.broker_ids.iter().map(|id| BrokerId(id.0)).collect()).collect());
    NewPartitions { name: topic.name.to_string(), count: topic.count, assignments }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use chronik_core::controller::ErrorCode;

    fn ask(topics: &[(&str, i32)]) -> CreatePartitionsRequest {
        let topic = |(name, count): &(&str, i32)| {
            CreatePartitionsTopic::default()
                .with_name(TopicName(text(*name)))
                .with_count(*count)
                .with_assignments(None)
        };
        CreatePartitionsRequest::default()
            .with_topics(topics.iter().map(topic).collect())
            .with_timeout_ms(10_000)
    }

    #[tokio::test]
    async fn topics_grow_in_every_version() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        for version in 0..=3 {
            let count = 2 + i32::from(version);
            let response: CreatePartitionsResponse = fixture.call(version, &ask(&[("a", count)])).await;
            assert_eq!(response.results[0].error_code, 0, "{:?}", response.results[0].error_message);
            assert_eq!(fixture.broker.metadata.image().topic("a").unwrap().partitions.len(), count as usize);
        }
    }

    #[tokio::test]
    async fn refusals_carry_kafkas_codes() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 2).await;
        for (topics, code) in [
            (&[("a", 2)][..], ErrorCode::InvalidPartitions),
            (&[("a", 1)][..], ErrorCode::InvalidPartitions),
            (&[("gone", 3)][..], ErrorCode::UnknownTopicOrPartition),
            (&[("a", 3), ("a", 4)][..], ErrorCode::InvalidRequest),
        ] {
            let response: CreatePartitionsResponse = fixture.call(3, &ask(topics)).await;
            assert!(response.results.iter().all(|r| r.error_code == code.code()), "{topics:?}");
        }
        let only: CreatePartitionsResponse =
            fixture.call(3, &ask(&[("a", 9)]).with_validate_only(true)).await;
        assert_eq!(only.results[0].error_code, 0);
        assert_eq!(fixture.broker.metadata.image().topic("a").unwrap().partitions.len(), 2);
    }
}
