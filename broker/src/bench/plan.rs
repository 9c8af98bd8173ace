//! What a run needs to know before the first request: where to send what, and as whom.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chronik_client::{Client, ClientError, NewTopic, Position, Producer, Topic};
use kafka_protocol::messages::ApiKey;
use uuid::Uuid;

use super::frame;

/// A partition under load.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its index.
    pub index: i32,
    /// Its leader, as `host:port`.
    pub address: String,
    /// Where it stood when the run began.
    pub start_offset: i64,
}

/// Where a run's requests go.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The Produce version.
    pub version: i16,
    /// The topic's name.
    pub topic: String,
    /// The topic's id.
    pub topic_id: Uuid,
    /// Its partitions.
    pub targets: Vec<Target>,
    /// Identities of idempotent producers; empty without.
    pub identities: Vec<Producer>,
    /// Whether this run made the topic.
    pub created: bool,
}

/// How long a new topic may take to have all its leaders.
const LEADERS_WITHIN: Duration = Duration::from_secs(60);

/// Creates the topic, unless it is there, and finds out the rest.
///
/// # Errors
/// Refusals by Kafka's name, a topic without leaders, a server without a known Produce version.
pub async fn prepare(client: &mut Client, topic: &NewTopic, idempotent: Option<usize>) -> Result<Plan> {
    let offered = client.offered(ApiKey::Produce).await?;
    let version = offered.map(|offered| offered.max.min(*frame::VERSIONS.end()));
    let version = version.filter(|version| frame::VERSIONS.contains(version));
    let version = version.context("the server offers no Produce version from 9 to 13")?;
    let found = client.cluster(Some(&[&topic.name])).await.ok();
    let created = found.is_none_or(|cluster| cluster.topics.is_empty());
    if created {
        client.create_topic(topic).await?;
    }
    let described = with_leaders(client, &topic.name).await?;
    if let Some(wanted) = topic.partitions {
        let there = described.partitions.len();
        ensure!(
            there == wanted as usize,
            "topic {} has {there} partitions, not {wanted}: leave --partitions out, or name another topic",
            topic.name
        );
    }
    let brokers = client.cluster(Some(&[])).await?.brokers;
    let mut targets = Vec::with_capacity(described.partitions.len());
    for partition in &described.partitions {
        let leader = partition.leader.and_then(|id| brokers.get(&id));
        let leader = leader.with_context(|| format!("partition {} has no leader", partition.index))?;
        let start_offset = end_offset(client, &topic.name, partition.index).await?;
        targets.push(Target { index: partition.index, address: leader.address.clone(), start_offset });
    }
    let mut identities = Vec::new();
    for _ in 0..idempotent.unwrap_or(0) {
        identities.push(client.init_producer_id().await?);
    }
    Ok(Plan { version, topic: topic.name.clone(), topic_id: described.id, targets, identities, created })
}

/// Where a partition ends. A leader that has just been named may not lead yet: it is asked until
/// it does, so that the load does not begin with its refusals.
///
/// # Errors
/// The last refusal, after a minute.
pub async fn end_offset(client: &mut Client, topic: &str, partition: i32) -> Result<i64> {
    let begun = Instant::now();
    loop {
        match client.list_offset(topic, partition, Position::Latest).await {
            Ok(offset) => return Ok(offset),
            Err(error) if begun.elapsed() > LEADERS_WITHIN => return Err(error.into()),
            Err(ClientError::Refused(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// The topic, once all its partitions have leaders.
///
/// # Errors
/// When they have none in time.
pub async fn with_leaders(client: &mut Client, name: &str) -> Result<Topic> {
    let begun = Instant::now();
    loop {
        // Right after its creation a topic may not be in the broker's metadata yet.
        let found = client.topic(name).await;
        match found {
            Ok(topic)
                if !topic.partitions.is_empty() && topic.partitions.iter().all(|p| p.leader.is_some()) =>
            {
                return Ok(topic);
            }
            Err(error) if begun.elapsed() > LEADERS_WITHIN => return Err(error.into()),
            Ok(_) if begun.elapsed() > LEADERS_WITHIN => {
                bail!("topic {name} has partitions without a leader after {LEADERS_WITHIN:?}")
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
