//! Producing, and reading without a group.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use krafka::admin::{AdminClient, DescribeTopicsOptions, ListOffsetsOptions, OffsetSpec, TopicPartition};
use krafka::consumer::AutoOffsetReset;
use krafka::error::{ErrorCode, KrafkaError};
use krafka::producer::Acks;
use krafka::{Compression, Kafka};

use crate::{Args, SHORTLY, compare, create, records, to_send};

pub async fn write(args: &Args) -> Result<()> {
    let kafka = args.connect().await?;
    let admin = kafka.admin();
    for topic in &args.topics {
        if args.first == 0 {
            create(&admin, args, topic).await?;
        }
        write_to(&kafka, args, topic).await?;
    }
    Ok(admin.close().await?)
}

async fn write_to(kafka: &Kafka, args: &Args, topic: &str) -> Result<()> {
    let mode = topic.rsplit('.').next().unwrap_or_default();
    let builder = kafka.producer().linger(Duration::from_millis(5));
    let plain = |codec| {
        kafka
            .producer()
            .linger(Duration::from_millis(5))
            .acks(Acks::Leader)
            .idempotent(false)
            .compression(codec)
    };
    let producer = match mode {
        "idempotent" => builder,
        "plain" => plain(Compression::None),
        "gzip" => plain(Compression::Gzip),
        "snappy" => plain(Compression::Snappy),
        "lz4" => plain(Compression::Lz4),
        "zstd" => plain(Compression::Zstd),
        _ => bail!("unknown way to write {topic}"),
    };
    let producer = producer.build().await?;
    let mut sent = Vec::new();
    for (partition, index) in args.indexes() {
        sent.push((partition, index, producer.enqueue(to_send(topic, partition, index)).await?));
    }
    for (partition, index, delivery) in sent {
        let acked = delivery.await.with_context(|| format!("{topic}/{partition} record {index}"))?;
        ensure!(
            (acked.partition, acked.offset) == (partition as i32, i64::from(index)),
            "{topic}/{partition} record {index} acknowledged as {acked:?}"
        );
    }
    Ok(producer.close().await?)
}

pub async fn read(args: &Args) -> Result<()> {
    let kafka = args.connect().await?;
    let reader = kafka
        .consumer_without_group()
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .fetch_max_wait(SHORTLY)
        .build()
        .await?;
    let partitions: Vec<i32> = (0..args.partitions as i32).collect();
    for topic in &args.topics {
        reader.assign(topic, partitions.clone()).await?;
    }
    let mut missing = args.topics.len() * args.partitions as usize * args.records as usize;
    let mut seen: HashMap<(String, i32), u32> = HashMap::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while missing > 0 {
        ensure!(Instant::now() < deadline, "read only {seen:?}");
        for record in reader.poll(SHORTLY).await? {
            let next = seen.entry((record.topic.to_string(), record.partition)).or_default();
            ensure!(*next < args.records, "{}/{}: more records", record.topic, record.partition);
            compare(&record, *next)?;
            *next += 1;
            missing -= 1;
        }
    }
    reader.close().await?;
    let admin = kafka.admin();
    check_offsets(&admin, args).await?;
    check_errors(&kafka, &admin, args).await
}

async fn check_offsets(admin: &AdminClient, args: &Args) -> Result<()> {
    let time = |partition, index| records::expected("", partition, index).timestamp_ms;
    for topic in &args.topics {
        for partition in 0..args.partitions {
            let for_time =
                |at| (0..args.records).find(|&index| time(partition, index) >= at).map_or(-1, i64::from);
            let amid = time(partition, args.records / 2);
            // Of a time behind the last record it would ask again for a minute.
            let asked = [
                (OffsetSpec::Earliest, 0),
                (OffsetSpec::Latest, i64::from(args.records)),
                (OffsetSpec::Timestamp(0), for_time(0)),
                (OffsetSpec::Timestamp(amid), for_time(amid)),
            ];
            for (spec, want) in asked {
                let what = format!("{spec:?} of {topic}/{partition}");
                let at = TopicPartition::new(topic, partition as i32);
                for (_, listed) in admin.list_offsets([(at, spec)], ListOffsetsOptions::default()).await? {
                    let offset = listed.with_context(|| what.clone())?.offset;
                    ensure!(offset == want, "{what} is {offset}, expected {want}");
                }
            }
        }
    }
    Ok(())
}

async fn check_errors(kafka: &Kafka, admin: &AdminClient, args: &Args) -> Result<()> {
    let topic = args.topic()?;
    let unknown = format!("{topic}.no-such-topic");
    // It asks again until then.
    let options = DescribeTopicsOptions::default().timeout(Duration::from_secs(1));
    for (_, described) in admin.describe_topics([unknown.as_str()], options).await? {
        let code = match described {
            Err(KrafkaError::Broker { code, .. }) => code,
            other => bail!("unknown topic: {other:?}"),
        };
        ensure!(code == ErrorCode::UnknownTopicOrPartition, "unknown topic: {code:?}");
    }
    let reader = kafka.consumer_without_group().auto_offset_reset(AutoOffsetReset::None).build().await?;
    reader.assign(topic, vec![0]).await?;
    reader.seek(topic, 0, i64::from(args.records + 1000)).await?;
    // It asks for the end of that epoch first, and takes what lies behind for a truncated log.
    let records = reader.poll(Duration::from_secs(1)).await?;
    let position = reader.position(topic, 0).await;
    ensure!(
        records.is_empty() && position == Some(i64::from(args.records)),
        "beyond the end: {records:?}, then at {position:?}"
    );
    Ok(reader.close().await?)
}
