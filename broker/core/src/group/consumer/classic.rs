//! Members of the classic protocol in a group of the consumer protocol, as long as the group moves from one to the other. They
//! join, sync, send heartbeats and leave as they are used to, but nobody leads: the coordinator assigns to them, too.
//!
//! A member joins to reach the group's epoch, which is its generation. If it is to give up partitions first, it is told
//! to join again until it has.

use std::borrow::Cow;
use std::collections::BTreeSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupResponse, SyncGroupRequest,
    SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::super::classic::{CONSUMER, protocols_of};
use super::super::embedded::{self, Subscription};
use super::super::record::{ClassicValue, ConsumerMemberValue, ConsumerRecord, MemberState};
use super::super::timers::Timer;
use super::super::turn::{Turn, own};
use super::super::{Caller, Group, Groups, MigrationPolicy};
use super::work::{Extent, Told, Work, carry_out};
use super::{ConsumerGroup, Member, Refusal, leave, migrate};
use crate::ids::TopicIdPartition;

type Result<T> = std::result::Result<T, ResponseError>;

/// Since this version of JoinGroup, who joins anew must know its id first (KIP-394).
const WITH_MEMBER_ID: i16 = 4;

/// A JoinGroup to a group that has members.
pub(in super::super) fn join(
    turn: &mut Turn<'_>,
    groups: &mut Groups,
    (request, version): (&JoinGroupRequest, i16),
    caller: &Caller,
    random: Uuid,
) -> Result<JoinGroupResponse> {
    let id = &request.group_id.0;
    let Some(Group::Consumer(group)) = groups.get(id) else { return Err(ResponseError::UnknownMemberId) };
    if turn.config.consumer_migration_policy == MigrationPolicy::Disabled {
        return Err(ResponseError::InconsistentGroupProtocol);
    }
    group.has_room(turn.config, &request.member_id).map_err(error_of)?;
    if !group.supports(request) {
        return Err(ResponseError::InconsistentGroupProtocol);
    }
    let is_new = request.member_id.is_empty();
    let member_id = if is_new { StrBytes::from_string(random.to_string()) } else { own(&request.member_id) };
    if is_new && request.group_instance_id.is_none() && version >= WITH_MEMBER_ID {
        let error = ResponseError::MemberIdRequired.code();
        return Ok(JoinGroupResponse::default().with_member_id(member_id).with_error_code(error));
    }
    let mut records = Vec::new();
    let (member, replaced) = group.who_joins(&member_id, request, &mut records)?;
    let existing = request.group_instance_id.as_ref().and_then(|id| group.static_member(id));
    let downgrades =
        existing.is_some_and(|(id, _)| migrate::may_downgrade(turn, group, std::slice::from_ref(id), 1));
    let extent = if downgrades { Extent::LastTarget } else { Extent::Target };
    let protocol = request.protocols.first().ok_or(ResponseError::InconsistentGroupProtocol)?;
    // Kafka fails in the same way.
    let subscription =
        Subscription::decode(&protocol.metadata).map_err(|_| ResponseError::UnknownServerError)?;
    let timeout_ms = if version == 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms };
    let metadata = told(&member.metadata, request, (&subscription, timeout_ms), caller);
    let owned = embedded::by_id(&subscription.owned, turn.image);
    let work = Work { turn, group, member_id: &member_id, owned: Some(&owned), records };
    let done = work.run(Told { member, replaced, metadata }, extent).map_err(error_of)?;
    let resubscribed = done.resubscribed;
    let member = carry_out(turn, groups, (id, &member_id), None, done).map_err(error_of)?;
    let response = JoinGroupResponse::default()
        .with_member_id(member_id.clone())
        .with_generation_id(member.current.epoch)
        .with_protocol_type(Some(StrBytes::from_static_str(CONSUMER)))
        .with_protocol_name(Some(own(&protocol.name)));
    turn.timers.cancel(Timer::MemberJoin(own(id), member_id.clone()));
    if downgrades {
        migrate::downgrade(turn, groups, id, &[], resubscribed);
    } else {
        turn.schedule(Timer::MemberSync(own(id), member_id), timeout_ms);
    }
    Ok(response)
}

fn error_of(refusal: Refusal) -> ResponseError {
    refusal.error
}

