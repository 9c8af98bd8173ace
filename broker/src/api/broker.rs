//! The broker as its handlers and its admin server see it.

use std::sync::Arc;
use std::time::SystemTime;

use chronik_core::controller::{ControllerError, ErrorCode};
use chronik_core::ids::DiskUuid;
use chronik_core::metadata::{MetadataImage, MetadataRecord};

use super::fetch::FetchSessions;
use super::partitions::Logs;
use super::voucher::Voucher;
use crate::config::Config;
use crate::group;
use crate::metrics::Metrics;
use crate::quorum::MetadataStore;
use crate::txn::Transactions;

/// What is fixed when the broker has opened its directories.
#[derive(Clone, Debug)]
pub struct Identity {
    pub disk_uuid: DiskUuid,
    pub wal_disk_uuid: DiskUuid,
    /// `io_uring` or `pwrite`.
    pub wal_engine: String,
    pub wal_engine_reason: String,
    /// `dsync` or `fdatasync`.
    pub flush_mode: String,
    pub started_at: SystemTime,
}

/// Everything a handler may need.
pub struct Broker {
    pub config: Config,
    pub identity: Identity,
    pub metadata: Arc<MetadataStore>,
    pub logs: Arc<dyn Logs>,
    pub metrics: Arc<Metrics>,
    pub fetch_sessions: FetchSessions,
    pub groups: Arc<group::Coordinator>,
    pub txn: Arc<Transactions>,
    /// The same, where a test has put nobody else there.
    pub voucher: Arc<dyn Voucher>,
}

impl Broker {
    /// Begins to load consumer groups and transactions. To be called in a runtime.
    pub fn new(
        config: Config,
        identity: Identity,
        metadata: Arc<MetadataStore>,
        logs: Arc<dyn Logs>,
        metrics: Arc<Metrics>,
    ) -> Broker {
        let fetch_sessions = FetchSessions::new(config.fetch_sessions_max, &metrics);
        let groups = group::start(config.broker_id, metadata.clone(), logs.clone(), &metrics.groups);
        let txn = Transactions::start(
            config.broker_id,
            metadata.clone(),
            logs.clone(),
            groups.clone(),
            &metrics.transactions,
        );
        let voucher = txn.clone();
        Broker { config, identity, metadata, logs, metrics, fetch_sessions, groups, txn, voucher }
    }

    /// Has the controller decide, and waits for its records at most `timeout_ms`. A change that was begun
    /// goes on when the wait ends: what is answered then is that nobody knows yet, as in Kafka.
    pub async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        timeout_ms: i32,
        decide: impl FnOnce(&MetadataImage) -> (Vec<MetadataRecord>, T) + Send + 'static,
    ) -> Result<T, ControllerError> {
        let store = self.metadata.clone();
        let change = tokio::spawn(async move { store.change(|image| Ok(decide(image))).await });
        let limit = std::time::Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
        match tokio::time::timeout(limit, change).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(stopped)) => Err(ControllerError::new(ErrorCode::UnknownServerError, stopped.to_string())),
            Err(_) => Err(ControllerError::new(
                ErrorCode::RequestTimedOut,
                "The metadata change was not finished in time",
            )),
        }
    }
}
