//! The scrub: reads closed segments whole, one after the other, and verifies them, before a consumer has to find out.
//!
//! Core decides which one and how fast (`chronik_core::scrub`). It reads around the page cache: the device is asked, and
//! what consumers read stays in memory. What it finds is kept with the segment, and not served from then on.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::scrub::{Plan, Policy, Seen, plan};

use super::disk::Disk;
use super::logs::PartitionMap;
use super::pace::Pace;
use super::partition::Partition;
use super::priority::step_back;
use super::segments::{Change, Damaged, Extent, verify_file};
use crate::metrics::ScrubMetrics;

/// A plan may be so old: what became suspect meanwhile waits so long.
const PLAN_EVERY: Duration = Duration::from_secs(60);
/// While it is off, it is looked so often whether it still is.
const OFF_REST: Duration = Duration::from_secs(1);
/// A segment that could not be looked at is left alone for so long.
const AFTER_AN_ERROR: Duration = Duration::from_secs(600);

type Key = (TopicIdPartition, Offset);

/// Why a verification ended early.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the broker stops")]
    Stopped,
    #[error("the scrub was turned off")]
    Off,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// See the module's documentation.
pub struct Scrub {
    disk: Arc<Disk>,
    partitions: Arc<PartitionMap>,
    metrics: ScrubMetrics,
    due: VecDeque<Key>,
    planned_at: Option<Instant>,
    bytes_per_second: u64,
    /// When all that is due is done.
    rest: Duration,
    /// Segments that are left alone, and until when.
    failed: HashMap<Key, Instant>,
    /// It was said that the pace is too slow.
    told_slow: bool,
    pace: Pace,
}

impl Scrub {
    pub fn start(
        disk: Arc<Disk>,
        partitions: Arc<PartitionMap>,
        metrics: ScrubMetrics,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        let mut scrub = Scrub {
            disk,
            partitions,
            metrics,
            due: VecDeque::new(),
            planned_at: None,
            bytes_per_second: 0,
            rest: OFF_REST,
            failed: HashMap::new(),
            told_slow: false,
            pace: Pace::new(),
        };
        std::thread::Builder::new().name("scrub".to_string()).spawn(move || scrub.run())
    }

    fn run(&mut self) {
        step_back();
        loop {
            let rest = self.turn();
            if self.disk.scrubbing.rest(rest) {
                return;
            }
        }
    }

    fn policy(&self) -> Policy {
        self.disk.live.load().scrub
    }

    /// Verifies what is next, if anything is; how long to rest before another turn.
    fn turn(&mut self) -> Duration {
        if self.policy().is_off() {
            self.due.clear();
            self.planned_at = None;
            self.metrics.full_pass.set(0);
            return OFF_REST;
        }
        let is_stale = |at: Instant| at.elapsed() >= PLAN_EVERY;
        if self.due.is_empty() || self.planned_at.is_none_or(is_stale) {
            self.plan();
        }
        let Some(next) = self.due.pop_front() else { return self.rest };
        match self.verify(next) {
            Ok(()) | Err(Ended::Stopped | Ended::Off) => {}
            Err(Ended::Io(e)) => {
                self.metrics.failures.inc();
                tracing::warn!("the scrub cannot look at a segment, and will try again: {e}");
                self.failed.insert(next, Instant::now() + AFTER_AN_ERROR);
            }
        }
        if self.due.is_empty() { self.rest } else { Duration::ZERO }
    }

