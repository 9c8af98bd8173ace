//! What a broker demands of a batch that a producer sends, as Kafka's `LogValidator` and `UnifiedLog` do.

use super::error::{BatchError, RecordError};
use super::header::{
    BatchHeader, CRC_COVERS_FROM, Compression, HEADER_LEN, NO_TIMESTAMP, PRODUCER_BITS, TimestampType,
};
use super::marker::EndMarker;
use super::patch::{patch_base, patch_log_append_time, patch_max_timestamp};
use super::records::{Cursor, RawRecord};
use crate::ids::{LeaderEpoch, Offset};

/// Who appends, as Kafka's `AppendOrigin`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    #[default]
    Client,
    /// The broker itself: its producers do not number what they write, and it writes markers.
    Coordinator,
}

/// What is known of the transaction that a transactional batch belongs to (KIP-890). Where none is ongoing in the partition
/// yet, an unverified batch could begin one that nobody would ever end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    Not,
    /// Its coordinator says that the partition is in it.
    Since {
        /// Where the producer's last marker in the partition was before the coordinator was asked, -1 for none: a marker
        /// since then has ended what was asked about.
        marker_offset: Offset,
        /// Each transaction of the producer has an epoch of its own: one that is not known here must begin with sequence 0.
        from_zero: bool,
    },
    /// The coordinator writes it.
    Own,
}

