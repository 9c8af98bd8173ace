//! Sequences, epochs and transactions as Kafka judges them, and snapshots.

use super::producer_state::*;
use super::transactions::EndedTransactions;
use crate::ids::{Offset, ProducerEpoch, ProducerId};
use crate::record_batch::{BatchBuilder, BatchHeader, EndMarker, Verified};

/// The header of a batch of `count` records, as stored at `base_offset`.
fn batch(id: i64, epoch: i16, sequence: i32, count: i32, base_offset: Offset) -> BatchHeader {
    let mut builder = BatchBuilder::new().producer(ProducerId(id), ProducerEpoch(epoch), sequence);
    for _ in 0..count {
        builder = builder.record(1000 + base_offset, None, None);
    }
    let header = BatchHeader::parse(&builder.build()).unwrap();
    BatchHeader { base_offset, ..header }
}

/// Checks and, if accepted, applies at the map's end.
fn offer(map: &mut ProducerStateMap, id: i64, epoch: i16, sequence: i32, count: i32) -> Result<Checked, i16> {
    let header = batch(id, epoch, sequence, count, map.end_offset());
    let checked = map.check(&header, None, Verified::Not).map_err(|error| error.kafka_code());
    if checked == Ok(Checked::Accept) {
        map.apply(&header, None, 0);
    }
    checked
}

fn duplicate(base_offset: Offset, count: i64) -> Result<Checked, i16> {
    let last_offset = base_offset + count - 1;
    Ok(Checked::Duplicate { base_offset, last_offset, append_time_ms: 1000 + base_offset })
}

/// The answers of Kafka 4.3.1 to the same sequence of requests.
#[test]
fn sequences_and_epochs() {
    let mut map = ProducerStateMap::new(18, 100);
    assert_eq!(offer(&mut map, 77, 0, 5, 1), Ok(Checked::Accept), "unknown producers begin anywhere");
    assert_eq!(offer(&mut map, 77, 0, 6, 1), Ok(Checked::Accept));
    assert_eq!(offer(&mut map, 77, 0, 5, 1), duplicate(18, 1));
    assert_eq!(offer(&mut map, 77, 0, 9, 1), Err(45), "a gap");
    assert_eq!(offer(&mut map, 77, 0, 5, 2), Err(45), "same start, other length: no duplicate");
    assert_eq!(offer(&mut map, 77, 1, 3, 1), Err(45), "a new epoch begins at 0");
    assert_eq!(offer(&mut map, 77, 1, 0, 1), Ok(Checked::Accept));
    assert_eq!(offer(&mut map, 77, 0, 7, 1), Err(47), "fenced");
    assert_eq!(offer(&mut map, 77, 0, 5, 1), Err(47), "fenced, even when seen before");
    assert_eq!(offer(&mut map, 78, 0, 0, 1), Ok(Checked::Accept), "producers do not know each other");
    assert_eq!(offer(&mut map, 79, -2, 0, 1), Err(47), "below the epoch of who has written nothing");
    assert_eq!(offer(&mut map, 79, -1, 0, 1), Ok(Checked::Accept));
}

#[test]
fn five_batches_are_recognised_and_a_sixth_is_not() {
    let mut map = ProducerStateMap::new(0, 100);
    for index in 0..6 {
        assert_eq!(offer(&mut map, 1, 0, index * 10, 10), Ok(Checked::Accept));
    }
    for index in 1..6 {
        assert_eq!(offer(&mut map, 1, 0, index * 10, 10), duplicate(i64::from(index) * 10, 10));
    }
    assert_eq!(offer(&mut map, 1, 0, 0, 10), Err(45));
}

#[test]
fn sequences_wrap() {
    let mut map = ProducerStateMap::new(0, 100);
    assert_eq!(offer(&mut map, 1, 0, i32::MAX - 1, 1), Ok(Checked::Accept));
    assert_eq!(offer(&mut map, 1, 0, i32::MAX, 3), Ok(Checked::Accept), "MAX, 0, 1");
    assert_eq!(offer(&mut map, 1, 0, i32::MAX, 3), duplicate(1, 3));
    assert_eq!(offer(&mut map, 1, 0, 1, 1), Err(45));
    assert_eq!(offer(&mut map, 1, 0, 2, 1), Ok(Checked::Accept));
    assert_eq!(offer(&mut map, 2, 0, i32::MAX, 1), Ok(Checked::Accept));
    assert_eq!(offer(&mut map, 2, 0, 0, 1), Ok(Checked::Accept));
}

