//! The coordinators' shell, re-enacted (`broker/src/coordinator`): a call changes its machine at once, its records are
//! appended at once, its answer leaves when they are durable and not before those of the calls before it. What is decided
//! about a transaction is then written into its partitions ([`markers`]).

mod load;
mod machine;
mod markers;
mod members;
mod vouch;

pub use machine::{ASSIGNMENT_INTERVAL_MS, Answer, CONSUMER_SESSION_MS, Call, Machine};

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use chronik_core::group::Ticket;
use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::log::{AppendError, Appended};
use chronik_core::record_batch::{BatchBuilder, BatchLimits, BatchSummary, Origin, Verified, check_produced};
use chronik_core::txn::{Markers, Producer};
use chronik_core::wal::format::{Entry, EntryKind};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;

use super::{Broker, limits};
use crate::env::{Env, Event, Halt, Request};
use crate::history::{Meaning, Sent};
use crate::invariants::{self, Violation};
use crate::post::{Address, Ask, Letter, OffsetsAsk, Told};
use crate::stats::Deed;
use machine::Step;

/// Who waits for an answer.
enum Asker {
    Client(Address),
    /// A batch that would begin its transaction in its partition, until its coordinator has vouched for it.
    Batch {
        request: Request,
        profile: usize,
        verified: Verified,
    },
    /// The same of offsets.
    Offsets {
        from: Address,
        ask: Box<OffsetsAsk>,
        verified: Verified,
    },
    /// A marker in a partition of groups.
    Marker {
        decision: u64,
        place: (TopicName, i32),
    },
    Nobody,
}

/// Answers that leave, and decisions that are carried out, when the log is durable up to here.
struct Release {
    up_to: Offset,
    answers: Vec<(Asker, Answer)>,
    decisions: Vec<Markers>,
}

/// One partition of a coordinator's topic.
struct Slot {
    machine: Machine,
    is_loaded: bool,
    last_ticket: u64,
    waiting: BTreeMap<Ticket, Asker>,
    releases: VecDeque<Release>,
    tick_at_ms: Option<i64>,
}

/// All coordinators of a broker.
#[derive(Default)]
pub(super) struct Coordinators {
    slots: BTreeMap<TopicIdPartition, Slot>,
    markers: markers::Writer,
    /// Releases are under way: what comes of one waits for the end of it.
    releasing: bool,
}

impl Broker {
    /// A client's request has arrived.
    pub fn ask(&mut self, env: &mut Env, from: Address, ask: Ask) -> Result<(), Halt> {
        match ask {
            Ask::Coordinator(tp, call) => self.call(env, tp, *call, Asker::Client(from), Meaning::default()),
            Ask::Offsets(ask) => self.commit_offsets(env, from, ask),
        }
    }

    /// Somebody asks how far a group has come.
    pub fn tell_offsets(&mut self, env: &mut Env) -> Result<(), Halt> {
        let groups = env.history.consumer_groups.clone();
        let Some((group, tp)) = env.rng.pick(&groups) else { return Ok(()) };
        let call = Call::Group(invariants::fetch_offsets(group));
        let nobody = Address { actor: usize::MAX, number: 0 };
        self.call(env, *tp, call, Asker::Client(nobody), Meaning::default())
    }

    /// An operator looks at all transactional ids.
    pub fn look_at_transactions(&mut self, env: &mut Env) -> Result<(), Halt> {
        if self.stopping || self.has_failed() {
            return Ok(());
        }
        for (tp, slot) in self.coordinators.slots.iter_mut().filter(|(_, slot)| slot.is_loaded) {
            let Machine::Transactions(shard) = &mut slot.machine else { continue };
            invariants::decisions_are_carried_out(env, &self.partitions, *tp, shard)?;
        }
        Ok(())
    }

