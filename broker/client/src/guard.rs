//! A look at an answer's counts and lengths before the codec decodes it.
//!
//! The codec reserves memory for as many elements as a count claims; a server that claims two
//! thousand million would abort the process. Here each answer is first walked by its shape, so
//! that every count and length is known to be backed by bytes. The client speaks one version
//! (or a few of the same shape) of each API, all of them flexible (KIP-482), which keeps the
//! shapes few: strings and bytes are compact, and every structure ends in tagged fields. None
//! of the tagged fields that the codec knows in these versions holds a list.

use bytes::{Buf, Bytes};
use kafka_protocol::messages::ApiKey;

/// One field of an answer.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// This many bytes: integers, booleans, UUIDs.
    Fixed(usize),
    /// A compact string or compact bytes, or null.
    Text,
    /// A compact array of structures, or null.
    List(&'static [Shape]),
    /// A compact array of `i32`.
    Ints,
    /// A compact array of strings.
    Texts,
    /// A structure.
    One(&'static [Shape]),
    /// A structure, or null.
    Maybe(&'static [Shape]),
}

use Shape::{Fixed, Ints, List, Maybe, One, Text, Texts};

const METADATA: &[Shape] = &[
    Fixed(4),
    List(&[Fixed(4), Text, Fixed(4), Text]),
    Text,
    Fixed(4),
    List(&[
        Fixed(2),
        Text,
        Fixed(16),
        Fixed(1),
        List(&[Fixed(2), Fixed(4), Fixed(4), Fixed(4), Ints, Ints, Ints]),
        Fixed(4),
    ]),
];
const DESCRIBE_LOG_DIRS: &[Shape] = &[
    Fixed(4),
    Fixed(2),
    List(&[
        Fixed(2),
        Text,
        List(&[Text, List(&[Fixed(4), Fixed(8), Fixed(8), Fixed(1)])]),
        Fixed(8),
        Fixed(8),
    ]),
];
const PRODUCE: &[Shape] = &[
    List(&[Text, List(&[Fixed(4), Fixed(2), Fixed(8), Fixed(8), Fixed(8), List(&[Fixed(4), Text]), Text])]),
    Fixed(4),
];
const FETCH: &[Shape] = &[
    Fixed(4),
    Fixed(2),
    Fixed(4),
    List(&[
        Text,
        List(&[
            Fixed(4),
            Fixed(2),
            Fixed(8),
            Fixed(8),
            Fixed(8),
            List(&[Fixed(8), Fixed(8)]),
            Fixed(4),
            Text,
        ]),
    ]),
];
const LIST_OFFSETS: &[Shape] =
    &[Fixed(4), List(&[Text, List(&[Fixed(4), Fixed(2), Fixed(8), Fixed(8), Fixed(4)])])];
const CREATE_TOPICS: &[Shape] = &[
    Fixed(4),
    List(&[
        Text,
        Fixed(16),
        Fixed(2),
        Text,
        Fixed(4),
        Fixed(2),
        List(&[Text, Text, Fixed(1), Fixed(1), Fixed(1)]),
    ]),
];
const DELETE_TOPICS: &[Shape] = &[Fixed(4), List(&[Text, Fixed(16), Fixed(2), Text])];
const CREATE_PARTITIONS: &[Shape] = &[Fixed(4), List(&[Text, Fixed(2), Text])];
const DESCRIBE_CONFIGS: &[Shape] = &[
    Fixed(4),
    List(&[
        Fixed(2),
        Text,
        Fixed(1),
        Text,
        List(&[Text, Text, Fixed(1), Fixed(1), Fixed(1), List(&[Text, Text, Fixed(1)]), Fixed(1), Text]),
    ]),
];
const ALTER_CONFIGS: &[Shape] = &[Fixed(4), List(&[Fixed(2), Text, Fixed(1), Text])];
const INIT_PRODUCER_ID: &[Shape] = &[Fixed(4), Fixed(2), Fixed(8), Fixed(2)];

const FIND_COORDINATOR: &[Shape] = &[Fixed(4), List(&[Text, Fixed(4), Text, Fixed(4), Fixed(2), Text])];
const LIST_GROUPS: &[Shape] = &[Fixed(4), Fixed(2), List(&[Text, Text, Text])];
/// From version 5 on, with the type of each.
const LIST_TYPED_GROUPS: &[Shape] = &[Fixed(4), Fixed(2), List(&[Text, Text, Text, Text])];
const CONSUMER_GROUP_HEARTBEAT: &[Shape] =
    &[Fixed(4), Fixed(2), Text, Text, Fixed(4), Fixed(4), Maybe(&[List(&[Fixed(16), Ints])])];
const ASSIGNMENT: Shape = One(&[List(&[Fixed(16), Text, Ints])]);
const CONSUMER_GROUP_DESCRIBE: &[Shape] = &[
    Fixed(4),
    List(&[
        Fixed(2),
        Text,
        Text,
        Text,
        Fixed(4),
        Fixed(4),
        Text,
        List(&[Text, Text, Text, Fixed(4), Text, Text, Texts, Text, ASSIGNMENT, ASSIGNMENT, Fixed(1)]),
        Fixed(4),
    ]),
];
const DESCRIBE_GROUPS: &[Shape] = &[
    Fixed(4),
    List(&[Fixed(2), Text, Text, Text, Text, List(&[Text, Text, Text, Text, Text, Text]), Fixed(4)]),
];
const OFFSET_FETCH: &[Shape] = &[
    Fixed(4),
    List(&[Text, List(&[Text, List(&[Fixed(4), Fixed(8), Fixed(4), Text, Fixed(2)])]), Fixed(2)]),
];
const OFFSET_COMMIT: &[Shape] = &[Fixed(4), List(&[Text, List(&[Fixed(4), Fixed(2)])])];
const DELETE_GROUPS: &[Shape] = &[Fixed(4), List(&[Text, Fixed(2)])];
const LIST_TRANSACTIONS: &[Shape] = &[Fixed(4), Fixed(2), Texts, List(&[Text, Fixed(8), Text])];
const DESCRIBE_TRANSACTIONS: &[Shape] =
    &[Fixed(4), List(&[Fixed(2), Text, Text, Fixed(4), Fixed(8), Fixed(8), Fixed(2), List(&[Text, Ints])])];

/// Walks `body`, the answer to `api` in this version, without its header.
///
/// # Errors
/// What does not fit, in a few words.
pub(super) fn check_version(api: ApiKey, version: i16, body: &Bytes) -> Result<(), &'static str> {
    match (api, version) {
        (ApiKey::ListGroups, 5..) => structure(&mut body.as_ref(), LIST_TYPED_GROUPS),
        _ => check(api, body),
    }
}

/// The same of an API whose answers have one shape in all versions that this client speaks.
///
/// # Errors
/// What does not fit, in a few words.
fn check(api: ApiKey, body: &Bytes) -> Result<(), &'static str> {
    let shape = match api {
        ApiKey::Metadata => METADATA,
        ApiKey::Produce => PRODUCE,
        ApiKey::Fetch => FETCH,
        ApiKey::ListOffsets => LIST_OFFSETS,
        ApiKey::CreateTopics => CREATE_TOPICS,
        ApiKey::DeleteTopics => DELETE_TOPICS,
        ApiKey::CreatePartitions => CREATE_PARTITIONS,
        ApiKey::DescribeConfigs => DESCRIBE_CONFIGS,
        ApiKey::DescribeLogDirs => DESCRIBE_LOG_DIRS,
        ApiKey::IncrementalAlterConfigs => ALTER_CONFIGS,
        ApiKey::InitProducerId => INIT_PRODUCER_ID,
        ApiKey::FindCoordinator => FIND_COORDINATOR,
        ApiKey::ListGroups => LIST_GROUPS,
        ApiKey::DescribeGroups => DESCRIBE_GROUPS,
        ApiKey::ConsumerGroupHeartbeat => CONSUMER_GROUP_HEARTBEAT,
        ApiKey::ConsumerGroupDescribe => CONSUMER_GROUP_DESCRIBE,
        ApiKey::OffsetFetch => OFFSET_FETCH,
        ApiKey::OffsetCommit => OFFSET_COMMIT,
        ApiKey::DeleteGroups => DELETE_GROUPS,
        ApiKey::ListTransactions => LIST_TRANSACTIONS,
        ApiKey::DescribeTransactions => DESCRIBE_TRANSACTIONS,
        _ => return Err("an answer of unknown shape"),
    };
    structure(&mut body.as_ref(), shape)
}

