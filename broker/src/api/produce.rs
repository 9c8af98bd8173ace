//! Produce: the way of a record from a request to the disk and back (KIP-98, KIP-467, KIP-951).
//!
//! Appends of one connection happen in the order of their arrival: everything up to the hand-over to the
//! write-ahead log runs on the connection's reading side, which therefore also feels the back-pressure. Only
//! the waiting for the flush is concurrent.

mod refusal;
mod transaction;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chronik_client::compression;
use chronik_core::ids::{TopicId, TopicIdPartition};
use chronik_core::metadata::TopicImage;
use chronik_core::metadata::config::TimestampType;
use chronik_core::record_batch::{
    BatchError, BatchHeader, BatchLimits, BatchSummary, Compression, HEADER_LEN, Origin,
    TimestampType as BatchTimestampType, check_opened, check_produced,
};
use chronik_core::wal::profile::AckMode;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};

use super::once::each_once;
use super::{Api, Broker, Frame, Reply, Request, RequestHead, Serve};
use crate::storage::now_ms;
use crate::storage::partition::{Accepted, Acknowledge, Partition, Settings};
use refusal::Refusal;
use transaction::Vouched;

/// Versions 0 to 2 are told to clients as Apache Kafka does (librdkafka decides on compression codecs by it);
/// whoever sends one is disconnected, as by Apache Kafka: the guard knows them not.
pub const API: Api =
    Api { key: ApiKey::Produce, min: 0, max: 13, serve: Serve::InOrder(|r| Box::pin(serve(r))) };

/// From this version on topics are named by id (KIP-516).
const BY_ID: i16 = 13;
/// zstd is known to clients from this version on (KIP-110).
const ZSTD_FROM: i16 = 7;

mod code {
    pub const CORRUPT_MESSAGE: i16 = 2;
    pub const INVALID_TOPIC_EXCEPTION: i16 = 17;
    pub const NOT_ENOUGH_REPLICAS: i16 = 19;
    pub const INVALID_REQUIRED_ACKS: i16 = 21;
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    pub const MESSAGE_TOO_LARGE: i16 = 10;
    pub const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
    pub const KAFKA_STORAGE_ERROR: i16 = 56;
    pub const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
    pub const INVALID_RECORD: i16 = 87;
    pub const UNKNOWN_TOPIC_ID: i16 = 100;
}

/// What becomes of one partition's batch.
type Outcome = Result<Accepted, Refusal>;

async fn serve(mut request: Request) -> Reply {
    let mut produce: ProduceRequest = match request.decode() {
        Ok(produce) => produce,
        Err(close) => return close,
    };
    produce.topic_data = once(produce.topic_data);
    let decoded = Instant::now();
    let broker = request.broker.clone();
    let now_ms = now_ms();
    let acks = produce.acks;
    let nobodys = produce.transactional_id.is_none() && is_transactional(&produce);
    let (vouched, begun) = match &produce.transactional_id {
        None => (Vouched::default(), decoded),
        Some(id) => (transaction::vouch(&broker, id, &produce, request.head.version).await, Instant::now()),
    };
    let mut outcomes: Vec<Vec<Outcome>> = Vec::with_capacity(produce.topic_data.len());
    let mut settings: Option<Arc<Settings>> = None;
    let mut waited = None;
    for (of_topic, topic_data) in produce.topic_data.iter().enumerate() {
        let topic = topic_of(&broker, topic_data, request.head.version);
        let mut partitions = Vec::with_capacity(topic_data.partition_data.len());
        for (of_partition, data) in topic_data.partition_data.iter().enumerate() {
            let checked = match &topic {
                // Who may write in a transaction is told by its id, which is not there.
                _ if nobodys => Err(Refusal::of_request(
                    code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
                    "a transactional batch in a request without a transactional id",
                )),
                Ok(topic) => check(&broker, topic, data, &request.head, acks, now_ms),
                Err(unknown) => Err(unknown.clone()),
            };
            let checked = checked.and_then(|mut checked| {
                if checked.summary.header.is_transactional() {
                    checked.summary.verified = vouched.of((of_topic, of_partition))?;
                }
                Ok(checked)
            });
            let checked = match checked {
                Ok(checked) => look_inside(checked).await,
                Err(refused) => Err(refused),
            };
            let outcome = match checked {
                Ok(checked) => append(checked, acks, now_ms, &mut settings, &mut waited).await,
                Err(refused) => Err(refused),
            };
            partitions.push(outcome);
        }
        outcomes.push(partitions);
    }
    if let Some(settings) = &settings {
        let stages = &settings.profile.metrics.stages;
        stages.decode.observe(decoded.saturating_duration_since(request.received).as_micros() as u64);
        stages.append.observe_since(begun);
        if let Some(waited) = waited {
            stages.admission.observe(waited.as_micros() as u64);
        }
    }
    // The bytes wait in the log's queue now, under its own bounds.
    drop(std::mem::take(&mut request.permit));
    for outcome in outcomes.iter().flatten() {
        if let Err(refused) = outcome {
            broker.metrics.error(ApiKey::Produce as i16, refused.code);
        }
    }
    if acks == 0 {
        let refused = outcomes.iter().flatten().find_map(|o| o.as_ref().err());
        return match refused {
            // Nobody listens for an answer: closing tells the client to look for its mistake (as in Kafka).
            Some(refused) => Reply::Close(format!("produce with acks=0 failed: {}", refused.why)),
            None => Reply::None,
        };
    }
    answer(request, produce, outcomes, settings)
}

