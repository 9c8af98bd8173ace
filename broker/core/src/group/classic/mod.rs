//! A classic group: its members agree on a protocol, one of them, the leader, decides who gets what.
//!
//! ```text
//!               first member          all joined, or time is up          leader's SyncGroup
//!     Empty ────────────────> Preparing ──────────────────────> Completing ───────────────> Stable
//!       ^                      │    ^                                │                        │
//!       └── nobody is left ────┘    └── a member joins, changes, leaves or is not heard of ───┘
//! ```
//!
//! Kafka's state Dead is not here: a dead group is none.

mod answers;
mod join;
mod liveness;
mod member;
mod protocols;
mod rebalance;
mod requests;
mod sync;

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;

pub(super) use join::protocols_of;
pub(super) use member::{Member, Protocol};
pub(super) use requests::{heartbeat, join_group, leave_group, sync_group};

use super::record::{self, GroupValue, MemberValue};
use super::timers::Timer;
use super::turn::Turn;
use super::{GroupRecord, RecordError};

/// The protocol type of consumers, whose metadata tells what they are subscribed to.
pub(super) const CONSUMER: &str = "consumer";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Empty,
    /// Members are to join. For a group that was empty, the rebalance waits for more members to come.
    PreparingRebalance(Option<InitialRebalance>),
    /// The leader is to tell the assignments.
    CompletingRebalance,
    Stable,
}

/// `group.initial.rebalance.delay.ms`, and again as long as members come, for at most a rebalance timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InitialRebalance {
    pub delay_ms: i32,
    pub remaining_ms: i32,
    pub new_member_added: bool,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance(_) => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct ClassicGroup {
    id: StrBytes,
    state: State,
    /// Unknown only for groups in old records.
    state_since_ms: Option<i64>,
    /// None of a simple group: one that only commits offsets.
    protocol_type: Option<StrBytes>,
    /// Of this generation.
    protocol_name: Option<StrBytes>,
    generation: i32,
    leader: Option<StrBytes>,
    members: BTreeMap<StrBytes, Member>,
    /// Instance id to member id, of all members that have one (KIP-345).
    static_members: BTreeMap<StrBytes, StrBytes>,
    /// Ids that were given to new members, who are to join with them (KIP-394).
    pending_join: BTreeSet<StrBytes>,
    /// Members of this generation that have not sent their SyncGroup.
    pending_sync: BTreeSet<StrBytes>,
    /// How many members support each protocol.
    supporters: BTreeMap<StrBytes, usize>,
    /// None if unknown: no consumers, no generation yet, or metadata that is not a subscription.
    subscribed_topics: Option<BTreeSet<StrBytes>>,
}

impl ClassicGroup {
    pub fn new(id: StrBytes, now_ms: i64) -> ClassicGroup {
        ClassicGroup {
            id,
            state: State::Empty,
            state_since_ms: Some(now_ms),
            protocol_type: None,
            protocol_name: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_join: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            supporters: BTreeMap::new(),
            subscribed_topics: None,
        }
    }

