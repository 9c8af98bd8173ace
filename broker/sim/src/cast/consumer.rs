//! A member of a group of the consumer protocol: it sends heartbeats, begins and stops to work on partitions as it is told, in
//! its own time, says so, commits offsets, leaves or dies. Sometimes what it had comes after it: a commit of then. A static one
//! says when it will be back.

use std::collections::{BTreeSet, VecDeque};

use chronik_core::group::{self, Caller};
use chronik_core::ids::TopicIdPartition;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, OffsetCommitResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::line::Line;
use super::member::{commit, refusal};
use crate::env::{Env, Event};
use crate::invariants::{self, Violation};
use crate::post::{Ask, Told};
use crate::roster::{AWAY, Name, partitions};
use crate::shell::{Answer, CONSUMER_SESSION_MS, Call};
use crate::stats::Deed;
use crate::topics::{DATA_TOPIC, partition_of};

/// What it waits for the answer to.
#[derive(Clone, Copy)]
enum Asked {
    Heartbeat(Beat),
    /// Of a partition that it works on.
    Commit(i32),
    /// Of one that it has not any more.
    LateCommit,
    Leave,
}

/// A heartbeat that it has sent.
#[derive(Clone, Copy)]
struct Beat {
    at_us: u64,
    /// It said everything, and will hear everything.
    is_full: bool,
    /// It said what it works on.
    says_owned: bool,
}

/// What it committed as, once.
struct Former {
    member_id: StrBytes,
    epoch: i32,
    partition: i32,
}

const FORMER_MAX: usize = 6;
const LEAVES: i32 = -1;
const INSTANCES: [&str; 2] = ["fixed", "other"];

pub(super) struct Consumer {
    number: usize,
    line: Line,
    asked: Option<Asked>,
    group: StrBytes,
    /// Of a static member. Others may have the same, as when an operator has started it twice.
    instance: Option<StrBytes>,
    /// It has said that it will be back.
    was_away: bool,
    at: TopicIdPartition,
    /// Not less than a session: who has not heard that it is to give something up loses its session before that takes too long.
    rebalance_timeout_ms: i32,
    member_id: StrBytes,
    /// 0 until it is told.
    epoch: i32,
    is_subscribed: bool,
    /// It has not said so yet.
    subscription_changed: bool,
    works_on: BTreeSet<i32>,
    /// What it was told to have, as long as that is not what it works on.
    told: Option<BTreeSet<i32>>,
    /// When it sent the first heartbeat whose answer it missed, since it last heard everything.
    missed_since_us: Option<u64>,
    /// Then it has taken too long to give something up.
    revoke_by_us: Option<u64>,
    former: VecDeque<Former>,
}

impl Consumer {
    pub fn new(env: &mut Env, number: usize, group: StrBytes, at: TopicIdPartition) -> Consumer {
        let patience_us = env.rng.between(1000, 3000);
        let instance = if env.rng.percent(40) { env.rng.pick(&INSTANCES).copied() } else { None };
        let mut consumer = Consumer {
            number,
            line: Line::new(number, patience_us, false),
            asked: None,
            group,
            instance: instance.map(StrBytes::from_static_str),
            was_away: false,
            at,
            rebalance_timeout_ms: CONSUMER_SESSION_MS + env.rng.between(0, 3000) as i32,
            member_id: StrBytes::new(),
            epoch: 0,
            is_subscribed: true,
            subscription_changed: false,
            works_on: BTreeSet::new(),
            told: None,
            missed_since_us: None,
            revoke_by_us: None,
            former: VecDeque::new(),
        };
        consumer.begin_anew(env);
        consumer
    }

    fn name(&self) -> Name {
        (self.group.clone(), self.member_id.clone())
    }

    pub fn act(&mut self, env: &mut Env) {
        let pause_us =
            if env.rng.percent(3) { env.rng.between(2000, 12_000) } else { env.rng.between(50, 900) };
        env.after(pause_us, Event::Act { actor: self.number });
        if env.rng.percent(1) {
            return self.begin_anew(env);
        }
        if self.line.waits() {
            return;
        }
        if env.rng.percent(50) {
            self.do_as_told(env);
        }
        let owned: Vec<_> = self.works_on.iter().copied().collect();
        let (asked, call) = match self.epoch {
            0 => self.heartbeat(env),
            _ if env.rng.percent(2) => self.leave(env),
            _ => match env.rng.pick(&owned).copied().filter(|_| env.rng.percent(45)) {
                Some(partition) => (Asked::Commit(partition), self.commit(env, None, partition)),
                None if env.rng.percent(25) => match self.former.pop_front() {
                    Some(former) => (Asked::LateCommit, self.commit(env, Some(&former), former.partition)),
                    None => self.heartbeat(env),
                },
                None => self.heartbeat(env),
            },
        };
        self.asked = Some(asked);
        self.line.ask(env, Ask::Coordinator(self.at, Box::new(Call::Group(call))));
    }

