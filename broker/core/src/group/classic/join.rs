//! JoinGroup.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::super::turn::{Turn, own, own_bytes};
use super::super::{Caller, GroupConfig, record};
use super::answers::Waiting;
use super::{ClassicGroup, Member, Protocol, State};

/// How long a JoinGroup of a new member may wait (Kafka: `classicGroupNewMemberJoinTimeoutMs`). It sends no heartbeats,
/// and nobody notices when its connection breaks.
const NEW_MEMBER_JOIN_TIMEOUT_MS: i32 = 5 * 60 * 1000;

/// Who joins.
pub(super) struct Joining {
    waiting: Waiting,
    member_id: StrBytes,
    instance_id: Option<StrBytes>,
    protocol_type: StrBytes,
    protocols: Vec<Protocol>,
    rebalance_timeout_ms: i32,
    session_timeout_ms: i32,
    caller: Caller,
    random: Uuid,
}

/// No name twice.
pub(in super::super) fn protocols_of(request: &JoinGroupRequest) -> Vec<Protocol> {
    let mut protocols: Vec<Protocol> = Vec::new();
    for protocol in &request.protocols {
        if protocols.iter().all(|known| known.name != protocol.name) {
            protocols.push(Protocol { name: own(&protocol.name), metadata: own_bytes(&protocol.metadata) });
        }
    }
    protocols
}

impl Joining {
    pub fn new(request: &JoinGroupRequest, waiting: Waiting, caller: Caller, random: Uuid) -> Joining {
        // Version 0 had one timeout for both.
        let one_timeout = waiting.version == 0;
        Joining {
            waiting,
            member_id: own(&request.member_id),
            instance_id: request.group_instance_id.as_ref().map(own),
            protocol_type: own(&request.protocol_type),
            protocols: protocols_of(request),
            rebalance_timeout_ms: if one_timeout {
                request.session_timeout_ms
            } else {
                request.rebalance_timeout_ms
            },
            session_timeout_ms: request.session_timeout_ms,
            caller,
            random,
        }
    }

    /// Whether records can hold all that it says.
    pub fn is_writable(&self) -> bool {
        record::writable(&self.new_member_id())
            && record::writable(&self.protocol_type)
            && record::writable(&self.caller.client_host)
            && self.instance_id.as_deref().is_none_or(record::writable)
            && self.protocols.iter().all(|protocol| record::writable(&protocol.name))
    }

    fn new_member_id(&self) -> StrBytes {
        let prefix = self.instance_id.as_deref().map_or(self.caller.client_id.as_str(), |id| id);
        StrBytes::from_string(format!("{prefix}-{}", self.random))
    }

    fn refuse(self, turn: &mut Turn<'_>, error: ResponseError) {
        self.waiting.refuse(turn, self.member_id, error);
    }
}

impl ClassicGroup {
    pub(super) fn join(&mut self, turn: &mut Turn<'_>, joining: Joining) {
        if !self.accepts(turn.config, &joining.member_id) {
            self.remove(turn, &joining.member_id);
            joining.waiting.refuse(turn, StrBytes::new(), ResponseError::GroupMaxSizeReached);
        } else if !self.supports(&joining.protocol_type, &joining.protocols) {
            joining.refuse(turn, ResponseError::InconsistentGroupProtocol);
        } else if joining.member_id.is_empty() {
            self.join_anew(turn, joining);
        } else {
            self.join_again(turn, joining);
        }
    }

