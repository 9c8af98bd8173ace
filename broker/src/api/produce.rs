//! Produce: the way of a record from a request to the disk and back (KIP-98, KIP-467, KIP-951).
//!
//! Appends of one connection happen in the order of their arrival: everything up to the hand-over to the
//! write-ahead log runs on the connection's reading side, which therefore also feels the back-pressure. Only
//! the waiting for the flush is concurrent.

mod transaction;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chronik_client::compression;
use chronik_core::ids::{TopicId, TopicIdPartition};
use chronik_core::metadata::TopicImage;
use chronik_core::metadata::config::TimestampType;
use chronik_core::record_batch::{
    BatchLimits, BatchSummary, HEADER_LEN, Origin, check_opened, check_produced,
};
use chronik_core::record_batch::{Compression, TimestampType as BatchTimestampType};
use chronik_core::wal::profile::AckMode;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};

use super::{Api, Broker, Frame, Reply, Request, RequestHead, Serve};
use crate::storage::now_ms;
use crate::storage::partition::{Accepted, Acknowledge, Partition, Settings};
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
    pub const KAFKA_STORAGE_ERROR: i16 = 56;
    pub const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
    pub const UNKNOWN_TOPIC_ID: i16 = 100;
}

/// What becomes of one partition's batch.
type Outcome = Result<Accepted, (i16, String)>;

async fn serve(mut request: Request) -> Reply {
    let produce: ProduceRequest = match request.decode() {
        Ok(produce) => produce,
        Err(close) => return close,
    };
    let decoded = Instant::now();
    let broker = request.broker.clone();
    let now_ms = now_ms();
    let acks = produce.acks;
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
            let checked = match (&topic, acks) {
                (_, acks) if !(-1..=1).contains(&acks) => {
                    Err((code::INVALID_REQUIRED_ACKS, "acks must be 0, 1 or all".to_string()))
                }
                (Ok(topic), _) => check(&broker, topic, data, &request.head, acks, now_ms),
                (Err(unknown), _) => Err(unknown.clone()),
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
        if let Err((code, _)) = outcome {
            broker.metrics.error(ApiKey::Produce as i16, *code);
        }
    }
    if acks == 0 {
        let refused = outcomes.iter().flatten().find_map(|o| o.as_ref().err());
        return match refused {
            // Nobody listens for an answer: closing tells the client to look for its mistake (as in Kafka).
            Some((_, why)) => Reply::Close(format!("produce with acks=0 failed: {why}")),
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
                let why = "the write-ahead log has failed".to_string();
                *outcome = Err((code::KAFKA_STORAGE_ERROR, why));
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
                    Err((code, why)) => response
                        .with_error_code(code)
                        .with_base_offset(-1)
                        .with_log_append_time_ms(-1)
                        .with_log_start_offset(-1)
                        .with_error_message((head.version >= 8).then(|| super::text(why))),
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

fn topic_of(
    broker: &Broker,
    data: &TopicProduceData,
    version: i16,
) -> Result<Arc<TopicImage>, (i16, String)> {
    let image = broker.metadata.image();
    if version >= BY_ID {
        let topic = image.topic_by_id(TopicId(data.topic_id));
        return topic.cloned().ok_or_else(|| (code::UNKNOWN_TOPIC_ID, "unknown topic id".to_string()));
    }
    let topic = image.topic(&data.name);
    topic.cloned().ok_or_else(|| (code::UNKNOWN_TOPIC_OR_PARTITION, "unknown topic".to_string()))
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
) -> Result<Checked, (i16, String)> {
    let image = topic.partition(data.index).ok_or_else(|| {
        let why = format!("topic {} has no partition {}", topic.name, data.index);
        (code::UNKNOWN_TOPIC_OR_PARTITION, why)
    })?;
    if image.leader != broker.config.broker_id {
        return Err((code::NOT_LEADER_OR_FOLLOWER, format!("broker {} leads", image.leader)));
    }
    if topic.is_internal {
        return Err((code::INVALID_TOPIC_EXCEPTION, "internal topics are written by the broker".to_string()));
    }
    let id = TopicIdPartition { topic_id: topic.id, partition: data.index };
    let partition = broker
        .logs
        .appendable(id)
        .ok_or_else(|| (code::NOT_LEADER_OR_FOLLOWER, "the partition is not open here".to_string()))?;
    let config = &topic.config;
    let min_isr = usize::try_from(config.min_insync_replicas).unwrap_or(1);
    if acks == -1 && image.isr.len() < min_isr {
        let why = format!("{} in-sync replicas, min.insync.replicas is {min_isr}", image.isr.len());
        return Err((code::NOT_ENOUGH_REPLICAS, why));
    }
    let body = data.records.clone().unwrap_or_default();
    let summary = check_produced(
        &body,
        &BatchLimits {
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
        },
    )
    .map_err(|e| (e.kafka_code(), e.to_string()))?;
    if body.len() as u64 > partition.entry_bytes_max() {
        return Err((code::MESSAGE_TOO_LARGE, "the batch is larger than a WAL file".to_string()));
    }
    if summary.compression == Compression::Zstd && head.version < ZSTD_FROM {
        let why = format!("zstd needs Produce version {ZSTD_FROM} or later");
        return Err((code::UNSUPPORTED_COMPRESSION_TYPE, why));
    }
    let settings = partition.settings().clone();
    Ok(Checked { partition, settings, summary, body })
}

/// A compacted topic takes no records without a key, and its cleaner must be able to read them: a compressed batch is
/// opened, one at a time, since a small one may become large.
async fn look_inside(checked: Checked) -> Result<Checked, (i16, String)> {
    static OPENING: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);
    let compacted = checked.settings.topic.cleanup.compact;
    if !compacted || checked.summary.compression == Compression::None {
        return Ok(checked);
    }
    let _one = OPENING.acquire().await;
    let look = move || {
        let header = &checked.summary.header;
        let opened = compression::decompress(header.attributes, &checked.body.slice(HEADER_LEN..));
        let opened = opened.map_err(|e| (code::CORRUPT_MESSAGE, e.to_string()))?;
        check_opened(header, &opened).map_err(|e| (e.kafka_code(), e.to_string()))?;
        Ok(checked)
    };
    match tokio::task::spawn_blocking(look).await {
        Ok(looked) => looked,
        Err(e) => Err((code::KAFKA_STORAGE_ERROR, e.to_string())),
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
    outcome.map_err(|e| (e.kafka_code(), e.to_string()))
}
