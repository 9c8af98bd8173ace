//! The cleaner: compacts closed segments (`cleanup.policy=compact`), one partition at a time, the dirtiest first.
//!
//! It writes new files beside the old ones, syncs them and their names, and only then lets the partition read them in the
//! place of the others. The checkpoint on the disk goes on naming the old files until another one is written, and they
//! stay until then: a crash at any moment leaves one or the other, whole.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chronik_client::compression::Codec;
use chronik_core::compaction::{Cleaned, Closed, KeyOffsets, Pass, Plan, Policy, Transactions, groups, plan};
use chronik_core::ids::{Offset, ProducerId, TopicIdPartition};
use chronik_core::record_batch::{BatchHeader, NO_TIMESTAMP};
use chronik_core::store::checkpoint::SegmentState;

use super::disk::Disk;
use super::logs::PartitionMap;
use super::pace::Pace;
use super::partition::Partition;
use super::priority::step_back;
use super::segments::{Limits, files_of, index, records_of, walk};
use super::wal::files::sync_dir;
use crate::metrics::CleanerMetrics;

/// A partition whose records could not be read is left alone for so long.
const AFTER_AN_ERROR: Duration = Duration::from_secs(600);
const AFTER_A_RACE: Duration = Duration::from_secs(5);
const LEAST_REST: Duration = Duration::from_millis(100);

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the broker stops")]
    Stopped,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// See the module's documentation.
pub struct Cleaner {
    disk: Arc<Disk>,
    partitions: Arc<PartitionMap>,
    metrics: CleanerMetrics,
    /// Partitions that are left alone, and until when.
    failed: HashMap<TopicIdPartition, Instant>,
    pace: Pace,
    seed: u64,
}

/// A partition that is worth cleaning.
pub(super) struct Work {
    pub partition: Arc<Partition>,
    pub plan: Plan,
    closed: Vec<SegmentState>,
}

impl Cleaner {
    pub fn start(
        disk: Arc<Disk>,
        partitions: Arc<PartitionMap>,
        metrics: CleanerMetrics,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        let mut cleaner = Cleaner::new(disk, partitions, metrics);
        std::thread::Builder::new().name("cleaner".to_string()).spawn(move || cleaner.run())
    }

    pub(super) fn new(disk: Arc<Disk>, partitions: Arc<PartitionMap>, metrics: CleanerMetrics) -> Cleaner {
        Cleaner {
            disk,
            partitions,
            metrics,
            failed: HashMap::new(),
            pace: Pace::new(),
            seed: uuid::Uuid::new_v4().as_u64_pair().0,
        }
    }

    fn run(&mut self) {
        step_back();
        loop {
            let backoff = Duration::from_millis(self.disk.live.load().cleaner_backoff_ms).max(LEAST_REST);
            let Some(work) = self.dirtiest() else {
                if self.disk.cleaning.rest(backoff) {
                    return;
                }
                continue;
            };
            let id = work.partition.id;
            match self.clean(&work) {
                Ok(()) => {}
                Err(Ended::Stopped) => return,
                // Retention, or the topic's deletion, was faster than the pass: it is planned anew.
                Err(Ended::Io(e)) if e.kind() == io::ErrorKind::NotFound => {
                    tracing::debug!(
                        partition = work.partition.name(),
                        "a segment went while it was compacted: {e}"
                    );
                    self.failed.insert(id, Instant::now() + AFTER_A_RACE);
                }
                Err(Ended::Io(e)) => {
                    self.metrics.failures.inc();
                    tracing::error!(partition = work.partition.name(), "it cannot be compacted: {e}");
                    self.failed.insert(id, Instant::now() + AFTER_AN_ERROR);
                }
            }
            if self.disk.cleaning.rest(Duration::ZERO) {
                return;
            }
        }
    }

    /// The partition that has most to gain.
    pub(super) fn dirtiest(&mut self) -> Option<Work> {
        self.failed.retain(|_, until| *until > Instant::now());
        let now_ms = self.disk.now_ms();
        let partitions = self.partitions.load();
        let compacted = partitions.values().filter(|p| p.settings().topic.cleanup.compact && p.is_open());
        let worth = compacted.filter(|p| !self.failed.contains_key(&p.id)).filter_map(|partition| {
            let (closed, cleaned_to) = {
                let on_disk = partition.on_disk();
                (on_disk.segments.cleanable(), on_disk.cleaned_to)
            };
            let facts: Vec<Closed> = closed.iter().map(SegmentState::facts).collect();
            // What is in a file and not counted by the log yet may be written again; what is not decided, too, is for later.
            let limit = {
                let state = partition.state();
                state.log.last_stable_offset().min(state.log.segment_end())
            };
            let plan = plan(&policy_of(partition), &facts, cleaned_to, limit, now_ms)?;
            Some(Work { partition: partition.clone(), plan, closed })
        });
        let by_need = |a: &Work, b: &Work| {
            (a.plan.overdue, a.plan.dirty_ratio).partial_cmp(&(b.plan.overdue, b.plan.dirty_ratio))
        };
        worth.max_by(|a, b| by_need(a, b).unwrap_or(std::cmp::Ordering::Equal))
    }

