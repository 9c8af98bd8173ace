//! The cleaner: new files are written beside the old ones, synced with their names, and only then read in the place of the
//! others, which stay until a checkpoint no longer names them. Core decides what is worth cleaning, and what stays.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use chronik_core::compaction::{Cleaned, Closed, KeyOffsets, Pass, Plan, Transactions, groups, plan};
use chronik_core::ids::{Offset, ProducerId, TopicIdPartition};
use chronik_core::record_batch::{BatchHeader, Batches, Crc, HEADER_LEN, NO_TIMESTAMP};
use chronik_core::store::checkpoint::SegmentState;

use super::segments::{segment_dir, segment_name};
use super::{Broker, Partition};
use crate::env::{Env, Event, Halt};
use crate::invariants::{self, Swap, Violation};
use crate::stats::Deed;

/// A pass over one partition.
pub(super) struct Work {
    tp: TopicIdPartition,
    keys: KeyOffsets,
    keys_end: Offset,
    /// Where the plan ends: keys up to here may have been noted.
    plan_end: Offset,
    now_ms: i64,
    last_of: BTreeMap<ProducerId, Offset>,
    transactions: Transactions,
    /// Segments that become one each.
    groups: VecDeque<Vec<SegmentState>>,
    /// What was written and has not taken the others' place yet.
    written: Option<Written>,
}

struct Written {
    old: Vec<SegmentState>,
    new: Option<SegmentState>,
    before: Vec<Bytes>,
    after: Vec<u8>,
}

/// The memory of a key, as core counts it.
const KEY_BYTES: usize = 48;

impl Broker {
    /// One step of the cleaner, and when the next one comes.
    pub fn clean(&mut self, env: &mut Env) -> Result<(), Halt> {
        if self.has_failed() || self.stopping {
            return Ok(());
        }
        let mut delay_us = env.rng.between(20, 300);
        match self.cleaning.take() {
            None => match self.dirtiest(env) {
                Some((tp, closed, plan)) => self.cleaning = self.begin_pass(env, tp, &closed, &plan)?,
                None => delay_us = env.rng.between(300, 3000),
            },
            Some(mut work) => {
                if self.clean_step(env, &mut work)? {
                    self.cleaning = Some(work);
                }
            }
        }
        env.after(delay_us, Event::Clean { life: self.life });
        Ok(())
    }

    /// The partition that has most to gain, and its closed segments.
    fn dirtiest(&self, env: &Env) -> Option<(TopicIdPartition, Vec<SegmentState>, Plan)> {
        let compacted = self.partitions.iter().filter(|(_, p)| p.topic.compact);
        let worth = compacted.filter_map(|(tp, partition)| {
            let closed = partition.segments.closed();
            let facts: Vec<Closed> = closed.iter().map(SegmentState::facts).collect();
            // What is in a file and not counted by the log yet may be written again.
            let limit = partition.log.last_stable_offset().min(partition.log.segment_end());
            let policy = &partition.topic.compaction;
            let plan = plan(policy, &facts, partition.cleaned_to, limit, env.now_ms())?;
            Some((*tp, closed, plan))
        });
        worth.max_by(|(.., a), (.., b)| {
            let need = |plan: &Plan| (plan.overdue, plan.dirty_ratio);
            need(a).partial_cmp(&need(b)).unwrap_or(std::cmp::Ordering::Equal)
        })
    }

    /// Reads the keys of the dirty part, as far as memory reaches.
    fn begin_pass(
        &mut self,
        env: &mut Env,
        tp: TopicIdPartition,
        closed: &[SegmentState],
        plan: &Plan,
    ) -> Result<Option<Work>, Halt> {
        let Plan { dirty_from, end: plan_end, .. } = *plan;
        let Some(partition) = self.partitions.get(&tp) else { return Ok(None) };
        let from = closed.first().map_or(0, |s| s.base_offset);
        let transactions = Transactions::new(partition.log.aborted_between(from, plan_end));
        let mut keys = KeyOffsets::new(KEY_BYTES * self.settings.cleaner_keys, self.life);
        let mut full_at = None;
        let dirty = closed.iter().filter(|s| s.end_offset > dirty_from && s.base_offset < plan_end);
        'segments: for segment in dirty {
            for (header, bytes) in batches(&partition.segments.bytes_of(env, segment)?)? {
                let noted = header.next_offset() <= dirty_from
                    || Pass::note(&mut keys, &transactions, &header, &bytes[HEADER_LEN..])
                        .map_err(unreadable)?;
                if !noted {
                    full_at = Some(header.base_offset);
                    break 'segments;
                }
            }
        }
        if full_at.is_some() {
            env.stats.deed(Deed::CleaningCutShort);
        }
        let keys_end = full_at.unwrap_or(plan_end);
        let affected: Vec<SegmentState> =
            closed.iter().filter(|s| s.base_offset < keys_end).cloned().collect();
        let facts: Vec<Closed> = affected.iter().map(SegmentState::facts).collect();
        let mut left = affected.into_iter();
        let groups = groups(&facts, partition.topic.compaction.segment_bytes);
        let groups = groups.iter().map(|group| left.by_ref().take(group.len()).collect()).collect();
        let last_of = partition.log.producers().last_offsets().collect();
        env.note("clean", &[dirty_from as u64, keys_end as u64, plan_end as u64]);
        let now_ms = env.now_ms();
        let written = None;
        Ok(Some(Work { tp, keys, keys_end, plan_end, now_ms, last_of, transactions, groups, written }))
    }

    /// True while there is more to do.
    fn clean_step(&mut self, env: &mut Env, work: &mut Work) -> Result<bool, Halt> {
        let bugs = self.settings.bugs;
        let tp = work.tp;
        let Some(partition) = self.partitions.get_mut(&tp) else { return Ok(false) };
        if let Some(written) = work.written.take() {
            return swap(env, partition, work, &written);
        }
        if let Some(old) = work.groups.pop_front() {
            let is_there = |s: &SegmentState| env.disk.inode(&segment_name(tp, s)).is_some();
            if !old.iter().all(|s| is_there(s) || partition.segments.holds(s)) {
                // Retention was faster than the pass, and the files are gone already.
                env.stats.deed(Deed::CleaningOvertaken);
                return Ok(false);
            }
            let retention_ms = partition.topic.delete_retention_ms;
            let delete_retention_ms = if bugs.drop_tombstones_early { 0 } else { retention_ms };
            let written = rewrite(env, partition, work, old, delete_retention_ms)?;
            // Before the files do: no reader may be told of a transaction whose end is not there.
            partition.log.markers_go(&work.transactions.take_gone());
            if let Some(new) = &written.new
                && !bugs.swap_without_dir_sync
            {
                let inode = env.disk.inode(&segment_name(tp, new)).unwrap_or_default();
                env.disk.sync(inode)?;
                env.disk.sync_dir(&segment_dir(tp))?;
            }
            work.written = Some(written);
            return Ok(true);
        }
        partition.cleaned_to = partition.cleaned_to.max(work.keys_end);
        self.writer.tidy = true;
        env.note("cleaned", &[work.keys_end as u64]);
        env.stats.deed(Deed::CleaningDone);
        if env.rng.percent(30) {
            invariants::invariant_1_what_counts_is_there(env, self, tp)?;
        }
        Ok(false)
    }
}

