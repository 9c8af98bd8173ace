//! Mistakes that only show when they are tried: each becomes a condition that says what is wrong, leaves a running broker
//! alone where it can, and is mended by applying good YAML.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Figures;
use crate::stage::api::condition;
use crate::stage::wait::{s, until};
use crate::stage::{Stage, kafka, manifest};

const NAMESPACE: &str = "e2e-mending";
const CLUSTER: &str = "fine";

pub async fn run(stage: &Stage, figures: &Figures) -> Result<()> {
    stage.operator().await?;
    stage.namespace(NAMESPACE).await?;
    let good = manifest::cluster(NAMESPACE, CLUSTER);
    stage.volume(2).await?;
    stage.apply(&good).await?;
    let scene = Scene { stage, figures, good };
    scene.before_its_cluster().await?;
    let ready = stage.ready(NAMESPACE, CLUSTER, s(90)).await?;
    kafka::create_topic(&stage.bootstrap(&ready, "outside")?, "served", 1).await?;
    scene.unknown_profile().await?;
    scene.bad_configuration().await?;
    scene.bad_live_configuration().await?;
    scene.taken_node_port().await?;
    scene.another_port().await?;
    scene.missing_image().await?;
    scene.bad_from_the_start().await?;
    scene.the_late_cluster().await?;
    stage.clear(NAMESPACE).await
}

struct Scene<'a> {
    stage: &'a Stage,
    figures: &'a Figures,
    good: Value,
}

