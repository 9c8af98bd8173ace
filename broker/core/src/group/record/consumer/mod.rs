//! The records of groups of the consumer protocol (KIP-848). What such a group does, it does by them: they are written, and
//! applied to the group, when they are made as when they are read.

mod assignment;
mod member;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

pub(in super::super) use assignment::{CurrentValue, MemberState, PartitionEpochs, Partitions};
pub(in super::super) use member::{ClassicValue, MemberValue};

use super::super::{GroupRecord, RecordError};
use crate::coordinator::{Reader, Writer};

/// The only version of all these values.
const VERSION: i16 = 0;

/// `ConsumerGroupMetadataKey`
const EPOCH: i16 = 3;
/// `ConsumerGroupPartitionMetadataKey`
const PARTITION_METADATA: i16 = 4;
/// `ConsumerGroupMemberMetadataKey`
const MEMBER: i16 = 5;
/// `ConsumerGroupTargetAssignmentMetadataKey`
const TARGET_EPOCH: i16 = 6;
/// `ConsumerGroupTargetAssignmentMemberKey`
const TARGET: i16 = 7;
/// `ConsumerGroupCurrentMemberAssignmentKey`
const CURRENT: i16 = 8;
/// `ConsumerGroupRegularExpressionKey`
const REGEX: i16 = 16;

/// What a record of a group is about. Member ids, and the regular expression, are part of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum ConsumerKey {
    Epoch,
    PartitionMetadata,
    Member(StrBytes),
    TargetEpoch,
    Target(StrBytes),
    Current(StrBytes),
    Regex(StrBytes),
}

/// What a record says; without a value it is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum ConsumerRecord {
    Epoch(Option<EpochValue>),
    /// Whether there is one. Kafka before 4.1 wrote what it knew of partitions; now the hash tells.
    PartitionMetadata(bool),
    Member(StrBytes, Option<MemberValue>),
    TargetEpoch(Option<TargetEpochValue>),
    Target(StrBytes, Option<Partitions>),
    Current(StrBytes, Option<CurrentValue>),
    Regex(StrBytes, Option<RegexValue>),
}

/// `ConsumerGroupMetadataValue`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct EpochValue {
    pub epoch: i32,
    /// Of what the group knows of the topics it is subscribed to. 0 if it is subscribed to none.
    pub metadata_hash: i64,
}

/// `ConsumerGroupTargetAssignmentMetadataValue`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct TargetEpochValue {
    pub epoch: i32,
    /// When it was made, ms since 1970. 0 if it is not known.
    pub timestamp_ms: i64,
}

/// `ConsumerGroupRegularExpressionValue`: the topics that match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct RegexValue {
    pub topics: BTreeSet<StrBytes>,
    /// Of the metadata that was looked at.
    pub version: i64,
    pub timestamp_ms: i64,
}

impl ConsumerKey {
    /// After the version, which tells the kind.
    pub fn decode(kind: i16, reader: &mut Reader<'_>) -> Result<(StrBytes, ConsumerKey), RecordError> {
        let group = reader.string()?;
        let key = match kind {
            EPOCH => ConsumerKey::Epoch,
            PARTITION_METADATA => ConsumerKey::PartitionMetadata,
            MEMBER => ConsumerKey::Member(reader.string()?),
            TARGET_EPOCH => ConsumerKey::TargetEpoch,
            TARGET => ConsumerKey::Target(reader.string()?),
            CURRENT => ConsumerKey::Current(reader.string()?),
            REGEX => ConsumerKey::Regex(reader.string()?),
            version => return Err(RecordError::Version { what: "a key", version }),
        };
        Ok((group, key))
    }
}

impl ConsumerRecord {
    pub fn decode(key: ConsumerKey, value: Option<&[u8]>) -> Result<ConsumerRecord, RecordError> {
        Ok(match key {
            ConsumerKey::Epoch => ConsumerRecord::Epoch(value.map(EpochValue::decode).transpose()?),
            ConsumerKey::PartitionMetadata => ConsumerRecord::PartitionMetadata(value.is_some()),
            ConsumerKey::Member(id) => {
                ConsumerRecord::Member(id, value.map(MemberValue::decode).transpose()?)
            }
            ConsumerKey::TargetEpoch => {
                ConsumerRecord::TargetEpoch(value.map(TargetEpochValue::decode).transpose()?)
            }
            ConsumerKey::Target(id) => {
                ConsumerRecord::Target(id, value.map(assignment::decode_target).transpose()?)
            }
            ConsumerKey::Current(id) => {
                ConsumerRecord::Current(id, value.map(CurrentValue::decode).transpose()?)
            }
            ConsumerKey::Regex(regex) => {
                ConsumerRecord::Regex(regex, value.map(RegexValue::decode).transpose()?)
            }
        })
    }

