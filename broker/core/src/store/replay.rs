//! From checkpoint and write-ahead log to partitions: what each log holds after a restart.
//!
//! Replay changes nothing that is in segments already, so a WAL that reaches back behind them does no harm.
//! A partition of which records are known, or cannot be excluded, to be lost is fenced: it is not served
//! until a person, or its peers, have decided.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::checkpoint::{Checkpoint, CheckpointError, PartitionState, SegmentState};
use crate::ids::{Offset, TopicIdPartition, WalPosition};
use crate::log::{EndedTransactions, LeaderEpochs, ProducerStateMap, Recovered, Run, WalSpan};
use crate::record_batch::{Batches, Crc, EndMarker, NO_TIMESTAMP};
use crate::wal::format::{EntryKind, Item};
use crate::wal::recovery::{FoundGroup, Hole, Row};

/// A partition after replay.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// Where the log goes on. For a fenced partition: behind everything that was found.
    pub log: Recovered,
    pub segments: Vec<SegmentState>,
    /// All below was compacted.
    pub cleaned_to: Offset,
    /// The producers' state at the end of the segments: where the segment writer goes on from.
    pub segment_producers: ProducerStateMap,
    /// Why it must not be served.
    pub fenced: Option<String>,
    /// Of a fenced partition: the runs that were found behind the segments, perhaps with gaps between them.
    /// They belong into segments before the log moves on.
    pub salvaged: Vec<Run>,
}

struct Partition {
    state: PartitionState,
    segment_producers: ProducerStateMap,
    producers: ProducerStateMap,
    transactions: EndedTransactions,
    epochs: LeaderEpochs,
    runs: Vec<Run>,
    log_start: Offset,
    /// The offset the next append must have.
    next: Offset,
    fenced: Option<String>,
    /// A damaged stretch might have held records of this partition, and nothing has shown otherwise yet.
    unproven: Option<String>,
}

/// See the module's documentation.
pub struct Replay {
    partitions: BTreeMap<TopicIdPartition, Partition>,
    deleted: std::collections::BTreeSet<TopicIdPartition>,
    /// A stretch was lost of which nothing is known.
    blind: Option<String>,
    max_producers: usize,
}

impl Replay {
    /// # Errors
    /// When the checkpoint holds a producers' state that cannot be read.
    pub fn new(checkpoint: Checkpoint, max_producers: usize) -> Result<Replay, CheckpointError> {
        let mut partitions = BTreeMap::new();
        for (id, state) in checkpoint.partitions {
            let producers = state.producers(max_producers).map_err(|e| CheckpointError::Producers(id, e))?;
            partitions.insert(id, Partition::new(state, producers));
        }
        Ok(Replay { partitions, deleted: Default::default(), blind: None, max_producers })
    }

    fn partition(&mut self, id: TopicIdPartition) -> &mut Partition {
        let blind = &self.blind;
        let max_producers = self.max_producers;
        self.partitions.entry(id).or_insert_with(|| {
            let mut fresh =
                Partition::new(PartitionState::default(), ProducerStateMap::new(0, max_producers));
            fresh.unproven = blind.clone();
            fresh
        })
    }

    /// A whole group. `keep` bounds what stays in memory: it is asked for each run's bytes.
    pub fn group(&mut self, group: &FoundGroup<'_>, keep: &mut dyn FnMut(&[u8]) -> Option<Bytes>) {
        for item in group.items {
            if self.deleted.contains(&item.tp) {
                continue;
            }
            match item.kind {
                EntryKind::Append => {
                    let body = group.body(item);
                    let position = group.body_position(item);
                    self.partition(item.tp).append(item, position, body, keep);
                }
                EntryKind::LogStart => {
                    let p = self.partition(item.tp);
                    p.log_start = p.log_start.max(item.first.min(p.next));
                }
                EntryKind::Truncate => self.partition(item.tp).truncate(item.first),
                EntryKind::PartitionCreated => {
                    self.partition(item.tp).unproven = None;
                }
                EntryKind::PartitionDeleted => {
                    self.partitions.remove(&item.tp);
                    self.deleted.insert(item.tp);
                }
                // The metadata quorum's log is another log.
                EntryKind::QuorumEntry
                | EntryKind::QuorumVote
                | EntryKind::QuorumTruncate
                | EntryKind::QuorumPurge => {}
            }
        }
    }

