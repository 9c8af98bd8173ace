//! Members that leave, or that nobody has heard of for too long.

use std::borrow::Cow;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use kafka_protocol::protocol::StrBytes;

use super::super::record::{ConsumerRecord, CurrentValue, MemberState, PartitionEpochs};
use super::super::timers::Timer;
use super::super::turn::{Turn, own};
use super::super::{Group, Groups};
use super::ahead::Ahead;
use super::heartbeat::not_consumer;
use super::{AWAY, ConsumerGroup, Refusal, migrate, next_epoch};

/// A heartbeat with the epoch -1, or -2: a static member that will be back before its session ends keeps what it has.
pub(super) fn leave(
    turn: &mut Turn<'_>,
    groups: &mut Groups,
    request: &ConsumerGroupHeartbeatRequest,
) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
    let id = &request.group_id.0;
    let group = match groups.get_mut(id) {
        Some(Group::Consumer(group)) => group,
        Some(Group::Classic(_)) => return Err(not_consumer(id)),
        None => {
            return Err(Refusal::new(ResponseError::GroupIdNotFound, format!("Group {id} not found.")));
        }
    };
    let member_id = match &request.instance_id {
        None => own(&request.member_id),
        Some(instance_id) => group.known_static_member(instance_id, &request.member_id)?.0.clone(),
    };
    let member = group.member(&member_id)?;
    if request.member_epoch == AWAY {
        let current = CurrentValue {
            epoch: AWAY,
            pending_revocation: PartitionEpochs::new(),
            ..member.current.clone()
        };
        group.commit(turn, vec![ConsumerRecord::Current(member_id.clone(), Some(current))]);
        turn.timers.cancel(Timer::Revocation(group.id.clone(), member_id));
    } else {
        fence(turn, groups, id, &[member_id]);
    }
    Ok(ConsumerGroupHeartbeatResponse::default()
        .with_member_id(Some(request.member_id.clone()))
        .with_member_epoch(request.member_epoch))
}

/// These members are not in the group any more.
pub(in super::super) fn fence(turn: &mut Turn<'_>, groups: &mut Groups, id: &StrBytes, members: &[StrBytes]) {
    let Some(Group::Consumer(group)) = groups.get(id) else { return };
    let members: Vec<_> = members.iter().filter(|id| group.members.contains_key(*id)).cloned().collect();
    if members.is_empty()
        || migrate::may_downgrade(turn, group, &members, 0)
            && migrate::downgrade(turn, groups, id, &members, false)
    {
        return;
    }
    if let Some(Group::Consumer(group)) = groups.get_mut(id) {
        group.remove(turn, &members);
    }
}

impl ConsumerGroup {
    fn remove(&mut self, turn: &mut Turn<'_>, members: &[StrBytes]) {
        let mut records = Vec::new();
        let mut regexes = Cow::Borrowed(&self.regexes);
        let mut subscribers = self.regex_subscribers.clone();
        for id in members {
            records.push(ConsumerRecord::Current(id.clone(), None));
            records.push(ConsumerRecord::Target(id.clone(), None));
            records.push(ConsumerRecord::Member(id.clone(), None));
        }
        for regex in members.iter().filter_map(|id| Some(&self.members.get(id)?.metadata.subscribed_regex)) {
            let Some(count) = subscribers.get_mut(regex) else { continue };
            *count -= 1;
            if *count == 0 && regexes.to_mut().remove(regex).is_some() {
                records.push(ConsumerRecord::Regex(regex.clone(), None));
            }
        }
        let ahead = Ahead { group: self, without: members, member: None, regexes };
        let (_, record) = next_epoch(self.epoch, ahead.metadata_hash(turn.image));
        records.push(record);
        self.commit(turn, records);
    }

    /// [`Timer::Revocation`]: whether the member still has what it was to give up long ago.
    pub fn revocation_is_overdue(&self, member_id: &StrBytes) -> bool {
        let member = self.members.get(member_id);
        member.is_some_and(|member| member.current.state == MemberState::UnrevokedPartitions)
    }
}