fn structure(data: &mut &[u8], shape: &[Shape]) -> Result<(), &'static str> {
    for field in shape {
        match field {
            Fixed(bytes) => skip(data, *bytes)?,
            Text => {
                let length = length(data)?;
                skip(data, length)?;
            }
            Ints => {
                let count = length(data)?;
                skip(data, count.saturating_mul(4))?;
            }
            Texts => {
                for _ in 0..length(data)? {
                    let length = length(data)?;
                    skip(data, length)?;
                }
            }
            One(fields) => structure(data, fields)?,
            Maybe(fields) => {
                if data.try_get_i8().map_err(|_| "it ends inside a field")? == 1 {
                    structure(data, fields)?;
                }
            }
            List(element) => {
                for _ in 0..length(data)? {
                    structure(data, element)?;
                }
            }
        }
    }
    tags(data)
}

/// Tagged fields: a count, then tag, length and bytes of each.
pub(super) fn tags(data: &mut &[u8]) -> Result<(), &'static str> {
    for _ in 0..uvarint(data)? {
        uvarint(data)?;
        let length = uvarint(data)? as usize;
        skip(data, length)?;
    }
    Ok(())
}

/// A compact length or count: 0 is null.
fn length(data: &mut &[u8]) -> Result<usize, &'static str> {
    Ok(uvarint(data)?.saturating_sub(1) as usize)
}

