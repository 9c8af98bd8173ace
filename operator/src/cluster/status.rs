//! What is told about a cluster. Pure: facts and outcomes in, status out.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::crd::cluster::{BrokerStatus, ChronikClusterStatus, Engine, ListenerStatus, ListenerType, Pool};
use crate::crd::{ChronikCluster, conditions};

use super::apply;
use super::build::node_port;
use super::facts::{Answers, Facts, NotRunning, PodFacts};
use super::live;
use super::names::{self, Names};
use super::placement::{host_port, known_disk, outside_host};
use super::roll::{self, Decision, Verdict};

/// Why nothing is applied at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub reason: &'static str,
    pub message: String,
}

pub struct Input<'a> {
    pub now: Time,
    pub cluster: &'a ChronikCluster,
    pub names: &'a Names,
    pub facts: &'a Facts,
    pub cluster_id: Option<&'a str>,
    pub hold: Option<&'a Hold>,
    pub verdict: &'a Verdict,
    pub applied: &'a apply::Outcome,
    /// Volumes that cannot grow, and why.
    pub cannot_grow: &'a [String],
    pub decision: &'a Decision,
    /// Whether it is not known yet what a pod shall be.
    pub unsure: bool,
    pub live: &'a live::Outcome,
    /// What keeps brokers from being told their address.
    pub unplaced: &'a BTreeMap<i32, String>,
}

