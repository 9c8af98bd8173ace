//! One memory budget for the tails of all partitions, charged by allocation: a slice keeps its whole group
//! buffer, so what is evicted first is what was written first, whichever partition it belongs to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::partition::Partition;

#[derive(Default)]
pub struct TailCache {
    written: Mutex<VecDeque<(Weak<Partition>, usize)>>,
}

impl TailCache {
    /// A run of so many bytes is now at the end of the partition's tail.
    pub fn push(&self, partition: &Arc<Partition>, bytes: usize) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.push_back((Arc::downgrade(partition), bytes));
    }

    /// Evicts the oldest runs while `over_budget` says so.
    pub fn evict(&self, over_budget: impl Fn() -> bool) {
        while over_budget() {
            let oldest = self.written.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((partition, bytes)) = oldest else { return };
            if let Some(partition) = partition.upgrade() {
                partition.state().log.evict(bytes);
            }
        }
    }
}