/// Answers when everything has been flushed.
fn answer(
    request: Request,
    produce: ProduceRequest,
    mut outcomes: Vec<Vec<Outcome>>,
    settings: Option<Arc<Settings>>,
) -> Reply {
    let names: Vec<_> = produce.topic_data.into_iter().map(names_of).collect();
    let Request { head, broker, received, .. } = request;
    Reply::Later(Box::pin(async move {
        for outcome in outcomes.iter_mut().flatten() {
            let Ok(Accepted { acknowledge: Acknowledge::When(told), .. }) = outcome else { continue };
            if told.await.is_err() {
                let why = "the write-ahead log has failed";
                *outcome = Err(Refusal::of_request(code::KAFKA_STORAGE_ERROR, why));
            }
        }
        let durable = Instant::now();
        let frame = response(&head, names, outcomes);
        let responded = Instant::now();
        if let Some(settings) = &settings {
            let respond = &settings.profile.metrics.stages.respond;
            respond.observe((responded - durable).as_micros() as u64);
        }
        if let Some(metrics) = broker.metrics.api(ApiKey::Produce as i16) {
            metrics.time.observe((responded - received).as_micros() as u64);
        }
        frame
    }))
}

struct Names {
    name: kafka_protocol::messages::TopicName,
    topic_id: uuid::Uuid,
    partitions: Vec<i32>,
}

fn names_of(topic: TopicProduceData) -> Names {
    let partitions = topic.partition_data.iter().map(|p| p.index).collect();
    Names { name: topic.name, topic_id: topic.topic_id, partitions }
}

fn response(head: &RequestHead, names: Vec<Names>, outcomes: Vec<Vec<Outcome>>) -> Option<Frame> {
    let responses = names
        .into_iter()
        .zip(outcomes)
        .map(|(names, outcomes)| {
            let partitions = names.partitions.into_iter().zip(outcomes).map(|(index, outcome)| {
                let response = PartitionProduceResponse::default().with_index(index);
                match outcome {
                    Ok(accepted) => response
                        .with_base_offset(accepted.base_offset)
                        .with_log_append_time_ms(accepted.append_time_ms)
                        .with_log_start_offset(accepted.log_start),
                    Err(refused) => refused.told(response),
                }
            });
            let topic = TopicProduceResponse::default().with_partition_responses(partitions.collect());
            if head.version >= BY_ID {
                topic.with_topic_id(names.topic_id)
            } else {
                topic.with_name(names.name)
            }
        })
        .collect();
    let body = ProduceResponse::default().with_responses(responses);
    head.frame(&body).map_err(|e| tracing::error!("a produce response could not be encoded: {e}")).ok()
}

