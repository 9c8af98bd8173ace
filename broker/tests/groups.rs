//! Groups and committed offsets in the real binary: after a kill, after compaction, and on a full disk.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chronik_client::{
    Acks, BatchBuilder, Client, ClientError, CommittedOffset, Connection, NewRecord, NewTopic, Position,
    batches,
};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, GroupId, OffsetCommitRequest, TopicName, consumer_group_heartbeat_response,
};
use kafka_protocol::protocol::StrBytes;

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

/// A member of the group "new", of the new protocol, that has no records to read: it gives up at once what it is to give up.
struct Member {
    id: &'static str,
    /// As the coordinator told it; 0 for one that is to join.
    epoch: i32,
    /// The partitions of "t" that it was told to have.
    has: Vec<TopicPartitions>,
    connection: Connection,
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

impl Member {
    async fn new(broker: &Broker, id: &'static str) -> Result<Member> {
        Ok(Member { id, epoch: 0, has: Vec::new(), connection: connection(broker).await? })
    }

    /// Another life of the same member, or its end with -1.
    fn begin_again(&mut self, epoch: i32) {
        self.epoch = epoch;
        self.has.clear();
    }

    /// Says all of itself, as a client does that may have missed an answer: only then it is told its assignment again. And
    /// follows; while the group is being loaded it asks again. The error code.
    async fn beat(&mut self) -> Result<i16> {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text("new")))
            .with_member_id(text(self.id))
            .with_member_epoch(self.epoch)
            .with_rebalance_timeout_ms(30_000)
            .with_subscribed_topic_names(Some(vec![TopicName(text("t"))]))
            .with_topic_partitions(Some(self.has.clone()));
        let begun = Instant::now();
        let response = loop {
            let response = self.connection.call(&request).await?;
            if !(14..=16).contains(&response.error_code) {
                break response;
            }
            ensure!(begun.elapsed() < PATIENCE, "{} finds no coordinator", self.id);
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        if response.error_code == 0 {
            ensure!(self.epoch <= response.member_epoch, "{} goes back to {response:?}", self.id);
            self.epoch = response.member_epoch;
            if let Some(assignment) = response.assignment {
                let each = assignment.topic_partitions.into_iter();
                let told = |t: consumer_group_heartbeat_response::TopicPartitions| {
                    TopicPartitions::default().with_topic_id(t.topic_id).with_partitions(t.partitions)
                };
                self.has = each.map(told).collect();
            }
        }
        Ok(response.error_code)
    }

    async fn commit(&mut self, partition: i32, offset: i64) -> Result<i16> {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_metadata(None);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text("t")))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text("new")))
            .with_member_id(text(self.id))
            .with_generation_id_or_member_epoch(self.epoch)
            .with_topics(vec![topic]);
        let response = self.connection.call(&request).await?;
        let topic = response.topics.first().context("an answer without the topic")?;
        Ok(topic.partitions.first().context("an answer without the partition")?.error_code)
    }

    fn partitions(&self) -> impl Iterator<Item = i32> {
        self.has.iter().flat_map(|topic| topic.partitions.iter().copied())
    }
}

async fn connection(broker: &Broker) -> Result<Connection> {
    Ok(Connection::connect(&format!("127.0.0.1:{}", broker.kafka), Duration::from_secs(10)).await?)
}

/// Until each partition is of one of them, and as many of each as of any other.
async fn settle(members: &mut [Member], partitions: i32) -> Result<()> {
    let begun = Instant::now();
    loop {
        for member in members.iter_mut() {
            let code = member.beat().await?;
            ensure!(code == 0, "{} is refused with {code}", member.id);
        }
        let mut all: Vec<i32> = members.iter().flat_map(Member::partitions).collect();
        all.sort_unstable();
        let fair = partitions as usize / members.len();
        if all == Vec::from_iter(0..partitions) && members.iter().all(|m| m.partitions().count() >= fair) {
            return Ok(());
        }
        let each: Vec<_> = members.iter().map(|m| (m.id, m.epoch, &m.has)).collect();
        ensure!(begun.elapsed() < PATIENCE, "it does not settle: {each:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_the_new_protocol_goes_on_after_a_kill() -> Result<()> {
    const PARTITIONS: i32 = 6;
    const COMMITS: i64 = 150;
    let quick = "group.consumer.assignment.interval.ms: 0\n\
        group.consumer.min.session.timeout.ms: 6000\n\
        group.consumer.session.timeout.ms: 6000";
    let dir = tempfile::tempdir()?;
    let mut broker = start(dir.path(), quick)?;
    let mut admin = client(&broker).await?;
    topic(&mut admin, PARTITIONS).await?;
    // Whoever asks for a coordinator makes the groups' topic.
    ensure!(admin.committed("new").await?.is_empty());
    let mut members = Vec::new();
    for id in ["comes-and-goes", "stays", "stays-too"] {
        members.push(Member::new(&broker, id).await?);
    }
    settle(&mut members, PARTITIONS).await?;
    let mut committed = 0;
    for round in 1..=3 {
        // One leaves and joins all the time, so that there is always something to move.
        let moving = tokio::spawn(async move {
            for beats in 0.. {
                let next = if members[0].epoch < 0 { 0 } else { -1 };
                members[0].begin_again(next);
                for member in &mut members {
                    match member.beat().await {
                        Ok(0) => {}
                        Ok(code) => bail!("{} is refused with {code}", member.id),
                        Err(e) if e.is::<ClientError>() => return Ok((members, beats)),
                        Err(e) => return Err(e),
                    }
                }
            }
            bail!("the broker outlives everything")
        });
        // Meanwhile, another group commits, in step.
        let mut other = client(&broker).await?;
        let begun = Instant::now();
        for _ in 0..COMMITS {
            ensure!(begun.elapsed() < PATIENCE, "no {COMMITS} commits in round {round}");
            other.commit("old", &[at(0, committed + 1)]).await?;
            committed += 1;
        }
        broker.child.kill()?;
        broker.child.wait()?;
        let beats;
        (members, beats) = moving.await??;
        ensure!(beats > 0, "nothing moved in round {round}");
        drop(broker);

        broker = start(dir.path(), quick)?;
        for member in &mut members {
            member.connection = connection(&broker).await?;
        }
        // What it last asked for may have come about or not.
        members[0].begin_again(0);
        // The others are members still, in the epoch that they know or in one that they were to hear of.
        settle(&mut members, PARTITIONS).await?;
        let mut admin = client(&broker).await?;
        ensure!(admin.committed("old").await? == [at(0, committed)]);
        let group = admin.describe_group("new").await?;
        ensure!(group.epochs.is_some() && group.members.len() == 3, "{group:?}");
    }
    let stays = &mut members[1];
    let own = stays.partitions().next().context("it has partitions")?;
    ensure!(stays.commit(own, 7).await? == 0);
    stays.epoch += 100;
    ensure!(stays.commit(own, 8).await? == 113, "an epoch of nobody's commits");
    stays.epoch -= 100;

    // The others say no more: their sessions, which began anew with the load, end.
    let begun = Instant::now();
    while stays.partitions().count() < PARTITIONS as usize {
        ensure!(begun.elapsed() < PATIENCE, "{} has only {:?}", stays.id, stays.has);
        ensure!(stays.beat().await? == 0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut admin = client(&broker).await?;
    ensure!(admin.committed("new").await? == [at(own, 7)]);
    let group = admin.describe_group("new").await?;
    ensure!(group.state == "Stable" && group.members.len() == 1, "{group:?}");
    ensure!(broker.stop()?.status.success());
    Ok(())
}