    pub fn id(&self) -> &StrBytes {
        &self.id
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn state_since_ms(&self) -> Option<i64> {
        self.state_since_ms
    }

    pub fn protocol_type(&self) -> Option<&StrBytes> {
        self.protocol_type.as_ref()
    }

    pub fn protocol_name(&self) -> Option<&StrBytes> {
        self.protocol_name.as_ref()
    }

    pub fn generation(&self) -> i32 {
        self.generation
    }

    pub fn members(&self) -> &BTreeMap<StrBytes, Member> {
        &self.members
    }

    pub fn is_empty(&self) -> bool {
        self.state == State::Empty
    }

    fn is_preparing(&self) -> bool {
        matches!(self.state, State::PreparingRebalance(_))
    }

    fn transition(&mut self, turn: &Turn<'_>, state: State) {
        self.state = state;
        self.state_since_ms = Some(turn.now_ms);
    }

    fn is_leader(&self, member_id: &StrBytes) -> bool {
        self.leader.as_ref() == Some(member_id)
    }

    /// Kafka's `validateMember`: is this a member, and if it says to be static, is it still the one?
    pub fn validate(
        &self,
        member_id: &StrBytes,
        instance_id: Option<&StrBytes>,
    ) -> Result<(), ResponseError> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ResponseError::UnknownMemberId),
                Some(current) if current != member_id => return Err(ResponseError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ResponseError::UnknownMemberId) }
    }

    /// Adds a member that is not there yet.
    fn insert(&mut self, member_id: StrBytes, member: Member) {
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), member_id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member_id.clone());
        }
        self.count_protocols(&member.protocols);
        self.pending_join.remove(&member_id);
        self.members.insert(member_id, member);
    }

    /// Removes a member, pending ones too. If it waits for something, it is told that it is not known any more.
    fn remove(&mut self, turn: &mut Turn<'_>, member_id: &StrBytes) {
        if let Some(mut member) = self.members.remove(member_id) {
            self.discount_protocols(&member.protocols);
            if let Some(instance_id) = &member.instance_id {
                self.static_members.remove(instance_id);
            }
            member.dismiss(turn, StrBytes::new(), ResponseError::UnknownMemberId);
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.pending_join.remove(member_id);
        self.pending_sync.remove(member_id);
        turn.timers.cancel(self.session(member_id));
    }

    /// A deleted group's timers; an empty group has no others.
    pub fn cancel_timers(&self, turn: &mut Turn<'_>) {
        for member_id in &self.pending_join {
            turn.timers.cancel(self.session(member_id));
        }
    }

    /// The group is one of the consumer protocol from now on: whoever waits shall join that.
    pub fn close(mut self, turn: &mut Turn<'_>) {
        self.cancel_timers(turn);
        turn.timers.cancel(Timer::Join(self.id.clone()));
        turn.timers.cancel(Timer::Sync(self.id.clone()));
        for (member_id, mut member) in std::mem::take(&mut self.members) {
            member.dismiss(turn, member_id.clone(), ResponseError::RebalanceInProgress);
            turn.timers.cancel(self.session(&member_id));
        }
    }

    fn session(&self, member_id: &StrBytes) -> Timer {
        Timer::Session(self.id.clone(), member_id.clone())
    }

    /// The group as the log is to have it.
    pub fn value(&self) -> GroupValue {
        let protocol = self.protocol_name.clone().unwrap_or_default();
        let members = self.members.iter().map(|(member_id, member)| MemberValue {
            member_id: member_id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.metadata(&protocol),
            assignment: member.assignment.clone(),
        });
        GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol_name.clone(),
            leader: self.leader.clone(),
            state_since_ms: self.state_since_ms,
            members: members.collect(),
        }
    }

    pub fn record(&self) -> GroupRecord {
        GroupRecord { key: record::group_key(&self.id), value: Some(self.value().encode()) }
    }

    /// None if the log would not take it.
    fn fitting_record(&self, turn: &Turn<'_>) -> Option<GroupRecord> {
        Some(self.record()).filter(|record| turn.fits(std::slice::from_ref(record)))
    }

    /// Writes a group that nobody has joined yet. As in Kafka, a protocol type is not known of it.
    pub fn persist_new(&self, turn: &mut Turn<'_>) {
        let value = GroupValue {
            protocol_type: StrBytes::new(),
            generation: 0,
            protocol: None,
            leader: None,
            state_since_ms: self.state_since_ms,
            members: Vec::new(),
        };
        turn.record(record::group_key(&self.id), Some(value.encode()));
    }

    /// A group of the consumer protocol that has only members of the classic one becomes a classic group.
    pub fn of_members(
        id: StrBytes,
        generation: i32,
        now_ms: i64,
        members: impl IntoIterator<Item = (StrBytes, Member)>,
    ) -> ClassicGroup {
        let mut group = ClassicGroup::new(id, now_ms);
        group.state = State::Stable;
        group.protocol_type = Some(StrBytes::from_static_str(CONSUMER));
        group.generation = generation;
        for (member_id, member) in members {
            group.insert(member_id, member);
        }
        group.protocol_name = group.select_protocol();
        group.subscribed_topics = group.topics_of_members();
        group
    }

    /// The group that [`ClassicGroup::value`] told of. What it knew of other protocols is lost, as in Kafka.
    ///
    /// # Errors
    /// Members without a protocol, or two with the same instance id.
    pub fn load(id: StrBytes, value: GroupValue) -> Result<ClassicGroup, RecordError> {
        let mut group = ClassicGroup::new(id, 0);
        group.state = if value.members.is_empty() { State::Empty } else { State::Stable };
        group.state_since_ms = value.state_since_ms;
        group.protocol_type = (!value.protocol_type.is_empty()).then_some(value.protocol_type);
        group.generation = value.generation;
        group.leader = value.leader;
        for member in value.members {
            let name = value.protocol.clone().ok_or(RecordError::Malformed)?;
            let known = member.instance_id.as_ref().is_some_and(|id| group.static_members.contains_key(id));
            if known || group.members.contains_key(&member.member_id) {
                return Err(RecordError::Malformed);
            }
            let (member_id, member) = Member::load(member, name);
            group.insert(member_id, member);
        }
        group.protocol_name = value.protocol;
        group.subscribed_topics = group.topics_of_members();
        Ok(group)
    }
}
