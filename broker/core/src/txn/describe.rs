//! DescribeTransactions and ListTransactions.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState as Described};
use kafka_protocol::messages::list_transactions_response::TransactionState as Listed;
use kafka_protocol::messages::{ProducerId, TopicName, TransactionalId};
use kafka_protocol::protocol::StrBytes;

use super::Transactions;

pub(super) fn describe(transactions: &Transactions, id: StrBytes) -> Described {
    let known = transactions.get(&id).ok_or_else(|| match id.is_empty() {
        true => ResponseError::InvalidRequest,
        false => ResponseError::TransactionalIdNotFound,
    });
    let described = Described::default().with_transactional_id(TransactionalId(id));
    match known {
        Err(error) => described.with_error_code(error.code()),
        Ok(transaction) => {
            let topics = transaction.partitions.0.iter().map(|(topic, partitions)| {
                TopicData::default()
                    .with_topic(TopicName(topic.clone()))
                    .with_partitions(partitions.iter().copied().collect())
            });
            described
                .with_transaction_state(StrBytes::from_static_str(transaction.state.name()))
                .with_transaction_timeout_ms(transaction.timeout_ms)
                .with_transaction_start_time_ms(transaction.started_ms.unwrap_or(-1))
                .with_producer_id(ProducerId(transaction.producer.id.0))
                .with_producer_epoch(transaction.producer.epoch.0)
                .with_topics(topics.collect())
        }
    }
}

pub(super) fn list(
    transactions: &Transactions,
    states: &[StrBytes],
    producer_ids: &[i64],
    duration_ms: i64,
    now_ms: i64,
) -> Vec<Listed> {
    let mut listed = Vec::new();
    for (id, transaction) in transactions {
        let (name, producer_id) = (transaction.state.name(), transaction.producer.id.0);
        let running_ms = now_ms.saturating_sub(transaction.started_ms.unwrap_or(-1));
        if (states.is_empty() || states.iter().any(|state| *state.as_str() == *name))
            && (producer_ids.is_empty() || producer_ids.contains(&producer_id))
            && (duration_ms < 0 || running_ms > duration_ms)
        {
            let transaction = Listed::default()
                .with_transactional_id(TransactionalId(id.clone()))
                .with_producer_id(ProducerId(producer_id))
                .with_transaction_state(StrBytes::from_static_str(name));
            listed.push(transaction);
        }
    }
    listed
}
