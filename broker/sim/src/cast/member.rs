//! A member of a classic consumer group: it joins, syncs, commits offsets of what it owns, keeps its session, leaves or dies.

use bytes::Bytes;
use chronik_core::group::{self, Caller};
use chronik_core::ids::TopicIdPartition;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    OffsetCommitResponse, SyncGroupRequest, SyncGroupResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::line::Line;
use crate::env::{Env, Event};
use crate::invariants::{self, INPUTS, Violation};
use crate::post::{Ask, Told};
use crate::shell::{Answer, Call};
use crate::stats::Deed;
use crate::topics::DATA_TOPIC;

enum Phase {
    Out,
    /// With the members, if it leads.
    Joined(Vec<StrBytes>),
    /// With the partitions that it owns.
    Working(Vec<u8>),
}

pub(super) struct Member {
    number: usize,
    line: Line,
    group: StrBytes,
    at: TopicIdPartition,
    session_timeout_ms: i32,
    member_id: StrBytes,
    generation: i32,
    phase: Phase,
}

const PROTOCOL: &str = "range";
const CONSUMER: &str = "consumer";

impl Member {
    pub fn new(env: &mut Env, number: usize, group: StrBytes, at: TopicIdPartition) -> Member {
        Member {
            number,
            // A JoinGroup may wait as long as all members take to join.
            line: Line::new(number, 6000, false),
            group,
            at,
            session_timeout_ms: env.rng.between(2000, 8000) as i32,
            member_id: StrBytes::new(),
            generation: -1,
            phase: Phase::Out,
        }
    }

    pub fn act(&mut self, env: &mut Env) {
        let pause_us =
            if env.rng.percent(3) { env.rng.between(2000, 12_000) } else { env.rng.between(50, 900) };
        env.after(pause_us, Event::Act { actor: self.number });
        if env.rng.percent(1) {
            self.line.hang_up(env);
            return self.out(true);
        }
        if self.line.waits() {
            return;
        }
        let call = match &self.phase {
            Phase::Out => self.join(),
            Phase::Joined(members) => self.sync(members),
            Phase::Working(_) if env.rng.percent(2) => self.leave(),
            Phase::Working(owned) => match env.rng.pick(owned).copied() {
                Some(partition) if env.rng.percent(60) => {
                    env.history.commits += 1;
                    let offset = (i32::from(partition), env.history.commits);
                    commit(&self.group, &self.member_id, self.generation, offset)
                }
                _ => self.heartbeat(),
            },
        };
        self.line.ask(env, Ask::Coordinator(self.at, Box::new(Call::Group(call))));
    }

