//! Members of groups of the consumer protocol, as an observer makes them out from what they are answered: where each is now, if
//! the log is right.

use std::collections::{BTreeMap, BTreeSet};

use chronik_core::group::{Answer, GroupRecord};
use kafka_protocol::messages::ConsumerGroupHeartbeatResponse;
use kafka_protocol::messages::consumer_group_heartbeat_response::Assignment;
use kafka_protocol::protocol::StrBytes;

/// Group and member.
pub type Name = (StrBytes, StrBytes);

/// What a batch of a group says of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// It is in this epoch, and has these partitions; the ones that it had, if nothing is said of them.
    Told { member: Name, epoch: i32, assigned: Option<BTreeSet<i32>> },
    /// It is away, and keeps what it has.
    Away(Name),
    /// It is no member any more.
    Gone(Name),
}

/// Where a member is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub epoch: i32,
    /// What it has, since which epoch.
    pub assigned: BTreeMap<i32, i32>,
    /// The same of what it may not have given up yet.
    pub pending: BTreeMap<i32, i32>,
}

#[derive(Clone, Debug, Default)]
pub struct Roster(BTreeMap<Name, Place>);

/// The version of a `ConsumerGroupCurrentMemberAssignmentKey`.
pub const CURRENT: [u8; 2] = [0, 8];
/// The epoch of a static member that says that it will be back.
pub const AWAY: i32 = -2;

impl Fact {
    /// What an answer to a heartbeat in this group says, unless it refuses or takes leave.
    pub fn told(group: &StrBytes, answer: &Answer) -> Option<Fact> {
        let Answer::ConsumerGroupHeartbeat(told) = answer else { return None };
        let ConsumerGroupHeartbeatResponse {
            error_code: 0, member_id: Some(id), member_epoch: epoch, ..
        } = told
        else {
            return None;
        };
        let member = (group.clone(), id.clone());
        let assigned = told.assignment.as_ref().map(partitions);
        (*epoch > 0).then_some(Fact::Told { member, epoch: *epoch, assigned })
    }

    /// What a record says of a member that nobody is told.
    pub fn untold(record: &GroupRecord) -> Option<Fact> {
        let (group, rest) = string(record.key.strip_prefix(&CURRENT)?)?;
        let member = (group, string(rest)?.0);
        let Some(value) = &record.value else { return Some(Fact::Gone(member)) };
        // Behind its version comes the epoch.
        let epoch = value.get(2..)?.first_chunk()?;
        (i32::from_be_bytes(*epoch) == AWAY).then_some(Fact::Away(member))
    }
}

/// There is only one topic to read.
pub fn partitions(assignment: &Assignment) -> BTreeSet<i32> {
    assignment.topic_partitions.iter().flat_map(|topic| topic.partitions.iter().copied()).collect()
}

fn string(bytes: &[u8]) -> Option<(StrBytes, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some((StrBytes::from_string(String::from_utf8(text.to_vec()).ok()?), rest))
}

impl Roster {
    pub fn apply(&mut self, fact: &Fact) {
        match fact {
            Fact::Gone(member) => _ = self.0.remove(member),
            Fact::Away(member) => {
                let Some(place) = self.0.get_mut(member) else { return };
                place.epoch = AWAY;
                place.pending.clear();
            }
            Fact::Told { member, epoch, assigned } => {
                let place = self.0.entry(member.clone()).or_default();
                // It has reached it when it has given everything up.
                if std::mem::replace(&mut place.epoch, *epoch) != *epoch {
                    place.pending.clear();
                }
                let Some(assigned) = assigned else { return };
                let before = std::mem::take(&mut place.assigned);
                let since = |partition: &i32| before.get(partition).copied().unwrap_or(*epoch);
                place.assigned = assigned.iter().map(|partition| (*partition, since(partition))).collect();
                place
                    .pending
                    .extend(before.into_iter().filter(|(partition, _)| !assigned.contains(partition)));
            }
        }
    }

    pub fn place(&self, member: &Name) -> Option<&Place> {
        self.0.get(member)
    }

    /// The members of a group, with their epochs and what they have.
    pub fn of_group(&self, group: &StrBytes) -> BTreeMap<StrBytes, (i32, BTreeSet<i32>)> {
        let members = self.0.iter().filter(|((of, _), _)| of == group);
        members
            .map(|((_, id), place)| (id.clone(), (place.epoch, place.assigned.keys().copied().collect())))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_given_up_is_pending_until_the_epoch_is_reached() {
        let member = (StrBytes::from_static_str("g"), StrBytes::from_static_str("m"));
        let mut roster = Roster::default();
        let mut told = |epoch, assigned: Option<&[i32]>| {
            let assigned = assigned.map(|assigned| assigned.iter().copied().collect());
            roster.apply(&Fact::Told { member: member.clone(), epoch, assigned });
            let Place { epoch, assigned, pending } = roster.place(&member).cloned().unwrap();
            (epoch, Vec::from_iter(assigned), Vec::from_iter(pending))
        };
        assert_eq!(told(3, Some(&[0, 1])), (3, vec![(0, 3), (1, 3)], vec![]));
        assert_eq!(told(3, Some(&[0])), (3, vec![(0, 3)], vec![(1, 3)]));
        assert_eq!(told(5, None), (5, vec![(0, 3)], vec![]));
        assert_eq!(told(5, Some(&[0, 2])), (5, vec![(0, 3), (2, 5)], vec![]));
        roster.apply(&Fact::Away(member.clone()));
        assert_eq!(roster.of_group(&member.0)[&member.1], (AWAY, [0, 2].into()));
        roster.apply(&Fact::Gone(member.clone()));
        assert_eq!(roster.place(&member), None);
    }
}
