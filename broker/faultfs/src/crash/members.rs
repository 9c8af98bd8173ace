//! Classic consumer groups of one member each, that commits. After each crash the member is one still.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{GroupId, HeartbeatRequest, JoinGroupRequest, SyncGroupRequest};
use kafka_protocol::protocol::StrBytes;

use super::coordinators::until_it_answers;
use super::crew::{Crew, Progress, Worker};
use super::journal::{Problem, Verdict};
use super::kafka::{Connection, error, text};
use super::load::Signals;
use crate::seed::Seed;

const MEMBERS: usize = 3;
/// Longer than all rounds: a session begins anew with each start of the broker.
const SESSION_MS: i32 = 300_000;

#[derive(Debug)]
pub struct Member {
    random: Seed,
    member_id: StrBytes,
    /// The generation that it was given work in.
    generation: Option<i32>,
    progress: Progress,
}

/// All of them.
pub type Members = Crew<Member>;

pub fn members(seed: u64) -> Members {
    Crew::of((0..MEMBERS).map(|number| Member {
        random: Seed::new(seed).fork(0x3e3b + number as u64),
        member_id: StrBytes::new(),
        generation: None,
        progress: Progress::new(format!("crash-members-{number}")),
    }))
}

impl Worker for Member {
    fn run(&mut self, address: &str, signals: &Signals) -> Result<()> {
        let mut broker = Connection::open(address)?;
        broker.find_coordinator(&self.progress.group, 0)?;
        while !signals.stop.load(Ordering::SeqCst) && self.progress.complaints.is_empty() {
            let Some(generation) = self.generation else {
                self.join(&mut broker)?;
                continue;
            };
            self.progress.commit(&mut broker, &self.member_id, generation)?;
            if self.random.one_in(40) {
                // It is subscribed to something else, and has a new generation.
                self.generation = None;
            }
            std::thread::sleep(Duration::from_millis(self.random.between(0, 8)));
        }
        Ok(())
    }

    fn progress(&mut self) -> &mut Progress {
        &mut self.progress
    }

    fn verify(&mut self, broker: &mut Connection, verdict: &mut Verdict) -> Result<()> {
        let Some(generation) = self.generation else { return Ok(()) };
        let code = self.heartbeat(broker, generation)?;
        if code != 0 {
            let what = format!("{}: its member is not known any more: error {code}", self.progress.group);
            verdict.add(Problem::Lost(1, what));
            self.generation = None;
        }
        Ok(())
    }
}

impl Member {
    fn join(&mut self, broker: &mut Connection) -> Result<()> {
        let metadata = self.random.draw().to_be_bytes().to_vec();
        let protocol =
            JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from(metadata));
        let mut request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(&self.progress.group)))
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
            .with_group_id(GroupId(text(&self.progress.group)))
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
            code => {
                self.progress.complaints.push(format!("{}: SyncGroup: error {code}", self.progress.group))
            }
        }
        Ok(())
    }

    fn heartbeat(&self, broker: &mut Connection, generation: i32) -> Result<i16> {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.progress.group)))
            .with_generation_id(generation)
            .with_member_id(self.member_id.clone());
        until_it_answers(|| Ok(broker.call(&request, 4)?.error_code))
    }
}
