//! One transactional id: its producer, and the transaction it is in, or was in last.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

use super::{Producer, TransactionVersion};
use crate::coordinator::own;
use crate::ids::{ProducerEpoch, ProducerId};

/// Kafka's states. Two more of its own exist only while it changes from one to another, which here happens at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Empty,
    Ongoing,
    /// It is decided; markers are being written.
    PrepareCommit,
    PrepareAbort,
    CompleteCommit,
    CompleteAbort,
}

impl State {
    pub const ALL: [State; 6] = [
        State::Empty,
        State::Ongoing,
        State::PrepareCommit,
        State::PrepareAbort,
        State::CompleteCommit,
        State::CompleteAbort,
    ];

    /// As Kafka writes it.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::Ongoing => "Ongoing",
            State::PrepareCommit => "PrepareCommit",
            State::PrepareAbort => "PrepareAbort",
            State::CompleteCommit => "CompleteCommit",
            State::CompleteAbort => "CompleteAbort",
        }
    }

    /// Whether Kafka has a state of this name.
    pub fn is_name(name: &str) -> bool {
        State::ALL.iter().any(|state| state.name() == name) || ["Dead", "PrepareEpochFence"].contains(&name)
    }

    /// In the log.
    pub(super) fn number(self) -> i8 {
        match self {
            State::Empty => 0,
            State::Ongoing => 1,
            State::PrepareCommit => 2,
            State::PrepareAbort => 3,
            State::CompleteCommit => 4,
            State::CompleteAbort => 5,
        }
    }

    pub(super) fn prepared(commit: bool) -> State {
        if commit { State::PrepareCommit } else { State::PrepareAbort }
    }

    pub(super) fn completed(commit: bool) -> State {
        if commit { State::CompleteCommit } else { State::CompleteAbort }
    }

    /// What was decided and is being carried out: to commit, or to abort.
    pub(super) fn decided(self) -> Option<bool> {
        match self {
            State::PrepareCommit => Some(true),
            State::PrepareAbort => Some(false),
            _ => None,
        }
    }
}

/// The partitions of a transaction by topic. None of the sets is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Partitions(pub BTreeMap<StrBytes, BTreeSet<i32>>);

impl Partitions {
    pub fn contains(&self, topic: &StrBytes, partition: i32) -> bool {
        self.0.get(topic).is_some_and(|partitions| partitions.contains(&partition))
    }

    pub fn insert(&mut self, topic: &StrBytes, partition: i32) {
        match self.0.get_mut(topic) {
            Some(partitions) => {
                partitions.insert(partition);
            }
            None => {
                self.0.insert(own(topic), BTreeSet::from([partition]));
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn to_vec(&self) -> Vec<(TopicName, i32)> {
        let topics = self.0.iter();
        topics
            .flat_map(|(topic, partitions)| partitions.iter().map(|index| (TopicName(topic.clone()), *index)))
            .collect()
    }
}

/// The last epoch that is given to a client. The one behind it is left to fence that client's transaction with.
pub(super) const LAST_EPOCH: i16 = i16::MAX - 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transaction {
    pub producer: Producer,
    /// The producer id before the last change. A producer whose epochs are used up knows itself by it when it asks again.
    pub previous_id: ProducerId,
    /// What the producer is told to be from now on, while its epochs are used up and markers still name the old id.
    pub next_id: Option<ProducerId>,
    /// What the epoch was before it was raised at the producer's own request. Forgotten by a restart, as in Kafka.
    pub last_epoch: Option<ProducerEpoch>,
    pub timeout_ms: i32,
    pub state: State,
    pub partitions: Partitions,
    /// ms since 1970; none before the first transaction.
    pub started_ms: Option<i64>,
    pub updated_ms: i64,
    pub version: TransactionVersion,
}

impl Transaction {
    /// A transactional id that was never heard of; its first change raises the epoch to 0.
    pub fn new(id: ProducerId, timeout_ms: i32, now_ms: i64) -> Transaction {
        Transaction {
            producer: Producer { id, epoch: ProducerEpoch(-1) },
            previous_id: id,
            next_id: None,
            last_epoch: None,
            timeout_ms,
            state: State::Empty,
            partitions: Partitions::default(),
            started_ms: None,
            updated_ms: now_ms,
            version: TransactionVersion::V0,
        }
    }

    pub fn epochs_are_used_up(&self) -> bool {
        self.producer.epoch.0 >= LAST_EPOCH
    }

    /// Decides the transaction. Without a partition it is complete with that; else markers are due.
    pub fn prepare(
        &mut self,
        commit: bool,
        version: TransactionVersion,
        next_id: Option<ProducerId>,
        now_ms: i64,
    ) {
        if version.bumps_epoch() {
            self.last_epoch = Some(self.producer.epoch);
            self.producer.epoch = above(self.producer.epoch);
        }
        if self.state != State::Ongoing {
            // It was never begun here. What is ended now began when it ended.
            self.started_ms = Some(now_ms);
        }
        self.previous_id = self.producer.id;
        self.next_id = next_id;
        self.state = State::prepared(commit);
        self.updated_ms = now_ms;
        self.version = version;
        if self.partitions.is_empty() {
            self.complete(commit, now_ms);
        }
    }

    /// As [`Transaction::prepare`], to abort what its producer has not ended, and so that this producer is not heard
    /// any more. The epoch is never given to anybody.
    pub fn fence(&mut self, now_ms: i64) {
        self.producer.epoch = above(self.producer.epoch);
        self.prepare(false, TransactionVersion::V2, None, now_ms);
    }

    /// The markers are written.
    pub fn complete(&mut self, commit: bool, now_ms: i64) {
        self.previous_id = self.producer.id;
        self.producer = self.told();
        self.next_id = None;
        self.state = State::completed(commit);
        self.partitions = Partitions::default();
        self.updated_ms = now_ms;
    }

    /// Who the producer is once its transaction is over.
    pub fn told(&self) -> Producer {
        self.next_id.map_or(self.producer, |id| Producer { id, epoch: ProducerEpoch(0) })
    }
}

/// The next epoch. There is none above the highest, which nobody was given.
fn above(epoch: ProducerEpoch) -> ProducerEpoch {
    ProducerEpoch(epoch.0.saturating_add(1))
}
