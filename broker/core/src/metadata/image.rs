//! The cluster's metadata at one moment: immutable, and cheap to copy.
//!
//! The maps are persistent trees that share all but the changed path, so that one change costs the same with
//! ten topics as with ten thousand.

use std::collections::BTreeMap;
use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

use super::config::{LocalConfig, TopicConfig};
use super::delta::MetadataDelta;
use super::record::{ConfigResource, Listener, MetadataError, MetadataRecord};
use crate::ids::{BrokerEpoch, BrokerId, DiskUuid, LeaderEpoch, PartitionEpoch, ProducerId, TopicId, Uuid};
use crate::wal::profile::{self, WalProfile};

/// The topic of consumer groups and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Where the transaction coordinator writes.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// Topics that belong to the cluster itself (Kafka's `Topic.isInternal`).
pub const INTERNAL_TOPICS: [&str; 3] = [OFFSETS_TOPIC, TRANSACTIONS_TOPIC, "__share_group_state"];

/// The leader of a partition that has none.
pub const NO_LEADER: BrokerId = BrokerId(-1);

/// A broker as it last registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerRegistration {
    pub broker_id: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub incarnation: Uuid,
    pub disk_uuid: DiskUuid,
    pub wal_disk_uuid: DiskUuid,
    pub listeners: Vec<Listener>,
    pub rack: Option<String>,
    pub fenced: bool,
}

impl BrokerRegistration {
    /// The address advertised on the listener of this name.
    pub fn listener(&self, name: &str) -> Option<&Listener> {
        self.listeners.iter().find(|l| l.name == name)
    }
}

/// A partition's replicas and who of them leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionImage {
    /// The preferred leader first.
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    /// Eligible leader replicas (KIP-966).
    pub elr: Vec<BrokerId>,
    /// [`NO_LEADER`] when nobody may lead.
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
}

/// A topic with its partitions, numbered by their place, and its effective configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicImage {
    pub name: Arc<str>,
    pub id: TopicId,
    pub partitions: Vec<PartitionImage>,
    pub is_internal: bool,
    /// What acts on this topic here: its own settings over the broker's over the defaults.
    pub config: Arc<TopicConfig>,
}

impl TopicImage {
    pub fn partition(&self, partition: i32) -> Option<&PartitionImage> {
        usize::try_from(partition).ok().and_then(|at| self.partitions.get(at))
    }
}

/// The settings of one resource, by name.
pub type ConfigMap = BTreeMap<String, String>;

/// All metadata after the record at [`MetadataImage::offset`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataImage {
    pub(super) offset: u64,
    pub(super) cluster_id: Arc<str>,
    pub(super) feature_level: u16,
    pub(super) brokers: Arc<BTreeMap<BrokerId, Arc<BrokerRegistration>>>,
    pub(super) retired_disks: Arc<std::collections::BTreeSet<DiskUuid>>,
    pub(super) topics: RedBlackTreeMapSync<Arc<str>, Arc<TopicImage>>,
    pub(super) topic_names: RedBlackTreeMapSync<TopicId, Arc<str>>,
    pub(super) configs: RedBlackTreeMapSync<ConfigResource, Arc<ConfigMap>>,
    /// Built-in and named.
    pub(super) wal_profiles: Arc<BTreeMap<Arc<str>, Arc<WalProfile>>>,
    pub(super) next_producer_id: ProducerId,
    /// This broker's own static configuration: not replicated, but needed to resolve effective settings.
    pub(super) local: Arc<LocalConfig>,
}

impl MetadataImage {
    /// The image before the first record, as the broker with this static configuration sees it.
    pub fn empty(local: Arc<LocalConfig>) -> MetadataImage {
        let built_in = profile::built_in().into_iter();
        MetadataImage {
            offset: 0,
            cluster_id: Arc::from(""),
            feature_level: 0,
            brokers: Arc::default(),
            retired_disks: Arc::default(),
            topics: RedBlackTreeMapSync::new_sync(),
            topic_names: RedBlackTreeMapSync::new_sync(),
            configs: RedBlackTreeMapSync::new_sync(),
            wal_profiles: Arc::new(built_in.map(|(n, (p, _))| (Arc::from(n), Arc::new(p))).collect()),
            next_producer_id: ProducerId(0),
            local,
        }
    }

    /// Index of the last record applied; 0 before the first.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The finalized feature level; 0 before the cluster is bootstrapped.
    pub fn feature_level(&self) -> u16 {
        self.feature_level
    }

    /// All registered brokers, fenced ones too, by id.
    pub fn brokers(&self) -> &BTreeMap<BrokerId, Arc<BrokerRegistration>> {
        &self.brokers
    }

    pub fn broker(&self, id: BrokerId) -> Option<&Arc<BrokerRegistration>> {
        self.brokers.get(&id)
    }

