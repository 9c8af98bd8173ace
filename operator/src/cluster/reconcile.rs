//! One look at one cluster.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use serde_json::json;
use thiserror::Error;

use crate::context::Context;
use crate::crd::{ChronikCluster, ChronikClusterStatus, FIELD_MANAGER, conditions};

use super::apply::{self, Apply};
use super::build::{self, Objects};
use super::facts::{Facts, PodFacts, wanted_revision};
use super::identity::{self, ClusterId};
use super::names::{CONFIG_FILE, Names};
use super::roll::{self, Decision, Delete, Verdict};
use super::status::{self, Hold};
use super::{fetch, live, placement, settings, storage, validate};

/// What was read may be this old when a pod is deleted by it: Kubernetes' objects, then the brokers' answers.
const FACTS_AGE_MAX: Duration = Duration::from_secs(15);
/// How soon to look again while something is under way.
const SOON: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
pub enum ReconcileError {
    #[error("{}", apply::words(.0))]
    Kubernetes(#[from] Box<kube::Error>),
    #[error("the configuration cannot be written: {0}")]
    Yaml(#[from] serde_yaml::Error),
    #[error("no randomness: {0}")]
    Random(getrandom::Error),
    #[error("it took longer than {} s", .0.as_secs())]
    Timeout(Duration),
}

impl From<kube::Error> for ReconcileError {
    fn from(e: kube::Error) -> Self {
        ReconcileError::Kubernetes(Box::new(e))
    }
}

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Something is under way.
    Soon(Duration),
    /// All is as it shall be.
    Idle,
    /// The cluster is gone, or going.
    Never,
}

/// What one look decides and does, from beginning to end.
struct Look<'a> {
    ctx: &'a Context,
    cluster: ChronikCluster,
    names: Names,
    facts: Facts,
    read_at: Instant,
    outcome: Outcome,
}

/// What status is told from.
#[derive(Default)]
struct Outcome {
    cluster_id: Option<String>,
    hold: Option<Hold>,
    verdict: Verdict,
    applied: apply::Outcome,
    cannot_grow: Vec<String>,
    decision: Option<Decision>,
    unsure: bool,
    live: live::Outcome,
    unplaced: std::collections::BTreeMap<i32, String>,
}

pub async fn reconcile(ctx: &Context, namespace: &str, name: &str) -> Result<Again, ReconcileError> {
    let clusters: Api<ChronikCluster> = Api::namespaced(ctx.client.clone(), namespace);
    let Some(cluster) = clusters.get_opt(name).await? else { return Ok(Again::Never) };
    if cluster.metadata.deletion_timestamp.is_some() {
        // Everything is owned by it, and goes with it.
        return Ok(Again::Never);
    }
    let names = Names::of(&cluster, &ctx.options.cluster_domain);
    match look(ctx, &clusters, cluster.clone(), names).await {
        Err(ReconcileError::Kubernetes(e)) if is_refusal(&e) => {
            tell_refusal(&clusters, &cluster, &e).await;
            Err(ReconcileError::Kubernetes(e))
        }
        other => other,
    }
}

async fn look(
    ctx: &Context,
    clusters: &Api<ChronikCluster>,
    cluster: ChronikCluster,
    names: Names,
) -> Result<Again, ReconcileError> {
    let read_at = Instant::now();
    let facts = fetch::facts(ctx, &cluster, &names).await?;
    let mut look = Look { ctx, cluster, names, facts, read_at, outcome: Outcome::default() };
    look.place().await?;
    look.apply().retain_volumes().await?;
    look.outcome.hold = look.hold().await?;
    if look.outcome.hold.is_none() {
        look.keep().await?;
    }
    look.tell(clusters).await
}

/// Whether Kubernetes has understood and will not: trying again does not help by itself.
fn is_refusal(e: &kube::Error) -> bool {
    matches!(e, kube::Error::Api(status) if matches!(status.code, 400 | 401 | 403 | 405 | 422))
}

