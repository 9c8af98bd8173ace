//! ConsumerGroupDescribe (69): groups of the new protocol, with what each member has and is to have (KIP-848).

use chronik_core::group::{Answer, Call};
use chronik_core::metadata::config::groups::consumer_protocol;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup;
use kafka_protocol::messages::{
    ApiKey, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, GroupId,
};

use super::{Api, GROUP_OPERATIONS, NOT_ASKED, Reply, Request, text};
use crate::coordinator;

pub const API: Api =
    Api { key: ApiKey::ConsumerGroupDescribe, min: 0, max: 1, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: ConsumerGroupDescribeRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let broker = request.broker.clone();
    let response = ConsumerGroupDescribeResponse::default();
    if !consumer_protocol(&broker.metadata.image()) {
        let e = ResponseError::UnsupportedVersion;
        let refuse = |id| {
            broker.metrics.error(API.key as i16, e.code());
            refused(id, e)
        };
        return request.head.reply(&response.with_groups(body.group_ids.into_iter().map(refuse).collect()));
    }
    let ask = |id: GroupId| {
        let told = broker.groups.call(&id, Call::ConsumerGroupDescribe(id.clone(), version));
        (id, told)
    };
    let told: Vec<_> = body.group_ids.into_iter().map(ask).collect();
    let with_operations = body.include_authorized_operations;
    request.later(async move {
        let mut groups = Vec::with_capacity(told.len());
        for (id, told) in told {
            let answered = coordinator::answer(told, |answer| match answer {
                Answer::ConsumerGroupDescribe(group) => Some(group),
                _ => None,
            });
            let mut group = answered
                .await
                .unwrap_or_else(|e| refused(id, e).with_error_message(Some(text(e.to_string()))));
            broker.metrics.error(API.key as i16, group.error_code);
            let asked = with_operations && group.error_code == 0;
            group.authorized_operations = if asked { GROUP_OPERATIONS } else { NOT_ASKED };
            groups.push(group);
        }
        response.with_groups(groups)
    })
}

fn refused(id: GroupId, e: ResponseError) -> DescribedGroup {
    DescribedGroup::default().with_group_id(id).with_error_code(e.code())
}
