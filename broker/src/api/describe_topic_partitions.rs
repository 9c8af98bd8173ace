//! DescribeTopicPartitions (75): topics and their partitions, page by page, with their eligible leaders (KIP-966).

use std::collections::BTreeSet;

use chronik_core::controller::check_topic_name;
use chronik_core::ids;
use chronik_core::metadata::image::INTERNAL_TOPICS;
use chronik_core::metadata::{MetadataImage, PartitionImage, TopicImage};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName,
};

use super::{Api, Reply, Request, TOPIC_OPERATIONS, text};

pub const API: Api =
    Api { key: ApiKey::DescribeTopicPartitions, min: 0, max: 0, serve: super::Serve::Call(serve) };

/// Kafka's `max.request.partition.size.limit`: partitions in one answer, at most.
const PARTITIONS_MAX: i32 = 2_000;

fn serve(mut request: Request) -> Reply {
    let body: DescribeTopicPartitionsRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let image = request.broker.metadata.image();
    let Some(names) = names(&image, &body) else {
        let code = ResponseError::InvalidRequest.code();
        request.broker.metrics.error(API.key as i16, code);
        let refused = body.topics.into_iter().map(|topic| {
            DescribeTopicPartitionsResponseTopic::default().with_name(Some(topic.name)).with_error_code(code)
        });
        let response = DescribeTopicPartitionsResponse::default().with_topics(refused.collect());
        return request.head.reply(&response);
    };
    let response = page(&image, &request.conn.listener, &body, names);
    for topic in &response.topics {
        request.broker.metrics.error(API.key as i16, topic.error_code);
    }
    request.head.reply(&response)
}

/// The topics that are asked for, from the cursor on. `None` for a cursor that does not point to one of them.
fn names(image: &MetadataImage, body: &DescribeTopicPartitionsRequest) -> Option<BTreeSet<String>> {
    let from = body.cursor.as_ref().map(|cursor| cursor.topic_name.as_str()).unwrap_or_default();
    let all = body.topics.is_empty();
    let names: BTreeSet<String> = if all {
        image.topics().map(|topic| topic.name.to_string()).filter(|name| **name >= *from).collect()
    } else {
        body.topics.iter().map(|topic| topic.name.to_string()).filter(|name| **name >= *from).collect()
    };
    let valid = body
        .cursor
        .as_ref()
        .is_none_or(|cursor| cursor.partition_index >= 0 && (all || names.contains(from)));
    valid.then_some(names)
}

/// As many partitions as fit into the answer, and where the next one begins.
fn page(
    image: &MetadataImage,
    listener: &str,
    body: &DescribeTopicPartitionsRequest,
    names: BTreeSet<String>,
) -> DescribeTopicPartitionsResponse {
    let mut left = usize::try_from(body.response_partition_limit.clamp(1, PARTITIONS_MAX)).unwrap_or(1);
    let mut response = DescribeTopicPartitionsResponse::default();
    let next = |name: &str, partition: i32| {
        Some(Cursor::default().with_topic_name(TopicName(text(name))).with_partition_index(partition))
    };
    for name in names {
        if left == 0 {
            response.next_cursor = next(&name, 0);
            break;
        }
        let Some(known) = image.topic(&name) else {
            // Whoever asks for all topics does not mind one that is gone.
            if !body.topics.is_empty() {
                response.topics.push(unknown(&name));
            }
            continue;
        };
        let at_cursor = body.cursor.as_ref().filter(|cursor| **cursor.topic_name == *name);
        let first = at_cursor.map_or(0, |cursor| cursor.partition_index);
        let numbered = (0i32..).zip(&known.partitions).filter(|(index, _)| *index >= first);
        let shown = numbered.take(left).map(|(index, p)| partition(image, listener, index, p));
        let shown: Vec<_> = shown.collect();
        let end = shown.last().map(|last| last.partition_index + 1);
        left -= shown.len();
        response.topics.push(topic(known, shown));
        if let Some(end) = end.filter(|end| known.partition(*end).is_some()) {
            response.next_cursor = next(&name, end);
            break;
        }
    }
    response
}

