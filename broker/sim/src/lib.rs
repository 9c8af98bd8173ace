//! A seeded simulation of a broker: core's write-ahead log, partition logs, retention, compaction and recovery, over a disk
//! that tears, reorders, loses and rots, and core's coordinators of groups and transactions over those logs, in virtual time.
//!
//! The same seed takes the same course, so that a failing one can be replayed (`--seed N --trace`) and becomes
//! a named test in `tests/`.

pub mod bugs;
mod cast;
mod clients;
mod damage;
mod disk;
mod env;
mod history;
mod invariants;
mod post;
mod rng;
mod roster;
mod scenario;
mod shell;
pub mod stats;
mod topics;
mod world;

pub use invariants::Violation;
pub use scenario::Scenario;
pub use world::{Report, run};
