//! The Kubernetes objects of a cluster, made from its spec alone: one file per kind, plain functions, no client.

mod access;
mod config_map;
mod disruption;
mod network;
mod pod;
mod services;
mod stateful_set;

#[cfg(test)]
pub mod tests;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::context::Options;
use crate::crd::ChronikCluster;

use super::names::Names;

pub use access::token_secret;
pub use disruption::build as disruption_budget;
pub use services::node_port;

/// What the objects are made from.
pub struct Input<'a> {
    pub cluster: &'a ChronikCluster,
    pub names: &'a Names,
    pub cluster_id: &'a str,
    /// The image of the brokers.
    pub image: &'a str,
    /// Whether one broker may be evicted now.
    pub disruptable: bool,
    pub options: &'a Options,
}

/// The objects of one cluster, but for the admin token, which is made once and not from the spec.
#[derive(Clone, Debug)]
pub struct Objects {
    pub service_account: ServiceAccount,
    pub config_map: ConfigMap,
    /// The text of `broker.yaml`, and its hash.
    pub config: String,
    pub config_hash: String,
    pub services: Vec<Service>,
    pub network_policy: Option<NetworkPolicy>,
    pub disruption_budget: PodDisruptionBudget,
    /// One for each pool, in their order.
    pub stateful_sets: Vec<StatefulSet>,
}

pub fn objects(input: &Input<'_>) -> Result<Objects, serde_yaml::Error> {
    let config = config_map::text(input)?;
    let config_hash = format!("{:016x}", crate::context::fnv(config.as_bytes()));
    let pools = input.cluster.spec.pools.iter();
    Ok(Objects {
        service_account: access::service_account(input),
        config_map: config_map::build(input, &config),
        services: services::build(input),
        network_policy: network::build(input),
        disruption_budget: disruption::build(input),
        stateful_sets: pools.map(|pool| stateful_set::build(input, pool, &config_hash)).collect(),
        config,
        config_hash,
    })
}
