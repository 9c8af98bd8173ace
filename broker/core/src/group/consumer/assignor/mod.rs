//! Who gets which partitions: Kafka's assignors on the coordinator's side.
//!
//! Both share out every partition that somebody is subscribed to, each to one member, the same for the same input. `uniform`
//! balances the numbers of partitions and moves as few as it can; `range` gives each member the same range of each topic.

mod heterogeneous;
mod homogeneous;
mod range;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::protocol::StrBytes;

use super::super::config::AssignorKind;
use super::super::record::Partitions;
use crate::ids::TopicId;

type Partition = (TopicId, i32);

/// A member, as an assignor sees it.
#[derive(Clone, Debug)]
pub(super) struct Subscriber<'a> {
    pub id: &'a StrBytes,
    pub instance_id: Option<&'a StrBytes>,
    /// Those that exist.
    pub topics: BTreeSet<TopicId>,
    /// Its target so far.
    pub has: &'a Partitions,
}

/// What is shared out, and among whom.
#[derive(Clone, Debug)]
pub(super) struct Problem<'a> {
    pub subscribers: Vec<Subscriber<'a>>,
    /// How many partitions each topic has that somebody is subscribed to.
    pub topics: BTreeMap<TopicId, i32>,
}

impl Problem<'_> {
    /// What each subscriber gets, in their order.
    pub fn solve(&self, assignor: AssignorKind) -> Vec<Partitions> {
        match assignor {
            AssignorKind::Range => range::assign(self),
            AssignorKind::Uniform if self.is_homogeneous() => homogeneous::assign(self),
            AssignorKind::Uniform => heterogeneous::assign(self),
        }
    }

    /// All are subscribed to the same topics.
    fn is_homogeneous(&self) -> bool {
        self.subscribers.iter().all(|subscriber| subscriber.topics.len() == self.topics.len())
    }

    /// What each has that it may keep: it is still there, and wanted, and nobody else has it.
    fn kept(&self) -> (Vec<Vec<Partition>>, BTreeSet<Partition>) {
        let mut taken = BTreeSet::new();
        let mut kept = Vec::with_capacity(self.subscribers.len());
        for subscriber in &self.subscribers {
            let mut own = Vec::new();
            for (topic, partitions) in
                subscriber.has.iter().filter(|(topic, _)| subscriber.topics.contains(topic))
            {
                let count = self.topics.get(topic).copied().unwrap_or(0);
                let there = partitions.iter().filter(|partition| (0..count).contains(*partition));
                own.extend(there.map(|partition| (*topic, *partition)).filter(|p| taken.insert(*p)));
            }
            kept.push(own);
        }
        (kept, taken)
    }
}

fn partitions_of(all: impl IntoIterator<Item = (TopicId, i32)>) -> Partitions {
    let mut partitions = Partitions::new();
    for (topic, partition) in all {
        partitions.entry(topic).or_default().insert(partition);
    }
    partitions
}
