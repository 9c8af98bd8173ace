//! Members of groups.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use krafka::Kafka;
use krafka::admin::{AdminClient, DescribeConsumerGroupsOptions, ListConsumerGroupOffsetsOptions};
use krafka::consumer::{
    AutoOffsetReset, Consumer, OffsetAndMetadata, PartitionAssignmentStrategy, TopicPartition,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Args, SHORTLY, compare};

pub async fn join(
    kafka: &Kafka,
    group: &str,
    topic: &str,
    strategy: PartitionAssignmentStrategy,
) -> Result<Consumer> {
    let consumer = kafka
        .consumer(group)
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .enable_auto_commit(false)
        .partition_assignment_strategy(strategy)
        .session_timeout(Duration::from_secs(6))
        .heartbeat_interval(Duration::from_millis(200))
        .fetch_max_wait(SHORTLY)
        .build()
        .await?;
    consumer.subscribe([topic]).await?;
    Ok(consumer)
}

pub async fn assigned(consumer: &Consumer) -> BTreeSet<i32> {
    consumer.assignment().await.into_iter().flat_map(|(_, partitions)| partitions).collect()
}

/// The offsets that the group must have committed in each partition; none if it is 0.
pub async fn check_committed(admin: &AdminClient, args: &Args, group: &str, want: u32) -> Result<()> {
    let committed =
        admin.list_consumer_group_offsets(group, ListConsumerGroupOffsetsOptions::default()).await?;
    let mut partitions = BTreeSet::new();
    for (at, offset) in committed {
        let offset = offset.with_context(|| format!("{group} in {at:?}"))?.offset;
        ensure!(
            offset == Some(i64::from(want)),
            "{group} has committed {offset:?} in {at:?}, expected {want}"
        );
        partitions.insert(at.partition);
    }
    let count = if want == 0 { 0 } else { args.partitions as usize };
    ensure!(partitions.len() == count, "{group} has committed in {partitions:?}");
    Ok(())
}

/// Goes on where the group of the topic has come to, reads what is new, and commits it.
pub async fn group(args: &Args) -> Result<()> {
    let topic = args.topic()?;
    let id = format!("{topic}.group");
    let kafka = args.connect().await?;
    let admin = kafka.admin();
    check_committed(&admin, args, &id, args.first).await?;
    let consumer = join(&kafka, &id, topic, PartitionAssignmentStrategy::Range).await?;
    let mut next = vec![args.first; args.partitions as usize];
    while next.iter().any(|&at| at < args.end()) || assigned(&consumer).await.len() < next.len() {
        for record in consumer.poll(SHORTLY).await? {
            let next = next.get_mut(record.partition as usize).context("a partition too many")?;
            ensure!(*next < args.end(), "{topic}/{}: a record behind {next}", record.partition);
            compare(&record, *next)?;
            *next += 1;
        }
    }
    let end = i64::from(args.end());
    let offsets =
        (0..args.partitions as i32).map(|p| (TopicPartition::new(topic, p), OffsetAndMetadata::new(end)));
    consumer.commit_offsets(offsets.collect::<Vec<_>>()).await?;
    consumer.close().await?;
    check_committed(&admin, args, &id, args.end()).await?;
    let described =
        admin.describe_consumer_groups([id.as_str()], DescribeConsumerGroupsOptions::default()).await?;
    for (_, group) in described {
        let group = group.with_context(|| format!("describing {id}"))?;
        ensure!(group.state.to_string() == "Empty" && group.members.is_empty(), "{id} is {group:?}");
    }
    Ok(())
}

/// Says what it is assigned and what it takes, until it is asked to leave.
pub async fn member(args: &Args) -> Result<()> {
    let (topic, group) = (args.topic()?, args.topics.get(1).context("no group")?);
    let strategy = match group.ends_with(".range") {
        true => PartitionAssignmentStrategy::Range,
        false => PartitionAssignmentStrategy::CooperativeSticky,
    };
    let mut asked = signal(SignalKind::terminate())?;
    let kafka = args.connect().await?;
    let consumer = join(&kafka, group, topic, strategy).await?;
    let mut said = None;
    loop {
        let polled = tokio::select! {
            _ = asked.recv() => break,
            polled = consumer.poll(SHORTLY) => polled,
        };
        let partitions = assigned(&consumer).await;
        if said.as_ref() != Some(&partitions) {
            let text: String = partitions.iter().map(|partition| format!(" {partition}")).collect();
            println!("assigned{text}");
            said = Some(partitions);
        }
        match polled {
            Ok(records) if records.is_empty() => {}
            Ok(records) => {
                for record in &records {
                    println!("took {} {}", record.partition, record.offset);
                }
                if let Err(error) = consumer.commit().await {
                    // Who has the partition next takes the records again.
                    println!("not committed: {error}");
                }
            }
            Err(error) if error.is_retriable() => println!("again: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(consumer.close().await?)
}
