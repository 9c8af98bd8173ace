//! What the handlers need of the partitions on this broker.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chronik_core::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicIdPartition};
use chronik_core::log::{AbortedTransaction, ActiveProducer, EndMarker};
use chronik_core::record_batch::Verified;
use thiserror::Error;
use tokio::sync::{Notify, oneshot};

use crate::storage::partition::{Partition, Refused};

/// The partitions this broker has a replica of.
pub trait Logs: Send + Sync {
    fn partition(&self, id: TopicIdPartition) -> Option<Arc<dyn PartitionReader>>;
    /// The same partition, for appending.
    fn appendable(&self, id: TopicIdPartition) -> Option<Arc<Partition>>;
    /// The same, for what the broker itself writes down in an internal topic.
    fn journal(&self, id: TopicIdPartition) -> Option<Arc<dyn Journal>>;
}

/// A partition of an internal topic, as the broker writes it.
pub trait Journal: Send + Sync {
    /// Appends one batch. It keeps its place among the appends before and after it; what is given resolves when it is
    /// durable, and to an error when the log has failed.
    ///
    /// # Errors
    /// When the partition takes no records now. Nothing was appended.
    fn append(&self, batch: Bytes, now_ms: i64) -> Result<oneshot::Receiver<()>, Refused>;

    /// Ends a producer's transaction here: a control batch, with the place and the answer of any other append.
    ///
    /// # Errors
    /// As [`Journal::append`], and for an older coordinator or producer than the last that is known here.
    fn append_marker(&self, marker: EndMarker, now_ms: i64) -> Result<oneshot::Receiver<()>, Refused> {
        self.append(marker.batch(now_ms).into(), now_ms)
    }

    /// What a producer's records need before they are appended: its coordinator's word that this partition is in its
    /// transaction, given after this moment. `None` where its transaction is ongoing here.
    fn verification(&self, id: ProducerId, epoch: ProducerEpoch) -> Option<Verified>;

    /// Whether the log would take such a batch now: of this producer, or with this marker.
    ///
    /// # Errors
    /// As [`Journal::append`].
    fn would_take(&self, batch: &Bytes, verified: Verified) -> Result<(), Refused>;

    /// The largest batch it takes.
    fn batch_bytes_max(&self) -> usize;
}

impl Journal for Arc<Partition> {
    fn append(&self, batch: Bytes, now_ms: i64) -> Result<oneshot::Receiver<()>, Refused> {
        self.append_own(batch, now_ms)
    }

    fn verification(&self, id: ProducerId, epoch: ProducerEpoch) -> Option<Verified> {
        Partition::verification(self, id, epoch, false)
    }

    fn would_take(&self, batch: &Bytes, verified: Verified) -> Result<(), Refused> {
        Partition::would_take(self, batch, verified)
    }

    fn batch_bytes_max(&self) -> usize {
        usize::try_from(self.entry_bytes_max()).unwrap_or(usize::MAX)
    }
}

/// How far a partition reaches: `log_start <= last_stable <= high_watermark <= log_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    pub log_start: Offset,
    pub last_stable: Offset,
    pub high_watermark: Offset,
    pub log_end: Offset,
    pub leader_epoch: LeaderEpoch,
    /// Grows by the size of each batch that the high watermark passes; only differences mean something.
    pub committed_bytes: u64,
}

/// Whole batches, as they are stored.
#[derive(Clone, Debug, Default)]
pub struct ReadBytes {
    /// To be sent one after the other.
    pub pieces: Vec<Bytes>,
    /// Of a reader of decided records: whose records it leaves out.
    pub aborted: Vec<AbortedTransaction>,
}

impl ReadBytes {
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.iter().all(Bytes::is_empty)
    }
}

/// A place in a log that was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    /// -1 where none was asked for.
    pub timestamp: i64,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
}

/// Why a partition could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    #[error("offset {offset} is outside of the log, {log_start} to {log_end}")]
    OutOfRange { offset: Offset, log_start: Offset, log_end: Offset },
    /// The partition is being deleted or given to another leader.
    #[error("this broker does not lead the partition now")]
    NotLeader,
    #[error("the partition's data cannot be read: {0}")]
    Storage(String),
    /// It is known that these records are damaged, and was told when it was found out.
    #[error("the partition's data is damaged: {0}")]
    Damaged(String),
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The readable side of one partition.
pub trait PartitionReader: Send + Sync {
    fn offsets(&self) -> Offsets;

    /// Reads whole batches from the one that holds `from`, all of it below `to`. Stops before `max_bytes`,
    /// but with `min_one` gives one batch however large it is. Empty when `from == to`.
    fn read(
        &self,
        from: Offset,
        to: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> BoxFuture<'_, Result<ReadBytes, ReadError>>;

    /// The same for a reader of decided records (`isolation.level=read_committed`): `to` is not beyond the last stable
    /// offset, and what was aborted is told.
    fn read_committed(
        &self,
        from: Offset,
        to: Offset,
        max_bytes: usize,
        min_one: bool,
    ) -> BoxFuture<'_, Result<ReadBytes, ReadError>>;

    /// The first record below `to` whose timestamp is at least `timestamp`.
    fn offset_for_timestamp(
        &self,
        timestamp: i64,
        to: Offset,
    ) -> BoxFuture<'_, Result<Option<FoundOffset>, ReadError>>;

    /// The first record below `to` with the largest timestamp (KIP-734).
    fn max_timestamp(&self, to: Offset) -> BoxFuture<'_, Result<Option<FoundOffset>, ReadError>>;

    /// The epoch of the batch that holds `offset`, or would hold it next.
    fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch>;

    /// The largest known epoch that is not above `epoch`, and where it ends (KIP-101); `None` when all are.
    fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)>;

    /// The producers that are known here.
    fn producers(&self) -> Vec<ActiveProducer>;

    /// Who is to be woken when the high watermark moves.
    fn listeners(&self) -> &Listeners;
}

/// Those who wait for a partition to advance. Part of the partition; waking costs one load when nobody waits.
#[derive(Debug, Default)]
pub struct Listeners {
    count: AtomicUsize,
    waiting: Mutex<Vec<Arc<Notify>>>,
}

impl Listeners {
    /// Has `notify` woken at every advance from now on, until [`Listeners::remove`].
    pub fn add(&self, notify: Arc<Notify>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(notify);
        self.count.store(waiting.len(), Ordering::SeqCst);
    }

    pub fn remove(&self, notify: &Arc<Notify>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = waiting.iter().position(|w| Arc::ptr_eq(w, notify)) {
            waiting.swap_remove(at);
        }
        self.count.store(waiting.len(), Ordering::SeqCst);
    }

    /// To be called after the high watermark moved, or the partition stopped being served. Whoever adds
    /// itself must look at the offsets afterwards, not before: then no advance is missed.
    pub fn wake(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) > 0 {
            for notify in self.waiting.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                notify.notify_one();
            }
        }
    }

    pub fn len(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
