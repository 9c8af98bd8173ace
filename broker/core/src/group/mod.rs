//! Consumer groups of one partition of `__consumer_offsets`, and committed offsets, as Apache Kafka's group coordinator has
//! them: classic groups, and those of the consumer protocol (KIP-848).
//!
//! Requests and time go in; records for the log and answers come out ([`Step`]). State changes at once and never
//! goes back: an answer is given to its client only when the step's records, and those of all steps before it, are
//! durable, and if they cannot be, the whole [`Shard`] is dropped and loaded anew.

mod classic;
mod config;
mod configs;
mod consumer;
mod describe;
mod embedded;
mod expiry;
mod offsets;
mod record;
#[cfg(test)]
mod tests;
mod timers;
mod turn;

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, HeartbeatRequest,
    HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, SyncGroupRequest,
    SyncGroupResponse, TopicName, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

pub use crate::coordinator::{Record as GroupRecord, RecordError, Ticket};
use classic::ClassicGroup;
pub use config::{AssignorKind, GroupConfig, MigrationPolicy};
use consumer::ConsumerGroup;
use offsets::Offsets;
use record::{ConsumerRecord, GroupValue, Key, OffsetValue};
use timers::{Timer, Timers};
use turn::Turn;

use crate::ids::{ProducerEpoch, ProducerId};
use crate::metadata::{LocalConfig, MetadataImage};
use crate::record_batch::{EndMarker, Verified};

/// Who sends a JoinGroup or a ConsumerGroupHeartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub client_id: String,
    /// As Kafka writes it: `/127.0.0.1`.
    pub client_host: String,
}

/// A request as it was decoded, with its version where behaviour depends on it.
#[derive(Clone, Debug)]
pub enum Call {
    JoinGroup(JoinGroupRequest, i16, Caller),
    SyncGroup(SyncGroupRequest, i16),
    Heartbeat(HeartbeatRequest, i16),
    LeaveGroup(LeaveGroupRequest, i16),
    ConsumerGroupHeartbeat(ConsumerGroupHeartbeatRequest, i16, Caller),
    OffsetCommit(OffsetCommitRequest, i16),
    /// With the word of the transaction's coordinator, which is for the log: it is handed on only where the log would take it.
    TxnOffsetCommit(TxnOffsetCommitRequest, Verified),
    /// A producer's transaction ends in this partition. Handed on only where the log would take it.
    Marker(EndMarker),
    /// One group of an OffsetFetch, and its `require_stable`.
    OffsetFetch(OffsetFetchRequestGroup, bool, i16),
    OffsetDelete(OffsetDeleteRequest),
    DescribeGroup(GroupId, i16),
    ConsumerGroupDescribe(GroupId, i16),
    /// Empty filters let everything through.
    ListGroups {
        states: Vec<String>,
        types: Vec<String>,
    },
    DeleteGroup(GroupId),
    TopicsDeleted(Vec<TopicName>),
}

/// The answer to the [`Call`] of the same name.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    JoinGroup(JoinGroupResponse),
    SyncGroup(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    LeaveGroup(LeaveGroupResponse),
    ConsumerGroupHeartbeat(ConsumerGroupHeartbeatResponse),
    OffsetCommit(OffsetCommitResponse),
    TxnOffsetCommit(TxnOffsetCommitResponse),
    Marker,
    OffsetFetch(OffsetFetchResponseGroup),
    OffsetDelete(OffsetDeleteResponse),
    DescribeGroup(DescribedGroup),
    /// Without the authorized operations.
    ConsumerGroupDescribe(DescribedConsumerGroup),
    ListGroups(Vec<ListedGroup>),
    DeleteGroup(DeletableGroupResult),
    TopicsDeleted,
}

/// What a call or a tick leads to. The records of a call are one batch. Those of a tick, and tombstones, concern many groups
/// or offsets, and may be more than [`GroupConfig::max_batch_bytes`]: they may as well be several batches, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    pub records: Vec<GroupRecord>,
    /// Whose transaction the records belong to.
    pub producer: Option<(ProducerId, ProducerEpoch)>,
    /// Written instead of records.
    pub marker: Option<EndMarker>,
    pub answers: Vec<(Ticket, Answer)>,
}

/// How much a shard holds: classic groups by state, groups of the consumer protocol, and committed offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub empty: usize,
    pub preparing_rebalance: usize,
    pub completing_rebalance: usize,
    pub stable: usize,
    /// Kafka has this state; here a dead group is gone.
    pub dead: usize,
    pub consumer: ConsumerCounts,
    pub offsets: usize,
}

/// Groups of the consumer protocol, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerCounts {
    pub empty: usize,
    pub assigning: usize,
    pub reconciling: usize,
    pub stable: usize,
}

