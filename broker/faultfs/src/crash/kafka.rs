//! A blocking Kafka client with just what the crash tests need: one connection, requests sent and answers
//! awaited one by one or pipelined.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteRecordsRequest, FetchRequest, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, ProduceRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use super::batch::{ReadBatch, decode_all};

/// Kafka's error codes that the tests tell apart.
pub mod error {
    /// The topic or partition is not (yet) known.
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    /// The partition has no leader (yet).
    pub const LEADER_NOT_AVAILABLE: i16 = 5;
    /// Another broker leads, or this one not yet.
    pub const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    /// The request waited too long.
    pub const REQUEST_TIMED_OUT: i16 = 7;
    /// Come again soon.
    pub const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
    /// There is no coordinator (yet).
    pub const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    /// Another broker coordinates, or this one not yet.
    pub const NOT_COORDINATOR: i16 = 16;
    /// What an old producer is told while its transaction's coordinator cannot be asked.
    pub const NOT_ENOUGH_REPLICAS: i16 = 19;
    /// A generation of the group that is over.
    pub const ILLEGAL_GENERATION: i16 = 22;
    /// No member, or not any more.
    pub const UNKNOWN_MEMBER_ID: i16 = 25;
    /// The group wants its members to join again.
    pub const REBALANCE_IN_PROGRESS: i16 = 27;
    /// The topic is there already.
    pub const TOPIC_ALREADY_EXISTS: i16 = 36;
    /// A sequence that does not follow the last one.
    pub const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    /// A batch that was appended before, too long ago to say where.
    pub const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;
    /// A newer producer has the place of this one.
    pub const INVALID_PRODUCER_EPOCH: i16 = 47;
    /// The last transaction is still being ended.
    pub const CONCURRENT_TRANSACTIONS: i16 = 51;
    /// The disk is full or broken.
    pub const KAFKA_STORAGE_ERROR: i16 = 56;
    /// A new member is to join again with the id that it is given.
    pub const MEMBER_ID_REQUIRED: i16 = 79;
    /// As INVALID_PRODUCER_EPOCH, in newer versions.
    pub const PRODUCER_FENCED: i16 = 90;
    /// A member's epoch that is over.
    pub const STALE_MEMBER_EPOCH: i16 = 113;
}

/// How long an answer may take before the broker counts as hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const PRODUCE_VERSION: i16 = 9;
const FETCH_VERSION: i16 = 12;

/// One connection to a broker.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    correlation: i32,
}

/// What became of one partition's share of a produce request.
#[derive(Clone, Copy, Debug)]
pub struct Produced {
    /// Kafka's error code, 0 for none.
    pub error: i16,
    /// The offset of the batch's first record.
    pub base_offset: i64,
}

