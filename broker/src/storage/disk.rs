//! What all partitions of a data directory share: the write-ahead log, the memory for tails, the profiles'
//! queues, and the segment writer's list of work.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use chronik_core::ids::Offset;
use chronik_core::metadata::MetadataImage;
use chronik_core::metadata::config::broker_value_of;
use chronik_core::scrub;
use tokio::sync::watch;

use super::admission::Admission;
use super::pace::Ending;
use super::partition::Partition;
use super::profiles::ProfileTable;
use super::tail_cache::TailCache;
use super::wal::{GroupFacts, Wal, WalObserver};
use crate::metrics::WalMetrics;

/// Settings of the broker that may change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSettings {
    pub retention_check_ms: u64,
    pub cleaner_backoff_ms: u64,
    pub cleaner_key_bytes: usize,
    pub cleaner_bytes_per_second: u64,
    pub scrub: scrub::Policy,
}

impl Default for LiveSettings {
    fn default() -> Self {
        LiveSettings::of(&MetadataImage::empty(Arc::default()))
    }
}

impl LiveSettings {
    pub fn of(image: &MetadataImage) -> LiveSettings {
        // The table has checked them.
        let number = |name: &str| broker_value_of(image, name).parse::<u64>().unwrap_or_default();
        LiveSettings {
            retention_check_ms: number("log.retention.check.interval.ms"),
            cleaner_backoff_ms: number("log.cleaner.backoff.ms"),
            cleaner_key_bytes: usize::try_from(number("log.cleaner.dedupe.buffer.size"))
                .unwrap_or(usize::MAX),
            cleaner_bytes_per_second: number("log.cleaner.io.max.bytes.per.second"),
            scrub: scrub::Policy {
                // -1 turns it off.
                interval_ms: broker_value_of(image, "chronik.scrub.interval.ms").parse().unwrap_or_default(),
                bytes_per_second_max: number("chronik.scrub.bytes.per.second"),
            },
        }
    }
}

/// See the module's documentation.
pub struct Disk {
    pub wal: Wal,
    pub profiles: Arc<ProfileTable>,
    /// All profiles together.
    pub queue: Arc<Admission>,
    pub data_dir: PathBuf,
    pub wal_dir: PathBuf,
    pub(super) work: Arc<Work>,
    /// Live settings of the broker that act here.
    pub live: ArcSwap<LiveSettings>,
    /// Ends the cleaner.
    pub(super) cleaning: Ending,
    /// Ends the scrub.
    pub(super) scrubbing: Ending,
    pub(super) tails: TailCache,
    tail_bytes_max: usize,
    full: AtomicBool,
    /// The time by which files age, ms since 1970. A test has its own.
    pub(super) clock: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl Disk {
    pub fn new(
        wal: Wal,
        observer: &DataObserver,
        data_dir: PathBuf,
        wal_dir: PathBuf,
        tail_bytes_max: usize,
    ) -> Disk {
        Disk {
            wal,
            profiles: observer.profiles.clone(),
            queue: observer.queue.clone(),
            data_dir,
            wal_dir,
            work: observer.work.clone(),
            live: ArcSwap::default(),
            cleaning: Ending::default(),
            scrubbing: Ending::default(),
            tails: TailCache::default(),
            tail_bytes_max,
            full: AtomicBool::new(false),
            clock: Box::new(super::now_ms),
        }
    }

    pub(super) fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    /// Why no partition takes records now, if so: the free space is below the reserve. Everything else goes on.
    pub fn refuses_produce(&self) -> Option<String> {
        let full = self.full.load(Ordering::Relaxed);
        full.then(|| "the disk's free space is below chronik.disk.reserve.bytes".to_string())
    }

    /// Memory that the newest records of all partitions may hold.
    pub(super) fn tail_bytes_max(&self) -> usize {
        self.tail_bytes_max
    }

    pub(super) fn set_full(&self, full: bool) -> bool {
        self.full.swap(full, Ordering::Relaxed)
    }

    /// So many bytes of a partition, up to this offset, are now in memory: older ones make room.
    pub(super) fn cached(&self, partition: &Arc<Partition>, last_offset: Offset, bytes: usize) {
        self.tails.push(partition, last_offset, bytes);
        self.tails.evict(self.tail_bytes_max, || self.wal.cached_bytes());
    }

    /// The partition has data that is in the write-ahead log only.
    pub(super) fn list(&self, partition: Arc<Partition>) {
        self.work.lock().listed.push(partition);
    }

    /// Gives room in the queues back, of what was let in and then not queued.
    pub(super) fn release(&self, profile: usize, in_broker: bool, records: u64, bytes: u64) {
        self.profiles.with(profile, |p| p.queue.release(records, bytes));
        if in_broker {
            self.queue.release(records, bytes);
        }
    }
}

/// What the segment writer is to do.
#[derive(Default)]
pub(super) struct Orders {
    pub listed: Vec<Arc<Partition>>,
    pub removed: Vec<Arc<Partition>>,
    /// Every WAL file is full.
    pub urgent: bool,
    /// A checkpoint is to be written soon: files are no longer needed.
    pub tidy: bool,
    pub stop: bool,
}

#[derive(Default)]
pub(super) struct Work {
    orders: Mutex<Orders>,
    wake: Condvar,
}

impl Work {
    pub fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.lock());
        self.wake.notify_all();
    }

    /// Waits until something is urgent, or for so long.
    pub fn wait(&self, at_most: Duration) {
        let orders = self.lock();
        let idle = |o: &mut Orders| !o.urgent && !o.stop && o.removed.is_empty();
        let _ = self.wake.wait_timeout_while(orders, at_most, idle);
    }
}

