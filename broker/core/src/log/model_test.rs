//! The partition log against a model that cannot be wrong: a list of all batches ever stored.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, WalPosition};
use crate::record_batch::{
    BatchBuilder, BatchHeader, BatchLimits, Origin, TimestampType, Verified, check_produced,
};

const PRODUCERS: usize = 100;

/// Numbers are taken modulo what there is to choose from.
#[derive(Clone, Debug)]
enum Op {
    /// Sequence and epoch relative to what the producer's next would be. Producer 0 is not idempotent.
    Produce {
        producer: i64,
        records: i32,
        sequence: i32,
        epoch: i16,
        transactional: bool,
        verified: bool,
    },
    /// Epochs relative to what was last written.
    End {
        producer: i64,
        commit: bool,
        epoch: i16,
        coordinator: i32,
    },
    Retry {
        which: usize,
    },
    Flush {
        batches: usize,
        in_memory: bool,
    },
    Evict {
        bytes: usize,
    },
    InSegments {
        up_to: usize,
    },
    Delete {
        up_to: usize,
    },
    Read {
        from: i64,
        max_bytes: usize,
        at_least_one: bool,
        up_to: ReadUpTo,
    },
    Search {
        target: i64,
        from: i64,
    },
    Truncate {
        at: usize,
    },
    Restart {
        high_watermark: usize,
        snapshot_at: usize,
        run: usize,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let up_to = prop_oneof![
        Just(ReadUpTo::HighWatermark),
        Just(ReadUpTo::LastStableOffset),
        Just(ReadUpTo::DurableEnd)
    ];
    let slip = prop_oneof![8 => Just(0), 1 => Just(1), 1 => Just(-1)];
    let op = prop_oneof![
        6 => (0i64..4, 1i32..4, slip.clone(), slip.clone(), any::<bool>(), prop::bool::weighted(0.9))
            .prop_map(|(producer, records, sequence, epoch, transactional, verified)| {
                Op::Produce { producer, records, sequence, epoch: epoch as i16, transactional, verified }
            }),
        3 => (1i64..4, any::<bool>(), slip.clone(), slip).prop_map(|(producer, commit, epoch, coordinator)| {
            Op::End { producer, commit, epoch: epoch as i16, coordinator }
        }),
        2 => any::<usize>().prop_map(|which| Op::Retry { which }),
        5 => (1usize..5, any::<bool>()).prop_map(|(batches, in_memory)| Op::Flush { batches, in_memory }),
        1 => (0usize..600).prop_map(|bytes| Op::Evict { bytes }),
        1 => any::<usize>().prop_map(|up_to| Op::InSegments { up_to }),
        1 => any::<usize>().prop_map(|up_to| Op::Delete { up_to }),
        8 => (any::<i64>(), 0usize..800, any::<bool>(), up_to).prop_map(
            |(from, max_bytes, at_least_one, up_to)| Op::Read { from, max_bytes, at_least_one, up_to }),
        2 => (-10i64..100, any::<i64>()).prop_map(|(target, from)| Op::Search { target, from }),
        1 => any::<usize>().prop_map(|at| Op::Truncate { at }),
        1 => (any::<usize>(), any::<usize>(), 1usize..5)
            .prop_map(|(high_watermark, snapshot_at, run)| Op::Restart { high_watermark, snapshot_at, run }),
    ];
    proptest::collection::vec(op, 1..150)
}

struct Stored {
    header: BatchHeader,
    marker: Option<EndMarker>,
    bytes: Vec<u8>,
}

/// What a walk over the batches shows of transactions.
#[derive(Default)]
struct Transactions {
    /// First offsets by producer.
    ongoing: BTreeMap<ProducerId, Offset>,
    /// First offset, the marker's, and whether it was committed; by producer.
    ended: Vec<(ProducerId, Offset, Offset, bool)>,
}

struct Model {
    log: PartitionLog,
    /// Every batch that was given offsets and not truncated, deleted ones too.
    stored: Vec<Stored>,
    durable: usize,
    /// What the WAL would read back at each position.
    wal: Vec<Bytes>,
    epoch: i32,
    clock: i64,
}

impl Model {
    fn new() -> Model {
        let mut log = PartitionLog::empty(PRODUCERS);
        log.become_leader(LeaderEpoch(0)).unwrap();
        Model { log, stored: vec![], durable: 0, wal: vec![], epoch: 0, clock: 0 }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Produce { producer, records, sequence, epoch, transactional, verified } => {
                self.produce(producer, records, sequence, epoch, transactional, verified)
            }
            Op::End { producer, commit, epoch, coordinator } => {
                self.end(producer, commit, epoch, coordinator)
            }
            Op::Retry { which } => self.retry(which),
            Op::Flush { batches, in_memory } => self.flush(batches, in_memory),
            Op::Evict { bytes } => {
                let before = self.log.tail().memory_bytes();
                let freed = self.log.evict(bytes);
                assert!(freed >= bytes.min(before));
                assert_eq!(self.log.tail().memory_bytes(), before - freed);
            }
            Op::InSegments { up_to } => self.log.in_segments(self.boundary(up_to, self.durable)).unwrap(),
            Op::Delete { up_to } => {
                let offset = (up_to as i64).rem_euclid(self.log.high_watermark() + 1);
                self.log.log_start_to(offset).unwrap();
                assert!(self.log.log_start_to(self.log.high_watermark() + 1).is_err());
            }
            Op::Read { from, max_bytes, at_least_one, up_to } => {
                let from = from.rem_euclid(self.log.log_end() + 3) - 1;
                self.read(ReadRequest { from, max_bytes, at_least_one, up_to });
            }
            Op::Search { target, from } => self.search(target, from.rem_euclid(self.log.log_end() + 1)),
            Op::Truncate { at } => self.truncate(at),
            Op::Restart { high_watermark, snapshot_at, run } => {
                self.restart(high_watermark, snapshot_at, run)
            }
        }
        assert_eq!(self.log.log_end(), self.end_of(self.stored.len()));
        assert_eq!(self.log.durable_end(), self.end_of(self.durable));
        assert_eq!(self.log.last_stable_offset(), self.last_stable_offset());
    }

