//! The transaction coordinator: transactional ids, served from the partitions of `__transaction_state` that this broker
//! leads.
//!
//! Core decides ([`chronik_core::txn::Shard`]), [`crate::coordinator`] carries it out; what a decision means for the
//! partitions of its transaction, [`markers`] writes.

mod markers;
pub mod patience;

use std::pin::Pin;
use std::sync::Arc;

use chronik_core::ids::{BrokerId, ProducerId};
use chronik_core::metadata::MetadataImage;
use chronik_core::metadata::config::broker_value_of;
use chronik_core::metadata::image::TRANSACTIONS_TOPIC;
use chronik_core::txn::{
    Answer, Call, Markers, Producer, Shard, Step, Ticket, TransactionVersion, TxnConfig,
};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;
use tokio::sync::mpsc;

use crate::api::partitions::Logs;
use crate::api::voucher::{InTransaction, Unless, Voucher};
use crate::coordinator::{self, Machine, Origin, Outcome, Record, Setup, answer};
use crate::group;
use crate::metrics::TxnMetrics;
use crate::quorum::MetadataStore;
use markers::Writer;

/// See the module's documentation.
pub struct Transactions {
    coordinator: Arc<Coordinator>,
    metadata: Arc<MetadataStore>,
}

type Coordinator = coordinator::Coordinator<Shard>;

impl Transactions {
    /// Begins to load what this broker leads.
    pub fn start(
        broker_id: BrokerId,
        metadata: Arc<MetadataStore>,
        logs: Arc<dyn Logs>,
        groups: Arc<group::Coordinator>,
        metrics: &TxnMetrics,
    ) -> Arc<Transactions> {
        let writer = Arc::new(Writer::new(broker_id, metadata.clone(), logs.clone(), groups, metrics));
        let (give, due) = mpsc::unbounded_channel();
        // Nobody takes markers only where there is no coordinator any more.
        let effects = Arc::new(move |partition, markers: Markers| drop(give.send((partition, markers))));
        let coordinator = Coordinator::start(Setup {
            broker_id,
            config: config_of(&metadata.image()),
            metadata: metadata.clone(),
            logs,
            metrics: metrics.load.clone(),
            effects,
        });
        tokio::spawn(writer.carry_out(Arc::downgrade(&coordinator), due));
        Arc::new(Transactions { coordinator, metadata })
    }

    /// The coordinator, for what it knows of topics and partitions.
    pub fn coordinator(&self) -> &Arc<Coordinator> {
        &self.coordinator
    }

    async fn ask(&self, id: &str, call: Call) -> Result<Answer, ResponseError> {
        answer(self.coordinator.call(id, call), Some).await
    }

    /// Asks for what takes a producer id only at times: ids are not used up where none is needed.
    async fn ask_with_id(
        &self,
        id: &str,
        call: impl Fn(Option<ProducerId>) -> Call,
    ) -> Result<Answer, ResponseError> {
        match self.ask(id, call(None)).await? {
            Answer::NeedsProducerId => self.ask(id, call(Some(self.fresh_producer_id().await?))).await,
            answer => Ok(answer),
        }
    }

    /// An id that no producer has had.
    ///
    /// # Errors
    /// Kafka's.
    pub async fn fresh_producer_id(&self) -> Result<ProducerId, ResponseError> {
        let fresh = self.metadata.allocate_producer_id().await;
        fresh.map_err(|e| {
            ResponseError::try_from_code(e.code.code()).unwrap_or(ResponseError::UnknownServerError)
        })
    }

    /// InitProducerId with a transactional id.
    ///
    /// # Errors
    /// Kafka's.
    pub async fn init_producer_id(
        &self,
        id: &StrBytes,
        timeout_ms: i32,
        expected: Option<Producer>,
    ) -> Result<Producer, ResponseError> {
        let call = |fresh| Call::InitProducerId { transactional_id: id.clone(), timeout_ms, expected, fresh };
        match self.ask_with_id(id, call).await? {
            Answer::InitProducerId(result) => result,
            _ => Err(ResponseError::UnknownServerError),
        }
    }

    /// Adds partitions to a producer's transaction, and begins it with them.
    ///
    /// # Errors
    /// Kafka's.
    pub async fn add_partitions(
        &self,
        id: &StrBytes,
        producer: Producer,
        partitions: Vec<(TopicName, i32)>,
        version: TransactionVersion,
    ) -> Result<(), ResponseError> {
        let call = Call::AddPartitions { transactional_id: id.clone(), producer, partitions, version };
        match self.ask(id, call).await? {
            Answer::AddPartitions(result) => result,
            _ => Err(ResponseError::UnknownServerError),
        }
    }

