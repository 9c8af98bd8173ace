//! What was sent and what was acknowledged, over all rounds, and the check of a broker's logs against it.
//!
//! Every record is made from the run's seed, its producer and its number, so nothing of its bytes needs to be
//! remembered. The check reads each partition from its start to its end and asks:
//! - is each acknowledged batch at the offset that was acknowledged?
//! - is each record one that was sent to that partition, byte for byte, and there only once?
//! - are the offsets dense?
//! - is everything still there that an earlier check has read? (What a consumer has seen is committed, even if
//!   its producer never got the answer.)
//!
//! Where a log may begin is looked after by [`Starts`]; compacted logs have a check of their own ([`compacted`]).

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;

use super::batch::{ReadBatch, Record, Writer};
use super::compacted::{self, Tables};
use super::kafka::Connection;
use super::readback::{Log, read_log};
use super::records::{Id, identify, record_for};
use super::starts::Starts;
use super::topics::Part;

/// Problems that are listed one by one; the rest is only counted.
const LISTED: usize = 12;

/// What a producer knows of a batch it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// No answer, or one that leaves it open: it may be in the log once, or not.
    InDoubt,
    /// Acknowledged with the offset of its first record.
    Acked(i64),
    /// Without an answer, sent only once, and not in the log when it was read after the crash: it must never
    /// come back.
    Gone,
    /// Acknowledged as a duplicate of something older, without an offset.
    AckedSomewhere,
}

/// A batch that was sent, once or (by an idempotent producer) several times.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub part: Part,
    /// The producer's number of the first record.
    pub first: u64,
    pub count: u64,
    /// Its writer as the batch's header names it.
    pub writer: Writer,
    pub fate: Fate,
}

/// All that one producer sent, in that order.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub batches: Vec<Sent>,
    /// Batches that an earlier check has dealt with.
    checked: usize,
}

impl History {
    /// The number of the next record.
    pub fn next_record(&self) -> u64 {
        self.batches.last().map_or(0, |batch| batch.first + batch.count)
    }

    /// How many records were acknowledged.
    pub fn acked_records(&self) -> u64 {
        let acked = |batch: &&Sent| matches!(batch.fate, Fate::Acked(_) | Fate::AckedSomewhere);
        self.batches.iter().filter(acked).map(|batch| batch.count).sum()
    }
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Acknowledged, or seen before, and not (or elsewhere) in the log.
    Lost(u64, String),
    /// In the log twice.
    Duplicate(String),
    /// Not what was sent, or never sent, or not readable.
    Wrong(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(records, what) => write!(f, "LOST {records} records: {what}"),
            Self::Duplicate(what) => write!(f, "DUPLICATE: {what}"),
            Self::Wrong(what) => write!(f, "WRONG: {what}"),
        }
    }
}

/// The outcome of one check.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Records read.
    pub read: u64,
    /// Batches in doubt that turned out to be in the log.
    pub recovered: u64,
    pub lost: u64,
    pub duplicates: u64,
    pub wrong: u64,
    /// The first few problems.
    pub problems: Vec<Problem>,
}

impl Verdict {
    /// True when nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.lost + self.duplicates + self.wrong == 0
    }

    /// Counts a problem.
    pub fn add(&mut self, problem: Problem) {
        match &problem {
            Problem::Lost(records, _) => self.lost += records,
            Problem::Duplicate(_) => self.duplicates += 1,
            Problem::Wrong(_) => self.wrong += 1,
        }
        if self.problems.len() < LISTED {
            self.problems.push(problem);
        }
    }
}

/// All producers' histories, and what the logs held when they were last read.
#[derive(Clone, Debug)]
pub struct Journal {
    seed: u64,
    pub producers: Vec<History>,
    pub starts: Starts,
    pub tables: Tables,
    /// By partition, where it began and who was at each offset from there on.
    seen: BTreeMap<Part, (i64, Vec<Id>)>,
}

impl Journal {
    /// Nothing sent yet.
    pub fn new(seed: u64, producers: usize) -> Self {
        let producers = vec![History::default(); producers];
        let (starts, tables) = (Starts::default(), Tables::default());
        Self { seed, producers, starts, tables, seen: BTreeMap::new() }
    }

    /// Records acknowledged so far.
    pub fn acked_records(&self) -> u64 {
        self.producers.iter().map(History::acked_records).sum()
    }

    /// Batches in doubt that were sent since the last check.
    pub fn in_doubt(&self) -> u64 {
        let batches = self.producers.iter().flat_map(|history| &history.batches[history.checked..]);
        batches.filter(|batch| batch.fate == Fate::InDoubt).count() as u64
    }

    /// Reads every partition and compares.
    pub fn verify(&mut self, broker: &mut Connection) -> Verdict {
        let logs = Part::all().map(|part| (part, read_log(broker, part)));
        let logs: Vec<(Part, Result<Log>)> = logs.collect();
        self.check(logs)
    }

