//! What the broker counts, as Prometheus reads it.
//!
//! Whoever counts on the hot path holds its handle already: a lookup by label happens when a topic, a profile
//! or a connection appears, never per request.

mod groups;
mod histogram;
mod profiles;
mod txn;
mod wal;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use chronik_core::metadata::MetadataImage;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use groups::GroupMetrics;
pub use histogram::Histogram;
pub use txn::TxnMetrics;
pub use wal::{ProduceStages, ProfileMetrics, WalMetrics};

/// A metric's labels, in the order they are written.
type Labels = Vec<(&'static str, String)>;

/// Every metric of the broker.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    apis: BTreeMap<i16, ApiMetrics>,
    /// Requests with an API key or version that is not served.
    pub unserved_requests: Counter,
    pub network: NetworkMetrics,
    pub fetch_sessions: Gauge,
    pub fetch_session_evictions: Counter,
    /// Record bytes sent to consumers.
    pub fetched_bytes: Counter,
    pub topics: Gauge,
    pub partitions: Gauge,
    /// Partitions that are not served because records are lost.
    pub partitions_fenced: Gauge,
    pub metadata_offset: Gauge,
    pub cleaner: CleanerMetrics,
    pub scrub: ScrubMetrics,
    pub groups: GroupMetrics,
    pub transactions: TxnMetrics,
    wal: wal::Families,
    profiles: Mutex<BTreeMap<String, Arc<ProfileMetrics>>>,
    definitions: profiles::Definitions,
}

/// Counts for one API.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    pub requests: Counter,
    /// From the whole request read to its response handed to the connection, in microseconds.
    pub time: Histogram,
    name: &'static str,
    errors: Family<Labels, Counter>,
}

impl ApiMetrics {
    /// Counts an error that a response carries.
    pub fn error(&self, code: i16) {
        if code != 0 {
            self.errors
                .get_or_create(&vec![("api", self.name.to_string()), ("code", code.to_string())])
                .inc();
        }
    }
}

/// Counts of the sockets and of the requests in work.
#[derive(Clone, Debug, Default)]
pub struct NetworkMetrics {
    pub connections: Gauge,
    pub connections_accepted: Counter,
    /// Closed at once, since as many were open as there may be.
    pub connections_refused: Counter,
    /// Closed by the broker: a malformed or oversized request, or one that stalled.
    pub connections_broken: Counter,
    pub bytes_received: Counter,
    pub bytes_sent: Counter,
    pub requests_in_work: Gauge,
    /// Bytes of the budget `chronik.request.memory.bytes` in use.
    pub request_memory_bytes: Gauge,
    /// Times a connection was not read because the budget of requests or memory was used up.
    pub read_pauses: Counter,
}

/// Counts of compaction.
#[derive(Clone, Debug)]
pub struct CleanerMetrics {
    pub passes: Counter,
    pub failures: Counter,
    /// Batches that could not be read, each time they were met.
    pub unreadable: Counter,
    pub bytes_read: Counter,
    pub bytes_written: Counter,
    /// Microseconds of a pass.
    pub seconds: Histogram,
}

/// Counts of the scrub.
#[derive(Clone, Debug, Default)]
pub struct ScrubMetrics {
    pub bytes: Counter,
    /// Files that could not be looked at, though nothing says that they are damaged.
    pub failures: Counter,
    pub rebuilt_indexes: Counter,
    pub damaged_segments: Gauge,
    /// Seconds since 1970.
    pub full_pass: Gauge,
}

impl Default for CleanerMetrics {
    fn default() -> Self {
        CleanerMetrics {
            passes: Counter::default(),
            failures: Counter::default(),
            unreadable: Counter::default(),
            bytes_read: Counter::default(),
            bytes_written: Counter::default(),
            seconds: Histogram::micros(),
        }
    }
}

