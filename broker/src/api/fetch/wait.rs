//! Waiting for enough records.

use std::sync::Arc;
use std::time::Instant;

use chronik_core::metadata::MetadataImage;
use tokio::sync::Notify;

use super::read::{Pass, Source};
use crate::api::Broker;
use crate::api::partitions::PartitionReader;

/// A waiter is woken when its partition moves or is closed; it looks at the metadata this often besides.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// Adds a waiter to its partitions, and takes it away when dropped.
struct Waiting {
    notify: Arc<Notify>,
    partitions: Vec<Arc<dyn PartitionReader>>,
}

impl Waiting {
    fn at(pass: &Pass) -> Waiting {
        let notify = Arc::new(Notify::new());
        let partitions: Vec<_> =
            pass.results.iter().filter_map(|r| Some(r.source.as_ref()?.log.clone())).collect();
        partitions.iter().for_each(|p| p.listeners().add(notify.clone()));
        Waiting { notify, partitions }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.partitions.iter().for_each(|p| p.listeners().remove(&self.notify));
    }
}

/// Returns when so many bytes are there, when a transaction has ended that others had to wait for, when the metadata has changed, or at the deadline.
pub async fn for_more(
    broker: &Broker,
    image: &Arc<MetadataImage>,
    pass: &Pass,
    min_bytes: usize,
    deadline: Instant,
) {
    let waiting = Waiting::at(pass);
    loop {
        // Looked at after the waiter was added, so that no advance is missed.
        let sources = pass.results.iter().filter_map(|r| r.source.as_ref());
        let (mut fresh, mut freed) = (0u64, false);
        for Source { log, committed_bytes, held_up_at } in sources {
            let offsets = log.offsets();
            match held_up_at {
                // How many bytes a transaction holds up, reading will tell.
                Some(at) => freed |= offsets.last_stable > *at,
                None => {
                    fresh = fresh.saturating_add(offsets.committed_bytes.saturating_sub(*committed_bytes))
                }
            }
        }
        let there = (pass.bytes as u64).saturating_add(fresh);
        let now = Instant::now();
        if freed
            || there >= min_bytes as u64
            || now >= deadline
            || !Arc::ptr_eq(&broker.metadata.image(), image)
        {
            return;
        }
        let until = deadline.min(now + LOOK_EVERY);
        let _ = tokio::time::timeout_at(until.into(), waiting.notify.notified()).await;
    }
}
