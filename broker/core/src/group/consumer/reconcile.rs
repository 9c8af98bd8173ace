//! One step of a member towards its target (Kafka's `CurrentAssignmentBuilder`).
//!
//! ```text
//!                    something to give up              it has given all up, and there is a target
//!     Stable ───────────────────────────> Unrevoked ───────────────────────────┬──────────────────> Stable
//!        │                                                                     │ others have some of it
//!        └──────────── others have some of it ────────> Unreleased <───────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::error::ResponseError;

use super::super::record::{CurrentValue, MemberState, PartitionEpochs, Partitions};
use super::Refusal;
use crate::ids::{TopicId, TopicIdPartition};

/// What a member is to go to, and what is in its way.
pub(super) struct Reconciling<'a, F> {
    pub current: &'a CurrentValue,
    pub target_epoch: i32,
    pub target: &'a Partitions,
    pub subscribed_topics: BTreeSet<TopicId>,
    pub subscription_changed: bool,
    /// What the member says it has; None if it does not say.
    pub owned: Option<&'a Partitions>,
    /// Whether another member has it.
    pub is_others: F,
}

impl<F: Fn(TopicIdPartition) -> bool> Reconciling<'_, F> {
    /// Where the member is now, if it went anywhere.
    pub fn step(&self) -> Result<Option<CurrentValue>, Refusal> {
        let current = self.current;
        let is_there = current.state == MemberState::Stable && current.epoch == self.target_epoch;
        let next = match current.state {
            MemberState::Stable if is_there => self.only_subscribed(),
            MemberState::Stable | MemberState::UnreleasedPartitions => Some(self.advanced(current.epoch)),
            MemberState::UnrevokedPartitions if self.has_any(&current.pending_revocation) => {
                self.only_subscribed()
            }
            MemberState::UnrevokedPartitions => Some(self.advanced(current.epoch)),
            MemberState::Unknown if self.owned.is_none_or(|owned| !owned.is_empty()) => {
                let message = "The consumer group member is in a unknown state. The member must abandon all its \
                               partitions and rejoin.";
                return Err(Refusal::new(ResponseError::FencedMemberEpoch, message));
            }
            MemberState::Unknown => Some(self.advanced(self.target_epoch)),
        };
        Ok(next.filter(|next| next != current))
    }

    /// Whether the member may still have any of these.
    fn has_any(&self, partitions: &PartitionEpochs) -> bool {
        let Some(owned) = self.owned else { return true };
        owned.iter().any(|(topic, owned)| {
            partitions.get(topic).is_some_and(|partitions| owned.iter().any(|p| partitions.contains_key(p)))
        })
    }

    /// What it has of topics that it is not subscribed to any more it is to give up at once, whatever the target says.
    fn only_subscribed(&self) -> Option<CurrentValue> {
        if !self.subscription_changed {
            return None;
        }
        let mut next = self.current.clone();
        let (kept, gone): (PartitionEpochs, PartitionEpochs) = std::mem::take(&mut next.assigned)
            .into_iter()
            .partition(|(topic, _)| self.subscribed_topics.contains(topic));
        next.assigned = kept;
        if gone.is_empty() {
            return None;
        }
        next.previous_epoch = next.epoch;
        let mut pending = next.pending_revocation.clone();
        for (topic, partitions) in gone {
            pending.entry(topic).or_default().extend(partitions);
        }
        if self.has_any(&pending) {
            next.state = MemberState::UnrevokedPartitions;
            next.pending_revocation = pending;
        }
        Some(next)
    }

    /// Towards the target: first to give up, then to get what is free.
    fn advanced(&self, epoch: i32) -> CurrentValue {
        let current = self.current;
        let mut assigned = PartitionEpochs::new();
        let mut pending_revocation = PartitionEpochs::new();
        // Who has just taken a static member's place has what that had since now: what it committed as before is something else.
        let has_joined = current.epoch == 0;
        let since = |epoch| if has_joined { self.target_epoch } else { epoch };
        for (topic, partitions) in &current.assigned {
            let target = self.target_of(topic);
            let stays = |partition: &i32| target.is_some_and(|target| target.contains(partition));
            let (kept, given_up): (BTreeMap<_, _>, BTreeMap<_, _>) = partitions
                .iter()
                .map(|(partition, epoch)| (*partition, since(*epoch)))
                .partition(|(p, _)| stays(p));
            if !kept.is_empty() {
                assigned.insert(*topic, kept);
            }
            if !given_up.is_empty() {
                pending_revocation.insert(*topic, given_up);
            }
        }
        let previous_epoch = current.epoch;
        if !pending_revocation.is_empty() && self.has_any(&pending_revocation) {
            let state = MemberState::UnrevokedPartitions;
            return CurrentValue { epoch, previous_epoch, state, assigned, pending_revocation };
        }
        let mut waits = false;
        for (topic, partition) in self.target_partitions() {
            if assigned.get(&topic).is_some_and(|partitions| partitions.contains_key(&partition)) {
                continue;
            }
            if (self.is_others)(TopicIdPartition { topic_id: topic, partition }) {
                waits = true;
            } else {
                assigned.entry(topic).or_default().insert(partition, self.target_epoch);
            }
        }
        CurrentValue {
            epoch: self.target_epoch,
            previous_epoch,
            state: if waits { MemberState::UnreleasedPartitions } else { MemberState::Stable },
            assigned,
            pending_revocation: PartitionEpochs::new(),
        }
    }

    /// Nothing of a topic that the member is not subscribed to any more: the target may be older than that.
    fn target_of(&self, topic: &TopicId) -> Option<&BTreeSet<i32>> {
        self.target.get(topic).filter(|_| self.subscribed_topics.contains(topic))
    }

    fn target_partitions(&self) -> impl Iterator<Item = (TopicId, i32)> {
        let topics = self.target.iter().filter(|(topic, _)| self.subscribed_topics.contains(topic));
        topics.flat_map(|(topic, partitions)| partitions.iter().map(|partition| (*topic, *partition)))
    }
}