    /// One pass: the keys of the dirty part, then everything up to there anew.
    pub(super) fn clean(&mut self, work: &Work) -> Result<(), Ended> {
        let began = Instant::now();
        let partition = &work.partition;
        let from = work.closed.first().map_or(0, |s| s.base_offset);
        let transactions = Transactions::new(partition.state().log.aborted_between(from, work.plan.end));
        let (keys, keys_end) = self.keys(work, &transactions)?;
        let last_of: HashMap<ProducerId, Offset> = partition.state().log.producers().last_offsets().collect();
        let mut pass = Pass {
            keys: &keys,
            keys_end,
            now_ms: self.disk.now_ms(),
            delete_retention_ms: partition.settings().topic.compaction.delete_retention_ms,
            transactions,
        };
        let affected: Vec<SegmentState> =
            work.closed.iter().filter(|s| s.base_offset < keys_end).cloned().collect();
        let facts: Vec<Closed> = affected.iter().map(SegmentState::facts).collect();
        let mut from = 0;
        let (mut before, mut after) = (0, 0);
        for group in groups(&facts, policy_of(partition).segment_bytes) {
            let old = &affected[from..from + group.len()];
            from += group.len();
            let written = self.rewrite(partition, old, &mut pass, &last_of)?;
            // Before the files do: no reader may be told of a transaction whose end is not there.
            partition.state().log.markers_go(&pass.transactions.take_gone());
            before += old.iter().map(|s| s.bytes).sum::<u64>();
            after += written.as_ref().map_or(0, |s| s.bytes);
            if !partition.on_disk().segments.replace(old, written.as_slice()) {
                // Retention, or the topic's deletion, was faster.
                if let Some(new) = &written {
                    for path in files_of(partition.on_disk().segments.path_of(new)) {
                        std::fs::remove_file(&path).or_else(gone_already)?;
                    }
                }
                return Ok(());
            }
            // At once, since the pass may end early: what was read from memory must not come back from there.
            let end = old.last().map_or(0, |s| s.end_offset);
            partition.state().log.compacted_to(end.min(keys_end));
        }
        let mut on_disk = partition.on_disk();
        on_disk.cleaned_to = on_disk.cleaned_to.max(keys_end);
        drop(on_disk);
        self.disk.work.order(|o| o.tidy = true);
        self.metrics.passes.inc();
        self.metrics.bytes_read.inc_by(before);
        self.metrics.bytes_written.inc_by(after);
        self.metrics.seconds.observe_since(began);
        tracing::info!(
            partition = partition.name(),
            keys = keys.len(),
            bytes_before = before,
            bytes_after = after,
            "compacted up to offset {keys_end}"
        );
        Ok(())
    }

    /// The newest offset of each key of the dirty part, and how far that part was read.
    fn keys(&mut self, work: &Work, transactions: &Transactions) -> Result<(KeyOffsets, Offset), Ended> {
        let mut keys = KeyOffsets::new(self.disk.live.load().cleaner_key_bytes, self.seed);
        for segment in work.closed.iter().filter(|s| s.end_offset > work.plan.dirty_from) {
            if segment.base_offset >= work.plan.end {
                break;
            }
            let mut full_at = None;
            self.each_batch(&work.partition, segment, &mut |_, header, batch| {
                if header.next_offset() <= work.plan.dirty_from {
                    return Ok(true);
                }
                let noted = records_of(header, batch).and_then(|records| {
                    Pass::note(&mut keys, transactions, header, &records).map_err(io::Error::other)
                });
                // A batch that cannot be read stays as it is, and has no say about others.
                let noted = noted.unwrap_or(true);
                if !noted {
                    full_at = Some(header.base_offset);
                }
                Ok(noted)
            })?;
            if let Some(at) = full_at.filter(|at| *at > work.plan.dirty_from) {
                return Ok((keys, at));
            }
            if full_at.is_some() {
                let why = "one batch has more keys than log.cleaner.dedupe.buffer.size holds";
                return Err(io::Error::other(why).into());
            }
        }
        Ok((keys, work.plan.end))
    }