fn unknown(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let error = match check_topic_name(name) {
        Ok(()) => ResponseError::UnknownTopicOrPartition,
        Err(_) => ResponseError::InvalidTopicException,
    };
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(error.code())
        .with_name(Some(TopicName(text(name))))
        .with_is_internal(INTERNAL_TOPICS.contains(&name))
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}

fn topic(
    topic: &TopicImage,
    partitions: Vec<DescribeTopicPartitionsResponsePartition>,
) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(TopicName(text(&*topic.name))))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.is_internal)
        .with_partitions(partitions)
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}

fn partition(
    image: &MetadataImage,
    listener: &str,
    index: i32,
    p: &PartitionImage,
) -> DescribeTopicPartitionsResponsePartition {
    let reachable =
        |id: &ids::BrokerId| image.broker(*id).is_some_and(|b| !b.fenced && b.listener(listener).is_some());
    let told = |all: &[ids::BrokerId]| all.iter().map(|id| BrokerId(id.0)).collect::<Vec<_>>();
    let offline = p.replicas.iter().filter(|id| !reachable(id)).map(|id| BrokerId(id.0));
    DescribeTopicPartitionsResponsePartition::default()
        .with_partition_index(index)
        .with_leader_id(BrokerId(if reachable(&p.leader) { p.leader.0 } else { -1 }))
        .with_leader_epoch(p.leader_epoch.0)
        .with_replica_nodes(told(&p.replicas))
        .with_isr_nodes(told(&p.isr))
        .with_eligible_leader_replicas(Some(told(&p.elr)))
        .with_last_known_elr(Some(Vec::new()))
        .with_offline_replicas(offline.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use kafka_protocol::messages::describe_topic_partitions_request::{self, TopicRequest};

    fn ask(topics: &[&str], limit: i32, cursor: Option<(&str, i32)>) -> DescribeTopicPartitionsRequest {
        let named = |name: &&str| TopicRequest::default().with_name(TopicName(text(*name)));
        let cursor = cursor.map(|(name, partition)| {
            describe_topic_partitions_request::Cursor::default()
                .with_topic_name(TopicName(text(name)))
                .with_partition_index(partition)
        });
        DescribeTopicPartitionsRequest::default()
            .with_topics(topics.iter().map(named).collect())
            .with_response_partition_limit(limit)
            .with_cursor(cursor)
    }

    /// Name, error and partitions of each topic, and the next page's first one.
    type Page = (Vec<(String, i16, Vec<i32>)>, Option<(String, i32)>);

    async fn page(fixture: &Fixture, request: &DescribeTopicPartitionsRequest) -> Page {
        let response: DescribeTopicPartitionsResponse = fixture.call(0, request).await;
        let each = response.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|p| p.partition_index).collect();
            (topic.name.as_ref().unwrap().to_string(), topic.error_code, partitions)
        });
        let next = response.next_cursor.as_ref();
        (each.collect(), next.map(|next| (next.topic_name.to_string(), next.partition_index)))
    }

    fn shown(name: &str, partitions: &[i32]) -> (String, i16, Vec<i32>) {
        (name.to_string(), 0, partitions.to_vec())
    }

    async fn fixture() -> Fixture {
        let fixture = Fixture::new().await;
        for (name, partitions) in [("c", 1), ("a", 3), ("b", 2)] {
            fixture.create_topic(name, partitions).await;
        }
        fixture
    }

    #[tokio::test]
    async fn all_topics_in_pages() {
        let fixture = fixture().await;
        let all = [shown("a", &[0, 1, 2]), shown("b", &[0, 1]), shown("c", &[0])];
        assert_eq!(page(&fixture, &ask(&[], 2_000, None)).await, (all.to_vec(), None));
        for limit in 1..=7 {
            let mut seen: Vec<(String, i32)> = Vec::new();
            let mut cursor = Some((String::new(), 0));
            while let Some((name, partition)) = cursor {
                let at = (!name.is_empty()).then_some((name.as_str(), partition));
                let (topics, next) = page(&fixture, &ask(&[], limit, at)).await;
                let told = topics.iter().flat_map(|(name, error, partitions)| {
                    assert_eq!(*error, 0);
                    partitions.iter().map(move |partition| (name.clone(), *partition))
                });
                let before = seen.len();
                seen.extend(told);
                assert!(seen.len() - before <= limit as usize);
                cursor = next;
            }
            let each = all.iter().flat_map(|(name, _, all)| all.iter().map(move |p| (name.clone(), *p)));
            assert_eq!(seen, each.collect::<Vec<_>>(), "{limit} at once");
        }
        let exact = page(&fixture, &ask(&[], 3, None)).await;
        assert_eq!(exact, (vec![shown("a", &[0, 1, 2])], Some(("b".to_string(), 0))));
        assert_eq!(page(&fixture, &ask(&[], 0, None)).await.1, Some(("a".to_string(), 1)), "one at least");
    }

    #[tokio::test]
    async fn some_topics_and_those_that_are_not_there() {
        let fixture = fixture().await;
        let failed = |name: &str, error: ResponseError| (name.to_string(), error.code(), Vec::new());
        let gone = failed("gone", ResponseError::UnknownTopicOrPartition);
        let told = page(&fixture, &ask(&["gone", "c", "c", "a b"], 2_000, None)).await;
        let bad = failed("a b", ResponseError::InvalidTopicException);
        assert_eq!(told, (vec![bad, shown("c", &[0]), gone.clone()], None));
        let told = page(&fixture, &ask(&["a", "gone", "b"], 10, Some(("b", 1)))).await;
        assert_eq!(told, (vec![shown("b", &[1]), gone], None));
        let told = page(&fixture, &ask(&[], 10, Some(("bb", 1)))).await;
        assert_eq!(told, (vec![shown("c", &[0])], None), "the cursor's topic is gone");
        let told = page(&fixture, &ask(&[], 10, Some(("b", 9)))).await;
        assert_eq!(told, (vec![shown("b", &[]), shown("c", &[0])], None));
        for cursor in [("d", 0), ("a", -1)] {
            let told = page(&fixture, &ask(&["a"], 10, Some(cursor))).await;
            assert_eq!(told, (vec![failed("a", ResponseError::InvalidRequest)], None));
        }
    }

    #[tokio::test]
    async fn a_partition_is_told_as_metadata_does() {
        let fixture = fixture().await;
        let response: DescribeTopicPartitionsResponse = fixture.call(0, &ask(&["a"], 1, None)).await;
        let [topic] = &response.topics[..] else { panic!("{response:?}") };
        assert_eq!(topic.topic_id, fixture.broker.metadata.image().topic("a").unwrap().id.0);
        assert_eq!((topic.is_internal, topic.topic_authorized_operations), (false, TOPIC_OPERATIONS));
        let p = &topic.partitions[0];
        assert_eq!((p.error_code, p.leader_id.0), (0, 1));
        assert_eq!((&p.replica_nodes, &p.isr_nodes), (&vec![BrokerId(1)], &vec![BrokerId(1)]));
        assert_eq!((&p.eligible_leader_replicas, &p.last_known_elr), (&Some(vec![]), &Some(vec![])));
        assert!(p.offline_replicas.is_empty());
        let elsewhere = fixture.on_listener("OTHER");
        let response: DescribeTopicPartitionsResponse = elsewhere.call(0, &ask(&["a"], 1, None)).await;
        let p = &response.topics[0].partitions[0];
        assert_eq!((p.leader_id.0, &p.offline_replicas), (-1, &vec![BrokerId(1)]));
    }
}
