//! Reads a topic back and holds it against a run's ledger, record by record.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chronik_client::{Client, Position, batches};
use serde::{Deserialize, Serialize};

use super::ledger::{Fate, Ledger};
use super::record::Maker;
use super::retry::connect;

/// Problems that are told one by one; the others are only counted.
const LISTED: usize = 12;
const FETCH_BYTES: i32 = 4 << 20;

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Records read, whoever wrote them.
    pub read: u64,
    pub acknowledged: u64,
    /// Acknowledged, and not at their offset with their bytes.
    pub lost: u64,
    /// Written more than once, which a retry explains.
    pub duplicates: u64,
    /// Written more often than retries explain.
    pub unexplained_duplicates: u64,
    /// Given up with an attempt unanswered, and written.
    pub unknown_written: u64,
    /// Refused at every attempt, and written all the same.
    pub refused_written: u64,
    /// Never sent, in the wrong partition, or other bytes than were sent.
    pub wrong: u64,
    /// Records of other runs.
    pub foreign: u64,
    /// Offsets that are missing.
    pub gaps: u64,
    /// The first problems, in words.
    pub problems: Vec<String>,
}

impl Verdict {
    /// Nothing acknowledged is lost, and nothing is there that should not be.
    pub fn is_good(&self) -> bool {
        self.lost + self.unexplained_duplicates + self.refused_written + self.wrong + self.gaps == 0
    }

    fn problem(&mut self, what: String) {
        if self.problems.len() < LISTED {
            self.problems.push(what);
        }
    }
}

/// Takes the records of a topic one after the other, each partition in order of its offsets.
pub struct Checker<'a> {
    ledger: &'a Ledger,
    maker: Maker,
    /// How often each record was read.
    times: Vec<u32>,
    /// Whether it was read where it was acknowledged.
    in_place: Vec<bool>,
    verdict: Verdict,
}

