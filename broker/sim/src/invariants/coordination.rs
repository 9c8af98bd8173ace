//! What coordinators know after a load is what their logs say, and what they tell of groups.

use std::collections::{BTreeMap, BTreeSet};

use chronik_core::group::{self, Ticket};
use chronik_core::ids::{ProducerEpoch, TopicIdPartition};
use chronik_core::metadata::image::OFFSETS_TOPIC;
use chronik_core::txn;
use kafka_protocol::messages::describe_transactions_response::TransactionState;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::{GroupId, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::Violation;
use super::members::members_loaded;
use crate::env::Env;
use crate::shell::{Answer, Broker, Machine, Partition};
use crate::stats::Deed;
use crate::topics::{DATA_TOPIC, Kind, partition_of};

pub(super) const COMMITTED: &str = "no_committed_offset_is_lost";
const PENDING: &str = "offsets_of_a_transaction_count_once_it_is_committed";
const HANGS: &str = "no_transaction_hangs";
const OWNERS: &str = "no_partition_has_two_owners_in_a_generation";

/// A decision is carried out within this time, if all its partitions are served and the broker lives so long.
const CARRIED_OUT_WITHIN_US: u64 = 20_000;
/// Unless so many records wait for a slow disk: the decision and its markers are among them.
const WAITING_RECORDS: i64 = 150;

/// Groups commit how far they have come in this many partitions.
pub const INPUTS: i32 = 4;

/// Asks for all offsets of a group.
pub fn fetch_offsets(group: &StrBytes) -> group::Call {
    let inputs = OffsetFetchRequestTopics::default()
        .with_name(TopicName(StrBytes::from_static_str(DATA_TOPIC)))
        .with_partition_indexes((0..INPUTS).collect());
    let request = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(group.clone()))
        .with_topics(Some(vec![inputs]));
    group::Call::OffsetFetch(request, false, 9)
}

/// A group's offsets are told: they are the ones that were committed last, and nothing of a transaction that was not.
pub fn offsets_told(env: &mut Env, tp: TopicIdPartition, answer: &Answer) -> Result<(), Violation> {
    let Answer::Group(group::Answer::OffsetFetch(told)) = answer else { return Ok(()) };
    env.stats.checked(COMMITTED);
    env.stats.checked(PENDING);
    let OffsetFetchResponseGroup { group_id: GroupId(group), topics, .. } = told;
    let committed = env.history.committed(tp);
    for partition in topics.iter().flat_map(|topic| &topic.partitions) {
        let (index, offset) = (partition.partition_index, partition.committed_offset);
        let expected = committed.get(&(group.clone(), index)).copied().unwrap_or(-1);
        if offset != expected {
            // Nobody commits the same offset twice: it is a later one only if it does not count yet.
            let invariant = if offset > expected { PENDING } else { COMMITTED };
            let what = format!("{tp}: {group:?} is at {offset} of {index}, {expected} was committed last");
            return Err(Violation::new(invariant, what));
        }
    }
    Ok(())
}

/// A coordinator's partition has been loaded into `machine`, after a start.
pub fn coordinator_loaded(
    env: &mut Env,
    broker: &Broker,
    tp: TopicIdPartition,
    machine: &mut Machine,
) -> Result<(), Violation> {
    let now_ms = env.now_ms();
    match machine {
        Machine::Groups(shard) => {
            let groups: Vec<_> =
                env.history.consumer_groups.iter().filter(|(_, at)| *at == tp).cloned().collect();
            for (group, _) in groups {
                let step = shard.handle(now_ms, Ticket(0), fetch_offsets(&group), Default::default());
                let told = step.answers.into_iter().map(|(_, answer)| Answer::Group(answer));
                told.into_iter().try_for_each(|answer| offsets_told(env, tp, &answer))?;
                if env.history.of_consumer_protocol.contains(&group) {
                    members_loaded(env, tp, shard, &group)?;
                }
            }
            Ok(())
        }
        Machine::Transactions(shard) => {
            let ids = ids_at(env, tp);
            ids.into_iter().try_for_each(|id| knows_what_is_ongoing(env, broker, shard, now_ms, &id))
        }
    }
}

