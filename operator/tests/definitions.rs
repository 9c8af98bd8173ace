//! The generated definitions: kept copies are current, and what the schema promises is in them.

use std::path::Path;

use chronik_operator::crd;
use serde_json::Value;

fn schema(of: usize) -> Value {
    let (_, text) = &crd::definitions().unwrap()[of];
    let definition: Value = serde_yaml::from_str(text).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

#[test]
fn the_kept_copies_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for copy in crd::COPIES {
        for (name, text) in crd::definitions().unwrap() {
            let path = root.join(copy).join(name);
            let kept = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(
                kept == text,
                "{} is stale: run `cargo run -p chronik-operator --bin crdgen`",
                path.display()
            );
        }
    }
}

/// Kubernetes fills in defaults from the outside in: a nested default only applies where its parent is there.
#[test]
fn defaults_of_nested_objects_are_whole() {
    let spec = &schema(0)["properties"]["spec"]["properties"];
    assert_eq!(spec["io"]["default"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(spec["io"]["properties"]["seccompProfile"]["properties"]["type"]["default"], "RuntimeDefault");
    assert_eq!(spec["io"]["properties"]["engine"]["default"], "Auto");
    assert_eq!(spec["rollout"]["default"]["unavoidable"], "Proceed");
    assert_eq!(spec["networkPolicy"]["default"]["enabled"], true);
    assert_eq!(spec["listeners"]["default"][0]["port"], 9092);
    assert_eq!(spec["deletionPolicy"]["default"], "Retain");
}

/// Rules that compare with what was there need lists that are matched by key; loops need bounds.
#[test]
fn lists_are_bounded_and_matched_by_name() {
    let spec = &schema(0)["properties"]["spec"]["properties"];
    for list in ["pools", "listeners"] {
        assert_eq!(spec[list]["x-kubernetes-list-type"], "map");
        assert_eq!(spec[list]["x-kubernetes-list-map-keys"][0], "name");
        assert!(spec[list]["maxItems"].is_number());
    }
    assert!(spec["config"]["maxProperties"].is_number() && spec["walProfiles"]["maxProperties"].is_number());
    let storage = &spec["pools"]["items"]["properties"]["storage"];
    assert_eq!(storage["type"], "object");
    let rules = storage["x-kubernetes-validations"].to_string();
    assert!(rules.contains("cannot shrink"), "{rules}");
    let whole = schema(0)["x-kubernetes-validations"].to_string();
    assert!(whole.contains("storageClassName cannot change"), "{whole}");
    assert!(storage["properties"]["size"]["x-kubernetes-validations"][0]["rule"].is_string());
}

/// No part of the schema lets anything through unseen.
#[test]
fn nothing_is_without_a_type() {
    fn walk(path: &str, schema: &Value) {
        let typed = schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == true;
        assert!(typed, "{path} has no type: {schema}");
        assert!(schema.get("x-kubernetes-preserve-unknown-fields").is_none(), "{path} keeps unknown fields");
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), property);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                walk(&format!("{path}.{inner}"), &schema[inner]);
            }
        }
    }
    for kind in 0..2 {
        walk("spec", &schema(kind)["properties"]["spec"]);
        walk("status", &schema(kind)["properties"]["status"]);
    }
}
