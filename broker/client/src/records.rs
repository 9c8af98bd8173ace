//! Producing, fetching, and finding offsets.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, FetchRequest, InitProducerIdRequest, ListOffsetsRequest, ProduceRequest,
};

use super::admin::first;
use super::batch::Producer;
use super::cluster::{Client, topic_name};
use super::error::{ClientError, check};

/// What a producer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Nothing.
    None,
    /// The leader.
    Leader,
    /// Every replica in sync.
    All,
}

impl Acks {
    /// The number in a Produce request.
    pub fn wire(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

impl std::fmt::Display for Acks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "0",
            Self::Leader => "1",
            Self::All => "all",
        })
    }
}

impl std::str::FromStr for Acks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "0" => Ok(Self::None),
            "1" => Ok(Self::Leader),
            "all" | "-1" => Ok(Self::All),
            other => Err(format!("acks is 0, 1 or all, not {other:?}")),
        }
    }
}

/// A place in a partition, to be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The first offset still there.
    Earliest,
    /// The offset the next record gets, as consumers may see it.
    Latest,
    /// The first record at or after this time, in milliseconds since 1970.
    Time(i64),
}

/// What a fetch brought.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Whole batches and perhaps a part of one; the first may begin before the offset asked for.
    pub records: Bytes,
    /// Consumers see what lies below.
    pub high_watermark: i64,
    /// The first offset still there.
    pub log_start_offset: i64,
}

/// The longest a server is asked to wait for records to fetch, in milliseconds.
const FETCH_WAIT_MS_MAX: i32 = 5_000;

/// How long a server may wait for other replicas, in milliseconds.
const PRODUCE_TIMEOUT_MS: i32 = 30_000;

/// `COORDINATOR_LOAD_IN_PROGRESS`, `COORDINATOR_NOT_AVAILABLE`, `NOT_COORDINATOR`.
const COORDINATOR_NOT_READY: [i16; 3] = [14, 15, 16];

/// How long a producer id is asked for.
const READY_WITHIN: Duration = Duration::from_secs(15);

impl Client {
    /// Produces one batch and returns the offset of its first record; `None` with
    /// [`Acks::None`].
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name.
    pub async fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        acks: Acks,
        batch: Bytes,
    ) -> Result<Option<i64>, ClientError> {
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
        let data = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(acks.wire())
            .with_timeout_ms(PRODUCE_TIMEOUT_MS)
            .with_topic_data(vec![data]);
        let leader = self.leader(topic, partition).await?;
        if acks == Acks::None {
            leader.tell(&request).await?;
            return Ok(None);
        }
        let response = leader.call(&request).await?;
        let what = || format!("produce to {topic}-{partition}");
        let result = first(first(response.responses, what)?.partition_responses, what)?;
        if result.error_code != 0 {
            self.forget_leader(topic, partition);
        }
        check(result.error_code, result.error_message.as_deref(), what)?;
        Ok(Some(result.base_offset))
    }

    /// Fetches from `offset` on, at most about `bytes_max`, waiting up to `wait_ms` (at most
    /// 5,000) for something to come.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name, e.g. `OFFSET_OUT_OF_RANGE`.
    pub async fn fetch(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        bytes_max: i32,
        wait_ms: i32,
    ) -> Result<Fetched, ClientError> {
        let wanted = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(bytes_max);
        let wanted = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![wanted]);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(wait_ms.clamp(0, FETCH_WAIT_MS_MAX))
            .with_min_bytes(1)
            .with_max_bytes(bytes_max)
            .with_session_epoch(-1)
            .with_topics(vec![wanted]);
        let response = self.leader(topic, partition).await?.call(&request).await?;
        let what = || format!("fetch {topic}-{partition} from offset {offset}");
        check(response.error_code, None, what)?;
        let result = first(first(response.responses, what)?.partitions, what)?;
        if result.error_code != 0 {
            self.forget_leader(topic, partition);
        }
        check(result.error_code, None, what)?;
        Ok(Fetched {
            records: result.records.unwrap_or_default(),
            high_watermark: result.high_watermark,
            log_start_offset: result.log_start_offset,
        })
    }

    /// The offset of a place in a partition; -1 when no record is at or after the time.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name.
    pub async fn list_offset(
        &mut self,
        topic: &str,
        partition: i32,
        position: Position,
    ) -> Result<i64, ClientError> {
        let timestamp = match position {
            Position::Earliest => -2,
            Position::Latest => -1,
            Position::Time(timestamp) => timestamp,
        };
        let wanted =
            ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp);
        let wanted = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![wanted]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![wanted]);
        let response = self.leader(topic, partition).await?.call(&request).await?;
        let what = || format!("find the {position:?} offset of {topic}-{partition}");
        let result = first(first(response.topics, what)?.partitions, what)?;
        if result.error_code != 0 {
            self.forget_leader(topic, partition);
        }
        check(result.error_code, None, what)?;
        Ok(result.offset)
    }

    /// A new identity for an idempotent producer.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name.
    pub async fn init_producer_id(&mut self) -> Result<Producer, ClientError> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1)
            .with_transaction_timeout_ms(60_000);
        let begun = Instant::now();
        let response = loop {
            let response = self.ask(&request).await?;
            // A broker that has just started says for a while that it is not ready.
            if !COORDINATOR_NOT_READY.contains(&response.error_code) || begun.elapsed() > READY_WITHIN {
                break response;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        check(response.error_code, None, || "get a producer id".to_owned())?;
        Ok(Producer { id: response.producer_id.0, epoch: response.producer_epoch })
    }
}
