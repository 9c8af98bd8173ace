//! Committed offsets: OffsetCommit, OffsetFetch and OffsetDelete.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::classic::ClassicGroup;
use super::record::{self, OffsetValue};
use super::turn::{Turn, own};
use super::{GroupRecord, Groups};

/// Of one group, by topic and partition. None of the maps in it is empty.
pub(super) type GroupOffsets = BTreeMap<StrBytes, BTreeMap<i32, OffsetValue>>;

/// All of them, by group.
#[derive(Debug, Default)]
pub(super) struct Offsets(BTreeMap<StrBytes, GroupOffsets>);

impl Offsets {
    pub fn of(&self, group: &StrBytes) -> Option<&GroupOffsets> {
        self.0.get(group)
    }

    pub fn groups(&self) -> impl Iterator<Item = (&StrBytes, &GroupOffsets)> {
        self.0.iter()
    }

    pub fn count(&self) -> usize {
        self.0.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum()
    }

    fn get(&self, group: &StrBytes, topic: &StrBytes, partition: i32) -> Option<&OffsetValue> {
        self.0.get(group)?.get(topic)?.get(&partition)
    }

    pub fn put(&mut self, group: &StrBytes, topic: &StrBytes, partition: i32, value: OffsetValue) {
        // Most commits are for partitions that have one already: names are copied for the others only.
        if let Some(slot) =
            self.0.get_mut(group).and_then(|topics| topics.get_mut(topic)?.get_mut(&partition))
        {
            *slot = value;
            return;
        }
        self.0.entry(own(group)).or_default().entry(own(topic)).or_default().insert(partition, value);
    }

    pub fn remove(&mut self, group: &StrBytes, topic: &StrBytes, partition: i32) {
        let Some(topics) = self.0.get_mut(group) else { return };
        let Some(partitions) = topics.get_mut(topic) else { return };
        partitions.remove(&partition);
        if partitions.is_empty() {
            topics.remove(topic);
        }
        if topics.is_empty() {
            self.0.remove(group);
        }
    }

    /// Removes these, and writes tombstones for them.
    pub fn bury(&mut self, turn: &mut Turn<'_>, group: &StrBytes, dead: Vec<(StrBytes, i32)>) {
        for (topic, partition) in dead {
            self.remove(group, &topic, partition);
            turn.record(record::offset_key(group, &topic, partition), None);
        }
    }

    /// As [`Offsets::bury`], everything of a group.
    pub fn bury_all(&mut self, turn: &mut Turn<'_>, group: &StrBytes) {
        for (topic, partitions) in self.0.remove(group).unwrap_or_default() {
            for partition in partitions.into_keys() {
                turn.record(record::offset_key(group, &topic, partition), None);
            }
        }
    }
}

pub(super) fn commit(
    turn: &mut Turn<'_>,
    groups: &mut Groups,
    offsets: &mut Offsets,
    request: &OffsetCommitRequest,
    version: i16,
) -> OffsetCommitResponse {
    let refused = may_commit(turn, groups, request, version).err();
    let mut commits = Vec::new();
    let mut records = Vec::new();
    if refused.is_none() {
        for (topic, partition) in each_partition(request) {
            if refusal(turn, topic, partition).is_none() {
                let value = value(turn, request, partition);
                let key = record::offset_key(&request.group_id, topic, partition.partition_index);
                records.push(GroupRecord { key, value: Some(value.encode()) });
                commits.push((topic, partition.partition_index, value));
            }
        }
    }
    if !turn.fits(&records) {
        return answer(request, |_, _| Some(ResponseError::UnknownServerError));
    }
    turn.step.records.append(&mut records);
    if !commits.is_empty() && !groups.contains_key(&request.group_id.0) {
        let id = own(&request.group_id);
        groups.insert(id.clone(), ClassicGroup::new(id, turn.now_ms));
    }
    for (topic, partition, value) in commits {
        offsets.put(&request.group_id, topic, partition, value);
    }
    answer(request, |topic, partition| refused.or_else(|| refusal(turn, topic, partition)))
}

fn each_partition(
    request: &OffsetCommitRequest,
) -> impl Iterator<Item = (&TopicName, &OffsetCommitRequestPartition)> {
    request.topics.iter().flat_map(|topic| topic.partitions.iter().map(|partition| (&topic.name, partition)))
}

/// A group that is not there is one of a simple consumer, or of an administrator, if no generation is told.
fn may_commit(
    turn: &mut Turn<'_>,
    groups: &Groups,
    request: &OffsetCommitRequest,
    version: i16,
) -> Result<(), ResponseError> {
    let generation = request.generation_id_or_member_epoch;
    match groups.get(&request.group_id.0) {
        Some(group) => {
            let instance_id = request.group_instance_id.as_ref();
            group.offset_commit(turn, &request.member_id, instance_id, generation)
        }
        None if !record::writable(&request.group_id) => Err(ResponseError::InvalidGroupId),
        None if generation < 0 => Ok(()),
        None if version >= 9 => Err(ResponseError::GroupIdNotFound),
        None => Err(ResponseError::IllegalGeneration),
    }
}

