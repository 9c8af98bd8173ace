//! The goals, and what the figures say to them.

use serde::Serialize;

use super::life::{Life, Recovery};
use super::rows::Measured;

/// One goal, one figure.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// What was asked.
    pub goal: String,
    /// What was measured.
    pub figure: String,
    /// `met`, `falls short`, or `not measured`.
    pub verdict: &'static str,
}

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Results {
    /// Throughput and latency, by row.
    pub rows: Vec<Measured>,
    /// Chronik's WAL engine and flush mode, as its metrics tell.
    pub wal: Option<String>,
    /// Chronik's memory and start.
    pub chronik_life: Option<Life>,
    /// Kafka's memory and start.
    pub kafka_life: Option<Life>,
    /// Chronik's recovery.
    pub recovery: Option<Recovery>,
}

impl Results {
    fn row(&self, key: &str) -> Option<&Measured> {
        self.rows.iter().find(|row| row.key == key)
    }

    fn rate(&self, key: &str) -> Option<f64> {
        self.row(key)?.rate()
    }

    fn p50(&self, key: &str) -> Option<f64> {
        self.row(key)?.median(|sample| Some(sample.p50_us))
    }

    fn p99(&self, key: &str) -> Option<f64> {
        self.row(key)?.median(|sample| Some(sample.p99_us))
    }

    fn ratio(&self, key: &str, to: &str) -> Option<f64> {
        Some(self.rate(key)? / self.rate(to)?)
    }

    /// Every goal with its figure.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let per_second = |rate: f64| format!("{} records/s", grouped(rate));
        let times = |ratio: f64| format!("{ratio:.2} times");
        let seconds = |s: f64| format!("{s:.2} s");
        let mib = |mib: f64| format!("{mib:.1} MiB");
        let high = "pipelined";
        let lone = self.p50("lone").zip(self.p50("lone-floor")).map(|(us, floor)| us / floor);
        let p99_ms = self.p99(high).map(|us| us / 1e3);
        let spread = self.spread();
        let chronik = self.chronik_life.as_ref();
        let recovery = self.recovery.as_ref();
        vec![
            verdict(
                "fixed lands near 1,280 records/s (1,100 to 1,400)",
                self.rate("fixed"),
                per_second,
                |r| (1_100.0..=1_400.0).contains(&r),
            ),
            verdict("pipelined passes 50,000 records/s", self.rate(high), per_second, |r| r > 50_000.0),
            verdict("pipelined has a p99 under 10 ms", p99_ms, |ms| format!("{ms:.2} ms"), |ms| ms < 10.0),
            verdict("aim: pipelined at 108,000 records/s", self.rate(high), per_second, |r| r >= 108_000.0),
            verdict("aim: 0.8 of the floor", self.ratio(high, "floor"), times, |r| r >= 0.8),
            verdict("1.5 times Kafka as it ships", self.ratio(high, "kafka"), times, |r| r >= 1.5),
            verdict("10 times Kafka with flush.messages=1", self.ratio(high, "kafka-flush"), times, |r| {
                r >= 10.0
            }),
            verdict(
                "1, 3, 100 and 1,000 partitions at most 15% apart",
                spread,
                |part| format!("{:.1}% apart", part * 100.0),
                |part| part <= 0.15,
            ),
            verdict("one producer: p50 within twice the floor's", lone, times, |r| r <= 2.0),
            verdict("at most 50 MB resident when idle", chronik.and_then(|l| l.idle_mib), mib, |m| {
                m * 1.048_576 <= 50.0
            }),
            verdict(
                "first acknowledged record within 1 s of start (new directory)",
                chronik.and_then(|l| l.first_ack_new_s),
                seconds,
                |s| s <= 1.0,
            ),
            verdict(
                "first acknowledged record within 1 s of start (used directory)",
                chronik.and_then(|l| l.first_ack_again_s),
                seconds,
                |s| s <= 1.0,
            ),
            verdict("1 GiB of WAL recovered within 3 s", recovery.map(|r| r.ready_s), seconds, |s| s <= 3.0),
        ]
    }

    /// How far apart the rates over the numbers of partitions are, as a part of the highest.
    fn spread(&self) -> Option<f64> {
        let keys = ["partitions-1", "pipelined", "partitions-100", "partitions-1000"];
        let rates = keys.map(|key| self.rate(key)).into_iter().collect::<Option<Vec<_>>>()?;
        let highest = rates.iter().copied().fold(f64::MIN, f64::max);
        let lowest = rates.iter().copied().fold(f64::MAX, f64::min);
        Some((highest - lowest) / highest)
    }

    /// The table.
    pub fn table(&self) -> String {
        let header = ["", "records/s", "p50 ms", "p99 ms", "groups", "device flushes", "us/request*", "runs"];
        let mut lines = vec![header.map(str::to_owned).to_vec()];
        for row in &self.rows {
            let number = |value: Option<f64>, show: fn(f64) -> String| value.map_or("-".to_owned(), show);
            let ms: fn(f64) -> String = |us| format!("{:.2}", us / 1e3);
            let verified = row.samples.iter().any(|sample| sample.verified == Some(true));
            let errors: u64 = row.samples.iter().map(|sample| sample.errors).sum();
            let mut runs = row.samples.len().to_string();
            runs += if verified { ", verified" } else { "" };
            if errors > 0 {
                runs += &format!(", {errors} errors");
            }
            if !row.failures.is_empty() {
                runs += &format!(", {} FAILED", row.failures.len());
            }
            lines.push(vec![
                row.title.to_owned(),
                number(row.rate(), grouped),
                number(row.median(|s| Some(s.p50_us)), ms),
                number(row.median(|s| Some(s.p99_us)), ms),
                number(row.median(|s| s.groups), grouped),
                number(row.median(|s| s.device_flushes), grouped),
                number(row.median(|s| Some(s.generator_us_per_request)), |us| format!("{us:.1}")),
                runs,
            ]);
        }
        let mut text = columns(&lines);
        text += "* CPU time of the load generator itself, on the same processors\n";
        text += "Groups and flushes count the warm-up too. With several groups at the device at once the kernel\n";
        text += "lets one flush serve all that were written before it: fewer flushes than groups.\n";
        if let Some(wal) = &self.wal {
            text += &format!("Chronik's WAL: {wal}\n");
        }
        text.push('\n');
        let mut lines = vec![["", "Chronik", "Kafka"].map(str::to_owned).to_vec()];
        let both = |number: fn(&Life) -> Option<f64>, unit: &str| {
            [&self.chronik_life, &self.kafka_life].map(|life| {
                let value = life.as_ref().and_then(number);
                value.map_or("-".to_owned(), |value| format!("{value:.2} {unit}"))
            })
        };
        let mut line = |title: &str, [chronik, kafka]: [String; 2]| {
            lines.push(vec![title.to_owned(), chronik, kafka]);
        };
        line("resident when idle", both(|life| life.idle_mib, "MiB"));
        line("start to first acknowledged record, new directory", both(|life| life.first_ack_new_s, "s"));
        line("start to first acknowledged record, used directory", both(|life| life.first_ack_again_s, "s"));
        if let Some(recovery) = &self.recovery {
            let wal = format!("{:.0} MiB", recovery.wal_mib);
            let none = || "-".to_owned();
            line(&format!("kill -9, {wal} of WAL: ready"), [format!("{:.2} s", recovery.ready_s), none()]);
            let first = format!("{:.2} s", recovery.first_ack_s);
            line(&format!("kill -9, {wal} of WAL: first acknowledged record"), [first, none()]);
        }
        text += &columns(&lines);
        let mut lines = vec![["goal", "figure", "verdict"].map(str::to_owned).to_vec()];
        lines.extend(self.verdicts().into_iter().map(|v| vec![v.goal, v.figure, v.verdict.to_owned()]));
        text + "\n" + &columns(&lines)
    }
}

