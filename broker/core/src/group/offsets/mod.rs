//! Offsets of groups: those that are committed, and those that are to be when a producer's transaction is.

mod by_partition;
mod commit;
mod requests;

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

use self::by_partition::{ByPartition, OfGroup};
pub(super) use self::commit::{commit, commit_in_transaction};
pub(super) use self::requests::{delete, fetch};
use super::record::{self, OffsetValue};
use super::turn::{Turn, own};
use crate::ids::ProducerId;

/// An offset that a client has committed.
#[derive(Clone, Debug)]
pub(super) struct Committed {
    pub value: OffsetValue,
    /// Its number among all commits, which is the order of their records: of two, the later one counts.
    order: u64,
}

/// Of one group, by topic and partition. None of the maps in it is empty.
pub(super) type GroupOffsets = OfGroup<Committed>;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    committed: ByPartition<Committed>,
    /// By the producers whose transactions are not decided.
    pending: ByPartition<BTreeMap<ProducerId, Committed>>,
    /// What a producer has pending: group, topic, partition. None of the sets is empty.
    producers: BTreeMap<ProducerId, BTreeSet<(StrBytes, StrBytes, i32)>>,
    commits: u64,
}

impl Offsets {
    pub fn of(&self, group: &StrBytes) -> Option<&GroupOffsets> {
        self.committed.of(group)
    }

    #[cfg(test)]
    pub fn groups(&self) -> impl Iterator<Item = (&StrBytes, &GroupOffsets)> {
        self.committed.groups()
    }

    pub fn count(&self) -> usize {
        self.committed.count()
    }

    /// Whether a transaction that is not decided has an offset for this partition.
    pub fn is_pending(&self, group: &StrBytes, topic: &StrBytes, partition: i32) -> bool {
        self.pending.get(group, topic, partition).is_some()
    }

    /// The same, for any partition.
    pub fn has_pending(&self, group: &StrBytes) -> bool {
        self.pending.of(group).is_some()
    }

    fn has(&self, group: &StrBytes, topic: &StrBytes, partition: i32) -> bool {
        self.committed.get(group, topic, partition).is_some() || self.is_pending(group, topic, partition)
    }

    /// A commit; one of a producer's transaction is pending until that is decided.
    pub fn put(
        &mut self,
        producer: Option<ProducerId>,
        group: &StrBytes,
        topic: &StrBytes,
        partition: i32,
        value: OffsetValue,
    ) {
        self.commits += 1;
        let committed = Committed { value, order: self.commits };
        let Some(producer) = producer else {
            return self.committed.put(group, topic, partition, committed);
        };
        match self.pending.get_mut(group, topic, partition) {
            Some(pending) => {
                pending.insert(producer, committed);
            }
            None => self.pending.put(group, topic, partition, BTreeMap::from([(producer, committed)])),
        }
        self.producers.entry(producer).or_default().insert((own(group), own(topic), partition));
    }

    /// A producer's transaction has ended.
    pub fn end(&mut self, producer: ProducerId, commit: bool) {
        for (group, topic, partition) in self.producers.remove(&producer).unwrap_or_default() {
            let Some(of_partition) = self.pending.get_mut(&group, &topic, partition) else { continue };
            let Some(pending) = of_partition.remove(&producer) else { continue };
            if of_partition.is_empty() {
                self.pending.remove(&group, &topic, partition);
            }
            // Since then, somebody may have committed without a transaction.
            let known = self.committed.get(&group, &topic, partition);
            if commit && known.is_none_or(|known| known.order < pending.order) {
                self.committed.put(&group, &topic, partition, pending);
            }
        }
    }

    /// Removes an offset, and what is pending for its partition.
    pub fn remove(&mut self, group: &StrBytes, topic: &StrBytes, partition: i32) {
        self.committed.remove(group, topic, partition);
        let pending = self.pending.remove(group, topic, partition).unwrap_or_default();
        let place = (group.clone(), topic.clone(), partition);
        for producer in pending.into_keys() {
            if let Some(places) = self.producers.get_mut(&producer) {
                places.remove(&place);
                if places.is_empty() {
                    self.producers.remove(&producer);
                }
            }
        }
    }

    /// Removes these, and writes tombstones for them.
    pub fn bury(
        &mut self,
        turn: &mut Turn<'_>,
        group: &StrBytes,
        dead: impl IntoIterator<Item = (StrBytes, i32)>,
    ) {
        for (topic, partition) in dead {
            self.remove(group, &topic, partition);
            turn.record(record::offset_key(group, &topic, partition), None);
        }
    }

    /// As [`Offsets::bury`], everything of a group.
    pub fn bury_all(&mut self, turn: &mut Turn<'_>, group: &StrBytes) {
        let all = self.committed.partitions(group).chain(self.pending.partitions(group));
        let dead: BTreeSet<_> = all.collect();
        self.bury(turn, group, dead);
    }

    /// As [`Offsets::bury`], everything of these topics.
    pub fn bury_topics(&mut self, turn: &mut Turn<'_>, topics: &[TopicName]) {
        let mut dead: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for topic in topics {
            for (group, partition) in self.committed.of_topic(topic).chain(self.pending.of_topic(topic)) {
                dead.entry(group).or_default().insert(partition);
            }
        }
        for (group, of_group) in dead {
            self.bury(turn, &group, of_group);
        }
    }

    /// Everything that is pending: producer, group, topic, partition, offset.
    #[cfg(test)]
    pub fn pending(&self) -> BTreeMap<(ProducerId, String, String, i32), OffsetValue> {
        let mut all = BTreeMap::new();
        for (producer, places) in &self.producers {
            for (group, topic, partition) in places {
                let pending = &self.pending.get(group, topic, *partition).unwrap()[producer];
                let place = (*producer, group.to_string(), topic.to_string(), *partition);
                all.insert(place, pending.value.clone());
            }
        }
        let counted: usize = self
            .pending
            .groups()
            .flat_map(|(_, topics)| topics.values().flatten())
            .map(|(_, p)| p.len())
            .sum();
        assert_eq!(counted, all.len(), "what is pending and whose it is agree");
        all
    }
}
