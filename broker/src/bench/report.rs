//! What a run brought, as a table to read and as JSON to keep.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

use super::engine::{Load, Outcome};
use super::stats::Second;
use super::verify::Verification;

/// Latencies of acknowledged requests, in microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// Arithmetic mean.
    pub mean_us: f64,
}

/// What the floor's server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, serde::Deserialize)]
pub struct FloorGroups {
    /// Writes made, each with its flush.
    pub groups: u64,
    /// Requests in them.
    pub requests: u64,
    /// Bytes of requests in them.
    pub bytes: u64,
    /// Bytes written, padding included.
    pub bytes_written: u64,
}

/// A run's result.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `broker` or `floor`.
    pub target: &'static str,
    /// Where, as the user said it.
    pub bootstrap: String,
    /// The topic.
    pub topic: String,
    /// The Produce version used.
    pub produce_version: i16,
    /// How many partitions it went to.
    pub partitions: usize,
    /// Connections.
    pub producers: u32,
    /// Requests under way per connection.
    pub in_flight: u32,
    /// Bytes of each value.
    pub record_bytes: usize,
    /// Records per request.
    pub records_per_batch: u32,
    /// `0`, `1` or `all`.
    pub acks: String,
    /// Whether the producers were idempotent.
    pub idempotent: bool,
    /// Records per second asked for; `null` for a closed loop.
    pub rate: Option<u64>,
    /// The seed of the records' bytes.
    pub seed: u64,
    /// The measured time, in seconds.
    pub seconds: f64,
    /// Acknowledged in it.
    pub records: u64,
    /// Acknowledged per second.
    pub records_per_second: f64,
    /// Bytes of values acknowledged per second, in millions.
    pub megabytes_per_second: f64,
    /// Latency from sending (open loop: from the time it was due) to the answer.
    pub latency: Latency,
    /// Errors by name, of the whole run.
    pub errors: BTreeMap<String, u64>,
    /// Requests sent again by idempotent producers.
    pub resent: u64,
    /// Acknowledged as duplicates without an offset.
    pub duplicates: u64,
    /// The generator's own CPU time per request, in microseconds.
    pub generator_us_per_request: f64,
    /// What reading back found, if it was asked for.
    pub verification: Option<Verification>,
    /// The floor's own counts.
    pub floor: Option<FloorGroups>,
}

