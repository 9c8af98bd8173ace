//! Chronik's decisions, pure.
//!
//! No tokio, no files, no sockets, no clock, no randomness: time (`now_us`, `now_ms`) and random values are
//! arguments, and a state machine returns what is to be done instead of doing it. The simulator
//! (`chronik-sim`) therefore runs the code that ships.

pub mod compaction;
pub mod controller;
pub mod coordinator;
pub mod group;
pub mod ids;
pub mod log;
pub mod metadata;
pub mod record_batch;
pub mod scrub;
pub mod store;
pub mod txn;
pub mod wal;
