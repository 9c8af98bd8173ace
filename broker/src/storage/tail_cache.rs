//! One memory budget for the tails of all partitions, charged by allocation: a slice keeps its whole group
//! buffer, so what is evicted first is what was written first, whichever partition it belongs to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use chronik_core::ids::Offset;

use super::partition::Partition;

/// A run that was put at the end of a tail.
struct Written {
    partition: Weak<Partition>,
    last_offset: Offset,
    bytes: usize,
}

#[derive(Default)]
struct List {
    /// Oldest first.
    runs: VecDeque<Written>,
    /// Of all of them together.
    bytes: usize,
}

#[derive(Default)]
pub struct TailCache {
    list: Mutex<List>,
}

impl TailCache {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run of so many bytes, up to this offset, is now at the end of the partition's tail.
    pub fn push(&self, partition: &Arc<Partition>, last_offset: Offset, bytes: usize) {
        let mut list = self.list();
        list.runs.push_back(Written { partition: Arc::downgrade(partition), last_offset, bytes });
        list.bytes += bytes;
    }

    /// Evicts the oldest runs while more than `bytes_max` are `cached`. Nor does the list tell of more than that: runs that
    /// were deleted are in it still, and would be for ever where nothing has to be evicted.
    pub fn evict(&self, bytes_max: usize, cached: impl Fn() -> usize) {
        loop {
            let oldest = {
                let mut list = self.list();
                if cached() <= bytes_max && list.bytes <= bytes_max {
                    return;
                }
                let Some(oldest) = list.runs.pop_front() else { return };
                list.bytes -= oldest.bytes;
                oldest
            };
            let Some(partition) = oldest.partition.upgrade() else { continue };
            let mut state = partition.state();
            if state.log.tail().start() <= oldest.last_offset {
                state.log.evict(oldest.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chronik_client::{BatchBuilder, NewRecord};

    use super::super::partition::Acknowledge;
    use super::super::testing::Bed;

    fn batch(len: usize) -> Bytes {
        let mut builder = BatchBuilder::new();
        builder.push(NewRecord { timestamp: 0, key: None, value: Some(&vec![7; len]), headers: &[] });
        builder.build()
    }

    /// Records that are deleted soon after they were written took their bytes along, and left their entries for ever.
    #[test]
    fn deleted_runs_do_not_stay_in_the_list() {
        let mut bed = Bed::new();
        let partition = {
            let id = bed.create_topic("t");
            bed.partition(id).unwrap()
        };
        let batch = batch(3000);
        for _ in 0..200 {
            let (_, accepted) = bed.append(&partition, &batch).unwrap();
            if let Acknowledge::When(told) = accepted.acknowledge {
                bed.wait(told);
            }
            // All but the newest.
            if let Ok(Some(told)) = partition.delete_before(partition.high_watermark() - 1) {
                bed.wait(told);
            }
        }
        let list = partition.disk.tails.list();
        let bytes = list.runs.iter().map(|run| run.bytes).sum::<usize>();
        assert_eq!(list.bytes, bytes);
        assert!(bytes <= partition.disk.tail_bytes_max(), "{bytes} bytes in {} runs", list.runs.len());
        assert!(partition.state().log.tail().memory_bytes() >= batch.len(), "the newest is in memory");
    }
}
