//! `OffsetCommitValue`: a committed offset, on the disk and in memory.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use super::super::RecordError;
use crate::coordinator::{Reader, Writer};

/// "None" of timestamps.
const NO_TIMESTAMP: i64 = -1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct OffsetValue {
    pub offset: i64,
    /// -1 if the client told none.
    pub leader_epoch: i32,
    pub metadata: StrBytes,
    pub commit_timestamp_ms: i64,
    /// When it expires whatever the group does: OffsetCommit below version 5 could ask for that.
    pub expire_timestamp_ms: Option<i64>,
}

impl OffsetValue {
    /// Version 3, as Kafka: the last one that is not flexible. Only version 1 has the expire timestamp, and it has
    /// no leader epoch.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(if self.expire_timestamp_ms.is_some() { 1 } else { 3 });
        writer.i64(self.offset);
        if self.expire_timestamp_ms.is_none() {
            writer.i32(self.leader_epoch);
        }
        writer.string(&self.metadata);
        writer.i64(self.commit_timestamp_ms);
        if let Some(at_ms) = self.expire_timestamp_ms {
            writer.i64(at_ms);
        }
        writer.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<OffsetValue, RecordError> {
        let mut reader = Reader::new(bytes);
        let version = reader.version("OffsetCommitValue", 0..=4, 4)?;
        let offset = reader.i64()?;
        let leader_epoch = if version >= 3 { reader.i32()? } else { -1 };
        let metadata = reader.string()?;
        let commit_timestamp_ms = reader.i64()?;
        let expires = if version == 1 { reader.i64()? } else { NO_TIMESTAMP };
        let expire_timestamp_ms = (expires != NO_TIMESTAMP).then_some(expires);
        reader.tags()?;
        Ok(OffsetValue { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms })
    }
}
