//! Durable runs on their way from the write-ahead log into segments. Records may be appended, and deleted, between any two
//! of them.

use super::producer_state::ProducerStateMap;
use super::tail::Run;
use crate::ids::Offset;
use crate::record_batch::{Batches, Crc, EndMarker, NO_TIMESTAMP};

/// How far a partition's copy has come.
#[derive(Clone, Debug)]
pub struct Copying {
    /// At `next`.
    producers: ProducerStateMap,
    next: Offset,
    /// An attempt that failed behind a roll has left batches synced up to here that the log does not know of yet.
    synced_end: Offset,
}

/// Whole batches of some runs: what no segment holds yet.
#[derive(Clone, Debug)]
pub struct Copied {
    pub bytes: Vec<u8>,
    /// None while there are no bytes.
    pub first: Option<Offset>,
    /// Of the first run.
    pub first_timestamp: i64,
    pub max_timestamp: i64,
}

impl Copied {
    pub fn with_capacity(bytes: usize) -> Copied {
        let bytes = Vec::with_capacity(bytes);
        Copied { bytes, first: None, first_timestamp: NO_TIMESTAMP, max_timestamp: NO_TIMESTAMP }
    }
}

impl Copying {
    /// From `next` on, where the producers' state is this one.
    pub fn begin(producers: ProducerStateMap, next: Offset, synced_end: Offset) -> Copying {
        Copying { producers, next, synced_end }
    }

    /// The offset behind all that was taken.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Takes the next run, whose bytes these are, and adds to `copied` what of it no segment holds. Where records between
    /// the last run and this one were deleted meanwhile, `producers_at` tells the log's own state behind them: they never
    /// come by here.
    pub fn take(
        &mut self,
        run: &Run,
        bytes: &[u8],
        copied: &mut Copied,
        producers_at: impl FnOnce(Offset) -> ProducerStateMap,
    ) {
        if run.base_offset > self.next {
            self.producers = producers_at(run.base_offset);
        }
        for (header, range) in Batches::new(bytes, Crc::Skip).flatten() {
            let marker = bytes.get(range).and_then(|batch| EndMarker::of(&header, batch));
            self.producers.apply(&header, marker.as_ref(), header.max_timestamp);
        }
        self.next = run.next_offset();
        if run.base_offset >= self.synced_end {
            if copied.first.is_none() {
                (copied.first, copied.first_timestamp) = (Some(run.base_offset), run.max_timestamp);
            }
            copied.max_timestamp = run.max_timestamp.max(copied.max_timestamp);
            copied.bytes.extend_from_slice(bytes);
        }
    }

    /// Everything taken is synced: the producers' state at the end, and that end.
    pub fn finish(self) -> (ProducerStateMap, Offset) {
        (self.producers.reaching(self.next), self.next)
    }
}
