//! The quorum's log on the disk: a small write-ahead log of its own, of the same engine as the data's, so
//! that a vote never queues behind bulk data.
//!
//! Beside its files lies `checkpoint`: the position that replay begins at, moved only after the snapshot
//! that makes everything before it dispensable is durable.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chronik_core::ids::{DiskUuid, LeaderEpoch, TopicIdPartition, WalPosition};
use chronik_core::wal::format::EntryKind;
use chronik_core::wal::profile::{AckMode, PolicyKind, WalProfile};
use chronik_core::wal::recovery::Event;
use thiserror::Error;

use super::wal::{Done, MetaEntry, MetaEntryKind, MetaWal, Replayed};
use crate::metrics::WalMetrics;
use crate::storage::disk::observe_group;
use crate::storage::durable;
use crate::storage::wal::{
    DurableRun, Engine, Entry, FlushMode, GroupFacts, Wal, WalClient, WalError, WalObserver, WalOptions,
    files, recover,
};

/// One file takes the largest batch of records: the registration of a broker that leads some hundred thousand
/// partitions.
const FILE_BYTES: u64 = 16 << 20;
const MAX_FILES: usize = 6;
/// From so many files on a snapshot is due. Each start takes a new one.
const CROWDED_FILES: usize = 3;

const CHECKPOINT: &str = "checkpoint";

/// Why the quorum's log cannot be opened.
#[derive(Debug, Error)]
pub enum DiskWalError {
    #[error("metadata log: {0}")]
    Wal(#[from] WalError),
    #[error("metadata log {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("metadata log: {path} does not hold a position")]
    Checkpoint { path: PathBuf },
    #[error(
        "metadata log: what was durable from position {start} to {end} cannot be read any more ({place}): votes or changes of the cluster's metadata are lost"
    )]
    Corrupt { start: WalPosition, end: WalPosition, place: String },
    #[error("metadata log: an entry of kind {0:?} does not belong into it")]
    Kind(EntryKind),
}

/// See the module.
pub struct DiskWal {
    wal: Wal,
    dir: PathBuf,
}

fn kind_on_disk(kind: MetaEntryKind) -> EntryKind {
    match kind {
        MetaEntryKind::Append => EntryKind::QuorumEntry,
        MetaEntryKind::Truncate => EntryKind::QuorumTruncate,
        MetaEntryKind::Purge => EntryKind::QuorumPurge,
        MetaEntryKind::Vote => EntryKind::QuorumVote,
    }
}

fn kind_in_memory(kind: EntryKind) -> Option<MetaEntryKind> {
    [MetaEntryKind::Append, MetaEntryKind::Truncate, MetaEntryKind::Purge, MetaEntryKind::Vote]
        .into_iter()
        .find(|known| kind_on_disk(*known) == kind)
}

impl DiskWal {
    /// Reads the log in `dir`, makes what was read durable, and continues it. `id` is the disk's.
    pub fn open(
        dir: &Path,
        id: DiskUuid,
        engine: Engine,
        flush: FlushMode,
        metrics: WalMetrics,
    ) -> Result<(Arc<DiskWal>, Vec<Replayed>), DiskWalError> {
        let io_error = |source| DiskWalError::Io { path: dir.to_path_buf(), source };
        fs::create_dir_all(dir).map_err(io_error)?;
        let checkpoint = read_checkpoint(dir)?;
        let options = WalOptions {
            name: "metadata",
            dir: dir.to_path_buf(),
            id,
            file_bytes: FILE_BYTES,
            max_files: MAX_FILES,
            engine,
            flush,
            in_flight: 1,
            profiles: vec![WalProfile {
                policy: PolicyKind::Pipelined,
                max_delay_us: 1_000,
                max_group_records: u64::MAX,
                max_group_bytes: FILE_BYTES / 4,
                max_queue_records: u64::MAX,
                max_queue_bytes: u64::MAX,
                ack: AckMode::Durable,
            }],
        };
        let mut replayed = Vec::new();
        let mut unknown = None;
        let recovering = recover(options, checkpoint, &mut |event| {
            let Event::Group(group) = event else { return };
            for item in group.items {
                match kind_in_memory(item.kind) {
                    Some(kind) => replayed.push(Replayed {
                        position: group.header.position,
                        entry: MetaEntry {
                            kind,
                            index: u64::try_from(item.first).unwrap_or_default(),
                            body: Bytes::copy_from_slice(group.body(item)),
                        },
                    }),
                    None => unknown = Some(item.kind),
                }
            }
        })?;
        if let Some(kind) = unknown {
            return Err(DiskWalError::Kind(kind));
        }
        if let Some(hole) = recovering.recovered.holes.first() {
            let place = match hole.place {
                Some((slot, at)) => format!("{} at {at}", files::path_of(dir, slot).display()),
                None => "no file".to_string(),
            };
            return Err(DiskWalError::Corrupt { start: hole.start, end: hole.end, place });
        }
        let wal = recovering.start(Arc::new(Observer(metrics)))?;
        Ok((Arc::new(DiskWal { wal, dir: dir.to_path_buf() }), replayed))
    }