    fn check(&mut self, logs: Vec<(Part, Result<Log>)>) -> Verdict {
        let mut verdict = Verdict::default();
        let mut found: Vec<Vec<Option<i64>>> =
            self.producers.iter().map(|history| vec![None; history.batches.len()]).collect();
        let mut starts = BTreeMap::new();
        for (part, log) in logs {
            let log = match log {
                Ok(log) => log,
                Err(error) => {
                    verdict.add(Problem::Wrong(format!("{part} cannot be read: {error:#}")));
                    continue;
                }
            };
            starts.insert(part, log.start);
            self.starts.check(part, &log, &mut verdict);
            if part.life().is_compacted() {
                let (seed, producers, tables) = (self.seed, &self.producers, &mut self.tables);
                compacted::check(part, &log, seed, producers, tables, &mut verdict);
                continue;
            }
            let ids = self.check_log(part, &log, &mut found, &mut verdict);
            self.check_seen(part, &log, &ids, &mut verdict);
            let from = log.batches.first().map_or(log.start, |batch| batch.base_offset);
            self.seen.insert(part, (from, ids));
        }
        self.check_acked(&found, &starts, &mut verdict);
        self.settle(&found, &starts);
        verdict
    }

    /// What a plain producer sent and is not in the log now must stay away.
    fn settle(&mut self, found: &[Vec<Option<i64>>], starts: &BTreeMap<Part, i64>) {
        for (history, found) in self.producers.iter_mut().zip(found) {
            for (sent, found) in history.batches.iter_mut().zip(found).skip(history.checked) {
                // What is not in a compacted log may have been there.
                let read = starts.contains_key(&sent.part) && !sent.part.life().is_compacted();
                if read && sent.fate == Fate::InDoubt && sent.writer == Writer::PLAIN && found.is_none() {
                    sent.fate = Fate::Gone;
                }
            }
            history.checked = history.batches.len();
        }
    }

    /// Each record is one that was sent here, once. Returns who is at each offset.
    fn check_log(
        &self,
        part: Part,
        log: &Log,
        found: &mut [Vec<Option<i64>>],
        verdict: &mut Verdict,
    ) -> Vec<Id> {
        let mut ids = Vec::new();
        // Deleted records may be a part of the first batch.
        let mut next = log.batches.first().map_or(log.start, |batch| batch.base_offset.min(log.start));
        for batch in &log.batches {
            let at = batch.base_offset;
            if at != next || !batch.is_whole() {
                verdict.add(Problem::Wrong(format!("{part}: offset {next} expected, {at} found")));
            }
            next = batch.next_offset;
            verdict.read += batch.records.len() as u64;
            let Some((producer, index)) = self.find(batch) else {
                verdict.add(Problem::Wrong(format!("{part}@{at}: records that nobody sent")));
                continue;
            };
            let sent = &self.producers[producer].batches[index];
            let same =
                |(n, record): (u64, &Record)| *record == record_for(self.seed, producer, sent.first + n);
            if sent.part != part || sent.count != batch.records.len() as u64 || sent.writer != batch.writer {
                verdict
                    .add(Problem::Wrong(format!("{part}@{at}: {sent:?} was sent, {:?} read", batch.writer)));
            } else if !(0..).zip(&batch.records).all(same) {
                verdict
                    .add(Problem::Wrong(format!("{part}@{at}: other bytes than producer {producer} sent")));
            }
            if let Some(before) = found[producer][index].replace(at) {
                let what = format!("{part}: producer {producer}'s {sent:?} at {before} and at {at}");
                verdict.add(Problem::Duplicate(what));
            } else if sent.fate == Fate::InDoubt && index >= self.producers[producer].checked {
                verdict.recovered += 1;
            } else if sent.fate == Fate::Gone {
                let what = format!("{part}@{at}: producer {producer}'s {sent:?} has come back");
                verdict.add(Problem::Wrong(what));
            }
            ids.extend((sent.first..sent.first + sent.count).map(|record| (producer, record)));
        }
        if next != log.end {
            verdict.add(Problem::Wrong(format!("{part}: read to {next}, but the log ends at {}", log.end)));
        }
        ids
    }

    /// Nothing has gone that was there to be read before.
    fn check_seen(&self, part: Part, log: &Log, ids: &[Id], verdict: &mut Verdict) {
        let Some((began, before)) = self.seen.get(&part) else { return };
        let from = log.batches.first().map_or(log.start, |batch| batch.base_offset).max(*began);
        let behind = |first: i64, ids: &[Id]| {
            ids.iter().skip(usize::try_from(from - first).unwrap_or(0)).copied().collect::<Vec<_>>()
        };
        let before = behind(*began, before);
        let now = behind(log.batches.first().map_or(from, |batch| batch.base_offset), ids);
        if !now.starts_with(&before) {
            let same = before.iter().zip(&now).take_while(|(a, b)| a == b).count();
            let gone = (before.len() - same) as u64;
            let what =
                format!("{part}: read before, and gone or changed from offset {} on", from + same as i64);
            verdict.add(Problem::Lost(gone, what));
        }
    }

