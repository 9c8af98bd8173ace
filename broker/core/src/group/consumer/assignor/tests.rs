use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn topic(number: u8) -> TopicId {
    TopicId(Uuid::from_u128(number.into()))
}

/// Members by the topics that they want, and what they have.
#[derive(Clone, Debug)]
struct Case {
    counts: Vec<i32>,
    members: Vec<(StrBytes, Option<StrBytes>, BTreeSet<TopicId>, Partitions)>,
}

impl Case {
    fn new(counts: &[i32], members: &[&[u8]]) -> Case {
        let members = members.iter().enumerate().map(|(number, topics)| {
            let id = StrBytes::from_string(format!("m{number}"));
            (id, None, topics.iter().map(|number| topic(*number)).collect(), Partitions::new())
        });
        Case { counts: counts.to_vec(), members: members.collect() }
    }

    fn solve(&self, assignor: AssignorKind) -> Vec<Partitions> {
        let wanted: BTreeSet<_> = self.members.iter().flat_map(|(_, _, topics, _)| topics).collect();
        let topics = self.counts.iter().zip(0..).map(|(count, number)| (topic(number), *count));
        let topics: BTreeMap<_, _> = topics.filter(|(topic, _)| wanted.contains(topic)).collect();
        let subscribers = self.members.iter().map(|(id, instance_id, subscribed, has)| Subscriber {
            id,
            instance_id: instance_id.as_ref(),
            topics: subscribed.iter().filter(|topic| topics.contains_key(topic)).copied().collect(),
            has,
        });
        Problem { subscribers: subscribers.collect(), topics: topics.clone() }.solve(assignor)
    }

    /// The shares are what the members have from now on.
    fn take(&mut self, shares: Vec<Partitions>) {
        for (member, share) in self.members.iter_mut().zip(shares) {
            member.3 = share;
        }
    }

    /// Every partition that somebody wants has one owner, who wants it.
    fn check(&self, shares: &[Partitions]) {
        assert_eq!(shares.len(), self.members.len());
        let mut owners = BTreeMap::new();
        for ((id, _, topics, _), share) in self.members.iter().zip(shares) {
            for (topic, partitions) in share {
                assert!(topics.contains(topic), "{id} does not want {topic}");
                assert!(!partitions.is_empty());
                for partition in partitions {
                    assert_eq!(
                        owners.insert((*topic, *partition), id),
                        None,
                        "{topic}-{partition} has two owners"
                    );
                }
            }
        }
        for (count, number) in self.counts.iter().zip(0..) {
            if self.members.iter().any(|(_, _, topics, _)| topics.contains(&topic(number))) {
                for partition in 0..*count {
                    assert!(
                        owners.contains_key(&(topic(number), partition)),
                        "{number}-{partition} is nobody's"
                    );
                }
            }
        }
    }
}

fn size(share: &Partitions) -> usize {
    share.values().map(BTreeSet::len).sum()
}

fn partitions(all: &[(u8, &[i32])]) -> Partitions {
    partitions_of(
        all.iter().flat_map(|(number, partitions)| partitions.iter().map(move |p| (topic(*number), *p))),
    )
}

#[test]
fn range_gives_the_same_range_of_each_topic() {
    let case = Case::new(&[4, 4, 3], &[&[0, 1, 2], &[0, 1, 2], &[0, 1, 2]]);
    let shares = case.solve(AssignorKind::Range);
    assert_eq!(shares[0], partitions(&[(0, &[0, 1]), (1, &[0, 1]), (2, &[0])]));
    assert_eq!(shares[1], partitions(&[(0, &[2]), (1, &[2]), (2, &[1])]));
    assert_eq!(shares[2], partitions(&[(0, &[3]), (1, &[3]), (2, &[2])]));
}

#[test]
fn range_puts_static_members_first_by_their_instance_ids() {
    let mut case = Case::new(&[3], &[&[0], &[0], &[0]]);
    case.members[1].1 = Some(StrBytes::from_static_str("z"));
    case.members[2].1 = Some(StrBytes::from_static_str("a"));
    let shares = case.solve(AssignorKind::Range);
    let firsts = [partitions(&[(0, &[2])]), partitions(&[(0, &[1])]), partitions(&[(0, &[0])])];
    assert_eq!(shares, firsts);
}

#[test]
fn more_members_than_partitions_leave_some_without() {
    for assignor in [AssignorKind::Range, AssignorKind::Uniform] {
        let case = Case::new(&[2], &[&[0], &[0], &[0]]);
        let shares = case.solve(assignor);
        case.check(&shares);
        assert_eq!(shares.iter().map(size).collect::<Vec<_>>(), [1, 1, 0]);
    }
}

