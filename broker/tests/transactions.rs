//! Transactions in the real binary: what is ongoing when the broker is killed is aborted, by its producer's next incarnation
//! or by its timeout, and what is decided is carried out.

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use chronik_client::{Client, NewTopic};
use chronik_core::ids::{ProducerEpoch, ProducerId as Id};
use chronik_core::record_batch::{BatchBuilder, Batches, Crc, EndMarker, RecordIter};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use common::{Broker, PATIENCE};

const LOADING: i16 = 14;
const NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;
const CONCURRENT: i16 = 51;

fn start(dir: &Path) -> Result<Broker> {
    let soon = "transaction.abort.timed.out.transaction.cleanup.interval.ms: 50\n\
        transaction.state.log.num.partitions: 2";
    let mut broker = common::start(dir, soon)?;
    broker.until("/readyz", "\"ready\":true")?;
    Ok(broker)
}

fn killed(mut broker: Broker, dir: &Path) -> Result<Broker> {
    broker.child.kill()?;
    broker.child.wait()?;
    drop(broker);
    start(dir)
}

async fn topic(broker: &Broker) -> Result<Client> {
    let address = format!("127.0.0.1:{}", broker.kafka);
    let mut client = Client::connect(&address, Duration::from_secs(10)).await?;
    let topic = NewTopic {
        name: "t".to_string(),
        partitions: Some(1),
        replication_factor: None,
        configs: Vec::new(),
    };
    client.create_topic(&topic).await?;
    Ok(client)
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}

/// A transactional producer, request by request.
struct Producer {
    stream: TcpStream,
    id: TransactionalId,
    known: (i64, i16),
    sequence: i32,
}

