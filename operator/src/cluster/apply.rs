//! Writes: server-side apply by one field manager. An object that Kubernetes refuses keeps back only what needs it.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Client, Error, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::crd::cluster::DeletionPolicy;
use crate::crd::{ChronikCluster, FIELD_MANAGER};

use super::build::{self, Objects};
use super::facts::Facts;
use super::fetch::api;
use super::names::{APPLIED, CLUSTER_LABEL, DISK_UUID, Names};
use super::placement;
use super::storage::{Plan, Recreate};

/// What became of the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub created: Vec<String>,
    pub updated: Vec<String>,
    /// Changed by somebody else, and set right again.
    pub corrected: Vec<String>,
    pub deleted: Vec<String>,
    /// Kubernetes' own words.
    pub refused: Vec<String>,
    /// What has to be gone first.
    pub waiting: Vec<String>,
    /// Whether a StatefulSet is not what it was when the facts were read.
    pub sets_changed: bool,
}

/// What was done about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    Created,
    Updated,
    Corrected,
}

/// Why one was not applied.
enum Failure {
    Refused(String),
    Waiting(String),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Refused(words(&e))
    }
}

/// An error in Kubernetes' own words, without the structure around them.
pub fn words(e: &Error) -> String {
    match e {
        Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// Applies all objects of a cluster.
pub struct Apply<'a> {
    pub client: &'a Client,
    pub cluster: &'a ChronikCluster,
    pub names: &'a Names,
    pub facts: &'a Facts,
}

impl Apply<'_> {
    /// Everything, in the order in which things need each other. With `hold_config` the brokers go on with the
    /// configuration they have, and so do the Services and rules that lead to their ports.
    pub async fn all(&self, objects: &Objects, plan: &Plan, hold_config: bool) -> Outcome {
        let mut outcome = Outcome::default();
        self.token(&mut outcome).await;
        self.one(&mut outcome, &objects.service_account).await;
        if !hold_config {
            for service in &objects.services {
                self.one(&mut outcome, service).await;
            }
            // A broker would wait in vain for what was refused: those that run stay as they are.
            if outcome.refused.is_empty() && outcome.waiting.is_empty() {
                self.brokers(&mut outcome, objects, plan).await;
            }
            match &objects.network_policy {
                Some(policy) => _ = self.one(&mut outcome, policy).await,
                None => self.no_network_policy(&mut outcome).await,
            }
        }
        self.one(&mut outcome, &objects.disruption_budget).await;
        outcome
    }

    /// Configuration, volumes and pods, and at last the Services that nobody needs any more.
    async fn brokers(&self, outcome: &mut Outcome, objects: &Objects, plan: &Plan) {
        self.one(outcome, &objects.config_map).await;
        if !outcome.refused.is_empty() || !outcome.waiting.is_empty() {
            return;
        }
        self.grow(outcome, plan).await;
        for set in &objects.stateful_sets {
            self.stateful_set(outcome, set, plan).await;
        }
        self.stale_services(outcome, &objects.services).await;
    }

    /// Volumes that are to stay are not taken along by a StatefulSet that ends. This acts at once, whatever else is held
    /// back: the deletion may be the next thing that happens.
    pub async fn retain_volumes(&self) -> Result<(), Error> {
        if self.cluster.spec.deletion_policy != DeletionPolicy::Retain {
            return Ok(());
        }
        let deletes = |set: &&StatefulSet| {
            let spec = set.spec.as_ref();
            let policy = spec.and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
            policy.is_some_and(|p| p.when_deleted.as_deref() == Some("Delete"))
        };
        for set in self.facts.stateful_sets.values().filter(|set| self.owns(*set)).filter(deletes) {
            let patch = json!({
                "metadata": {"uid": set.uid()},
                "spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"}},
            });
            let api = api::<StatefulSet>(self.client, self.names);
            api.patch(&set.name_any(), &merge(), &Patch::Merge(&patch)).await?;
        }
        Ok(())
    }

    /// Applies one object, and says whether it changed.
    async fn one<K>(&self, outcome: &mut Outcome, desired: &K) -> bool
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let label = format!("{} {}", K::kind(&()), desired.name_any());
        match self.apply(desired).await {
            Ok(Change::None) => return false,
            Ok(Change::Created) => outcome.created.push(label),
            Ok(Change::Updated) => outcome.updated.push(label),
            Ok(Change::Corrected) => outcome.corrected.push(label),
            Err(Failure::Refused(why)) => {
                outcome.refused.push(format!("{label}: {why}"));
                return false;
            }
            Err(Failure::Waiting(why)) => {
                outcome.waiting.push(format!("{label}: {why}"));
                return false;
            }
        }
        true
    }

    async fn apply<K>(&self, desired: &K) -> Result<Change, Failure>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let unwritable = |e: serde_json::Error| Failure::Refused(e.to_string());
        let mut value = serde_json::to_value(desired).map_err(unwritable)?;
        let hash = format!("{:016x}", crate::context::fnv(value.to_string().as_bytes()));
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.insert(APPLIED.to_string(), Value::String(hash.clone()));
            }
        }
        let api: Api<K> = api(self.client, self.names);
        let name = desired.name_any();
        let live = api.get_opt(&name).await?;
        let same_intent = live.as_ref().is_some_and(|live| live.annotations().get(APPLIED) == Some(&hash));
        if let Some(live) = &live {
            self.may_write(live)?;
            if same_intent && contains(&serde_json::to_value(live).map_err(unwritable)?, &value) {
                return Ok(Change::None);
            }
        }
        let manager = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api.patch(&name, &manager, &Patch::Apply(&value)).await?;
        Ok(match live {
            None => Change::Created,
            Some(live) if live.resource_version() == applied.resource_version() => Change::None,
            Some(_) if same_intent => Change::Corrected,
            Some(_) => Change::Updated,
        })
    }

    /// An object of this name may be somebody else's; it is left alone.
    fn may_write<K: Resource<DynamicType = ()>>(&self, live: &K) -> Result<(), Failure> {
        if live.meta().deletion_timestamp.is_some() {
            return Err(Failure::Waiting("it is being deleted".to_string()));
        }
        let mine = self.cluster.uid();
        let owner = live.owner_references().iter().find(|owner| owner.controller == Some(true));
        match owner {
            Some(owner) if Some(&owner.uid) == mine.as_ref() => Ok(()),
            // The garbage collector takes what an earlier object of this name left.
            Some(owner)
                if owner.kind == ChronikCluster::kind(&()) && owner.name == self.cluster.name_any() =>
            {
                Err(Failure::Waiting("it belongs to an earlier cluster of this name".to_string()))
            }
            Some(owner) => Err(Failure::Refused(format!("it belongs to {} {}", owner.kind, owner.name))),
            None if live.labels().get(CLUSTER_LABEL) == Some(&self.names.cluster) => Ok(()),
            None => Err(Failure::Refused("it exists already and is not this cluster's".to_string())),
        }
    }

    fn owns<K: Resource>(&self, object: &K) -> bool {
        let mine = self.cluster.uid();
        object.owner_references().iter().any(|owner| Some(&owner.uid) == mine.as_ref())
    }

    /// Made once if it is missing; what is there is used, whoever made it.
    async fn token(&self, outcome: &mut Outcome) {
        if self.facts.token.is_some() {
            return;
        }
        let name = self.names.token();
        let mut random = [0; 32];
        if let Err(e) = getrandom::fill(&mut random) {
            outcome.refused.push(format!("Secret {name}: no randomness: {e}"));
            return;
        }
        let secret = build::token_secret(self.names, &random);
        let created = api::<Secret>(self.client, self.names).create(&PostParams::default(), &secret).await;
        match created {
            Ok(_) => outcome.created.push(format!("Secret {name}")),
            Err(Error::Api(status)) if status.is_already_exists() => {
                outcome.refused.push(format!("Secret {name}: it has no token under the key token"));
            }
            Err(e) => outcome.refused.push(format!("Secret {name}: {}", words(&e))),
        }
    }

    /// Services of listeners that are no longer there.
    async fn stale_services(&self, outcome: &mut Outcome, wanted: &[Service]) {
        let stale = self.facts.services.values().filter(|found| {
            wanted.iter().all(|w| w.name_any() != found.name_any())
                && found.metadata.deletion_timestamp.is_none()
                && self.owns(*found)
        });
        for service in stale {
            self.delete(outcome, service).await;
        }
    }

    async fn no_network_policy(&self, outcome: &mut Outcome) {
        let found = api::<NetworkPolicy>(self.client, self.names).get_opt(&self.names.brokers()).await;
        match found {
            Ok(Some(policy)) if self.owns(&policy) => self.delete(outcome, &policy).await,
            Ok(_) => (),
            Err(e) => outcome.refused.push(format!("NetworkPolicy {}: {}", self.names.brokers(), words(&e))),
        }
    }

    async fn delete<K>(&self, outcome: &mut Outcome, object: &K)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let label = format!("{} {}", K::kind(&()), object.name_any());
        let params = DeleteParams::background().preconditions(only(object.uid()));
        match api::<K>(self.client, self.names).delete(&object.name_any(), &params).await {
            Ok(_) => outcome.deleted.push(label),
            Err(Error::Api(status)) if status.is_not_found() => (),
            Err(e) => outcome.refused.push(format!("{label}: {}", words(&e))),
        }
    }

    async fn grow(&self, outcome: &mut Outcome, plan: &Plan) {
        let api = api::<PersistentVolumeClaim>(self.client, self.names);
        for grow in &plan.grow {
            let label = format!("PersistentVolumeClaim {} to {}", grow.claim, grow.size.0);
            let patch = json!({
                "metadata": {"uid": grow.uid},
                "spec": {"resources": {"requests": {"storage": grow.size}}},
            });
            match api.patch(&grow.claim, &merge(), &Patch::Merge(&patch)).await {
                Ok(_) => outcome.updated.push(label),
                Err(e) => outcome.refused.push(format!("{label}: {}", words(&e))),
            }
        }
    }

    /// A StatefulSet's claim templates cannot be changed: it keeps those it has, or makes room for its successor.
    async fn stateful_set(&self, outcome: &mut Outcome, desired: &StatefulSet, plan: &Plan) {
        let name = desired.name_any();
        let live = self.facts.stateful_sets.get(&name);
        // A claim that Kubernetes has just refused to grow would be smaller than what the successor's templates say.
        let refused = plan.grow.iter().any(|g| {
            outcome.refused.iter().any(|why| why.starts_with(&format!("PersistentVolumeClaim {} ", g.claim)))
        });
        let step = plan.recreate.get(&name).map(|step| if refused { &Recreate::Keep } else { step });
        let mut desired = desired.clone();
        if let (Some(step), Some(live), Some(spec)) = (step, live, desired.spec.as_mut()) {
            spec.volume_claim_templates =
                live.spec.as_ref().and_then(|spec| spec.volume_claim_templates.clone());
            match step {
                Recreate::Keep => (),
                Recreate::LetGoOfClaims => {
                    if let Some(policy) = &mut spec.persistent_volume_claim_retention_policy {
                        policy.when_deleted = Some("Retain".to_string());
                    }
                    outcome.waiting.push(format!("StatefulSet {name} lets go of its volume claims"));
                }
                Recreate::Delete { uid } => {
                    let params = DeleteParams::orphan().preconditions(only(Some(uid.clone())));
                    let api = api::<StatefulSet>(self.client, self.names);
                    match api.delete(&name, &params).await {
                        Ok(_) => {
                            outcome.deleted.push(format!("StatefulSet {name} (its pods and volumes stay)"));
                            outcome.sets_changed = true;
                        }
                        Err(e) => outcome.refused.push(format!("StatefulSet {name}: {}", words(&e))),
                    }
                    return;
                }
            }
        }
        outcome.sets_changed |= self.one(outcome, &desired).await;
    }
}

