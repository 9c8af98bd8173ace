//! DescribeGroups (15): the members of groups, and what each has.

use chronik_core::group::{Answer, Call};
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::{ApiKey, DescribeGroupsRequest, DescribeGroupsResponse};

use super::{Api, GROUP_OPERATIONS, NOT_ASKED, Reply, Request};
use crate::coordinator;

pub const API: Api = Api { key: ApiKey::DescribeGroups, min: 0, max: 6, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let body: DescribeGroupsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let coordinator = &request.broker.groups;
    let told: Vec<_> = body
        .groups
        .into_iter()
        .map(|id| (id.clone(), coordinator.call(&id.clone(), Call::DescribeGroup(id, version))))
        .collect();
    let broker = request.broker.clone();
    let with_operations = body.include_authorized_operations;
    request.later(async move {
        let mut groups = Vec::with_capacity(told.len());
        for (id, told) in told {
            let answered = coordinator::answer(told, |answer| match answer {
                Answer::DescribeGroup(group) => Some(group),
                _ => None,
            });
            let mut group = answered.await.unwrap_or_else(|e| {
                DescribedGroup::default().with_group_id(id).with_error_code(e.code()).with_error_message(None)
            });
            broker.metrics.error(API.key as i16, group.error_code);
            let asked = with_operations && group.error_code == 0;
            group.authorized_operations = if asked { GROUP_OPERATIONS } else { NOT_ASKED };
            groups.push(group);
        }
        DescribeGroupsResponse::default().with_groups(groups)
    })
}