#[derive(Debug)]
enum Group {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

/// All groups, by id.
type Groups = BTreeMap<StrBytes, Group>;

/// All groups of one partition of `__consumer_offsets`.
#[derive(Debug)]
pub struct Shard {
    config: GroupConfig,
    image: Arc<MetadataImage>,
    groups: Groups,
    offsets: Offsets,
    timers: Timers,
}

impl Shard {
    pub fn new(config: GroupConfig) -> Shard {
        Shard {
            config,
            image: Arc::new(MetadataImage::empty(Arc::new(LocalConfig::default()))),
            groups: Groups::new(),
            offsets: Offsets::default(),
            timers: Timers::default(),
        }
    }

    /// What topics there are now, and what is set for groups: told before [`Shard::loaded`], and at each change.
    pub fn metadata(&mut self, _now_ms: i64, image: Arc<MetadataImage>) -> Step {
        self.image = image;
        Step::default()
    }

    /// Loading, in the order of offsets. `producer` is the one whose transaction the record belongs to.
    ///
    /// # Errors
    /// A record that nobody understands. It changed nothing.
    pub fn replay(
        &mut self,
        producer: Option<ProducerId>,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), RecordError> {
        match (Key::decode(key)?, value) {
            (Key::Offset { group, topic, partition }, Some(value)) => {
                let value = OffsetValue::decode(value)?;
                // There is no other record of a group that only commits offsets.
                if !self.groups.contains_key(&group) {
                    let simple = ClassicGroup::new(group.clone(), value.commit_timestamp_ms);
                    self.groups.insert(group.clone(), Group::Classic(simple));
                }
                self.offsets.put(producer, &group, &topic, partition, value);
            }
            (Key::Offset { group, topic, partition }, None) => self.offsets.remove(&group, &topic, partition),
            (Key::Group(id), Some(value)) => {
                let group = ClassicGroup::load(id.clone(), GroupValue::decode(value)?)?;
                self.groups.insert(id, Group::Classic(group));
            }
            (Key::Group(id), None) => {
                if let Some(Group::Classic(_)) = self.groups.get(&id) {
                    self.groups.remove(&id);
                }
            }
            (Key::Consumer(id, key), value) => {
                let is_tombstone = value.is_none();
                self.replay_consumer(id, ConsumerRecord::decode(key, value)?, is_tombstone);
            }
        }
        Ok(())
    }

    fn replay_consumer(&mut self, id: StrBytes, record: ConsumerRecord, is_tombstone: bool) {
        match self.groups.get_mut(&id) {
            Some(Group::Consumer(_)) if record == ConsumerRecord::Epoch(None) => {
                self.groups.remove(&id);
            }
            Some(Group::Consumer(group)) => group.apply(record),
            // Of a group that has gone, or is a classic one now.
            _ if is_tombstone => {}
            // One that only committed offsets, so far.
            _ => {
                let mut group = ConsumerGroup::new(id.clone());
                group.apply(record);
                self.groups.insert(id, Group::Consumer(group));
            }
        }
    }

    /// Loading: here a producer's transaction ended.
    pub fn replay_end(&mut self, producer: ProducerId, commit: bool) {
        self.offsets.end(producer, commit);
    }

    /// Everything is replayed: the sessions of all members begin anew.
    pub fn loaded(&mut self, now_ms: i64) -> Step {
        let mut turn = Turn::new(now_ms, &self.config, &self.image, &mut self.timers);
        for group in self.groups.values_mut() {
            match group {
                Group::Classic(group) => group.loaded(&mut turn),
                Group::Consumer(group) => group.loaded(&mut turn),
            }
        }
        schedule_expiry(&mut turn);
        turn.step
    }

    /// `now_ms` since 1970 goes into records, and sessions are measured by it: it should not jump. `random` becomes
    /// part of a new member's id.
    pub fn handle(&mut self, now_ms: i64, ticket: Ticket, call: Call, random: Uuid) -> Step {
        let Shard { config, image, groups, offsets, timers } = self;
        let mut turn = Turn::new(now_ms, config, image, timers);
        let answer = match call {
            Call::JoinGroup(request, version, caller) => {
                classic::join_group(&mut turn, groups, (ticket, version), &request, caller, random);
                return turn.step;
            }
            Call::SyncGroup(request, version) => {
                classic::sync_group(&mut turn, groups, ticket, &request, version);
                return turn.step;
            }
            Call::Heartbeat(request, _) => Answer::Heartbeat(classic::heartbeat(&mut turn, groups, &request)),
            Call::LeaveGroup(request, version) => {
                Answer::LeaveGroup(classic::leave_group(&mut turn, groups, &request, version))
            }
            Call::ConsumerGroupHeartbeat(request, version, caller) => {
                let heartbeat = (&request, version);
                let response = consumer::heartbeat(&mut turn, groups, heartbeat, &caller, random);
                Answer::ConsumerGroupHeartbeat(response)
            }
            Call::OffsetCommit(request, version) => {
                Answer::OffsetCommit(offsets::commit(&mut turn, groups, offsets, &request, version))
            }
            Call::TxnOffsetCommit(request, _) => {
                Answer::TxnOffsetCommit(offsets::commit_in_transaction(&mut turn, groups, offsets, &request))
            }
            Call::Marker(marker) => {
                offsets.end(marker.producer_id, marker.commit);
                turn.step.marker = Some(marker);
                Answer::Marker
            }
            Call::OffsetFetch(request, stable, _) => {
                Answer::OffsetFetch(offsets::fetch(groups, offsets, &request, stable))
            }
            Call::OffsetDelete(request) => {
                Answer::OffsetDelete(offsets::delete(&mut turn, groups, offsets, &request))
            }
            Call::DescribeGroup(id, version) => {
                Answer::DescribeGroup(describe::describe(groups, id, version))
            }
            Call::ConsumerGroupDescribe(id, version) => {
                Answer::ConsumerGroupDescribe(consumer::describe(&turn, groups, id, version))
            }
            Call::ListGroups { states, types } => Answer::ListGroups(describe::list(groups, &states, &types)),
            Call::DeleteGroup(id) => {
                Answer::DeleteGroup(expiry::delete_group(&mut turn, groups, offsets, id))
            }
            Call::TopicsDeleted(topics) => {
                offsets.bury_topics(&mut turn, &topics);
                Answer::TopicsDeleted
            }
        };
        turn.answer(ticket, answer);
        turn.step
    }

