//! What a broker uses while it is under load: memory, descriptors, threads, processor time, disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::bench::host::resident_mib;
use crate::bench::servers::Server;

/// Looks at the directory are dearer than those at the process.
const DISK_EVERY: usize = 5;
/// Of the clock in `/proc/PID/stat`: `USER_HZ`, the same on every Linux that we know.
const TICKS: f64 = 100.0;
/// What a block of `st_blocks` has, in bytes.
const BLOCK_BYTES: u64 = 512;
/// From this size on a segment is of the cold topic.
const COLD_BYTES: u64 = 16 << 20;

/// What was seen in one phase.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Resident memory at each look, in MiB.
    pub resident_mib: Vec<f64>,
    /// Most open descriptors.
    pub descriptors: usize,
    /// Most threads.
    pub threads: usize,
    /// The most that the data directory took, in bytes.
    pub disk_bytes: u64,
    /// Processor time in seconds, and the time itself.
    pub processor_s: f64,
    /// How long the phase took, in seconds.
    pub seconds: f64,
    /// 99th percentile of the data WAL's flushes, in milliseconds (Chronik).
    pub flush_p99_ms: Option<f64>,
}

impl Seen {
    /// The median of the looks at the memory.
    pub fn resident(&self) -> Option<f64> {
        let mut looks = self.resident_mib.clone();
        looks.sort_by(f64::total_cmp);
        looks.get(looks.len() / 2).copied()
    }
}

/// A watch over one broker.
#[derive(Debug)]
pub struct Watch {
    dir: PathBuf,
    /// By phase.
    pub phases: BTreeMap<String, Seen>,
    current: Option<Current>,
    looks: usize,
}

#[derive(Debug)]
struct Current {
    phase: String,
    begun: std::time::Instant,
    processor_s: f64,
    buckets: Vec<(f64, f64)>,
}

impl Watch {
    /// Of a broker with its data below `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.join("data"), phases: BTreeMap::new(), current: None, looks: 0 }
    }

    /// Ends the phase that was, and begins another.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn enter(&mut self, phase: &str, server: &Server) -> Result<()> {
        let buckets = server.metrics().map(|text| flush_buckets(&text)).unwrap_or_default();
        let processor_s = processor_s(server.pid());
        if let Some(last) = self.current.take() {
            let seen = self.phases.entry(last.phase).or_default();
            seen.seconds = last.begun.elapsed().as_secs_f64();
            seen.processor_s = processor_s - last.processor_s;
            seen.flush_p99_ms = quantile(&last.buckets, &buckets, 0.99).map(|s| s * 1e3);
        }
        let begun = std::time::Instant::now();
        self.current = Some(Current { phase: phase.to_owned(), begun, processor_s, buckets });
        self.look(server)
    }

    /// Takes a look.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn look(&mut self, server: &Server) -> Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        let pid = server.pid();
        let seen = self.phases.entry(current.phase.clone()).or_default();
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
        seen.resident_mib.push(resident_mib(pid)?);
        seen.descriptors = seen.descriptors.max(count("fd"));
        seen.threads = seen.threads.max(count("task"));
        if self.looks.is_multiple_of(DISK_EVERY) {
            seen.disk_bytes = seen.disk_bytes.max(allocated(&self.dir));
        }
        self.looks += 1;
        Ok(())
    }
}

/// User and system time of a process so far, in seconds.
fn processor_s(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is a name in brackets that may have spaces.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_ascii_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
        / TICKS
}

fn each_file(dir: &Path, visit: &mut impl FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // A file may go between the two looks.
        let Ok(metadata) = entry.metadata() else { continue };
        match metadata.is_dir() {
            true => each_file(&entry.path(), visit),
            false => visit(&entry.path(), &metadata),
        }
    }
}

/// Bytes of all blocks that the files below `dir` have.
fn allocated(dir: &Path) -> u64 {
    let mut bytes = 0;
    each_file(dir, &mut |_, metadata| bytes += metadata.blocks() * BLOCK_BYTES);
    bytes
}

/// Asks the kernel to forget what it keeps of the large files below `dir`, so that a cold read comes from the disk. Those
/// under load stay small.
pub fn evict(dir: &Path) {
    each_file(dir, &mut |path, metadata| {
        if metadata.len() < COLD_BYTES {
            return;
        }
        if let Ok(file) = fs::File::open(path) {
            // What is dirty would stay.
            let _ = file.sync_data();
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    });
}

/// Upper bounds and cumulative counts of the data WAL's flush times.
fn flush_buckets(metrics: &str) -> Vec<(f64, f64)> {
    let bucket = |line: &str| {
        let rest = line.strip_prefix("chronik_wal_flush_seconds_bucket{")?;
        let (labels, count) = rest.rsplit_once("} ")?;
        let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
        labels.contains("wal=\"data\"").then_some(())?;
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
        Some((bound, count.trim().parse().ok()?))
    };
    metrics.lines().filter_map(bucket).collect()
}

/// A quantile of what came between two looks at a histogram, straight within a bucket.
fn quantile(before: &[(f64, f64)], after: &[(f64, f64)], quantile: f64) -> Option<f64> {
    let counts: Vec<(f64, f64)> = after
        .iter()
        .map(|(bound, count)| {
            let earlier = before.iter().find(|(b, _)| b == bound).map_or(0.0, |(_, count)| *count);
            (*bound, count - earlier)
        })
        .collect();
    let wanted = counts.last().filter(|(_, all)| *all > 0.0)?.1 * quantile;
    let at = counts.iter().position(|(_, count)| *count >= wanted)?;
    let (low, below) = at.checked_sub(1).map_or((0.0, 0.0), |before| counts[before]);
    let (high, count) = counts[at];
    if high.is_infinite() {
        return Some(low);
    }
    Some(low + (high - low) * (wanted - below) / (count - below).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quantile_is_of_what_came_between() {
        let text = "chronik_wal_flush_seconds_bucket{le=\"0.001\",wal=\"data\"} 90\n\
            chronik_wal_flush_seconds_bucket{le=\"0.002\",wal=\"data\"} 100\n\
            chronik_wal_flush_seconds_bucket{le=\"+Inf\",wal=\"data\"} 100\n\
            chronik_wal_flush_seconds_bucket{le=\"0.002\",wal=\"metadata\"} 7\n";
        let after = flush_buckets(text);
        assert_eq!(after, [(0.001, 90.0), (0.002, 100.0), (f64::INFINITY, 100.0)]);
        assert_eq!(quantile(&[], &after, 0.5).map(|s| (s * 1e6).round()), Some(556.0));
        let before = [(0.001, 90.0), (0.002, 90.0), (f64::INFINITY, 90.0)];
        assert_eq!(quantile(&before, &after, 0.5), Some(0.0015));
        assert_eq!(quantile(&after, &after, 0.5), None);
    }

    #[test]
    fn what_files_take_is_counted_in_blocks() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("deep")).unwrap();
        fs::write(dir.path().join("deep/file"), [1; 100_000]).unwrap();
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        evict(dir.path());
        assert!((100_000..1 << 20).contains(&allocated(dir.path())));
        assert!(processor_s(std::process::id()) >= 0.0);
    }
}
