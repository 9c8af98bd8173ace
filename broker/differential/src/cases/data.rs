//! Produce, Fetch, ListOffsets, OffsetForLeaderEpoch, Metadata, ApiVersions, DeleteRecords.

use anyhow::Result;
use serde_json::{Value, json};

use super::fixture::{create, produced};
use super::{Case, Scenario, case, json_with, sample};
use crate::pair::Pair;
use crate::records::epoch_ms;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { api: "Produce", name: "idempotent", run: idempotent },
    Scenario { api: "Produce", name: "batches", run: batches },
    Scenario { api: "Produce", name: "without an answer", run: unanswered },
    Scenario { api: "Fetch", name: "session", run: session },
    Scenario { api: "DeleteRecords", name: "deleted", run: deleted },
];

pub fn cases() -> Vec<Case> {
    [metadata(), fetch(), list_offsets(), others()].into_iter().flatten().collect()
}

fn metadata() -> Vec<Case> {
    let named = |names: &[&str]| {
        let topics: Vec<Value> = names.iter().map(|name| json!({"Name": name})).collect();
        json!({"Topics": topics})
    };
    vec![
        case("ApiVersions", "plain", json!({"ClientSoftwareName": "a", "ClientSoftwareVersion": "1"})),
        sample("ApiVersions", json!({"ClientSoftwareName": "a-b.c", "ClientSoftwareVersion": "1.0"})),
        case("Metadata", "all", json!({"Topics": null})),
        case("Metadata", "none, or all of v0", json!({"Topics": []})),
        case("Metadata", "some", named(&["plain", "nobody-knows", "compacted"])),
        case("Metadata", "twice", named(&["plain", "plain"])),
        case("Metadata", "bad names", named(&["", ".", "..", "a b"])),
        case("Metadata", "internal", named(&["__consumer_offsets", "__transaction_state"])),
        sample("Metadata", json!({"Topics": [{"Name": "plain"}], "AllowAutoTopicCreation": false})),
        case("Metadata", "by id", json!({"Topics": [{"TopicId": "$plain", "Name": null}]})),
        case("Metadata", "by unknown id", json!({"Topics": [{"TopicId": "7".repeat(32), "Name": null}]})),
        case(
            "Metadata",
            "by name and id",
            json!({"Topics": [{"TopicId": "$plain", "Name": "plain"}, {"TopicId": "$empty", "Name": "plain"}]}),
        ),
        case(
            "Metadata",
            "by ids and names",
            json!({"Topics": [{"TopicId": "$plain", "Name": null}, {"Name": "empty"}]}),
        ),
        case(
            "Metadata",
            "operations of topics",
            json!({"Topics": [{"Name": "plain"}], "IncludeTopicAuthorizedOperations": true}),
        ),
        case(
            "Metadata",
            "operations of the cluster",
            json!({"Topics": [], "IncludeClusterAuthorizedOperations": true}),
        ),
    ]
}

fn fetched(topic: &str, partition: i32, offset: i64) -> Value {
    json!({"Topic": topic, "TopicId": format!("${topic}"), "Partitions": [
        {"Partition": partition, "FetchOffset": offset, "PartitionMaxBytes": 1 << 20},
    ]})
}

fn fetch_of(topics: &[Value]) -> Value {
    json!({"MaxWaitMs": 1, "MinBytes": 1, "Topics": topics})
}

