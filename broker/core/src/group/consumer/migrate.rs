//! A classic group of consumers becomes a group of the consumer protocol when the first member of that joins, and a classic
//! one again when the last of them is gone, as far as `group.consumer.migration.policy` lets it.

use std::collections::BTreeSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;

use super::super::classic::{self, ClassicGroup};
use super::super::embedded::{self, Assignment, Subscription};
use super::super::record::{
    self, ClassicValue, ConsumerMemberValue, ConsumerRecord, CurrentValue, EpochValue, MemberState,
    PartitionEpochs, TargetEpochValue,
};
use super::super::turn::Turn;
use super::super::{Group, GroupRecord, Groups, RecordError};
use super::ahead::Ahead;
use super::work::Made;
use super::{ConsumerGroup, Refusal, State, plain};
use crate::ids::TopicId;
use crate::metadata::MetadataImage;

/// What a classic group that has members would be as one of the consumer protocol, with the records that make it so. Its
/// generation is the epoch; its members are where they are, and in their own time notice that they are to join again.
pub(super) fn upgraded(turn: &Turn<'_>, classic: &ClassicGroup) -> Result<Made, Refusal> {
    let id = classic.id();
    let refused = |why: &str| {
        let message = format!("Cannot upgrade classic group {id} to consumer group because {why}.");
        Refusal::new(ResponseError::GroupIdNotFound, message)
    };
    if !turn.config.consumer_migration_policy.allows_upgrade() {
        return Err(refused("online upgrade is disabled"));
    }
    if !classic.is_of_consumers() {
        return Err(refused("the group does not use the consumer embedded protocol"));
    }
    if classic.members().len() > turn.config.consumer_max_size {
        return Err(refused("the group size exceeds the consumer group maximum size"));
    }
    let epoch = classic.generation();
    let mut taken = BTreeSet::new();
    let mut members = Vec::with_capacity(classic.members().len());
    for (member_id, member) in classic.members() {
        let value = metadata_of(classic, member)
            .map_err(|_| refused("the embedded consumer protocol is malformed"))?;
        let assignment = if member.assignment.is_empty() {
            Assignment::default()
        } else {
            Assignment::decode(&member.assignment)
                .map_err(|_| refused("the embedded consumer protocol is malformed"))?
        };
        if assignment.has_user_data {
            return Err(refused(
                "an unsupported custom assignor is in use. Please refer to the documentation or switch to a default \
                 assignor before re-attempting the upgrade",
            ));
        }
        let assigned = assigned(&assignment, epoch, &mut taken, turn.image);
        members.push((member_id, value, assigned));
    }
    let mut group = ConsumerGroup::new(id.clone());
    let mut records = Vec::new();
    for (member_id, value, _) in &members {
        records.push(ConsumerRecord::Member((*member_id).clone(), Some(value.clone())));
    }
    records.iter().cloned().for_each(|record| group.apply(record));
    let ahead = Ahead { group: &group, without: &[], member: None, regexes: Default::default() };
    let metadata_hash = ahead.metadata_hash(turn.image);
    let mut more = vec![ConsumerRecord::Epoch(Some(EpochValue { epoch, metadata_hash }))];
    for (member_id, _, assigned) in &members {
        more.push(ConsumerRecord::Target((*member_id).clone(), Some(plain(assigned))));
    }
    let target = TargetEpochValue { epoch, timestamp_ms: 0 };
    more.push(ConsumerRecord::TargetEpoch(Some(target)));
    for (member_id, _, assigned) in members {
        let current = CurrentValue {
            epoch,
            previous_epoch: epoch,
            state: MemberState::Stable,
            assigned,
            pending_revocation: PartitionEpochs::new(),
        };
        more.push(ConsumerRecord::Current(member_id.clone(), Some(current)));
    }
    more.iter().cloned().for_each(|record| group.apply(record));
    let tombstone = GroupRecord { key: record::group_key(id), value: None };
    let written = records.iter().chain(&more).map(|record| record.encode(id));
    Ok(Made { before: [tombstone].into_iter().chain(written).collect(), group })
}

