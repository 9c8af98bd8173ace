//! The state machine of one partition's log.

use thiserror::Error;

use super::leader_epochs::LeaderEpochs;
use super::producer_state::{Checked, ProducerError, ProducerStateMap};
use super::tail::{Run, Tail, TailError};
use super::transactions::{AbortedTransaction, EndedTransactions};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use crate::record_batch::{BatchHeader, BatchSummary, Verified};

/// What recovery found. All of it is durable: what was read back has been flushed again before it gets here.
#[derive(Clone, Debug)]
pub struct Recovered {
    pub log_start: Offset,
    /// All below is in synced segments.
    pub segment_end: Offset,
    /// The log's end alone; a follower's checkpointed high watermark otherwise.
    pub high_watermark: Offset,
    pub log_end: Offset,
    pub leader_epochs: LeaderEpochs,
    /// Applied up to `log_end`.
    pub producers: ProducerStateMap,
    /// Up to `log_end`.
    pub transactions: EndedTransactions,
    /// From `segment_end` or before up to `log_end`.
    pub runs: Vec<Run>,
}

/// Where a produced batch is to be written, or has been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Offsets are assigned: the batch must now reach the WAL, patched, before any later one of this partition.
    /// A broker that cannot write it stops (invariant 12), since the offsets are spent.
    New { base_offset: Offset, last_offset: Offset, leader_epoch: LeaderEpoch, append_time_ms: i64 },
    /// Not to be written again. Answer once [`PartitionLog::duplicate_is_durable`], and for `acks=all` once the
    /// high watermark has passed it: the original's own condition.
    Duplicate { base_offset: Offset, last_offset: Offset, append_time_ms: i64 },
}

/// Why a batch is not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    #[error("this broker does not lead the partition")]
    NotLeader,
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// 2^63 offsets are spent.
    #[error("the partition has no offsets left")]
    NoOffsetsLeft,
}

impl AppendError {
    pub fn kafka_code(&self) -> i16 {
        match self {
            AppendError::NotLeader => 6,
            AppendError::Producer(error) => error.kafka_code(),
            AppendError::NoOffsetsLeft => 56,
        }
    }
}

/// What contradicts the log's state. Nothing has changed; the caller's book-keeping, or the disk, is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LogError {
    #[error("leader epoch {epoch} is not above {latest}")]
    StaleEpoch { epoch: LeaderEpoch, latest: LeaderEpoch },
    #[error(transparent)]
    Tail(#[from] TailError),
    #[error("offset {offset} is outside of {min} to {max}")]
    Offset { offset: Offset, min: Offset, max: Offset },
    /// A leader's log is the partition's; only a follower truncates.
    #[error("this broker leads the partition in epoch {0}")]
    Leading(LeaderEpoch),
    #[error("the producers' state ends at offset {producers}, the log at {log_end}")]
    Producers { producers: Offset, log_end: Offset },
}

impl LogError {
    /// FENCED_LEADER_EPOCH, OFFSET_OUT_OF_RANGE (DeleteRecords beyond the high watermark), KAFKA_STORAGE_ERROR.
    pub fn kafka_code(&self) -> i16 {
        match self {
            LogError::StaleEpoch { .. } => 74,
            LogError::Offset { .. } => 1,
            LogError::Tail(_) | LogError::Leading(_) | LogError::Producers { .. } => 56,
        }
    }
}

/// How far the log has come after a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advanced {
    pub durable_end: Offset,
    pub high_watermark: Offset,
}

/// The log of one partition on one broker.
///
/// ```text
/// log_start <= segment_end <= durable_end <= log_end
/// log_start <= last_stable_offset <= high_watermark <= durable_end
/// tail.start <= segment_end,  tail.end == durable_end
/// leader epochs start <= log_end,  producers.end_offset == log_end
/// ```
///
/// - below `log_start`: deleted.
/// - below `segment_end`: in synced segments (or deleted); the WAL's copy is no longer needed.
/// - below `high_watermark`: committed, consumers see it (invariant 10).
/// - below `durable_end`: flushed in this broker's WAL.
/// - below `log_end`: assigned to batches on their way there (invariant 9: dense, never twice).
#[derive(Clone, Debug)]
pub struct PartitionLog {
    log_start: Offset,
    segment_end: Offset,
    high_watermark: Offset,
    log_end: Offset,
    /// Its end is `durable_end`.
    pub(super) tail: Tail,
    leader_epochs: LeaderEpochs,
    producers: ProducerStateMap,
    transactions: EndedTransactions,
    /// The highest epoch that this log has seen; it outlives the term and its records.
    epoch: LeaderEpoch,
    leads: bool,
    /// Planted for the simulator: duplicates are answered before their original is durable.
    #[cfg(feature = "planted-bugs")]
    pub answer_duplicates_early: bool,
}