fn verdict(
    goal: &str,
    value: Option<f64>,
    show: impl Fn(f64) -> String,
    met: impl Fn(f64) -> bool,
) -> Verdict {
    Verdict {
        goal: goal.to_owned(),
        figure: value.map_or("-".to_owned(), show),
        verdict: match value {
            None => "not measured",
            Some(value) if met(value) => "met",
            Some(_) => "FALLS SHORT",
        },
    }
}

/// A count with commas between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The first column to the left, numbers to the right.
pub fn columns(lines: &[Vec<String>]) -> String {
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        let cells = lines.iter().filter_map(|line| line.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(at, (cell, width))| match at {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::rows::Sample;
    use super::*;

    fn measured(key: &'static str, rates: &[f64], p50_us: f64) -> Measured {
        let sample = |rate: &f64| Sample {
            records_per_second: *rate,
            p50_us,
            p99_us: 9_000.0,
            groups: Some(1_234.0),
            device_flushes: None,
            generator_us_per_request: 3.0,
            errors: 0,
            verified: None,
        };
        Measured { key, title: key, samples: rates.iter().map(sample).collect(), failures: Vec::new() }
    }

    #[test]
    fn goals_are_judged_by_medians_and_what_is_missing_is_said() {
        let results = Results {
            rows: vec![
                measured("pipelined", &[90_000.0, 110_000.0, 100_000.0], 1_000.0),
                measured("kafka", &[70_000.0], 1_000.0),
                measured("floor", &[120_000.0], 1_000.0),
                measured("lone", &[5_000.0], 199.0),
                measured("lone-floor", &[9_000.0], 100.0),
            ],
            ..Results::default()
        };
        let verdicts = results.verdicts();
        let of = |start: &str| verdicts.iter().find(|v| v.goal.starts_with(start)).unwrap().verdict;
        assert_eq!(of("pipelined passes"), "met");
        assert_eq!(of("aim: pipelined"), "FALLS SHORT");
        assert_eq!(of("aim: 0.8"), "met");
        assert_eq!(of("1.5 times"), "FALLS SHORT");
        assert_eq!(of("one producer"), "met");
        assert_eq!(of("10 times"), "not measured");
        assert_eq!(of("1, 3, 100"), "not measured");
        let table = results.table();
        assert!(table.contains("pipelined") && table.contains("100,000"), "{table}");
    }

    #[test]
    fn the_spread_counts_from_the_highest() {
        let rows = [("partitions-1", 100.0), ("pipelined", 95.0), ("partitions-100", 90.0)];
        let mut results = Results::default();
        results.rows.extend(rows.map(|(key, rate)| measured(key, &[rate], 1.0)));
        assert_eq!(results.spread(), None);
        results.rows.push(measured("partitions-1000", &[80.0], 1.0));
        assert_eq!(results.spread(), Some(0.2));
    }
}
