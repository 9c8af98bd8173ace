//! ListOffsets (2): where a partition begins and ends, and where a time lies in it.

use std::collections::HashSet;
use std::sync::Arc;

use chronik_core::ids::{LeaderEpoch, TopicIdPartition};
use chronik_core::metadata::MetadataImage;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ApiKey, ListOffsetsRequest, ListOffsetsResponse};

use super::once::each_once;
use super::partitions::{FoundOffset, PartitionReader, ReadError};
use super::{
    Api, Broker, ISOLATION_LEVELS, READ_COMMITTED, Reply, Request, check_leader_epoch, led_partition,
};

pub const API: Api = Api { key: ApiKey::ListOffsets, min: 1, max: 10, serve: super::Serve::Call(serve) };

/// Timestamps that are questions, and the first version that may ask each.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const SINCE: [(i64, i16); 5] =
    [(LATEST, 1), (EARLIEST, 1), (MAX_TIMESTAMP, 7), (EARLIEST_LOCAL, 8), (LATEST_TIERED, 9)];

/// What is answered where there is nothing to be found.
const NOTHING: FoundOffset = FoundOffset { timestamp: -1, offset: -1, leader_epoch: LeaderEpoch(-1) };

/// How far this client may see.
#[derive(Clone, Copy)]
enum Sight {
    /// A consumer: what is committed.
    HighWatermark,
    /// A consumer of transactions: what is decided.
    LastStable,
    /// A replica, or a tool posing as one: everything.
    LogEnd,
}

fn serve(mut request: Request) -> Reply {
    let body: ListOffsetsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let broker = request.broker.clone();
    let sight = match (body.replica_id.0, body.isolation_level) {
        (-1, READ_COMMITTED) => Sight::LastStable,
        (-1, _) => Sight::HighWatermark,
        _ => Sight::LogEnd,
    };
    let unknown_level = !ISOLATION_LEVELS.contains(&body.isolation_level);
    request.later(async move {
        let image = broker.metadata.image();
        let asked = body.topics.into_iter().flat_map(|topic| {
            let of_topic = move |p: ListOffsetsPartition| (topic.name.clone(), p.partition_index, p);
            topic.partitions.into_iter().map(of_topic)
        });
        let asked: Vec<_> = asked.collect();
        let mut seen = HashSet::new();
        let named = asked.iter().map(|(topic, index, _)| (topic.clone(), *index));
        let twice: HashSet<_> = named.filter(|partition| !seen.insert(partition.clone())).collect();
        let asked = each_once(asked);
        let mut topics = Vec::with_capacity(asked.len());
        for (topic, asked) in asked {
            let mut partitions = Vec::with_capacity(asked.len());
            for (index, p) in asked {
                let answer = if unknown_level || twice.contains(&(topic.clone(), index)) {
                    Err(ResponseError::InvalidRequest)
                } else {
                    look_up(&broker, &image, &topic, &p, version, sight).await
                };
                if let Err(e) = &answer {
                    broker.metrics.error(API.key as i16, e.code());
                }
                partitions.push(told(index, answer, version));
            }
            topics.push(ListOffsetsTopicResponse::default().with_name(topic).with_partitions(partitions));
        }
        ListOffsetsResponse::default().with_topics(topics)
    })
}

fn told(
    index: i32,
    answer: Result<FoundOffset, ResponseError>,
    version: i16,
) -> ListOffsetsPartitionResponse {
    let found = answer.unwrap_or(NOTHING);
    ListOffsetsPartitionResponse::default()
        .with_partition_index(index)
        .with_error_code(answer.err().map_or(0, |e| e.code()))
        .with_timestamp(found.timestamp)
        .with_offset(found.offset)
        .with_leader_epoch(if version >= 4 { found.leader_epoch.0 } else { -1 })
}

