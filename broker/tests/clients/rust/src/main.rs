//! krafka. What the program does: ../../README.md

mod group;
mod plain;
/// The one copy that Rust has of the records that every client writes.
#[allow(dead_code)]
#[path = "../../../../../xtask/src/clients/records.rs"]
mod records;
mod transact;
mod transform;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clap::Parser as _;
use krafka::admin::{AdminClient, CreateTopicsOptions, NewTopic};
use krafka::consumer::ConsumerRecord;
use krafka::error::{ErrorCode, KrafkaError};
use krafka::{Kafka, Record};

/// For one wait.
const SHORTLY: Duration = Duration::from_millis(100);

/// The command line that all clients share.
#[derive(clap::Parser)]
struct Args {
    command: String,
    #[arg(long)]
    bootstrap: String,
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    #[arg(long, default_value_t = 0)]
    first: u32,
    #[arg(long, default_value_t = 0)]
    records: u32,
    topics: Vec<String>,
}

impl Args {
    fn end(&self) -> u32 {
        self.first + self.records
    }

    fn topic(&self) -> Result<&str> {
        self.topics.first().map(String::as_str).context("no topic")
    }

    async fn connect(&self) -> Result<Kafka> {
        // One request at a time: a retry of a producer that is not idempotent would reorder the records.
        Ok(Kafka::builder(&self.bootstrap).max_in_flight_requests(1).connect().await?)
    }

    /// (partition, index) of all records to write, the partitions interleaved.
    fn indexes(&self) -> impl Iterator<Item = (u32, u32)> {
        let partitions = self.partitions;
        (self.first..self.end())
            .flat_map(move |index| (0..partitions).map(move |partition| (partition, index)))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let limit = Duration::from_secs(60);
    let done = match args.command.as_str() {
        "member" => group::member(&args).await,
        "transform" => transform::transform(&args).await,
        command => tokio::time::timeout(limit, run(command, &args))
            .await
            .unwrap_or_else(|_| bail!("not done in {limit:?}")),
    };
    if let Err(error) = done {
        eprintln!("MISMATCH: {error:#}");
        return ExitCode::FAILURE;
    }
    let count = args.records as usize * args.partitions as usize * args.topics.len();
    println!("{}: {count} records of {} topics", args.command, args.topics.len());
    ExitCode::SUCCESS
}

async fn run(command: &str, args: &Args) -> Result<()> {
    match command {
        "write" => plain::write(args).await,
        "read" => plain::read(args).await,
        "group" => group::group(args).await,
        "transact" => transact::transact(args).await,
        other => bail!("unknown command {other}"),
    }
}

async fn create(admin: &AdminClient, args: &Args, topic: &str) -> Result<()> {
    let new = || -> Result<_> {
        Ok([NewTopic::new(topic, args.partitions as i32, 1)?.with_config("retention.ms", "-1")])
    };
    for (_, result) in admin.create_topics(new()?, CreateTopicsOptions::default()).await? {
        result.with_context(|| format!("create {topic}"))?;
    }
    for (_, result) in admin.create_topics(new()?, CreateTopicsOptions::default()).await? {
        let refused = matches!(&result, Err(KrafkaError::Broker { code: ErrorCode::TopicAlreadyExists, .. }));
        ensure!(refused, "create {topic} again: {result:?}");
    }
    Ok(())
}

fn to_send(topic: &str, partition: u32, index: u32) -> Record {
    let expected = records::expected(topic, partition, index);
    let mut record =
        Record::new(topic, Bytes::new()).partition(partition as i32).timestamp(expected.timestamp_ms);
    record.key = expected.key.map(Bytes::from);
    record.value = expected.value.map(Bytes::from);
    let headers = expected.headers.into_iter();
    record.headers = headers.map(|(key, value)| (key.to_owned(), value.map(Bytes::from))).collect();
    record
}

/// Says in what a record that was read differs from the expected one.
fn compare(have: &ConsumerRecord, index: u32) -> Result<()> {
    let want = records::expected(&have.topic, have.partition as u32, index);
    let at = format!("{}/{} record {index}", have.topic, have.partition);
    ensure!(have.offset == i64::from(index), "{at}: offset {}", have.offset);
    ensure!(
        have.timestamp == want.timestamp_ms,
        "{at}: timestamp {}, not {}",
        have.timestamp,
        want.timestamp_ms
    );
    ensure!(have.key.as_deref() == want.key.as_deref(), "{at}: key {:?}, not {:?}", have.key, want.key);
    ensure!(have.value.as_deref() == want.value.as_deref(), "{at}: value {:?}", have.value);
    let same = have.headers.len() == want.headers.len()
        && have
            .headers
            .iter()
            .zip(&want.headers)
            .all(|((a, b), (c, d))| a == c && b.as_deref() == d.as_deref());
    ensure!(same, "{at}: headers {:?}, not {:?}", have.headers, want.headers);
    Ok(())
}
