//! A group as it is about to be: with a member that is new or changed, without those that go.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::protocol::StrBytes;

use super::super::config::AssignorKind;
use super::super::record::ConsumerMemberValue;
use super::{ConsumerGroup, Regexes};
use crate::ids::TopicId;
use crate::metadata::{MetadataImage, TopicImage};

pub(super) struct Ahead<'a> {
    pub group: &'a ConsumerGroup,
    /// Who goes, and who is replaced.
    pub without: &'a [StrBytes],
    /// Who is new or changed.
    pub member: Option<(&'a StrBytes, &'a ConsumerMemberValue)>,
    pub regexes: Cow<'a, Regexes>,
}

impl<'a> Ahead<'a> {
    pub fn members(&self) -> impl Iterator<Item = (&'a StrBytes, &'a ConsumerMemberValue)> {
        let (without, changed) = (self.without, self.member);
        let stay = self.group.members.iter().filter(move |(id, _)| {
            !without.contains(id) && changed.is_none_or(|(changed, _)| changed != *id)
        });
        stay.map(|(id, member)| (id, &member.metadata)).chain(changed)
    }

    /// The names of all topics that somebody is subscribed to.
    fn subscribed_topics(&self) -> BTreeSet<&StrBytes> {
        let mut topics = BTreeSet::new();
        for (_, member) in self.members() {
            topics.extend(self.topics_of(member));
        }
        topics
    }

    /// By name, and by a regular expression. One that is not resolved matches nothing.
    pub fn topics_of<'b>(&'b self, member: &'b ConsumerMemberValue) -> impl Iterator<Item = &'b StrBytes> {
        topics_of(member, &self.regexes)
    }

    /// What there is to know of the topics that the group is subscribed to: when it changes, so must the assignment. Unlike
    /// Kafka's, which another algorithm makes, but for 0: no topics.
    pub fn metadata_hash(&self, image: &MetadataImage) -> i64 {
        let mut hash = Fnv::default();
        let topics = self.subscribed_topics().into_iter().filter_map(|name| image.topic(name));
        let mut any = false;
        for topic in topics {
            any = true;
            hash_topic(&mut hash, topic, image);
        }
        if any { hash.0 as i64 } else { 0 }
    }

    /// The one that most members prefer; of two with as many votes, the first by name.
    pub fn preferred_assignor(&self, assignors: &[AssignorKind]) -> AssignorKind {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, member) in self.members() {
            if let Some(name) = &member.server_assignor {
                *votes.entry(name.as_str()).or_default() += 1;
            }
        }
        let best = votes.into_iter().rev().max_by_key(|(_, count)| *count);
        let known = best.and_then(|(name, _)| assignors.iter().find(|assignor| assignor.name() == name));
        known.or(assignors.first()).copied().unwrap_or(AssignorKind::Uniform)
    }
}

/// As [`Ahead::topics_of`].
pub(super) fn topics_of<'b>(
    member: &'b ConsumerMemberValue,
    regexes: &'b Regexes,
) -> impl Iterator<Item = &'b StrBytes> {
    let regex = regexes.get(&member.subscribed_regex);
    member.subscribed_topics.iter().chain(regex.into_iter().flat_map(|regex| &regex.topics))
}

/// Those of them that exist.
pub(super) fn topic_ids_of(
    member: &ConsumerMemberValue,
    regexes: &Regexes,
    image: &MetadataImage,
) -> BTreeSet<TopicId> {
    topics_of(member, regexes).filter_map(|name| image.topic(name)).map(|topic| topic.id).collect()
}

fn hash_topic(hash: &mut Fnv, topic: &TopicImage, image: &MetadataImage) {
    hash.add(topic.id.0.as_bytes());
    hash.add(topic.name.as_bytes());
    hash.add(&topic.partitions.len().to_be_bytes());
    for partition in &topic.partitions {
        for broker in &partition.replicas {
            if let Some(rack) = image.broker(*broker).and_then(|broker| broker.rack.as_ref()) {
                hash.add(rack.as_bytes());
            }
        }
        hash.add(&[]);
    }
}

/// FNV-1a of 64 bits: the same in every version and on every machine.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// A part, and where it ends.
    fn add(&mut self, part: &[u8]) {
        let length = (part.len() as u64).to_be_bytes();
        for byte in part.iter().chain(&length) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
