//! Deletion: a new log start is logged first and acts once it is durable (retention, DeleteRecords). Files go after a
//! checkpoint that no longer names them.

use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::log::retention::{Stretch, deletable, stretches};
use chronik_core::wal::format::EntryKind;

use super::segments::segment_dir;
use super::{Broker, Partition};
use crate::env::{Env, Halt};
use crate::invariants::{self, Violation};
use crate::stats::Deed;

impl Broker {
    /// Deletes everything below `offset`. Whoever asked is told once that is durable.
    pub fn delete_before(&mut self, env: &mut Env, tp: TopicIdPartition, offset: Offset) -> Result<(), Halt> {
        let Some(partition) = self.partitions.get_mut(&tp) else { return Ok(()) };
        if self.commit.has_failed() || self.stopping || offset <= partition.log.log_start() {
            return Ok(());
        }
        env.note("delete before", &[offset as u64]);
        invariants::deletion_asked(env, tp, offset);
        if self.settings.bugs.delete_before_logged {
            deleted(env, partition, tp, offset)?;
            partition.segments.trim(env, offset);
            for name in partition.segments.take_condemned() {
                env.disk.remove(&name)?;
            }
        }
        self.push_marker(env, EntryKind::LogStart, tp, offset)
    }

    /// Looks at retention and at old files, as the segment writer does from time to time.
    pub(super) fn keep_house(&mut self, env: &mut Env) -> Result<(), Halt> {
        let now_ms = env.now_ms();
        let mut going = Vec::new();
        for (tp, partition) in &mut self.partitions {
            let topic = partition.topic;
            let lag_ms = if topic.compact { topic.compaction.max_lag_ms } else { i64::MAX };
            partition.segments.close_old(env, topic.segment_ms.min(lag_ms));
            if !topic.delete {
                continue;
            }
            let stretches = partition.stretches();
            if let Some(to) = deletable(&topic.retention, &stretches, now_ms)
                && to > partition.log.log_start()
            {
                invariants::retention_allows(env, *tp, to, &stretches)?;
                going.push((*tp, to));
            }
        }
        going.into_iter().try_for_each(|(tp, to)| self.delete_before(env, tp, to))
    }

    /// Files that no checkpoint names any more go, each when its time has come.
    pub(super) fn bury(&mut self, env: &mut Env) -> Result<(), Halt> {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.writer.graves).into_iter().partition(|_| env.rng.percent(60));
        self.writer.graves = later;
        for name in &due {
            // A deleted partition has taken all its files along.
            if env.disk.inode(name).is_some() {
                env.disk.remove(name)?;
            }
        }
        for tp in std::mem::take(&mut self.writer.removed) {
            for name in env.disk.list(&segment_dir(tp)) {
                env.disk.remove(&name)?;
            }
        }
        Ok(())
    }

    /// A new log start is durable.
    pub(super) fn log_start_is_durable(
        &mut self,
        env: &mut Env,
        tp: TopicIdPartition,
        offset: Offset,
    ) -> Result<(), Halt> {
        let Some(partition) = self.partitions.get_mut(&tp) else { return Ok(()) };
        deleted(env, partition, tp, offset)?;
        self.writer.tidy = true;
        Ok(())
    }
}

/// The log begins at `offset` from here on, and everybody may know.
fn deleted(
    env: &mut Env,
    partition: &mut Partition,
    tp: TopicIdPartition,
    offset: Offset,
) -> Result<(), Halt> {
    let moved = partition.log.log_start_to(offset);
    moved.map_err(|e| Violation::new("invariant_9_log_starts_fit_the_log", format!("{tp}: {e}")))?;
    env.note("log start", &[offset as u64]);
    env.stats.deed(Deed::LogStartMoved);
    invariants::log_start_seen(env, tp, partition.log.log_start())?;
    Ok(())
}

impl Partition {
    /// What is to be judged by retention.
    fn stretches(&self) -> Vec<Stretch> {
        let (states, active_base) = (self.segments.states(), self.segments.active_base());
        let in_segments = states.iter().map(|s| s.stretch(Some(s.base_offset) != active_base));
        stretches(in_segments, &self.log)
    }
}
