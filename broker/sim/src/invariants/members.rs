//! Groups of the consumer protocol: what members are told is in the log, and whatever they may rightly believe, no two of them
//! have the same partition.

use std::collections::{BTreeMap, BTreeSet};

use chronik_core::group::{self, Ticket};
use chronik_core::ids::TopicIdPartition;
use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::consumer_group_describe_response::Member;
use kafka_protocol::protocol::StrBytes;

use super::Violation;
use crate::env::Env;
use crate::roster::{Fact, Name, Roster};
use crate::stats::Deed;

pub(super) const WRITTEN: &str = "what_members_are_told_is_in_the_log";
const BACK: &str = "a_member_epoch_never_goes_back";
const ONE: &str = "no_partition_has_two_members_at_once";
const STALE: &str = "no_commit_of_a_stale_epoch_counts";
const RIGHTFUL: &str = "who_has_a_partition_may_commit";

/// What a member takes for its own, and until when it may, if it hears nothing more: until then its coordinator cannot have
/// given it up, whatever has become of the broker.
#[derive(Clone, Debug)]
pub struct Belief {
    partitions: BTreeSet<i32>,
    until_us: u64,
}

/// All members of all groups.
#[derive(Clone, Debug, Default)]
pub struct Beliefs {
    of: BTreeMap<Name, Belief>,
    /// The epoch that each was last told of.
    epochs: BTreeMap<Name, i32>,
    /// Who was last told to have a partition of a group.
    last: BTreeMap<(StrBytes, i32), StrBytes>,
}

/// A commit by a member of a group of the consumer protocol.
#[derive(Clone, Debug)]
pub struct Claim {
    pub member: Name,
    pub epoch: i32,
    pub partitions: Vec<i32>,
}

/// A heartbeat has been carried out, and this is what its member will be told. If that is written nowhere, it must be what the
/// log has already.
pub fn told(env: &mut Env, tp: TopicIdPartition, fact: &Fact, is_written: bool) -> Result<(), Violation> {
    let Fact::Told { member, epoch, assigned } = fact else { return Ok(()) };
    env.stats.checked(WRITTEN);
    let place = env.history.partition(tp).members.place(member);
    let agrees = place.is_some_and(|place| {
        place.epoch == *epoch
            && assigned.as_ref().is_none_or(|assigned| place.assigned.keys().eq(assigned.iter()))
    });
    if agrees || is_written {
        return Ok(());
    }
    let what = format!("{tp}: {member:?} is told {epoch} and {assigned:?}; the log has {place:?}");
    Err(Violation::new(WRITTEN, what))
}

/// A group's coordinator has been loaded: its members are where the log says, and there are no others.
pub fn members_loaded(
    env: &mut Env,
    tp: TopicIdPartition,
    shard: &mut group::Shard,
    group: &StrBytes,
) -> Result<(), Violation> {
    env.stats.checked(WRITTEN);
    let mut roster = Roster::default();
    env.history.facts(tp).for_each(|fact| roster.apply(fact));
    let expected = roster.of_group(group);
    env.history.partition(tp).members = roster;
    let call = group::Call::ConsumerGroupDescribe(GroupId(group.clone()), 1);
    let step = shard.handle(env.now_ms(), Ticket(0), call, Default::default());
    let mut members = BTreeMap::new();
    for (_, answer) in step.answers {
        if let group::Answer::ConsumerGroupDescribe(told) = answer {
            members.extend(told.members.into_iter().map(described));
        }
    }
    if members != expected {
        let what = format!("{tp}: the members of {group:?} are {members:?}; the log has {expected:?}");
        return Err(Violation::new(WRITTEN, what));
    }
    if !members.is_empty() {
        env.stats.deed(Deed::MembersFoundAtStart);
    }
    Ok(())
}

fn described(member: Member) -> (StrBytes, (i32, BTreeSet<i32>)) {
    let topics = member.assignment.topic_partitions.iter();
    let partitions = topics.flat_map(|topic| topic.partitions.iter().copied()).collect();
    (member.member_id, (member.member_epoch, partitions))
}

/// A commit has been accepted: it is of a member, in the epoch that it is in, or of what it has had since the one that it says.
pub fn accepted(env: &mut Env, tp: TopicIdPartition, claim: &Claim) -> Result<(), Violation> {
    let Claim { member, epoch, partitions } = claim;
    if !env.history.of_consumer_protocol.contains(&member.0) {
        return Ok(());
    }
    env.stats.checked(STALE);
    let place = env.history.partition(tp).members.place(member).cloned();
    let is_entitled = place.as_ref().is_some_and(|place| {
        let since = |partition| place.assigned.get(partition).or_else(|| place.pending.get(partition));
        let has = |partition| since(partition).is_some_and(|since| since <= epoch);
        *epoch == place.epoch || *epoch < place.epoch && partitions.iter().all(has)
    });
    if !is_entitled {
        let what = format!("{tp}: {member:?} commits {partitions:?} in epoch {epoch}; the log has {place:?}");
        return Err(Violation::new(STALE, what));
    }
    if place.is_some_and(|place| *epoch < place.epoch) {
        env.stats.deed(Deed::CommitInAnEarlierEpoch);
    }
    Ok(())
}

/// A member hears where it is: until then, these partitions are its own.
pub fn may_have(
    env: &mut Env,
    member: &Name,
    epoch: i32,
    partitions: BTreeSet<i32>,
    until_us: u64,
) -> Result<(), Violation> {
    env.stats.checked(BACK);
    env.stats.checked(ONE);
    let now_us = env.now_us;
    let Beliefs { of, epochs, last } = &mut env.history.beliefs;
    if let Some(before) = epochs.insert(member.clone(), epoch).filter(|before| *before > epoch) {
        return Err(Violation::new(BACK, format!("{member:?} is told {epoch} after {before}")));
    }
    if now_us >= until_us {
        // It has heard too late. It does not know, and works on as any zombie.
        of.remove(member);
        return Ok(());
    }
    for (other, belief) in of.iter().filter(|(other, _)| other.0 == member.0 && *other != member) {
        let shared = belief.partitions.intersection(&partitions).next();
        if let Some(partition) = shared.filter(|_| now_us < belief.until_us) {
            let what = format!("{partition} is {member:?}'s in epoch {epoch}, and {other:?} has {belief:?}");
            return Err(Violation::new(ONE, what));
        }
    }
    for partition in &partitions {
        let before = last.insert((member.0.clone(), *partition), member.1.clone());
        if before.is_some_and(|before| before != member.1) {
            env.stats.deed(Deed::PartitionHandedOver);
        }
    }
    of.insert(member.clone(), Belief { partitions, until_us });
    Ok(())
}

/// A member has nothing but these any more.
pub fn keeps(env: &mut Env, member: &Name, partitions: &BTreeSet<i32>) {
    if let Some(belief) = env.history.beliefs.of.get_mut(member) {
        belief.partitions.retain(|partition| partitions.contains(partition));
    }
}

/// A member's commit of what it works on was refused: it has not what it believes to have.
pub fn commit_refused(env: &mut Env, member: &Name, partition: i32, code: i16) -> Result<(), Violation> {
    env.stats.checked(RIGHTFUL);
    let belief = env.history.beliefs.of.get(member);
    match belief.filter(|belief| env.now_us < belief.until_us && belief.partitions.contains(&partition)) {
        Some(belief) => {
            let what = format!("{member:?} has {belief:?}, and may not commit {partition}: error {code}");
            Err(Violation::new(RIGHTFUL, what))
        }
        None => Ok(()),
    }
}
