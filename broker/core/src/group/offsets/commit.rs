//! OffsetCommit, and TxnOffsetCommit: the same within a producer's transaction.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestTopic;
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, TopicName, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::super::classic::ClassicGroup;
use super::super::consumer::CommitCheck;
use super::super::record::{self, OffsetValue};
use super::super::turn::{Turn, own};
use super::super::{Group, GroupRecord, Groups};
use super::Offsets;
use crate::ids::{ProducerEpoch, ProducerId};

type Result<T> = std::result::Result<T, ResponseError>;

/// What is committed, and how.
struct Commit<'a> {
    group: &'a StrBytes,
    /// Whose transaction it belongs to.
    producer: Option<ProducerId>,
    expire_timestamp_ms: Option<i64>,
    topics: &'a [OffsetCommitRequestTopic],
}

/// OffsetCommit.
pub(in super::super) fn commit(
    turn: &mut Turn<'_>,
    groups: &mut Groups,
    offsets: &mut Offsets,
    request: &OffsetCommitRequest,
    version: i16,
) -> OffsetCommitResponse {
    let allowed = may_commit(turn, groups, request, version);
    // Only versions 2 to 4 can ask for a retention time of their own; -1 is none.
    let retention_ms = Some(request.retention_time_ms).filter(|retention_ms| *retention_ms != -1);
    let commit = Commit {
        group: &request.group_id,
        producer: None,
        expire_timestamp_ms: retention_ms.map(|retention_ms| turn.now_ms.saturating_add(retention_ms)),
        topics: &request.topics,
    };
    let stored = allowed.and_then(|()| commit.store(turn, groups, offsets));
    OffsetCommitResponse::default().with_topics(commit.answer(turn, stored.err()))
}

/// A group that is not there is one of a simple consumer, or of an administrator, if no generation is told.
fn may_commit(
    turn: &mut Turn<'_>,
    groups: &Groups,
    request: &OffsetCommitRequest,
    version: i16,
) -> Result<()> {
    let generation = request.generation_id_or_member_epoch;
    let instance_id = request.group_instance_id.as_ref();
    match groups.get(&request.group_id.0) {
        Some(Group::Classic(group)) => group.offset_commit(turn, &request.member_id, instance_id, generation),
        Some(Group::Consumer(group)) => {
            let check = group.offset_commit(&request.member_id, instance_id, generation, Some(version))?;
            check_all(turn, &check, &request.topics)
        }
        None if !record::writable(&request.group_id) => Err(ResponseError::InvalidGroupId),
        None if generation < 0 => Ok(()),
        None if version >= 9 => Err(ResponseError::GroupIdNotFound),
        None => Err(ResponseError::IllegalGeneration),
    }
}

/// One partition that the member may not commit is enough to refuse all.
fn check_all(turn: &Turn<'_>, check: &CommitCheck<'_>, topics: &[OffsetCommitRequestTopic]) -> Result<()> {
    let mut all =
        topics.iter().flat_map(|topic| topic.partitions.iter().map(|p| (&topic.name, p.partition_index)));
    all.try_for_each(|(topic, partition)| check.check(turn.image, topic, partition))
}

/// TxnOffsetCommit: what it commits is pending until the transaction ends. Whether the producer is in a transaction, and this
/// partition in it, has been asked before.
pub(in super::super) fn commit_in_transaction(
    turn: &mut Turn<'_>,
    groups: &mut Groups,
    offsets: &mut Offsets,
    request: &TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    let producer = ProducerId(request.producer_id.0);
    let topics: Vec<_> = request.topics.iter().map(plain).collect();
    let commit = Commit {
        group: &request.group_id,
        producer: Some(producer),
        expire_timestamp_ms: None,
        topics: &topics,
    };
    let allowed = may_commit_in_transaction(turn, groups, request, &topics);
    let stored = allowed.and_then(|()| commit.store(turn, groups, offsets));
    if !turn.step.records.is_empty() {
        turn.step.producer = Some((producer, ProducerEpoch(request.producer_epoch)));
    }
    let answer = commit.answer(turn, stored.err()).into_iter().map(transactional);
    TxnOffsetCommitResponse::default().with_topics(answer.collect())
}

