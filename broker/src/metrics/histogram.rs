//! A histogram for the hot path: one relaxed addition per bucket, count and sum, no lock and no allocation.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Counts whole numbers in buckets that double, each octave halved once: 1, 1.5, 2, 3, 4, 6, 8, …
/// Clones share their buckets.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The first bucket holds values up to `1 << low`.
    low: u32,
    /// What one of the counted units is in the exported unit.
    scale: f64,
    sum: AtomicU64,
    /// The last holds all that is too large for the others.
    buckets: Vec<AtomicU64>,
}

impl Histogram {
    /// Buckets from `1 << low` to `1 << high`, exported times `scale`.
    fn new(low: u32, high: u32, scale: f64) -> Histogram {
        let count = 2 + 2 * high.saturating_sub(low) as usize;
        let buckets = std::iter::repeat_with(AtomicU64::default).take(count).collect();
        Histogram(Arc::new(Inner { low, scale, sum: AtomicU64::new(0), buckets }))
    }

    /// Counts microseconds, exports seconds: 16 us to 16.8 s.
    pub fn micros() -> Histogram {
        Histogram::new(4, 24, 1e-6)
    }

    /// Counts things: 1 to 65,536.
    pub fn counts() -> Histogram {
        Histogram::new(0, 16, 1.0)
    }

    /// Counts bytes: 512 B to 256 MiB.
    pub fn bytes() -> Histogram {
        Histogram::new(9, 28, 1.0)
    }

    /// Counts one value, in the histogram's own unit.
    pub fn observe(&self, value: u64) {
        if let Some(bucket) = self.0.buckets.get(self.0.index(value)) {
            bucket.fetch_add(1, Relaxed);
        }
        self.0.sum.fetch_add(value, Relaxed);
    }

    /// Counts a duration in a histogram of microseconds.
    pub fn observe_since(&self, start: std::time::Instant) {
        self.observe(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.0.buckets.iter().map(|b| b.load(Relaxed)).sum()
    }

    /// The sum of the values counted.
    pub fn sum(&self) -> u64 {
        self.0.sum.load(Relaxed)
    }
}

impl Inner {
    fn index(&self, value: u64) -> usize {
        let below = value.saturating_sub(1);
        if below >> self.low == 0 {
            return 0;
        }
        let octave = below.ilog2();
        // The bit under the highest says which half of the octave; octave 0 has no halves, and its one value
        // is the upper bound of the first bucket above `1 << 0`.
        let half = if octave == 0 { 1 } else { (below >> (octave - 1)) & 1 };
        let index = 1 + 2 * (octave - self.low) as usize + half as usize;
        index.min(self.buckets.len().saturating_sub(1))
    }

    /// The largest value of a bucket.
    fn bound(&self, index: usize) -> f64 {
        if index + 1 >= self.buckets.len() {
            return f64::INFINITY;
        }
        let Some(step) = index.checked_sub(1) else { return (1u64 << self.low) as f64 * self.scale };
        let octave = (1u64 << (self.low as usize + step / 2)) as f64;
        octave * if step % 2 == 0 { 1.5 } else { 2.0 } * self.scale
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let counts: Vec<u64> = self.0.buckets.iter().map(|b| b.load(Relaxed)).collect();
        let buckets: Vec<(f64, u64)> =
            counts.iter().enumerate().map(|(i, n)| (self.0.bound(i), *n)).collect();
        let sum = self.sum() as f64 * self.0.scale;
        encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_the_first_bucket_that_holds_it() {
        for histogram in [Histogram::micros(), Histogram::counts(), Histogram::bytes()] {
            let inner = &histogram.0;
            let raw = |i: usize| inner.bound(i) / inner.scale;
            for value in
                (0..5000).chain((13..40).flat_map(|p| [(1u64 << p) - 1, 1 << p, (1 << p) + 1, 3 << p]))
            {
                let i = inner.index(value);
                assert!(value as f64 <= raw(i) + 1e-3, "{value} over bucket {i}");
                assert!(i == 0 || value as f64 > raw(i - 1) - 1e-3, "{value} fits before bucket {i}");
            }
        }
    }

    #[test]
    fn exports_cumulative_buckets_in_seconds() {
        let histogram = Histogram::micros();
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register("flush_seconds", "x", histogram.clone());
        histogram.observe(100);
        histogram.observe(100);
        histogram.observe(u64::from(u32::MAX));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("flush_seconds_bucket{le=\"0.000128\"} 2\n"), "{text}");
        assert!(text.contains("flush_seconds_bucket{le=\"+Inf\"} 3\n"), "{text}");
        assert!(text.contains("flush_seconds_count 3\n"), "{text}");
        assert_eq!((histogram.count(), histogram.sum()), (3, 200 + u64::from(u32::MAX)));
    }
}
