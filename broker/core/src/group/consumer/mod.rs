//! A group of the consumer protocol (KIP-848): the coordinator decides who gets what, and each member goes there at its own
//! pace, by heartbeats.
//!
//! ```text
//!     what members want, and the topics ──> group epoch ──> target assignment ──> each member's assignment
//! ```
//!
//! When something changes, the group gets a new *epoch*. For that epoch a *target* is made. Each member first gives up what it
//! shall not have any more, then it reaches the epoch, and gets what is free. So no partition has two members at once.
//!
//! What happens is first worked out as records, without a change; they are then written and applied ([`ConsumerGroup::apply`]),
//! and loading applies the same.

mod ahead;
mod assignor;
mod classic;
mod describe;
mod heartbeat;
mod leave;
mod member;
mod migrate;
mod offsets;
mod reconcile;
mod regex;
mod request;
mod target;
mod work;

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;

pub(super) use classic::{join, leave_group};
pub(super) use describe::describe;
pub(super) use heartbeat::heartbeat;
pub(super) use leave::fence;
pub(super) use member::Member;
pub(super) use offsets::CommitCheck;

use super::record::{ConsumerRecord, EpochValue, MemberState, PartitionEpochs, Partitions, RegexValue};
use super::timers::Timer;
use super::turn::Turn;
use super::{GroupRecord, configs};
use crate::ids::TopicIdPartition;

/// A static member that has left for a while.
const AWAY: i32 = -2;

/// Resolved regular expressions, by themselves.
type Regexes = BTreeMap<StrBytes, RegexValue>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// There are no members.
    Empty,
    /// The group's epoch has no target yet.
    Assigning,
    /// Not all members are where they shall be.
    Reconciling,
    Stable,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::Assigning => "Assigning",
            State::Reconciling => "Reconciling",
            State::Stable => "Stable",
        }
    }
}

/// Why a request is refused, and what its sender is told about it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub error: ResponseError,
    pub message: String,
}

