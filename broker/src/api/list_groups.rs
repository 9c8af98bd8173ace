//! ListGroups (16): all groups that this broker coordinates, by state (KIP-518) and type (KIP-848) if asked.

use chronik_core::group::{Answer, Call};
use kafka_protocol::messages::{ApiKey, ListGroupsRequest, ListGroupsResponse};

use super::{Api, Reply, Request};
use crate::coordinator;

pub const API: Api = Api { key: ApiKey::ListGroups, min: 0, max: 5, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: ListGroupsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let words =
        |words: Vec<kafka_protocol::protocol::StrBytes>| words.iter().map(ToString::to_string).collect();
    let call = Call::ListGroups { states: words(body.states_filter), types: words(body.types_filter) };
    let told = request.broker.groups.call_all(&call);
    let broker = request.broker.clone();
    request.later(async move {
        let listed = coordinator::gather(told, |answer| match answer {
            Answer::ListGroups(groups) => Some(groups),
            _ => None,
        });
        match listed.await {
            Ok(groups) => ListGroupsResponse::default().with_groups(groups),
            Err(e) => {
                broker.metrics.error(API.key as i16, e.code());
                ListGroupsResponse::default().with_error_code(e.code())
            }
        }
    })
}
