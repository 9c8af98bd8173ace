//! The ledger: what became of every record of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// What became of a record, as its producer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Acknowledged, at this offset.
    Acknowledged(i64),
    /// Given up, and every attempt was refused: it must not be in the log.
    Failed,
    /// Given up, and an attempt was left without an answer: it may be in the log.
    Unknown,
    /// Never sent: too many records were waiting already.
    NotSent,
}

/// A record's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When the clock said that it was to be sent, in microseconds of the run.
    pub due_us: u64,
    /// When its fate was known.
    pub settled_us: u64,
    /// Attempts that may each have written it, beside the one that was acknowledged.
    pub in_doubt: u32,
    pub fate: Fate,
}

/// An error that clients saw, by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub retriable: bool,
    /// Requests that ended so.
    pub count: u64,
}

/// What identifies a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub run: String,
    pub topic: String,
    pub partitions: i32,
    pub value_bytes: usize,
    pub acks: String,
    pub rate: u64,
    /// When the last record was settled, in microseconds of the run.
    pub ended_us: u64,
    pub retries: u64,
    pub reconnects: u64,
    pub errors: BTreeMap<String, Seen>,
}

/// All records of a run, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub head: Head,
    pub entries: Vec<Entry>,
}

impl Ledger {
    /// The partition that a record goes to.
    pub fn partition(&self, number: u64) -> i32 {
        (number % self.head.partitions.max(1) as u64) as i32
    }

    /// Writes the ledger: a line of JSON, then a line for each record.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string(&self.head)?;
        text.push('\n');
        for entry in &self.entries {
            let (fate, offset) = match entry.fate {
                Fate::Acknowledged(offset) => ("acknowledged", offset),
                Fate::Failed => ("failed", -1),
                Fate::Unknown => ("unknown", -1),
                Fate::NotSent => ("not-sent", -1),
            };
            writeln!(text, "{} {} {} {fate} {offset}", entry.due_us, entry.settled_us, entry.in_doubt)?;
        }
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads what [`write`](Self::write) wrote.
    pub fn read(path: &Path) -> Result<Ledger> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut lines = text.lines();
        let head = serde_json::from_str(lines.next().context("an empty ledger")?)?;
        let entries = lines
            .enumerate()
            .map(|(n, line)| entry(line).with_context(|| format!("line {}: {line:?}", n + 2)))
            .collect::<Result<_>>()?;
        Ok(Ledger { head, entries })
    }

    /// The longest time without an acknowledgement in microseconds, from the first moment that a record was due to the
    /// end of the run.
    pub fn longest_silence_us(&self) -> u64 {
        let acknowledged = |entry: &&Entry| matches!(entry.fate, Fate::Acknowledged(_));
        let mut times: Vec<u64> =
            self.entries.iter().filter(acknowledged).map(|entry| entry.settled_us).collect();
        times.push(self.entries.first().map_or(0, |entry| entry.due_us));
        times.push(self.head.ended_us);
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// The time from due to acknowledged that `share` (0 to 1) of the acknowledged records did not exceed.
    pub fn latency_us(&self, share: f64) -> u64 {
        let acknowledged = |entry: &&Entry| matches!(entry.fate, Fate::Acknowledged(_));
        let mut times: Vec<u64> = self
            .entries
            .iter()
            .filter(acknowledged)
            .map(|entry| entry.settled_us.saturating_sub(entry.due_us))
            .collect();
        times.sort_unstable();
        let at = (times.len() as f64 * share) as usize;
        times.get(at.min(times.len().saturating_sub(1))).copied().unwrap_or(0)
    }
}

fn entry(line: &str) -> Result<Entry> {
    let fields: Vec<&str> = line.split(' ').collect();
    ensure!(fields.len() == 5, "not five fields");
    let fate = match fields[3] {
        "acknowledged" => Fate::Acknowledged(fields[4].parse()?),
        "failed" => Fate::Failed,
        "unknown" => Fate::Unknown,
        "not-sent" => Fate::NotSent,
        other => anyhow::bail!("unknown fate {other:?}"),
    };
    let (due_us, settled_us, in_doubt) = (fields[0].parse()?, fields[1].parse()?, fields[2].parse()?);
    Ok(Entry { due_us, settled_us, in_doubt, fate })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry_at(due_us: u64, settled_us: u64, fate: Fate) -> Entry {
        Entry { due_us, settled_us, in_doubt: 0, fate }
    }

    #[test]
    fn a_ledger_is_read_as_it_was_written() {
        let mut ledger = Ledger::default();
        ledger.head.run = "r".to_owned();
        ledger.head.partitions = 3;
        ledger.head.errors.insert("no leader".to_owned(), Seen { retriable: true, count: 4 });
        ledger.entries.push(entry_at(1, 9, Fate::Acknowledged(7)));
        ledger.entries.push(Entry { due_us: 2, settled_us: 3, in_doubt: 2, fate: Fate::Unknown });
        ledger.entries.push(entry_at(3, 4, Fate::Failed));
        ledger.entries.push(entry_at(5, 5, Fate::NotSent));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        ledger.write(&path).unwrap();
        assert_eq!(Ledger::read(&path).unwrap(), ledger);
        assert_eq!((ledger.partition(0), ledger.partition(5)), (0, 2));
    }

    #[test]
    fn a_damaged_ledger_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        Ledger::default().write(&path).unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("1 2 0 acknowledged\n");
        std::fs::write(&path, text).unwrap();
        assert!(Ledger::read(&path).is_err());
    }

    #[test]
    fn the_longest_silence_may_lie_at_the_begin_in_the_middle_or_at_the_end() {
        let mut ledger = Ledger::default();
        ledger.head.ended_us = 100;
        ledger.entries = [10, 20, 60, 70].map(|at| entry_at(0, at, Fate::Acknowledged(0))).to_vec();
        assert_eq!(ledger.longest_silence_us(), 40);
        ledger.entries[3].fate = Fate::Unknown;
        assert_eq!(ledger.longest_silence_us(), 40);
        ledger.head.ended_us = 200;
        assert_eq!(ledger.longest_silence_us(), 140);
        ledger.entries.clear();
        assert_eq!(ledger.longest_silence_us(), 200);
    }

    #[test]
    fn latencies_are_of_the_acknowledged() {
        let entries = (0..100).map(|n| entry_at(n, n + n, Fate::Acknowledged(0))).collect();
        let mut ledger = Ledger { entries, ..Ledger::default() };
        ledger.entries.push(entry_at(0, 1_000_000, Fate::Failed));
        assert_eq!((ledger.latency_us(0.5), ledger.latency_us(0.99), ledger.latency_us(1.0)), (50, 99, 99));
    }
}
