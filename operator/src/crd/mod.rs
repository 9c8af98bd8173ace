//! The kinds of `chronik.io/v1alpha1`, one file each. `crdgen` writes `crds/` and the chart's copy from them.
//!
//! A field is here only if it acts today. Rules that one object can break by itself are CEL rules, so that a bad
//! apply is refused at once; what needs another object to judge becomes a condition.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub mod cluster;
pub mod conditions;
pub mod topic;

pub use cluster::{ChronikCluster, ChronikClusterSpec, ChronikClusterStatus};
pub use topic::{ChronikTopic, ChronikTopicSpec, ChronikTopicStatus};

/// The field manager of everything this operator applies.
pub const FIELD_MANAGER: &str = "chronik-operator";

/// Where the generated definitions are kept, from the repository's root.
pub const COPIES: [&str; 2] = ["crds", "charts/chronik-operator/files/crds"];

/// The CustomResourceDefinitions as YAML, by file name.
pub fn definitions() -> Result<[(&'static str, String); 2], serde_yaml::Error> {
    Ok([
        ("chronikclusters.chronik.io.yaml", yaml(&ChronikCluster::crd())?),
        ("chroniktopics.chronik.io.yaml", yaml(&ChronikTopic::crd())?),
    ])
}

fn yaml(definition: &CustomResourceDefinition) -> Result<String, serde_yaml::Error> {
    const HEAD: &str = "# Made by `cargo run -p chronik-operator --bin crdgen`; not edited by hand.\n";
    Ok(HEAD.to_string() + &serde_yaml::to_string(definition)?)
}
