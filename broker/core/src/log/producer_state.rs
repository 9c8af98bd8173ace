//! What a partition remembers of its producers (KIP-98), as Kafka's `ProducerStateManager`.
//!
//! An idempotent producer numbers its records. The last batches of each are kept, so that one that is sent again is
//! recognised and answered with the offsets of the first; any other number than the next is refused. A transactional
//! producer's records are undecided from the first one of its transaction to the marker that ends it.

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use super::transactions::{AbortedTransaction, Ended, EndedTransactions};
use crate::ids::{Offset, ProducerEpoch, ProducerId};
use crate::record_batch::{BatchHeader, EndMarker, Verified};

/// A Java producer has at most this many batches under way; so many are recognised when they come again.
pub(super) const BATCHES_KEPT: usize = 5;
/// The epoch of a producer that has written nothing.
const NO_EPOCH: ProducerEpoch = ProducerEpoch(-1);

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

/// Why a producer's batch, or a marker of its transaction, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProducerError {
    /// INVALID_PRODUCER_EPOCH: a newer incarnation of the producer has written.
    #[error("producer {id} has epoch {current}, the batch is of epoch {epoch}")]
    StaleEpoch { id: ProducerId, epoch: ProducerEpoch, current: ProducerEpoch },
    /// OUT_OF_ORDER_SEQUENCE_NUMBER: a batch before this one is missing, or this one is older than what is kept.
    #[error("producer {id} sent sequence {sequence}, {expected} is next")]
    OutOfOrder { id: ProducerId, sequence: i32, expected: i32 },
    /// INVALID_TXN_STATE: nobody vouches for the transaction, or it has ended since somebody did.
    #[error("the batch of producer {id} belongs to no ongoing transaction")]
    NotInTransaction { id: ProducerId },
    /// INVALID_TXN_STATE: whoever is in a transaction writes nothing beside it.
    #[error("producer {id} is in a transaction, the batch is not")]
    InTransaction { id: ProducerId },
    /// TRANSACTION_COORDINATOR_FENCED: another coordinator has ended transactions of this producer since.
    #[error("the marker for producer {id} is of coordinator epoch {epoch}, {current} is known")]
    CoordinatorFenced { id: ProducerId, epoch: i32, current: i32 },
}

impl ProducerError {
    pub fn kafka_code(&self) -> i16 {
        match self {
            ProducerError::StaleEpoch { .. } => 47,
            ProducerError::OutOfOrder { .. } => 45,
            ProducerError::NotInTransaction { .. } | ProducerError::InTransaction { .. } => 48,
            ProducerError::CoordinatorFenced { .. } => 52,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub base_sequence: i32,
    pub last_sequence: i32,
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// The stored batch's latest timestamp: what Kafka answers a duplicate with.
    pub append_time_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Producer {
    pub epoch: ProducerEpoch,
    pub last_append_ms: i64,
    /// Newest last; none of another epoch than `epoch`. Empty while only a marker is known of the epoch.
    pub batches: VecDeque<Batch>,
    /// The first offset of the ongoing transaction.
    pub ongoing: Option<Offset>,
    /// Where the last marker is, -1 for none, and the epoch of the coordinator that has written it.
    pub marker_offset: Offset,
    pub coordinator_epoch: i32,
}

/// A producer, as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
    /// -1 where no batch is known.
    pub last_sequence: i32,
    /// The latest time of its last batch's records, or of its last marker if that came later, ms since 1970.
    pub last_timestamp_ms: i64,
    /// -1 where no marker is known.
    pub coordinator_epoch: i32,
    pub transaction_start: Option<Offset>,
}

impl Producer {
    pub fn new(epoch: ProducerEpoch, now_ms: i64) -> Producer {
        Producer {
            epoch,
            last_append_ms: now_ms,
            batches: VecDeque::new(),
            ongoing: None,
            marker_offset: -1,
            coordinator_epoch: -1,
        }
    }

    fn renew(&mut self, epoch: ProducerEpoch) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
    }

    /// As operators see it; it is the appends' own times that decide who is forgotten.
    fn last_timestamp_ms(&self) -> i64 {
        let batch = self.batches.back().filter(|batch| batch.last_offset > self.marker_offset);
        batch.map_or(self.last_append_ms, |batch| batch.append_time_ms)
    }

    /// The batch by which the log tells of this producer: its newest one, or the marker that has its epoch.
    fn last_offset(&self) -> Offset {
        self.batches.back().map_or(self.marker_offset, |batch| batch.last_offset)
    }
}

/// The producers of one partition, up to [`ProducerStateMap::end_offset`].
///
/// Two steps: [`check`](Self::check) decides, [`apply`](Self::apply) records what was appended. A recovering or
/// following replica only applies. Memory is bounded: of more than `max_producers`, those that were silent longest
/// are forgotten, as if expired; their next batch is then taken with whatever sequence it has. Who is in a transaction is
/// not forgotten: their number is bounded by the coordinators, who know each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerStateMap {
    pub(super) producers: BTreeMap<ProducerId, Producer>,
    /// Ongoing transactions by their first offset.
    ongoing: BTreeMap<Offset, ProducerId>,
    pub(super) end_offset: Offset,
    max_producers: usize,
}

