//! Groups of the consumer protocol, seen from outside.

mod classic_client;
mod describe;
mod heartbeat;
mod house;
mod liveness;
mod migration;
mod model;
mod offsets;
mod reconcile;
mod static_members;
mod topics;
