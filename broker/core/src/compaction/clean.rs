//! What becomes of one batch when its log is compacted, as Kafka's cleaner decides (`Cleaner`, KIP-534).
//!
//! - Of each key the newest record stays. Records without a key go: a compacted topic takes none, but it may have been
//!   another topic once.
//! - A tombstone (a record without a value) stays for `delete.retention.ms` after a cleaner first saw it, so that a
//!   consumer that reads the log from its start cannot miss it.
//! - Control batches stay as they are.
//! - Some batches stay, without records if need be: the last one of a producer that is known still, since the log tells by
//!   it which sequence is next; and the last one of all, so that a reader can come to the end.

use super::keys::KeyOffsets;
use crate::ids::Offset;
use crate::record_batch::{BatchError, BatchHeader, BatchRewriter, Record, RecordError, RecordIter};

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
    /// Judges a batch. `records` are its records, opened. `must_stay`: it stays even without records.
    ///
    /// # Errors
    /// When the records cannot be read; the log is left as it is then.
    pub fn clean(
        &self,
        header: &BatchHeader,
        records: &[u8],
        must_stay: bool,
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
        for record in in_order(header, records) {
            let record = record?;
            let stay = stays(&record);
            all_stay &= stay;
            some_stay |= stay;
            tombstones |= stay && record.value.is_none();
        }
        let horizon = (tombstones && header.delete_horizon_ms().is_none())
            .then(|| self.now_ms.saturating_add(self.delete_retention_ms));
        if !some_stay && !must_stay {
            return Ok(Cleaned::Gone);
        }
        if all_stay && horizon.is_none() {
            return Ok(Cleaned::Kept);
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
        for record in in_order(header, records) {
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

/// A batch's records, whose offsets ascend within it. Of compressed batches nobody has looked before.
fn in_order<'a>(
    header: &BatchHeader,
    records: &'a [u8],
) -> impl Iterator<Item = Result<Record<'a>, BatchError>> {
    let (base, last) = (header.base_offset, header.last_offset());
    let mut next = base;
    (0..).zip(RecordIter::opened(header, records)).map(move |(index, record)| {
        let record = record?;
        if record.offset < next || record.offset > last {
            let delta = record.offset.saturating_sub(base).clamp(i64::from(i32::MIN), i64::from(i32::MAX));
            return Err(BatchError::Record { index, error: RecordError::OffsetDelta(delta as i32) });
        }
        next = record.offset.saturating_add(1);
        Ok(record)
    })
}
