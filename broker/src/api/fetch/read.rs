//! Reading what a request wants: each partition's state, and records within the request's limits.

use std::sync::Arc;

use bytes::Bytes;
use chronik_core::ids::{BrokerId, LeaderEpoch, Offset, TopicIdPartition};
use chronik_core::metadata::MetadataImage;
use kafka_protocol::error::ResponseError;

use super::encode::PartitionAnswer;
use super::session::{PartitionKey, Told, TopicKey, Wanted};
use crate::api::partitions::{PartitionReader, ReadError};
use crate::api::{Broker, check_leader_epoch, led_partition};

/// Who fetches, and how far it sees.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// Another broker, if not a consumer.
    pub replica: Option<BrokerId>,
    pub read_committed: bool,
    /// Bytes of records in one response. Below 0, none can be read.
    pub max_bytes: i64,
}

/// What one pass over the partitions found.
pub struct Pass {
    /// In the order wanted.
    pub results: Vec<PartitionResult>,
    pub bytes: usize,
    /// There is something that the client must hear at once, data or not.
    pub urgent: bool,
}

/// One partition's answer, and how to see whether there is more of it.
pub struct PartitionResult {
    pub answer: PartitionAnswer,
    pub source: Option<Source>,
}

/// A partition, and how far it reached before it was read.
pub struct Source {
    pub log: Arc<dyn PartitionReader>,
    pub committed_bytes: u64,
    /// The last stable offset, for a reader of decided records whom an open transaction holds up.
    pub held_up_at: Option<Offset>,
}

impl PartitionResult {
    pub fn told(&self) -> Told {
        let answer = &self.answer;
        Told {
            high_watermark: answer.high_watermark,
            log_start: answer.log_start,
            has_records: answer.records.iter().any(|r| !r.is_empty()),
            is_special: answer.error_code != 0 || answer.diverging.is_some(),
        }
    }
}

/// Reads all partitions, in order, until the limit of bytes is reached: the rest is answered without records.
pub async fn read_all(broker: &Broker, image: &MetadataImage, wanted: &[Wanted], reader: Reader) -> Pass {
    let mut pass = Pass { results: Vec::with_capacity(wanted.len()), bytes: 0, urgent: false };
    let mut room = reader.max_bytes;
    for partition in wanted {
        let result = match read_one(broker, image, partition, reader, room, pass.bytes == 0).await {
            Ok(result) => result,
            Err(error) => PartitionResult { answer: refused(image, partition, error), source: None },
        };
        let bytes = result.answer.records.iter().map(Bytes::len).sum::<usize>();
        pass.bytes += bytes;
        room = room.saturating_sub_unsigned(bytes as u64).max(0);
        pass.urgent |= result.told().is_special;
        pass.results.push(result);
    }
    pass
}

async fn read_one(
    broker: &Broker,
    image: &MetadataImage,
    wanted: &Wanted,
    reader: Reader,
    room: i64,
    first: bool,
) -> Result<PartitionResult, ResponseError> {
    let PartitionKey { topic, partition } = &wanted.key;
    let topic = match topic {
        TopicKey::Name(name) => image.topic(name).ok_or(ResponseError::UnknownTopicOrPartition)?,
        TopicKey::Id(id) => {
            image.topic_by_id(chronik_core::ids::TopicId(*id)).ok_or(ResponseError::UnknownTopicId)?
        }
    };
    let led = led_partition(broker, topic, *partition)?;
    // Here, every negative epoch means none.
    check_leader_epoch(led.leader_epoch.0, wanted.current_leader_epoch.max(-1))?;
    if reader.replica.is_some() {
        // Replication between brokers is not part of this version: no other broker is a replica, and is told
        // what Kafka tells one that is not.
        return Err(match wanted.current_leader_epoch {
            epoch if epoch >= 0 => ResponseError::UnknownLeaderEpoch,
            _ => ResponseError::NotLeaderOrFollower,
        });
    }
    let id = TopicIdPartition { topic_id: topic.id, partition: *partition };
    // The metadata names this broker before its log is there.
    let log = broker.logs.partition(id).ok_or(ResponseError::NotLeaderOrFollower)?;
    let offsets = log.offsets();
    let mut answer = PartitionAnswer {
        index: *partition,
        error_code: 0,
        high_watermark: offsets.high_watermark,
        last_stable: offsets.last_stable,
        log_start: offsets.log_start,
        diverging: None,
        current_leader: None,
        aborted: reader.read_committed.then(Vec::new),
        records: Vec::new(),
    };
    let held_up = reader.read_committed && offsets.last_stable < offsets.high_watermark;
    let source = Some(Source {
        log: log.clone(),
        committed_bytes: offsets.committed_bytes,
        held_up_at: held_up.then_some(offsets.last_stable),
    });
    if wanted.offset < offsets.log_start || wanted.offset > offsets.log_end {
        return Err(ResponseError::OffsetOutOfRange);
    }
    if wanted.last_fetched_epoch >= 0 {
        let (epoch, end) = log
            .end_offset_for_epoch(LeaderEpoch(wanted.last_fetched_epoch))
            .ok_or(ResponseError::OffsetOutOfRange)?;
        if epoch.0 < wanted.last_fetched_epoch || end < wanted.offset {
            answer.diverging = Some((epoch.0, end));
            answer.aborted = None;
            return Ok(PartitionResult { answer, source });
        }
    }
    let end = if reader.read_committed { offsets.last_stable } else { offsets.high_watermark };
    if wanted.offset < end {
        let limit = usize::try_from(room.min(i64::from(wanted.max_bytes)));
        let limit = limit.map_err(|_| ResponseError::InvalidRequest)?;
        if limit == 0 && !first {
            return Ok(PartitionResult { answer, source });
        }
        let read = match reader.read_committed {
            true => log.read_committed(wanted.offset, end, limit, first),
            false => log.read(wanted.offset, end, limit, first),
        };
        match read.await {
            Ok(read) => {
                answer.records = read.pieces;
                answer.aborted = reader.read_committed.then_some(read.aborted);
            }
            Err(ReadError::OutOfRange { .. }) => return Err(ResponseError::OffsetOutOfRange),
            Err(ReadError::NotLeader) => return Err(ResponseError::NotLeaderOrFollower),
            Err(ReadError::Damaged(why)) => {
                tracing::debug!(partition = %id, offset = wanted.offset, "{why}");
                return Err(ResponseError::KafkaStorageError);
            }
            Err(ReadError::Storage(why)) => {
                tracing::error!(partition = %id, offset = wanted.offset, "cannot be read: {why}");
                return Err(ResponseError::KafkaStorageError);
            }
        }
    }
    Ok(PartitionResult { answer, source })
}

fn refused(image: &MetadataImage, wanted: &Wanted, error: ResponseError) -> PartitionAnswer {
    let topic = match &wanted.key.topic {
        TopicKey::Name(name) => image.topic(name),
        TopicKey::Id(id) => image.topic_by_id(chronik_core::ids::TopicId(*id)),
    };
    let elsewhere = matches!(error, ResponseError::NotLeaderOrFollower | ResponseError::FencedLeaderEpoch);
    let current = topic.filter(|_| elsewhere).and_then(|t| t.partition(wanted.key.partition));
    PartitionAnswer {
        current_leader: current.map(|p| (p.leader.0, p.leader_epoch.0)),
        ..PartitionAnswer::refused(wanted.key.partition, error)
    }
}
