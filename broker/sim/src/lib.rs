//! A seeded simulation of a broker's storage: core's write-ahead log, partition logs, retention, compaction and
//! recovery, over a disk that tears, reorders, loses and rots, in virtual time.
//!
//! The same seed takes the same course, so that a failing one can be replayed (`--seed N --trace`) and becomes
//! a named test in `tests/`.

pub mod bugs;
mod clients;
mod damage;
mod disk;
mod env;
mod history;
mod invariants;
mod rng;
mod shell;
pub mod stats;
mod topics;
mod world;

pub use invariants::Violation;
pub use world::{Report, run};
