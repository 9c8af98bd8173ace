//! The rows of the benchmark: which load goes where, and what came of it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::host::Disk;
use super::servers::Server;

/// Who is under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Chronik, with a WAL profile.
    Chronik(&'static str),
    /// Apache Kafka; with `true` it flushes each message (`flush.messages=1`).
    Kafka(bool),
    /// `chronik bench floor`.
    Floor,
}

/// One row: 256-byte records, one per request, one request in flight, `acks=1`.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// How others refer to it.
    pub key: &'static str,
    /// How the table names it.
    pub title: &'static str,
    /// Who.
    pub target: Target,
    /// Connections.
    pub producers: u32,
    /// Partitions of the topic.
    pub partitions: u32,
}

const fn row(key: &'static str, title: &'static str, target: Target, producers: u32, partitions: u32) -> Row {
    Row { key, title, target, producers, partitions }
}

/// In the order of a round: Chronik and its peers in turn.
pub const ROWS: [Row; 13] = [
    row("pipelined", "Chronik, pipelined (profile high)", Target::Chronik("high"), 128, 3),
    row("kafka", "Kafka 4.3.1 as it ships (no flush)", Target::Kafka(false), 128, 3),
    row("floor", "floor: receive, write, flush, answer", Target::Floor, 128, 3),
    row("fixed", "Chronik, fixed 100 ms", Target::Chronik("bench-fixed"), 128, 3),
    row("kafka-flush", "Kafka 4.3.1, flush.messages=1", Target::Kafka(true), 128, 3),
    row("hybrid", "Chronik, hybrid", Target::Chronik("bench-hybrid"), 128, 3),
    row("adaptive", "Chronik, adaptive", Target::Chronik("bench-adaptive"), 128, 3),
    row("thresholds", "Chronik, adaptive, old thresholds", Target::Chronik("bench-thresholds"), 128, 3),
    row("partitions-1", "Chronik, pipelined, 1 partition", Target::Chronik("high"), 128, 1),
    row("partitions-100", "Chronik, pipelined, 100 partitions", Target::Chronik("high"), 128, 100),
    row("partitions-1000", "Chronik, pipelined, 1,000 partitions", Target::Chronik("high"), 128, 1000),
    row("lone", "Chronik, pipelined, one producer", Target::Chronik("high"), 1, 1),
    row("lone-floor", "floor, one producer", Target::Floor, 1, 1),
];

/// What Chronik is started with, so that the rows' profiles exist.
pub fn profiles() -> Vec<String> {
    let policies = [
        ("bench-fixed", "fixed"),
        ("bench-hybrid", "hybrid"),
        ("bench-adaptive", "adaptive"),
        ("bench-thresholds", "adaptive-thresholds"),
    ];
    let mut settings = Vec::new();
    for (name, policy) in policies {
        settings.push(format!("chronik.wal.profile.{name}.policy={policy}"));
        settings.push(format!("chronik.wal.profile.{name}.max.delay.us=100000"));
    }
    settings
}

/// The part of the generator's report that is used here.
#[derive(Debug, Clone, Deserialize)]
struct Report {
    records: u64,
    seconds: f64,
    records_per_second: f64,
    generator_us_per_request: f64,
    latency: Latency,
    errors: std::collections::BTreeMap<String, u64>,
    verification: Option<serde_json::Value>,
    floor: Option<Groups>,
}

#[derive(Debug, Clone, Deserialize)]
struct Latency {
    p50_us: f64,
    p99_us: f64,
}

#[derive(Debug, Clone, Deserialize)]
struct Groups {
    groups: u64,
}

/// One run of one row.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// Acknowledged records per second.
    pub records_per_second: f64,
    /// Median latency, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
    /// Groups the WAL (or the floor) wrote during the run, warm-up included.
    pub groups: Option<f64>,
    /// Flush requests the device completed meanwhile.
    pub device_flushes: Option<f64>,
    /// The generator's own cost, in microseconds of CPU per request.
    pub generator_us_per_request: f64,
    /// Errors seen by the generator.
    pub errors: u64,
    /// Whether everything was read back and found right; `None` where it was not asked for.
    pub verified: Option<bool>,
}

