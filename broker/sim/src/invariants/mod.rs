//! The checks, by the numbers of the design's invariants. Each compares what the broker does with what the
//! observer ([`crate::history`]) knows.
//!
//! Records may go from a log in three ways, and the observer knows of each: below a log start that somebody asked for
//! ([`deletion`]), since a newer record of the same key is there, or as a tombstone whose time is over ([`cleaning`]).
//! Whatever else a reader does not find is lost ([`reading`]). What has gone by compaction may come back with a crash, as
//! the segments from before it; what was deleted never does.

mod cleaning;
mod coordination;
mod deletion;
mod members;
mod reading;
mod transactions;

pub use cleaning::{Swap, swapped};
pub use coordination::{
    INPUTS, coordinator_loaded, decisions_are_carried_out, fetch_offsets, offsets_told, owns,
};
pub use deletion::{deletion_asked, log_start_seen, retention_allows};
pub use members::{Beliefs, Claim, accepted, commit_refused, keeps, may_have, told};
pub use reading::{consumed, invariant_1_what_counts_is_there, started};
pub use transactions::{answered, confirmed, reviewed, stable_to};

use std::fmt;

use chronik_core::ids::{LeaderEpoch, Offset, TopicIdPartition, WalPosition};
use chronik_core::store::checkpoint::Checkpoint;
use chronik_core::wal::format::GroupHeader;
use chronik_core::wal::recovery::Recovered;

use crate::env::Env;
use crate::history::{History, Stored};
use crate::shell::{CHECKPOINT, segment_name};
use crate::stats::Deed;

/// An invariant that does not hold, and how that shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
}