/// Deletes a pod, if it is still the one that was meant.
pub async fn delete_pod(client: &Client, names: &Names, pod: &str, uid: &str) -> Result<bool, Error> {
    let params = DeleteParams::default().preconditions(only(Some(uid.to_string())));
    match api::<Pod>(client, names).delete(pod, &params).await {
        Ok(_) => Ok(true),
        Err(Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        Err(e) => Err(e),
    }
}

/// Notes on a volume claim which disk it is.
pub async fn record_disk(client: &Client, names: &Names, disk: &placement::NewDisk) -> Result<(), Error> {
    let patch = json!({"metadata": {"uid": disk.claim_uid, "annotations": {DISK_UUID: disk.uuid}}});
    let api = api::<PersistentVolumeClaim>(client, names);
    match api.patch_metadata(&disk.claim, &merge(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // Another claim of the name is recorded by another look.
        Err(Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(e) => Err(e),
    }
}

/// Tells a broker where it is.
pub async fn place(client: &Client, names: &Names, change: &placement::Change) -> Result<(), Error> {
    let patch = json!({"metadata": {"uid": change.uid, "annotations": change.annotations}});
    match api::<Pod>(client, names).patch_metadata(&change.pod, &merge(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // Another pod of the name is placed by another look.
        Err(Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(e) => Err(e),
    }
}

fn merge() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_string()), ..PatchParams::default() }
}

fn only(uid: Option<String>) -> Preconditions {
    Preconditions { uid, resource_version: None }
}

/// Whether all that is wanted is there; what Kubernetes and others have added does not matter.
fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| match live.get(key) {
                Some(live) => contains(live, wanted),
                // Empty maps and lists are not kept.
                None => {
                    wanted.as_object().is_some_and(serde_json::Map::is_empty)
                        || wanted.as_array().is_some_and(Vec::is_empty)
                }
            })
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| contains(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_added_does_not_matter_and_what_they_changed_does() {
        let live = json!({"a": 1, "b": {"c": [{"x": 1, "default": true}], "d": "e"}, "status": {}});
        assert!(contains(&live, &json!({"b": {"c": [{"x": 1}]}})));
        assert!(contains(&live, &json!({"gone": {}, "b": {"nothing": []}})));
        assert!(!contains(&live, &json!({"b": {"c": [{"x": 2}]}})));
        assert!(!contains(&live, &json!({"b": {"c": []}})));
        assert!(!contains(&live, &json!({"missing": 1})));
    }
}
