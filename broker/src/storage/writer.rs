//! The segment writer: copies durable batches from the write-ahead log into segments, syncs them, moves the
//! checkpoint, and only then lets WAL files be written again (invariant 11).
//!
//! It keeps up with partitions that grow fast, a few megabytes at a time, while their newest records are still in
//! memory: nothing is read back from the log, and no large flush comes to stand before the log's small ones. All others,
//! and the checkpoint, have to wait until half of the WAL's pool is in use, or as much as the tails may keep in memory;
//! then they come in the order of their oldest entries. While there is room, it rests as long as it works.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chronik_core::ids::{TopicIdPartition, WalPosition};
use chronik_core::log::retention::{Retention, deletable};
use chronik_core::store::checkpoint::{Checkpoint, PartitionState};

use super::copying::Copying;
use super::disk::Disk;
use super::durable;
use super::logs::PartitionMap;
use super::partition::Partition;

pub const CHECKPOINT_FILE: &str = "checkpoint";
/// A partition with so many bytes in no segment is worth a write and a flush of its own.
const RIPE_BYTES: u64 = 4 << 20;
const TICK: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_millis(50);
/// A broker that starts again and again looks at retention, too (Kafka's `log.initial.task.delay.ms`).
const FIRST_LOOK: Duration = Duration::from_secs(30);
/// Checkpoints that only let go of files are no more frequent.
const TIDY_EVERY: Duration = Duration::from_secs(1);
const AFTER_AN_ERROR: Duration = Duration::from_secs(1);

pub struct SegmentWriter {
    pub disk: Arc<Disk>,
    pub partitions: Arc<PartitionMap>,
    pub reserve_bytes: u64,
    /// The last error was this one: it is logged once, not once a second.
    pub last_error: Option<String>,
    pub space_checked: Option<Instant>,
    /// Files that no checkpoint names any more, and when they may go.
    graves: Vec<(PathBuf, Instant)>,
    /// Files that the checkpoint on the disk may name still.
    condemned: Vec<(PathBuf, Instant)>,
    tidied_at: Instant,
    /// A checkpoint is due since the house was kept.
    house_kept: bool,
    house_kept_at: Option<Instant>,
    started: Instant,
    /// How far the log had come at the last checkpoint of this run.
    checkpointed: WalPosition,
}

impl SegmentWriter {
    pub fn start(
        disk: Arc<Disk>,
        partitions: Arc<PartitionMap>,
        reserve_bytes: u64,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        let mut writer = SegmentWriter::new(disk, partitions, reserve_bytes);
        std::thread::Builder::new().name("segment-writer".to_string()).spawn(move || writer.run())
    }

    pub(super) fn new(disk: Arc<Disk>, partitions: Arc<PartitionMap>, reserve_bytes: u64) -> SegmentWriter {
        let checkpointed = disk.wal.delivered();
        SegmentWriter {
            disk,
            partitions,
            reserve_bytes,
            last_error: None,
            space_checked: None,
            graves: Vec::new(),
            condemned: Vec::new(),
            tidied_at: Instant::now(),
            house_kept: false,
            house_kept_at: None,
            started: Instant::now(),
            checkpointed,
        }
    }

    fn run(&mut self) {
        loop {
            self.disk.work.wait(TICK);
            self.check_space();
            let (stop, urgent, removed) = {
                let mut orders = self.disk.work.lock();
                let urgent = std::mem::take(&mut orders.urgent);
                (orders.stop, urgent, std::mem::take(&mut orders.removed))
            };
            if !stop {
                self.keep_house();
            }
            remove(&removed);
            if stop || urgent || self.is_due() {
                let done = self.checkpoint(stop, true);
                self.told(done, stop, urgent);
            } else if self.tidied_at.elapsed() >= TIDY_EVERY
                && std::mem::take(&mut self.disk.work.lock().tidy)
            {
                let done = self.checkpoint(false, false);
                self.told(done, stop, urgent);
            } else if let Err(e) = self.copy_ripe() {
                self.told(Err(e), stop, urgent);
            }
            if stop {
                return;
            }
        }
    }

    /// Whether what is in the write-ahead log alone should move now.
    fn is_due(&self) -> bool {
        let (used, total) = self.disk.wal.fill();
        let since = self.disk.wal.delivered().0.saturating_sub(self.checkpointed.0);
        used * 2 >= total || since >= self.disk.tail_bytes_max() as u64 / 4 * 3 || self.house_kept
    }

