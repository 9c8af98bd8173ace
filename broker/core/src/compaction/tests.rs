//! Passes over small logs, and a model: whatever a pass does, a reader that folds records into a table ends with the same.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use crate::log::{AbortedTransaction, ProducerStateMap};
use crate::record_batch::{
    BatchBuilder, BatchHeader, Batches, Crc, EndMarker, HEADER_LEN, RecordIter, patch_base,
};

type Pair = (&'static str, Option<&'static str>);

/// A batch of keyed records at `offset`, whose times are their offsets.
fn batch(offset: Offset, pairs: &[Pair]) -> Vec<u8> {
    let mut builder = BatchBuilder::new().at(offset, LeaderEpoch(3));
    for (at, (key, value)) in (offset..).zip(pairs) {
        let headers: [(&[u8], Option<&[u8]>); 3] = [(b"h", Some(b"1")), (b"h", Some(b"2")), (b"n", None)];
        builder = builder.record_with_headers(at, Some(key.as_bytes()), value.map(str::as_bytes), &headers);
    }
    builder.build()
}

fn log(batches: &[&[Pair]]) -> Vec<u8> {
    let mut offset = 0;
    let mut log = Vec::new();
    for pairs in batches {
        log.extend(batch(offset, pairs));
        offset += pairs.len() as Offset;
    }
    log
}

fn each(log: &[u8]) -> impl Iterator<Item = (BatchHeader, &[u8])> {
    Batches::new(log, Crc::Check).map(|found| {
        let (header, range) = found.expect("a whole batch");
        (header, &log[range])
    })
}

/// What a partition knows of aborted transactions.
fn aborted(log: &[u8]) -> Vec<AbortedTransaction> {
    let mut producers = ProducerStateMap::new(0, 100);
    let ended = each(log).filter_map(|(h, bytes)| producers.apply(&h, EndMarker::of(&h, bytes).as_ref(), 0));
    ended.filter(|ended| !ended.commit).map(|ended| ended.transaction).collect()
}

/// One pass over all of `log`; the keys of what lies before `keys_end` are known.
fn cleaned(log: &[u8], keys_end: Offset, now_ms: i64, is_last: impl Fn(&BatchHeader) -> bool) -> Vec<u8> {
    cleaned_without(log, &mut aborted(log), keys_end, now_ms, is_last)
}

fn cleaned_without(
    log: &[u8],
    aborted: &mut Vec<AbortedTransaction>,
    keys_end: Offset,
    now_ms: i64,
    is_last: impl Fn(&BatchHeader) -> bool,
) -> Vec<u8> {
    let transactions = Transactions::new(aborted.iter().copied());
    let mut keys = KeyOffsets::new(1 << 20, 1);
    for (header, bytes) in each(log).filter(|(header, _)| header.base_offset < keys_end) {
        assert!(Pass::note(&mut keys, &transactions, &header, &bytes[HEADER_LEN..]).unwrap());
    }
    let mut pass = Pass { keys: &keys, keys_end, now_ms, delete_retention_ms: 100, transactions };
    let mut out = Vec::new();
    for (header, bytes) in each(log) {
        match pass.clean(&header, &bytes[HEADER_LEN..], is_last(&header)).unwrap() {
            Cleaned::Kept => out.extend_from_slice(bytes),
            Cleaned::Gone => {}
            Cleaned::Rewritten(rewriter) => out.extend(rewriter.finish(rewriter.records())),
        }
    }
    let gone = pass.transactions.take_gone();
    aborted.retain(|t| !gone.contains(&t.last_offset));
    out
}

fn nobody(_: &BatchHeader) -> bool {
    false
}

/// Offset, time, key, value, and how many headers.
fn records(log: &[u8]) -> Vec<(Offset, i64, String, Option<String>, usize)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    each(log)
        .filter(|(header, _)| !header.is_control())
        .flat_map(|(_, bytes)| RecordIter::new(bytes).unwrap())
        .map(|record| {
            let record = record.unwrap();
            let headers = record.headers.count();
            (record.offset, record.timestamp, text(record.key.unwrap()), record.value.map(text), headers)
        })
        .collect()
}

