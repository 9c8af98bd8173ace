//! A Kafka client that keeps book: it sends records by the clock, writes down what became of each, and reads
//! everything back.
//!
//! It runs in pods, from an image of its own, and outside of Kubernetes. It speaks through `chronik-client` alone.

pub mod ledger;
pub mod load;
pub mod record;
pub mod report;
pub mod retry;
pub mod smoke;
pub mod verify;