const NO_EPOCH: LeaderEpoch = LeaderEpoch(-1);

/// The high watermark after a flush: the least flushed end offset of the in-sync replicas, the leader's too
/// (invariants 3 and 4). It never goes back. Alone, a leader's flush is all it takes.
pub fn high_watermark(current: Offset, leader_flushed_end: Offset, isr_flushed_ends: &[Offset]) -> Offset {
    isr_flushed_ends.iter().copied().fold(leader_flushed_end, Offset::min).max(current)
}

impl PartitionLog {
    /// # Errors
    /// When what was recovered breaks the inequalities above.
    pub fn new(recovered: Recovered) -> Result<PartitionLog, LogError> {
        let Recovered {
            log_start,
            segment_end,
            high_watermark,
            log_end,
            leader_epochs,
            producers,
            transactions,
            runs,
        } = recovered;
        within(log_start, 0, segment_end)?;
        within(segment_end, log_start, log_end)?;
        within(high_watermark, log_start, log_end)?;
        let mut tail = Tail::new(runs.first().map_or(segment_end, |run| run.base_offset));
        within(tail.start(), 0, segment_end)?;
        for run in runs {
            tail.push(run)?;
        }
        within(tail.end(), log_end, log_end)?;
        within(leader_epochs.entries().last().map_or(0, |entry| entry.start_offset), 0, log_end)?;
        reaches(&producers, log_end)?;
        let epoch = leader_epochs.latest().unwrap_or(NO_EPOCH);
        let mut log = PartitionLog {
            log_start,
            segment_end,
            high_watermark,
            log_end,
            tail,
            leader_epochs,
            producers,
            transactions,
            epoch,
            leads: false,
            #[cfg(feature = "planted-bugs")]
            answer_duplicates_early: false,
        };
        log.transactions.start_at(log_start);
        log.settle_transactions();
        log.assert_order();
        Ok(log)
    }

