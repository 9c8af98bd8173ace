//! One partition on this broker: the small lock around core's [`PartitionLog`], and who waits for it.
//!
//! Appends happen on a connection's task, flushes are reported on the WAL thread; both hold the lock for
//! less than a microsecond and never across an await.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use chronik_core::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicIdPartition, WalPosition};
use chronik_core::log::retention::{Stretch, stretches};
use chronik_core::log::{
    AppendError, Appended, EndMarker, LogError, PartitionLog, ProducerStateMap, Run, WalSpan,
};
use chronik_core::metadata::TopicConfig;
use chronik_core::record_batch::{
    BatchLimits, BatchSummary, Origin, Stamp, TimestampType, Verified, check_produced,
};
use chronik_core::wal::format::EntryKind;
use thiserror::Error;
use tokio::sync::oneshot;

use super::logs::Disk;
use super::profiles::ProfileEntry;
use super::segments::Segments;
use super::wal::{DurableRun, Entry, WalClient};
use crate::api::partitions::Listeners;

/// What acts on the partition now; replaced as a whole.
pub struct Settings {
    pub topic: Arc<TopicConfig>,
    pub profile: Arc<ProfileEntry>,
}

/// Why a partition takes no records, or gives none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Records were lost to damage: nothing is served until a person has decided.
    Fenced(String),
    Deleted,
    /// The write-ahead log has failed and the broker is ending.
    Failed,
}

/// Why a batch was not appended.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refused {
    #[error(transparent)]
    Log(#[from] AppendError),
    #[error("the topic was deleted")]
    Deleted,
    #[error("the batch is larger than a WAL file")]
    TooLarge,
    #[error("{0}")]
    Storage(String),
}

/// How little free space an append bears.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Floor {
    /// `chronik.disk.reserve.bytes`
    Reserve,
    Nothing,
}

/// Why records are not deleted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DeleteRefused {
    #[error("the offset is beyond the high watermark")]
    OutOfRange,
    #[error("the partition is not served here")]
    NotHere,
    #[error("{0}")]
    Storage(String),
}

impl Refused {
    pub fn kafka_code(&self) -> i16 {
        match self {
            Refused::Log(e) => e.kafka_code(),
            Refused::Deleted => 3,
            Refused::TooLarge => 10,
            Refused::Storage(_) => 56,
        }
    }
}

/// When an append may be answered.
pub enum Acknowledge {
    Now,
    /// Once it resolves. An error means that the log has failed: the record may or may not be on the disk.
    When(oneshot::Receiver<()>),
}

/// A batch that has its offsets.
pub struct Accepted {
    pub base_offset: Offset,
    pub append_time_ms: i64,
    pub log_start: Offset,
    pub acknowledge: Acknowledge,
    /// It went to the log: its room in the queue is given back when it is durable.
    pub queued: bool,
}

/// Room in the queues, given back when dropped, unless the entry was queued: then when it is durable.
pub struct Room {
    disk: Arc<Disk>,
    profile: usize,
    records: u64,
    bytes: u64,
    in_broker: bool,
}

impl Room {
    pub fn queued(mut self) {
        self.records = 0;
        self.bytes = 0;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.records > 0 || self.bytes > 0 {
            self.disk.release(self.profile, self.in_broker, self.records, self.bytes);
        }
    }
}

/// A batch on its way to the disk.
struct Pending {
    last_offset: Offset,
    max_timestamp: i64,
    waiter: Option<oneshot::Sender<()>>,
    /// Duplicates of it that arrived meanwhile.
    more: Vec<oneshot::Sender<()>>,
}

pub(super) struct State {
    pub log: PartitionLog,
    pending: VecDeque<Pending>,
    /// New log starts on their way to the disk, in order, and who waits for them.
    pub starts: VecDeque<Option<oneshot::Sender<()>>>,
    pub closed: Option<Closed>,
    /// Grows by every byte that the high watermark passes.
    pub committed_bytes: u64,
    /// Durable bytes that are in no segment yet.
    uncopied_bytes: u64,
}

/// The partition's side on the disk: segments and the producers' state at their end.
pub(super) struct OnDisk {
    pub segments: Segments,
    pub producers: ProducerStateMap,
    /// All below was compacted.
    pub cleaned_to: Offset,
}