    /// Writes what waits and ends the log's thread. To be called after the store was shut down.
    pub fn stop(&self) {
        self.wal.stop();
    }
}

fn read_checkpoint(dir: &Path) -> Result<WalPosition, DiskWalError> {
    let path = dir.join(CHECKPOINT);
    let found =
        durable::read(dir, CHECKPOINT).map_err(|source| DiskWalError::Io { path: path.clone(), source })?;
    let Some(bytes) = found else { return Ok(WalPosition(0)) };
    let position = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
    position.map(WalPosition).ok_or(DiskWalError::Checkpoint { path })
}

impl MetaWal for DiskWal {
    fn submit(&self, entry: MetaEntry, done: Done) {
        let client = Arc::new(Waiter(Mutex::new(Some(done))));
        let index = i64::try_from(entry.index).unwrap_or(i64::MAX);
        self.wal.submit(Entry {
            kind: kind_on_disk(entry.kind),
            tp: TopicIdPartition { topic_id: Default::default(), partition: 0 },
            first: index,
            last: index,
            leader_epoch: LeaderEpoch(0),
            records: 1,
            patch: false,
            body: entry.body,
            profile: 0,
            client,
        });
    }

    fn release_below(&self, position: WalPosition) -> io::Result<()> {
        durable::replace(&self.dir, CHECKPOINT, format!("{position}\n").as_bytes())?;
        self.wal.recycle(position);
        Ok(())
    }

    fn max_entry_bytes(&self) -> u64 {
        self.wal.max_entry_bytes()
    }

    fn is_crowded(&self) -> bool {
        self.wal.fill().0 >= CROWDED_FILES
    }
}

/// Whoever waits for one entry. No two of our entries are ever joined into one run.
struct Waiter(Mutex<Option<Done>>);

impl Waiter {
    fn tell(&self, result: io::Result<WalPosition>) {
        if let Some(done) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            done(result);
        }
    }
}

impl WalClient for Waiter {
    fn durable(self: Arc<Self>, run: DurableRun) {
        // The group's own position: where a later walk over the log can begin.
        let into_group = u64::from(run.item.body_at);
        self.tell(Ok(WalPosition(run.position.0.saturating_sub(into_group))));
    }

    fn failed(self: Arc<Self>) {
        self.tell(Err(io::Error::other("a write or a flush of the metadata log failed")));
    }
}

/// The store learns of a failure by the entry that fails.
struct Observer(WalMetrics);

impl WalObserver for Observer {
    fn group(&self, facts: &GroupFacts<'_>) {
        observe_group(&self.0, facts, facts.tallies.iter().map(|t| t.records).sum());
    }

    fn pool_is_full(&self) {
        tracing::warn!("every file of the metadata log is full: waiting for a snapshot");
    }

    fn failed(&self, why: &str) {
        tracing::error!("the metadata log failed: {why}");
    }
}
