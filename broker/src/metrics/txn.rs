//! The metrics of transactions.

use chronik_core::txn::Counts;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Labels, sum};
use crate::coordinator::LoadMetrics;

/// Handles for the coordinator.
#[derive(Clone, Debug)]
pub struct TxnMetrics {
    transactions: Family<Labels, Gauge>,
    /// Markers that are durable.
    pub markers: Counter,
    pub load: LoadMetrics,
}

impl TxnMetrics {
    pub(super) fn register(registry: &mut Registry) -> TxnMetrics {
        let metrics = TxnMetrics {
            transactions: Family::default(),
            markers: Counter::default(),
            load: LoadMetrics::default(),
        };
        registry.register(
            "transactional_ids",
            "Transactional ids coordinated here, by state",
            metrics.transactions.clone(),
        );
        registry.register(
            "transaction_markers",
            "Markers written that end transactions",
            metrics.markers.clone(),
        );
        registry.register(
            "transaction_load_seconds",
            "Loading a partition of __transaction_state",
            metrics.load.load.clone(),
        );
        registry.register(
            "transaction_unreadable_records",
            "Records of __transaction_state that a load passed over",
            metrics.load.unreadable.clone(),
        );
        metrics.set(&[]);
        metrics
    }

    /// Publishes the counts of all shards.
    pub fn set(&self, counts: &[Counts]) {
        let sum = |of| sum(counts, of);
        for (state, count) in [
            ("Empty", sum(|c| c.empty)),
            ("Ongoing", sum(|c| c.ongoing)),
            ("PrepareCommit", sum(|c| c.prepare_commit)),
            ("PrepareAbort", sum(|c| c.prepare_abort)),
            ("CompleteCommit", sum(|c| c.complete_commit)),
            ("CompleteAbort", sum(|c| c.complete_abort)),
        ] {
            self.transactions.get_or_create(&vec![("state", state.to_string())]).set(count);
        }
    }
}
