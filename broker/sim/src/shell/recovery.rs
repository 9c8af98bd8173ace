//! A start: what the disk holds is flushed, read, judged, and only then served.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chronik_core::ids::{TopicIdPartition, WalPosition};
use chronik_core::log::{EndedTransactions, PartitionLog};
use chronik_core::store::checkpoint::{Checkpoint, PartitionState, SegmentState};
use chronik_core::store::replay::{Replay, Replayed};
use chronik_core::wal::commit::GroupCommit;
use chronik_core::wal::pool::Pool;
use chronik_core::wal::recovery::{Event as Found, PlantedBugs, Recovered, recover};

use super::segments::{Segments, base_and_revision, segment_dir, segment_name};
use super::writer::{CHECKPOINT, Writer};
use super::{Broker, MAX_PRODUCERS, Partition, Settings, WAL_ID, create_wal_file, open_generation};
use crate::disk::{WalMedia, wal_name};
use crate::env::{Env, Halt};
use crate::invariants::{self, Violation};
use crate::stats::Deed;
use crate::topics::{Catalog, Topic};

impl Broker {
    /// Starts a broker on what the disk holds. `catalog` are the partitions that exist.
    pub fn start(env: &mut Env, settings: &Settings, life: u64, catalog: &Catalog) -> Result<Broker, Halt> {
        env.history.write_failed = false;
        flush_what_is_there(env, settings)?;
        let checkpoint = read_checkpoint(env)?;
        let from = checkpoint.position;
        let mut replay = Replay::new(checkpoint, MAX_PRODUCERS)
            .map_err(|e| Violation::new("invariant_9_producers_survive", e.to_string()))?;
        let recovered = walk(env, settings, from, &mut replay)?;
        let (mut replayed, blind) = replay.finish();
        env.note("recovered", &[from.0, recovered.end.0, recovered.holes.len() as u64]);
        invariants::invariant_1_holes_are_damage(env, &recovered)?;

        let mut partitions = BTreeMap::new();
        let mut fenced = BTreeMap::new();
        let mut fresh = Vec::new();
        for (tp, topic) in catalog {
            let found = replayed.remove(tp);
            let states = found.as_ref().map_or(&[][..], |found| &found.segments);
            check_segments(env, *tp, states)?;
            match (found, &blind) {
                (Some(found), _) if found.fenced.is_some() => {
                    let state = PartitionState {
                        log_start: found.log.log_start,
                        segment_end: found.log.segment_end,
                        segments: found.segments,
                        leader_epochs: found.log.leader_epochs,
                        producers: Vec::new(),
                        aborted: Vec::new(),
                        cleaned_to: found.cleaned_to,
                        fenced: found.fenced,
                    };
                    fenced.insert(*tp, state);
                }
                (Some(mut found), _) => {
                    if settings.bugs.abort_index_dropped {
                        found.log.transactions = EndedTransactions::default();
                    }
                    partitions.insert(*tp, reopened(*tp, *topic, found)?);
                }
                (None, Some(_)) => {
                    let state = PartitionState { fenced: blind.clone(), ..PartitionState::default() };
                    fenced.insert(*tp, state);
                }
                (None, None) => fresh.push((*tp, *topic)),
            }
        }
        // What was deleted, or is in no image any more.
        for name in env.disk.list("data/").iter().filter(|name| name.ends_with(".log")) {
            if !catalog.keys().any(|tp| name.starts_with(&segment_dir(*tp))) {
                env.disk.remove(name)?;
            }
        }
        let mut pool = pool_of(env, settings, &recovered)?;
        let slot = first_free_slot(env, settings, &mut pool)?;
        let file = open_generation(env, &mut pool, settings, slot, recovered.end, recovered.end)?;
        // From here on, and not before: until the header is durable, the next start judges for itself.
        invariants::cut_at(env, recovered.end);
        let mut broker = Broker {
            life,
            settings: settings.clone(),
            commit: GroupCommit::new(file, &settings.profiles, settings.in_flight, env.now_us),
            pool,
            flying: BTreeMap::new(),
            delivered: recovered.end,
            partitions: BTreeMap::new(),
            fenced,
            holes: recovered.holes,
            writer: Writer::default(),
            cleaning: None,
            coordinators: Default::default(),
            making_file: false,
            stopping: false,
            poll_at_us: None,
        };
        for (tp, mut partition) in partitions {
            broker.lead(&mut partition.log)?;
            broker.partitions.insert(tp, partition);
        }
        for (tp, topic) in fresh {
            broker.create(env, tp, topic)?;
        }
        broker.open_coordinators(env)?;
        broker.make_spare(env);
        Ok(broker)
    }
}

/// After a kill, bytes can be read back from a cache that a power cut would still lose.
fn flush_what_is_there(env: &mut Env, settings: &Settings) -> Result<(), Halt> {
    if settings.bugs.serve_unflushed {
        return Ok(());
    }
    for name in env.disk.list("wal/") {
        if let Some(inode) = env.disk.inode(&name) {
            env.disk.sync(inode)?;
        }
    }
    Ok(())
}

