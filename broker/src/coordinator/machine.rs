//! What the shell needs of a coordinator's state machine.

use bytes::Bytes;
use chronik_core::ids::{ProducerEpoch, ProducerId};
use kafka_protocol::messages::TopicName;

/// A pure state machine: all that one partition of an internal topic holds. State changes at once and never goes back: an
/// answer is given to its client only when the step's records, and those of all steps before it, are durable, and if they
/// cannot be, the whole machine is dropped and loaded anew.
pub trait Machine: Send + Sized + 'static {
    /// The internal topic whose partitions hold it.
    const TOPIC: &'static str;
    /// What it is of, in a line of the broker's own log.
    const OF: &'static str;

    type Config: Send + Sync + 'static;
    type Call: Send + 'static;
    type Answer: Send + 'static;
    /// What is to be done in other places once a step is durable.
    type Effect: Send + 'static;

    /// An empty one. What would make a batch larger than `batch_bytes_max` is to be refused, so that no client makes an
    /// append fail.
    fn new(config: &Self::Config, batch_bytes_max: usize) -> Self;

    /// Loading, in the order of offsets.
    ///
    /// # Errors
    /// Why nobody understands this record. It changed nothing.
    fn replay(&mut self, origin: Origin, key: &[u8], value: Option<&[u8]>) -> Result<(), String>;

    /// Loading: here a producer's transaction ended.
    fn replay_end(&mut self, _producer: Origin, _committed: bool) {}

    /// Everything is replayed.
    fn loaded(&mut self, now_ms: i64) -> Outcome<Self>;

    /// `ticket` names the request that waits for its answer; none is used twice. `now_ms` never steps.
    fn handle(&mut self, now_ms: i64, ticket: u64, call: Self::Call) -> Outcome<Self>;

    /// Does what is due.
    fn tick(&mut self, now_ms: i64) -> Outcome<Self>;

    /// When [`Machine::tick`] has something to do, at the latest.
    fn next_tick_ms(&self) -> Option<i64>;

    /// What it is to be told of deleted topics, if it minds them.
    fn topics_deleted(_topics: &[TopicName]) -> Option<Self::Call> {
        None
    }
}

/// The producer of a batch; of those that the broker writes by itself, -1 and -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
}

/// One record for the machine's partition. Without a value it is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// What a call or a tick leads to.
pub struct Outcome<M: Machine> {
    /// One batch, unless no entry of the log could hold it: then several, in this order.
    pub records: Vec<Record>,
    pub answers: Vec<(u64, M::Answer)>,
    /// Handed on when the records are durable, and those of all steps before.
    pub effects: Vec<M::Effect>,
}

impl<M: Machine> Default for Outcome<M> {
    fn default() -> Self {
        Outcome { records: Vec::new(), answers: Vec::new(), effects: Vec::new() }
    }
}