    /// Writes what stays of some segments into one new file, synced. `None` when nothing stays.
    fn rewrite(
        &mut self,
        partition: &Arc<Partition>,
        old: &[SegmentState],
        pass: &mut Pass<'_>,
        last_of: &HashMap<ProducerId, Offset>,
    ) -> Result<Option<SegmentState>, Ended> {
        let (Some(first), Some(last)) = (old.first(), old.last()) else { return Ok(None) };
        let revision = old.iter().map(|s| s.revision).max().unwrap_or(0).saturating_add(1);
        let mut new = SegmentState {
            end_offset: last.end_offset,
            written_ms: last.written_ms,
            // What goes into it was verified just now.
            verified_ms: self.disk.now_ms(),
            revision,
            ..SegmentState::begun(first.base_offset)
        };
        let (path, dir) = {
            let on_disk = partition.on_disk();
            (on_disk.segments.path_of(&new), on_disk.segments.dir().to_path_buf())
        };
        let written = self.write(partition, old, pass, last_of, &path, &mut new);
        if written.is_err() || new.bytes == 0 {
            // Nobody knows of it yet. What cannot be removed now, the next start removes.
            let _ = std::fs::remove_file(&path);
        }
        written?;
        if new.bytes == 0 {
            return Ok(None);
        }
        sync_dir(&dir)?;
        // While the file is in memory; whoever reads it would have to otherwise.
        index::complete(&path, new.bytes)?;
        Ok(Some(new))
    }

    /// Writes what stays of some segments to a file, and syncs it.
    fn write(
        &mut self,
        partition: &Arc<Partition>,
        old: &[SegmentState],
        pass: &mut Pass<'_>,
        last_of: &HashMap<ProducerId, Offset>,
        path: &Path,
        new: &mut SegmentState,
    ) -> Result<(), Ended> {
        // The last batch of what is closed stays: a reader must be able to come to the end.
        let log_end = partition.state().log.segment_end();
        let file = File::options().write(true).create(true).truncate(true).open(path)?;
        for segment in old {
            self.each_batch(partition, segment, &mut |cleaner, header, batch| {
                let is_last =
                    header.has_producer() && last_of.get(&header.producer_id) == Some(&header.last_offset());
                let must_stay = is_last || header.next_offset() >= log_end;
                let cleaned = records_of(header, batch)
                    .and_then(|records| pass.clean(header, &records, must_stay).map_err(io::Error::other));
                let cleaned = cleaned.unwrap_or_else(|e| {
                    pass.leaves(header);
                    cleaner.metrics.unreadable.inc();
                    tracing::warn!(
                        partition = partition.name(),
                        "the batch of offset {} stays as it is, since it cannot be read: {e}",
                        header.base_offset
                    );
                    Cleaned::Kept
                });
                let bytes: Bytes = match cleaned {
                    Cleaned::Gone => return Ok(true),
                    Cleaned::Kept => batch.clone(),
                    Cleaned::Rewritten(rewriter) => {
                        let codec = Codec::of(header.attributes)?;
                        let records = rewriter.records();
                        let packed =
                            if rewriter.count() == 0 { Vec::new() } else { codec.compress(records)? };
                        rewriter.finish(&packed).into()
                    }
                };
                let written = BatchHeader::parse(&bytes).map_err(io::Error::other)?;
                file.write_all_at(&bytes, new.bytes)?;
                new.bytes += bytes.len() as u64;
                new.max_timestamp = new.max_timestamp.max(written.max_timestamp);
                if new.first_timestamp == NO_TIMESTAMP {
                    new.first_timestamp = written.max_timestamp;
                }
                cleaner.pace.moved(bytes.len() as u64);
                Ok(true)
            })?;
        }
        Ok(file.sync_data()?)
    }

    /// Reads a segment batch by batch, every checksum verified, until `each` returns false. Keeps to
    /// `log.cleaner.io.max.bytes.per.second`.
    fn each_batch(
        &mut self,
        partition: &Arc<Partition>,
        segment: &SegmentState,
        each: &mut dyn FnMut(&mut Cleaner, &BatchHeader, &Bytes) -> io::Result<bool>,
    ) -> Result<(), Ended> {
        let path = partition.on_disk().segments.path_of(segment);
        let damage = walk(&path, segment.bytes, &mut |_, header, batch| {
            let go_on = each(self, header, batch)?;
            if self.pace.moved(batch.len() as u64) {
                let rate = self.disk.live.load().cleaner_bytes_per_second;
                if self.pace.keep(rate, &self.disk.cleaning) {
                    return Err(Ended::Stopped);
                }
            }
            Ok::<_, Ended>(go_on)
        })?;
        match damage {
            None => Ok(()),
            Some(damage) => {
                partition.on_disk().segments.suspect(segment.base_offset);
                Err(damage.in_file(&path).into())
            }
        }
    }
}

/// A deleted topic takes its whole directory along.
fn gone_already(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}

fn policy_of(partition: &Partition) -> Policy {
    let config = &partition.settings().topic;
    Policy {
        min_dirty_ratio: f64::from(config.compaction.min_dirty_ratio) / 1e6,
        min_lag_ms: config.compaction.min_lag_ms,
        max_lag_ms: config.compaction.max_lag_ms,
        segment_bytes: Limits::of(config).bytes,
    }
}
