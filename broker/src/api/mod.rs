//! Kafka's APIs: one file each, and one table.
//!
//! [`TABLE`] is all there is: what is not in it is neither served nor told to clients. A handler decodes the
//! body, reads the metadata image without a lock, and answers with a [`Reply`].

mod acls;
mod add_offsets_to_txn;
mod add_partitions_to_txn;
mod alter_configs;
mod alter_partition_reassignments;
mod alter_replica_log_dirs;
mod api_versions;
mod broker;
mod broker_logger;
mod consumer_group_describe;
mod consumer_group_heartbeat;
#[cfg(test)]
mod consumer_groups_tests;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_client_quotas;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_quorum;
mod describe_topic_partitions;
mod describe_transactions;
mod describe_user_scram_credentials;
mod elect_leaders;
mod end_txn;
pub mod fetch;
mod find_coordinator;
#[cfg(test)]
mod groups_tests;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod list_partition_reassignments;
mod list_transactions;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod once;
pub mod partitions;
mod produce;
mod request;
mod sync_group;
mod telemetry;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod transactions_tests;
mod txn_offset_commit;
mod unregister_broker;
mod update_features;
pub mod voucher;
mod write_txn_markers;

use std::pin::Pin;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::StrBytes;

use chronik_core::metadata::{PartitionImage, TopicImage};

pub use broker::{Broker, Identity};
pub use request::{ConnectionInfo, Frame, FrameError, Reply, Request, RequestHead, RequestPermit};

/// One API: the versions served, and its handler.
pub struct Api {
    pub key: ApiKey,
    pub min: i16,
    pub max: i16,
    pub serve: Serve,
}

/// How an API is served.
pub enum Serve {
    Call(fn(Request) -> Reply),
    /// Awaited before the connection's next request is read: what it does happens in the order of arrival, and
    /// while it waits for room the connection's sender waits too.
    InOrder(fn(Request) -> Pin<Box<dyn Future<Output = Reply> + Send>>),
}

/// Every API this broker serves.
pub static TABLE: &[Api] = &[
    produce::API,
    fetch::API,
    list_offsets::API,
    offset_for_leader_epoch::API,
    metadata::API,
    api_versions::API,
    create_topics::API,
    delete_topics::API,
    delete_records::API,
    init_producer_id::API,
    describe_configs::API,
    alter_configs::API,
    describe_log_dirs::API,
    create_partitions::API,
    incremental_alter_configs::API,
    describe_cluster::API,
    offset_commit::API,
    offset_fetch::API,
    find_coordinator::API,
    join_group::API,
    heartbeat::API,
    leave_group::API,
    sync_group::API,
    describe_groups::API,
    list_groups::API,
    delete_groups::API,
    offset_delete::API,
    consumer_group_heartbeat::API,
    consumer_group_describe::API,
    add_partitions_to_txn::API,
    add_offsets_to_txn::API,
    end_txn::API,
    describe_transactions::API,
    list_transactions::API,
    txn_offset_commit::API,
    write_txn_markers::API,
    describe_producers::API,
    list_config_resources::API,
    describe_topic_partitions::API,
    acls::DESCRIBE,
    acls::CREATE,
    acls::DELETE,
    alter_replica_log_dirs::API,
    elect_leaders::API,
    alter_partition_reassignments::API,
    list_partition_reassignments::API,
    describe_client_quotas::API,
    describe_user_scram_credentials::API,
    describe_quorum::API,
    update_features::API,
    unregister_broker::API,
    telemetry::GET,
    telemetry::PUSH,
];

/// The row of an API key.
pub fn find(api_key: i16) -> Option<&'static Api> {
    TABLE.iter().find(|api| api.key as i16 == api_key)
}

/// The served APIs with their names, for the metrics.
pub fn names() -> impl Iterator<Item = (i16, &'static str)> {
    TABLE.iter().map(|api| (api.key as i16, name(api.key)))
}