    pub fn is_retired(&self, disk: DiskUuid) -> bool {
        self.retired_disks.contains(&disk)
    }

    pub fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(name)
    }

    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topic_names.get(&id).and_then(|name| self.topics.get(name))
    }

    /// All topics in the order of their names.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.topics.values()
    }

    /// The topics from this name on (inclusive), in order: for paged answers.
    pub fn topics_from<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<TopicImage>> {
        self.topics
            .range::<str, _>((std::ops::Bound::Included(name), std::ops::Bound::Unbounded))
            .map(|(_, t)| t)
    }

    pub fn topic_count(&self) -> usize {
        self.topics.size()
    }

    /// What was set on the resource itself.
    pub fn config(&self, resource: &ConfigResource) -> Option<&ConfigMap> {
        self.configs.get(resource).map(|c| &**c)
    }

    /// Everything that was set, by resource.
    pub fn configs(&self) -> impl Iterator<Item = (&ConfigResource, &ConfigMap)> {
        self.configs.iter().map(|(resource, config)| (resource, &**config))
    }

    /// A built-in or named WAL profile.
    pub fn wal_profile(&self, name: &str) -> Option<&Arc<WalProfile>> {
        self.wal_profiles.get(name)
    }

    /// All WAL profiles, built-in and named, by name.
    pub fn wal_profiles(&self) -> &BTreeMap<Arc<str>, Arc<WalProfile>> {
        &self.wal_profiles
    }

    /// The first producer id that no block has taken.
    pub fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    /// The static configuration of the broker that holds this image.
    pub fn local(&self) -> &Arc<LocalConfig> {
        &self.local
    }

    /// The records that lead from [`MetadataImage::empty`] to this image (invariant 13).
    pub fn to_records(&self) -> Vec<MetadataRecord> {
        let mut records = Vec::new();
        if !self.cluster_id.is_empty() {
            records.push(MetadataRecord::Cluster { cluster_id: self.cluster_id.to_string() });
        }
        if self.feature_level > 0 {
            records.push(MetadataRecord::FeatureLevel { level: self.feature_level });
        }
        let retired = self.retired_disks.iter();
        records.extend(retired.map(|&disk_uuid| MetadataRecord::RetireDisk { disk_uuid }));
        for b in self.brokers.values() {
            records.push(MetadataRecord::RegisterBroker {
                broker_id: b.broker_id,
                broker_epoch: b.broker_epoch,
                incarnation: b.incarnation,
                disk_uuid: b.disk_uuid,
                wal_disk_uuid: b.wal_disk_uuid,
                listeners: b.listeners.clone(),
                rack: b.rack.clone(),
            });
            if !b.fenced {
                let (broker_id, broker_epoch) = (b.broker_id, b.broker_epoch);
                records.push(MetadataRecord::UnfenceBroker { broker_id, broker_epoch });
            }
        }
        let built_in = profile::built_in();
        for (name, definition) in self.wal_profiles.iter() {
            if built_in.get(&**name).map(|(p, _)| p) != Some(&**definition) {
                let definition = Some(WalProfile::clone(definition));
                records.push(MetadataRecord::WalProfile { name: name.to_string(), definition });
            }
        }
        for topic in self.topics.values() {
            records.push(MetadataRecord::Topic { name: topic.name.to_string(), topic_id: topic.id });
            for (number, p) in topic.partitions.iter().enumerate() {
                records.push(MetadataRecord::Partition {
                    topic_id: topic.id,
                    partition: i32::try_from(number).unwrap_or(i32::MAX),
                    replicas: p.replicas.clone(),
                    isr: p.isr.clone(),
                    elr: p.elr.clone(),
                    leader: p.leader,
                    leader_epoch: p.leader_epoch,
                    partition_epoch: p.partition_epoch,
                });
            }
        }
        for (resource, settings) in self.configs.iter() {
            for (name, value) in settings.iter() {
                records.push(MetadataRecord::Config {
                    resource: resource.clone(),
                    name: name.clone(),
                    value: Some(value.clone()),
                });
            }
        }
        if self.next_producer_id > ProducerId(0) {
            records.push(MetadataRecord::ProducerIds {
                broker_id: BrokerId(-1),
                broker_epoch: BrokerEpoch(-1),
                next_producer_id: self.next_producer_id,
            });
        }
        records
    }

    /// The image that `records` lead to from nothing, with `offset` as that of the last one.
    pub fn from_records<'a>(
        local: Arc<LocalConfig>,
        offset: u64,
        records: impl IntoIterator<Item = &'a MetadataRecord>,
    ) -> Result<MetadataImage, MetadataError> {
        let base = MetadataImage::empty(local);
        let mut delta = MetadataDelta::new(&base);
        for record in records {
            delta.replay(record)?;
        }
        Ok(delta.finish(offset).0)
    }
}