impl Report {
    /// Puts a run's numbers together.
    pub fn new(target: &'static str, bootstrap: &str, load: &Load, outcome: &Outcome) -> Self {
        let stats = &outcome.stats;
        let micros = |quantile| stats.latency.value_at_quantile(quantile) as f64 / 1e3;
        let seconds = outcome.elapsed.as_secs_f64();
        let records = stats.requests * u64::from(load.records_per_batch);
        Self {
            target,
            bootstrap: bootstrap.to_owned(),
            topic: String::new(),
            produce_version: 0,
            partitions: 0,
            producers: load.producers,
            in_flight: load.in_flight,
            record_bytes: load.record_bytes,
            records_per_batch: load.records_per_batch,
            acks: load.acks.to_string(),
            idempotent: false,
            rate: load.rate,
            seed: load.seed,
            seconds,
            records,
            records_per_second: records as f64 / seconds,
            megabytes_per_second: records as f64 * load.record_bytes as f64 / 1e6 / seconds,
            latency: Latency {
                p50_us: micros(0.5),
                p90_us: micros(0.9),
                p99_us: micros(0.99),
                p999_us: micros(0.999),
                max_us: stats.latency.max() as f64 / 1e3,
                mean_us: stats.latency.mean() / 1e3,
            },
            errors: stats.errors.clone(),
            resent: stats.resent,
            duplicates: stats.duplicates,
            generator_us_per_request: stats.cpu.as_secs_f64() * 1e6 / stats.requests.max(1) as f64,
            verification: None,
            floor: None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shape = format!(
            "{} producer{} x {} in flight, {} x {} B records per request, acks={}{}, {} partition{}",
            self.producers,
            if self.producers == 1 { "" } else { "s" },
            self.in_flight,
            self.records_per_batch,
            self.record_bytes,
            self.acks,
            if self.idempotent { ", idempotent" } else { "" },
            self.partitions,
            if self.partitions == 1 { "" } else { "s" },
        );
        if let Some(rate) = self.rate {
            write!(shape, ", {} records/s asked for", grouped(rate))?;
        }
        writeln!(f, "\n{:>13}  {shape}", self.target)?;
        writeln!(
            f,
            "{:>13}  {} records/s   {:.1} MB/s   ({} records in {:.1} s)",
            if self.acks == "0" { "sent" } else { "acknowledged" },
            grouped(self.records_per_second as u64),
            self.megabytes_per_second,
            grouped(self.records),
            self.seconds
        )?;
        let l = &self.latency;
        let percentiles = [
            ("p50", l.p50_us),
            ("p90", l.p90_us),
            ("p99", l.p99_us),
            ("p99.9", l.p999_us),
            ("max", l.max_us),
        ];
        let percentiles = percentiles.map(|(name, us)| format!("{name} {}", duration(us))).join("   ");
        if self.acks != "0" {
            writeln!(f, "{:>13}  {percentiles}", "latency")?;
        }
        if self.errors.is_empty() {
            writeln!(f, "{:>13}  none", "errors")?;
        }
        for (at, (error, count)) in self.errors.iter().enumerate() {
            writeln!(f, "{:>13}  {} x {error}", if at == 0 { "errors" } else { "" }, grouped(*count))?;
        }
        if self.resent + self.duplicates > 0 {
            let (resent, duplicates) = (grouped(self.resent), grouped(self.duplicates));
            writeln!(
                f,
                "{:>13}  {resent} requests sent again, {duplicates} answered as duplicates",
                "retries"
            )?;
        }
        if let Some(groups) = &self.floor {
            writeln!(
                f,
                "{:>13}  {} writes, each flushed, {:.1} requests in each, {:.0}% padding",
                "groups",
                grouped(groups.groups),
                groups.requests as f64 / groups.groups.max(1) as f64,
                100.0 - 100.0 * groups.bytes as f64 / groups.bytes_written.max(1) as f64
            )?;
        }
        writeln!(f, "{:>13}  {:.2} us of CPU per request", "generator", self.generator_us_per_request)?;
        match &self.verification {
            None => Ok(()),
            Some(v) => verification(f, v),
        }
    }
}

fn verification(f: &mut fmt::Formatter<'_>, v: &Verification) -> fmt::Result {
    writeln!(
        f,
        "{:>13}  {} of {} acknowledged records are at their offsets with every byte",
        if v.is_good() { "verified" } else { "NOT VERIFIED" },
        grouped(v.found),
        grouped(v.acknowledged)
    )?;
    writeln!(
        f,
        "{:>13}  {} missing, {} misplaced or twice, {} changed; {} found that were not acknowledged",
        "",
        grouped(v.missing),
        grouped(v.misplaced),
        grouped(v.corrupt),
        grouped(v.unacknowledged)
    )?;
    for fault in &v.faults {
        writeln!(f, "{:>13}  {fault}", "")?;
    }
    Ok(())
}

/// The progress line of one second.
pub fn progress(second: &Second) -> String {
    format!(
        "{:>5} s {} {:>10} records/s   p50 {:>8}   p99 {:>8}{}",
        second.at,
        if second.warming { "warming" } else { "       " },
        grouped(second.records),
        duration(second.p50_ns as f64 / 1e3),
        duration(second.p99_ns as f64 / 1e3),
        match second.errors {
            0 => String::new(),
            errors => format!("   {} errors so far", grouped(errors)),
        }
    )
}

/// A count with commas between thousands.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Microseconds in the unit that reads best.
fn duration(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} us"),
        us if us < 100_000.0 => format!("{:.2} ms", us / 1e3),
        us if us < 1_000_000.0 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (count, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(count), text);
        }
        for (us, text) in
            [(94.4, "94 us"), (1_500.0, "1.50 ms"), (250_000.0, "250 ms"), (2_500_000.0, "2.5 s")]
        {
            assert_eq!(duration(us), text);
        }
    }
}
