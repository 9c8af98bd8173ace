//! Consumer groups of one member each, that commit how far they have come, through all rounds. What was acknowledged is
//! there after each crash, and so is the member.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, OffsetCommitRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::coordinators::until_it_answers;
use super::journal::{Problem, Verdict};
use super::kafka::{Connection, error, name, text};
use super::load::Signals;
use super::transactors::TOPIC;
use crate::seed::Seed;

const MEMBERS: usize = 3;
/// Longer than all rounds: a session begins anew with each start of the broker.
const SESSION_MS: i32 = 300_000;

#[derive(Debug)]
struct Member {
    group: String,
    random: Seed,
    member_id: StrBytes,
    /// The generation that it was given work in.
    generation: Option<i32>,
    /// The highest offset that it has committed, and that it has tried to.
    acknowledged: i64,
    asked: i64,
    complaints: Vec<String>,
}

/// All of them.
#[derive(Debug)]
pub struct Members {
    all: Vec<Member>,
}

impl Members {
    pub fn new(seed: u64) -> Self {
        let all = (0..MEMBERS).map(|number| Member {
            group: format!("crash-members-{number}"),
            random: Seed::new(seed).fork(0x3e3b + number as u64),
            member_id: StrBytes::new(),
            generation: None,
            acknowledged: -1,
            asked: -1,
            complaints: Vec::new(),
        });
        Self { all: all.collect() }
    }

    /// One thread for each, until the broker is gone.
    pub fn run<'scope>(
        &'scope mut self,
        scope: &'scope std::thread::Scope<'scope, '_>,
        address: &'scope str,
        signals: &'scope Signals,
    ) {
        for member in &mut self.all {
            // It ends with its connection.
            scope.spawn(|| _ = member.run(address, signals));
        }
    }

    /// Answers that no correct broker gives.
    pub fn complaints(&self) -> impl Iterator<Item = &String> {
        self.all.iter().flat_map(|member| &member.complaints)
    }

    /// Commits that were acknowledged.
    pub fn committed(&self) -> u64 {
        self.all.iter().map(|member| (member.acknowledged + 1) as u64).sum()
    }

    /// # Errors
    /// When the broker does not answer.
    pub fn verify(&mut self, broker: &mut Connection, verdict: &mut Verdict) -> Result<()> {
        for member in &mut self.all {
            broker.find_coordinator(&member.group, 0)?;
            let committed = broker.committed(&member.group, TOPIC)?;
            if let Some(problem) = member.judge(committed) {
                verdict.add(problem);
            }
            // What has been read once stays.
            member.acknowledged = member.acknowledged.max(committed);
            if let Some(generation) = member.generation {
                let code = member.heartbeat(broker, generation)?;
                if code != 0 {
                    let what = format!("{}: its member is not known any more: error {code}", member.group);
                    verdict.add(Problem::Lost(1, what));
                    member.generation = None;
                }
            }
        }
        Ok(())
    }
}

impl Member {
    fn judge(&self, committed: i64) -> Option<Problem> {
        let Self { group, acknowledged, asked, .. } = self;
        if committed < *acknowledged {
            let what = format!("{group} is at {committed}, {acknowledged} was acknowledged");
            return Some(Problem::Lost((acknowledged - committed) as u64, what));
        }
        (committed > *asked)
            .then(|| Problem::Wrong(format!("{group} is at {committed}, and has asked for {asked} at most")))
    }

    fn run(&mut self, address: &str, signals: &Signals) -> Result<()> {
        let mut broker = Connection::open(address)?;
        broker.find_coordinator(&self.group, 0)?;
        while !signals.stop.load(Ordering::SeqCst) && self.complaints.is_empty() {
            let Some(generation) = self.generation else {
                self.join(&mut broker)?;
                continue;
            };
            self.asked += 1;
            let code = self.commit(&mut broker, generation)?;
            match code {
                0 => self.acknowledged = self.asked,
                code => self.complaints.push(format!("{}: OffsetCommit: error {code}", self.group)),
            }
            if self.random.one_in(40) {
                // It is subscribed to something else, and has a new generation.
                self.generation = None;
            }
            std::thread::sleep(Duration::from_millis(self.random.between(0, 8)));
        }
        Ok(())
    }

    fn join(&mut self, broker: &mut Connection) -> Result<()> {
        let metadata = self.random.draw().to_be_bytes().to_vec();
        let protocol =
            JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from(metadata));
        let mut request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_session_timeout_ms(SESSION_MS)
            .with_rebalance_timeout_ms(10_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let mut generation = -1;
        let code = until_it_answers(|| {
            request.member_id = self.member_id.clone();
            let response = broker.call(&request, 9)?;
            generation = response.generation_id;
            match response.error_code {
                0 | error::MEMBER_ID_REQUIRED => self.member_id = response.member_id,
                error::UNKNOWN_MEMBER_ID => self.member_id = StrBytes::new(),
                _ => {}
            }
            Ok(match response.error_code {
                // Asked again at once.
                error::MEMBER_ID_REQUIRED | error::UNKNOWN_MEMBER_ID => error::NOT_COORDINATOR,
                code => code,
            })
        })?;
        ensure!(code == 0, "JoinGroup: error {code}");
        let mine = SyncGroupRequestAssignment::default()
            .with_member_id(self.member_id.clone())
            .with_assignment(Bytes::from_static(b"everything"));
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(generation)
            .with_member_id(self.member_id.clone())
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(vec![mine]);
        let code = until_it_answers(|| Ok(broker.call(&request, 5)?.error_code))?;
        match code {
            0 => self.generation = Some(generation),
            // An earlier incarnation of its own, or a start of the broker, came between.
            error::REBALANCE_IN_PROGRESS | error::ILLEGAL_GENERATION | error::UNKNOWN_MEMBER_ID => {}
            code => self.complaints.push(format!("{}: SyncGroup: error {code}", self.group)),
        }
        Ok(())
    }

    fn commit(&self, broker: &mut Connection, generation: i32) -> Result<i16> {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(self.asked)
            .with_committed_leader_epoch(-1);
        let topic =
            OffsetCommitRequestTopic::default().with_name(name(TOPIC)).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(self.member_id.clone())
            .with_topics(vec![topic]);
        until_it_answers(|| {
            let response = broker.call(&request, 8)?;
            let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            Ok(partitions.map(|partition| partition.error_code).next().unwrap_or(-1))
        })
    }

    fn heartbeat(&self, broker: &mut Connection, generation: i32) -> Result<i16> {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(generation)
            .with_member_id(self.member_id.clone());
        until_it_answers(|| Ok(broker.call(&request, 4)?.error_code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_kept_and_not_made_up() {
        let mut members = Members::new(1);
        let member = &mut members.all[0];
        assert!(member.judge(-1).is_none(), "nothing was committed");
        (member.acknowledged, member.asked) = (5, 6);
        assert!(matches!(member.judge(4), Some(Problem::Lost(1, _))));
        assert!(member.judge(5).is_none());
        assert!(member.judge(6).is_none(), "unanswered, and there");
        assert!(matches!(member.judge(7), Some(Problem::Wrong(_))));
    }
}
