//! The segment writer: runs are appended to segment files, those are synced, then the checkpoint that describes them, and
//! only then are WAL files recycled and condemned files removed (invariant 11). One step at a time, so that everything else
//! can happen in between.

use std::collections::VecDeque;

use chronik_core::ids::{Offset, TopicIdPartition, WalPosition};
use chronik_core::log::{Copied, Copying, ProducerStateMap};
use chronik_core::store::checkpoint::{Checkpoint, PartitionState};

use super::segments::Chunk;
use super::{Broker, Partition};
use crate::env::{Env, Event, Halt};
use crate::invariants::{self, Violation};
use crate::stats::Deed;

pub const CHECKPOINT: &str = "data/checkpoint";
const CHECKPOINT_TMP: &str = "data/checkpoint.tmp";

/// What the writer is at.
#[derive(Default)]
pub(super) struct Writer {
    to_copy: VecDeque<TopicIdPartition>,
    /// The partition whose runs are being copied.
    copying: Option<(TopicIdPartition, Copying)>,
    /// Made, and not written yet.
    checkpoint: Option<Checkpoint>,
    in_round: bool,
    /// A checkpoint would let go of files.
    pub tidy: bool,
    /// Files that the checkpoint on the disk may name still.
    condemned: Vec<String>,
    /// Files that no checkpoint names any more.
    pub graves: Vec<String>,
    /// Partitions that were deleted.
    pub removed: Vec<TopicIdPartition>,
}

impl Broker {
    /// One step of the writer, and when the next one comes.
    pub fn write_segments(&mut self, env: &mut Env) -> Result<(), Halt> {
        if self.has_failed() {
            return Ok(());
        }
        let delay_us = self.writer_step(env)?;
        env.after(delay_us, Event::Segments { life: self.life });
        Ok(())
    }

    fn writer_step(&mut self, env: &mut Env) -> Result<u64, Halt> {
        if !self.writer.in_round {
            self.begin_round(env)?;
        } else if let Some((tp, copying)) = self.writer.copying.take() {
            self.copy_some(env, tp, copying)?;
        } else if let Some(tp) = self.writer.to_copy.pop_front() {
            self.begin_copy(tp);
        } else if let Some(checkpoint) = self.writer.checkpoint.take() {
            self.write_checkpoint(env, &checkpoint)?;
            self.writer.in_round = false;
            let full = self.pool.free() == 0;
            return Ok(if full { env.rng.between(50, 300) } else { env.rng.between(300, 4000) });
        } else {
            self.make_checkpoint(env);
        }
        Ok(env.rng.between(30, 300))
    }

    /// The partitions with the oldest WAL entries first, and not always all of them. A round without any only lets go of
    /// files.
    fn begin_round(&mut self, env: &mut Env) -> Result<(), Halt> {
        self.bury(env)?;
        if env.rng.percent(40) {
            self.keep_house(env)?;
        }
        let mut waiting: Vec<_> =
            self.partitions.iter().filter_map(|(tp, p)| Some((p.oldest_needed()?, *tp))).collect();
        waiting.sort_unstable();
        let tidy_only = std::mem::take(&mut self.writer.tidy) && env.rng.percent(50);
        let some = match env.rng.percent(30) {
            _ if tidy_only => 0,
            true => env.rng.between(1, 2) as usize,
            false => waiting.len(),
        };
        self.writer.to_copy = waiting.into_iter().map(|(_, tp)| tp).take(some).collect();
        self.writer.in_round = true;
        Ok(())
    }

    fn begin_copy(&mut self, tp: TopicIdPartition) {
        let Some(partition) = self.partitions.get(&tp) else { return };
        let (producers, next) = partition.copied();
        let synced_end = partition.segments.end();
        self.writer.copying = Some((tp, Copying::begin(producers, next, synced_end)));
    }

