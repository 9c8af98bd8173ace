//! LeaveGroup (13): members go; several at once since version 3 (KIP-345).

use chronik_core::group::{Answer, Call};
use kafka_protocol::messages::{ApiKey, LeaveGroupRequest, LeaveGroupResponse};

use super::{Api, Reply, Request};
use crate::coordinator;

pub const API: Api = Api { key: ApiKey::LeaveGroup, min: 0, max: 5, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: LeaveGroupRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let group_id = body.group_id.clone();
    let told = request.broker.groups.call(&group_id, Call::LeaveGroup(body, version));
    let broker = request.broker.clone();
    request.later(async move {
        let answered = coordinator::answer(told, |answer| match answer {
            Answer::LeaveGroup(response) => Some(response),
            _ => None,
        });
        let response = answered.await;
        let response = response.unwrap_or_else(|e| LeaveGroupResponse::default().with_error_code(e.code()));
        broker.metrics.error(API.key as i16, response.error_code);
        for member in &response.members {
            broker.metrics.error(API.key as i16, member.error_code);
        }
        response
    })
}