/// One answer to "why": a condition's reason and message.
type Why = (&'static str, String);

pub fn status(input: &Input<'_>) -> ChronikClusterStatus {
    let old = input.cluster.status.clone().unwrap_or_default();
    let brokers: Vec<BrokerStatus> =
        names::brokers(input.cluster).into_iter().map(|(id, pool)| broker(input, pool, id)).collect();
    let ready = brokers.iter().filter(|b| b.phase == "Ready").count();
    let engines: BTreeSet<&str> = brokers.iter().filter_map(|b| b.wal_engine.as_deref()).collect();
    let mut status = ChronikClusterStatus {
        observed_generation: input.cluster.metadata.generation,
        cluster_id: input.cluster_id.map(str::to_string).or(old.cluster_id),
        ready: Some(format!("{ready}/{}", brokers.len())),
        wal_engine: Some(engines.into_iter().collect::<Vec<_>>().join(", ")).filter(|e| !e.is_empty()),
        listeners: listeners(input),
        operation: match input.decision {
            Decision::Nothing => None,
            Decision::Wait(operation) => Some(operation.clone()),
            Decision::Delete(delete) => Some(delete.operation.clone()),
        },
        conditions: old.conditions,
        brokers,
    };
    let trouble = trouble(input, &status.brokers);
    let mut set = |kind: &str, is: bool, (reason, message): Why| {
        let generation = input.cluster.metadata.generation;
        conditions::set(&mut status.conditions, &input.now, generation, kind, is, reason, message);
    };
    match &trouble {
        None => set("Ready", true, ("Ready", "all brokers run as the spec says".to_string())),
        Some((reason, message)) => set("Ready", false, (reason, message.clone())),
    }
    let (available, why) = available(input);
    set("Available", available, why);
    let (progressing, why) = progressing(input);
    set("Progressing", progressing, why);
    let (degraded, why) = degraded(input, trouble.as_ref());
    set("Degraded", degraded, why);
    let (applied, why) = config_applied(input);
    set("ConfigApplied", applied, why);
    set("Paused", input.cluster.spec.paused, paused(input));
    if let Some((runs, why)) = wal_engine(input, &status.brokers, &status.conditions) {
        let generation = input.cluster.metadata.generation;
        conditions::set(&mut status.conditions, &input.now, generation, "WalEngine", runs, why.0, why.1);
    }
    status
}

/// One broker, with the disk that is on record for it.
fn broker(input: &Input<'_>, pool: &Pool, id: i32) -> BrokerStatus {
    let pod_name = input.names.pod(&pool.name, id);
    let pod = input.facts.pods.get(&pod_name).map(PodFacts::of);
    let answers = input.facts.answers.get(&id);
    let identity = answers.and_then(|a| a.identity.as_ref());
    let (phase, message) = phase(input, id, pod.as_ref(), answers);
    BrokerStatus {
        id,
        pod: pod_name,
        node: pod.as_ref().and_then(|pod| pod.node.clone()),
        disk_uuid: known_disk(input.names, input.facts, pool, id)
            .cloned()
            .or_else(|| identity.map(|identity| identity.disk_uuid.clone())),
        wal_engine: identity.map(|identity| identity.wal_engine.clone()),
        version: identity.map(|identity| identity.version.clone()),
        phase: phase.to_string(),
        message,
        under_replicated: answers.and_then(|a| Some(a.cluster.as_ref()?.partitions.under_replicated)),
        config_hash: identity.map(|identity| identity.config_hash.clone()),
    }
}

fn phase(
    input: &Input<'_>,
    id: i32,
    pod: Option<&PodFacts>,
    answers: Option<&Answers>,
) -> (&'static str, Option<String>) {
    let Some(pod) = pod else { return ("Missing", None) };
    if pod.terminating {
        return ("Stopping", None);
    }
    match &pod.not_running {
        Some(NotRunning::Unschedulable(why)) => ("Pending", Some(why.clone())),
        Some(NotRunning::Waiting(why)) => ("Pending", Some(why.clone())),
        Some(NotRunning::Image(why) | NotRunning::Failing(why)) => ("Failing", Some(why.clone())),
        None if pod.ready => ("Ready", None),
        None => {
            let own = answers.and_then(|a| a.readiness.as_ref()).map(|r| r.reasons.join("; "));
            let why = input.unplaced.get(&id).cloned().or(own).filter(|why| !why.is_empty());
            ("Starting", why)
        }
    }
}

/// Why the cluster is not as its spec says; the gravest first.
fn trouble(input: &Input<'_>, brokers: &[BrokerStatus]) -> Option<Why> {
    if let Some(hold) = input.hold {
        return Some((hold.reason, hold.message.clone()));
    }
    if let Verdict::Invalid(errors) = input.verdict {
        let what = "the brokers go on with the configuration they have";
        return Some(("InvalidConfig", format!("{}; {what}", errors.join("; "))));
    }
    if let live::Outcome::Refused { settings, .. } = input.live
        && !settings.is_empty()
    {
        return Some(("InvalidConfig", settings.join("; ")));
    }
    if let Some(why) =
        names::brokers(input.cluster).into_iter().find_map(|(id, pool)| standstill(input, id, &pool.name))
    {
        return Some(why);
    }
    if !input.applied.refused.is_empty() {
        return Some(("ApplyRefused", format!("Kubernetes refused {}", input.applied.refused.join("; "))));
    }
    match input.decision {
        Decision::Wait(operation) => return Some(("Rolling", told(operation))),
        Decision::Delete(delete) => return Some(("Rolling", told(&delete.operation))),
        Decision::Nothing => (),
    }
    if let Some(broker) = brokers.iter().find(|b| b.phase != "Ready") {
        let why = broker.message.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        return Some(("Starting", format!("broker {} is {}{why}", broker.id, broker.phase.to_lowercase())));
    }
    if input.unsure || input.applied.sets_changed {
        return Some(("Rolling", "it is not known yet which brokers have to be restarted".to_string()));
    }
    if let Verdict::Unknown(why) = input.verdict {
        return Some(("Rolling", format!("the new configuration is not checked: {why}")));
    }
    match input.live {
        live::Outcome::NotAsked if !input.cluster.spec.paused => {
            Some(("Starting", "the live settings are not applied yet".to_string()))
        }
        live::Outcome::Unreachable(why) => {
            Some(("Starting", format!("the live settings are not applied: {why}")))
        }
        _ => None,
    }
}

fn told(operation: &crate::crd::cluster::Operation) -> String {
    let waits = operation.blocked_by.join("; ");
    let colon = if waits.is_empty() { "" } else { ": " };
    format!("{} of broker {}, {}{colon}{waits}", operation.kind, operation.broker_id, operation.step)
}

/// Why a broker cannot run, if it cannot.
fn standstill(input: &Input<'_>, id: i32, pool: &str) -> Option<Why> {
    let pod = PodFacts::of(input.facts.pods.get(&input.names.pod(pool, id))?);
    let not_running = pod.not_running.filter(|_| !pod.terminating)?;
    let name = &pod.name;
    match not_running {
        NotRunning::Image(why) => Some(("ImagePull", format!("{name}: {why}"))),
        NotRunning::Failing(why) => Some(("BrokerFailing", format!("{name}: {why}"))),
        NotRunning::Unschedulable(why) => {
            Some(volumes(input, id).unwrap_or(("Unschedulable", format!("{name}: {why}"))))
        }
        NotRunning::Waiting(_) => volumes(input, id),
    }
}

/// What a broker's volumes wait for. One that is bound only when its pod has a node waits for nothing of its own.
fn volumes(input: &Input<'_>, id: i32) -> Option<Why> {
    let pool = names::brokers(input.cluster).remove(&id)?;
    for name in input.names.claims(pool, id) {
        let Some(claim) = input.facts.claims.get(&name) else { continue };
        let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
        if phase == "Bound" {
            continue;
        }
        let class = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
        let classes = input.facts.storage_classes.as_ref();
        match (class, classes) {
            (Some(class), Some(classes)) if !class.is_empty() => match classes.get(class) {
                None => {
                    let message = format!("volume claim {name}: there is no StorageClass {class}");
                    return Some(("StorageClassMissing", message));
                }
                Some(found) if found.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer") => {
                    let node = kube::ResourceExt::annotations(claim)
                        .get("volume.kubernetes.io/selected-node")
                        .filter(|node| !node.is_empty());
                    if let Some(node) = node {
                        let message = format!("volume claim {name} waits for its volume on node {node}");
                        return Some(("VolumePending", message));
                    }
                }
                Some(_) => {
                    return Some((
                        "VolumePending",
                        format!("volume claim {name} is not bound to a volume yet"),
                    ));
                }
            },
            (None, Some(classes)) if !classes.values().any(is_default) => {
                let message = format!("volume claim {name}: there is no default StorageClass");
                return Some(("StorageClassMissing", message));
            }
            _ => (),
        }
    }
    None
}