    /// It stops to work on what it shall not have, and begins with what it shall.
    fn do_as_told(&mut self, env: &mut Env) {
        let Some(told) = self.told.take() else { return };
        self.remember(self.works_on.difference(&told).copied().collect());
        self.works_on = told;
        invariants::keeps(env, &self.name(), &self.works_on);
    }

    fn remember(&mut self, partitions: Vec<i32>) {
        for partition in partitions {
            let former = Former { member_id: self.member_id.clone(), epoch: self.epoch, partition };
            self.former.push_back(former);
        }
        self.former.drain(..self.former.len().saturating_sub(FORMER_MAX));
    }

    fn heartbeat(&mut self, env: &mut Env) -> (Asked, group::Call) {
        let joins = self.epoch == 0;
        if !joins && env.rng.percent(3) {
            self.is_subscribed = !self.is_subscribed;
            self.subscription_changed = true;
        }
        let says_all = joins || self.missed_since_us.is_some();
        // What it was told to have, and has not begun with, would else seem free.
        let says_owned = self.told.is_none() && (says_all || env.rng.percent(70));
        let mut request = self.request(self.epoch);
        if says_all {
            request.rebalance_timeout_ms = self.rebalance_timeout_ms;
        }
        if says_all || self.subscription_changed {
            let topics = self.is_subscribed.then(|| TopicName(StrBytes::from_static_str(DATA_TOPIC)));
            request.subscribed_topic_names = Some(topics.into_iter().collect());
        }
        if says_owned {
            let owned = TopicPartitions::default()
                .with_topic_id(partition_of(DATA_TOPIC, 0).topic_id.0)
                .with_partitions(self.works_on.iter().copied().collect());
            request.topic_partitions = Some(if self.works_on.is_empty() { Vec::new() } else { vec![owned] });
        }
        let beat = Beat { at_us: env.now_us, is_full: says_all && says_owned, says_owned };
        (Asked::Heartbeat(beat), as_call(request))
    }

