//! DeleteGroups (42): groups without members go, and their offsets with them (KIP-229).

use std::collections::BTreeSet;

use chronik_core::group::{Answer, Call};
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{ApiKey, DeleteGroupsRequest, DeleteGroupsResponse};

use super::{Api, Reply, Request};
use crate::coordinator;

pub const API: Api = Api { key: ApiKey::DeleteGroups, min: 0, max: 2, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: DeleteGroupsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let coordinator = &request.broker.groups;
    let mut seen = BTreeSet::new();
    let told: Vec<_> = body
        .groups_names
        .into_iter()
        .filter(|id| seen.insert(id.clone()))
        .map(|id| (id.clone(), coordinator.call(&id.clone(), Call::DeleteGroup(id))))
        .collect();
    let broker = request.broker.clone();
    request.later(async move {
        let mut results = Vec::with_capacity(told.len());
        for (id, told) in told {
            let answered = coordinator::answer(told, |answer| match answer {
                Answer::DeleteGroup(result) => Some(result),
                _ => None,
            });
            let result = answered.await.unwrap_or_else(|e| {
                DeletableGroupResult::default().with_group_id(id).with_error_code(e.code())
            });
            broker.metrics.error(API.key as i16, result.error_code);
            results.push(result);
        }
        DeleteGroupsResponse::default().with_results(results)
    })
}
