//! Transactions of one partition of `__transaction_state`: what Apache Kafka's transaction coordinator decides, for both
//! protocols, the one whose clients add their partitions (KIP-98) and the one with a new epoch for each transaction
//! (KIP-890).
//!
//! As with groups, requests and time go in; records, answers and the markers that end transactions come out ([`Step`]).
//! State changes at once and never goes back: answers and markers leave when the step's records, and those of all steps
//! before it, are durable, and if they cannot be, the whole [`Shard`] is dropped and loaded anew.

mod describe;
mod end;
mod expiry;
mod init;
mod partitions;
mod record;
#[cfg(test)]
mod tests;
mod transaction;
mod turn;

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::describe_transactions_response::TransactionState as Described;
use kafka_protocol::messages::list_transactions_response::TransactionState as Listed;
use kafka_protocol::protocol::StrBytes;

pub use crate::coordinator::{Record, RecordError, Ticket};
use crate::ids::{ProducerEpoch, ProducerId};
use expiry::Timer;
pub use transaction::State;
use transaction::Transaction;
use turn::Turn;

/// The settings of the coordinator, by Kafka's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnConfig {
    /// `transaction.max.timeout.ms`
    pub max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`
    pub id_expiration_ms: i64,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`
    pub abort_timed_out_interval_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`
    pub remove_expired_interval_ms: i64,
    /// `max.message.bytes` of `__transaction_state`: what would make a bigger record is refused, so that no client makes
    /// an append fail.
    pub max_batch_bytes: usize,
}

impl Default for TxnConfig {
    fn default() -> TxnConfig {
        TxnConfig {
            max_timeout_ms: 900_000,
            id_expiration_ms: 7 * 24 * 3_600_000,
            abort_timed_out_interval_ms: 10_000,
            remove_expired_interval_ms: 3_600_000,
            max_batch_bytes: 1_048_576,
        }
    }
}

/// A producer as it names itself: the epoch tells its incarnations apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Producer {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
}

impl Producer {
    pub fn new(id: i64, epoch: i16) -> Producer {
        Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
    }
}

/// Kafka's feature `transaction.version`, as a client acts by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionVersion(pub i16);

impl TransactionVersion {
    /// A client adds its partitions itself, and keeps its epoch.
    pub const V0: TransactionVersion = TransactionVersion(0);
    /// Partitions are added by writing to them, and each transaction has an epoch of its own (KIP-890).
    pub const V2: TransactionVersion = TransactionVersion(2);

    fn bumps_epoch(self) -> bool {
        self >= TransactionVersion::V2
    }
}

/// What is asked of a shard. `fresh` is a producer id that nobody has; without one, [`Answer::NeedsProducerId`] says
/// when there has to be one.
#[derive(Clone, Debug)]
pub enum Call {
    InitProducerId {
        transactional_id: StrBytes,
        timeout_ms: i32,
        /// What the producer takes itself for (KIP-360).
        expected: Option<Producer>,
        fresh: Option<ProducerId>,
    },
    AddPartitions {
        transactional_id: StrBytes,
        producer: Producer,
        partitions: Vec<(TopicName, i32)>,
        version: TransactionVersion,
    },
    /// Whether these partitions are in the producer's transaction.
    Verify {
        transactional_id: StrBytes,
        producer: Producer,
        partitions: Vec<(TopicName, i32)>,
    },
    EndTxn {
        transactional_id: StrBytes,
        producer: Producer,
        commit: bool,
        version: TransactionVersion,
        fresh: Option<ProducerId>,
    },
    Describe(StrBytes),
    /// Empty filters let everything through.
    List {
        states: Vec<StrBytes>,
        producer_ids: Vec<i64>,
        /// Only transactions that have been running for longer, unless it is negative (KIP-994).
        duration_ms: i64,
    },
    /// The markers that a step gave are durable in all of its partitions, or their partitions are no more.
    MarkersWritten {
        transactional_id: StrBytes,
        producer: Producer,
    },
}

/// The answer to the [`Call`] of the same name.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    InitProducerId(Result<Producer, ResponseError>),
    AddPartitions(Result<(), ResponseError>),
    /// Of each partition, in the order of the call, whether it is in the transaction.
    Verify(Result<Vec<bool>, ResponseError>),
    /// Who the producer is from now on.
    EndTxn(Result<Producer, ResponseError>),
    /// Nothing was changed: the call is to come again with an id.
    NeedsProducerId,
    Describe(Described),
    List(Vec<Listed>),
    MarkersWritten,
}

/// Markers that end a transaction in its partitions. The shell adds the coordinator's epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Markers {
    pub transactional_id: StrBytes,
    pub producer: Producer,
    pub commit: bool,
    pub partitions: Vec<(TopicName, i32)>,
}

/// What a call or a tick leads to. A tick may concern many transactions: its records may be several batches, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    pub records: Vec<Record>,
    pub answers: Vec<(Ticket, Answer)>,
    /// To be written once this step's records are durable, until they are; then [`Call::MarkersWritten`] follows.
    pub markers: Vec<Markers>,
}

/// How many transactional ids are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub empty: usize,
    pub ongoing: usize,
    pub prepare_commit: usize,
    pub prepare_abort: usize,
    pub complete_commit: usize,
    pub complete_abort: usize,
}

/// By transactional id.
type Transactions = BTreeMap<StrBytes, Transaction>;
type Timers = crate::coordinator::Timers<Timer>;

/// All transactional ids of one partition of `__transaction_state`.
#[derive(Debug)]
pub struct Shard {
    config: TxnConfig,
    transactions: Transactions,
    timers: Timers,
    /// What happens at intervals is counted from here.
    loaded_ms: i64,
}

impl Shard {
    pub fn new(config: TxnConfig) -> Shard {
        Shard { config, transactions: Transactions::new(), timers: Timers::default(), loaded_ms: 0 }
    }

    /// Loading, in the order of offsets.
    ///
    /// # Errors
    /// A record that nobody understands. It changed nothing.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), RecordError> {
        let id = record::decode_key(key)?;
        match value {
            Some(value) => {
                let transaction = Transaction::decode(value)?;
                self.transactions.insert(id, transaction);
            }
            None => {
                self.transactions.remove(&id);
            }
        }
        Ok(())
    }

    /// Everything is replayed: transactions that were being ended get their markers.
    pub fn loaded(&mut self, now_ms: i64) -> Step {
        self.loaded_ms = now_ms;
        let (transactions, mut turn) = self.turn(now_ms);
        for (id, transaction) in transactions.iter() {
            turn.schedule(id, transaction);
            turn.markers(id, transaction);
        }
        turn.step
    }

    fn turn(&mut self, now_ms: i64) -> (&mut Transactions, Turn<'_>) {
        let Shard { config, transactions, timers, loaded_ms } = self;
        (transactions, Turn { now_ms, config, timers, loaded_ms: *loaded_ms, step: Step::default() })
    }

    /// `now_ms` since 1970 goes into records, and timeouts are measured by it: it should not jump.
    pub fn handle(&mut self, now_ms: i64, ticket: Ticket, call: Call) -> Step {
        let (transactions, mut turn) = self.turn(now_ms);
        let answer = match call {
            Call::InitProducerId { transactional_id, timeout_ms, expected, fresh } => init::init_producer_id(
                &mut turn,
                transactions,
                &transactional_id,
                timeout_ms,
                expected,
                fresh,
            )
            .map_or(Answer::NeedsProducerId, Answer::InitProducerId),
            Call::AddPartitions { transactional_id, producer, partitions, version } => {
                let added = partitions::add(
                    &mut turn,
                    transactions,
                    &transactional_id,
                    producer,
                    &partitions,
                    version,
                );
                Answer::AddPartitions(added)
            }
            Call::Verify { transactional_id, producer, partitions } => {
                Answer::Verify(partitions::verify(transactions, &transactional_id, producer, &partitions))
            }
            Call::EndTxn { transactional_id, producer, commit, version, fresh } => {
                let request = end::Request { producer, commit, version, fresh };
                end::end(&mut turn, transactions, &transactional_id, request)
                    .map_or(Answer::NeedsProducerId, Answer::EndTxn)
            }
            Call::Describe(id) => Answer::Describe(describe::describe(transactions, id)),
            Call::List { states, producer_ids, duration_ms } => {
                Answer::List(describe::list(transactions, &states, &producer_ids, duration_ms, now_ms))
            }
            Call::MarkersWritten { transactional_id, producer } => {
                end::markers_written(&mut turn, transactions, &transactional_id, producer);
                Answer::MarkersWritten
            }
        };
        turn.step.answers.push((ticket, answer));
        turn.step
    }

    /// Transactions whose time is up, and transactional ids that nobody has used for long.
    pub fn tick(&mut self, now_ms: i64) -> Step {
        let (transactions, mut turn) = self.turn(now_ms);
        while let Some(timer) = turn.timers.pop(now_ms) {
            match timer {
                Timer::Abort(id) => end::time_is_up(&mut turn, transactions, &id),
                Timer::Expire(id) => expiry::expire(&mut turn, transactions, &id),
            }
        }
        turn.step
    }

    /// When [`Shard::tick`] has something to do, at the latest.
    pub fn next_tick_ms(&self) -> Option<i64> {
        self.timers.next_ms()
    }

    /// Whether a decision about this producer's transaction is being carried out.
    pub fn has_decided(&self, transactional_id: &StrBytes, producer: Producer) -> bool {
        let known = self.transactions.get(transactional_id).filter(|known| known.producer == producer);
        known.is_some_and(|known| known.state.decided().is_some())
    }

    /// Looks at all transactional ids.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for transaction in self.transactions.values() {
            let count = match transaction.state {
                State::Empty => &mut counts.empty,
                State::Ongoing => &mut counts.ongoing,
                State::PrepareCommit => &mut counts.prepare_commit,
                State::PrepareAbort => &mut counts.prepare_abort,
                State::CompleteCommit => &mut counts.complete_commit,
                State::CompleteAbort => &mut counts.complete_abort,
            };
            *count += 1;
        }
        counts
    }
}
