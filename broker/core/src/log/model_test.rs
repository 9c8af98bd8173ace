//! The partition log against a model that cannot be wrong: a list of all batches ever stored.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, WalPosition};
use crate::record_batch::{BatchBuilder, BatchHeader, BatchLimits, Origin, TimestampType, check_produced};

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
    let up_to = prop_oneof![Just(ReadUpTo::HighWatermark), Just(ReadUpTo::DurableEnd)];
    let slip = prop_oneof![8 => Just(0), 1 => Just(1), 1 => Just(-1)];
    let op = prop_oneof![
        6 => (0i64..4, 1i32..4, slip.clone(), slip)
            .prop_map(|(producer, records, sequence, epoch)| {
                Op::Produce { producer, records, sequence, epoch: epoch as i16 }
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
    bytes: Vec<u8>,
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
            Op::Produce { producer, records, sequence, epoch } => {
                self.produce(producer, records, sequence, epoch)
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
    }

    /// The offset behind the first `count` batches.
    fn end_of(&self, count: usize) -> Offset {
        count.checked_sub(1).map_or(0, |last| self.stored[last].header.next_offset())
    }

    fn boundary(&self, choice: usize, count: usize) -> Offset {
        self.end_of(choice % (count + 1))
    }

    /// A producer's batches under its newest epoch.
    fn batches_of(&self, id: i64) -> Vec<&BatchHeader> {
        let all = self.stored.iter().map(|stored| &stored.header).filter(|header| header.producer_id.0 == id);
        let newest = all.clone().next_back().map(|header| header.producer_epoch);
        all.filter(|header| Some(header.producer_epoch) == newest).collect()
    }

    fn produce(&mut self, producer: i64, records: i32, slip: i32, epoch_slip: i16) {
        self.clock += 1;
        let mut builder = BatchBuilder::new();
        if producer > 0 {
            let last = self
                .batches_of(producer)
                .last()
                .map(|last| (last.producer_epoch.0, last.last_sequence() + 1));
            let (epoch, next) = last.unwrap_or((5, 0));
            let next = if epoch_slip > 0 { 0 } else { next };
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
        self.offer(builder.build());
    }

    /// Sends a batch again as the producer sent it first.
    fn retry(&mut self, which: usize) {
        let Some(stored) = which.checked_rem(self.stored.len()).and_then(|index| self.stored.get(index))
        else {
            return;
        };
        let mut bytes = stored.bytes.clone();
        crate::record_batch::patch_base(&mut bytes, 0, LeaderEpoch(-1)).unwrap();
        self.offer(bytes);
    }

    fn offer(&mut self, mut bytes: Vec<u8>) {
        let limits = BatchLimits {
            max_message_bytes: 1 << 20,
            before_max_ms: i64::MAX,
            after_max_ms: i64::MAX,
            timestamp_type: TimestampType::CreateTime,
            now_ms: self.clock,
            needs_keys: false,
            origin: Origin::Client,
        };
        let batch = check_produced(&bytes, &limits).unwrap();
        let expected = self.expected(&batch.header);
        let before = self.log.log_end();
        match self.log.append(&batch, self.clock) {
            Ok(Appended::New { base_offset, last_offset, leader_epoch, append_time_ms }) => {
                assert_eq!(expected, Expected::New);
                assert_eq!((base_offset, last_offset), (before, before + i64::from(batch.record_count) - 1));
                assert_eq!((leader_epoch.0, append_time_ms), (self.epoch, -1));
                batch.patch(&mut bytes, base_offset, leader_epoch).unwrap();
                let header = BatchHeader::parse(&bytes).unwrap();
                self.stored.push(Stored { header, bytes });
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
    fn expected(&self, header: &BatchHeader) -> Expected {
        let known = self.batches_of(header.producer_id.0);
        let Some(last) = known.last().filter(|_| header.has_producer()) else { return Expected::New };
        if header.producer_epoch != last.producer_epoch {
            let newer = header.producer_epoch > last.producer_epoch;
            return match (newer, header.base_sequence) {
                (true, 0) => Expected::New,
                (true, _) => Expected::Refused(45),
                (false, _) => Expected::Refused(47),
            };
        }
        let same = |old: &&&BatchHeader| {
            (old.base_sequence, old.record_count) == (header.base_sequence, header.record_count)
        };
        match known.iter().rev().take(5).find(same) {
            Some(first) => Expected::Duplicate(first.base_offset, first.last_offset()),
            None if header.base_sequence == last.last_sequence() + 1 => Expected::New,
            None => Expected::Refused(45),
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
            ReadUpTo::DurableEnd => self.log.durable_end(),
        };
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

    /// What recovery does: a snapshot from some moment, and all batches stored after it.
    fn replay(&self, snapshot_at: usize, to: usize) -> ProducerStateMap {
        let mut map = ProducerStateMap::new(0, PRODUCERS);
        for stored in &self.stored[..snapshot_at % (to + 1)] {
            map.apply(&stored.header, self.clock);
        }
        let mut map = ProducerStateMap::decode(&map.encode(), PRODUCERS).unwrap();
        for stored in &self.stored[..to] {
            map.apply(&stored.header, self.clock);
        }
        map
    }

    /// Follows another leader for a moment, who lacks what is above the high watermark.
    fn truncate(&mut self, at: usize) {
        let offset = self.boundary(at, self.stored.len());
        let keep = self.stored.iter().take_while(|stored| stored.header.next_offset() <= offset).count();
        let producers = self.replay(at, keep);
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
        self.log = PartitionLog::new(Recovered {
            log_start,
            segment_end,
            high_watermark: self.boundary(high_watermark, self.durable).max(log_start),
            log_end,
            leader_epochs,
            producers: self.replay(snapshot_at, self.durable),
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
