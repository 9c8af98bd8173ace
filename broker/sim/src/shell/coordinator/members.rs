//! Members of the consumer protocol: what an observer learns of them from calls and steps, and how a broker with planted bugs
//! takes their requests.

use chronik_core::group::{self, Ticket};
use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::consumer_group_describe_response::Member;
use kafka_protocol::protocol::StrBytes;

use super::machine::{Machine, Step};
use super::{Answer, Call};
use crate::bugs::Bugs;
use crate::invariants::Claim;
use crate::roster::Fact;

impl Call {
    /// The group that a heartbeat of this protocol is for.
    pub(super) fn heartbeat_in(&self) -> Option<StrBytes> {
        match self {
            Call::Group(group::Call::ConsumerGroupHeartbeat(request, ..)) => Some(request.group_id.0.clone()),
            _ => None,
        }
    }

    /// A commit by somebody who says which member it is.
    pub(super) fn claim(&self) -> Option<Claim> {
        let Call::Group(group::Call::OffsetCommit(request, _)) = self else { return None };
        let partitions = request.topics.iter().flat_map(|topic| &topic.partitions);
        Some(Claim {
            member: (request.group_id.0.clone(), request.member_id.clone()),
            epoch: request.generation_id_or_member_epoch,
            partitions: partitions.map(|partition| partition.partition_index).collect(),
        })
    }

    /// What a broker with these bugs takes it for.
    pub(super) fn mistaken(mut self, machine: &mut Machine, now_ms: i64, bugs: &Bugs) -> Call {
        match &mut self {
            Call::Group(group::Call::ConsumerGroupHeartbeat(request, ..)) if bugs.revocation_assumed => {
                request.topic_partitions = Some(Vec::new());
            }
            Call::Group(group::Call::ConsumerGroupHeartbeat(request, ..))
                if bugs.instance_not_fenced && request.member_epoch > 0 && request.instance_id.is_some() =>
            {
                let is_it = |known: &Member| known.instance_id == request.instance_id;
                if let Some(known) = machine.member(now_ms, &request.group_id, is_it) {
                    request.member_id = known.member_id;
                    request.member_epoch = known.member_epoch;
                }
            }
            Call::Group(group::Call::OffsetCommit(request, _)) if bugs.stale_epoch_accepted => {
                let is_it = |known: &Member| known.member_id == request.member_id;
                if let Some(known) = machine.member(now_ms, &request.group_id, is_it) {
                    request.generation_id_or_member_epoch = known.member_epoch;
                }
            }
            _ => {}
        }
        self
    }
}

impl Machine {
    fn member(&mut self, now_ms: i64, id: &GroupId, is_it: impl Fn(&Member) -> bool) -> Option<Member> {
        let Machine::Groups(shard) = self else { return None };
        let call = group::Call::ConsumerGroupDescribe(id.clone(), 1);
        let step = shard.handle(now_ms, Ticket(0), call, Default::default());
        step.answers.into_iter().find_map(|(_, answer)| match answer {
            group::Answer::ConsumerGroupDescribe(told) => told.members.into_iter().find(&is_it),
            _ => None,
        })
    }
}

impl Step {
    /// What a heartbeat in this group will be told of its member.
    pub fn told(&self, group: &StrBytes) -> Option<Fact> {
        self.answers.iter().find_map(|(_, answer)| match answer {
            Answer::Group(answer) => Fact::told(group, answer),
            Answer::Txn(_) => None,
        })
    }

    /// What its records say of members, before what it tells one of them.
    pub fn facts(&self, told: Vec<Fact>) -> Vec<Fact> {
        self.records.iter().filter_map(Fact::untold).chain(told).collect()
    }

    pub fn answers_heartbeat(&self) -> bool {
        let heartbeat =
            |answer: &Answer| matches!(answer, Answer::Group(group::Answer::ConsumerGroupHeartbeat(_)));
        self.answers.iter().any(|(_, answer)| heartbeat(answer))
    }
}
