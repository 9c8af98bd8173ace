//! Metadata (3): brokers, topics and who leads what, as seen on the listener the request came in on.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_core::controller::{auto_create_topics, check_topic_name};
use chronik_core::ids::{TopicId, Uuid};
use chronik_core::metadata::config::broker_value_of;
use chronik_core::metadata::image::INTERNAL_TOPICS;
use chronik_core::metadata::{MetadataImage, PartitionImage, TopicImage};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{ApiKey, BrokerId, MetadataRequest, MetadataResponse, TopicName};

use super::{Api, CLUSTER_OPERATIONS, NOT_ASKED, Reply, Request, TOPIC_OPERATIONS, text};

pub const API: Api = Api { key: ApiKey::Metadata, min: 0, max: 13, serve: super::Serve::Call(serve) };

/// How long a topic's creation may hold up the answer. Later, the client asks again.
const AUTO_CREATE_MS: i32 = 5_000;

/// What a request asks for, after its version's rules.
enum Wanted {
    All,
    Names(BTreeSet<String>),
    Ids(BTreeSet<TopicId>),
}

/// What of the request shapes the answer.
#[derive(Clone)]
struct View {
    listener: Arc<str>,
    version: i16,
    topic_operations: bool,
}

fn serve(mut request: Request) -> Reply {
    let body: MetadataRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let mut response = MetadataResponse::default();
    let wanted = match wanted(&body, version) {
        Ok(wanted) => wanted,
        Err(code) => {
            request.broker.metrics.error(API.key as i16, code);
            response.controller_id = BrokerId(-1);
            response.error_code = if version >= 13 { code } else { 0 };
            response.topics = body.topics.unwrap_or_default().into_iter().map(|t| refused(t, code)).collect();
            return request.head.reply(&response);
        }
    };
    let view = View {
        listener: request.conn.listener.clone(),
        version,
        topic_operations: body.include_topic_authorized_operations,
    };
    if (8..=10).contains(&version) && body.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    let image = request.broker.metadata.image();
    let allowed = version < 4 || body.allow_auto_topic_creation;
    let missing: Vec<String> = match &wanted {
        Wanted::Names(names) if allowed && auto_create(&image) => {
            names.iter().filter(|n| image.topic(n).is_none()).cloned().collect()
        }
        _ => Vec::new(),
    };
    if missing.is_empty() {
        fill(&mut response, &request, &image, &wanted, &[], &view);
        return request.head.reply(&response);
    }
    let broker = request.broker.clone();
    let conn = request.conn.clone();
    request.later(async move {
        let names = missing.clone();
        let mut fresh = || TopicId(Uuid::new_v4());
        let created =
            broker.change(AUTO_CREATE_MS, move |image| auto_create_topics(image, &names, &mut fresh)).await;
        let failed: Vec<(String, i16)> = match created {
            Ok(topics) => {
                topics.into_iter().filter_map(|(name, t)| Some((name, t.err()?.code.code()))).collect()
            }
            // Whether they will be there, only asking again can tell.
            Err(_) => missing.into_iter().map(|n| (n, ResponseError::LeaderNotAvailable.code())).collect(),
        };
        let image = broker.metadata.image();
        fill_from(&mut response, broker.metadata.leader().map_or(-1, |id| id.0), &conn.listener, &image);
        response.topics = topics(&image, &wanted, &failed, &view);
        response
    })
}

/// Topics that cannot be asked for in this version are Kafka's INVALID_REQUEST.
fn wanted(body: &MetadataRequest, version: i16) -> Result<Wanted, i16> {
    let Some(topics) = &body.topics else { return Ok(Wanted::All) };
    if version == 0 && topics.is_empty() {
        return Ok(Wanted::All);
    }
    let with_id = |id: Uuid| !id.is_nil();
    if version < 12 && topics.iter().any(|t| t.name.is_none() || with_id(t.topic_id)) {
        return Err(ResponseError::InvalidRequest.code());
    }
    if topics.iter().any(|t| with_id(t.topic_id)) {
        return Ok(Wanted::Ids(
            topics.iter().map(|t| t.topic_id).filter(|id| with_id(*id)).map(TopicId).collect(),
        ));
    }
    match topics.iter().map(|t| t.name.as_ref().map(|n| n.to_string())).collect() {
        Some(names) => Ok(Wanted::Names(names)),
        None => Err(ResponseError::InvalidRequest.code()),
    }
}

fn refused(
    topic: kafka_protocol::messages::metadata_request::MetadataRequestTopic,
    code: i16,
) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_name(Some(topic.name.unwrap_or_default()))
        .with_topic_id(topic.topic_id)
        .with_error_code(code)
}

fn auto_create(image: &MetadataImage) -> bool {
    broker_value_of(image, "auto.create.topics.enable") == "true"
}

fn fill(
    response: &mut MetadataResponse,
    request: &Request,
    image: &MetadataImage,
    wanted: &Wanted,
    failed: &[(String, i16)],
    view: &View,
) {
    let controller = request.broker.metadata.leader().map_or(-1, |id| id.0);
    fill_from(response, controller, &request.conn.listener, image);
    response.topics = topics(image, wanted, failed, view);
}

