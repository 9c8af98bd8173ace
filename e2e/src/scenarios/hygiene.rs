//! Examples that the API server takes, pods that `restricted` allows, what idling costs, and names of metrics.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::Figures;
use crate::bed::process::output;
use crate::stage::api::{number, text};
use crate::stage::metrics::Metrics;
use crate::stage::wait::{s, until};
use crate::stage::{SYSTEM, Stage, kafka, manifest};

const NAMESPACE: &str = "e2e-hygiene";
const CLUSTER: &str = "idle";
/// The working set of an idle operator or broker, which counts what the kernel caches for it too.
const IDLE_MEBIBYTES_MAX: f64 = 128.0;
/// What an idle one uses of a processor. It probes and is probed, and looks at its objects every 10 s.
const IDLE_PROCESSOR_MAX: f64 = 0.1;

pub async fn run(stage: &Stage, figures: &Figures) -> Result<()> {
    stage.operator().await?;
    stage.namespace(NAMESPACE).await?;
    stage.volume(2).await?;
    stage.apply(&manifest::cluster(NAMESPACE, CLUSTER)).await?;
    stage.ready(NAMESPACE, CLUSTER, s(90)).await?;
    let operator = stage.operator_pods().await?;
    let operator = operator.first().context("no operator")?;
    let watched = [
        ("operator, idle", 1, SYSTEM, text(operator, "/metadata/name").to_owned()),
        ("broker, idle", 2, NAMESPACE, format!("{CLUSTER}-main-0")),
    ];
    // The examples are only looked at by the API server: the operator and the broker stay idle.
    let mut at_first = Vec::new();
    for (_, node, namespace, pod) in &watched {
        at_first.push(cost(stage, *node, namespace, pod, None).await?);
    }
    examples(stage, figures).await?;
    charts(stage, figures).await?;
    restricted(stage, figures).await?;
    for ((what, node, namespace, pod), before) in watched.iter().zip(&at_first) {
        // The kubelet looks every 10 s or so: the two figures must be of different looks.
        let after = cost(stage, *node, namespace, pod, Some(before)).await?;
        let seconds = after.seen.duration_since(before.seen).as_secs_f64();
        let processor = (after.cpu_ns - before.cpu_ns) as f64 / 1e9 / seconds;
        let mebibytes = after.memory_bytes as f64 / f64::from(1 << 20);
        figures.add(format!("{what}: {mebibytes:.0} MiB, {:.1} % of a processor", processor * 100.0));
        ensure!(
            mebibytes < IDLE_MEBIBYTES_MAX && processor < IDLE_PROCESSOR_MAX,
            "{what}: more than {IDLE_MEBIBYTES_MAX} MiB or {IDLE_PROCESSOR_MAX} of a processor"
        );
    }
    metrics(stage, operator, figures).await?;
    stage.clear(NAMESPACE).await
}

struct Cost {
    seen: Timestamp,
    cpu_ns: i64,
    memory_bytes: i64,
}

/// What the kubelet says of a pod; with `before`, as of a later look than that.
async fn cost(stage: &Stage, node: u32, namespace: &str, pod: &str, before: Option<&Cost>) -> Result<Cost> {
    let path = format!("/api/v1/nodes/n{node}/proxy/stats/summary");
    until(format!("figures of {namespace}/{pod}"), s(60), || async {
        let summary: Value = serde_json::from_str(&stage.kubectl(&["get", "--raw", &path]).await?)?;
        let pods = summary["pods"].as_array().into_iter().flatten();
        let of = |of: &&Value| text(of, "/podRef/namespace") == namespace && text(of, "/podRef/name") == pod;
        let container = pods.into_iter().find(of).and_then(|pod| pod["containers"].get(0));
        let container = container.context("the kubelet does not know it yet")?;
        let cost = Cost {
            seen: text(container, "/cpu/time").parse().context("the time of a look")?,
            cpu_ns: number(container, "/cpu/usageCoreNanoSeconds"),
            memory_bytes: number(container, "/memory/workingSetBytes"),
        };
        ensure!(cost.cpu_ns > 0 && cost.memory_bytes > 0, "no figures yet: {container}");
        ensure!(before.is_none_or(|before| before.seen != cost.seen), "no new figures yet");
        Ok(cost)
    })
    .await
}

/// Every file in `examples/` as the API server would take it.
async fn examples(stage: &Stage, figures: &Figures) -> Result<()> {
    let mut files = Vec::new();
    let mut dirs = vec![stage.root.join("examples")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() => dirs.push(path),
                Some("yaml" | "yml") => files.push(path),
                _ => {}
            }
        }
    }
    ensure!(!files.is_empty(), "there are no examples");
    files.sort();
    // An example may name a namespace of its own: it is made for the moment.
    let mut made = Vec::new();
    for file in &files {
        for name in namespaces(file)? {
            if stage.api.find("namespace", "", &name).await?.is_none() {
                stage.namespace(&name).await?;
                made.push(name);
            }
        }
        let shown = file.display().to_string();
        stage.kubectl(&["apply", "--dry-run=server", "-n", &namespace_of(file)?, "-f", &shown]).await?;
    }
    for name in made {
        stage.kubectl(&["delete", "namespace", &name, "--wait=false"]).await?;
    }
    figures.add(format!("{} examples pass --dry-run=server", files.len()));
    Ok(())
}

