//! Reads, wherever the bytes are: memory, WAL, segments.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::log::{EndMarker, PartitionLog, ReadPlan, ReadRequest, ReadUpTo, WalSpan, trim_run};
use chronik_core::record_batch::{BatchHeader, Batches, Crc};

use super::Broker;
use crate::disk::wal_name;
use crate::env::{Env, Halt};
use crate::invariants::{self, Violation};
use crate::stats::Deed;

impl Broker {
    /// What answers a fetch, as bytes of whole batches; empty when there is nothing to read.
    pub fn read(
        &self,
        env: &mut Env,
        tp: TopicIdPartition,
        request: &ReadRequest,
    ) -> Result<Vec<Bytes>, Halt> {
        let Some(partition) = self.partitions.get(&tp) else { return Ok(Vec::new()) };
        let mut request = *request;
        loop {
            let plan = partition.log.read(&request).map_err(|e| {
                Violation::new("invariant_1_acknowledged_records_are_readable", e.to_string())
            })?;
            let ReadRequest { from, max_bytes, at_least_one, .. } = request;
            let slice = match plan {
                ReadPlan::Empty => return Ok(Vec::new()),
                ReadPlan::Memory(slices) => {
                    env.stats.deed(Deed::ReadFromMemory);
                    return Ok(slices);
                }
                ReadPlan::Wal { span, up_to } => {
                    env.stats.deed(Deed::ReadFromWal);
                    trim_run(&self.read_wal(env, span)?, from, max_bytes, at_least_one, up_to)
                }
                ReadPlan::Segment { from, up_to } => {
                    env.stats.deed(Deed::ReadFromSegments);
                    // Compaction may have left nothing up to the end of a segment, or of all.
                    let segment = partition.segments.at(from).cloned();
                    let end = segment.as_ref().map_or(up_to, |s| s.end_offset.min(up_to));
                    let bytes = match &segment {
                        Some(segment) => partition.segments.bytes_of(env, segment)?,
                        None => Bytes::new(),
                    };
                    if trim_run(&bytes, from, 0, true, up_to).is_empty()
                        && end > from
                        && end < partition.log.high_watermark()
                    {
                        env.stats.deed(Deed::ReadOverAGap);
                        request.from = end;
                        continue;
                    }
                    trim_run(&bytes, from, max_bytes, at_least_one, up_to)
                }
            };
            return Ok(vec![slice]);
        }
    }

    /// How far a reader of what is decided may see.
    pub fn last_stable_offset(&self, log: &PartitionLog) -> Offset {
        match self.settings.bugs.lso_ignores_ongoing {
            true => log.high_watermark(),
            false => log.last_stable_offset(),
        }
    }

    /// The batches of transactions that a consumer with `isolation.level=read_committed` hands on, from `from` up to
    /// `last_stable`, by their base offsets. It leaves out what it is told was aborted, as Kafka's does.
    pub fn read_decided(
        &self,
        env: &mut Env,
        tp: TopicIdPartition,
        from: Offset,
        last_stable: Offset,
    ) -> Result<BTreeSet<Offset>, Halt> {
        let mut decided = BTreeSet::new();
        let Some(partition) = self.partitions.get(&tp) else { return Ok(decided) };
        let mut at = from;
        let up_to = match self.settings.bugs.lso_ignores_ongoing {
            true => ReadUpTo::HighWatermark,
            false => ReadUpTo::LastStableOffset,
        };
        while at < last_stable {
            let max_bytes = env.rng.between(1, 1 << 17) as usize;
            let read = self.read(env, tp, &ReadRequest { from: at, max_bytes, at_least_one: true, up_to })?;
            let next = read.iter().flat_map(headers).map(|(header, _)| header.next_offset()).max();
            let Some(next) = next.filter(|next| *next > at) else {
                return Err(invariants::nothing_there(tp, at, last_stable).into());
            };
            let mut to_come: VecDeque<_> = partition.log.aborted_between(at, next).into();
            to_come.make_contiguous().sort_by_key(|aborted| aborted.first_offset);
            let mut aborted = BTreeSet::new();
            for (header, marker) in read.iter().flat_map(headers) {
                while let Some(begun) = to_come.pop_front_if(|a| a.first_offset <= header.last_offset()) {
                    aborted.insert(begun.producer_id);
                }
                if marker.is_some_and(|marker| !marker.commit) {
                    aborted.remove(&header.producer_id);
                } else if header.is_transactional()
                    && !header.is_control()
                    && !aborted.contains(&header.producer_id)
                {
                    decided.insert(header.base_offset);
                }
            }
            at = next;
        }
        Ok(decided)
    }

    /// What is not in segments must be in the WAL.
    pub(super) fn read_wal(&self, env: &Env, span: WalSpan) -> Result<Bytes, Halt> {
        let lost = |why: &str| {
            let what = format!("the WAL's position {}: {why}", span.position);
            Violation::new("invariant_11_the_wal_keeps_what_segments_lack", what)
        };
        let (slot, at) = self.pool.locate(span.position).ok_or_else(|| lost("recycled"))?;
        let inode = env.disk.inode(&wal_name(slot)).ok_or_else(|| lost("no file"))?;
        let bytes = env.disk.read(inode, at as usize, span.len as usize).map_err(|_| lost("unreadable"))?;
        Ok(Bytes::copy_from_slice(bytes))
    }
}

/// The batches of a piece, and what those that are markers say.
fn headers(piece: &Bytes) -> impl Iterator<Item = (BatchHeader, Option<EndMarker>)> {
    let batches = Batches::new(piece, Crc::Skip).flatten();
    batches.map(|(header, range)| (header, EndMarker::of(&header, &piece[range])))
}