impl Metrics {
    /// `apis` are the served APIs with their names.
    pub fn new(apis: impl IntoIterator<Item = (i16, &'static str)>) -> Metrics {
        let mut registry = Registry::with_prefix("chronik");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of this broker", build);

        let requests = Family::<Labels, Counter>::default();
        let errors = Family::<Labels, Counter>::default();
        let times = Family::<Labels, Histogram>::new_with_constructor(Histogram::micros as fn() -> Histogram);
        registry.register("requests", "Requests by API", requests.clone());
        registry.register("request_errors", "Kafka error codes in responses, by API", errors.clone());
        registry.register("request_seconds", "From a request's last byte to its response", times.clone());
        let one = |(key, name): (i16, &'static str)| {
            let labels = vec![("api", name.to_string())];
            let requests = requests.get_or_create_owned(&labels);
            (
                key,
                ApiMetrics {
                    requests,
                    time: times.get_or_create_owned(&labels),
                    name,
                    errors: errors.clone(),
                },
            )
        };
        let apis = apis.into_iter().map(one).collect();

        let metrics = Metrics {
            apis,
            unserved_requests: Counter::default(),
            network: NetworkMetrics::default(),
            fetch_sessions: Gauge::default(),
            fetch_session_evictions: Counter::default(),
            fetched_bytes: Counter::default(),
            topics: Gauge::default(),
            partitions: Gauge::default(),
            partitions_fenced: Gauge::default(),
            metadata_offset: Gauge::default(),
            cleaner: CleanerMetrics::default(),
            scrub: ScrubMetrics::default(),
            groups: GroupMetrics::register(&mut registry),
            transactions: TxnMetrics::register(&mut registry),
            wal: wal::Families::register(&mut registry),
            profiles: Mutex::default(),
            definitions: profiles::Definitions::register(&mut registry),
            registry: Mutex::new(registry),
        };
        metrics.register_plain();
        metrics
    }

    fn register_plain(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let net = &self.network;
        for (name, help, counter) in [
            (
                "unserved_requests",
                "Requests with an API key or version that is not served",
                &self.unserved_requests,
            ),
            ("connections_accepted", "Connections accepted", &net.connections_accepted),
            (
                "connections_refused",
                "Connections closed at once, over max.connections or max.connections.per.ip",
                &net.connections_refused,
            ),
            (
                "connections_broken",
                "Connections closed for what they sent, or did not send",
                &net.connections_broken,
            ),
            ("network_received_bytes", "Bytes read from Kafka clients", &net.bytes_received),
            ("network_sent_bytes", "Bytes written to Kafka clients", &net.bytes_sent),
            ("read_pauses", "Times reading waited for the budget of requests or memory", &net.read_pauses),
            (
                "fetch_session_evictions",
                "Fetch sessions that made room for another",
                &self.fetch_session_evictions,
            ),
            ("fetched_bytes", "Record bytes sent in Fetch responses", &self.fetched_bytes),
            ("cleaner_passes", "Passes of compaction over a partition", &self.cleaner.passes),
            ("cleaner_failures", "Passes that failed: the partition stays as it is", &self.cleaner.failures),
            (
                "cleaner_unreadable_batches",
                "Batches that compaction could not read and left as they are",
                &self.cleaner.unreadable,
            ),
            ("cleaner_read_bytes", "Bytes of segments that compaction replaced", &self.cleaner.bytes_read),
            ("cleaner_written_bytes", "Bytes of segments that took their place", &self.cleaner.bytes_written),
            ("scrub_verified_bytes", "Bytes of segments that the scrub read and verified", &self.scrub.bytes),
            ("scrub_failures", "Segments that the scrub could not look at", &self.scrub.failures),
            (
                "scrub_rebuilt_indexes",
                "Indexes that did not belong to their segment and were built anew",
                &self.scrub.rebuilt_indexes,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "cleaner_pass_seconds",
            "Duration of a pass of compaction",
            self.cleaner.seconds.clone(),
        );
        for (name, help, gauge) in [
            ("connections", "Open connections", &net.connections),
            ("requests_in_work", "Requests in work, without those that wait", &net.requests_in_work),
            ("request_memory_bytes", "Bytes held by requests in work", &net.request_memory_bytes),
            ("fetch_sessions", "Fetch sessions (KIP-227)", &self.fetch_sessions),
            ("topics", "Topics in the cluster", &self.topics),
            ("partitions", "Partitions in the cluster", &self.partitions),
            ("partitions_fenced", "Partitions not served because records are lost", &self.partitions_fenced),
            ("metadata_offset", "The last metadata record applied", &self.metadata_offset),
            ("scrub_damaged_segments", "Segments that are known to be damaged", &self.scrub.damaged_segments),
            (
                "scrub_full_pass_timestamp_seconds",
                "All closed segments were verified or written since then",
                &self.scrub.full_pass,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
    }

    /// The counts of a served API.
    pub fn api(&self, key: i16) -> Option<&ApiMetrics> {
        self.apis.get(&key)
    }

    /// Counts an error in a response of the API.
    pub fn error(&self, key: i16, code: i16) {
        if let Some(api) = self.apis.get(&key) {
            api.error(code);
        }
    }

    /// The handles of one write-ahead log: `data` or `metadata`.
    pub fn wal(&self, wal: &str) -> WalMetrics {
        self.wal.of_wal(wal)
    }

    /// The handles of one WAL profile; the same ones each time.
    pub fn profile(&self, name: &str) -> Arc<ProfileMetrics> {
        let mut profiles = self.profiles.lock().unwrap_or_else(PoisonError::into_inner);
        match profiles.get(name) {
            Some(known) => known.clone(),
            None => profiles.entry(name.to_string()).or_insert(Arc::new(self.wal.of_profile(name))).clone(),
        }
    }

    /// Publishes which WAL engine runs, why, and how it flushes. To be called once.
    pub fn wal_engine(&self, engine: &str, reason: &str, flush_mode: &str) {
        let labels = [("engine", engine), ("reason", reason), ("flush_mode", flush_mode)];
        let info = Info::new(labels.map(|(k, v)| (k, v.to_string())).to_vec());
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("wal_engine", "The WAL engine in use, and why", info);
    }

    /// Publishes what the metadata says: what is counted nowhere, only looked at.
    pub fn observe(&self, image: &MetadataImage) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.topics.set(count(image.topic_count()));
        self.partitions.set(count(image.topics().map(|t| t.partitions.len()).sum()));
        self.metadata_offset.set(i64::try_from(image.offset()).unwrap_or(i64::MAX));
        let _registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.definitions.set(image);
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// What all shards of a coordinator count together.
fn sum<C>(counts: &[C], of: fn(&C) -> usize) -> i64 {
    i64::try_from(counts.iter().map(of).sum::<usize>()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_a_name_and_counts() {
        let metrics = Metrics::new([(0, "Produce"), (1, "Fetch")]);
        metrics.api(0).unwrap().requests.inc();
        metrics.error(0, 3);
        metrics.error(0, 0);
        metrics.error(99, 3);
        metrics.wal_engine("io_uring", "auto: the kernel allows it", "dsync");
        let wal = metrics.wal("data");
        wal.groups.inc();
        wal.flush.observe(90);
        let high = metrics.profile("high");
        high.stages.queue.observe(20);
        high.buffered_acks.inc();
        assert!(Arc::ptr_eq(&high, &metrics.profile("high")));
        let text = metrics.encode().unwrap();
        for line in [
            "chronik_build_info{version=",
            "chronik_requests_total{api=\"Produce\"} 1",
            "chronik_requests_total{api=\"Fetch\"} 0",
            "chronik_request_errors_total{api=\"Produce\",code=\"3\"} 1",
            "chronik_wal_engine_info{engine=\"io_uring\",reason=\"auto: the kernel allows it\",flush_mode=\"dsync\"} 1",
            "chronik_wal_groups_total{wal=\"data\"} 1",
            "chronik_wal_flush_seconds_count{wal=\"data\"} 1",
            "chronik_wal_buffered_acks_total{profile=\"high\"} 1",
            "chronik_produce_stage_seconds_count{stage=\"queue\",profile=\"high\"} 1",
            "chronik_connections 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("code=\"0\""));
    }
}
