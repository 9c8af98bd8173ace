//! Asking a cluster in Kafka's own protocol, from the outside.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use chronik_client::{Acks, BatchBuilder, Client, ClientError, NewRecord, NewTopic, Resource};

use crate::client::retry;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Kafka's code for a topic that is not there.
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// A client of `bootstrap`.
pub async fn connect(bootstrap: &str) -> Result<Client> {
    retry::connect(bootstrap, TIMEOUT).await.with_context(|| format!("connecting to {bootstrap}"))
}

/// Writes `count` records one after the other into a topic's first partition, and returns how long each took.
pub async fn produce(bootstrap: &str, topic: &str, count: usize) -> Result<Vec<Duration>> {
    let mut client = connect(bootstrap).await?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
        let mut batch = BatchBuilder::new();
        batch.push(NewRecord { timestamp, key: None, value: Some(b"a record"), headers: &[] });
        let begun = Instant::now();
        client.produce(topic, 0, Acks::All, batch.build()).await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// The one in the middle.
pub fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Makes a topic as some other program would.
pub async fn create_topic(bootstrap: &str, name: &str, partitions: i32) -> Result<()> {
    let new = NewTopic {
        name: name.to_owned(),
        partitions: Some(partitions),
        replication_factor: Some(1),
        configs: Vec::new(),
    };
    connect(bootstrap).await?.create_topic(&new).await?;
    Ok(())
}

/// How many partitions a topic has; `None` if there is no such topic.
pub async fn partitions(bootstrap: &str, name: &str) -> Result<Option<usize>> {
    match connect(bootstrap).await?.topic(name).await {
        Ok(topic) => Ok(Some(topic.partitions.len())),
        Err(ClientError::Refused(refusal)) if refusal.code == UNKNOWN_TOPIC_OR_PARTITION => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A setting of a topic.
pub async fn setting(bootstrap: &str, topic: &str, name: &str) -> Result<Option<String>> {
    let entries = connect(bootstrap).await?.describe_configs(&Resource::Topic(topic.to_owned())).await?;
    Ok(entries.into_iter().find(|entry| entry.name == name).and_then(|entry| entry.value))
}

/// Alters a setting of a topic behind the operator's back.
pub async fn alter(bootstrap: &str, topic: &str, name: &str, value: &str) -> Result<()> {
    let changes = [(name.to_owned(), Some(value.to_owned()))];
    connect(bootstrap).await?.alter_configs(&Resource::Topic(topic.to_owned()), &changes).await?;
    Ok(())
}
