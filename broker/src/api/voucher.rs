//! What handlers ask the coordinator of transactions (KIP-890).

use std::pin::Pin;

use chronik_core::ids::{ProducerEpoch, ProducerId};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{TopicName, TransactionalId};

/// A partition that a producer is about to write to within its transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InTransaction {
    pub transactional_id: TransactionalId,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub topic: TopicName,
    pub partition: i32,
}

/// What becomes of a partition that is not in the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unless {
    /// It is added: the request does what AddPartitionsToTxn did before.
    Added,
    /// TRANSACTION_ABORTABLE.
    Abortable,
    /// INVALID_TXN_STATE, for clients that do not know the other.
    Invalid,
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who knows which transactions are ongoing.
pub trait Voucher: Send + Sync {
    /// Whether the partition is in the producer's ongoing transaction. Once it is said to be, the end of the transaction is
    /// written to that partition, too.
    ///
    /// # Errors
    /// Kafka's error for the partition; INVALID_PRODUCER_EPOCH for PRODUCER_FENCED.
    fn vouch(&self, partition: InTransaction, unless: Unless) -> BoxFuture<'_, Result<(), ResponseError>>;
}