/// What the charts make of values that no other scenario sets, as the API server would take it.
async fn charts(stage: &Stage, figures: &Figures) -> Result<()> {
    // Kinds of the Prometheus operator, as far as it matters here.
    for (kind, plural) in [("ServiceMonitor", "servicemonitors"), ("PrometheusRule", "prometheusrules")] {
        stage.apply(&manifest::any_kind("monitoring.coreos.com", kind, plural)).await?;
    }
    let secrets = json!([{"name": "registry"}]);
    let digest = format!("sha256:{}", "0".repeat(64));
    let renderings = [
        (
            "chronik-operator",
            json!({"watchNamespaces": [NAMESPACE], "replicaCount": 2, "imagePullSecrets": secrets,
                "image": {"digest": digest}, "brokerImage": {"digest": digest}}),
        ),
        (
            "chronik-operator",
            json!({"commonLabels": {"team": "kafka"}, "metrics": {"serviceMonitor": {"enabled": true},
                "prometheusRule": {"enabled": true}, "dashboard": {"enabled": true}}}),
        ),
        (
            "chronik-operator",
            json!({"seccompInstaller": {"enabled": true, "createNamespace": false, "namespace": "default",
                "imagePullSecrets": secrets}}),
        ),
        (
            "chronik-operator",
            json!({"serviceAccount": {"create": false, "name": "default"}, "rbac": {"create": false},
                "crds": {"install": false}, "priorityClassName": "123"}),
        ),
        (
            "chronik-cluster",
            json!({"name": "true", "pool": {"name": "on", "priorityClassName": "123", "nodeSelector": {"disk": "nvme"}},
                "storage": {"storageClassName": "123", "walVolume": {"enabled": true}}, "imagePullSecrets": secrets,
                "image": {"repository": "r", "digest": digest},
                "io": {"seccompProfile": {"type": "Localhost", "localhostProfile": "chronik/io-uring.json"}}}),
        ),
        (
            "chronik-cluster",
            json!({"restart": {"requestedAt": "2026-01-01T00:00:00Z"}, "config": {"num.partitions": "3"},
                "walProfiles": {"bulk": {"policy": "hybrid"}}, "defaultWalProfile": "bulk",
                "networkPolicy": {"metricsFrom": {"team": "kafka"}},
                "topics": {"orders": {"partitions": 3, "config": {"segment.bytes": "2097152"}}},
                "listeners": [{"name": "internal", "port": 9092, "type": "internal"},
                    {"name": "outside", "port": 9094, "type": "nodeport"}]}),
        ),
    ];
    let file = stage.out.join("values.json");
    let mut objects = 0;
    for (chart, values) in renderings {
        std::fs::write(&file, values.to_string())?;
        let path = stage.root.join("charts").join(chart).display().to_string();
        let args = ["template", "shown", &path, "-n", NAMESPACE, "-f", &file.display().to_string()];
        let rendered = stage.helm(&args).await?;
        objects += rendered.lines().filter(|line| line.starts_with("kind: ")).count();
        stage.takes(&rendered).await.with_context(|| format!("{chart} with {values}"))?;
    }
    figures.add(format!("{objects} objects of six renderings of the charts pass --dry-run=server"));
    Ok(())
}

/// The namespaces that a manifest names.
fn namespaces(file: &PathBuf) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let named = text.lines().filter_map(|line| line.trim().strip_prefix("namespace: "));
    let mut names: Vec<String> = named.map(|name| name.trim().trim_matches('"').to_owned()).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// kubectl takes only manifests of the namespace it is told; one that names none gets ours.
fn namespace_of(file: &PathBuf) -> Result<String> {
    Ok(namespaces(file)?.into_iter().next().unwrap_or_else(|| NAMESPACE.to_owned()))
}

/// All pods so far ran in namespaces that demand `restricted`; here is that these do.
async fn restricted(stage: &Stage, figures: &Figures) -> Result<()> {
    for name in [SYSTEM, NAMESPACE] {
        let namespace = stage.api.get("namespace", "", name).await?;
        let enforced = &namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
        ensure!(enforced == "restricted", "{name} enforces {enforced}");
        ensure!(!stage.api.list("pod", name, None).await?.is_empty(), "{name} has no pods");
    }
    figures.add("operator, brokers and clients run where `restricted` is enforced");
    Ok(())
}

/// What charts and dashboards name must be in what the programs expose: the charts' own check, with live metrics.
async fn metrics(stage: &Stage, operator: &Value, figures: &Figures) -> Result<()> {
    // Some names are there only once something has been counted: records, and errors.
    let cluster = stage.api.get("chronikcluster", NAMESPACE, CLUSTER).await?;
    let outside = stage.bootstrap(&cluster, "outside")?;
    crate::client::smoke::produce_consume(&outside, "measured", 100, s(10)).await?;
    ensure!(kafka::setting(&outside, "nowhere", "segment.bytes").await.is_err(), "a topic that nobody made");
    let broker = stage.broker_metrics(NAMESPACE, CLUSTER).await?;
    let operator = Metrics::fetch(&format!("{}:8080", text(operator, "/status/podIP"))).await?;
    ensure!(operator.sum("chronik_operator_leader", &[]) == 1.0, "the one operator does not lead");
    let files = [("live-broker", &broker), ("live-operator", &operator)];
    for (name, metrics) in files {
        std::fs::write(stage.out.join(name), &metrics.text)?;
    }
    let Some(xtask) = std::env::var_os("CHRONIK_XTASK") else {
        figures.add("names of metrics: not checked, since `cargo xtask e2e` was not what ran this");
        return Ok(());
    };
    let mut check = Command::new(xtask);
    check.current_dir(&stage.root).args(["charts", "--check"]);
    for (name, _) in files {
        check.arg(format!("--{name}")).arg(stage.out.join(name));
    }
    tokio::task::block_in_place(|| output(&mut check)).context("names of metrics")?;
    figures.add("names of metrics in charts and documents are those that the live programs expose");
    Ok(())
}
