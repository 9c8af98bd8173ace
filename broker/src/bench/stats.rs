//! Counting while the load runs.

use std::collections::BTreeMap;
use std::time::Duration;

use chronik_client::error_name;
use hdrhistogram::Histogram;

/// Latencies above this count as this, in nanoseconds.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// An empty histogram of latencies in nanoseconds.
pub fn histogram() -> Histogram<u64> {
    // One microsecond is the finest that matters; three digits.
    Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, 3).expect("constant bounds")
}

/// One second of the run, for the progress line.
#[derive(Debug, Clone, Copy)]
pub struct Second {
    /// Seconds since the load began.
    pub at: u64,
    /// Whether it lies in the warm-up.
    pub warming: bool,
    /// Acknowledged records.
    pub records: u64,
    /// Their median latency, in nanoseconds.
    pub p50_ns: u64,
    /// Their 99th percentile, in nanoseconds.
    pub p99_ns: u64,
    /// Errors since the load began.
    pub errors: u64,
}

/// What the load has counted.
#[derive(Debug)]
pub struct Stats {
    /// Acknowledged within the measured time.
    pub requests: u64,
    /// Acknowledged from the first second to the last answer, warm-up included.
    pub requests_all: u64,
    /// Latency of the measured requests, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Answers with an error, by Kafka's name, and other failures by ours.
    pub errors: BTreeMap<String, u64>,
    /// Requests sent again by idempotent producers.
    pub resent: u64,
    /// Answers that named a duplicate without its offset.
    pub duplicates: u64,
    /// CPU time of the generator within the measured time.
    pub cpu: Duration,
    second: Histogram<u64>,
    second_requests: u64,
}

impl Stats {
    /// Nothing counted.
    pub fn new() -> Self {
        Self {
            requests: 0,
            requests_all: 0,
            latency: histogram(),
            errors: BTreeMap::new(),
            resent: 0,
            duplicates: 0,
            cpu: Duration::ZERO,
            second: histogram(),
            second_requests: 0,
        }
    }

    /// Counts an acknowledgement.
    pub fn acknowledged(&mut self, latency_ns: u64, measured: bool) {
        self.requests_all += 1;
        self.second_requests += 1;
        self.second.saturating_record(latency_ns);
        if measured {
            self.requests += 1;
            self.latency.saturating_record(latency_ns);
        }
    }

    /// Counts an answer with an error code.
    pub fn refused(&mut self, code: i16) {
        self.failed(&error_name(code), 1);
    }

    /// Counts failures of another kind.
    pub fn failed(&mut self, what: &str, count: u64) {
        if count > 0 {
            *self.errors.entry(what.to_owned()).or_default() += count;
        }
    }

    /// All errors together.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Ends a second.
    pub fn take_second(&mut self, at: u64, warming: bool, records_per_batch: u32) -> Second {
        let second = Second {
            at,
            warming,
            records: self.second_requests * u64::from(records_per_batch),
            p50_ns: self.second.value_at_quantile(0.5),
            p99_ns: self.second.value_at_quantile(0.99),
            errors: self.error_count(),
        };
        self.second.reset();
        self.second_requests = 0;
        second
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}

/// CPU time this process has used so far, user and system together.
pub fn cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.max(0) as u64, used.tv_nsec.max(0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_counts_for_the_second_but_not_for_the_run() {
        let mut stats = Stats::new();
        stats.acknowledged(5_000_000, false);
        stats.acknowledged(1_000_000, true);
        stats.acknowledged(u64::MAX, true);
        stats.refused(56);
        stats.failed("unanswered", 2);
        assert_eq!((stats.requests, stats.requests_all, stats.error_count()), (2, 3, 3));
        assert_eq!(stats.latency.len(), 2);
        let second = stats.take_second(1, false, 100);
        assert_eq!((second.records, second.errors), (300, 3));
        assert_eq!(stats.take_second(2, false, 100).records, 0);
        assert_eq!(stats.errors.get("KAFKA_STORAGE_ERROR"), Some(&1));
    }
}
