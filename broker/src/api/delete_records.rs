//! DeleteRecords (21): everything before an offset goes (KIP-107). Answered once the new start is durable.

use std::time::Duration;

use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::metadata::MetadataImage;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{ApiKey, DeleteRecordsRequest, DeleteRecordsResponse};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::once::each_once;
use super::{Api, Broker, Reply, Request, led_partition};
use crate::storage::partition::{DeleteRefused, Partition};

pub const API: Api = Api { key: ApiKey::DeleteRecords, min: 0, max: 2, serve: super::Serve::Call(serve) };

/// A flush that takes longer is worth an error.
const LOCAL_FLUSH: Duration = Duration::from_secs(1);
/// Asks for everything that is committed.
const HIGH_WATERMARK: Offset = -1;

fn serve(mut request: Request) -> Reply {
    let body: DeleteRecordsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let broker = request.broker.clone();
    request.later(async move {
        let image = broker.metadata.image();
        // Kafka's own log is in the page cache at once, whatever the time-out; ours is on the disk very soon.
        let timeout = Duration::from_millis(u64::try_from(body.timeout_ms).unwrap_or(0)).max(LOCAL_FLUSH);
        let until = Instant::now() + timeout;
        // All of them are begun before one is waited for: they share a flush.
        let asked = body.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|p| (topic.name.clone(), p.partition_index, p.offset))
        });
        let asked = each_once(asked).into_iter().map(|(topic, partitions)| {
            let begin = |(index, offset)| (index, begin(&broker, &image, &topic, index, offset));
            let begun: Vec<_> = partitions.into_iter().map(begin).collect();
            (topic, begun)
        });
        let begun: Vec<_> = asked.collect();
        let mut topics = Vec::with_capacity(begun.len());
        for (name, begun) in begun {
            let mut partitions = Vec::with_capacity(begun.len());
            for (index, begun) in begun {
                let done = match begun {
                    Ok(begun) => begun.done(until).await,
                    Err(e) => Err(e),
                };
                if let Err(e) = &done {
                    broker.metrics.error(API.key as i16, e.code());
                }
                partitions.push(
                    DeleteRecordsPartitionResult::default()
                        .with_partition_index(index)
                        .with_low_watermark(*done.as_ref().unwrap_or(&-1))
                        .with_error_code(done.err().map_or(0, |e| e.code())),
                );
            }
            topics.push(DeleteRecordsTopicResult::default().with_name(name).with_partitions(partitions));
        }
        DeleteRecordsResponse::default().with_topics(topics)
    })
}

/// A deletion on its way to the disk.
struct Begun {
    partition: std::sync::Arc<Partition>,
    told: Option<oneshot::Receiver<()>>,
}

impl Begun {
    /// The log's new start.
    async fn done(self, until: Instant) -> Result<Offset, ResponseError> {
        if let Some(told) = self.told {
            match tokio::time::timeout_at(until, told).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(ResponseError::KafkaStorageError),
                Err(_) => return Err(ResponseError::RequestTimedOut),
            }
        }
        Ok(self.partition.log_start())
    }
}

fn begin(
    broker: &Broker,
    image: &MetadataImage,
    topic: &str,
    index: i32,
    offset: Offset,
) -> Result<Begun, ResponseError> {
    let topic = image.topic(topic).ok_or(ResponseError::UnknownTopicOrPartition)?;
    if topic.is_internal {
        return Err(ResponseError::InvalidTopicException);
    }
    led_partition(broker, topic, index)?;
    let cleanup = &topic.config.cleanup;
    if cleanup.compact && !cleanup.delete {
        return Err(ResponseError::PolicyViolation);
    }
    let id = TopicIdPartition { topic_id: topic.id, partition: index };
    let partition = broker.logs.appendable(id).ok_or(ResponseError::NotLeaderOrFollower)?;
    let offset = match offset {
        HIGH_WATERMARK => partition.high_watermark(),
        offset => offset,
    };
    let told = partition.delete_before(offset).map_err(|e| match e {
        DeleteRefused::OutOfRange => ResponseError::OffsetOutOfRange,
        DeleteRefused::NotHere => ResponseError::NotLeaderOrFollower,
        DeleteRefused::Storage(_) => ResponseError::KafkaStorageError,
    })?;
    Ok(Begun { partition, told })
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixture;
    use super::*;
    use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};

    #[tokio::test]
    async fn refusals_carry_kafkas_codes() {
        let fixture = Fixture::with(&[("log.cleanup.policy", "compact")]).await;
        fixture.create_topic("keyed", 1).await;
        for version in API.min..=API.max {
            let asked = |name: &str, partition| {
                let partition =
                    DeleteRecordsPartition::default().with_partition_index(partition).with_offset(-1);
                DeleteRecordsTopic::default()
                    .with_name(kafka_protocol::messages::TopicName(super::super::text(name)))
                    .with_partitions(vec![partition])
            };
            let request = DeleteRecordsRequest::default().with_timeout_ms(1000).with_topics(vec![
                asked("none", 0),
                asked("t", 7),
                asked("keyed", 0),
            ]);
            let response: DeleteRecordsResponse = fixture.call(version, &request).await;
            let codes: Vec<(i16, i64)> = response
                .topics
                .iter()
                .flat_map(|t| t.partitions.iter().map(|p| (p.error_code, p.low_watermark)))
                .collect();
            assert_eq!(codes, [(3, -1), (3, -1), (44, -1)], "version {version}");
        }
    }
}
