//! What is told, by what was found.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Resource;
use serde_json::json;

use super::*;
use crate::broker::admin::{self, ClusterBroker, Identity, Readiness};
use crate::cluster::build::tests::{outside, small};
use crate::cluster::facts::testing::{container, pod};
use crate::crd::cluster::Operation;

/// Everything a status is told from, as owned values.
struct World {
    cluster: ChronikCluster,
    facts: Facts,
    hold: Option<Hold>,
    verdict: Verdict,
    applied: apply::Outcome,
    cannot_grow: Vec<String>,
    decision: Decision,
    unsure: bool,
    live: live::Outcome,
    unplaced: BTreeMap<i32, String>,
    now: Time,
}

fn at(time: &str) -> Time {
    Time(time.parse().unwrap())
}

/// One broker that serves, as the spec says.
fn well() -> World {
    let mut running = pod(container(json!({"running": {}})));
    ready(&mut running, true);
    let identity = Identity {
        broker_id: 0,
        disk_uuid: "disk-1".into(),
        version: "0.1.0".into(),
        wal_engine: "io_uring".into(),
        wal_engine_reason: "the kernel offers io_uring".into(),
        config_hash: "h".into(),
        ..Identity::default()
    };
    let cluster = admin::Cluster {
        brokers: vec![ClusterBroker { id: 0, fenced: false, listeners: vec![] }],
        ..admin::Cluster::default()
    };
    let answers = Answers {
        readiness: Some(Readiness { ready: true, reasons: vec![] }),
        identity: Some(identity),
        cluster: Some(cluster),
        ..Answers::default()
    };
    World {
        cluster: small(),
        facts: Facts {
            pods: BTreeMap::from([("demo-main-0".to_string(), running)]),
            answers: BTreeMap::from([(0, answers)]),
            storage_classes: Some(BTreeMap::new()),
            ..Facts::default()
        },
        hold: None,
        verdict: Verdict::NotNeeded,
        applied: apply::Outcome::default(),
        cannot_grow: vec![],
        decision: Decision::Nothing,
        unsure: false,
        live: live::Outcome::Applied { altered: vec![] },
        unplaced: BTreeMap::new(),
        now: at("2026-01-01T12:00:00Z"),
    }
}

fn ready(pod: &mut Pod, is: bool) {
    let condition = json!([{"type": "Ready", "status": if is { "True" } else { "False" }}]);
    pod.status.as_mut().unwrap().conditions = serde_json::from_value(condition).unwrap();
}

impl World {
    fn status(&self) -> ChronikClusterStatus {
        status(&Input {
            now: self.now.clone(),
            cluster: &self.cluster,
            names: &Names::of(&self.cluster, "cluster.local"),
            facts: &self.facts,
            cluster_id: Some("id"),
            hold: self.hold.as_ref(),
            verdict: &self.verdict,
            applied: &self.applied,
            cannot_grow: &self.cannot_grow,
            decision: &self.decision,
            unsure: self.unsure,
            live: &self.live,
            unplaced: &self.unplaced,
        })
    }

    /// A pod whose container has this state, and a broker that is silent.
    fn stands_still(state: serde_json::Value) -> World {
        let mut world = well();
        world.facts.pods.insert("demo-main-0".into(), pod(container(state)));
        world.facts.answers.clear();
        world.live = live::Outcome::NotAsked;
        world
    }

    fn claim(&mut self, claim: serde_json::Value) {
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        self.facts.claims.insert("data-demo-main-0".into(), claim);
    }

    fn class(&mut self, class: serde_json::Value) {
        let class: StorageClass = serde_json::from_value(class).unwrap();
        self.facts.storage_classes.as_mut().unwrap().insert("local".into(), class);
    }
}

fn condition<'a>(status: &'a ChronikClusterStatus, kind: &str) -> (&'a str, &'a str, &'a str) {
    let found = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
    (&found.status, &found.reason, &found.message)
}

fn reason<'a>(status: &'a ChronikClusterStatus, kind: &str) -> (&'a str, &'a str) {
    let (status, reason, _) = condition(status, kind);
    (status, reason)
}