    /// Every acknowledged batch is where it was acknowledged.
    fn check_acked(&self, found: &[Vec<Option<i64>>], starts: &BTreeMap<Part, i64>, verdict: &mut Verdict) {
        for (producer, history) in self.producers.iter().enumerate() {
            let batches = history.batches.iter().zip(&found[producer]);
            for (sent, found) in batches.filter(|(sent, _)| !sent.part.life().is_compacted()) {
                let start = starts.get(&sent.part).copied().unwrap_or(0);
                let right = match sent.fate {
                    Fate::InDoubt | Fate::Gone => true,
                    Fate::Acked(offset) => *found == Some(offset) || offset + sent.count as i64 <= start,
                    Fate::AckedSomewhere => found.is_some() || start > 0,
                };
                if !right {
                    let what = match found {
                        None => format!("producer {producer}: {sent:?} is not in the log"),
                        Some(at) => format!("producer {producer}: {sent:?} is at {at}"),
                    };
                    verdict.add(Problem::Lost(sent.count, what));
                }
            }
        }
    }

    /// Whose batch this is: by the name in its first record.
    fn find(&self, batch: &ReadBatch) -> Option<(usize, usize)> {
        let (producer, record) = identify(batch.records.first()?)?;
        let batches = &self.producers.get(producer)?.batches;
        let index = batches.binary_search_by_key(&record, |sent| sent.first).ok()?;
        Some((producer, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 11;

    fn journal() -> Journal {
        let mut journal = Journal::new(SEED, 1);
        for (n, fate) in [Fate::Acked(0), Fate::Acked(2), Fate::InDoubt].into_iter().enumerate() {
            let (first, count, writer) = (n as u64 * 2, 2, Writer::PLAIN);
            journal.producers[0].batches.push(Sent { part: Part(0), first, count, writer, fate });
        }
        journal
    }

    fn batch(base_offset: i64, first: u64) -> ReadBatch {
        ReadBatch::of(base_offset, (first..first + 2).map(|n| record_for(SEED, 0, n)).collect())
    }

    fn check(journal: &mut Journal, batches: Vec<ReadBatch>) -> Verdict {
        let end = batches.last().map_or(0, |batch| batch.base_offset + 2);
        journal.check(vec![(Part(0), Ok(Log { start: 0, end, batches }))])
    }

    #[test]
    fn a_log_with_all_that_was_acknowledged_is_good() {
        assert!(check(&mut journal(), vec![batch(0, 0), batch(2, 2)]).is_good());
        let verdict = check(&mut journal(), vec![batch(0, 0), batch(2, 2), batch(4, 4)]);
        assert!(verdict.is_good());
        assert_eq!((verdict.read, verdict.recovered), (6, 1));
    }

    #[test]
    fn what_was_acknowledged_and_is_gone_or_moved_is_lost() {
        assert_eq!(check(&mut journal(), vec![batch(0, 0)]).lost, 2);
        assert_eq!(check(&mut journal(), vec![batch(0, 2), batch(2, 0)]).lost, 4);
        assert_eq!(check(&mut journal(), vec![]).lost, 4);
    }

    #[test]
    fn what_was_read_once_must_stay() {
        let mut journal = journal();
        assert!(check(&mut journal, vec![batch(0, 0), batch(2, 2), batch(4, 4)]).is_good());
        assert_eq!(check(&mut journal, vec![batch(0, 0), batch(2, 2)]).lost, 2);
    }

    #[test]
    fn duplicates_gaps_changed_and_foreign_records_are_noticed() {
        assert_eq!(check(&mut journal(), vec![batch(0, 0), batch(2, 2), batch(4, 2)]).duplicates, 1);
        assert_eq!(check(&mut journal(), vec![batch(0, 0), batch(3, 2)]).wrong, 1);
        assert_eq!(check(&mut journal(), vec![batch(0, 0), batch(2, 2), batch(4, 8)]).wrong, 1);
        let mut changed = batch(2, 2);
        changed.records[1].value.as_mut().unwrap().push(0);
        assert_eq!(check(&mut journal(), vec![batch(0, 0), changed]).wrong, 1);
    }

    #[test]
    fn what_was_cut_must_not_come_back() {
        let mut journal = journal();
        assert!(check(&mut journal, vec![batch(0, 0), batch(2, 2)]).is_good());
        assert_eq!(check(&mut journal, vec![batch(0, 0), batch(2, 2), batch(4, 4)]).wrong, 1);
    }

    #[test]
    fn a_log_that_cannot_be_read_is_wrong_and_its_records_lost() {
        let verdict = journal().check(vec![(Part(0), Err(anyhow::anyhow!("error 3")))]);
        assert_eq!((verdict.wrong, verdict.lost), (1, 4));
    }
}