fn short(log: &[u8]) -> Vec<String> {
    records(log)
        .into_iter()
        .map(|(at, _, key, value, _)| format!("{at}{key}{}", value.unwrap_or("-".into())))
        .collect()
}

#[test]
fn the_newest_of_each_key_stays_at_its_offset() {
    let before = log(&[
        &[("a", Some("1")), ("b", Some("1"))],
        &[("a", Some("2"))],
        &[("c", Some("1")), ("a", Some("3"))],
    ]);
    let after = cleaned(&before, 100, 0, nobody);
    assert_eq!(short(&after), ["1b1", "3c1", "4a3"]);
    for (offset, time, _, _, headers) in records(&after) {
        assert_eq!((time, headers), (offset, 3), "times and headers, also of one name, stay");
    }
    let headers: Vec<BatchHeader> = each(&after).map(|(header, _)| header).collect();
    assert_eq!(headers.len(), 2, "a batch without records is gone");
    assert_eq!((headers[0].base_offset, headers[0].last_offset()), (0, 1), "the numbers stay used");
    assert_eq!(headers[0].leader_epoch, LeaderEpoch(3));
    assert_eq!(cleaned(&after, 100, 0, nobody), after, "cleaning again changes nothing");
}

#[test]
fn what_is_beyond_the_known_keys_stays() {
    let before = log(&[&[("a", Some("1"))], &[("a", Some("2"))], &[("a", Some("3"))]]);
    assert_eq!(short(&cleaned(&before, 2, 0, nobody)), ["1a2", "2a3"]);
}

#[test]
fn a_tombstone_stays_until_its_horizon_and_no_longer() {
    let before = log(&[&[("a", Some("1")), ("b", Some("1"))], &[("a", None)]]);
    let first = cleaned(&before, 100, 1000, nobody);
    assert_eq!(short(&first), ["1b1", "2a-"]);
    let (header, _) = each(&first).last().unwrap();
    assert_eq!(header.delete_horizon_ms(), Some(1100));
    assert_eq!(header.max_timestamp, 2);
    assert_eq!(records(&first)[1].1, 2, "the record's own time is what it was");
    assert_eq!(cleaned(&first, 100, 1099, nobody), first, "a second pass before the horizon");
    assert_eq!(short(&cleaned(&first, 100, 1100, nobody)), ["1b1"]);
}

#[test]
fn the_last_batch_of_a_known_producer_stays_without_records() {
    let of = |offset, sequence| {
        let builder = BatchBuilder::new().at(offset, LeaderEpoch(0));
        builder.producer(ProducerId(7), ProducerEpoch(1), sequence).record(5, Some(b"a"), Some(b"x")).build()
    };
    let log = [of(0, 0), of(1, 1), batch(2, &[("a", Some("new"))])].concat();
    let after = cleaned(&log, 100, 0, |header| header.base_offset == 1);
    let headers: Vec<BatchHeader> = each(&after).map(|(header, _)| header).collect();
    assert_eq!(headers.iter().map(|h| (h.base_offset, h.record_count)).collect::<Vec<_>>(), [(1, 0), (2, 1)]);
    assert_eq!(
        (headers[0].producer_id, headers[0].last_sequence(), headers[0].max_timestamp),
        (ProducerId(7), 1, 5)
    );
    assert_eq!(cleaned(&after, 100, 0, |header| header.base_offset == 1), after);
    assert_eq!(cleaned(&after, 100, 0, |_| false).len(), headers[1].size_in_bytes(), "and goes when it may");
    assert_eq!(short(&cleaned(&after, 100, 0, nobody)), ["2anew"]);
}

#[test]
fn a_producers_tombstone_that_goes_leaves_no_horizon_behind() {
    let tombstone = BatchBuilder::new().at(0, LeaderEpoch(0)).producer(ProducerId(7), ProducerEpoch(1), 3);
    let log = tombstone.record(5, Some(b"a"), None).build();
    let first = cleaned(&log, 100, 1000, |_| true);
    assert_eq!(each(&first).next().and_then(|(header, _)| header.delete_horizon_ms()), Some(1100));
    let after = cleaned(&first, 100, 1100, |_| true);
    let (header, _) = each(&after).next().unwrap();
    assert_eq!((header.record_count, header.base_sequence, header.max_timestamp), (0, 3, 5));
    assert_eq!((header.delete_horizon_ms(), header.base_timestamp), (None, -1), "as Kafka writes it");
    assert_eq!(cleaned(&after, 100, 2000, |_| true), after);
}

