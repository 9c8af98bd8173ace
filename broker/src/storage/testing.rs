//! A broker's storage as it is, but for two threads: the segment writer and the cleaner take their steps when a test says
//! so, and by its clock. The write-ahead log, the files and the recovery are those of a broker.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chronik_core::controller::{
    NewTopic, Registration, TopicRef, create_topics, delete_topics, register_broker,
};
use chronik_core::ids::{BrokerId, DiskUuid, LeaderEpoch, TopicId, TopicIdPartition, Uuid, WalPosition};
use chronik_core::metadata::{LocalConfig, MetadataDelta, MetadataImage, MetadataRecord, TopicConfig};
use chronik_core::record_batch::{
    BatchHeader, BatchLimits, BatchSummary, Origin, TimestampType, check_produced,
};
use chronik_core::wal::format::{BLOCK, EntryKind, FILE_HEADER_LEN, FileHeader};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use super::admission::Admission;
use super::cleaner::Cleaner;
use super::disk::{DataObserver, Disk};
use super::logs::{self, LogManager};
use super::partition::{Accepted, Partition, Refused, Settings};
use super::profiles::ProfileTable;
use super::wal::{DurableRun, Engine, Entry, FlushMode, WalClient, WalOptions};
use super::writer::{self, SegmentWriter};
use crate::api::partitions::{Logs, PartitionReader};
use crate::metrics::Metrics;

const BROKER: BrokerId = BrokerId(1);
const WAL_FILE_BYTES: u64 = 192 << 10;
const WAL_FILES: usize = 4;
const TAIL_BYTES: usize = 128 << 10;
/// Nothing here takes so long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a crash leaves in the files besides what was synced.
#[derive(Clone, Copy, Debug, Default)]
pub struct Debris {
    /// Behind the synced end of each newest segment: of an attempt that was cut short.
    pub behind_segments: bool,
    /// Files that no checkpoint knows, and half a checkpoint.
    pub unknown_files: bool,
    /// Indexes are not flushed.
    pub indexes_lost: bool,
    /// Of the log, only what was flushed is there, and this in the place of the rest.
    pub wal_filled_with: Option<u8>,
}

/// One life of the broker.
struct Life {
    dir: PathBuf,
    logs: LogManager,
    disk: Arc<Disk>,
    writer: SegmentWriter,
    cleaner: Cleaner,
    failure: watch::Receiver<Option<String>>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.disk.wal.stop();
        // Partitions and their lists hold each other.
        self.disk.work.lock().listed.clear();
        self.disk.work.lock().removed.clear();
    }
}

/// Is told when what was submitted before it has been delivered.
struct Settled(Mutex<Option<oneshot::Sender<()>>>);

impl WalClient for Settled {
    fn durable(self: Arc<Self>, _: DurableRun) {
        if let Some(tell) = self.0.lock().unwrap().take() {
            let _ = tell.send(());
        }
    }

    fn failed(self: Arc<Self>) {}
}

pub struct Bed {
    root: TempDir,
    lives: u32,
    topics: u128,
    image: MetadataImage,
    clock: Arc<AtomicI64>,
    metrics: Arc<Metrics>,
    life: Option<Life>,
    pub runtime: Runtime,
}

