//! Writes a few records and reads them back.

use std::time::Duration;

use anyhow::{Result, ensure};
use chronik_client::{Acks, BatchBuilder, ClientError, NewRecord, NewTopic, batches};

use super::record::Maker;
use super::retry::connect;

/// Kafka's code for a topic that exists already.
const TOPIC_ALREADY_EXISTS: i16 = 36;

/// Makes the topic if need be, writes `count` records into its first partition and reads them back.
///
/// # Errors
/// If anything is refused, or comes back other than it was sent.
pub async fn produce_consume(bootstrap: &str, topic: &str, count: u64, timeout: Duration) -> Result<i64> {
    let mut client = connect(bootstrap, timeout).await?;
    let new = NewTopic {
        name: topic.to_owned(),
        partitions: Some(1),
        replication_factor: None,
        configs: Vec::new(),
    };
    match client.create_topic(&new).await {
        Ok(_) => {}
        Err(ClientError::Refused(refusal)) if refusal.code == TOPIC_ALREADY_EXISTS => {}
        Err(error) => return Err(error.into()),
    }
    let maker = Maker::new(&format!("smoke-{}", std::process::id()), 100);
    let mut batch = BatchBuilder::new();
    for number in 0..count {
        let (key, value) = (maker.key(number), maker.value(number));
        let (key, value) = (Some(key.as_bytes()), Some(value.as_slice()));
        batch.push(NewRecord { timestamp: 1_000, key, value, headers: &[] });
    }
    let base = client.produce(topic, 0, Acks::All, batch.build()).await?.unwrap_or(-1);
    let mut next = base;
    let mut number = 0;
    while number < count {
        let before = number;
        let fetched = client.fetch(topic, 0, next, 1 << 20, 5000).await?;
        for batch in batches(fetched.records) {
            for record in batch?.records()?.into_iter().filter(|record| record.offset >= base) {
                if number == count || record.offset < next {
                    continue;
                }
                let (key, value) = (maker.key(number), maker.value(number));
                ensure!(record.key.as_deref() == Some(key.as_bytes()), "another key at {}", record.offset);
                ensure!(record.value.as_deref() == Some(&value), "other bytes at {}", record.offset);
                next = record.offset + 1;
                number += 1;
            }
        }
        ensure!(number > before, "nothing to read at offset {next} of {topic}");
    }
    Ok(base)
}
