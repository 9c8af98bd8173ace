//! Every request of a broker listener that the decoder knows, as a table: for tests and fuzz targets that
//! sweep all of them.

pub mod wire;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, AddRaftVoterRequest, AlterClientQuotasRequest,
    AlterConfigsRequest, AlterPartitionReassignmentsRequest, AlterReplicaLogDirsRequest,
    AlterShareGroupOffsetsRequest, AlterUserScramCredentialsRequest, ApiVersionsRequest,
    ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, CreateAclsRequest,
    CreateDelegationTokenRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteAclsRequest,
    DeleteGroupsRequest, DeleteRecordsRequest, DeleteShareGroupOffsetsRequest, DeleteShareGroupStateRequest,
    DeleteTopicsRequest, DescribeAclsRequest, DescribeClientQuotasRequest, DescribeClusterRequest,
    DescribeConfigsRequest, DescribeDelegationTokenRequest, DescribeGroupsRequest, DescribeLogDirsRequest,
    DescribeProducersRequest, DescribeQuorumRequest, DescribeShareGroupOffsetsRequest,
    DescribeTopicPartitionsRequest, DescribeTransactionsRequest, DescribeUserScramCredentialsRequest,
    ElectLeadersRequest, EndTxnRequest, ExpireDelegationTokenRequest, FetchRequest, FindCoordinatorRequest,
    GetTelemetrySubscriptionsRequest, HeartbeatRequest, IncrementalAlterConfigsRequest,
    InitProducerIdRequest, InitializeShareGroupStateRequest, JoinGroupRequest, LeaveGroupRequest,
    ListConfigResourcesRequest, ListGroupsRequest, ListOffsetsRequest, ListPartitionReassignmentsRequest,
    ListTransactionsRequest, MetadataRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
    OffsetForLeaderEpochRequest, ProduceRequest, PushTelemetryRequest, ReadShareGroupStateRequest,
    ReadShareGroupStateSummaryRequest, RemoveRaftVoterRequest, RenewDelegationTokenRequest,
    SaslAuthenticateRequest, SaslHandshakeRequest, ShareAcknowledgeRequest, ShareFetchRequest,
    ShareGroupDescribeRequest, ShareGroupHeartbeatRequest, SyncGroupRequest, TxnOffsetCommitRequest,
    UnregisterBrokerRequest, UpdateFeaturesRequest, WriteShareGroupStateRequest, WriteTxnMarkersRequest,
};
use kafka_protocol::protocol::{Encodable, Request, VersionRange};

/// What can be done with one type of request.
pub struct Row {
    pub api_key: i16,
    /// The versions that the decoder knows.
    pub versions: VersionRange,
    /// The version of the request header that goes with a version.
    pub header_version: fn(i16) -> i16,
    /// Encodes the default request.
    pub encode_default: fn(i16) -> Result<Bytes>,
    /// Decodes, leaving what follows the body.
    pub decode: fn(&mut Bytes, i16) -> Result<()>,
    /// Decodes and encodes again.
    pub reencode: fn(&mut Bytes, i16) -> Result<Bytes>,
}

fn row<T: Request + Default>() -> Row {
    Row {
        api_key: T::KEY,
        versions: T::VERSIONS,
        header_version: T::header_version,
        encode_default: |version| encode(&T::default(), version),
        decode: |body, version| T::decode(body, version).map(drop),
        reencode: |body, version| encode(&T::decode(body, version)?, version),
    }
}

fn encode<T: Encodable>(request: &T, version: i16) -> Result<Bytes> {
    let mut body = BytesMut::new();
    request.encode(&mut body, version)?;
    Ok(body.freeze())
}

pub fn rows() -> Vec<Row> {
    vec![
        row::<ProduceRequest>(),
        row::<FetchRequest>(),
        row::<ListOffsetsRequest>(),
        row::<MetadataRequest>(),
        row::<OffsetCommitRequest>(),
        row::<OffsetFetchRequest>(),
        row::<FindCoordinatorRequest>(),
        row::<JoinGroupRequest>(),
        row::<HeartbeatRequest>(),
        row::<LeaveGroupRequest>(),
        row::<SyncGroupRequest>(),
        row::<DescribeGroupsRequest>(),
        row::<ListGroupsRequest>(),
        row::<SaslHandshakeRequest>(),
        row::<ApiVersionsRequest>(),
        row::<CreateTopicsRequest>(),
        row::<DeleteTopicsRequest>(),
        row::<DeleteRecordsRequest>(),
        row::<InitProducerIdRequest>(),
        row::<OffsetForLeaderEpochRequest>(),
        row::<AddPartitionsToTxnRequest>(),
        row::<AddOffsetsToTxnRequest>(),
        row::<EndTxnRequest>(),
        row::<WriteTxnMarkersRequest>(),
        row::<TxnOffsetCommitRequest>(),
        row::<DescribeAclsRequest>(),
        row::<CreateAclsRequest>(),
        row::<DeleteAclsRequest>(),
        row::<DescribeConfigsRequest>(),
        row::<AlterConfigsRequest>(),
        row::<AlterReplicaLogDirsRequest>(),
        row::<DescribeLogDirsRequest>(),
        row::<SaslAuthenticateRequest>(),
        row::<CreatePartitionsRequest>(),
        row::<CreateDelegationTokenRequest>(),
        row::<RenewDelegationTokenRequest>(),
        row::<ExpireDelegationTokenRequest>(),
        row::<DescribeDelegationTokenRequest>(),
        row::<DeleteGroupsRequest>(),
        row::<ElectLeadersRequest>(),
        row::<IncrementalAlterConfigsRequest>(),
        row::<AlterPartitionReassignmentsRequest>(),
        row::<ListPartitionReassignmentsRequest>(),
        row::<OffsetDeleteRequest>(),
        row::<DescribeClientQuotasRequest>(),
        row::<AlterClientQuotasRequest>(),
        row::<DescribeUserScramCredentialsRequest>(),
        row::<AlterUserScramCredentialsRequest>(),
        row::<DescribeQuorumRequest>(),
        row::<UpdateFeaturesRequest>(),
        row::<DescribeClusterRequest>(),
        row::<DescribeProducersRequest>(),
        row::<UnregisterBrokerRequest>(),
        row::<DescribeTransactionsRequest>(),
        row::<ListTransactionsRequest>(),
        row::<ConsumerGroupHeartbeatRequest>(),
        row::<ConsumerGroupDescribeRequest>(),
        row::<GetTelemetrySubscriptionsRequest>(),
        row::<PushTelemetryRequest>(),
        row::<ListConfigResourcesRequest>(),
        row::<DescribeTopicPartitionsRequest>(),
        row::<ShareGroupHeartbeatRequest>(),
        row::<ShareGroupDescribeRequest>(),
        row::<ShareFetchRequest>(),
        row::<ShareAcknowledgeRequest>(),
        row::<AddRaftVoterRequest>(),
        row::<RemoveRaftVoterRequest>(),
        row::<InitializeShareGroupStateRequest>(),
        row::<ReadShareGroupStateRequest>(),
        row::<WriteShareGroupStateRequest>(),
        row::<DeleteShareGroupStateRequest>(),
        row::<ReadShareGroupStateSummaryRequest>(),
        row::<DescribeShareGroupOffsetsRequest>(),
        row::<AlterShareGroupOffsetsRequest>(),
        row::<DeleteShareGroupOffsetsRequest>(),
    ]
}
