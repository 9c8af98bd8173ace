//! What a member's request does to its group: worked out first, then written and applied.

use std::borrow::Cow;

use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;

use super::super::record::{ConsumerMemberValue, ConsumerRecord, CurrentValue, Partitions, RegexValue};
use super::super::turn::{Turn, own};
use super::super::{Group, GroupConfig, GroupRecord, Groups, configs};
use super::ahead::{Ahead, topic_ids_of};
use super::heartbeat::not_found;
use super::reconcile::Reconciling;
use super::target::{self, Target};
use super::{ConsumerGroup, Matched, Member, Refusal, Regexes, next_epoch, regex};

/// Regular expressions are not matched anew more often, whatever happens to topics.
const MATCHING_INTERVAL_MIN_MS: i64 = 10_000;

/// A group that was not there, or not of this kind: with what is to be written before.
pub(super) struct Made {
    pub group: ConsumerGroup,
    pub before: Vec<GroupRecord>,
}

/// As far as it is worked out.
pub(super) struct Work<'a, 'b> {
    pub turn: &'a Turn<'b>,
    pub group: &'a ConsumerGroup,
    pub member_id: &'a StrBytes,
    /// What the member says it has; None if it does not say.
    pub owned: Option<&'a Partitions>,
    pub records: Vec<ConsumerRecord>,
}

/// Who asks, and what of it is new.
pub(super) struct Told<'a> {
    /// As the member was before; a new one if it was not there.
    pub member: Cow<'a, Member>,
    /// The static member whose place it takes.
    pub replaced: Option<StrBytes>,
    /// What it says about itself, if that is something new.
    pub metadata: Option<ConsumerMemberValue>,
}

/// How far the member goes at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// To a new target, if it is time for one.
    Target,
    /// The group is about to become a classic one: to the target that there is, unless that is obsolete.
    LastTarget,
}

/// What is to be written and applied.
pub(super) struct Done {
    pub records: Vec<ConsumerRecord>,
    /// The member's place has changed.
    moved: bool,
    /// What it may have has changed.
    pub reassigned: bool,
    /// The group has a new epoch that the member's subscription is the reason of.
    pub resubscribed: bool,
    matched: Option<Matched>,
    refreshed: bool,
}

