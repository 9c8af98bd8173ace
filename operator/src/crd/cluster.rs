//! `ChronikCluster`: brokers, their volumes, their listeners, and how records are committed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A cluster of Chronik brokers.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "chronik.io",
    version = "v1alpha1",
    kind = "ChronikCluster",
    plural = "chronikclusters",
    shortname = "chk",
    category = "chronik",
    namespaced,
    status = "ChronikClusterStatus",
    derive = "PartialEq",
    derive = "Default",
    validation = Rule::new("self.metadata.name.size() <= 32 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name of a cluster becomes part of DNS names: at most 32 small letters, digits and '-', a letter first"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.clusterId) || self.spec.pools.all(p, oldSelf.spec.pools.all(o, o.name != p.name || ((has(p.storage.storageClassName) ? p.storage.storageClassName : '') == (has(o.storage.storageClassName) ? o.storage.storageClassName : '') && (!has(p.storage.walVolume) || !has(o.storage.walVolume) || (has(p.storage.walVolume.storageClassName) ? p.storage.walVolume.storageClassName : '') == (has(o.storage.walVolume.storageClassName) ? o.storage.walVolume.storageClassName : '')))))")
        .message("storageClassName cannot change once the cluster has its volumes"),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.ready"}"#,
    printcolumn = r#"{"name":"WAL","type":"string","jsonPath":".status.walEngine"}"#,
    printcolumn = r#"{"name":"Operation","type":"string","jsonPath":".status.operation.type"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Bootstrap","type":"string","jsonPath":".status.listeners[0].bootstrap","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.defaultWalProfile) || self.defaultWalProfile in ['low', 'medium', 'high', 'ultra'] || (has(self.walProfiles) && self.defaultWalProfile in self.walProfiles)")
    .message("defaultWalProfile must be low, medium, high, ultra or one of walProfiles"))]
pub struct ChronikClusterSpec {
    /// The broker's image. Not set: the one that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Secrets for pulling the image, in the cluster's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Groups of brokers that are alike. One pool with one broker, until replication is there.
    #[schemars(length(min = 1, max = 1))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = Rule::new("oldSelf.all(o, self.exists(p, p.name == o.name))")
        .message("a pool can be neither renamed nor taken away: its brokers' records would stay behind"))]
    pub pools: Vec<Pool>,
    /// How the write-ahead log reaches the disk.
    #[serde(default)]
    pub io: Io,
    /// WAL profiles by name: new ones, or other values for `low`, `medium`, `high` and `ultra`. Applied live.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(name, name.size() <= 64 && name.matches('^[A-Za-z0-9_-]+$'))")
        .message("the name of a WAL profile has 1 to 64 letters, digits, '-' and '_'"))]
    pub wal_profiles: BTreeMap<String, WalProfile>,
    /// The WAL profile of topics that name none. Applied live. Not set: `high`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub default_wal_profile: Option<String>,
    /// Where clients connect. At least one listener is `internal`.
    #[serde(default = "Listener::defaults")]
    #[schemars(length(min = 1, max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = Rule::new("self.exists(l, l.type == 'internal')")
        .message("at least one listener must be of type internal: the operator uses it"))]
    #[x_kube(validation = Rule::new("self.all(l, self.exists_one(m, m.port == l.port))")
        .message("two listeners share a port"))]
    pub listeners: Vec<Listener>,
    /// Broker settings by Kafka's names, and Chronik's own. Those that can be altered live are; the others restart
    /// the broker.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    #[x_kube(validation = Rule::new("self.all(k, k.size() <= 128 && !(k in ['broker.id', 'node.id', 'broker.rack', 'listeners', 'advertised.listeners', 'listener.security.protocol.map', 'inter.broker.listener.name', 'chronik.cluster.id', 'chronik.data.dir', 'chronik.wal.dir', 'chronik.wal.engine', 'chronik.wal.profile', 'chronik.admin.listen', 'chronik.admin.token.file', 'chronik.placement.dir']) && !k.startsWith('chronik.wal.profile.'))")
        .message("a setting that the operator derives from other fields (ids, listeners, directories, WAL engine and profiles, admin server) cannot be set in config"))]
    #[x_kube(validation = Rule::new("self.all(k, self[k].size() <= 1024)").message("a setting's value has at most 1,024 characters"))]
    pub config: BTreeMap<String, String>,
    #[serde(default)]
    pub rollout: Rollout,
    /// Nothing is changed while this is true; status goes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// A request to restart brokers. A new `requestedAt` is a new request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// What becomes of the volumes when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Who may reach the brokers' ports, where the network plugin enforces policies.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    pub fn name(self) -> &'static str {
        match self {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        }
    }
}