    /// Appends the next chunk of runs; without any left, what was appended is synced and counts.
    fn copy_some(&mut self, env: &mut Env, tp: TopicIdPartition, mut copying: Copying) -> Result<(), Halt> {
        let Some(partition) = self.partitions.get(&tp) else { return Ok(()) };
        let topic = partition.topic;
        let tail = partition.log.tail();
        let mut runs: Vec<_> = tail.from(copying.next().max(tail.start())).cloned().collect();
        runs.truncate(env.rng.between(1, 8) as usize);
        let bugs = self.settings.bugs;
        if runs.is_empty() {
            let Some(partition) = self.partitions.get_mut(&tp) else { return Ok(()) };
            partition.segments.sync(env, &bugs)?;
            let (producers, end) = copying.finish();
            partition.producers = producers;
            partition.log.in_segments(end).map_err(|e| {
                Violation::new("invariant_11_segments_hold_durable_data_only", format!("{tp}: {e}"))
            })?;
            env.note("segments", &[end as u64]);
            return Ok(());
        }
        let mut copied = Copied::with_capacity(0);
        for run in runs {
            let body = match run.bytes.clone() {
                Some(bytes) => bytes,
                None => self.read_wal(env, run.span)?,
            };
            let Some(partition) = self.partitions.get(&tp) else { return Ok(()) };
            copying.take(&run, &body, &mut copied, |offset| {
                env.stats.deed(Deed::DeletedBeforeCopied);
                partition.log.producers_at(offset)
            });
        }
        let Some(partition) = self.partitions.get_mut(&tp) else { return Ok(()) };
        if env.rng.percent(2) {
            partition.segments.abandon(env);
            return Ok(());
        }
        let Copied { bytes, first, first_timestamp, max_timestamp } = copied;
        if let Some(first) = first {
            let chunk = Chunk { bytes, first, next: copying.next(), first_timestamp, max_timestamp };
            partition.segments.append(env, &topic, &chunk, &bugs)?;
        }
        self.writer.copying = Some((tp, copying));
        Ok(())
    }

    /// The states as they are now. What moves until it is written is told by the next one.
    fn make_checkpoint(&mut self, env: &mut Env) {
        // Read before the partitions are asked: what is delivered meanwhile is asked for next time.
        let delivered = self.delivered;
        for partition in self.partitions.values_mut() {
            let log_start = partition.log.log_start();
            partition.segments.trim(env, log_start);
            // What is condemned from here on may be named by the checkpoint: its turn is the next one.
            self.writer.condemned.append(&mut partition.segments.take_condemned());
        }
        let needed = self.partitions.values().filter_map(Partition::oldest_needed);
        let position = Checkpoint::position_for(delivered, needed);
        let mut checkpoint = Checkpoint { position, partitions: self.fenced.clone() };
        let ahead = self.settings.bugs.snapshot_ahead_of_its_log;
        let states = self.partitions.iter().map(|(tp, partition)| (*tp, partition.state(ahead)));
        checkpoint.partitions.extend(states);
        self.writer.checkpoint = Some(checkpoint);
    }

    fn write_checkpoint(&mut self, env: &mut Env, checkpoint: &Checkpoint) -> Result<(), Halt> {
        let bytes = checkpoint.encode();
        if env.disk.inode(CHECKPOINT_TMP).is_some() {
            env.disk.remove(CHECKPOINT_TMP)?;
        }
        let inode = env.disk.create(CHECKPOINT_TMP, 0)?;
        env.disk.write(inode, 0, &bytes)?;
        env.disk.sync(inode)?;
        env.disk.rename(CHECKPOINT_TMP, CHECKPOINT)?;
        env.disk.sync_dir("data/")?;
        env.note("checkpoint", &[checkpoint.position.0]);
        env.stats.deed(Deed::Checkpoint);
        self.writer.graves.append(&mut self.writer.condemned);

        let freed = self.pool.recycle(checkpoint.position);
        if freed > 0 {
            let exists =
                |tp: &TopicIdPartition| self.partitions.contains_key(tp) || self.fenced.contains_key(tp);
            invariants::invariant_11_recycled_only_when_synced(env, checkpoint, exists)?;
            env.stats.deed(Deed::WalFileRecycled);
            self.pump(env)?;
        }
        Ok(())
    }
}

impl Partition {
    /// The oldest position of the WAL that holds what is in no synced segment.
    fn oldest_needed(&self) -> Option<WalPosition> {
        let tail = self.log.tail();
        tail.from(self.log.segment_end().max(tail.start())).next().map(|run| run.span.position)
    }

    /// The producers' state at the end of the segments, and that end. Records that were deleted before they reached a
    /// segment have left their mark on the log's own state alone.
    fn copied(&self) -> (ProducerStateMap, Offset) {
        let end = self.log.segment_end();
        let producers = match self.producers.end_offset() {
            known if known >= end => self.producers.clone(),
            _ => self.log.producers_at(end),
        };
        (producers, end)
    }

    fn state(&self, ahead: bool) -> PartitionState {
        let producers = self.copied().0;
        let segment_end = producers.end_offset().max(self.log.log_start());
        let producers = if ahead { self.log.producers() } else { &producers };
        let aborted = self.log.transactions().aborted_below(producers.end_offset()).collect();
        let producers = producers.encode();
        PartitionState {
            log_start: self.log.log_start(),
            segment_end,
            segments: self.segments.states(),
            leader_epochs: self.log.leader_epochs().clone(),
            producers,
            aborted,
            cleaned_to: self.cleaned_to,
            fenced: None,
        }
    }
}
