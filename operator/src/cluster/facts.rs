//! What was found: Kubernetes' objects and the brokers' own words, and what they say about one broker.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::broker::admin::{Cluster, Identity, PostRestart, PreRestart, Readiness};

use super::names::{ADMIN_PORT_NAME, ADVERTISED, CONFIG_HASH, CONTAINER};

/// Everything one reconcile decides by.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// By name.
    pub stateful_sets: BTreeMap<String, StatefulSet>,
    pub pods: BTreeMap<String, Pod>,
    pub claims: BTreeMap<String, PersistentVolumeClaim>,
    pub services: BTreeMap<String, Service>,
    pub config_map: Option<ConfigMap>,
    /// The nodes that the pods are on.
    pub nodes: BTreeMap<String, Node>,
    /// `None` where they may not be read.
    pub storage_classes: Option<BTreeMap<String, StorageClass>>,
    /// The admin token.
    pub token: Option<String>,
    /// What the brokers answered, by id. A broker without an address is not in it.
    pub answers: BTreeMap<i32, Answers>,
}

/// What one broker said. An error means: do not act.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    pub readiness: Option<Readiness>,
    pub identity: Option<Identity>,
    pub cluster: Option<Cluster>,
    pub pre_restart: Option<Result<PreRestart, String>>,
    pub post_restart: Option<Result<PostRestart, String>>,
}

impl Facts {
    /// Whether an object belongs to a StatefulSet that is not this cluster's: an earlier cluster of the name left it, and
    /// the garbage collector will take it.
    pub fn is_foreign(&self, cluster_uid: &str, object: &impl ResourceExt) -> bool {
        let sets = object.owner_references().iter().filter(|owner| owner.kind == "StatefulSet");
        let ours = |uid: &str| {
            let set = self.stateful_sets.values().find(|set| set.uid().as_deref() == Some(uid));
            set.is_some_and(|set| set.owner_references().iter().any(|owner| owner.uid == cluster_uid))
        };
        sets.into_iter().any(|owner| !ours(&owner.uid))
    }
}

/// Why the broker's container does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRunning {
    /// The pod has no node.
    Unschedulable(String),
    /// The image cannot be pulled.
    Image(String),
    /// It ended, or cannot be started: the container's own last words.
    Failing(String),
    /// On its way, as far as anybody can tell.
    Waiting(String),
}

impl NotRunning {
    pub fn message(&self) -> &str {
        match self {
            NotRunning::Unschedulable(m) | NotRunning::Image(m) | NotRunning::Failing(m) => m,
            NotRunning::Waiting(m) => m,
        }
    }
}

/// What a pod is, as far as decisions need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    pub name: String,
    pub uid: String,
    pub created: Option<Timestamp>,
    pub node: Option<String>,
    pub revision: Option<String>,
    pub image: Option<String>,
    /// The ports of its listeners, by their names.
    pub listeners: Vec<(String, i32)>,
    pub config_hash: Option<String>,
    pub terminating: bool,
    pub ready: bool,
    /// Whether it has been told its address. A broker that has not has opened nothing yet.
    pub placed: bool,
    pub not_running: Option<NotRunning>,
}

impl PodFacts {
    pub fn of(pod: &Pod) -> PodFacts {
        let spec = pod.spec.as_ref();
        let container = spec.and_then(|s| s.containers.iter().find(|c| c.name == CONTAINER));
        PodFacts {
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            created: pod.creation_timestamp().map(|time| time.0),
            node: spec.and_then(|s| s.node_name.clone()).filter(|node| !node.is_empty()),
            revision: pod.labels().get("controller-revision-hash").cloned(),
            image: container.and_then(|c| c.image.clone()),
            listeners: container
                .and_then(|c| c.ports.as_ref())
                .into_iter()
                .flatten()
                .filter_map(|port| Some((port.name.clone()?, port.container_port)))
                .filter(|(name, _)| name != ADMIN_PORT_NAME)
                .collect(),
            config_hash: pod.annotations().get(CONFIG_HASH).cloned(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            ready: condition(pod, "Ready").is_some_and(|(status, _, _)| status == "True"),
            placed: pod.annotations().get(ADVERTISED).is_some_and(|listeners| !listeners.is_empty()),
            not_running: not_running(pod),
        }
    }
}

/// A pod's condition: status, reason, message.
fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let found = pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)?;
    let text = |text: &'a Option<String>| text.as_deref().unwrap_or_default();
    Some((&found.status, text(&found.reason), text(&found.message)))
}

fn broker_container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|c| c.name == CONTAINER)
}

/// Why the broker's container does not run; `None` where it does.
fn not_running(pod: &Pod) -> Option<NotRunning> {
    if let Some(("False", reason, message)) = condition(pod, "PodScheduled") {
        return Some(NotRunning::Unschedulable(sentence(reason, message)));
    }
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    let Some(container) = broker_container(pod) else {
        // A pod that the node itself ended (evicted, out of resources) has no container to tell why.
        let status = pod.status.as_ref();
        let text = |of: Option<&String>| of.cloned().unwrap_or_default();
        let why = sentence(
            &text(status.and_then(|s| s.reason.as_ref())),
            &text(status.and_then(|s| s.message.as_ref())),
        );
        return Some(match phase {
            "Failed" => NotRunning::Failing(why),
            _ if pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()) => {
                NotRunning::Waiting("the pod has not been started yet".to_string())
            }
            _ => NotRunning::Waiting("the pod has no node yet".to_string()),
        });
    };
    let state = container.state.as_ref()?;
    if state.running.is_some() {
        return None;
    }
    if let Some(ended) = &state.terminated {
        return Some(NotRunning::Failing(last_words(ended.exit_code, ended.message.as_deref())));
    }
    let waiting = state.waiting.as_ref();
    let reason = waiting.and_then(|w| w.reason.as_deref()).unwrap_or_default();
    let message = waiting.and_then(|w| w.message.as_deref()).unwrap_or_default();
    let why = sentence(reason, message);
    Some(match reason {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable" => NotRunning::Image(why),
        "CrashLoopBackOff" => {
            let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
            NotRunning::Failing(last.map_or(why, |l| last_words(l.exit_code, l.message.as_deref())))
        }
        "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "PostStartHookError" => NotRunning::Failing(why),
        _ => NotRunning::Waiting(why),
    })
}