impl Violation {
    pub fn new(invariant: &'static str, what: impl Into<String>) -> Violation {
        Violation { invariant, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

const READABLE: &str = "invariant_1_acknowledged_records_are_readable";
const DETECTED: &str = "invariant_1_loss_is_detected_and_named";
const ASKED: &str = "invariant_1_only_what_was_asked_is_deleted";
const NEWEST: &str = "invariant_1_compaction_keeps_the_newest_of_each_key";
const HORIZON: &str = "invariant_1_tombstones_stay_until_their_time_is_over";
const SAME: &str = "invariant_1_what_compaction_keeps_is_what_it_was";
const DENSE: &str = "invariant_9_offsets_are_dense_and_unique";
const ONCE: &str = "invariant_9_idempotent_batches_are_stored_once";
const PRODUCERS: &str = "invariant_9_producer_state_survives";
const VISIBLE: &str = "invariant_10_consumers_see_only_what_stays";
const CUT: &str = "invariant_11_what_was_cut_never_returns";
const DELETED: &str = "invariant_11_what_was_deleted_never_returns";
const SYNCED: &str = "invariant_11_recycled_only_when_synced";
const COUNTS: &str = "invariant_11_only_what_counts_is_replayed";
const SILENT: &str = "invariant_12_nothing_is_acknowledged_after_a_failed_write";

/// A reader gets nothing at an offset that the log has.
pub fn nothing_there(tp: TopicIdPartition, at: Offset, end: Offset) -> Violation {
    Violation::new(READABLE, format!("{tp}: nothing at offset {at} of {end}"))
}

/// The broker has given a batch its offsets.
pub fn assigned(
    env: &mut Env,
    tp: TopicIdPartition,
    batch: usize,
    base_offset: Offset,
    last_offset: Offset,
    leader_epoch: LeaderEpoch,
) -> Result<(), Violation> {
    env.stats.checked(DENSE);
    env.stats.checked(ONCE);
    let History { sent, partitions, .. } = &mut env.history;
    let (idempotent, records) = (sent[batch].idempotent, &sent[batch].records);
    let partition = partitions.entry(tp).or_default();
    let next = partition.alive.last_key_value().map_or(0, |(_, stored)| stored.last_offset + 1);
    if base_offset != next {
        return Err(Violation::new(DENSE, format!("{tp}: batch {batch} got {base_offset}, {next} was next")));
    }
    if idempotent && let Some((at, _)) = partition.alive.iter().find(|(_, s)| s.batch == batch) {
        let what = format!("{tp}: batch {batch} is at offset {at} and is stored again at {base_offset}");
        return Err(Violation::new(ONCE, what));
    }
    let stored = Stored { batch, leader_epoch: leader_epoch.0, last_offset };
    partition.alive.insert(base_offset, stored);
    for (offset, record) in (base_offset..).zip(records) {
        partition.by_key.entry(record.key).or_default().insert(offset);
    }
    let meaning = &sent[batch].meaning;
    meaning.members.iter().for_each(|fact| partition.members.apply(fact));
    let (transaction, marker) = (meaning.transaction, meaning.marker);
    if let Some((_, producer)) = transaction {
        transactions::written(env, tp, producer)?;
    }
    match marker {
        Some(marker) => transactions::ended(env, tp, base_offset, marker),
        None => Ok(()),
    }
}

/// The broker tells a producer that its batch is stored.
pub fn acknowledged(
    env: &mut Env,
    tp: TopicIdPartition,
    base_offset: Offset,
    batch: usize,
) -> Result<(), Violation> {
    env.stats.checked(SILENT);
    env.stats.deed(Deed::Acknowledgement);
    if env.history.write_failed {
        return Err(Violation::new(SILENT, format!("{tp}: batch {batch} at {base_offset}")));
    }
    let partition = env.history.partition(tp);
    match partition.alive.get(&base_offset) {
        Some(stored) if stored.batch == batch => {
            partition.acknowledged = partition.acknowledged.max(stored.last_offset + 1);
            Ok(())
        }
        other => Err(Violation::new(READABLE, format!("{tp}: batch {batch} acknowledged as {other:?}"))),
    }
}

/// What was only torn is cut off; it is never taken for corruption.
pub fn invariant_1_holes_are_damage(env: &mut Env, recovered: &Recovered) -> Result<(), Violation> {
    env.stats.checked(DETECTED);
    match recovered.holes.first() {
        Some(hole) if !env.history.any_damage => {
            Err(Violation::new(DETECTED, format!("nothing was damaged, and yet there is {hole:?}")))
        }
        _ => Ok(()),
    }
}

/// A start has cut the log here: nothing behind may ever count again.
pub fn cut_at(env: &mut Env, end: WalPosition) {
    env.stats.checked(CUT);
    let cut = env.history.groups.split_off(&end.0);
    for _ in cut {
        env.stats.deed(Deed::GroupCutOff);
    }
}

/// A replayed group is the one that was last written at its place in the log and has not been cut off.
pub fn invariant_11_only_what_counts_is_replayed(
    history: &History,
    header: &GroupHeader,
) -> Result<(), Violation> {
    match history.groups.get(&header.position.0) {
        Some(fact) if fact.generation == header.generation => Ok(()),
        other => {
            let counts = other.map(|fact| fact.generation);
            let what = format!(
                "position {} of generation {}, {counts:?} counts",
                header.position, header.generation
            );
            Err(Violation::new(COUNTS, what))
        }
    }
}

/// WAL files are recycled: the checkpoint that allows it, and all bytes that it names of partitions that exist, are on the
/// medium.
pub fn invariant_11_recycled_only_when_synced(
    env: &mut Env,
    checkpoint: &Checkpoint,
    exists: impl Fn(&TopicIdPartition) -> bool,
) -> Result<(), Violation> {
    env.stats.checked(SYNCED);
    let disk = &env.disk;
    let on_medium = disk.durable_inode(CHECKPOINT).map(|inode| Checkpoint::decode(disk.medium(inode)));
    if !matches!(on_medium, Some(Ok(durable)) if durable == *checkpoint) {
        return Err(Violation::new(SYNCED, "the checkpoint is not on the medium"));
    }
    for (tp, state) in checkpoint.partitions.iter().filter(|(tp, _)| exists(tp)) {
        for segment in &state.segments {
            let name = segment_name(*tp, segment);
            let inode = disk.durable_inode(&name);
            if !inode.is_some_and(|inode| disk.is_synced(inode, segment.bytes as usize)) {
                return Err(Violation::new(SYNCED, format!("{name} is not on the medium")));
            }
        }
    }
    Ok(())
}

/// A producer that follows the rules was refused.
pub fn refused(env: &mut Env, batch: usize, code: i16) -> Violation {
    let sent = &env.history.sent[batch];
    Violation::new(PRODUCERS, format!("{}: batch {batch} was refused with error {code}", sent.tp))
}
