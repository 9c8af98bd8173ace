//! How topics are set up: what of a log may go, and when.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_core::compaction::Policy;
use chronik_core::ids::{BrokerId, LeaderEpoch, PartitionEpoch, TopicId, TopicIdPartition, Uuid};
use chronik_core::log::retention::Retention;
use chronik_core::metadata::image::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use chronik_core::metadata::{MetadataImage, MetadataRecord};

use crate::invariants::Violation;
use crate::rng::Rng;

/// The partitions that exist: metadata, which has a log of its own.
pub type Catalog = BTreeMap<TopicIdPartition, Topic>;

/// Who writes to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Clients,
    /// The coordinator of groups.
    Groups,
    /// The coordinator of transactions.
    Transactions,
}

/// The topic that transactional producers write to.
pub const DATA_TOPIC: &str = "data";

/// A partition of a topic that has a name.
pub fn partition_of(topic: &str, partition: i32) -> TopicIdPartition {
    let number = match topic {
        OFFSETS_TOPIC => 1001,
        TRANSACTIONS_TOPIC => 1002,
        _ => 1000,
    };
    TopicIdPartition { topic_id: TopicId(Uuid::from_u128(number)), partition }
}

/// What groups know of the topic that they read.
pub fn image(partitions: i32) -> Result<Arc<MetadataImage>, Violation> {
    let topic_id = partition_of(DATA_TOPIC, 0).topic_id;
    let mut records = vec![MetadataRecord::Topic { name: DATA_TOPIC.to_string(), topic_id }];
    records.extend((0..partitions).map(|partition| MetadataRecord::Partition {
        topic_id,
        partition,
        replicas: vec![BrokerId(1)],
        isr: vec![BrokerId(1)],
        elr: Vec::new(),
        leader: BrokerId(1),
        leader_epoch: LeaderEpoch(0),
        partition_epoch: PartitionEpoch(0),
    }));
    let image = MetadataImage::from_records(Arc::default(), 1, &records);
    image.map(Arc::new).map_err(|e| Violation::new("the_simulator_is_sound", e.to_string()))
}

/// Times are the records' (see [`crate::env::Env::now_ms`]).
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    pub kind: Kind,
    /// `cleanup.policy` holds `compact`: records have keys.
    pub compact: bool,
    /// `cleanup.policy` holds `delete`.
    pub delete: bool,
    pub retention: Retention,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// Holds `segment.bytes`, too.
    pub compaction: Policy,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
}

/// So many keys has a compacted topic.
pub const KEYS: u64 = 12;

impl Topic {
    pub fn draw(rng: &mut Rng) -> Topic {
        let (compact, delete) = match rng.below(10) {
            0..4 => (false, true),
            4..8 => (true, false),
            _ => (true, true),
        };
        let max_age_ms = rng.percent(50).then(|| rng.between(2000, 60_000) as i64);
        let max_bytes = rng.percent(60).then(|| rng.between(0, 100_000));
        let max_lag_ms = if rng.percent(30) { rng.between(3000, 30_000) as i64 } else { i64::MAX };
        Topic {
            kind: Kind::Clients,
            compact,
            delete,
            retention: Retention { max_age_ms, max_bytes },
            segment_ms: rng.between(1000, 40_000) as i64,
            compaction: Policy {
                min_dirty_ratio: rng.between(0, 60) as f64 / 100.0,
                min_lag_ms: if rng.percent(25) { rng.between(1, 3000) as i64 } else { 0 },
                max_lag_ms,
                segment_bytes: rng.between(2048, 1 << 16),
            },
            delete_retention_ms: rng.between(500, 15_000) as i64,
        }
    }

    /// One of which nothing ever goes but what coordinators have written anew.
    pub fn kept(kind: Kind, rng: &mut Rng) -> Topic {
        let retention = Retention { max_age_ms: None, max_bytes: None };
        Topic { kind, compact: kind != Kind::Clients, delete: false, retention, ..Topic::draw(rng) }
    }
}