#[test]
fn all_is_well() {
    let status = well().status();
    for (kind, expected) in [
        ("Ready", ("True", "Ready")),
        ("Available", ("True", "Available")),
        ("Progressing", ("False", "Idle")),
        ("Degraded", ("False", "AsExpected")),
        ("ConfigApplied", ("True", "Applied")),
        ("WalEngine", ("True", "IoUring")),
        ("Paused", ("False", "Running")),
    ] {
        assert_eq!(reason(&status, kind), expected, "{kind}");
    }
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(status.cluster_id.as_deref(), Some("id"));
    assert_eq!((status.ready.as_deref(), status.wal_engine.as_deref()), (Some("1/1"), Some("io_uring")));
    let broker = &status.brokers[0];
    assert_eq!((broker.phase.as_str(), broker.disk_uuid.as_deref()), ("Ready", Some("disk-1")));
    assert_eq!(status.listeners[0].bootstrap.as_deref(), Some("demo-bootstrap.shop.svc.cluster.local:9092"));
    assert!(status.conditions.iter().all(|c| c.observed_generation == Some(1)));
}

#[test]
fn transition_times_change_with_the_status_and_only_then() {
    let mut world = well();
    world.cluster.status = Some(world.status());
    world.now = at("2026-01-01T13:00:00Z");
    assert_eq!(world.status(), *world.cluster.status.as_ref().unwrap(), "nothing new is nothing to write");
    world.decision = Decision::Wait(Operation { kind: "Roll".into(), ..Operation::default() });
    let status = world.status();
    let since =
        |kind: &str| status.conditions.iter().find(|c| c.type_ == kind).unwrap().last_transition_time.clone();
    assert_eq!(since("Ready"), at("2026-01-01T13:00:00Z"));
    assert_eq!(since("Available"), at("2026-01-01T12:00:00Z"));
}

#[test]
fn a_broker_that_cannot_run_says_why() {
    let image = World::stands_still(json!({"waiting": {"reason": "ErrImagePull", "message": "no such"}}));
    let status = image.status();
    assert_eq!(reason(&status, "Ready"), ("False", "ImagePull"));
    assert_eq!(reason(&status, "Degraded"), ("True", "ImagePull"));
    assert_eq!(reason(&status, "Available"), ("False", "NoBroker"));
    assert_eq!(status.brokers[0].phase, "Failing");

    let mut failing = World::stands_still(
        json!({"terminated": {"exitCode": 1, "message": "chronik: io_uring is required: EPERM"}}),
    );
    failing.cluster.spec.io.engine = Engine::Required;
    let status = failing.status();
    assert_eq!(reason(&status, "Ready"), ("False", "BrokerFailing"));
    assert!(condition(&status, "Ready").2.contains("EPERM"));
    assert_eq!(reason(&status, "WalEngine"), ("False", "Unavailable"));
    assert!(condition(&status, "WalEngine").2.contains("EPERM"));
}

#[test]
fn what_a_pod_without_a_node_waits_for_is_told_apart() {
    let mut world = World::stands_still(json!({"waiting": {"reason": "x"}}));
    let pending = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"}]});
    world.facts.pods.get_mut("demo-main-0").unwrap().status = serde_json::from_value(pending).unwrap();
    assert_eq!(reason(&world.status(), "Ready"), ("False", "Unschedulable"));

    let claim = json!({"metadata": {"name": "data-demo-main-0"}, "spec": {"storageClassName": "local"},
        "status": {"phase": "Pending"}});
    world.claim(claim);
    assert_eq!(reason(&world.status(), "Ready"), ("False", "StorageClassMissing"));
    assert_eq!(reason(&world.status(), "Degraded"), ("True", "StorageClassMissing"));
    world.class(json!({"metadata": {"name": "local"}, "provisioner": "p", "volumeBindingMode": "Immediate"}));
    assert_eq!(reason(&world.status(), "Ready"), ("False", "VolumePending"));
    // Bound only when the pod has a node: then it is the scheduler that tells what is missing.
    world.class(
        json!({"metadata": {"name": "local"}, "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer"}),
    );
    assert_eq!(reason(&world.status(), "Ready"), ("False", "Unschedulable"));
    world.claim(json!({"metadata": {"name": "data-demo-main-0"}, "spec": {}}));
    assert_eq!(reason(&world.status(), "Ready"), ("False", "StorageClassMissing"));
}

