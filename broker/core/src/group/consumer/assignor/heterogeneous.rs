//! `uniform`, where members are subscribed to different topics: all keep what they have, what is free goes to those who have
//! least, and then partitions move from those who have most, topic by topic, until that makes nothing better.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::record::Partitions;
use super::{Problem, partitions_of};
use crate::ids::TopicId;

/// When subscriptions overlap in many ways, balance comes near after a few rounds, and perfect only after many.
const ROUNDS_MAX: usize = 16;

struct Sharing {
    /// By topic: who is subscribed, by their place among the subscribers.
    subscribers: BTreeMap<TopicId, Vec<usize>>,
    /// By subscriber and topic.
    shares: Vec<BTreeMap<TopicId, BTreeSet<i32>>>,
    /// How many partitions each has.
    sizes: Vec<usize>,
}

pub(super) fn assign(problem: &Problem<'_>) -> Vec<Partitions> {
    let (kept, taken) = problem.kept();
    let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
    for (place, subscriber) in problem.subscribers.iter().enumerate() {
        for topic in &subscriber.topics {
            subscribers.entry(*topic).or_default().push(place);
        }
    }
    let sizes = kept.iter().map(Vec::len).collect();
    let shares = kept.into_iter().map(partitions_of).collect();
    let mut sharing = Sharing { subscribers, shares, sizes };
    let topics = sharing.ordered(problem);
    for (topic, count) in &topics {
        sharing.give_free(*topic, (0..*count).filter(|partition| !taken.contains(&(*topic, *partition))));
    }
    for _ in 0..ROUNDS_MAX {
        let moved: usize = topics.iter().map(|(topic, _)| sharing.balance(*topic)).sum();
        if moved == 0 {
            break;
        }
    }
    sharing.shares
}

impl Sharing {
    /// Where there is most to have for each subscriber comes first; then what fewer are subscribed to.
    fn ordered(&self, problem: &Problem<'_>) -> Vec<(TopicId, i32)> {
        let subscribers = |topic: &TopicId| self.subscribers.get(topic).map_or(0, Vec::len) as i64;
        let mut topics: Vec<_> = problem.topics.iter().map(|(topic, count)| (*topic, *count)).collect();
        topics.sort_by(|(a, a_count), (b, b_count)| {
            let (a_subscribers, b_subscribers) = (subscribers(a), subscribers(b));
            let by_share = (i64::from(*b_count) * a_subscribers).cmp(&(i64::from(*a_count) * b_subscribers));
            by_share.then(a_subscribers.cmp(&b_subscribers)).then(a.cmp(b))
        });
        topics
    }

    /// A topic's subscribers, by how much they have.
    fn by_size(&self, topic: TopicId) -> BTreeSet<(usize, usize)> {
        let places = self.subscribers.get(&topic).into_iter().flatten();
        places.map(|place| (self.sizes[*place], *place)).collect()
    }

    fn give(&mut self, place: usize, topic: TopicId, partition: i32) {
        self.shares[place].entry(topic).or_default().insert(partition);
        self.sizes[place] += 1;
    }

    fn give_free(&mut self, topic: TopicId, free: impl Iterator<Item = i32>) {
        let mut by_size = self.by_size(topic);
        for partition in free {
            let Some((size, place)) = by_size.pop_first() else { return };
            self.give(place, topic, partition);
            by_size.insert((size + 1, place));
        }
    }

    /// Moves partitions of one topic from those who have most, of all topics, to those who have least. How many moved.
    fn balance(&mut self, topic: TopicId) -> usize {
        let mut takers = self.by_size(topic);
        let mut givers: BTreeSet<_> =
            takers.iter().copied().filter(|(_, place)| self.shares[*place].contains_key(&topic)).collect();
        let mut moved = 0;
        while let (Some((least, taker)), Some((most, giver))) =
            (takers.first().copied(), givers.last().copied())
            && most > least + 1
        {
            let Some(partition) = self.take(giver, topic) else { break };
            self.give(taker, topic, partition);
            for (place, before, after) in [(giver, most, most - 1), (taker, least, least + 1)] {
                takers.remove(&(before, place));
                takers.insert((after, place));
                givers.remove(&(before, place));
                if self.shares[place].contains_key(&topic) {
                    givers.insert((after, place));
                }
            }
            moved += 1;
        }
        moved
    }

    fn take(&mut self, place: usize, topic: TopicId) -> Option<i32> {
        let partitions = self.shares[place].get_mut(&topic)?;
        let partition = partitions.pop_last()?;
        if partitions.is_empty() {
            self.shares[place].remove(&topic);
        }
        self.sizes[place] -= 1;
        Some(partition)
    }
}