#[test]
fn plain_batches_and_markers_only_move_the_end() {
    let mut map = ProducerStateMap::new(0, 100);
    assert_eq!(offer(&mut map, -1, -1, -1, 7), Ok(Checked::Accept));
    let marker = BatchHeader { attributes: 0x30, ..batch(1, 0, -1, 1, 7) };
    map.apply(&marker, None, 0);
    assert_eq!((map.len(), map.end_offset()), (0, 8));
}

#[test]
fn the_silent_are_forgotten_by_time_and_by_number() {
    let mut map = ProducerStateMap::new(0, 16);
    for id in 0..16 {
        map.apply(&batch(id, 0, 0, 1, id), None, 100 + id);
    }
    map.expire(1000, 895);
    assert_eq!(map.len(), 10, "those at 106 and later");
    for id in 16..22 {
        map.apply(&batch(id, 0, 0, 1, id), None, 100 + id);
    }
    map.apply(&batch(99, 0, 0, 1, 50), None, 200);
    assert_eq!(map.len(), 14, "one too many, and an eighth of 16");
    assert_eq!(offer(&mut map, 7, 0, 500, 1), Ok(Checked::Accept), "forgotten");
    assert_eq!(offer(&mut map, 9, 0, 500, 1), Err(45), "remembered");
}

/// A state that ends within a batch passes the batch over when it is replayed: it must know it.
#[test]
fn a_batch_that_the_end_lies_within_is_known_still() {
    let mut map = ProducerStateMap::new(0, 100);
    for sequence in [0, 3, 6] {
        assert_eq!(offer(&mut map, 1, 0, sequence, 3), Ok(Checked::Accept));
    }
    for end in 1..=3 {
        let mut cut = map.clone().truncated(end, &EndedTransactions::default());
        assert_eq!(cut.end_offset(), end);
        for base_offset in [0, 3, 6] {
            cut.apply(&batch(1, 0, base_offset as i32, 3, base_offset), None, 0);
        }
        assert_eq!(cut, map, "replayed from {end}");
    }
    assert!(map.truncated(0, &EndedTransactions::default()).is_empty());
}

#[test]
fn snapshots_survive_replay_and_damage_is_refused() {
    let mut map = ProducerStateMap::new(0, 100);
    for (id, sequence) in [(1, 0), (2, 7), (1, 3)] {
        assert_eq!(offer(&mut map, id, 4, sequence, 3), Ok(Checked::Accept));
    }
    let bytes = map.encode();
    let mut again = ProducerStateMap::decode(&bytes, 100).unwrap();
    assert_eq!(again, map);
    again.apply(&batch(1, 4, 3, 3, 6), None, 5);
    assert_eq!(again, map, "what a snapshot holds is not applied twice");
    assert_eq!(ProducerStateMap::decode(&bytes, 1).unwrap().len(), 1);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(ProducerStateMap::decode(&damaged, 100).is_err(), "byte {at}");
        assert!(ProducerStateMap::decode(&bytes[..at], 100).is_err(), "cut at {at}");
    }
}

/// A producer in transactions, and the partition's view of them.
struct Transactions {
    map: ProducerStateMap,
    ended: EndedTransactions,
    /// All that was appended.
    log: Vec<(BatchHeader, Option<EndMarker>)>,
}

impl Transactions {
    fn new() -> Transactions {
        let map = ProducerStateMap::new(0, 100);
        Transactions { map, ended: EndedTransactions::default(), log: Vec::new() }
    }

    fn append(
        &mut self,
        header: BatchHeader,
        marker: Option<EndMarker>,
        verified: Verified,
    ) -> Result<Checked, i16> {
        let header = BatchHeader { base_offset: self.map.end_offset(), ..header };
        let checked = self.map.check(&header, marker.as_ref(), verified).map_err(|error| error.kafka_code());
        if checked == Ok(Checked::Accept) {
            self.log.push((header, marker));
            if let Some(ended) = self.map.apply(&header, marker.as_ref(), 0) {
                self.ended.push(ended);
            }
        }
        checked
    }

    fn write_as(
        &mut self,
        verified: Verified,
        id: i64,
        epoch: i16,
        sequence: i32,
        count: i32,
    ) -> Result<Checked, i16> {
        let plain = batch(id, epoch, sequence, count, self.map.end_offset());
        self.append(BatchHeader { attributes: 0x10, ..plain }, None, verified)
    }

    /// As a producer whose coordinator was asked just now.
    fn write(&mut self, id: i64, epoch: i16, sequence: i32, count: i32) -> Result<Checked, i16> {
        let marker_offset = self.map.marker_offset(ProducerId(id));
        self.write_as(Verified::Since { marker_offset, from_zero: false }, id, epoch, sequence, count)
    }

