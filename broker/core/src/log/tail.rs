//! The newest durable data of a partition: where its bytes lie in the WAL, and those of them still in memory.

use std::collections::VecDeque;

use bytes::Bytes;
use thiserror::Error;

use super::read::trim_run;
use crate::ids::{Offset, WalPosition};
use crate::record_batch::{Batches, Crc};

/// Bytes in the WAL: `len` of them from `position` on, which is that of a [`crate::wal`] run, not of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalSpan {
    pub position: WalPosition,
    pub len: u32,
}

/// Whole batches of one partition that lie one behind the other in one commit group.
#[derive(Clone, Debug)]
pub struct Run {
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub span: WalSpan,
    /// The latest of the batches' timestamps, or later, ms since 1970.
    pub max_timestamp: i64,
    /// The `span`'s bytes, until they are evicted.
    pub bytes: Option<Bytes>,
}

impl Run {
    pub fn next_offset(&self) -> Offset {
        self.last_offset.saturating_add(1)
    }
}

/// An offset that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TailError {
    /// Offsets are dense, and runs become durable in their order.
    #[error("a run of offsets {base_offset} to {last_offset} cannot follow offset {expected}")]
    OutOfOrder { base_offset: Offset, last_offset: Offset, expected: Offset },
    #[error("offset {0} lies within a batch")]
    WithinBatch(Offset),
}

/// Runs in the order of their offsets, without gaps, up to `end`.
///
/// What lies below the first run is in segments. Runs may overlap with segments: while their bytes are in memory,
/// they are served from there. A run that is in segments and was evicted is never read from the WAL again, whose
/// files may have been recycled: it is dropped as soon as it is the oldest.
#[derive(Clone, Debug)]
pub struct Tail {
    runs: VecDeque<Run>,
    end: Offset,
    /// So many of the oldest runs are known to have no bytes in memory.
    evicted: usize,
    memory_bytes: usize,
}

impl Tail {
    /// An empty tail: everything below `end` is in segments.
    pub fn new(end: Offset) -> Tail {
        Tail { runs: VecDeque::new(), end, evicted: 0, memory_bytes: 0 }
    }

    /// The first offset that the tail knows of; `end` when it is empty.
    pub fn start(&self) -> Offset {
        self.runs.front().map_or(self.end, |run| run.base_offset)
    }

    /// The offset behind the newest run.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Bytes of all runs that are in memory.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }

    /// # Errors
    /// `OutOfOrder` unless the run begins at `end` and holds an offset.
    pub fn push(&mut self, run: Run) -> Result<(), TailError> {
        let Run { base_offset, last_offset, .. } = run;
        if base_offset != self.end || last_offset < base_offset {
            return Err(TailError::OutOfOrder { base_offset, last_offset, expected: self.end });
        }
        self.end = run.next_offset();
        self.memory_bytes += held(&run);
        self.runs.push_back(run);
        Ok(())
    }

    /// The runs from the one that holds `offset` on; nothing when the tail does not hold it.
    pub fn from(&self, offset: Offset) -> impl Iterator<Item = &Run> {
        let index = match offset < self.start() {
            true => self.runs.len(),
            false => self.runs.partition_point(|run| run.last_offset < offset),
        };
        self.runs.range(index..)
    }

    /// The run that holds `offset`.
    pub fn find(&self, offset: Offset) -> Option<&Run> {
        self.from(offset).next()
    }

    /// Gives up the oldest bytes in memory until `wanted` bytes are free; returns how many are.
    pub fn evict(&mut self, wanted: usize) -> usize {
        let mut freed = 0;
        while freed < wanted
            && let Some(run) = self.runs.get_mut(self.evicted)
        {
            freed += run.bytes.take().map_or(0, |bytes| bytes.len());
            self.evicted += 1;
        }
        self.memory_bytes -= freed;
        freed
    }

    /// Forgets the oldest runs that nobody will read from the WAL again: all below `deleted`, and those below
    /// `in_segments` that are not in memory.
    pub fn drop_below(&mut self, deleted: Offset, in_segments: Offset) {
        while let Some(run) = self.runs.front()
            && (run.last_offset < deleted || (run.last_offset < in_segments && run.bytes.is_none()))
        {
            self.memory_bytes -= held(run);
            self.evicted = self.evicted.saturating_sub(1);
            self.runs.pop_front();
        }
    }

