//! The metrics of the write-ahead log, and of the way of a record through it.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Histogram, Labels};

type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// Handles for one write-ahead log. Times are microseconds, sizes bytes.
#[derive(Clone, Debug)]
pub struct WalMetrics {
    /// Groups flushed.
    pub groups: Counter,
    pub group_records: Histogram,
    pub group_bytes: Histogram,
    /// Zeros written to fill the last block of groups.
    pub padding_bytes: Counter,
    /// From a group's submission to the device until it is durable.
    pub flush: Histogram,
}

/// Handles for one WAL profile.
#[derive(Debug)]
pub struct ProfileMetrics {
    pub stages: ProduceStages,
    /// Waiting for their group.
    pub queue_records: Gauge,
    pub queue_bytes: Gauge,
    pub appended_records: Counter,
    pub appended_bytes: Counter,
    /// Acknowledgements sent before the flush (`ack: buffered`).
    pub buffered_acks: Counter,
}

/// Where a produce request spends its time, in microseconds.
#[derive(Debug)]
pub struct ProduceStages {
    /// The request's bytes checked and decoded.
    pub decode: Histogram,
    /// Waiting until the profile's queue has room.
    pub admission: Histogram,
    /// Validated, offsets assigned, handed to the WAL.
    pub append: Histogram,
    /// In the WAL's queue until its group is sealed.
    pub queue: Histogram,
    /// The group at the device.
    pub flush: Histogram,
    /// From durable to the response handed to the connection.
    pub respond: Histogram,
}

#[derive(Debug)]
pub(super) struct Families {
    groups: Family<Labels, Counter>,
    group_records: Histograms,
    group_bytes: Histograms,
    padding_bytes: Family<Labels, Counter>,
    flush: Histograms,
    stages: Histograms,
    queue_records: Family<Labels, Gauge>,
    queue_bytes: Family<Labels, Gauge>,
    appended_records: Family<Labels, Counter>,
    appended_bytes: Family<Labels, Counter>,
    buffered_acks: Family<Labels, Counter>,
}

impl Families {
    pub(super) fn register(registry: &mut Registry) -> Families {
        let families = Families {
            groups: Family::default(),
            group_records: Family::new_with_constructor(Histogram::counts),
            group_bytes: Family::new_with_constructor(Histogram::bytes),
            padding_bytes: Family::default(),
            flush: Family::new_with_constructor(Histogram::micros),
            stages: Family::new_with_constructor(Histogram::micros),
            queue_records: Family::default(),
            queue_bytes: Family::default(),
            appended_records: Family::default(),
            appended_bytes: Family::default(),
            buffered_acks: Family::default(),
        };
        for (name, help, counter) in [
            ("wal_groups", "Commit groups flushed", &families.groups),
            ("wal_padding_bytes", "Zeros written to fill blocks", &families.padding_bytes),
            ("wal_appended_records", "Records appended, by profile", &families.appended_records),
            ("wal_appended_bytes", "Bytes appended, by profile", &families.appended_bytes),
            ("wal_buffered_acks", "Acknowledgements sent before the flush", &families.buffered_acks),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, gauge) in [
            ("wal_queue_records", "Records waiting for their group, by profile", &families.queue_records),
            ("wal_queue_bytes", "Bytes waiting for their group, by profile", &families.queue_bytes),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, histogram) in [
            ("wal_group_records", "Records per commit group", &families.group_records),
            ("wal_group_bytes", "Bytes per commit group", &families.group_bytes),
            ("wal_flush_seconds", "A group at the device until it is durable", &families.flush),
            ("produce_stage_seconds", "Time of produce requests, by stage", &families.stages),
        ] {
            registry.register(name, help, histogram.clone());
        }
        families
    }

    pub(super) fn of_wal(&self, wal: &str) -> WalMetrics {
        let labels = vec![("wal", wal.to_string())];
        WalMetrics {
            groups: self.groups.get_or_create_owned(&labels),
            group_records: self.group_records.get_or_create_owned(&labels),
            group_bytes: self.group_bytes.get_or_create_owned(&labels),
            padding_bytes: self.padding_bytes.get_or_create_owned(&labels),
            flush: self.flush.get_or_create_owned(&labels),
        }
    }

    pub(super) fn of_profile(&self, name: &str) -> ProfileMetrics {
        let stage = |stage: &str| {
            let labels = vec![("stage", stage.to_string()), ("profile", name.to_string())];
            self.stages.get_or_create_owned(&labels)
        };
        let labels = vec![("profile", name.to_string())];
        ProfileMetrics {
            stages: ProduceStages {
                decode: stage("decode"),
                admission: stage("admission"),
                append: stage("append"),
                queue: stage("queue"),
                flush: stage("flush"),
                respond: stage("respond"),
            },
            queue_records: self.queue_records.get_or_create_owned(&labels),
            queue_bytes: self.queue_bytes.get_or_create_owned(&labels),
            appended_records: self.appended_records.get_or_create_owned(&labels),
            appended_bytes: self.appended_bytes.get_or_create_owned(&labels),
            buffered_acks: self.buffered_acks.get_or_create_owned(&labels),
        }
    }
}
