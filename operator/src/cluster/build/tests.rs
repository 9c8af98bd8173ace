//! Golden tests of every built object: `CHRONIK_GOLDEN=write cargo test -p chronik-operator golden` writes them anew.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Resource;
use serde::Serialize;

use super::*;
use crate::crd::ChronikClusterSpec;
use crate::crd::cluster::{
    DeletionPolicy, Engine, Io, Listener, ListenerType, NetworkPolicySpec, Pool, PullPolicy, Seccomp,
    SeccompType, Storage, Volume,
};

/// The smallest cluster that the schema takes, with its defaults.
pub fn small() -> ChronikCluster {
    let spec = serde_json::json!({
        "pools": [{"name": "main", "storage": {"size": "10Gi"}}],
    });
    let spec: ChronikClusterSpec = serde_json::from_value(spec).unwrap();
    named(spec)
}

fn named(spec: ChronikClusterSpec) -> ChronikCluster {
    let mut cluster = ChronikCluster::new("demo", spec);
    let meta = cluster.meta_mut();
    meta.namespace = Some("shop".into());
    meta.uid = Some("11111111-2222-3333-4444-555555555555".into());
    meta.generation = Some(1);
    cluster
}

/// A listener for clients outside.
pub fn outside(port: i32) -> Listener {
    Listener {
        name: "outside".into(),
        port,
        kind: ListenerType::Nodeport,
        host_template: None,
        bootstrap_node_port: None,
        first_node_port: None,
    }
}

/// Every field set to something that is not its default.
fn large() -> ChronikCluster {
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    };
    let volume = |class: &str, size: &str| Volume {
        storage_class_name: Some(class.into()),
        size: Quantity(size.into()),
    };
    let resources: ResourceRequirements =
        serde_json::from_value(serde_json::json!({"limits": {"memory": "2Gi"}, "requests": {"cpu": "500m"}}))
            .unwrap();
    let toleration =
        Toleration { key: Some("chronik".into()), operator: Some("Exists".into()), ..Toleration::default() };
    let pool = Pool {
        name: "nvme".into(),
        first_broker_id: 10,
        replicas: 1,
        resources: Some(resources),
        storage: Storage { volume: volume("local", "100Gi"), wal_volume: Some(volume("local-wal", "20Gi")) },
        node_selector: map(&[("disk", "nvme")]),
        tolerations: vec![toleration],
        priority_class_name: Some("high".into()),
        pod_labels: map(&[("team", "orders"), ("app.kubernetes.io/name", "mine")]),
        pod_annotations: map(&[("note", "x"), ("chronik.io/advertised-listeners", "mine")]),
        termination_grace_period_seconds: 300,
    };
    let mut listeners = Listener::defaults();
    listeners.push(Listener {
        host_template: Some("b{brokerId}.example.org".into()),
        bootstrap_node_port: Some(31000),
        first_node_port: Some(31010),
        ..outside(9094)
    });
    named(ChronikClusterSpec {
        image: Some("registry.example.org/chronik:1".into()),
        image_pull_policy: Some(PullPolicy::Always),
        image_pull_secrets: vec![LocalObjectReference { name: "pull".into() }],
        pools: vec![pool],
        io: Io {
            engine: Engine::Required,
            seccomp_profile: Seccomp {
                kind: SeccompType::Localhost,
                localhost_profile: Some("chronik/io-uring.json".into()),
            },
        },
        default_wal_profile: Some("low".into()),
        listeners,
        config: map(&[("num.partitions", "3"), ("message.max.bytes", "2000000")]),
        deletion_policy: DeletionPolicy::Delete,
        network_policy: NetworkPolicySpec { enabled: true, metrics_from: map(&[("monitoring", "yes")]) },
        ..ChronikClusterSpec::default()
    })
}

fn options() -> Options {
    Options {
        namespaces: vec![],
        broker_image: "localhost/chronik-broker:dev".into(),
        cluster_domain: "cluster.local".into(),
        resync: Duration::from_secs(30),
        identity: "op".into(),
        operator_namespace: "chronik-system".into(),
    }
}

