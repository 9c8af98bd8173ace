//! The metrics of consumer groups.

use chronik_core::group::Counts;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Labels, sum};
use crate::coordinator::LoadMetrics;

/// Handles for the coordinator.
#[derive(Clone, Debug)]
pub struct GroupMetrics {
    groups: Family<Labels, Gauge>,
    offsets: Gauge,
    pub load: LoadMetrics,
}

impl GroupMetrics {
    pub(super) fn register(registry: &mut Registry) -> GroupMetrics {
        let metrics = GroupMetrics {
            groups: Family::default(),
            offsets: Gauge::default(),
            load: LoadMetrics::default(),
        };
        registry.register(
            "consumer_groups",
            "Groups coordinated here, by protocol and state",
            metrics.groups.clone(),
        );
        registry.register("consumer_group_offsets", "Committed offsets", metrics.offsets.clone());
        registry.register(
            "consumer_group_load_seconds",
            "Loading a partition of __consumer_offsets",
            metrics.load.load.clone(),
        );
        registry.register(
            "consumer_group_unreadable_records",
            "Records of __consumer_offsets that a load passed over",
            metrics.load.unreadable.clone(),
        );
        metrics.set(&[]);
        metrics
    }

    /// Publishes the counts of all shards.
    pub fn set(&self, counts: &[Counts]) {
        let sum = |of| sum(counts, of);
        let classic = [
            ("Empty", sum(|c| c.empty)),
            ("PreparingRebalance", sum(|c| c.preparing_rebalance)),
            ("CompletingRebalance", sum(|c| c.completing_rebalance)),
            ("Stable", sum(|c| c.stable)),
            ("Dead", sum(|c| c.dead)),
        ];
        let consumer = [
            ("Empty", sum(|c| c.consumer.empty)),
            ("Assigning", sum(|c| c.consumer.assigning)),
            ("Reconciling", sum(|c| c.consumer.reconciling)),
            ("Stable", sum(|c| c.consumer.stable)),
        ];
        for (protocol, states) in [("classic", &classic[..]), ("consumer", &consumer[..])] {
            for (state, count) in states {
                let labels = vec![("protocol", protocol.to_string()), ("state", state.to_string())];
                self.groups.get_or_create(&labels).set(*count);
            }
        }
        self.offsets.set(sum(|c| c.offsets));
    }
}