    /// From time to time: what is too old or too much is deleted, old files are closed, and a checkpoint moves what is in
    /// the write-ahead log alone into segments, where compaction finds it. Condemned files go when their time has come.
    fn keep_house(&mut self) {
        self.bury();
        let every = Duration::from_millis(self.disk.live.load().retention_check_ms).max(TICK);
        let due = match self.house_kept_at {
            Some(at) => at.elapsed() >= every,
            None => self.started.elapsed() >= every.min(FIRST_LOOK),
        };
        if due {
            (self.house_kept, self.house_kept_at) = (true, Some(Instant::now()));
            self.retain();
        }
    }

    /// Removes the files whose time has come.
    pub(super) fn bury(&mut self) {
        self.graves.retain(|(path, due)| {
            if *due > Instant::now() {
                return true;
            }
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(file = %path.display(), "a deleted segment cannot be removed: {e}");
                }
                _ => {}
            }
            false
        });
    }

    /// Closes old files, and deletes what is too old or too much.
    pub(super) fn retain(&self) {
        let now_ms = self.disk.now_ms();
        for partition in self.partitions.load().values() {
            let config = partition.settings().topic.clone();
            let lag = if config.cleanup.compact { config.compaction.max_lag_ms } else { i64::MAX };
            partition.on_disk().segments.close_old(config.segment_ms.min(lag), now_ms);
            if !config.cleanup.delete {
                continue;
            }
            let limit = |value: i64| (value >= 0).then_some(value);
            let retention = Retention {
                max_age_ms: limit(config.retention_ms),
                max_bytes: limit(config.retention_bytes).map(i64::unsigned_abs),
            };
            let Some(to) = deletable(&retention, &partition.stretches(), now_ms) else { continue };
            if let Ok(Some(_)) = partition.delete_before(to) {
                tracing::info!(
                    partition = partition.name(),
                    "retention deletes the records before offset {to}"
                );
            }
        }
    }

    /// Tells of an attempt, and waits a while after one that failed.
    fn told(&mut self, done: io::Result<()>, stop: bool, urgent: bool) {
        match done {
            Ok(()) => {
                if self.last_error.take().is_some() {
                    tracing::info!("the segment writer works again");
                }
            }
            Err(e) => {
                let text = e.to_string();
                if self.last_error.as_ref() != Some(&text) {
                    tracing::error!("the segment writer cannot go on, and will try again: {text}");
                    self.last_error = Some(text);
                }
                if !stop {
                    std::thread::sleep(AFTER_AN_ERROR);
                    self.disk.work.lock().urgent |= urgent;
                }
            }
        }
    }

    /// Keeps up with the partitions that grow fast. The checkpoint may stay behind: what it does not know of is replayed
    /// over segments that have it already.
    fn copy_ripe(&mut self) -> io::Result<()> {
        let listed = self.disk.work.lock().listed.clone();
        for partition in listed.iter().filter(|p| p.uncopied_bytes() >= RIPE_BYTES) {
            self.copy(partition, false).inspect_err(|_| partition.on_disk().segments.abandon())?;
        }
        Ok(())
    }

    /// Copies what the WAL alone holds, writes a checkpoint, recycles.
    /// Without `copy` the segments stay as they are, and only what is no longer needed goes.
    pub(super) fn checkpoint(&mut self, stop: bool, copy: bool) -> io::Result<()> {
        self.tidied_at = Instant::now();
        // What cannot be copied must not keep others from being deleted: that may be what frees the space.
        let copied = if copy { self.copy_all(stop) } else { Ok(()) };
        let written = self.write_checkpoint();
        copied.and(written)
    }

    fn copy_all(&self, stop: bool) -> io::Result<()> {
        let mut listed = std::mem::take(&mut self.disk.work.lock().listed);
        listed.sort_by_cached_key(|p| p.oldest_needed());
        for (n, partition) in listed.iter().enumerate() {
            if let Err(e) = self.copy(partition, stop) {
                partition.on_disk().segments.abandon();
                let mut orders = self.disk.work.lock();
                orders.listed.extend(listed[n..].iter().cloned());
                return Err(e);
            }
            if partition.unlist() {
                self.disk.work.lock().listed.push(partition.clone());
            }
        }
        Ok(())
    }

    fn write_checkpoint(&mut self) -> io::Result<()> {
        let delivered = self.disk.wal.delivered();
        let all: HashMap<TopicIdPartition, Arc<Partition>> = self.partitions.load().as_ref().clone();
        for partition in all.values() {
            let log_start = partition.state().log.log_start();
            partition.on_disk().segments.trim(log_start);
        }
        // What is condemned from here on may be named by the checkpoint: its turn is the next one.
        self.condemned.extend(all.values().flat_map(|p| {
            let delay = p.settings().topic.file_delete_delay_ms.unsigned_abs();
            let due = Instant::now() + Duration::from_millis(delay.min(1 << 40));
            let files = p.on_disk().segments.take_condemned();
            files.into_iter().map(move |path| (path, due))
        }));
        // The positions are asked for before the states: what moves meanwhile only moves forward.
        let position = Checkpoint::position_for(delivered, all.values().filter_map(|p| p.oldest_needed()));
        let partitions = all.values().map(|p| (p.id, state_of(p))).collect();
        let checkpoint = Checkpoint { position, partitions };
        let bytes = checkpoint.encode();
        durable::replace_on_full_disk(&self.disk.data_dir, CHECKPOINT_FILE, &bytes)?;
        // Above all on a full disk: segments would take the room, and nothing could be deleted any more.
        if let Err(e) = durable::set_aside(&self.disk.data_dir, CHECKPOINT_FILE, bytes.len()) {
            tracing::debug!("no room can be set aside for the checkpoint: {e}");
        }
        self.graves.append(&mut self.condemned);
        self.house_kept = false;
        self.disk.wal.recycle(position);
        self.checkpointed = delivered;
        Ok(())
    }

    /// Copies a partition's durable runs into its segments and syncs them.
    fn copy(&self, partition: &Arc<Partition>, stop: bool) -> io::Result<()> {
        if partition.is_deleted() {
            return Ok(());
        }
        let mut copying = Copying::begin(partition);
        loop {
            let started = Instant::now();
            if !copying.chunk(self.disk.now_ms())? {
                return copying.finish();
            }
            if !stop {
                self.rest(started.elapsed());
            }
        }
    }

    fn rest(&self, worked: Duration) {
        let (used, total) = self.disk.wal.fill();
        if used * 4 < total * 3 {
            std::thread::sleep(worked.min(LONGEST_REST));
        }
    }

    /// Below the reserve, produce is refused; everything that needs little space goes on.
    fn check_space(&mut self) {
        if self.space_checked.is_some_and(|at| at.elapsed() < Duration::from_millis(500)) {
            return;
        }
        self.space_checked = Some(Instant::now());
        let free = [&self.disk.data_dir, &self.disk.wal_dir]
            .into_iter()
            .filter_map(|dir| rustix::fs::statvfs(dir).ok())
            .map(|s| s.f_bavail.saturating_mul(s.f_frsize))
            .min();
        let Some(free) = free else { return };
        let full = free < self.reserve_bytes;
        let was_full = self.disk.set_full(full);
        if full && !was_full {
            tracing::error!(
                free_bytes = free,
                reserve_bytes = self.reserve_bytes,
                "the disk is full: produce is refused until space returns"
            );
        } else if !full && was_full {
            tracing::info!(free_bytes = free, "there is space again: produce is accepted");
        }
    }
}

/// Removes the files of deleted partitions.
pub(super) fn remove(partitions: &[Arc<Partition>]) {
    for partition in partitions {
        if let Err(e) = partition.on_disk().segments.remove() {
            tracing::warn!(partition = partition.name(), "cannot remove the files of a deleted topic: {e}");
        }
    }
}

fn state_of(partition: &Partition) -> PartitionState {
    use super::partition::Closed;
    let producers = partition.segment_producers();
    let on_disk = partition.on_disk();
    let segments = on_disk.segments.states();
    let cleaned_to = on_disk.cleaned_to;
    drop(on_disk);
    let (end, producers) = (producers.end_offset(), producers.encode());
    let state = partition.state();
    PartitionState {
        log_start: state.log.log_start(),
        segment_end: end.max(state.log.log_start()),
        segments,
        leader_epochs: state.log.leader_epochs().clone(),
        producers,
        aborted: state.log.transactions().aborted_below(end).collect(),
        cleaned_to,
        fenced: match &state.closed {
            Some(Closed::Fenced(why)) => Some(why.clone()),
            _ => None,
        },
    }
}