/// An API's name, as Kafka writes it.
pub fn name(key: ApiKey) -> &'static str {
    match key {
        ApiKey::Produce => "Produce",
        ApiKey::Fetch => "Fetch",
        ApiKey::ListOffsets => "ListOffsets",
        ApiKey::OffsetForLeaderEpoch => "OffsetForLeaderEpoch",
        ApiKey::Metadata => "Metadata",
        ApiKey::ApiVersions => "ApiVersions",
        ApiKey::CreateTopics => "CreateTopics",
        ApiKey::DeleteTopics => "DeleteTopics",
        ApiKey::DeleteRecords => "DeleteRecords",
        ApiKey::InitProducerId => "InitProducerId",
        ApiKey::DescribeConfigs => "DescribeConfigs",
        ApiKey::AlterConfigs => "AlterConfigs",
        ApiKey::DescribeLogDirs => "DescribeLogDirs",
        ApiKey::CreatePartitions => "CreatePartitions",
        ApiKey::IncrementalAlterConfigs => "IncrementalAlterConfigs",
        ApiKey::DescribeCluster => "DescribeCluster",
        ApiKey::OffsetCommit => "OffsetCommit",
        ApiKey::OffsetFetch => "OffsetFetch",
        ApiKey::FindCoordinator => "FindCoordinator",
        ApiKey::JoinGroup => "JoinGroup",
        ApiKey::Heartbeat => "Heartbeat",
        ApiKey::LeaveGroup => "LeaveGroup",
        ApiKey::SyncGroup => "SyncGroup",
        ApiKey::DescribeGroups => "DescribeGroups",
        ApiKey::ListGroups => "ListGroups",
        ApiKey::DeleteGroups => "DeleteGroups",
        ApiKey::OffsetDelete => "OffsetDelete",
        ApiKey::ConsumerGroupHeartbeat => "ConsumerGroupHeartbeat",
        ApiKey::ConsumerGroupDescribe => "ConsumerGroupDescribe",
        ApiKey::AddPartitionsToTxn => "AddPartitionsToTxn",
        ApiKey::AddOffsetsToTxn => "AddOffsetsToTxn",
        ApiKey::EndTxn => "EndTxn",
        ApiKey::DescribeTransactions => "DescribeTransactions",
        ApiKey::ListTransactions => "ListTransactions",
        ApiKey::TxnOffsetCommit => "TxnOffsetCommit",
        ApiKey::WriteTxnMarkers => "WriteTxnMarkers",
        ApiKey::DescribeProducers => "DescribeProducers",
        ApiKey::ListConfigResources => "ListConfigResources",
        ApiKey::DescribeTopicPartitions => "DescribeTopicPartitions",
        ApiKey::DescribeAcls => "DescribeAcls",
        ApiKey::CreateAcls => "CreateAcls",
        ApiKey::DeleteAcls => "DeleteAcls",
        ApiKey::AlterReplicaLogDirs => "AlterReplicaLogDirs",
        ApiKey::ElectLeaders => "ElectLeaders",
        ApiKey::AlterPartitionReassignments => "AlterPartitionReassignments",
        ApiKey::ListPartitionReassignments => "ListPartitionReassignments",
        ApiKey::DescribeClientQuotas => "DescribeClientQuotas",
        ApiKey::DescribeUserScramCredentials => "DescribeUserScramCredentials",
        ApiKey::DescribeQuorum => "DescribeQuorum",
        ApiKey::UpdateFeatures => "UpdateFeatures",
        ApiKey::UnregisterBroker => "UnregisterBroker",
        ApiKey::GetTelemetrySubscriptions => "GetTelemetrySubscriptions",
        ApiKey::PushTelemetry => "PushTelemetry",
        _ => "Other",
    }
}

/// Whether this API is served in this version. Ask before guarding and decoding the body. ApiVersions is
/// answered in every version (KIP-511), though its body is then not read.
pub fn is_served(api_key: i16, version: i16) -> bool {
    find(api_key).is_some_and(|api| (api.min..=api.max).contains(&version))
}

/// Hands a request to its handler.
pub async fn dispatch(request: Request) -> Reply {
    let RequestHead { api_key, version, .. } = request.head;
    let broker = request.broker.clone();
    if !is_served(api_key, version) {
        broker.metrics.unserved_requests.inc();
        if api_key == ApiKey::ApiVersions as i16 {
            return api_versions::unsupported(&request);
        }
        return Reply::Close(format!("API key {api_key} is not served in version {version}"));
    }
    let Some(api) = find(api_key) else {
        return Reply::Close(format!("API key {api_key} is not served"));
    };
    let metrics = broker.metrics.api(api_key);
    let received = request.received;
    if let Some(metrics) = metrics {
        metrics.requests.inc();
    }
    let reply = match api.serve {
        Serve::Call(serve) => serve(request),
        Serve::InOrder(serve) => serve(request).await,
    };
    // What is answered later is timed when it is.
    if let (Some(metrics), Reply::Now(_)) = (metrics, &reply) {
        metrics.time.observe_since(received);
    }
    reply
}

/// The bits of Kafka's operations (`AclOperation`) that the cluster knows: all are allowed, while there is no
/// authorizer.
const CLUSTER_OPERATIONS: i32 = bits(&[5, 7, 8, 9, 10, 11, 12]);
/// The same of a topic.
const TOPIC_OPERATIONS: i32 = bits(&[3, 4, 5, 6, 7, 8, 10, 11]);
/// The same of a group.
const GROUP_OPERATIONS: i32 = bits(&[3, 6, 8, 10, 11]);
/// Stands for operations nobody asked for.
const NOT_ASKED: i32 = i32::MIN;

const fn bits(operations: &[i32]) -> i32 {
    let mut bits = 0;
    let mut rest = operations;
    while let [first, others @ ..] = rest {
        bits |= 1 << *first;
        rest = others;
    }
    bits
}

fn text(s: impl Into<String>) -> StrBytes {
    StrBytes::from_string(s.into())
}

/// Kafka's isolation levels: who reads uncommitted records, and who does not.
const READ_COMMITTED: i8 = 1;
const ISOLATION_LEVELS: std::ops::RangeInclusive<i8> = 0..=READ_COMMITTED;

/// Judges the leader epoch a client believes in (KIP-320); -1 means it has none.
fn check_leader_epoch(current: i32, believed: i32) -> Result<(), ResponseError> {
    match believed {
        believed if believed == -1 || believed == current => Ok(()),
        believed if believed < current => Err(ResponseError::FencedLeaderEpoch),
        _ => Err(ResponseError::UnknownLeaderEpoch),
    }
}

/// A topic's partition that this broker leads, or Kafka's error.
fn led_partition<'a>(
    broker: &Broker,
    topic: &'a TopicImage,
    partition: i32,
) -> Result<&'a PartitionImage, ResponseError> {
    let image = topic.partition(partition).ok_or(ResponseError::UnknownTopicOrPartition)?;
    if image.leader == broker.config.broker_id { Ok(image) } else { Err(ResponseError::NotLeaderOrFollower) }
}

/// Before a version of its own, each transactional API had one word for both: that a producer was fenced, and that its
/// epoch is an old one.
fn fenced_before(known_from: i16, version: i16, error: ResponseError) -> ResponseError {
    match error {
        ResponseError::ProducerFenced if version < known_from => ResponseError::InvalidProducerEpoch,
        error => error,
    }
}
