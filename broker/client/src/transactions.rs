//! Transactions, by the requests of Kafka's Admin API (KIP-664).

use kafka_protocol::messages::{DescribeTransactionsRequest, ListTransactionsRequest, TransactionalId};
use kafka_protocol::protocol::StrBytes;

use super::admin::first;
use super::cluster::Client;
use super::coordinators::Kind;
use super::error::{ClientError, check};

/// A transactional id, as a list of transactions tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedTransaction {
    /// Its id.
    pub id: String,
    /// `Ongoing`, `CompleteCommit`, …
    pub state: String,
    /// Its producer.
    pub producer_id: i64,
}

/// A transactional id, and the transaction that its producer is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its id.
    pub id: String,
    /// `Ongoing`, `CompleteCommit`, …
    pub state: String,
    /// Its producer.
    pub producer_id: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
    /// How long its transactions may take, in milliseconds.
    pub timeout_ms: i32,
    /// When the transaction began, in milliseconds since 1970.
    pub started_ms: Option<i64>,
    /// Topics and partitions that are in it.
    pub partitions: Vec<(String, i32)>,
}

impl Client {
    /// All transactional ids of the cluster.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name.
    pub async fn transactions(&mut self) -> Result<Vec<ListedTransaction>, ClientError> {
        let request = ListTransactionsRequest::default();
        let mut transactions = Vec::new();
        for (id, response) in self.every_coordinator(&request, |r| r.error_code).await? {
            check(response.error_code, None, || format!("list the transactions of broker {id}"))?;
            transactions.extend(response.transaction_states.into_iter().map(|state| ListedTransaction {
                id: state.transactional_id.to_string(),
                state: state.transaction_state.to_string(),
                producer_id: state.producer_id.0,
            }));
        }
        transactions.sort();
        Ok(transactions)
    }

    /// One of them.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name, `TRANSACTIONAL_ID_NOT_FOUND` when there is none.
    pub async fn describe_transaction(&mut self, id: &str) -> Result<Transaction, ClientError> {
        let ids = vec![TransactionalId(StrBytes::from_string(id.to_owned()))];
        let request = DescribeTransactionsRequest::default().with_transactional_ids(ids);
        let code = |r: &<DescribeTransactionsRequest as kafka_protocol::protocol::Request>::Response| {
            r.transaction_states.first().map_or(0, |state| state.error_code)
        };
        let response = self.coordinated(Kind::Transaction, id, &request, code).await?;
        let what = || format!("describe transactional id {id}");
        let state = first(response.transaction_states, what)?;
        check(state.error_code, None, what)?;
        let partitions = state.topics.into_iter().flat_map(|topic| {
            let name = topic.topic.to_string();
            topic.partitions.into_iter().map(move |index| (name.clone(), index))
        });
        let mut partitions: Vec<(String, i32)> = partitions.collect();
        partitions.sort();
        Ok(Transaction {
            id: state.transactional_id.to_string(),
            state: state.transaction_state.to_string(),
            producer_id: state.producer_id.0,
            producer_epoch: state.producer_epoch,
            timeout_ms: state.transaction_timeout_ms,
            started_ms: (state.transaction_start_time_ms >= 0).then_some(state.transaction_start_time_ms),
            partitions,
        })
    }
}
