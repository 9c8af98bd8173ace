//! Something of each partition, by group and topic.

use std::collections::BTreeMap;

use kafka_protocol::protocol::StrBytes;

use super::super::turn::own;

/// Of one group, by topic and partition.
pub(in super::super) type OfGroup<T> = BTreeMap<StrBytes, BTreeMap<i32, T>>;

/// None of the maps in it is empty.
#[derive(Debug)]
pub(super) struct ByPartition<T>(BTreeMap<StrBytes, OfGroup<T>>);

impl<T> Default for ByPartition<T> {
    fn default() -> Self {
        ByPartition(BTreeMap::new())
    }
}

impl<T> ByPartition<T> {
    pub fn of(&self, group: &StrBytes) -> Option<&OfGroup<T>> {
        self.0.get(group)
    }

    #[cfg(test)]
    pub fn groups(&self) -> impl Iterator<Item = (&StrBytes, &OfGroup<T>)> {
        self.0.iter()
    }

    pub fn count(&self) -> usize {
        self.0.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum()
    }

    pub fn get(&self, group: &StrBytes, topic: &StrBytes, partition: i32) -> Option<&T> {
        self.0.get(group)?.get(topic)?.get(&partition)
    }

    pub fn get_mut(&mut self, group: &StrBytes, topic: &StrBytes, partition: i32) -> Option<&mut T> {
        self.0.get_mut(group)?.get_mut(topic)?.get_mut(&partition)
    }

    pub fn put(&mut self, group: &StrBytes, topic: &StrBytes, partition: i32, value: T) {
        // Most commits are for partitions that have one already: names are copied for the others only.
        if let Some(slot) = self.get_mut(group, topic, partition) {
            *slot = value;
            return;
        }
        self.0.entry(own(group)).or_default().entry(own(topic)).or_default().insert(partition, value);
    }

    pub fn remove(&mut self, group: &StrBytes, topic: &StrBytes, partition: i32) -> Option<T> {
        let topics = self.0.get_mut(group)?;
        let partitions = topics.get_mut(topic)?;
        let removed = partitions.remove(&partition);
        if partitions.is_empty() {
            topics.remove(topic);
        }
        if topics.is_empty() {
            self.0.remove(group);
        }
        removed
    }

    /// The partitions of a group.
    pub fn partitions(&self, group: &StrBytes) -> impl Iterator<Item = (StrBytes, i32)> {
        let topics = self.0.get(group).into_iter().flatten();
        topics.flat_map(|(topic, partitions)| {
            partitions.keys().map(move |partition| (topic.clone(), *partition))
        })
    }

    /// The partitions of a topic, in all groups.
    pub fn of_topic(&self, topic: &StrBytes) -> impl Iterator<Item = (StrBytes, (StrBytes, i32))> {
        let groups =
            self.0.iter().filter_map(move |(group, topics)| Some((group, topics.get_key_value(topic)?)));
        groups.flat_map(|(group, (topic, partitions))| {
            partitions.keys().map(move |partition| (group.clone(), (topic.clone(), *partition)))
        })
    }
}
