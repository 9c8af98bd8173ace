//! The checks, by the numbers of the design's invariants. Each compares what the broker does with what the
//! observer ([`crate::history`]) knows.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use chronik_core::ids::{LeaderEpoch, Offset, TopicIdPartition, WalPosition};
use chronik_core::log::{ReadRequest, ReadUpTo};
use chronik_core::record_batch::{Batches, Crc};
use chronik_core::store::checkpoint::Checkpoint;
use chronik_core::wal::format::GroupHeader;
use chronik_core::wal::recovery::Recovered;

use crate::env::{Env, Halt};
use crate::history::{History, PartitionHistory, Stored};
use crate::shell::{Broker, CHECKPOINT, segment_name};

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
const DENSE: &str = "invariant_9_offsets_are_dense_and_unique";
const ONCE: &str = "invariant_9_idempotent_batches_are_stored_once";
const VISIBLE: &str = "invariant_10_consumers_see_only_what_stays";
const CUT: &str = "invariant_11_what_was_cut_never_returns";
const SYNCED: &str = "invariant_11_recycled_only_when_synced";
const COUNTS: &str = "invariant_11_only_what_counts_is_replayed";
const SILENT: &str = "invariant_12_nothing_is_acknowledged_after_a_failed_write";

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
    let idempotent = env.history.sent[batch].idempotent;
    let partition = env.history.partition(tp);
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
    Ok(())
}

/// The broker tells a producer that its batch is stored.
pub fn acknowledged(
    env: &mut Env,
    tp: TopicIdPartition,
    base_offset: Offset,
    batch: usize,
) -> Result<(), Violation> {
    env.stats.checked(SILENT);
    env.stats.fact("acknowledgements");
    if env.history.write_failed {
        return Err(Violation::new(SILENT, format!("{tp}: batch {batch} at {base_offset}")));
    }
    let partition = env.history.partition(tp);
    match partition.alive.get(&base_offset) {
        Some(stored) if stored.batch == batch => {
            partition.acknowledged.insert(base_offset, batch);
            Ok(())
        }
        other => Err(Violation::new(READABLE, format!("{tp}: batch {batch} acknowledged as {other:?}"))),
    }
}

/// A consumer gets these bytes, which begin with the batch that holds `from`. Returns where it goes on.
pub fn consumed(
    env: &mut Env,
    tp: TopicIdPartition,
    from: Offset,
    high_watermark: Offset,
    slices: &[Bytes],
) -> Result<Offset, Violation> {
    let History { sent, partitions, .. } = &mut env.history;
    let partition = partitions.entry(tp).or_default();
    let mut next = from;
    for (header, bytes) in slices.iter().flat_map(batches_of) {
        env.stats.checked(VISIBLE);
        let (base, last) = (header.base_offset, header.last_offset());
        let lies = |invariant, why: &str| {
            Violation::new(invariant, format!("{tp}: offsets {base} to {last}, read from {from}: {why}"))
        };
        if last >= high_watermark {
            return Err(lies(VISIBLE, "beyond the high watermark"));
        }
        if base > next || last < next {
            return Err(lies(DENSE, "not the next ones"));
        }
        let Some(stored) = partition.alive.get(&base) else {
            return Err(lies(CUT, "nothing of the kind is in the log"));
        };
        let original = usize::try_from(header.base_timestamp).ok().and_then(|n| sent.get(n));
        let found =
            header.base_timestamp == stored.batch as i64 && header.leader_epoch.0 == stored.leader_epoch;
        if !found {
            let what = format!("batch {} of epoch {}", header.base_timestamp, header.leader_epoch);
            return Err(lies(CUT, &format!("{what} instead of {stored:?}")));
        }
        if !original.is_some_and(|sent| same_but_for_place(&sent.bytes, &bytes)) {
            return Err(lies(READABLE, "other bytes than were sent"));
        }
        partition.read.insert(base, stored.batch);
        next = last + 1;
    }
    Ok(next)
}

fn batches_of(bytes: &Bytes) -> impl Iterator<Item = (chronik_core::record_batch::BatchHeader, Bytes)> {
    let whole = Batches::new(bytes, Crc::Check).map_while(Result::ok);
    whole.map(|(header, range)| (header, bytes.slice(range))).collect::<Vec<_>>().into_iter()
}