fn topic_of(broker: &Broker, data: &TopicProduceData, version: i16) -> Result<Arc<TopicImage>, Refusal> {
    let image = broker.metadata.image();
    if version >= BY_ID {
        let topic = image.topic_by_id(TopicId(data.topic_id));
        let unknown = || Refusal::of_request(code::UNKNOWN_TOPIC_ID, "unknown topic id");
        return topic.cloned().ok_or_else(unknown);
    }
    let topic = image.topic(&data.name);
    topic.cloned().ok_or_else(|| Refusal::of_request(code::UNKNOWN_TOPIC_OR_PARTITION, "unknown topic"))
}

/// Of a partition that is named twice, Kafka appends what is named last.
fn once(topics: Vec<TopicProduceData>) -> Vec<TopicProduceData> {
    if matches!(&topics[..], [topic] if topic.partition_data.len() == 1) {
        return topics;
    }
    let asked = topics.into_iter().flat_map(|topic| {
        let named = (topic.name, topic.topic_id);
        topic.partition_data.into_iter().map(move |data| (named.clone(), data.index, data))
    });
    let topics = each_once(asked).into_iter().map(|((name, topic_id), partitions)| {
        let partitions = partitions.into_iter().map(|(_, data)| data).collect();
        TopicProduceData::default().with_name(name).with_topic_id(topic_id).with_partition_data(partitions)
    });
    topics.collect()
}

fn is_transactional(produce: &ProduceRequest) -> bool {
    let mut batches = produce.topic_data.iter().flat_map(|topic| &topic.partition_data);
    batches.any(|data| {
        let records = data.records.as_deref().unwrap_or_default();
        BatchHeader::parse(records).is_ok_and(|header| header.is_transactional())
    })
}

/// A batch that may be appended, and where.
struct Checked {
    partition: Arc<Partition>,
    settings: Arc<Settings>,
    summary: BatchSummary,
    body: Bytes,
}

fn check(
    broker: &Broker,
    topic: &TopicImage,
    data: &PartitionProduceData,
    head: &RequestHead,
    acks: i16,
    now_ms: i64,
) -> Result<Checked, Refusal> {
    let image = topic.partition(data.index).ok_or_else(|| {
        let why = format!("topic {} has no partition {}", topic.name, data.index);
        Refusal::of_request(code::UNKNOWN_TOPIC_OR_PARTITION, why)
    })?;
    if !(-1..=1).contains(&acks) {
        return Err(Refusal::of_request(code::INVALID_REQUIRED_ACKS, "acks must be 0, 1 or all"));
    }
    if topic.is_internal {
        let why = "internal topics are written by the broker";
        return Err(Refusal::of_request(code::INVALID_TOPIC_EXCEPTION, why));
    }
    let elsewhere = |why| Refusal::of_request(code::NOT_LEADER_OR_FOLLOWER, why);
    if image.leader != broker.config.broker_id {
        return Err(elsewhere(format!("broker {} leads", image.leader)));
    }
    let id = TopicIdPartition { topic_id: topic.id, partition: data.index };
    let partition =
        broker.logs.appendable(id).ok_or_else(|| elsewhere("the partition is not open here".to_string()))?;
    let config = &topic.config;
    let min_isr = usize::try_from(config.min_insync_replicas).unwrap_or(1);
    if acks == -1 && image.isr.len() < min_isr {
        let why = format!("{} in-sync replicas, min.insync.replicas is {min_isr}", image.isr.len());
        return Err(Refusal::of_log(&partition, code::NOT_ENOUGH_REPLICAS, why));
    }
    let body = data.records.clone().unwrap_or_default();
    let limits = BatchLimits {
        max_message_bytes: usize::try_from(config.max_message_bytes).unwrap_or(0),
        before_max_ms: config.timestamp_before_max_ms,
        after_max_ms: config.timestamp_after_max_ms,
        timestamp_type: match config.timestamp_type {
            TimestampType::CreateTime => BatchTimestampType::CreateTime,
            TimestampType::LogAppendTime => BatchTimestampType::LogAppendTime,
        },
        now_ms,
        needs_keys: config.cleanup.compact,
        origin: Origin::Client,
    };
    let refused = |error: BatchError| match error {
        // So long as zstd is not for everybody, the request's codecs are looked at before the log is asked.
        BatchError::Compression(_) if head.version < ZSTD_FROM => {
            Refusal::of_request(error.kafka_code(), error.to_string())
        }
        _ => Refusal::of_batch(&partition, error, &body, &limits),
    };
    let summary = check_produced(&body, &limits).map_err(refused)?;
    if body.len() as u64 > partition.entry_bytes_max() {
        let why = "the batch is larger than a WAL file";
        return Err(Refusal::of_request(code::MESSAGE_TOO_LARGE, why));
    }
    if summary.compression == Compression::Zstd && head.version < ZSTD_FROM {
        let why = format!("zstd needs Produce version {ZSTD_FROM} or later");
        return Err(Refusal::of_request(code::UNSUPPORTED_COMPRESSION_TYPE, why));
    }
    let settings = partition.settings().clone();
    Ok(Checked { partition, settings, summary, body })
}