#[test]
fn offsets_that_do_not_ascend_are_not_believed() {
    let mut lying = batch(5, &[("a", Some("1"))]);
    lying[64] = 20; // The record's offset delta: 10.
    let header = BatchHeader::parse(&lying).unwrap();
    let mut keys = KeyOffsets::new(1 << 20, 1);
    let told = Pass::note(&mut keys, &Transactions::default(), &header, &lying[HEADER_LEN..]);
    let told = told.unwrap_err().to_string();
    assert!(told.contains("out of its turn"), "{told}");
}

/// A batch of a transaction.
fn of(producer: i64, offset: Offset, pairs: &[Pair]) -> Vec<u8> {
    let mut builder = BatchBuilder::new().at(offset, LeaderEpoch(3)).transactional();
    builder = builder.producer(ProducerId(producer), ProducerEpoch(0), offset as i32);
    for (at, (key, value)) in (offset..).zip(pairs) {
        builder = builder.record(at, Some(key.as_bytes()), value.map(str::as_bytes));
    }
    builder.build()
}

fn end(producer: i64, offset: Offset, commit: bool) -> Vec<u8> {
    let (producer_id, producer_epoch) = (ProducerId(producer), ProducerEpoch(0));
    let mut batch = EndMarker { producer_id, producer_epoch, coordinator_epoch: 4, commit }.batch(offset);
    patch_base(&mut batch, offset, LeaderEpoch(3)).unwrap();
    batch
}

/// Offset, number of records, and horizon of each control batch.
fn markers(log: &[u8]) -> Vec<(Offset, i32, Option<i64>)> {
    let control = each(log).filter(|(header, _)| header.is_control());
    control.map(|(h, _)| (h.base_offset, h.record_count, h.delete_horizon_ms())).collect()
}

#[test]
fn what_was_aborted_goes_and_its_marker_follows() {
    let log = [
        of(1, 0, &[("a", Some("1"))]),
        of(2, 1, &[("a", Some("2")), ("b", Some("2"))]),
        batch(3, &[("c", Some("1"))]),
        end(2, 4, false),
        end(1, 5, true),
        batch(6, &[("z", Some("1"))]),
    ]
    .concat();
    let mut aborted = aborted(&log);
    let mut clean = |log: &[u8], now_ms| {
        let after = cleaned_without(log, &mut aborted, 100, now_ms, nobody);
        (after, aborted.len())
    };
    let (first, known) = clean(&log, 1000);
    assert_eq!(short(&first), ["0a1", "3c1", "6z1"], "what was aborted has superseded nothing");
    assert_eq!((markers(&first), known), (vec![(4, 1, None), (5, 1, None)], 1), "there were records of both");
    let (second, known) = clean(&first, 2000);
    assert_eq!((markers(&second), known), (vec![(4, 1, Some(2100)), (5, 1, None)], 1));
    let (header, bytes) = each(&second).find(|(header, _)| header.base_offset == 4).unwrap();
    assert!(
        EndMarker::of(&header, bytes).is_some_and(|marker| !marker.commit && marker.coordinator_epoch == 4)
    );
    assert_eq!(RecordIter::new(bytes).unwrap().next().unwrap().unwrap().timestamp, 4);
    assert_eq!(clean(&second, 2099), (second.clone(), 1));
    let (third, known) = clean(&second, 2100);
    assert_eq!((markers(&third), known), (vec![(5, 1, None)], 0));
    assert_eq!(short(&third), short(&first));
}