    /// Looks over all partitions, each locked for a moment.
    fn plan(&mut self) {
        self.failed.retain(|_, until| *until > Instant::now());
        let (mut seen, mut damaged) = (Vec::new(), 0);
        for partition in self.partitions.load().values() {
            let on_disk = partition.on_disk();
            damaged += on_disk.segments.damaged();
            let segments = on_disk.segments.to_verify().map(|segment| {
                let Seen { key, bytes, verified_ms, suspect } = segment;
                Seen { key: (partition.id, key), bytes, verified_ms, suspect }
            });
            seen.extend(segments);
        }
        let policy = self.policy();
        let Plan { mut due, bytes_per_second, rest_ms, complete_since_ms, pass_takes_ms } =
            plan(&policy, seen, self.disk.now_ms());
        due.retain(|key| !self.failed.contains_key(key));
        self.metrics.damaged_segments.set(i64::try_from(damaged).unwrap_or(i64::MAX));
        self.metrics.full_pass.set(complete_since_ms.max(0) / 1000);
        let is_slow = pass_takes_ms.is_some();
        if let Some(takes_ms) = pass_takes_ms.filter(|_| !self.told_slow) {
            tracing::warn!(
                pass_takes_hours = takes_ms / 3_600_000,
                interval_hours = policy.interval_ms / 3_600_000,
                "the scrub cannot keep chronik.scrub.interval.ms at chronik.scrub.bytes.per.second"
            );
        }
        self.told_slow = is_slow;
        (self.due, self.bytes_per_second) = (due.into(), bytes_per_second);
        (self.rest, self.planned_at) = (Duration::from_millis(rest_ms), Some(Instant::now()));
    }

    /// Verifies one segment, if it is still there, and takes note of what was found.
    fn verify(&mut self, (id, base): Key) -> Result<(), Ended> {
        let Some(partition) = self.partitions.load().get(&id).cloned() else { return Ok(()) };
        let Some((state, path)) = partition.on_disk().segments.closed_at(base) else { return Ok(()) };
        let extent =
            Extent { base_offset: state.base_offset, bytes: state.bytes, end_offset: state.end_offset };
        let found = verify_file(&path, &extent, &mut |_, batch| {
            self.metrics.bytes.inc_by(batch.len() as u64);
            self.keep_pace(batch.len() as u64)
        })?;
        if found.damaged.is_empty() && partition.on_disk().segments.check_index(&state, &found.entries) {
            self.metrics.rebuilt_indexes.inc();
            tracing::warn!(file = %path.display(), "the index of a segment did not belong to it, and was built anew");
        }
        let damaged = found.damaged;
        let change = {
            let segments = &mut partition.on_disk().segments;
            let was_damaged = segments.is_damaged(base);
            let change = segments.verified(&state, damaged.clone(), self.disk.now_ms());
            let more = i64::from(segments.is_damaged(base)) - i64::from(was_damaged);
            self.metrics.damaged_segments.inc_by(more);
            change
        };
        match change {
            Change::Gone | Change::None => {}
            Change::Damaged => {
                tell(&partition, &path, &damaged);
                // A checkpoint is to say where the next run looks first.
                self.disk.work.order(|o| o.tidy = true);
            }
            Change::WholeAgain => tracing::info!(
                partition = partition.name(),
                file = %path.display(),
                "a segment that was damaged is whole again, and all of it is served"
            ),
        }
        Ok(())
    }

    fn keep_pace(&mut self, bytes: u64) -> Result<(), Ended> {
        if !self.pace.moved(bytes) {
            return Ok(());
        }
        let policy = self.policy();
        if policy.is_off() {
            return Err(Ended::Off);
        }
        let rate = self.bytes_per_second.min(policy.bytes_per_second_max);
        if self.pace.keep(rate, &self.disk.scrubbing) { Err(Ended::Stopped) } else { Ok(()) }
    }
}

/// Tells a person, once, what is lost and what to do.
fn tell(partition: &Partition, path: &Path, damaged: &[Damaged]) {
    for stretch in damaged {
        tracing::error!(
            topic = &*partition.topic,
            partition = partition.id.partition,
            file = %path.display(),
            "damage in a segment, {stretch}; all others are served. Restore the file from a copy while the broker is \
             stopped, have consumers go on at offset {}, or delete the records before it",
            stretch.to_offset
        );
    }
}
