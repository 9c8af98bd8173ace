//! The metadata quorum: a Raft group whose log is the cluster's metadata (ADR 0001).
//!
//! The library (openraft) decides; ours are its log ([`log`], over a [`wal::MetaWal`]), its state machine
//! ([`machine`], which keeps the image everybody reads), its snapshots ([`snapshot`]) and its network
//! ([`network`]). The rest of the broker knows [`MetadataStore`] only. A broker alone runs the same code with
//! a quorum of one.

// openraft's error is large and its traits ask for it by value.
#![allow(clippy::result_large_err)]

mod disk;
mod log;
mod machine;
mod network;
mod snapshot;
mod state;
mod store;
mod types;
mod wal;

pub use disk::{DiskWal, DiskWalError};
pub use machine::Publisher;
pub use state::{QuorumState, ReplicaLog};
pub use store::{MetadataStore, QuorumError, QuorumOptions};
pub use types::Voter;
pub use wal::{Done, MemoryWal, MetaEntry, MetaEntryKind, MetaWal, Replayed};

#[cfg(test)]
mod tests;
