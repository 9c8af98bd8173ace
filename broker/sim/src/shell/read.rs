//! Reads, wherever the bytes are: memory, WAL, segments.

use bytes::Bytes;
use chronik_core::ids::TopicIdPartition;
use chronik_core::log::{ReadPlan, ReadRequest, WalSpan, trim_run};

use super::Broker;
use crate::disk::wal_name;
use crate::env::{Env, Halt};
use crate::invariants::Violation;
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
