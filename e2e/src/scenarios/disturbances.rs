//! What happens to a broker in its life, under an open-loop load of 2,000 records a second whose every record is checked
//! afterwards: half of it from a pod through all of it, half of it from outside, anew for each disturbance.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::Figures;
use crate::bed::process::signal;
use crate::client::report::Report;
use crate::stage::api::{condition, text};
use crate::stage::load::Wanted;
use crate::stage::wait::{s, until};
use crate::stage::{BROKER_IMAGE, Stage, manifest};

const NAMESPACE: &str = "e2e-disturbances";
const CLUSTER: &str = "busy";
/// Records a second, of each of the two loads.
const RATE: u64 = 1000;
/// The node that the broker is on. The operator and the clients are on another.
const NODE: u32 = 2;
const OTHER_IMAGE: &str = "localhost/chronik-broker:dev2";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Config,
    Image,
    Request,
    Kill,
    Node,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Config, Kind::Image, Kind::Request, Kind::Kill, Kind::Node];

    fn name(self) -> &'static str {
        match self {
            Kind::Config => "configuration changed",
            Kind::Image => "image changed",
            Kind::Request => "restart requested",
            Kind::Kill => "pod killed",
            Kind::Node => "node killed",
        }
    }
}

pub async fn run(stage: &Stage, figures: &Figures) -> Result<()> {
    stage.operator().await?;
    stage.bed.tag_image(BROKER_IMAGE, OTHER_IMAGE)?;
    stage.namespace(NAMESPACE).await?;
    stage.volume(NODE).await?;
    stage.apply(&manifest::cluster(NAMESPACE, CLUSTER)).await?;
    for (name, profile) in [("inside", "high"), ("outside", "low")] {
        let spec = json!({"partitions": 3, "walProfile": profile});
        stage.apply(&manifest::topic(NAMESPACE, CLUSTER, name, &spec)).await?;
    }
    let cluster = stage.ready(NAMESPACE, CLUSTER, s(90)).await?;
    for name in ["inside", "outside"] {
        stage.topic_ready(NAMESPACE, name, s(30)).await?;
    }
    let inside = Wanted {
        bootstrap: stage.bootstrap(&cluster, "internal")?,
        topic: "inside".to_owned(),
        rate: RATE,
        acks: "all",
    };
    let inside = stage.load_inside(NAMESPACE, "inside", &inside).await?;
    let scene = Scene { stage, outside: stage.bootstrap(&cluster, "outside")? };

    figures.add(format!(
        "{:<22} {:<8} {:>8} {:>9} {:>8} {:>5} {:>4}  {}",
        "under 2,000 records/s",
        "operator",
        "Ready",
        "silence",
        "records",
        "lost",
        "dup",
        "errors that clients saw"
    ));
    for operator_dies in [false, true] {
        for kind in Kind::ALL {
            let (ready, report) = scene
                .disturb(kind, operator_dies)
                .await
                .with_context(|| format!("{}, operator killed: {operator_dies}", kind.name()))?;
            let operator = if operator_dies { "killed" } else { "runs" };
            figures.add(row(kind.name(), operator, &format!("{:.1} s", ready.as_secs_f64()), &report));
            ensure!(report.is_good(), "{}: {report}", kind.name());
        }
    }
    let report = inside.finish(stage).await?;
    figures.add(row("from inside, all of it", "", "", &report));
    ensure!(report.is_good(), "from inside: {report}");
    stage.clear(NAMESPACE).await
}

fn row(name: &str, operator: &str, ready: &str, report: &Report) -> String {
    let verdict = report.verdict.clone().unwrap_or_default();
    let errors: Vec<String> =
        report.errors.iter().map(|(name, seen)| format!("{} {name}", seen.count)).collect();
    format!(
        "{name:<22} {operator:<8} {ready:>8} {:>6} ms {:>8} {:>5} {:>4}  {}",
        report.longest_silence_ms,
        report.acknowledged,
        verdict.lost,
        verdict.duplicates,
        errors.join(", ")
    )
}

struct Scene<'a> {
    stage: &'a Stage,
    outside: String,
}