fn fill_from(response: &mut MetadataResponse, controller: i32, listener: &str, image: &MetadataImage) {
    let alive = image.brokers().values().filter(|b| !b.fenced);
    response.brokers = alive
        .filter_map(|b| {
            let address = b.listener(listener)?;
            let told = MetadataResponseBroker::default()
                .with_node_id(BrokerId(b.broker_id.0))
                .with_host(text(address.host.as_str()))
                .with_port(i32::from(address.port))
                .with_rack(b.rack.as_deref().map(text));
            Some(told)
        })
        .collect();
    response.cluster_id = Some(text(image.cluster_id()));
    let known = response.brokers.iter().any(|b| b.node_id.0 == controller);
    response.controller_id = BrokerId(if known { controller } else { -1 });
}

fn topics(
    image: &MetadataImage,
    wanted: &Wanted,
    failed: &[(String, i16)],
    view: &View,
) -> Vec<MetadataResponseTopic> {
    match wanted {
        Wanted::All => image.topics().map(|t| topic(image, t, view)).collect(),
        Wanted::Names(names) => names
            .iter()
            .map(|name| {
                image.topic(name).map_or_else(|| missing(name, failed, view), |t| topic(image, t, view))
            })
            .collect(),
        Wanted::Ids(ids) => ids
            .iter()
            .map(|id| match image.topic_by_id(*id) {
                Some(t) => topic(image, t, view),
                None => MetadataResponseTopic::default()
                    .with_error_code(ResponseError::UnknownTopicId.code())
                    .with_topic_id(id.0)
                    .with_name(None),
            })
            .collect(),
    }
}

fn missing(name: &str, failed: &[(String, i16)], _view: &View) -> MetadataResponseTopic {
    let refused = failed.iter().find(|(n, _)| n == name).map(|(_, code)| *code);
    let code = refused.unwrap_or_else(|| match check_topic_name(name) {
        Ok(()) => ResponseError::UnknownTopicOrPartition.code(),
        Err(e) => e.code.code(),
    });
    MetadataResponseTopic::default()
        .with_error_code(code)
        .with_name(Some(TopicName(text(name))))
        .with_is_internal(INTERNAL_TOPICS.contains(&name))
}

fn topic(image: &MetadataImage, topic: &TopicImage, view: &View) -> MetadataResponseTopic {
    let partitions = (0i32..).zip(&topic.partitions).map(|(index, p)| partition(image, index, p, view));
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(&*topic.name))))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.is_internal)
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(if view.topic_operations { TOPIC_OPERATIONS } else { NOT_ASKED })
}

