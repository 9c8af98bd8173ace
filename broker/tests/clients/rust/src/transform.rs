//! Consumes, transforms and produces in transactions, as one of the members of a group, until it is asked to stop.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use krafka::Kafka;
use krafka::admin::{AdminClient, ListConsumerGroupOffsetsOptions};
use krafka::consumer::{AutoOffsetReset, Consumer, ConsumerRecord, IsolationLevel};
use krafka::producer::{TopicPartitionOffset, TransactionalProducer};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Args, SHORTLY, compare, to_send};

/// So that many transactions are needed.
const RECORDS_AT_ONCE: i32 = 10;

async fn new_producer(kafka: &Kafka, id: &str) -> Result<TransactionalProducer> {
    let producer = kafka.producer();
    let producer =
        producer.transaction_timeout(Duration::from_secs(10)).delivery_timeout(Duration::from_secs(8));
    Ok(producer.build_transactional(id).await?)
}

pub async fn transform(args: &Args) -> Result<()> {
    let [source, out, name] = &args.topics[..] else { bail!("not INPUT OUTPUT NAME") };
    let (group, id) = (format!("{out}.group"), format!("{out}.{name}"));
    let mut asked = signal(SignalKind::terminate())?;
    let kafka = Kafka::builder(&args.bootstrap).request_timeout(Duration::from_secs(5)).connect().await?;
    let consumer = kafka
        .consumer(&group)
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .enable_auto_commit(false)
        .isolation_level(IsolationLevel::ReadCommitted)
        .max_poll_records(RECORDS_AT_ONCE)
        .session_timeout(Duration::from_secs(6))
        .heartbeat_interval(Duration::from_millis(200))
        .fetch_max_wait(SHORTLY)
        .build()
        .await?;
    consumer.subscribe([source]).await?;
    let admin = kafka.admin();
    let mut producer = new_producer(&kafka, &id).await?;
    loop {
        let polled = tokio::select! {
            _ = asked.recv() => break,
            polled = consumer.poll(SHORTLY) => polled,
        };
        let records = match polled {
            Ok(records) if records.is_empty() => continue,
            Ok(records) => records,
            Err(error) if error.is_retriable() => continue,
            Err(error) => return Err(error.into()),
        };
        match once(&consumer, &producer, out, &records).await {
            Ok(next) => {
                let said: String = next.iter().map(|(at, offset)| format!(" {at} {offset}")).collect();
                println!("committed{said}");
            }
            Err(error) => {
                println!("not committed: {error:#}");
                if producer.abort().await.is_err() {
                    producer = new_producer(&kafka, &id).await?;
                }
                start_over(&consumer, &admin, source, &group).await?;
            }
        }
    }
    producer.close().await?;
    Ok(consumer.close().await?)
}

async fn once(
    consumer: &Consumer,
    producer: &TransactionalProducer,
    out: &str,
    records: &[ConsumerRecord],
) -> Result<BTreeMap<i32, i64>> {
    producer.begin()?;
    let mut next = BTreeMap::new();
    for record in records {
        let index = u32::try_from(record.offset)?;
        compare(record, index)?;
        // The commit fails if one of them does.
        let _ = producer.enqueue(to_send(out, record.partition as u32, index)).await?;
        next.insert(record.partition, record.offset + 1);
    }
    let source = &*records.first().context("no records")?.topic;
    let offsets: Vec<_> = next
        .iter()
        .map(|(&partition, &offset)| TopicPartitionOffset::new(source, partition, offset))
        .collect();
    // Of this very generation: it fences whoever has lost its partitions.
    let metadata = consumer.group_metadata().await.context("no member of the group")?;
    producer.send_offsets(&offsets, &metadata).await?;
    producer.commit().await?;
    Ok(next)
}

/// From what is committed, be the transaction aborted by us or by another incarnation.
async fn start_over(consumer: &Consumer, admin: &AdminClient, source: &str, group: &str) -> Result<()> {
    let options = ListConsumerGroupOffsetsOptions::default().require_stable(true);
    let mut committed = BTreeMap::new();
    for (at, offset) in admin.list_consumer_group_offsets(group, options).await? {
        committed.insert(at.partition, offset?.offset);
    }
    for partition in crate::group::assigned(consumer).await {
        let offset = committed.get(&partition).copied().flatten().unwrap_or(0);
        // It may be another member's by now.
        let _ = consumer.seek(source, partition, offset).await;
    }
    Ok(())
}