    /// Hands a call to its machine, and carries out what comes of it. `meaning` is what its records are.
    fn call(
        &mut self,
        env: &mut Env,
        tp: TopicIdPartition,
        call: Call,
        asker: Asker,
        mut meaning: Meaning,
    ) -> Result<(), Halt> {
        if self.has_failed() {
            return Ok(());
        }
        let is_loaded = self.coordinators.slots.get(&tp).map(|slot| slot.is_loaded);
        match is_loaded {
            Some(true) if !self.stopping => {}
            Some(false) => {
                env.stats.deed(Deed::CoordinatorStillLoading);
                return self.refuse(env, asker, ResponseError::CoordinatorLoadInProgress);
            }
            _ => return self.refuse(env, asker, ResponseError::NotCoordinator),
        }
        if let Some((batch, verified)) = call.transactional()
            && let Err(e) = self.would_take(tp, &batch, verified)
        {
            let error = ResponseError::try_from_code(e.kafka_code());
            return self.refuse(env, asker, error.unwrap_or(ResponseError::UnknownServerError));
        }
        let random = u128::from(env.rng.next()) << 64 | u128::from(env.rng.next());
        let Some(slot) = self.coordinators.slots.get_mut(&tp) else { return Ok(()) };
        slot.last_ticket += 1;
        let ticket = Ticket(slot.last_ticket);
        slot.waiting.insert(ticket, asker);
        meaning.commits = call.commits();
        let (group, claim) = (call.heartbeat_in(), call.claim());
        let call = call.mistaken(&mut slot.machine, env.now_ms(), &self.settings.bugs);
        let step = slot.machine.handle(env.now_ms(), ticket, call, random);
        for (_, answer) in &step.answers {
            invariants::offsets_told(env, tp, answer)?;
        }
        if let Some(claim) = claim.filter(|_| !step.records.is_empty()) {
            invariants::accepted(env, tp, &claim)?;
        }
        if let Some(fact) = group.and_then(|group| step.told(&group)) {
            invariants::told(env, tp, &fact, !step.records.is_empty())?;
            meaning.members.push(fact);
        }
        self.carry_out(env, tp, step, meaning)
    }

    fn would_take(&self, tp: TopicIdPartition, batch: &[u8], verified: Verified) -> Result<(), AppendError> {
        let Some(partition) = self.partitions.get(&tp) else { return Err(AppendError::NotLeader) };
        let limits = BatchLimits { origin: Origin::Coordinator, ..limits(&self.settings, &partition.topic) };
        // The broker's own batches are good.
        let Ok(batch) = check_produced(batch, &limits) else { return Ok(()) };
        partition.log.would_take(&BatchSummary { verified, ..batch })
    }

    /// Appends what a step leads to, and keeps its answers until that is durable.
    fn carry_out(
        &mut self,
        env: &mut Env,
        tp: TopicIdPartition,
        step: Step,
        mut meaning: Meaning,
    ) -> Result<(), Halt> {
        let bugs = self.settings.bugs;
        let early = bugs.answer_before_durable || bugs.epochs_before_durable && step.answers_heartbeat();
        meaning.members = step.facts(meaning.members);
        let Step { records, producer, marker, answers, decisions } = step;
        let unwritten = |e: AppendError| Violation::new("what_a_coordinator_does_is_written", e.to_string());
        if !records.is_empty() {
            let build = |time_ms: i64| {
                let builder = records.iter().fold(own_batch(producer), |builder, record| {
                    builder.record(time_ms, Some(&record.key), record.value.as_deref())
                });
                builder.build()
            };
            self.append_own(env, tp, meaning, build)?.map_err(unwritten)?;
        }
        if let Some(marker) = marker {
            let meaning = Meaning { marker: Some(marker), ..Meaning::default() };
            self.append_own(env, tp, meaning, |time_ms| marker.batch(time_ms))?.map_err(unwritten)?;
        }
        let up_to = self.partitions.get(&tp).filter(|_| !early).map_or(0, |p| p.log.log_end());
        let Some(slot) = self.coordinators.slots.get_mut(&tp) else { return Ok(()) };
        let answers: Vec<_> =
            answers.into_iter().filter_map(|(t, answer)| Some((slot.waiting.remove(&t)?, answer))).collect();
        slot.releases.push_back(Release { up_to, answers, decisions });
        self.plan_tick(env, tp);
        self.pump(env)?;
        self.release(env)
    }

    /// Appends a batch of the broker's own; returns its offset.
    fn append_own(
        &mut self,
        env: &mut Env,
        tp: TopicIdPartition,
        meaning: Meaning,
        build: impl FnOnce(i64) -> Vec<u8>,
    ) -> Result<Result<Offset, AppendError>, Halt> {
        let time_ms = env.fresh_time_ms();
        let bytes = Bytes::from(build(time_ms));
        let Some(partition) = self.partitions.get_mut(&tp) else { return Ok(Err(AppendError::NotLeader)) };
        let limits = BatchLimits { origin: Origin::Coordinator, ..limits(&self.settings, &partition.topic) };
        let batch = check_produced(&bytes, &limits)
            .map_err(|e| Violation::new("a_good_batch_is_accepted", e.to_string()))?;
        let appended = match partition.log.append(&batch, env.now_ms()) {
            Ok(appended) => appended,
            Err(e) => return Ok(Err(e)),
        };
        // Nobody numbers these batches, so none is a duplicate.
        let Appended::New { base_offset, last_offset, leader_epoch, .. } = appended else {
            return Ok(Ok(-1));
        };
        let number = env.history.sent.len();
        env.note("own", &[number as u64, base_offset as u64]);
        let sent =
            Sent { tp, bytes: bytes.clone(), idempotent: false, time_ms, records: Vec::new(), meaning };
        env.history.sent.push(sent);
        invariants::assigned(env, tp, number, base_offset, last_offset, leader_epoch)?;
        let entry = Entry {
            kind: EntryKind::Append,
            tp,
            first: base_offset,
            last: last_offset,
            leader_epoch,
            records: batch.record_count as u32,
            patch: true,
            body: bytes,
            profile: 0,
            client: tp,
        };
        self.commit.push(entry, env.now_us);
        Ok(Ok(last_offset))
    }

