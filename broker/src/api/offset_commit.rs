//! OffsetCommit (8): how far a group has come. Answered once it is on the disk.
//!
//! It keeps its permit until then: what waits for the disk is bounded by it.

use chronik_core::group::{Answer, Call};
use chronik_core::metadata::MetadataImage;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{ApiKey, OffsetCommitRequest, OffsetCommitResponse};

use super::{Api, Reply, Request};
use crate::coordinator;

pub const API: Api = Api { key: ApiKey::OffsetCommit, min: 2, max: 9, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let mut body: OffsetCommitRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let unknown = take_unknown(&request.broker.metadata.image(), &mut body.topics);
    let asked: Vec<OffsetCommitResponseTopic> = body.topics.iter().map(|t| failed(t, 0)).collect();
    let nothing_left = body.topics.is_empty() && !unknown.is_empty();
    let told = (!nothing_left).then(|| {
        let group_id = body.group_id.clone();
        request.broker.groups.call(&group_id, Call::OffsetCommit(body, request.head.version))
    });
    let broker = request.broker.clone();
    request.later(async move {
        let answered = match told {
            None => Ok(OffsetCommitResponse::default()),
            Some(told) => {
                coordinator::answer(told, |answer| match answer {
                    Answer::OffsetCommit(response) => Some(response),
                    _ => None,
                })
                .await
            }
        };
        let mut response = answered.unwrap_or_else(|e| {
            let mut topics = asked;
            topics.iter_mut().flat_map(|t| &mut t.partitions).for_each(|p| p.error_code = e.code());
            OffsetCommitResponse::default().with_topics(topics)
        });
        for topic in unknown {
            match response.topics.iter_mut().find(|known| known.name == topic.name) {
                Some(known) => known.partitions.extend(topic.partitions),
                None => response.topics.push(topic),
            }
        }
        for partition in response.topics.iter().flat_map(|t| &t.partitions) {
            broker.metrics.error(API.key as i16, partition.error_code);
        }
        response
    })
}

/// Takes what does not exist out of the request, and gives its answers.
fn take_unknown(
    image: &MetadataImage,
    topics: &mut Vec<OffsetCommitRequestTopic>,
) -> Vec<OffsetCommitResponseTopic> {
    let code = ResponseError::UnknownTopicOrPartition.code();
    let mut unknown = Vec::new();
    for topic in topics.iter_mut() {
        let known = image.topic(&topic.name);
        let there = |index: i32| known.is_some_and(|t| t.partition(index).is_some());
        let (kept, gone) = std::mem::take(&mut topic.partitions)
            .into_iter()
            .partition::<Vec<_>, _>(|p| there(p.partition_index));
        topic.partitions = kept;
        if !gone.is_empty() || known.is_none() {
            let name = topic.name.clone();
            unknown.push(failed(
                &OffsetCommitRequestTopic::default().with_name(name).with_partitions(gone),
                code,
            ));
        }
    }
    topics.retain(|topic| !topic.partitions.is_empty());
    unknown
}

fn failed(topic: &OffsetCommitRequestTopic, code: i16) -> OffsetCommitResponseTopic {
    let failed = |index: i32| {
        OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code)
    };
    OffsetCommitResponseTopic::default()
        .with_name(topic.name.clone())
        .with_partitions(topic.partitions.iter().map(|p| failed(p.partition_index)).collect())
}