/// See the module's documentation.
pub struct Partition {
    pub id: TopicIdPartition,
    pub topic: Arc<str>,
    pub(super) disk: Arc<Disk>,
    settings: ArcSwap<Settings>,
    state: Mutex<State>,
    on_disk: Mutex<OnDisk>,
    pub(super) listeners: Listeners,
    /// Listed at the segment writer as having data that is in the WAL only.
    listed: AtomicBool,
}

impl Partition {
    pub(super) fn new(
        id: TopicIdPartition,
        topic: Arc<str>,
        disk: Arc<Disk>,
        settings: Settings,
        log: PartitionLog,
        closed: Option<Closed>,
        on_disk: OnDisk,
    ) -> Arc<Partition> {
        let uncopied_bytes = uncopied(&log);
        let (pending, starts) = (VecDeque::new(), VecDeque::new());
        let state = State { log, pending, starts, closed, committed_bytes: 0, uncopied_bytes };
        Arc::new(Partition {
            id,
            topic,
            disk,
            settings: ArcSwap::from_pointee(settings),
            state: Mutex::new(state),
            on_disk: Mutex::new(on_disk),
            listeners: Listeners::default(),
            listed: AtomicBool::new(false),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn on_disk(&self) -> MutexGuard<'_, OnDisk> {
        self.on_disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    pub(super) fn set_settings(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// The partition's name, for people.
    pub fn name(&self) -> String {
        format!("{}-{}", self.topic, self.id.partition)
    }

    /// This broker leads it from now on, in `epoch`.
    pub fn become_leader(&self, epoch: LeaderEpoch) -> Result<(), LogError> {
        let mut state = self.state();
        if state.log.leading() == Some(epoch) {
            return Ok(());
        }
        state.log.become_leader(epoch)
    }

    pub fn resign(&self) {
        self.state().log.resign();
    }

    /// The largest batch that the log can take.
    pub fn entry_bytes_max(&self) -> u64 {
        self.disk.wal.max_entry_bytes()
    }

    /// Room in the profile's queue and the broker's, if there is any now.
    pub fn room_now(&self, profile: &ProfileEntry, records: u64, bytes: u64) -> Option<Room> {
        profile.queue.try_admit(records, bytes).then_some(())?;
        let mut room = self.room(profile, records, bytes);
        room.in_broker = self.disk.queue.try_admit(records, bytes);
        room.in_broker.then_some(room)
    }

    /// Waits for room in the profile's queue and the broker's.
    pub async fn find_room(&self, profile: &ProfileEntry, records: u64, bytes: u64) -> Room {
        profile.queue.admit(records, bytes).await;
        let mut room = self.room(profile, records, bytes);
        self.disk.queue.admit(records, bytes).await;
        room.in_broker = true;
        room
    }

    /// Room for what the broker itself writes: it cannot wait, as others wait for it. The requests that it serves are
    /// bounded before.
    fn room_for_own(&self, profile: &ProfileEntry, records: u64, bytes: u64) -> Room {
        profile.queue.force(records, bytes);
        self.disk.queue.force(records, bytes);
        let mut room = self.room(profile, records, bytes);
        room.in_broker = true;
        room
    }

    /// What the profile's queue has given.
    fn room(&self, profile: &ProfileEntry, records: u64, bytes: u64) -> Room {
        Room { disk: self.disk.clone(), profile: profile.index, records, bytes, in_broker: false }
    }

    /// Assigns offsets to a checked batch and hands it to the write-ahead log. The caller has found room for
    /// it in the profile's queue.
    ///
    /// `wait`: whether anybody is to be told when it is durable; `buffered`: whether it may be answered
    /// before that (`ack: buffered`).
    pub fn append(
        self: &Arc<Self>,
        batch: &BatchSummary,
        body: Bytes,
        profile: usize,
        wait: bool,
        now_ms: i64,
    ) -> Result<Accepted, Refused> {
        self.append_above(batch, body, profile, wait, now_ms, Floor::Reserve)
    }

    /// Appends what the broker writes into its internal topics: also below the disk's reserve, which is there for this,
    /// and answered only when it is durable, whatever the profile says.
    ///
    /// # Errors
    /// As [`Partition::append`].
    pub fn append_own(self: &Arc<Self>, body: Bytes, now_ms: i64) -> Result<oneshot::Receiver<()>, Refused> {
        let batch = check_own(&body, now_ms)?;
        if body.len() as u64 > self.entry_bytes_max() {
            return Err(Refused::TooLarge);
        }
        let profile = self.settings().profile.clone();
        let room =
            self.room_for_own(&profile, u64::from(batch.record_count.unsigned_abs()), body.len() as u64);
        let accepted = self.append_above(&batch, body, profile.index, true, now_ms, Floor::Nothing)?;
        if accepted.queued {
            room.queued();
        }
        match accepted.acknowledge {
            Acknowledge::When(told) => Ok(told),
            Acknowledge::Now => Err(Refused::Storage("an append that is durable at once".to_string())),
        }
    }

    /// Ends a producer's transaction here, as its coordinator says.
    ///
    /// # Errors
    /// As [`Partition::append_own`]; for an older coordinator or an older producer, too.
    pub fn append_marker(
        self: &Arc<Self>,
        marker: EndMarker,
        now_ms: i64,
    ) -> Result<oneshot::Receiver<()>, Refused> {
        self.append_own(marker.batch(now_ms).into(), now_ms)
    }

    /// Whether [`Partition::append_own`] would take such a batch now, as far as its producer is concerned: for who cannot go
    /// back any more when it comes to the append.
    ///
    /// # Errors
    /// Those of the append.
    pub fn would_take(&self, batch: &[u8], verified: Verified) -> Result<(), Refused> {
        let batch = BatchSummary { verified, ..check_own(batch, 0)? };
        Ok(self.state().log.would_take(&batch)?)
    }

    /// What a transactional batch of this producer needs before it is appended; `None` where its transaction is ongoing
    /// here.
    pub fn verification(&self, id: ProducerId, epoch: ProducerEpoch, from_zero: bool) -> Option<Verified> {
        self.state().log.verification(id, epoch, from_zero)
    }

    fn append_above(
        self: &Arc<Self>,
        batch: &BatchSummary,
        body: Bytes,
        profile: usize,
        wait: bool,
        now_ms: i64,
        floor: Floor,
    ) -> Result<Accepted, Refused> {
        let body = stamped(batch, body)?;
        let mut state = self.state();
        match &state.closed {
            None => {}
            Some(Closed::Deleted) => return Err(Refused::Deleted),
            Some(Closed::Fenced(why)) => return Err(Refused::Storage(why.clone())),
            Some(Closed::Failed) => return Err(Refused::Storage("the write-ahead log has failed".into())),
        }
        if let (Floor::Reserve, Some(why)) = (floor, self.disk.refuses_produce()) {
            return Err(Refused::Storage(why));
        }
        let log_start = state.log.log_start();
        match state.log.append(batch, now_ms)? {
            Appended::Duplicate { base_offset, last_offset, append_time_ms } => {
                let durable = state.log.duplicate_is_durable(last_offset);
                let acknowledge = if durable || !wait {
                    Acknowledge::Now
                } else {
                    state.wait_for(last_offset).ok_or_else(|| {
                        Refused::Storage("the original of a duplicate is neither durable nor pending".into())
                    })?
                };
                Ok(Accepted { base_offset, append_time_ms, log_start, acknowledge, queued: false })
            }
            Appended::New { base_offset, last_offset, leader_epoch, append_time_ms } => {
                let (waiter, acknowledge) = if wait {
                    let (tell, told) = oneshot::channel();
                    (Some(tell), Acknowledge::When(told))
                } else {
                    (None, Acknowledge::Now)
                };
                let max_timestamp = batch.max_timestamp;
                state.pending.push_back(Pending { last_offset, max_timestamp, waiter, more: Vec::new() });
                // Under the lock: the log must see this partition's entries in the order of their offsets.
                self.disk.wal.submit(Entry {
                    kind: EntryKind::Append,
                    tp: self.id,
                    first: base_offset,
                    last: last_offset,
                    leader_epoch,
                    records: batch.record_count as u32,
                    patch: true,
                    body,
                    profile,
                    client: self.clone(),
                });
                Ok(Accepted { base_offset, append_time_ms, log_start, acknowledge, queued: true })
            }
        }
    }

    /// Deletes everything below `offset`: logged first, done once that is durable (retention, DeleteRecords). The answer
    /// is `None` where the log starts there already, or resolves when it is done.
    ///
    /// # Errors
    /// Beyond the high watermark, or when the partition is not served.
    pub fn delete_before(
        self: &Arc<Self>,
        offset: Offset,
    ) -> Result<Option<oneshot::Receiver<()>>, DeleteRefused> {
        let mut state = self.state();
        match &state.closed {
            None => {}
            Some(Closed::Deleted) => return Err(DeleteRefused::NotHere),
            Some(Closed::Fenced(why)) => return Err(DeleteRefused::Storage(why.clone())),
            Some(Closed::Failed) => {
                return Err(DeleteRefused::Storage("the write-ahead log has failed".to_string()));
            }
        }
        if offset > state.log.high_watermark() || offset < 0 {
            return Err(DeleteRefused::OutOfRange);
        }
        if offset <= state.log.log_start() {
            return Ok(None);
        }
        let (tell, told) = oneshot::channel();
        state.starts.push_back(Some(tell));
        self.disk.wal.submit(Entry {
            kind: EntryKind::LogStart,
            tp: self.id,
            first: offset,
            last: offset,
            leader_epoch: LeaderEpoch(-1),
            records: 0,
            patch: false,
            body: Bytes::new(),
            profile: self.settings().profile.index,
            client: self.clone(),
        });
        Ok(Some(told))
    }

    /// What is to be judged by retention: closed and open segments, then what is in the write-ahead log alone, up to the
    /// high watermark.
    pub(super) fn stretches(&self) -> Vec<Stretch> {
        let (segments, active_base) = {
            let on_disk = self.on_disk();
            (on_disk.segments.states(), on_disk.segments.active_base())
        };
        let in_segments = segments.iter().map(|s| s.stretch(Some(s.base_offset) != active_base));
        stretches(in_segments, &self.state().log)
    }

    pub fn log_start(&self) -> Offset {
        self.state().log.log_start()
    }

    pub fn high_watermark(&self) -> Offset {
        self.state().log.high_watermark()
    }

    /// Bytes of the log, wherever they are.
    pub fn size_bytes(&self) -> u64 {
        let in_segments = self.on_disk().segments.bytes();
        in_segments + self.uncopied_bytes()
    }

    /// Stops serving; whoever waits is told that the log failed.
    pub(super) fn close(&self, why: Closed) {
        let mut state = self.state();
        state.closed = Some(why);
        state.log.resign();
        state.pending.clear();
        state.starts.clear();
        drop(state);
        self.listeners.wake();
    }

    pub(super) fn is_open(&self) -> bool {
        self.state().closed.is_none()
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.state().closed == Some(Closed::Deleted)
    }

    /// The oldest position of the WAL that holds what is in no synced segment.
    pub(super) fn oldest_needed(&self) -> Option<WalPosition> {
        let state = self.state();
        let tail = state.log.tail();
        tail.from(state.log.segment_end().max(tail.start())).next().map(|run| run.span.position)
    }

    /// Durable runs that are in no synced segment, from `from` on, at most about `max_bytes`.
    pub(super) fn runs_from(&self, from: Offset, max_bytes: usize) -> Vec<Run> {
        let state = self.state();
        let mut bytes = 0;
        let mut runs = Vec::new();
        let tail = state.log.tail();
        for run in tail.from(from.max(tail.start())) {
            runs.push(run.clone());
            bytes += run.span.len as usize;
            if bytes >= max_bytes {
                break;
            }
        }
        runs
    }

    /// The producers' state at the end of the segments, or behind it where an earlier attempt got further. Records that
    /// were deleted before they reached a segment have left their mark on the log's own state alone.
    pub(super) fn segment_producers(&self) -> ProducerStateMap {
        self.copied().0
    }

    /// The producers' state at the end of the segments, and that end: both of one moment, since a deletion moves the end.
    pub(super) fn copied(&self) -> (ProducerStateMap, Offset) {
        let on_disk = self.on_disk();
        let state = self.state();
        let end = state.log.segment_end();
        let producers = match on_disk.producers.end_offset() {
            known if known >= end => on_disk.producers.clone(),
            _ => state.log.producers_at(end),
        };
        (producers, end)
    }

    /// The producers' state at `offset` as the log knows it, which has seen also what was deleted since.
    pub(super) fn producers_at(&self, offset: Offset) -> ProducerStateMap {
        self.state().log.producers_at(offset)
    }

    /// Everything below `end` is in synced segments.
    pub(super) fn in_segments(&self, end: Offset) -> Result<(), LogError> {
        let mut state = self.state();
        state.log.in_segments(end)?;
        // Counted, not subtracted: some of what was copied may have been deleted meanwhile.
        state.uncopied_bytes = uncopied(&state.log);
        Ok(())
    }

    /// Durable bytes that are in no segment yet.
    pub(super) fn uncopied_bytes(&self) -> u64 {
        self.state().uncopied_bytes
    }

    /// No longer listed at the segment writer; true if it has something to write after all.
    pub(super) fn unlist(&self) -> bool {
        self.listed.store(false, Ordering::SeqCst);
        self.oldest_needed().is_some() && !self.listed.swap(true, Ordering::SeqCst)
    }

    pub(super) fn list(self: &Arc<Self>) {
        if !self.listed.swap(true, Ordering::SeqCst) {
            self.disk.list(self.clone());
        }
    }
}

/// A batch that the broker itself writes.
fn check_own(batch: &[u8], now_ms: i64) -> Result<BatchSummary, Refused> {
    let limits = BatchLimits {
        max_message_bytes: usize::MAX,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        timestamp_type: TimestampType::CreateTime,
        now_ms,
        needs_keys: true,
        origin: Origin::Coordinator,
    };
    check_produced(batch, &limits).map_err(|e| Refused::Storage(e.to_string()))
}

/// Durable bytes of a log that are in no segment yet.
fn uncopied(log: &PartitionLog) -> u64 {
    let runs = log.tail().from(log.segment_end().max(log.tail().start()));
    runs.map(|run| u64::from(run.span.len)).sum()
}

impl State {
    /// A new log start is durable.
    fn started_at(&mut self, offset: Offset) -> Result<(), LogError> {
        let waiter = self.starts.pop_front();
        self.log.log_start_to(offset)?;
        self.uncopied_bytes = uncopied(&self.log);
        if let Some(tell) = waiter.flatten() {
            // Whoever asked may have gone away.
            let _ = tell.send(());
        }
        Ok(())
    }

    /// Waits for a batch that is on its way to the disk.
    fn wait_for(&mut self, last_offset: Offset) -> Option<Acknowledge> {
        let at = self.pending.binary_search_by_key(&last_offset, |p| p.last_offset).ok()?;
        let (tell, told) = oneshot::channel();
        self.pending.get_mut(at)?.more.push(tell);
        Some(Acknowledge::When(told))
    }
}

/// The bytes as they are stored but for offset and epoch, which the log's copy gets. A copy is made only when
/// a timestamp must be written.
fn stamped(batch: &BatchSummary, body: Bytes) -> Result<Bytes, Refused> {
    if batch.stamp == Stamp::Keep {
        return Ok(body);
    }
    let mut copy = BytesMut::from(&body[..]);
    batch.patch(&mut copy, 0, LeaderEpoch(-1)).map_err(|e| Refused::Storage(e.to_string()))?;
    Ok(copy.freeze())
}

/// Clients are held by `Arc`, and a partition needs itself to be listed and cached.
impl WalClient for Partition {
    fn durable(self: Arc<Self>, run: DurableRun) {
        let mut state = self.state();
        if run.item.kind == EntryKind::LogStart {
            if let Err(e) = state.started_at(run.item.first) {
                tracing::error!(partition = self.name(), "a durable log start does not fit the log: {e}");
                state.closed = Some(Closed::Failed);
            }
            drop(state);
            self.listeners.wake();
            // Files that hold nothing any more go with the next checkpoint: somebody may wait for their space.
            self.disk.work.order(|o| o.tidy = true);
            return;
        }
        if run.item.kind != EntryKind::Append {
            return;
        }
        let mut max_timestamp = -1;
        let mut told = 0;
        for pending in state.pending.iter().take_while(|p| p.last_offset <= run.item.last) {
            max_timestamp = max_timestamp.max(pending.max_timestamp);
            told += 1;
        }
        let (len, last_offset) = (run.bytes.len(), run.item.last);
        let advanced = state.log.durable(Run {
            base_offset: run.item.first,
            last_offset: run.item.last,
            span: WalSpan { position: run.position, len: run.item.body_len },
            max_timestamp,
            bytes: Some(run.bytes),
        });
        if let Err(e) = advanced {
            // Book-keeping that contradicts itself: never acknowledge on it.
            tracing::error!(partition = self.name(), "a durable run does not fit the log: {e}");
            state.closed = Some(Closed::Failed);
            state.pending.clear();
            return;
        }
        state.committed_bytes += len as u64;
        state.uncopied_bytes += len as u64;
        for pending in state.pending.drain(..told) {
            for waiter in pending.waiter.into_iter().chain(pending.more) {
                // A client that has gone away needs no answer.
                let _ = waiter.send(());
            }
        }
        drop(state);
        self.listeners.wake();
        self.disk.cached(&self, last_offset, len);
        self.list();
    }

    fn failed(self: Arc<Self>) {
        self.close(Closed::Failed);
    }
}