/// Transactional ids that this partition has.
fn ids_at(env: &Env, tp: TopicIdPartition) -> BTreeSet<StrBytes> {
    let here = env.history.transactions.iter().filter(|t| t.coordinator == tp);
    here.map(|t| t.transactional_id.clone()).collect()
}

fn describe(shard: &mut txn::Shard, now_ms: i64, id: &StrBytes) -> Option<TransactionState> {
    let step = shard.handle(now_ms, Ticket(0), txn::Call::Describe(id.clone()));
    step.answers.into_iter().find_map(|(_, answer)| match answer {
        txn::Answer::Describe(described) => Some(described),
        _ => None,
    })
}

/// No transaction is being ended for ever.
pub fn decisions_are_carried_out(
    env: &mut Env,
    served: &BTreeMap<TopicIdPartition, Partition>,
    tp: TopicIdPartition,
    shard: &mut txn::Shard,
) -> Result<(), Violation> {
    env.stats.checked(HANGS);
    let (now_us, life) = (env.now_us, env.life);
    let waiting: i64 = served.values().map(|p| p.log.log_end() - p.log.high_watermark()).sum();
    let is_behind = waiting > WAITING_RECORDS;
    for id in ids_at(env, tp) {
        let Some(described) = describe(shard, env.now_ms(), &id) else { continue };
        let all = described
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|index| partition_of(&topic.topic, *index)));
        let decided = ["PrepareCommit", "PrepareAbort"].contains(&described.transaction_state.as_str());
        if is_behind || !decided || !all.into_iter().all(|tp| served.contains_key(&tp)) {
            env.history.decisions.remove(&id);
            continue;
        }
        let epoch = ProducerEpoch(described.producer_epoch);
        let known = env.history.decisions.entry(id.clone()).or_insert((epoch, life, now_us));
        if (known.0, known.1) != (epoch, life) {
            *known = (epoch, life, now_us);
        }
        if now_us - known.2 > CARRIED_OUT_WITHIN_US {
            return Err(Violation::new(HANGS, format!("{id:?} is {described:?} since {} us", known.2)));
        }
    }
    Ok(())
}

/// A transaction that is ongoing in a partition will be ended there by its coordinator: it is ongoing, or being ended, and the
/// partition is in it.
fn knows_what_is_ongoing(
    env: &mut Env,
    broker: &Broker,
    shard: &mut txn::Shard,
    now_ms: i64,
    id: &StrBytes,
) -> Result<(), Violation> {
    env.stats.checked(HANGS);
    let Some(described) = describe(shard, now_ms, id) else { return Ok(()) };
    let mine: BTreeSet<i64> = {
        let of_id = env.history.transactions.iter().filter(|t| t.transactional_id == *id);
        of_id.map(|t| t.producer.id.0).collect()
    };
    let open = ["Ongoing", "PrepareCommit", "PrepareAbort"].contains(&described.transaction_state.as_str());
    for (tp, partition) in &broker.partitions {
        let name = match partition.topic.kind {
            Kind::Clients => DATA_TOPIC,
            Kind::Groups => OFFSETS_TOPIC,
            Kind::Transactions => continue,
        };
        let active = partition.log.producers().active();
        let mut ongoing = active.filter(|p| p.transaction_start.is_some() && mine.contains(&p.id.0));
        let listed = described
            .topics
            .iter()
            .any(|topic| topic.topic.as_str() == name && topic.partitions.contains(&tp.partition));
        if let Some(producer) = ongoing.find(|p| !(open && listed && p.id.0 == described.producer_id.0)) {
            let what = format!("{tp}: {producer:?} is in a transaction, {id:?} is {described:?}");
            return Err(Violation::new(HANGS, what));
        }
    }
    Ok(())
}

/// A member is told what it owns in a generation of its group.
pub fn owns(
    env: &mut Env,
    group: &StrBytes,
    generation: i32,
    member: &StrBytes,
    partitions: &[u8],
) -> Result<(), Violation> {
    env.stats.checked(OWNERS);
    env.stats.deed(Deed::GenerationShared);
    for partition in partitions {
        let place = (group.clone(), generation, *partition);
        let owner = env.history.owners.entry(place).or_insert_with(|| member.clone());
        if owner != member {
            let what =
                format!("{group:?}: {partition} of generation {generation} is {owner:?}'s and {member:?}'s");
            return Err(Violation::new(OWNERS, what));
        }
    }
    Ok(())
}