impl Bed {
    pub fn new() -> Bed {
        let local = LocalConfig { broker_id: BROKER, ..LocalConfig::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut bed = Bed {
            root: temp_dir(),
            lives: 0,
            topics: 0,
            image: MetadataImage::empty(Arc::new(local)),
            clock: Arc::new(AtomicI64::new(1_700_000_000_000)),
            metrics: Arc::new(Metrics::new([])),
            life: None,
            runtime,
        };
        let founding = [
            MetadataRecord::Cluster { cluster_id: "c".to_string() },
            MetadataRecord::FeatureLevel { level: 1 },
        ];
        bed.change(&founding);
        let dir = bed.root.path().join("0");
        fs::create_dir_all(dir.join("data")).unwrap();
        fs::create_dir_all(dir.join("wal")).unwrap();
        bed.open(dir);
        bed
    }

    pub fn now_ms(&self) -> i64 {
        self.clock.load(Ordering::Relaxed)
    }

    pub fn pass_time(&self, ms: i64) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    fn life(&mut self) -> &mut Life {
        self.life.as_mut().unwrap()
    }

    /// Applies records to the metadata, and tells the partitions.
    fn change(&mut self, records: &[MetadataRecord]) {
        let mut delta = MetadataDelta::new(&self.image);
        for record in records {
            delta.replay(record).unwrap();
        }
        let (image, changes) = delta.finish(self.image.offset() + records.len() as u64);
        self.image = image;
        if let Some(life) = &self.life {
            life.logs.apply(&self.image, &changes);
        }
    }

    pub fn create_topic(&mut self, name: &str) -> TopicIdPartition {
        self.topics += 1;
        let id = TopicId(Uuid::from_u128(self.topics));
        let topic = NewTopic {
            name: name.to_string(),
            num_partitions: 1,
            replication_factor: 1,
            ..NewTopic::default()
        };
        let (records, answers) = create_topics(&self.image, &[topic], false, &mut || id);
        answers[0].1.as_ref().unwrap();
        self.change(&records);
        TopicIdPartition { topic_id: id, partition: 0 }
    }

    /// The files go with the segment writer's next turn, or with the next start.
    pub fn delete_topic(&mut self, name: &str) {
        let (records, answers) = delete_topics(&self.image, &[TopicRef::Name(name.to_string())]);
        answers[0].result.as_ref().unwrap();
        self.change(&records);
    }

    pub fn partition(&self, id: TopicIdPartition) -> Option<Arc<Partition>> {
        self.life.as_ref().unwrap().logs.get(id)
    }

    /// The same, for reading.
    pub fn reader(&self, id: TopicIdPartition) -> Arc<dyn PartitionReader> {
        self.life.as_ref().unwrap().logs.partition(id).unwrap()
    }

    /// Segments smaller than Kafka's settings allow, among others.
    pub fn configure(&self, id: TopicIdPartition, change: impl FnOnce(&mut TopicConfig)) {
        let partition = self.partition(id).unwrap();
        let now = Arc::clone(&partition.settings());
        let mut topic = TopicConfig::clone(&now.topic);
        change(&mut topic);
        partition.set_settings(Settings { topic: Arc::new(topic), profile: now.profile.clone() });
    }

    /// Sends a batch to a partition, as a producer sends it, whose coordinator knows of its transaction.
    pub fn append(
        &self,
        partition: &Arc<Partition>,
        bytes: &Bytes,
    ) -> Result<(BatchSummary, Accepted), Refused> {
        let limits = BatchLimits {
            max_message_bytes: 1 << 20,
            before_max_ms: i64::MAX,
            after_max_ms: i64::MAX,
            timestamp_type: TimestampType::CreateTime,
            now_ms: self.now_ms(),
            needs_keys: false,
            origin: Origin::Client,
        };
        let mut batch = check_produced(bytes, &limits).unwrap();
        let BatchHeader { producer_id, producer_epoch, .. } = batch.header;
        if batch.header.is_transactional()
            && let Some(needed) = partition.verification(producer_id, producer_epoch, false)
        {
            batch.verified = needed;
        }
        let profile = partition.settings().profile.index;
        partition
            .append(&batch, bytes.clone(), profile, true, limits.now_ms)
            .map(|accepted| (batch, accepted))
    }

    /// Waits for the log. If its files are full, the segment writer makes room, as it would; true if it had to.
    pub fn wait<T>(&mut self, mut told: oneshot::Receiver<T>) -> bool {
        self.wait_until(|runtime| {
            let tick = Duration::from_millis(2);
            match runtime.block_on(async { tokio::time::timeout(tick, &mut told).await }) {
                Ok(told) => assert!(told.is_ok(), "the log has failed"),
                Err(_) => return false,
            }
            true
        })
    }

    /// Waits until no log start of the partition is on its way any more.
    pub fn wait_for_starts(&mut self, partition: &Partition) -> bool {
        self.wait_until(|_| {
            std::thread::yield_now();
            partition.state().starts.is_empty()
        })
    }

    fn wait_until(&mut self, mut is_done: impl FnMut(&Runtime) -> bool) -> bool {
        let mut made_room = false;
        let begun = Instant::now();
        while !is_done(&self.runtime) {
            assert!(begun.elapsed() < PATIENCE, "nothing becomes durable");
            if self.life().disk.work.lock().urgent {
                self.checkpoint(true).unwrap();
                made_room = true;
            }
        }
        made_room
    }

    /// Whether the log might have to wait for a file soon.
    pub fn is_nearly_full(&mut self) -> bool {
        let (used, total) = self.life().disk.wal.fill();
        used >= total
    }

    /// The log has not failed.
    pub fn is_well(&self) {
        let failure = self.life.as_ref().unwrap().failure.borrow().clone();
        assert_eq!(failure, None);
    }

    /// What the segment writer does in a turn in which a checkpoint is due.
    pub fn checkpoint(&mut self, copy: bool) -> io::Result<()> {
        let life = self.life();
        let removed = {
            let mut orders = life.disk.work.lock();
            (orders.urgent, orders.tidy) = (false, false);
            std::mem::take(&mut orders.removed)
        };
        writer::remove(&removed);
        life.writer.checkpoint(true, copy)?;
        life.writer.bury();
        Ok(())
    }

    /// Lets a checkpoint fail before it is in place.
    pub fn checkpoint_fails(&mut self, copy: bool) {
        let obstacle = self.life().dir.join("data/checkpoint.tmp");
        // A crash may have left one.
        let _ = fs::remove_file(&obstacle);
        let obstacles = Obstacles::at(vec![obstacle]);
        self.checkpoint(copy).unwrap_err();
        drop(obstacles);
    }

    pub fn retain(&mut self) {
        self.life().writer.retain();
    }

    pub fn cleaner(&mut self) -> &mut Cleaner {
        &mut self.life().cleaner
    }

    /// Compacts what is dirtiest, if anything is.
    pub fn compact(&mut self) {
        if let Some(work) = self.cleaner().dirtiest() {
            self.cleaner().clean(&work).unwrap();
        }
    }

    /// Waits until [`Bed::delivered`] has come up to everything that was acknowledged: clients are told first. True as of
    /// [`Bed::wait`].
    pub fn settle(&mut self) -> bool {
        let (tell, told) = oneshot::channel();
        let nobodys = TopicIdPartition { topic_id: TopicId(Uuid::from_u128(u128::MAX)), partition: 0 };
        self.life().disk.wal.submit(Entry {
            kind: EntryKind::PartitionCreated,
            tp: nobodys,
            first: 0,
            last: 0,
            leader_epoch: LeaderEpoch(-1),
            records: 0,
            patch: false,
            body: Bytes::new(),
            profile: 0,
            client: Arc::new(Settled(Mutex::new(Some(tell)))),
        });
        self.wait(told)
    }

    /// How far the log is known to be durable.
    pub fn delivered(&mut self) -> WalPosition {
        self.life().disk.wal.delivered()
    }

    /// A stop in good order, and a start.
    pub fn restart(&mut self) {
        let mut life = self.life.take().unwrap();
        life.logs.stop();
        life.writer.checkpoint(true, true).unwrap();
        let dir = life.dir.clone();
        drop(life);
        self.open(dir);
    }

    /// A start from what lies on the disk now. The old life, which ends in good order, has no part in it.
    pub fn crash(&mut self, debris: Debris, durable: WalPosition) {
        let old = self.life.take().unwrap();
        self.lives += 1;
        let dir = self.root.path().join(self.lives.to_string());
        copy_tree(&old.dir, &dir);
        let partitions = old.logs.partitions.load_full();
        let newest = partitions.values().filter_map(|p| {
            let on_disk = p.on_disk();
            let state = on_disk.segments.states().pop()?;
            let path = on_disk.segments.path_of(&state);
            Some((dir.join(path.strip_prefix(&old.dir).unwrap()), state.bytes))
        });
        for (path, synced) in newest.collect::<Vec<_>>() {
            leave_debris(&path, synced, debris);
        }
        if debris.unknown_files {
            fs::write(dir.join("data/checkpoint.tmp"), b"crc32c=").unwrap();
        }
        if let Some(filling) = debris.wal_filled_with {
            cut_wal(&dir.join("wal"), durable, filling);
        }
        let old_dir = old.dir.clone();
        drop(old);
        fs::remove_dir_all(old_dir).unwrap();
        self.open(dir);
    }

    fn open(&mut self, dir: PathBuf) {
        let (data_dir, wal_dir) = (dir.join("data"), dir.join("wal"));
        let profiles = Arc::new(ProfileTable::new(self.metrics.clone()));
        for (name, definition) in self.image.wal_profiles() {
            profiles.define(name, definition);
        }
        let (fail, failure) = watch::channel(None);
        let queue = Admission::new(1_000_000, 1 << 30);
        let observer = Arc::new(DataObserver::new(profiles, queue, self.metrics.wal("data"), fail));
        let disk_uuid = DiskUuid(Uuid::from_u128(7));
        let options = WalOptions {
            name: "data",
            dir: wal_dir.clone(),
            id: disk_uuid,
            file_bytes: WAL_FILE_BYTES,
            max_files: WAL_FILES,
            engine: Engine::Pwrite,
            flush: FlushMode::Fdatasync,
            in_flight: 2,
            profiles: observer.profiles.definitions(),
        };
        let (wal, recovered) = logs::open(&data_dir, options).unwrap().split();
        let wal = wal.start(observer.clone()).unwrap();
        let mut disk = Disk::new(wal, &observer, data_dir, wal_dir, TAIL_BYTES);
        let clock = self.clock.clone();
        disk.clock = Box::new(move || clock.load(Ordering::Relaxed));
        let disk = Arc::new(disk);
        let logs = LogManager::open(BROKER, disk.clone(), recovered, &self.image).unwrap();
        assert_eq!(logs.fenced(), []);
        let writer = SegmentWriter::new(disk.clone(), logs.partitions.clone(), 0);
        let cleaner = Cleaner::new(disk.clone(), logs.partitions.clone(), self.metrics.cleaner.clone());
        self.life = Some(Life { dir, logs, disk, writer, cleaner, failure });
        self.lives += 1;
        let registration = Registration {
            cluster_id: "c".to_string(),
            broker_id: BROKER,
            incarnation: Uuid::from_u128(u128::from(self.lives)),
            disk_uuid,
            wal_disk_uuid: disk_uuid,
            listeners: Vec::new(),
            rack: None,
        };
        let (records, _) = register_broker(&self.image, &registration).unwrap();
        self.change(&records);
    }

    /// All segment files and indexes of all topics.
    pub fn files(&mut self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for topic in entries(&self.life().dir.join("data/topics")) {
            found.extend(entries(&topic).iter().flat_map(|partition| entries(partition)));
        }
        found
    }
}

/// Directories in the place of files that somebody is about to make, until this is dropped.
pub struct Obstacles(Vec<PathBuf>);

impl Obstacles {
    pub fn at(paths: Vec<PathBuf>) -> Obstacles {
        let free = paths.into_iter().filter(|path| !path.exists());
        Obstacles(free.inspect(|path| fs::create_dir_all(path).unwrap()).collect())
    }
}

impl Drop for Obstacles {
    fn drop(&mut self) {
        for path in &self.0 {
            // A topic's deletion may have been faster.
            let _ = fs::remove_dir(path);
        }
    }
}

/// In memory where there is such a place: nothing here depends on what a flush does, and thousands are made.
fn temp_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut sorted = entries(from);
    sorted.sort();
    for path in sorted {
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_tree(&path, &target),
            false => _ = fs::copy(&path, &target).unwrap(),
        }
    }
}

