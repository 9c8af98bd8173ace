//! CreateTopics, DeleteTopics, CreatePartitions, DescribeTopicPartitions, DescribeCluster, DescribeLogDirs.

use anyhow::Result;
use serde_json::{Value, json};

use super::fixture::{create, gone, produced, settle};
use super::{Case, Scenario, case, json_with, sample};
use crate::pair::Pair;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { api: "CreateTopics", name: "created", run: created },
    Scenario { api: "CreatePartitions", name: "grown", run: grown },
    Scenario { api: "DeleteTopics", name: "deleted", run: deleted },
];

pub fn cases() -> Vec<Case> {
    [create_topics(), topics(), cluster()].into_iter().flatten().collect()
}

/// A request of one topic, with these fields beside its name.
fn one(name: &str, fields: &Value) -> Value {
    let topic = json_with(json!({"Name": name, "NumPartitions": 1, "ReplicationFactor": 1}), fields);
    json!({"Topics": [topic], "timeoutMs": 30_000})
}

fn config(name: &str, value: &Value) -> Value {
    one("never-{n}", &json!({"Configs": [{"Name": name, "Value": value}]}))
}

fn create_topics() -> Vec<Case> {
    let assigned = |brokers: &Value| {
        let fields = json!({"NumPartitions": -1, "ReplicationFactor": -1, "Assignments": brokers});
        one("assigned-{n}", &fields)
    };
    let mut cases = vec![
        sample(
            "CreateTopics",
            one("sample-{n}", &json!({"Configs": [{"Name": "retention.ms", "Value": "1000000"}]})),
        ),
        case("CreateTopics", "none", json!({"Topics": [], "timeoutMs": 1_000})),
        case("CreateTopics", "exists", one("plain", &json!({}))),
        case(
            "CreateTopics",
            "defaults",
            one("defaults-{n}", &json!({"NumPartitions": -1, "ReplicationFactor": -1})),
        ),
        case("CreateTopics", "no partitions", one("never-{n}", &json!({"NumPartitions": 0}))),
        case("CreateTopics", "three replicas", one("never-{n}", &json!({"ReplicationFactor": 3}))),
        case("CreateTopics", "collides", {
            let topic = |name: &str| json!({"Name": name, "NumPartitions": 1, "ReplicationFactor": 1});
            json!({"Topics": [topic("col.lides-{n}"), topic("col_lides-{n}")], "timeoutMs": 30_000})
        }),
        case("CreateTopics", "internal", one("__consumer_offsets", &json!({}))),
        case("CreateTopics", "assigned", assigned(&json!([{"PartitionIndex": 0, "BrokerIds": [1]}]))),
        case(
            "CreateTopics",
            "assigned to nobody",
            assigned(&json!([{"PartitionIndex": 0, "BrokerIds": []}])),
        ),
        case(
            "CreateTopics",
            "assigned to others",
            assigned(&json!([{"PartitionIndex": 0, "BrokerIds": [99]}])),
        ),
        case(
            "CreateTopics",
            "assigned twice",
            assigned(&json!([{"PartitionIndex": 0, "BrokerIds": [1, 1]}])),
        ),
        case(
            "CreateTopics",
            "assigned from 1 on",
            assigned(&json!([{"PartitionIndex": 1, "BrokerIds": [1]}])),
        ),
        case("CreateTopics", "assigned and counted", {
            one("never-{n}", &json!({"Assignments": [{"PartitionIndex": 0, "BrokerIds": [1]}]}))
        }),
        case("CreateTopics", "validated only", {
            json_with(one("never-{n}", &json!({"NumPartitions": 2})), &json!({"validateOnly": true}))
        }),
        case("CreateTopics", "a setting twice", {
            let setting = |value: &str| json!({"Name": "retention.ms", "Value": value});
            one("never-{n}", &json!({"Configs": [setting("1"), setting("2")]}))
        }),
    ];
    for (name, value) in [
        ("cleanup.policy", "nonsense"),
        ("cleanup.policy", "compact,delete"),
        ("cleanup.policy", ""),
        ("cleanup.policy", "compact,compact"),
        ("retention.ms", "-1"),
        ("retention.ms", "-2"),
        ("retention.ms", "soon"),
        ("retention.ms", ""),
        ("segment.bytes", "1"),
        ("segment.bytes", "99999999999"),
        ("max.message.bytes", "-1"),
        ("compression.type", "best"),
        ("min.insync.replicas", "0"),
        ("message.timestamp.type", "Never"),
        ("min.cleanable.dirty.ratio", "1.5"),
        ("nobody.knows", "1"),
        ("retention.ms ", "1"),
    ] {
        cases.push(case("CreateTopics", "a setting", config(name, &json!(value))));
    }
    cases.push(case("CreateTopics", "a setting of null", config("retention.ms", &Value::Null)));
    cases.push(case(
        "CreateTopics",
        "a value with spaces",
        config("cleanup.policy", &json!(" delete , compact ")),
    ));
    let compressed = json_with(config("compression.type", &json!("gzip")), &json!({"validateOnly": true}));
    cases.push(case("CreateTopics", "compressed by the broker", compressed));
    cases
}