    fn transactions(&self, stored: &[Stored]) -> Transactions {
        let mut found = Transactions::default();
        for Stored { header, marker, .. } in stored {
            let id = header.producer_id;
            if let Some(marker) = marker {
                let ended =
                    found.ongoing.remove(&id).map(|first| (id, first, header.base_offset, marker.commit));
                found.ended.extend(ended);
            } else if header.is_transactional() {
                found.ongoing.entry(id).or_insert(header.base_offset);
            }
        }
        found
    }

    fn last_stable_offset(&self) -> Offset {
        let Transactions { ongoing, ended } = self.transactions(&self.stored);
        let high_watermark = self.log.high_watermark();
        let uncommitted = ended.iter().filter(|(_, _, marker, _)| *marker >= high_watermark);
        let unstable = ongoing.into_values().chain(uncommitted.map(|(_, first, ..)| *first)).min();
        unstable.map_or(high_watermark, |first| first.clamp(self.log.log_start(), high_watermark))
    }

    /// What a reader of these offsets is told to leave out, and what is ongoing at `from`.
    fn aborted(&self, from: Offset, to: Offset) {
        let ended = self.transactions(&self.stored).ended;
        let log_start = self.log.log_start();
        let expected: Vec<_> = ended
            .iter()
            .filter(|(_, first, marker, commit)| !commit && *marker >= from.max(log_start) && *first < to)
            .map(|(id, first, marker, _)| (*id, *first, *marker))
            .collect();
        let found = self.log.aborted_between(from, to);
        let found: Vec<_> = found.iter().map(|t| (t.producer_id, t.first_offset, t.last_offset)).collect();
        assert_eq!(found, expected, "{from} to {to}");
        let before = self.stored.iter().take_while(|stored| stored.header.next_offset() <= from).count();
        if from >= self.log.segment_end() && self.end_of(before) == from {
            let then = self.transactions(&self.stored[..before]).ongoing.into_values().min();
            assert_eq!(self.log.producers_at(from).first_undecided(), then, "at {from}");
        }
    }

