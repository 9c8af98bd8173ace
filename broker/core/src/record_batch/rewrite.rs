//! A batch written anew with fewer records, as a cleaner does. Offsets, times, keys, values and headers stay what they
//! were, byte by byte; only numbers that count from the batch's own base are counted anew.

use super::builder::put_varint;
use super::error::RecordError;
use super::header::{BatchHeader, COMPRESSION_MASK, DELETE_HORIZON_BIT, NO_TIMESTAMP, TimestampType};
use super::records::{Cursor, Record};

/// Gathers the records that stay.
#[derive(Clone, Debug)]
pub struct BatchRewriter {
    header: BatchHeader,
    /// What is added to each record's time delta, since the base moved by as much.
    shift: i64,
    count: i32,
    max_timestamp: i64,
    records: Vec<u8>,
    scratch: Vec<u8>,
}

impl BatchRewriter {
    /// Begins the successor of the batch with this header. With `delete_horizon_ms` it says from when on its tombstones
    /// may be dropped (KIP-534: the horizon takes the place of the base timestamp).
    pub fn new(header: &BatchHeader, delete_horizon_ms: Option<i64>) -> BatchRewriter {
        let mut new = *header;
        if let Some(horizon) = delete_horizon_ms {
            new.attributes |= DELETE_HORIZON_BIT;
            new.base_timestamp = horizon;
        }
        BatchRewriter {
            shift: header.base_timestamp.wrapping_sub(new.base_timestamp),
            header: new,
            count: 0,
            max_timestamp: NO_TIMESTAMP,
            records: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Adds a record of the batch.
    ///
    /// # Errors
    /// When its bytes are not those of a record.
    pub fn push(&mut self, record: &Record<'_>) -> Result<(), RecordError> {
        self.count += 1;
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        if self.shift == 0 {
            self.records.extend_from_slice(record.raw);
            return Ok(());
        }
        let mut cursor = Cursor(record.raw);
        cursor.varint()?;
        let attributes = cursor.take(1)?;
        let delta = cursor.varlong()?;
        self.scratch.clear();
        self.scratch.extend_from_slice(attributes);
        put_varint(&mut self.scratch, delta.wrapping_add(self.shift));
        self.scratch.extend_from_slice(cursor.0);
        put_varint(&mut self.records, self.scratch.len() as i64);
        self.records.extend_from_slice(&self.scratch);
        Ok(())
    }

    /// How many records stay.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// The records as they stand, to be compressed as the batch's attributes say.
    pub fn records(&self) -> &[u8] {
        &self.records
    }

    /// The finished batch; `packed` are its records, compressed. First and last offset are those of the batch it
    /// follows: the numbers of records that went stay used. A batch without records keeps its latest time.
    pub fn finish(&self, packed: &[u8]) -> Vec<u8> {
        let stamped = self.header.timestamp_type() == TimestampType::LogAppendTime;
        let mut header = BatchHeader { record_count: self.count, ..self.header };
        if self.count == 0 {
            // Without records there is nothing to be decompressed, no tombstone, and no time that counts from another.
            header.attributes &= !(COMPRESSION_MASK | DELETE_HORIZON_BIT);
            header.base_timestamp = NO_TIMESTAMP;
        } else if !stamped {
            header.max_timestamp = self.max_timestamp;
        }
        header.with_records(packed)
    }
}
