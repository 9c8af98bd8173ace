//! Where logs begin, and where they may: what was asked for, what was acknowledged, what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::journal::{Problem, Verdict};
use super::kafka::Connection;
use super::load::Signals;
use super::readback::Log;
use super::topics::{Life, Part, RETENTION_BYTES};
use crate::seed::Seed;

/// What is known of all logs' starts.
#[derive(Clone, Debug, Default)]
pub struct Starts {
    /// Offsets that `DeleteRecords` named, acknowledged or not.
    asked: BTreeMap<Part, BTreeSet<i64>>,
    /// The highest start that was acknowledged or seen.
    known: BTreeMap<Part, i64>,
    /// How often retention and `DeleteRecords` were found to have moved a start.
    pub by_size: u64,
    pub by_request: u64,
}

impl Starts {
    /// A `DeleteRecords` up to `offset` is about to be sent.
    pub fn asks(&mut self, part: Part, offset: i64) {
        self.asked.entry(part).or_default().insert(offset);
    }

    /// The log was said to begin at `offset`: it never begins before that again.
    pub fn saw(&mut self, part: Part, offset: i64) {
        let known = self.known.entry(part).or_default();
        if offset <= *known {
            return;
        }
        *known = offset;
        match part.life() {
            Life::Sized => self.by_size += 1,
            Life::Deleted => self.by_request += 1,
            _ => {}
        }
    }

    /// Whether a log begins where it may.
    pub fn check(&mut self, part: Part, log: &Log, verdict: &mut Verdict) {
        let known = self.known.get(&part).copied().unwrap_or(0);
        if log.start < known {
            let what = format!("{part}: it begins at {}, and began at {known} before", log.start);
            verdict.add(Problem::Wrong(what));
        }
        let is_asked = self.asked.get(&part).is_some_and(|asked| asked.contains(&log.start));
        let kept: u64 = log.batches.iter().map(|batch| batch.bytes).sum();
        let may = log.start == 0
            || match part.life() {
                Life::Sized => kept >= RETENTION_BYTES,
                Life::Deleted => is_asked,
                Life::Whole | Life::Compacted | Life::Brief => false,
            };
        if !may {
            let what = format!("{part}: all before {} was deleted, {kept} bytes kept", log.start);
            verdict.add(Problem::Lost(log.start.abs_diff(known), what));
        }
        self.saw(part, log.start);
    }
}

/// Deletes records at random and looks where logs begin, until the round ends.
pub fn delete_at_random(
    address: &str,
    starts: &mut Starts,
    mut random: Seed,
    signals: &Signals,
) -> Result<()> {
    let mut broker = Connection::open(address)?;
    let sized: Vec<Part> = Part::living(Life::Sized).collect();
    let deleted: Vec<Part> = Part::living(Life::Deleted).collect();
    while !signals.stop.load(Ordering::SeqCst) {
        let part = sized[random.below(sized.len() as u64) as usize];
        starts.saw(part, broker.offset(part.topic(), part.partition(), -2)?);
        let part = deleted[random.below(deleted.len() as u64) as usize];
        let from = broker.offset(part.topic(), part.partition(), -2)?;
        starts.saw(part, from);
        let end = broker.offset(part.topic(), part.partition(), -1)?;
        // Mostly a little, now and then everything.
        let share = if random.one_in(10) { 1 } else { random.between(2, 20) };
        delete_to(&mut broker, starts, part, from + (end - from) / share as i64)?;
        std::thread::sleep(Duration::from_millis(random.between(5, 80)));
    }
    Ok(())
}

/// Deletes the records before `offset`, with its note in `starts`.
///
/// # Errors
/// When the broker refuses, or answers another start than it was asked for.
pub fn delete_to(broker: &mut Connection, starts: &mut Starts, part: Part, offset: i64) -> Result<()> {
    starts.asks(part, offset);
    let low = broker.delete_records(part.topic(), part.partition(), offset)?;
    ensure!(low == offset, "DeleteRecords {part} before {offset}: it begins at {low}");
    starts.saw(part, low);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::batch::ReadBatch;
    use super::*;

    fn verdict(starts: &mut Starts, life: Life, start: i64, bytes: u64) -> (u64, u64) {
        let batch = ReadBatch { next_offset: start + 1, bytes, ..ReadBatch::of(start, vec![]) };
        let log = Log { start, end: start + 1, batches: vec![batch] };
        let mut verdict = Verdict::default();
        let part = Part::living(life).next().unwrap();
        starts.check(part, &log, &mut verdict);
        (verdict.lost, verdict.wrong)
    }

    #[test]
    fn a_start_never_goes_back() {
        for life in [Life::Sized, Life::Deleted] {
            let mut starts = Starts::default();
            let part = Part::living(life).next().unwrap();
            [4, 7].into_iter().for_each(|offset| starts.asks(part, offset));
            assert_eq!(verdict(&mut starts, life, 7, RETENTION_BYTES), (0, 0));
            assert_eq!(verdict(&mut starts, life, 4, RETENTION_BYTES), (0, 1), "{life:?}");
            starts.saw(part, 9);
            assert_eq!(verdict(&mut starts, life, 7, RETENTION_BYTES), (0, 1), "acknowledged, {life:?}");
        }
    }

    #[test]
    fn only_what_was_asked_for_is_deleted() {
        let mut starts = Starts::default();
        starts.asks(Part::living(Life::Deleted).next().unwrap(), 5);
        assert_eq!(verdict(&mut starts, Life::Deleted, 6, 1), (6, 0));
        assert_eq!(verdict(&mut Starts::default(), Life::Sized, 3, RETENTION_BYTES - 1), (3, 0));
        for life in [Life::Whole, Life::Compacted, Life::Brief] {
            assert_eq!(verdict(&mut Starts::default(), life, 1, RETENTION_BYTES), (1, 0), "{life:?}");
        }
    }
}
