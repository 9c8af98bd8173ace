//! A transactional producer: what it commits is read once, and nothing else of what it writes.

use anyhow::{Result, bail, ensure};
use krafka::admin::{ListOffsetsOptions, OffsetSpec, TopicPartition};
use krafka::consumer::{AutoOffsetReset, IsolationLevel, PartitionAssignmentStrategy};
use krafka::error::KrafkaError;
use krafka::producer::{TopicPartitionOffset, TransactionalProducer};
use krafka::{Kafka, Record};

use crate::group::{check_committed, join};
use crate::{Args, SHORTLY, create, records, to_send};

async fn send(producer: &TransactionalProducer, args: &Args) -> Result<()> {
    let topic = args.topic()?;
    let mut sent = Vec::new();
    for (partition, index) in args.indexes() {
        sent.push(producer.enqueue(to_send(topic, partition, index)).await?);
    }
    for delivery in sent {
        let _ = delivery.await?;
    }
    Ok(())
}

/// Records that nobody is to see.
async fn lose(producer: &TransactionalProducer, args: &Args) -> Result<()> {
    for partition in 0..args.partitions as i32 {
        let _ = producer.send(Record::new(args.topic()?, "lost").partition(partition)).await?;
    }
    Ok(())
}

pub async fn transact(args: &Args) -> Result<()> {
    let topic = args.topic()?;
    let group = format!("{topic}.group");
    let kafka = args.connect().await?;
    let admin = kafka.admin();
    if args.first == 0 {
        create(&admin, args, topic).await?;
    }
    // What the program has left by its last end is aborted by this.
    let old = kafka.producer().build_transactional(topic).await?;
    old.begin()?;
    lose(&old, args).await?;
    let producer = kafka.producer().build_transactional(topic).await?;
    match old.commit().await {
        Err(KrafkaError::Fenced { .. }) => {}
        other => bail!("a commit of an old incarnation: {other:?}"),
    }
    producer.begin()?;
    send(&producer, args).await?;
    producer.abort().await?;

    producer.begin()?;
    send(&producer, args).await?;
    let end = i64::from(args.end());
    let offsets: Vec<_> = (0..args.partitions as i32)
        .map(|partition| TopicPartitionOffset::new(topic, partition, end))
        .collect();
    // It takes offsets from members of a group only.
    let member = join(&kafka, &group, topic, PartitionAssignmentStrategy::Range).await?;
    let metadata = loop {
        member.poll(SHORTLY).await?;
        match member.group_metadata().await {
            Some(metadata) if metadata.generation_id() >= 0 => break metadata,
            _ => {}
        }
    };
    producer.send_offsets(&offsets, &metadata).await?;
    producer.commit().await?;
    member.close().await?;

    producer.begin()?;
    lose(&producer, args).await?;
    producer.abort().await?;

    read_committed(&kafka, args).await?;
    check_committed(&admin, args, &group, args.end()).await?;

    // Whoever starts next with its id finds an ongoing transaction, be the broker the same or not.
    producer.begin()?;
    lose(&producer, args).await
}

async fn read_committed(kafka: &Kafka, args: &Args) -> Result<()> {
    let topic = args.topic()?;
    let reader = kafka
        .consumer_without_group()
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .isolation_level(IsolationLevel::ReadCommitted)
        .fetch_max_wait(SHORTLY)
        .build()
        .await?;
    reader.assign(topic, (0..args.partitions as i32).collect()).await?;
    let asked = (0..args.partitions as i32).map(|p| (TopicPartition::new(topic, p), OffsetSpec::Latest));
    // No transaction is open: the end is the last stable offset.
    let mut stable = Vec::new();
    for (at, listed) in kafka.admin().list_offsets(asked, ListOffsetsOptions::default()).await? {
        stable.push((at.partition, listed?.offset));
    }
    let mut seen = vec![0; args.partitions as usize];
    loop {
        let mut behind = false;
        for &(partition, end) in &stable {
            behind |= reader.position(topic, partition).await.is_none_or(|position| position < end);
        }
        if !behind {
            break;
        }
        for record in reader.poll(SHORTLY).await? {
            let Some(next) = seen.get_mut(record.partition as usize) else { bail!("{record:?}") };
            let want = records::expected(topic, record.partition as u32, *next).value;
            ensure!(record.value.as_deref() == want.as_deref(), "{record:?} as record {next}");
            *next += 1;
        }
    }
    ensure!(seen.iter().all(|&count| count == args.end()), "{topic} has {seen:?} of {}", args.end());
    Ok(reader.close().await?)
}
