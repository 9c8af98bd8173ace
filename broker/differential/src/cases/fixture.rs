//! What the cases find: topics with records, coordinators that serve, a group with offsets.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::pair::Pair;

/// Name, partitions, settings.
type Topic = (&'static str, i32, &'static [(&'static str, &'static str)]);

/// Topics that nothing deletes.
const TOPICS: [Topic; 7] = [
    ("plain", 3, &[]),
    ("empty", 1, &[]),
    ("compacted", 1, &[("cleanup.policy", "compact")]),
    ("appended", 1, &[("message.timestamp.type", "LogAppendTime")]),
    ("small", 1, &[("max.message.bytes", "200")]),
    ("decided", 2, &[]),
    (MARKER, 1, &[]),
];

/// Its setting is the last change, whenever somebody wants to know that all changes have arrived.
const MARKER: &str = "marker";

/// Creates it all, and waits until it serves.
///
/// # Errors
/// When a server refuses, or does not serve in time.
pub fn build(pair: &mut Pair<'_>) -> Result<()> {
    for (name, partitions, configs) in TOPICS {
        create(pair, name, partitions, configs)?;
    }
    let name = "plain";
    for (partition, codec) in [(0, "none"), (0, "gzip"), (0, "snappy"), (0, "lz4"), (0, "zstd"), (1, "none")]
    {
        let records = json!({"count": 3, "codec": codec, "time": 1_000});
        produce(pair, name, partition, &records)?;
    }
    produce(pair, "appended", 0, &json!({"count": 2}))?;
    produce(pair, "compacted", 0, &json!({"count": 2}))?;
    // Coordinators: the first question creates their topics.
    for kind in [0, 1] {
        let body = json!({"KeyType": kind, "CoordinatorKeys": ["anybody"]});
        pair.until("FindCoordinator", &body, |a| a.pointer("/Coordinators/0/ErrorCode") == Some(&json!(0)))?;
    }
    for topic in ["__consumer_offsets", "__transaction_state"] {
        settle(pair, topic)?;
    }
    let producer = json!({"TransactionalId": "fixture", "TransactionTimeoutMs": 60_000});
    pair.until("InitProducerId", &producer, |a| a["ErrorCode"] == json!(0))?;
    let offsets = json!({"GroupId": "committed", "Topics": [{
        "Name": "plain", "TopicId": "$plain", "Partitions": [
            {"PartitionIndex": 0, "CommittedOffset": 5, "CommittedLeaderEpoch": 0, "CommittedMetadata": "five"},
            {"PartitionIndex": 1, "CommittedOffset": 1, "CommittedMetadata": null},
        ],
    }]});
    pair.until("OffsetCommit", &offsets, |a| {
        a.pointer("/Topics/0/Partitions/0/ErrorCode") == Some(&json!(0))
    })?;
    Ok(())
}

/// Creates a topic, waits for it, and keeps its id under its name.
///
/// # Errors
/// When either server refuses.
pub fn create(pair: &mut Pair<'_>, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
    let configs: Vec<Value> = configs.iter().map(|(n, v)| json!({"Name": n, "Value": v})).collect();
    let topic =
        json!({"Name": name, "NumPartitions": partitions, "ReplicationFactor": 1, "Configs": configs});
    let answers = pair.ask("CreateTopics", i16::MAX, json!({"Topics": [topic], "timeoutMs": 30_000}))?;
    for answer in &answers {
        ensure!(answer.pointer("/Topics/0/ErrorCode") == Some(&json!(0)), "{name} is not created: {answer}");
    }
    settle(pair, name)
}

/// Waits until all partitions of a topic have a leader, and keeps its id.
///
/// # Errors
/// When they have none for long.
pub fn settle(pair: &mut Pair<'_>, name: &str) -> Result<()> {
    let body = json!({"Topics": [{"Name": name}], "AllowAutoTopicCreation": false});
    let answers = pair.until("Metadata", &body, |answer| {
        let partitions = answer.pointer("/Topics/0/Partitions").and_then(Value::as_array);
        partitions.is_some_and(|all| !all.is_empty() && all.iter().all(|p| p["ErrorCode"] == json!(0)))
    })?;
    pair.keep(name, &answers, "/Topics/0/TopicId");
    Ok(())
}

/// Waits until a topic is gone.
///
/// # Errors
/// When it stays for long.
pub fn gone(pair: &mut Pair<'_>, name: &str) -> Result<()> {
    let body = json!({"Topics": [{"Name": name}], "AllowAutoTopicCreation": false});
    pair.until("Metadata", &body, |answer| answer.pointer("/Topics/0/ErrorCode") == Some(&json!(3)))?;
    Ok(())
}

/// Waits until both serve every change of settings that was answered: Kafka's broker hears of them after its controller.
///
/// # Errors
/// When that takes long.
pub fn catch_up(pair: &mut Pair<'_>) -> Result<()> {
    let value = json!((1_000_000 + pair.next()).to_string());
    let set = json!({"Name": "retention.ms", "ConfigOperation": 0, "Value": value});
    let body = json!({"Resources": [{"ResourceType": 2, "ResourceName": MARKER, "Configs": [set]}]});
    pair.until("IncrementalAlterConfigs", &body, |a| a.pointer("/Responses/0/ErrorCode") == Some(&json!(0)))?;
    let resource = json!({"ResourceType": 2, "ResourceName": MARKER, "ConfigurationKeys": ["retention.ms"]});
    let body = json!({"Resources": [resource]});
    pair.until("DescribeConfigs", &body, |a| a.pointer("/Results/0/Configs/0/Value") == Some(&value))?;
    Ok(())
}

/// Produces, with acks=all.
///
/// # Errors
/// When the answers cannot be had.
pub fn produce(pair: &mut Pair<'_>, topic: &str, partition: i32, records: &Value) -> Result<()> {
    pair.ask("Produce", i16::MAX, produced(topic, partition, records))?;
    Ok(())
}

/// The request for it.
pub fn produced(topic: &str, partition: i32, records: &Value) -> Value {
    json!({"Acks": -1, "TimeoutMs": 10_000, "TopicData": [{
        "Name": topic, "TopicId": format!("${topic}"),
        "PartitionData": [{"Index": partition, "Records": records}],
    }]})
}