fn fetch() -> Vec<Case> {
    let unknown = json!({"Topic": "nobody-knows", "TopicId": "7".repeat(32), "Partitions": [
        {"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1000},
    ]});
    let with = |partition: Value| {
        let usual = json!({"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1 << 20});
        let fields = json_with(usual, &partition);
        fetch_of(&[json!({"Topic": "plain", "TopicId": "$plain", "Partitions": [fields]})])
    };
    let bytes = |most: i32| json!({"MaxWaitMs": 1, "MinBytes": 1, "MaxBytes": most, "Topics": [fetched("plain", 0, 0)]});
    let session = |id: i32, epoch: i32| json!({"MaxWaitMs": 1, "SessionId": id, "SessionEpoch": epoch, "Topics": [fetched("plain", 0, 0)]});
    vec![
        sample("Fetch", fetch_of(&[fetched("plain", 0, 0)])),
        case("Fetch", "nothing", fetch_of(&[])),
        case(
            "Fetch",
            "all codecs",
            fetch_of(&[fetched("plain", 0, 0), fetched("plain", 1, 0), fetched("plain", 2, 0)]),
        ),
        case("Fetch", "within a batch", fetch_of(&[fetched("plain", 0, 4)])),
        case("Fetch", "at the end", fetch_of(&[fetched("plain", 0, 15)])),
        case("Fetch", "behind the end", fetch_of(&[fetched("plain", 0, 16)])),
        case("Fetch", "before the beginning", fetch_of(&[fetched("plain", 0, -1)])),
        case("Fetch", "no such partition", fetch_of(&[fetched("plain", 9, 0)])),
        case("Fetch", "a negative partition", fetch_of(&[fetched("plain", -1, 0)])),
        case("Fetch", "no such topic", fetch_of(&[unknown, fetched("plain", 1, 0)])),
        case("Fetch", "twice", fetch_of(&[fetched("plain", 1, 0), fetched("plain", 1, 0)])),
        case("Fetch", "the broker's time", fetch_of(&[fetched("appended", 0, 0)])),
        case("Fetch", "internal", fetch_of(&[fetched("__consumer_offsets", 0, 1 << 40)])),
        case("Fetch", "an old epoch", with(json!({"CurrentLeaderEpoch": 0}))),
        case("Fetch", "a coming epoch", with(json!({"CurrentLeaderEpoch": 5}))),
        case("Fetch", "fetched in this epoch", with(json!({"FetchOffset": 3, "LastFetchedEpoch": 0}))),
        case("Fetch", "fetched in a coming epoch", with(json!({"FetchOffset": 3, "LastFetchedEpoch": 4}))),
        case("Fetch", "diverged", with(json!({"FetchOffset": 15, "LastFetchedEpoch": 0}))),
        case("Fetch", "few bytes of a partition", with(json!({"PartitionMaxBytes": 10}))),
        case("Fetch", "no bytes of a partition", with(json!({"PartitionMaxBytes": 0}))),
        case("Fetch", "some batches", with(json!({"PartitionMaxBytes": 250}))),
        case("Fetch", "few bytes", bytes(10)),
        case("Fetch", "no bytes", bytes(0)),
        case("Fetch", "some bytes", bytes(300)),
        case(
            "Fetch",
            "decided only",
            json!({"MaxWaitMs": 1, "IsolationLevel": 1, "Topics": [fetched("plain", 0, 0)]}),
        ),
        case("Fetch", "no such session", session(4_711, 1)),
        case("Fetch", "the end of no session", session(4_711, -1)),
        case("Fetch", "a session's middle without it", session(0, 3)),
        case(
            "Fetch",
            "a follower",
            json!({"MaxWaitMs": 1, "ReplicaId": 1, "Topics": [fetched("plain", 0, 0)]}),
        ),
        case("Fetch", "a rack", json!({"MaxWaitMs": 1, "RackId": "r1", "Topics": [fetched("plain", 0, 0)]})),
        case(
            "Fetch",
            "of a cluster",
            json!({"MaxWaitMs": 1, "ClusterId": "nobody-knows", "Topics": [fetched("plain", 0, 0)]}),
        ),
    ]
}

fn list_offsets() -> Vec<Case> {
    let list = |topic: &str, partition: i32, time: i64| {
        json!({"ReplicaId": -1, "Topics": [{"Name": topic, "Partitions": [
            {"PartitionIndex": partition, "Timestamp": time},
        ]}]})
    };
    let epoch = |epoch: i32| {
        json!({"ReplicaId": -1, "Topics": [{"Name": "plain", "Partitions": [
            {"PartitionIndex": 0, "CurrentLeaderEpoch": epoch, "Timestamp": -1},
        ]}]})
    };
    let base = epoch_ms() + 1_000;
    vec![
        sample("ListOffsets", list("plain", 0, -1)),
        case("ListOffsets", "latest", list("plain", 1, -1)),
        case("ListOffsets", "earliest", list("plain", 0, -2)),
        case("ListOffsets", "greatest time", list("plain", 0, -3)),
        case("ListOffsets", "greatest time of nothing", list("empty", 0, -3)),
        case("ListOffsets", "earliest local", list("plain", 0, -4)),
        case("ListOffsets", "latest tiered", list("plain", 0, -5)),
        case("ListOffsets", "earliest pending upload", list("plain", 0, -6)),
        case("ListOffsets", "no such time", list("plain", 0, -7)),
        case("ListOffsets", "time 0", list("plain", 0, 0)),
        case("ListOffsets", "a record's time", list("plain", 0, base + 10)),
        case("ListOffsets", "between records", list("plain", 0, base + 11)),
        case("ListOffsets", "a coming time", list("plain", 0, base + 100_000_000)),
        case("ListOffsets", "a time of nothing", list("empty", 0, base)),
        case("ListOffsets", "the broker's time", list("appended", 0, base)),
        case("ListOffsets", "no such partition", list("plain", 7, -1)),
        case("ListOffsets", "no such topic", list("nobody-knows", 0, -1)),
        case("ListOffsets", "an old epoch", epoch(0)),
        case("ListOffsets", "a coming epoch", epoch(3)),
        case(
            "ListOffsets",
            "twice",
            json!({"ReplicaId": -1, "Topics": [{"Name": "plain", "Partitions": [
                {"PartitionIndex": 0, "Timestamp": -1}, {"PartitionIndex": 0, "Timestamp": -2},
            ]}]}),
        ),
        case(
            "ListOffsets",
            "decided only",
            json!({"ReplicaId": -1, "IsolationLevel": 1, "Topics": [{"Name": "plain", "Partitions": [
                {"PartitionIndex": 0, "Timestamp": -1}, {"PartitionIndex": 1, "Timestamp": -1},
            ]}]}),
        ),
    ]
}

fn others() -> Vec<Case> {
    let epochs = |topic: &str, partition: i32, current: i32, epoch: i32| {
        json!({"ReplicaId": -1, "Topics": [{"Topic": topic, "Partitions": [
            {"Partition": partition, "CurrentLeaderEpoch": current, "LeaderEpoch": epoch},
        ]}]})
    };
    vec![
        sample("OffsetForLeaderEpoch", epochs("plain", 0, -1, 0)),
        case("OffsetForLeaderEpoch", "of no records", epochs("empty", 0, -1, 0)),
        case("OffsetForLeaderEpoch", "a coming one", epochs("plain", 0, -1, 7)),
        case("OffsetForLeaderEpoch", "known to be old", epochs("plain", 0, 0, 0)),
        case("OffsetForLeaderEpoch", "known too early", epochs("plain", 0, 7, 0)),
        case("OffsetForLeaderEpoch", "no such topic", epochs("nobody-knows", 0, -1, 0)),
        case("OffsetForLeaderEpoch", "no such partition", epochs("plain", 7, -1, 0)),
        sample("DescribeProducers", json!({"Topics": [{"Name": "plain", "PartitionIndexes": [0]}]})),
        case(
            "DescribeProducers",
            "several",
            json!({"Topics": [{"Name": "plain", "PartitionIndexes": [0, 9]}, {"Name": "nobody-knows", "PartitionIndexes": [0]}]}),
        ),
        sample("Produce", produced("plain", 2, &json!({"count": 1}))),
        case("Produce", "nothing", json!({"Acks": -1, "TimeoutMs": 1_000})),
        case("Produce", "acks 1", json!({"Acks": 1, "TopicData": []})),
        case("Produce", "acks 2", json_with(produced("plain", 2, &json!({})), &json!({"Acks": 2}))),
        case("Produce", "acks -2", json_with(produced("plain", 2, &json!({})), &json!({"Acks": -2}))),
        case("Produce", "two topics, one unknown", {
            let mut body = produced("plain", 2, &json!({}));
            let unknown = json!({"Name": "nobody-knows", "TopicId": "7".repeat(32), "PartitionData": [
                {"Index": 0, "Records": {"count": 1}},
            ]});
            body["TopicData"] = json!([body["TopicData"][0], unknown]);
            body
        }),
        case("Produce", "internal", produced("__consumer_offsets", 0, &json!({}))),
        case("Produce", "without keys, compacted", produced("compacted", 0, &json!({"key": "null"}))),
        case("Produce", "too large", produced("small", 0, &json!({"count": 30}))),
        sample(
            "DeleteRecords",
            json!({"Topics": [{"Name": "plain", "Partitions": [{"PartitionIndex": 1, "Offset": 0}]}], "TimeoutMs": 1_000}),
        ),
    ]
}

fn idempotent(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let topic = format!("idempotent-{v}");
    create(pair, &topic, 1, &[])?;
    let producer =
        pair.ask("InitProducerId", i16::MAX, json!({"TransactionalId": null, "TransactionTimeoutMs": 0}))?;
    pair.keep("pid", &producer, "/ProducerId");
    let batch = |epoch: i16, sequence: i32, count: i32| json!({"producer": "$pid", "epoch": epoch, "sequence": sequence, "count": count});
    let mut send = |records: Value| pair.ask("Produce", v, produced(&topic, 0, &records));
    // First, next, again, a gap, a new epoch that begins and one that does not, an old one.
    send(batch(0, 0, 2))?;
    send(batch(0, 2, 1))?;
    send(batch(0, 2, 1))?;
    send(batch(0, 0, 2))?;
    send(batch(0, 9, 1))?;
    send(batch(0, 1, 1))?;
    send(batch(1, 5, 1))?;
    send(batch(1, 0, 1))?;
    send(batch(0, 3, 1))?;
    send(json!([batch(1, 1, 1), batch(1, 2, 1)]))?;
    send(json!({"producer": 900_000_001, "epoch": 0, "sequence": 4}))?;
    send(json!({"producer": 900_000_002, "epoch": -1, "sequence": 0}))?;
    send(json!({"producer": 900_000_003, "epoch": 0, "sequence": -1}))?;
    // A transaction's batch of nobody.
    send(json!({"producer": "$pid", "epoch": 1, "sequence": 3, "attributes": 0x10}))?;
    pair.ask("DescribeProducers", 0, json!({"Topics": [{"Name": topic, "PartitionIndexes": [0]}]}))?;
    pair.ask("Fetch", v, fetch_of(&[fetched(&topic, 0, 0)]))?;
    Ok(())
}

fn batches(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let topic = format!("batches-{v}");
    create(pair, &topic, 1, &[])?;
    let cases = [
        ("codec gzip", json!({"codec": "gzip", "count": 4})),
        ("codec snappy", json!({"codec": "snappy", "count": 4})),
        ("codec lz4", json!({"codec": "lz4", "count": 4})),
        ("codec zstd", json!({"codec": "zstd", "count": 4})),
        ("two batches", json!([{"count": 1}, {"count": 1}])),
        ("a wrong checksum", json!({"crc": "wrong"})),
        ("magic 0", json!({"magic": 0})),
        ("magic 1", json!({"magic": 1})),
        ("magic 3", json!({"magic": 3})),
        ("cut", json!({"cut": 3})),
        ("only a header's half", json!({"cut": 60})),
        ("no records", json!({"count": 0})),
        ("an unknown codec", json!({"attributes": 5})),
        ("plain records said to be gzip", json!({"attributes": 1})),
        ("control", json!({"attributes": 0x20})),
        ("transactional, nobody's", json!({"attributes": 0x10})),
        ("the broker's time, says the client", json!({"attributes": 0x08})),
        ("a delete horizon", json!({"attributes": 0x40})),
        ("a wrong last delta", json!({"count": 2, "last": 5})),
        ("a negative last delta", json!({"count": 2, "last": -1})),
        ("long ago", json!({"time": -1_000_000_000_000_i64})),
        ("in an hour and more", json!({"time": 4_000_000})),
        ("without a key", json!({"key": "null"})),
        ("an empty value", json!({"value": ""})),
    ];
    for (name, records) in cases {
        pair.case = format!("batches, {name}: v{v}");
        pair.ask("Produce", v, produced(&topic, 0, &records))?;
    }
    pair.case = format!("batches, what is read: v{v}");
    pair.ask("Fetch", i16::MAX, fetch_of(&[fetched(&topic, 0, 0)]))?;
    Ok(())
}

/// acks=0: the next answer is that of the next request.
fn unanswered(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let topic = format!("unanswered-{v}");
    create(pair, &topic, 1, &[])?;
    let body = json_with(produced(&topic, 0, &json!({})), &json!({"Acks": 0}));
    pair.send("main", "Produce", v, &body)?;
    pair.ask("Metadata", 12, json!({"Topics": []}))?;
    let list = json!({"ReplicaId": -1, "Topics": [{"Name": topic, "Partitions": [
        {"PartitionIndex": 0, "Timestamp": -1},
    ]}]});
    // Nobody has waited for the record to be committed.
    pair.until("ListOffsets", &list, |a| a.pointer("/Topics/0/Partitions/0/Offset") == Some(&json!(1)))?;
    pair.ask("ListOffsets", 10, list)?;
    // An error cannot be told either: the connection is closed, and the next request finds it so.
    let body = json_with(produced(&topic, 9, &json!({})), &json!({"Acks": 0}));
    pair.send("main", "Produce", v, &body)?;
    let metadata = pair.send("main", "Metadata", 12, &json!({"Topics": []}))?;
    pair.receive(metadata)?;
    pair.close("main");
    Ok(())
}

fn session(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let topic = format!("session-{v}");
    create(pair, &topic, 2, &[])?;
    pair.ask("Produce", i16::MAX, produced(&topic, 0, &json!({"count": 2})))?;
    let ask = |id: Value, epoch: i32, topics: Vec<Value>, forgotten: Vec<Value>| {
        json!({"MaxWaitMs": 1, "MinBytes": 0, "SessionId": id, "SessionEpoch": epoch, "Topics": topics,
            "ForgottenTopicsData": forgotten})
    };
    let whole = vec![fetched(&topic, 0, 0), fetched(&topic, 1, 0)];
    let opened = pair.ask("Fetch", v, ask(json!(0), 0, whole.clone(), vec![]))?;
    if v < 7 {
        return Ok(());
    }
    pair.keep("session", &opened, "/SessionId");
    let session = json!("$session");
    pair.ask("Fetch", v, ask(session.clone(), 1, vec![], vec![]))?;
    pair.ask("Fetch", v, ask(session.clone(), 2, vec![fetched(&topic, 0, 2)], vec![]))?;
    pair.ask("Produce", i16::MAX, produced(&topic, 1, &json!({})))?;
    pair.ask("Fetch", v, ask(session.clone(), 3, vec![], vec![]))?;
    pair.ask("Fetch", v, ask(session.clone(), 3, vec![], vec![]))?;
    let forgotten = json!({"Topic": topic, "TopicId": format!("${topic}"), "Partitions": [1]});
    pair.ask("Fetch", v, ask(session.clone(), 4, vec![], vec![forgotten.clone()]))?;
    pair.ask("Fetch", v, ask(session.clone(), 5, vec![fetched(&topic, 0, 0)], vec![forgotten]))?;
    pair.ask("Fetch", v, ask(session.clone(), -1, vec![], vec![]))?;
    pair.ask("Fetch", v, ask(session, 6, vec![], vec![]))?;
    Ok(())
}

fn deleted(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let topic = format!("deleted-{v}");
    create(pair, &topic, 1, &[])?;
    for _ in 0..3 {
        pair.ask("Produce", i16::MAX, produced(&topic, 0, &json!({"count": 3})))?;
    }
    for offset in [0, 2, 1, 4, 10, -2, 9, -1] {
        let body = json!({"TimeoutMs": 5_000, "Topics": [{"Name": topic, "Partitions": [
            {"PartitionIndex": 0, "Offset": offset},
        ]}]});
        pair.ask("DeleteRecords", v, body)?;
        for fetch in [0, 3, 9] {
            pair.ask("Fetch", i16::MAX, fetch_of(&[fetched(&topic, 0, fetch)]))?;
        }
        for time in [-2, -1, -3, 0] {
            let body = json!({"ReplicaId": -1, "Topics": [{"Name": topic, "Partitions": [
                {"PartitionIndex": 0, "Timestamp": time},
            ]}]});
            pair.ask("ListOffsets", 10, body)?;
        }
    }
    let compacted = json!({"TimeoutMs": 5_000, "Topics": [{"Name": "compacted", "Partitions": [
        {"PartitionIndex": 0, "Offset": 0},
    ]}]});
    pair.ask("DeleteRecords", v, compacted)?;
    Ok(())
}