    /// Forgets everything from `offset` on.
    ///
    /// Of a run that it cuts in two, bytes in memory are cut as well. An evicted one keeps its span, since only the
    /// bytes tell where a batch begins: `last_offset` then says how much of it counts.
    ///
    /// # Errors
    /// `WithinBatch`, when memory tells that no batch begins at `offset`. Nothing has changed then.
    pub fn truncate(&mut self, offset: Offset) -> Result<(), TailError> {
        let cut = self.find(offset).filter(|run| run.base_offset < offset).and_then(|run| run.bytes.as_ref());
        let cut = cut.map(|bytes| trim_run(bytes, Offset::MIN, usize::MAX, false, offset));
        if let Some(kept) = &cut
            && Batches::new(kept, Crc::Skip).last().and_then(Result::ok).map(|last| last.0.next_offset())
                != Some(offset)
        {
            return Err(TailError::WithinBatch(offset));
        }
        while let Some(run) = self.runs.pop_back_if(|run| run.base_offset >= offset) {
            self.memory_bytes -= held(&run);
        }
        if let Some(run) = self.runs.back_mut() {
            run.last_offset = run.last_offset.min(offset - 1);
            if let Some(kept) = cut {
                self.memory_bytes -= held(run) - kept.len();
                run.span.len = kept.len() as u32;
                run.bytes = Some(kept);
            }
        }
        self.evicted = self.evicted.min(self.runs.len());
        self.end = self.end.min(offset);
        Ok(())
    }
}

fn held(run: &Run) -> usize {
    run.bytes.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LeaderEpoch;
    use crate::record_batch::BatchBuilder;

    /// A run of one-record batches.
    fn run(base_offset: Offset, last_offset: Offset) -> Run {
        let batch =
            |offset| BatchBuilder::new().at(offset, LeaderEpoch(0)).record(0, None, Some(b"v")).build();
        let bytes = Bytes::from((base_offset..=last_offset).flat_map(batch).collect::<Vec<u8>>());
        let span = WalSpan { position: WalPosition(4096), len: bytes.len() as u32 };
        Run { base_offset, last_offset, span, max_timestamp: 0, bytes: Some(bytes) }
    }

    fn size(batches: usize) -> usize {
        run(0, 0).bytes.unwrap().len() * batches
    }

    fn tail() -> Tail {
        let mut tail = Tail::new(5);
        for (base, last) in [(5, 5), (6, 9), (10, 19)] {
            tail.push(run(base, last)).unwrap();
        }
        tail
    }

    #[test]
    fn runs_are_dense_and_found() {
        let mut tail = tail();
        for (base, last) in [(19, 30), (21, 30), (20, 19)] {
            let refused = TailError::OutOfOrder { base_offset: base, last_offset: last, expected: 20 };
            assert_eq!(tail.push(run(base, last)), Err(refused));
        }
        let found = |offset| tail.find(offset).map(|run| run.base_offset);
        assert_eq!(
            [4, 5, 6, 9, 10, 19, 20].map(found),
            [None, Some(5), Some(6), Some(6), Some(10), Some(10), None]
        );
        assert_eq!((tail.start(), tail.end(), tail.memory_bytes()), (5, 20, size(15)));
    }

    #[test]
    fn the_oldest_bytes_go_first_and_runs_in_segments_follow() {
        let mut tail = tail();
        assert_eq!(tail.evict(size(1) + 1), size(5));
        assert_eq!(tail.memory_bytes(), size(10));
        tail.drop_below(0, 9);
        assert_eq!(tail.start(), 6, "6 to 9 is not in segments altogether");
        tail.drop_below(0, 20);
        assert_eq!(tail.start(), 10, "what is in memory stays");
        assert_eq!(tail.evict(1), size(10));
        tail.drop_below(0, 20);
        assert_eq!((tail.start(), tail.end()), (20, 20));
        tail.push(run(20, 20)).unwrap();
        tail.drop_below(21, 0);
        assert_eq!((tail.start(), tail.memory_bytes()), (21, 0), "deleted records go, in memory or not");
        assert_eq!(tail.evict(1), 0);
    }

    #[test]
    fn truncation_cuts_a_run() {
        let mut tail = tail();
        tail.evict(1);
        tail.truncate(8).unwrap();
        assert_eq!((tail.end(), tail.memory_bytes()), (8, size(2)));
        let cut = tail.find(7).unwrap();
        assert_eq!((cut.last_offset, cut.span.len as usize), (7, size(2)));
        tail.push(run(8, 9)).unwrap();
        tail.evict(usize::MAX);
        tail.truncate(9).unwrap();
        let cut = tail.find(8).unwrap();
        assert_eq!(
            (cut.last_offset, cut.span.len as usize),
            (8, size(2)),
            "on the disk it is as long as ever"
        );
        tail.truncate(0).unwrap();
        assert_eq!((tail.start(), tail.end(), tail.memory_bytes()), (0, 0, 0));
        tail.push(run(0, 3)).unwrap();
        assert_eq!(tail.evict(1), size(4));
    }

    #[test]
    fn no_batch_is_cut() {
        let mut tail = Tail::new(0);
        let builder = BatchBuilder::new().record(0, None, None).record(0, None, None);
        tail.push(Run { bytes: Some(builder.build().into()), ..run(0, 1) }).unwrap();
        assert_eq!(tail.truncate(1), Err(TailError::WithinBatch(1)));
        assert_eq!(tail.end(), 2);
    }
}
