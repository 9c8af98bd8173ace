//! Deleting in every order hangs nothing, and takes no records along that were to be kept.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Figures;
use crate::stage::api::{number, text};
use crate::stage::load::Wanted;
use crate::stage::wait::{s, until};
use crate::stage::{OPERATOR, SYSTEM, Stage, kafka, manifest};

const NAMESPACE: &str = "e2e-deletion";
const CLUSTER: &str = "kept";
/// How long anything may take to go.
const LIMIT: std::time::Duration = s(90);

pub async fn run(stage: &Stage, figures: &Figures) -> Result<()> {
    stage.operator().await?;
    stage.namespace(NAMESPACE).await?;
    stage.volume(2).await?;
    let cluster = manifest::cluster(NAMESPACE, CLUSTER);
    stage.apply(&cluster).await?;
    let scene = Scene { stage, figures, cluster };
    let ready = scene.with_topics().await?;
    let id = text(&ready, "/status/clusterId").to_owned();
    let claim = stage.api.get("pvc", NAMESPACE, &format!("data-{CLUSTER}-main-0")).await?;
    let volume = text(&claim, "/spec/volumeName").to_owned();
    let ledger = scene.write(&ready).await?;

    // Topics first, then the cluster; then the other way round; each time the old volume serves the old records.
    scene.topics_gone().await?;
    stage.delete(NAMESPACE, "chronikcluster", CLUSTER, LIMIT).await?;
    scene.comes_back(&id, &volume, &ledger).await?;
    figures.add("topics, then cluster: gone; a new object on the old volume serves the old records");

    scene.with_topics().await?;
    stage.delete(NAMESPACE, "chronikcluster", CLUSTER, LIMIT).await?;
    stage.gone(NAMESPACE, "statefulset", &format!("{CLUSTER}-main"), LIMIT).await?;
    scene.topics_gone().await?;
    scene.comes_back(&id, &volume, &ledger).await?;
    figures.add("cluster, then topics: gone; and again the old records");

    scene.without_operator().await?;
    scene.crds(&id, &volume, &ledger).await?;

    // All at once, and with it the volumes' claims.
    scene.with_topics().await?;
    stage.delete("", "namespace", NAMESPACE, LIMIT).await?;
    figures.add("namespace with everything in it: gone");
    scene.with_its_volume().await?;
    scene.narrow().await
}

struct Scene<'a> {
    stage: &'a Stage,
    figures: &'a Figures,
    cluster: Value,
}

