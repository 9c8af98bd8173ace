//! The metadata quorum: the Raft library's log, state machine and network, and the one handle to them.

mod store;

pub use store::{MetadataStore, Publisher};
