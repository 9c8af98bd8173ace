//! The answers of `/v1`, from the broker's own state and its metadata image.

use chronik_core::metadata::config::broker_value_of;
use chronik_core::metadata::image::NO_LEADER;
use chronik_core::metadata::{MetadataImage, PartitionImage};
use serde::Serialize;

use super::time::rfc3339;
use crate::api::Broker;

/// `GET /v1/identity`: what this broker is and runs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub broker_id: i32,
    pub cluster_id: String,
    pub disk_uuid: String,
    pub wal_disk_uuid: String,
    pub version: &'static str,
    pub wal_engine: String,
    pub wal_engine_reason: String,
    pub flush_mode: String,
    /// The profile of topics that name none, as it is set now.
    pub wal_profile: String,
    /// Random per start of the process; of the registration it runs under.
    pub incarnation: String,
    /// When the process began to start.
    pub started_at: String,
    /// The last metadata record applied here.
    pub metadata_offset: u64,
    pub config_hash: String,
}

/// `GET /v1/cluster`: the cluster as this broker's metadata has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    pub cluster_id: String,
    pub controller_id: Option<i32>,
    pub feature_level: u16,
    pub metadata_offset: u64,
    /// Records applied to the log that the image this was answered from does not show yet.
    pub metadata_lag: u64,
    pub brokers: Vec<ClusterBroker>,
    pub topics: usize,
    pub partitions: PartitionCounts,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterBroker {
    pub id: i32,
    pub epoch: i64,
    pub fenced: bool,
    pub rack: Option<String>,
    pub disk_uuid: String,
    /// `NAME://host:port` of each advertised listener.
    pub listeners: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionCounts {
    pub total: usize,
    /// Fewer in-sync replicas than replicas.
    pub under_replicated: usize,
    /// Fewer in-sync replicas than `min.insync.replicas`: acks=all is refused.
    pub under_min_isr: usize,
    /// Without a leader, or with one that is fenced.
    pub offline: usize,
    /// Not served by this broker because records are lost: its log says which, and why.
    pub fenced: i64,
}

impl Identity {
    pub fn of(broker: &Broker) -> Identity {
        let image = broker.metadata.image();
        let identity = &broker.identity;
        Identity {
            broker_id: broker.config.broker_id.0,
            cluster_id: image.cluster_id().to_string(),
            disk_uuid: identity.disk_uuid.to_string(),
            wal_disk_uuid: identity.wal_disk_uuid.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            wal_engine: identity.wal_engine.clone(),
            wal_engine_reason: identity.wal_engine_reason.clone(),
            flush_mode: identity.flush_mode.clone(),
            wal_profile: broker_value_of(&image, "chronik.wal.profile").to_string(),
            incarnation: image
                .broker(broker.config.broker_id)
                .map(|b| b.incarnation.to_string())
                .unwrap_or_default(),
            started_at: rfc3339(identity.started_at),
            metadata_offset: image.offset(),
            config_hash: broker.config.hash(),
        }
    }
}

impl Cluster {
    pub fn of(broker: &Broker) -> Cluster {
        let image = broker.metadata.image();
        let brokers = image.brokers().values().map(|b| ClusterBroker {
            id: b.broker_id.0,
            epoch: b.broker_epoch.0,
            fenced: b.fenced,
            rack: b.rack.clone(),
            disk_uuid: b.disk_uuid.to_string(),
            listeners: b.listeners.iter().map(|l| format!("{}://{}:{}", l.name, l.host, l.port)).collect(),
        });
        Cluster {
            cluster_id: image.cluster_id().to_string(),
            controller_id: broker.metadata.leader().map(|id| id.0),
            feature_level: image.feature_level(),
            metadata_offset: image.offset(),
            metadata_lag: broker.metadata.applied_offset().saturating_sub(image.offset()),
            brokers: brokers.collect(),
            topics: image.topic_count(),
            partitions: PartitionCounts {
                fenced: broker.metrics.partitions_fenced.get(),
                ..PartitionCounts::of(&image)
            },
        }
    }
}

impl PartitionCounts {
    pub fn of(image: &MetadataImage) -> PartitionCounts {
        let mut counts = PartitionCounts::default();
        let offline = |p: &PartitionImage| {
            p.leader == NO_LEADER || image.broker(p.leader).is_none_or(|leader| leader.fenced)
        };
        for topic in image.topics() {
            let min_isr = usize::try_from(topic.config.min_insync_replicas).unwrap_or(0);
            counts.total += topic.partitions.len();
            for p in &topic.partitions {
                counts.under_replicated += usize::from(p.isr.len() < p.replicas.len());
                counts.under_min_isr += usize::from(p.isr.len() < min_isr);
                counts.offline += usize::from(offline(p));
            }
        }
        counts
    }
}
