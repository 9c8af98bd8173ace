//! A member: what it says about itself, and where it is.

use kafka_protocol::messages::ConsumerGroupHeartbeatRequest;

use super::super::Caller;
use super::super::record::{ConsumerMemberValue, CurrentValue, MemberState};
use super::super::turn::own;
use crate::ids::TopicIdPartition;

#[derive(Clone, Debug, Default, PartialEq)]
pub(in super::super) struct Member {
    pub metadata: ConsumerMemberValue,
    pub current: CurrentValue,
}

impl Member {
    /// Whether it has all that it shall have of the target of this epoch.
    pub fn is_reconciled_to(&self, target_epoch: i32) -> bool {
        self.current.state == MemberState::Stable && self.current.epoch == target_epoch
    }

    /// What nobody else may have: what is assigned to it, and what it has not given up yet.
    pub fn partitions(&self) -> impl Iterator<Item = TopicIdPartition> {
        let all = self.current.assigned.iter().chain(&self.current.pending_revocation);
        all.flat_map(|(topic, partitions)| {
            partitions.keys().map(|partition| TopicIdPartition { topic_id: *topic, partition: *partition })
        })
    }
}

/// What a heartbeat changes of what is known of its member; None if nothing. Fields that it leaves out stay as they are.
pub(super) fn told(
    known: &ConsumerMemberValue,
    request: &ConsumerGroupHeartbeatRequest,
    caller: &Caller,
) -> Option<ConsumerMemberValue> {
    let topics = request.subscribed_topic_names.as_ref();
    let changes = known.client_id.as_str() != caller.client_id
        || known.client_host.as_str() != caller.client_host
        || known.classic.is_some()
        || request.instance_id.is_some() && request.instance_id != known.instance_id
        || request.rack_id.is_some() && request.rack_id != known.rack_id
        || request.server_assignor.is_some() && request.server_assignor != known.server_assignor
        || request.rebalance_timeout_ms != -1 && request.rebalance_timeout_ms != known.rebalance_timeout_ms
        || request.subscribed_topic_regex.as_ref().is_some_and(|regex| *regex != known.subscribed_regex)
        || topics.is_some_and(|topics| {
            let mut told: Vec<_> = topics.iter().map(|topic| topic.as_str()).collect();
            told.sort_unstable();
            told.dedup();
            !told.iter().copied().eq(known.subscribed_topics.iter().map(|topic| topic.as_str()))
        });
    if !changes {
        return None;
    }
    let mut value = known.clone();
    value.client_id = caller.client_id.clone().into();
    value.client_host = caller.client_host.clone().into();
    value.classic = None;
    if let Some(instance_id) = &request.instance_id {
        value.instance_id = Some(own(instance_id));
    }
    if let Some(rack_id) = &request.rack_id {
        value.rack_id = Some(own(rack_id));
    }
    if let Some(assignor) = &request.server_assignor {
        value.server_assignor = Some(own(assignor));
    }
    if request.rebalance_timeout_ms != -1 {
        value.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    if let Some(regex) = &request.subscribed_topic_regex {
        value.subscribed_regex = own(regex);
    }
    if let Some(topics) = topics {
        value.subscribed_topics = topics.iter().map(|topic| own(topic)).collect();
    }
    Some(value)
}
