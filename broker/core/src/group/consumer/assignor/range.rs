//! `range`: of each topic, its subscribers get ranges of equal size, in their order. Members with the same subscriptions have
//! the same range of topics with as many partitions, so that these can be joined. What they had before does not count.

use std::collections::BTreeMap;

use super::super::super::record::Partitions;
use super::Problem;
use crate::ids::TopicId;

/// What of a topic is not shared out yet.
struct Rest {
    least: i32,
    /// How many get one more.
    extra: i32,
    next: i32,
}

pub(super) fn assign(problem: &Problem<'_>) -> Vec<Partitions> {
    let mut counts: BTreeMap<TopicId, i32> = BTreeMap::new();
    for topic in problem.subscribers.iter().flat_map(|subscriber| &subscriber.topics) {
        *counts.entry(*topic).or_default() += 1;
    }
    let rests = counts.into_iter().map(|(topic, subscribers)| {
        let partitions = problem.topics.get(&topic).copied().unwrap_or(0);
        (topic, Rest { least: partitions / subscribers, extra: partitions % subscribers, next: 0 })
    });
    let mut rests: BTreeMap<_, _> = rests.collect();
    // Static members come first, by their instance ids, so that each has the same range when it is back.
    let mut order: Vec<_> = (0..problem.subscribers.len()).collect();
    order.sort_by_key(|place| {
        let subscriber = &problem.subscribers[*place];
        (subscriber.instance_id.is_none(), subscriber.instance_id.unwrap_or(subscriber.id))
    });
    let mut shares = vec![Partitions::new(); problem.subscribers.len()];
    for place in order {
        for topic in &problem.subscribers[place].topics {
            let Some(rest) = rests.get_mut(topic) else { continue };
            let range = rest.take();
            if !range.is_empty() {
                shares[place].insert(*topic, range.collect());
            }
        }
    }
    shares
}

impl Rest {
    fn take(&mut self) -> std::ops::Range<i32> {
        let mut end = self.next + self.least;
        if self.extra > 0 {
            self.extra -= 1;
            end += 1;
        }
        std::mem::replace(&mut self.next, end)..end
    }
}
