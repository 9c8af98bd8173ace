//! The control batch that ends a transaction in a partition (KIP-98), as Kafka's `EndTransactionMarker`.

use super::builder::BatchBuilder;
use super::header::BatchHeader;
use super::records::RecordIter;
use crate::ids::{ProducerEpoch, ProducerId};

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 0;
const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// How a producer's transaction ended, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndMarker {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    /// The leader epoch of the coordinator's partition: an older coordinator is fenced by it.
    pub coordinator_epoch: i32,
    pub commit: bool,
}

impl EndMarker {
    /// The batch to be appended, of the time `now_ms`.
    pub fn batch(&self, now_ms: i64) -> Vec<u8> {
        let kind = if self.commit { COMMIT } else { ABORT };
        let key = [KEY_VERSION.to_be_bytes(), kind.to_be_bytes()].concat();
        let mut value = VALUE_VERSION.to_be_bytes().to_vec();
        value.extend(self.coordinator_epoch.to_be_bytes());
        BatchBuilder::new()
            .producer(self.producer_id, self.producer_epoch, -1)
            .transactional()
            .control()
            .record(now_ms, Some(&key), Some(&value))
            .build()
    }

    /// The marker in a batch; `None` for a batch of data, for a control batch that a cleaner has emptied, and for one that
    /// says something else.
    pub fn of(header: &BatchHeader, batch: &[u8]) -> Option<EndMarker> {
        // Asked of every batch: most are told apart here.
        if !header.is_control() {
            return None;
        }
        EndMarker::read(header, RecordIter::new(batch).ok()?)
    }

    /// The same of a batch whose records somebody has opened.
    pub fn opened(header: &BatchHeader, records: &[u8]) -> Option<EndMarker> {
        EndMarker::read(header, RecordIter::opened(header, records))
    }

    fn read(header: &BatchHeader, mut records: RecordIter<'_>) -> Option<EndMarker> {
        if !header.is_control() || !header.is_transactional() {
            return None;
        }
        let record = records.next()?.ok()?;
        let (version, rest) = record.key?.split_first_chunk::<2>()?;
        let kind = i16::from_be_bytes(*rest.first_chunk::<2>()?);
        let (_, rest) = record.value?.split_first_chunk::<2>()?;
        if i16::from_be_bytes(*version) < KEY_VERSION || !matches!(kind, ABORT | COMMIT) {
            return None;
        }
        Some(EndMarker {
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            coordinator_epoch: i32::from_be_bytes(*rest.first_chunk::<4>()?),
            commit: kind == COMMIT,
        })
    }
}
