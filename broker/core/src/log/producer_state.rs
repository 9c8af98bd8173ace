//! What a partition remembers of its idempotent producers (KIP-98), as Kafka's `ProducerStateManager`.
//!
//! A producer numbers its records. The last batches of each producer are kept, so that one that is sent again is
//! recognised and answered with the offsets of the first; any other number than the next is refused.

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use super::codec::{Reader, SnapshotError, Writer};
use crate::ids::{Offset, ProducerEpoch, ProducerId};
use crate::record_batch::BatchHeader;

const VERSION: u16 = 1;
/// A Java producer has at most this many batches under way; so many are recognised when they come again.
const BATCHES_KEPT: usize = 5;

/// What is to be done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    Accept,
    /// It is in the log already, or on its way there.
    Duplicate {
        base_offset: Offset,
        last_offset: Offset,
        append_time_ms: i64,
    },
}

/// Why an idempotent producer's batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProducerError {
    /// INVALID_PRODUCER_EPOCH: a newer incarnation of the producer has written.
    #[error("producer {id} has epoch {current}, the batch is of epoch {epoch}")]
    StaleEpoch { id: ProducerId, epoch: ProducerEpoch, current: ProducerEpoch },
    /// OUT_OF_ORDER_SEQUENCE_NUMBER: a batch before this one is missing, or this one is older than what is kept.
    #[error("producer {id} sent sequence {sequence}, {expected} is next")]
    OutOfOrder { id: ProducerId, sequence: i32, expected: i32 },
}

impl ProducerError {
    pub fn kafka_code(&self) -> i16 {
        match self {
            ProducerError::StaleEpoch { .. } => 47,
            ProducerError::OutOfOrder { .. } => 45,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    base_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
    last_offset: Offset,
    /// The stored batch's latest timestamp: what Kafka answers a duplicate with.
    append_time_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: ProducerEpoch,
    last_append_ms: i64,
    /// Newest last; none of another epoch than `epoch`; never empty.
    batches: VecDeque<Batch>,
}

/// The producers of one partition, up to [`ProducerStateMap::end_offset`].
///
/// Two steps: [`check`](Self::check) decides, [`apply`](Self::apply) records what was appended. A recovering or
/// following replica only applies. Memory is bounded: of more than `max_producers`, those that were silent longest
/// are forgotten, as if expired; their next batch is then taken with whatever sequence it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerStateMap {
    producers: BTreeMap<ProducerId, Producer>,
    end_offset: Offset,
    max_producers: usize,
}

impl ProducerStateMap {
    /// Nothing known of what lies below `end_offset`. At least one producer is kept.
    pub fn new(end_offset: Offset, max_producers: usize) -> ProducerStateMap {
        ProducerStateMap { producers: BTreeMap::new(), end_offset, max_producers: max_producers.max(1) }
    }

    /// All batches below this offset have been applied.
    pub fn end_offset(&self) -> Offset {
        self.end_offset
    }

    /// The last offset of every producer's newest batch.
    pub fn last_offsets(&self) -> impl Iterator<Item = (ProducerId, Offset)> {
        self.producers.iter().map(|(id, producer)| (*id, last_of(producer)))
    }

    /// Number of producers known.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Decides about a produced batch whose header has been validated.
    ///
    /// A producer that is not known may begin with any sequence, as since Kafka 2.5 (KIP-360): its earlier batches
    /// may have been deleted, and UNKNOWN_PRODUCER_ID is no longer answered to a produce request.
    ///
    /// # Errors
    /// See [`ProducerError`].
    pub fn check(&self, header: &BatchHeader) -> Result<Checked, ProducerError> {
        let BatchHeader { producer_id: id, producer_epoch: epoch, base_sequence: sequence, .. } = *header;
        if !header.has_producer() {
            return Ok(Checked::Accept);
        }
        let Some(known) = self.producers.get(&id) else { return Ok(Checked::Accept) };
        if epoch < known.epoch {
            return Err(ProducerError::StaleEpoch { id, epoch, current: known.epoch });
        }
        let expected = match known.batches.back() {
            Some(last) if epoch == known.epoch => next_sequence(last.last_sequence),
            _ => 0,
        };
        let duplicate = known.batches.iter().find(|batch| {
            epoch == known.epoch
                && batch.base_sequence == sequence
                && batch.last_sequence == header.last_sequence()
        });
        match duplicate {
            Some(first) => Ok(Checked::Duplicate {
                base_offset: first.base_offset,
                last_offset: first.last_offset,
                append_time_ms: first.append_time_ms,
            }),
            None if sequence == expected => Ok(Checked::Accept),
            None => Err(ProducerError::OutOfOrder { id, sequence, expected }),
        }
    }