impl Producer {
    fn connect(broker: &Broker, id: &str) -> Result<Producer> {
        let stream = TcpStream::connect(("127.0.0.1", broker.kafka))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Producer { stream, id: TransactionalId(text(id)), known: (-1, -1), sequence: 0 })
    }

    fn call<R: Request>(&mut self, version: i16, body: &R) -> Result<R::Response> {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(1);
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header.encode(&mut frame, R::header_version(version))?;
        body.encode(&mut frame, version)?;
        let size = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        self.stream.write_all(&frame)?;
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        let mut answer = vec![0; u32::from_be_bytes(size) as usize];
        self.stream.read_exact(&mut answer)?;
        let mut answer = Bytes::from(answer);
        ResponseHeader::decode(&mut answer, R::Response::header_version(version))?;
        R::Response::decode(&mut answer, version)
    }

    /// Asks until the coordinator is there, and nothing is being ended any more.
    fn until_settled(&mut self, mut ask: impl FnMut(&mut Producer) -> Result<i16>) -> Result<()> {
        let begun = Instant::now();
        loop {
            match ask(self)? {
                0 => return Ok(()),
                LOADING | NOT_AVAILABLE | NOT_COORDINATOR | CONCURRENT => {}
                code => anyhow::bail!("error {code}"),
            }
            ensure!(begun.elapsed() < PATIENCE, "nobody coordinates it");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn init(&mut self, timeout_ms: i32) -> Result<()> {
        let find =
            FindCoordinatorRequest::default().with_key_type(1).with_coordinator_keys(vec![self.id.0.clone()]);
        self.until_settled(|producer| Ok(producer.call(4, &find)?.coordinators[0].error_code))?;
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(self.id.clone()))
            .with_transaction_timeout_ms(timeout_ms)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        self.until_settled(|producer| {
            let told = producer.call(5, &request)?;
            producer.known = (told.producer_id.0, told.producer_epoch);
            Ok(told.error_code)
        })?;
        self.sequence = 0;
        Ok(())
    }

    /// As a client with a new epoch for each transaction: the partition is added by it.
    fn produce(&mut self, value: &str) -> Result<()> {
        let (id, epoch) = self.known;
        let batch = BatchBuilder::new()
            .producer(Id(id), ProducerEpoch(epoch), self.sequence)
            .transactional()
            .record(1_700_000_000_000, None, Some(value.as_bytes()))
            .build();
        let data = PartitionProduceData::default().with_index(0).with_records(Some(batch.into()));
        let topic =
            TopicProduceData::default().with_name(TopicName(text("t"))).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_transactional_id(Some(self.id.clone()))
            .with_acks(-1)
            .with_timeout_ms(10_000)
            .with_topic_data(vec![topic]);
        self.until_settled(|producer| {
            Ok(producer.call(12, &request)?.responses[0].partition_responses[0].error_code)
        })?;
        self.sequence += 1;
        Ok(())
    }

    fn end(&mut self, commit: bool) -> Result<()> {
        let (id, epoch) = self.known;
        let request = EndTxnRequest::default()
            .with_transactional_id(self.id.clone())
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(epoch)
            .with_committed(commit);
        self.until_settled(|producer| {
            let told = producer.call(5, &request)?;
            if told.error_code == 0 {
                producer.known = (told.producer_id.0, told.producer_epoch);
            }
            Ok(told.error_code)
        })?;
        self.sequence = 0;
        Ok(())
    }

    fn state(&mut self) -> Result<String> {
        let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![self.id.clone()]);
        let mut state = String::new();
        self.until_settled(|producer| {
            let [told] = &producer.call(0, &request)?.transaction_states[..] else { return Ok(-1) };
            state = told.transaction_state.to_string();
            Ok(told.error_code)
        })?;
        Ok(state)
    }

    fn until_state(&mut self, wanted: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let state = self.state()?;
            if state == wanted {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "it is {state}, and never {wanted}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What a consumer with `isolation.level=read_committed` gets, up to the last stable offset.
    fn committed(&mut self) -> Result<Vec<String>> {
        let mut values = Vec::new();
        let mut skipped = BTreeSet::new();
        let mut at = 0;
        loop {
            let partition = self.fetch(at)?;
            let mut aborted = partition.aborted_transactions.context("aborted transactions")?;
            let records = partition.records.unwrap_or_default();
            for batch in Batches::new(&records, Crc::Check) {
                let (header, range) = batch?;
                aborted.retain(|begins| {
                    let later = begins.first_offset > header.base_offset;
                    if !later {
                        skipped.insert(Id(begins.producer_id.0));
                    }
                    later
                });
                at = header.next_offset();
                if let Some(marker) = EndMarker::of(&header, &records[range.clone()]) {
                    ensure!(
                        skipped.remove(&header.producer_id) != marker.commit,
                        "{marker:?} is not as told"
                    );
                } else if !skipped.contains(&header.producer_id) {
                    for record in RecordIter::new(&records[range])? {
                        values.push(String::from_utf8_lossy(record?.value.unwrap_or_default()).into_owned());
                    }
                }
            }
            if at >= partition.last_stable_offset {
                return Ok(values);
            }
            ensure!(!records.is_empty(), "nothing comes behind {at}");
        }
    }

    fn fetch(&mut self, at: i64) -> Result<fetch_response::PartitionData> {
        let partition = FetchPartition::default()
            .with_partition(0)
            .with_fetch_offset(at)
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default().with_topic(TopicName(text("t"))).with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_session_epoch(-1)
            .with_max_bytes(1 << 20)
            .with_isolation_level(1)
            .with_topics(vec![topic]);
        let mut told = self.call(12, &request)?;
        let partitions = told.responses.pop().context("a topic")?.partitions;
        let partition = partitions.into_iter().next().context("a partition")?;
        ensure!(partition.error_code == 0, "error {}", partition.error_code);
        Ok(partition)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_a_kill_cut_short_is_aborted_by_its_producers_next_incarnation() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let broker = start(dir.path())?;
    topic(&broker).await?;
    let mut producer = Producer::connect(&broker, "tx")?;
    producer.init(60_000)?;
    producer.produce("first")?;
    producer.end(true)?;
    producer.produce("lost")?;
    let before = producer.known;

    let broker = killed(broker, dir.path())?;
    let mut producer = Producer::connect(&broker, "tx")?;
    ensure!(producer.state()? == "Ongoing");
    ensure!(producer.committed()? == ["first"]);
    producer.init(60_000)?;
    ensure!(producer.known.0 == before.0 && producer.known.1 > before.1, "{before:?}, {:?}", producer.known);
    ensure!(producer.state()? == "Empty");
    producer.produce("second")?;
    ensure!(producer.committed()? == ["first"]);
    producer.end(true)?;
    producer.until_state("CompleteCommit")?;
    ensure!(producer.committed()? == ["first", "second"]);

    let broker = killed(broker, dir.path())?;
    ensure!(Producer::connect(&broker, "tx")?.committed()? == ["first", "second"]);
    ensure!(broker.stop()?.status.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_a_kill_cut_short_is_aborted_in_its_time() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let broker = start(dir.path())?;
    topic(&broker).await?;
    let mut producer = Producer::connect(&broker, "tx")?;
    producer.init(3_000)?;
    producer.produce("lost")?;
    let broker = killed(broker, dir.path())?;
    let mut producer = Producer::connect(&broker, "tx")?;
    producer.until_state("CompleteAbort")?;
    ensure!(producer.committed()?.is_empty());
    let mut other = Producer::connect(&broker, "other")?;
    other.init(60_000)?;
    other.produce("found")?;
    other.end(true)?;
    other.until_state("CompleteCommit")?;
    ensure!(other.committed()? == ["found"]);
    ensure!(broker.stop()?.status.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_decided_whenever_the_broker_is_killed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut broker = start(dir.path())?;
    topic(&broker).await?;
    let mut expected = Vec::new();
    for round in 0..4 {
        let mut producer = Producer::connect(&broker, "tx")?;
        producer.init(60_000)?;
        for commit in [true, false, true] {
            let value = format!("{round}-{commit}");
            producer.produce(&value)?;
            producer.end(commit)?;
            if commit {
                expected.push(value);
            }
        }
        // Markers may be on their way.
        broker = killed(broker, dir.path())?;
        let mut producer = Producer::connect(&broker, "tx")?;
        producer.until_state("CompleteCommit")?;
        let found = producer.committed()?;
        ensure!(found == expected, "{found:?}, {expected:?}");
    }
    ensure!(broker.stop()?.status.success());
    Ok(())
}
