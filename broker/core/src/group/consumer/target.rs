//! A group's target: who shall have what (Kafka's `TargetAssignmentBuilder`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use kafka_protocol::protocol::StrBytes;

use super::super::config::AssignorKind;
use super::super::record::{ConsumerRecord, Partitions, TargetEpochValue};
use super::ConsumerGroup;
use super::ahead::{Ahead, topic_ids_of};
use super::assignor::{Problem, Subscriber};
use crate::ids::TopicId;
use crate::metadata::MetadataImage;

static NOTHING: Partitions = Partitions::new();

/// The target of one member, and its epoch.
pub(super) struct Target<'a> {
    pub epoch: i32,
    pub partitions: Cow<'a, Partitions>,
}

impl ConsumerGroup {
    /// What a member shall have of the target that there is. A static member takes over what its predecessor had.
    fn target_partitions(&self, id: &StrBytes, instance_id: Option<&StrBytes>) -> &Partitions {
        let of = match instance_id {
            Some(instance_id) => self.static_members.get(instance_id),
            None => Some(id),
        };
        of.and_then(|id| self.target.get(id)).unwrap_or(&NOTHING)
    }

    pub(super) fn target_of(&self, id: &StrBytes, instance_id: Option<&StrBytes>) -> Target<'_> {
        let partitions = Cow::Borrowed(self.target_partitions(id, instance_id));
        Target { epoch: self.assignment_epoch, partitions }
    }

    /// Whether it is time for a new target (KIP-1263).
    pub(super) fn may_assign(&self, now_ms: i64, interval_ms: i32) -> bool {
        now_ms.saturating_sub(self.assignment_ms) >= i64::from(interval_ms) || now_ms < self.assignment_ms
    }
}

/// A new target. The records of those whose target changes come first; returned is that of the changed member.
pub(super) fn assign(
    ahead: &Ahead<'_>,
    (epoch, now_ms): (i32, i64),
    assignors: &[AssignorKind],
    image: &MetadataImage,
    records: &mut Vec<ConsumerRecord>,
) -> Target<'static> {
    let group = ahead.group;
    let mut topics: BTreeMap<TopicId, i32> = BTreeMap::new();
    let subscribers = ahead.members().map(|(id, member)| {
        let subscribed = topic_ids_of(member, &ahead.regexes, image);
        for topic in &subscribed {
            if !topics.contains_key(topic)
                && let Some(known) = image.topic_by_id(*topic)
            {
                topics.insert(*topic, known.partitions.len() as i32);
            }
        }
        let instance_id = member.instance_id.as_ref();
        let has = group.target_partitions(id, instance_id);
        Subscriber { id, instance_id, topics: subscribed, has }
    });
    let subscribers: Vec<_> = subscribers.collect();
    let problem = Problem { subscribers, topics };
    let shares = problem.solve(ahead.preferred_assignor(assignors));
    let mut target = Target { epoch, partitions: Cow::Owned(Partitions::new()) };
    for (subscriber, share) in problem.subscribers.iter().zip(shares) {
        if ahead.member.is_some_and(|(id, _)| id == subscriber.id) {
            target.partitions = Cow::Owned(share.clone());
        }
        if group.target.get(subscriber.id) != Some(&share) {
            records.push(ConsumerRecord::Target(subscriber.id.clone(), Some(share)));
        }
    }
    records.push(ConsumerRecord::TargetEpoch(Some(TargetEpochValue { epoch, timestamp_ms: now_ms })));
    target
}
