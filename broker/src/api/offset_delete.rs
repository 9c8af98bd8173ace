//! OffsetDelete (47): committed offsets that a group shall forget (KIP-496).

use std::collections::HashMap;

use chronik_core::group::{Answer, Call};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{ApiKey, OffsetDeleteRequest, OffsetDeleteResponse, TopicName};

use super::{Api, Reply, Request};
use crate::coordinator;

pub const API: Api = Api { key: ApiKey::OffsetDelete, min: 0, max: 0, serve: super::Serve::Call(serve) };

fn serve(mut request: Request) -> Reply {
    let mut body: OffsetDeleteRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let image = request.broker.metadata.image();
    // What the group is not asked for: it comes first in the answer.
    let mut topics = Topics::default();
    for topic in &mut body.topics {
        let known = image.topic(&topic.name);
        let mut missing = Vec::new();
        topic.partitions.retain(|p| {
            let there = known.is_some_and(|t| t.partition(p.partition_index).is_some());
            if !there {
                missing.push(no_such_partition(p.partition_index));
            }
            there
        });
        if !missing.is_empty() {
            topics.add(&topic.name, missing);
        }
    }
    body.topics.retain(|topic| !topic.partitions.is_empty());
    let group_id = body.group_id.clone();
    let told = request.broker.groups.call(&group_id, Call::OffsetDelete(body));
    let broker = request.broker.clone();
    request.later(async move {
        let answered = coordinator::answer(told, |answer| match answer {
            Answer::OffsetDelete(response) => Some(response),
            _ => None,
        });
        let mut response =
            answered.await.unwrap_or_else(|e| OffsetDeleteResponse::default().with_error_code(e.code()));
        broker.metrics.error(API.key as i16, response.error_code);
        if response.error_code != 0 {
            // The group's error is all there is to say.
            response.topics.clear();
            return response;
        }
        for topic in response.topics {
            topics.add(&topic.name, topic.partitions);
        }
        response.topics = topics.all;
        for partition in response.topics.iter().flat_map(|t| &t.partitions) {
            broker.metrics.error(API.key as i16, partition.error_code);
        }
        response
    })
}

fn no_such_partition(index: i32) -> OffsetDeleteResponsePartition {
    OffsetDeleteResponsePartition::default()
        .with_partition_index(index)
        .with_error_code(ResponseError::UnknownTopicOrPartition.code())
}

/// The topics of an answer, each once.
#[derive(Default)]
struct Topics {
    all: Vec<OffsetDeleteResponseTopic>,
    places: HashMap<TopicName, usize>,
}

impl Topics {
    fn add(&mut self, name: &TopicName, partitions: Vec<OffsetDeleteResponsePartition>) {
        let place = *self.places.entry(name.clone()).or_insert(self.all.len());
        match self.all.get_mut(place) {
            Some(known) => known.partitions.extend(partitions),
            None => {
                let topic = OffsetDeleteResponseTopic::default().with_name(name.clone());
                self.all.push(topic.with_partitions(partitions));
            }
        }
    }
}
