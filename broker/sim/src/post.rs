//! What clients of the coordinators and the broker say to each other, while it is on its way.

use std::collections::BTreeMap;

use chronik_core::ids::TopicIdPartition;
use chronik_core::txn::Producer;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TxnOffsetCommitRequest;

use crate::shell::{Answer, Call};

/// Who asks, and its number among what it has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub actor: usize,
    pub number: u64,
}

/// Offsets that a producer commits as part of its transaction.
#[derive(Clone, Debug)]
pub struct OffsetsAsk {
    /// The partition of the group's coordinator.
    pub tp: TopicIdPartition,
    pub request: TxnOffsetCommitRequest,
    pub producer: Producer,
    /// A place in [`crate::history::History::transactions`].
    pub transaction: usize,
}

#[derive(Clone, Debug)]
pub enum Ask {
    /// Of the coordinator that has this partition.
    Coordinator(TopicIdPartition, Box<Call>),
    Offsets(Box<OffsetsAsk>),
}

pub type Told = Result<Answer, ResponseError>;

pub enum Letter {
    /// To this life of the broker.
    Ask {
        life: u64,
        from: Address,
        ask: Ask,
    },
    Tell {
        to: Address,
        told: Box<Told>,
    },
}

/// Letters by number.
#[derive(Default)]
pub struct Post {
    letters: BTreeMap<u64, Letter>,
    written: u64,
}

impl Post {
    pub fn put(&mut self, letter: Letter) -> u64 {
        self.written += 1;
        self.letters.insert(self.written, letter);
        self.written
    }

    pub fn take(&mut self, letter: u64) -> Option<Letter> {
        self.letters.remove(&letter)
    }
}
