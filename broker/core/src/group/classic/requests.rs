//! The four requests of members: what is checked before their group is asked.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, SyncGroupRequest,
};
use uuid::Uuid;

use super::super::turn::{Turn, own};
use super::super::{Answer, Caller, Group, Groups, Ticket, consumer, record};
use super::ClassicGroup;
use super::answers::{Waiting, sync_error};
use super::join::Joining;

pub(in super::super) fn join_group(
    turn: &mut Turn<'_>,
    groups: &mut Groups,
    waiting: (Ticket, i16),
    request: &JoinGroupRequest,
    caller: Caller,
    random: Uuid,
) {
    let waiting = Waiting { ticket: waiting.0, version: waiting.1 };
    let joining = Joining::new(request, waiting, caller.clone(), random);
    let sessions = turn.config.min_session_timeout_ms..=turn.config.max_session_timeout_ms;
    let refusal = if request.group_id.is_empty() || !record::writable(&request.group_id) {
        Some(ResponseError::InvalidGroupId)
    } else if !sessions.contains(&request.session_timeout_ms) {
        Some(ResponseError::InvalidSessionTimeout)
    } else if !joining.is_writable() {
        Some(ResponseError::InvalidRequest)
    } else if !request.member_id.is_empty() && !groups.contains_key(&request.group_id.0) {
        Some(ResponseError::UnknownMemberId)
    } else {
        None
    };
    if let Some(error) = refusal {
        return waiting.refuse(turn, request.member_id.clone(), error);
    }
    match groups.get_mut(&request.group_id.0) {
        Some(Group::Classic(group)) => return group.join(turn, joining),
        Some(Group::Consumer(group)) if !group.is_empty() => {
            let joined = consumer::join(turn, groups, (request, waiting.version), &caller, random);
            let refused = |e: ResponseError| JoinGroupResponse::default().with_error_code(e.code());
            return waiting.answer(turn, joined.unwrap_or_else(refused));
        }
        // A member that an empty group does not know. Kafka has dropped the group by then.
        Some(Group::Consumer(_)) if !request.member_id.is_empty() => {
            return waiting.refuse(turn, request.member_id.clone(), ResponseError::UnknownMemberId);
        }
        // It becomes a classic one.
        Some(Group::Consumer(group)) => turn.step.records.extend(group.tombstones()),
        None => {}
    }
    let id = own(&request.group_id);
    let mut group = ClassicGroup::new(id.clone(), turn.now_ms);
    let written = turn.step.records.len();
    group.join(turn, joining);
    if turn.step.records.len() == written {
        group.persist_new(turn);
    }
    groups.insert(id, Group::Classic(group));
}

pub(in super::super) fn sync_group(
    turn: &mut Turn<'_>,
    groups: &mut Groups,
    ticket: Ticket,
    request: &SyncGroupRequest,
    version: i16,
) {
    // KIP-559: from version 5 on, both are mandatory.
    let inconsistent = version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none());
    let refusal = if inconsistent {
        ResponseError::InconsistentGroupProtocol
    } else if request.group_id.is_empty() {
        ResponseError::InvalidGroupId
    } else {
        match groups.get_mut(&request.group_id.0) {
            Some(Group::Classic(group)) => return group.sync(turn, ticket, request),
            Some(Group::Consumer(group)) => match group.sync(turn, request) {
                Ok(response) => return turn.answer(ticket, Answer::SyncGroup(response)),
                Err(error) => error,
            },
            None => ResponseError::UnknownMemberId,
        }
    };
    turn.answer(ticket, Answer::SyncGroup(sync_error(refusal)));
}

pub(in super::super) fn heartbeat(
    turn: &mut Turn<'_>,
    groups: &Groups,
    request: &HeartbeatRequest,
) -> HeartbeatResponse {
    let result = match groups.get(&request.group_id.0) {
        _ if request.group_id.is_empty() => Err(ResponseError::InvalidGroupId),
        Some(Group::Classic(group)) => group.heartbeat(turn, request),
        Some(Group::Consumer(group)) => group.classic_heartbeat(turn, request),
        None => Err(ResponseError::UnknownMemberId),
    };
    HeartbeatResponse::default().with_error_code(result.err().map_or(0, |error| error.code()))
}

/// Below version 3 one member leaves, and its error is the request's.
pub(in super::super) fn leave_group(
    turn: &mut Turn<'_>,
    groups: &mut Groups,
    request: &LeaveGroupRequest,
    version: i16,
) -> LeaveGroupResponse {
    if request.group_id.is_empty() {
        return LeaveGroupResponse::default().with_error_code(ResponseError::InvalidGroupId.code());
    }
    let one = [MemberIdentity::default().with_member_id(request.member_id.clone())];
    let leaving = if version < 3 { &one[..] } else { &request.members[..] };
    let response = match groups.get_mut(&request.group_id.0) {
        Some(Group::Classic(group)) => group.leave(turn, leaving),
        Some(Group::Consumer(_)) => consumer::leave_group(turn, groups, &request.group_id, leaving),
        None => LeaveGroupResponse::default().with_members(leaving.iter().map(unknown).collect()),
    };
    match response.members.first() {
        Some(member) if version < 3 => LeaveGroupResponse::default().with_error_code(member.error_code),
        _ => response,
    }
}

fn unknown(identity: &MemberIdentity) -> MemberResponse {
    MemberResponse::default()
        .with_member_id(identity.member_id.clone())
        .with_group_instance_id(identity.group_instance_id.clone())
        .with_error_code(ResponseError::UnknownMemberId.code())
}
