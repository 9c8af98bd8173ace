//! What differs between two logs of the same records, record by record and batch by batch.
//!
//! Not looked at, since no client sees it: the time that a batch's other times are counted from (Kafka counts anew when it
//! writes a batch anew), how well a codec packed, and an empty batch that is of no producer's state (Kafka keeps one where
//! a pass ended). Ids of producers differ; it is told which of the case's producers they are of.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_client::Record;
use chronik_client::compression::Codec;

use super::side::{Kept, Log};
use super::workload::Case;

/// The reference's log and the other's, after a round.
pub struct Pair<'a> {
    pub case: &'a Case,
    pub round: usize,
    pub reference: &'a Log,
    pub broker: &'a Log,
}

/// Of a batch, what must be the same.
struct Facts {
    last_offset: i64,
    codec: Codec,
    /// Whose clock, transactional, control, delete horizon.
    flags: i16,
    /// Unless it is by the broker's clock.
    max_timestamp: Option<i64>,
    producer: Option<(usize, i16, i32)>,
    records: usize,
}

const CODEC_BITS: i16 = 0x7;

impl Facts {
    fn of(batch: &Kept) -> Self {
        Self {
            last_offset: batch.last_offset,
            codec: batch.codec,
            flags: batch.attributes & !CODEC_BITS,
            max_timestamp: (!batch.is_log_append_time()).then_some(batch.max_timestamp),
            producer: batch.producer,
            records: batch.records.len(),
        }
    }

    fn shown(&self) -> String {
        let Self { last_offset, codec, flags, records, .. } = self;
        let time = self.max_timestamp.map_or_else(String::new, |time| format!(", latest time {time}"));
        let producer = self.producer.map_or_else(String::new, |(number, epoch, sequence)| {
            format!(", of producer {number} in epoch {epoch} from sequence {sequence}")
        });
        format!("{records} records to offset {last_offset}, {codec:?}, flags {flags:#04x}{time}{producer}")
    }
}

impl Pair<'_> {
    /// Everything that differs, in words.
    pub fn differences(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, log) in self.both() {
            found.extend(self.against_the_model(log).into_iter().map(|what| format!("{name} {what}")));
            found.extend(self.clocks(log).into_iter().map(|what| format!("{name} {what}")));
        }
        let ends = |log: &Log| (log.start, log.end);
        found.extend(differ("from start to end", &ends(self.reference), &ends(self.broker)));
        self.records(&mut found);
        self.batches(&mut found);
        if !self.is_log_append_time() {
            let times = self.reference.found_by_time.iter().zip(&self.broker.found_by_time);
            found.extend(times.filter_map(|(a, b)| differ("found by time (time, offset)", a, b)));
        }
        found
    }

    fn both(&self) -> [(&'static str, &Log); 2] {
        [("the reference", self.reference), ("the broker", self.broker)]
    }

    fn is_log_append_time(&self) -> bool {
        self.reference.batches.iter().any(Kept::is_log_append_time)
    }

    /// The offsets that must be left: that the reference agrees shows that the case shows something.
    fn against_the_model(&self, log: &Log) -> Option<String> {
        let wanted = self.case.left(self.round)?;
        let there = log.records().map(|record| record.offset).collect();
        let missing: Vec<&i64> = wanted.difference(&there).collect();
        let extra: Vec<&i64> = there.difference(&wanted).collect();
        let differs = !missing.is_empty() || !extra.is_empty();
        differs.then(|| format!("lacks the offsets {missing:?} and has {extra:?} too many"))
    }

    /// Times that a broker gives are of its own clock, and so of the time between sending and reading.
    fn clocks(&self, log: &Log) -> Option<String> {
        let retention_ms = self.case.delete_retention_ms();
        log.batches.iter().find_map(|batch| {
            let (sent, answered) = batch.sent_ms;
            if let Some(horizon) = batch.delete_horizon_ms
                && !(sent..=log.read_at_ms).contains(&(horizon - retention_ms))
            {
                let (at, earliest) = (batch.base_offset, sent + retention_ms);
                return Some(format!(
                    "has {horizon} as the delete horizon at {at}, and {earliest} is the earliest"
                ));
            }
            let mut times = batch.records.iter().map(|r| r.timestamp).chain([batch.max_timestamp]);
            let wrong = times.find(|time| batch.is_log_append_time() && !(sent..=answered).contains(time))?;
            Some(format!("has {wrong} as the time at {}, sent at {sent}", batch.base_offset))
        })
    }

    fn records(&self, found: &mut Vec<String>) {
        let of = |log: &Log| -> BTreeMap<i64, Record> {
            let mut records: BTreeMap<i64, Record> = log.records().map(|r| (r.offset, r.clone())).collect();
            if self.is_log_append_time() {
                records.values_mut().for_each(|record| record.timestamp = 0);
            }
            records
        };
        for (offset, a, b) in joined(of(self.reference), of(self.broker)) {
            let [a, b] = [a, b].map(|record| record.as_ref().map_or("nothing".to_owned(), shown));
            found.extend(differ(&format!("the record at {offset}"), &Plain(a), &Plain(b)));
        }
    }

    fn batches(&self, found: &mut Vec<String>) {
        let matters = |batch: &&Kept| {
            let last = batch.producer.and_then(|(number, _, _)| self.case.last_of(number, self.round));
            !batch.records.is_empty() || last == Some(batch.base_offset)
        };
        let of = |log: &Log| -> BTreeMap<i64, Facts> {
            log.batches.iter().filter(matters).map(|b| (b.base_offset, Facts::of(b))).collect()
        };
        for (base, a, b) in joined(of(self.reference), of(self.broker)) {
            let [a, b] = [a, b].map(|facts| facts.as_ref().map_or("nothing".to_owned(), Facts::shown));
            found.extend(differ(&format!("the batch at {base}"), &Plain(a), &Plain(b)));
        }
    }
}