/// What keeps the operator from its work is told where a user looks: what was true before may no longer be.
async fn tell_refusal(clusters: &Api<ChronikCluster>, cluster: &ChronikCluster, e: &kube::Error) {
    let mut conditions = cluster.status.clone().unwrap_or_default().conditions;
    let (now, generation) = (Time(Timestamp::now()), cluster.metadata.generation);
    let why = format!("the operator cannot look after this cluster: {}", apply::words(e));
    conditions::set(&mut conditions, &now, generation, "Ready", false, "ReconcileFailed", why.clone());
    conditions::set(&mut conditions, &now, generation, "Degraded", true, "ReconcileFailed", why);
    if cluster.status.as_ref().is_some_and(|status| status.conditions == conditions) {
        return;
    }
    let patch = json!({"metadata": {"uid": cluster.uid()}, "status": {"conditions": conditions}});
    let manager = PatchParams { field_manager: Some(FIELD_MANAGER.to_string()), ..PatchParams::default() };
    let told = clusters.patch_status(&cluster.name_any(), &manager, &Patch::Merge(&patch)).await;
    if let Err(e) = told {
        tracing::warn!(cluster = cluster.name_any(), "its status cannot be written: {}", apply::words(&e));
    }
}

impl Look<'_> {
    /// Tells brokers where they are. This goes on while a cluster is paused.
    async fn place(&mut self) -> Result<(), ReconcileError> {
        let (changes, waits) = placement::changes(&self.cluster, &self.names, &self.facts);
        for change in changes {
            apply::place(&self.ctx.client, &self.names, &change).await?;
        }
        for disk in placement::new_disks(&self.cluster, &self.names, &self.facts) {
            apply::record_disk(&self.ctx.client, &self.names, &disk).await?;
        }
        self.outcome.unplaced = waits;
        Ok(())
    }

    /// Why nothing may be built, if so; settles the cluster's id.
    async fn hold(&mut self) -> Result<Option<Hold>, ReconcileError> {
        let problems = validate::problems(&self.cluster);
        if !problems.is_empty() {
            return Ok(Some(Hold { reason: "InvalidConfig", message: problems.join("; ") }));
        }
        let hold = |reason, message| Ok(Some(Hold { reason, message }));
        let (id, adopted) = match identity::cluster_id(&self.cluster, &self.names, &self.facts) {
            ClusterId::Known(id) => {
                self.outcome.cluster_id = Some(id);
                return Ok(None);
            }
            ClusterId::Unknown(why) => return hold("ClusterIdUnknown", why),
            ClusterId::Wait(why) => return hold("VolumePending", why),
            ClusterId::Adopted(id) => (id, true),
            ClusterId::New => {
                if self.cluster.spec.paused {
                    return hold("Starting", "the cluster is paused and was never started".to_string());
                }
                if let Some(why) = storage::missing_class(&self.cluster, &self.facts) {
                    return hold("StorageClassMissing", why);
                }
                let random = || {
                    let mut bytes = [0; 16];
                    getrandom::fill(&mut bytes).map(|()| bytes)
                };
                (identity::new_id(random).map_err(ReconcileError::Random)?, false)
            }
        };
        self.record_id(&id).await?;
        if adopted {
            let note = format!("the volumes of an earlier cluster of this name are taken up again: {id}");
            self.event(EventType::Normal, "Adopted", note).await;
        }
        self.outcome.cluster_id = Some(id);
        Ok(None)
    }

    /// The id is on record before a broker can start with it. The version makes Kubernetes refuse a second one.
    async fn record_id(&self, id: &str) -> Result<(), ReconcileError> {
        let patch = json!({
            "metadata": {
                "uid": self.cluster.uid(),
                "resourceVersion": self.cluster.resource_version(),
            },
            "status": {"clusterId": id},
        });
        let clusters: Api<ChronikCluster> = Api::namespaced(self.ctx.client.clone(), &self.names.namespace);
        let manager =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_string()), ..PatchParams::default() };
        clusters.patch_status(&self.names.cluster, &manager, &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// Build, decide, apply, act.
    async fn keep(&mut self) -> Result<(), ReconcileError> {
        let objects = self.build()?;
        let plan = storage::plan(&self.cluster, &self.names, &self.facts);
        self.outcome.cannot_grow.clone_from(&plan.refused);
        self.outcome.verdict = self.check(&objects).await;
        let brokers = self.brokers(&objects);
        self.outcome.unsure = roll::unsure(&brokers);
        let decision = self.decide(&brokers);
        if self.cluster.spec.paused {
            // A pod would be deleted if the cluster were not paused: nothing is under way.
            let goes_on = matches!(&decision, Decision::Wait(operation) if operation.step != "PreRestart");
            self.outcome.decision = goes_on.then_some(decision);
            return Ok(());
        }
        let disruptable = roll::disruptable(&brokers, &decision);
        let objects = self.with_budget(objects, disruptable);
        self.outcome.applied = self.apply().all(&objects, &plan, self.holds_config()).await;
        self.told_applied().await;
        self.outcome.decision = Some(self.act(decision).await?);
        self.settle_live().await;
        Ok(())
    }

    fn apply(&self) -> Apply<'_> {
        Apply { client: &self.ctx.client, cluster: &self.cluster, names: &self.names, facts: &self.facts }
    }

    fn input<'b>(&'b self, image: &'b str, disruptable: bool) -> build::Input<'b> {
        build::Input {
            cluster: &self.cluster,
            names: &self.names,
            cluster_id: self.outcome.cluster_id.as_deref().unwrap_or_default(),
            image,
            disruptable,
            options: &self.ctx.options,
        }
    }

    fn image(&self) -> String {
        self.cluster.spec.image.clone().unwrap_or_else(|| self.ctx.options.broker_image.clone())
    }

    fn build(&self) -> Result<Objects, ReconcileError> {
        Ok(build::objects(&self.input(&self.image(), false))?)
    }

    fn with_budget(&self, objects: Objects, disruptable: bool) -> Objects {
        let disruption_budget = build::disruption_budget(&self.input(&self.image(), disruptable));
        Objects { disruption_budget, ..objects }
    }

    /// Asks a broker of the same image whether it would start with the configuration that is wanted, where any broker
    /// runs with another.
    async fn check(&self, objects: &Objects) -> Verdict {
        let applied = self.facts.config_map.as_ref().and_then(|map| map.data.as_ref()?.get(CONFIG_FILE));
        let pods: Vec<_> = self.facts.pods.values().map(|pod| (pod, PodFacts::of(pod))).collect();
        let others = pods.iter().any(|(_, pod)| pod.config_hash.as_ref() != Some(&objects.config_hash));
        if !others && applied == Some(&objects.config) {
            return Verdict::NotNeeded;
        }
        let Some(token) = &self.facts.token else { return Verdict::NotNeeded };
        let image = self.image();
        let mut verdict = Verdict::NotNeeded;
        for (pod, found) in &pods {
            if found.image.as_ref() != Some(&image) || found.terminating {
                continue;
            }
            let Some(admin) = fetch::admin(&self.ctx.metrics, pod, token) else { continue };
            verdict = match admin.check_config(&objects.config).await {
                Ok(answer) if answer.valid => return Verdict::Valid,
                Ok(answer) => return Verdict::Invalid(answer.errors),
                Err(e) => Verdict::Unknown(e.to_string()),
            };
        }
        verdict
    }

    /// A configuration that the brokers would not start with stays away from them, even from one that restarts by
    /// itself; so does one that is not checked, while a broker serves.
    fn holds_config(&self) -> bool {
        match &self.outcome.verdict {
            Verdict::Invalid(_) => true,
            Verdict::Unknown(_) => self.serves(),
            Verdict::NotNeeded | Verdict::Valid => false,
        }
    }

    fn serves(&self) -> bool {
        self.facts.pods.values().any(|pod| PodFacts::of(pod).ready)
    }

    fn brokers(&self, objects: &Objects) -> Vec<roll::Broker> {
        let image = self.image();
        status::roll_brokers(&self.cluster, &self.names, &self.facts, |set| {
            let set = self.facts.stateful_sets.get(set)?;
            Some(roll::Wanted {
                revision: wanted_revision(set)?.to_string(),
                image: image.clone(),
                config_hash: objects.config_hash.clone(),
            })
        })
    }

    fn decide(&self, brokers: &[roll::Broker]) -> Decision {
        roll::decide(&roll::Input {
            now: Timestamp::now(),
            brokers,
            restart: self.cluster.spec.restart.as_ref(),
            unavoidable: self.cluster.spec.rollout.unavoidable,
            verdict: &self.outcome.verdict,
            last: self.cluster.status.as_ref().and_then(|status| status.operation.as_ref()),
        })
    }

    /// Deletes the pod that was decided on, and tells what it is waiting for.
    async fn act(&self, decision: Decision) -> Result<Decision, ReconcileError> {
        match &decision {
            Decision::Delete(delete) if self.read_at.elapsed() > FACTS_AGE_MAX => {
                tracing::warn!(
                    cluster = self.names.cluster,
                    "what was read is too old to delete a pod by it: looking again"
                );
                let mut operation = delete.operation.clone();
                operation.step = "PreRestart".to_string();
                operation.blocked_by = vec!["what was read is too old: looking again".to_string()];
                Ok(Decision::Wait(operation))
            }
            Decision::Delete(delete) => {
                self.delete(delete).await?;
                Ok(decision)
            }
            Decision::Wait(operation) => {
                let before = self.cluster.status.as_ref().and_then(|status| status.operation.as_ref());
                if before.is_none_or(|b| (b.broker_id, &b.step) != (operation.broker_id, &operation.step)) {
                    let what = operation.blocked_by.join("; ");
                    let (id, step) = (operation.broker_id, &operation.step);
                    let note = format!("{} of broker {id} waits, {step}: {what}", operation.kind);
                    self.event(EventType::Normal, "Waiting", note).await;
                }
                Ok(decision)
            }
            Decision::Nothing => {
                if let Some(done) = self.cluster.status.as_ref().and_then(|status| status.operation.as_ref())
                {
                    let note = format!("{} of broker {} is done", done.kind, done.broker_id);
                    self.event(EventType::Normal, "Finished", note).await;
                }
                Ok(decision)
            }
        }
    }

    async fn delete(&self, delete: &Delete) -> Result<(), ReconcileError> {
        if !apply::delete_pod(&self.ctx.client, &self.names, &delete.pod, &delete.uid).await? {
            return Ok(());
        }
        self.ctx.metrics.pod_deleted(delete.cause.label());
        let forced = if delete.forced { ", by force" } else { "" };
        let kind = if delete.forced { EventType::Warning } else { EventType::Normal };
        self.event(kind, "PodDeleted", format!("pod {} is deleted{forced}: {}", delete.pod, delete.why))
            .await;
        if !delete.unavoidable.is_empty() {
            let note = format!(
                "unavailable while broker {} restarts: {}",
                delete.operation.broker_id,
                delete.unavoidable.join("; ")
            );
            self.event(EventType::Normal, "Unavoidable", note).await;
        }
        Ok(())
    }

    /// Live settings and WAL profiles, as soon as a broker serves.
    async fn settle_live(&mut self) {
        let Some(id) = &self.outcome.cluster_id else { return };
        let wanted = settings::live(&self.cluster.spec);
        let outcome = live::apply(self.ctx, &self.cluster, &self.names, &self.facts, id, &wanted).await;
        if !outcome.altered().is_empty() {
            let note = format!("altered live: {}", outcome.altered().join(", "));
            self.event(EventType::Normal, "ConfigAltered", note).await;
        }
        self.outcome.live = outcome;
    }

    async fn told_applied(&self) {
        let applied = &self.outcome.applied;
        for (list, reason, kind, what) in [
            (&applied.created, "Created", EventType::Normal, "created"),
            (&applied.updated, "Updated", EventType::Normal, "updated"),
            (&applied.deleted, "Deleted", EventType::Normal, "deleted"),
            (
                &applied.corrected,
                "DriftCorrected",
                EventType::Warning,
                "changed by somebody else and set right again",
            ),
        ] {
            if !list.is_empty() {
                self.event(kind, reason, format!("{what}: {}", list.join(", "))).await;
            }
        }
    }

    async fn event(&self, kind: EventType, reason: &str, note: String) {
        self.ctx.event(&self.object_ref(), kind, reason, note).await;
    }

    fn object_ref(&self) -> ObjectReference {
        self.cluster.object_ref(&())
    }

    /// Writes the status if it says something new, and decides when to look again.
    async fn tell(&self, clusters: &Api<ChronikCluster>) -> Result<Again, ReconcileError> {
        let outcome = &self.outcome;
        let decision = outcome.decision.clone().unwrap_or(Decision::Nothing);
        let status = status::status(&status::Input {
            now: Time(Timestamp::now()),
            cluster: &self.cluster,
            names: &self.names,
            facts: &self.facts,
            cluster_id: outcome.cluster_id.as_deref(),
            hold: outcome.hold.as_ref(),
            verdict: &outcome.verdict,
            applied: &outcome.applied,
            cannot_grow: &outcome.cannot_grow,
            decision: &decision,
            unsure: outcome.unsure,
            live: &outcome.live,
            unplaced: &outcome.unplaced,
        });
        if self.cluster.status.as_ref() != Some(&status) {
            self.told_conditions(&status).await;
            let patch = json!({
                "apiVersion": ChronikCluster::api_version(&()),
                "kind": ChronikCluster::kind(&()),
                "metadata": {"name": self.names.cluster, "uid": self.cluster.uid()},
                "status": status,
            });
            let manager = PatchParams::apply(FIELD_MANAGER).force();
            match clusters.patch_status(&self.names.cluster, &manager, &Patch::Apply(&patch)).await {
                Ok(_) => (),
                // It went while it was being looked at.
                Err(kube::Error::Api(e)) if e.is_not_found() => return Ok(Again::Never),
                Err(e) => return Err(e.into()),
            }
        }
        let settled = decision == Decision::Nothing
            && outcome.applied.waiting.is_empty()
            && !outcome.applied.sets_changed
            && !outcome.unsure
            && conditions::is_true(&status.conditions, "Ready");
        // What a human has to mend is not mended by looking at it every second; what changes is watched anyway.
        let stuck = conditions::is_true(&status.conditions, "Degraded") && decision == Decision::Nothing;
        Ok(match (settled, stuck) {
            (true, _) => Again::Idle,
            (false, true) => Again::Soon(SOON * 5),
            (false, false) => Again::Soon(SOON),
        })
    }

    /// An Event where the cluster becomes ready, or stops being so for another reason than before.
    async fn told_conditions(&self, status: &ChronikClusterStatus) {
        let before = self.cluster.status.iter().flat_map(|s| &s.conditions).find(|c| c.type_ == "Ready");
        let Some(now) = status.conditions.iter().find(|c| c.type_ == "Ready") else { return };
        if before.is_some_and(|before| (&before.status, &before.reason) == (&now.status, &now.reason)) {
            return;
        }
        let degraded = conditions::is_true(&status.conditions, "Degraded");
        let kind = if degraded { EventType::Warning } else { EventType::Normal };
        self.event(kind, &now.reason, now.message.clone()).await;
    }
}
