//! OffsetFetch and OffsetDelete.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::super::turn::Turn;
use super::super::{Group, Groups};
use super::{Committed, Offsets};

/// Offset -1 where there is none. Member and epoch are for groups of the consumer protocol. Who asks for what is `stable` is told
/// to ask again where a transaction may change it (KIP-447).
pub(in super::super) fn fetch(
    groups: &Groups,
    offsets: &Offsets,
    request: &OffsetFetchRequestGroup,
    stable: bool,
) -> OffsetFetchResponseGroup {
    let id = &request.group_id.0;
    if let Some(Group::Consumer(group)) = groups.get(id)
        && let Err(error) = group.offset_fetch(request.member_id.as_ref(), request.member_epoch)
    {
        let refused = OffsetFetchResponseGroup::default().with_group_id(request.group_id.clone());
        return refused.with_error_code(error.code());
    }
    let known = groups.get(id).and_then(|_| offsets.of(id));
    let fetched = |topic: &StrBytes, index: i32, committed: Option<&Committed>| {
        if stable && offsets.is_pending(id, topic, index) {
            fetched(index, None).with_error_code(ResponseError::UnstableOffsetCommit.code())
        } else {
            fetched(index, committed)
        }
    };
    let topics: Vec<_> = match (&request.topics, known) {
        (Some(topics), _) => {
            let asked = topics.iter().map(|topic| {
                let of_topic = known.and_then(|topics| topics.get(&topic.name.0));
                let partitions = topic.partition_indexes.iter();
                let found = partitions
                    .map(|index| fetched(&topic.name.0, *index, of_topic.and_then(|of| of.get(index))));
                of_one_topic(topic.name.clone(), found.collect())
            });
            asked.collect()
        }
        (None, Some(topics)) => {
            let all = topics.iter().map(|(name, partitions)| {
                let found = partitions.iter().map(|(index, value)| fetched(name, *index, Some(value)));
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

fn fetched(index: i32, committed: Option<&Committed>) -> OffsetFetchResponsePartitions {
    let (offset, leader_epoch, metadata) = match committed {
        Some(Committed { value, .. }) => (value.offset, value.leader_epoch, value.metadata.clone()),
        None => (-1, -1, StrBytes::new()),
    };
    OffsetFetchResponsePartitions::default()
        .with_partition_index(index)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(leader_epoch)
        .with_metadata(Some(metadata))
}

/// OffsetDelete.
pub(in super::super) fn delete(
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
        Some(Group::Classic(group)) if !group.is_empty() && !group.is_of_consumers() => {
            Err(ResponseError::NonEmptyGroup)
        }
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
            if !subscribed && offsets.has(id, &topic.name, index) {
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