/// How long each run is, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Load that is not measured.
    pub warmup: f64,
    /// Load that is.
    pub duration: f64,
}

/// What the rows are measured with.
pub struct Bed<'a> {
    /// The `chronik` program: the load generator too.
    pub program: &'a Path,
    /// Where the floor writes.
    pub dir: &'a Path,
    /// The disk below it.
    pub disk: &'a Disk,
    /// Chronik, when a row needs it.
    pub chronik: Option<Server>,
    /// Kafka, when a row needs it.
    pub kafka: Option<Server>,
}

/// Runs a row once; with `verify` Chronik's records are all read back.
///
/// # Errors
/// When the generator fails; with what it said.
pub fn measure(row: &Row, bed: &Bed<'_>, times: Times, verify: bool) -> Result<Sample> {
    const GROUPS: &str = "chronik_wal_groups_total{wal=\"data\"}";
    let json = bed.dir.join("run.json");
    let mut command = Command::new(bed.program);
    command.arg("bench");
    let partitions = row.partitions.to_string();
    match row.target {
        Target::Chronik(profile) => {
            let chronik = bed.chronik.as_ref().context("no Chronik was started")?;
            command.args(["--bootstrap", &chronik.bootstrap, "--partitions", &partitions]);
            command.args(["--wal-profile", profile]);
            command.args(verify.then_some("--verify"));
        }
        Target::Kafka(flush) => {
            let kafka = bed.kafka.as_ref().context("no Kafka was started")?;
            command.args(["--bootstrap", &kafka.bootstrap, "--partitions", &partitions]);
            command.args(flush.then_some("--topic-config=flush.messages=1"));
        }
        Target::Floor => {
            command.arg("floor").arg("--dir").arg(bed.dir);
        }
    }
    command.args(["--quiet", "--producers", &row.producers.to_string()]);
    command.args(["--warmup", &times.warmup.to_string(), "--duration", &times.duration.to_string()]);
    command.arg("--json").arg(&json);
    let counts = || (bed.chronik.as_ref().and_then(|chronik| chronik.metric(GROUPS)), bed.disk.flushes());
    let before = counts();
    let output = command.output().context("cannot start the load generator")?;
    let after = counts();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", row.title, said.trim());
    let report: Report = serde_json::from_slice(&std::fs::read(&json)?)?;
    ensure!(report.records > 0, "{}: nothing acknowledged in {} s", row.title, report.seconds);
    let groups = match row.target {
        Target::Chronik(_) => before.0.zip(after.0).map(|(before, after)| after - before),
        Target::Kafka(_) => None,
        Target::Floor => report.floor.map(|floor| floor.groups as f64),
    };
    Ok(Sample {
        records_per_second: report.records_per_second,
        p50_us: report.latency.p50_us,
        p99_us: report.latency.p99_us,
        groups,
        device_flushes: before.1.zip(after.1).map(|(before, after)| after.saturating_sub(before) as f64),
        generator_us_per_request: report.generator_us_per_request,
        errors: report.errors.values().sum(),
        // The generator fails when the reading back finds a fault.
        verified: report.verification.map(|_| true),
    })
}

/// The median; `None` of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => values.get(middle).copied(),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// All runs of one row.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// The row's key.
    pub key: &'static str,
    /// The row's name.
    pub title: &'static str,
    /// Its runs, in order.
    pub samples: Vec<Sample>,
    /// What went wrong, if anything.
    pub failures: Vec<String>,
}

impl Measured {
    /// The median of one number of all runs.
    pub fn median(&self, number: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(self.samples.iter().filter_map(number))
    }

    /// Median of acknowledged records per second.
    pub fn rate(&self) -> Option<f64> {
        self.median(|sample| Some(sample.records_per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median([4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn every_row_has_a_key_of_its_own() {
        let keys: std::collections::HashSet<_> = ROWS.iter().map(|row| row.key).collect();
        assert_eq!(keys.len(), ROWS.len());
    }
}
