//! The answers that may come later: those to JoinGroup and SyncGroup.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupResponse, SyncGroupResponse};
use kafka_protocol::protocol::StrBytes;

use super::super::turn::Turn;
use super::super::{Answer, Ticket};
use super::{ClassicGroup, Member};

/// A JoinGroup that waits.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Waiting {
    pub ticket: Ticket,
    pub version: i16,
}

impl Waiting {
    pub fn answer(self, turn: &mut Turn<'_>, mut response: JoinGroupResponse) {
        // Below version 7 the name could not be null.
        if self.version < 7 && response.protocol_name.is_none() {
            response.protocol_name = Some(StrBytes::new());
        }
        turn.answer(self.ticket, Answer::JoinGroup(response));
    }

    pub fn refuse(self, turn: &mut Turn<'_>, member_id: StrBytes, error: ResponseError) {
        let response = JoinGroupResponse::default().with_member_id(member_id).with_error_code(error.code());
        self.answer(turn, response);
    }
}

pub(super) fn sync_error(error: ResponseError) -> SyncGroupResponse {
    SyncGroupResponse::default().with_error_code(error.code())
}

impl ClassicGroup {
    /// This generation, as a member sees it.
    pub(super) fn joined(&self, member_id: StrBytes) -> JoinGroupResponse {
        JoinGroupResponse::default()
            .with_member_id(member_id)
            .with_generation_id(self.generation)
            .with_protocol_type(self.protocol_type.clone())
            .with_protocol_name(self.protocol_name.clone())
            .with_leader(self.leader.clone().unwrap_or_default())
    }

    /// As [`ClassicGroup::joined`]; the leader learns of all members, to share out the work.
    pub(super) fn joined_with_members(&self, member_id: StrBytes) -> JoinGroupResponse {
        let members = if self.is_leader(&member_id) { self.all_metadata() } else { Vec::new() };
        self.joined(member_id).with_members(members)
    }

    fn all_metadata(&self) -> Vec<JoinGroupResponseMember> {
        let protocol = self.protocol_name.clone().unwrap_or_default();
        let metadata = self.members.iter().map(|(member_id, member)| {
            JoinGroupResponseMember::default()
                .with_member_id(member_id.clone())
                .with_group_instance_id(member.instance_id.clone())
                .with_metadata(member.metadata(&protocol))
        });
        metadata.collect()
    }

    pub(super) fn synced(&self, member: &Member) -> SyncGroupResponse {
        SyncGroupResponse::default()
            .with_protocol_type(self.protocol_type.clone())
            .with_protocol_name(self.protocol_name.clone())
            .with_assignment(member.assignment.clone())
    }
}