/// A topic's limits, and the time at which they are asked about.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// `max.message.bytes`: of a whole batch.
    pub max_message_bytes: usize,
    /// `message.timestamp.before.max.ms`
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms`
    pub after_max_ms: i64,
    /// `message.timestamp.type`
    pub timestamp_type: TimestampType,
    /// ms since 1970; also the time that a LogAppendTime topic stamps.
    pub now_ms: i64,
    /// Whether the topic is compacted: a record without a key could never stay. Of compressed records
    /// [`check_opened`] tells.
    pub needs_keys: bool,
    pub origin: Origin,
}

/// What must be written over a batch's timestamps before it is stored. Each but `Keep` costs a new checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    Keep,
    /// The producer miscalculated the latest of its records' times, or set attributes that are the broker's to set; Kafka
    /// corrects it, and so do we.
    MaxTimestamp(i64),
    /// The topic takes the broker's time.
    LogAppendTime(i64),
}

/// An accepted batch: its header as sent, and what is known beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSummary {
    pub header: BatchHeader,
    /// Bytes of the whole batch.
    pub size: usize,
    /// Greater than 0.
    pub record_count: i32,
    /// The latest time of its records, as it will be stored, ms since 1970; -1 for none.
    pub max_timestamp: i64,
    pub compression: Compression,
    pub stamp: Stamp,
    /// Of a control batch.
    pub marker: Option<EndMarker>,
    /// [`Verified::Not`] for a client's batch, until somebody has asked its coordinator.
    pub verified: Verified,
}

impl BatchSummary {
    /// The time to answer a produce request with: the broker's stamp, or Kafka's -1 under CreateTime.
    pub fn log_append_time_ms(&self) -> i64 {
        match self.stamp {
            Stamp::LogAppendTime(now_ms) => now_ms,
            Stamp::Keep | Stamp::MaxTimestamp(_) => NO_TIMESTAMP,
        }
    }

    /// Turns the batch in `buf` from the bytes that were checked into those that are stored.
    ///
    /// # Errors
    /// `Truncated` when `buf` does not begin with the whole batch.
    pub fn patch(&self, buf: &mut [u8], base_offset: Offset, epoch: LeaderEpoch) -> Result<(), BatchError> {
        match self.stamp {
            Stamp::Keep => {}
            Stamp::MaxTimestamp(timestamp_ms) => patch_max_timestamp(buf, timestamp_ms)?,
            Stamp::LogAppendTime(now_ms) => patch_log_append_time(buf, now_ms)?,
        }
        patch_base(buf, base_offset, epoch)
    }
}

/// Checks one partition's produce data: exactly one batch of magic 2 that fills `bytes`.
///
/// Uncompressed records are walked through, without an allocation. Of compressed ones only the header's facts are
/// checked: the broker opens them when it has to write them anew (compaction, another codec), and until then
/// consumers see exactly what the producer compressed.
///
/// # Errors
/// See [`BatchError`]; [`BatchError::kafka_code`] is the answer to the client.
pub fn check_produced(bytes: &[u8], limits: &BatchLimits) -> Result<BatchSummary, BatchError> {
    let header = BatchHeader::parse(bytes)?;
    let size = header.size_in_bytes();
    if bytes.len() != size {
        return Err(match bytes.len().checked_sub(size) {
            Some(trailing) => BatchError::TrailingBytes(trailing),
            None => BatchError::Truncated { have: bytes.len(), want: size },
        });
    }
    if header.base_offset != 0 {
        return Err(BatchError::BaseOffset(header.base_offset));
    }
    if size > limits.max_message_bytes {
        return Err(BatchError::TooLarge { size, max: limits.max_message_bytes });
    }
    check_crc(&header, bytes)?;
    let compression = check_header(&header, limits.origin)?;
    let marker = EndMarker::of(&header, bytes);
    if header.is_control() && marker.is_none() {
        return Err(BatchError::Control);
    }

    let records = bytes.get(HEADER_LEN..).unwrap_or_default();
    let demands = Demands::of(limits, &header);
    let latest = match compression {
        Compression::None => walk(&header, records, &demands)?,
        codec => {
            check_codec(codec, records)?;
            demands.check_type()?;
            demands.check_time(header.base_timestamp)?;
            demands.check_time(header.max_timestamp)?;
            header.max_timestamp
        }
    };
    let as_stored = latest == header.max_timestamp && header.attributes & !PRODUCER_BITS == 0;
    let (max_timestamp, stamp) = match limits.timestamp_type {
        TimestampType::LogAppendTime => (limits.now_ms, Stamp::LogAppendTime(limits.now_ms)),
        TimestampType::CreateTime if as_stored => (latest, Stamp::Keep),
        TimestampType::CreateTime => (latest, Stamp::MaxTimestamp(latest)),
    };
    let verified = match limits.origin {
        Origin::Client => Verified::Not,
        Origin::Coordinator => Verified::Own,
    };
    Ok(BatchSummary {
        header,
        size,
        record_count: header.record_count,
        max_timestamp,
        compression,
        stamp,
        marker,
        verified,
    })
}

/// `bytes` begin with the whole batch.
pub(super) fn check_crc(header: &BatchHeader, bytes: &[u8]) -> Result<(), BatchError> {
    let want = header.size_in_bytes();
    let covered =
        bytes.get(CRC_COVERS_FROM..want).ok_or(BatchError::Truncated { have: bytes.len(), want })?;
    let computed = crc32c::crc32c(covered);
    if computed == header.crc { Ok(()) } else { Err(BatchError::Checksum { stored: header.crc, computed }) }
}

fn check_header(header: &BatchHeader, origin: Origin) -> Result<Compression, BatchError> {
    let BatchHeader { record_count: count, last_offset_delta, .. } = *header;
    if count <= 0 || last_offset_delta != count - 1 {
        return Err(BatchError::Count { count, last_offset_delta });
    }
    let own = origin == Origin::Coordinator;
    if header.is_control() && !own {
        return Err(BatchError::Control);
    }
    let numbered = own || header.base_sequence >= 0;
    let coherent = if header.has_producer() { numbered } else { !header.is_transactional() };
    if !coherent {
        return Err(BatchError::Producer {
            id: header.producer_id.0,
            epoch: header.producer_epoch.0,
            sequence: header.base_sequence,
        });
    }
    header.compression()
}

/// Whether compressed records begin as their codec has it. Who reads them would find nothing to read else. Snappy has two
/// framings, and one of them has no mark.
fn check_codec(codec: Compression, records: &[u8]) -> Result<(), BatchError> {
    let right = match codec {
        Compression::None | Compression::Snappy => true,
        Compression::Gzip => records.starts_with(&[0x1f, 0x8b]),
        Compression::Lz4 => records.starts_with(&[0x04, 0x22, 0x4d, 0x18]),
        // A frame, or one that is to be skipped.
        Compression::Zstd => {
            records.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
                || matches!(records, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
        }
    };
    if right { Ok(()) } else { Err(BatchError::NotOfCodec(codec)) }
}

/// Checks the records of a compressed batch for a compacted topic, opened: number, offsets, keys.
///
/// # Errors
/// As [`check_produced`] of uncompressed ones.
pub fn check_opened(header: &BatchHeader, records: &[u8]) -> Result<(), BatchError> {
    let demands =
        Demands { earliest_ms: i64::MIN, latest_ms: i64::MAX, needs_keys: true, stamps_twice: false };
    walk(header, records, &demands).map(|_| ())
}

/// Which records of a batch were the reason that [`check_produced`] has refused it, and what each is refused for (KIP-467).
/// None for what is wrong with the batch as a whole, or if the records are compressed.
pub fn refused_records(bytes: &[u8], limits: &BatchLimits) -> Vec<(i32, BatchError)> {
    let Ok(header) = BatchHeader::parse(bytes) else { return Vec::new() };
    let demands = Demands::of(limits, &header);
    let mut cursor = Cursor(bytes.get(HEADER_LEN..).unwrap_or_default());
    let mut refused = Vec::new();
    if header.compression() != Ok(Compression::None) {
        return refused;
    }
    for index in 0..header.record_count {
        let Ok(record) = cursor.record() else { break };
        let Ok(timestamp) = time_of(&header, &record) else { break };
        refused.extend(demands.check(index, &record, timestamp).err().map(|why| (index, why)));
    }
    refused
}

/// Walks through uncompressed records; returns the latest of their times.
fn walk(header: &BatchHeader, records: &[u8], demands: &Demands) -> Result<i64, BatchError> {
    let mut cursor = Cursor(records);
    let mut latest = NO_TIMESTAMP;
    let mut refused = None;
    for index in 0..header.record_count {
        let fail = |error| BatchError::Record { index, error };
        let record = cursor.record().map_err(fail)?;
        if record.offset_delta != index {
            return Err(fail(RecordError::OffsetDelta(record.offset_delta)));
        }
        let timestamp = time_of(header, &record).map_err(fail)?;
        if let Err(why) = demands.check(index, &record, timestamp) {
            // A wrong time is told before a missing key, wherever it is.
            refused = match refused {
                None | Some(BatchError::NoKey(_)) => Some(why),
                time => time,
            };
        }
        latest = latest.max(timestamp);
    }
    if !cursor.0.is_empty() {
        let error = RecordError::Excess(cursor.0.len());
        return Err(BatchError::Record { index: header.record_count, error });
    }
    refused.map_or(Ok(latest), Err)
}

fn time_of(header: &BatchHeader, record: &RawRecord<'_>) -> Result<i64, RecordError> {
    header.base_timestamp.checked_add(record.timestamp_delta).ok_or(RecordError::Timestamp)
}

/// What a topic demands of each record. Under LogAppendTime the producer's times are of no account.
struct Demands {
    earliest_ms: i64,
    latest_ms: i64,
    needs_keys: bool,
    /// The topic has the broker's time, and the producer says that its batch has it already.
    stamps_twice: bool,
}

impl Demands {
    fn of(limits: &BatchLimits, header: &BatchHeader) -> Demands {
        let stamps = limits.timestamp_type == TimestampType::LogAppendTime;
        let (earliest_ms, latest_ms) = match limits.timestamp_type {
            TimestampType::LogAppendTime => (i64::MIN, i64::MAX),
            TimestampType::CreateTime => (
                limits.now_ms.saturating_sub(limits.before_max_ms),
                limits.now_ms.saturating_add(limits.after_max_ms),
            ),
        };
        let stamps_twice = stamps && header.timestamp_type() == TimestampType::LogAppendTime;
        Demands { earliest_ms, latest_ms, needs_keys: limits.needs_keys, stamps_twice }
    }

    fn check(&self, index: i32, record: &RawRecord<'_>, timestamp_ms: i64) -> Result<(), BatchError> {
        if self.needs_keys && record.key.is_none() {
            return Err(BatchError::NoKey(index));
        }
        self.check_type()?;
        self.check_time(timestamp_ms)
    }

    fn check_type(&self) -> Result<(), BatchError> {
        if self.stamps_twice { Err(BatchError::TimestampType) } else { Ok(()) }
    }

    fn check_time(&self, timestamp_ms: i64) -> Result<(), BatchError> {
        let Demands { earliest_ms, latest_ms, .. } = *self;
        if timestamp_ms == NO_TIMESTAMP || (earliest_ms..=latest_ms).contains(&timestamp_ms) {
            Ok(())
        } else {
            Err(BatchError::Timestamp { timestamp_ms, earliest_ms, latest_ms })
        }
    }
}
