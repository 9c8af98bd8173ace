//! ConsumerGroupDescribe.

use std::borrow::Cow;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member as DescribedMember, TopicPartitions,
};
use kafka_protocol::messages::{GroupId, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::super::record::Partitions;
use super::super::turn::Turn;
use super::super::{Group, Groups};
use super::ahead::Ahead;
use super::{ConsumerGroup, Member, Refusal, heartbeat, plain};
use crate::metadata::MetadataImage;

/// Since this version the protocol of each member is told.
const WITH_MEMBER_TYPE: i16 = 1;
const CLASSIC: i8 = 0;
const CONSUMER: i8 = 1;

pub(in super::super) fn describe(
    turn: &Turn<'_>,
    groups: &Groups,
    id: GroupId,
    version: i16,
) -> DescribedGroup {
    let refused = |error: ResponseError, message: Option<String>| {
        DescribedGroup::default()
            .with_error_code(error.code())
            .with_error_message(message.map(StrBytes::from_string))
    };
    let group = match groups.get(&id.0) {
        _ if id.is_empty() => refused(ResponseError::InvalidGroupId, None),
        Some(Group::Consumer(group)) => group.described(turn, version),
        Some(Group::Classic(_)) => {
            let Refusal { error, message } = heartbeat::not_consumer(&id);
            refused(error, Some(message))
        }
        None => {
            let message = format!("Group {} not found.", id.as_str());
            refused(ResponseError::GroupIdNotFound, Some(message))
        }
    };
    group.with_group_id(id)
}

impl ConsumerGroup {
    fn described(&self, turn: &Turn<'_>, version: i16) -> DescribedGroup {
        let ahead = Ahead { group: self, without: &[], member: None, regexes: Cow::Borrowed(&self.regexes) };
        let assignor = ahead.preferred_assignor(&turn.config.consumer_assignors);
        let nothing = Partitions::new();
        let members = self.members.iter().map(|(id, member)| {
            let target = self.target.get(id).unwrap_or(&nothing);
            let described = described(turn.image, member, target).with_member_id(id.clone());
            if version >= WITH_MEMBER_TYPE {
                described.with_member_type(member.protocol())
            } else {
                described
            }
        });
        DescribedGroup::default()
            .with_group_state(StrBytes::from_static_str(self.state().name()))
            .with_group_epoch(self.epoch)
            .with_assignment_epoch(self.assignment_epoch)
            .with_assignor_name(StrBytes::from_static_str(assignor.name()))
            .with_members(members.collect())
    }
}

fn described(image: &MetadataImage, member: &Member, target: &Partitions) -> DescribedMember {
    let Member { metadata, current } = member;
    let topics = metadata.subscribed_topics.iter().map(|topic| TopicName(topic.clone()));
    DescribedMember::default()
        .with_instance_id(metadata.instance_id.clone())
        .with_rack_id(metadata.rack_id.clone())
        .with_member_epoch(current.epoch)
        .with_client_id(metadata.client_id.clone())
        .with_client_host(metadata.client_host.clone())
        .with_subscribed_topic_names(topics.collect())
        .with_subscribed_topic_regex(Some(metadata.subscribed_regex.clone()))
        .with_assignment(named(image, &plain(&current.assigned)))
        .with_target_assignment(named(image, target))
}

impl Member {
    fn protocol(&self) -> i8 {
        if self.metadata.classic.is_some() { CLASSIC } else { CONSUMER }
    }
}

/// Topics that are gone have no names any more.
fn named(image: &MetadataImage, partitions: &Partitions) -> Assignment {
    let topics = partitions.iter().filter_map(|(id, partitions)| {
        let topic = image.topic_by_id(*id)?;
        Some(
            TopicPartitions::default()
                .with_topic_id(id.0)
                .with_topic_name(TopicName(StrBytes::from_string(topic.name.to_string())))
                .with_partitions(partitions.iter().copied().collect()),
        )
    });
    Assignment::default().with_topic_partitions(topics.collect())
}
