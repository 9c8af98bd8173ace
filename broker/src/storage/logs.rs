//! The partitions of this broker: opened from disk, kept in step with the metadata image.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use chronik_core::ids::{BrokerId, LeaderEpoch, TopicId, TopicIdPartition};
use chronik_core::log::{LogError, PartitionLog, ProducerStateMap};
use chronik_core::metadata::{Changes, MetadataImage, TopicImage};
use chronik_core::store::checkpoint::{Checkpoint, CheckpointError};
use chronik_core::store::replay::{Replay, Replayed};
use chronik_core::wal::format::EntryKind;
use chronik_core::wal::recovery::Event;
use thiserror::Error;

use super::cleaner::Cleaner;
pub use super::disk::Disk;
use super::disk::LiveSettings;
use super::durable;
use super::now_ms;
use super::partition::{Closed, OnDisk, Partition, Settings};
use super::read::Reader;
use super::scrub::Scrub;
use super::segments::{Chunk, Limits, Segments};
use super::wal::{self, DurableRun, Entry, Recovering, WalClient, WalError, WalOptions};
pub use super::writer::CHECKPOINT_FILE;
use super::writer::SegmentWriter;
use crate::api::partitions::{Journal, Logs, PartitionReader};
use crate::metrics::{CleanerMetrics, ScrubMetrics};

pub type PartitionMap = ArcSwap<HashMap<TopicIdPartition, Arc<Partition>>>;

/// Producers remembered per partition, at most.
const PRODUCERS_MAX: usize = 100_000;

#[derive(Debug, Error)]
pub enum OpenError {
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Checkpoint { path: PathBuf, source: CheckpointError },
    #[error(
        "{}: there is no checkpoint, but the write-ahead log begins at position {begins}: what was before it cannot be found",
        path.display()
    )]
    CheckpointMissing { path: PathBuf, begins: u64 },
    #[error("partition {0}: {1}")]
    Partition(TopicIdPartition, LogError),
    #[error("cannot start the segment writer, the cleaner or the scrub: {0}")]
    Thread(io::Error),
}

/// What recovery read, before the log is written again.
pub struct Opened {
    pub wal: Recovering,
    replayed: BTreeMap<TopicIdPartition, Replayed>,
    blind: Option<String>,
}

/// Reads checkpoint and write-ahead log.
pub fn open(data_dir: &Path, options: WalOptions) -> Result<Opened, OpenError> {
    let path = data_dir.join(CHECKPOINT_FILE);
    // A checkpoint that was renamed but whose name a power cut could still take back must not be built upon.
    wal::files::sync_dir(data_dir)
        .map_err(|source| OpenError::Io { path: data_dir.to_path_buf(), source })?;
    let bytes = durable::read(data_dir, CHECKPOINT_FILE);
    let bytes = bytes.map_err(|source| OpenError::Io { path: path.clone(), source })?;
    let decoded = bytes.as_deref().map(Checkpoint::decode).transpose();
    let checkpoint = decoded.map_err(|source| OpenError::Checkpoint { path: path.clone(), source })?;
    let known = checkpoint.is_some();
    let checkpoint = checkpoint.unwrap_or_default();
    let position = checkpoint.position;
    let replay = Replay::new(checkpoint, PRODUCERS_MAX);
    let mut replay = replay.map_err(|source| OpenError::Checkpoint { path: path.clone(), source })?;
    let recovering = wal::recover(options, position, &mut |event| match event {
        Event::Group(group) => replay.group(&group, &mut |_: &[u8]| -> Option<Bytes> { None }),
        Event::Hole(hole) => {
            tracing::error!(
                from = hole.start.0,
                to = hole.end.0,
                row = %hole.row,
                "damage in the write-ahead log, below what was acknowledged"
            );
            replay.hole(hole);
        }
    })?;
    let begins = recovering.recovered.files.iter().filter(|f| f.end > f.base).map(|f| f.base.0).min();
    if let Some(begins) = begins.filter(|begins| !known && *begins > 0) {
        return Err(OpenError::CheckpointMissing { path, begins });
    }
    let (replayed, blind) = replay.finish();
    Ok(Opened { wal: recovering, replayed, blind })
}

