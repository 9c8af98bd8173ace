//! The 61 bytes in front of a batch's records.

use super::error::BatchError;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// Bytes of a batch before its first record.
pub const HEADER_LEN: usize = 61;
/// The one record batch format that is accepted and stored.
pub const MAGIC: i8 = 2;
/// A record without a timestamp, in ms. Kafka's -1.
pub const NO_TIMESTAMP: i64 = -1;

/// Base offset and length field: what `batch_length` does not count.
pub(super) const LOG_OVERHEAD: usize = 12;
pub(super) const CRC_AT: usize = 17;
pub(super) const CRC_COVERS_FROM: usize = 21;
pub(super) const ATTRIBUTES_AT: usize = 21;
pub(super) const MAX_TIMESTAMP_AT: usize = 35;
const MAGIC_AT: usize = 16;

pub(super) const COMPRESSION_MASK: i16 = 0x07;
pub(super) const LOG_APPEND_TIME_BIT: i16 = 0x08;
pub(super) const TRANSACTIONAL_BIT: i16 = 0x10;
pub(super) const CONTROL_BIT: i16 = 0x20;
pub(super) const DELETE_HORIZON_BIT: i16 = 0x40;
/// What is a producer's to set: codec, transactional, and control, which is refused by name. The rest is the broker's: of what
/// a producer says it is taken out.
pub(super) const PRODUCER_BITS: i16 = COMPRESSION_MASK | TRANSACTIONAL_BIT | CONTROL_BIT;

/// The codec of a batch's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// Whose clock a batch's timestamps come from (KIP-32).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    #[default]
    CreateTime,
    LogAppendTime,
}

/// A batch's header, as it lies in the bytes. `parse` has checked magic and length, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: Offset,
    /// Bytes that follow this field; see [`BatchHeader::size_in_bytes`].
    pub batch_length: i32,
    pub leader_epoch: LeaderEpoch,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    /// What the records' times are counted from, ms since 1970: the time of the first one, or the
    /// [`delete horizon`](BatchHeader::delete_horizon_ms).
    pub base_timestamp: i64,
    /// Latest time of all records, or the broker's own under LogAppendTime, ms since 1970.
    pub max_timestamp: i64,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    /// Number of the first record in its producer's sequence; -1 for none.
    pub base_sequence: i32,
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`; the batch's records need not be there.
    ///
    /// # Errors
    /// `Truncated` under 61 bytes, `OldMagic` or `UnknownMagic` (told from 17 bytes on, since old messages may be
    /// shorter than our header), `Length` when the length field cannot be that of a batch.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let short = BatchError::Truncated { have: bytes.len(), want: HEADER_LEN };
        match bytes.get(MAGIC_AT).ok_or(short)?.cast_signed() {
            MAGIC => {}
            old @ 0..=1 => return Err(BatchError::OldMagic(old)),
            unknown => return Err(BatchError::UnknownMagic(unknown)),
        }
        let header = bytes.first_chunk::<HEADER_LEN>().and_then(Self::read).ok_or(short)?;
        if header.batch_length < (HEADER_LEN - LOG_OVERHEAD) as i32 {
            return Err(BatchError::Length(header.batch_length));
        }
        Ok(header)
    }

    fn read(bytes: &[u8; HEADER_LEN]) -> Option<BatchHeader> {
        let mut fields = Fields(bytes);
        let base_offset = fields.i64()?;
        let batch_length = fields.i32()?;
        let leader_epoch = LeaderEpoch(fields.i32()?);
        fields.take::<1>()?; // the magic, looked at before
        Some(BatchHeader {
            base_offset,
            batch_length,
            leader_epoch,
            crc: fields.i32()?.cast_unsigned(),
            attributes: fields.i16()?,
            last_offset_delta: fields.i32()?,
            base_timestamp: fields.i64()?,
            max_timestamp: fields.i64()?,
            producer_id: ProducerId(fields.i64()?),
            producer_epoch: ProducerEpoch(fields.i16()?),
            base_sequence: fields.i32()?,
            record_count: fields.i32()?,
        })
    }

    /// The batch of this header and these records. Its length and its checksum are computed; those of `self` do not
    /// matter.
    pub(super) fn with_records(&self, records: &[u8]) -> Vec<u8> {
        let mut batch = Vec::with_capacity(HEADER_LEN + records.len());
        batch.extend_from_slice(&self.base_offset.to_be_bytes());
        batch.extend_from_slice(&((HEADER_LEN - LOG_OVERHEAD + records.len()) as i32).to_be_bytes());
        batch.extend_from_slice(&self.leader_epoch.0.to_be_bytes());
        batch.extend_from_slice(&MAGIC.to_be_bytes());
        batch.extend_from_slice(&[0; 4]); // the checksum, when what it covers is there
        batch.extend_from_slice(&self.attributes.to_be_bytes());
        batch.extend_from_slice(&self.last_offset_delta.to_be_bytes());
        batch.extend_from_slice(&self.base_timestamp.to_be_bytes());
        batch.extend_from_slice(&self.max_timestamp.to_be_bytes());
        batch.extend_from_slice(&self.producer_id.0.to_be_bytes());
        batch.extend_from_slice(&self.producer_epoch.0.to_be_bytes());
        batch.extend_from_slice(&self.base_sequence.to_be_bytes());
        batch.extend_from_slice(&self.record_count.to_be_bytes());
        batch.extend_from_slice(records);
        let crc = crc32c::crc32c(&batch[CRC_COVERS_FROM..]);
        batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        batch
    }

    /// Bytes of the whole batch, header included.
    pub fn size_in_bytes(&self) -> usize {
        LOG_OVERHEAD + self.batch_length.max(0).cast_unsigned() as usize
    }

    /// Offset of the batch's last record. Compaction may have removed the record, never the number.
    pub fn last_offset(&self) -> Offset {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// The offset that follows this batch.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().saturating_add(1)
    }

    /// The producer's number of the last record; they wrap from `i32::MAX` to 0. -1 for none.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        (last & i64::from(i32::MAX)) as i32
    }

    /// # Errors
    /// `Compression` for a codec that does not exist.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        match self.attributes & COMPRESSION_MASK {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Gzip),
            2 => Ok(Compression::Snappy),
            3 => Ok(Compression::Lz4),
            4 => Ok(Compression::Zstd),
            unknown => Err(BatchError::Compression(unknown as u8)),
        }
    }

    pub fn timestamp_type(&self) -> TimestampType {
        match self.attributes & LOG_APPEND_TIME_BIT {
            0 => TimestampType::CreateTime,
            _ => TimestampType::LogAppendTime,
        }
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the records are commit or abort markers, which no consumer hands to its user.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// When a cleaner may drop the batch's tombstones, ms since 1970; `None` while no cleaner has seen them (KIP-534).
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON_BIT != 0).then_some(self.base_timestamp)
    }

    /// Whether an idempotent producer wrote it. Kafka takes every negative id for "none".
    pub fn has_producer(&self) -> bool {
        self.producer_id.0 >= 0
    }
}

/// Takes big-endian integers off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn i16(&mut self) -> Option<i16> {
        self.take().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }
}