impl Scene<'_> {
    /// The cluster with a topic of each deletion policy, all Ready.
    async fn with_topics(&self) -> Result<Value> {
        for policy in ["Delete", "Retain"] {
            let spec = json!({"deletionPolicy": policy});
            let name = policy.to_lowercase();
            self.stage.apply(&manifest::topic(NAMESPACE, CLUSTER, &name, &spec)).await?;
        }
        let ready = self.stage.ready(NAMESPACE, CLUSTER, s(90)).await?;
        for name in ["delete", "retain"] {
            self.stage.topic_ready(NAMESPACE, name, s(30)).await?;
        }
        Ok(ready)
    }

    async fn topics_gone(&self) -> Result<()> {
        for name in ["delete", "retain"] {
            self.stage.delete(NAMESPACE, "chroniktopic", name, LIMIT).await?;
        }
        Ok(())
    }

    /// A second of load into a topic that no object manages; returns the ledger.
    async fn write(&self, ready: &Value) -> Result<std::path::PathBuf> {
        let bootstrap = self.stage.bootstrap(ready, "outside")?;
        kafka::create_topic(&bootstrap, "old", 3).await?;
        let wanted =
            Wanted { bootstrap: bootstrap.clone(), topic: "old".to_owned(), rate: 1000, acks: "all" };
        let load = self.stage.load_outside("deletion", &wanted).await?;
        until("a second of records", s(30), || async {
            let appended = self.stage.broker_metrics(NAMESPACE, CLUSTER).await?;
            let appended = appended.sum("chronik_wal_appended_records_total", &[("profile", "high")]);
            ensure!(appended >= 1000.0, "{appended} so far");
            Ok(())
        })
        .await?;
        let ledger = load.ledger.clone();
        let report = load.finish().await?;
        ensure!(report.is_good(), "{report}");
        Ok(ledger)
    }

    /// A new object of the same name: the same cluster on the same volume with the same records.
    async fn comes_back(&self, id: &str, volume: &str, ledger: &std::path::Path) -> Result<()> {
        let claim = self.stage.api.get("pvc", NAMESPACE, &format!("data-{CLUSTER}-main-0")).await?;
        ensure!(claim["metadata"]["deletionTimestamp"].is_null(), "the volume's claim is being deleted");
        ensure!(text(&claim, "/spec/volumeName") == volume, "another volume: {}", claim["spec"]);
        self.stage.gone(NAMESPACE, "pod", &format!("{CLUSTER}-main-0"), LIMIT).await?;
        self.stage.apply(&self.cluster).await?;
        let ready = self.stage.ready(NAMESPACE, CLUSTER, s(90)).await?;
        ensure!(text(&ready, "/status/clusterId") == id, "another cluster: {}", ready["status"]["clusterId"]);
        let report = self.stage.verify(&self.stage.bootstrap(&ready, "outside")?, ledger).await?;
        ensure!(report.is_good(), "{report}");
        Ok(())
    }

    /// Uninstalling the operator touches neither CRDs nor brokers; installed again it takes up where it was.
    async fn without_operator(&self) -> Result<()> {
        let before = self.stage.life(NAMESPACE, CLUSTER).await?;
        self.stage.helm(&["uninstall", OPERATOR, "-n", SYSTEM, "--wait"]).await?;
        ensure!(
            self.stage.api.find("deployment", SYSTEM, OPERATOR).await?.is_none(),
            "the operator is still there"
        );
        ensure!(
            self.stage.api.find("crd", "", "chronikclusters.chronik.io").await?.is_some(),
            "the CRDs went along"
        );
        let cluster = self.stage.api.get("chronikcluster", NAMESPACE, CLUSTER).await?;
        kafka::produce(&self.stage.bootstrap(&cluster, "outside")?, "old", 3).await?;
        self.stage.operator().await?;
        let mut changed = self.cluster.clone();
        changed["spec"]["walProfiles"] = json!({"later": {"policy": "hybrid"}});
        self.stage.apply(&changed).await?;
        self.stage.ready(NAMESPACE, CLUSTER, s(90)).await?;
        ensure!(self.stage.life(NAMESPACE, CLUSTER).await? == before, "the broker was restarted");
        self.figures.add("operator uninstalled and installed again: CRDs and brokers stay");
        Ok(())
    }

    /// The CRDs, with clusters and topics of them; `helm upgrade` brings them back.
    async fn crds(&self, id: &str, volume: &str, ledger: &std::path::Path) -> Result<()> {
        self.with_topics().await?;
        let crds = ["chroniktopics.chronik.io", "chronikclusters.chronik.io"];
        let args = [["delete", "crd"].as_slice(), &crds, &["--wait=false"]].concat();
        self.stage.kubectl(&args).await?;
        for crd in crds {
            self.stage.gone("", "crd", crd, LIMIT).await?;
        }
        self.stage.gone(NAMESPACE, "statefulset", &format!("{CLUSTER}-main"), LIMIT).await?;
        self.stage.install_operator().await?;
        until("the CRDs are established", s(60), || async {
            for crd in crds {
                let crd = self.stage.api.get("crd", "", crd).await?;
                let established = crate::stage::api::condition(&crd, "Established");
                ensure!(established.status == "True", "Established is {established}");
            }
            Ok(())
        })
        .await?;
        self.comes_back(id, volume, ledger).await?;
        self.figures.add(
            "CRDs deleted under their objects: gone; helm upgrade brings them back, and the old records",
        );
        Ok(())
    }

    /// With `Delete` the claims go with the cluster.
    async fn with_its_volume(&self) -> Result<()> {
        const SECOND: &str = "e2e-deletion-second";
        self.stage.namespace(SECOND).await?;
        self.stage.volume(2).await?;
        let mut cluster = manifest::cluster(SECOND, "brief");
        cluster["spec"]["deletionPolicy"] = json!("Delete");
        self.stage.apply(&cluster).await?;
        let ready = self.stage.ready(SECOND, "brief", s(90)).await?;
        ensure!(number(&ready, "/status/observedGeneration") > 0, "no generation");
        self.stage.delete(SECOND, "chronikcluster", "brief", LIMIT).await?;
        self.stage.gone(SECOND, "pvc", "data-brief-main-0", LIMIT).await?;
        self.figures.add("deletionPolicy Delete: the volume's claim goes with the cluster");
        self.stage.clear(SECOND).await
    }

    /// Two operators that look after one namespace, with rights in that one. A cluster that is deleted and made again in
    /// the same breath waits for its old volume to go; the namespace goes with a topic that the operator must let go.
    async fn narrow(&self) -> Result<()> {
        const NARROW: &str = "e2e-deletion-narrow";
        self.stage.namespace(NARROW).await?;
        let narrow = format!("watchNamespaces={{{NARROW}}}");
        self.stage.install_operator_with(&["--set", &narrow, "--set", "replicaCount=2"]).await?;
        let mut cluster = manifest::cluster(NARROW, "again");
        cluster["spec"]["deletionPolicy"] = json!("Delete");
        self.stage.volume(2).await?;
        self.stage.apply(&cluster).await?;
        let first = self.stage.ready(NARROW, "again", s(90)).await?;
        self.stage.volume(2).await?;
        self.stage.kubectl(&["-n", NARROW, "delete", "chronikcluster", "again"]).await?;
        self.stage.apply(&cluster).await?;
        let second = self.stage.ready(NARROW, "again", s(120)).await?;
        for field in ["/status/clusterId", "/status/brokers/0/diskUUID"] {
            let [first, second] = [&first, &second].map(|cluster| text(cluster, field));
            ensure!(!second.is_empty() && first != second, "{field} was {first} and is {second}");
        }
        let spec = json!({"deletionPolicy": "Delete"});
        self.stage.apply(&manifest::topic(NARROW, "again", "goes", &spec)).await?;
        self.stage.topic_ready(NARROW, "goes", s(30)).await?;
        self.stage.delete("", "namespace", NARROW, LIMIT).await?;
        self.figures.add(
            "one watched namespace: a cluster made again at once has a new volume; the namespace is gone",
        );
        self.stage.install_operator().await
    }
}