/// See the module's documentation.
pub struct LogManager {
    broker_id: BrokerId,
    pub disk: Arc<Disk>,
    pub(super) partitions: Arc<PartitionMap>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    cleaner: Mutex<Option<std::thread::JoinHandle<()>>>,
    scrub: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl LogManager {
    /// Opens the partitions, and starts the segment writer, the cleaner and the scrub.
    pub fn start(
        broker_id: BrokerId,
        disk: Arc<Disk>,
        recovered: RecoveredPartitions,
        image: &MetadataImage,
        reserve_bytes: u64,
        cleaner_metrics: CleanerMetrics,
        scrub_metrics: ScrubMetrics,
    ) -> Result<Arc<LogManager>, OpenError> {
        let manager = LogManager::open(broker_id, disk.clone(), recovered, image)?;
        let cleaner = Cleaner::start(disk.clone(), manager.partitions.clone(), cleaner_metrics);
        *manager.cleaner.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(cleaner.map_err(OpenError::Thread)?);
        let scrub = Scrub::start(disk.clone(), manager.partitions.clone(), scrub_metrics);
        *manager.scrub.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(scrub.map_err(OpenError::Thread)?);
        let writer = SegmentWriter::start(disk, manager.partitions.clone(), reserve_bytes);
        *manager.writer.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(writer.map_err(OpenError::Thread)?);
        Ok(Arc::new(manager))
    }

    /// Builds the partitions that the image places on this broker out of what was recovered. What was recovered but is
    /// in no image any more was deleted: its files go.
    pub(super) fn open(
        broker_id: BrokerId,
        disk: Arc<Disk>,
        recovered: RecoveredPartitions,
        image: &MetadataImage,
    ) -> Result<LogManager, OpenError> {
        let RecoveredPartitions { mut replayed, blind } = recovered;
        let manager = LogManager {
            broker_id,
            disk,
            partitions: Arc::new(ArcSwap::default()),
            writer: Mutex::new(None),
            cleaner: Mutex::new(None),
            scrub: Mutex::new(None),
        };
        manager.follow_settings(image);
        let mut partitions = HashMap::new();
        for topic in image.topics() {
            for id in manager.mine(topic) {
                let found = replayed.remove(&id);
                let partition = match found {
                    Some(found) => manager.reopen(id, topic, found)?,
                    None => manager.fresh(id, topic, blind.clone().map(Closed::Fenced)),
                };
                // It is led once this broker has registered, in the new epoch that it gets then.
                partitions.insert(id, partition);
            }
        }
        for id in replayed.keys() {
            let mut gone = Segments::new(manager.dir_of(*id), Vec::new());
            gone.remove().map_err(|source| OpenError::Io { path: manager.dir_of(*id), source })?;
        }
        manager.sweep(image)?;
        for partition in partitions.values().filter(|p| p.oldest_needed().is_some()) {
            partition.list();
        }
        manager.partitions.store(Arc::new(partitions));
        Ok(manager)
    }

    /// Removes what a crash left of deleted topics.
    fn sweep(&self, image: &MetadataImage) -> Result<(), OpenError> {
        let topics = self.disk.data_dir.join("topics");
        let Ok(entries) = std::fs::read_dir(&topics) else { return Ok(()) };
        for entry in entries.flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(TopicId);
            if id.is_some_and(|id| image.topic_by_id(id).is_none()) {
                let path = entry.path();
                std::fs::remove_dir_all(&path).map_err(|source| OpenError::Io { path, source })?;
            }
        }
        Ok(())
    }

    fn dir_of(&self, id: TopicIdPartition) -> PathBuf {
        self.disk.data_dir.join("topics").join(id.topic_id.to_string()).join(id.partition.to_string())
    }

    /// The partitions of a topic that this broker has a replica of.
    fn mine(&self, topic: &TopicImage) -> Vec<TopicIdPartition> {
        let here = topic.partitions.iter().enumerate().filter(|(_, p)| p.replicas.contains(&self.broker_id));
        here.map(|(n, _)| TopicIdPartition { topic_id: topic.id, partition: n as i32 }).collect()
    }

