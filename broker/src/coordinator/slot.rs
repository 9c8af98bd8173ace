//! One partition of a coordinator's topic on the broker that leads it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chronik_core::ids::{ProducerEpoch, ProducerId, TopicIdPartition};
use chronik_core::log::AppendError;
use chronik_core::record_batch::Verified;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use tokio::sync::{mpsc, oneshot};

use super::{Answered, Machine, Origin, Outcome, Parts, Record, Setup, Transactional, load, refused};
use crate::api::partitions::{Journal, PartitionReader};
use crate::storage::partition::Refused;

/// When a partition that could not be loaded is tried again.
const LOAD_AGAIN: Duration = Duration::from_secs(5);
/// A record's share of a batch beside key and value, at most: lengths, timestamp, offset.
const RECORD_OVERHEAD: usize = 32;
/// The same of the batch.
const BATCH_OVERHEAD: usize = 128;

/// A machine and who waits for it.
pub struct Slot<M: Machine> {
    pub id: TopicIdPartition,
    pub epoch: i32,
    reader: Arc<dyn PartitionReader>,
    journal: Arc<dyn Journal>,
    parts: Parts<M>,
    state: Mutex<State<M>>,
    /// When the machine has something to do, in the coordinator's time; `i64::MAX` for never.
    next_tick_ms: AtomicI64,
}

enum State<M: Machine> {
    /// Topics that were deleted meanwhile.
    Loading(Vec<TopicName>),
    Active(Box<Active<M>>),
    /// Somebody else coordinates these, or nobody.
    Closed,
}

struct Active<M: Machine> {
    machine: M,
    last_ticket: u64,
    waiting: Waiting<M::Answer>,
    release: mpsc::UnboundedSender<Release<M>>,
}

type Teller<A> = oneshot::Sender<Answered<A>>;
/// By ticket.
type Waiting<A> = HashMap<u64, Teller<A>>;

/// Answers that leave, and effects that begin, when the append and all before it are durable.
struct Release<M: Machine> {
    durable: Option<oneshot::Receiver<()>>,
    answers: Vec<(Teller<M::Answer>, M::Answer)>,
    effects: Vec<M::Effect>,
}

impl<M: Machine> Slot<M> {
    /// `None` when the partition is not open here.
    pub fn new(id: TopicIdPartition, epoch: i32, parts: Parts<M>) -> Option<Arc<Slot<M>>> {
        let logs = &parts.setup.logs;
        let (reader, journal) = logs.partition(id).zip(logs.journal(id))?;
        let state = Mutex::new(State::Loading(Vec::new()));
        let next_tick_ms = AtomicI64::new(i64::MAX);
        Some(Arc::new(Slot { id, epoch, reader, journal, parts, state, next_tick_ms }))
    }

    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads the partition, however long it takes.
    pub fn open(self: Arc<Self>) {
        tokio::spawn(self.load());
    }

    async fn load(self: Arc<Self>) {
        loop {
            let loaded = {
                // The semaphore is never closed.
                let _turn = self.parts.loads.acquire().await;
                load::load(&self.reader, self.empty()).await
            };
            match loaded {
                Ok((machine, facts)) => {
                    let metrics = &self.parts.setup.metrics;
                    metrics.load.observe_since(facts.began);
                    metrics.unreadable.inc_by(facts.unreadable);
                    if facts.records > 0 {
                        tracing::info!(
                            partition = self.id.partition,
                            records = facts.records,
                            unreadable = facts.unreadable,
                            "{} loaded in {} ms",
                            M::OF,
                            facts.began.elapsed().as_millis()
                        );
                    }
                    return self.loaded(machine);
                }
                Err(why) => {
                    if matches!(*self.state(), State::Closed) {
                        return;
                    }
                    tracing::error!(partition = self.id.partition, "{} cannot be loaded: {why}", M::OF);
                    tokio::time::sleep(LOAD_AGAIN).await;
                }
            }
        }
    }

    /// By the coordinator's settings, and the topic's own as they are now.
    fn empty(&self) -> M {
        let image = self.parts.setup.metadata.image();
        let topic = image.topic_by_id(self.id.topic_id);
        let allowed = topic.and_then(|topic| usize::try_from(topic.config.max_message_bytes).ok());
        let batch_bytes_max = allowed.unwrap_or(usize::MAX).min(self.journal.batch_bytes_max());
        M::new(&self.parts.setup.config, batch_bytes_max)
    }

