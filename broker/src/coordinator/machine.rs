//! What the shell needs of a coordinator's state machine.

use std::sync::Arc;

use bytes::Bytes;
use chronik_core::ids::{ProducerEpoch, ProducerId};
use chronik_core::metadata::MetadataImage;
use chronik_core::record_batch::{BatchBuilder, EndMarker, Verified};
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
    fn replay_end(&mut self, _marker: EndMarker) {}

    /// What topics, brokers and settings there are: told when everything is replayed, before [`Machine::loaded`], and at each
    /// change from then on.
    fn metadata(&mut self, _now_ms: i64, _image: Arc<MetadataImage>) -> Outcome<Self> {
        Outcome::default()
    }

    /// Everything is replayed.
    fn loaded(&mut self, now_ms: i64) -> Outcome<Self>;

    /// `ticket` names the request that waits for its answer; none is used twice. `now_ms` never steps.
    fn handle(&mut self, now_ms: i64, ticket: u64, call: Self::Call) -> Outcome<Self>;

    /// What a call would write for a producer's transaction. The log is asked first whether it would take it, as the machine
    /// cannot go back.
    fn transactional(_call: &Self::Call) -> Option<Transactional> {
        None
    }

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

/// What is to be written for a producer.
#[derive(Clone, Copy, Debug)]
pub enum Transactional {
    /// Records of its transaction, and what the transaction's coordinator has said of it.
    Records(Origin, Verified),
    /// The end of its transaction.
    Marker(EndMarker),
}

impl Transactional {
    /// A batch like the one that is to be appended, and what is known of its transaction.
    pub(super) fn sample(&self) -> (Bytes, Verified) {
        match self {
            Transactional::Records(origin, verified) => {
                let batch = origin.batch().record(0, Some(b""), None).build();
                (batch.into(), *verified)
            }
            Transactional::Marker(marker) => (marker.batch(0).into(), Verified::Own),
        }
    }
}

impl Origin {
    /// Of a batch that belongs to no producer.
    pub const NONE: Origin = Origin { producer_id: ProducerId(-1), producer_epoch: ProducerEpoch(-1) };

    /// An empty batch of this producer's transaction, if there is a producer. Nobody numbers these.
    pub(super) fn batch(self) -> BatchBuilder {
        if self == Origin::NONE {
            return BatchBuilder::new();
        }
        BatchBuilder::new().producer(self.producer_id, self.producer_epoch, -1).transactional()
    }
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
    /// Whose transaction the records belong to. They are one batch then.
    pub origin: Origin,
    /// Written instead of records.
    pub marker: Option<EndMarker>,
    pub answers: Vec<(u64, M::Answer)>,
    /// Handed on when the records are durable, and those of all steps before.
    pub effects: Vec<M::Effect>,
}

impl<M: Machine> Default for Outcome<M> {
    fn default() -> Self {
        Outcome {
            records: Vec::new(),
            origin: Origin::NONE,
            marker: None,
            answers: Vec::new(),
            effects: Vec::new(),
        }
    }
}
