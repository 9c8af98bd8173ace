//! The operator: keeps brokers on Kubernetes as `ChronikCluster` objects say, and topics as `ChronikTopic` objects say.

pub mod broker;
pub mod cluster;
pub mod context;
pub mod crd;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod seccomp;
pub mod topic;