#[test]
fn a_marker_that_tells_of_its_producer_stays_without_its_record() {
    let log = [end(1, 0, false), batch(1, &[("a", Some("1"))])].concat();
    let first = cleaned(&log, 100, 1000, |header| header.is_control());
    assert_eq!(markers(&first), [(0, 1, Some(1100))]);
    let second = cleaned(&first, 100, 1100, |header| header.is_control());
    assert_eq!(markers(&second), [(0, 0, None)]);
    assert!(each(&second).all(|(h, bytes)| EndMarker::of(&h, bytes).is_none()));
    assert_eq!(cleaned(&second, 100, 1200, |header| header.is_control()), second);
    assert!(markers(&cleaned(&second, 100, 1200, nobody)).is_empty(), "and goes when it may");
}

#[test]
fn other_control_batches_stay_and_records_without_a_key_go() {
    let control = BatchBuilder::new().at(0, LeaderEpoch(0)).producer(ProducerId(7), ProducerEpoch(1), -1);
    let control = control.transactional().control().record(0, Some(&[0, 0, 0, 9]), Some(&[0; 6])).build();
    let keyless = BatchBuilder::new().at(1, LeaderEpoch(0)).record(0, None, Some(b"x")).build();
    let log = [control.clone(), keyless].concat();
    assert_eq!(cleaned(&log, 100, 0, nobody), control);
}

fn closed(n: i64, bytes: u64) -> Closed {
    Closed {
        base_offset: n * 10,
        end_offset: n * 10 + 10,
        bytes,
        first_timestamp: n * 1000,
        max_timestamp: n * 1000 + 500,
    }
}

const POLICY: Policy =
    Policy { min_dirty_ratio: 0.5, min_lag_ms: 0, max_lag_ms: i64::MAX, segment_bytes: 250 };

#[test]
fn a_log_is_cleaned_when_enough_of_it_is_dirty_or_too_old() {
    let log: Vec<Closed> = (0..4).map(|n| closed(n, 100)).collect();
    let at = |cleaned_to| plan(&POLICY, &log, cleaned_to, 40, 0);
    assert_eq!(at(0).map(|p| (p.dirty_from, p.end, p.dirty_ratio)), Some((0, 40, 1.0)));
    assert_eq!(at(10).map(|p| p.dirty_ratio), Some(0.75));
    assert_eq!(at(20), None, "a half is not more than a half, and Kafka waits for more");
    assert_eq!(at(40), None, "nothing is dirty");
    assert_eq!(plan(&POLICY, &[], 0, 40, 0), None);
    let impatient = Policy { max_lag_ms: 1000, ..POLICY };
    let overdue = plan(&impatient, &log, 30, 40, 4001).unwrap();
    assert!(overdue.overdue && overdue.dirty_from == 30);
    assert_eq!(plan(&impatient, &log, 30, 40, 4000), None);
}

#[test]
fn what_is_young_or_not_stable_is_not_touched() {
    let log: Vec<Closed> = (0..4).map(|n| closed(n, 100)).collect();
    let patient = Policy { min_lag_ms: 1000, ..POLICY };
    assert_eq!(
        plan(&patient, &log, 0, 40, 2500).map(|p| p.end),
        Some(20),
        "1,500 is old enough, 2,500 is not"
    );
    assert_eq!(plan(&POLICY, &log, 0, 39, 0).map(|p| p.end), Some(30));
}

#[test]
fn a_record_of_the_future_that_was_cleaned_holds_up_nothing() {
    let mut log: Vec<Closed> = (0..4).map(|n| closed(n, 100)).collect();
    log[0].max_timestamp = 1_000_000;
    let patient = Policy { min_lag_ms: 1000, ..POLICY };
    assert_eq!(plan(&patient, &log, 0, 40, 10_000), None);
    assert_eq!(plan(&patient, &log, 10, 40, 10_000).map(|p| (p.dirty_from, p.end)), Some((10, 40)));
}

#[test]
fn an_old_record_behind_a_younger_one_is_overdue_too() {
    let mut log: Vec<Closed> = (0..4).map(|n| closed(n, 100)).collect();
    log[2].first_timestamp = 9_000;
    let impatient = Policy { max_lag_ms: 1000, min_dirty_ratio: 1.0, ..POLICY };
    let overdue_at = |now_ms| plan(&impatient, &log, 20, 40, now_ms).map(|p| (p.end, p.overdue));
    assert_eq!([4000, 4001].map(overdue_at), [None, Some((40, true))]);
}