impl Scene<'_> {
    async fn unknown_profile(&self) -> Result<()> {
        // A topic that stays would keep its profile in use.
        let spec = json!({"walProfile": "mine", "deletionPolicy": "Delete"});
        let topic = manifest::topic(NAMESPACE, CLUSTER, "profiled", &spec);
        self.stage.apply(&topic).await?;
        let refused = self.stage.topic_refused(NAMESPACE, "profiled", "UnknownWalProfile", s(30)).await?;
        self.said("unknown profile", &refused);
        let mut mended = self.good.clone();
        mended["spec"]["walProfiles"] = json!({"mine": {"policy": "pipelined"}});
        self.stage.apply(&mended).await?;
        self.stage.topic_ready(NAMESPACE, "profiled", s(60)).await?;
        // It goes before its profile does.
        self.stage.delete(NAMESPACE, "chroniktopic", "profiled", s(30)).await?;
        Ok(())
    }

    /// A static setting that the broker would refuse to start with never reaches it.
    async fn bad_configuration(&self) -> Result<()> {
        let before = self.stage.life(NAMESPACE, CLUSTER).await?;
        let mut bad = self.good.clone();
        bad["spec"]["config"] = json!({"num.partitions": "many"});
        self.stage.apply(&bad).await?;
        let refused = self.reason("InvalidConfig", "num.partitions").await?;
        self.figures.add(format!("bad configuration: {refused}"));
        self.serves(&before).await?;
        self.stage.apply(&self.good).await?;
        self.stage.ready(NAMESPACE, CLUSTER, s(60)).await?;
        self.serves(&before).await
    }

    async fn bad_live_configuration(&self) -> Result<()> {
        let before = self.stage.life(NAMESPACE, CLUSTER).await?;
        let mut bad = self.good.clone();
        bad["spec"]["config"] = json!({"log.retention.ms": "soon"});
        self.stage.apply(&bad).await?;
        until("ConfigApplied False", s(30), || async {
            let cluster = self.stage.api.get("chronikcluster", NAMESPACE, CLUSTER).await?;
            let applied = condition(&cluster, "ConfigApplied");
            ensure!(
                applied.status == "False" && applied.message.contains("log.retention.ms"),
                "it is {applied}"
            );
            self.figures.add(format!("bad live setting: {}", short(&applied.message)));
            Ok(())
        })
        .await?;
        self.serves(&before).await?;
        self.stage.apply(&self.good).await?;
        self.stage.expect(NAMESPACE, CLUSTER, "ConfigApplied", "True", "Applied", s(30)).await.map(|_| ())
    }

    /// A Service that Kubernetes refuses leaves the broker as it is.
    async fn taken_node_port(&self) -> Result<()> {
        let before = self.stage.life(NAMESPACE, CLUSTER).await?;
        let mut bad = self.good.clone();
        let more = json!({"name": "more", "port": 9096, "type": "nodeport", "firstNodePort": 9100});
        bad["spec"]["listeners"].as_array_mut().context("no listeners")?.push(more);
        self.stage.apply(&bad).await?;
        let refused = self.reason("ApplyRefused", "9100").await?;
        self.figures.add(format!("a node port that cannot be had: {refused}"));
        self.serves(&before).await?;
        self.stage.apply(&self.good).await?;
        self.stage.ready(NAMESPACE, CLUSTER, s(60)).await?;
        self.serves(&before).await
    }

    /// A listener moves: clients are told the new port by the broker that listens there.
    async fn another_port(&self) -> Result<()> {
        let before = self.stage.life(NAMESPACE, CLUSTER).await?;
        let mut moved = self.good.clone();
        moved["spec"]["listeners"][1]["port"] = json!(9095);
        self.stage.apply(&moved).await?;
        self.stage.ready(NAMESPACE, CLUSTER, s(90)).await?;
        let life = self.stage.life(NAMESPACE, CLUSTER).await?;
        ensure!(life.0 != before.0, "the pod still listens where it did");
        self.serves(&life).await?;
        self.stage.apply(&self.good).await?;
        self.stage.ready(NAMESPACE, CLUSTER, s(90)).await.map(|_| ())
    }

    async fn missing_image(&self) -> Result<()> {
        let before = self.stage.life(NAMESPACE, CLUSTER).await?;
        let mut bad = self.good.clone();
        bad["spec"]["image"] = json!("localhost/chronik-broker:missing");
        self.stage.apply(&bad).await?;
        let cluster = self.stage.expect(NAMESPACE, CLUSTER, "Ready", "False", "ImagePull", s(60)).await?;
        self.said("missing image", &cluster);
        self.stage.apply(&self.good).await?;
        self.stage.ready(NAMESPACE, CLUSTER, s(90)).await?;
        ensure!(self.stage.life(NAMESPACE, CLUSTER).await? != before, "the image was never tried");
        Ok(())
    }

    /// Without a running broker to ask, the new one says it itself.
    async fn bad_from_the_start(&self) -> Result<()> {
        let mut bad = manifest::cluster(NAMESPACE, "bad");
        bad["spec"]["config"] = json!({"num.partitions": "many"});
        self.stage.volume(2).await?;
        self.stage.apply(&bad).await?;
        let cluster = until("not Ready, with the broker's own words", s(60), || async {
            let cluster = self.stage.api.get("chronikcluster", NAMESPACE, "bad").await?;
            let ready = condition(&cluster, "Ready");
            let told = ready.message.contains("num.partitions");
            let reason = ["BrokerFailing", "InvalidConfig"].contains(&ready.reason.as_str());
            ensure!(ready.status == "False" && reason && told, "Ready is {ready}");
            Ok(cluster)
        })
        .await?;
        self.said("bad from the start", &cluster);
        bad["spec"]["config"] = json!({"num.partitions": "3"});
        self.stage.apply(&bad).await?;
        self.stage.ready(NAMESPACE, "bad", s(90)).await?;
        Ok(())
    }

    /// A topic may come before its cluster.
    async fn before_its_cluster(&self) -> Result<()> {
        let topic = manifest::topic(NAMESPACE, "late", "early", &json!({"partitions": 2}));
        self.stage.apply(&topic).await?;
        let refused = self.stage.topic_refused(NAMESPACE, "early", "ClusterMissing", s(30)).await?;
        self.said("no such cluster", &refused);
        Ok(())
    }

    /// The cluster that comes late wants a StorageClass that comes later still.
    async fn the_late_cluster(&self) -> Result<()> {
        let mut late = manifest::cluster(NAMESPACE, "late");
        let class = "/spec/pools/0/storage/storageClassName";
        for wrong in ["a-slip-of-the-pen", "late"] {
            *late.pointer_mut(class).context("no class")? = json!(wrong);
            self.stage.apply(&late).await?;
            let cluster = until("the class that is missing is named", s(30), || async {
                let cluster = self
                    .stage
                    .expect(NAMESPACE, "late", "Ready", "False", "StorageClassMissing", s(30))
                    .await?;
                ensure!(condition(&cluster, "Ready").message.contains(wrong), "not yet");
                Ok(cluster)
            })
            .await?;
            self.said("no such StorageClass", &cluster);
        }
        self.stage.topic_refused(NAMESPACE, "early", "ClusterNotReady", s(30)).await?;
        self.stage.volume_of("late", 1).await?;
        self.stage.ready(NAMESPACE, "late", s(90)).await?;
        self.stage.topic_ready(NAMESPACE, "early", s(60)).await?;
        // It has its volumes now.
        *late.pointer_mut(class).context("no class")? = json!("local");
        self.stage.refused(&late, "storageClassName cannot change").await
    }

    /// Waits until some condition has this reason, and names what is wrong.
    async fn reason(&self, reason: &str, names: &str) -> Result<String> {
        until(format!("a condition with reason {reason}"), s(30), || async {
            let cluster = self.stage.api.get("chronikcluster", NAMESPACE, CLUSTER).await?;
            for kind in ["Ready", "ConfigApplied", "Degraded"] {
                let is = condition(&cluster, kind);
                if is.reason == reason && is.message.contains(names) {
                    return Ok(format!("{kind} {}: {}", is.reason, short(&is.message)));
                }
            }
            bail!("conditions are {}", cluster["status"]["conditions"])
        })
        .await
    }

    /// The broker runs on, in the pod of `before`, and takes records.
    async fn serves(&self, before: &(String, i64)) -> Result<()> {
        let cluster = self.stage.api.get("chronikcluster", NAMESPACE, CLUSTER).await?;
        kafka::produce(&self.stage.bootstrap(&cluster, "outside")?, "served", 3).await?;
        let life = self.stage.life(NAMESPACE, CLUSTER).await?;
        ensure!(life == *before, "the running broker was taken down");
        Ok(())
    }

    fn said(&self, mistake: &str, object: &Value) {
        let ready = condition(object, "Ready");
        self.figures.add(format!("{mistake}: {}: {}", ready.reason, short(&ready.message)));
    }
}

fn short(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.chars().take(110).collect()
}
