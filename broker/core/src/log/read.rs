//! Reading a partition: which bytes answer a fetch or a search by time, and where they are.

use bytes::Bytes;
use thiserror::Error;

use super::partition_log::PartitionLog;
use super::tail::{Run, WalSpan};
use crate::ids::{LeaderEpoch, Offset};
use crate::record_batch::{BatchHeader, Batches, Crc, RecordIter};

/// OFFSET_OUT_OF_RANGE: the log does not hold this offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("offset {offset} is outside of the log, {log_start} to {log_end}")]
pub struct OffsetOutOfRange {
    pub offset: Offset,
    pub log_start: Offset,
    pub log_end: Offset,
}

impl OffsetOutOfRange {
    pub fn kafka_code(&self) -> i16 {
        1
    }
}

/// How far a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadUpTo {
    /// Consumers (invariant 10).
    HighWatermark,
    /// Consumers of what is decided (`isolation.level=read_committed`).
    LastStableOffset,
    /// Followers: all that is flushed here.
    DurableEnd,
}

#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    pub from: Offset,
    /// Whole batches up to so many bytes …
    pub max_bytes: usize,
    /// … and the first one whatever its size: Kafka's answer to a consumer whose limit is below a batch's size.
    pub at_least_one: bool,
    pub up_to: ReadUpTo,
}

/// Where the answer to a [`ReadRequest`] is.
#[derive(Clone, Debug)]
pub enum ReadPlan {
    /// There is nothing to read yet, or nothing that fits.
    Empty,
    /// Whole batches in order, the first holding the offset asked for (and perhaps earlier ones, which consumers
    /// skip).
    Memory(Vec<Bytes>),
    /// Read the span, then [`trim_run`] it to `up_to`.
    Wal { span: WalSpan, up_to: Offset },
    /// Read in segments from the batch that holds `from`, up to batches that end below `up_to`.
    Segment { from: Offset, up_to: Offset },
}

/// A record found by its time. `leader_epoch` is the one its batch was stored with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampAndOffset {
    pub timestamp: i64,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
}

/// Where the first record of a time or later is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampPlan {
    NotFound,
    Found(TimestampAndOffset),
    /// Read the span and ask [`find_timestamp`] for `from` to `up_to`; if it finds nothing, ask again from `up_to`.
    Wal {
        span: WalSpan,
        from: Offset,
        up_to: Offset,
    },
    /// Search the segments from `from` to `up_to`; if they hold nothing, ask again from `up_to`.
    Segment {
        from: Offset,
        up_to: Offset,
    },
}

impl PartitionLog {
    /// What answers a fetch. Never a batch that reaches to the limit or beyond.
    ///
    /// # Errors
    /// [`OffsetOutOfRange`] below the log's start or beyond its end. Between limit and end the plan is `Empty`.
    pub fn read(&self, request: &ReadRequest) -> Result<ReadPlan, OffsetOutOfRange> {
        let ReadRequest { from, max_bytes, at_least_one, up_to } = *request;
        let (log_start, log_end) = (self.log_start(), self.log_end());
        if from < log_start || from > log_end {
            return Err(OffsetOutOfRange { offset: from, log_start, log_end });
        }
        let limit = self.limit(up_to);
        if from >= limit {
            return Ok(ReadPlan::Empty);
        }
        let mut slices = Vec::new();
        let mut left = max_bytes;
        for run in self.tail.from(from) {
            let Some(bytes) = &run.bytes else {
                if slices.is_empty() {
                    return Ok(self.plan_evicted(run, from, limit));
                }
                break;
            };
            let slice = match from <= run.base_offset && run.next_offset() <= limit && bytes.len() <= left {
                true => bytes.clone(),
                false => trim_run(bytes, from, left, at_least_one && slices.is_empty(), limit),
            };
            if slice.is_empty() {
                break;
            }
            left = left.saturating_sub(slice.len());
            // A run that is cut short ends the answer: what follows it must not follow what was left out.
            let whole = slice.as_ptr_range().end == bytes.as_ptr_range().end;
            slices.push(slice);
            if !whole || left == 0 {
                break;
            }
        }
        Ok(match (slices.is_empty(), self.tail.find(from)) {
            (false, _) => ReadPlan::Memory(slices),
            (true, Some(_)) => ReadPlan::Empty,
            (true, None) => ReadPlan::Segment { from, up_to: limit.min(self.segment_end()) },
        })
    }

    fn plan_evicted(&self, run: &Run, from: Offset, limit: Offset) -> ReadPlan {
        match run.last_offset < self.segment_end() {
            true => ReadPlan::Segment { from, up_to: limit.min(self.segment_end()) },
            false => ReadPlan::Wal { span: run.span, up_to: limit.min(run.next_offset()) },
        }
    }