impl ProducerStateMap {
    /// Nothing known of what lies below `end_offset`. At least one producer is kept.
    pub fn new(end_offset: Offset, max_producers: usize) -> ProducerStateMap {
        ProducerStateMap {
            producers: BTreeMap::new(),
            ongoing: BTreeMap::new(),
            end_offset,
            max_producers: max_producers.max(1),
        }
    }

    /// With these producers, as a snapshot has them.
    pub(super) fn with(mut self, producers: BTreeMap<ProducerId, Producer>) -> ProducerStateMap {
        self.producers = producers;
        self.index_ongoing();
        if self.producers.len() > self.max_producers {
            self.forget_the_most_silent();
        }
        self
    }

    /// All batches below this offset have been applied.
    pub fn end_offset(&self) -> Offset {
        self.end_offset
    }

    /// The last offset of every producer's newest batch, or of its marker where that is all that is known.
    pub fn last_offsets(&self) -> impl Iterator<Item = (ProducerId, Offset)> {
        self.producers.iter().map(|(id, producer)| (*id, producer.last_offset()))
    }

    pub fn active(&self) -> impl Iterator<Item = ActiveProducer> {
        self.producers.iter().map(|(id, producer)| ActiveProducer {
            id: *id,
            epoch: producer.epoch,
            last_sequence: producer.batches.back().map_or(-1, |batch| batch.last_sequence),
            last_timestamp_ms: producer.last_timestamp_ms(),
            coordinator_epoch: producer.coordinator_epoch,
            transaction_start: producer.ongoing,
        })
    }

    /// Number of producers known.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Where the earliest ongoing transaction began: nothing from here on is decided.
    pub fn first_undecided(&self) -> Option<Offset> {
        self.ongoing.first_key_value().map(|(offset, _)| *offset)
    }

    /// Whether a transaction of this producer is ongoing, in this epoch.
    pub fn has_ongoing(&self, id: ProducerId, epoch: ProducerEpoch) -> bool {
        self.producers.get(&id).is_some_and(|known| known.ongoing.is_some() && known.epoch == epoch)
    }

    /// Where a producer's last marker is; -1 for none.
    pub fn marker_offset(&self, id: ProducerId) -> Offset {
        self.producers.get(&id).map_or(-1, |known| known.marker_offset)
    }