impl Refusal {
    pub fn new(error: ResponseError, message: impl Into<String>) -> Refusal {
        Refusal { error, message: message.into() }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct ConsumerGroup {
    id: StrBytes,
    /// 0 as long as it was never anything.
    epoch: i32,
    metadata_hash: i64,
    /// Of the target.
    assignment_epoch: i32,
    assignment_ms: i64,
    members: BTreeMap<StrBytes, Member>,
    /// Instance id to member id.
    static_members: BTreeMap<StrBytes, StrBytes>,
    target: BTreeMap<StrBytes, Partitions>,
    /// Whose each partition is: assigned, or not given up yet.
    owners: BTreeMap<TopicIdPartition, StrBytes>,
    regexes: Regexes,
    /// How many members are subscribed to each regular expression, resolved or not.
    regex_subscribers: BTreeMap<StrBytes, usize>,
    /// The log has a record that Kafka before 4.1 wrote.
    has_partition_metadata: bool,
    /// Which metadata the hash was last made of, by its offset. Not in the log.
    hashed: Option<u64>,
    /// Which metadata the regular expressions were last matched with, and when. Not in the log.
    regexes_matched: Option<Matched>,
}

/// By the metadata's offset, and the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Matched {
    version: u64,
    at_ms: i64,
}

impl ConsumerGroup {
    pub fn new(id: StrBytes) -> ConsumerGroup {
        ConsumerGroup {
            id,
            epoch: 0,
            metadata_hash: 0,
            assignment_epoch: 0,
            assignment_ms: 0,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            target: BTreeMap::new(),
            owners: BTreeMap::new(),
            regexes: Regexes::new(),
            regex_subscribers: BTreeMap::new(),
            has_partition_metadata: false,
            hashed: None,
            regexes_matched: None,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Looks at all members.
    pub fn state(&self) -> State {
        if self.members.is_empty() {
            State::Empty
        } else if self.epoch > self.assignment_epoch {
            State::Assigning
        } else if self.members.values().all(|member| member.is_reconciled_to(self.assignment_epoch)) {
            State::Stable
        } else {
            State::Reconciling
        }
    }

    #[cfg(test)]
    pub fn members(&self) -> &BTreeMap<StrBytes, Member> {
        &self.members
    }

    #[cfg(test)]
    pub fn owners(&self) -> &BTreeMap<TopicIdPartition, StrBytes> {
        &self.owners
    }

    /// Without what the log does not tell.
    #[cfg(test)]
    pub fn as_loaded(&self) -> ConsumerGroup {
        ConsumerGroup { hashed: None, regexes_matched: None, ..self.clone() }
    }

    /// By name, or by a regular expression.
    pub fn is_subscribed_to(&self, topic: &StrBytes) -> bool {
        self.members.values().any(|member| member.metadata.subscribed_topics.contains(topic))
            || self.regexes.values().any(|regex| regex.topics.contains(topic))
    }

    /// What a record says. The same when it is made and when it is read.
    pub fn apply(&mut self, record: ConsumerRecord) {
        match record {
            ConsumerRecord::Epoch(Some(value)) => {
                self.epoch = value.epoch;
                self.metadata_hash = value.metadata_hash;
            }
            // Then there is no group: whoever has it drops it.
            ConsumerRecord::Epoch(None) => {}
            ConsumerRecord::PartitionMetadata(there) => self.has_partition_metadata = there,
            ConsumerRecord::Member(id, Some(value)) => {
                self.forget(&id);
                if let Some(instance_id) = &value.instance_id {
                    self.static_members.insert(instance_id.clone(), id.clone());
                }
                if !value.subscribed_regex.is_empty() {
                    *self.regex_subscribers.entry(value.subscribed_regex.clone()).or_default() += 1;
                }
                self.members.entry(id).or_default().metadata = value;
            }
            ConsumerRecord::Member(id, None) => {
                self.forget(&id);
                if let Some(member) = self.members.remove(&id) {
                    self.release(&id, &member);
                }
            }
            ConsumerRecord::TargetEpoch(value) => {
                self.assignment_epoch = value.map_or(-1, |value| value.epoch);
                self.assignment_ms = value.map_or(0, |value| value.timestamp_ms);
            }
            ConsumerRecord::Target(id, Some(value)) => {
                self.target.insert(id, value);
            }
            ConsumerRecord::Target(id, None) => {
                self.target.remove(&id);
            }
            ConsumerRecord::Current(id, Some(value)) => {
                let mut member = self.members.remove(&id).unwrap_or_default();
                self.release(&id, &member);
                member.current = value;
                for partition in member.partitions() {
                    self.owners.insert(partition, id.clone());
                }
                self.members.insert(id, member);
            }
            // The member goes with its metadata, which comes next.
            ConsumerRecord::Current(id, None) => {
                if let Some(mut member) = self.members.remove(&id) {
                    self.release(&id, &member);
                    member.current = Default::default();
                    self.members.insert(id, member);
                }
            }
            ConsumerRecord::Regex(regex, Some(value)) => {
                self.regexes.insert(regex, value);
            }
            ConsumerRecord::Regex(regex, None) => {
                self.regexes.remove(&regex);
            }
        }
    }

    /// What is kept by a member's metadata.
    fn forget(&mut self, id: &StrBytes) {
        let Some(member) = self.members.get(id) else { return };
        if let Some(instance_id) = &member.metadata.instance_id
            && self.static_members.get(instance_id) == Some(id)
        {
            self.static_members.remove(instance_id);
        }
        let regex = &member.metadata.subscribed_regex;
        if let Some(count) = self.regex_subscribers.get_mut(regex) {
            *count -= 1;
            if *count == 0 {
                self.regex_subscribers.remove(regex);
            }
        }
    }

    /// What a compacted log tells of a partition's former owner may come after what it tells of the present one.
    fn release(&mut self, id: &StrBytes, member: &Member) {
        for partition in member.partitions() {
            if self.owners.get(&partition) == Some(id) {
                self.owners.remove(&partition);
            }
        }
    }

    /// Writes and applies what was worked out.
    fn commit(&mut self, turn: &mut Turn<'_>, records: Vec<ConsumerRecord>) {
        turn.step.records.extend(records.iter().map(|record| record.encode(&self.id)));
        self.apply_all(turn, records);
    }

    /// What is written, and was worked out here: members that go have no timers any more.
    fn apply_all(&mut self, turn: &mut Turn<'_>, records: Vec<ConsumerRecord>) {
        for record in records {
            let gone = match &record {
                ConsumerRecord::Member(id, None) => Some(id.clone()),
                _ => None,
            };
            self.apply(record);
            if let Some(id) = gone {
                self.cancel_timers(turn, &id);
            }
        }
    }

    /// All that the log has of the group.
    pub fn tombstones(&self) -> Vec<GroupRecord> {
        let ids = || self.members.keys().cloned();
        let mut records: Vec<_> = ids().map(|id| ConsumerRecord::Current(id, None)).collect();
        records.extend(ids().map(|id| ConsumerRecord::Target(id, None)));
        records.push(ConsumerRecord::TargetEpoch(None));
        records.extend(ids().map(|id| ConsumerRecord::Member(id, None)));
        records.extend(self.regexes.keys().map(|regex| ConsumerRecord::Regex(regex.clone(), None)));
        records.push(ConsumerRecord::PartitionMetadata(false));
        records.push(ConsumerRecord::Epoch(None));
        records.iter().map(|record| record.encode(&self.id)).collect()
    }

    /// The group was loaded: sessions begin.
    pub fn loaded(&self, turn: &mut Turn<'_>) {
        for (id, member) in &self.members {
            self.renew_session(turn, id, member);
            if member.current.state == MemberState::UnrevokedPartitions && member.current.epoch != AWAY {
                self.watch_revocation(turn, id, member);
            }
        }
    }

    /// A member was heard of.
    fn renew_session(&self, turn: &mut Turn<'_>, id: &StrBytes, member: &Member) {
        let timeout_ms = match &member.metadata.classic {
            Some(classic) => classic.session_timeout_ms,
            None => configs::session_timeout_ms(turn.image, turn.config, &self.id),
        };
        turn.schedule(Timer::Session(self.id.clone(), id.clone()), timeout_ms);
    }

    /// How long a member may take to give up partitions. One of the classic protocol is watched by its joins instead.
    fn watch_revocation(&self, turn: &mut Turn<'_>, id: &StrBytes, member: &Member) {
        let timer = Timer::Revocation(self.id.clone(), id.clone());
        if member.metadata.classic.is_none() && member.current.state == MemberState::UnrevokedPartitions {
            turn.schedule(timer, member.metadata.rebalance_timeout_ms);
        } else {
            turn.timers.cancel(timer);
        }
    }

    fn cancel_timers(&self, turn: &mut Turn<'_>, id: &StrBytes) {
        for timer in [Timer::Session, Timer::Revocation, Timer::MemberJoin, Timer::MemberSync] {
            turn.timers.cancel(timer(self.id.clone(), id.clone()));
        }
    }

    /// Kafka's `getOrMaybeCreateMember` for one that must be there.
    fn member(&self, id: &StrBytes) -> Result<&Member, Refusal> {
        self.members.get(id).ok_or_else(|| {
            let message = format!("Member {id} is not a member of group {}.", self.id);
            Refusal::new(ResponseError::UnknownMemberId, message)
        })
    }

    /// The member of an instance id.
    fn static_member(&self, instance_id: &StrBytes) -> Option<(&StrBytes, &Member)> {
        let id = self.static_members.get(instance_id)?;
        self.members.get_key_value(id)
    }

    /// The static member that sends a request must be the one that the group has.
    fn known_static_member(
        &self,
        instance_id: &StrBytes,
        member_id: &StrBytes,
    ) -> Result<(&StrBytes, &Member), Refusal> {
        let known = self.static_member(instance_id).ok_or_else(|| {
            Refusal::new(ResponseError::UnknownMemberId, format!("Instance id {instance_id} is unknown."))
        })?;
        if known.0 == member_id {
            return Ok(known);
        }
        let message = format!(
            "Static member {member_id} with instance id {instance_id} was fenced by member {}.",
            known.0
        );
        Err(Refusal::new(ResponseError::FencedInstanceId, message))
    }
}

/// The record of the group's next epoch.
fn next_epoch(epoch: i32, metadata_hash: i64) -> (i32, ConsumerRecord) {
    let epoch = epoch.saturating_add(1);
    (epoch, ConsumerRecord::Epoch(Some(EpochValue { epoch, metadata_hash })))
}

/// Without the epochs.
fn plain(partitions: &PartitionEpochs) -> Partitions {
    partitions.iter().map(|(topic, partitions)| (*topic, partitions.keys().copied().collect())).collect()
}
