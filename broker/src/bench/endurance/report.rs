//! What an endurance run says, for whoever started it to read.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::Serialize;

use super::check::Found;
use super::cold::ColdRead;
use super::course::{Course, PHASES, Phase, locked};
use super::topics::{KEYS, Kind, RETENTION_BYTES, SEGMENT_BYTES};

/// One phase.
#[derive(Debug, Serialize)]
pub struct PhaseReport {
    /// One of [`PHASES`].
    pub name: &'static str,
    /// Acknowledged records.
    pub records: u64,
    /// Their bytes, as batches.
    pub bytes: u64,
    /// From due to acknowledged, in microseconds.
    pub produce_p50_us: f64,
    /// The same, 99th percentile.
    pub produce_p99_us: f64,
    /// From due to seen by a consumer at the end, in microseconds, 99th percentile.
    pub seen_p99_us: f64,
    /// Fetches of old records, in microseconds, 99th percentile.
    pub fetch_p99_us: f64,
}

impl PhaseReport {
    fn new(name: &'static str, phase: &Phase) -> Self {
        let us = |histogram: &std::sync::Mutex<hdrhistogram::Histogram<u64>>, quantile| {
            locked(histogram).value_at_quantile(quantile) as f64 / 1e3
        };
        Self {
            name,
            records: phase.records.load(Relaxed),
            bytes: phase.bytes.load(Relaxed),
            produce_p50_us: us(&phase.produce, 0.5),
            produce_p99_us: us(&phase.produce, 0.99),
            seen_p99_us: us(&phase.seen, 0.99),
            fetch_p99_us: us(&phase.fetch, 0.99),
        }
    }
}

/// The whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// All phases, in order.
    pub phases: Vec<PhaseReport>,
    /// The cold consumer.
    pub cold: Option<ColdRead>,
    /// What was read back.
    pub found: Found,
    /// What must not be.
    pub fault_count: u64,
    /// The first of them.
    pub faults: Vec<String>,
    /// What the segments of each kind of topic may take at most, in bytes.
    pub bound_bytes: BTreeMap<&'static str, u64>,
}

impl Report {
    /// Of a run that is over, whose load lasted `lasted`.
    pub fn new(
        course: &Course,
        cold: Option<ColdRead>,
        found: Found,
        lasted: Duration,
        check: Duration,
    ) -> Self {
        let phases: Vec<_> =
            PHASES.iter().zip(&course.phases).map(|(name, phase)| PhaseReport::new(name, phase)).collect();
        let written = phases.iter().map(|phase| phase.bytes).sum();
        let (fault_count, faults) = course.faults();
        let mut bound_bytes = bound(course, written, lasted, check);
        bound_bytes.insert("cold", cold.as_ref().map_or(0, |cold| cold.bytes));
        Self { phases, cold, found, fault_count, faults, bound_bytes }
    }
}

/// How much the segments may take by their settings, if retention and compaction come when they should: at every check,
/// and once again as long for the deletion itself. Whatever the settings say, it is never more than what was written.
fn bound(course: &Course, written: u64, lasted: Duration, check: Duration) -> BTreeMap<&'static str, u64> {
    let count = |kinds: &[Kind]| {
        course.partitions.iter().filter(|partition| kinds.contains(&partition.place.kind)).count() as u64
    };
    let all = course.partitions.len().max(1) as u64;
    let rate = written as f64 / lasted.as_secs_f64().max(1.0);
    // Hot partitions are spread over all topics. A tenth more, since the dice do not fall evenly.
    let share = |partitions: u64| 1.1 * partitions as f64 / all as f64;
    let delay = check * 2;
    let during = |partitions: u64, time: Duration| (rate * share(partitions) * time.as_secs_f64()) as u64;
    let cap = |partitions: u64, bytes: u64| bytes.min((written as f64 * share(partitions)) as u64);
    let sized = count(&[Kind::Sized]);
    let aged = count(&[Kind::Aged, Kind::Both]);
    let keyed = count(&[Kind::Keyed]);
    let retained = course.times.retention + course.times.segment;
    // 2.2 KiB are the mean of a record. A log is clean again when seven tenths are; while it is, old and new are there.
    let clean = keyed * KEYS * 2_250;
    let compacted = 2 * clean * 10 / 7 + during(keyed, course.times.segment + delay);
    BTreeMap::from([
        ("sized", cap(sized, sized * (RETENTION_BYTES + SEGMENT_BYTES) + during(sized, delay))),
        ("aged", cap(aged, during(aged, retained + delay))),
        ("keyed", cap(keyed, compacted + keyed * SEGMENT_BYTES / 4)),
    ])
}