impl Scene<'_> {
    /// One disturbance with its own load; returns the time until everything is well again.
    async fn disturb(&self, kind: Kind, operator_dies: bool) -> Result<(Duration, Report)> {
        let acks = if operator_dies { "1" } else { "all" };
        let wanted =
            Wanted { bootstrap: self.outside.clone(), topic: "outside".to_owned(), rate: RATE, acks };
        let load = self.stage.load_outside(&format!("disturbance-{kind:?}-{operator_dies}"), &wanted).await?;
        self.records_flow().await.context("before")?;
        let before = self.stage.life(NAMESPACE, CLUSTER).await?;
        let begun = Instant::now();
        match kind {
            Kind::Config | Kind::Image | Kind::Request => self.change(kind, operator_dies, &before).await?,
            Kind::Kill => self.kill(operator_dies, &before).await?,
            Kind::Node => self.kill_node(operator_dies).await?,
        }
        self.stage.ready(NAMESPACE, CLUSTER, s(120)).await?;
        let ready = begun.elapsed();
        self.records_flow().await.context("afterwards")?;
        let report = load.finish().await?;
        if operator_dies {
            self.stage.operator_ready(s(60)).await?;
        }
        Ok((ready, report))
    }

    /// A change of the object that restarts the broker once, in another pod.
    async fn change(&self, kind: Kind, operator_dies: bool, before: &(String, i64)) -> Result<()> {
        let cluster = self.stage.api.get("chronikcluster", NAMESPACE, CLUSTER).await?;
        let spec = match kind {
            Kind::Config => {
                let idle = cluster["spec"]["config"]["connections.max.idle.ms"].as_str().unwrap_or("600000");
                let idle: u64 = idle.parse()?;
                json!({"config": {"connections.max.idle.ms": (idle + 1000).to_string()}})
            }
            Kind::Image => {
                let other = text(&cluster, "/spec/image") != OTHER_IMAGE;
                json!({"image": if other { OTHER_IMAGE } else { BROKER_IMAGE }})
            }
            Kind::Request => json!({"restart": {"requestedAt": self.now().await?}}),
            Kind::Kill | Kind::Node => bail!("{kind:?} changes no object"),
        };
        self.patch(&json!({"spec": spec})).await?;
        if operator_dies {
            until("the restart begins", s(30), || async {
                let cluster = self.stage.api.get("chronikcluster", NAMESPACE, CLUSTER).await?;
                let pod = self.stage.broker_pod(NAMESPACE, CLUSTER).await;
                let goes = pod.map_or(true, |pod| pod["metadata"]["deletionTimestamp"].is_string());
                ensure!(goes || cluster["status"]["operation"].is_object(), "nothing is under way");
                Ok(())
            })
            .await?;
            self.stage.kill_operator().await?;
        }
        until("another pod", s(120), || async {
            let (uid, _) = self.stage.life(NAMESPACE, CLUSTER).await?;
            ensure!(uid != before.0, "still the pod of before");
            Ok(())
        })
        .await?;
        if kind == Kind::Image {
            let pod = self.stage.broker_pod(NAMESPACE, CLUSTER).await?;
            let cluster = self.stage.api.get("chronikcluster", NAMESPACE, CLUSTER).await?;
            let (is, wanted) = (text(&pod, "/spec/containers/0/image"), text(&cluster, "/spec/image"));
            ensure!(is == wanted, "the new pod has the image {is}, not {wanted}");
        }
        Ok(())
    }

    /// SIGKILL for every process of the pod's container.
    async fn kill(&self, operator_dies: bool, before: &(String, i64)) -> Result<()> {
        let processes = self.stage.bed.processes_of_pod(&before.0);
        ensure!(!processes.is_empty(), "no process of the pod {} is there", before.0);
        processes.into_iter().for_each(|pid| signal(pid, Signal::KILL));
        if operator_dies {
            self.stage.kill_operator().await?;
        }
        until("the container started again", s(60), || async {
            let life = self.stage.life(NAMESPACE, CLUSTER).await?;
            ensure!(life != *before, "not yet");
            Ok(())
        })
        .await?;
        self.pod_ready(s(60)).await
    }

    /// The node dies, is noticed, and comes back.
    async fn kill_node(&self, operator_dies: bool) -> Result<()> {
        let node = format!("n{NODE}");
        self.stage.nodes.expect(&node);
        tokio::task::block_in_place(|| self.stage.bed.kill_node(NODE))?;
        if operator_dies {
            self.stage.kill_operator().await?;
        }
        until(format!("{node} not ready"), s(60), || async {
            let node = self.stage.api.get("node", "", &node).await?;
            ensure!(condition(&node, "Ready").status != "True", "still ready");
            Ok(())
        })
        .await?;
        until("the cluster not Ready", s(60), || async {
            let cluster = self.stage.api.get("chronikcluster", NAMESPACE, CLUSTER).await?;
            ensure!(
                condition(&cluster, "Ready").status == "False",
                "Ready is {}",
                condition(&cluster, "Ready")
            );
            Ok(())
        })
        .await?;
        // It takes longest. In the short run it is shown once.
        if self.stage.full || !operator_dies {
            until("Kubernetes evicts the pod", s(60), || async {
                let pod = self.stage.broker_pod(NAMESPACE, CLUSTER).await?;
                ensure!(pod["metadata"]["deletionTimestamp"].is_string(), "not yet");
                Ok(())
            })
            .await?;
        }
        let claim = self.stage.api.get("pvc", NAMESPACE, &format!("data-{CLUSTER}-main-0")).await?;
        ensure!(claim["metadata"]["deletionTimestamp"].is_null(), "the volume's claim is being deleted");
        tokio::task::block_in_place(|| self.stage.bed.start_node(NODE))?;
        until(format!("{node} ready"), s(90), || async {
            let node = self.stage.api.get("node", "", &node).await?;
            ensure!(condition(&node, "Ready").status == "True", "not yet");
            Ok(())
        })
        .await?;
        self.stage.nodes.settled(&node);
        self.pod_ready(s(120)).await
    }

    async fn pod_ready(&self, limit: Duration) -> Result<()> {
        until("the broker's pod ready", limit, || async {
            let pod = self.stage.broker_pod(NAMESPACE, CLUSTER).await?;
            ensure!(condition(&pod, "Ready").status == "True", "Ready is {}", condition(&pod, "Ready"));
            Ok(())
        })
        .await
    }

    /// The broker takes records of both loads: two more seconds of them.
    async fn records_flow(&self) -> Result<()> {
        let appended = |profile: &'static str| async move {
            let metrics = self.stage.broker_metrics(NAMESPACE, CLUSTER).await?;
            anyhow::Ok(metrics.sum("chronik_wal_appended_records_total", &[("profile", profile)]))
        };
        for profile in ["high", "low"] {
            let at_first = until("metrics", s(20), || appended(profile)).await?;
            until(format!("records of profile {profile}"), s(60), || async {
                let more = appended(profile).await? - at_first;
                ensure!(more >= RATE as f64, "{more} more records than before");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    async fn patch(&self, patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        let args = ["-n", NAMESPACE, "patch", "chronikcluster", CLUSTER, "--type=merge", "-p", &patch];
        self.stage.kubectl(&args).await.map(|_| ())
    }

    /// Now, as Kubernetes writes it.
    async fn now(&self) -> Result<String> {
        let output =
            tokio::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().await?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}