    fn settings(&self, topic: &TopicImage) -> Settings {
        let config = &topic.config;
        let (profile, changed) = self.disk.profiles.define(&config.wal_profile_name, &config.wal_profile);
        if changed {
            self.disk.wal.set_profiles(self.disk.profiles.definitions());
        }
        Settings { topic: config.clone(), profile }
    }

    fn fresh(&self, id: TopicIdPartition, topic: &TopicImage, closed: Option<Closed>) -> Arc<Partition> {
        let on_disk = OnDisk {
            segments: Segments::new(self.dir_of(id), Vec::new()),
            producers: ProducerStateMap::new(0, PRODUCERS_MAX),
            cleaned_to: 0,
        };
        let log = PartitionLog::empty(PRODUCERS_MAX);
        let settings = self.settings(topic);
        Partition::new(id, topic.name.clone(), self.disk.clone(), settings, log, closed, on_disk)
    }

    fn reopen(
        &self,
        id: TopicIdPartition,
        topic: &TopicImage,
        found: Replayed,
    ) -> Result<Arc<Partition>, OpenError> {
        let dir = self.dir_of(id);
        let mut segments = Segments::new(dir.clone(), found.segments);
        let io = |source| OpenError::Io { path: dir.clone(), source };
        let mut producers = found.segment_producers;
        let closed = if let Some(why) = found.fenced {
            // What was found around the gap moves into segments, so that the log can be recycled.
            for run in &found.salvaged {
                let read = self.disk.wal.read(run.span.position, run.span.len as usize).map_err(io)?;
                if let Some(bytes) = read {
                    let chunk = Chunk {
                        bytes: &bytes,
                        first: run.base_offset,
                        next: run.last_offset + 1,
                        first_timestamp: run.max_timestamp,
                        max_timestamp: run.max_timestamp,
                        now_ms: now_ms(),
                    };
                    segments.append(&chunk, &Limits::of(&topic.config)).map_err(io)?;
                }
            }
            segments.sync().map_err(io)?;
            producers = found.log.producers.clone();
            Some(why)
        } else if let Err(e) = segments.check() {
            segments.seal();
            Some(format!("a segment is damaged: {e}"))
        } else {
            None
        };
        if let Some(why) = &closed {
            tracing::error!(topic = &*topic.name, partition = id.partition, "not served: {why}");
        }
        let closed = closed.map(Closed::Fenced);
        let log = PartitionLog::new(found.log).map_err(|e| OpenError::Partition(id, e))?;
        let on_disk = OnDisk { segments, producers, cleaned_to: found.cleaned_to };
        let settings = self.settings(topic);
        Ok(Partition::new(id, topic.name.clone(), self.disk.clone(), settings, log, closed, on_disk))
    }

    /// Follows what the image says of the leader.
    fn lead(&self, partition: &Arc<Partition>, topic: &TopicImage) {
        let Some(image) = topic.partition(partition.id.partition) else { return };
        if image.leader != self.broker_id {
            partition.resign();
        } else if let Err(e) = partition.become_leader(image.leader_epoch) {
            tracing::error!(partition = partition.name(), "cannot lead: {e}");
        }
    }