fn built(cluster: &ChronikCluster, disruptable: bool) -> (Names, Objects) {
    let options = options();
    let names = Names::of(cluster, &options.cluster_domain);
    let image = cluster.spec.image.clone().unwrap_or_else(|| options.broker_image.clone());
    let objects = objects(&Input {
        cluster,
        names: &names,
        cluster_id: "AAAAAAAAAAAAAAAAAAAAAA",
        image: &image,
        disruptable,
        options: &options,
    })
    .unwrap();
    (names, objects)
}

fn golden<T: Serialize>(name: &str, object: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.yaml"));
    let text = serde_yaml::to_string(object).unwrap();
    if std::env::var("CHRONIK_GOLDEN").is_ok_and(|mode| mode == "write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(
        kept == text,
        "{} is not what is built now. If that is meant, run the test with CHRONIK_GOLDEN=write.\n{text}",
        path.display()
    );
}

fn goldens(prefix: &str, cluster: &ChronikCluster, disruptable: bool) {
    let (names, objects) = built(cluster, disruptable);
    golden(&format!("{prefix}-service-account"), &objects.service_account);
    golden(&format!("{prefix}-config-map"), &objects.config_map);
    golden(&format!("{prefix}-services"), &objects.services);
    golden(&format!("{prefix}-network-policy"), &objects.network_policy);
    golden(&format!("{prefix}-disruption-budget"), &objects.disruption_budget);
    golden(&format!("{prefix}-stateful-sets"), &objects.stateful_sets);
    golden(&format!("{prefix}-secret"), &token_secret(&names, &[0xab; 32]));
}

#[test]
fn golden_objects_of_a_small_cluster() {
    goldens("small", &small(), true);
}

#[test]
fn golden_objects_of_a_large_cluster() {
    goldens("large", &large(), false);
}

#[test]
fn no_network_policy_where_it_is_switched_off() {
    let mut cluster = small();
    cluster.spec.network_policy.enabled = false;
    assert_eq!(built(&cluster, true).1.network_policy, None);
}

#[test]
fn live_settings_do_not_restart_brokers_and_others_do() {
    let hash = |cluster: &ChronikCluster| built(cluster, true).1.config_hash;
    let before = hash(&small());
    let mut live = small();
    live.spec.config.insert("message.max.bytes".into(), "2000000".into());
    live.spec.default_wal_profile = Some("low".into());
    live.spec.wal_profiles.insert("bulk".into(), crate::crd::cluster::WalProfile::default());
    assert_eq!(hash(&live), before);
    let mut fixed = small();
    fixed.spec.config.insert("num.partitions".into(), "3".into());
    assert_ne!(hash(&fixed), before);
}

#[test]
fn what_is_evicted_depends_on_the_brokers_and_on_nothing_else() {
    let (_, may) = built(&small(), true);
    let (_, must_not) = built(&small(), false);
    assert_ne!(may.disruption_budget, must_not.disruption_budget);
    assert_eq!(may.stateful_sets, must_not.stateful_sets);
}

/// As the admission of the pod security standard `restricted` judges.
#[test]
fn pods_are_restricted() {
    for cluster in [small(), large()] {
        for set in built(&cluster, true).1.stateful_sets {
            let pod = set.spec.unwrap().template.spec.unwrap();
            let security = pod.security_context.unwrap();
            assert_eq!(security.run_as_non_root, Some(true));
            assert!(["RuntimeDefault", "Localhost"].contains(&&*security.seccomp_profile.unwrap().type_));
            assert!(pod.host_network.is_none() && pod.host_pid.is_none() && pod.host_ipc.is_none());
            for container in pod.containers {
                let security = container.security_context.unwrap();
                assert_eq!(security.allow_privilege_escalation, Some(false));
                assert_eq!(security.capabilities.unwrap().drop, Some(vec!["ALL".to_string()]));
                assert!(container.ports.unwrap().iter().all(|port| port.host_port.is_none()));
            }
            assert!(pod.volumes.unwrap().iter().all(|volume| volume.host_path.is_none()));
        }
    }
}
