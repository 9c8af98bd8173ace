//! OffsetDelete (47): committed offsets that a group shall forget (KIP-496).

use std::collections::HashMap;

use chronik_core::group::{Answer, Call};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{ApiKey, OffsetDeleteRequest, OffsetDeleteResponse};

use super::{Api, Reply, Request};
use crate::coordinator;

pub const API: Api = Api { key: ApiKey::OffsetDelete, min: 0, max: 0, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let mut body: OffsetDeleteRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let image = request.broker.metadata.image();
    let mut unknown: HashMap<_, Vec<i32>> = HashMap::new();
    for topic in &mut body.topics {
        let known = image.topic(&topic.name);
        topic.partitions.retain(|p| {
            let there = known.is_some_and(|t| t.partition(p.partition_index).is_some());
            if !there {
                unknown.entry(topic.name.clone()).or_default().push(p.partition_index);
            }
            there
        });
    }
    body.topics.retain(|topic| !topic.partitions.is_empty());
    let nothing_left = body.topics.is_empty() && !unknown.is_empty();
    let told = (!nothing_left).then(|| {
        let group_id = body.group_id.clone();
        request.broker.groups.call(&group_id, Call::OffsetDelete(body))
    });
    let broker = request.broker.clone();
    request.later(async move {
        let answered = match told {
            None => Ok(OffsetDeleteResponse::default()),
            Some(told) => {
                coordinator::answer(told, |answer| match answer {
                    Answer::OffsetDelete(response) => Some(response),
                    _ => None,
                })
                .await
            }
        };
        let mut response =
            answered.unwrap_or_else(|e| OffsetDeleteResponse::default().with_error_code(e.code()));
        broker.metrics.error(API.key as i16, response.error_code);
        if response.error_code != 0 {
            // The group's error is all there is to say.
            response.topics.clear();
            return response;
        }
        for (name, partitions) in unknown {
            let failed = |index: i32| {
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(ResponseError::UnknownTopicOrPartition.code())
            };
            let failed = partitions.into_iter().map(failed).collect();
            match response.topics.iter_mut().find(|known| known.name == name) {
                Some(known) => known.partitions.extend::<Vec<_>>(failed),
                None => response
                    .topics
                    .push(OffsetDeleteResponseTopic::default().with_name(name).with_partitions(failed)),
            }
        }
        for partition in response.topics.iter().flat_map(|t| &t.partitions) {
            broker.metrics.error(API.key as i16, partition.error_code);
        }
        response
    })
}