pub fn is_default(class: &k8s_openapi::api::storage::v1::StorageClass) -> bool {
    let default = kube::ResourceExt::annotations(class).get("storageclass.kubernetes.io/is-default-class");
    default.is_some_and(|is| is == "true")
}

/// Whether a client can produce: every broker is up, registered and not fenced.
fn available(input: &Input<'_>) -> (bool, Why) {
    let told = input.facts.answers.values().find_map(|answers| answers.cluster.as_ref());
    let Some(cluster) = told else {
        return (false, ("NoBroker", "no broker tells about the cluster".to_string()));
    };
    for (id, pool) in names::brokers(input.cluster) {
        let pod = input.facts.pods.get(&input.names.pod(&pool.name, id)).map(PodFacts::of);
        if !pod.is_some_and(|pod| pod.ready) {
            return (false, ("BrokerNotReady", format!("broker {id} is not ready")));
        }
        match cluster.brokers.iter().find(|b| b.id == id) {
            None => return (false, ("NotRegistered", format!("broker {id} is not registered"))),
            Some(broker) if broker.fenced => return (false, ("Fenced", format!("broker {id} is fenced"))),
            Some(_) => (),
        }
    }
    (true, ("Available", "all brokers are registered".to_string()))
}

fn progressing(input: &Input<'_>) -> (bool, Why) {
    let operation = match input.decision {
        Decision::Nothing => return (false, ("Idle", "nothing is under way".to_string())),
        Decision::Wait(operation) => operation,
        Decision::Delete(delete) => &delete.operation,
    };
    let reason = match operation.kind.as_str() {
        "Restart" => "Restart",
        "Recreate" => "Recreate",
        _ => "Roll",
    };
    (true, (reason, told(operation)))
}

/// What needs a human.
fn degraded(input: &Input<'_>, trouble: Option<&Why>) -> (bool, Why) {
    const FOR_HUMANS: [&str; 7] = [
        "ApplyRefused",
        "BrokerFailing",
        "ImagePull",
        "Unschedulable",
        "StorageClassMissing",
        "InvalidConfig",
        "ClusterIdUnknown",
    ];
    let mut found: Vec<Why> =
        trouble.filter(|(reason, _)| FOR_HUMANS.contains(reason)).cloned().into_iter().collect();
    if !input.cannot_grow.is_empty() {
        found.push(("VolumeCannotGrow", input.cannot_grow.join("; ")));
    }
    if !input.applied.refused.is_empty() {
        found.push(("ApplyRefused", input.applied.refused.join("; ")));
    }
    if let live::Outcome::Refused { removals, .. } = input.live
        && !removals.is_empty()
    {
        found.push(("ProfileInUse", removals.join("; ")));
    }
    for (id, pool) in names::brokers(input.cluster) {
        let Some(disk) = known_disk(input.names, input.facts, pool, id) else { continue };
        let now = input.facts.answers.get(&id).and_then(|a| a.identity.as_ref()).map(|i| &i.disk_uuid);
        if now.is_some_and(|now| now != disk) {
            found.push(("DiskReplaced", format!("broker {id} is on another disk than {disk}")));
        }
    }
    let lost = input.facts.answers.iter().find_map(|(id, answers)| {
        let fenced = answers.cluster.as_ref()?.partitions.fenced;
        (fenced > 0).then(|| format!("broker {id} does not serve {fenced} partitions: records are lost"))
    });
    found.extend(lost.map(|why| ("RecordsLost", why)));
    let mut found = found.into_iter();
    let Some((reason, message)) = found.next() else {
        return (false, ("AsExpected", "nothing needs a human".to_string()));
    };
    let more = found.map(|(_, message)| message).filter(|more| *more != message);
    let message = std::iter::once(message.clone()).chain(more).collect::<Vec<_>>().join("; ");
    (true, (reason, message))
}

