//! The few bytes of a producer's batch that are the broker's to write.

use super::error::BatchError;
use super::header::{
    ATTRIBUTES_AT, BatchHeader, CRC_AT, CRC_COVERS_FROM, HEADER_LEN, LOG_APPEND_TIME_BIT, MAX_TIMESTAMP_AT,
    PRODUCER_BITS,
};
use crate::ids::{LeaderEpoch, Offset};

const LEADER_EPOCH_AT: usize = 12;

/// Writes the batch's place in the log. Outside the checksum, which stays as it is.
///
/// # Errors
/// `Truncated` when `buf` is shorter than a header.
pub fn patch_base(buf: &mut [u8], base_offset: Offset, epoch: LeaderEpoch) -> Result<(), BatchError> {
    let have = buf.len();
    let header =
        buf.first_chunk_mut::<HEADER_LEN>().ok_or(BatchError::Truncated { have, want: HEADER_LEN })?;
    header[..8].copy_from_slice(&base_offset.to_be_bytes());
    header[LEADER_EPOCH_AT..LEADER_EPOCH_AT + 4].copy_from_slice(&epoch.0.to_be_bytes());
    Ok(())
}

/// Marks the batch as stamped by the broker at `now_ms`, and computes its checksum anew.
///
/// # Errors
/// Those of [`BatchHeader::parse`], or `Truncated` when `buf` does not hold the whole batch.
pub fn patch_log_append_time(buf: &mut [u8], now_ms: i64) -> Result<(), BatchError> {
    patch_timestamp(buf, now_ms, LOG_APPEND_TIME_BIT)
}

/// Corrects the batch's latest timestamp, takes out the attributes that are not a producer's, and computes its checksum anew.
///
/// # Errors
/// Those of [`patch_log_append_time`].
pub fn patch_max_timestamp(buf: &mut [u8], timestamp_ms: i64) -> Result<(), BatchError> {
    patch_timestamp(buf, timestamp_ms, 0)
}

fn patch_timestamp(buf: &mut [u8], timestamp_ms: i64, set_bits: i16) -> Result<(), BatchError> {
    let header = BatchHeader::parse(buf)?;
    let (have, want) = (buf.len(), header.size_in_bytes());
    let batch = buf.get_mut(..want).ok_or(BatchError::Truncated { have, want })?;
    let attributes = (header.attributes & PRODUCER_BITS) | set_bits;
    batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&timestamp_ms.to_be_bytes());
    let crc = crc32c::crc32c(&batch[CRC_COVERS_FROM..]);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    Ok(())
}
