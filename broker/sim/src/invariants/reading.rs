//! What readers see: nothing that is not in the log, and everything that must be.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::log::{Checked, ReadRequest, ReadUpTo};
use chronik_core::record_batch::{BatchHeader, Batches, Crc, RecordIter, Verified};

use super::cleaning::{is_left_of, may_be_gone};
use super::coordination::COMMITTED;
use super::deletion::log_start_seen;
use super::members::WRITTEN;
use super::transactions::{DECIDED, transactions_are_there};
use super::{CUT, DENSE, DETECTED, NEWEST, ONCE, PRODUCERS, READABLE, VISIBLE, Violation, nothing_there};
use crate::env::{Env, Halt};
use crate::shell::Broker;
use crate::stats::Deed;
use crate::topics::Kind;

/// A consumer gets these bytes, which begin with the batch that holds `from`, or the first behind it. Returns where it goes
/// on.
pub fn consumed(
    env: &mut Env,
    tp: TopicIdPartition,
    from: Offset,
    high_watermark: Offset,
    slices: &[Bytes],
) -> Result<Offset, Violation> {
    Ok(seen(env, tp, from, high_watermark, slices)?.0)
}

/// Where the consumer goes on, and which records it got, of a compacted topic.
fn seen(
    env: &mut Env,
    tp: TopicIdPartition,
    from: Offset,
    high_watermark: Offset,
    slices: &[Bytes],
) -> Result<(Offset, BTreeSet<Offset>), Violation> {
    let now_ms = env.now_ms();
    let is_compacted = env.history.partition(tp).is_compacted();
    let has_keys = env.history.partition(tp).has_keys();
    let mut next = from;
    let mut records = BTreeSet::new();
    for (header, bytes) in slices.iter().flat_map(batches_of) {
        env.stats.checked(VISIBLE);
        let (base, last) = (header.base_offset, header.last_offset());
        let lies = |invariant, why: &str| {
            Violation::new(invariant, format!("{tp}: offsets {base} to {last}, read from {from}: {why}"))
        };
        if last >= high_watermark {
            return Err(lies(VISIBLE, "beyond the high watermark"));
        }
        if base > next && !is_compacted || last < next {
            return Err(lies(DENSE, "not the next ones"));
        }
        let Some(stored) = env.history.partition(tp).alive.get(&base).copied() else {
            return Err(lies(CUT, "nothing of the kind is in the log"));
        };
        // A batch's latest time is what no cleaner changes.
        let found = env.history.sent_at(header.max_timestamp);
        if found != Some(stored.batch) || header.leader_epoch.0 != stored.leader_epoch {
            let what = format!("batch {found:?} of epoch {}", header.leader_epoch);
            return Err(lies(CUT, &format!("{what} instead of {stored:?}")));
        }
        let sent = &env.history.sent[stored.batch].bytes;
        let is_sent = same_but_for_place(sent, &bytes) || is_compacted && is_left_of(sent, &bytes);
        if !is_sent {
            return Err(lies(READABLE, "other bytes than were sent"));
        }
        if has_keys {
            let all = RecordIter::new(&bytes).into_iter().flatten().flatten();
            records.extend(all.map(|record| record.offset).filter(|at| *at >= from));
        }
        next = last + 1;
    }
    if has_keys {
        env.stats.checked(NEWEST);
        let missing = |at: &Offset| !records.contains(at) && !may_be_gone(&env.history, tp, *at, now_ms);
        if let Some(at) = (from..next).find(missing) {
            let record = env.history.keyed(tp, at);
            let what = format!("{tp}: {record:?} at {at}, read from {from} to {next}, is not there");
            return Err(Violation::new(NEWEST, what));
        }
    }
    let partition = env.history.partition(tp);
    partition.read = partition.read.max(next);
    Ok((next, records))
}

fn batches_of(bytes: &Bytes) -> impl Iterator<Item = (BatchHeader, Bytes)> {
    let whole = Batches::new(bytes, Crc::Check).map_while(Result::ok);
    whole.map(|(header, range)| (header, bytes.slice(range))).collect::<Vec<_>>().into_iter()
}

/// Base offset and leader epoch are the broker's to write.
fn same_but_for_place(sent: &[u8], stored: &[u8]) -> bool {
    sent.len() == stored.len() && sent[8..12] == stored[8..12] && sent[16..] == stored[16..]
}