async fn look_up(
    broker: &Broker,
    image: &MetadataImage,
    topic: &str,
    asked: &ListOffsetsPartition,
    version: i16,
    sight: Sight,
) -> Result<FoundOffset, ResponseError> {
    let timestamp = asked.timestamp;
    if timestamp < 0 && !SINCE.iter().any(|(known, since)| *known == timestamp && version >= *since) {
        return Err(ResponseError::UnsupportedVersion);
    }
    let topic = image.topic(topic).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let led = led_partition(broker, topic, asked.partition_index)?;
    check_leader_epoch(led.leader_epoch.0, asked.current_leader_epoch)?;
    let id = TopicIdPartition { topic_id: topic.id, partition: asked.partition_index };
    // The metadata names this broker before its log is there.
    let partition = broker.logs.partition(id).ok_or(ResponseError::NotLeaderOrFollower)?;
    find(partition, timestamp, sight).await.map_err(|e| match e {
        ReadError::NotLeader => ResponseError::NotLeaderOrFollower,
        ReadError::OutOfRange { .. } => ResponseError::OffsetOutOfRange,
        ReadError::Damaged(why) => {
            tracing::debug!(partition = %id, "{why}");
            ResponseError::KafkaStorageError
        }
        ReadError::Storage(why) => {
            tracing::error!(partition = %id, "offsets cannot be looked up: {why}");
            ResponseError::KafkaStorageError
        }
    })
}