fn metadata_of(group: &ClassicGroup, member: &classic::Member) -> Result<ConsumerMemberValue, RecordError> {
    // Before the first generation no protocol is chosen; all have the same subscription.
    let first = member.protocols.first().map(|protocol| &protocol.name);
    let metadata = group.protocol_name().or(first).map(|name| member.metadata(name)).unwrap_or_default();
    let subscription = Subscription::decode(&metadata)?;
    Ok(ConsumerMemberValue {
        instance_id: member.instance_id.clone(),
        rack_id: subscription.rack_id,
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        subscribed_topics: subscription.topics.into_iter().collect(),
        subscribed_regex: StrBytes::new(),
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        server_assignor: None,
        classic: Some(ClassicValue {
            session_timeout_ms: member.session_timeout_ms,
            protocols: member.protocols.clone(),
        }),
    })
}

/// What a member has. A leader that gave a partition to two members is not believed: the first has it.
fn assigned(
    assignment: &Assignment,
    epoch: i32,
    taken: &mut BTreeSet<(TopicId, i32)>,
    image: &MetadataImage,
) -> PartitionEpochs {
    let mut assigned = PartitionEpochs::new();
    for (topic, partitions) in embedded::by_id(&assignment.partitions, image) {
        for partition in partitions {
            if taken.insert((topic, partition)) {
                assigned.entry(topic).or_default().insert(partition, epoch);
            }
        }
    }
    assigned
}

/// Whether only members of the classic protocol are left without these, and the group may become a classic one. `joining`
/// take the place of some.
pub(super) fn may_downgrade(
    turn: &Turn<'_>,
    group: &ConsumerGroup,
    without: &[StrBytes],
    joining: usize,
) -> bool {
    let mut left = group.members.iter().filter(|(id, _)| !without.contains(id));
    let count = group.members.len() - without.len() + joining;
    let replaces_classic = joining > 0 && without.iter().all(|id| group.is_of_classic_protocol(id));
    turn.config.consumer_migration_policy.allows_downgrade()
        && !replaces_classic
        && (1..=turn.config.max_size).contains(&count)
        && left.all(|(_, member)| member.metadata.classic.is_some())
}

/// The group becomes a classic one, without these members. False if the log would not take it.
pub(super) fn downgrade(
    turn: &mut Turn<'_>,
    groups: &mut Groups,
    id: &StrBytes,
    without: &[StrBytes],
    resubscribed: bool,
) -> bool {
    let Some(Group::Consumer(group)) = groups.get(id) else { return false };
    let mut classic = group.as_classic(turn, without);
    let mut records = group.tombstones();
    records.push(classic.record());
    if !turn.fits(turn.step.records.iter().chain(&records)) {
        return false;
    }
    for member_id in group.members.keys() {
        group.cancel_timers(turn, member_id);
    }
    // What all have together may not be all that there is.
    let rebalances = !without.is_empty() || resubscribed || group.state() != State::Stable;
    turn.step.records.extend(records);
    classic.loaded(turn);
    if rebalances {
        classic.prepare_rebalance(turn);
    }
    groups.insert(classic.id().clone(), Group::Classic(classic));
    true
}

impl ConsumerGroup {
    fn as_classic(&self, turn: &Turn<'_>, without: &[StrBytes]) -> ClassicGroup {
        let members =
            self.members.iter().filter(|(id, _)| !without.contains(id)).filter_map(|(id, member)| {
                let ClassicValue { session_timeout_ms, protocols } = member.metadata.classic.clone()?;
                let version = protocols.first().and_then(|p| Subscription::decode(&p.metadata).ok())?.version;
                let classic = classic::Member {
                    instance_id: member.metadata.instance_id.clone(),
                    client_id: member.metadata.client_id.clone(),
                    client_host: member.metadata.client_host.clone(),
                    rebalance_timeout_ms: member.metadata.rebalance_timeout_ms,
                    session_timeout_ms,
                    protocols,
                    assignment: embedded::encode_assignment(version, &member.current.assigned, turn.image),
                    is_new: false,
                    awaiting_join: None,
                    awaiting_sync: None,
                };
                Some((id.clone(), classic))
            });
        ClassicGroup::of_members(self.id.clone(), self.epoch, turn.now_ms, members)
    }
}
