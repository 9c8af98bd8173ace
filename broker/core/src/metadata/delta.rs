//! From one image to the next: records are replayed onto a copy, and what changed is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::config::{self, TopicConfig};
use super::image::{
    BrokerRegistration, ConfigMap, INTERNAL_TOPICS, MetadataImage, PartitionImage, TopicImage,
};
use super::record::{ConfigResource, FEATURE_LEVEL, MetadataError, MetadataRecord};
use crate::ids::{BrokerId, TopicId, TopicIdPartition};
use crate::wal::profile;

/// What differs between two images, for those that act on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New topics, as they now are; all their partitions are new.
    pub topics_created: Vec<Arc<TopicImage>>,
    /// Topics that are gone, as they last were.
    pub topics_deleted: Vec<Arc<TopicImage>>,
    /// New partitions of topics that were there before.
    pub partitions_created: Vec<TopicIdPartition>,
    /// Partitions whose replicas, ISR, leader or epochs changed.
    pub partitions_changed: Vec<TopicIdPartition>,
    /// Topics that were there before and whose effective configuration (their WAL profile's definition
    /// included) changed, as they now are.
    pub topic_configs_changed: Vec<Arc<TopicImage>>,
    /// Resources on which a setting was set or removed.
    pub configs_changed: BTreeSet<ConfigResource>,
    pub wal_profiles_changed: BTreeSet<String>,
    pub brokers_changed: BTreeSet<BrokerId>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }

    /// What differs between any two images: as long as they are large, for when there are no records to go
    /// by.
    pub fn between(base: &MetadataImage, next: &MetadataImage) -> Changes {
        let mut changes = Changes::default();
        let ids: BTreeSet<TopicId> = base.topics().chain(next.topics()).map(|topic| topic.id).collect();
        for id in ids {
            changes.compare_topic(base.topic_by_id(id), next.topic_by_id(id));
            if let (Some(before), Some(after)) = (base.topic_by_id(id), next.topic_by_id(id))
                && before.config != after.config
            {
                changes.topic_configs_changed.push(after.clone());
            }
        }
        changes.topic_configs_changed.sort_by(|a, b| a.name.cmp(&b.name));
        let resources = base.configs().chain(next.configs()).map(|(resource, _)| resource);
        let changed = resources.filter(|resource| base.config(resource) != next.config(resource));
        changes.configs_changed = changed.cloned().collect();
        let names = base.wal_profiles().keys().chain(next.wal_profiles().keys());
        let changed = names.filter(|name| base.wal_profile(name) != next.wal_profile(name));
        changes.wal_profiles_changed = changed.map(|name| name.to_string()).collect();
        let brokers = base.brokers().keys().chain(next.brokers().keys());
        changes.brokers_changed =
            brokers.filter(|id| base.broker(**id) != next.broker(**id)).copied().collect();
        changes
    }

    fn compare_topic(&mut self, before: Option<&Arc<TopicImage>>, after: Option<&Arc<TopicImage>>) {
        match (before, after) {
            (None, Some(created)) => self.topics_created.push(created.clone()),
            (Some(deleted), None) => self.topics_deleted.push(deleted.clone()),
            (Some(before), Some(after)) => {
                for (number, partition) in (0..).zip(&after.partitions) {
                    let key = TopicIdPartition { topic_id: after.id, partition: number };
                    match before.partition(number) {
                        None => self.partitions_created.push(key),
                        Some(old) if old != partition => self.partitions_changed.push(key),
                        Some(_) => {}
                    }
                }
            }
            (None, None) => {}
        }
    }
}

/// Records on their way into an image.
pub struct MetadataDelta<'a> {
    base: &'a MetadataImage,
    next: MetadataImage,
    topics_touched: BTreeSet<TopicId>,
    /// A default or a WAL profile changed: every topic's effective configuration is to be resolved again.
    resolve_all: bool,
    changes: Changes,
}

fn inconsistent<T>(what: String) -> Result<T, MetadataError> {
    Err(MetadataError::Inconsistent(what))
}

