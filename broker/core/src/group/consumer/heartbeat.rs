//! ConsumerGroupHeartbeat: by it a member joins, says what it wants and what it has, and hears what it shall have
//! (Kafka's `GroupMetadataManager.consumerGroupHeartbeat`).

use std::borrow::Cow;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::super::record::{ConsumerRecord, Partitions};
use super::super::turn::{Turn, own};
use super::super::{Caller, Group, GroupRecord, Groups, configs, record};
use super::member::told;
use super::request::{self, LEAVES};
use super::work::{Extent, Made, Told, Work, carry_out};
use super::{AWAY, ConsumerGroup, Member, Refusal, leave, migrate};
use crate::ids::TopicId;

pub(in super::super) fn heartbeat(
    turn: &mut Turn<'_>,
    groups: &mut Groups,
    (request, version): (&ConsumerGroupHeartbeatRequest, i16),
    caller: &Caller,
    random: Uuid,
) -> ConsumerGroupHeartbeatResponse {
    let answer = request::check(turn.config, request, version).and_then(|()| match request.member_epoch {
        LEAVES | AWAY => leave::leave(turn, groups, request),
        _ => beat(turn, groups, request, caller, random),
    });
    answer.unwrap_or_else(Refusal::answer)
}

fn beat(
    turn: &mut Turn<'_>,
    groups: &mut Groups,
    request: &ConsumerGroupHeartbeatRequest,
    caller: &Caller,
    random: Uuid,
) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
    let id = &request.group_id.0;
    let made = make_if_joining(turn, groups, request)?;
    let group = match (&made, groups.get(id)) {
        (Some(made), _) => &made.group,
        (None, Some(Group::Consumer(group))) => group,
        (None, _) => return Err(not_found(id)),
    };
    group.has_room(turn.config, &request.member_id)?;
    let is_new = request.member_id.is_empty();
    let member_id = if is_new { StrBytes::from_string(random.to_string()) } else { own(&request.member_id) };
    let mut records = Vec::new();
    let (member, replaced) = who(group, &member_id, request, &mut records)?;
    let metadata = told(&member.metadata, request, caller);
    let owned = request.topic_partitions.as_deref().map(owned);
    let work = Work { turn, group, member_id: &member_id, owned: owned.as_ref(), records };
    let done = work.run(Told { member, replaced, metadata }, Extent::Target)?;
    let hears = request.member_epoch == 0 || request::is_full(request) || done.reassigned;
    let member = carry_out(turn, groups, (id, &member_id), made, done)?;
    let response = ConsumerGroupHeartbeatResponse::default()
        .with_member_epoch(member.current.epoch)
        .with_heartbeat_interval_ms(configs::heartbeat_interval_ms(turn.image, turn.config, id))
        .with_assignment(hears.then(|| request::assignment(&member.current.assigned)));
    Ok(response.with_member_id(Some(member_id)))
}

fn owned(topics: &[TopicPartitions]) -> Partitions {
    let mut owned = Partitions::new();
    for topic in topics {
        owned.entry(TopicId(topic.topic_id)).or_default().extend(&topic.partitions);
    }
    owned
}

/// A group for somebody who joins where there is none. An empty classic group makes place, one with members becomes one of
/// this kind, if it can.
fn make_if_joining(
    turn: &Turn<'_>,
    groups: &Groups,
    request: &ConsumerGroupHeartbeatRequest,
) -> Result<Option<Made>, Refusal> {
    let id = &request.group_id.0;
    let joins = request.member_epoch == 0;
    let before = match groups.get(id) {
        Some(Group::Consumer(_)) => return Ok(None),
        Some(Group::Classic(classic)) if joins && !classic.is_empty() => {
            return migrate::upgraded(turn, classic).map(Some);
        }
        Some(Group::Classic(_)) if joins => vec![GroupRecord { key: record::group_key(id), value: None }],
        Some(Group::Classic(_)) => return Err(not_consumer(id)),
        None if joins => Vec::new(),
        None => return Err(not_found(id)),
    };
    Ok(Some(Made { group: ConsumerGroup::new(own(id)), before }))
}

pub(super) fn not_found(id: &StrBytes) -> Refusal {
    Refusal::new(ResponseError::GroupIdNotFound, format!("Consumer group {id} not found."))
}

pub(super) fn not_consumer(id: &StrBytes) -> Refusal {
    Refusal::new(ResponseError::GroupIdNotFound, format!("Group {id} is not a consumer group."))
}

/// The member, as it was before; who joins may be a new one. A static member that comes back takes the place of the one that
/// has left, whose id is returned, too.
fn who<'a>(
    group: &'a ConsumerGroup,
    member_id: &StrBytes,
    request: &ConsumerGroupHeartbeatRequest,
    records: &mut Vec<ConsumerRecord>,
) -> Result<(Cow<'a, Member>, Option<StrBytes>), Refusal> {
    let joins = request.member_epoch == 0;
    let known = match &request.instance_id {
        None if joins => group.members.get(member_id),
        None => Some(group.member(member_id)?),
        Some(instance_id) if !joins => Some(group.known_static_member(instance_id, member_id)?.1),
        Some(instance_id) => match group.static_member(instance_id) {
            None => group.members.get(member_id),
            Some((old_id, old)) if old.metadata.classic.is_none() && old.current.epoch != AWAY => {
                let message = format!(
                    "Static member {member_id} with instance id {instance_id} cannot join the group because the instance \
                     id is owned by {old_id} member."
                );
                return Err(Refusal::new(ResponseError::UnreleasedInstanceId, message));
            }
            Some((old_id, old)) => {
                let (member, replacement) = group.replaced(old_id, old, member_id);
                records.extend(replacement);
                return Ok((Cow::Owned(member), Some(old_id.clone())));
            }
        },
    };
    let Some(member) = known else { return Ok((Cow::Owned(Member::default()), None)) };
    check_epoch(member, request)?;
    Ok((Cow::Borrowed(member), None))
}

/// Whether the member is where it says it is. The answer that told it of its present epoch may have been lost: then it may say the
/// one before, if it has nothing that it should not have.
fn check_epoch(member: &Member, request: &ConsumerGroupHeartbeatRequest) -> Result<(), Refusal> {
    let (told, known) = (request.member_epoch, member.current.epoch);
    if told == 0 || told == known {
        return Ok(());
    }
    let is_assigned = |topic: &TopicPartitions| {
        let assigned = member.current.assigned.get(&TopicId(topic.topic_id));
        assigned.is_some_and(|assigned| topic.partitions.iter().all(|p| assigned.contains_key(p)))
    };
    let owned = request.topic_partitions.as_ref();
    let answer_was_lost =
        told == member.current.previous_epoch && owned.is_some_and(|owned| owned.iter().all(is_assigned));
    if told < known && answer_was_lost {
        return Ok(());
    }
    let than = if told > known { "greater" } else { "smaller" };
    let message = format!(
        "The consumer group member has a {than} member epoch ({told}) than the one known by the group coordinator \
         ({known}). The member must abandon all its partitions and rejoin."
    );
    Err(Refusal::new(ResponseError::FencedMemberEpoch, message))
}