    pub fn encode(&self, group: &str) -> GroupRecord {
        let (kind, detail) = match self {
            ConsumerRecord::Epoch(_) => (EPOCH, None),
            ConsumerRecord::PartitionMetadata(_) => (PARTITION_METADATA, None),
            ConsumerRecord::Member(id, _) => (MEMBER, Some(id)),
            ConsumerRecord::TargetEpoch(_) => (TARGET_EPOCH, None),
            ConsumerRecord::Target(id, _) => (TARGET, Some(id)),
            ConsumerRecord::Current(id, _) => (CURRENT, Some(id)),
            ConsumerRecord::Regex(regex, _) => (REGEX, Some(regex)),
        };
        let mut key = Writer::new(kind);
        key.string(group);
        if let Some(detail) = detail {
            key.string(detail);
        }
        let value = match self {
            ConsumerRecord::Epoch(value) => value.as_ref().map(EpochValue::encode),
            // There is no reason to write one.
            ConsumerRecord::PartitionMetadata(_) => None,
            ConsumerRecord::Member(_, value) => value.as_ref().map(MemberValue::encode),
            ConsumerRecord::TargetEpoch(value) => value.as_ref().map(TargetEpochValue::encode),
            ConsumerRecord::Target(_, value) => value.as_ref().map(assignment::encode_target),
            ConsumerRecord::Current(_, value) => value.as_ref().map(CurrentValue::encode),
            ConsumerRecord::Regex(_, value) => value.as_ref().map(RegexValue::encode),
        };
        GroupRecord { key: key.finish(), value }
    }
}

/// The only tagged field, number 0. Its default, 0, is not written.
fn tagged_or_0(writer: &mut Writer, value: i64) {
    match value {
        0 => writer.tagged(&[]),
        value => writer.tagged(&[(0, &value.to_be_bytes())]),
    }
}

impl EpochValue {
    fn encode(&self) -> Bytes {
        let mut writer = Writer::new(VERSION);
        writer.i32(self.epoch);
        tagged_or_0(&mut writer, self.metadata_hash);
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Result<EpochValue, RecordError> {
        let mut reader = Reader::new(bytes);
        reader.version("ConsumerGroupMetadataValue", VERSION..=VERSION, VERSION)?;
        let mut value = EpochValue { epoch: reader.i32()?, metadata_hash: 0 };
        reader.tagged(|tag, field| {
            if tag == 0 {
                value.metadata_hash = field.i64()?;
            }
            Ok(())
        })?;
        Ok(value)
    }
}

impl TargetEpochValue {
    fn encode(&self) -> Bytes {
        let mut writer = Writer::new(VERSION);
        writer.i32(self.epoch);
        tagged_or_0(&mut writer, self.timestamp_ms);
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Result<TargetEpochValue, RecordError> {
        let mut reader = Reader::new(bytes);
        reader.version("ConsumerGroupTargetAssignmentMetadataValue", VERSION..=VERSION, VERSION)?;
        let mut value = TargetEpochValue { epoch: reader.i32()?, timestamp_ms: 0 };
        reader.tagged(|tag, field| {
            if tag == 0 {
                value.timestamp_ms = field.i64()?;
            }
            Ok(())
        })?;
        Ok(value)
    }
}

impl RegexValue {
    fn encode(&self) -> Bytes {
        let mut writer = Writer::new(VERSION);
        writer.compact_array(self.topics.len());
        for topic in &self.topics {
            writer.compact_string(topic);
        }
        writer.i64(self.version);
        writer.i64(self.timestamp_ms);
        writer.tagged(&[]);
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Result<RegexValue, RecordError> {
        let mut reader = Reader::new(bytes);
        reader.version("ConsumerGroupRegularExpressionValue", VERSION..=VERSION, VERSION)?;
        let mut topics = BTreeSet::new();
        for _ in 0..reader.array()? {
            topics.insert(reader.string()?);
        }
        let value = RegexValue { topics, version: reader.i64()?, timestamp_ms: reader.i64()? };
        reader.tags()?;
        Ok(value)
    }
}