    fn loaded(self: &Arc<Self>, machine: M) {
        let mut state = self.state();
        let State::Loading(deleted) = &mut *state else { return };
        let deleted = std::mem::take(deleted);
        let (release, released) = mpsc::unbounded_channel();
        tokio::spawn(release_in_order(self.id.partition, self.parts.setup.clone(), released));
        let active = Active { machine, last_ticket: 0, waiting: HashMap::new(), release };
        *state = State::Active(Box::new(active));
        self.tell_metadata(&mut state);
        self.act(&mut state, |active, now_ms| active.machine.loaded(now_ms));
        if !deleted.is_empty() {
            self.tell_of_deleted(&mut state, &deleted);
        }
    }

    /// See [`super::Coordinator::call`].
    pub fn call(self: &Arc<Self>, call: M::Call) -> oneshot::Receiver<Answered<M::Answer>> {
        let mut state = self.state();
        match &*state {
            State::Active(_) => {}
            State::Loading(_) => return refused(ResponseError::CoordinatorLoadInProgress),
            State::Closed => return refused(ResponseError::NotCoordinator),
        }
        if let Some(transactional) = M::transactional(&call)
            && let Err(why) = self.would_take(&transactional)
        {
            return refused(error_of(&why));
        }
        let (tell, told) = oneshot::channel();
        self.act(&mut state, |active, now_ms| {
            let (outcome, ticket) = active.handle(now_ms, call);
            active.waiting.insert(ticket, tell);
            outcome
        });
        told
    }

    pub fn topics_deleted(self: &Arc<Self>, names: &[TopicName]) {
        let mut state = self.state();
        if let State::Loading(deleted) = &mut *state {
            deleted.extend_from_slice(names);
            return;
        }
        self.tell_of_deleted(&mut state, names);
    }

    /// The metadata changed. A machine that is loading is told when it is loaded.
    pub fn metadata_changed(self: &Arc<Self>) {
        self.tell_metadata(&mut self.state());
    }

    /// As it is now, and not as it was when it was heard of: under the lock, it never goes back.
    fn tell_metadata(self: &Arc<Self>, state: &mut MutexGuard<'_, State<M>>) {
        let image = self.parts.setup.metadata.image();
        self.act(state, |active, now_ms| active.machine.metadata(now_ms, image));
    }

    fn tell_of_deleted(self: &Arc<Self>, state: &mut MutexGuard<'_, State<M>>, names: &[TopicName]) {
        if let Some(call) = M::topics_deleted(names) {
            self.act(state, |active, now_ms| active.handle(now_ms, call).0);
        }
    }

    /// Does what is due, and tells when there is something to do next.
    pub fn tick(self: &Arc<Self>) -> Option<i64> {
        let next =
            |slot: &Slot<M>| Some(slot.next_tick_ms.load(Ordering::SeqCst)).filter(|ms| *ms < i64::MAX);
        if next(self)? <= self.parts.clock.now_ms() {
            self.act(&mut self.state(), |active, now_ms| active.machine.tick(now_ms));
        }
        next(self)
    }

    /// Changes the machine, and carries out what comes of it. Nothing happens where there is none.
    fn act(
        self: &Arc<Self>,
        state: &mut MutexGuard<'_, State<M>>,
        change: impl FnOnce(&mut Active<M>, i64) -> Outcome<M>,
    ) {
        let State::Active(active) = &mut **state else { return };
        let now_ms = self.parts.clock.now_ms();
        let outcome = change(active, now_ms);
        let appended = self.append(&outcome);
        let Outcome { answers, effects, .. } = outcome;
        match appended {
            Ok(durable) => {
                let waiting = &mut active.waiting;
                let answers: Vec<_> =
                    answers.into_iter().filter_map(|(t, a)| Some((waiting.remove(&t)?, a))).collect();
                if durable.is_some() || !answers.is_empty() || !effects.is_empty() {
                    // Its task ends only after this end of the channel.
                    let _ = active.release.send(Release { durable, answers, effects });
                }
                self.tick_at(active.machine.next_tick_ms());
            }
            Err(why) => {
                // The machine is ahead of its log and cannot go back: it begins anew from what is in the log.
                tracing::error!(
                    partition = self.id.partition,
                    "{} are loaded again, as a change could not be written: {why}",
                    M::OF
                );
                let waiting = std::mem::take(&mut active.waiting);
                **state = State::Loading(Vec::new());
                self.tick_at(None);
                refuse_all(waiting, error_of(&why));
                self.clone().open();
            }
        }
    }

    fn tick_at(&self, at_ms: Option<i64>) {
        let at_ms = at_ms.unwrap_or(i64::MAX);
        self.next_tick_ms.store(at_ms, Ordering::SeqCst);
        self.parts.timer.wanted(at_ms);
    }