#[test]
fn a_broker_that_starts_says_what_it_waits_for() {
    let mut world = well();
    ready(world.facts.pods.get_mut("demo-main-0").unwrap(), false);
    let reasons = vec!["log-recovered: 1 of 2".to_string()];
    let answers = Answers { readiness: Some(Readiness { ready: false, reasons }), ..Answers::default() };
    world.facts.answers.insert(0, answers);
    world.live = live::Outcome::NotAsked;
    let status = world.status();
    assert_eq!(reason(&status, "Ready"), ("False", "Starting"));
    assert!(condition(&status, "Ready").2.contains("log-recovered"));
    assert_eq!(reason(&status, "Degraded").0, "False");
    world.unplaced.insert(0, "Service demo-outside-0 has no node port yet".into());
    assert!(condition(&world.status(), "Ready").2.contains("node port"));
}

#[test]
fn a_bad_configuration_leaves_the_cluster_available_and_not_ready() {
    let mut world = well();
    world.verdict = Verdict::Invalid(vec!["num.partitions=\"x\": not a number".into()]);
    let status = world.status();
    assert_eq!(reason(&status, "Ready"), ("False", "InvalidConfig"));
    assert_eq!(reason(&status, "Available").0, "True");
    assert_eq!(reason(&status, "Degraded"), ("True", "InvalidConfig"));

    let mut world = well();
    world.live =
        live::Outcome::Refused { settings: vec!["INVALID_CONFIG".into()], removals: vec![], altered: vec![] };
    let status = world.status();
    assert_eq!(reason(&status, "Ready"), ("False", "InvalidConfig"));
    assert_eq!(reason(&status, "ConfigApplied"), ("False", "Refused"));

    let mut world = well();
    world.applied.refused = vec!["Service x: the port is taken".into()];
    assert_eq!(reason(&world.status(), "Ready"), ("False", "ApplyRefused"));
    assert!(condition(&world.status(), "Degraded").2.contains("the port is taken"));
}

#[test]
fn a_profile_in_use_and_a_volume_that_cannot_grow_do_not_stop_the_cluster() {
    let mut world = well();
    world.live = live::Outcome::Refused {
        settings: vec![],
        removals: vec!["profile old is in use by topic t".into()],
        altered: vec![],
    };
    let status = world.status();
    assert_eq!(reason(&status, "ConfigApplied"), ("False", "ProfileInUse"));
    assert_eq!(reason(&status, "Ready"), ("True", "Ready"));
    assert_eq!(reason(&status, "Degraded"), ("True", "ProfileInUse"));

    let mut world = well();
    world.cannot_grow = vec!["data-demo-main-0 cannot grow".into()];
    assert_eq!(reason(&world.status(), "Degraded"), ("True", "VolumeCannotGrow"));
    assert_eq!(reason(&world.status(), "Ready"), ("True", "Ready"));
}

#[test]
fn what_is_under_way_is_told_with_what_it_waits_for() {
    let mut world = well();
    let operation = Operation {
        kind: "Roll".into(),
        broker_id: 0,
        step: "PreRestart".into(),
        started_at: None,
        blocked_by: vec!["t-3: would go offline".into()],
    };
    world.decision = Decision::Wait(operation.clone());
    let status = world.status();
    assert_eq!(status.operation, Some(operation));
    assert_eq!(reason(&status, "Ready"), ("False", "Rolling"));
    assert_eq!(reason(&status, "Progressing"), ("True", "Roll"));
    assert!(condition(&status, "Progressing").2.contains("t-3: would go offline"));
    // A change that nobody has looked at yet is not ready either.
    let mut world = well();
    world.applied.sets_changed = true;
    assert_eq!(reason(&world.status(), "Ready"), ("False", "Rolling"));
    let mut world = well();
    world.unsure = true;
    assert_eq!(reason(&world.status(), "Ready"), ("False", "Rolling"));
}