/// The broker has started: everything it must still have is there, nothing it must not have, and a partition
/// that lost records is fenced. `unanswered` are the batches that idempotent producers will send again.
pub fn started(env: &mut Env, broker: &Broker, unanswered: &[usize]) -> Result<(), Halt> {
    for tp in broker.fenced.keys() {
        invariant_1_only_damaged_partitions_are_fenced(env, broker, *tp)?;
    }
    for (tp, served) in &broker.partitions {
        let (tp, log) = (*tp, &served.log);
        let all_named = broker.holes.iter().all(|hole| hole.named.is_some());
        let end = log.high_watermark();
        env.stats.checked(VISIBLE);
        env.stats.checked(READABLE);
        let partition = env.history.partition(tp);
        let lost = match served.topic.kind {
            Kind::Clients => READABLE,
            Kind::Groups => COMMITTED,
            Kind::Transactions => DECIDED,
        };
        if partition.fenced {
            return Err(Violation::new(DETECTED, format!("{tp} was fenced and is served again")).into());
        }
        for (invariant, what, needed) in [
            (WRITTEN, "told to members", partition.members_told),
            (lost, "acknowledged", partition.acknowledged),
            (VISIBLE, "read", partition.read),
        ] {
            if needed > end {
                let what = format!("{tp}: offsets below {needed} were {what} before, and it ends at {end}");
                return Err(Violation::new(invariant, what).into());
            }
        }
        partition.cut(end);
        if partition.damaged && !all_named {
            // A log start was in what nobody can read any more, and what comes behind does not tell of it.
            partition.log_start = partition.log_start.min(log.log_start());
        }
        log_start_seen(env, tp, log.log_start())?;
        invariant_1_what_counts_is_there(env, broker, tp)?;
    }
    unanswered.iter().try_for_each(|batch| invariant_9_producer_state_survives(env, broker, *batch))?;
    transactions_are_there(env)?;
    Ok(())
}

/// Everything that consumers see, as a consumer reads it: all that must be there is, and of each key the newest record is
/// the last.
pub fn invariant_1_what_counts_is_there(
    env: &mut Env,
    broker: &Broker,
    tp: TopicIdPartition,
) -> Result<(), Halt> {
    let Some(served) = broker.partitions.get(&tp) else { return Ok(()) };
    let (log_start, end) = (served.log.log_start(), served.log.high_watermark());
    env.stats.checked(READABLE);
    let mut last_of = BTreeMap::new();
    let mut at = log_start;
    while at < end {
        let max_bytes = env.rng.between(1, 1 << 18) as usize;
        let up_to = ReadUpTo::HighWatermark;
        let slices = broker.read(env, tp, &ReadRequest { from: at, max_bytes, at_least_one: true, up_to })?;
        let (next, records) = seen(env, tp, at, end, &slices)?;
        if next == at {
            return Err(nothing_there(tp, at, end).into());
        }
        let keyed = records.into_iter().filter_map(|at| Some((env.history.keyed(tp, at)?.key, at)));
        last_of.extend(keyed);
        at = next;
    }
    for (key, offsets) in &env.history.partition(tp).by_key {
        let newest = offsets.range(..end).next_back().filter(|newest| **newest >= log_start);
        if let (Some(newest), Some(last)) = (newest, last_of.get(key))
            && newest != last
        {
            let what =
                format!("{tp}: a reader ends with key {key} of offset {last}; {newest} was the newest");
            return Err(Violation::new(NEWEST, what).into());
        }
    }
    Ok(())
}

/// A batch that its producer will send again is known if it is stored, with its offsets, and is not known otherwise.
fn invariant_9_producer_state_survives(
    env: &mut Env,
    broker: &Broker,
    batch: usize,
) -> Result<(), Violation> {
    let sent = env.history.sent[batch].clone();
    let (tp, Some(served)) = (sent.tp, broker.partitions.get(&sent.tp)) else { return Ok(()) };
    env.stats.checked(PRODUCERS);
    env.stats.checked(ONCE);
    let Ok(header) = BatchHeader::parse(&sent.bytes) else { return Ok(()) };
    let alive = &env.history.partition(tp).alive;
    let stored =
        alive.iter().find(|(_, stored)| stored.batch == batch).map(|(base, s)| (*base, s.last_offset));
    let known = match served.log.producers().check(&header, None, Verified::Not) {
        Ok(Checked::Duplicate { base_offset, last_offset, .. }) => Some((base_offset, last_offset)),
        _ => None,
    };
    match known == stored {
        true => Ok(()),
        false => {
            let what = format!("{tp}: batch {batch} is at {stored:?}, its producer would hear of {known:?}");
            Err(Violation::new(PRODUCERS, what))
        }
    }
}

/// A fence needs damage; and where the damaged group says whom it held, nobody else is fenced.
fn invariant_1_only_damaged_partitions_are_fenced(
    env: &mut Env,
    broker: &Broker,
    tp: TopicIdPartition,
) -> Result<(), Violation> {
    env.stats.checked(DETECTED);
    let partition = env.history.partition(tp);
    let known = std::mem::replace(&mut partition.fenced, true);
    let damaged = partition.damaged;
    let all_named = broker.holes.iter().all(|hole| hole.named.is_some());
    if !known && all_named && !damaged {
        let why = broker.fenced.get(&tp).and_then(|state| state.fenced.clone()).unwrap_or_default();
        return Err(Violation::new(DETECTED, format!("{tp} is fenced and has lost nothing: {why}")));
    }
    env.stats.deed(if known { Deed::FenceKept } else { Deed::PartitionFenced });
    Ok(())
}