fn skip(data: &mut &[u8], bytes: usize) -> Result<(), &'static str> {
    *data = data.get(bytes..).ok_or("it ends inside a field")?;
    Ok(())
}

fn uvarint(data: &mut &[u8]) -> Result<u32, &'static str> {
    let mut value = 0u32;
    for shift in (0..35).step_by(7) {
        let byte = data.try_get_u8().map_err(|_| "it ends inside a number")?;
        value |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number of more than five bytes")
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::describe_log_dirs_response::{DescribeLogDirsResult, DescribeLogDirsTopic};
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, EpochEndOffset, FetchableTopicResponse, PartitionData,
    };
    use kafka_protocol::messages::metadata_response::{
        MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
    };
    use kafka_protocol::messages::*;
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use proptest::prelude::*;

    use super::*;

    fn encoded(message: impl Encodable, version: i16) -> Bytes {
        let mut out = BytesMut::new();
        message.encode(&mut out, version).unwrap();
        out.freeze()
    }

    fn metadata() -> Bytes {
        let text = StrBytes::from_static_str;
        let broker = MetadataResponseBroker::default().with_host(text("host")).with_port(9092);
        let partition = MetadataResponsePartition::default()
            .with_replica_nodes(vec![BrokerId(1), BrokerId(2)])
            .with_isr_nodes(vec![BrokerId(1)]);
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(text("topic"))))
            .with_partitions(vec![partition.clone(), partition]);
        let response = MetadataResponse::default()
            .with_brokers(vec![broker.clone(), broker])
            .with_cluster_id(Some(text("cluster")))
            .with_topics(vec![topic]);
        encoded(response, 12)
    }

    fn fetch() -> Bytes {
        let partition = PartitionData::default()
            .with_records(Some(Bytes::from_static(b"records")))
            .with_diverging_epoch(EpochEndOffset::default().with_epoch(4))
            .with_aborted_transactions(Some(vec![AbortedTransaction::default()]));
        let topic = FetchableTopicResponse::default()
            .with_topic(TopicName(StrBytes::from_static_str("t")))
            .with_partitions(vec![partition]);
        encoded(FetchResponse::default().with_responses(vec![topic]), 12)
    }

    #[test]
    fn what_the_codec_writes_passes_to_the_last_byte() {
        for (api, shape, body) in [(ApiKey::Metadata, METADATA, metadata()), (ApiKey::Fetch, FETCH, fetch())]
        {
            let mut rest = body.as_ref();
            structure(&mut rest, shape).unwrap();
            assert!(rest.is_empty(), "{api:?} leaves {} bytes", rest.len());
            for cut in 0..body.len() {
                assert!(check(api, &body.slice(..cut)).is_err(), "{api:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn default_answers_of_the_other_apis_pass() {
        use kafka_protocol::messages::*;
        let log_dir = DescribeLogDirsResult::default().with_log_dir(StrBytes::from_static_str("/data"));
        let size = DescribeLogDirsTopic::default().with_partitions(vec![Default::default()]);
        let log_dirs = DescribeLogDirsResponse::default().with_results(vec![log_dir.with_topics(vec![size])]);
        for (api, body) in [
            (ApiKey::Produce, encoded(ProduceResponse::default(), 9)),
            (ApiKey::ListOffsets, encoded(ListOffsetsResponse::default(), 7)),
            (ApiKey::CreateTopics, encoded(CreateTopicsResponse::default(), 7)),
            (ApiKey::DeleteTopics, encoded(DeleteTopicsResponse::default(), 6)),
            (ApiKey::CreatePartitions, encoded(CreatePartitionsResponse::default(), 3)),
            (ApiKey::DescribeConfigs, encoded(DescribeConfigsResponse::default(), 4)),
            (ApiKey::DescribeLogDirs, encoded(log_dirs, 4)),
            (ApiKey::IncrementalAlterConfigs, encoded(IncrementalAlterConfigsResponse::default(), 1)),
            (ApiKey::InitProducerId, encoded(InitProducerIdResponse::default(), 4)),
            (ApiKey::FindCoordinator, {
                let found = find_coordinator_response::Coordinator::default();
                encoded(FindCoordinatorResponse::default().with_coordinators(vec![found]), 4)
            }),
            (ApiKey::ListGroups, {
                let listed = list_groups_response::ListedGroup::default();
                encoded(ListGroupsResponse::default().with_groups(vec![listed]), 4)
            }),
            (ApiKey::DescribeGroups, {
                let member = describe_groups_response::DescribedGroupMember::default();
                let group = describe_groups_response::DescribedGroup::default().with_members(vec![member]);
                encoded(DescribeGroupsResponse::default().with_groups(vec![group]), 5)
            }),
            (ApiKey::OffsetFetch, {
                let topic = offset_fetch_response::OffsetFetchResponseTopics::default()
                    .with_partitions(vec![Default::default()]);
                let group =
                    offset_fetch_response::OffsetFetchResponseGroup::default().with_topics(vec![topic]);
                encoded(OffsetFetchResponse::default().with_groups(vec![group]), 8)
            }),
            (ApiKey::OffsetCommit, {
                let topic = offset_commit_response::OffsetCommitResponseTopic::default()
                    .with_partitions(vec![Default::default()]);
                encoded(OffsetCommitResponse::default().with_topics(vec![topic]), 8)
            }),
            (ApiKey::DeleteGroups, {
                let deleted = delete_groups_response::DeletableGroupResult::default();
                encoded(DeleteGroupsResponse::default().with_results(vec![deleted]), 2)
            }),
        ] {
            assert_eq!(check(api, &body), Ok(()), "{api:?}");
        }
    }

    #[test]
    fn groups_of_the_new_protocol_pass_to_the_last_byte() {
        use kafka_protocol::messages::consumer_group_describe_response as describe;
        use kafka_protocol::messages::consumer_group_heartbeat_response as heartbeat;

        let topic = describe::TopicPartitions::default().with_partitions(vec![1, 2]);
        let assignment = describe::Assignment::default().with_topic_partitions(vec![topic]);
        let member = describe::Member::default()
            .with_subscribed_topic_names(vec![TopicName(StrBytes::from_static_str("t"))])
            .with_assignment(assignment.clone())
            .with_target_assignment(assignment);
        let group = describe::DescribedGroup::default().with_members(vec![member.clone(), member]);
        let described = ConsumerGroupDescribeResponse::default().with_groups(vec![group]);
        let topic = heartbeat::TopicPartitions::default().with_partitions(vec![1, 2]);
        let assignment = heartbeat::Assignment::default().with_topic_partitions(vec![topic]);
        let told = ConsumerGroupHeartbeatResponse::default();
        let listed = list_groups_response::ListedGroup::default();
        let listed = ListGroupsResponse::default().with_groups(vec![listed]);
        for (api, version, body) in [
            (ApiKey::ConsumerGroupDescribe, 1, encoded(described, 1)),
            (ApiKey::ConsumerGroupHeartbeat, 1, encoded(told.clone(), 1)),
            (ApiKey::ConsumerGroupHeartbeat, 1, encoded(told.with_assignment(Some(assignment)), 1)),
            (ApiKey::ListGroups, 5, encoded(listed, 5)),
        ] {
            assert_eq!(check_version(api, version, &body), Ok(()), "{api:?}");
            for cut in 0..body.len() {
                assert!(check_version(api, version, &body.slice(..cut)).is_err(), "{api:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_count_without_bytes_behind_it_is_refused() {
        // Throttle time, then 2^32 - 1 brokers.
        let body = Bytes::from_static(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(check(ApiKey::Metadata, &body).is_err());
    }

    proptest! {
        #[test]
        fn no_answer_panics(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            for api in [ApiKey::Metadata, ApiKey::Fetch, ApiKey::Produce, ApiKey::DescribeConfigs] {
                let _ = check(api, &Bytes::from(data.clone()));
            }
        }
    }
}