    /// Lets go of everything that has become durable.
    pub(super) fn release(&mut self, env: &mut Env) -> Result<(), Halt> {
        if std::mem::replace(&mut self.coordinators.releasing, true) {
            return Ok(());
        }
        loop {
            self.markers_landed(env)?;
            let Some((tp, release)) = self.next_release() else { break };
            for (asker, answer) in release.answers {
                invariants::answered(env, tp, release.up_to, &answer)?;
                self.tell(env, asker, answer)?;
            }
            for decision in release.decisions {
                self.begin_markers(env, tp, decision)?;
            }
        }
        self.coordinators.releasing = false;
        Ok(())
    }

    fn next_release(&mut self) -> Option<(TopicIdPartition, Release)> {
        let Broker { coordinators, partitions, .. } = self;
        coordinators.slots.iter_mut().find_map(|(tp, slot)| {
            let high_watermark = partitions.get(tp)?.log.high_watermark();
            Some((*tp, slot.releases.pop_front_if(|release| release.up_to <= high_watermark)?))
        })
    }

    fn tell(&mut self, env: &mut Env, asker: Asker, answer: Answer) -> Result<(), Halt> {
        match asker {
            Asker::Client(to) => reply(env, to, Ok(answer)),
            Asker::Batch { request, profile, verified } => match vouch::word(answer) {
                Ok(()) => return self.append_produced(env, request, profile, verified),
                Err(error) => vouch::refuse_batch(env, request, error),
            },
            Asker::Offsets { from, ask, verified } => match vouch::word(answer) {
                Ok(()) => return self.hand_offsets_on(env, from, ask, verified),
                Err(error) => reply(env, from, Err(error)),
            },
            Asker::Marker { decision, .. } => return self.marker_is_there(env, decision),
            Asker::Nobody => {}
        }
        Ok(())
    }

    fn refuse(&mut self, env: &mut Env, asker: Asker, error: ResponseError) -> Result<(), Halt> {
        match asker {
            Asker::Client(to) => reply(env, to, Err(error)),
            Asker::Batch { request, .. } => vouch::refuse_batch(env, request, error),
            Asker::Offsets { from, .. } => reply(env, from, Err(error)),
            Asker::Marker { decision, place } => return self.marker_refused(env, decision, place, error),
            Asker::Nobody => {}
        }
        Ok(())
    }

    /// A coordinator does what is due.
    pub fn tick(&mut self, env: &mut Env, tp: TopicIdPartition) -> Result<(), Halt> {
        let now_ms = env.now_ms();
        let stands_still = self.stopping || self.has_failed();
        let Some(slot) = self.coordinators.slots.get_mut(&tp).filter(|_| !stands_still) else {
            return Ok(());
        };
        if slot.tick_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            slot.tick_at_ms = None;
        }
        if slot.is_loaded && slot.machine.next_tick_ms().is_some_and(|at_ms| at_ms <= now_ms) {
            let step = slot.machine.tick(now_ms);
            if !step.decisions.is_empty() {
                env.stats.deed(Deed::TransactionTimedOut);
            }
            return self.carry_out(env, tp, step, Meaning::default());
        }
        self.plan_tick(env, tp);
        Ok(())
    }

    fn plan_tick(&mut self, env: &mut Env, tp: TopicIdPartition) {
        let (now_ms, life) = (env.now_ms(), self.life);
        let Some(slot) = self.coordinators.slots.get_mut(&tp) else { return };
        let Some(next_ms) = slot.machine.next_tick_ms() else { return };
        if slot.tick_at_ms.is_none_or(|at_ms| next_ms < at_ms) {
            slot.tick_at_ms = Some(next_ms);
            env.after(next_ms.saturating_sub(now_ms).max(1) as u64, Event::Tick { life, tp });
        }
    }
}

/// An empty batch of the broker's own, or of this producer's transaction.
fn own_batch(producer: Option<Producer>) -> BatchBuilder {
    match producer {
        Some(Producer { id, epoch }) => BatchBuilder::new().producer(id, epoch, -1).transactional(),
        None => BatchBuilder::new(),
    }
}

fn reply(env: &mut Env, to: Address, told: Told) {
    let delay_us = env.rng.between(50, 500);
    env.send(delay_us, Letter::Tell { to, told: Box::new(told) });
}
