//! OffsetForLeaderEpoch (23): where a leader's epoch ends, by which a consumer finds out whether its position is still of this
//! log (KIP-101, KIP-320).

use chronik_core::ids::{LeaderEpoch, TopicIdPartition};
use chronik_core::metadata::MetadataImage;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    ApiKey, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, TopicName,
};

use super::{Api, Broker, Reply, Request, check_leader_epoch, led_partition};

pub const API: Api =
    Api { key: ApiKey::OffsetForLeaderEpoch, min: 2, max: 4, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: OffsetForLeaderEpochRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let broker = &request.broker;
    let image = broker.metadata.image();
    let topics = body.topics.into_iter().map(|asked| {
        let partitions = asked.partitions.iter().map(|partition| {
            let answer = EpochEndOffset::default().with_partition(partition.partition);
            match end_of(broker, &image, &asked.topic, partition) {
                // No such epoch is known: Kafka's -1 and -1, which are the fields' defaults.
                Ok(None) => answer,
                Ok(Some((epoch, end))) => answer.with_leader_epoch(epoch.0).with_end_offset(end),
                Err(error) => {
                    broker.metrics.error(API.key as i16, error.code());
                    answer.with_error_code(error.code())
                }
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default().with_topic(asked.topic).with_partitions(partitions)
    });
    let response = OffsetForLeaderEpochResponse::default().with_topics(topics.collect());
    request.head.reply(&response)
}

fn end_of(
    broker: &Broker,
    image: &MetadataImage,
    topic: &TopicName,
    asked: &OffsetForLeaderPartition,
) -> Result<Option<(LeaderEpoch, i64)>, ResponseError> {
    let topic = image.topic(topic).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let led = led_partition(broker, topic, asked.partition)?;
    check_leader_epoch(led.leader_epoch.0, asked.current_leader_epoch)?;
    let id = TopicIdPartition { topic_id: topic.id, partition: asked.partition };
    let log = broker.logs.partition(id).ok_or(ResponseError::NotLeaderOrFollower)?;
    Ok(log.end_offset_for_epoch(LeaderEpoch(asked.leader_epoch)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use crate::api::text;
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderTopic;

    async fn ask(fixture: &Fixture, version: i16, topic: &str, current: i32, epoch: i32) -> (i16, i32, i64) {
        let partition =
            OffsetForLeaderPartition::default().with_current_leader_epoch(current).with_leader_epoch(epoch);
        let topic = OffsetForLeaderTopic::default()
            .with_topic(TopicName(text(topic)))
            .with_partitions(vec![partition]);
        // In version 2 there is no replica's id.
        let request = OffsetForLeaderEpochRequest::default()
            .with_replica_id(BrokerId(if version >= 3 { -1 } else { -2 }))
            .with_topics(vec![topic]);
        let response: OffsetForLeaderEpochResponse = fixture.call(version, &request).await;
        let answer = &response.topics[0].partitions[0];
        (answer.error_code, answer.leader_epoch, answer.end_offset)
    }

    #[tokio::test]
    async fn an_epochs_end_in_every_version() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        let log = fixture.log("a", 0);
        log.append(10, 1000);
        log.commit(10);
        for version in 2..=4 {
            assert_eq!(ask(&fixture, version, "a", -1, 0).await, (0, 0, 10), "{version}");
            assert_eq!(ask(&fixture, version, "a", 0, 0).await, (0, 0, 10), "{version}");
            assert_eq!(ask(&fixture, version, "a", 9, 0).await, (75, -1, -1), "{version}");
            assert_eq!(ask(&fixture, version, "b", -1, 0).await, (3, -1, -1), "{version}");
        }
    }
}