impl<'a> Work<'a, '_> {
    pub fn run(mut self, told: Told<'a>, extent: Extent) -> Result<Done, Refusal> {
        let Told { member, replaced, metadata: changed } = told;
        let new = replaced.is_none() && !self.group.members.contains_key(self.member_id);
        let metadata = changed.as_ref().unwrap_or(&member.metadata);
        if new || changed.is_some() {
            self.records.push(ConsumerRecord::Member(self.member_id.clone(), Some(metadata.clone())));
        }
        let (regexes, matched, rematched) = self.regexes(&member.metadata, metadata, replaced.is_some())?;
        let resubscribed = metadata.subscribed_topics != member.metadata.subscribed_topics
            || metadata.subscribed_regex != member.metadata.subscribed_regex;
        let without: Vec<_> = replaced.into_iter().collect();
        let member_ahead = Some((self.member_id, metadata));
        let ahead = Ahead { group: self.group, without: &without, member: member_ahead, regexes };
        let refreshed = self.next_epoch_if(&ahead, self.group.epoch == 0 || resubscribed || rematched);
        let epoch = refreshed.unwrap_or(self.group.epoch);
        let mut done = Done {
            records: Vec::new(),
            moved: false,
            reassigned: false,
            resubscribed,
            matched,
            refreshed: refreshed.is_some(),
        };
        if extent == Extent::Target || !resubscribed {
            let target = self.target(&ahead, epoch, metadata, extent);
            if let Some(next) = self.reconciled(&ahead, &member, metadata, &target, resubscribed)? {
                done.moved = true;
                done.reassigned = next.assigned != member.current.assigned;
                self.records.push(ConsumerRecord::Current(self.member_id.clone(), Some(next)));
            }
        }
        done.records = self.records;
        Ok(done)
    }

    fn reconciled(
        &self,
        ahead: &Ahead<'_>,
        member: &Member,
        metadata: &ConsumerMemberValue,
        target: &Target<'_>,
        resubscribed: bool,
    ) -> Result<Option<CurrentValue>, Refusal> {
        if !resubscribed && member.is_reconciled_to(target.epoch) {
            return Ok(None);
        }
        let reconciling = Reconciling {
            current: &member.current,
            target_epoch: target.epoch,
            target: &target.partitions,
            subscribed_topics: topic_ids_of(metadata, &ahead.regexes, self.turn.image),
            subscription_changed: resubscribed,
            owned: self.owned,
            is_others: |partition| {
                let owner = self.group.owners.get(&partition);
                owner.is_some_and(|owner| owner != self.member_id && !ahead.without.contains(owner))
            },
        };
        reconciling.step()
    }

    /// The regular expressions as they are from now on, which metadata they were matched with if they were, and whether that
    /// made a difference. Kafka matches them beside, and the group has its new epoch when that is done; here it is done at once.
    fn regexes(
        &mut self,
        before: &ConsumerMemberValue,
        after: &ConsumerMemberValue,
        replaced: bool,
    ) -> Result<(Cow<'a, Regexes>, Option<Matched>, bool), Refusal> {
        let group = self.group;
        let mut regexes = Cow::Borrowed(&group.regexes);
        let mut subscribers = Cow::Borrowed(&group.regex_subscribers);
        let (old, new) = (&before.subscribed_regex, &after.subscribed_regex);
        // A member that is not in the group is counted under the id of the one that it replaces.
        let counted = replaced || group.members.contains_key(self.member_id);
        if counted && old != new && subscribers.get(old).is_some_and(|count| *count <= 1) {
            subscribers.to_mut().remove(old);
            if regexes.contains_key(old) {
                regexes.to_mut().remove(old);
                self.records.push(ConsumerRecord::Regex(old.clone(), None));
            }
        }
        if !new.is_empty() && !subscribers.contains_key(new) {
            regex::compile(new).map_err(|why| invalid_regex(new, &why))?;
            subscribers.to_mut().insert(new.clone(), 1);
        }
        if subscribers.is_empty() {
            return Ok((regexes, None, false));
        }
        let (now_ms, version) = (self.turn.now_ms, self.turn.image.offset());
        let all = group.regexes_matched.is_none_or(|last| {
            let refresh_ms = i64::from(self.turn.config.consumer_regex_refresh_interval_ms);
            let age_ms = now_ms.saturating_sub(last.at_ms);
            age_ms > MATCHING_INTERVAL_MIN_MS && (last.version != version || age_ms > refresh_ms)
        });
        let mut rematched = false;
        for regex in subscribers.keys() {
            let known = regexes.get(regex);
            if known.is_some() && !all {
                continue;
            }
            let topics = regex::matching(regex, self.turn.image);
            if known.is_some_and(|known| known.topics == topics) {
                continue;
            }
            let value = RegexValue { topics, version: version as i64, timestamp_ms: now_ms };
            self.records.push(ConsumerRecord::Regex(regex.clone(), Some(value.clone())));
            regexes.to_mut().insert(regex.clone(), value);
            rematched = true;
        }
        Ok((regexes, all.then_some(Matched { version, at_ms: now_ms }), rematched))
    }

    /// A new epoch for the group, if there is a reason, or if the topics turn out to be one. None if nobody looked.
    fn next_epoch_if(&mut self, ahead: &Ahead<'_>, reason: bool) -> Option<i32> {
        let group = self.group;
        if !reason && group.hashed == Some(self.turn.image.offset()) {
            return None;
        }
        let hash = ahead.metadata_hash(self.turn.image);
        let mut epoch = group.epoch;
        if reason || hash != group.metadata_hash {
            let (next, record) = next_epoch(group.epoch, hash);
            epoch = next;
            self.records.push(record);
        }
        if group.has_partition_metadata {
            self.records.push(ConsumerRecord::PartitionMetadata(false));
        }
        Some(epoch)
    }

    /// A new target, if the epoch is newer than the one that there is, and that is old enough.
    fn target(
        &mut self,
        ahead: &Ahead<'_>,
        epoch: i32,
        metadata: &ConsumerMemberValue,
        extent: Extent,
    ) -> Target<'a> {
        let Turn { now_ms, config, image, .. } = self.turn;
        let group = self.group;
        // Asked last: a heartbeat that changes nothing looks up no setting for it.
        let is_time = || group.may_assign(*now_ms, configs::assignment_interval_ms(image, config, &group.id));
        if extent == Extent::Target && epoch > group.assignment_epoch && is_time() {
            return target::assign(
                ahead,
                (epoch, *now_ms),
                &config.consumer_assignors,
                image,
                &mut self.records,
            );
        }
        group.target_of(self.member_id, metadata.instance_id.as_ref())
    }
}