    fn end(&mut self, id: i64, epoch: i16, coordinator_epoch: i32, commit: bool) -> Result<Checked, i16> {
        let (producer_id, producer_epoch) = (ProducerId(id), ProducerEpoch(epoch));
        let marker = EndMarker { producer_id, producer_epoch, coordinator_epoch, commit };
        let batch = marker.batch(5);
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!(EndMarker::of(&header, &batch), Some(marker));
        self.append(header, Some(marker), Verified::Own)
    }

    fn aborted(&self) -> Vec<(i64, Offset, Offset, Offset)> {
        let all = self.ended.aborted_below(Offset::MAX);
        all.map(|t| (t.producer_id.0, t.first_offset, t.last_offset, t.last_stable_offset)).collect()
    }
}

const OK: Result<Checked, i16> = Ok(Checked::Accept);

#[test]
fn a_transaction_lasts_from_its_first_record_to_its_marker() {
    let mut t = Transactions::new();
    assert_eq!((t.write(1, 0, 0, 3), t.write(2, 0, 0, 2), t.write(1, 0, 3, 1)), (OK, OK, OK));
    assert_eq!(t.map.first_undecided(), Some(0));
    assert!(t.map.has_ongoing(ProducerId(1), ProducerEpoch(0)));
    assert!(
        !t.map.has_ongoing(ProducerId(1), ProducerEpoch(1))
            && !t.map.has_ongoing(ProducerId(3), ProducerEpoch(0))
    );
    assert_eq!(t.end(1, 0, 7, false), OK);
    assert_eq!(t.map.first_undecided(), Some(3), "the other's");
    assert_eq!((t.write(1, 0, 4, 1), t.end(1, 0, 7, true), t.end(2, 0, 7, false)), (OK, OK, OK));
    assert_eq!((t.map.first_undecided(), t.map.end_offset()), (None, 10));
    assert_eq!(t.aborted(), [(1, 0, 6, 3), (2, 3, 9, 10)]);
    assert_eq!(t.end(1, 0, 7, false), OK, "a marker without a transaction is written, as in Kafka");
    assert_eq!(t.aborted().len(), 2, "and there is nothing to leave out");
}

#[test]
fn nobody_begins_a_transaction_that_its_coordinator_does_not_know() {
    let mut t = Transactions::new();
    let since = |marker_offset| Verified::Since { marker_offset, from_zero: false };
    assert_eq!(t.write_as(Verified::Not, 1, 0, 0, 1), Err(48));
    assert_eq!(t.write_as(since(0), 1, 0, 0, 1), Err(48), "of another time");
    assert_eq!(t.write_as(since(-1), 1, 0, 0, 1), OK);
    assert_eq!(t.write_as(Verified::Not, 1, 0, 1, 1), OK, "it is ongoing");
    assert_eq!(t.end(1, 0, 0, true), OK);
    assert_eq!(t.write_as(since(-1), 1, 0, 2, 1), Err(48), "what was asked about has ended");
    assert_eq!(t.write_as(Verified::Not, 1, 0, 1, 1), duplicate(1, 1), "it is in the log, whoever says what");
    assert_eq!(t.write_as(since(2), 1, 0, 2, 1), OK);
    assert_eq!(t.write_as(Verified::Not, 1, 1, 0, 1), Err(48), "another epoch is verified anew");
}

#[test]
fn where_each_transaction_has_an_epoch_it_begins_with_zero() {
    let mut t = Transactions::new();
    let first = Verified::Since { marker_offset: -1, from_zero: true };
    assert_eq!(t.write_as(first, 1, 0, 1, 1), Err(45), "the first batch is missing");
    assert_eq!((t.write_as(first, 1, 0, 0, 1), t.end(1, 1, 0, true)), (OK, OK));
    let next = Verified::Since { marker_offset: 1, from_zero: true };
    assert_eq!(t.write_as(next, 1, 1, 1, 1), Err(45), "the marker has begun the epoch");
    assert_eq!(t.write_as(next, 1, 0, 1, 1), Err(47), "and ended the one before");
    assert_eq!(t.write_as(next, 1, 1, 0, 1), OK);
}

#[test]
fn who_is_in_a_transaction_writes_nothing_beside_it() {
    let mut t = Transactions::new();
    assert_eq!(t.write(1, 0, 0, 1), OK);
    assert_eq!(t.append(batch(1, 0, 1, 1, 0), None, Verified::Not), Err(48));
    assert_eq!(t.end(1, 0, 0, false), OK);
    assert_eq!(t.append(batch(1, 0, 1, 1, 0), None, Verified::Not), OK);
}