    /// The offset behind the first `count` batches.
    fn end_of(&self, count: usize) -> Offset {
        count.checked_sub(1).map_or(0, |last| self.stored[last].header.next_offset())
    }

    fn boundary(&self, choice: usize, count: usize) -> Offset {
        self.end_of(choice % (count + 1))
    }

    /// A producer's newest epoch, which a marker may have begun.
    fn epoch_of(&self, id: i64) -> Option<ProducerEpoch> {
        let last = self.stored.iter().rfind(|stored| stored.header.producer_id.0 == id);
        last.map(|stored| stored.header.producer_epoch)
    }

    /// A producer's batches of records under its newest epoch.
    fn batches_of(&self, id: i64) -> Vec<&BatchHeader> {
        let newest = self.epoch_of(id);
        let all = self.stored.iter().map(|stored| &stored.header).filter(|header| header.producer_id.0 == id);
        all.filter(|header| !header.is_control() && Some(header.producer_epoch) == newest).collect()
    }

    fn coordinator_epoch(&self, id: i64) -> Option<i32> {
        let mut newest_first = self.stored.iter().rev().filter_map(|stored| stored.marker);
        newest_first.find(|marker| marker.producer_id.0 == id).map(|marker| marker.coordinator_epoch)
    }

    fn end(&mut self, producer: i64, commit: bool, epoch_slip: i16, coordinator_slip: i32) {
        self.clock += 1;
        let epoch = self.epoch_of(producer).map_or(5, |epoch| epoch.0);
        let marker = EndMarker {
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(epoch + epoch_slip),
            coordinator_epoch: self.coordinator_epoch(producer).unwrap_or(3) + coordinator_slip,
            commit,
        };
        self.offer(marker.batch(self.clock), Origin::Coordinator, true);
    }

    fn produce(
        &mut self,
        producer: i64,
        records: i32,
        slip: i32,
        epoch_slip: i16,
        transactional: bool,
        verified: bool,
    ) {
        self.clock += 1;
        let mut builder = BatchBuilder::new();
        if producer > 0 {
            let epoch = self.epoch_of(producer).map_or(5, |epoch| epoch.0);
            let next = self.batches_of(producer).last().map_or(0, |last| last.last_sequence() + 1);
            let next = if epoch_slip > 0 { 0 } else { next };
            if transactional {
                builder = builder.transactional();
            }
            builder = builder.producer(
                ProducerId(producer),
                ProducerEpoch(epoch + epoch_slip),
                (next + slip).max(0),
            );
        }
        for record in 0..records {
            let value = vec![self.clock as u8; (self.clock % 50) as usize];
            builder = builder.record(self.clock - i64::from(record) * 3, None, Some(&value));
        }
        self.offer(builder.build(), Origin::Client, verified);
    }

    /// Sends a batch again as the producer sent it first.
    fn retry(&mut self, which: usize) {
        let Some(stored) = which.checked_rem(self.stored.len()).and_then(|index| self.stored.get(index))
        else {
            return;
        };
        if stored.marker.is_some() {
            return;
        }
        let mut bytes = stored.bytes.clone();
        crate::record_batch::patch_base(&mut bytes, 0, LeaderEpoch(-1)).unwrap();
        self.offer(bytes, Origin::Client, true);
    }

