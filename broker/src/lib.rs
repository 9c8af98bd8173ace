//! The Chronik broker: the shell around `chronik-core`. All I/O lives here.

pub mod admin;
pub mod api;
pub mod bench;
pub mod cli;
pub mod config;
pub mod coordinator;
pub mod group;
pub mod logging;
pub mod metrics;
pub mod net;
pub mod placement;
pub mod quorum;
pub mod run;
pub mod storage;
pub mod txn;