fn may_commit_in_transaction(
    turn: &Turn<'_>,
    groups: &Groups,
    request: &TxnOffsetCommitRequest,
    topics: &[OffsetCommitRequestTopic],
) -> Result<()> {
    if request.group_id.is_empty() || !record::writable(&request.group_id) {
        return Err(ResponseError::InvalidGroupId);
    }
    let (generation, instance_id) = (request.generation_id, request.group_instance_id.as_ref());
    match groups.get(&request.group_id.0) {
        Some(Group::Classic(group)) => group.txn_offset_commit(&request.member_id, instance_id, generation),
        Some(Group::Consumer(group)) => {
            let check = group.offset_commit(&request.member_id, instance_id, generation, None)?;
            check_all(turn, &check, topics)
        }
        None if generation < 0 => Ok(()),
        None => Err(ResponseError::IllegalGeneration),
    }
}

/// As OffsetCommit says it.
fn plain(topic: &TxnOffsetCommitRequestTopic) -> OffsetCommitRequestTopic {
    let partitions = topic.partitions.iter().map(|partition| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(partition.partition_index)
            .with_committed_offset(partition.committed_offset)
            .with_committed_leader_epoch(partition.committed_leader_epoch)
            .with_committed_metadata(partition.committed_metadata.clone())
    });
    OffsetCommitRequestTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
}

fn transactional(topic: OffsetCommitResponseTopic) -> TxnOffsetCommitResponseTopic {
    let partitions = topic.partitions.into_iter().map(|partition| {
        TxnOffsetCommitResponsePartition::default()
            .with_partition_index(partition.partition_index)
            .with_error_code(partition.error_code)
    });
    TxnOffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
}

impl Commit<'_> {
    fn each(&self) -> impl Iterator<Item = (&TopicName, &OffsetCommitRequestPartition)> {
        self.topics.iter().flat_map(|topic| topic.partitions.iter().map(|partition| (&topic.name, partition)))
    }

    /// Commits what can be, as one batch; the group is made if it is not there.
    fn store(&self, turn: &mut Turn<'_>, groups: &mut Groups, offsets: &mut Offsets) -> Result<()> {
        let mut values = Vec::new();
        let mut records = Vec::new();
        for (topic, partition) in self.each() {
            if refusal(turn, topic, partition).is_none() {
                let value = self.value(turn, partition);
                let key = record::offset_key(self.group, topic, partition.partition_index);
                records.push(GroupRecord { key, value: Some(value.encode()) });
                values.push((topic, partition.partition_index, value));
            }
        }
        if !turn.fits(&records) {
            return Err(ResponseError::UnknownServerError);
        }
        turn.step.records.append(&mut records);
        if !values.is_empty() && !groups.contains_key(self.group) {
            let id = own(self.group);
            groups.insert(id.clone(), Group::Classic(ClassicGroup::new(id, turn.now_ms)));
        }
        for (topic, partition, value) in values {
            offsets.put(self.producer, self.group, topic, partition, value);
        }
        Ok(())
    }

    fn value(&self, turn: &Turn<'_>, partition: &OffsetCommitRequestPartition) -> OffsetValue {
        let expires = self.expire_timestamp_ms.is_some();
        OffsetValue {
            offset: partition.committed_offset,
            // The record with an expire timestamp has no leader epoch. What the log does not tell is not known here either.
            leader_epoch: if expires { -1 } else { partition.committed_leader_epoch },
            metadata: partition.committed_metadata.as_ref().map(own).unwrap_or_default(),
            commit_timestamp_ms: turn.now_ms,
            expire_timestamp_ms: self.expire_timestamp_ms,
        }
    }

    /// `refused`: why nothing was committed.
    fn answer(&self, turn: &Turn<'_>, refused: Option<ResponseError>) -> Vec<OffsetCommitResponseTopic> {
        let topics = self.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let error = refused.or_else(|| refusal(turn, &topic.name, partition));
                OffsetCommitResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(error.map_or(0, |error| error.code()))
            });
            OffsetCommitResponseTopic::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect())
        });
        topics.collect()
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