fn leave_debris(segment: &Path, synced: u64, debris: Debris) {
    let write = |path: &Path, bytes: &[u8], at: u64| {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
        file.write_all_at(bytes, at).unwrap();
    };
    let dir = segment.parent().unwrap();
    let file = fs::OpenOptions::new().write(true).open(segment).unwrap();
    file.set_len(synced).unwrap();
    if debris.behind_segments {
        write(segment, &[0xa5; 700], synced);
    }
    if debris.unknown_files {
        for name in ["00000000000000000003.log", "00000000000000000005.7.log", "00000000000000999999.index"] {
            if !dir.join(name).exists() {
                write(&dir.join(name), &[0x5a; 300], 0);
            }
        }
    }
    if debris.indexes_lost {
        for path in entries(dir).iter().filter(|path| path.extension().is_some_and(|e| e == "index")) {
            fs::remove_file(path).unwrap();
        }
    }
}

/// Takes back what was written to the log from `durable` on, as a power cut may.
fn cut_wal(dir: &Path, durable: WalPosition, filling: u8) {
    let mut headers: Vec<(PathBuf, FileHeader)> = Vec::new();
    for path in entries(dir).into_iter().filter(|path| path.extension().is_some_and(|e| e == "wal")) {
        let bytes = fs::read(&path).unwrap();
        if let Some(header) = bytes.get(..BLOCK).and_then(|block| FileHeader::decode(block).ok()) {
            headers.push((path, header));
        }
    }
    for (path, _) in headers.iter().filter(|(_, h)| h.base > durable) {
        fs::remove_file(path).unwrap();
    }
    let newest = headers.iter().filter(|(_, h)| h.base <= durable).max_by_key(|(_, h)| h.generation);
    let Some((path, header)) = newest else { return };
    let from = FILE_HEADER_LEN + durable.0 - header.base.0;
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let rest = usize::try_from(header.file_bytes.saturating_sub(from)).unwrap();
    file.write_all_at(&vec![filling; rest], from).unwrap();
}
