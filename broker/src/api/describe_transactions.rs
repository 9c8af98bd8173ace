//! DescribeTransactions (65): transactional ids, their producers, and the transactions they are in (KIP-664).

use chronik_core::txn::{Answer, Call};
use kafka_protocol::messages::describe_transactions_response::TransactionState;
use kafka_protocol::messages::{ApiKey, DescribeTransactionsRequest, DescribeTransactionsResponse};

use super::{Api, Reply, Request};
use crate::coordinator;

pub const API: Api =
    Api { key: ApiKey::DescribeTransactions, min: 0, max: 0, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: DescribeTransactionsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let coordinator = request.broker.txn.coordinator();
    let told: Vec<_> = body
        .transactional_ids
        .into_iter()
        .map(|id| (id.clone(), coordinator.call(&id.clone(), Call::Describe(id.0))))
        .collect();
    let broker = request.broker.clone();
    request.later(async move {
        let mut states = Vec::with_capacity(told.len());
        for (id, told) in told {
            let described = coordinator::answer(told, |answer| match answer {
                Answer::Describe(described) => Some(described),
                _ => None,
            });
            let state = described.await.unwrap_or_else(|e| {
                TransactionState::default().with_transactional_id(id).with_error_code(e.code())
            });
            broker.metrics.error(API.key as i16, state.error_code);
            states.push(state);
        }
        DescribeTransactionsResponse::default().with_transaction_states(states)
    })
}
