//! WAL profiles: of topics, and their definitions, changed while the broker runs. What is changed shows in the broker's
//! own metrics and in the time a record takes; a second cluster notices nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Figures;
use crate::stage::api::{condition, text};
use crate::stage::metrics::Metrics;
use crate::stage::wait::{s, until};
use crate::stage::{Stage, kafka, manifest};

const NAMESPACE: &str = "e2e-profiles";
const OTHER: &str = "e2e-profiles-other";
/// Records written to a topic to see how it behaves.
const RECORDS: usize = 5;
/// A record of a profile that waits 300 ms takes longer than this, and any other's less.
const BETWEEN: Duration = Duration::from_millis(120);

fn patient() -> Value {
    json!({"policy": "fixed", "maxDelayUs": 300_000})
}

fn cluster(namespace: &str) -> Value {
    let mut cluster = manifest::cluster(namespace, "one");
    cluster["spec"]["walProfiles"] = json!({"steady": patient()});
    cluster
}

pub async fn run(stage: &Stage, figures: &Figures) -> Result<()> {
    stage.operator().await?;
    for namespace in [NAMESPACE, OTHER] {
        stage.namespace(namespace).await?;
        stage.volume(2).await?;
        stage.apply(&cluster(namespace)).await?;
        for (name, profile) in [("low", "low"), ("high", "high"), ("steady", "steady")] {
            stage.apply(&manifest::topic(namespace, "one", name, &json!({"walProfile": profile}))).await?;
        }
        stage.apply(&manifest::topic(namespace, "one", "plain", &json!({}))).await?;
    }
    let mut bootstraps = Vec::new();
    for namespace in [NAMESPACE, OTHER] {
        let ready = stage.ready(namespace, "one", s(90)).await?;
        for name in ["low", "high", "steady", "plain"] {
            let topic = stage.topic_ready(namespace, name, s(30)).await?;
            let expected = if name == "plain" { "high" } else { name };
            ensure!(text(&topic, "/status/walProfile") == expected, "{name}: status {}", topic["status"]);
        }
        bootstraps.push(stage.bootstrap(&ready, "outside")?);
    }
    let bootstrap = &bootstraps[0];
    kafka::produce(&bootstraps[1], "steady", 1).await?;
    let life = stage.life(NAMESPACE, "one").await?;
    let other = (stage.life(OTHER, "one").await?, unmoved(&stage.broker_metrics(OTHER, "one").await?));

    let look = Look { stage, bootstrap };
    for (topic, profile, waits) in
        [("low", "low", false), ("high", "high", false), ("steady", "steady", true)]
    {
        look.behaves(topic, profile, waits).await?;
    }

    // A topic's profile.
    let steady = json!({"walProfile": "steady"});
    stage.apply(&manifest::topic(NAMESPACE, "one", "high", &steady)).await?;
    stage.topic_ready(NAMESPACE, "high", s(30)).await?;
    let slow = look.behaves("high", "steady", true).await?;

    // A profile's definition.
    let mut changed = cluster(NAMESPACE);
    changed["spec"]["walProfiles"] = json!({"steady": {"policy": "pipelined"}});
    stage.apply(&changed).await?;
    stage.ready(NAMESPACE, "one", s(30)).await?;
    let quick = look.behaves("high", "steady", false).await?;
    figures.add(format!(
        "a record of profile steady: {:.0} ms with fixed 300 ms, {:.1} ms as pipelined",
        slow.as_secs_f64() * 1e3,
        quick.as_secs_f64() * 1e3
    ));

    // The default, for a topic that names none.
    look.behaves("plain", "high", false).await?;
    changed["spec"]["defaultWalProfile"] = json!("steady");
    stage.apply(&changed).await?;
    stage.ready(NAMESPACE, "one", s(30)).await?;
    look.behaves("plain", "steady", false).await?;

    in_use(stage, changed).await?;

    ensure!(stage.life(NAMESPACE, "one").await? == life, "the broker was restarted");
    let after = (stage.life(OTHER, "one").await?, unmoved(&stage.broker_metrics(OTHER, "one").await?));
    ensure!(after == other, "the other cluster noticed: {other:?} became {after:?}");
    kafka::produce(&bootstraps[1], "steady", 1).await?;
    figures.add("no restart; the other cluster's pod, metadata and profiles are as they were");
    for namespace in [NAMESPACE, OTHER] {
        stage.clear(namespace).await?;
    }
    Ok(())
}

/// A profile that topics use cannot be removed: a condition says so, until none uses it any more.
async fn in_use(stage: &Stage, mut changed: Value) -> Result<()> {
    let spec = changed["spec"].as_object_mut().context("a cluster without spec")?;
    spec.remove("walProfiles");
    spec.remove("defaultWalProfile");
    stage.apply(&changed).await?;
    until("ConfigApplied False, naming the profile", s(30), || async {
        let cluster = stage.api.get("chronikcluster", NAMESPACE, "one").await?;
        let applied = condition(&cluster, "ConfigApplied");
        ensure!(
            applied.status == "False" && applied.message.contains("steady"),
            "ConfigApplied is {applied}"
        );
        Ok(())
    })
    .await?;
    for name in ["high", "steady"] {
        stage.apply(&manifest::topic(NAMESPACE, "one", name, &json!({"walProfile": "low"}))).await?;
    }
    until("ConfigApplied True", s(60), || async {
        let cluster = stage.api.get("chronikcluster", NAMESPACE, "one").await?;
        let applied = condition(&cluster, "ConfigApplied");
        ensure!(applied.status == "True", "ConfigApplied is {applied}");
        Ok(())
    })
    .await
}

/// What would move in a broker's metrics if anything was changed in its cluster.
fn unmoved(metrics: &Metrics) -> [f64; 3] {
    ["chronik_metadata_offset", "chronik_topics", "chronik_wal_appended_records_total"]
        .map(|name| metrics.sum(name, &[]))
}

struct Look<'a> {
    stage: &'a Stage,
    bootstrap: &'a str,
}

impl Look<'_> {
    /// Writes to a topic. The records must be counted under `profile`, and must wait as it says; returns how long one
    /// took.
    async fn behaves(&self, topic: &str, profile: &str, waits: bool) -> Result<Duration> {
        let labels = [("profile", profile)];
        let queue = [("profile", profile), ("stage", "queue")];
        let read = |metrics: &Metrics| {
            (
                metrics.sum("chronik_wal_appended_records_total", &labels),
                metrics.sum("chronik_produce_stage_seconds_sum", &queue),
                metrics.sum("chronik_produce_stage_seconds_count", &queue),
            )
        };
        let before = read(&self.stage.broker_metrics(NAMESPACE, "one").await?);
        let time = kafka::median(&kafka::produce(self.bootstrap, topic, RECORDS).await?);
        let after = read(&self.stage.broker_metrics(NAMESPACE, "one").await?);
        let appended = after.0 - before.0;
        ensure!(
            appended == RECORDS as f64,
            "{RECORDS} records to {topic}, {appended} counted for profile {profile}"
        );
        let waited = (after.1 - before.1) / (after.2 - before.2).max(1.0);
        let between = BETWEEN.as_secs_f64();
        ensure!(
            (waited > between) == waits,
            "{topic}: records of profile {profile} waited {waited:.3} s by the metrics"
        );
        ensure!((time > BETWEEN) == waits, "{topic}: a record of profile {profile} took {time:?}");
        Ok(time)
    }
}