fn topics() -> Vec<Case> {
    let describe = |names: &[&str], limit: i32, cursor: Value| {
        let topics: Vec<Value> = names.iter().map(|name| json!({"Name": name})).collect();
        json!({"Topics": topics, "ResponsePartitionLimit": limit, "Cursor": cursor})
    };
    let at = |name: &str, partition: i32| json!({"TopicName": name, "PartitionIndex": partition});
    let several = ["plain", "empty", "compacted"];
    vec![
        sample("DescribeTopicPartitions", describe(&["plain"], 2_000, Value::Null)),
        case("DescribeTopicPartitions", "several", describe(&several, 2_000, Value::Null)),
        case("DescribeTopicPartitions", "first two", describe(&several, 2, Value::Null)),
        case("DescribeTopicPartitions", "from a cursor", describe(&several, 2, at("plain", 1))),
        case(
            "DescribeTopicPartitions",
            "from an unknown topic",
            describe(&several, 2, at("nobody-knows", 0)),
        ),
        case("DescribeTopicPartitions", "behind its partitions", describe(&several, 2, at("plain", 7))),
        case("DescribeTopicPartitions", "from -1", describe(&several, 2, at("plain", -1))),
        case("DescribeTopicPartitions", "unknown", describe(&["nobody-knows", "plain"], 2, Value::Null)),
        case("DescribeTopicPartitions", "twice", describe(&["plain", "plain"], 2, Value::Null)),
        case("DescribeTopicPartitions", "bad names", describe(&["", "a b"], 2, Value::Null)),
        sample("DeleteTopics", json!({"TopicNames": ["never-{n}"], "TimeoutMs": 30_000})),
        sample("DeleteTopics", json!({"Topics": [{"Name": "never-{n}"}], "TimeoutMs": 30_000})),
        case("DeleteTopics", "by unknown id", {
            json!({"Topics": [{"Name": null, "TopicId": "7".repeat(32)}], "TimeoutMs": 30_000})
        }),
        case("DeleteTopics", "by name and id", {
            json!({"Topics": [{"Name": "plain", "TopicId": "$plain"}], "TimeoutMs": 30_000})
        }),
        case(
            "DeleteTopics",
            "twice",
            json!({"Topics": [{"Name": "never"}, {"Name": "never"}], "TimeoutMs": 30_000}),
        ),
        sample(
            "CreatePartitions",
            json!({"Topics": [{"Name": "empty", "Count": 1, "Assignments": null}], "TimeoutMs": 30_000}),
        ),
    ]
}

fn cluster() -> Vec<Case> {
    vec![
        sample("DescribeCluster", json!({"IncludeClusterAuthorizedOperations": true})),
        case("DescribeCluster", "controllers", json!({"EndpointType": 2})),
        case("DescribeCluster", "nothing there is", json!({"EndpointType": 3})),
        case("DescribeCluster", "fenced ones too", json!({"IncludeFencedBrokers": true})),
        case("DescribeLogDirs", "none", json!({"Topics": []})),
        sample("DescribeLogDirs", json!({"Topics": [{"Topic": "empty", "Partitions": [0]}]})),
        case(
            "DescribeLogDirs",
            "some",
            json!({"Topics": [{"Topic": "empty", "Partitions": [0, 7]}, {"Topic": "nobody-knows", "Partitions": [0]}]}),
        ),
    ]
}