#[test]
fn older_producers_and_coordinators_are_fenced() {
    let mut t = Transactions::new();
    assert_eq!(t.end(1, 3, 5, false), OK, "a producer of whom only this is known");
    assert_eq!((t.write(1, 2, 0, 1), t.end(1, 2, 5, true)), (Err(47), Err(47)));
    assert_eq!((t.end(1, 3, 4, true), t.end(1, 4, 4, true)), (Err(52), Err(52)));
    assert_eq!((t.write(1, 3, 1, 1), t.write(1, 3, 0, 1)), (Err(45), OK));
    assert_eq!(t.write(1, 4, 0, 1), OK, "a newer epoch goes on with the transaction");
    assert_eq!((t.end(1, 4, 5, false), t.aborted()), (OK, vec![(1, 1, 3, 4)]));
    let active: Vec<_> = t.map.active().collect();
    let known = ActiveProducer {
        id: ProducerId(1),
        epoch: ProducerEpoch(4),
        last_sequence: 0,
        last_timestamp_ms: 0,
        coordinator_epoch: 5,
        transaction_start: None,
    };
    assert_eq!(active, [known]);
}

/// Kafka's: the records' time, or the marker's if that is the last that is known.
#[test]
fn operators_are_told_the_time_of_the_last_batch() {
    let mut t = Transactions::new();
    let told = |t: &Transactions| t.map.active().map(|known| known.last_timestamp_ms).collect::<Vec<_>>();
    assert_eq!((t.write(1, 0, 0, 1), told(&t)), (OK, vec![1000]));
    assert_eq!((t.end(1, 0, 0, true), told(&t)), (OK, vec![0]));
    assert_eq!((t.write(1, 0, 1, 1), told(&t)), (OK, vec![1002]));
}

/// What a group coordinator writes for producers has no sequence.
#[test]
fn coordinators_do_not_number_what_they_write() {
    let mut t = Transactions::new();
    for _ in 0..3 {
        assert_eq!(t.write_as(Verified::Own, 1, 0, -1, 1), OK);
    }
    assert_eq!((t.end(1, 0, 0, false), t.aborted()), (OK, vec![(1, 0, 3, 4)]));
    assert_eq!(t.write_as(Verified::Own, 1, -1, -1, 1), Err(47));
}

#[test]
fn who_is_in_a_transaction_is_not_forgotten() {
    let mut t = Transactions::new();
    t.map = ProducerStateMap::new(0, 8);
    assert_eq!(t.write(1, 0, 0, 1), OK);
    for id in 2..20 {
        assert_eq!(t.append(batch(id, 0, 0, 1, 0), None, Verified::Not), OK);
    }
    assert!(t.map.len() <= 8);
    t.map.expire(i64::MAX, 1);
    assert_eq!((t.map.len(), t.map.first_undecided()), (1, Some(0)));
    t.end(1, 0, 0, true).unwrap();
    t.map.expire(i64::MAX, 1);
    assert!(t.map.is_empty());
}

/// Whatever a log is cut back to, and from whichever snapshot it is replayed: the state is the same afterwards.
#[test]
fn transactions_survive_snapshots_replay_and_truncation() {
    let mut t = Transactions::new();
    let steps = [
        t.write(1, 0, 0, 3),
        t.write(2, 5, 0, 2),
        t.end(1, 1, 7, false),
        t.write(1, 1, 0, 2),
        t.write(3, 0, 0, 1),
    ];
    assert_eq!(steps, [OK; 5]);
    let steps = [t.end(2, 5, 7, true), t.end(1, 2, 7, false), t.write(2, 5, 2, 1), t.end(4, 0, 7, false)];
    assert_eq!(steps, [OK; 4]);
    let replayed = |mut map: ProducerStateMap| {
        for (header, marker) in &t.log {
            map.apply(header, marker.as_ref(), 0);
        }
        map
    };
    let mut map = ProducerStateMap::new(0, 100);
    for (header, marker) in &t.log {
        map.apply(header, marker.as_ref(), 0);
        let cut = t.map.clone().truncated(map.end_offset(), &t.ended);
        assert_eq!(cut.first_undecided(), map.first_undecided(), "cut at {}", map.end_offset());
        let again = ProducerStateMap::decode(&cut.encode(), 100).unwrap();
        assert_eq!(again, cut);
        assert_eq!(replayed(again), t.map, "cut at {}", map.end_offset());
    }
    assert_eq!(map, t.map);
}

/// A snapshot that was written before transactions were known.
#[test]
fn older_snapshots_are_read() {
    let mut map = ProducerStateMap::new(0, 100);
    map.apply(&batch(1, 4, 7, 3, 0), None, 9);
    let new = map.encode();
    // Version, checksum, end, count, id, epoch, time: then 20 bytes that version 1 had not.
    let mut old = [&new[..36], &new[56..]].concat();
    old[1] = 1;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&old[..2]), &old[6..]);
    old[2..6].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(ProducerStateMap::decode(&old, 100), Ok(map));
}