    /// `group.max.size`. While the group rebalances, those count who have joined: so the last ones are kicked out of a
    /// group that is too big.
    fn accepts(&self, config: &GroupConfig, member_id: &StrBytes) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            State::Empty => true,
            State::PreparingRebalance(_) => {
                let joined = || self.members.values().filter(|member| member.has_joined()).count();
                self.members.len() < config.max_size
                    || member.is_some_and(Member::has_joined)
                    || joined() < config.max_size
            }
            State::CompletingRebalance | State::Stable => {
                member.is_some() || self.members.len() < config.max_size
            }
        }
    }

    /// Somebody who has no member id yet.
    fn join_anew(&mut self, turn: &mut Turn<'_>, joining: Joining) {
        let new_id = joining.new_member_id();
        match &joining.instance_id {
            Some(instance_id) => match self.static_members.get(instance_id).cloned() {
                Some(old_id) => self.replace(turn, joining, &old_id, new_id),
                None => self.add(turn, joining, new_id),
            },
            // KIP-394: who comes back with this id will have read the answer, and is not gone already.
            None if joining.waiting.version >= 4 => {
                turn.schedule(self.session(&new_id), joining.session_timeout_ms);
                self.pending_join.insert(new_id.clone());
                joining.waiting.refuse(turn, new_id, ResponseError::MemberIdRequired);
            }
            None => self.add(turn, joining, new_id),
        }
    }

    fn join_again(&mut self, turn: &mut Turn<'_>, joining: Joining) {
        let member_id = joining.member_id.clone();
        if self.pending_join.contains(&member_id) {
            // Ids are pending of dynamic members only. Kafka fails in the same way.
            return match joining.instance_id {
                Some(_) => joining.refuse(turn, ResponseError::UnknownServerError),
                None => self.add(turn, joining, member_id),
            };
        }
        if let Err(error) = self.validate(&member_id, joining.instance_id.as_ref()) {
            let response =
                JoinGroupResponse::default().with_member_id(member_id).with_error_code(error.code());
            return joining.waiting.answer(turn, response.with_protocol_name(None));
        }
        let unchanged =
            self.members.get(&member_id).is_some_and(|member| member.protocols == joining.protocols);
        match self.state {
            // It has not got the answer to its JoinGroup.
            State::CompletingRebalance if unchanged => {
                joining.waiting.answer(turn, self.joined_with_members(member_id));
            }
            // A leader joins again when what is to be shared out has changed.
            State::Stable if unchanged && !self.is_leader(&member_id) => {
                joining.waiting.answer(turn, self.joined(member_id));
            }
            _ => {
                self.update(turn, &member_id, joining);
                self.rebalance_or_complete(turn);
            }
        }
    }

    fn add(&mut self, turn: &mut Turn<'_>, joining: Joining, member_id: StrBytes) {
        if let State::PreparingRebalance(Some(initial)) = &mut self.state {
            initial.new_member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(joining.protocol_type);
        }
        let member = Member {
            instance_id: joining.instance_id,
            client_id: StrBytes::from_string(joining.caller.client_id),
            client_host: StrBytes::from_string(joining.caller.client_host),
            rebalance_timeout_ms: joining.rebalance_timeout_ms,
            session_timeout_ms: joining.session_timeout_ms,
            protocols: joining.protocols,
            assignment: Default::default(),
            is_new: true,
            awaiting_join: Some(joining.waiting),
            awaiting_sync: None,
        };
        turn.schedule(self.session(&member_id), NEW_MEMBER_JOIN_TIMEOUT_MS);
        self.insert(member_id, member);
        self.rebalance_or_complete(turn);
    }

    /// A member waits for the next generation. An earlier JoinGroup of the same member, whose connection will be gone,
    /// does not wait any more; Kafka forgets about it.
    fn update(&mut self, turn: &mut Turn<'_>, member_id: &StrBytes, joining: Joining) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        let protocols = std::mem::replace(&mut member.protocols, joining.protocols.clone());
        member.rebalance_timeout_ms = joining.rebalance_timeout_ms;
        member.session_timeout_ms = joining.session_timeout_ms;
        if let Some(earlier) = member.awaiting_join.replace(joining.waiting) {
            earlier.refuse(turn, member_id.clone(), ResponseError::RebalanceInProgress);
        }
        self.discount_protocols(&protocols);
        self.count_protocols(&joining.protocols);
    }

    /// A static member is back, under a new member id; whoever still uses the old one is fenced. In a stable group that
    /// changes nothing for the others, so there is no rebalance.
    fn replace(&mut self, turn: &mut Turn<'_>, joining: Joining, old_id: &StrBytes, new_id: StrBytes) {
        let old_leader = self.leader.clone().unwrap_or_default();
        let version = joining.waiting.version;
        self.rename(turn, old_id, &new_id);
        self.update(turn, &new_id, joining);
        self.renew_session(turn, &new_id);
        if self.state == State::Stable
            && self.select_protocol() == self.protocol_name
            && let Some(record) = self.fitting_record(turn)
        {
            turn.step.records.push(record);
            self.subscribed_topics = self.topics_of_members();
            let response = if version >= 9 {
                let skip_assignment = self.is_leader(&new_id);
                self.joined_with_members(new_id.clone()).with_skip_assignment(skip_assignment)
            } else {
                // A leader that cannot skip the assignment must not notice that it is the leader.
                self.joined(new_id.clone()).with_leader(old_leader)
            };
            let waiting = self.members.get_mut(&new_id).and_then(|member| member.awaiting_join.take());
            if let Some(waiting) = waiting {
                waiting.answer(turn, response);
            }
        } else {
            // While assignments are awaited, the leader may be at work with the old id. What it assigns to that would
            // reach nobody.
            self.rebalance_or_complete(turn);
        }
    }

    fn rename(&mut self, turn: &mut Turn<'_>, old_id: &StrBytes, new_id: &StrBytes) {
        let Some(mut member) = self.members.remove(old_id) else { return };
        if let Some(waiting) = member.awaiting_join.take() {
            let error = ResponseError::FencedInstanceId.code();
            let response = JoinGroupResponse::default().with_member_id(old_id.clone()).with_error_code(error);
            waiting.answer(turn, response.with_protocol_name(None));
        }
        member.dismiss(turn, old_id.clone(), ResponseError::FencedInstanceId);
        member.is_new = false;
        turn.timers.cancel(self.session(old_id));
        if self.is_leader(old_id) {
            self.leader = Some(new_id.clone());
        }
        if self.pending_sync.remove(old_id) {
            self.pending_sync.insert(new_id.clone());
        }
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), new_id.clone());
        }
        self.members.insert(new_id.clone(), member);
    }
}