impl<'a> MetadataDelta<'a> {
    pub fn new(base: &'a MetadataImage) -> MetadataDelta<'a> {
        MetadataDelta {
            base,
            next: base.clone(),
            topics_touched: BTreeSet::new(),
            resolve_all: false,
            changes: Changes::default(),
        }
    }

    /// The image as far as the records have led; effective configurations are resolved in
    /// [`MetadataDelta::finish`].
    pub fn replay(&mut self, record: &MetadataRecord) -> Result<(), MetadataError> {
        match record {
            MetadataRecord::Cluster { cluster_id } => {
                if !self.next.cluster_id.is_empty() && *self.next.cluster_id != **cluster_id {
                    return inconsistent(format!(
                        "cluster {cluster_id}, but this is {}",
                        self.next.cluster_id
                    ));
                }
                self.next.cluster_id = Arc::from(cluster_id.as_str());
            }
            MetadataRecord::FeatureLevel { level } => {
                if *level > FEATURE_LEVEL {
                    return Err(MetadataError::FeatureLevelTooHigh { level: *level });
                }
                self.next.feature_level = *level;
            }
            MetadataRecord::RegisterBroker {
                broker_id,
                broker_epoch,
                incarnation,
                disk_uuid,
                wal_disk_uuid,
                listeners,
                rack,
            } => {
                if let Some(before) = self.next.brokers.get(broker_id)
                    && before.broker_epoch >= *broker_epoch
                {
                    return inconsistent(format!(
                        "broker {broker_id} epoch {broker_epoch} after {}",
                        before.broker_epoch
                    ));
                }
                let registration = BrokerRegistration {
                    broker_id: *broker_id,
                    broker_epoch: *broker_epoch,
                    incarnation: *incarnation,
                    disk_uuid: *disk_uuid,
                    wal_disk_uuid: *wal_disk_uuid,
                    listeners: listeners.clone(),
                    rack: rack.clone(),
                    fenced: true,
                };
                Arc::make_mut(&mut self.next.brokers).insert(*broker_id, Arc::new(registration));
                self.changes.brokers_changed.insert(*broker_id);
            }
            MetadataRecord::FenceBroker { broker_id, broker_epoch } => {
                self.edit_broker(*broker_id, *broker_epoch, |broker| broker.fenced = true)?;
            }
            MetadataRecord::UnfenceBroker { broker_id, broker_epoch } => {
                self.edit_broker(*broker_id, *broker_epoch, |broker| broker.fenced = false)?;
            }
            MetadataRecord::BrokerRegistrationChange { broker_id, broker_epoch, listeners, rack } => {
                self.edit_broker(*broker_id, *broker_epoch, |broker| {
                    broker.listeners.clone_from(listeners);
                    broker.rack.clone_from(rack);
                })?;
            }
            MetadataRecord::RetireDisk { disk_uuid } => {
                Arc::make_mut(&mut self.next.retired_disks).insert(*disk_uuid);
            }
            MetadataRecord::Topic { name, topic_id } => self.add_topic(name, *topic_id)?,
            MetadataRecord::RemoveTopic { topic_id } => self.remove_topic(*topic_id)?,
            MetadataRecord::Partition {
                topic_id,
                partition,
                replicas,
                isr,
                elr,
                leader,
                leader_epoch,
                partition_epoch,
            } => {
                let added = PartitionImage {
                    replicas: replicas.clone(),
                    isr: isr.clone(),
                    elr: elr.clone(),
                    leader: *leader,
                    leader_epoch: *leader_epoch,
                    partition_epoch: *partition_epoch,
                };
                self.edit_topic(*topic_id, |topic| {
                    if usize::try_from(*partition) != Ok(topic.partitions.len()) {
                        return inconsistent(format!(
                            "partition {partition} is not the next of {}",
                            topic.name
                        ));
                    }
                    topic.partitions.push(added);
                    Ok(())
                })?;
            }
            MetadataRecord::PartitionChange {
                topic_id,
                partition,
                replicas,
                isr,
                elr,
                leader,
                leader_epoch,
                partition_epoch,
            } => self.edit_topic(*topic_id, |topic| {
                let name = topic.name.clone();
                let at = usize::try_from(*partition).ok();
                let Some(p) = at.and_then(|at| topic.partitions.get_mut(at)) else {
                    return inconsistent(format!("{name} has no partition {partition}"));
                };
                let stale = *leader_epoch < p.leader_epoch
                    || Some(partition_epoch.0) != p.partition_epoch.0.checked_add(1);
                let same_term = *leader_epoch == p.leader_epoch;
                if stale || (same_term && leader.is_some_and(|l| l != p.leader)) {
                    return inconsistent(format!(
                        "{name}-{partition}: epochs {leader_epoch}/{partition_epoch} after {}/{}",
                        p.leader_epoch, p.partition_epoch
                    ));
                }
                let set = |to: &mut Vec<BrokerId>, from: &Option<Vec<BrokerId>>| {
                    if let Some(from) = from {
                        to.clone_from(from);
                    }
                };
                set(&mut p.replicas, replicas);
                set(&mut p.isr, isr);
                set(&mut p.elr, elr);
                p.leader = leader.unwrap_or(p.leader);
                p.leader_epoch = *leader_epoch;
                p.partition_epoch = *partition_epoch;
                Ok(())
            })?,
            MetadataRecord::Config { resource, name, value } => {
                self.set_config(resource, name, value.as_deref())?;
            }
            MetadataRecord::WalProfile { name, definition } => {
                let profiles = Arc::make_mut(&mut self.next.wal_profiles);
                let built_in = || profile::built_in().remove(name.as_str()).map(|(p, _)| p);
                // Removing the override of a built-in profile brings the built-in back.
                match definition.clone().or_else(built_in) {
                    Some(p) => profiles.insert(Arc::from(name.as_str()), Arc::new(p)),
                    None => profiles.remove(name.as_str()),
                };
                self.changes.wal_profiles_changed.insert(name.clone());
                self.resolve_all = true;
            }
            MetadataRecord::ProducerIds { next_producer_id, .. } => {
                if *next_producer_id < self.next.next_producer_id {
                    return inconsistent(format!(
                        "producer id {next_producer_id} after {}",
                        self.next.next_producer_id
                    ));
                }
                self.next.next_producer_id = *next_producer_id;
            }
        }
        Ok(())
    }

    /// The new image, with `offset` as the index of the last record, and what changed.
    pub fn finish(self, offset: u64) -> (MetadataImage, Changes) {
        let MetadataDelta { base, mut next, topics_touched, resolve_all, mut changes } = self;
        next.offset = offset;
        let resolve: Vec<Arc<TopicImage>> = if resolve_all {
            next.topics.values().cloned().collect()
        } else {
            topics_touched.iter().filter_map(|id| next.topic_by_id(*id).cloned()).collect()
        };
        let mut shared = config::Resolver::new(&next);
        let resolved: Vec<Arc<TopicImage>> = resolve
            .into_iter()
            .filter_map(|topic| {
                let config = shared.topic(&topic.name);
                (config != topic.config).then(|| Arc::new(TopicImage { config, ..TopicImage::clone(&topic) }))
            })
            .collect();
        for topic in resolved {
            if base.topic_by_id(topic.id).is_some() {
                changes.topic_configs_changed.push(topic.clone());
            }
            next.topics.insert_mut(topic.name.clone(), topic);
        }
        changes.topic_configs_changed.sort_by(|a, b| a.name.cmp(&b.name));
        for id in topics_touched {
            changes.compare_topic(base.topic_by_id(id), next.topic_by_id(id));
        }
        (next, changes)
    }

    fn edit_broker(
        &mut self,
        id: BrokerId,
        epoch: crate::ids::BrokerEpoch,
        edit: impl FnOnce(&mut BrokerRegistration),
    ) -> Result<(), MetadataError> {
        match Arc::make_mut(&mut self.next.brokers).get_mut(&id) {
            Some(broker) if broker.broker_epoch == epoch => {
                edit(Arc::make_mut(broker));
                self.changes.brokers_changed.insert(id);
                Ok(())
            }
            _ => inconsistent(format!("broker {id} with epoch {epoch} is not registered")),
        }
    }

    fn add_topic(&mut self, name: &str, id: TopicId) -> Result<(), MetadataError> {
        if self.next.topic(name).is_some() || self.next.topic_by_id(id).is_some() {
            return inconsistent(format!("topic {name} ({id}) exists"));
        }
        let name: Arc<str> = Arc::from(name);
        let topic = TopicImage {
            name: name.clone(),
            id,
            partitions: Vec::new(),
            is_internal: INTERNAL_TOPICS.contains(&&*name),
            config: Arc::new(TopicConfig::unresolved()),
        };
        self.next.topic_names.insert_mut(id, name.clone());
        self.next.topics.insert_mut(name, Arc::new(topic));
        self.topics_touched.insert(id);
        Ok(())
    }

    fn remove_topic(&mut self, id: TopicId) -> Result<(), MetadataError> {
        let Some(name) = self.next.topic_names.get(&id).cloned() else {
            return inconsistent(format!("no topic {id}"));
        };
        self.next.topic_names.remove_mut(&id);
        self.next.topics.remove_mut(&name);
        self.next.configs.remove_mut(&ConfigResource::Topic(name.to_string()));
        self.topics_touched.insert(id);
        Ok(())
    }

    fn edit_topic(
        &mut self,
        id: TopicId,
        edit: impl FnOnce(&mut TopicImage) -> Result<(), MetadataError>,
    ) -> Result<(), MetadataError> {
        let name = self.next.topic_names.get(&id);
        let Some(topic) = name.and_then(|name| self.next.topics.get_mut(name)) else {
            return inconsistent(format!("no topic {id}"));
        };
        // Copied on the first edit only: a topic of a thousand partitions is built in place.
        self.topics_touched.insert(id);
        edit(Arc::make_mut(topic))
    }

    fn set_config(
        &mut self,
        resource: &ConfigResource,
        name: &str,
        value: Option<&str>,
    ) -> Result<(), MetadataError> {
        match resource {
            ConfigResource::Topic(topic) => {
                let Some(topic) = self.next.topic(topic) else {
                    return inconsistent(format!("setting {name} of topic {topic}, which is not there"));
                };
                self.topics_touched.insert(topic.id);
            }
            ConfigResource::Broker(_) | ConfigResource::BrokerDefault => self.resolve_all = true,
            ConfigResource::Group(_) => {}
        }
        let mut settings = self.next.configs.get(resource).map(|c| ConfigMap::clone(c)).unwrap_or_default();
        match value {
            Some(value) => settings.insert(name.to_string(), value.to_string()),
            None => settings.remove(name),
        };
        if settings.is_empty() {
            self.next.configs.remove_mut(resource);
        } else {
            self.next.configs.insert_mut(resource.clone(), Arc::new(settings));
        }
        self.changes.configs_changed.insert(resource.clone());
        Ok(())
    }
}
