//! `ChronikTopic`: one topic of a cluster, kept as its object says over Kafka's own protocol.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A topic.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "chronik.io",
    version = "v1alpha1",
    kind = "ChronikTopic",
    plural = "chroniktopics",
    shortname = "chkt",
    category = "chronik",
    namespaced,
    status = "ChronikTopicStatus",
    derive = "PartialEq",
    derive = "Default",
    validation = Rule::new("has(self.spec.topicName) || self.metadata.name.size() <= 249").message("a topic's name has at most 249 characters"),
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.clusterRef.name"}"#,
    printcolumn = r#"{"name":"Topic","type":"string","jsonPath":".status.topicName"}"#,
    printcolumn = r#"{"name":"Partitions","type":"integer","jsonPath":".status.partitions"}"#,
    printcolumn = r#"{"name":"Profile","type":"string","jsonPath":".status.walProfile"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.topicName) == has(oldSelf.topicName) && (!has(self.topicName) || self.topicName == oldSelf.topicName)")
    .message("topicName cannot change"))]
#[x_kube(validation = Rule::new("self.clusterRef.name == oldSelf.clusterRef.name").message("clusterRef cannot change"))]
pub struct ChronikTopicSpec {
    /// The cluster, in the same namespace.
    pub cluster_ref: ClusterRef,
    /// The topic's name in Kafka's protocol. Not set: the object's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    #[x_kube(validation = Rule::new("self != '.' && self != '..'").message("a topic cannot be named . or .."))]
    pub topic_name: Option<String>,
    /// Can grow, and never shrinks.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 10_000))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("a topic's partitions can only grow in number"))]
    pub partitions: i32,
    /// The topic's WAL profile: low, medium, high, ultra or one of the cluster's. Applied live. Not set: the cluster's
    /// default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub wal_profile: Option<String>,
    /// The topic's settings by Kafka's names, all of them: one that is set in the topic and not named here is reset.
    /// Not set: the operator keeps its hands off them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new("!('chronik.wal.profile' in self)").message("the WAL profile is set by walProfile"))]
    #[x_kube(validation = Rule::new("self.all(k, k.size() <= 128 && self[k].size() <= 1024)").message("a setting's name has at most 128 characters, its value 1,024"))]
    pub config: Option<BTreeMap<String, String>>,
    /// What becomes of the topic when this object is deleted.
    #[serde(default)]
    pub deletion_policy: TopicDeletionPolicy,
    /// What to do with a topic that exists already.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,
}

fn one() -> i32 {
    1
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRef {
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TopicDeletionPolicy {
    /// The topic stays, with its records.
    #[default]
    Retain,
    /// The topic is deleted with its records.
    Delete,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AdoptionPolicy {
    /// An existing topic is left alone, and this object says so.
    Never,
    /// Taken over if it is already as this object wants it.
    #[default]
    IfEqual,
    /// Taken over, and changed to what this object wants. One with more partitions stays as it is.
    Always,
}

/// What is, as of the last look.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChronikTopicStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
    /// The id of the topic that this object manages; another topic of the same name is another topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// The profile in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_profile: Option<String>,
    /// Settings that were found other than this object says, at the last look, before they were set right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