async fn find(
    partition: Arc<dyn PartitionReader>,
    timestamp: i64,
    sight: Sight,
) -> Result<FoundOffset, ReadError> {
    let offsets = partition.offsets();
    let end = match sight {
        Sight::HighWatermark => offsets.high_watermark,
        Sight::LastStable => offsets.last_stable,
        Sight::LogEnd => offsets.log_end,
    };
    let at = |offset, leader_epoch| FoundOffset { timestamp: -1, offset, leader_epoch };
    let start = || at(offsets.log_start, partition.epoch_at(offsets.log_start).unwrap_or(LeaderEpoch(-1)));
    match timestamp {
        LATEST => Ok(at(end, offsets.leader_epoch)),
        EARLIEST | EARLIEST_LOCAL => Ok(start()),
        LATEST_TIERED => Ok(NOTHING),
        MAX_TIMESTAMP => Ok(partition.max_timestamp(end).await?.unwrap_or(NOTHING)),
        _ => Ok(partition.offset_for_timestamp(timestamp, end).await?.unwrap_or(NOTHING)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use crate::api::text;
    use kafka_protocol::messages::list_offsets_request::ListOffsetsTopic;
    use kafka_protocol::messages::{BrokerId, TopicName};

    fn ask(topic: &str, partition: i32, timestamp: i64) -> ListOffsetsRequest {
        let p = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default().with_name(TopicName(text(topic))).with_partitions(vec![p]);
        ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic])
    }

    async fn answer(fixture: &Fixture, version: i16, request: &ListOffsetsRequest) -> (i16, i64, i64, i32) {
        let response: ListOffsetsResponse = fixture.call(version, request).await;
        let p = &response.topics[0].partitions[0];
        (p.error_code, p.timestamp, p.offset, p.leader_epoch)
    }

    /// Records 0-9 at times 1000-1009 and 10-19 at 2000-2009, committed to 15, from offset 0.
    async fn filled() -> Fixture {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        let log = fixture.log("a", 0);
        log.append(10, 1000);
        log.append(10, 2000);
        log.commit(20);
        fixture
    }

    #[tokio::test]
    async fn ends_in_every_version() {
        let fixture = filled().await;
        for version in 1..=10 {
            let epoch = if version >= 4 { 0 } else { -1 };
            assert_eq!(answer(&fixture, version, &ask("a", 0, LATEST)).await, (0, -1, 20, epoch));
            assert_eq!(answer(&fixture, version, &ask("a", 0, EARLIEST)).await, (0, -1, 0, epoch));
        }
    }

    #[tokio::test]
    async fn times() {
        let fixture = filled().await;
        for (timestamp, found) in [
            (0, (0, 1000, 0, 0)),
            (1500, (0, 2000, 10, 0)),
            (2000, (0, 2000, 10, 0)),
            (9000, (0, -1, -1, -1)),
        ] {
            assert_eq!(answer(&fixture, 7, &ask("a", 0, timestamp)).await, found, "{timestamp}");
        }
        let (code, timestamp, offset, _) = answer(&fixture, 7, &ask("a", 0, MAX_TIMESTAMP)).await;
        assert_eq!((code, timestamp, offset), (0, 2009, 19));
        assert_eq!(answer(&fixture, 8, &ask("a", 0, EARLIEST_LOCAL)).await, (0, -1, 0, 0));
        assert_eq!(answer(&fixture, 9, &ask("a", 0, LATEST_TIERED)).await, (0, -1, -1, -1));
    }

    #[tokio::test]
    async fn a_question_before_its_version_is_unsupported() {
        let fixture = filled().await;
        for (timestamp, version) in
            [(MAX_TIMESTAMP, 6), (EARLIEST_LOCAL, 7), (LATEST_TIERED, 8), (-6, 10), (-77, 10)]
        {
            let (code, ..) = answer(&fixture, version, &ask("a", 0, timestamp)).await;
            assert_eq!(code, ResponseError::UnsupportedVersion.code(), "{timestamp}");
        }
    }

    #[tokio::test]
    async fn consumers_see_what_is_committed_and_replicas_all() {
        let fixture = filled().await;
        fixture.log("a", 0).append(5, 3000);
        let (_, _, consumer, _) = answer(&fixture, 7, &ask("a", 0, LATEST)).await;
        let (_, _, committed, _) = answer(&fixture, 7, &ask("a", 0, LATEST).with_isolation_level(1)).await;
        let (_, _, replica, _) =
            answer(&fixture, 7, &ask("a", 0, LATEST).with_replica_id(BrokerId(-2))).await;
        assert_eq!((consumer, committed, replica), (20, 20, 25));
        assert_eq!(answer(&fixture, 7, &ask("a", 0, 3000)).await, (0, -1, -1, -1));
    }

    /// A transaction is open from offset 10 on.
    #[tokio::test]
    async fn readers_of_decided_records_see_no_further() {
        let fixture = filled().await;
        fixture.log("a", 0).set_undecided(Some(10));
        for version in 2..=10 {
            let asked = |timestamp| ask("a", 0, timestamp).with_isolation_level(1);
            assert_eq!(answer(&fixture, version, &asked(LATEST)).await.2, 10);
            assert_eq!(answer(&fixture, version, &asked(1009)).await.2, 9);
            assert_eq!(answer(&fixture, version, &asked(2000)).await.2, -1, "nothing decided is as late");
            assert_eq!(answer(&fixture, version, &ask("a", 0, 2000)).await.2, 10);
        }
    }

    #[tokio::test]
    async fn refusals_carry_kafkas_codes() {
        let fixture = filled().await;
        fixture.bump_leader_epoch("a").await;
        assert_eq!(answer(&fixture, 7, &ask("gone", 0, LATEST)).await.0, 3);
        assert_eq!(answer(&fixture, 7, &ask("a", 1, LATEST)).await.0, 3);
        assert_eq!(answer(&fixture, 7, &ask("a", -1, LATEST)).await.0, 3);
        for (epoch, code) in [(0, 74), (1, 0), (2, 75), (-1, 0), (-2, 74)] {
            let mut request = ask("a", 0, LATEST);
            request.topics[0].partitions[0].current_leader_epoch = epoch;
            assert_eq!(answer(&fixture, 7, &request).await.0, code, "epoch {epoch}");
        }
        let mut twice = ask("a", 0, LATEST);
        let again = twice.topics[0].partitions[0].clone();
        twice.topics[0].partitions.push(again);
        let response: ListOffsetsResponse = fixture.call(7, &twice).await;
        let codes: Vec<i16> = response.topics[0].partitions.iter().map(|p| p.error_code).collect();
        assert_eq!(codes, [42], "once");
        assert_eq!(answer(&fixture, 7, &ask("a", 0, LATEST).with_isolation_level(2)).await.0, 42);
    }
}
