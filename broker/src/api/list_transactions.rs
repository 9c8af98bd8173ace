//! ListTransactions (66): all transactional ids that this broker coordinates (KIP-664), by state and producer, by how long
//! their transaction has been running (KIP-994), and by a pattern (KIP-1152), if asked.

use chronik_core::txn::{Answer, Call, State};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, ListTransactionsRequest, ListTransactionsResponse};
use regex::{Regex, RegexBuilder};

use super::{Api, Reply, Request};
use crate::coordinator;

pub const API: Api = Api { key: ApiKey::ListTransactions, min: 0, max: 2, serve: super::Serve::Call(serve) };

/// What a client's pattern may take in memory.
const PATTERN_BYTES_MAX: usize = 1 << 20;

fn serve(mut request: Request) -> Reply {
    let body: ListTransactionsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let pattern = body.transactional_id_pattern.filter(|pattern| !pattern.is_empty());
    let Ok(pattern) = pattern.map(|pattern| compile(&pattern)).transpose() else {
        let code = ResponseError::InvalidRegularExpression.code();
        request.broker.metrics.error(API.key as i16, code);
        return request.head.reply(&ListTransactionsResponse::default().with_error_code(code));
    };
    let unknown = body.state_filters.iter().filter(|name| !State::is_name(name)).cloned().collect();
    let call = Call::List {
        states: body.state_filters,
        producer_ids: body.producer_id_filters.iter().map(|id| id.0).collect(),
        duration_ms: body.duration_filter,
    };
    let told = request.broker.txn.coordinator().call_all(&call);
    let broker = request.broker.clone();
    request.later(async move {
        let listed = coordinator::gather(told, |answer| match answer {
            Answer::List(listed) => Some(listed),
            _ => None,
        });
        match listed.await {
            Ok(mut states) => {
                let passes = |id: &str| pattern.as_ref().is_none_or(|pattern| pattern.is_match(id));
                states.retain(|state| passes(&state.transactional_id));
                ListTransactionsResponse::default()
                    .with_unknown_state_filters(unknown)
                    .with_transaction_states(states)
            }
            Err(e) => {
                broker.metrics.error(API.key as i16, e.code());
                ListTransactionsResponse::default().with_error_code(e.code())
            }
        }
    })
}

/// All of an id must match.
fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    let build = |pattern: &str| RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
    // One that is only half of a pair of brackets must not find the other half here.
    build(pattern)?;
    build(&format!("^(?:{pattern})$"))
}
