//! SyncGroup (14): the leader hands out what it has assigned, and every member gets its part.

use chronik_core::group::{Answer, Call};
use kafka_protocol::messages::{ApiKey, SyncGroupRequest, SyncGroupResponse};

use super::{Api, Reply, Request};
use crate::coordinator;

pub const API: Api = Api { key: ApiKey::SyncGroup, min: 0, max: 5, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: SyncGroupRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let group_id = body.group_id.clone();
    let told = request.broker.groups.call(&group_id, Call::SyncGroup(body, version));
    let broker = request.broker.clone();
    request.waiting(async move {
        let answered = coordinator::answer(told, |answer| match answer {
            Answer::SyncGroup(response) => Some(response),
            _ => None,
        });
        let response = answered.await;
        let response = response.unwrap_or_else(|e| SyncGroupResponse::default().with_error_code(e.code()));
        broker.metrics.error(API.key as i16, response.error_code);
        response
    })
}