    /// A stretch of the log that was durable and is lost.
    pub fn hole(&mut self, hole: &Hole) {
        let place = match hole.place {
            Some((slot, at)) => format!("WAL file {slot} at byte {at}"),
            None => "a missing WAL file".to_string(),
        };
        let Some(named) = &hole.named else {
            let why = format!(
                "{place}: {} bytes from position {} on are damaged and do not say what they held",
                hole.end.0 - hole.start.0,
                hole.start
            );
            for p in self.partitions.values_mut() {
                p.unproven.get_or_insert_with(|| why.clone());
            }
            self.blind.get_or_insert(why);
            return;
        };
        for item in named {
            if self.deleted.contains(&item.tp) {
                continue;
            }
            let row = hole.row;
            let p = self.partition(item.tp);
            match item.kind {
                // What is in segments already is not lost.
                EntryKind::Append if item.last >= p.next => {
                    let why = lost(row, &place, item);
                    p.fenced.get_or_insert(why);
                    p.next = item.last + 1;
                }
                EntryKind::Truncate => {
                    p.fenced.get_or_insert_with(|| format!("{place}: a damaged truncation"));
                }
                // What it says stands in the directory: what was deleted does not come back.
                EntryKind::LogStart => p.log_start = p.log_start.max(item.first.min(p.next)),
                EntryKind::PartitionDeleted => {
                    self.partitions.remove(&item.tp);
                    self.deleted.insert(item.tp);
                }
                _ => {}
            }
        }
    }

    /// The partitions, and, if a lost stretch could have held anything, why a partition that is not among
    /// them must be fenced as well.
    pub fn finish(self) -> (BTreeMap<TopicIdPartition, Replayed>, Option<String>) {
        let partitions = self.partitions.into_iter().map(|(id, p)| (id, p.finish())).collect();
        (partitions, self.blind)
    }
}

fn lost(row: Row, place: &str, item: &Item) -> String {
    format!("{place}: offsets {} to {} were durable and are damaged ({row})", item.first, item.last)
}

impl Partition {
    fn new(state: PartitionState, producers: ProducerStateMap) -> Partition {
        Partition {
            segment_producers: producers.clone(),
            producers,
            transactions: EndedTransactions::of(state.aborted.iter().copied()),
            epochs: state.leader_epochs.clone(),
            runs: Vec::new(),
            log_start: state.log_start,
            next: state.segment_end,
            fenced: state.fenced.clone(),
            unproven: None,
            state,
        }
    }

    fn append(
        &mut self,
        item: &Item,
        position: WalPosition,
        body: &[u8],
        keep: &mut dyn FnMut(&[u8]) -> Option<Bytes>,
    ) {
        if item.last < self.next {
            // Deleted, or in segments. What was deleted on its way there is in no producers' state yet.
            self.apply(body);
            return;
        }
        // A log start may lie within a run: what is before it in the run does no harm.
        if item.first > self.next {
            let why = self.unproven.take().unwrap_or_else(|| {
                format!("offsets {} to {} are missing from the write-ahead log", self.next, item.first - 1)
            });
            self.fenced.get_or_insert(why);
        }
        // What follows without a gap proves that nothing of this partition was in a lost stretch before it.
        self.unproven = None;
        self.epochs.assign(item.leader_epoch, item.first);
        let max_timestamp = self.apply(body);
        self.runs.push(Run {
            base_offset: item.first,
            last_offset: item.last,
            span: WalSpan { position, len: item.body_len },
            max_timestamp,
            bytes: keep(body),
        });
        self.next = item.last + 1;
    }

    /// What batches change in the producers' state; returns the latest of their times.
    fn apply(&mut self, body: &[u8]) -> i64 {
        let mut max_timestamp = NO_TIMESTAMP;
        for (header, range) in Batches::new(body, Crc::Skip).flatten() {
            max_timestamp = max_timestamp.max(header.max_timestamp);
            let marker = body.get(range).and_then(|batch| EndMarker::of(&header, batch));
            if let Some(ended) = self.producers.apply(&header, marker.as_ref(), header.max_timestamp) {
                self.transactions.push(ended);
            }
        }
        max_timestamp
    }

    /// A follower's log was cut back. Entries behind it follow from there again.
    fn truncate(&mut self, end: Offset) {
        if end >= self.next {
            return;
        }
        if end < self.state.segment_end {
            self.fenced.get_or_insert_with(|| {
                format!("the log was cut back to {end}, below its segments' end {}", self.state.segment_end)
            });
            return;
        }
        self.runs.retain(|run| run.last_offset < end);
        self.epochs.truncate_from_end(end);
        self.next = end;
        let producers = std::mem::replace(&mut self.producers, ProducerStateMap::new(0, 1));
        self.producers = producers.truncated(end, &self.transactions);
        self.transactions.end_at(end);
    }

    fn finish(self) -> Replayed {
        let fenced = self.fenced.or(self.unproven);
        let log_start = self.log_start.min(self.next);
        let whole = fenced.is_none();
        let segment_end = if whole { self.state.segment_end.max(log_start) } else { self.next };
        // The state ends where the log ends, also when its last batches did not name a producer.
        let producers = self.producers.reaching(self.next);
        Replayed {
            log: Recovered {
                log_start,
                segment_end,
                high_watermark: self.next,
                log_end: self.next,
                leader_epochs: self.epochs,
                producers,
                transactions: self.transactions,
                runs: if whole { self.runs.clone() } else { Vec::new() },
            },
            segments: self.state.segments,
            cleaned_to: self.state.cleaned_to,
            segment_producers: self.segment_producers,
            fenced,
            salvaged: if whole { Vec::new() } else { self.runs },
        }
    }
}