/// Why one partition's offset is not committed.
fn refusal(
    turn: &Turn<'_>,
    topic: &TopicName,
    partition: &OffsetCommitRequestPartition,
) -> Option<ResponseError> {
    let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
    // Kafka counts as Java does. There are never more UTF-16 units than bytes.
    let max = turn.config.offset_metadata_max_bytes;
    if metadata.len() > max && metadata.encode_utf16().count() > max || !record::writable(metadata) {
        Some(ResponseError::OffsetMetadataTooLarge)
    } else if !record::writable(topic) {
        Some(ResponseError::InvalidTopicException)
    } else {
        None
    }
}

fn value(
    turn: &Turn<'_>,
    request: &OffsetCommitRequest,
    partition: &OffsetCommitRequestPartition,
) -> OffsetValue {
    // Only versions 2 to 4 can ask for a retention time of their own; -1 is none.
    let retention_ms = Some(request.retention_time_ms).filter(|retention_ms| *retention_ms != -1);
    let expire_timestamp_ms = retention_ms.map(|retention_ms| turn.now_ms.saturating_add(retention_ms));
    OffsetValue {
        offset: partition.committed_offset,
        // The record with an expire timestamp has no leader epoch. What the log does not tell is not known here either.
        leader_epoch: if expire_timestamp_ms.is_some() { -1 } else { partition.committed_leader_epoch },
        metadata: partition.committed_metadata.as_ref().map(own).unwrap_or_default(),
        commit_timestamp_ms: turn.now_ms,
        expire_timestamp_ms,
    }
}

fn answer(
    request: &OffsetCommitRequest,
    error: impl Fn(&TopicName, &OffsetCommitRequestPartition) -> Option<ResponseError>,
) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error(&topic.name, partition).map_or(0, |error| error.code()))
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// Offset -1 where there is none. Member and epoch are for the other kind of groups.
pub(super) fn fetch(
    groups: &Groups,
    offsets: &Offsets,
    request: &OffsetFetchRequestGroup,
) -> OffsetFetchResponseGroup {
    let id = &request.group_id.0;
    let known = groups.get(id).and_then(|_| offsets.of(id));
    let topics: Vec<_> = match (&request.topics, known) {
        (Some(topics), _) => {
            let asked = topics.iter().map(|topic| {
                let of_topic = known.and_then(|topics| topics.get(&topic.name.0));
                let partitions = topic.partition_indexes.iter();
                let found = partitions.map(|index| fetched(*index, of_topic.and_then(|of| of.get(index))));
                of_one_topic(topic.name.clone(), found.collect())
            });
            asked.collect()
        }
        (None, Some(topics)) => {
            let all = topics.iter().map(|(name, partitions)| {
                let found = partitions.iter().map(|(index, value)| fetched(*index, Some(value)));
                of_one_topic(TopicName(name.clone()), found.collect())
            });
            all.collect()
        }
        (None, None) => Vec::new(),
    };
    OffsetFetchResponseGroup::default().with_group_id(request.group_id.clone()).with_topics(topics)
}

fn of_one_topic(
    name: TopicName,
    partitions: Vec<OffsetFetchResponsePartitions>,
) -> OffsetFetchResponseTopics {
    OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions)
}

fn fetched(index: i32, value: Option<&OffsetValue>) -> OffsetFetchResponsePartitions {
    let (offset, leader_epoch, metadata) = match value {
        Some(value) => (value.offset, value.leader_epoch, value.metadata.clone()),
        None => (-1, -1, StrBytes::new()),
    };
    OffsetFetchResponsePartitions::default()
        .with_partition_index(index)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(leader_epoch)
        .with_metadata(Some(metadata))
}

pub(super) fn delete(
    turn: &mut Turn<'_>,
    groups: &Groups,
    offsets: &mut Offsets,
    request: &OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let id = &request.group_id.0;
    let group = match groups.get(id) {
        _ if id.is_empty() => Err(ResponseError::InvalidGroupId),
        None => Err(ResponseError::GroupIdNotFound),
        // Of other members than consumers it is not known which topics they use.
        Some(group) if !group.is_empty() && !group.is_of_consumers() => Err(ResponseError::NonEmptyGroup),
        Some(group) => Ok(group),
    };
    let group = match group {
        Ok(group) => group,
        Err(error) => return OffsetDeleteResponse::default().with_error_code(error.code()),
    };
    let mut dead = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let subscribed = group.is_subscribed_to(&topic.name);
        let error = if subscribed { ResponseError::GroupSubscribedToTopic.code() } else { 0 };
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let index = partition.partition_index;
            if !subscribed && offsets.get(id, &topic.name, index).is_some() {
                dead.push((topic.name.0.clone(), index));
            }
            let answer = OffsetDeleteResponsePartition::default().with_partition_index(index);
            partitions.push(answer.with_error_code(error));
        }
        let answer = OffsetDeleteResponseTopic::default().with_name(topic.name.clone());
        topics.push(answer.with_partitions(partitions));
    }
    offsets.bury(turn, id, dead);
    OffsetDeleteResponse::default().with_topics(topics)
}
