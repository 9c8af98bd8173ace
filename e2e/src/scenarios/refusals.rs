//! What the API server refuses at once, by the schema and by rules in it, in words that say why.

use anyhow::Result;
use serde_json::{Value, json};

use super::Figures;
use crate::stage::{Stage, manifest};

const NAMESPACE: &str = "e2e-refusals";

/// A change of a manifest, and what its refusal must say.
type Case = (&'static str, &'static str, Value);

pub async fn run(stage: &Stage, figures: &Figures) -> Result<()> {
    stage.operator().await?;
    stage.namespace(NAMESPACE).await?;
    // Paused: nothing is made of it, so that it needs no volume.
    let mut good = manifest::cluster(NAMESPACE, "good");
    good["spec"]["paused"] = json!(true);
    stage.apply(&good).await?;
    let topic = manifest::topic(NAMESPACE, "good", "topic", &json!({"partitions": 3}));
    stage.apply(&topic).await?;

    // It never started: its class may still be mended.
    stage.apply(&with(&good, "/spec/pools/0/storage/storageClassName", &json!("other"))).await?;
    stage.apply(&good).await?;

    let clusters: [Case; 12] = [
        ("/spec/pools/0/storage/size", "a volume cannot shrink", json!("5Gi")),
        ("/spec/pools/0/storage/size", "at least 1Gi", json!("10M")),
        ("/spec/pools/0/storage/walVolume", "neither added nor taken away", json!({"size": "1Gi"})),
        ("/spec/pools/0/replicas", "less than or equal to 1", json!(2)),
        ("/spec/pools/0/firstBrokerId", "firstBrokerId cannot change", json!(7)),
        ("/spec/pools/1", "must have at most 1 item", json!({"name": "more", "storage": {"size": "1Gi"}})),
        ("/spec/defaultWalProfile", "defaultWalProfile must be", json!("nowhere")),
        ("/spec/walProfiles", "1 to 64 letters", json!({"no spaces": {"policy": "fixed"}})),
        ("/spec/config", "derives from other fields", json!({"chronik.data.dir": "/elsewhere"})),
        ("/spec/listeners/0/type", "must be of type internal", json!("nodeport")),
        ("/spec/listeners/1/port", "share a port", json!(9092)),
        ("/spec/nonsense", "unknown field", json!(true)),
    ];
    for (pointer, why, value) in &clusters {
        stage.refused(&with(&good, pointer, value), why).await?;
    }
    let topics: [Case; 4] = [
        ("/spec/partitions", "can only grow", json!(2)),
        ("/spec/topicName", "topicName cannot change", json!("another")),
        ("/spec/clusterRef/name", "clusterRef cannot change", json!("another")),
        ("/spec/config", "set by walProfile", json!({"chronik.wal.profile": "low"})),
    ];
    for (pointer, why, value) in &topics {
        stage.refused(&with(&topic, pointer, value), why).await?;
    }
    let mut named = manifest::cluster(NAMESPACE, "good");
    named["metadata"]["name"] = json!("a.name.with.dots");
    stage.refused(&named, "becomes part of DNS names").await?;

    // Good YAML is taken as if nothing had been.
    let grown = with(&good, "/spec/pools/0/storage/size", &json!("11Gi"));
    stage.apply(&grown).await?;
    stage.apply(&with(&topic, "/spec/partitions", &json!(4))).await?;
    figures.add(format!(
        "{} bad manifests refused, each in words that say why",
        clusters.len() + topics.len() + 1
    ));
    stage.clear(NAMESPACE).await
}

/// A manifest with one thing changed, or added at the end of a list.
fn with(manifest: &Value, pointer: &str, value: &Value) -> Value {
    let mut changed = manifest.clone();
    if let Some((parent, field)) = pointer.rsplit_once('/') {
        match changed.pointer_mut(parent) {
            Some(Value::Object(object)) => drop(object.insert(field.to_owned(), value.clone())),
            Some(Value::Array(list)) => list.push(value.clone()),
            _ => {}
        }
    }
    changed
}

/// So that a mistake in a pointer does not pass for a refusal of something else.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_reach_what_they_name() {
        let cluster = manifest::cluster("n", "c");
        let pool = with(&cluster, "/spec/pools/0/replicas", &json!(2));
        assert_eq!(pool["spec"]["pools"][0]["replicas"], json!(2));
        let pools = with(&cluster, "/spec/pools/1", &json!({"name": "more"}));
        assert_eq!(pools["spec"]["pools"][1]["name"], json!("more"));
        assert_ne!(with(&cluster, "/spec/nonsense", &json!(1)), cluster);
    }
}