impl Connection {
    /// Connects to `address`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        Ok(Self { stream, correlation: 0 })
    }

    /// Sends a request without waiting for its answer.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<()> {
        self.correlation += 1;
        let mut frame = BytesMut::zeroed(4);
        RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("chronik-crash")))
            .encode(&mut frame, R::header_version(version))?;
        request.encode(&mut frame, version)?;
        let length = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).context("sending")
    }

    /// Awaits the next answer, which must be to request number `correlation` of this connection.
    ///
    /// # Errors
    /// When the connection ends, or the answer is late or not to be understood.
    pub fn receive<R: Request>(&mut self, version: i16, correlation: i32) -> Result<R::Response> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).context("awaiting an answer")?;
        let length = u32::from_be_bytes(length) as usize;
        ensure!(length <= 256 << 20, "an answer of {length} bytes");
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame).context("reading an answer")?;
        let mut frame = Bytes::from(frame);
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(version))?;
        ensure!(header.correlation_id == correlation, "answers out of order");
        let response = R::Response::decode(&mut frame, version)?;
        ensure!(!frame.has_remaining(), "{} bytes after an answer", frame.remaining());
        Ok(response)
    }

    /// Sends a request and awaits its answer; none may be under way.
    ///
    /// # Errors
    /// As [`Self::send`] and [`Self::receive`].
    pub fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response> {
        self.send(request, version)?;
        self.receive::<R>(version, self.correlation)
    }

    /// Sends record batches to partitions, each named only once. Returns the number to await.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_produce(&mut self, acks: i16, parts: Vec<(&str, i32, Vec<u8>)>) -> Result<i32> {
        use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
        let mut topics: Vec<TopicProduceData> = Vec::new();
        for (topic, partition, records) in parts {
            let data = PartitionProduceData::default()
                .with_index(partition)
                .with_records(Some(Bytes::from(records)));
            match topics.iter_mut().find(|t| t.name.as_str() == topic) {
                Some(entry) => entry.partition_data.push(data),
                None => topics
                    .push(TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data])),
            }
        }
        let request =
            ProduceRequest::default().with_acks(acks).with_timeout_ms(15_000).with_topic_data(topics);
        self.send(&request, PRODUCE_VERSION)?;
        Ok(self.correlation)
    }

    /// Awaits the answer to a produce request: what became of each partition.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn receive_produce(&mut self, correlation: i32) -> Result<Vec<(String, i32, Produced)>> {
        let response = self.receive::<ProduceRequest>(PRODUCE_VERSION, correlation)?;
        let parts = response.responses.into_iter().flat_map(|topic| {
            let name = topic.name.to_string();
            topic.partition_responses.into_iter().map(move |part| {
                let produced = Produced { error: part.error_code, base_offset: part.base_offset };
                (name.clone(), part.index, produced)
            })
        });
        Ok(parts.collect())
    }

    /// Creates a topic; that it is there already is fine.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn create_topic(&mut self, topic: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
        let configs = configs.iter().map(|(key, value)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string((*key).to_owned()))
                .with_value(Some(StrBytes::from_string((*value).to_owned())))
        });
        let wanted = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default().with_topics(vec![wanted]).with_timeout_ms(15_000);
        let response = self.call(&request, 7)?;
        for result in response.topics {
            if result.error_code != 0 && result.error_code != error::TOPIC_ALREADY_EXISTS {
                let why = result.error_message.map(|m| m.to_string()).unwrap_or_default();
                bail!("creating topic {topic}: error {} {why}", result.error_code);
            }
        }
        Ok(())
    }

    /// How many partitions of a topic have a leader; 0 when it is not known.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn partitions_with_leader(&mut self, topic: &str) -> Result<usize> {
        let request = MetadataRequest::default()
            .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name(topic)))]))
            .with_allow_auto_topic_creation(false);
        let response = self.call(&request, 9)?;
        let led = response.topics.iter().flat_map(|topic| &topic.partitions);
        Ok(led.filter(|partition| partition.error_code == 0 && partition.leader_id.0 >= 0).count())
    }

    /// A new producer id, with its epoch.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn init_producer_id(&mut self) -> Result<(i64, i16)> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            let response = self.call(&request, 4)?;
            if response.error_code == error::COORDINATOR_LOAD_IN_PROGRESS && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            ensure!(response.error_code == 0, "InitProducerId: error {}", response.error_code);
            return Ok((response.producer_id.0, response.producer_epoch));
        }
    }

    /// An offset by timestamp: -2 for the log's start, -1 for its end.
    ///
    /// # Errors
    /// With Kafka's error code in the text when the broker refuses.
    pub fn offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> Result<i64> {
        let part = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topics = vec![ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![part])];
        let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(topics);
        let response = self.call(&request, 6)?;
        let answer = response.topics.first().and_then(|topic| topic.partitions.first());
        let answer = answer.context("ListOffsets answered nothing")?;
        ensure!(answer.error_code == 0, "ListOffsets {topic}-{partition}: error {}", answer.error_code);
        Ok(answer.offset)
    }

    /// Deletes the records of a partition before an offset. Returns where it begins now.
    ///
    /// # Errors
    /// With Kafka's error code in the text when the broker refuses.
    pub fn delete_records(&mut self, topic: &str, partition: i32, before: i64) -> Result<i64> {
        let part = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(before);
        let topics = vec![DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![part])];
        let request = DeleteRecordsRequest::default().with_topics(topics).with_timeout_ms(15_000);
        let response = self.call(&request, 2)?;
        let answer = response.topics.first().and_then(|topic| topic.partitions.first());
        let answer = answer.context("DeleteRecords answered nothing")?;
        ensure!(answer.error_code == 0, "DeleteRecords {topic}-{partition}: error {}", answer.error_code);
        Ok(answer.low_watermark)
    }

    /// Batches of one partition from `offset` on, at least one when there is any.
    ///
    /// # Errors
    /// When the broker refuses, or a batch is broken.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> Result<Vec<ReadBatch>> {
        let how = FetchRequest::default().with_max_wait_ms(500).with_min_bytes(1);
        let answer = self.fetch_as(how, topic, partition, offset, 4 << 20)?;
        decode_all(answer.records.as_deref().unwrap_or_default())
            .with_context(|| format!("{topic}-{partition} from offset {offset}"))
    }

    /// One partition's answer to a fetch from `offset` on, of so many bytes; `how` says how long to wait, and what may be seen.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn fetch_as(
        &mut self,
        how: FetchRequest,
        topic: &str,
        partition: i32,
        offset: i64,
        bytes: i32,
    ) -> Result<PartitionData> {
        let part = FetchPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(offset)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(bytes);
        let request = how
            .with_replica_id((-1).into())
            .with_max_bytes(8 << 20)
            .with_session_epoch(-1)
            .with_topics(vec![FetchTopic::default().with_topic(name(topic)).with_partitions(vec![part])]);
        let response = self.call(&request, FETCH_VERSION)?;
        ensure!(response.error_code == 0, "Fetch: error {}", response.error_code);
        let answer = response.responses.into_iter().next();
        let answer = answer.and_then(|topic| topic.partitions.into_iter().next());
        let answer = answer.context("Fetch answered nothing")?;
        ensure!(answer.error_code == 0, "Fetch {topic}-{partition}@{offset}: error {}", answer.error_code);
        Ok(answer)
    }
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(super) fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}
