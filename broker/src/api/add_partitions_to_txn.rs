//! AddPartitionsToTxn (24): a producer tells which partitions it is about to write to (KIP-98). From version 4 on brokers ask,
//! for several producers at once, and may only want to know (KIP-890).

use std::collections::{BTreeMap, BTreeSet};

use chronik_core::metadata::MetadataImage;
use chronik_core::txn::{Producer, TransactionVersion};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, ApiKey, TopicName, TransactionalId,
};

use super::{Api, Broker, Reply, Request, fenced_before};

pub const API: Api =
    Api { key: ApiKey::AddPartitionsToTxn, min: 0, max: 5, serve: super::Serve::Call(serve) };

/// From this version on, clients know PRODUCER_FENCED (KIP-588).
const FENCED_FROM: i16 = 2;
/// From this version on, it is brokers that ask.
const BROKERS_FROM: i16 = 4;

/// What one producer asks.
struct Asked {
    id: TransactionalId,
    producer: Producer,
    verify_only: bool,
    topics: Vec<AddPartitionsToTxnTopic>,
}

fn serve(mut request: Request) -> Reply {
    let body: AddPartitionsToTxnRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let broker = request.broker.clone();
    request.later(async move {
        if version < BROKERS_FROM {
            let asked = Asked {
                id: body.v3_and_below_transactional_id,
                producer: Producer::new(body.v3_and_below_producer_id.0, body.v3_and_below_producer_epoch),
                verify_only: false,
                topics: body.v3_and_below_topics,
            };
            let results = answer(&broker, asked, version).await;
            return AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results);
        }
        let mut results = Vec::with_capacity(body.transactions.len());
        for transaction in body.transactions {
            let id = transaction.transactional_id;
            let asked = Asked {
                id: id.clone(),
                producer: Producer::new(transaction.producer_id.0, transaction.producer_epoch),
                verify_only: transaction.verify_only,
                topics: transaction.topics,
            };
            let topics = answer(&broker, asked, version).await;
            let result = AddPartitionsToTxnResult::default().with_transactional_id(id);
            results.push(result.with_topic_results(topics));
        }
        AddPartitionsToTxnResponse::default().with_results_by_transaction(results)
    })
}

async fn answer(broker: &Broker, asked: Asked, version: i16) -> Vec<AddPartitionsToTxnTopicResult> {
    let Asked { id, producer, verify_only, topics } = asked;
    let image = broker.metadata.image();
    let refused = named(&topics).any(|at| refusal(&image, &at, version).is_err());
    // As in Kafka: who adds partitions is told of each as often as it was named.
    let topics = if refused || verify_only { each_once(&topics) } else { topics };
    let partitions: Vec<(TopicName, i32)> = named(&topics).collect();
    let count = partitions.len();
    let errors: Vec<Option<ResponseError>> = if refused {
        // All or none.
        let error = |at| refusal(&image, at, version).err().unwrap_or(ResponseError::OperationNotAttempted);
        partitions.iter().map(|at| Some(error(at))).collect()
    } else if verify_only {
        let missing = |there: bool| (!there).then_some(ResponseError::TransactionAbortable);
        match broker.txn.verify(&id, producer, partitions).await {
            Ok(there) => there.into_iter().map(missing).collect(),
            Err(error) => vec![Some(error); count],
        }
    } else {
        let client = if version < BROKERS_FROM { TransactionVersion::V0 } else { TransactionVersion::V2 };
        let added = broker.txn.add_partitions(&id, producer, partitions, client).await;
        vec![added.err(); count]
    };
    let mut codes = errors.into_iter().map(|error| {
        let code = error.map_or(0, |error| fenced_before(FENCED_FROM, version, error).code());
        broker.metrics.error(API.key as i16, code);
        code
    });
    let results = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().zip(codes.by_ref()).map(|(index, code)| {
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(index)
                .with_partition_error_code(code)
        });
        AddPartitionsToTxnTopicResult::default()
            .with_results_by_partition(partitions.collect())
            .with_name(topic.name)
    });
    results.collect()
}

/// The partitions of these topics, one by one.
fn named(topics: &[AddPartitionsToTxnTopic]) -> impl Iterator<Item = (TopicName, i32)> {
    topics.iter().flat_map(|topic| topic.partitions.iter().map(|index| (topic.name.clone(), *index)))
}

/// The same without what is there twice.
fn each_once(topics: &[AddPartitionsToTxnTopic]) -> Vec<AddPartitionsToTxnTopic> {
    let mut merged: BTreeMap<&TopicName, BTreeSet<i32>> = BTreeMap::new();
    for topic in topics.iter().filter(|topic| !topic.partitions.is_empty()) {
        merged.entry(&topic.name).or_default().extend(&topic.partitions);
    }
    let topic = |(name, partitions): (&TopicName, BTreeSet<i32>)| {
        let partitions = partitions.into_iter().collect();
        AddPartitionsToTxnTopic::default().with_name(name.clone()).with_partitions(partitions)
    };
    merged.into_iter().map(topic).collect()
}

/// Why a partition is in nobody's transaction.
fn refusal(
    image: &MetadataImage,
    (topic, index): &(TopicName, i32),
    version: i16,
) -> Result<(), ResponseError> {
    let topic = image.topic(topic).ok_or(ResponseError::UnknownTopicOrPartition)?;
    topic.partition(*index).ok_or(ResponseError::UnknownTopicOrPartition)?;
    // As Kafka says it.
    if topic.is_internal && version < BROKERS_FROM {
        return Err(ResponseError::TopicAuthorizationFailed);
    }
    Ok(())
}
