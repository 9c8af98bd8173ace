//! The segment writer: runs are appended to segment files, those are synced, then the checkpoint that
//! describes them, and only then are WAL files recycled (invariant 11).

use std::collections::VecDeque;

use chronik_core::ids::TopicIdPartition;
use chronik_core::record_batch::{Batches, Crc};
use chronik_core::store::checkpoint::{Checkpoint, PartitionState, SegmentState};

use super::{Broker, Partition};
use crate::disk::Inode;
use crate::env::{Env, Event, Halt};
use crate::invariants;

pub const CHECKPOINT: &str = "data/checkpoint";
const CHECKPOINT_TMP: &str = "data/checkpoint.tmp";

pub fn segment_name(tp: TopicIdPartition, segment: &SegmentState) -> String {
    format!("data/{tp}/{:020}.log", segment.base_offset)
}

/// What the writer has still to do in this round.
#[derive(Default)]
pub(super) struct Writer {
    to_append: VecDeque<TopicIdPartition>,
    unsynced: Vec<Inode>,
    in_round: bool,
}

impl Broker {
    /// One step of the writer, and when the next one comes.
    pub fn write_segments(&mut self, env: &mut Env) -> Result<(), Halt> {
        if self.has_failed() {
            return Ok(());
        }
        let delay_us = self.segment_step(env)?;
        env.after(delay_us, Event::Segments { life: self.life });
        Ok(())
    }

    fn segment_step(&mut self, env: &mut Env) -> Result<u64, Halt> {
        if !self.writer.in_round {
            self.begin_round(env);
        } else if let Some(tp) = self.writer.to_append.pop_front() {
            self.append_to_segments(env, tp)?;
        } else if let Some(inode) = self.unsynced_segment() {
            env.disk.sync(inode)?;
        } else {
            self.write_checkpoint(env)?;
            self.writer.in_round = false;
            let full = self.pool.free() == 0;
            return Ok(if full { env.rng.between(50, 300) } else { env.rng.between(500, 8000) });
        }
        Ok(env.rng.between(30, 300))
    }

    /// The partitions with the oldest WAL entries first, and not always all of them.
    fn begin_round(&mut self, env: &mut Env) {
        let mut waiting: Vec<_> =
            self.partitions.iter().filter_map(|(tp, p)| Some((p.oldest_needed()?, *tp))).collect();
        waiting.sort_unstable();
        let some = if env.rng.percent(30) { env.rng.between(1, 2) as usize } else { waiting.len() };
        self.writer.to_append = waiting.into_iter().map(|(_, tp)| tp).take(some).collect();
        self.writer.in_round = true;
    }

    fn unsynced_segment(&mut self) -> Option<Inode> {
        if self.settings.bugs.recycle_before_sync {
            return None;
        }
        self.writer.unsynced.pop()
    }

    fn append_to_segments(&mut self, env: &mut Env, tp: TopicIdPartition) -> Result<(), Halt> {
        let Some(partition) = self.partitions.get(&tp) else { return Ok(()) };
        let mut runs: Vec<_> = partition.log.tail().from(partition.written).cloned().collect();
        if env.rng.percent(20) {
            runs.truncate(1 + runs.len() / 2);
        }
        for run in runs {
            let bytes = match run.bytes.clone() {
                Some(bytes) => bytes,
                None => self.read_wal(env, run.span)?,
            };
            let segment_bytes = self.settings.segment_bytes;
            let Some(partition) = self.partitions.get_mut(&tp) else { return Ok(()) };
            let full = partition.segments.last().is_none_or(|s| s.bytes >= segment_bytes);
            if full {
                let fresh = SegmentState::begun(run.base_offset);
                env.disk.create(&segment_name(tp, &fresh), 0)?;
                env.disk.sync_dir("data/")?;
                partition.segments.push(fresh);
            }
            let Some(segment) = partition.segments.last_mut() else { return Ok(()) };
            let name = segment_name(tp, segment);
            let inode = env.disk.inode(&name).unwrap_or_default();
            env.disk.write(inode, segment.bytes as usize, &bytes)?;
            segment.bytes += bytes.len() as u64;
            segment.end_offset = run.next_offset();
            segment.max_timestamp = segment.max_timestamp.max(run.max_timestamp);
            for (header, _) in Batches::new(&bytes, Crc::Check).flatten() {
                partition.producers.apply(&header, header.max_timestamp);
            }
            partition.written = run.next_offset();
            if !self.writer.unsynced.contains(&inode) {
                self.writer.unsynced.push(inode);
            }
        }
        env.note("segments", &[tp.partition as u64]);
        Ok(())
    }

    fn write_checkpoint(&mut self, env: &mut Env) -> Result<(), Halt> {
        for (tp, partition) in &mut self.partitions {
            let in_segments = partition.log.in_segments(partition.written);
            in_segments.map_err(|e| {
                invariants::Violation::new(
                    "invariant_11_segments_hold_durable_data_only",
                    format!("{tp}: {e}"),
                )
            })?;
        }
        // Read before the partitions are asked: what is delivered meanwhile is asked for next time.
        let delivered = self.delivered;
        let position = Checkpoint::position_for(
            delivered,
            self.partitions.values().filter_map(Partition::oldest_needed),
        );
        let mut checkpoint = Checkpoint { position, partitions: self.fenced.clone() };
        for (tp, partition) in &self.partitions {
            checkpoint.partitions.insert(*tp, partition.state());
        }
        let bytes = checkpoint.encode();
        if env.disk.inode(CHECKPOINT_TMP).is_some() {
            env.disk.remove(CHECKPOINT_TMP)?;
        }
        let inode = env.disk.create(CHECKPOINT_TMP, 0)?;
        env.disk.write(inode, 0, &bytes)?;
        env.disk.sync(inode)?;
        env.disk.rename(CHECKPOINT_TMP, CHECKPOINT)?;
        env.disk.sync_dir("data/")?;
        env.note("checkpoint", &[position.0]);
        env.stats.fact("checkpoints");

        let freed = self.pool.recycle(position);
        if freed > 0 {
            invariants::invariant_11_recycled_only_when_synced(env, &checkpoint)?;
            env.stats.fact("WAL files recycled");
            self.pump(env)?;
        }
        Ok(())
    }
}

impl Partition {
    fn state(&self) -> PartitionState {
        PartitionState {
            log_start: self.log.log_start(),
            segment_end: self.written,
            segments: self.segments.clone(),
            leader_epochs: self.log.leader_epochs().clone(),
            producers: self.producers.clone().reaching(self.written).encode(),
            cleaned_to: 0,
            fenced: None,
        }
    }
}