    /// Follows a change of the metadata. Called on its apply path, in order.
    pub fn apply(&self, image: &MetadataImage, changes: &Changes) {
        let mut map: Option<HashMap<TopicIdPartition, Arc<Partition>>> = None;
        let current = self.partitions.load_full();
        let mut add = |topic: &TopicImage, only: Option<i32>| {
            for id in self.mine(topic) {
                if only.is_some_and(|n| n != id.partition) || current.contains_key(&id) {
                    continue;
                }
                let partition = self.fresh(id, topic, None);
                self.lead(&partition, topic);
                self.log_event(&partition, EntryKind::PartitionCreated);
                map.get_or_insert_with(|| current.as_ref().clone()).insert(id, partition);
            }
        };
        for topic in &changes.topics_created {
            add(topic, None);
        }
        for id in &changes.partitions_created {
            if let Some(topic) = image.topic_by_id(id.topic_id) {
                add(topic, Some(id.partition));
            }
        }
        let mut removed = Vec::new();
        for topic in &changes.topics_deleted {
            for id in self.mine(topic) {
                let map = map.get_or_insert_with(|| current.as_ref().clone());
                removed.extend(map.remove(&id));
            }
        }
        if let Some(map) = map {
            self.partitions.store(Arc::new(map));
        }
        for partition in &removed {
            partition.close(Closed::Deleted);
            self.log_event(partition, EntryKind::PartitionDeleted);
        }
        if !removed.is_empty() {
            self.disk.work.order(|o| o.removed.extend(removed));
        }
        self.follow_settings(image);
        let partitions = self.partitions.load();
        for id in &changes.partitions_changed {
            if let (Some(partition), Some(topic)) = (partitions.get(id), image.topic_by_id(id.topic_id)) {
                self.lead(partition, topic);
            }
        }
        for topic in &changes.topic_configs_changed {
            for partition in self.mine(topic).iter().filter_map(|id| partitions.get(id)) {
                partition.set_settings(self.settings(topic));
            }
        }
    }

    fn follow_settings(&self, image: &MetadataImage) {
        let live = LiveSettings::of(image);
        if **self.disk.live.load() != live {
            self.disk.live.store(Arc::new(live));
        }
    }

    fn log_event(&self, partition: &Arc<Partition>, kind: EntryKind) {
        self.disk.wal.submit(Entry {
            kind,
            tp: partition.id,
            first: 0,
            last: 0,
            leader_epoch: LeaderEpoch(-1),
            records: 0,
            patch: false,
            body: Bytes::new(),
            profile: partition.settings().profile.index,
            client: Arc::new(Nobody),
        });
    }

    /// The partition, if this broker has a replica of it.
    pub fn get(&self, id: TopicIdPartition) -> Option<Arc<Partition>> {
        self.partitions.load().get(&id).cloned()
    }

    /// Forgets idempotent producers that have sent nothing for `expiration_ms` milliseconds.
    pub fn expire_producers(&self, now_ms: i64, expiration_ms: i64) {
        for partition in self.partitions.load().values() {
            partition.state().log.expire_producers(now_ms, expiration_ms);
        }
    }

    /// Partitions that are not served, and why.
    pub fn fenced(&self) -> Vec<(String, String)> {
        let why = |p: &Arc<Partition>| match &p.state().closed {
            Some(Closed::Fenced(why)) => Some((p.name(), why.clone())),
            _ => None,
        };
        self.partitions.load().values().filter_map(why).collect()
    }

    /// Flushes and seals the log, then moves what it holds into segments. Blocks.
    pub fn stop(&self) {
        self.disk.cleaning.stop();
        self.disk.scrubbing.stop();
        for thread in [&self.cleaner, &self.scrub] {
            let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread {
                let _ = thread.join();
            }
        }
        self.disk.wal.stop();
        self.disk.work.order(|o| o.stop = true);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}

/// The part of [`Opened`] that becomes partitions.
pub struct RecoveredPartitions {
    replayed: BTreeMap<TopicIdPartition, Replayed>,
    blind: Option<String>,
}

impl Opened {
    pub fn split(self) -> (Recovering, RecoveredPartitions) {
        (self.wal, RecoveredPartitions { replayed: self.replayed, blind: self.blind })
    }
}

/// Nobody waits for these entries.
struct Nobody;

impl WalClient for Nobody {
    fn durable(self: Arc<Self>, _: DurableRun) {}
    fn failed(self: Arc<Self>) {}
}

impl Logs for LogManager {
    fn partition(&self, id: TopicIdPartition) -> Option<Arc<dyn PartitionReader>> {
        Some(Arc::new(Reader(self.get(id)?)))
    }

    fn appendable(&self, id: TopicIdPartition) -> Option<Arc<Partition>> {
        self.get(id)
    }

    fn journal(&self, id: TopicIdPartition) -> Option<Arc<dyn Journal>> {
        Some(Arc::new(self.get(id)?))
    }
}