/// The last line that a container wrote before it ended, which for a broker says why.
fn last_words(exit_code: i32, message: Option<&str>) -> String {
    let mut lines = message.unwrap_or_default().lines().map(str::trim);
    match lines.rfind(|line| !line.is_empty()) {
        Some(line) => format!("exit status {exit_code}: {}", crate::context::cut(line.to_string(), 700)),
        None => format!("exit status {exit_code}"),
    }
}

fn sentence(reason: &str, message: &str) -> String {
    let text = match (reason.is_empty(), message.is_empty()) {
        (_, true) => reason.to_string(),
        (true, false) => message.to_string(),
        (false, false) => format!("{reason}: {message}"),
    };
    crate::context::cut(text, 800)
}

/// The revision that the pods of a StatefulSet shall have. `None` while its controller has not looked at the newest
/// template.
pub fn wanted_revision(set: &StatefulSet) -> Option<&str> {
    let status = set.status.as_ref()?;
    let seen = status.observed_generation >= set.metadata.generation;
    status.update_revision.as_deref().filter(|_| seen)
}

#[cfg(test)]
pub mod testing {
    //! Pods as tests need them.

    use super::*;

    /// A pod on a node, whose broker container has this state.
    pub fn pod(state: serde_json::Value) -> Pod {
        let pod = serde_json::json!({
            "metadata": {"name": "demo-main-0", "namespace": "shop", "uid": "pod-1",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"controller-revision-hash": "r1", "chronik.io/cluster": "demo"},
                "annotations": {"chronik.io/config-hash": "c1"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "broker", "image": "i"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [state]},
        });
        serde_json::from_value(pod).unwrap()
    }

    pub fn container(state: serde_json::Value) -> serde_json::Value {
        serde_json::json!({"name": "broker", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": state})
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::testing::{container, pod};
    use super::*;

    #[test]
    fn a_container_that_does_not_run_says_why() {
        let of = |state| PodFacts::of(&pod(container(state))).not_running;
        assert_eq!(of(json!({"running": {}})), None);
        assert_eq!(
            of(json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})),
            Some(NotRunning::Image("ImagePullBackOff: no such image".into()))
        );
        assert_eq!(
            of(json!({"waiting": {"reason": "ContainerCreating"}})),
            Some(NotRunning::Waiting("ContainerCreating".into()))
        );
        let ended =
            json!({"terminated": {"exitCode": 1, "message": "INFO up\nchronik: unknown key \"x\"\n\n"}});
        assert_eq!(of(ended), Some(NotRunning::Failing("exit status 1: chronik: unknown key \"x\"".into())));
    }

    #[test]
    fn a_crash_loop_shows_the_last_words_and_not_the_back_off() {
        let mut status =
            container(json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m"}}));
        status["lastState"] =
            json!({"terminated": {"exitCode": 1, "message": "chronik: the disk is another's"}});
        assert_eq!(
            PodFacts::of(&pod(status)).not_running,
            Some(NotRunning::Failing("exit status 1: chronik: the disk is another's".into()))
        );
    }

    #[test]
    fn a_pod_without_a_node_is_unschedulable_once_the_scheduler_said_so() {
        let mut pending = pod(container(json!({})));
        pending.spec.as_mut().unwrap().node_name = None;
        pending.status = serde_json::from_value(json!({"phase": "Pending"})).unwrap();
        assert!(matches!(PodFacts::of(&pending).not_running, Some(NotRunning::Waiting(_))));
        pending.status = serde_json::from_value(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}))
        .unwrap();
        assert_eq!(
            PodFacts::of(&pending).not_running,
            Some(NotRunning::Unschedulable("Unschedulable: 0/3 nodes".into()))
        );
    }

    #[test]
    fn an_evicted_pod_is_failing() {
        let mut evicted = pod(container(json!({})));
        evicted.status = serde_json::from_value(
            json!({"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"}),
        )
        .unwrap();
        assert_eq!(
            PodFacts::of(&evicted).not_running,
            Some(NotRunning::Failing("Evicted: the node was low on memory".into()))
        );
    }

    #[test]
    fn a_revision_counts_once_the_controller_has_seen_the_template() {
        let set = |generation, observed| -> StatefulSet {
            serde_json::from_value(json!({
                "metadata": {"generation": generation},
                "status": {"observedGeneration": observed, "updateRevision": "r2", "replicas": 1},
            }))
            .unwrap()
        };
        assert_eq!(wanted_revision(&set(2, 1)), None);
        assert_eq!(wanted_revision(&set(2, 2)), Some("r2"));
    }
}
