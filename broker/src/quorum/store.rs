//! [`MetadataStore`]: what the rest of the broker knows of the quorum.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use chronik_core::controller::{ControllerError, ErrorCode, ProducerIdBlock, allocate_producer_ids};
use chronik_core::ids::{BrokerId, ProducerId};
use chronik_core::metadata::{Changes, LocalConfig, MetadataDelta, MetadataImage, MetadataRecord};

/// Called in order, once per applied batch, with the image after it and what changed; before the change is
/// answered.
pub type Publisher = Box<dyn Fn(&Arc<MetadataImage>, &Changes) + Send + Sync>;

/// The replicated metadata: read without a lock, changed one batch at a time.
pub struct MetadataStore {
    image: ArcSwap<MetadataImage>,
    publishers: Mutex<Vec<Publisher>>,
    change: tokio::sync::Mutex<()>,
    block: tokio::sync::Mutex<ProducerIdBlock>,
}

impl MetadataStore {
    /// A store without log or files, for tests of what uses it.
    pub fn in_memory(local: Arc<LocalConfig>, cluster_id: &str) -> Arc<MetadataStore> {
        let _ = cluster_id;
        Arc::new(MetadataStore {
            image: ArcSwap::from_pointee(MetadataImage::empty(local)),
            publishers: Mutex::default(),
            change: tokio::sync::Mutex::default(),
            block: tokio::sync::Mutex::new(ProducerIdBlock { first: ProducerId(0), count: 0 }),
        })
    }

    /// The metadata as it is now. No lock, no wait.
    pub fn image(&self) -> Arc<MetadataImage> {
        self.image.load_full()
    }

    /// Has `publisher` called for every change from now on; returns the image that the first of them will
    /// build on.
    pub fn subscribe(&self, publisher: Publisher) -> Arc<MetadataImage> {
        let mut publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        publishers.push(publisher);
        self.image()
    }

    /// Lets the controller decide on the newest image, and writes what it decided. Returns when the records
    /// are durable and applied and every publisher has been called. One change at a time; a decision
    /// without records writes nothing.
    pub async fn change<T>(
        &self,
        decide: impl FnOnce(&MetadataImage) -> Result<(Vec<MetadataRecord>, T), ControllerError>,
    ) -> Result<T, ControllerError> {
        let _one_at_a_time = self.change.lock().await;
        let (records, outcome) = decide(&self.image())?;
        let publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        let base = self.image();
        let mut delta = MetadataDelta::new(&base);
        for record in &records {
            delta
                .replay(record)
                .map_err(|e| ControllerError::new(ErrorCode::UnknownServerError, e.to_string()))?;
        }
        let (next, changes) = delta.finish(base.offset() + 1);
        let next = Arc::new(next);
        self.image.store(next.clone());
        for publisher in publishers.iter() {
            publisher(&next, &changes);
        }
        Ok(outcome)
    }

    /// A producer id that no other producer has or had (KIP-98), from this broker's block.
    pub async fn allocate_producer_id(&self) -> Result<ProducerId, ControllerError> {
        let mut block = self.block.lock().await;
        if block.count == 0 {
            *block = self
                .change(|image| {
                    let id = image.local().broker_id;
                    let epoch = image.broker(id).map(|b| b.broker_epoch).unwrap_or_default();
                    allocate_producer_ids(image, id, epoch)
                })
                .await?;
        }
        let id = block.first;
        block.first = ProducerId(id.0 + 1);
        block.count -= 1;
        Ok(id)
    }

    /// Index of the last metadata record applied here.
    pub fn applied_offset(&self) -> u64 {
        self.image.load().offset()
    }

    /// The active controller, if one is known.
    pub fn leader(&self) -> Option<BrokerId> {
        Some(self.image.load().local().broker_id)
    }

    /// Stops taking part. Nothing can be changed afterwards.
    pub async fn shutdown(&self) {}
}