impl<'a> Checker<'a> {
    pub fn new(ledger: &'a Ledger) -> Checker<'a> {
        let records = ledger.entries.len();
        Checker {
            ledger,
            maker: Maker::new(&ledger.head.run, ledger.head.value_bytes),
            times: vec![0; records],
            in_place: vec![false; records],
            verdict: Verdict::default(),
        }
    }

    /// One record as it was read.
    pub fn record(&mut self, partition: i32, offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.verdict.read += 1;
        let Some(number) = key.and_then(|key| self.maker.number(key)) else {
            self.verdict.foreign += 1;
            return;
        };
        let Some(entry) = self.ledger.entries.get(number as usize) else {
            self.verdict.wrong += 1;
            self.verdict.problem(format!("{partition}@{offset}: record {number} was never sent"));
            return;
        };
        if entry.fate == Fate::NotSent || self.ledger.partition(number) != partition {
            self.verdict.wrong += 1;
            self.verdict.problem(format!("{partition}@{offset}: record {number} was not sent there"));
            return;
        }
        if value != Some(self.maker.value(number).as_slice()) {
            self.verdict.wrong += 1;
            self.verdict
                .problem(format!("{partition}@{offset}: record {number} has other bytes than were sent"));
            return;
        }
        self.times[number as usize] += 1;
        if entry.fate == Fate::Acknowledged(offset) {
            self.in_place[number as usize] = true;
        }
    }

    /// Offsets between records that hold nothing.
    pub fn gap(&mut self, partition: i32, from: i64, to: i64) {
        self.verdict.gaps += to.saturating_sub(from).unsigned_abs();
        self.verdict.problem(format!("partition {partition}: nothing at the offsets {from} to {}", to - 1));
    }

    /// When everything has been read.
    pub fn finish(mut self) -> Verdict {
        for (number, entry) in self.ledger.entries.iter().enumerate() {
            let (times, in_place) = (self.times[number], self.in_place[number]);
            let partition = self.ledger.partition(number as u64);
            let may_be_there = match entry.fate {
                Fate::Acknowledged(offset) => {
                    self.verdict.acknowledged += 1;
                    if !in_place {
                        self.verdict.lost += 1;
                        self.verdict.problem(format!(
                            "record {number}, acknowledged at {partition}@{offset}, is not there"
                        ));
                    }
                    1 + entry.in_doubt
                }
                Fate::Unknown => {
                    self.verdict.unknown_written += u64::from(times > 0);
                    entry.in_doubt
                }
                Fate::Failed | Fate::NotSent => {
                    if times > 0 {
                        self.verdict.refused_written += 1;
                        self.verdict.problem(format!("record {number} was refused, and is there"));
                    }
                    continue;
                }
            };
            if times > may_be_there {
                self.verdict.unexplained_duplicates += u64::from(times - may_be_there);
                self.verdict.problem(format!(
                    "record {number} is there {times} times; {may_be_there} can be explained"
                ));
            }
            self.verdict.duplicates += u64::from(times.min(may_be_there).saturating_sub(1));
        }
        self.verdict
    }
}

/// Reads the whole topic of `ledger` and compares.
///
/// # Errors
/// If it cannot be read to its end. What is wrong with what was read is told by the verdict.
pub async fn verify(bootstrap: &str, ledger: &Ledger, timeout: Duration) -> Result<Verdict> {
    let mut client = connect(bootstrap, timeout).await?;
    let topic = &ledger.head.topic;
    let mut checker = Checker::new(ledger);
    for partition in 0..ledger.head.partitions {
        read(&mut client, topic, partition, &mut checker)
            .await
            .with_context(|| format!("reading {topic}-{partition}"))?;
    }
    Ok(checker.finish())
}

async fn read(client: &mut Client, topic: &str, partition: i32, checker: &mut Checker<'_>) -> Result<()> {
    let start = client.list_offset(topic, partition, Position::Earliest).await?;
    let end = client.list_offset(topic, partition, Position::Latest).await?;
    if start > 0 {
        checker.gap(partition, 0, start);
    }
    let mut next = start;
    while next < end {
        let before = next;
        let fetched = client.fetch(topic, partition, next, FETCH_BYTES, 1000).await?;
        for batch in batches(fetched.records) {
            let batch = batch?;
            for record in batch.records()? {
                // A fetch may begin with a batch that begins before the offset asked for.
                if record.offset < next {
                    continue;
                }
                if record.offset > next {
                    checker.gap(partition, next, record.offset);
                }
                checker.record(partition, record.offset, record.key.as_deref(), record.value.as_deref());
                next = record.offset + 1;
            }
        }
        ensure!(next > before, "nothing to read at {next}, though the log ends at {end}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Entry;
    use super::*;

    /// Records 0 and 1 acknowledged at offset 0 of their partitions, 2 in doubt, 3 refused, 4 not sent.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.head.run = "r".to_owned();
        ledger.head.partitions = 2;
        ledger.head.value_bytes = 40;
        let fates = [
            (Fate::Acknowledged(0), 0),
            (Fate::Acknowledged(0), 1),
            (Fate::Unknown, 1),
            (Fate::Failed, 0),
            (Fate::NotSent, 0),
        ];
        ledger.entries =
            fates.map(|(fate, in_doubt)| Entry { due_us: 0, settled_us: 0, in_doubt, fate }).to_vec();
        ledger
    }

    /// The verdict on a topic with these (partition, offset, record number).
    fn judge(records: &[(i32, i64, u64)]) -> Verdict {
        let ledger = ledger();
        let maker = Maker::new("r", 40);
        let mut checker = Checker::new(&ledger);
        for (partition, offset, number) in records {
            let (key, value) = (maker.key(*number), maker.value(*number));
            checker.record(*partition, *offset, Some(key.as_bytes()), Some(&value));
        }
        checker.finish()
    }

    const GOOD: [(i32, i64, u64); 2] = [(0, 0, 0), (1, 0, 1)];

    #[test]
    fn all_that_was_acknowledged_in_its_place_is_good() {
        let verdict = judge(&GOOD);
        assert!(verdict.is_good(), "{verdict:?}");
        assert_eq!((verdict.read, verdict.acknowledged), (2, 2));
        let verdict = judge(&[GOOD.as_slice(), &[(0, 1, 2)]].concat());
        assert!(verdict.is_good(), "{verdict:?}");
        assert_eq!(verdict.unknown_written, 1);
    }

    #[test]
    fn what_was_acknowledged_and_is_missing_or_elsewhere_is_lost() {
        assert_eq!(judge(&[(0, 0, 0)]).lost, 1);
        assert_eq!(judge(&[(0, 0, 0), (1, 1, 1)]).lost, 1);
        assert_eq!(judge(&[]).lost, 2);
        assert!(!judge(&[]).is_good());
    }

    #[test]
    fn duplicates_are_excused_by_unanswered_attempts_alone() {
        let explained = judge(&[GOOD.as_slice(), &[(1, 1, 1)]].concat());
        assert!(explained.is_good());
        assert_eq!((explained.duplicates, explained.unexplained_duplicates), (1, 0));
        let twice = judge(&[GOOD.as_slice(), &[(0, 1, 0)]].concat());
        assert_eq!((twice.duplicates, twice.unexplained_duplicates), (0, 1));
        let thrice = judge(&[GOOD.as_slice(), &[(1, 1, 1), (1, 2, 1)]].concat());
        assert_eq!((thrice.duplicates, thrice.unexplained_duplicates), (1, 1));
        assert!(!twice.is_good() && !thrice.is_good());
        let unknown = judge(&[GOOD.as_slice(), &[(0, 1, 2), (0, 2, 2)]].concat());
        assert_eq!(unknown.unexplained_duplicates, 1);
    }

    #[test]
    fn what_was_refused_or_never_sent_must_not_be_there() {
        let refused = judge(&[GOOD.as_slice(), &[(1, 1, 3)]].concat());
        assert_eq!(refused.refused_written, 1);
        let not_sent = judge(&[GOOD.as_slice(), &[(0, 1, 4)]].concat());
        assert_eq!(not_sent.wrong, 1);
        let never = judge(&[GOOD.as_slice(), &[(0, 1, 99)]].concat());
        assert_eq!(never.wrong, 1);
        let elsewhere = judge(&[GOOD.as_slice(), &[(1, 1, 0)]].concat());
        assert_eq!(elsewhere.wrong, 1);
        assert!(!refused.is_good() && !not_sent.is_good() && !never.is_good() && !elsewhere.is_good());
    }

    #[test]
    fn changed_bytes_and_gaps_are_noticed_and_other_runs_are_let_be() {
        let ledger = ledger();
        let maker = Maker::new("r", 40);
        let mut checker = Checker::new(&ledger);
        let mut value = maker.value(0);
        value[0] ^= 1;
        checker.record(0, 0, Some(maker.key(0).as_bytes()), Some(&value));
        checker.record(1, 0, Some(maker.key(1).as_bytes()), None);
        checker.record(1, 1, Some(b"other/1"), Some(b""));
        checker.record(1, 2, None, None);
        checker.gap(1, 3, 5);
        let verdict = checker.finish();
        assert_eq!((verdict.wrong, verdict.lost, verdict.foreign, verdict.gaps), (2, 2, 2, 2));
        assert!(!verdict.problems.is_empty());
    }
}
