//! Transactions are whole or nothing, in the order of their logs, whoever dies meanwhile.

use std::collections::BTreeSet;

use chronik_core::group;
use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::log::EndMarker;
use chronik_core::txn::{self, Producer};

use super::{SILENT, Violation};
use crate::env::Env;
use crate::shell::Answer;
use crate::stats::Deed;

pub(super) const DECIDED: &str = "no_decision_about_a_transaction_is_lost";
pub(super) const PIECES: &str = "nothing_of_a_committed_transaction_is_missing";
const WHOLE: &str = "a_transaction_is_whole_or_nothing";
const ABORTED: &str = "no_aborted_record_is_visible";
const UNDECIDED: &str = "the_last_stable_offset_is_below_what_is_ongoing";
const STABLE: &str = "the_last_stable_offset_never_goes_back";
const ZOMBIE: &str = "no_zombie_writes_once_it_is_fenced";

/// A coordinator's answer leaves: what it tells of must be in its log up to `up_to`, and stay there.
pub fn answered(
    env: &mut Env,
    tp: TopicIdPartition,
    up_to: Offset,
    answer: &Answer,
) -> Result<(), Violation> {
    env.stats.checked(SILENT);
    if env.history.write_failed {
        return Err(Violation::new(SILENT, format!("{tp}: {answer:?}")));
    }
    let partition = env.history.partition(tp);
    // Also if the broker did not mind what was durable.
    let known = partition.alive.last_key_value().map_or(0, |(_, stored)| stored.last_offset + 1);
    let told = if up_to == 0 { known } else { up_to };
    partition.acknowledged = partition.acknowledged.max(told);
    if let Answer::Group(group::Answer::ConsumerGroupHeartbeat(_)) = answer {
        partition.members_told = partition.members_told.max(told);
    }
    if let Answer::Txn(txn::Answer::InitProducerId(Ok(producer))) = answer {
        let fenced = env.history.fenced.entry(producer.id).or_insert(producer.epoch);
        *fenced = producer.epoch.max(*fenced);
    }
    Ok(())
}

/// A batch of a transaction has got its offsets.
pub(super) fn written(env: &mut Env, tp: TopicIdPartition, producer: Producer) -> Result<(), Violation> {
    env.stats.checked(ZOMBIE);
    match env.history.fenced.get(&producer.id) {
        Some(first) if *first > producer.epoch => {
            let what = format!("{tp}: {producer:?} writes, epoch {first} was given to another");
            Err(Violation::new(ZOMBIE, what))
        }
        _ => Ok(()),
    }
}

/// A marker has got its offset: it decides about everything that its producer has written here since the last one.
pub(super) fn ended(
    env: &mut Env,
    tp: TopicIdPartition,
    offset: Offset,
    marker: EndMarker,
) -> Result<(), Violation> {
    env.stats.checked(WHOLE);
    let history = &env.history;
    let mut decided = BTreeSet::new();
    let before = history.partitions.get(&tp).into_iter().flat_map(|p| p.alive.range(..offset).rev());
    for (_, stored) in before {
        let meaning = &history.sent[stored.batch].meaning;
        if meaning.marker.is_some_and(|earlier| earlier.producer_id == marker.producer_id) {
            break;
        }
        if let Some((transaction, producer)) = meaning.transaction
            && producer.id == marker.producer_id
        {
            decided.insert(transaction);
        }
    }
    for number in decided {
        let transaction = &mut env.history.transactions[number];
        let commit = marker.commit;
        let contradicts = |known: Option<bool>| known == Some(!commit);
        if commit && transaction.asked != Some(true)
            || contradicts(transaction.told)
            || contradicts(transaction.outcome)
        {
            let ends = if commit { "committed" } else { "aborted" };
            let what = format!("{tp}: at {offset} transaction {number} is {ends}: {transaction:?}");
            return Err(Violation::new(WHOLE, what));
        }
        transaction.outcome = Some(commit);
    }
    Ok(())
}

/// A client is told that its transaction has ended as it wished.
pub fn confirmed(env: &mut Env, number: usize, commit: bool) -> Result<(), Violation> {
    env.stats.checked(WHOLE);
    let transaction = &mut env.history.transactions[number];
    transaction.told = Some(commit);
    if transaction.outcome == Some(!commit) {
        let what = format!("transaction {number} was not ended so: {transaction:?}");
        return Err(Violation::new(WHOLE, what));
    }
    if commit { pieces_are_there(env, number) } else { Ok(()) }
}

/// All batches of a transaction that was confirmed are in their logs.
fn pieces_are_there(env: &mut Env, number: usize) -> Result<(), Violation> {
    env.stats.checked(PIECES);
    let history = &env.history;
    for batch in &history.transactions[number].batches {
        let tp = history.sent[*batch].tp;
        let Some(partition) = history.partitions.get(&tp).filter(|partition| !partition.fenced) else {
            continue;
        };
        if !partition.alive.values().any(|stored| stored.batch == *batch) {
            let what = format!("{tp}: batch {batch} of transaction {number} is not there");
            return Err(Violation::new(PIECES, what));
        }
    }
    Ok(())
}

/// The same of all transactions, after a start.
pub fn transactions_are_there(env: &mut Env) -> Result<(), Violation> {
    let all = env.history.transactions.iter().enumerate();
    let confirmed: Vec<_> = all.filter(|(_, t)| t.told == Some(true)).map(|(number, _)| number).collect();
    confirmed.into_iter().try_for_each(|number| pieces_are_there(env, number))
}

/// A reader learns how far all is decided: up to the first batch of a transaction that is open, and not less than before.
pub fn stable_to(
    env: &mut Env,
    tp: TopicIdPartition,
    last_stable: Offset,
    high_watermark: Offset,
) -> Result<(), Violation> {
    env.stats.checked(UNDECIDED);
    env.stats.checked(STABLE);
    let outcomes = env.history.outcomes(tp, high_watermark);
    let undecided = outcomes.iter().find(|(_, outcome)| outcome.is_none()).map(|(base, _)| *base);
    let expected = undecided.unwrap_or(high_watermark).min(high_watermark);
    if last_stable != expected {
        let what = format!("{tp}: it is {last_stable}, and all is decided below {expected}");
        return Err(Violation::new(UNDECIDED, what));
    }
    let partition = env.history.partition(tp);
    if last_stable < partition.stable {
        let what = format!("{tp}: it is {last_stable} after it was {}", partition.stable);
        return Err(Violation::new(STABLE, what));
    }
    partition.stable = last_stable;
    if last_stable < high_watermark {
        env.stats.deed(Deed::ReaderHeldBack);
    }
    Ok(())
}

/// A reader of what is decided has been given these batches of transactions, from `from` up to `last_stable`.
pub fn reviewed(
    env: &mut Env,
    tp: TopicIdPartition,
    from: Offset,
    (last_stable, high_watermark): (Offset, Offset),
    read: &BTreeSet<Offset>,
) -> Result<(), Violation> {
    env.stats.checked(ABORTED);
    env.stats.checked(PIECES);
    let outcomes = env.history.outcomes(tp, high_watermark);
    for (base, outcome) in outcomes.range(from..last_stable) {
        let visible = read.contains(base);
        match (outcome, visible) {
            (Some(true), false) => {
                return Err(Violation::new(PIECES, format!("{tp}: a reader does not get {base}")));
            }
            (Some(true), true) => env.stats.deed(Deed::DecidedBatchRead),
            (_, true) => return Err(Violation::new(ABORTED, format!("{tp}: a reader gets {base}"))),
            (_, false) => env.stats.deed(Deed::AbortedBatchLeftOut),
        }
    }
    Ok(())
}