    /// Decides about a batch whose header has been validated; `marker` is what a control batch says.
    ///
    /// A producer that is not known may begin with any sequence, as since Kafka 2.5 (KIP-360): its earlier batches
    /// may have been deleted, and UNKNOWN_PRODUCER_ID is no longer answered to a produce request. Not so where each of its
    /// transactions has an epoch of its own (KIP-890): those begin with 0 everywhere.
    ///
    /// # Errors
    /// See [`ProducerError`].
    pub fn check(
        &self,
        header: &BatchHeader,
        marker: Option<&EndMarker>,
        verified: Verified,
    ) -> Result<Checked, ProducerError> {
        let BatchHeader { producer_id: id, producer_epoch: epoch, base_sequence: sequence, .. } = *header;
        if !header.has_producer() {
            return Ok(Checked::Accept);
        }
        let known = self.producers.get(&id);
        let numbered = sequence >= 0;
        if let Some(first) = known.filter(|_| numbered).and_then(|known| known.duplicate_of(header)) {
            return Ok(Checked::Duplicate {
                base_offset: first.base_offset,
                last_offset: first.last_offset,
                append_time_ms: first.append_time_ms,
            });
        }
        let stale = |current| Err(ProducerError::StaleEpoch { id, epoch, current });
        if let Some(known) = known.filter(|known| epoch < known.epoch) {
            return stale(known.epoch);
        }
        if header.is_transactional() && marker.is_none() && !self.has_ongoing(id, epoch) {
            self.check_verified(id, sequence, verified)?;
        }
        let Some(known) = known else {
            return if epoch < NO_EPOCH { stale(NO_EPOCH) } else { Ok(Checked::Accept) };
        };
        if let Some(marker) = marker {
            let (epoch, current) = (marker.coordinator_epoch, known.coordinator_epoch);
            let fenced = epoch < current;
            return if fenced {
                Err(ProducerError::CoordinatorFenced { id, epoch, current })
            } else {
                Ok(Checked::Accept)
            };
        }
        let expected = match known.batches.back() {
            Some(last) if epoch == known.epoch => next_sequence(last.last_sequence),
            _ => 0,
        };
        if numbered && sequence != expected {
            return Err(ProducerError::OutOfOrder { id, sequence, expected });
        }
        if known.ongoing.is_some() && !header.is_transactional() {
            return Err(ProducerError::InTransaction { id });
        }
        Ok(Checked::Accept)
    }

    /// A batch that would begin a transaction here.
    fn check_verified(&self, id: ProducerId, sequence: i32, verified: Verified) -> Result<(), ProducerError> {
        match verified {
            Verified::Own => Ok(()),
            Verified::Since { marker_offset, from_zero } if marker_offset == self.marker_offset(id) => {
                match from_zero && sequence != 0 && !self.producers.contains_key(&id) {
                    true => Err(ProducerError::OutOfOrder { id, sequence, expected: 0 }),
                    false => Ok(()),
                }
            }
            Verified::Not | Verified::Since { .. } => Err(ProducerError::NotInTransaction { id }),
        }
    }

    /// Records a batch as it is stored; `marker` is what a control batch says. What lies below `end_offset` is known
    /// already and is passed over, so a log may be replayed over a newer snapshot. Gives back the transaction that the batch
    /// has ended.
    pub fn apply(&mut self, stored: &BatchHeader, marker: Option<&EndMarker>, now_ms: i64) -> Option<Ended> {
        if stored.base_offset < self.end_offset {
            return None;
        }
        self.end_offset = stored.next_offset();
        // Of a control batch that a cleaner has emptied, all is known.
        if !stored.has_producer() || (stored.is_control() && marker.is_none()) {
            return None;
        }
        let id = stored.producer_id;
        let producer =
            self.producers.entry(id).or_insert_with(|| Producer::new(stored.producer_epoch, now_ms));
        let epoch_before = producer.epoch;
        producer.renew(stored.producer_epoch);
        producer.last_append_ms = now_ms;
        let mut ended = None;
        if let Some(marker) = marker {
            producer.marker_offset = stored.base_offset;
            producer.coordinator_epoch = marker.coordinator_epoch;
            ended = producer.ongoing.take().map(|first| (first, epoch_before, marker.commit));
        } else {
            if producer.batches.len() == BATCHES_KEPT {
                producer.batches.pop_front();
            }
            producer.batches.push_back(Batch {
                base_sequence: stored.base_sequence,
                last_sequence: stored.last_sequence(),
                base_offset: stored.base_offset,
                last_offset: stored.last_offset(),
                append_time_ms: stored.max_timestamp,
            });
            if stored.is_transactional() && producer.ongoing.is_none() {
                producer.ongoing = Some(stored.base_offset);
                self.ongoing.insert(stored.base_offset, id);
            }
        }
        if self.producers.len() > self.max_producers {
            self.forget_the_most_silent();
        }
        let (first_offset, producer_epoch, commit) = ended?;
        self.ongoing.remove(&first_offset);
        let transaction = AbortedTransaction {
            producer_id: id,
            first_offset,
            last_offset: stored.base_offset,
            last_stable_offset: self.first_undecided().unwrap_or(stored.next_offset()),
        };
        Some(Ended { transaction, producer_epoch, commit })
    }

