//! A container whose seccomp profile denies io_uring, as those of newer container runtimes do.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Figures;
use crate::stage::api::{condition, number, text};
use crate::stage::wait::{s, until};
use crate::stage::{Stage, kafka, manifest};

const NAMESPACE: &str = "e2e-seccomp";
/// Below the kubelet's seccomp directory.
const PROFILE: &str = "chronik-e2e/no-io-uring.json";
const CLUSTER: &str = "guarded";
/// Where the chart's installer runs, and what it installs.
const INSTALLER: &str = "chronik-seccomp";
const CHART_PROFILE: &str = "chronik/io-uring.json";

pub async fn run(stage: &Stage, figures: &Figures) -> Result<()> {
    stage.operator().await?;
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{
            "names": ["io_uring_setup", "io_uring_enter", "io_uring_register"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
        }],
    });
    stage.bed.seccomp_profile(PROFILE, &profile.to_string())?;
    stage.namespace(NAMESPACE).await?;
    stage.volume(2).await?;
    let mut cluster = manifest::cluster(NAMESPACE, CLUSTER);
    cluster["spec"]["io"] = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": PROFILE}});
    stage.apply(&cluster).await?;
    let ready = stage.ready(NAMESPACE, CLUSTER, s(90)).await?;
    engine_is(stage, "pwrite", "Pwrite", figures).await?;
    let bootstrap = stage.bootstrap(&ready, "outside")?;
    kafka::create_topic(&bootstrap, "guarded", 1).await?;
    kafka::produce(&bootstrap, "guarded", 5).await?;

    // Told that it must use io_uring, it does not start, and says why.
    cluster["spec"]["io"]["engine"] = json!("Required");
    stage.apply(&cluster).await?;
    let unavailable = until("the WAL engine unavailable, and not Ready", s(90), || async {
        let cluster = stage.api.get("chronikcluster", NAMESPACE, CLUSTER).await?;
        let (engine, ready) = (condition(&cluster, "WalEngine"), condition(&cluster, "Ready"));
        ensure!(engine.status == "False" && engine.reason == "Unavailable", "WalEngine is {engine}");
        ensure!(ready.status == "False", "Ready is {ready}");
        ensure!(
            format!("{engine} {ready}").contains("io_uring"),
            "neither {engine} nor {ready} names io_uring"
        );
        Ok(format!("WalEngine {engine}; Ready {ready}"))
    })
    .await?;
    figures.add(format!("engine Required: {}", unavailable.lines().next().unwrap_or_default()));

    // Mended by the profile that the chart brings, which its installer has put on the nodes.
    install_profile(stage).await?;
    cluster["spec"]["io"]["seccompProfile"]["localhostProfile"] = json!(CHART_PROFILE);
    stage.apply(&cluster).await?;
    stage.ready(NAMESPACE, CLUSTER, s(90)).await?;
    engine_is(stage, "io_uring", "IoUring", figures).await?;
    kafka::produce(&bootstrap, "guarded", 5).await?;
    stage.clear(NAMESPACE).await
}

/// The chart's DaemonSet copies its profile to every node.
async fn install_profile(stage: &Stage) -> Result<()> {
    stage.install_operator_with(&["--set", "seccompInstaller.enabled=true"]).await?;
    until("the profile on every node", s(60), || async {
        let sets = stage.api.list("daemonset", INSTALLER, None).await?;
        let set = sets.first().context("no DaemonSet")?;
        let [wanted, ready] =
            ["/status/desiredNumberScheduled", "/status/numberReady"].map(|count| number(set, count));
        ensure!(wanted == i64::from(stage.bed.nodes()) && ready == wanted, "{ready} of {wanted} ready");
        Ok(())
    })
    .await?;
    // The profile stays on the nodes when its installer goes, and the namespace with it.
    stage.install_operator().await?;
    stage.gone("", "namespace", INSTALLER, s(60)).await
}

/// Status, condition and metrics agree.
async fn engine_is(stage: &Stage, engine: &str, reason: &str, figures: &Figures) -> Result<()> {
    let cluster = stage.expect(NAMESPACE, CLUSTER, "WalEngine", "True", reason, s(30)).await?;
    let status = [text(&cluster, "/status/walEngine"), text(&cluster, "/status/brokers/0/walEngine")];
    ensure!(status == [engine, engine], "status says {status:?}");
    let metrics = stage.broker_metrics(NAMESPACE, CLUSTER).await?;
    ensure!(metrics.has("chronik_wal_engine_info", &[("engine", engine)]), "not so in the metrics");
    let identity = stage.broker_page(NAMESPACE, CLUSTER, "/v1/identity").await?;
    ensure!(text(&identity, "/walEngine") == engine, "identity {identity}");
    figures.add(format!("Ready on {engine}: {}", text(&identity, "/walEngineReason")));
    Ok(())
}
