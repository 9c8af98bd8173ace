//! DescribeQuorum (55): who votes on the cluster's metadata, and how far everybody is (KIP-595, KIP-836).

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_quorum_request::TopicData as Asked;
use kafka_protocol::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::{ApiKey, BrokerId, DescribeQuorumRequest, DescribeQuorumResponse, TopicName};

use super::{Api, Broker, Reply, Request, text};
use crate::quorum::{QuorumState, ReplicaLog};
use crate::storage::now_ms;

pub const API: Api = Api { key: ApiKey::DescribeQuorum, min: 0, max: 2, serve: super::Serve::Call(serve) };

/// What Kafka calls the log of the metadata: it is no topic here, but this is its name in requests.
const METADATA_TOPIC: &str = "__cluster_metadata";
/// The first version with the voters' disks and addresses.
const IDENTITIES_FROM: i16 = 2;

fn serve(mut request: Request) -> Reply {
    let body: DescribeQuorumRequest = match request.decode() {
        Ok(body) => body,
        Err(close) => return close,
    };
    let version = request.head.version;
    let broker = &request.broker;
    let topics = if is_metadata_log(&body.topics) {
        let partition = match broker.metadata.quorum_state() {
            Some(state) => described(&state, version),
            None => {
                let code = ResponseError::NotLeaderOrFollower.code();
                let why = "For requests intended only for the leader, this error indicates that the broker is not the current leader. For requests intended for any replica, this error indicates that the broker is not a replica of the topic partition.";
                broker.metrics.error(API.key as i16, code);
                PartitionData::default().with_error_code(code).with_error_message(Some(text(why)))
            }
        };
        vec![TopicData::default().with_topic_name(name()).with_partitions(vec![partition])]
    } else {
        broker.metrics.error(API.key as i16, ResponseError::UnknownTopicOrPartition.code());
        body.topics.into_iter().map(unknown).collect()
    };
    let mut response = DescribeQuorumResponse::default();
    if version >= IDENTITIES_FROM {
        response.nodes = nodes(broker, &topics);
    }
    request.head.reply(&response.with_topics(topics))
}

fn name() -> TopicName {
    TopicName(text(METADATA_TOPIC))
}

fn is_metadata_log(asked: &[Asked]) -> bool {
    let [topic] = asked else { return false };
    topic.topic_name == name() && matches!(&topic.partitions[..], [only] if only.partition_index == 0)
}

fn unknown(topic: Asked) -> TopicData {
    let code = ResponseError::UnknownTopicOrPartition.code();
    let why = "This server does not host this topic-partition.";
    let refused = topic.partitions.iter().map(|asked| {
        PartitionData::default()
            .with_partition_index(asked.partition_index)
            .with_error_code(code)
            .with_error_message(Some(text(why)))
    });
    let partitions = refused.collect();
    TopicData::default().with_topic_name(topic.topic_name).with_partitions(partitions)
}

/// The quorum as its leader knows it.
fn described(state: &QuorumState, version: i16) -> PartitionData {
    let replicas = |logs: &[ReplicaLog]| logs.iter().map(|log| replica(log, state, version)).collect();
    PartitionData::default()
        .with_leader_id(BrokerId(state.leader.0))
        .with_leader_epoch(i32::try_from(state.term).unwrap_or(i32::MAX))
        .with_high_watermark(offset(state.high_watermark))
        .with_current_voters(replicas(&state.voters))
        .with_observers(replicas(&state.observers))
}

fn replica(log: &ReplicaLog, state: &QuorumState, version: i16) -> ReplicaState {
    let mut told = ReplicaState::default()
        .with_replica_id(BrokerId(log.broker_id.0))
        .with_log_end_offset(log.end.map_or(-1, offset));
    if version >= IDENTITIES_FROM {
        told.replica_directory_id = log.disk_uuid.0;
    }
    // The leader is always where it is. When the others last asked, the library does not tell.
    if log.broker_id == state.leader {
        let now = now_ms();
        (told.last_fetch_timestamp, told.last_caught_up_timestamp) = (now, now);
    }
    told
}

fn offset(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

/// Where the voters are reached: a controller has no listener of its own, it is asked where its broker is.
fn nodes(broker: &Broker, topics: &[TopicData]) -> Vec<Node> {
    let image = broker.metadata.image();
    let voters = topics.iter().flat_map(|t| &t.partitions).flat_map(|p| &p.current_voters);
    let node = |voter: &ReplicaState| {
        let registered = image.broker(chronik_core::ids::BrokerId(voter.replica_id.0))?;
        let listeners = registered.listeners.iter().map(|listener| {
            Listener::default()
                .with_name(text(listener.name.as_str()))
                .with_host(text(listener.host.as_str()))
                .with_port(listener.port)
        });
        Some(Node::default().with_node_id(voter.replica_id).with_listeners(listeners.collect()))
    };
    voters.filter_map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use kafka_protocol::messages::describe_quorum_request::PartitionData as AskedPartition;

    fn ask(topic: &str, partition: i32) -> DescribeQuorumRequest {
        let partition = AskedPartition::default().with_partition_index(partition);
        let topic = Asked::default().with_topic_name(TopicName(text(topic))).with_partitions(vec![partition]);
        DescribeQuorumRequest::default().with_topics(vec![topic])
    }

    #[tokio::test]
    async fn the_only_voter_leads_in_every_version() {
        let fixture = Fixture::new().await;
        let mut before = 0;
        for version in 0..=2 {
            let response: DescribeQuorumResponse = fixture.call(version, &ask(METADATA_TOPIC, 0)).await;
            let told = &response.topics[0].partitions[0];
            assert_eq!((response.error_code, told.error_code, told.leader_id.0), (0, 0, 1));
            assert!(told.leader_epoch > 0 && told.high_watermark > before, "{told:?}");
            before = told.high_watermark;
            let [voter] = &told.current_voters[..] else { panic!("{told:?}") };
            assert_eq!(voter.replica_id.0, 1);
            assert!(voter.log_end_offset >= told.high_watermark, "{told:?}");
            assert_eq!(voter.last_caught_up_timestamp > 0, version >= 1);
            let nodes: Vec<(i32, u16)> =
                response.nodes.iter().map(|n| (n.node_id.0, n.listeners[0].port)).collect();
            assert_eq!(nodes, if version >= 2 { vec![(1, 9092)] } else { vec![] });
            // It moves on with each change.
            fixture.create_topic(&format!("t{version}"), 1).await;
        }
    }

    #[tokio::test]
    async fn there_is_no_other_quorum() {
        let fixture = Fixture::new().await;
        let two = DescribeQuorumRequest::default()
            .with_topics([ask(METADATA_TOPIC, 0).topics, ask("a", 0).topics].concat());
        for (request, topics) in
            [(ask("a", 0), 1), (ask(METADATA_TOPIC, 1), 1), (two, 2), (DescribeQuorumRequest::default(), 0)]
        {
            let response: DescribeQuorumResponse = fixture.call(2, &request).await;
            let codes: Vec<i16> = response.topics.iter().map(|t| t.partitions[0].error_code).collect();
            assert_eq!((response.error_code, codes), (0, vec![3; topics]));
            assert!(response.nodes.is_empty());
        }
    }
}
