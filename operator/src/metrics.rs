//! What the operator counts, as Prometheus reads it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::cluster::Cause;

type Labels = Vec<(&'static str, &'static str)>;

/// Upper bounds of `reconcile_seconds`.
const SECONDS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Every metric of the operator.
pub struct Metrics {
    registry: Mutex<Registry>,
    leader: Gauge,
    reconciles: Family<Labels, Counter>,
    reconcile_seconds: Family<Labels, Histogram>,
    clusters: Family<Labels, Gauge>,
    topics: Family<Labels, Gauge>,
    broker_calls: Family<Labels, Counter>,
    pods_deleted: Family<Labels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Metrics {
            registry: Mutex::new(Registry::with_prefix("chronik_operator")),
            leader: Gauge::default(),
            reconciles: Family::default(),
            reconcile_seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            clusters: Family::default(),
            topics: Family::default(),
            broker_calls: Family::default(),
            pods_deleted: Family::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // An alert on their increase would miss the first of a series that begins with it.
        for cause in Cause::ALL {
            drop(self.pods_deleted.get_or_create(&vec![("reason", cause.label())]));
        }
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of this operator", build);
        registry.register(
            "leader",
            "Whether this process holds the lease and reconciles",
            self.leader.clone(),
        );
        registry.register("reconciles", "Reconciles by kind and result", self.reconciles.clone());
        registry.register("reconcile_seconds", "Duration of reconciles", self.reconcile_seconds.clone());
        registry.register("clusters", "ChronikCluster objects by state", self.clusters.clone());
        registry.register("topics", "ChronikTopic objects by state", self.topics.clone());
        registry.register("broker_calls", "Calls to brokers by result", self.broker_calls.clone());
        registry.register("pods_deleted", "Brokers' pods deleted, by reason", self.pods_deleted.clone());
    }

    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Counts a reconcile. `kind` is `cluster` or `topic`; `result` is `ok`, `waiting` or `error`.
    pub fn reconciled(&self, kind: &'static str, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&vec![("kind", kind), ("result", result)]).inc();
        self.reconcile_seconds.get_or_create(&vec![("kind", kind)]).observe(took.as_secs_f64());
    }

    pub fn clusters(&self, ready: i64, not_ready: i64) {
        self.clusters.get_or_create(&vec![("state", "ready")]).set(ready);
        self.clusters.get_or_create(&vec![("state", "not_ready")]).set(not_ready);
    }

    pub fn topics(&self, ready: i64, not_ready: i64) {
        self.topics.get_or_create(&vec![("state", "ready")]).set(ready);
        self.topics.get_or_create(&vec![("state", "not_ready")]).set(not_ready);
    }

    /// Counts a call to a broker. `result` is `ok`, `refused` or `unreachable`.
    pub fn broker_call(&self, call: &'static str, result: &'static str) {
        self.broker_calls.get_or_create(&vec![("call", call), ("result", result)]).inc();
    }

    /// Counts a deleted pod. `reason` is `config`, `image`, `requested` or `broken`.
    pub fn pod_deleted(&self, reason: &'static str) {
        self.pods_deleted.get_or_create(&vec![("reason", reason)]).inc();
    }

    /// All of them in OpenMetrics' text form.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_told_under_its_documented_name() {
        let metrics = Metrics::default();
        metrics.leads(true);
        metrics.reconciled("cluster", "ok", Duration::from_millis(30));
        metrics.clusters(2, 1);
        metrics.topics(5, 0);
        metrics.broker_call("identity", "ok");
        metrics.pod_deleted("config");
        let text = metrics.encode().unwrap();
        for line in [
            "chronik_operator_leader 1",
            "chronik_operator_reconciles_total{kind=\"cluster\",result=\"ok\"} 1",
            "chronik_operator_reconcile_seconds_bucket{le=\"0.05\",kind=\"cluster\"} 1",
            "chronik_operator_clusters{state=\"ready\"} 2",
            "chronik_operator_clusters{state=\"not_ready\"} 1",
            "chronik_operator_topics{state=\"ready\"} 5",
            "chronik_operator_broker_calls_total{call=\"identity\",result=\"ok\"} 1",
            "chronik_operator_pods_deleted_total{reason=\"config\"} 1",
            "chronik_operator_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
