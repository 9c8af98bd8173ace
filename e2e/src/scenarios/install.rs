//! Both charts by helm, a cluster on a local volume, and clients on both sides.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;

use super::Figures;
use crate::stage::api::{number, text};
use crate::stage::wait::s;
use crate::stage::{OPERATOR, SYSTEM, Stage, kafka, took};

const NAMESPACE: &str = "e2e-install";

pub async fn run(stage: &Stage, figures: &Figures) -> Result<()> {
    if stage.api.find("deployment", SYSTEM, OPERATOR).await?.is_none() {
        let begun = Instant::now();
        stage.operator().await?;
        figures.add(format!("operator: from helm install to ready {}", took(begun)));
    }
    stage.namespace(NAMESPACE).await?;
    stage.volume(2).await?;
    let values = json!({
        "storage": {"storageClassName": "local"},
        "listeners": [
            {"name": "internal", "port": 9092, "type": "internal"},
            {"name": "outside", "port": 9094, "type": "nodeport"},
        ],
        "topics": {"orders": {"partitions": 3, "walProfile": "low"}},
    });
    let file = stage.out.join("install-values.json");
    std::fs::write(&file, values.to_string())?;
    let chart = stage.root.join("charts/chronik-cluster").display().to_string();
    let file = file.display().to_string();
    let install = ["upgrade", "--install", "first", &chart, "-n", NAMESPACE, "-f", &file];

    let begun = Instant::now();
    stage.helm(&install).await?;
    let applied = Instant::now();
    let cluster = stage.ready(NAMESPACE, "first", s(90)).await?;
    figures.add(format!(
        "cluster: from apply to Ready {} (helm install itself {:.1} s)",
        took(applied),
        (applied - begun).as_secs_f64()
    ));

    let claim = stage.api.get("pvc", NAMESPACE, "data-first-main-0").await?;
    let volume = stage.api.get("pv", "", text(&claim, "/spec/volumeName")).await?;
    ensure!(volume["spec"]["local"]["path"].is_string(), "not on a local volume: {}", volume["spec"]);
    ensure!(text(&cluster, "/status/clusterId").len() == 22, "cluster id {}", cluster["status"]["clusterId"]);
    let broker = &cluster["status"]["brokers"][0];
    ensure!(text(broker, "/node") == "n2" && text(broker, "/phase") == "Ready", "broker status {broker}");
    ensure!(!text(broker, "/diskUUID").is_empty(), "no disk UUID in {broker}");
    let topic = format!("{}-orders", "first");
    let topic = stage.topic_ready(NAMESPACE, &topic, s(30)).await?;
    ensure!(number(&topic, "/status/partitions") == 3, "topic status {}", topic["status"]);
    figures.add(format!("WAL engine {}", text(&cluster, "/status/walEngine")));

    clients(stage, &cluster, figures).await?;

    let begun = Instant::now();
    stage.helm(&["test", "first", "-n", NAMESPACE, "--timeout", "120s"]).await?;
    figures.add(format!("helm test passed in {}", took(begun)));

    let life = stage.life(NAMESPACE, "first").await?;
    stage.helm(&install).await?;
    stage.ready(NAMESPACE, "first", s(30)).await?;
    ensure!(
        stage.life(NAMESPACE, "first").await? == life,
        "helm upgrade with the same values restarted the broker"
    );
    stage.clear(NAMESPACE).await
}

/// Inside through the bootstrap Service, and outside through a node port, each as the status tells it.
async fn clients(stage: &Stage, cluster: &serde_json::Value, figures: &Figures) -> Result<()> {
    let inside = stage.bootstrap(cluster, "internal")?;
    ensure!(inside.starts_with("first-bootstrap.e2e-install.svc"), "internal bootstrap {inside}");
    let begun = Instant::now();
    let smoke = ["produce-consume", "--bootstrap", &inside, "--topic", "smoke-inside"];
    stage.client_in_pod(NAMESPACE, "smoke", &smoke).await?;
    figures.add(format!("client inside, by {inside}: written and read back ({} with its pod)", took(begun)));

    let outside = stage.bootstrap(cluster, "outside")?;
    crate::client::smoke::produce_consume(&outside, "smoke-outside", 100, s(10)).await?;
    figures.add(format!("client outside, by {outside}: written and read back"));

    let seen = kafka::connect(&outside).await?.cluster(Some(&[])).await?;
    let broker = seen.brokers.get(&0);
    let broker = broker.ok_or_else(|| anyhow::anyhow!("no broker 0 in {seen:?}"))?;
    let node = stage.bed.address(2);
    ensure!(
        broker.address.starts_with(&format!("{node}:")),
        "outside clients are sent to {}",
        broker.address
    );
    ensure!(broker.rack.as_deref() == Some("z2"), "rack {:?} instead of the node's zone", broker.rack);
    Ok(())
}
