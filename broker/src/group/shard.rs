//! One partition of `__consumer_offsets` on the broker that leads it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chronik_core::group::{Answer, Call, Counts, GroupConfig, GroupRecord, Shard, Step, Ticket};
use chronik_core::ids::{TopicIdPartition, Uuid};
use chronik_core::record_batch::BatchBuilder;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use tokio::sync::{mpsc, oneshot};

use super::{Answered, Parts, load, refused};
use crate::api::partitions::{Journal, Logs, PartitionReader};
use crate::storage::partition::Refused;

/// When a partition that could not be loaded is tried again.
const LOAD_AGAIN: Duration = Duration::from_secs(5);
/// A record's share of a batch beside key and value, at most: lengths, timestamp, offset.
const RECORD_OVERHEAD: usize = 32;
/// The same of the batch.
const BATCH_OVERHEAD: usize = 128;

/// A shard and who waits for it.
pub struct Slot {
    pub id: TopicIdPartition,
    pub epoch: i32,
    reader: Arc<dyn PartitionReader>,
    journal: Arc<dyn Journal>,
    parts: Parts,
    state: Mutex<State>,
    /// When the shard has something to do, in the coordinator's time; `i64::MAX` for never.
    next_tick_ms: AtomicI64,
}

enum State {
    /// Topics that were deleted meanwhile.
    Loading(Vec<TopicName>),
    Active(Box<Active>),
    /// Somebody else coordinates these groups, or nobody.
    Closed,
}

struct Active {
    shard: Shard,
    last_ticket: u64,
    waiting: HashMap<Ticket, oneshot::Sender<Answered>>,
    release: mpsc::UnboundedSender<Release>,
}

/// Answers that leave when the append, and all before it, are durable.
struct Release {
    durable: Option<oneshot::Receiver<()>>,
    answers: Vec<(oneshot::Sender<Answered>, Answer)>,
}

impl Slot {
    /// `None` when the partition is not open here.
    pub fn new(id: TopicIdPartition, epoch: i32, logs: &dyn Logs, parts: Parts) -> Option<Arc<Slot>> {
        let (reader, journal) = logs.partition(id).zip(logs.journal(id))?;
        let state = Mutex::new(State::Loading(Vec::new()));
        let next_tick_ms = AtomicI64::new(i64::MAX);
        Some(Arc::new(Slot { id, epoch, reader, journal, parts, state, next_tick_ms }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
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
                load::load(&self.reader, Shard::new(self.config())).await
            };
            match loaded {
                Ok((shard, facts)) => {
                    self.parts.metrics.load.observe_since(facts.began);
                    self.parts.metrics.unreadable.inc_by(facts.unreadable);
                    if facts.records > 0 {
                        tracing::info!(
                            partition = self.id.partition,
                            records = facts.records,
                            unreadable = facts.unreadable,
                            "consumer groups loaded in {} ms",
                            facts.began.elapsed().as_millis()
                        );
                    }
                    return self.loaded(shard);
                }
                Err(why) => {
                    if matches!(*self.state(), State::Closed) {
                        return;
                    }
                    tracing::error!(partition = self.id.partition, "consumer groups cannot be loaded: {why}");
                    tokio::time::sleep(LOAD_AGAIN).await;
                }
            }
        }
    }

    /// The coordinator's settings, and the topic's own as it is now.
    fn config(&self) -> GroupConfig {
        let image = self.parts.metadata.image();
        let topic = image.topic_by_id(self.id.topic_id);
        let allowed = topic.and_then(|topic| usize::try_from(topic.config.max_message_bytes).ok());
        let max_batch_bytes = allowed.unwrap_or(usize::MAX).min(self.journal.batch_bytes_max());
        GroupConfig { max_batch_bytes, ..self.parts.config.clone() }
    }

    fn loaded(self: &Arc<Self>, shard: Shard) {
        let mut state = self.state();
        let State::Loading(deleted) = &mut *state else { return };
        let deleted = std::mem::take(deleted);
        let (release, released) = mpsc::unbounded_channel();
        tokio::spawn(answer_in_order(released));
        let active = Active { shard, last_ticket: 0, waiting: HashMap::new(), release };
        *state = State::Active(Box::new(active));
        self.act(&mut state, |active, now_ms| active.shard.loaded(now_ms));
        if !deleted.is_empty() {
            self.act(&mut state, |active, now_ms| active.handle(now_ms, Call::TopicsDeleted(deleted)).0);
        }
    }

    /// See [`super::Coordinator::call`].
    pub fn call(self: &Arc<Self>, call: Call) -> oneshot::Receiver<Answered> {
        let mut state = self.state();
        match &*state {
            State::Active(_) => {}
            State::Loading(_) => return refused(ResponseError::CoordinatorLoadInProgress),
            State::Closed => return refused(ResponseError::NotCoordinator),
        }
        let (tell, told) = oneshot::channel();
        self.act(&mut state, |active, now_ms| {
            let (step, ticket) = active.handle(now_ms, call);
            active.waiting.insert(ticket, tell);
            step
        });
        told
    }