    fn offer(&mut self, mut bytes: Vec<u8>, origin: Origin, verified: bool) {
        let limits = BatchLimits {
            max_message_bytes: 1 << 20,
            before_max_ms: i64::MAX,
            after_max_ms: i64::MAX,
            timestamp_type: TimestampType::CreateTime,
            now_ms: self.clock,
            needs_keys: false,
            origin,
        };
        let mut batch = check_produced(&bytes, &limits).unwrap();
        let BatchHeader { producer_id, producer_epoch, .. } = batch.header;
        if verified && let Some(needed) = self.log.verification(producer_id, producer_epoch, false) {
            batch.verified = needed;
        }
        let expected = self.expected(&batch.header, batch.marker, batch.verified != Verified::Not);
        let before = self.log.log_end();
        match self.log.append(&batch, self.clock) {
            Ok(Appended::New { base_offset, last_offset, leader_epoch, append_time_ms }) => {
                assert_eq!(expected, Expected::New);
                assert_eq!((base_offset, last_offset), (before, before + i64::from(batch.record_count) - 1));
                assert_eq!((leader_epoch.0, append_time_ms), (self.epoch, -1));
                batch.patch(&mut bytes, base_offset, leader_epoch).unwrap();
                let header = BatchHeader::parse(&bytes).unwrap();
                self.stored.push(Stored { header, marker: batch.marker, bytes });
            }
            Ok(Appended::Duplicate { base_offset, last_offset, .. }) => {
                assert_eq!(expected, Expected::Duplicate(base_offset, last_offset));
                assert_eq!(
                    self.log.duplicate_is_durable(last_offset),
                    last_offset < self.end_of(self.durable)
                );
            }
            Err(error) => assert_eq!(expected, Expected::Refused(error.kafka_code())),
        }
    }

    /// The rules of idempotence, read off the whole log.
    fn expected(&self, header: &BatchHeader, marker: Option<EndMarker>, verified: bool) -> Expected {
        if !header.has_producer() {
            return Expected::New;
        }
        let id = header.producer_id;
        let epoch = self.epoch_of(id.0);
        let known = self.batches_of(id.0);
        let same = |old: &&&BatchHeader| {
            (old.producer_epoch, old.base_sequence, old.record_count)
                == (header.producer_epoch, header.base_sequence, header.record_count)
        };
        if let Some(first) = known.iter().rev().take(5).find(same).filter(|_| marker.is_none()) {
            return Expected::Duplicate(first.base_offset, first.last_offset());
        }
        let ongoing = self.transactions(&self.stored).ongoing.contains_key(&id);
        let goes_on = ongoing && epoch == Some(header.producer_epoch);
        // As in Kafka, who is fenced is told that, whether its transaction is known or not.
        if epoch.is_some_and(|epoch| header.producer_epoch < epoch) {
            return Expected::Refused(47);
        }
        if header.is_transactional() && !goes_on && !verified {
            return Expected::Refused(48);
        }
        let next = known.last().map_or(0, |last| last.last_sequence() + 1);
        let next = if epoch == Some(header.producer_epoch) { next } else { 0 };
        match marker {
            Some(marker)
                if self.coordinator_epoch(id.0).is_some_and(|known| marker.coordinator_epoch < known) =>
            {
                Expected::Refused(52)
            }
            Some(_) => Expected::New,
            None if epoch.is_some() && header.base_sequence != next => Expected::Refused(45),
            None if ongoing && !header.is_transactional() => Expected::Refused(48),
            None => Expected::New,
        }
    }

    fn run(&mut self, from: usize, to: usize, in_memory: bool) -> Run {
        let batches = &self.stored[from..to];
        let bytes = Bytes::from(batches.iter().flat_map(|stored| stored.bytes.clone()).collect::<Vec<u8>>());
        self.wal.push(bytes.clone());
        Run {
            base_offset: batches[0].header.base_offset,
            last_offset: batches[to - from - 1].header.last_offset(),
            span: WalSpan { position: WalPosition(self.wal.len() as u64 - 1), len: bytes.len() as u32 },
            max_timestamp: batches.iter().map(|stored| stored.header.max_timestamp).max().unwrap(),
            bytes: in_memory.then_some(bytes),
        }
    }

    fn flush(&mut self, batches: usize, in_memory: bool) {
        let to = self.stored.len().min(self.durable + batches);
        if to == self.durable {
            return;
        }
        let run = self.run(self.durable, to, in_memory);
        let end = run.next_offset();
        assert_eq!(self.log.durable(run.clone()), Ok(Advanced { durable_end: end, high_watermark: end }));
        assert!(self.log.durable(run).is_err(), "not twice");
        self.durable = to;
    }