    /// Whether the log would take this now. Nobody else writes to the partition, and so it does if it is next.
    fn would_take(&self, transactional: &Transactional) -> Result<(), Refused> {
        let (batch, verified) = transactional.sample();
        self.journal.would_take(&batch, verified)
    }

    /// What the transaction's coordinator is to be asked before a producer's records are written here, if anything.
    pub fn verification(&self, id: ProducerId, epoch: ProducerEpoch) -> Option<Verified> {
        self.journal.verification(id, epoch)
    }

    /// Appends what a step leads to: one batch, unless no entry of the log could hold it. The last one is durable after all
    /// before it.
    fn append(&self, outcome: &Outcome<M>) -> Result<Option<oneshot::Receiver<()>>, Refused> {
        let now_ms = crate::storage::now_ms();
        let mut durable = None;
        for batch in batches(&outcome.records, outcome.origin, self.journal.batch_bytes_max(), now_ms) {
            durable = Some(self.journal.append(batch, now_ms)?);
        }
        if let Some(marker) = outcome.marker {
            durable = Some(self.journal.append_marker(marker, now_ms)?);
        }
        Ok(durable)
    }

    /// Answers everybody who waits. What is on its way to the disk is answered when it is there.
    pub fn close(&self) {
        let before = std::mem::replace(&mut *self.state(), State::Closed);
        self.next_tick_ms.store(i64::MAX, Ordering::SeqCst);
        if let State::Active(active) = before {
            refuse_all(active.waiting, ResponseError::NotCoordinator);
        }
    }

    /// Looks at the machine, once it is loaded.
    pub fn look<T>(&self, look: impl Fn(&M) -> T) -> Option<T> {
        match &*self.state() {
            State::Active(active) => Some(look(&active.machine)),
            State::Loading(_) | State::Closed => None,
        }
    }
}

impl<M: Machine> Active<M> {
    fn handle(&mut self, now_ms: i64, call: M::Call) -> (Outcome<M>, u64) {
        self.last_ticket += 1;
        (self.machine.handle(now_ms, self.last_ticket, call), self.last_ticket)
    }
}

fn refuse_all<A>(waiting: Waiting<A>, error: ResponseError) {
    for tell in waiting.into_values() {
        // A client that has gone away needs no answer.
        let _ = tell.send(Err(error));
    }
}

/// Gives answers and effects their order: none leaves before those of earlier steps. An effect is one of what is in the
/// log, so it begins even where the machine was closed meanwhile.
async fn release_in_order<M: Machine>(
    partition: i32,
    setup: Arc<Setup<M>>,
    mut released: mpsc::UnboundedReceiver<Release<M>>,
) {
    while let Some(Release { durable, answers, effects }) = released.recv().await {
        let written = match durable {
            Some(durable) => durable.await.is_ok(),
            None => true,
        };
        for (tell, answer) in answers {
            // The log has failed, and the broker is ending: as Kafka says of its storage.
            let _ = tell.send(if written { Ok(answer) } else { Err(ResponseError::NotCoordinator) });
        }
        if written {
            effects.into_iter().for_each(|effect| (setup.effects)(partition, effect));
        }
    }
}

/// Kafka's error for a change that could not be written (`CoordinatorOperationExceptionHelper`).
fn error_of(refused: &Refused) -> ResponseError {
    match refused {
        Refused::Deleted => ResponseError::CoordinatorNotAvailable,
        Refused::TooLarge => ResponseError::UnknownServerError,
        Refused::Log(AppendError::Producer(e)) => {
            ResponseError::try_from_code(e.kafka_code()).unwrap_or(ResponseError::UnknownServerError)
        }
        Refused::Log(_) | Refused::Storage(_) => ResponseError::NotCoordinator,
    }
}

fn batches(records: &[Record], origin: Origin, bytes_max: usize, now_ms: i64) -> Vec<Bytes> {
    let size = |r: &Record| r.key.len() + r.value.as_ref().map_or(0, Bytes::len) + RECORD_OVERHEAD;
    let mut batches = Vec::new();
    let mut rest = records;
    while let Some(first) = rest.first() {
        let mut bytes = BATCH_OVERHEAD + size(first);
        let mut count = 1;
        for record in &rest[1..] {
            bytes += size(record);
            if bytes > bytes_max {
                break;
            }
            count += 1;
        }
        let (batch, after) = rest.split_at(count);
        rest = after;
        let builder = batch.iter().fold(origin.batch(), |builder, record| {
            builder.record(now_ms, Some(&record.key), record.value.as_deref())
        });
        batches.push(Bytes::from(builder.build()));
    }
    batches
}