    /// The first offset from `from` on whose record is of `target_ms` (ms since 1970) or later, as consumers may
    /// see it.
    pub fn offset_for_timestamp(&self, target_ms: i64, from: Offset) -> TimestampPlan {
        let from = from.max(self.log_start());
        let limit = self.high_watermark();
        if from >= limit {
            return TimestampPlan::NotFound;
        }
        if from < self.tail.start() {
            return TimestampPlan::Segment { from, up_to: self.tail.start().min(limit) };
        }
        let runs = self.tail.from(from).take_while(|run| run.base_offset < limit);
        for run in runs.filter(|run| run.max_timestamp >= target_ms) {
            let (from, up_to) = (from.max(run.base_offset), run.next_offset().min(limit));
            match &run.bytes {
                Some(bytes) => {
                    if let Some(found) = find_timestamp(bytes, target_ms, from, up_to) {
                        return TimestampPlan::Found(found);
                    }
                }
                None if run.last_offset < self.segment_end() => {
                    return TimestampPlan::Segment { from, up_to };
                }
                None => return TimestampPlan::Wal { span: run.span, from, up_to },
            }
        }
        TimestampPlan::NotFound
    }

    /// The latest time in the tail that consumers may see, and the offset from which
    /// [`PartitionLog::offset_for_timestamp`] finds its record (KIP-734). Segments may hold a later one.
    pub fn max_timestamp(&self) -> Option<(i64, Offset)> {
        let visible = self.tail.runs().filter(|run| run.next_offset() <= self.high_watermark());
        visible
            .map(|run| (run.max_timestamp, run.base_offset))
            .reduce(|best, run| if run.0 > best.0 { run } else { best })
    }

    fn limit(&self, up_to: ReadUpTo) -> Offset {
        match up_to {
            ReadUpTo::HighWatermark => self.high_watermark(),
            ReadUpTo::LastStableOffset => self.last_stable_offset(),
            ReadUpTo::DurableEnd => self.durable_end(),
        }
    }
}

/// Cuts whole batches out of a run's bytes: from the batch that holds `from`, as many as fit `max_bytes` (the first
/// regardless, if `at_least_one`), none that reaches to `up_to`.
///
/// The bytes have been checked by the WAL's or the segment's reader; anything that is no batch ends the answer.
pub fn trim_run(bytes: &Bytes, from: Offset, max_bytes: usize, at_least_one: bool, up_to: Offset) -> Bytes {
    let mut cut = 0..0;
    for (header, range) in visible(bytes, from, up_to) {
        let first = cut.is_empty();
        let start = if first { range.start } else { cut.start };
        if range.end - start > max_bytes && !(first && at_least_one) {
            break;
        }
        debug_assert!(header.next_offset() <= up_to);
        cut = start..range.end;
    }
    bytes.slice(cut)
}

/// The first record of `target_ms` or later in whole batches, at `from` or later and below `up_to`.
///
/// Compressed records are not opened: their batch's first offset stands for the first match among them. A consumer
/// that seeks there reads the match, after at most a batch of earlier records.
pub fn find_timestamp(
    bytes: &[u8],
    target_ms: i64,
    from: Offset,
    up_to: Offset,
) -> Option<TimestampAndOffset> {
    let late = visible(bytes, from, up_to).filter(|(header, _)| header.max_timestamp >= target_ms);
    for (header, range) in late {
        let leader_epoch = header.leader_epoch;
        let Ok(records) = RecordIter::new(bytes.get(range)?) else {
            let timestamp = match header.delete_horizon_ms() {
                None if header.base_timestamp >= target_ms => header.base_timestamp,
                _ => header.max_timestamp,
            };
            return Some(TimestampAndOffset {
                timestamp,
                offset: header.base_offset.max(from),
                leader_epoch,
            });
        };
        let mut records = records.map_while(Result::ok);
        if let Some(record) = records.find(|record| record.offset >= from && record.timestamp >= target_ms) {
            return Some(TimestampAndOffset {
                timestamp: record.timestamp,
                offset: record.offset,
                leader_epoch,
            });
        }
    }
    None
}

/// The batches that hold offsets of `from..up_to` and none beyond.
fn visible(
    bytes: &[u8],
    from: Offset,
    up_to: Offset,
) -> impl Iterator<Item = (BatchHeader, std::ops::Range<usize>)> {
    Batches::new(bytes, Crc::Skip)
        .map_while(Result::ok)
        .skip_while(move |(header, _)| header.last_offset() < from)
        .take_while(move |(header, _)| header.next_offset() <= up_to)
}