    /// The same for a producer that does it by writing to them (KIP-890). It may be ahead of its last transaction's markers:
    /// see [`patience`].
    ///
    /// # Errors
    /// Kafka's.
    pub async fn join(
        &self,
        id: &StrBytes,
        producer: Producer,
        partitions: Vec<(TopicName, i32)>,
    ) -> Result<(), ResponseError> {
        self.add_partitions(id, producer, partitions, TransactionVersion::V2).await
    }

    /// Of each partition whether it is in the producer's transaction.
    ///
    /// # Errors
    /// Kafka's.
    pub async fn verify(
        &self,
        id: &StrBytes,
        producer: Producer,
        partitions: Vec<(TopicName, i32)>,
    ) -> Result<Vec<bool>, ResponseError> {
        let call = Call::Verify { transactional_id: id.clone(), producer, partitions };
        match self.ask(id, call).await? {
            Answer::Verify(result) => result,
            _ => Err(ResponseError::UnknownServerError),
        }
    }

    /// EndTxn. Tells who the producer is from now on.
    ///
    /// # Errors
    /// Kafka's.
    pub async fn end(
        &self,
        id: &StrBytes,
        producer: Producer,
        commit: bool,
        version: TransactionVersion,
    ) -> Result<Producer, ResponseError> {
        let call = |fresh| Call::EndTxn { transactional_id: id.clone(), producer, commit, version, fresh };
        match self.ask_with_id(id, call).await? {
            Answer::EndTxn(result) => result,
            _ => Err(ResponseError::UnknownServerError),
        }
    }

    /// Answers everybody who waits, and writes no more markers. What is decided is carried out after the next start.
    pub fn stop(&self) {
        self.coordinator.stop();
    }
}

impl Voucher for Transactions {
    fn vouch(
        &self,
        partition: InTransaction,
        unless: Unless,
    ) -> Pin<Box<dyn Future<Output = Result<(), ResponseError>> + Send + '_>> {
        Box::pin(async move {
            let InTransaction { transactional_id: id, producer_id, producer_epoch, .. } = partition;
            let producer = Producer { id: producer_id, epoch: producer_epoch };
            let partitions = vec![(partition.topic, partition.partition)];
            let there = match unless {
                Unless::Added => self.join(&id, producer, partitions).await.map(|()| true),
                Unless::Abortable | Unless::Invalid => {
                    self.verify(&id, producer, partitions).await.map(|there| there == [true])
                }
            };
            match there {
                Ok(true) => Ok(()),
                Ok(false) if unless == Unless::Invalid => Err(ResponseError::InvalidTxnState),
                Ok(false) => Err(ResponseError::TransactionAbortable),
                Err(ResponseError::ProducerFenced) => Err(ResponseError::InvalidProducerEpoch),
                Err(e) => Err(e),
            }
        })
    }
}

impl Machine for Shard {
    const TOPIC: &'static str = TRANSACTIONS_TOPIC;
    const OF: &'static str = "transactions";

    type Config = TxnConfig;
    type Call = Call;
    type Answer = Answer;
    type Effect = Markers;

    fn new(config: &TxnConfig, batch_bytes_max: usize) -> Shard {
        Shard::new(TxnConfig { max_batch_bytes: batch_bytes_max, ..config.clone() })
    }

    fn replay(&mut self, _: Origin, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
        Shard::replay(self, key, value).map_err(|e| e.to_string())
    }

    fn loaded(&mut self, now_ms: i64) -> Outcome<Shard> {
        outcome(Shard::loaded(self, now_ms))
    }

    fn handle(&mut self, now_ms: i64, ticket: u64, call: Call) -> Outcome<Shard> {
        outcome(Shard::handle(self, now_ms, Ticket(ticket), call))
    }

    fn tick(&mut self, now_ms: i64) -> Outcome<Shard> {
        outcome(Shard::tick(self, now_ms))
    }

    fn next_tick_ms(&self) -> Option<i64> {
        Shard::next_tick_ms(self)
    }
}

fn outcome(step: Step) -> Outcome<Shard> {
    let records = step.records.into_iter().map(|r| Record { key: r.key, value: r.value });
    let answers = step.answers.into_iter().map(|(ticket, answer)| (ticket.0, answer));
    Outcome {
        records: records.collect(),
        answers: answers.collect(),
        effects: step.markers,
        ..Outcome::default()
    }
}

fn config_of(image: &MetadataImage) -> TxnConfig {
    // The table has checked them.
    let number = |name: &str| broker_value_of(image, name).parse::<i64>().unwrap_or_default();
    TxnConfig {
        max_timeout_ms: i32::try_from(number("transaction.max.timeout.ms")).unwrap_or(i32::MAX),
        id_expiration_ms: number("transactional.id.expiration.ms"),
        abort_timed_out_interval_ms: number("transaction.abort.timed.out.transaction.cleanup.interval.ms"),
        remove_expired_interval_ms: number("transaction.remove.expired.transaction.cleanup.interval.ms"),
        ..TxnConfig::default()
    }
}