/// Brokers that are alike: one StatefulSet.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.firstBrokerId == oldSelf.firstBrokerId").message("firstBrokerId cannot change"))]
#[x_kube(validation = Rule::new("has(self.storage.walVolume) == has(oldSelf.storage.walVolume)")
    .message("a WAL volume can be neither added nor taken away"))]
#[x_kube(validation = Rule::new("!has(self.resources) || !has(self.resources.claims)")
    .message("resources.claims does not act: the pods name no resource claims"))]
pub struct Pool {
    #[schemars(length(min = 1, max = 16), regex(pattern = "^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The id of the pool's first broker; the others follow.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub first_broker_id: i32,
    /// One, until replication is there.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1))]
    pub replicas: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    pub storage: Storage,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Labels for the pods, beside the operator's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub pod_labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub pod_annotations: BTreeMap<String, String>,
    /// Seconds that a stopping broker has. The broker itself uses at most half of it for moving its log into segments.
    #[serde(default = "Pool::default_grace")]
    #[schemars(range(min = 10, max = 3600))]
    pub termination_grace_period_seconds: i64,
}

fn one() -> i32 {
    1
}

impl Pool {
    fn default_grace() -> i64 {
        120
    }
}

/// The volumes of one broker.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Not set: the default StorageClass. Cannot change.
    #[serde(flatten)]
    pub volume: Volume,
    /// A volume of its own for the write-ahead log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_volume: Option<Volume>,
}

/// One volume.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0").message("a volume cannot shrink"))]
pub struct Volume {
    /// Not set: the default StorageClass. Cannot change once the cluster has its volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// It can grow where its StorageClass allows that, and never shrinks.
    #[schemars(schema_with = "size_schema")]
    pub size: Quantity,
}

fn size_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string",
        "maxLength": 32,
        "x-kubernetes-validations": [{
            "rule": "isQuantity(self) && quantity(self).compareTo(quantity('1Gi')) >= 0",
            "message": "must be a quantity of at least 1Gi"
        }]
    })
}

/// How the write-ahead log reaches the disk.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Io {
    /// Whether io_uring is used: where the kernel and the container allow it, always (or not start), or never.
    #[serde(default)]
    pub engine: Engine,
    /// The pods' seccomp profile. Profiles of newer container runtimes refuse io_uring.
    #[serde(default)]
    pub seccomp_profile: Seccomp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Engine {
    #[default]
    Auto,
    Required,
    Disabled,
}

/// A seccomp profile that the `restricted` pod security standard allows.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.type == 'Localhost') == has(self.localhostProfile)")
    .message("localhostProfile belongs to type Localhost, and to it alone"))]
pub struct Seccomp {
    #[serde(default, rename = "type")]
    pub kind: SeccompType,
    /// A file below the kubelet's seccomp directory on every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub localhost_profile: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SeccompType {
    #[default]
    RuntimeDefault,
    Localhost,
}

/// One WAL profile. What is not set is as in `high`, or as built in for a built-in name.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WalProfile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_delay_us: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_group_records: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 4096, max = 1_073_741_824))]
    pub max_group_bytes: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_queue_records: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 4096, max = 17_179_869_184_i64))]
    pub max_queue_bytes: Option<i64>,
    /// `buffered` answers `acks=1` of producers without idempotence before the flush.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<Ack>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    Pipelined,
    Adaptive,
    AdaptiveThresholds,
    Hybrid,
    Fixed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    Durable,
    Buffered,
}

/// Where clients connect, and what address they are told.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type == 'nodeport' || (!has(self.hostTemplate) && !has(self.bootstrapNodePort) && !has(self.firstNodePort))")
    .message("hostTemplate, bootstrapNodePort and firstNodePort belong to listeners of type nodeport"))]
