//! Kafka's own words, one newtype each, so that a position is never taken for an offset.

use std::fmt;

use serde::{Deserialize, Serialize};
pub use uuid::Uuid;

/// A record's place in its partition, dense from 0 (cleaning may leave gaps).
pub type Offset = i64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// Kafka's `broker.id`; not negative.
    BrokerId,
    i32
);
id!(
    /// One incarnation of a broker: the metadata offset of its registration.
    BrokerEpoch,
    i64
);
id!(
    /// One term of a partition's leader. Only grows (invariant 5).
    LeaderEpoch,
    i32
);
id!(
    /// Counts the changes of a partition's replica set and leader.
    PartitionEpoch,
    i32
);
id!(
    /// A topic's identity: a topic deleted and created again under its name gets a new one (KIP-516).
    TopicId,
    Uuid
);
id!(
    /// The identity of one data or WAL directory, written once when it is formatted.
    DiskUuid,
    Uuid
);
id!(
    /// An idempotent producer (KIP-98). -1 means none.
    ProducerId,
    i64
);
id!(
    /// Fences earlier incarnations of the same producer id. -1 means none.
    ProducerEpoch,
    i16
);
id!(
    /// A byte position in a write-ahead log. Never called an offset. Grows through all of a log's files;
    /// always a multiple of the WAL's block.
    WalPosition,
    u64
);

/// A partition of one incarnation of a topic: what logs, WAL entries and checkpoints are keyed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicIdPartition {
    pub topic_id: TopicId,
    pub partition: i32,
}

impl fmt::Display for TopicIdPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic_id, self.partition)
    }
}