/// Writes what was worked out for the member, and does it; if the log would not take it, nothing has changed.
pub(super) fn carry_out<'g>(
    turn: &mut Turn<'_>,
    groups: &'g mut Groups,
    (id, member_id): (&StrBytes, &StrBytes),
    made: Option<Made>,
    done: Done,
) -> Result<&'g Member, Refusal> {
    let records: Vec<_> = done.records.iter().map(|record| record.encode(id)).collect();
    let before = made.as_ref().map(|made| made.before.as_slice()).unwrap_or_default();
    if !turn.fits(before.iter().chain(&records)) {
        let message = "What is to be written of the group is more than one batch of records can hold.";
        return Err(Refusal::new(ResponseError::UnknownServerError, message));
    }
    if let Some(Made { group, before }) = made {
        if let Some(Group::Classic(classic)) = groups.remove(id) {
            classic.close(turn);
        }
        group.loaded(turn);
        groups.insert(own(id), Group::Consumer(group));
        turn.step.records.extend(before);
    }
    let Some(Group::Consumer(group)) = groups.get_mut(id) else { return Err(not_found(id)) };
    if done.matched.is_some() {
        group.regexes_matched = done.matched;
    }
    if done.refreshed {
        group.hashed = Some(turn.image.offset());
    }
    turn.step.records.extend(records);
    group.apply_all(turn, done.records);
    let member = group.member(member_id)?;
    group.renew_session(turn, member_id, member);
    if done.moved {
        group.watch_revocation(turn, member_id, member);
    }
    Ok(member)
}

impl ConsumerGroup {
    /// `group.consumer.max.size`
    pub(super) fn has_room(&self, config: &GroupConfig, member_id: &StrBytes) -> Result<(), Refusal> {
        let max = config.consumer_max_size;
        if self.members.len() < max || self.members.contains_key(member_id) {
            return Ok(());
        }
        let message = format!("The consumer group has reached its maximum capacity of {max} members.");
        Err(Refusal::new(ResponseError::GroupMaxSizeReached, message))
    }

    /// One static member takes the place of another: what that had, and the records for it.
    pub(super) fn replaced(
        &self,
        old_id: &StrBytes,
        old: &Member,
        new_id: &StrBytes,
    ) -> (Member, [ConsumerRecord; 6]) {
        let current = CurrentValue { epoch: 0, previous_epoch: 0, ..old.current.clone() };
        let member = Member { metadata: old.metadata.clone(), current };
        let target = self.target.get(old_id).cloned().unwrap_or_default();
        let records = [
            ConsumerRecord::Current(old_id.clone(), None),
            ConsumerRecord::Target(old_id.clone(), None),
            ConsumerRecord::Member(old_id.clone(), None),
            ConsumerRecord::Member(new_id.clone(), Some(member.metadata.clone())),
            ConsumerRecord::Target(new_id.clone(), Some(target)),
            ConsumerRecord::Current(new_id.clone(), Some(member.current.clone())),
        ];
        (member, records)
    }
}

fn invalid_regex(expression: &StrBytes, why: &str) -> Refusal {
    let message = format!("SubscribedTopicRegex `{expression}` is not a valid regular expression: {why}.");
    Refusal::new(ResponseError::InvalidRegularExpression, message)
}
