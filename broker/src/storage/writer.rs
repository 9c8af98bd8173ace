//! The segment writer: copies durable batches from the write-ahead log into segments, syncs them, moves the
//! checkpoint, and only then lets WAL files be written again (invariant 11).
//!
//! It keeps up with partitions that grow fast, a few megabytes at a time, while their newest records are still in
//! memory: nothing is read back from the log, and no large flush comes to stand before the log's small ones. All others,
//! and the checkpoint, have to wait until half of the WAL's pool is in use, or as much as the tails may keep in memory;
//! then they come in the order of their oldest entries. While there is room, it rests as long as it works.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chronik_core::ids::{TopicIdPartition, WalPosition};
use chronik_core::record_batch::{Batches, Crc};
use chronik_core::store::checkpoint::{Checkpoint, PartitionState};

use super::disk::Disk;
use super::durable;
use super::logs::PartitionMap;
use super::partition::Partition;

pub const CHECKPOINT_FILE: &str = "checkpoint";
const CHUNK_BYTES: usize = 2 << 20;
/// A partition with so many bytes in no segment is worth a write and a flush of its own.
const RIPE_BYTES: u64 = 4 << 20;
const TICK: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_millis(50);
const AFTER_AN_ERROR: Duration = Duration::from_secs(1);

pub struct SegmentWriter {
    pub disk: Arc<Disk>,
    pub partitions: Arc<PartitionMap>,
    pub reserve_bytes: u64,
    /// The last error was this one: it is logged once, not once a second.
    pub last_error: Option<String>,
    pub space_checked: Option<Instant>,
    /// How far the log had come at the last checkpoint of this run.
    checkpointed: WalPosition,
}

impl SegmentWriter {
    pub fn start(
        disk: Arc<Disk>,
        partitions: Arc<PartitionMap>,
        reserve_bytes: u64,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        let checkpointed = disk.wal.delivered();
        let mut writer = SegmentWriter {
            disk,
            partitions,
            reserve_bytes,
            last_error: None,
            space_checked: None,
            checkpointed,
        };
        std::thread::Builder::new().name("segment-writer".to_string()).spawn(move || writer.run())
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
            for partition in removed {
                if let Err(e) = partition.on_disk().segments.remove() {
                    tracing::warn!(
                        partition = partition.name(),
                        "cannot remove the files of a deleted topic: {e}"
                    );
                }
            }
            if stop || urgent || self.is_due() {
                let done = self.checkpoint(stop);
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
        used * 2 >= total || since >= self.disk.tail_bytes_max() as u64 / 4 * 3
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
    fn checkpoint(&mut self, stop: bool) -> io::Result<()> {
        let delivered = self.disk.wal.delivered();
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
        let all: HashMap<TopicIdPartition, Arc<Partition>> = self.partitions.load().as_ref().clone();
        // The positions are asked for before the states: what moves meanwhile only moves forward.
        let position = Checkpoint::position_for(delivered, all.values().filter_map(|p| p.oldest_needed()));
        let partitions = all.values().map(|p| (p.id, state_of(p))).collect();
        let checkpoint = Checkpoint { position, partitions };
        durable::replace(&self.disk.data_dir, CHECKPOINT_FILE, &checkpoint.encode())?;
        self.disk.wal.recycle(position);
        self.checkpointed = delivered;
        Ok(())
    }

    /// Copies a partition's durable runs into its segments and syncs them.
    fn copy(&self, partition: &Arc<Partition>, stop: bool) -> io::Result<()> {
        if partition.is_deleted() {
            return Ok(());
        }
        let segment_bytes = u64::try_from(partition.settings().topic.segment_bytes).unwrap_or(1 << 30);
        let chunk_bytes = CHUNK_BYTES.min(usize::try_from(segment_bytes / 2).unwrap_or(CHUNK_BYTES)).max(1);
        // An attempt that failed behind a roll has left batches synced that the log does not know of yet.
        let (mut producers, synced_end) = {
            let on_disk = partition.on_disk();
            (on_disk.producers.clone(), on_disk.segments.end())
        };
        let mut next = partition.state().log.segment_end();
        let mut copied = 0;
        loop {
            let started = Instant::now();
            let runs = partition.runs_from(next, chunk_bytes);
            if runs.is_empty() {
                break;
            }
            // One write for the chunk: a run may be no larger than a record.
            let mut joined = Vec::with_capacity(chunk_bytes);
            let mut first = None;
            let mut max_timestamp = -1;
            for run in runs {
                let bytes = match run.bytes {
                    Some(bytes) => bytes,
                    None => partition.read_span(run.span)?.ok_or_else(|| {
                        io::Error::other(format!("WAL position {} was recycled too early", run.span.position))
                    })?,
                };
                for (header, _) in Batches::new(&bytes, Crc::Skip).flatten() {
                    producers.apply(&header, header.max_timestamp);
                }
                next = run.last_offset + 1;
                copied += bytes.len() as u64;
                if run.base_offset >= synced_end {
                    first.get_or_insert(run.base_offset);
                    max_timestamp = run.max_timestamp.max(max_timestamp);
                    joined.extend_from_slice(&bytes);
                }
            }
            if let Some(first) = first {
                let mut on_disk = partition.on_disk();
                on_disk.segments.append(&joined, first, next, max_timestamp, segment_bytes)?;
            }
            if !stop {
                self.rest(started.elapsed());
            }
        }
        let mut on_disk = partition.on_disk();
        on_disk.segments.sync()?;
        on_disk.segments.close();
        on_disk.producers = producers.reaching(next);
        drop(on_disk);
        partition.in_segments(next, copied).map_err(io::Error::other)
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

fn state_of(partition: &Partition) -> PartitionState {
    use super::partition::Closed;
    let on_disk = partition.on_disk();
    let segments = on_disk.segments.states();
    let producers = on_disk.producers.encode();
    let end = on_disk.producers.end_offset();
    drop(on_disk);
    let state = partition.state();
    PartitionState {
        log_start: state.log.log_start(),
        segment_end: end.max(state.log.log_start()),
        segments,
        leader_epochs: state.log.leader_epochs().clone(),
        producers,
        fenced: match &state.closed {
            Some(Closed::Fenced(why)) => Some(why.clone()),
            _ => None,
        },
    }
}