fn created(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let (first, second) = (format!("created-a-{v}"), format!("created-b-{v}"));
    let topic = |name: &str, partitions: i32| {
        let configs = json!([{"Name": "retention.ms", "Value": "3600000"}, {"Name": "cleanup.policy", "Value": "compact"}]);
        json!({"Name": name, "NumPartitions": partitions, "ReplicationFactor": 1, "Configs": configs})
    };
    let bad = json!({"Name": "bad name", "NumPartitions": 1, "ReplicationFactor": 1});
    let topics = json!([topic(&first, 2), bad, topic(&second, 1), topic("plain", 1)]);
    pair.ask("CreateTopics", v, json!({"Topics": topics, "timeoutMs": 30_000}))?;
    settle(pair, &first)?;
    settle(pair, &second)?;
    pair.ask("Metadata", i16::MAX, json!({"Topics": [{"Name": first}, {"Name": second}]}))?;
    pair.ask("CreateTopics", v, json!({"Topics": [topic(&first, 2)], "timeoutMs": 30_000}))?;
    Ok(())
}

fn grown(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let name = format!("grown-{v}");
    create(pair, &name, 1, &[])?;
    let grow =
        |topics: Value, only: bool| json!({"Topics": topics, "TimeoutMs": 30_000, "ValidateOnly": only});
    let to = |name: &str, count: i32, assignments: Value| json!({"Name": name, "Count": count, "Assignments": assignments});
    pair.ask("CreatePartitions", v, grow(json!([to(&name, 3, Value::Null)]), true))?;
    pair.ask("CreatePartitions", v, grow(json!([to(&name, 3, Value::Null)]), false))?;
    let wide = json!({"Topics": [{"Name": name}], "AllowAutoTopicCreation": false});
    pair.until("Metadata", &wide, |answer| {
        let partitions = answer.pointer("/Topics/0/Partitions").and_then(Value::as_array);
        partitions.is_some_and(|all| all.len() == 3 && all.iter().all(|p| p["ErrorCode"] == json!(0)))
    })?;
    pair.ask("Metadata", i16::MAX, wide)?;
    for (count, assignments) in [
        (2, Value::Null),
        (3, Value::Null),
        (0, Value::Null),
        (-1, Value::Null),
        (4, json!([])),
        (5, json!([{"BrokerIds": [1]}])),
        (4, json!([{"BrokerIds": [1, 2]}])),
        (4, json!([{"BrokerIds": [99]}])),
        (4, json!([{"BrokerIds": []}])),
        (4, json!([{"BrokerIds": [1]}])),
    ] {
        pair.ask("CreatePartitions", v, grow(json!([to(&name, count, assignments)]), false))?;
    }
    let twice =
        json!([to("plain", 4, Value::Null), to("plain", 5, Value::Null), to("nobody-knows", 2, Value::Null)]);
    pair.ask("CreatePartitions", v, grow(twice, false))?;
    Ok(())
}

fn deleted(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let names: Vec<String> = ["a", "b"].map(|letter| format!("deleted-{letter}-{v}")).to_vec();
    for name in &names {
        create(pair, name, 1, &[])?;
        pair.ask("Produce", i16::MAX, produced(name, 0, &json!({})))?;
    }
    let body = if v < 6 {
        json!({"TopicNames": [names[0], "nobody-knows", names[1]], "TimeoutMs": 30_000})
    } else {
        let by_id = json!({"Name": null, "TopicId": format!("${}", names[1])});
        json!({"Topics": [{"Name": names[0]}, {"Name": "nobody-knows"}, by_id], "TimeoutMs": 30_000})
    };
    pair.ask("DeleteTopics", v, body.clone())?;
    gone(pair, &names[0])?;
    gone(pair, &names[1])?;
    pair.ask("DeleteTopics", v, body)?;
    let by_id = json!({"Topics": [{"Name": null, "TopicId": format!("${}", names[0])}]});
    pair.ask("Metadata", i16::MAX, by_id)?;
    pair.ask("Produce", i16::MAX, produced(&names[0], 0, &json!({})))?;
    // The name is free for another topic, whose id is another.
    create(pair, &names[0], 1, &[])?;
    let fetch = json!({"MaxWaitMs": 1, "Topics": [{"Topic": names[0], "TopicId": format!("${}", names[0]), "Partitions": [
        {"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1_000},
    ]}]});
    pair.ask("Fetch", i16::MAX, fetch)?;
    Ok(())
}