    fn join(&self) -> group::Call {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(StrBytes::from_static_str(PROTOCOL))
            .with_metadata(Bytes::from_static(b"m"));
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(self.group.clone()))
            .with_session_timeout_ms(self.session_timeout_ms)
            .with_rebalance_timeout_ms(4000)
            .with_member_id(self.member_id.clone())
            .with_protocol_type(StrBytes::from_static_str(CONSUMER))
            .with_protocols(vec![protocol]);
        let caller = Caller { client_id: "sim".to_string(), client_host: "/127.0.0.1".to_string() };
        group::Call::JoinGroup(request, 9, caller)
    }

    fn sync(&self, members: &[StrBytes]) -> group::Call {
        let share = |index: usize| -> Vec<u8> {
            (0..INPUTS as u8).filter(|partition| usize::from(*partition) % members.len() == index).collect()
        };
        let assignments = members.iter().enumerate().map(|(index, id)| {
            let share = Bytes::from(share(index));
            SyncGroupRequestAssignment::default().with_member_id(id.clone()).with_assignment(share)
        });
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(self.group.clone()))
            .with_generation_id(self.generation)
            .with_member_id(self.member_id.clone())
            .with_protocol_type(Some(StrBytes::from_static_str(CONSUMER)))
            .with_protocol_name(Some(StrBytes::from_static_str(PROTOCOL)))
            .with_assignments(assignments.collect());
        group::Call::SyncGroup(request, 5)
    }

    fn heartbeat(&self) -> group::Call {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(self.group.clone()))
            .with_generation_id(self.generation)
            .with_member_id(self.member_id.clone());
        group::Call::Heartbeat(request, 4)
    }

    fn leave(&self) -> group::Call {
        let member = MemberIdentity::default().with_member_id(self.member_id.clone());
        let request = LeaveGroupRequest::default()
            .with_group_id(GroupId(self.group.clone()))
            .with_members(vec![member]);
        group::Call::LeaveGroup(request, 5)
    }

    pub fn late(&mut self, env: &mut Env, number: u64) {
        if self.line.is_late(env, number) && env.rng.percent(10) {
            self.out(true);
        }
    }

    pub fn hear(&mut self, env: &mut Env, number: u64, told: Told) -> Result<(), Violation> {
        if !self.line.hears(number) {
            return Ok(());
        }
        // A coordinator that is not there, or not yet, is asked again.
        let Ok(Answer::Group(answer)) = told else { return Ok(()) };
        match answer {
            group::Answer::JoinGroup(response) => self.hear_joined(env, response),
            group::Answer::SyncGroup(response) => return self.hear_synced(env, response),
            group::Answer::Heartbeat(response) => self.fail(env, response.error_code),
            group::Answer::OffsetCommit(response) => self.hear_committed(env, &response),
            group::Answer::LeaveGroup(_) => {
                env.stats.deed(Deed::MemberLeft);
                self.out(true);
            }
            _ => {}
        }
        Ok(())
    }

    fn hear_joined(&mut self, env: &mut Env, response: JoinGroupResponse) {
        match ResponseError::try_from_code(response.error_code) {
            None => {
                self.member_id = response.member_id;
                self.generation = response.generation_id;
                let members = response.members.into_iter().map(|member| member.member_id);
                self.phase = Phase::Joined(members.collect());
            }
            Some(ResponseError::MemberIdRequired) => self.member_id = response.member_id,
            Some(error) => self.fail(env, error.code()),
        }
    }

    fn hear_synced(&mut self, env: &mut Env, response: SyncGroupResponse) -> Result<(), Violation> {
        if response.error_code != 0 {
            self.fail(env, response.error_code);
            return Ok(());
        }
        let owned = response.assignment.to_vec();
        invariants::owns(env, &self.group, self.generation, &self.member_id, &owned)?;
        self.phase = Phase::Working(owned);
        Ok(())
    }

    fn hear_committed(&mut self, env: &mut Env, response: &OffsetCommitResponse) {
        match refusal(response) {
            None => env.stats.deed(Deed::OffsetsCommitted),
            Some(code) => self.fail(env, code),
        }
    }

    /// As clients do: after most errors they join again, with their id unless that is the problem.
    fn fail(&mut self, env: &mut Env, code: i16) {
        if code == 0 {
            return;
        }
        let forget = code == ResponseError::UnknownMemberId.code();
        if forget {
            env.stats.deed(Deed::MemberFenced);
        }
        self.out(forget);
    }

    fn out(&mut self, forget: bool) {
        self.phase = Phase::Out;
        if forget {
            self.member_id = StrBytes::new();
            self.generation = -1;
        }
    }
}

/// A member commits how far it has come in a partition; `epoch` is its generation, or its own epoch.
pub(super) fn commit(
    group: &StrBytes,
    member_id: &StrBytes,
    epoch: i32,
    (partition, offset): (i32, i64),
) -> group::Call {
    let partition =
        OffsetCommitRequestPartition::default().with_partition_index(partition).with_committed_offset(offset);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(DATA_TOPIC)))
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(group.clone()))
        .with_generation_id_or_member_epoch(epoch)
        .with_member_id(member_id.clone())
        .with_topics(vec![topic]);
    group::Call::OffsetCommit(request, 9)
}

/// The error that a commit was answered with, if any.
pub(super) fn refusal(response: &OffsetCommitResponse) -> Option<i16> {
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|partition| partition.error_code).find(|code| *code != 0)
}