    /// The same state for a log that ends at `end` or later: what lies between held no producer's batch.
    pub fn reaching(mut self, end: Offset) -> ProducerStateMap {
        self.end_offset = self.end_offset.max(end);
        self
    }

    /// The state without the batches that begin at `end` or later. One that `end` lies within stays: a log may begin there
    /// (DeleteRecords), and its batch is never applied to this state again. Of a producer, older batches than the last
    /// five are not known: one of whose kept batches all were cut is forgotten, as if it had expired. Transactions that ended
    /// at `end` or later, and began before, are ongoing again.
    pub fn truncated(mut self, end: Offset, ended: &EndedTransactions) -> ProducerStateMap {
        for producer in self.producers.values_mut() {
            producer.batches.retain(|batch| batch.base_offset < end);
            producer.ongoing = producer.ongoing.filter(|first| *first < end);
            if producer.marker_offset >= end {
                producer.marker_offset = -1;
            }
        }
        for ended in ended.since(end) {
            let AbortedTransaction { producer_id, first_offset, .. } = ended.transaction;
            if first_offset < end {
                let known = self.producers.entry(producer_id);
                let producer = known.or_insert_with(|| Producer::new(ended.producer_epoch, 0));
                producer.renew(ended.producer_epoch);
                producer.ongoing = Some(first_offset);
            }
        }
        self.producers.retain(|_, p| !p.batches.is_empty() || p.ongoing.is_some() || p.marker_offset >= 0);
        self.index_ongoing();
        self.end_offset = self.end_offset.min(end);
        self
    }

    /// Forgets producers that have not written for `expiration_ms` (`producer.id.expiration.ms`), but for those in a
    /// transaction.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.retain(|_, producer| {
            producer.ongoing.is_some() || now_ms.saturating_sub(producer.last_append_ms) < expiration_ms
        });
    }

    /// Makes room for an eighth at once, so that the search is not paid with each newcomer. Offsets tell who wrote
    /// last; clocks may go back.
    fn forget_the_most_silent(&mut self) {
        let idle = self.producers.iter().filter(|(_, producer)| producer.ongoing.is_none());
        let mut by_age: Vec<_> = idle.map(|(id, producer)| (producer.last_offset(), *id)).collect();
        let surplus = (self.producers.len() - self.max_producers + self.max_producers / 8).min(by_age.len());
        by_age.sort_unstable();
        for (_, id) in by_age.into_iter().take(surplus) {
            self.producers.remove(&id);
        }
    }

    fn index_ongoing(&mut self) {
        let ongoing = self.producers.iter().filter_map(|(id, producer)| Some((producer.ongoing?, *id)));
        self.ongoing = ongoing.collect();
    }
}

impl Producer {
    fn duplicate_of(&self, header: &BatchHeader) -> Option<&Batch> {
        self.batches.iter().find(|batch| {
            header.producer_epoch == self.epoch
                && batch.base_sequence == header.base_sequence
                && batch.last_sequence == header.last_sequence()
        })
    }
}

/// Sequences wrap from `i32::MAX` to 0.
fn next_sequence(last: i32) -> i32 {
    last.checked_add(1).unwrap_or(0)
}
