//! May this broker stop now, and has it caught up since: what whoever restarts brokers asks.
//!
//! A restart takes a broker out of the ISR of each of its partitions for a while. What another order of restarts
//! could keep available is *blocking*: wait, and ask again. What no order could keep is *unavoidable*: a
//! partition with one replica is offline while its broker is, and one with no more replicas than
//! `min.insync.replicas` takes no `acks=all` meanwhile. Neither is ever a loss.

use std::sync::Arc;

use crate::ids::BrokerId;
use crate::metadata::{MetadataImage, PartitionImage};

/// A partition that a restart makes worse, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affected {
    pub topic: Arc<str>,
    pub partition: i32,
    pub reason: String,
}

/// The partitions that a restart affects, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AffectedList {
    /// The first of them.
    pub partitions: Vec<Affected>,
    /// All of them.
    pub count: usize,
}

impl AffectedList {
    /// More than a person reads.
    pub const SHOWN: usize = 100;

    fn push(&mut self, topic: &Arc<str>, partition: i32, reason: String) {
        self.count += 1;
        if self.partitions.len() < Self::SHOWN {
            self.partitions.push(Affected { topic: topic.clone(), partition, reason });
        }
    }
}

/// The voters of the metadata quorum, and which of them have all that is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quorum {
    pub voters: Vec<BrokerId>,
    pub caught_up: Vec<BrokerId>,
}

/// Whether a broker may stop now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreRestart {
    pub blocking: AffectedList,
    pub unavoidable: AffectedList,
    /// What stands against it as a whole.
    pub reasons: Vec<String>,
}

impl PreRestart {
    pub fn is_safe(&self) -> bool {
        self.blocking.count == 0 && self.reasons.is_empty()
    }
}

/// What a partition suffers from a restart of one of its replicas.
enum Suffers {
    Nothing,
    Blocking(String),
    Unavoidable(String),
}

fn suffers(image: &MetadataImage, p: &PartitionImage, min_isr: usize, id: BrokerId) -> Suffers {
    if !p.isr.contains(&id) {
        return Suffers::Nothing;
    }
    let serves = |other: &&BrokerId| **other != id && image.broker(**other).is_some_and(|b| !b.fenced);
    let left = p.isr.iter().filter(serves).count();
    let replicas = p.replicas.len();
    match left {
        0 if replicas <= 1 => {
            Suffers::Unavoidable("it has one replica, and is offline meanwhile".to_string())
        }
        0 => Suffers::Blocking(format!(
            "it would be offline: none of its other {} replicas is in sync",
            replicas - 1
        )),
        _ if left >= min_isr => Suffers::Nothing,
        _ if replicas <= min_isr => Suffers::Unavoidable(format!(
            "it has {replicas} replicas and min.insync.replicas={min_isr}, and takes no acks=all meanwhile"
        )),
        _ => Suffers::Blocking(format!(
            "it would take no acks=all: {left} of its {replicas} replicas would be in sync, and min.insync.replicas={min_isr}"
        )),
    }
}

/// What a restart of this broker would do now; `None` if no such broker is registered.
pub fn pre_restart(image: &MetadataImage, quorum: &Quorum, id: BrokerId) -> Option<PreRestart> {
    image.broker(id)?;
    let mut answer = PreRestart::default();
    for topic in image.topics() {
        let min_isr = usize::try_from(topic.config.min_insync_replicas).unwrap_or(1);
        for (number, p) in (0..).zip(&topic.partitions) {
            match suffers(image, p, min_isr, id) {
                Suffers::Nothing => {}
                Suffers::Blocking(why) => answer.blocking.push(&topic.name, number, why),
                Suffers::Unavoidable(why) => answer.unavoidable.push(&topic.name, number, why),
            }
        }
    }
    answer.reasons.extend(quorum_at_risk(quorum, id));
    Some(answer)
}

/// Alone, a voter may stop: nobody could decide without it, whenever it is.
fn quorum_at_risk(quorum: &Quorum, id: BrokerId) -> Option<String> {
    let voters = quorum.voters.len();
    if voters <= 1 || !quorum.voters.contains(&id) {
        return None;
    }
    let majority = voters / 2 + 1;
    let others = quorum.voters.iter().filter(|v| **v != id && quorum.caught_up.contains(v)).count();
    (others < majority).then(|| {
        format!(
            "the metadata quorum would stop: without broker {id}, {others} of its {voters} voters are known to be caught up, and {majority} are needed"
        )
    })
}

