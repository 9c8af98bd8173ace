//! The cold consumer: a topic that was written before the load, and is read from its beginning beside it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chronik_client::{Acks, BatchBuilder, Client, NewRecord, NewTopic, batches};
use serde::Serialize;

use super::produce::PATIENCE;
use crate::bench::payload::Mark;
use crate::storage::now_ms;

/// The topic's name.
pub const TOPIC: &str = "cold";
const PARTITIONS: u64 = 4;
const RECORD_BYTES: usize = 64 << 10;
/// 512 KiB: under Kafka's `message.max.bytes`.
const RECORDS: usize = 8;
const FETCH_BYTES: i32 = 8 << 20;
/// A fetch that brings nothing is tried again at most for this long.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// What the cold consumer did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ColdRead {
    /// Bytes of batches that it read.
    pub bytes: u64,
    /// The time it took.
    pub seconds: f64,
}

/// Creates the topic and writes `bytes` bytes of values.
///
/// # Errors
/// When the broker cannot be reached or refuses.
pub async fn fill(bootstrap: &str, bytes: u64, seed: u64) -> Result<()> {
    let mut client = Client::connect(bootstrap, PATIENCE).await?;
    let topic = NewTopic {
        name: TOPIC.to_owned(),
        partitions: Some(PARTITIONS as i32),
        replication_factor: Some(1),
        // Large segments, and the default retention: nothing of it goes during the run.
        configs: vec![("segment.bytes".to_owned(), (256u64 << 20).to_string())],
    };
    super::create(&mut client, &topic).await?;
    let batches = bytes.div_ceil(PARTITIONS * (RECORD_BYTES * RECORDS) as u64);
    let fillers = (0..PARTITIONS as i32).map(|partition| {
        let bootstrap = bootstrap.to_owned();
        tokio::spawn(async move {
            let mut client = Client::connect(&bootstrap, PATIENCE).await?;
            let mut value = vec![0; RECORD_BYTES];
            for batch in 0..batches {
                let mut builder = BatchBuilder::new();
                for place in 0..RECORDS as u32 {
                    Mark { seed, producer: u32::MAX, partition, request: batch as u32, place }
                        .write(&mut value);
                    let timestamp = now_ms();
                    builder.push(NewRecord { timestamp, value: Some(&value), ..NewRecord::default() });
                }
                client.produce(TOPIC, partition, Acks::All, builder.build()).await?;
            }
            anyhow::Ok(())
        })
    });
    for filler in fillers.collect::<Vec<_>>() {
        filler.await?.context("cannot write what the cold consumer is to read")?;
    }
    Ok(())
}

/// Reads the topic from its beginning, one partition after the other, as fast as it can.
///
/// # Errors
/// When the broker cannot be reached or refuses, or records are missing.
pub async fn read(bootstrap: &str) -> Result<ColdRead> {
    let mut client = Client::connect(bootstrap, PATIENCE).await?;
    let begun = Instant::now();
    let mut bytes = 0;
    for partition in 0..PARTITIONS as i32 {
        let mut at = 0;
        let mut moved = Instant::now();
        loop {
            let fetched = client.fetch(TOPIC, partition, at, FETCH_BYTES, 0).await?;
            if at >= fetched.high_watermark {
                break;
            }
            let before = at;
            bytes += fetched.records.len() as u64;
            // The checksums are looked at; the values are not, for the sake of the speed.
            for batch in batches(fetched.records) {
                let batch = batch?;
                ensure!(batch.base_offset == at, "{TOPIC}-{partition}: {} at {at}", batch.base_offset);
                at = batch.next_offset;
            }
            if at > before {
                moved = Instant::now();
            }
            ensure!(moved.elapsed() < STALLED_AFTER, "{TOPIC}-{partition}: nothing comes at {at}");
        }
    }
    Ok(ColdRead { bytes, seconds: begun.elapsed().as_secs_f64() })
}
