//! SyncGroup: the leader tells the assignments, the others ask for theirs.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::SyncGroupRequest;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::protocol::StrBytes;

use super::super::timers::Timer;
use super::super::turn::{Turn, own_bytes};
use super::super::{Answer, Ticket};
use super::answers::sync_error;
use super::{ClassicGroup, State};

impl ClassicGroup {
    pub(super) fn sync(&mut self, turn: &mut Turn<'_>, ticket: Ticket, request: &SyncGroupRequest) {
        if let Err(error) = self.validate_sync(request) {
            turn.answer(ticket, Answer::SyncGroup(sync_error(error)));
            return;
        }
        self.no_longer_pending(turn, &request.member_id);
        if self.state == State::Stable {
            return self.answer_sync(turn, &request.member_id, ticket);
        }
        let Some(member) = self.members.get_mut(&request.member_id) else { return };
        // An earlier SyncGroup of the same member, whose connection will be gone, does not wait any more.
        if let Some(earlier) = member.awaiting_sync.replace(ticket) {
            turn.answer(earlier, Answer::SyncGroup(sync_error(ResponseError::RebalanceInProgress)));
        }
        if self.is_leader(&request.member_id) {
            self.assign(turn, &request.assignments);
        }
    }

    fn validate_sync(&self, request: &SyncGroupRequest) -> Result<(), ResponseError> {
        self.validate(&request.member_id, request.group_instance_id.as_ref())?;
        if request.generation_id != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        let differs = |theirs: &Option<StrBytes>, ours: &Option<StrBytes>| {
            theirs.is_some() && ours.is_some() && theirs != ours
        };
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol_name)
        {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        if self.is_preparing() { Err(ResponseError::RebalanceInProgress) } else { Ok(()) }
    }

    fn no_longer_pending(&mut self, turn: &mut Turn<'_>, member_id: &StrBytes) {
        self.pending_sync.remove(member_id);
        if self.pending_sync.is_empty() {
            turn.timers.cancel(Timer::Sync(self.id.clone()));
        }
    }

    /// Who is not in the leader's list gets nothing.
    fn assign(&mut self, turn: &mut Turn<'_>, assignments: &[SyncGroupRequestAssignment]) {
        let given: BTreeMap<&StrBytes, &Bytes> =
            assignments.iter().map(|given| (&given.member_id, &given.assignment)).collect();
        for (member_id, member) in &mut self.members {
            member.assignment = given.get(member_id).map(|given| own_bytes(given)).unwrap_or_default();
        }
        self.transition(turn, State::Stable);
        let Some(record) = self.fitting_record(turn) else {
            self.reset_assignments(turn, ResponseError::UnknownServerError);
            return self.prepare_rebalance(turn);
        };
        turn.step.records.push(record);
        for (member_id, ticket) in self.take_syncs() {
            self.answer_sync(turn, &member_id, ticket);
            self.renew_session(turn, &member_id);
        }
    }

    fn answer_sync(&self, turn: &mut Turn<'_>, member_id: &StrBytes, ticket: Ticket) {
        if let Some(member) = self.members.get(member_id) {
            turn.answer(ticket, Answer::SyncGroup(self.synced(member)));
        }
    }

    /// Nothing comes of this generation.
    pub(super) fn reset_assignments(&mut self, turn: &mut Turn<'_>, error: ResponseError) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for (member_id, ticket) in self.take_syncs() {
            turn.answer(ticket, Answer::SyncGroup(sync_error(error)));
            self.renew_session(turn, &member_id);
        }
    }

    fn take_syncs(&mut self) -> Vec<(StrBytes, Ticket)> {
        let waiting = self
            .members
            .iter_mut()
            .filter_map(|(id, member)| member.awaiting_sync.take().map(|ticket| (id.clone(), ticket)));
        waiting.collect()
    }
}
