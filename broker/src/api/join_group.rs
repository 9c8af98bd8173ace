//! JoinGroup (11): a member comes into its group, and waits until all have (KIP-62, KIP-345, KIP-394).
//!
//! A member that waits holds no permit: what its group remembers of it is the coordinator's.

use chronik_core::group::{Answer, Call};
use kafka_protocol::messages::{ApiKey, JoinGroupRequest, JoinGroupResponse};

use super::{Api, Reply, Request};
use crate::{coordinator, group};

pub const API: Api = Api { key: ApiKey::JoinGroup, min: 0, max: 9, serve: super::Serve::Call(serve) };

/// From this version on, an answer without a protocol has none instead of an empty one.
const NULL_PROTOCOL: i16 = 7;

fn serve(mut request: Request) -> Reply {
    let body: JoinGroupRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let caller = group::caller_of(&request);
    let group_id = body.group_id.clone();
    let told = request.broker.groups.call(&group_id, Call::JoinGroup(body, version, caller));
    let broker = request.broker.clone();
    request.waiting(async move {
        let answered = coordinator::answer(told, |answer| match answer {
            Answer::JoinGroup(response) => Some(response),
            _ => None,
        });
        let mut response = answered.await.unwrap_or_else(|e| {
            JoinGroupResponse::default().with_error_code(e.code()).with_generation_id(-1)
        });
        broker.metrics.error(API.key as i16, response.error_code);
        let protocol = response.protocol_name.take().filter(|name| !name.is_empty());
        response.protocol_name = match version {
            ..NULL_PROTOCOL => Some(protocol.unwrap_or_default()),
            _ => protocol,
        };
        response
    })
}