/// What a JoinGroup says of its member; None if nothing new.
fn told(
    known: &ConsumerMemberValue,
    request: &JoinGroupRequest,
    (subscription, rebalance_timeout_ms): (&Subscription, i32),
    caller: &Caller,
) -> Option<ConsumerMemberValue> {
    let value = ConsumerMemberValue {
        instance_id: request.group_instance_id.as_ref().map(own).or_else(|| known.instance_id.clone()),
        rack_id: subscription.rack_id.clone().or_else(|| known.rack_id.clone()),
        client_id: caller.client_id.clone().into(),
        client_host: caller.client_host.clone().into(),
        subscribed_topics: subscription.topics.iter().cloned().collect(),
        // The classic protocol has none.
        subscribed_regex: StrBytes::new(),
        rebalance_timeout_ms: match rebalance_timeout_ms {
            -1 => known.rebalance_timeout_ms,
            timeout_ms => timeout_ms,
        },
        server_assignor: known.server_assignor.clone(),
        classic: Some(ClassicValue {
            session_timeout_ms: request.session_timeout_ms,
            protocols: protocols_of(request),
        }),
    };
    (value != *known).then_some(value)
}

impl ConsumerGroup {
    /// Whether one of the protocols is supported by all members of the classic protocol. It must be that of consumers.
    fn supports(&self, request: &JoinGroupRequest) -> bool {
        let classic = || self.members.values().filter_map(|member| member.metadata.classic.as_ref());
        let is_everybodys = |name: &StrBytes| {
            classic().all(|classic| classic.protocols.iter().any(|protocol| protocol.name == *name))
        };
        request.protocol_type.as_str() == CONSUMER
            && request.protocols.iter().any(|protocol| is_everybodys(&protocol.name))
    }

    /// As for a heartbeat; a member of the classic protocol knows no epochs, and may take the place of one that has not left.
    fn who_joins(
        &self,
        member_id: &StrBytes,
        request: &JoinGroupRequest,
        records: &mut Vec<ConsumerRecord>,
    ) -> Result<(Cow<'_, Member>, Option<StrBytes>)> {
        let Some(instance_id) = &request.group_instance_id else {
            return Ok((self.members.get(member_id).map(Cow::Borrowed).unwrap_or_default(), None));
        };
        if !request.member_id.is_empty() {
            let (_, known) = self.known_static_member(instance_id, member_id).map_err(error_of)?;
            return Ok((Cow::Borrowed(known), None));
        }
        let Some((old_id, old)) = self.static_member(instance_id) else { return Ok(Default::default()) };
        let (member, replacement) = self.replaced(old_id, old, member_id);
        records.extend(replacement);
        Ok((Cow::Owned(member), Some(old_id.clone())))
    }

    /// The member that a request of the classic protocol is from.
    fn classic_member(
        &self,
        member_id: &StrBytes,
        instance_id: Option<&StrBytes>,
        generation: i32,
    ) -> Result<(&Member, &ClassicValue)> {
        let member = match instance_id {
            None => self.member(member_id),
            Some(instance_id) => self.known_static_member(instance_id, member_id).map(|(_, member)| member),
        };
        let member = member.map_err(error_of)?;
        let classic = member.metadata.classic.as_ref().ok_or(ResponseError::UnknownMemberId)?;
        if member.current.epoch == generation {
            Ok((member, classic))
        } else {
            Err(ResponseError::IllegalGeneration)
        }
    }