    fn read(&self, request: ReadRequest) {
        let ReadRequest { from, max_bytes, at_least_one, up_to } = request;
        let limit = match up_to {
            ReadUpTo::HighWatermark => self.log.high_watermark(),
            ReadUpTo::LastStableOffset => self.log.last_stable_offset(),
            ReadUpTo::DurableEnd => self.log.durable_end(),
        };
        self.aborted(from, limit);
        let wanted: Vec<&Stored> = self
            .stored
            .iter()
            .filter(|stored| stored.header.last_offset() >= from && stored.header.next_offset() <= limit)
            .collect();
        let fits = wanted.first().is_some_and(|first| at_least_one || first.bytes.len() <= max_bytes);
        let all: Vec<u8> = wanted.iter().flat_map(|stored| stored.bytes.clone()).collect();
        let got = match self.log.read(&request) {
            Err(error) => {
                assert!(from < self.log.log_start() || from > self.log.log_end(), "{error}");
                return;
            }
            Ok(ReadPlan::Empty) => vec![],
            Ok(ReadPlan::Memory(slices)) => slices.concat(),
            Ok(ReadPlan::Wal { span, up_to }) => {
                let run = self.log.tail().find(from).unwrap();
                assert!(up_to <= limit && run.last_offset >= self.log.segment_end(), "the WAL may be gone");
                let read = &self.wal[span.position.0 as usize];
                assert!(span.len as usize <= read.len());
                trim_run(read, from, max_bytes, at_least_one, up_to).to_vec()
            }
            Ok(ReadPlan::Segment { from: at, up_to }) => {
                assert!(at == from && from < up_to && up_to <= limit && up_to <= self.log.segment_end());
                return;
            }
        };
        assert!(all.starts_with(&got), "not the batches from {from} on");
        assert_eq!(got.is_empty(), !fits, "{request:?}");
        let first = wanted.first().map_or(0, |first| first.bytes.len());
        assert!(got.len() <= max_bytes.max(first), "{} bytes for {request:?}", got.len());
    }

    fn search(&self, target: i64, from: Offset) {
        let start = from.max(self.log.log_start());
        let record = |stored: &Stored, offset: Offset| {
            let index = offset - stored.header.base_offset;
            let timestamp = stored.header.base_timestamp - index * 3;
            (timestamp >= target && offset >= start).then_some((timestamp, offset))
        };
        let first = |up_to: Offset| {
            self.stored
                .iter()
                .filter(|stored| stored.header.next_offset() <= up_to)
                .flat_map(|stored| {
                    (stored.header.base_offset..stored.header.next_offset()).map(move |at| (stored, at))
                })
                .find_map(|(stored, offset)| record(stored, offset))
        };
        let expected = first(self.log.high_watermark());
        let mut from = from;
        loop {
            let (up_to, found) = match self.log.offset_for_timestamp(target, from) {
                TimestampPlan::NotFound => return assert_eq!(expected, None),
                TimestampPlan::Found(found) => {
                    return assert_eq!(expected, Some((found.timestamp, found.offset)));
                }
                TimestampPlan::Wal { span, from, up_to } => {
                    let bytes = &self.wal[span.position.0 as usize];
                    let found = find_timestamp(bytes, target, from, up_to);
                    (up_to, found.map(|found| (found.timestamp, found.offset)))
                }
                TimestampPlan::Segment { from: at, up_to } => {
                    assert!(at < up_to && up_to <= self.log.segment_end());
                    (up_to, first(up_to))
                }
            };
            if found.is_some() {
                return assert_eq!(found, expected);
            }
            assert!(up_to > from);
            from = up_to;
        }
    }

