//! Topics that exist already, under each adoption policy; two objects for one topic; drift; and what deletion leaves.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Figures;
use crate::stage::api::{number, text};
use crate::stage::wait::{s, until};
use crate::stage::{Stage, kafka, manifest};

const NAMESPACE: &str = "e2e-adoption";
const CLUSTER: &str = "topics";

pub async fn run(stage: &Stage, figures: &Figures) -> Result<()> {
    stage.operator().await?;
    stage.namespace(NAMESPACE).await?;
    stage.volume(2).await?;
    stage.apply(&manifest::cluster(NAMESPACE, CLUSTER)).await?;
    let cluster = stage.ready(NAMESPACE, CLUSTER, s(90)).await?;
    let scene = Scene { stage, bootstrap: stage.bootstrap(&cluster, "outside")? };
    scene.policies(figures).await?;
    scene.conflict().await?;
    scene.drift(figures).await?;
    scene.deletion(figures).await?;
    stage.clear(NAMESPACE).await
}

struct Scene<'a> {
    stage: &'a Stage,
    bootstrap: String,
}

impl Scene<'_> {
    async fn apply(&self, name: &str, spec: Value) -> Result<()> {
        self.stage.apply(&manifest::topic(NAMESPACE, CLUSTER, name, &spec)).await
    }

    async fn policies(&self, figures: &Figures) -> Result<()> {
        for name in ["never", "differs", "equal", "always", "more"] {
            kafka::create_topic(&self.bootstrap, name, 2).await?;
        }
        self.apply("never", json!({"partitions": 2, "adoptionPolicy": "Never"})).await?;
        self.apply("differs", json!({"partitions": 3, "adoptionPolicy": "IfEqual"})).await?;
        self.apply("equal", json!({"partitions": 2, "adoptionPolicy": "IfEqual"})).await?;
        let always = json!({"partitions": 3, "walProfile": "low", "adoptionPolicy": "Always"});
        self.apply("always", always).await?;
        self.apply("more", json!({"partitions": 1, "adoptionPolicy": "Always"})).await?;

        self.stage.topic_refused(NAMESPACE, "never", "TopicExists", s(30)).await?;
        self.stage.topic_refused(NAMESPACE, "differs", "TopicExists", s(30)).await?;
        self.stage.topic_ready(NAMESPACE, "equal", s(30)).await?;
        let always = self.stage.topic_ready(NAMESPACE, "always", s(30)).await?;
        ensure!(number(&always, "/status/partitions") == 3, "always: {}", always["status"]);
        ensure!(text(&always, "/status/walProfile") == "low", "always: {}", always["status"]);
        for (name, partitions) in [("never", 2), ("differs", 2), ("equal", 2), ("always", 3), ("more", 2)] {
            let there = kafka::partitions(&self.bootstrap, name).await?;
            ensure!(there == Some(partitions), "{name} has {there:?} partitions");
        }
        // More partitions than wanted cannot be taken away; the object says so, and how many there are.
        let more = self.stage.topic_refused(NAMESPACE, "more", "TooManyPartitions", s(30)).await?;
        ensure!(number(&more, "/status/partitions") == 2, "status {}", more["status"]);

        // Good YAML mends what was refused.
        self.apply("never", json!({"partitions": 2, "adoptionPolicy": "IfEqual"})).await?;
        self.stage.topic_ready(NAMESPACE, "never", s(30)).await?;
        self.apply("differs", json!({"partitions": 3, "adoptionPolicy": "Always"})).await?;
        self.stage.topic_ready(NAMESPACE, "differs", s(30)).await?;
        figures.add("existing topics: Never and IfEqual leave another alone, IfEqual takes an equal one, Always changes it");
        Ok(())
    }

    /// The second object for a topic is told so, and takes over when the first is gone.
    async fn conflict(&self) -> Result<()> {
        self.apply("second", json!({"topicName": "equal", "partitions": 2})).await?;
        self.stage.topic_refused(NAMESPACE, "second", "Conflict", s(30)).await?;
        self.stage.delete(NAMESPACE, "chroniktopic", "equal", s(30)).await?;
        self.stage.topic_ready(NAMESPACE, "second", s(60)).await?;
        Ok(())
    }

    async fn drift(&self, figures: &Figures) -> Result<()> {
        let (name, setting) = ("kept", "max.message.bytes");
        self.apply(name, json!({"config": {setting: "200000"}, "walProfile": "low"})).await?;
        self.stage.topic_ready(NAMESPACE, name, s(30)).await?;
        ensure!(
            kafka::setting(&self.bootstrap, name, setting).await?.as_deref() == Some("200000"),
            "not set"
        );
        kafka::alter(&self.bootstrap, name, setting, "300000").await?;
        kafka::alter(&self.bootstrap, name, "chronik.wal.profile", "ultra").await?;
        let begun = std::time::Instant::now();
        until("the drift is corrected", s(60), || async {
            let is = kafka::setting(&self.bootstrap, name, setting).await?;
            let profile = kafka::setting(&self.bootstrap, name, "chronik.wal.profile").await?;
            ensure!(is.as_deref() == Some("200000"), "{setting} is {is:?}");
            ensure!(profile.as_deref() == Some("low"), "the profile is {profile:?}");
            Ok(())
        })
        .await?;
        let corrected = begun.elapsed();
        // The status shows a drift for as long as there is one; an Event tells of it afterwards.
        until("an Event of the drift", s(30), || async {
            let events = self.stage.api.list("event", NAMESPACE, None).await?;
            let told = |event: &Value| {
                text(event, "/involvedObject/name") == name && text(event, "/message").contains(setting)
            };
            ensure!(events.iter().any(told), "no Event names {setting}");
            Ok(())
        })
        .await?;
        figures.add(format!("drift corrected after {:.1} s", corrected.as_secs_f64()));
        Ok(())
    }

    async fn deletion(&self, figures: &Figures) -> Result<()> {
        self.apply("goes", json!({"deletionPolicy": "Delete"})).await?;
        self.apply("stays", json!({"deletionPolicy": "Retain"})).await?;
        for name in ["goes", "stays"] {
            self.stage.topic_ready(NAMESPACE, name, s(30)).await?;
        }
        for name in ["goes", "stays"] {
            self.stage.delete(NAMESPACE, "chroniktopic", name, s(30)).await?;
        }
        ensure!(
            kafka::partitions(&self.bootstrap, "goes").await?.is_none(),
            "the topic `goes` is still there"
        );
        ensure!(kafka::partitions(&self.bootstrap, "stays").await? == Some(1), "the topic `stays` is gone");
        figures.add("deleted objects: Delete takes the topic along, Retain leaves it");
        Ok(())
    }
}