    /// SyncGroup: the member asks for its assignment.
    pub fn sync(&self, turn: &mut Turn<'_>, request: &SyncGroupRequest) -> Result<SyncGroupResponse> {
        let id = &request.member_id;
        let (member, classic) =
            self.classic_member(id, request.group_instance_id.as_ref(), request.generation_id)?;
        let protocol = classic.protocols.first().ok_or(ResponseError::UnknownServerError)?;
        let differs =
            |told: &Option<StrBytes>, known: &str| told.as_ref().is_some_and(|told| **told != *known);
        if differs(&request.protocol_type, CONSUMER) || differs(&request.protocol_name, &protocol.name) {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        // Who is to give up partitions has joined already; it goes on when it has.
        if self.epoch > member.current.epoch && member.current.state != MemberState::UnrevokedPartitions {
            self.expect_join(turn, id, member);
            return Err(ResponseError::RebalanceInProgress);
        }
        let version =
            Subscription::decode(&protocol.metadata).map_err(|_| ResponseError::UnknownServerError)?.version;
        turn.timers.cancel(Timer::MemberSync(self.id.clone(), own(id)));
        self.renew_session(turn, &own(id), member);
        Ok(SyncGroupResponse::default()
            .with_protocol_type(request.protocol_type.clone())
            .with_protocol_name(request.protocol_name.clone())
            .with_assignment(embedded::encode_assignment(version, &member.current.assigned, turn.image)))
    }

    /// Heartbeat.
    ///
    /// # Errors
    /// It is to join again, if the group has a newer epoch, if it has partitions to give up, or if those that it waits for
    /// are free.
    pub fn classic_heartbeat(&self, turn: &mut Turn<'_>, request: &HeartbeatRequest) -> Result<()> {
        let id = &request.member_id;
        let (member, _) =
            self.classic_member(id, request.group_instance_id.as_ref(), request.generation_id)?;
        self.renew_session(turn, &own(id), member);
        let is_behind = member.current.epoch < self.epoch
            || match member.current.state {
                MemberState::UnrevokedPartitions => true,
                MemberState::UnreleasedPartitions => !self.waits_for_others(id, member),
                MemberState::Stable | MemberState::Unknown => false,
            };
        if is_behind {
            self.expect_join(turn, id, member);
            return Err(ResponseError::RebalanceInProgress);
        }
        Ok(())
    }

    /// Whether somebody else still has what is to be the member's.
    fn waits_for_others(&self, id: &StrBytes, member: &Member) -> bool {
        let target = self.target.get(id).into_iter().flatten();
        target.flat_map(|(topic, partitions)| partitions.iter().map(move |p| (*topic, *p))).any(
            |(topic, p)| {
                let assigned =
                    member.current.assigned.get(&topic).is_some_and(|partitions| partitions.contains_key(&p));
                !assigned && self.owners.contains_key(&TopicIdPartition { topic_id: topic, partition: p })
            },
        )
    }

    fn expect_join(&self, turn: &mut Turn<'_>, id: &StrBytes, member: &Member) {
        let timer = Timer::MemberJoin(self.id.clone(), own(id));
        turn.schedule_if_absent(timer, member.metadata.rebalance_timeout_ms);
    }

    pub fn is_of_classic_protocol(&self, member_id: &StrBytes) -> bool {
        self.members.get(member_id).is_some_and(|member| member.metadata.classic.is_some())
    }

    /// An administrator removes static members by their instance ids alone.
    fn who_leaves(&self, identity: &MemberIdentity) -> Result<StrBytes> {
        let MemberIdentity { member_id, group_instance_id, .. } = identity;
        match group_instance_id {
            None => self.member(member_id).map(|_| member_id.clone()).map_err(error_of),
            Some(instance_id) if member_id.is_empty() => {
                self.static_members.get(instance_id).cloned().ok_or(ResponseError::UnknownMemberId)
            }
            Some(instance_id) => {
                self.known_static_member(instance_id, member_id).map(|(id, _)| id.clone()).map_err(error_of)
            }
        }
    }
}

/// LeaveGroup.
pub(in super::super) fn leave_group(
    turn: &mut Turn<'_>,
    groups: &mut Groups,
    id: &StrBytes,
    leaving: &[MemberIdentity],
) -> LeaveGroupResponse {
    let mut gone = BTreeSet::new();
    let mut members = Vec::with_capacity(leaving.len());
    for identity in leaving {
        let left = match groups.get(id) {
            Some(Group::Consumer(group)) => group.who_leaves(identity),
            _ => Err(ResponseError::UnknownMemberId),
        };
        let error = left.as_ref().err().map_or(0, ResponseError::code);
        gone.extend(left);
        members.push(
            MemberResponse::default()
                .with_member_id(identity.member_id.clone())
                .with_group_instance_id(identity.group_instance_id.clone())
                .with_error_code(error),
        );
    }
    leave::fence(turn, groups, id, &gone.into_iter().collect::<Vec<_>>());
    LeaveGroupResponse::default().with_members(members)
}
