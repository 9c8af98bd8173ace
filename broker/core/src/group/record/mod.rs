//! The records of `__consumer_offsets`, in the versions that Kafka 4.3 writes, and read in every one that it reads
//! (`group-coordinator/src/main/resources/common/message`). A key's version tells what it is the key of.

mod consumer;
mod group;
mod offset;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

pub(super) use crate::coordinator::{Reader, writable};
pub(super) use consumer::{
    ClassicValue, ConsumerKey, ConsumerRecord, CurrentValue, EpochValue, MemberState,
    MemberValue as ConsumerMemberValue, PartitionEpochs, Partitions, RegexValue, TargetEpochValue,
};
pub(super) use group::{GroupValue, MemberValue};
pub(super) use offset::OffsetValue;

use super::RecordError;
use crate::coordinator::Writer;

/// `OffsetCommitKey`. Its version 0, the legacy one, has the same fields.
const OFFSET_KEY: i16 = 1;
/// `GroupMetadataKey`.
const GROUP_KEY: i16 = 2;

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Offset {
        group: StrBytes,
        topic: StrBytes,
        partition: i32,
    },
    Group(StrBytes),
    /// Of a group of the consumer protocol.
    Consumer(StrBytes, ConsumerKey),
}

impl Key {
    pub fn decode(bytes: &[u8]) -> Result<Key, RecordError> {
        let mut reader = Reader::new(bytes);
        match reader.version("a key", 0..=i16::MAX, i16::MAX)? {
            0 | OFFSET_KEY => {
                Ok(Key::Offset { group: reader.string()?, topic: reader.string()?, partition: reader.i32()? })
            }
            GROUP_KEY => Ok(Key::Group(reader.string()?)),
            kind => {
                let (group, key) = ConsumerKey::decode(kind, &mut reader)?;
                Ok(Key::Consumer(group, key))
            }
        }
    }
}

pub(super) fn offset_key(group: &str, topic: &str, partition: i32) -> Bytes {
    let mut writer = Writer::new(OFFSET_KEY);
    writer.string(group);
    writer.string(topic);
    writer.i32(partition);
    writer.finish()
}

pub(super) fn group_key(group: &str) -> Bytes {
    let mut writer = Writer::new(GROUP_KEY);
    writer.string(group);
    writer.finish()
}