pub struct Listener {
    #[schemars(length(min = 1, max = 15), regex(pattern = "^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(validation = Rule::new("self != 'admin'").message("admin is the name of the admin server's port"))]
    pub name: String,
    /// The container's port.
    #[schemars(range(min = 1024, max = 65535))]
    #[x_kube(validation = Rule::new("self != 9644").message("9644 is the admin server's port"))]
    pub port: i32,
    #[serde(default, rename = "type")]
    pub kind: ListenerType,
    /// The host that outside clients are told; `{nodeAddress}` and `{brokerId}` are filled in. Not set: the node's
    /// external address, or else its internal one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(
            pattern = r"^(([-A-Za-z0-9.]|\{nodeAddress\}|\{brokerId\})+|[0-9A-Fa-f]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)$"
        )
    )]
    pub host_template: Option<String>,
    /// The node port of the bootstrap Service. Not set: Kubernetes chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub bootstrap_node_port: Option<i32>,
    /// The node port of the first broker; the others follow. Not set: Kubernetes chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub first_node_port: Option<i32>,
}

impl Listener {
    /// One internal listener on Kafka's port.
    pub fn defaults() -> Vec<Listener> {
        vec![Listener {
            name: "internal".to_string(),
            port: 9092,
            kind: ListenerType::Internal,
            host_template: None,
            bootstrap_node_port: None,
            first_node_port: None,
        }]
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListenerType {
    /// Reached by the brokers' DNS names inside the Kubernetes cluster.
    #[default]
    Internal,
    /// Reached through a port of the broker's node.
    Nodeport,
}

/// How restarts go.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// What to do when partitions have too few replicas for any order of restarts to keep them available.
    #[serde(default)]
    pub unavoidable: Unavoidable,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Unavoidable {
    /// Restart, with an Event that names the partitions.
    #[default]
    Proceed,
    /// Wait for a human.
    Wait,
}

/// Kubernetes takes more forms for a date-time than RFC 3339 has. One that cannot be read here must not be stored: the
/// whole list of clusters would be unreadable.
fn instant_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string",
        "format": "date-time",
        "maxLength": 40,
        "pattern": r"^[12]\d{3}-\d{2}-\d{2}T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$"
    })
}

/// A request to restart brokers: those whose pod is older than `requestedAt`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    #[schemars(schema_with = "instant_schema")]
    pub requested_at: Time,
    /// Not set: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub broker_ids: Vec<i32>,
    /// Restart even where the broker says that it must not. Recorded as an Event.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Volumes stay; a new cluster of the same name takes them up again.
    #[default]
    Retain,
    /// Volumes are deleted with their records.
    Delete,
}

/// Who may reach the brokers' pods.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Whether there is a NetworkPolicy: Kafka listeners for everybody, the admin port for the operator and for
    /// `metricsFrom`.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Labels of the namespaces whose pods may read metrics. Not set: all namespaces.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub metrics_from: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        NetworkPolicySpec { enabled: true, metrics_from: BTreeMap::new() }
    }
}

/// What is, as of the last look.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChronikClusterStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The cluster's id in Kafka's protocol. Set once, before the first broker starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Ready brokers of all, as in `1/1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// The WAL engine in use: io_uring, pwrite, or both by broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_engine: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub brokers: Vec<BrokerStatus>,
    /// What is under way, and what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: ListenerType,
    /// `host:port`, several separated by commas: what a client's `bootstrap.servers` takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStatus {
    pub id: i32,
    pub pod: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, rename = "diskUUID", skip_serializing_if = "Option::is_none")]
    pub disk_uuid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_engine: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Ready, Starting, Pending, Failing, Stopping or Missing.
    pub phase: String,
    /// Why it is not Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_replicated: Option<i64>,
    /// The hash of the static configuration that the broker runs with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_hash: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// Roll, Restart or Recreate (a pod that cannot run replaced by one that can).
    #[serde(rename = "type")]
    pub kind: String,
    pub broker_id: i32,
    /// PreRestart, Stopping, Starting or CatchingUp.
    pub step: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_by: Vec<String>,
}