#[test]
fn the_first_disk_stays_on_record() {
    let mut world = well();
    let claim = json!({"metadata": {"name": "data-demo-main-0", "annotations": {"chronik.io/disk-uuid": "disk-1"}},
        "status": {"phase": "Bound"}});
    world.facts.claims.insert("data-demo-main-0".into(), serde_json::from_value(claim).unwrap());
    world.facts.answers.get_mut(&0).unwrap().identity.as_mut().unwrap().disk_uuid = "disk-2".into();
    let status = world.status();
    assert_eq!(status.brokers[0].disk_uuid.as_deref(), Some("disk-1"));
    assert_eq!(reason(&status, "Degraded"), ("True", "DiskReplaced"));
    world.facts.answers.clear();
    assert_eq!(world.status().brokers[0].disk_uuid.as_deref(), Some("disk-1"));
}

#[test]
fn the_engine_is_told_and_a_restart_does_not_change_it() {
    let mut world = well();
    let identity = world.facts.answers.get_mut(&0).unwrap().identity.as_mut().unwrap();
    identity.wal_engine = "pwrite".into();
    identity.wal_engine_reason = "a seccomp profile forbids it".into();
    assert_eq!(reason(&world.status(), "WalEngine"), ("True", "Pwrite"));
    assert!(condition(&world.status(), "WalEngine").2.contains("seccomp"));
    world.cluster.status = Some(world.status());
    world.facts.answers.clear();
    assert_eq!(reason(&world.status(), "WalEngine"), ("True", "Pwrite"));
}

#[test]
fn a_fenced_broker_is_not_available_and_lost_records_are_told() {
    let mut world = well();
    let cluster = world.facts.answers.get_mut(&0).unwrap().cluster.as_mut().unwrap();
    cluster.brokers[0].fenced = true;
    cluster.partitions.fenced = 2;
    let status = world.status();
    assert_eq!(reason(&status, "Available"), ("False", "Fenced"));
    assert_eq!(reason(&status, "Degraded"), ("True", "RecordsLost"));
}

#[test]
fn a_hold_stands_before_everything() {
    let mut world = well();
    world.hold = Some(Hold { reason: "ClusterIdUnknown", message: "whose?".into() });
    assert_eq!(condition(&world.status(), "Ready"), ("False", "ClusterIdUnknown", "whose?"));
    assert_eq!(reason(&world.status(), "Degraded"), ("True", "ClusterIdUnknown"));
}

#[test]
fn a_paused_cluster_is_as_ready_as_it_is() {
    let mut world = well();
    world.cluster.spec.paused = true;
    world.live = live::Outcome::NotAsked;
    let status = world.status();
    assert_eq!(reason(&status, "Paused"), ("True", "Paused"));
    assert_eq!(reason(&status, "Ready"), ("True", "Ready"));
}

#[test]
fn clients_outside_begin_at_the_nodes_of_the_brokers() {
    let mut world = well();
    world.cluster.spec.listeners.push(outside(9094));
    assert_eq!(world.status().listeners[1].bootstrap, None);
    let service = json!({"metadata": {"name": "demo-outside-bootstrap"},
        "spec": {"ports": [{"name": "outside", "port": 9094, "nodePort": 31000}]}});
    world.facts.services.insert("demo-outside-bootstrap".into(), serde_json::from_value(service).unwrap());
    let node = json!({"metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.89.0.11"}]}});
    world.facts.nodes.insert("n1".into(), serde_json::from_value(node).unwrap());
    assert_eq!(world.status().listeners[1].bootstrap.as_deref(), Some("10.89.0.11:31000"));
}

#[test]
fn the_roll_gets_what_the_facts_say() {
    let world = well();
    let names = Names::of(&world.cluster, "cluster.local");
    let brokers = roll_brokers(&world.cluster, &names, &world.facts, |set| {
        assert_eq!(set, "demo-main");
        None
    });
    assert_eq!(brokers.len(), 1);
    assert_eq!((brokers[0].id, brokers[0].pod_name.as_str()), (0, "demo-main-0"));
    assert!(brokers[0].pod.is_some() && brokers[0].pre_restart.is_none());
    assert!(world.cluster.meta().uid.is_some());
}
