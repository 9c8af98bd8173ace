//! End-to-end tests: a real Kubernetes (`bed`), what acts on it as a user would (`stage`), the scenarios, and a Kafka
//! client that keeps book (`client`). Chronik itself is reached over the network alone.

pub mod bed;
pub mod client;
pub mod scenarios;
pub mod stage;
