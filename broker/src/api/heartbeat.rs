//! Heartbeat (12): a member is alive, and hears whether its group still is as it knows it.

use chronik_core::group::{Answer, Call};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, HeartbeatRequest, HeartbeatResponse};

use super::{Api, Reply, Request};
use crate::coordinator;

pub const API: Api = Api { key: ApiKey::Heartbeat, min: 0, max: 4, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: HeartbeatRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let group_id = body.group_id.clone();
    let told = request.broker.groups.call(&group_id, Call::Heartbeat(body, request.head.version));
    let broker = request.broker.clone();
    request.waiting(async move {
        let answered = coordinator::answer(told, |answer| match answer {
            Answer::Heartbeat(response) => Some(response),
            _ => None,
        });
        let response = match answered.await {
            Ok(response) => response,
            // While nobody knows better, the member is told that all is well, as in Kafka: its session begins anew
            // when the group is loaded.
            Err(ResponseError::CoordinatorLoadInProgress) => HeartbeatResponse::default(),
            Err(e) => HeartbeatResponse::default().with_error_code(e.code()),
        };
        broker.metrics.error(API.key as i16, response.error_code);
        response
    })
}