#[test]
fn who_has_one_more_keeps_it() {
    let mut case = Case::new(&[5], &[&[0], &[0]]);
    case.members[0].3 = partitions(&[(0, &[0, 1])]);
    case.members[1].3 = partitions(&[(0, &[2, 3, 4])]);
    let shares = case.solve(AssignorKind::Uniform);
    assert_eq!(shares, [case.members[0].3.clone(), case.members[1].3.clone()]);
}

#[test]
fn what_two_have_only_the_first_keeps_and_what_is_not_there_nobody() {
    let mut case = Case::new(&[3], &[&[0], &[0]]);
    case.members[0].3 = partitions(&[(0, &[0, 7]), (5, &[0])]);
    case.members[1].3 = partitions(&[(0, &[0, 1])]);
    let shares = case.solve(AssignorKind::Uniform);
    case.check(&shares);
    assert!(shares[0][&topic(0)].contains(&0) && shares[1][&topic(0)].contains(&1));
}

#[test]
fn nobody_and_nothing_are_shared_out_too() {
    for assignor in [AssignorKind::Range, AssignorKind::Uniform] {
        assert_eq!(Case::new(&[3], &[]).solve(assignor), []);
        assert_eq!(Case::new(&[3], &[&[], &[]]).solve(assignor), [Partitions::new(), Partitions::new()]);
        assert_eq!(Case::new(&[0], &[&[0]]).solve(assignor), [Partitions::new()]);
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let wishes = proptest::collection::vec(proptest::collection::btree_set(0u8..4, 0..4), 1..8);
    (proptest::collection::vec(0i32..12, 4), wishes).prop_map(|(counts, wishes)| {
        let wishes: Vec<Vec<u8>> = wishes.into_iter().map(|wish| wish.into_iter().collect()).collect();
        Case::new(&counts, &wishes.iter().map(Vec::as_slice).collect::<Vec<_>>())
    })
}

/// How many partitions somebody has who had them not.
fn moved(before: &[Partitions], after: &[Partitions]) -> usize {
    let moved = before.iter().zip(after).flat_map(|(before, after)| {
        after.iter().map(|(topic, partitions)| match before.get(topic) {
            Some(before) => partitions.difference(before).count(),
            None => partitions.len(),
        })
    });
    moved.sum()
}

proptest! {
    #[test]
    fn everything_is_shared_out_once_and_stays_where_it_is(mut case in cases(), range: bool) {
        let assignor = if range { AssignorKind::Range } else { AssignorKind::Uniform };
        let shares = case.solve(assignor);
        case.check(&shares);
        case.take(shares.clone());
        prop_assert_eq!(case.solve(assignor), shares);
    }

    #[test]
    fn uniform_is_balanced_where_all_want_the_same(counts in proptest::collection::vec(0i32..12, 4), members in 1usize..9) {
        let case = Case::new(&counts, &vec![&[0u8, 1, 2, 3][..]; members]);
        let shares = case.solve(AssignorKind::Uniform);
        let sizes: Vec<_> = shares.iter().map(size).collect();
        prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{:?}", sizes);
    }

    /// Nobody has two partitions more than somebody else who wants one of them.
    #[test]
    fn uniform_leaves_no_partition_that_would_better_be_anothers(case in cases()) {
        let shares = case.solve(AssignorKind::Uniform);
        for (giver, share) in shares.iter().enumerate() {
            for (taker, (_, _, topics, _)) in case.members.iter().enumerate() {
                let better = size(share) > size(&shares[taker]) + 1 && share.keys().any(|topic| topics.contains(topic));
                prop_assert!(!better, "{} has {:?}, {} only {:?}", giver, share, taker, &shares[taker]);
            }
        }
    }

    /// When a member goes, or comes, where all want the same, no more moves than must.
    #[test]
    fn uniform_moves_few(counts in proptest::collection::vec(0i32..12, 4), members in 2usize..9, leaves in 0usize..8) {
        let mut case = Case::new(&counts, &vec![&[0u8, 1, 2, 3][..]; members]);
        let shares = case.solve(AssignorKind::Uniform);
        case.take(shares.clone());
        let gone = case.members.remove(leaves % members);
        let mut before = shares;
        before.remove(leaves % members);
        let after = case.solve(AssignorKind::Uniform);
        case.check(&after);
        prop_assert_eq!(moved(&before, &after), size(&gone.3));
        case.take(after.clone());
        case.members.push((gone.0, None, gone.2, Partitions::new()));
        let again = case.solve(AssignorKind::Uniform);
        case.check(&again);
        let came = size(again.last().unwrap());
        let mut extended = after;
        extended.push(Partitions::new());
        prop_assert_eq!(moved(&extended, &again), came);
    }
}
