//! What all tasks of an endurance run share: the phase, the partitions' ends, latencies and faults.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::topics::{Place, Times};
use crate::bench::stats::histogram;
use crate::storage::now_ms;

/// The phases, in order. The load is the same in all of them.
pub const PHASES: [&str; 7] =
    ["warm-up", "quarter 1", "quarter 2", "quarter 3", "quarter 4", "without the reader", "with the reader"];

/// Faults told in words.
const FAULTS_NAMED: usize = 20;
/// Between two notes of where a partition stood when.
const NOTE_EVERY_MS: i64 = 1_000;

/// A partition and how far it is.
#[derive(Debug)]
pub struct Partition {
    /// Which.
    pub place: Place,
    /// The offset of the next record; everything below is acknowledged.
    pub next: AtomicI64,
    /// Set when a request had no good end: what lies there is not known any more.
    pub given_up: AtomicBool,
    /// When, in milliseconds since 1970, the partition ended where. As far back as retention looks.
    notes: Mutex<VecDeque<(i64, i64)>>,
}

impl Partition {
    /// The first offset all of whose records are younger than `age` at `now_ms`.
    pub fn first_younger(&self, now_ms: i64, age: Duration) -> i64 {
        let since = now_ms - age.as_millis() as i64;
        let noted = locked(&self.notes).iter().find(|(at, _)| *at > since).map(|(_, offset)| *offset);
        noted.unwrap_or_else(|| self.next.load(Relaxed))
    }
}

/// What is counted in one phase.
#[derive(Debug)]
pub struct Phase {
    /// Acknowledged records.
    pub records: AtomicU64,
    /// Their bytes, as batches.
    pub bytes: AtomicU64,
    /// From when a request was due to its acknowledgement, in nanoseconds.
    pub produce: Mutex<Histogram<u64>>,
    /// From when a request was due until a consumer had its records, in nanoseconds.
    pub seen: Mutex<Histogram<u64>>,
    /// Fetches of old records, in nanoseconds.
    pub fetch: Mutex<Histogram<u64>>,
}

/// A run.
#[derive(Debug)]
pub struct Course {
    /// Where the servers are.
    pub bootstrap: String,
    /// When the run began.
    pub begun: Instant,
    /// Retention and segments.
    pub times: Times,
    /// All partitions.
    pub partitions: Vec<Partition>,
    /// One for each of [`PHASES`].
    pub phases: Vec<Phase>,
    phase: AtomicUsize,
    stopped: AtomicBool,
    faults: Mutex<(u64, Vec<String>)>,
}

impl Course {
    /// At the beginning of the first phase.
    pub fn new(bootstrap: String, times: Times, places: Vec<Place>) -> Self {
        let partition = |place| Partition {
            place,
            next: AtomicI64::new(0),
            given_up: AtomicBool::new(false),
            notes: Mutex::default(),
        };
        let phase = || Phase {
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            produce: Mutex::new(histogram()),
            seen: Mutex::new(histogram()),
            fetch: Mutex::new(histogram()),
        };
        Self {
            bootstrap,
            begun: Instant::now(),
            times,
            partitions: places.into_iter().map(partition).collect(),
            phases: PHASES.iter().map(|_| phase()).collect(),
            phase: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            faults: Mutex::default(),
        }
    }

    /// The phase of now.
    pub fn phase(&self) -> &Phase {
        &self.phases[self.phase.load(Relaxed).min(PHASES.len() - 1)]
    }

    /// Begins a phase.
    pub fn enter(&self, phase: usize) {
        self.phase.store(phase, Relaxed);
    }

    /// Asks all tasks to end.
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Whether they are to end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// Nanoseconds since the run began.
    pub fn now_ns(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// Notes something that must not be.
    pub fn fault(&self, what: String) {
        let mut faults = locked(&self.faults);
        faults.0 += 1;
        if faults.1.len() < FAULTS_NAMED {
            eprintln!("        FAULT: {what}");
            faults.1.push(what);
        }
    }

    /// How many faults there were, and the first of them.
    pub fn faults(&self) -> (u64, Vec<String>) {
        locked(&self.faults).clone()
    }

    /// Counts an acknowledged batch.
    pub fn acknowledged(&self, partition: &Partition, due_ns: u64, records: i64, bytes: u64) {
        let end = partition.next.fetch_add(records, Relaxed) + records;
        let phase = self.phase();
        phase.records.fetch_add(records as u64, Relaxed);
        phase.bytes.fetch_add(bytes, Relaxed);
        locked(&phase.produce).saturating_record(self.now_ns().saturating_sub(due_ns));
        let now = now_ms();
        let mut notes = locked(&partition.notes);
        if notes.back().is_none_or(|(at, _)| now - at >= NOTE_EVERY_MS) {
            notes.push_back((now, end));
        }
        let oldest = now - 2 * self.times.retention.as_millis() as i64;
        while notes.front().is_some_and(|(at, _)| *at < oldest) {
            notes.pop_front();
        }
    }
}

/// A lock whose holder cannot have left anything half done.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