/// A compacted topic takes no records without a key, and its cleaner must be able to read them: a compressed batch is
/// opened, one at a time, since a small one may become large.
async fn look_inside(checked: Checked) -> Result<Checked, Refusal> {
    static OPENING: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);
    let compacted = checked.settings.topic.cleanup.compact;
    if !compacted || checked.summary.compression == Compression::None {
        return Ok(checked);
    }
    let _one = OPENING.acquire().await;
    let look = move || {
        let header = &checked.summary.header;
        let refused = |code, why| Refusal::of_log(&checked.partition, code, why);
        let opened = compression::decompress(header.attributes, &checked.body.slice(HEADER_LEN..));
        let opened = opened.map_err(|e| refused(code::INVALID_RECORD, e.to_string()))?;
        check_opened(header, &opened).map_err(|e| refused(e.kafka_code(), e.to_string()))?;
        Ok(checked)
    };
    match tokio::task::spawn_blocking(look).await {
        Ok(looked) => looked,
        Err(e) => Err(Refusal::of_request(code::KAFKA_STORAGE_ERROR, e.to_string())),
    }
}

/// Waits for room in the queues, then appends.
async fn append(
    checked: Checked,
    acks: i16,
    now_ms: i64,
    used: &mut Option<Arc<Settings>>,
    waited: &mut Option<Duration>,
) -> Outcome {
    let Checked { partition, settings, summary, body } = checked;
    let (records, bytes) = (u64::from(summary.record_count.unsigned_abs()), body.len() as u64);
    let profile = settings.profile.clone();
    let room = match partition.room_now(&profile, records, bytes) {
        Some(room) => room,
        None => {
            let began = Instant::now();
            let room = partition.find_room(&profile, records, bytes).await;
            *waited = Some(waited.unwrap_or_default() + began.elapsed());
            room
        }
    };
    // `buffered` exempts plain acks=1 from waiting, by name; idempotent producers and acks=all always wait.
    let buffered = settings.topic.wal_profile.ack == AckMode::Buffered;
    let early = buffered && acks == 1 && !summary.header.has_producer();
    let wait = acks != 0 && !early;
    let outcome = partition.append(&summary, body, profile.index, wait, now_ms);
    match &outcome {
        Ok(accepted) if accepted.queued => {
            room.queued();
            if early {
                profile.metrics.buffered_acks.inc();
            }
        }
        _ => drop(room),
    }
    *used = Some(settings);
    outcome.map_err(|e| Refusal::of_log(&partition, e.kafka_code(), e.to_string()))
}

#[cfg(test)]
mod tests;