fn read_checkpoint(env: &mut Env) -> Result<Checkpoint, Halt> {
    // One that was renamed but whose name a power cut could still take back must not be built upon.
    env.disk.sync_dir("data/")?;
    let Some(inode) = env.disk.inode(CHECKPOINT) else { return Ok(Checkpoint::default()) };
    let bytes = env.disk.read(inode, 0, env.disk.len(inode))?;
    let checkpoint = Checkpoint::decode(bytes);
    Ok(checkpoint.map_err(|e| Violation::new("invariant_11_the_checkpoint_is_whole", e.to_string()))?)
}

fn walk(
    env: &mut Env,
    settings: &Settings,
    from: WalPosition,
    replay: &mut Replay,
) -> Result<Recovered, Halt> {
    let bugs = PlantedBugs { parse_stale_groups: settings.bugs.parse_stale_groups };
    let mut violation = None;
    let (history, rng) = (&env.history, &mut env.rng);
    let keep_percent = settings.keep_percent;
    let walked = recover(&mut WalMedia(&env.disk), WAL_ID, Some(from), bugs, &mut |found| match found {
        Found::Group(group) => {
            let counted = invariants::invariant_11_only_what_counts_is_replayed(history, &group.header);
            violation = violation.take().or(counted.err());
            replay.group(&group, &mut |body| rng.percent(keep_percent).then(|| Bytes::copy_from_slice(body)));
        }
        Found::Hole(hole) => replay.hole(hole),
    });
    let recovered = walked.map_err(|e| Violation::new("the_wal_is_our_own", e.to_string()))?;
    for (row, _) in &recovered.rows {
        env.stats.row(*row);
    }
    if env.trace {
        println!("             rows {:?}, holes {:?}", recovered.rows, recovered.holes);
    }
    env.stats.checked("invariant_11_only_what_counts_is_replayed");
    match violation {
        Some(violation) => Err(violation.into()),
        None => Ok(recovered),
    }
}

fn reopened(tp: TopicIdPartition, topic: Topic, found: Replayed) -> Result<Partition, Halt> {
    let log = PartitionLog::new(found.log)
        .map_err(|e| Violation::new("invariant_9_the_log_is_coherent", format!("{tp}: {e}")))?;
    Ok(Partition {
        log,
        topic,
        waiters: Vec::new(),
        segments: Segments::new(tp, found.segments),
        producers: found.segment_producers,
        cleaned_to: found.cleaned_to,
    })
}

/// The files hold at least what the checkpoint says; those that it does not name are removed.
fn check_segments(env: &mut Env, tp: TopicIdPartition, segments: &[SegmentState]) -> Result<(), Halt> {
    for segment in segments {
        let name = segment_name(tp, segment);
        let lost = |why: &str| {
            Violation::new("invariant_11_the_checkpoint_names_synced_bytes", format!("{name}: {why}"))
        };
        let inode = env.disk.inode(&name).ok_or_else(|| lost("missing"))?;
        if env.disk.len(inode) < segment.bytes as usize {
            return Err(lost("too short").into());
        }
    }
    let named: BTreeSet<String> = segments.iter().map(|s| segment_name(tp, s)).collect();
    for name in env.disk.list(&segment_dir(tp)).iter().filter(|name| !named.contains(*name)) {
        if let Some((base, revision)) = base_and_revision(name) {
            env.stats.deed(match segments.iter().find(|s| s.base_offset <= base && base < s.end_offset) {
                Some(s) if s.revision > revision => Deed::CrashAfterSwap,
                _ if revision > 0 => Deed::CrashBeforeSwap,
                None if segments.first().is_some_and(|s| base < s.base_offset) => Deed::CrashAfterTrim,
                _ => Deed::CrashBeforeCounted,
            });
        }
        env.disk.remove(name)?;
    }
    Ok(())
}

fn pool_of(env: &mut Env, settings: &Settings, recovered: &Recovered) -> Result<Pool, Halt> {
    let mut pool = Pool::new(settings.file_bytes, settings.max_files);
    pool.set_previous(recovered.previous);
    for file in &recovered.files {
        pool.seen_generation(file.generation);
        pool.add_found(file.slot, file.generation, file.base, file.end);
    }
    for slot in &recovered.blank {
        // Never trusted: an unreadable header may hide anything. Made anew when it is needed.
        env.disk.remove(&wal_name(*slot))?;
    }
    Ok(pool)
}

fn first_free_slot(env: &mut Env, settings: &Settings, pool: &mut Pool) -> Result<u32, Halt> {
    if let Some(slot) = pool.free_slot() {
        return Ok(slot);
    }
    let slot = pool.slot_to_add(true).unwrap_or_default();
    create_wal_file(env, slot, settings.file_bytes)?;
    pool.add_free(slot);
    Ok(slot)
}