    fn request(&self, epoch: i32) -> ConsumerGroupHeartbeatRequest {
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(self.group.clone()))
            .with_member_id(self.member_id.clone())
            .with_instance_id(self.instance.clone())
            .with_member_epoch(epoch)
            .with_rebalance_timeout_ms(-1)
            .with_topic_partitions(None)
    }

    fn leave(&mut self, env: &mut Env) -> (Asked, group::Call) {
        let returns = self.instance.is_some() && env.rng.percent(70);
        let request = self.request(if returns { AWAY } else { LEAVES });
        self.was_away = returns;
        self.drop_all(env);
        (Asked::Leave, as_call(request))
    }

    fn commit(&self, env: &mut Env, former: Option<&Former>, partition: i32) -> group::Call {
        env.history.commits += 1;
        let now = (&self.member_id, self.epoch);
        let (member_id, epoch) = former.map_or(now, |former| (&former.member_id, former.epoch));
        commit(&self.group, member_id, epoch, (partition, env.history.commits))
    }

    pub fn late(&mut self, env: &mut Env, number: u64) {
        if !self.line.is_late(env, number) {
            return;
        }
        match self.asked.take() {
            Some(Asked::Heartbeat(beat)) => _ = self.missed_since_us.get_or_insert(beat.at_us),
            // It is gone, whether it was heard or not.
            Some(Asked::Leave) => self.begin_anew(env),
            _ => {}
        }
        if env.rng.percent(5) {
            self.begin_anew(env);
        }
    }

    pub fn hear(&mut self, env: &mut Env, number: u64, told: Told) -> Result<(), Violation> {
        if !self.line.hears(number) {
            return Ok(());
        }
        let asked = self.asked.take();
        // A coordinator that is not there, or not yet, has done nothing.
        let Ok(Answer::Group(answer)) = told else { return Ok(()) };
        match (asked, answer) {
            (Some(Asked::Heartbeat(beat)), group::Answer::ConsumerGroupHeartbeat(response)) => {
                self.hear_where_it_is(env, beat, &response)
            }
            (Some(Asked::Commit(partition)), group::Answer::OffsetCommit(response)) => {
                self.hear_committed(env, partition, &response)
            }
            (Some(Asked::LateCommit), group::Answer::OffsetCommit(response)) => {
                if refusal(&response).is_some() {
                    env.stats.deed(Deed::StaleEpochRefused);
                }
                Ok(())
            }
            (Some(Asked::Leave), _) => {
                env.stats.deed(Deed::MemberLeft);
                self.begin_anew(env);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn hear_where_it_is(
        &mut self,
        env: &mut Env,
        beat: Beat,
        response: &ConsumerGroupHeartbeatResponse,
    ) -> Result<(), Violation> {
        if response.error_code != 0 {
            env.note("fenced", &[self.number as u64, response.error_code as u64]);
            env.stats.deed(match ResponseError::try_from_code(response.error_code) {
                Some(ResponseError::UnreleasedInstanceId) => Deed::InstanceUnreleased,
                Some(ResponseError::FencedInstanceId) => Deed::InstanceFenced,
                _ => Deed::MemberFenced,
            });
            self.drop_all(env);
            return Ok(());
        }
        self.epoch = response.member_epoch;
        self.subscription_changed = false;
        let has_some = response.assignment.as_ref().is_some_and(|assigned| !partitions(assigned).is_empty());
        if std::mem::take(&mut self.was_away) && has_some {
            env.stats.deed(Deed::StaticMemberCameBack);
        }
        if beat.says_owned && self.revoke_by_us.take().is_some() {
            env.stats.deed(Deed::RevocationAcknowledged);
        }
        // An answer that it missed may have been the first to say so.
        let said_us = self.missed_since_us.unwrap_or(beat.at_us);
        if beat.is_full && self.missed_since_us.take().is_some() {
            env.stats.deed(Deed::HeardAgain);
        }
        if let Some(assigned) = response.assignment.as_ref().map(partitions) {
            // Of what it has not begun with, too, it must say in time that it does not have it.
            let mut had = self.works_on.iter().chain(self.told.iter().flatten());
            if had.any(|partition| !assigned.contains(partition)) {
                let by_us = said_us + self.rebalance_timeout_ms as u64;
                self.revoke_by_us = Some(self.revoke_by_us.map_or(by_us, |earlier| earlier.min(by_us)));
            }
            self.told = Some(assigned).filter(|told| *told != self.works_on);
        }
        let session_us = beat.at_us + CONSUMER_SESSION_MS as u64;
        let missed_us = self.missed_since_us.map(|since_us| since_us + self.rebalance_timeout_ms as u64);
        let until_us = [self.revoke_by_us, missed_us].into_iter().flatten().fold(session_us, u64::min);
        env.note("told", &[self.number as u64, self.epoch as u64, until_us]);
        let has: BTreeSet<_> = self.works_on.iter().chain(self.told.iter().flatten()).copied().collect();
        invariants::may_have(env, &self.name(), self.epoch, has, until_us)
    }

    fn hear_committed(
        &mut self,
        env: &mut Env,
        partition: i32,
        response: &OffsetCommitResponse,
    ) -> Result<(), Violation> {
        let Some(code) = refusal(response) else {
            env.stats.deed(Deed::OffsetsCommitted);
            return Ok(());
        };
        invariants::commit_refused(env, &self.name(), partition, code)?;
        if code == ResponseError::UnknownMemberId.code() {
            env.stats.deed(Deed::MemberFenced);
            self.drop_all(env);
        }
        Ok(())
    }

    /// It works on nothing, and is to join again.
    fn drop_all(&mut self, env: &mut Env) {
        self.told = None;
        self.remember(self.works_on.iter().copied().collect());
        self.works_on.clear();
        self.epoch = 0;
        self.subscription_changed = false;
        self.missed_since_us = None;
        self.revoke_by_us = None;
        invariants::keeps(env, &self.name(), &BTreeSet::new());
    }

    /// Its process is gone; another one comes, with an id of its own.
    fn begin_anew(&mut self, env: &mut Env) {
        self.line.hang_up(env);
        self.asked = None;
        self.drop_all(env);
        self.is_subscribed = true;
        self.member_id = StrBytes::from_string(format!("m{:016x}", env.rng.next()));
    }
}

fn as_call(request: ConsumerGroupHeartbeatRequest) -> group::Call {
    let caller = Caller { client_id: "sim".to_string(), client_host: "/127.0.0.1".to_string() };
    group::Call::ConsumerGroupHeartbeat(request, 1, caller)
}
