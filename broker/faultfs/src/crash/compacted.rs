//! The check of compacted logs: whatever passes of the cleaner did, a reader from the beginning ends with the newest record
//! of each key, and what is left is where and what it was.

use std::collections::{BTreeMap, BTreeSet};

use super::journal::{Fate, History, Problem, Sent, Verdict};
use super::readback::Log;
use super::records::{identify, key_of, record_for};
use super::topics::{Life, Part};

/// The newest record of a key that must be found, or a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Newest {
    offset: i64,
    is_tombstone: bool,
}

/// What earlier checks have found.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// What a reader ended with.
    newest: BTreeMap<(Part, Vec<u8>), Newest>,
    /// The base offset of each batch, by its producer and its place in the history, of which a record was read.
    placed: BTreeMap<(usize, usize), i64>,
    /// Keys whose tombstone had gone, as it may.
    pub tombstones_gone: u64,
}

/// Checks one partition's log, and notes it.
pub fn check(
    part: Part,
    log: &Log,
    seed: u64,
    producers: &[History],
    tables: &mut Tables,
    verdict: &mut Verdict,
) {
    let mut found: BTreeMap<Vec<u8>, Newest> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    let mut next = log.start;
    for batch in &log.batches {
        let base = batch.base_offset;
        if base < next {
            verdict.add(Problem::Wrong(format!("{part}: offset {base} behind offset {next}")));
        }
        next = batch.next_offset;
        verdict.read += batch.records.len() as u64;
        for (delta, record) in batch.deltas.iter().zip(&batch.records) {
            let at = base + delta;
            let known = identify(record).and_then(|id| Some((id, find(producers, id)?)));
            let Some((id, (index, sent))) = known else {
                verdict.add(Problem::Wrong(format!("{part}@{at}: a record that nobody sent")));
                continue;
            };
            if sent.part != part || sent.writer != batch.writer {
                let what = format!("{part}@{at}: {sent:?} was sent, {:?} read", batch.writer);
                verdict.add(Problem::Wrong(what));
            }
            if *record != record_for(seed, id.0, id.1) {
                verdict.add(Problem::Wrong(format!("{part}@{at}: other bytes than were sent")));
            }
            if !ids.insert(id) {
                verdict.add(Problem::Duplicate(format!("{part}@{at}: record {id:?} once more")));
            }
            let began = at - (id.1 - sent.first) as i64;
            let before = tables.placed.insert((id.0, index), began);
            if before.is_none() && sent.fate == Fate::InDoubt {
                verdict.recovered += 1;
            }
            let acked = if let Fate::Acked(offset) = sent.fate { Some(offset) } else { None };
            if let Some(elsewhere) = acked.or(before).filter(|offset| *offset != began) {
                let what = format!("{part}: {sent:?} was at {elsewhere}, and is at {began}");
                verdict.add(Problem::Lost(1, what));
            }
            let key = record.key.clone().unwrap_or_default();
            found.insert(key, Newest { offset: at, is_tombstone: record.value.is_none() });
        }
    }
    if next != log.end {
        verdict.add(Problem::Wrong(format!("{part}: read to {next}, but the log ends at {}", log.end)));
    }
    let (wanted, doubtful) = wanted(part, seed, producers, tables);
    for (key, newest) in wanted {
        let name = String::from_utf8_lossy(&key).into_owned();
        let may_be_gone = part.life() == Life::Brief && (newest.is_tombstone || doubtful.contains(&key));
        match found.get(&key) {
            Some(now) if now.offset >= newest.offset => {}
            None if may_be_gone => tables.tombstones_gone += 1,
            now => {
                let what = format!("{part}: {name} ends with {now:?}, its newest was {newest:?}");
                verdict.add(Problem::Lost(1, what));
            }
        }
    }
    for (key, now) in found {
        let newest = tables.newest.entry((part, key)).or_insert(now);
        *newest = now.max(*newest);
    }
}

/// The newest record of each key that was acknowledged or read before; and the keys that a tombstone was sent for whose
/// place is not known.
fn wanted(
    part: Part,
    seed: u64,
    producers: &[History],
    tables: &Tables,
) -> (BTreeMap<Vec<u8>, Newest>, BTreeSet<Vec<u8>>) {
    let before = tables.newest.iter().filter(|((at, _), _)| *at == part);
    let mut wanted: BTreeMap<Vec<u8>, Newest> = before.map(|((_, key), n)| (key.clone(), *n)).collect();
    let mut doubtful = BTreeSet::new();
    for (producer, history) in producers.iter().enumerate() {
        for sent in history.batches.iter().filter(|sent| sent.part == part) {
            for n in 0..sent.count {
                let (key, is_tombstone) = key_of(seed, producer, sent.first + n);
                if let Fate::Acked(base) = sent.fate {
                    let this = Newest { offset: base + n as i64, is_tombstone };
                    let newest = wanted.entry(key).or_insert(this);
                    *newest = this.max(*newest);
                } else if is_tombstone {
                    doubtful.insert(key);
                }
            }
        }
    }
    (wanted, doubtful)
}

/// The batch that a record was sent in.
fn find(producers: &[History], (producer, record): (usize, u64)) -> Option<(usize, Sent)> {
    let batches = &producers.get(producer)?.batches;
    let index = batches.partition_point(|sent| sent.first <= record).checked_sub(1)?;
    let sent = batches[index];
    (record < sent.first + sent.count).then_some((index, sent))
}