/// Base offset and leader epoch are the broker's to write.
fn same_but_for_place(sent: &[u8], stored: &[u8]) -> bool {
    sent.len() == stored.len() && sent[8..12] == stored[8..12] && sent[16..] == stored[16..]
}

/// The broker has started: everything it must still have is there, nothing it must not have, and a partition
/// that lost records is fenced.
pub fn started(env: &mut Env, broker: &Broker) -> Result<(), Halt> {
    for tp in broker.fenced.keys() {
        invariant_1_only_damaged_partitions_are_fenced(env, broker, *tp)?;
    }
    for (tp, served) in &broker.partitions {
        if env.history.partition(*tp).fenced {
            return Err(Violation::new(DETECTED, format!("{tp} was fenced and is served again")).into());
        }
        let end = served.log.high_watermark();
        let content = read_all(env, broker, *tp, end)?;
        what_counts_is_there(env, *tp, &content)?;
        let partition = env.history.partition(*tp);
        partition.alive = content;
    }
    Ok(())
}

/// Everything that consumers see, as a consumer reads it.
fn read_all(
    env: &mut Env,
    broker: &Broker,
    tp: TopicIdPartition,
    end: Offset,
) -> Result<BTreeMap<Offset, Stored>, Halt> {
    let read_before = env.history.partition(tp).read.clone();
    env.history.partition(tp).read.clear();
    let mut at = 0;
    while at < end {
        let max_bytes = env.rng.between(1, 1 << 18) as usize;
        let up_to = ReadUpTo::HighWatermark;
        let slices = broker.read(env, tp, &ReadRequest { from: at, max_bytes, at_least_one: true, up_to })?;
        let next = consumed(env, tp, at, end, &slices)?;
        if next == at {
            return Err(Violation::new(READABLE, format!("{tp}: nothing at offset {at} of {end}")).into());
        }
        at = next;
    }
    let partition = env.history.partition(tp);
    let PartitionHistory { alive, read, .. } = partition;
    let content = alive.iter().filter(|(base, _)| read.contains_key(base)).map(|(b, s)| (*b, *s)).collect();
    env.stats.checked(VISIBLE);
    if let Some((base, batch)) = read_before.iter().find(|(base, batch)| read.get(base) != Some(batch)) {
        let what = format!("{tp}: batch {batch} at {base} was read before and is gone");
        return Err(Violation::new(VISIBLE, what).into());
    }
    Ok(content)
}

fn what_counts_is_there(
    env: &mut Env,
    tp: TopicIdPartition,
    content: &BTreeMap<Offset, Stored>,
) -> Result<(), Violation> {
    env.stats.checked(READABLE);
    env.stats.checked(ONCE);
    let History { sent, partitions, .. } = &mut env.history;
    let partition = partitions.entry(tp).or_default();
    for (base, batch) in &partition.acknowledged {
        if content.get(base).map(|stored| stored.batch) != Some(*batch) {
            let what = format!("{tp}: batch {batch} at {base} was acknowledged; now {:?}", content.get(base));
            return Err(Violation::new(READABLE, what));
        }
    }
    let mut seen = BTreeMap::new();
    for (base, stored) in content.iter().filter(|(_, stored)| sent[stored.batch].idempotent) {
        if let Some(first) = seen.insert(stored.batch, base) {
            let what = format!("{tp}: batch {} is at offsets {first} and {base}", stored.batch);
            return Err(Violation::new(ONCE, what));
        }
    }
    Ok(())
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
    env.stats.fact(if known { "fences kept" } else { "partitions fenced" });
    Ok(())
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
        env.stats.fact("groups cut off");
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

/// WAL files are recycled: the checkpoint that allows it, and all bytes that it names, are on the medium.
pub fn invariant_11_recycled_only_when_synced(
    env: &mut Env,
    checkpoint: &Checkpoint,
) -> Result<(), Violation> {
    env.stats.checked(SYNCED);
    let disk = &env.disk;
    let on_medium = disk.durable_inode(CHECKPOINT).map(|inode| Checkpoint::decode(disk.medium(inode)));
    if !matches!(on_medium, Some(Ok(durable)) if durable == *checkpoint) {
        return Err(Violation::new(SYNCED, "the checkpoint is not on the medium"));
    }
    for (tp, state) in &checkpoint.partitions {
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
    Violation::new(
        "invariant_9_producer_state_survives",
        format!("{}: batch {batch} was refused with error {code}", sent.tp),
    )
}
