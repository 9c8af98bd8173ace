//! Groups of the consumer protocol (KIP-848) of one member each, that commits, and is replaced now and then. After each crash
//! the member is one still, in its epoch at least, and what it was before may commit nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, GroupId};

use super::coordinators::{Committer, until_it_answers};
use super::crew::{Crew, Progress, Worker};
use super::journal::{Problem, Verdict};
use super::kafka::{Connection, error, name, text};
use super::load::Signals;
use super::transactors::TOPIC;
use crate::seed::Seed;

const CONSUMERS: usize = 2;
/// Nobody gets so far.
const BEYOND: i64 = 1 << 40;
const JOINS: i32 = 0;
const LEAVES: i32 = -1;

#[derive(Debug)]
pub struct Consumer {
    random: Seed,
    /// It was so many members before.
    lives: u64,
    member_id: String,
    /// None while it joins or leaves, and when it was not told whether it has.
    epoch: Option<i32>,
    has: Vec<TopicPartitions>,
    /// Who it was when it was last told that it is no member any more: id and epoch.
    former: Option<(String, i32)>,
    /// Commits as its former self that were refused.
    pub refused: u64,
    progress: Progress,
}

/// All of them.
pub type Consumers = Crew<Consumer>;

pub fn consumers(seed: u64) -> Consumers {
    Crew::of((0..CONSUMERS).map(|number| Consumer {
        random: Seed::new(seed).fork(0x848 + number as u64),
        lives: 0,
        member_id: "consumer-0".into(),
        epoch: None,
        has: Vec::new(),
        former: None,
        refused: 0,
        progress: Progress::new(format!("crash-consumers-{number}")),
    }))
}

impl Worker for Consumer {
    fn run(&mut self, address: &str, signals: &Signals) -> Result<()> {
        let mut broker = Connection::open(address)?;
        broker.find_coordinator(&self.progress.group, 0)?;
        while !signals.stop.load(Ordering::SeqCst) && self.progress.complaints.is_empty() {
            let known = self.epoch;
            let done = match known {
                None => self.beat(&mut broker, JOINS)?,
                Some(epoch) if self.random.one_in(25) => self.make_place(&mut broker, epoch)?,
                Some(epoch) if self.random.one_in(8) => self.beat(&mut broker, epoch)?,
                Some(_) if self.random.one_in(8) => self.commit_late(&mut broker)?,
                Some(epoch) => Ok(self.progress.commit(&mut broker, &self.member_id, epoch)?),
            };
            self.progress.complaints.extend(done.err());
            std::thread::sleep(Duration::from_millis(self.random.between(0, 8)));
        }
        Ok(())
    }

    fn progress(&mut self) -> &mut Progress {
        &mut self.progress
    }

    fn verify(&mut self, broker: &mut Connection, verdict: &mut Verdict) -> Result<()> {
        if let Some(epoch) = self.epoch
            && let Err(what) = self.beat(broker, epoch)?
        {
            verdict.add(Problem::Lost(1, what));
            self.epoch = None;
        }
        if let Err(what) = self.commit_late(broker)? {
            verdict.add(Problem::Wrong(what));
        }
        Ok(())
    }
}

impl Consumer {
    /// It leaves. The same member joins again then, or another one.
    fn make_place(&mut self, broker: &mut Connection, epoch: i32) -> Result<Result<(), String>> {
        let former = (self.member_id.clone(), epoch);
        self.epoch = None;
        let left = self.beat(broker, LEAVES)?;
        if left.is_ok() {
            self.former = Some(former);
            self.lives += self.random.between(0, 1);
            self.member_id = format!("consumer-{}", self.lives);
        }
        Ok(left)
    }

    /// A heartbeat in which it says everything, and hears everything. `epoch` is [`JOINS`] or [`LEAVES`], or where it is.
    fn beat(&mut self, broker: &mut Connection, epoch: i32) -> Result<Result<(), String>> {
        if epoch <= JOINS {
            self.has.clear();
        }
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.progress.group)))
            .with_member_id(text(&self.member_id))
            .with_member_epoch(epoch)
            .with_rebalance_timeout_ms(30_000)
            .with_subscribed_topic_names(Some(vec![name(TOPIC)]))
            .with_topic_partitions(Some(self.has.clone()));
        let mut told = None;
        let code = until_it_answers(|| {
            let response = broker.call(&request, 1)?;
            let code = response.error_code;
            told = Some(response);
            Ok(code)
        })?;
        let Some(told) = told.filter(|told| code == 0 && told.member_epoch >= epoch) else {
            let (group, member_id) = (&self.progress.group, &self.member_id);
            return Ok(Err(format!("{group}: a heartbeat of {member_id} in epoch {epoch}: error {code}")));
        };
        if epoch == LEAVES {
            return Ok(Ok(()));
        }
        self.epoch = Some(told.member_epoch);
        if let Some(assignment) = told.assignment {
            let has = assignment.topic_partitions.into_iter();
            self.has = has
                .map(|topic| {
                    TopicPartitions::default().with_topic_id(topic.topic_id).with_partitions(topic.partitions)
                })
                .collect();
        }
        let is_there = self.has.iter().any(|topic| topic.partitions.contains(&0));
        let (group, Self { member_id, has, .. }) = (&self.progress.group, &*self);
        Ok(is_there.then_some(()).ok_or_else(|| format!("{group}: {member_id} is alone, and has {has:?}")))
    }

    /// What it was tries to commit, and must be refused.
    fn commit_late(&mut self, broker: &mut Connection) -> Result<Result<(), String>> {
        let Some((member_id, epoch)) = &self.former else { return Ok(Ok(())) };
        let who = Committer { group: &self.progress.group, member_id, epoch: *epoch };
        let code = broker.commit(who, TOPIC, BEYOND)?;
        if ![error::UNKNOWN_MEMBER_ID, error::STALE_MEMBER_EPOCH].contains(&code) {
            let group = &self.progress.group;
            let what = format!("{group}: {member_id} of epoch {epoch} has left, and commits: error {code}");
            return Ok(Err(what));
        }
        self.refused += 1;
        Ok(Ok(()))
    }
}
