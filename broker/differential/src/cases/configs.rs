//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs, ListConfigResources.

use serde_json::{Value, json};

use super::{Case, case, json_with, sample};

/// Kafka's numbers of kinds of resources, and of what an incremental change does.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub fn cases() -> Vec<Case> {
    [altered(), described()].into_iter().flatten().collect()
}

fn described() -> Vec<Case> {
    let describe = |kind: i8, name: &str, keys: Value| json!({"Resources": [{"ResourceType": kind, "ResourceName": name, "ConfigurationKeys": keys}]});
    let with = |body: Value, flag: &str| json_with(body, &json!({flag: true}));
    let some = json!(["retention.ms", "cleanup.policy", "nobody.knows"]);
    vec![
        sample("DescribeConfigs", describe(TOPIC, "plain", json!(["retention.ms"]))),
        case("DescribeConfigs", "a topic", describe(TOPIC, "plain", Value::Null)),
        case("DescribeConfigs", "a topic's own", describe(TOPIC, "compacted", some.clone())),
        case("DescribeConfigs", "synonyms", with(describe(TOPIC, "compacted", some), "IncludeSynonyms")),
        case(
            "DescribeConfigs",
            "documentation",
            with(describe(TOPIC, "plain", json!(["retention.ms"])), "IncludeDocumentation"),
        ),
        case("DescribeConfigs", "no keys", describe(TOPIC, "plain", json!([]))),
        case("DescribeConfigs", "no such topic", describe(TOPIC, "nobody-knows", Value::Null)),
        case("DescribeConfigs", "internal", describe(TOPIC, "__consumer_offsets", json!(["cleanup.policy"]))),
        case("DescribeConfigs", "a broker", describe(BROKER, "1", Value::Null)),
        case("DescribeConfigs", "another broker", describe(BROKER, "99", Value::Null)),
        case("DescribeConfigs", "no broker's number", describe(BROKER, "one", Value::Null)),
        case("DescribeConfigs", "every broker", describe(BROKER, "", Value::Null)),
        case("DescribeConfigs", "nothing there is", describe(77, "plain", Value::Null)),
        case(
            "DescribeConfigs",
            "several",
            json!({"Resources": [
                {"ResourceType": TOPIC, "ResourceName": "plain", "ConfigurationKeys": ["retention.ms"]},
                {"ResourceType": TOPIC, "ResourceName": "nobody-knows", "ConfigurationKeys": ["retention.ms"]},
                {"ResourceType": TOPIC, "ResourceName": "plain", "ConfigurationKeys": ["segment.ms"]},
            ]}),
        ),
        case("ListConfigResources", "all", json!({})),
        case("ListConfigResources", "topics", json!({"ResourceTypes": [TOPIC]})),
        case("ListConfigResources", "brokers", json!({"ResourceTypes": [BROKER]})),
        case("ListConfigResources", "client metrics", json!({"ResourceTypes": [16]})),
        case("ListConfigResources", "groups", json!({"ResourceTypes": [32]})),
        case("ListConfigResources", "nothing there is", json!({"ResourceTypes": [77]})),
        case("ListConfigResources", "twice", json!({"ResourceTypes": [TOPIC, TOPIC]})),
    ]
}

