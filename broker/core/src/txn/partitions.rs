//! AddPartitionsToTxn, and what else adds partitions or asks for them.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

use super::transaction::{State, Transaction};
use super::turn::Turn;
use super::{Producer, TransactionVersion, Transactions};
use crate::coordinator::writable;

pub(super) fn add(
    turn: &mut Turn<'_>,
    transactions: &mut Transactions,
    id: &StrBytes,
    producer: Producer,
    partitions: &[(TopicName, i32)],
    version: TransactionVersion,
) -> Result<(), ResponseError> {
    if id.is_empty() {
        return Err(ResponseError::InvalidRequest);
    }
    let known = transactions.get(id).ok_or(ResponseError::InvalidProducerIdMapping)?;
    if known.state.decided().is_some() {
        // Looked at first: the producer may know already who it is once the markers are written.
        return Err(ResponseError::ConcurrentTransactions);
    }
    check_producer(known, producer)?;
    if known.state == State::Ongoing
        && partitions.iter().all(|(topic, p)| known.partitions.contains(topic, *p))
    {
        return Ok(());
    }
    if !partitions.iter().all(|(topic, _)| writable(topic)) {
        return Err(ResponseError::InvalidTopicException);
    }
    let mut transaction = known.clone();
    for (topic, partition) in partitions {
        transaction.partitions.insert(topic, *partition);
    }
    if transaction.state != State::Ongoing {
        transaction.started_ms = Some(turn.now_ms);
    }
    transaction.state = State::Ongoing;
    transaction.previous_id = transaction.producer.id;
    transaction.updated_ms = turn.now_ms;
    transaction.version = version;
    turn.put(transactions, id, transaction)
}

/// Whether each of the partitions is in the transaction.
pub(super) fn verify(
    transactions: &Transactions,
    id: &StrBytes,
    producer: Producer,
    partitions: &[(TopicName, i32)],
) -> Result<Vec<bool>, ResponseError> {
    if id.is_empty() {
        return Err(ResponseError::InvalidRequest);
    }
    let known = transactions.get(id).ok_or(ResponseError::InvalidProducerIdMapping)?;
    check_producer(known, producer)?;
    if known.state.decided().is_some() {
        return Err(ResponseError::ConcurrentTransactions);
    }
    Ok(partitions.iter().map(|(topic, partition)| known.partitions.contains(topic, *partition)).collect())
}

fn check_producer(known: &Transaction, producer: Producer) -> Result<(), ResponseError> {
    if known.producer.id != producer.id {
        Err(ResponseError::InvalidProducerIdMapping)
    } else if known.producer.epoch != producer.epoch {
        Err(ResponseError::ProducerFenced)
    } else {
        Ok(())
    }
}
