//! The records of the metadata log, as they are replicated and kept in snapshots.
//!
//! A record is one JSON object with one member, named after the kind of record. The kinds and fields a
//! cluster may use are governed by its finalized feature level: a record or a field that this version does
//! not know is an error, never skipped, since skipping it would let the images of two brokers drift apart.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{BrokerEpoch, BrokerId, DiskUuid, LeaderEpoch, PartitionEpoch, ProducerId, TopicId, Uuid};
use crate::wal::profile::WalProfile;

/// The newest feature level that this version can run at, and the one a new cluster begins with.
pub const FEATURE_LEVEL: u16 = 1;

/// How a listener is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SecurityProtocol {
    #[serde(rename = "PLAINTEXT")]
    Plaintext,
}

impl SecurityProtocol {
    /// Kafka's number of the protocol.
    pub fn id(self) -> i16 {
        match self {
            SecurityProtocol::Plaintext => 0,
        }
    }

    /// Kafka's name of the protocol.
    pub fn name(self) -> &'static str {
        match self {
            SecurityProtocol::Plaintext => "PLAINTEXT",
        }
    }
}

/// An address at which clients reach a broker, as it is advertised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The listener's name; upper case, unique within the broker.
    pub name: String,
    pub host: String,
    pub port: u16,
    pub security_protocol: SecurityProtocol,
}

/// What a dynamic setting is set on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConfigResource {
    /// One broker.
    Broker(BrokerId),
    /// All brokers: the cluster-wide default, Kafka's broker resource with the empty name.
    BrokerDefault,
    /// A topic, by name.
    Topic(String),
    /// A consumer group, by id: it need not be there.
    Group(String),
}

/// One change of the cluster's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum MetadataRecord {
    /// The first record of every cluster: whose metadata this is.
    Cluster { cluster_id: String },
    /// The finalized feature level.
    FeatureLevel { level: u16 },
    /// A broker started. It is fenced until [`MetadataRecord::UnfenceBroker`].
    RegisterBroker {
        broker_id: BrokerId,
        /// Greater than that of every earlier registration.
        broker_epoch: BrokerEpoch,
        /// Random per start of the process.
        incarnation: Uuid,
        disk_uuid: DiskUuid,
        wal_disk_uuid: DiskUuid,
        listeners: Vec<Listener>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rack: Option<String>,
    },
    /// The broker may not lead, nor be in any ISR.
    FenceBroker { broker_id: BrokerId, broker_epoch: BrokerEpoch },
    /// The broker has recovered its logs and serves.
    UnfenceBroker { broker_id: BrokerId, broker_epoch: BrokerEpoch },
    /// A broker is reached elsewhere, or stands elsewhere, since it registered. Its incarnation goes on.
    BrokerRegistrationChange {
        broker_id: BrokerId,
        /// That of its registration.
        broker_epoch: BrokerEpoch,
        listeners: Vec<Listener>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rack: Option<String>,
    },
    /// A disk that was replaced: it may never come back.
    RetireDisk { disk_uuid: DiskUuid },
    /// A new topic, without partitions yet.
    Topic { name: String, topic_id: TopicId },
    /// The topic, its partitions and its configuration are gone.
    RemoveTopic { topic_id: TopicId },
    /// A new partition: the topic's next number.
    Partition {
        topic_id: TopicId,
        partition: i32,
        /// The preferred leader first.
        replicas: Vec<BrokerId>,
        isr: Vec<BrokerId>,
        /// Eligible leader replicas (KIP-966).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        elr: Vec<BrokerId>,
        leader: BrokerId,
        leader_epoch: LeaderEpoch,
        partition_epoch: PartitionEpoch,
    },
    /// What is given changes, what is absent stays.
    PartitionChange {
        topic_id: TopicId,
        partition: i32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replicas: Option<Vec<BrokerId>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        isr: Option<Vec<BrokerId>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        elr: Option<Vec<BrokerId>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        leader: Option<BrokerId>,
        /// The epoch after the change: never smaller than before, and greater when the leader changes
        /// (invariant 5).
        leader_epoch: LeaderEpoch,
        /// The epoch after the change: one more than before.
        partition_epoch: PartitionEpoch,
    },
    /// A dynamic setting; `None` removes it.
    Config { resource: ConfigResource, name: String, value: Option<String> },
    /// A named WAL profile; `None` removes it.
    WalProfile { name: String, definition: Option<WalProfile> },
    /// Producer ids below `next_producer_id` are taken.
    ProducerIds { broker_id: BrokerId, broker_epoch: BrokerEpoch, next_producer_id: ProducerId },
}

/// Why a metadata record could not be read or applied.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum MetadataError {
    #[error(
        "metadata record {name:?} is not known to this version (feature level {FEATURE_LEVEL}): it was written by a newer one"
    )]
    UnknownRecord { name: String },
    #[error(
        "the cluster's feature level is {level}, this version knows up to {FEATURE_LEVEL}: run a newer one"
    )]
    FeatureLevelTooHigh { level: u16 },
    #[error("metadata record cannot be read: {0}")]
    Malformed(String),
    #[error("metadata record does not fit the state before it: {0}")]
    Inconsistent(String),
}

impl MetadataRecord {
    /// The name of each kind, as it stands in the encoding.
    pub const NAMES: [&'static str; 14] = [
        "Cluster",
        "FeatureLevel",
        "RegisterBroker",
        "FenceBroker",
        "UnfenceBroker",
        "BrokerRegistrationChange",
        "RetireDisk",
        "Topic",
        "RemoveTopic",
        "Partition",
        "PartitionChange",
        "Config",
        "WalProfile",
        "ProducerIds",
    ];

    /// The record as one line of JSON.
    pub fn encode(&self) -> Result<String, MetadataError> {
        serde_json::to_string(self).map_err(|e| MetadataError::Malformed(e.to_string()))
    }

    /// Reads one record; an unknown kind is told apart from a damaged one.
    pub fn decode(json: &str) -> Result<MetadataRecord, MetadataError> {
        serde_json::from_str(json).map_err(|e| {
            let kind = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(json)
                .ok()
                .and_then(|object| object.keys().next().cloned());
            match kind {
                Some(name) if !Self::NAMES.contains(&name.as_str()) => MetadataError::UnknownRecord { name },
                _ => MetadataError::Malformed(e.to_string()),
            }
        })
    }
}
