//! The records of an uncompressed batch, read where they lie.

use super::error::{BatchError, RecordError};
use super::header::{BatchHeader, Compression, HEADER_LEN, TimestampType};
use crate::ids::Offset;

/// One record; its fields borrow from the batch.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    pub offset: Offset,
    /// ms since 1970; the batch's own time under LogAppendTime.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
    /// All of its bytes, its length in front.
    pub raw: &'a [u8],
}

/// A record's headers in their order; a key may occur more than once. The record's reader has checked them.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    left: i32,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        self.left -= 1;
        self.cursor.header().ok()
    }
}

/// Reads an uncompressed batch's records in order; ends after its record count or the first error.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    header: BatchHeader,
    cursor: Cursor<'a>,
    index: i32,
}

impl<'a> RecordIter<'a> {
    /// `batch` starts with the batch; more may follow it.
    ///
    /// # Errors
    /// Those of [`BatchHeader::parse`], `Truncated`, `Compression`, and `Compressed` when there is a codec.
    pub fn new(batch: &'a [u8]) -> Result<RecordIter<'a>, BatchError> {
        let header = BatchHeader::parse(batch)?;
        if header.compression()? != Compression::None {
            return Err(BatchError::Compressed);
        }
        let want = header.size_in_bytes();
        let records = batch.get(HEADER_LEN..want).ok_or(BatchError::Truncated { have: batch.len(), want })?;
        Ok(RecordIter::opened(&header, records))
    }

    /// The records of a batch whose bytes somebody has decompressed.
    pub fn opened(header: &BatchHeader, records: &'a [u8]) -> RecordIter<'a> {
        RecordIter { header: *header, cursor: Cursor(records), index: 0 }
    }

    fn read(&mut self) -> Result<Record<'a>, RecordError> {
        let before = self.cursor.0;
        let raw = self.cursor.record()?;
        let bytes = &before[..before.len() - self.cursor.0.len()];
        let timestamp = match self.header.timestamp_type() {
            TimestampType::LogAppendTime => self.header.max_timestamp,
            TimestampType::CreateTime => {
                self.header.base_timestamp.checked_add(raw.timestamp_delta).ok_or(RecordError::Timestamp)?
            }
        };
        let offset = self.header.base_offset.saturating_add(i64::from(raw.offset_delta));
        Ok(Record { offset, timestamp, key: raw.key, value: raw.value, headers: raw.headers, raw: bytes })
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.header.record_count {
            return None;
        }
        let index = self.index;
        let record = self.read().map_err(|error| BatchError::Record { index, error });
        self.index = if record.is_ok() { index + 1 } else { i32::MAX };
        Some(record)
    }
}

/// A record as its bytes say, before the batch's base is added.
pub(super) struct RawRecord<'a> {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

/// Takes fields off the front of the records. Allocates nothing and trusts no length.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next record, all of its headers walked through.
    pub fn record(&mut self) -> Result<RawRecord<'a>, RecordError> {
        let length = self.varint()?;
        let mut body = Cursor(self.bytes(length)?.ok_or(RecordError::Length(length))?);
        body.take(1)?; // attributes: none are defined, and Kafka lets them pass
        let timestamp_delta = body.varlong()?;
        let offset_delta = body.varint()?;
        let key = body.nullable()?;
        let value = body.nullable()?;
        let count = body.varint()?;
        if count < 0 {
            return Err(RecordError::Length(count));
        }
        let headers = Headers { left: count, cursor: body.clone() };
        for _ in 0..count {
            body.header()?;
        }
        if !body.0.is_empty() {
            return Err(RecordError::Excess(body.0.len()));
        }
        Ok(RawRecord { timestamp_delta, offset_delta, key, value, headers })
    }

    fn header(&mut self) -> Result<(&'a [u8], Option<&'a [u8]>), RecordError> {
        let key = self.nullable()?.ok_or(RecordError::Length(-1))?;
        Ok((key, self.nullable()?))
    }

    fn nullable(&mut self) -> Result<Option<&'a [u8]>, RecordError> {
        let length = self.varint()?;
        self.bytes(length)
    }

    /// -1 means null.
    fn bytes(&mut self, length: i32) -> Result<Option<&'a [u8]>, RecordError> {
        match usize::try_from(length) {
            Ok(length) => self.take(length).map(Some),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(RecordError::Length(length)),
        }
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(RecordError::OutOfBounds)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn varint(&mut self) -> Result<i32, RecordError> {
        i32::try_from(self.varlong()?).map_err(|_| RecordError::Varint)
    }

    /// Protocol buffers' zigzag varint: seven bits to a byte, lowest first, ten bytes at most.
    pub fn varlong(&mut self) -> Result<i64, RecordError> {
        let mut value = 0u64;
        for (index, &byte) in self.0.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && bits > 1 {
                return Err(RecordError::Varint);
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                self.0 = self.0.get(index + 1..).unwrap_or_default();
                return Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()));
            }
        }
        Err(if self.0.len() < 10 { RecordError::OutOfBounds } else { RecordError::Varint })
    }
}
