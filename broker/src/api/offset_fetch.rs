//! OffsetFetch (9): how far groups have come; of several groups since version 8 (KIP-709).

use chronik_core::group::{Answer, Call};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::{ApiKey, OffsetFetchRequest, OffsetFetchResponse};

use super::{Api, Reply, Request, text};
use crate::coordinator;

pub const API: Api = Api { key: ApiKey::OffsetFetch, min: 1, max: 9, serve: super::Serve::Call(serve) };

/// From this version on, the answer has an error of its own.
const TOP_LEVEL_ERROR: i16 = 2;
/// From this version on, several groups are asked for at once.
const MANY: i16 = 8;

fn serve(mut request: Request) -> Reply {
    let body: OffsetFetchRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let stable = body.require_stable;
    let groups = if version < MANY { vec![only_group(body)] } else { body.groups };
    let coordinator = &request.broker.groups;
    let told: Vec<_> = groups
        .into_iter()
        .map(|group| {
            (
                group.clone(),
                coordinator.call(&group.group_id.clone(), Call::OffsetFetch(group, stable, version)),
            )
        })
        .collect();
    let broker = request.broker.clone();
    request.later(async move {
        let mut answers = Vec::with_capacity(told.len());
        for (asked, told) in told {
            let answered = coordinator::answer(told, |answer| match answer {
                Answer::OffsetFetch(group) => Some(group),
                _ => None,
            });
            let answer = answered.await.unwrap_or_else(|e| {
                OffsetFetchResponseGroup::default()
                    .with_group_id(asked.group_id.clone())
                    .with_error_code(e.code())
            });
            broker.metrics.error(API.key as i16, answer.error_code);
            answers.push((asked, answer));
        }
        if version >= MANY {
            let groups = answers.into_iter().map(|(_, answer)| answer).collect();
            return OffsetFetchResponse::default().with_groups(groups);
        }
        answers
            .pop()
            .map_or_else(OffsetFetchResponse::default, |(asked, answer)| one(&asked, answer, version))
    })
}

/// What versions before 8 ask for.
fn only_group(body: OffsetFetchRequest) -> OffsetFetchRequestGroup {
    let topics = body.topics.map(|topics| {
        let topic = topics.into_iter().map(|topic| {
            OffsetFetchRequestTopics::default()
                .with_name(topic.name)
                .with_partition_indexes(topic.partition_indexes)
        });
        topic.collect()
    });
    OffsetFetchRequestGroup::default()
        .with_group_id(body.group_id)
        .with_member_id(None)
        .with_member_epoch(-1)
        .with_topics(topics)
}

/// The answer of versions before 8.
fn one(
    asked: &OffsetFetchRequestGroup,
    answer: OffsetFetchResponseGroup,
    version: i16,
) -> OffsetFetchResponse {
    if answer.error_code != 0 && version < TOP_LEVEL_ERROR {
        let failed = |index: &i32| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(*index)
                .with_committed_offset(-1)
                .with_metadata(Some(text("")))
                .with_error_code(answer.error_code)
        };
        let topics = asked.topics.iter().flatten().map(|topic| {
            OffsetFetchResponseTopic::default()
                .with_name(topic.name.clone())
                .with_partitions(topic.partition_indexes.iter().map(failed).collect())
        });
        return OffsetFetchResponse::default().with_topics(topics.collect());
    }
    let topics = answer.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|p| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(p.partition_index)
                .with_committed_offset(p.committed_offset)
                .with_committed_leader_epoch(p.committed_leader_epoch)
                .with_metadata(p.metadata)
                .with_error_code(p.error_code)
        });
        OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default().with_topics(topics.collect()).with_error_code(answer.error_code)
}
