//! `ConsumerGroupTargetAssignmentMemberValue` and `ConsumerGroupCurrentMemberAssignmentValue`: which partitions a member
//! shall have, and which it has.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::super::RecordError;
use super::VERSION;
use crate::coordinator::{Reader, Writer};
use crate::ids::TopicId;

/// By topic. None of the sets is empty.
pub(in super::super::super) type Partitions = BTreeMap<TopicId, BTreeSet<i32>>;

/// By topic and partition: the epoch in which the member got it (KIP-1251). None of the inner maps is empty.
pub(in super::super::super) type PartitionEpochs = BTreeMap<TopicId, BTreeMap<i32, i32>>;

/// How far a member is on its way to its target, by Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super::super) enum MemberState {
    /// It has what it shall have.
    Stable,
    /// It is to give up partitions.
    UnrevokedPartitions,
    /// It waits for others to give up partitions.
    UnreleasedPartitions,
    /// Of a later version of Kafka.
    Unknown,
}

/// The member's own part of the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super::super) struct CurrentValue {
    /// What the member is to say in its next heartbeat. -2: a static member that has left for a while.
    pub epoch: i32,
    /// What it says if the answer that told the epoch was lost.
    pub previous_epoch: i32,
    pub state: MemberState,
    pub assigned: PartitionEpochs,
    pub pending_revocation: PartitionEpochs,
}

impl Default for CurrentValue {
    /// Nobody has heard of it yet.
    fn default() -> CurrentValue {
        CurrentValue {
            epoch: 0,
            previous_epoch: -1,
            state: MemberState::Stable,
            assigned: PartitionEpochs::new(),
            pending_revocation: PartitionEpochs::new(),
        }
    }
}

impl MemberState {
    fn number(self) -> i8 {
        match self {
            MemberState::Stable => 0,
            MemberState::UnrevokedPartitions => 1,
            MemberState::UnreleasedPartitions => 2,
            MemberState::Unknown => 127,
        }
    }

    fn of(number: i8) -> MemberState {
        match number {
            0 => MemberState::Stable,
            1 => MemberState::UnrevokedPartitions,
            2 => MemberState::UnreleasedPartitions,
            _ => MemberState::Unknown,
        }
    }
}

impl CurrentValue {
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(VERSION);
        writer.i32(self.epoch);
        writer.i32(self.previous_epoch);
        writer.i8(self.state.number());
        encode_epochs(&mut writer, &self.assigned);
        encode_epochs(&mut writer, &self.pending_revocation);
        writer.tagged(&[]);
        writer.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<CurrentValue, RecordError> {
        let mut reader = Reader::new(bytes);
        reader.version("ConsumerGroupCurrentMemberAssignmentValue", VERSION..=VERSION, VERSION)?;
        let epoch = reader.i32()?;
        let value = CurrentValue {
            epoch,
            previous_epoch: reader.i32()?,
            state: MemberState::of(reader.i8()?),
            assigned: decode_epochs(&mut reader, epoch)?,
            pending_revocation: decode_epochs(&mut reader, epoch)?,
        };
        reader.tags()?;
        Ok(value)
    }
}

fn encode_epochs(writer: &mut Writer, topics: &PartitionEpochs) {
    writer.compact_array(topics.len());
    for (topic, partitions) in topics {
        writer.uuid(topic.0);
        writer.compact_array(partitions.len());
        for partition in partitions.keys() {
            writer.i32(*partition);
        }
        let mut epochs = Writer::inner();
        epochs.compact_array(partitions.len());
        for epoch in partitions.values() {
            epochs.i32(*epoch);
        }
        writer.tagged(&[(0, &epochs.finish())]);
    }
}

/// What Kafka wrote before 4.3 has no epochs: then it is the member's. So it is if they are not as many as the partitions.
fn decode_epochs(reader: &mut Reader<'_>, member_epoch: i32) -> Result<PartitionEpochs, RecordError> {
    let mut topics = PartitionEpochs::new();
    for _ in 0..reader.array()? {
        let topic = TopicId(reader.uuid()?);
        let partitions = decode_ints(reader)?;
        let mut epochs = None;
        reader.tagged(|tag, field| {
            if tag == 0 {
                epochs = decode_ints_or_null(field)?;
            }
            Ok(())
        })?;
        let told = epochs.filter(|epochs: &Vec<i32>| epochs.len() == partitions.len());
        let epochs = told.unwrap_or_else(|| vec![member_epoch.max(0); partitions.len()]);
        if !partitions.is_empty() {
            topics.entry(topic).or_default().extend(partitions.into_iter().zip(epochs));
        }
    }
    Ok(topics)
}

fn decode_ints(reader: &mut Reader<'_>) -> Result<Vec<i32>, RecordError> {
    decode_ints_or_null(reader)?.ok_or(RecordError::Malformed)
}

fn decode_ints_or_null(reader: &mut Reader<'_>) -> Result<Option<Vec<i32>>, RecordError> {
    let Some(length) = reader.array_or_null()? else { return Ok(None) };
    let mut ints = Vec::new();
    for _ in 0..length {
        ints.push(reader.i32()?);
    }
    Ok(Some(ints))
}

pub(super) fn encode_target(topics: &Partitions) -> Bytes {
    let mut writer = Writer::new(VERSION);
    writer.compact_array(topics.len());
    for (topic, partitions) in topics {
        writer.uuid(topic.0);
        writer.compact_array(partitions.len());
        for partition in partitions {
            writer.i32(*partition);
        }
        writer.tagged(&[]);
    }
    writer.tagged(&[]);
    writer.finish()
}

pub(super) fn decode_target(bytes: &[u8]) -> Result<Partitions, RecordError> {
    let mut reader = Reader::new(bytes);
    reader.version("ConsumerGroupTargetAssignmentMemberValue", VERSION..=VERSION, VERSION)?;
    let mut topics = Partitions::new();
    for _ in 0..reader.array()? {
        let topic = TopicId(reader.uuid()?);
        let partitions = decode_ints(&mut reader)?;
        reader.tags()?;
        if !partitions.is_empty() {
            topics.entry(topic).or_default().extend(partitions);
        }
    }
    reader.tags()?;
    Ok(topics)
}