fn partition(
    image: &MetadataImage,
    index: i32,
    p: &PartitionImage,
    view: &View,
) -> MetadataResponsePartition {
    let reachable = |id: chronik_core::ids::BrokerId| {
        image.broker(id).is_some_and(|b| !b.fenced && b.listener(&view.listener).is_some())
    };
    let ids = |list: &[chronik_core::ids::BrokerId]| list.iter().map(|id| BrokerId(id.0)).collect::<Vec<_>>();
    // Version 0 clients could not bear replicas that are not among the brokers.
    let told = |list: &[chronik_core::ids::BrokerId]| {
        let all = list.iter().filter(|id| view.version > 0 || reachable(**id));
        all.map(|id| BrokerId(id.0)).collect::<Vec<_>>()
    };
    let offline: Vec<_> = p.replicas.iter().copied().filter(|id| !reachable(*id)).collect();
    let error = if !reachable(p.leader) {
        let alive_elsewhere = image.broker(p.leader).is_some_and(|b| !b.fenced);
        Some(match alive_elsewhere && view.version >= 6 {
            true => ResponseError::ListenerNotFound,
            false => ResponseError::LeaderNotAvailable,
        })
    } else if view.version == 0 && !offline.is_empty() {
        Some(ResponseError::ReplicaNotAvailable)
    } else {
        None
    };
    let leader = if reachable(p.leader) { p.leader.0 } else { -1 };
    MetadataResponsePartition::default()
        .with_error_code(error.map_or(0, |e| e.code()))
        .with_partition_index(index)
        .with_leader_id(BrokerId(leader))
        .with_leader_epoch(p.leader_epoch.0)
        .with_replica_nodes(told(&p.replicas))
        .with_isr_nodes(told(&p.isr))
        .with_offline_replicas(ids(&offline))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use kafka_protocol::messages::metadata_request::MetadataRequestTopic;

    fn named(name: &str) -> MetadataRequestTopic {
        MetadataRequestTopic::default().with_name(Some(TopicName(text(name))))
    }

    fn ask(topics: Option<Vec<MetadataRequestTopic>>) -> MetadataRequest {
        MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(true)
    }

    /// A request in the form its version knows.
    fn closed(topics: Option<Vec<MetadataRequestTopic>>, version: i16) -> MetadataRequest {
        ask(topics).with_allow_auto_topic_creation(version < 4)
    }

    #[tokio::test]
    async fn all_topics_by_the_rule_of_each_version() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 2).await;
        for version in 0..=13 {
            let all = if version == 0 { Some(vec![]) } else { None };
            let response: MetadataResponse = fixture.call(version, &closed(all, version)).await;
            assert_eq!(response.topics.len(), 1, "version {version}");
            let topic = &response.topics[0];
            assert_eq!((topic.error_code, topic.partitions.len()), (0, 2));
            assert_eq!(topic.topic_id.is_nil(), version < 10);
            let p = &topic.partitions[1];
            assert_eq!((p.error_code, p.partition_index, p.leader_id.0), (0, 1, 1));
            assert_eq!((p.replica_nodes.len(), p.isr_nodes.len(), p.offline_replicas.len()), (1, 1, 0));
            assert_eq!((response.brokers.len(), response.brokers[0].port), (1, 9092));
            if version >= 1 {
                assert_eq!(response.controller_id.0, 1);
                let none: MetadataResponse = fixture.call(version, &closed(Some(vec![]), version)).await;
                assert_eq!(none.topics.len(), 0);
            }
            if version >= 2 {
                assert_eq!(response.cluster_id.as_deref(), Some("test-cluster"));
            }
        }
    }

    #[tokio::test]
    async fn a_topic_is_created_only_when_client_and_broker_allow_it() {
        let fixture = Fixture::new().await;
        let wish = |allow: bool| ask(Some(vec![named("new")])).with_allow_auto_topic_creation(allow);
        let code = |r: &MetadataResponse| r.topics[0].error_code;
        assert_eq!(code(&fixture.call(4, &wish(false)).await), ResponseError::UnknownTopicOrPartition.code());
        let shut = Fixture::with(&[("auto.create.topics.enable", "false")]).await;
        assert_eq!(code(&shut.call(4, &wish(true)).await), ResponseError::UnknownTopicOrPartition.code());
        let response: MetadataResponse = fixture.call(4, &wish(true)).await;
        assert_eq!((code(&response), response.topics[0].partitions.len()), (0, 1));
        assert!(fixture.broker.metadata.image().topic("new").is_some());
        // Versions below 4 cannot forbid it.
        let old: MetadataResponse = fixture.call(1, &ask(Some(vec![named("older")]))).await;
        assert_eq!(code(&old), 0);
    }

    #[tokio::test]
    async fn bad_names_are_invalid_topics_whether_created_or_not() {
        let fixture = Fixture::new().await;
        for allow in [false, true] {
            for name in ["", ".", "a b", "ü", "slash/"] {
                let wish = ask(Some(vec![named(name)])).with_allow_auto_topic_creation(allow);
                let response: MetadataResponse = fixture.call(9, &wish).await;
                assert_eq!(
                    response.topics[0].error_code,
                    ResponseError::InvalidTopicException.code(),
                    "{name:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn topics_by_id() {
        let fixture = Fixture::new().await;
        let id = fixture.create_topic("a", 1).await;
        let by_id = |id: Uuid| MetadataRequestTopic::default().with_topic_id(id).with_name(None);
        let stranger = Uuid::from_u128(77);
        let response: MetadataResponse =
            fixture.call(12, &ask(Some(vec![by_id(id.0), by_id(stranger)]))).await;
        let mut got: Vec<_> =
            response.topics.iter().map(|t| (t.name.as_ref().map(|n| n.to_string()), t.error_code)).collect();
        got.sort();
        assert_eq!(got, [(None, 100), (Some("a".to_string()), 0)]);
        // Ids came with version 10, asking by them with 12.
        let early = ask(Some(vec![named("a").with_topic_id(id.0)]));
        let response: MetadataResponse = fixture.call(10, &early).await;
        assert_eq!(response.topics[0].error_code, ResponseError::InvalidRequest.code());
    }

    #[tokio::test]
    async fn operations_only_when_asked() {
        let fixture = Fixture::new().await;
        fixture.create_topic("a", 1).await;
        let asked = ask(None)
            .with_include_topic_authorized_operations(true)
            .with_include_cluster_authorized_operations(true);
        let response: MetadataResponse = fixture.call(8, &asked).await;
        assert_eq!(response.cluster_authorized_operations, CLUSTER_OPERATIONS);
        assert_eq!(response.topics[0].topic_authorized_operations, TOPIC_OPERATIONS);
        let response: MetadataResponse = fixture.call(8, &ask(None)).await;
        assert_eq!(response.cluster_authorized_operations, i32::MIN);
        assert_eq!(response.topics[0].topic_authorized_operations, i32::MIN);
    }

    #[tokio::test]
    async fn another_listener_sees_no_leader_there() {
        let fixture = Fixture::new().await.on_listener("OTHER");
        fixture.create_topic("a", 1).await;
        for (version, error) in [(5, ResponseError::LeaderNotAvailable), (6, ResponseError::ListenerNotFound)]
        {
            let response: MetadataResponse = fixture.call(version, &ask(None)).await;
            let p = &response.topics[0].partitions[0];
            assert_eq!((p.error_code, p.leader_id.0, p.offline_replicas.len()), (error.code(), -1, 1));
            assert_eq!((response.brokers.len(), response.controller_id.0), (0, -1));
        }
    }
}