/// Sees every group of the data WAL: gives room back to the queues and counts.
pub struct DataObserver {
    pub profiles: Arc<ProfileTable>,
    pub queue: Arc<Admission>,
    pub(super) work: Arc<Work>,
    metrics: WalMetrics,
    failure: watch::Sender<Option<String>>,
}

impl DataObserver {
    pub fn new(
        profiles: Arc<ProfileTable>,
        queue: Admission,
        metrics: WalMetrics,
        failure: watch::Sender<Option<String>>,
    ) -> DataObserver {
        DataObserver { profiles, queue: Arc::new(queue), work: Arc::default(), metrics, failure }
    }
}

impl WalObserver for DataObserver {
    fn group(&self, facts: &GroupFacts<'_>) {
        let mut records = 0;
        let mut bytes = 0;
        for tally in facts.tallies {
            records += tally.records;
            bytes += tally.bytes;
            self.profiles.with(tally.profile, |profile| {
                profile.queue.release(tally.records, tally.bytes);
                let metrics = &profile.metrics;
                metrics.appended_records.inc_by(tally.records);
                metrics.appended_bytes.inc_by(tally.bytes);
                metrics.stages.queue.observe(facts.queued_us);
                metrics.stages.flush.observe(facts.flush_us);
                let (waiting_records, waiting_bytes) = profile.queue.held();
                metrics.queue_records.set(waiting_records as i64);
                metrics.queue_bytes.set(waiting_bytes as i64);
            });
        }
        self.queue.release(records, bytes);
        observe_group(&self.metrics, facts, records);
    }

    fn pool_is_full(&self) {
        self.work.order(|o| o.urgent = true);
    }

    fn failed(&self, why: &str) {
        self.failure.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(why.to_string());
            }
            first
        });
    }
}

/// Counts one group of either log.
pub fn observe_group(metrics: &WalMetrics, facts: &GroupFacts<'_>, records: u64) {
    metrics.groups.inc();
    metrics.group_records.observe(records);
    metrics.group_bytes.observe(facts.bytes as u64);
    metrics.padding_bytes.inc_by(facts.padding as u64);
    metrics.flush.observe(facts.flush_us);
}
