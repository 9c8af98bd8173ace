//! What becomes of one batch when its log is compacted, as Kafka's cleaner decides (`Cleaner`, KIP-534).
//!
//! - Of each key the newest record stays. Records without a key go: a compacted topic takes none, but it may have been
//!   another topic once.
//! - A tombstone (a record without a value) stays for `delete.retention.ms` after a cleaner first saw it, so that a
//!   consumer that reads the log from its start cannot miss it.
//! - Records of aborted transactions go, and have no say about others of their key. A marker stays until nothing else is left
//!   of its transaction, and then for `delete.retention.ms`, as a tombstone does. Other control batches stay as they are.
//! - Some batches stay, without records if need be: the last one of a producer that is known still, since the log tells by
//!   it which sequence is next, or, if that is all there is of its epoch, its marker; and the last one of all, so that a reader
//!   can come to the end.

use super::keys::KeyOffsets;
use super::transactions::Transactions;
use crate::ids::Offset;
use crate::record_batch::{
    BatchError, BatchHeader, BatchRewriter, EndMarker, Record, RecordError, RecordIter,
};

/// What a pass over a log decides by.
pub struct Pass<'a> {
    pub keys: &'a KeyOffsets,
    /// `keys` tell nothing of what lies from here on.
    pub keys_end: Offset,
    pub now_ms: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    pub transactions: Transactions,
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
    /// Judges a batch, the next one of the log. `records` are its records, opened. `must_stay`: it stays even without records.
    ///
    /// # Errors
    /// When the records cannot be read; the log is left as it is then.
    pub fn clean(
        &mut self,
        header: &BatchHeader,
        records: &[u8],
        must_stay: bool,
    ) -> Result<Cleaned, BatchError> {
        if header.is_control() {
            return self.clean_marker(header, records, must_stay);
        }
        self.transactions.meets(header);
        if header.base_offset >= self.keys_end {
            return Ok(Cleaned::Kept);
        }
        let aborted = self.transactions.is_aborted(header);
        let tombstones_stay = header.delete_horizon_ms().is_none_or(|horizon| self.now_ms < horizon);
        let stays = |record: &Record<'_>| {
            let newest = record.key.is_some_and(|key| {
                record.offset >= self.keys_end || self.keys.latest(key).is_none_or(|n| record.offset >= n)
            });
            !aborted && newest && (record.value.is_some() || tombstones_stay)
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

    /// A batch stays as it is, since it cannot be read.
    pub fn leaves(&mut self, header: &BatchHeader) {
        self.transactions.meets(header);
    }

    fn clean_marker(
        &mut self,
        header: &BatchHeader,
        records: &[u8],
        must_stay: bool,
    ) -> Result<Cleaned, BatchError> {
        let is_all_that_is_left = self.transactions.is_empty_at(header);
        if header.base_offset >= self.keys_end {
            return Ok(Cleaned::Kept);
        }
        if header.record_count == 0 {
            return Ok(if must_stay { Cleaned::Kept } else { Cleaned::Gone });
        }
        if EndMarker::opened(header, records).is_none() || !is_all_that_is_left {
            return Ok(Cleaned::Kept);
        }
        let rewriter = match header.delete_horizon_ms() {
            None => {
                let horizon = self.now_ms.saturating_add(self.delete_retention_ms);
                let mut rewriter = BatchRewriter::new(header, Some(horizon));
                for (index, record) in (0..).zip(RecordIter::opened(header, records)) {
                    rewriter.push(&record?).map_err(|error| BatchError::Record { index, error })?;
                }
                rewriter
            }
            Some(horizon) if self.now_ms < horizon => return Ok(Cleaned::Kept),
            Some(_) => {
                self.transactions.goes(header);
                if !must_stay {
                    return Ok(Cleaned::Gone);
                }
                BatchRewriter::new(header, None)
            }
        };
        Ok(Cleaned::Rewritten(rewriter))
    }

    /// Notes the keys of a batch. False when there is no room for all of them; then nothing of the batch is judged.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn note(
        keys: &mut KeyOffsets,
        transactions: &Transactions,
        header: &BatchHeader,
        records: &[u8],
    ) -> Result<bool, BatchError> {
        if header.is_control() || transactions.is_aborted(header) {
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