    /// Records a batch as it is stored. What lies below `end_offset` is known already and is passed over, so a log
    /// may be replayed over a newer snapshot.
    pub fn apply(&mut self, stored: &BatchHeader, now_ms: i64) {
        if stored.base_offset < self.end_offset {
            return;
        }
        self.end_offset = stored.next_offset();
        // A marker of a transaction has no sequence and is no batch to be recognised.
        if !stored.has_producer() || stored.is_control() || stored.base_sequence < 0 {
            return;
        }
        let epoch = stored.producer_epoch;
        let producer = self.producers.entry(stored.producer_id).or_insert_with(|| Producer {
            epoch,
            last_append_ms: now_ms,
            batches: VecDeque::new(),
        });
        if producer.epoch != epoch {
            producer.epoch = epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == BATCHES_KEPT {
            producer.batches.pop_front();
        }
        producer.last_append_ms = now_ms;
        producer.batches.push_back(Batch {
            base_sequence: stored.base_sequence,
            last_sequence: stored.last_sequence(),
            base_offset: stored.base_offset,
            last_offset: stored.last_offset(),
            append_time_ms: stored.max_timestamp,
        });
        if self.producers.len() > self.max_producers {
            self.forget_the_most_silent();
        }
    }

    /// The same state for a log that ends at `end` or later: what lies between held no producer's batch.
    pub fn reaching(mut self, end: Offset) -> ProducerStateMap {
        self.end_offset = self.end_offset.max(end);
        self
    }

    /// The state without the batches that begin at `end` or later. One that `end` lies within stays: a log may begin there
    /// (DeleteRecords), and its batch is never applied to this state again. Of a producer, older batches than the last
    /// five are not known: one of whose kept batches all were cut is forgotten, as if it had expired.
    pub fn truncated(mut self, end: Offset) -> ProducerStateMap {
        for producer in self.producers.values_mut() {
            producer.batches.retain(|batch| batch.base_offset < end);
        }
        self.producers.retain(|_, producer| !producer.batches.is_empty());
        self.end_offset = self.end_offset.min(end);
        self
    }

    /// Forgets producers that have not written for `expiration_ms` (`producer.id.expiration.ms`).
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.retain(|_, producer| now_ms.saturating_sub(producer.last_append_ms) < expiration_ms);
    }

    /// Makes room for an eighth at once, so that the search is not paid with each newcomer. Offsets tell who wrote
    /// last; clocks may go back.
    fn forget_the_most_silent(&mut self) {
        let mut by_age: Vec<_> =
            self.producers.iter().map(|(id, producer)| (last_of(producer), *id)).collect();
        let surplus = (self.producers.len() - self.max_producers + self.max_producers / 8).min(by_age.len());
        by_age.sort_unstable();
        for (_, id) in by_age.into_iter().take(surplus) {
            self.producers.remove(&id);
        }
    }