fn altered() -> Vec<Case> {
    let replace = |kind: i8, name: &str, configs: &[(&str, Option<&str>)]| {
        let configs: Vec<Value> = configs.iter().map(|(n, v)| json!({"Name": n, "Value": v})).collect();
        json!({"Resources": [{"ResourceType": kind, "ResourceName": name, "Configs": configs}]})
    };
    let change = |kind: i8, name: &str, changes: &[(&str, i8, Option<&str>)]| {
        let of = |(name, operation, value): &(&str, i8, Option<&str>)| json!({"Name": name, "ConfigOperation": operation, "Value": value});
        let configs: Vec<Value> = changes.iter().map(of).collect();
        json!({"Resources": [{"ResourceType": kind, "ResourceName": name, "Configs": configs}]})
    };
    let day = Some("86400000");
    let mut cases = vec![
        sample("AlterConfigs", replace(TOPIC, "empty", &[("retention.ms", day)])),
        case("AlterConfigs", "nothing", json!({"Resources": []})),
        case("AlterConfigs", "back to defaults", replace(TOPIC, "empty", &[])),
        case("AlterConfigs", "no such topic", replace(TOPIC, "nobody-knows", &[("retention.ms", day)])),
        case("AlterConfigs", "no such broker", replace(BROKER, "99", &[("log.retention.ms", day)])),
        case("AlterConfigs", "no broker's number", replace(BROKER, "one", &[("log.retention.ms", day)])),
        case("AlterConfigs", "nothing there is", replace(77, "empty", &[("retention.ms", day)])),
        case("AlterConfigs", "unknown setting", replace(TOPIC, "empty", &[("nobody.knows", day)])),
        case("AlterConfigs", "bad value", replace(TOPIC, "empty", &[("retention.ms", Some("soon"))])),
        case("AlterConfigs", "null", replace(TOPIC, "empty", &[("retention.ms", None)])),
        sample("IncrementalAlterConfigs", change(TOPIC, "empty", &[("retention.ms", SET, day)])),
    ];
    type Operation = (&'static str, i8, Option<&'static str>);
    let changes: [(&str, &[Operation]); 14] = [
        ("set and delete", &[("retention.ms", SET, day), ("retention.ms", DELETE, None)]),
        ("delete what is not set", &[("segment.ms", DELETE, None)]),
        ("delete an unknown one", &[("nobody.knows", DELETE, None)]),
        ("set an unknown one", &[("nobody.knows", SET, Some("1"))]),
        ("set a bad value", &[("retention.ms", SET, Some("soon"))]),
        ("set null", &[("retention.ms", SET, None)]),
        ("append to a list", &[("cleanup.policy", APPEND, Some("compact"))]),
        ("append it again", &[("cleanup.policy", APPEND, Some("compact"))]),
        ("subtract from a list", &[("cleanup.policy", SUBTRACT, Some("compact"))]),
        ("subtract the rest", &[("cleanup.policy", SUBTRACT, Some("delete"))]),
        ("append to no list", &[("retention.ms", APPEND, Some("1"))]),
        ("subtract from no list", &[("retention.ms", SUBTRACT, Some("1"))]),
        ("do what nobody does", &[("retention.ms", 9, Some("1"))]),
        ("delete all", &[("cleanup.policy", DELETE, None), ("retention.ms", DELETE, None)]),
    ];
    for (name, changes) in changes {
        cases.push(case("IncrementalAlterConfigs", name, change(TOPIC, "empty", changes)));
        let keys = json!(["cleanup.policy", "retention.ms", "segment.ms"]);
        let body = json!({"Resources": [{"ResourceType": TOPIC, "ResourceName": "empty", "ConfigurationKeys": keys}]});
        cases.push(case("DescribeConfigs", "after a change", body));
    }
    cases.extend([
        case(
            "IncrementalAlterConfigs",
            "no such topic",
            change(TOPIC, "nobody-knows", &[("retention.ms", SET, day)]),
        ),
        case(
            "IncrementalAlterConfigs",
            "no such broker",
            change(BROKER, "99", &[("log.retention.ms", SET, day)]),
        ),
        case(
            "IncrementalAlterConfigs",
            "no broker's number",
            change(BROKER, "x", &[("log.retention.ms", SET, day)]),
        ),
        case(
            "IncrementalAlterConfigs",
            "every broker",
            change(BROKER, "", &[("log.retention.ms", SET, day)]),
        ),
        case(
            "IncrementalAlterConfigs",
            "every broker again",
            change(BROKER, "", &[("log.retention.ms", DELETE, None)]),
        ),
        case(
            "IncrementalAlterConfigs",
            "fixed at the start",
            change(BROKER, "1", &[("node.id", SET, Some("2"))]),
        ),
        case(
            "IncrementalAlterConfigs",
            "nothing there is",
            change(77, "empty", &[("retention.ms", SET, day)]),
        ),
        case("IncrementalAlterConfigs", "validated only", {
            json_with(change(TOPIC, "empty", &[("retention.ms", SET, day)]), &json!({"ValidateOnly": true}))
        }),
        case("IncrementalAlterConfigs", "a resource twice", {
            let mut body = change(TOPIC, "empty", &[("retention.ms", SET, day)]);
            body["Resources"] = json!([body["Resources"][0], body["Resources"][0]]);
            body
        }),
    ]);
    cases
}
