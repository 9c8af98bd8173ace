//! What becomes of offsets that nobody needs, as they expire (KIP-211), and of groups that are empty and have none.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::protocol::StrBytes;

use super::classic::{ClassicGroup, State};
use super::offsets::{GroupOffsets, Offsets};
use super::record::{self, OffsetValue};
use super::turn::Turn;
use super::{Group, Groups};

/// Every `offsets.retention.check.interval.ms`.
pub(super) fn expire(turn: &mut Turn<'_>, groups: &mut Groups, offsets: &mut Offsets) {
    let mut empty = Vec::new();
    for (id, group) in groups.iter() {
        if let Some(committed) = offsets.of(id) {
            let dead =
                expired(turn, group, committed, |topic, partition| offsets.is_pending(id, topic, partition));
            offsets.bury(turn, id, dead);
        }
        if group.is_empty() && offsets.of(id).is_none() && !offsets.has_pending(id) {
            empty.push(id.clone());
        }
    }
    for id in empty {
        remove(turn, groups, &id);
    }
}

/// What a transaction is about to renew does not expire.
fn expired(
    turn: &Turn<'_>,
    group: &Group,
    committed: &GroupOffsets,
    is_pending: impl Fn(&StrBytes, i32) -> bool,
) -> Vec<(StrBytes, i32)> {
    let Some(retained_since) = retention(group) else { return Vec::new() };
    let is_over = |value: &OffsetValue| match value.expire_timestamp_ms {
        Some(at_ms) => turn.now_ms >= at_ms,
        None => turn.now_ms.saturating_sub(retained_since(value)) >= turn.config.offsets_retention_ms,
    };
    let mut dead = Vec::new();
    for (topic, partitions) in committed.iter().filter(|(topic, _)| !group.is_subscribed_to(topic)) {
        let over = partitions.iter().filter(|(_, committed)| is_over(&committed.value));
        let over = over.map(|(partition, _)| *partition).filter(|partition| !is_pending(topic, *partition));
        dead.extend(over.map(|partition| (topic.clone(), partition)));
    }
    dead
}

/// From when on a group's offsets are retained for `offsets.retention.minutes`; None while they do not expire at all.
fn retention(group: &Group) -> Option<impl Fn(&OffsetValue) -> i64> {
    let since_ms = match group {
        // Its members keep what they are subscribed to; the rest may go.
        Group::Consumer(_) => None,
        Group::Classic(group) => classic_retention(group)?,
    };
    Some(move |value: &OffsetValue| since_ms.unwrap_or(value.commit_timestamp_ms))
}

/// None within if it is the time of the commit that counts.
fn classic_retention(group: &ClassicGroup) -> Option<Option<i64>> {
    match (group.protocol_type(), group.state()) {
        // A simple group has no members by whose absence one could tell that it is not used.
        (None, _) => Some(None),
        (Some(_), State::Empty) => Some(group.state_since_ms()),
        // Consumers that are there keep what they are subscribed to; the rest may go.
        (Some(_), State::Stable) if group.is_of_consumers() && group.knows_subscriptions() => Some(None),
        _ => None,
    }
}

fn remove(turn: &mut Turn<'_>, groups: &mut Groups, id: &StrBytes) {
    match groups.remove(id) {
        Some(Group::Classic(group)) => {
            group.cancel_timers(turn);
            turn.record(record::group_key(id), None);
        }
        Some(Group::Consumer(group)) => turn.step.records.extend(group.tombstones()),
        None => {}
    }
}

/// DeleteGroups, for one group.
pub(super) fn delete_group(
    turn: &mut Turn<'_>,
    groups: &mut Groups,
    offsets: &mut Offsets,
    id: GroupId,
) -> DeletableGroupResult {
    let error = match groups.get(&id.0) {
        None => ResponseError::GroupIdNotFound.code(),
        Some(group) if !group.is_empty() => ResponseError::NonEmptyGroup.code(),
        Some(_) => {
            offsets.bury_all(turn, &id);
            remove(turn, groups, &id);
            0
        }
    };
    DeletableGroupResult::default().with_group_id(id).with_error_code(error)
}