    /// Sessions, joins and syncs that end by the clock, and the expiry of offsets.
    pub fn tick(&mut self, now_ms: i64) -> Step {
        let Shard { config, image, groups, offsets, timers } = self;
        let mut turn = Turn::new(now_ms, config, image, timers);
        while let Some(timer) = turn.timers.pop(now_ms) {
            match timer {
                Timer::Join(id) => {
                    if let Some(Group::Classic(group)) = groups.get_mut(&id) {
                        group.join_time_is_up(&mut turn);
                    }
                }
                Timer::Sync(id) => {
                    if let Some(Group::Classic(group)) = groups.get_mut(&id) {
                        group.sync_time_is_up(&mut turn);
                    }
                }
                Timer::Session(id, member_id) => match groups.get_mut(&id) {
                    Some(Group::Classic(group)) => group.session_is_over(&mut turn, &member_id),
                    Some(Group::Consumer(_)) => consumer::fence(&mut turn, groups, &id, &[member_id]),
                    None => {}
                },
                Timer::Revocation(id, member_id) => {
                    if let Some(Group::Consumer(group)) = groups.get(&id)
                        && group.revocation_is_overdue(&member_id)
                    {
                        consumer::fence(&mut turn, groups, &id, &[member_id]);
                    }
                }
                Timer::MemberJoin(id, member_id) | Timer::MemberSync(id, member_id) => {
                    if let Some(Group::Consumer(group)) = groups.get(&id)
                        && group.is_of_classic_protocol(&member_id)
                    {
                        consumer::fence(&mut turn, groups, &id, &[member_id]);
                    }
                }
                Timer::OffsetExpiry => {
                    expiry::expire(&mut turn, groups, offsets);
                    schedule_expiry(&mut turn);
                }
            }
        }
        turn.step
    }

    /// Looks at all groups.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { offsets: self.offsets.count(), ..Counts::default() };
        for group in self.groups.values() {
            let count = match group {
                Group::Classic(group) => match group.state() {
                    classic::State::Empty => &mut counts.empty,
                    classic::State::PreparingRebalance(_) => &mut counts.preparing_rebalance,
                    classic::State::CompletingRebalance => &mut counts.completing_rebalance,
                    classic::State::Stable => &mut counts.stable,
                },
                Group::Consumer(group) => match group.state() {
                    consumer::State::Empty => &mut counts.consumer.empty,
                    consumer::State::Assigning => &mut counts.consumer.assigning,
                    consumer::State::Reconciling => &mut counts.consumer.reconciling,
                    consumer::State::Stable => &mut counts.consumer.stable,
                },
            };
            *count += 1;
        }
        counts
    }

    /// When [`Shard::tick`] has something to do, at the latest.
    pub fn next_tick_ms(&self) -> Option<i64> {
        self.timers.next_ms()
    }
}

fn schedule_expiry(turn: &mut Turn<'_>) {
    let at_ms = turn.now_ms.saturating_add(turn.config.offsets_retention_check_interval_ms.max(1));
    turn.timers.schedule(Timer::OffsetExpiry, at_ms);
}

/// What both kinds of groups have in common.
impl Group {
    fn is_empty(&self) -> bool {
        match self {
            Group::Classic(group) => group.is_empty(),
            Group::Consumer(group) => group.is_empty(),
        }
    }

    fn is_subscribed_to(&self, topic: &StrBytes) -> bool {
        match self {
            Group::Classic(group) => group.is_subscribed_to(topic),
            Group::Consumer(group) => group.is_subscribed_to(topic),
        }
    }
}
