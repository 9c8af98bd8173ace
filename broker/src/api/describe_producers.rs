//! DescribeProducers (61): the producers that a partition knows, and where their transactions began (KIP-664).

use chronik_core::controller::check_topic_name;
use chronik_core::ids::TopicIdPartition;
use chronik_core::log::ActiveProducer;
use chronik_core::metadata::MetadataImage;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{ApiKey, DescribeProducersRequest, DescribeProducersResponse};

use super::{Api, Broker, Reply, Request, led_partition, text};

pub const API: Api = Api { key: ApiKey::DescribeProducers, min: 0, max: 0, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: DescribeProducersRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let broker = &request.broker;
    let image = broker.metadata.image();
    let topics = body.topics.into_iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|partition| {
            let answer = PartitionResponse::default().with_partition_index(*partition);
            match producers(broker, &image, &topic.name, *partition) {
                Ok(known) => answer.with_active_producers(known.iter().map(told).collect()),
                Err((error, why)) => {
                    broker.metrics.error(API.key as i16, error.code());
                    answer.with_error_code(error.code()).with_error_message(why.map(text))
                }
            }
        });
        let partitions = partitions.collect();
        TopicResponse::default().with_name(topic.name).with_partitions(partitions)
    });
    let response = DescribeProducersResponse::default().with_topics(topics.collect());
    request.head.reply(&response)
}

fn producers(
    broker: &Broker,
    image: &MetadataImage,
    topic: &str,
    partition: i32,
) -> Result<Vec<ActiveProducer>, (ResponseError, Option<String>)> {
    check_topic_name(topic).map_err(|e| (ResponseError::InvalidTopicException, Some(e.message)))?;
    let topic = image.topic(topic).ok_or_else(|| {
        let why = "This server does not host this topic-partition.".to_string();
        (ResponseError::UnknownTopicOrPartition, Some(why))
    })?;
    // What is wrong with a partition is told without a text.
    led_partition(broker, topic, partition).map_err(|e| (e, None))?;
    let id = TopicIdPartition { topic_id: topic.id, partition };
    let log = broker.logs.partition(id).ok_or((ResponseError::NotLeaderOrFollower, None))?;
    Ok(log.producers())
}

fn told(producer: &ActiveProducer) -> ProducerState {
    ProducerState::default()
        .with_producer_id(producer.id.0.into())
        .with_producer_epoch(i32::from(producer.epoch.0))
        .with_last_sequence(producer.last_sequence)
        .with_last_timestamp(producer.last_timestamp_ms)
        .with_coordinator_epoch(producer.coordinator_epoch)
        .with_current_txn_start_offset(producer.transaction_start.unwrap_or(-1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use crate::api::text;
    use chronik_core::ids::{ProducerEpoch, ProducerId};
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::describe_producers_request::TopicRequest;

    #[tokio::test]
    async fn producers_and_refusals() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        let known = |id, transaction_start| ActiveProducer {
            id: ProducerId(id),
            epoch: ProducerEpoch(2),
            last_sequence: 41,
            last_timestamp_ms: 1000,
            coordinator_epoch: 5,
            transaction_start,
        };
        fixture.log("a", 0).set_producers(vec![known(7, Some(30)), known(8, None)]);
        let ask = |topic: &str| {
            let name = TopicName(text(topic));
            TopicRequest::default().with_name(name).with_partition_indexes(vec![0, 1])
        };
        let request =
            DescribeProducersRequest::default().with_topics(vec![ask("a"), ask("gone"), ask("a b")]);
        let response: DescribeProducersResponse = fixture.call(0, &request).await;
        let codes: Vec<Vec<i16>> = response
            .topics
            .iter()
            .map(|topic| topic.partitions.iter().map(|p| p.error_code).collect())
            .collect();
        assert_eq!(codes, [[0, 3], [3, 3], [17, 17]]);
        let facts = |p: &ProducerState| {
            let sequences = (p.producer_id.0, p.producer_epoch, p.last_sequence, p.last_timestamp);
            (sequences, p.coordinator_epoch, p.current_txn_start_offset)
        };
        let told: Vec<_> = response.topics[0].partitions[0].active_producers.iter().map(facts).collect();
        assert_eq!(told, [((7, 2, 41, 1000), 5, 30), ((8, 2, 41, 1000), 5, -1)]);
    }
}