    /// A snapshot at `end_offset`. It may be used only with a log that reaches there: whoever writes it while
    /// batches below are in flight waits for them to be durable first.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION);
        out.put(self.end_offset.to_be_bytes());
        out.put((self.producers.len() as i32).to_be_bytes());
        for (id, producer) in &self.producers {
            out.put(id.0.to_be_bytes());
            out.put(producer.epoch.0.to_be_bytes());
            out.put(producer.last_append_ms.to_be_bytes());
            out.put([producer.batches.len() as u8]);
            for batch in &producer.batches {
                out.put(batch.base_sequence.to_be_bytes());
                out.put(batch.last_sequence.to_be_bytes());
                out.put(batch.base_offset.to_be_bytes());
                out.put(batch.last_offset.to_be_bytes());
                out.put(batch.append_time_ms.to_be_bytes());
            }
        }
        out.seal()
    }

    /// # Errors
    /// Anything but the bytes of an [`ProducerStateMap::encode`], whole and undamaged.
    pub fn decode(bytes: &[u8], max_producers: usize) -> Result<ProducerStateMap, SnapshotError> {
        let mut reader = Reader::open(bytes, VERSION)?;
        let mut map = ProducerStateMap::new(reader.i64()?, max_producers);
        for _ in 0..reader.i32()? {
            let id = ProducerId(reader.i64()?);
            let epoch = ProducerEpoch(reader.i16()?);
            let last_append_ms = reader.i64()?;
            let count = usize::from(reader.u8()?);
            if !(1..=BATCHES_KEPT).contains(&count) {
                return Err(SnapshotError::Malformed);
            }
            let mut batches = VecDeque::with_capacity(BATCHES_KEPT);
            for _ in 0..count {
                batches.push_back(Batch {
                    base_sequence: reader.i32()?,
                    last_sequence: reader.i32()?,
                    base_offset: reader.i64()?,
                    last_offset: reader.i64()?,
                    append_time_ms: reader.i64()?,
                });
            }
            map.producers.insert(id, Producer { epoch, last_append_ms, batches });
        }
        reader.end()?;
        if map.producers.len() > map.max_producers {
            map.forget_the_most_silent();
        }
        Ok(map)
    }
}

/// Sequences wrap from `i32::MAX` to 0.
fn next_sequence(last: i32) -> i32 {
    last.checked_add(1).unwrap_or(0)
}

fn last_of(producer: &Producer) -> Offset {
    producer.batches.back().map_or(-1, |batch| batch.last_offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record_batch::BatchBuilder;

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
    fn offer(
        map: &mut ProducerStateMap,
        id: i64,
        epoch: i16,
        sequence: i32,
        count: i32,
    ) -> Result<Checked, i16> {
        let header = batch(id, epoch, sequence, count, map.end_offset());
        let checked = map.check(&header).map_err(|error| error.kafka_code());
        if checked == Ok(Checked::Accept) {
            map.apply(&header, 0);
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
        map.apply(&marker, 0);
        assert_eq!((map.len(), map.end_offset()), (0, 8));
    }

    #[test]
    fn the_silent_are_forgotten_by_time_and_by_number() {
        let mut map = ProducerStateMap::new(0, 16);
        for id in 0..16 {
            map.apply(&batch(id, 0, 0, 1, id), 100 + id);
        }
        map.expire(1000, 895);
        assert_eq!(map.len(), 10, "those at 106 and later");
        for id in 16..22 {
            map.apply(&batch(id, 0, 0, 1, id), 100 + id);
        }
        map.apply(&batch(99, 0, 0, 1, 50), 200);
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
            let mut cut = map.clone().truncated(end);
            assert_eq!(cut.end_offset(), end);
            for base_offset in [0, 3, 6] {
                cut.apply(&batch(1, 0, base_offset as i32, 3, base_offset), 0);
            }
            assert_eq!(cut, map, "replayed from {end}");
        }
        assert!(map.truncated(0).is_empty());
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
        again.apply(&batch(1, 4, 3, 3, 6), 5);
        assert_eq!(again, map, "what a snapshot holds is not applied twice");
        assert_eq!(ProducerStateMap::decode(&bytes, 1).unwrap().len(), 1);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(ProducerStateMap::decode(&damaged, 100).is_err(), "byte {at}");
            assert!(ProducerStateMap::decode(&bytes[..at], 100).is_err(), "cut at {at}");
        }
    }
}
