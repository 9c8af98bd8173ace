//! The transactional batches of a Produce: before the first of a transaction is appended to a partition, the transaction's
//! coordinator is asked whether the partition is in it (KIP-890). Nobody would ever end one that it does not know of.

use std::collections::HashMap;
use std::time::Duration;

use chronik_core::ids::TopicIdPartition;
use chronik_core::record_batch::{BatchHeader, Verified};
use chronik_core::txn::Producer;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_request::ProduceRequest;
use kafka_protocol::messages::{TopicName, TransactionalId};

use super::{Refusal, code, topic_of};
use crate::api::{Broker, text};
use crate::txn::patience::{PATIENCE, until_complete};

/// From this version on, a partition is added to a transaction by writing to it.
const ADDS_FROM: i16 = 12;
/// From this version on, clients know TRANSACTION_ABORTABLE.
const ABORTABLE_FROM: i16 = 11;

/// Topic and partition of a batch, by their places in the request.
type Place = (usize, usize);
type Word = Result<Verified, Refusal>;

/// What coordinators say of a request's batches.
#[derive(Default)]
pub struct Vouched(HashMap<Place, Word>);

impl Vouched {
    /// Of those that nobody was asked about, the log decides.
    pub fn of(&self, place: Place) -> Word {
        self.0.get(&place).cloned().unwrap_or(Ok(Verified::Not))
    }
}

/// A batch that would begin its transaction in its partition.
struct Asked {
    place: Place,
    producer: Producer,
    partition: (TopicName, i32),
    verified: Verified,
}

pub async fn vouch(broker: &Broker, id: &TransactionalId, produce: &ProduceRequest, version: i16) -> Vouched {
    let patience = if version >= ADDS_FROM { PATIENCE } else { Duration::ZERO };
    match until_complete(patience, || ask(broker, id, produce, version)).await {
        Ok(vouched) => vouched,
        Err(error) => {
            let refused = refusal(error, version);
            let asked = questions(broker, produce, version).into_iter();
            Vouched(asked.map(|asked| (asked.place, Err(refused.clone()))).collect())
        }
    }
}

async fn ask(
    broker: &Broker,
    id: &TransactionalId,
    produce: &ProduceRequest,
    version: i16,
) -> Result<Vouched, ResponseError> {
    let asked = questions(broker, produce, version);
    let Some(producer) = asked.first().map(|first| first.producer) else { return Ok(Vouched::default()) };
    if asked.iter().any(|asked| asked.producer != producer) {
        return Err(ResponseError::InvalidProducerIdMapping);
    }
    let partitions = asked.iter().map(|asked| asked.partition.clone()).collect();
    let there = if version >= ADDS_FROM {
        broker.txn.join(id, producer, partitions).await.map(|()| vec![true; asked.len()])?
    } else {
        broker.txn.verify(id, producer, partitions).await?
    };
    // A marker came between, most likely the last transaction's: the word may be older, and the log would not take it.
    let now = questions(broker, produce, version);
    let differs = |a: &Asked| now.iter().any(|b| b.place == a.place && b.verified != a.verified);
    if asked.iter().any(differs) {
        return Err(ResponseError::ConcurrentTransactions);
    }
    let words = asked.into_iter().zip(there).map(|(asked, there)| {
        let not_in_it = || refusal(ResponseError::TransactionAbortable, version);
        (asked.place, if there { Ok(asked.verified) } else { Err(not_in_it()) })
    });
    Ok(Vouched(words.collect()))
}

fn questions(broker: &Broker, produce: &ProduceRequest, version: i16) -> Vec<Asked> {
    let mut asked = Vec::new();
    for (of_topic, data) in produce.topic_data.iter().enumerate() {
        let Ok(topic) = topic_of(broker, data, version) else { continue };
        if topic.is_internal {
            continue;
        }
        for (of_partition, data) in data.partition_data.iter().enumerate() {
            let Some(Ok(header)) = data.records.as_ref().map(|records| BatchHeader::parse(records)) else {
                continue;
            };
            if !header.is_transactional() || !header.has_producer() {
                continue;
            }
            let id = TopicIdPartition { topic_id: topic.id, partition: data.index };
            let Some(log) = broker.logs.appendable(id) else { continue };
            let (producer_id, epoch) = (header.producer_id, header.producer_epoch);
            if let Some(verified) = log.verification(producer_id, epoch, version >= ADDS_FROM) {
                asked.push(Asked {
                    place: (of_topic, of_partition),
                    producer: Producer { id: producer_id, epoch },
                    partition: (TopicName(text(&*topic.name)), data.index),
                    verified,
                });
            }
        }
    }
    asked
}

/// What a client of this version is told when the coordinator has no good word.
fn refusal(error: ResponseError, version: i16) -> Refusal {
    let error = match error {
        // Producers know that word alone.
        ResponseError::ProducerFenced => ResponseError::InvalidProducerEpoch,
        ResponseError::TransactionAbortable if version < ABORTABLE_FROM => ResponseError::InvalidTxnState,
        // Its last transaction is not complete yet; clients of this version know that.
        ResponseError::ConcurrentTransactions if version >= ADDS_FROM => error,
        // What every client asks again for, without looking for another leader.
        ResponseError::ConcurrentTransactions
        | ResponseError::CoordinatorLoadInProgress
        | ResponseError::CoordinatorNotAvailable
        | ResponseError::NotCoordinator => {
            let why = "it could not be verified that the partition is in the transaction";
            return Refusal::of_request(code::NOT_ENOUGH_REPLICAS, format!("{why}: {error}"));
        }
        error => error,
    };
    let why = match error {
        ResponseError::InvalidTxnState | ResponseError::TransactionAbortable => {
            "the partition is not in the producer's transaction".to_string()
        }
        error => error.to_string(),
    };
    Refusal::of_request(error.code(), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_what_they_know() {
        use ResponseError::*;
        for (error, version, told) in [
            (ProducerFenced, 9, InvalidProducerEpoch),
            (TransactionAbortable, 10, InvalidTxnState),
            (TransactionAbortable, 11, TransactionAbortable),
            (ConcurrentTransactions, 11, NotEnoughReplicas),
            (ConcurrentTransactions, 12, ConcurrentTransactions),
            (NotCoordinator, 12, NotEnoughReplicas),
            (CoordinatorLoadInProgress, 9, NotEnoughReplicas),
            (InvalidProducerIdMapping, 9, InvalidProducerIdMapping),
        ] {
            assert_eq!(refusal(error, version).code, told.code(), "{error:?} in version {version}");
        }
    }
}
