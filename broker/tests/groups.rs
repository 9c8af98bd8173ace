//! Committed offsets in the real binary: after a kill, after compaction, and on a full disk.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chronik_client::{Acks, BatchBuilder, Client, CommittedOffset, NewRecord, NewTopic, Position, batches};

use common::{Broker, PATIENCE};

const OFFSETS: &str = "__consumer_offsets";

fn start(dir: &Path, more: &str) -> Result<Broker> {
    let mut broker = common::start(dir, more)?;
    broker.until("/readyz", "\"ready\":true")?;
    Ok(broker)
}

async fn client(broker: &Broker) -> Result<Client> {
    Ok(Client::connect(&format!("127.0.0.1:{}", broker.kafka), Duration::from_secs(10)).await?)
}

async fn topic(client: &mut Client, partitions: i32) -> Result<()> {
    let topic = NewTopic {
        name: "t".to_string(),
        partitions: Some(partitions),
        replication_factor: None,
        configs: Vec::new(),
    };
    client.create_topic(&topic).await?;
    Ok(())
}

fn at(partition: i32, offset: i64) -> CommittedOffset {
    CommittedOffset { topic: "t".to_string(), partition, offset }
}

/// A group that commits one offset after the other, and how far it has come.
#[derive(Default)]
struct Progress {
    sent: AtomicI64,
    acknowledged: AtomicI64,
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_offsets_are_there_after_a_kill() -> Result<()> {
    const GROUPS: usize = 12;
    const PER_ROUND: i64 = 600;
    let dir = tempfile::tempdir()?;
    let mut broker = start(dir.path(), "")?;
    topic(&mut client(&broker).await?, 2).await?;
    let progress: Vec<Arc<Progress>> = (0..GROUPS).map(|_| Arc::default()).collect();
    let total = || progress.iter().map(|p| p.acknowledged.load(Ordering::SeqCst)).sum::<i64>();
    for round in 1..=3 {
        let mut committing = Vec::new();
        for (n, progress) in progress.iter().enumerate() {
            let mut client = client(&broker).await?;
            let progress = progress.clone();
            committing.push(tokio::spawn(async move {
                loop {
                    let next = progress.sent.fetch_add(1, Ordering::SeqCst) + 1;
                    if client.commit(&format!("g-{n}"), &[at(0, next), at(1, next)]).await.is_err() {
                        return;
                    }
                    progress.acknowledged.store(next, Ordering::SeqCst);
                }
            }));
        }
        let begun = Instant::now();
        while total() < round * PER_ROUND {
            ensure!(begun.elapsed() < PATIENCE, "{} commits in round {round}", total());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        broker.child.kill()?;
        broker.child.wait()?;
        for task in committing {
            task.await?;
        }
        drop(broker);
        broker = start(dir.path(), "")?;
        let mut client = client(&broker).await?;
        for (n, progress) in progress.iter().enumerate() {
            let found = client.committed(&format!("g-{n}")).await?;
            let acknowledged = progress.acknowledged.load(Ordering::SeqCst);
            let sent = progress.sent.load(Ordering::SeqCst);
            let offsets: Vec<i64> = found.iter().map(|at| at.offset).collect();
            let fine = |offset: &i64| (acknowledged..=sent).contains(offset);
            ensure!(
                offsets.len() == 2 && offsets.iter().all(fine) && offsets[0] == offsets[1],
                "g-{n} has {offsets:?} in round {round}; {acknowledged} was acknowledged, {sent} sent"
            );
        }
    }
    ensure!(broker.stop()?.status.success());
    Ok(())
}

/// Keys of all records of the one partition of the offsets' topic.
async fn records(client: &mut Client) -> Result<usize> {
    let end = client.list_offset(OFFSETS, 0, Position::Latest).await?;
    let (mut at, mut count) = (0, 0);
    let begun = Instant::now();
    while at < end {
        ensure!(begun.elapsed() < PATIENCE, "{OFFSETS} is read up to {at} of {end}");
        let fetched = client.fetch(OFFSETS, 0, at, 1 << 20, 100).await?;
        for batch in batches(fetched.records) {
            let batch = batch?;
            count += batch.records()?.len();
            at = at.max(batch.next_offset);
        }
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topic_of_offsets_is_compacted_and_nothing_is_forgotten() -> Result<()> {
    const GROUPS: usize = 5;
    const COMMITS: i64 = 200;
    let dir = tempfile::tempdir()?;
    let soon = "offsets.topic.num.partitions: 1\n\
        log.retention.check.interval.ms: 200\n\
        log.roll.ms: 500\n\
        log.cleaner.min.cleanable.ratio: 0.01\n\
        log.cleaner.backoff.ms: 100";
    let mut broker = start(dir.path(), soon)?;
    let mut c = client(&broker).await?;
    topic(&mut c, 1).await?;
    for offset in 1..=COMMITS {
        for n in 0..GROUPS {
            c.commit(&format!("g-{n}"), &[at(0, offset)]).await?;
        }
    }
    c.delete_group("g-0").await?;
    let begun = Instant::now();
    let mut nudges = 0;
    while records(&mut c).await? > 50 + nudges {
        ensure!(begun.elapsed() < PATIENCE, "{} records are left", records(&mut c).await?);
        // The active segment stays as it is: something new closes it in its time.
        c.commit("g-1", &[at(0, COMMITS)]).await?;
        nudges += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let refused = c.produce(OFFSETS, 0, Acks::All, {
        let mut batch = BatchBuilder::new();
        batch.push(NewRecord { timestamp: 0, key: Some(b"k"), value: None, headers: &[] });
        batch.build()
    });
    let refused = refused.await.unwrap_err().to_string();
    ensure!(refused.contains("INVALID_TOPIC_EXCEPTION"), "{refused}");
    drop(c);

    broker.child.kill()?;
    broker.child.wait()?;
    drop(broker);
    let broker = start(dir.path(), soon)?;
    let mut c = client(&broker).await?;
    for n in 1..GROUPS {
        let found = c.committed(&format!("g-{n}")).await?;
        ensure!(found == [at(0, COMMITS)], "g-{n} has {found:?}");
    }
    ensure!(c.committed("g-0").await?.is_empty(), "a deleted group came back");
    let groups: Vec<String> = c.groups().await?.into_iter().map(|group| group.id).collect();
    ensure!(groups == ["g-1", "g-2", "g-3", "g-4"], "{groups:?}");
    ensure!(broker.stop()?.status.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_committed_below_the_disks_reserve() -> Result<()> {
    let dir = tempfile::tempdir()?;
    // More than any disk here has.
    let broker = start(dir.path(), "chronik.disk.reserve.bytes: 1099511627776")?;
    let mut c = client(&broker).await?;
    topic(&mut c, 1).await?;
    let begun = Instant::now();
    loop {
        let mut batch = BatchBuilder::new();
        batch.push(NewRecord { timestamp: 0, key: None, value: Some(b"v"), headers: &[] });
        match c.produce("t", 0, Acks::All, batch.build()).await {
            Err(refused) => {
                let refused = refused.to_string();
                ensure!(refused.contains("KAFKA_STORAGE_ERROR"), "{refused}");
                break;
            }
            Ok(_) => ensure!(begun.elapsed() < PATIENCE, "the reserve is not kept"),
        }
    }
    c.commit("g", &[at(0, 1)]).await.context("a commit below the reserve")?;
    ensure!(c.committed("g").await? == [at(0, 1)]);
    ensure!(broker.stop()?.status.success());
    Ok(())
}
