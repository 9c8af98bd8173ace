//! What can be wrong with a record batch, and the Kafka error each refusal is answered with.
//!
//! The codes are those that Apache Kafka 4.3.1 answered to the same bytes; where we are stricter, the variant
//! says so.

use thiserror::Error;

use super::header::Compression;

const CORRUPT_MESSAGE: i16 = 2;
const MESSAGE_TOO_LARGE: i16 = 10;
const INVALID_TIMESTAMP: i16 = 32;
const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
const INVALID_RECORD: i16 = 87;

/// Why bytes are not an acceptable record batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Fewer bytes than the header, or than the batch's own length. At the end of a fetched or recovered
    /// stretch this is a batch cut short, not damage.
    #[error("the record batch is cut short: {have} of {want} bytes")]
    Truncated { have: usize, want: usize },
    /// Magic 0 or 1. Kafka 4 answers INVALID_RECORD since Produce version 3.
    #[error("record batches of magic {0} are not accepted, only magic 2")]
    OldMagic(i8),
    /// A magic nobody has defined.
    #[error("unknown record batch magic {0}")]
    UnknownMagic(i8),
    /// The length field is smaller than a header, or the CRC did not even cover one.
    #[error("impossible record batch length {0}")]
    Length(i32),
    /// The CRC32C does not match the bytes.
    #[error("record batch checksum {stored:#010x} does not match its bytes ({computed:#010x})")]
    Checksum { stored: u32, computed: u32 },
    /// Larger than `max.message.bytes`.
    #[error("the record batch has {size} bytes, max.message.bytes is {max}")]
    TooLarge { size: usize, max: usize },
    /// More than one batch, or bytes behind it. Kafka drops a behind-lying fragment; we refuse it.
    #[error("{0} bytes follow the one record batch that a partition's produce data may hold")]
    TrailingBytes(usize),
    /// A producer numbers from 0; offsets are the broker's to assign.
    #[error("the base offset of a produced batch must be 0, not {0}")]
    BaseOffset(i64),
    /// No records, or offsets that do not fit their number.
    #[error("record count {count} and last offset delta {last_offset_delta} do not agree")]
    Count { count: i32, last_offset_delta: i32 },
    /// Commit and abort markers are written by coordinators only.
    #[error("clients may not write control batches")]
    Control,
    /// Codec 5, 6 or 7. Kafka's server trips over them (UNKNOWN_SERVER_ERROR).
    #[error("unknown compression codec {0}")]
    Compression(u8),
    /// The records are compressed and were to be read as they lie.
    #[error("the records are compressed")]
    Compressed,
    /// The records are not what the attributes say they are compressed with. Kafka's attempt to open them fails on the
    /// server (UNKNOWN_SERVER_ERROR).
    #[error("the records are not compressed with {0:?}, as the attributes say")]
    NotOfCodec(Compression),
    /// A producer id without a sequence, or a transactional batch without a producer id.
    #[error("producer id {id}, epoch {epoch} and sequence {sequence} do not make sense together")]
    Producer { id: i64, epoch: i16, sequence: i32 },
    /// The producer marked its batch as stamped by the broker, and the topic is one where the broker does that.
    #[error("a producer may not set the timestamp type LogAppendTime")]
    TimestampType,
    /// A record's time lies outside `message.timestamp.before.max.ms` or `.after.max.ms`.
    #[error("timestamp {timestamp_ms} is outside of {earliest_ms} to {latest_ms}")]
    Timestamp { timestamp_ms: i64, earliest_ms: i64, latest_ms: i64 },
    /// A compacted topic takes no records without a key.
    #[error("record {0} has no key, and the topic is compacted")]
    NoKey(i32),
    /// A record inside the batch is malformed.
    #[error("record {index}: {error}")]
    Record { index: i32, error: RecordError },
}

/// Why a record inside an uncompressed batch is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// A length or a number leads beyond the batch.
    #[error("reaches beyond its batch")]
    OutOfBounds,
    /// A variable-length integer longer than its type.
    #[error("has an overlong varint")]
    Varint,
    /// A length below -1 (which means null), or a null header key.
    #[error("has the impossible length {0}")]
    Length(i32),
    /// The record's length field and its fields disagree.
    #[error("has {0} bytes more than its fields")]
    Excess(usize),
    /// Offsets in a produced batch go 0, 1, 2, … (invariant 9). Kafka renumbers compressed batches only.
    #[error("has offset delta {0} out of its turn")]
    OffsetDelta(i32),
    /// The batch's base timestamp plus the record's delta is no number.
    #[error("has an impossible timestamp")]
    Timestamp,
}

impl BatchError {
    /// Whether the bytes are not even one batch of magic 2: a request with those is refused before a log is asked.
    pub fn is_of_request(&self) -> bool {
        matches!(self, BatchError::Truncated { .. } | BatchError::OldMagic(_) | BatchError::TrailingBytes(_))
    }

    /// Kafka's error code for a produce request with such a batch.
    pub fn kafka_code(&self) -> i16 {
        match self {
            BatchError::UnknownMagic(_) | BatchError::Length(_) | BatchError::Checksum { .. } => {
                CORRUPT_MESSAGE
            }
            BatchError::TooLarge { .. } => MESSAGE_TOO_LARGE,
            BatchError::Compression(_) => UNSUPPORTED_COMPRESSION_TYPE,
            BatchError::TimestampType | BatchError::Timestamp { .. } => INVALID_TIMESTAMP,
            BatchError::Truncated { .. }
            | BatchError::OldMagic(_)
            | BatchError::TrailingBytes(_)
            | BatchError::BaseOffset(_)
            | BatchError::Count { .. }
            | BatchError::Control
            | BatchError::Compressed
            | BatchError::NotOfCodec(_)
            | BatchError::Producer { .. }
            | BatchError::NoKey(_)
            | BatchError::Record { .. } => INVALID_RECORD,
        }
    }
}
