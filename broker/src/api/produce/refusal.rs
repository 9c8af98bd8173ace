//! Why a partition's batch is not appended, and what Kafka tells of it.

use bytes::Bytes;
use chronik_core::ids::Offset;
use chronik_core::record_batch::{BatchError, BatchLimits, refused_records};
use kafka_protocol::messages::produce_response::{BatchIndexAndErrorMessage, PartitionProduceResponse};
use kafka_protocol::protocol::StrBytes;

use super::code;
use crate::api::text;
use crate::storage::partition::Partition;

/// The log's start is told beside a refusal by the log itself, but for these: what Kafka's broker expects to go wrong.
const WITHOUT_START: [i16; 5] = [
    code::CORRUPT_MESSAGE,
    code::UNKNOWN_TOPIC_OR_PARTITION,
    code::NOT_LEADER_OR_FOLLOWER,
    code::MESSAGE_TOO_LARGE,
    code::KAFKA_STORAGE_ERROR,
];
/// So many refused records are told with a text of their own. Producers have the partition's for the others; with a text for
/// each, an answer could be many times as large as its request.
const TEXTS_MAX: usize = 10;

#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: i16,
    pub why: String,
    log_start: Offset,
    /// Records by their index in the batch (KIP-467).
    records: Vec<(i32, Option<StrBytes>)>,
}

impl Refusal {
    /// Nobody has asked the log.
    pub fn of_request(code: i16, why: impl Into<String>) -> Refusal {
        Refusal { code, why: why.into(), log_start: -1, records: Vec::new() }
    }

    pub fn of_log(partition: &Partition, code: i16, why: String) -> Refusal {
        let log_start = if WITHOUT_START.contains(&code) { -1 } else { partition.log_start() };
        Refusal { log_start, ..Refusal::of_request(code, why) }
    }

    pub fn of_batch(
        partition: &Partition,
        error: BatchError,
        batch: &Bytes,
        limits: &BatchLimits,
    ) -> Refusal {
        let (code, why) = (error.kafka_code(), error.to_string());
        if error.is_of_request() {
            return Refusal::of_request(code, why);
        }
        let refused = match error {
            BatchError::NoKey(_) | BatchError::Timestamp { .. } | BatchError::TimestampType => {
                refused_records(batch, limits)
            }
            _ => Vec::new(),
        };
        let told = |(at, (index, why)): (usize, (i32, BatchError))| {
            (index, (at < TEXTS_MAX).then(|| text(why.to_string())))
        };
        let records = refused.into_iter().enumerate().map(told).collect();
        Refusal { records, ..Refusal::of_log(partition, code, why) }
    }

    /// Versions that have no place for the records and the text leave them out.
    pub fn told(self, response: PartitionProduceResponse) -> PartitionProduceResponse {
        let records = self.records.into_iter().map(|(index, why)| {
            BatchIndexAndErrorMessage::default().with_batch_index(index).with_batch_index_error_message(why)
        });
        response
            .with_error_code(self.code)
            .with_base_offset(-1)
            .with_log_append_time_ms(-1)
            .with_log_start_offset(self.log_start)
            .with_record_errors(records.collect())
            .with_error_message(Some(text(self.why)))
    }
}
