//! ConsumerGroupHeartbeat (68): a member of a group of the new protocol is alive, tells what changed with it, and hears which
//! partitions are its own (KIP-848).
//!
//! It keeps its permit until what it changed is on the disk.

use chronik_core::group::{Answer, Call};
use chronik_core::metadata::config::groups::consumer_protocol;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};

use super::{Api, Reply, Request, text};
use crate::{coordinator, group};

pub const API: Api =
    Api { key: ApiKey::ConsumerGroupHeartbeat, min: 0, max: 1, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: ConsumerGroupHeartbeatRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let refused = |e: ResponseError| ConsumerGroupHeartbeatResponse::default().with_error_code(e.code());
    if !consumer_protocol(&request.broker.metadata.image()) {
        let e = ResponseError::UnsupportedVersion;
        request.broker.metrics.error(API.key as i16, e.code());
        return request.head.reply(&refused(e));
    }
    let caller = group::caller_of(&request);
    let group_id = body.group_id.clone();
    let told = request.broker.groups.call(&group_id, Call::ConsumerGroupHeartbeat(body, version, caller));
    let broker = request.broker.clone();
    request.later(async move {
        let answered = coordinator::answer(told, |answer| match answer {
            Answer::ConsumerGroupHeartbeat(response) => Some(response),
            _ => None,
        });
        let response =
            answered.await.unwrap_or_else(|e| refused(e).with_error_message(Some(text(e.to_string()))));
        broker.metrics.error(API.key as i16, response.error_code);
        response
    })
}