    pub fn topics_deleted(self: &Arc<Self>, names: &[TopicName]) {
        let mut state = self.state();
        if let State::Loading(deleted) = &mut *state {
            deleted.extend_from_slice(names);
            return;
        }
        let call = Call::TopicsDeleted(names.to_vec());
        self.act(&mut state, |active, now_ms| active.handle(now_ms, call).0);
    }

    /// Does what is due, and tells when there is something to do next.
    pub fn tick(self: &Arc<Self>) -> Option<i64> {
        let next = |slot: &Slot| Some(slot.next_tick_ms.load(Ordering::SeqCst)).filter(|ms| *ms < i64::MAX);
        if next(self)? <= self.parts.clock.now_ms() {
            self.act(&mut self.state(), |active, now_ms| active.shard.tick(now_ms));
        }
        next(self)
    }

    /// Changes the shard, and carries out what comes of it. Nothing happens where there is no shard.
    fn act(
        self: &Arc<Self>,
        state: &mut MutexGuard<'_, State>,
        change: impl FnOnce(&mut Active, i64) -> Step,
    ) {
        let State::Active(active) = &mut **state else { return };
        let now_ms = self.parts.clock.now_ms();
        let step = change(active, now_ms);
        match self.append(step.records) {
            Ok(durable) => {
                let answers = step.answers.into_iter();
                let waiting = &mut active.waiting;
                let answers: Vec<_> = answers.filter_map(|(t, a)| Some((waiting.remove(&t)?, a))).collect();
                if durable.is_some() || !answers.is_empty() {
                    // Its task ends only after this end of the channel.
                    let _ = active.release.send(Release { durable, answers });
                }
                self.tick_at(active.shard.next_tick_ms());
            }
            Err(why) => {
                // The shard is ahead of its log and cannot go back: it begins anew from what is in the log.
                tracing::error!(
                    partition = self.id.partition,
                    "consumer groups are loaded again, as a change could not be written: {why}"
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

    /// Appends a step's records: one batch, unless no entry of the log could hold it. The last one is durable after all
    /// before it.
    fn append(&self, records: Vec<GroupRecord>) -> Result<Option<oneshot::Receiver<()>>, Refused> {
        let now_ms = crate::storage::now_ms();
        let mut durable = None;
        for batch in batches(&records, self.journal.batch_bytes_max(), now_ms) {
            durable = Some(self.journal.append(batch, now_ms)?);
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

    /// Groups and offsets, once it is loaded.
    pub fn counts(&self) -> Option<Counts> {
        match &*self.state() {
            State::Active(active) => Some(active.shard.counts()),
            State::Loading(_) | State::Closed => None,
        }
    }
}

impl Active {
    fn handle(&mut self, now_ms: i64, call: Call) -> (Step, Ticket) {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        (self.shard.handle(now_ms, ticket, call, Uuid::new_v4()), ticket)
    }
}

fn refuse_all(waiting: HashMap<Ticket, oneshot::Sender<Answered>>, error: ResponseError) {
    for tell in waiting.into_values() {
        // A client that has gone away needs no answer.
        let _ = tell.send(Err(error));
    }
}

/// Gives answers their order: none leaves before those of earlier steps.
async fn answer_in_order(mut released: mpsc::UnboundedReceiver<Release>) {
    while let Some(Release { durable, answers }) = released.recv().await {
        let written = match durable {
            Some(durable) => durable.await.is_ok(),
            None => true,
        };
        for (tell, answer) in answers {
            // The log has failed, and the broker is ending: as Kafka says of its storage.
            let _ = tell.send(if written { Ok(answer) } else { Err(ResponseError::NotCoordinator) });
        }
    }
}

/// Kafka's error for a change that could not be written (`CoordinatorOperationExceptionHelper`).
fn error_of(refused: &Refused) -> ResponseError {
    match refused {
        Refused::Deleted => ResponseError::CoordinatorNotAvailable,
        Refused::TooLarge => ResponseError::UnknownServerError,
        Refused::Log(_) | Refused::Storage(_) => ResponseError::NotCoordinator,
    }
}

fn batches(records: &[GroupRecord], bytes_max: usize, now_ms: i64) -> Vec<Bytes> {
    let size = |r: &GroupRecord| r.key.len() + r.value.as_ref().map_or(0, Bytes::len) + RECORD_OVERHEAD;
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
        let builder = batch.iter().fold(BatchBuilder::new(), |builder, record| {
            builder.record(now_ms, Some(&record.key), record.value.as_deref())
        });
        batches.push(Bytes::from(builder.build()));
    }
    batches
}
