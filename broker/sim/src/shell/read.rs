//! Reads, wherever the bytes are: memory, WAL, segments.

use bytes::Bytes;
use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::log::{ReadPlan, ReadRequest, WalSpan, trim_run};

use super::Broker;
use super::segments::segment_name;
use crate::disk::wal_name;
use crate::env::{Env, Halt};
use crate::invariants::Violation;

impl Broker {
    /// What answers a fetch, as bytes of whole batches; empty when there is nothing to read.
    pub fn read(
        &self,
        env: &mut Env,
        tp: TopicIdPartition,
        request: &ReadRequest,
    ) -> Result<Vec<Bytes>, Halt> {
        let Some(partition) = self.partitions.get(&tp) else { return Ok(Vec::new()) };
        let plan = partition
            .log
            .read(request)
            .map_err(|e| Violation::new("invariant_1_acknowledged_records_are_readable", e.to_string()))?;
        let ReadRequest { from, max_bytes, at_least_one, .. } = *request;
        Ok(match plan {
            ReadPlan::Empty => Vec::new(),
            ReadPlan::Memory(slices) => {
                env.stats.fact("reads from memory");
                slices
            }
            ReadPlan::Wal { span, up_to } => {
                env.stats.fact("reads from the WAL");
                vec![trim_run(&self.read_wal(env, span)?, from, max_bytes, at_least_one, up_to)]
            }
            ReadPlan::Segment { from, up_to } => {
                env.stats.fact("reads from segments");
                let bytes = self.read_segment(env, tp, from)?;
                vec![trim_run(&bytes, from, max_bytes, at_least_one, up_to)]
            }
        })
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

    fn read_segment(&self, env: &Env, tp: TopicIdPartition, from: Offset) -> Result<Bytes, Halt> {
        let lost = |why: String| Violation::new("invariant_11_segments_hold_what_was_recycled", why);
        let segments = self.partitions.get(&tp).map_or(&[][..], |p| &p.segments);
        let segment = segments.iter().find(|s| s.base_offset <= from && from < s.end_offset);
        let segment = segment.ok_or_else(|| lost(format!("{tp}: no segment holds offset {from}")))?;
        let name = segment_name(tp, segment);
        let inode = env.disk.inode(&name).ok_or_else(|| lost(format!("{name} is missing")))?;
        let bytes =
            env.disk.read(inode, 0, segment.bytes as usize).map_err(|_| lost(format!("{name}: EIO")))?;
        Ok(Bytes::copy_from_slice(bytes))
    }
}