#[test]
fn small_segments_are_put_together() {
    let log: Vec<Closed> =
        [100, 100, 100, 300, 10, 10].into_iter().zip(0..).map(|(b, n)| closed(n, b)).collect();
    let sizes: Vec<usize> = groups(&log, 250).iter().map(|group| group.len()).collect();
    assert_eq!(sizes, [2, 1, 1, 2]);
    assert!(groups(&[], 250).is_empty());
}

/// What a consumer has that reads a log from its start, up to what is decided.
fn table(log: &[u8], aborted: &[AbortedTransaction]) -> BTreeMap<String, String> {
    let aborted = Transactions::new(aborted.iter().copied());
    let decided = each(log).filter(|(header, _)| !aborted.is_aborted(header)).flat_map(|(_, bytes)| bytes);
    let decided: Vec<u8> = decided.copied().collect();
    let mut table = BTreeMap::new();
    for (_, _, key, value, _) in records(&decided) {
        match value {
            Some(value) => _ = table.insert(key, value),
            None => _ = table.remove(&key),
        }
    }
    table
}

/// Records of a producer, 0 of whom writes in no transaction, or the end of its transaction.
#[derive(Clone, Debug)]
enum Written {
    Records(i64, Vec<(usize, Option<usize>)>),
    End(i64, bool),
}

fn written() -> impl Strategy<Value = Vec<Written>> {
    let records = prop::collection::vec((0usize..6, prop::option::of(0usize..9)), 1..5);
    let written = prop_oneof![
        3 => (0i64..3, records).prop_map(|(producer, records)| Written::Records(producer, records)),
        1 => (1i64..3, any::<bool>()).prop_map(|(producer, commit)| Written::End(producer, commit)),
    ];
    prop::collection::vec(written, 1..14)
}

proptest! {
    #[test]
    fn a_reader_ends_with_the_same_table(
        written in written(),
        passes in prop::collection::vec((0i64..60, 0i64..400), 1..6),
    ) {
        const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
        const VALUES: [&str; 9] = ["0", "1", "2", "3", "4", "5", "6", "7", "8"];
        let (mut log, mut offset) = (Vec::new(), 0);
        // What is not decided is not touched: in the end all is.
        for written in written.into_iter().chain([Written::End(1, false), Written::End(2, true)]) {
            offset += match written {
                Written::Records(producer, pairs) => {
                    let pairs: Vec<Pair> = pairs.into_iter().map(|(k, v)| (KEYS[k], v.map(|v| VALUES[v]))).collect();
                    log.extend(if producer == 0 { batch(offset, &pairs) } else { of(producer, offset, &pairs) });
                    pairs.len() as Offset
                }
                Written::End(producer, commit) => {
                    log.extend(end(producer, offset, commit));
                    1
                }
            };
        }
        let mut aborted = aborted(&log);
        let (wanted, all) = (table(&log, &aborted), records(&log));
        let mut now_ms = 0;
        for (keys_end, later) in passes {
            now_ms += later;
            // A pass knows the keys of whole batches.
            let keys_end = each(&log).map(|(h, _)| h.base_offset).find(|base| *base >= keys_end).unwrap_or(100);
            let after = cleaned_without(&log, &mut aborted, keys_end, now_ms, nobody);
            prop_assert_eq!(table(&after, &aborted), wanted.clone());
            for record in records(&after) {
                prop_assert!(all.contains(&record), "{record:?} was never written");
            }
            // Where records of an aborted transaction are left, so are its marker and what tells of it.
            for transaction in &aborted {
                prop_assert!(each(&after).any(|(h, _)| h.base_offset == transaction.last_offset));
            }
            log = after;
        }
        // In the end of each key there is one record at most, and no tombstone is left; nor is an abort.
        for pass in 0..4 {
            log = cleaned_without(&log, &mut aborted, 100, now_ms + pass * 100, nobody);
        }
        prop_assert_eq!(records(&log).len(), wanted.len());
        prop_assert!(aborted.is_empty());
    }
}