/// How far a broker has come after its restart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PostRestart {
    /// Partitions with a replica on it.
    pub replicas: usize,
    /// Those of them that it is in sync with.
    pub in_sync: usize,
    /// What is still to come; empty when it has caught up.
    pub waiting_for: Vec<String>,
}

impl PostRestart {
    /// Of the replicas, how many are in sync, in percent; rounded down, so that 100 means all.
    pub fn percent(&self) -> f64 {
        match self.replicas {
            0 => 100.0,
            all => (self.in_sync * 1000 / all) as f64 / 10.0,
        }
    }
}

/// Whether this broker is back in every ISR that it belongs to; `None` if no such broker is registered.
pub fn post_restart(image: &MetadataImage, id: BrokerId) -> Option<PostRestart> {
    const NAMED: usize = 5;
    let broker = image.broker(id)?;
    let mut answer = PostRestart::default();
    let mut behind = Vec::new();
    for topic in image.topics() {
        for (number, p) in (0..).zip(&topic.partitions) {
            if !p.replicas.contains(&id) {
                continue;
            }
            answer.replicas += 1;
            if p.isr.contains(&id) {
                answer.in_sync += 1;
            } else if behind.len() < NAMED {
                let number: i32 = number;
                behind.push(format!("{}-{number}", topic.name));
            }
        }
    }
    if broker.fenced {
        answer.waiting_for.push(format!("broker {id} is fenced"));
    }
    let missing = answer.replicas - answer.in_sync;
    if missing > 0 {
        let more = if missing > behind.len() { ", …" } else { "" };
        let replicas = answer.replicas;
        let names = behind.join(", ");
        answer.waiting_for.push(format!("{missing} of {replicas} replicas are not in sync: {names}{more}"));
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, cluster, ids, topic};
    use super::super::{NewTopic, create_topics, fence_broker};
    use super::*;

    /// Three brokers, and a topic of one partition on `replicas` with this `min.insync.replicas`.
    fn with(replicas: &[i32], min_isr: u32) -> MetadataImage {
        let image = cluster(&[(1, None), (2, None), (3, None)]);
        add(&image, "t", replicas, min_isr)
    }

    fn add(image: &MetadataImage, name: &str, replicas: &[i32], min_isr: u32) -> MetadataImage {
        let replicas = replicas.iter().map(|id| BrokerId(*id)).collect();
        let configs = vec![("min.insync.replicas".to_string(), Some(min_isr.to_string()))];
        let new =
            NewTopic { assignments: vec![(0, replicas)], replication_factor: -1, configs, ..topic(name, -1) };
        let mut fresh = ids(7_000 + image.topic_count() as u128);
        let (records, answers) = create_topics(image, &[new], false, &mut fresh);
        answers.into_iter().for_each(|(name, answer)| drop(answer.unwrap_or_else(|e| panic!("{name}: {e}"))));
        apply(image, &records)
    }

    fn without(image: &MetadataImage, id: i32) -> MetadataImage {
        let epoch = image.broker(BrokerId(id)).unwrap().broker_epoch;
        apply(image, &fence_broker(image, BrokerId(id), epoch).unwrap().0)
    }

    fn alone() -> Quorum {
        Quorum { voters: vec![BrokerId(1)], caught_up: vec![BrokerId(1)] }
    }

    fn ask(image: &MetadataImage, id: i32) -> PreRestart {
        pre_restart(image, &alone(), BrokerId(id)).unwrap()
    }

    #[test]
    fn what_no_order_could_keep_is_unavoidable() {
        for (replicas, min_isr, words) in [
            (&[1][..], 1, "one replica"),
            (&[1], 2, "one replica"),
            (&[1, 2], 2, "takes no acks=all meanwhile"),
            (&[1, 2, 3], 3, "3 replicas and min.insync.replicas=3"),
        ] {
            let answer = ask(&with(replicas, min_isr), 1);
            assert_eq!((answer.is_safe(), answer.blocking.count, answer.unavoidable.count), (true, 0, 1));
            let affected = &answer.unavoidable.partitions[0];
            assert_eq!((&*affected.topic, affected.partition), ("t", 0));
            assert!(affected.reason.contains(words), "{}", affected.reason);
        }
    }

    #[test]
    fn where_enough_others_are_in_sync_nothing_happens() {
        for (replicas, min_isr) in [(&[1, 2][..], 1), (&[1, 2, 3], 2), (&[1, 2, 3], 1)] {
            let answer = ask(&with(replicas, min_isr), 1);
            assert_eq!(answer, PreRestart::default(), "{replicas:?} {min_isr}");
        }
        let elsewhere = ask(&with(&[2, 3], 2), 1);
        assert_eq!(elsewhere, PreRestart::default());
    }

    #[test]
    fn what_another_order_could_keep_blocks() {
        // Broker 3 is away: 2 of 3 are in sync.
        let image = without(&with(&[1, 2, 3], 2), 3);
        let answer = ask(&image, 1);
        assert_eq!((answer.is_safe(), answer.blocking.count, answer.unavoidable.count), (false, 1, 0));
        assert!(answer.blocking.partitions[0].reason.contains("1 of its 3 replicas"), "{answer:?}");
        // Who is out of the ISR already may stop.
        assert!(ask(&image, 3).is_safe());
        // The last one in sync: even where min.insync.replicas could not be kept, readers could be.
        for min_isr in [1, 2] {
            let image = without(&with(&[1, 2], min_isr), 2);
            let answer = ask(&image, 1);
            assert_eq!((answer.blocking.count, answer.unavoidable.count), (1, 0));
            assert!(answer.blocking.partitions[0].reason.contains("would be offline"), "{answer:?}");
        }
    }

    #[test]
    fn long_lists_are_cut_and_counted_whole() {
        let mut image = with(&[1], 1);
        for n in 0..AffectedList::SHOWN + 20 {
            image = add(&image, &format!("u{n:03}"), &[1], 1);
        }
        let answer = ask(&image, 1);
        assert_eq!(answer.unavoidable.count, AffectedList::SHOWN + 21);
        assert_eq!(answer.unavoidable.partitions.len(), AffectedList::SHOWN);
        assert_eq!(&*answer.unavoidable.partitions[1].topic, "u000");
    }

    #[test]
    fn a_quorum_keeps_its_majority() {
        let image = with(&[2, 3], 1);
        let all = [BrokerId(1), BrokerId(2), BrokerId(3)];
        let ask = |voters: &[BrokerId], caught_up: &[BrokerId]| {
            let quorum = Quorum { voters: voters.to_vec(), caught_up: caught_up.to_vec() };
            pre_restart(&image, &quorum, BrokerId(1)).unwrap()
        };
        assert!(ask(&all, &all).is_safe());
        assert!(ask(&all[..1], &all[..1]).is_safe(), "alone there is no better moment");
        assert!(ask(&all[1..], &[]).is_safe(), "no voter");
        for (voters, caught_up) in [(&all[..], &all[..2]), (&all[..2], &all[..2]), (&all[..], &all[..0])] {
            let answer = ask(voters, caught_up);
            assert!(
                !answer.is_safe() && answer.reasons[0].contains("metadata quorum would stop"),
                "{answer:?}"
            );
        }
    }

    #[test]
    fn a_broker_has_caught_up_when_it_is_in_every_isr_again() {
        let image = add(&with(&[1, 2, 3], 1), "u", &[2, 3], 1);
        let back = post_restart(&image, BrokerId(1)).unwrap();
        assert_eq!((back.replicas, back.in_sync, back.percent(), back.waiting_for.len()), (1, 1, 100.0, 0));

        let image = without(&image, 2);
        let away = post_restart(&image, BrokerId(2)).unwrap();
        assert_eq!((away.replicas, away.in_sync, away.percent()), (2, 0, 0.0));
        assert_eq!(away.waiting_for, ["broker 2 is fenced", "2 of 2 replicas are not in sync: t-0, u-0"]);
        assert_eq!(post_restart(&image, BrokerId(3)).unwrap().waiting_for, Vec::<String>::new());
        let nearly = PostRestart { replicas: 10_000, in_sync: 9_999, waiting_for: Vec::new() };
        assert_eq!(nearly.percent(), 99.9);
    }

    #[test]
    fn who_is_not_registered_is_nobody() {
        let image = with(&[1], 1);
        assert_eq!(pre_restart(&image, &alone(), BrokerId(9)), None);
        assert_eq!(post_restart(&image, BrokerId(9)), None);
    }
}
