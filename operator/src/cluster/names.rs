//! What the objects of a cluster are called, and the labels they carry.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};

use crate::crd::ChronikCluster;
use crate::crd::cluster::Pool;

pub const CLUSTER_LABEL: &str = "chronik.io/cluster";
pub const POOL_LABEL: &str = "chronik.io/pool";
/// On the pod template: the hash of the ConfigMap's content.
pub const CONFIG_HASH: &str = "chronik.io/config-hash";
/// On the volumes: the cluster they belong to.
pub const CLUSTER_ID: &str = "chronik.io/cluster-id";
/// On the data volumes' claims: the disk that a broker was first seen with. Another one under its name is another
/// broker's, or an empty one.
pub const DISK_UUID: &str = "chronik.io/disk-uuid";
/// On pods, and files of the same name (without the prefix) in the container.
pub const ADVERTISED: &str = "chronik.io/advertised-listeners";
pub const RACK: &str = "chronik.io/rack";
pub const BOOTSTRAP: &str = "chronik.io/bootstrap";
/// On every applied object: the hash of what was applied.
pub const APPLIED: &str = "chronik.io/applied";

/// The name of the broker's container.
pub const CONTAINER: &str = "broker";
/// The name of its port for the operator and for metrics.
pub const ADMIN_PORT_NAME: &str = "admin";
/// The file in the ConfigMap.
pub const CONFIG_FILE: &str = "broker.yaml";
/// The key in the token's Secret.
pub const TOKEN_KEY: &str = "token";

/// The names of one cluster's objects.
#[derive(Clone, Debug)]
pub struct Names {
    pub cluster: String,
    pub namespace: String,
    /// The DNS domain of the Kubernetes cluster.
    pub domain: String,
    owner: Option<OwnerReference>,
}

impl Names {
    pub fn of(cluster: &ChronikCluster, domain: &str) -> Names {
        Names {
            cluster: cluster.name_any(),
            namespace: cluster.namespace().unwrap_or_default(),
            domain: domain.to_string(),
            owner: cluster.controller_owner_ref(&()),
        }
    }

    /// The headless Service, the ServiceAccount, the PodDisruptionBudget and the NetworkPolicy.
    pub fn brokers(&self) -> String {
        format!("{}-brokers", self.cluster)
    }

    /// The Service that clients inside begin with.
    pub fn bootstrap(&self) -> String {
        format!("{}-bootstrap", self.cluster)
    }

    pub fn bootstrap_host(&self) -> String {
        format!("{}.{}.svc.{}", self.bootstrap(), self.namespace, self.domain)
    }

    pub fn config(&self) -> String {
        format!("{}-config", self.cluster)
    }

    pub fn token(&self) -> String {
        format!("{}-admin-token", self.cluster)
    }

    pub fn stateful_set(&self, pool: &str) -> String {
        format!("{}-{pool}", self.cluster)
    }

    pub fn pod(&self, pool: &str, broker: i32) -> String {
        format!("{}-{pool}-{broker}", self.cluster)
    }

    /// A pod's own DNS name, by the headless Service.
    pub fn pod_host(&self, pool: &str, broker: i32) -> String {
        format!("{}.{}.{}.svc.{}", self.pod(pool, broker), self.brokers(), self.namespace, self.domain)
    }

    /// The claim of a broker's data volume.
    pub fn data_claim(&self, pool: &str, broker: i32) -> String {
        format!("{DATA}-{}", self.pod(pool, broker))
    }

    /// The names of a broker's volume claims: data, and WAL if it has one of its own.
    pub fn claims(&self, pool: &Pool, broker: i32) -> Vec<String> {
        let templates = std::iter::once(DATA).chain(pool.storage.wal_volume.as_ref().map(|_| WAL));
        templates.map(|template| format!("{template}-{}", self.pod(&pool.name, broker))).collect()
    }

    /// The bootstrap Service of a node-port listener.
    pub fn listener_bootstrap(&self, listener: &str) -> String {
        format!("{}-{listener}-bootstrap", self.cluster)
    }

    /// The Service of one broker for a node-port listener.
    pub fn listener_broker(&self, listener: &str, broker: i32) -> String {
        format!("{}-{listener}-{broker}", self.cluster)
    }

    /// What all objects of the cluster are labelled with.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.insert("app.kubernetes.io/component".into(), "broker".into());
        labels.insert("app.kubernetes.io/managed-by".into(), "chronik-operator".into());
        labels
    }

    /// What selects the cluster's pods. Never changed: a StatefulSet's selector cannot be.
    pub fn selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("app.kubernetes.io/name".into(), "chronik".into()),
            ("app.kubernetes.io/instance".into(), self.cluster.clone()),
            (CLUSTER_LABEL.into(), self.cluster.clone()),
        ])
    }

    pub fn pool_labels(&self, pool: &str) -> BTreeMap<String, String> {
        let mut labels = self.labels();
        labels.insert(POOL_LABEL.into(), pool.into());
        labels
    }

    pub fn pool_selector(&self, pool: &str) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.insert(POOL_LABEL.into(), pool.into());
        labels
    }

    /// Metadata of an object that the cluster owns.
    pub fn metadata(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels()),
            owner_references: self.owner.clone().map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }
}

/// The names of the volumes and of their claims' templates.
pub const DATA: &str = "data";
pub const WAL: &str = "wal";

/// The ids of a pool's brokers.
pub fn broker_ids(pool: &Pool) -> impl Iterator<Item = i32> + use<> {
    let first = pool.first_broker_id;
    (0..pool.replicas.max(0)).map(move |n| first.saturating_add(n))
}

/// All brokers of a cluster with their pools, by id.
pub fn brokers(cluster: &ChronikCluster) -> BTreeMap<i32, &Pool> {
    let pools = cluster.spec.pools.iter();
    pools.flat_map(|pool| broker_ids(pool).map(move |id| (id, pool))).collect()
}
