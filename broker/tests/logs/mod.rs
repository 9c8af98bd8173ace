//! Topics, records and segment files of the real binary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use chronik_client::{Acks, BatchBuilder, Client, NewRecord, NewTopic, Position, Record, batches};

use crate::common::{self, Broker, PATIENCE};

/// Everything that takes time is to come soon.
const SOON: &str = "log.retention.check.interval.ms: 200\n\
    log.cleaner.backoff.ms: 100\n\
    log.segment.delete.delay.ms: 100";

/// Time, key and value of a record.
pub type Plain<'a> = (i64, &'a [u8], Option<&'a [u8]>);

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

/// A broker with these lines of YAML besides.
pub fn start(dir: &Path, more: &str) -> Result<Broker> {
    let mut broker = common::start(dir, &format!("{SOON}\n{more}"))?;
    broker.until("/readyz", "\"ready\":true")?;
    Ok(broker)
}

pub async fn client(broker: &Broker) -> Result<Client> {
    Ok(Client::connect(&format!("127.0.0.1:{}", broker.kafka), Duration::from_secs(10)).await?)
}

pub async fn topic(client: &mut Client, name: &str, settings: &[(&str, &str)]) -> Result<()> {
    let configs = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let topic = NewTopic { name: name.to_string(), partitions: Some(1), replication_factor: None, configs };
    client.create_topic(&topic).await?;
    Ok(())
}

pub async fn produce(client: &mut Client, topic: &str, records: &[Plain<'_>]) -> Result<i64> {
    let mut batch = BatchBuilder::new();
    for (timestamp, key, value) in records {
        batch.push(NewRecord { timestamp: *timestamp, key: Some(key), value: *value, headers: &[] });
    }
    client.produce(topic, 0, Acks::All, batch.build()).await?.context("an offset")
}

/// All records from `from` on.
pub async fn read(client: &mut Client, topic: &str, from: i64) -> Result<Vec<Record>> {
    let end = client.list_offset(topic, 0, Position::Latest).await?;
    let mut records: Vec<Record> = Vec::new();
    let mut at = from;
    let begun = Instant::now();
    while at < end {
        ensure!(begun.elapsed() < PATIENCE, "{topic} is read up to {at} of {end}");
        let fetched = client.fetch(topic, 0, at, 1 << 20, 100).await?;
        for batch in batches(fetched.records) {
            let batch = batch?;
            records.extend(batch.records()?.into_iter().filter(|r| r.offset >= at));
            at = at.max(batch.next_offset);
        }
    }
    Ok(records)
}

/// Every segment file below the data directory, with its size.
pub fn segment_files(dir: &Path) -> Result<BTreeMap<PathBuf, u64>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.join("data/topics")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten() {
            let entry = entry?;
            // A file may go between the two looks.
            let Ok(metadata) = entry.metadata() else { continue };
            match metadata.is_dir() {
                true => dirs.push(entry.path()),
                false => _ = found.insert(entry.path(), metadata.len()),
            }
        }
    }
    Ok(found)
}