#[cfg(test)]
mod tests {
    use super::super::batch::{ReadBatch, Writer};
    use super::super::load::KINDS;
    use super::*;

    const SEED: u64 = 5;
    const BATCHES: u64 = 40;

    fn keyed() -> usize {
        KINDS.iter().position(|kind| kind.is_keyed()).unwrap()
    }

    /// One record a batch, all acknowledged: record n at offset n.
    fn histories(part: Part) -> Vec<History> {
        let mut histories = vec![History::default(); KINDS.len()];
        for n in 0..BATCHES {
            let (count, writer, fate) = (1, Writer::PLAIN, Fate::Acked(n as i64));
            histories[keyed()].batches.push(Sent { part, first: n, count, writer, fate });
        }
        histories
    }

    fn batch(n: u64) -> ReadBatch {
        ReadBatch::of(n as i64, vec![record_for(SEED, keyed(), n)])
    }

    /// What perfect compaction leaves.
    fn newest() -> Vec<ReadBatch> {
        let key = |n: u64| key_of(SEED, keyed(), n).0;
        let is_newest = |n: &u64| (n + 1..BATCHES).all(|later| key(later) != key(*n));
        (0..BATCHES).filter(is_newest).map(batch).collect()
    }

    fn part(life: Life) -> Part {
        Part::living(life).next().unwrap()
    }

    fn check_with(life: Life, tables: &mut Tables, batches: Vec<ReadBatch>) -> Verdict {
        let mut verdict = Verdict::default();
        let log = Log { start: 0, end: BATCHES as i64, batches };
        check(part(life), &log, SEED, &histories(part(life)), tables, &mut verdict);
        verdict
    }

    fn check_once(life: Life, batches: Vec<ReadBatch>) -> Verdict {
        check_with(life, &mut Tables::default(), batches)
    }

    /// The place of the first newest record that is a tombstone, or not; never the very last.
    fn place(is_tombstone: bool) -> usize {
        let all = newest();
        all.iter().position(|b| b.records[0].value.is_none() == is_tombstone).unwrap()
    }

    #[test]
    fn what_compaction_may_do_is_good() {
        assert!(check_once(Life::Compacted, (0..BATCHES).map(batch).collect()).is_good());
        assert!(check_once(Life::Compacted, newest()).is_good());
        let mut without = newest();
        without.remove(place(true));
        let mut tables = Tables::default();
        assert!(check_with(Life::Brief, &mut tables, without).is_good(), "its time may have come");
        assert_eq!(tables.tombstones_gone, 1);
    }

    #[test]
    fn a_newest_record_that_is_gone_is_lost() {
        for (life, is_tombstone) in [(Life::Compacted, false), (Life::Compacted, true), (Life::Brief, false)]
        {
            let mut without = newest();
            without.remove(place(is_tombstone));
            assert_eq!(check_once(life, without).lost, 1, "{life:?}, tombstone: {is_tombstone}");
        }
    }

    #[test]
    fn an_older_record_that_comes_back_is_noticed() {
        let all = newest();
        let key = |n: i64| key_of(SEED, keyed(), n as u64).0;
        let (at, older) = all
            .iter()
            .enumerate()
            .find_map(|(at, b)| Some((at, (0..b.base_offset).find(|n| key(*n) == key(b.base_offset))?)))
            .unwrap();
        let mut batches = newest();
        batches.remove(at);
        batches.push(batch(older as u64));
        batches.sort_by_key(|b| b.base_offset);
        for life in [Life::Compacted, Life::Brief] {
            let again = batches.iter().map(|b| batch(b.base_offset as u64)).collect();
            assert_eq!(check_once(life, again).lost, 1, "{life:?}");
        }
    }

    #[test]
    fn what_a_reader_ended_with_must_stay() {
        let mut tables = Tables::default();
        let mut doubtful = histories(part(Life::Compacted));
        doubtful[keyed()].batches.iter_mut().for_each(|sent| sent.fate = Fate::InDoubt);
        let log = |batches| Log { start: 0, end: BATCHES as i64, batches };
        let mut verdict = Verdict::default();
        check(part(Life::Compacted), &log(newest()), SEED, &doubtful, &mut tables, &mut verdict);
        assert!(verdict.is_good() && verdict.recovered > 0);
        let mut without = newest();
        without.remove(0);
        check(part(Life::Compacted), &log(without), SEED, &doubtful, &mut tables, &mut verdict);
        assert_eq!(verdict.lost, 1);
    }

    #[test]
    fn moved_doubled_changed_and_foreign_records_are_noticed() {
        let altered = |alter: &dyn Fn(&mut Vec<ReadBatch>)| {
            let mut batches = newest();
            alter(&mut batches);
            check_once(Life::Compacted, batches)
        };
        let moved = altered(&|b| b[0].base_offset -= 1);
        assert!(moved.lost > 0);
        let twice = altered(&|b| {
            let again = b[1].records[0].clone();
            b[1].records.push(again);
            b[1].deltas.push(1);
        });
        assert_eq!(twice.duplicates, 1);
        assert_eq!(altered(&|b| b[0].records[0].headers.truncate(1)).wrong, 1);
        assert_eq!(altered(&|b| b[0].records[0].headers[0].1[0] = 99).wrong, 1);
        assert_eq!(altered(&|b| b[0].writer.epoch = 3).wrong, 1);
        assert!(altered(&|b| b.swap(0, 1)).wrong > 0);
    }
}
