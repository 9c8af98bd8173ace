//! What becomes of one batch when its log is compacted, as Kafka's cleaner decides (`Cleaner`, KIP-534).
//!
//! - Of each key the newest record stays. Records without a key go: a compacted topic takes none.
//! - A tombstone (a record without a value) stays for `delete.retention.ms` after a cleaner first saw it, so that a
//!   consumer that reads the log from its start cannot miss it.
//! - Control batches stay as they are.
//! - The last batch of a producer that is known still stays, without records if need be: the log tells by it which
//!   sequence is next.

use super::keys::KeyOffsets;
use crate::ids::Offset;
use crate::record_batch::{BatchError, BatchHeader, BatchRewriter, Record, RecordIter};

/// What a pass over a log decides by.
pub struct Pass<'a> {
    pub keys: &'a KeyOffsets,
    /// `keys` tell nothing of what lies from here on.
    pub keys_end: Offset,
    pub now_ms: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
}

/// What becomes of a batch.
#[derive(Debug)]
pub enum Cleaned {
    /// It stays as it lies.
    Kept,
    Gone,
    /// This comes in its place, once its records are compressed.
    Rewritten(BatchRewriter),
}

impl Pass<'_> {
    /// Judges a batch. `records` are its records, opened. `is_last_of_producer`: nothing newer of its producer is in the
    /// log, and the producer is known still.
    ///
    /// # Errors
    /// When the records cannot be read; the log is left as it is then.
    pub fn clean(
        &self,
        header: &BatchHeader,
        records: &[u8],
        is_last_of_producer: bool,
    ) -> Result<Cleaned, BatchError> {
        if header.is_control() || header.base_offset >= self.keys_end {
            return Ok(Cleaned::Kept);
        }
        let tombstones_stay = header.delete_horizon_ms().is_none_or(|horizon| self.now_ms < horizon);
        let stays = |record: &Record<'_>| {
            let newest = record.key.is_some_and(|key| {
                record.offset >= self.keys_end || self.keys.latest(key).is_none_or(|n| record.offset >= n)
            });
            newest && (record.value.is_some() || tombstones_stay)
        };
        let (mut all_stay, mut some_stay, mut tombstones) = (true, false, false);
        for record in RecordIter::opened(header, records) {
            let record = record?;
            let stay = stays(&record);
            all_stay &= stay;
            some_stay |= stay;
            tombstones |= stay && record.value.is_none();
        }
        let horizon = (tombstones && header.delete_horizon_ms().is_none())
            .then(|| self.now_ms.saturating_add(self.delete_retention_ms));
        if all_stay && horizon.is_none() {
            return Ok(Cleaned::Kept);
        }
        let stays_without_records = header.has_producer() && is_last_of_producer;
        if !some_stay && !stays_without_records {
            return Ok(Cleaned::Gone);
        }
        let mut rewriter = BatchRewriter::new(header, horizon);
        for (index, record) in (0..).zip(RecordIter::opened(header, records)) {
            let record = record?;
            if stays(&record) {
                rewriter.push(&record).map_err(|error| BatchError::Record { index, error })?;
            }
        }
        Ok(Cleaned::Rewritten(rewriter))
    }

    /// Notes the keys of a batch. False when there is no room for all of them; then nothing of the batch is judged.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn note(keys: &mut KeyOffsets, header: &BatchHeader, records: &[u8]) -> Result<bool, BatchError> {
        if header.is_control() {
            return Ok(true);
        }
        for record in RecordIter::opened(header, records) {
            let record = record?;
            if let Some(key) = record.key
                && !keys.put(key, record.offset)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