    /// What recovery does: a snapshot of so many batches, and all batches stored after it.
    fn replay(&self, snapshot: usize, to: usize) -> (ProducerStateMap, EndedTransactions) {
        let mut map = ProducerStateMap::new(0, PRODUCERS);
        let mut ended = EndedTransactions::default();
        let apply = |map: &mut ProducerStateMap, ended: &mut EndedTransactions, stored: &[Stored]| {
            for Stored { header, marker, .. } in stored {
                if let Some(transaction) = map.apply(header, marker.as_ref(), self.clock) {
                    ended.push(transaction);
                }
            }
        };
        apply(&mut map, &mut ended, &self.stored[..snapshot]);
        let mut map = ProducerStateMap::decode(&map.encode(), PRODUCERS).unwrap();
        let mut ended = EndedTransactions::of(ended.aborted_below(map.end_offset()));
        apply(&mut map, &mut ended, &self.stored[..to]);
        (map, ended)
    }

    /// Follows another leader for a moment, who lacks what is above the high watermark.
    fn truncate(&mut self, at: usize) {
        let offset = self.boundary(at, self.stored.len());
        let keep = self.stored.iter().take_while(|stored| stored.header.next_offset() <= offset).count();
        let (producers, _) = self.replay(at % (keep + 1), keep);
        assert!(self.log.truncate_to(offset, producers.clone()).is_err(), "a leader does not truncate");
        self.log.resign();
        assert!(self.log.become_leader(LeaderEpoch(self.epoch)).is_err(), "a term does not come back");
        match self.log.truncate_to(offset, producers) {
            Ok(()) => {
                assert!(offset >= self.log.high_watermark());
                assert!(self.log.leader_epochs().entries().iter().all(|entry| entry.start_offset < offset));
                self.stored.truncate(keep);
                self.durable = self.durable.min(keep);
            }
            Err(error) => assert!(offset < self.log.high_watermark(), "{error}"),
        }
        self.lead();
    }

    fn lead(&mut self) {
        self.epoch += 1;
        self.log.become_leader(LeaderEpoch(self.epoch)).unwrap();
        assert!(self.log.become_leader(LeaderEpoch(self.epoch - 1)).is_err());
        let (end, epoch) = (self.log.log_end(), LeaderEpoch(self.epoch));
        assert_eq!(self.log.leader_epochs().end_offset_for(epoch, end), Some((epoch, end)));
        for stored in &self.stored {
            let offset = stored.header.base_offset;
            if offset >= self.log.log_start() {
                assert_eq!(self.log.leader_epochs().epoch_for(offset), Some(stored.header.leader_epoch));
            }
        }
    }

    /// Loses what is not durable, and all that is not written down.
    fn restart(&mut self, high_watermark: usize, snapshot_at: usize, run: usize) {
        self.stored.truncate(self.durable);
        let (log_start, segment_end) = (self.log.log_start(), self.log.segment_end());
        let log_end = self.end_of(self.durable);
        let mut runs = vec![];
        let mut at =
            self.stored.iter().take_while(|stored| stored.header.next_offset() <= segment_end).count();
        while at < self.durable {
            let to = self.durable.min(at + run);
            runs.push(self.run(at, to, to.is_multiple_of(2)));
            at = to;
        }
        let mut leader_epochs = LeaderEpochs::decode(&self.log.leader_epochs().encode()).unwrap();
        leader_epochs.truncate_from_end(log_end);
        let high_watermark = self.boundary(high_watermark, self.durable).max(log_start);
        // A snapshot speaks of what is in segments, and of committed records.
        let settled = segment_end.min(high_watermark);
        let settled = self.stored.iter().take_while(|stored| stored.header.next_offset() <= settled).count();
        let (producers, transactions) = self.replay(snapshot_at % (settled + 1), self.durable);
        self.log = PartitionLog::new(Recovered {
            log_start,
            segment_end,
            high_watermark,
            log_end,
            leader_epochs,
            producers,
            transactions,
            runs,
        })
        .unwrap();
        self.lead();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    New,
    Duplicate(Offset, Offset),
    Refused(i16),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Invariants 9 and 10: offsets are dense and unique through retries, restarts and truncations, producers are
    /// told the truth about their duplicates, and readers get the bytes that were stored and none beyond their limit.
    #[test]
    fn the_log_does_as_the_model(ops in ops()) {
        let mut model = Model::new();
        for op in ops {
            model.apply(op);
        }
    }
}