fn config_applied(input: &Input<'_>) -> (bool, Why) {
    match input.live {
        live::Outcome::Applied { .. } => {
            (true, ("Applied", "live settings and WAL profiles are as the spec says".to_string()))
        }
        live::Outcome::Refused { settings, removals, .. } => {
            let reason = if settings.is_empty() { "ProfileInUse" } else { "Refused" };
            let all: Vec<String> = settings.iter().chain(removals).cloned().collect();
            (false, (reason, all.join("; ")))
        }
        live::Outcome::Unreachable(why) => (false, ("BrokerUnreachable", why.clone())),
        live::Outcome::NotAsked if input.cluster.spec.paused => {
            (false, ("Paused", "nothing is changed while the cluster is paused".to_string()))
        }
        live::Outcome::NotAsked => (false, ("NoBroker", "no broker is ready".to_string())),
    }
}

fn paused(input: &Input<'_>) -> Why {
    if input.cluster.spec.paused {
        ("Paused", "nothing is changed until spec.paused is false".to_string())
    } else {
        ("Running", "the operator keeps the cluster as its spec says".to_string())
    }
}

/// `None` leaves the condition as it was: a broker that restarts has not changed its engine.
fn wal_engine(input: &Input<'_>, brokers: &[BrokerStatus], before: &[Condition]) -> Option<(bool, Why)> {
    let engines: BTreeSet<&str> = brokers.iter().filter_map(|b| b.wal_engine.as_deref()).collect();
    let required = input.cluster.spec.io.engine == Engine::Required;
    let failing = brokers.iter().find(|b| b.phase == "Failing").and_then(|b| b.message.clone());
    if engines.is_empty() {
        if failing.is_none() && before.iter().any(|c| c.type_ == "WalEngine") {
            return None;
        }
        let why = failing.unwrap_or_else(|| "no broker has said which engine it runs".to_string());
        return Some((false, ("Unavailable", why)));
    }
    let reasons = input.facts.answers.values().filter_map(|a| a.identity.as_ref());
    let reasons: BTreeSet<&str> = reasons.map(|i| i.wal_engine_reason.as_str()).collect();
    let message = reasons.into_iter().collect::<Vec<_>>().join("; ");
    Some(match (engines.iter().all(|engine| *engine == "io_uring"), required) {
        (true, _) => (true, ("IoUring", message)),
        (false, true) => (false, ("Unavailable", message)),
        (false, false) => (true, ("Pwrite", message)),
    })
}

/// Where clients begin.
fn listeners(input: &Input<'_>) -> Vec<ListenerStatus> {
    let each = input.cluster.spec.listeners.iter().map(|listener| {
        let bootstrap = match listener.kind {
            ListenerType::Internal => Some(host_port(&input.names.bootstrap_host(), listener.port)),
            ListenerType::Nodeport => {
                let service = input.names.listener_bootstrap(&listener.name);
                let port = node_port(&input.facts.services, &service, &listener.name);
                let hosts: BTreeSet<String> = names::brokers(input.cluster)
                    .into_iter()
                    .filter_map(|(id, pool)| {
                        let pod = input.facts.pods.get(&input.names.pod(&pool.name, id))?;
                        let node = input.facts.nodes.get(&PodFacts::of(pod).node?)?;
                        outside_host(listener, id, node).ok()
                    })
                    .collect();
                let at = |port| hosts.iter().map(|host| host_port(host, port)).collect::<Vec<_>>().join(",");
                port.map(at).filter(|addresses| !addresses.is_empty())
            }
        };
        ListenerStatus { name: listener.name.clone(), kind: listener.kind, bootstrap }
    });
    each.collect()
}

/// What the roll decides by, from the facts.
pub fn roll_brokers(
    cluster: &ChronikCluster,
    names: &Names,
    facts: &Facts,
    wanted: impl Fn(&str) -> Option<roll::Wanted>,
) -> Vec<roll::Broker> {
    let controller = facts.answers.values().find_map(|answers| answers.cluster.as_ref()?.controller_id);
    let brokers = names::brokers(cluster).into_iter().map(|(id, pool)| {
        let pod_name = names.pod(&pool.name, id);
        let answers = facts.answers.get(&id);
        roll::Broker {
            id,
            pod: facts.pods.get(&pod_name).map(PodFacts::of),
            pod_name,
            wanted: wanted(&names.stateful_set(&pool.name)),
            controller: controller == Some(id),
            waits_for: answers
                .and_then(|a| a.readiness.as_ref())
                .map(|r| r.reasons.clone())
                .unwrap_or_default(),
            pre_restart: answers.and_then(|a| a.pre_restart.clone()),
            post_restart: answers.and_then(|a| a.post_restart.clone()),
        }
    });
    brokers.collect()
}

#[cfg(test)]
mod tests;
