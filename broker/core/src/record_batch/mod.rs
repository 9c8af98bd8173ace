//! Record batches of magic 2 (KIP-98), seen in place.
//!
//! ```text
//!  0 base offset      i64 | 21 attributes        i16 | 43 producer id    i64
//!  8 batch length     i32 | 23 last offset delta i32 | 51 producer epoch i16
//! 12 leader epoch     i32 | 27 base timestamp    i64 | 53 base sequence  i32
//! 16 magic             i8 | 35 max timestamp     i64 | 57 record count   i32
//! 17 crc32c of 21..   u32 |                          | 61 records
//! ```
//!
//! Base offset and leader epoch lie outside the checksum, so a broker gives a batch its place in the log by
//! writing twelve bytes. A user's batch is never decoded and encoded again.

mod batches;
mod builder;
mod check;
mod error;
mod header;
mod marker;
mod patch;
mod records;
mod rewrite;
#[cfg(test)]
mod tests;

pub use batches::{Batches, Crc};
pub use builder::BatchBuilder;
pub use check::{
    BatchLimits, BatchSummary, Origin, Stamp, Verified, check_opened, check_produced, refused_records,
};
pub use error::{BatchError, RecordError};
pub use header::{BatchHeader, Compression, HEADER_LEN, MAGIC, NO_TIMESTAMP, TimestampType};
pub use marker::EndMarker;
pub use patch::{patch_base, patch_log_append_time, patch_max_timestamp};
pub use records::{Headers, Record, RecordIter};
pub use rewrite::BatchRewriter;