/// Values of two maps by their keys.
fn joined<T>(
    mut a: BTreeMap<i64, T>,
    mut b: BTreeMap<i64, T>,
) -> impl Iterator<Item = (i64, Option<T>, Option<T>)> {
    let keys: std::collections::BTreeSet<i64> = a.keys().chain(b.keys()).copied().collect();
    keys.into_iter().map(move |key| (key, a.remove(&key), b.remove(&key)))
}

/// Text that is shown without quotes.
#[derive(PartialEq)]
struct Plain(String);

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn differ<T: PartialEq + std::fmt::Debug>(what: &str, reference: &T, broker: &T) -> Option<String> {
    (reference != broker).then(|| format!("{what}: {reference:?} in the reference, {broker:?} in the broker"))
}

/// All of a record, long values by length and checksum.
fn shown(record: &Record) -> String {
    let bytes = |bytes: &Option<Bytes>| match bytes {
        None => "null".to_owned(),
        Some(bytes) if bytes.len() > 40 => {
            format!("{} bytes of CRC {:08x}", bytes.len(), crc32c::crc32c(bytes))
        }
        Some(bytes) => format!("{bytes:?}"),
    };
    let headers = record.headers.iter().map(|(name, value)| format!(" {name:?}:{}", bytes(value)));
    let headers: String = headers.collect();
    format!("{}={} at {}{headers}", bytes(&record.key), bytes(&record.value), record.timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::compare::workload::{Batch, Left, Round, Sent};

    fn case() -> Case {
        let first = Round::of([Batch::of([Sent::put("a", "1"), Sent::tombstone("b")]).by(0)], Left::Newest);
        Case::new("test", [first, Round::of([], Left::Newest)]).with(&[("delete.retention.ms", "100")])
    }

    /// As it must be after the first round, before 50 ms have passed.
    fn log() -> Log {
        let record = |offset, key: &'static str, value: Option<&'static str>| Record {
            offset,
            timestamp: offset,
            key: Some(key.into()),
            value: value.map(Bytes::from),
            headers: vec![("h".into(), Some("1".into())), ("h".into(), Some("2".into()))],
        };
        let batch = |base_offset, records: Vec<Record>| Kept {
            base_offset,
            last_offset: base_offset + 1,
            codec: Codec::None,
            attributes: 0,
            max_timestamp: 9,
            delete_horizon_ms: None,
            producer: None,
            sent_ms: (10, 11),
            records,
        };
        let mut first = batch(0, vec![record(0, "a", Some("1")), record(1, "b", None)]);
        (first.producer, first.attributes, first.delete_horizon_ms) = (Some((0, 0, 0)), 0x40, Some(120));
        let batches = vec![
            first,
            batch(2, vec![record(3, "~witness", Some("second"))]),
            batch(4, vec![record(4, "~end-0", Some(""))]),
        ];
        Log { start: 0, end: 5, batches, read_at_ms: 50, found_by_time: vec![(1, 0), (9, 4)] }
    }

    fn found(change: impl FnOnce(&mut Log)) -> String {
        let (case, reference) = (case(), log());
        let mut broker = log();
        change(&mut broker);
        Pair { case: &case, round: 0, reference: &reference, broker: &broker }.differences().join("\n")
    }

    #[test]
    fn what_is_the_same_is_the_same() {
        assert_eq!(found(|_| {}), "");
        let mark = |log: &mut Log| {
            let mut mark = log.batches[0].clone();
            (mark.base_offset, mark.producer) = (7, None);
            mark.records.clear();
            log.batches.push(mark);
        };
        assert_eq!(found(mark), "", "an empty batch of no producer's state");
    }

    #[test]
    fn each_difference_is_found() {
        type Change = fn(&mut Log);
        let changes: [(Change, &str); 17] = [
            (|log| drop(log.batches[0].records.remove(1)), "lacks the offsets [1]"),
            (|log| log.batches[1].records[0].offset = 2, "has [2] too many"),
            (|log| log.batches[0].records[0].value = None, "the record at 0"),
            (|log| log.batches[0].records[0].key = Some("A".into()), "the record at 0"),
            (|log| log.batches[0].records[0].timestamp = 5, "the record at 0"),
            (|log| log.batches[0].records[0].headers.swap(0, 1), "the record at 0"),
            (|log| log.batches[0].attributes = 0, "the batch at 0"),
            (|log| log.batches[0].producer = Some((0, 0, 1)), "the batch at 0"),
            (|log| log.batches[0].codec = Codec::Zstd, "the batch at 0"),
            (|log| log.batches[1].last_offset = 2, "the batch at 2"),
            (|log| log.batches[1].max_timestamp = 8, "the batch at 2"),
            (|log| drop(log.batches.remove(0)), "the batch at 0"),
            (|log| log.start = 1, "from start to end"),
            (|log| log.end = 6, "from start to end"),
            (|log| log.found_by_time[1].1 = 3, "found by time"),
            (|log| log.batches[0].delete_horizon_ms = Some(109), "the delete horizon at 0"),
            (|log| log.batches[0].delete_horizon_ms = Some(151), "the delete horizon at 0"),
        ];
        for (change, wanted) in changes {
            let found = found(change);
            assert!(found.contains(wanted), "{wanted} is not in {found:?}");
        }
    }

    #[test]
    fn the_brokers_clock_is_held_against_ours() {
        let stamped = |log: &mut Log, time: i64| {
            for batch in &mut log.batches {
                (batch.attributes, batch.max_timestamp) = (batch.attributes | 0x8, time);
                batch.records.iter_mut().for_each(|record| record.timestamp = time);
            }
        };
        let (case, mut reference, mut broker) = (case(), log(), log());
        stamped(&mut reference, 10);
        for (time, wanted) in [(11, ""), (12, "has 12 as the time at 0"), (9, "has 9 as the time at 0")] {
            stamped(&mut broker, time);
            let pair = Pair { case: &case, round: 0, reference: &reference, broker: &broker };
            let found = pair.differences().join("\n");
            assert!(found.contains(wanted) && (found.is_empty() == wanted.is_empty()), "{found:?}");
        }
    }
}