/// Writes what stays of some segments into one new file, not synced yet.
fn rewrite(
    env: &mut Env,
    partition: &Partition,
    work: &mut Work,
    old: Vec<SegmentState>,
    delete_retention_ms: i64,
) -> Result<Written, Halt> {
    let now_ms = work.now_ms;
    let transactions = std::mem::take(&mut work.transactions);
    let (keys, keys_end) = (&work.keys, work.keys_end);
    let mut pass = Pass { keys, keys_end, now_ms, delete_retention_ms, transactions };
    // The last batch of what is closed stays: a reader must be able to come to the end.
    let log_end = partition.log.segment_end();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let (mut max_timestamp, mut first_timestamp) = (NO_TIMESTAMP, NO_TIMESTAMP);
    for segment in &old {
        let bytes = partition.segments.bytes_of(env, segment)?;
        for (header, batch) in batches(&bytes)? {
            let is_last =
                header.has_producer() && work.last_of.get(&header.producer_id) == Some(&header.last_offset());
            let must_stay = is_last || header.next_offset() >= log_end;
            let cleaned = pass.clean(&header, &batch[HEADER_LEN..], must_stay).map_err(unreadable)?;
            let stays = match cleaned {
                Cleaned::Gone => continue,
                Cleaned::Kept => batch,
                Cleaned::Rewritten(rewriter) => rewriter.finish(rewriter.records()).into(),
            };
            let time = BatchHeader::parse(&stays).map_err(unreadable)?.max_timestamp;
            max_timestamp = time.max(max_timestamp);
            if first_timestamp == NO_TIMESTAMP {
                first_timestamp = time;
            }
            after.extend_from_slice(&stays);
        }
        before.push(bytes);
    }
    work.transactions = pass.transactions;
    let new = match (old.first(), old.last()) {
        (Some(first), Some(last)) if !after.is_empty() => {
            let revision = old.iter().map(|s| s.revision).max().unwrap_or(0) + 1;
            let new = SegmentState {
                bytes: after.len() as u64,
                end_offset: last.end_offset,
                max_timestamp,
                first_timestamp,
                written_ms: last.written_ms,
                revision,
                ..SegmentState::begun(first.base_offset)
            };
            let inode = env.disk.create(&segment_name(work.tp, &new), 0)?;
            env.disk.write(inode, 0, &after)?;
            Some(new)
        }
        _ => None,
    };
    Ok(Written { old, new, before, after })
}

/// The new file takes the place of the others. False when the pass is over.
fn swap(env: &mut Env, partition: &mut Partition, work: &Work, written: &Written) -> Result<bool, Halt> {
    let Written { old, new, before, after } = written;
    if !partition.segments.replace(old, new.as_slice()) {
        // Retention was faster: nobody knows of the new file.
        env.stats.deed(Deed::CleaningOvertaken);
        if let Some(new) = new {
            env.disk.remove(&segment_name(work.tp, new))?;
        }
        return Ok(false);
    }
    let end = old.last().map_or(0, |s| s.end_offset);
    partition.log.compacted_to(end.min(work.keys_end));
    env.note("swapped", &[old.len() as u64, after.len() as u64]);
    env.stats.deed(Deed::Swap);
    let topic = partition.topic;
    let swap = Swap { tp: work.tp, topic: &topic, before, after, end: work.plan_end, began_ms: work.now_ms };
    invariants::swapped(env, &swap)?;
    Ok(true)
}

/// Whole batches, every checksum verified.
fn batches(bytes: &Bytes) -> Result<Vec<(BatchHeader, Bytes)>, Halt> {
    let found = Batches::new(bytes, Crc::Check).map(|found| {
        let (header, range) = found.map_err(unreadable)?;
        Ok((header, bytes.slice(range)))
    });
    found.collect()
}

fn unreadable(e: impl std::fmt::Display) -> Halt {
    Violation::new("invariant_11_segments_hold_what_was_recycled", e.to_string()).into()
}
