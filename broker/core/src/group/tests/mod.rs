//! What a shard does, seen from outside. Error codes are Kafka's.

mod consumer;
mod describe;
mod expiry;
mod house;
mod join;
mod liveness;
mod loading;
mod model;
mod offsets;
mod static_members;
mod sync;
mod transactions;
