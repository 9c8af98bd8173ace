//! Heartbeats, sessions that end, and members that leave.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{HeartbeatRequest, LeaveGroupResponse};
use kafka_protocol::protocol::StrBytes;

use super::super::turn::Turn;
use super::{ClassicGroup, State};

impl ClassicGroup {
    pub(super) fn heartbeat(
        &self,
        turn: &mut Turn<'_>,
        request: &HeartbeatRequest,
    ) -> Result<(), ResponseError> {
        self.validate(&request.member_id, request.group_instance_id.as_ref())?;
        if request.generation_id != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        self.renew_session(turn, &request.member_id);
        if self.is_preparing() { Err(ResponseError::RebalanceInProgress) } else { Ok(()) }
    }

    /// Whether a member may commit offsets, and if so, it was heard of. Without member and generation: whether anybody
    /// may, which is while the group is empty.
    pub fn offset_commit(
        &self,
        turn: &mut Turn<'_>,
        member_id: &StrBytes,
        instance_id: Option<&StrBytes>,
        generation: i32,
    ) -> Result<(), ResponseError> {
        if generation < 0 && self.is_empty() {
            return Ok(());
        }
        if generation < 0 && member_id.is_empty() && instance_id.is_none() {
            return Err(ResponseError::UnknownMemberId);
        }
        self.validate(member_id, instance_id)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        if self.state == State::CompletingRebalance {
            return Err(ResponseError::RebalanceInProgress);
        }
        self.renew_session(turn, member_id);
        Ok(())
    }

    /// The same within a producer's transaction. It is no sign of life, and does not mind the state; who tells neither member
    /// nor generation is not fenced, as producers could not tell them before KIP-447.
    pub fn txn_offset_commit(
        &self,
        member_id: &StrBytes,
        instance_id: Option<&StrBytes>,
        generation: i32,
    ) -> Result<(), ResponseError> {
        let untold = member_id.is_empty() && instance_id.is_none();
        if generation < 0 && (untold || self.is_empty()) {
            return Ok(());
        }
        self.validate(member_id, instance_id)?;
        if generation == self.generation { Ok(()) } else { Err(ResponseError::IllegalGeneration) }
    }

    /// [`Timer::Session`](super::super::timers::Timer::Session).
    pub fn session_is_over(&mut self, turn: &mut Turn<'_>, member_id: &StrBytes) {
        let pending = self.pending_join.contains(member_id);
        let gone = self.members.get(member_id).is_some_and(|member| !member.is_excused());
        if !pending && !gone {
            return;
        }
        self.remove(turn, member_id);
        if self.is_preparing() {
            // Here even an initial rebalance may end, as in Kafka.
            if self.all_have_joined() {
                self.complete_join(turn);
            }
        } else if gone {
            self.prepare_rebalance(turn);
        }
    }

    pub(super) fn leave(&mut self, turn: &mut Turn<'_>, leaving: &[MemberIdentity]) -> LeaveGroupResponse {
        let mut anybody = false;
        let mut members = Vec::with_capacity(leaving.len());
        for identity in leaving {
            let left = self.who_leaves(identity);
            let error = left.as_ref().err().map_or(0, ResponseError::code);
            if let Ok(member_id) = left {
                self.remove(turn, &member_id);
                anybody = true;
            }
            members.push(
                MemberResponse::default()
                    .with_member_id(identity.member_id.clone())
                    .with_group_instance_id(identity.group_instance_id.clone())
                    .with_error_code(error),
            );
        }
        if anybody && !self.is_empty() {
            self.rebalance_or_complete(turn);
        }
        LeaveGroupResponse::default().with_members(members)
    }

    /// An administrator removes static members by their instance ids alone.
    fn who_leaves(&self, identity: &MemberIdentity) -> Result<StrBytes, ResponseError> {
        let MemberIdentity { member_id, group_instance_id, .. } = identity;
        if member_id.is_empty() {
            let known = group_instance_id.as_ref().and_then(|id| self.static_members.get(id));
            return known.cloned().ok_or(ResponseError::UnknownMemberId);
        }
        if !self.pending_join.contains(member_id) {
            self.validate(member_id, group_instance_id.as_ref())?;
        }
        Ok(member_id.clone())
    }
}