    /// A partition that was just created.
    pub fn empty(max_producers: usize) -> PartitionLog {
        PartitionLog {
            log_start: 0,
            segment_end: 0,
            high_watermark: 0,
            log_end: 0,
            tail: Tail::new(0),
            leader_epochs: LeaderEpochs::default(),
            producers: ProducerStateMap::new(0, max_producers),
            transactions: EndedTransactions::default(),
            epoch: NO_EPOCH,
            leads: false,
            #[cfg(feature = "planted-bugs")]
            answer_duplicates_early: false,
        }
    }

    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    pub fn segment_end(&self) -> Offset {
        self.segment_end
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Below it all transactions are decided: what a consumer with `isolation.level=read_committed` sees.
    ///
    /// A transaction whose marker is not committed yet counts as undecided.
    pub fn last_stable_offset(&self) -> Offset {
        let undecided = self.producers.first_undecided();
        let uncommitted = self.transactions.first_uncommitted(self.high_watermark);
        let unstable = [undecided, uncommitted].into_iter().flatten().min();
        unstable.map_or(self.high_watermark, |first| first.clamp(self.log_start, self.high_watermark))
    }

    /// Whether a transaction of this producer is ongoing here, in this epoch.
    pub fn has_ongoing(&self, id: ProducerId, epoch: ProducerEpoch) -> bool {
        self.producers.has_ongoing(id, epoch)
    }

    /// What a transactional batch of this producer needs before it is appended: its coordinator's word that the partition
    /// is in its transaction, given after this moment. `None` where its transaction is ongoing here.
    pub fn verification(&self, id: ProducerId, epoch: ProducerEpoch, from_zero: bool) -> Option<Verified> {
        let marker_offset = self.producers.marker_offset(id);
        (!self.has_ongoing(id, epoch)).then_some(Verified::Since { marker_offset, from_zero })
    }

    /// The transactions that have ended here, and their markers are in the log still.
    pub fn transactions(&self) -> &EndedTransactions {
        &self.transactions
    }

    /// The producers' state as it was at `offset`, as far as it is known still.
    pub fn producers_at(&self, offset: Offset) -> ProducerStateMap {
        self.producers.clone().truncated(offset, &self.transactions)
    }

    /// The aborted transactions to be left out by who reads from `from` up to `to`.
    pub fn aborted_between(&self, from: Offset, to: Offset) -> Vec<AbortedTransaction> {
        self.transactions.aborted_between(from, to)
    }

    /// Markers at these offsets, ascending, are about to be compacted away, since nothing else is left of their transactions.
    pub fn markers_go(&mut self, offsets: &[Offset]) {
        self.transactions.cleaned(offsets);
    }

    pub fn durable_end(&self) -> Offset {
        self.tail.end()
    }

    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    pub fn leader_epochs(&self) -> &LeaderEpochs {
        &self.leader_epochs
    }

    pub fn producers(&self) -> &ProducerStateMap {
        &self.producers
    }

    /// The epoch in which this broker leads the partition, if it does.
    pub fn leading(&self) -> Option<LeaderEpoch> {
        self.leads.then_some(self.epoch)
    }

    /// Begins a term; its epoch starts at the log's end. Repeating the present one changes nothing.
    ///
    /// # Errors
    /// `StaleEpoch` unless the epoch is above all that the log has seen (invariant 5).
    pub fn become_leader(&mut self, epoch: LeaderEpoch) -> Result<(), LogError> {
        if self.leads && self.epoch == epoch {
            return Ok(());
        }
        if epoch <= self.epoch {
            return Err(LogError::StaleEpoch { epoch, latest: self.epoch });
        }
        self.leader_epochs.assign(epoch, self.log_end);
        (self.epoch, self.leads) = (epoch, true);
        self.assert_order();
        Ok(())
    }

    /// Ends this broker's term: every later append is refused.
    pub fn resign(&mut self) {
        self.leads = false;
    }

    /// Assigns offsets to a batch that [`crate::record_batch::check_produced`] has accepted. Nothing is visible
    /// before [`PartitionLog::durable`].
    ///
    /// # Errors
    /// See [`AppendError`]; nothing has changed then.
    pub fn append(&mut self, batch: &BatchSummary, now_ms: i64) -> Result<Appended, AppendError> {
        let leader_epoch = self.leading().ok_or(AppendError::NotLeader)?;
        if let Checked::Duplicate { base_offset, last_offset, append_time_ms } =
            self.producers.check(&batch.header, batch.marker.as_ref(), batch.verified)?
        {
            return Ok(Appended::Duplicate { base_offset, last_offset, append_time_ms });
        }
        let base_offset = self.log_end;
        let next = base_offset.checked_add(i64::from(batch.record_count));
        self.log_end = next.ok_or(AppendError::NoOffsetsLeft)?;
        let stored =
            BatchHeader { base_offset, leader_epoch, max_timestamp: batch.max_timestamp, ..batch.header };
        if let Some(ended) = self.producers.apply(&stored, batch.marker.as_ref(), now_ms) {
            self.transactions.push(ended);
        }
        self.assert_order();
        let append_time_ms = batch.log_append_time_ms();
        Ok(Appended::New { base_offset, last_offset: self.log_end - 1, leader_epoch, append_time_ms })
    }

    /// Whether [`PartitionLog::append`] would take this batch if it were next, as far as its producer is concerned.
    ///
    /// # Errors
    /// Those of the append.
    pub fn would_take(&self, batch: &BatchSummary) -> Result<(), AppendError> {
        self.leading().ok_or(AppendError::NotLeader)?;
        self.producers.check(&batch.header, batch.marker.as_ref(), batch.verified)?;
        Ok(())
    }

    /// Whether the original of a duplicate has been flushed. Only then may the duplicate be answered (invariant 1).
    pub fn duplicate_is_durable(&self, last_offset: Offset) -> bool {
        #[cfg(feature = "planted-bugs")]
        if self.answer_duplicates_early {
            return true;
        }
        last_offset < self.durable_end()
    }

    /// A run of what was appended has been flushed.
    ///
    /// # Errors
    /// When it is not the next one, or was never appended.
    pub fn durable(&mut self, run: Run) -> Result<Advanced, LogError> {
        within(run.next_offset(), self.durable_end(), self.log_end)?;
        self.tail.push(run)?;
        self.high_watermark = high_watermark(self.high_watermark, self.tail.end(), &[]);
        self.settle_transactions();
        self.assert_order();
        Ok(Advanced { durable_end: self.durable_end(), high_watermark: self.high_watermark })
    }

    /// All below `up_to` is in synced segments. Going back changes nothing.
    ///
    /// # Errors
    /// Beyond the durable end.
    pub fn in_segments(&mut self, up_to: Offset) -> Result<(), LogError> {
        within(up_to, 0, self.durable_end())?;
        self.segment_end = self.segment_end.max(up_to);
        self.settle_transactions();
        self.tail.drop_below(self.log_start, self.segment_end);
        self.assert_order();
        Ok(())
    }

    /// The segments below `offset` were compacted: what memory still holds of them is no longer what the log holds.
    pub fn compacted_to(&mut self, offset: Offset) {
        self.tail.drop_below(offset.min(self.segment_end), self.segment_end);
        self.assert_order();
    }

    /// Gives up the oldest bytes in memory until `wanted` are free; returns how many are. They are then read from
    /// the WAL, or from segments.
    pub fn evict(&mut self, wanted: usize) -> usize {
        let freed = self.tail.evict(wanted);
        self.tail.drop_below(self.log_start, self.segment_end);
        self.assert_order();
        freed
    }

    /// All below `offset` is deleted (retention, DeleteRecords); the WAL knows it already. Going back changes nothing.
    ///
    /// # Errors
    /// Beyond the high watermark: Kafka's OFFSET_OUT_OF_RANGE.
    pub fn log_start_to(&mut self, offset: Offset) -> Result<(), LogError> {
        within(offset, 0, self.high_watermark)?;
        self.log_start = self.log_start.max(offset);
        // What is deleted need not reach a segment, so it does not hold the WAL either.
        self.segment_end = self.segment_end.max(self.log_start);
        self.tail.drop_below(self.log_start, self.segment_end);
        self.leader_epochs.truncate_from_start(self.log_start);
        self.transactions.start_at(self.log_start);
        self.settle_transactions();
        self.assert_order();
        Ok(())
    }

    /// Forgets all from `offset` on, as a replica whose leader never had it. `offset` is where a batch begins, and
    /// nothing is on its way to the WAL; `producers` were rebuilt up to there, from a snapshot and the log behind it.
    ///
    /// # Errors
    /// Below the high watermark (invariant 7), beyond the log's end, within a batch, while leading, or with
    /// other producers' state.
    pub fn truncate_to(&mut self, offset: Offset, producers: ProducerStateMap) -> Result<(), LogError> {
        within(offset, self.high_watermark, self.log_end)?;
        reaches(&producers, offset)?;
        if let Some(epoch) = self.leading() {
            return Err(LogError::Leading(epoch));
        }
        self.tail.truncate(offset)?;
        self.log_end = offset;
        self.segment_end = self.segment_end.min(offset);
        self.leader_epochs.truncate_from_end(offset);
        self.producers = producers;
        self.transactions.end_at(offset);
        self.assert_order();
        Ok(())
    }

    /// Forgets producers that have been silent for `expiration_ms` (`producer.id.expiration.ms`).
    pub fn expire_producers(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.expire(now_ms, expiration_ms);
    }

    /// What is committed and in segments is never cut off again.
    fn settle_transactions(&mut self) {
        self.transactions.settle(self.high_watermark.min(self.segment_end));
    }

    fn assert_order(&self) {
        debug_assert!(0 <= self.log_start && self.log_start <= self.segment_end, "{self:?}");
        debug_assert!(
            self.segment_end <= self.durable_end() && self.durable_end() <= self.log_end,
            "{self:?}"
        );
        debug_assert!(self.log_start <= self.high_watermark, "{self:?}");
        debug_assert!(self.high_watermark <= self.durable_end(), "{self:?}");
        debug_assert!(self.tail.start() <= self.segment_end, "{self:?}");
        let epoch_start = self.leader_epochs.entries().last().map_or(0, |entry| entry.start_offset);
        debug_assert!(epoch_start <= self.log_end, "{self:?}");
        debug_assert_eq!(self.producers.end_offset(), self.log_end, "{self:?}");
    }
}

fn within(offset: Offset, min: Offset, max: Offset) -> Result<(), LogError> {
    if (min..=max).contains(&offset) { Ok(()) } else { Err(LogError::Offset { offset, min, max }) }
}

fn reaches(producers: &ProducerStateMap, log_end: Offset) -> Result<(), LogError> {
    match producers.end_offset() {
        end if end == log_end => Ok(()),
        end => Err(LogError::Producers { producers: end, log_end }),
    }
}
