//! The shell around a coordinator's state machines: one per partition of the coordinator's own internal topic that this
//! broker leads.
//!
//! Core decides (a [`Machine`], one per partition); this module loads them, carries out their steps and keeps their time.
//! A call changes its machine at once and its records are appended at once; its answer leaves when they are durable, and
//! not before those of the calls before it.

mod clock;
mod load;
mod machine;
mod slot;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use chronik_core::controller::create_internal_topic;
use chronik_core::ids::{BrokerId, ProducerEpoch, ProducerId, TopicId, TopicIdPartition, Uuid};
use chronik_core::metadata::{Changes, MetadataImage, TopicImage};
use chronik_core::record_batch::Verified;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Semaphore, oneshot};

use crate::api::partitions::Logs;
use crate::metrics::Histogram;
use crate::quorum::MetadataStore;
use clock::{Clock, Timer};
pub use machine::{Machine, Origin, Outcome, Record, Transactional};
use slot::Slot;

/// What a machine answers, or why it cannot.
pub type Answered<A> = Result<A, ResponseError>;

/// Partitions that are loaded at once: their reads share the disk, and each holds a chunk in memory.
const LOADS_AT_ONCE: usize = 2;
/// How long the creation of the topic may hold up those who need it; they ask again.
const CREATE_WITHIN: Duration = Duration::from_secs(5);

/// What a coordinator is made of.
pub struct Setup<M: Machine> {
    pub broker_id: BrokerId,
    pub metadata: Arc<MetadataStore>,
    pub logs: Arc<dyn Logs>,
    pub config: M::Config,
    pub metrics: LoadMetrics,
    /// Is handed the effects of a step, with the number of its partition, once the step is durable. In the order of steps;
    /// must not wait.
    pub effects: Arc<dyn Fn(i32, M::Effect) + Send + Sync>,
}

/// What a load is measured by.
#[derive(Clone, Debug)]
pub struct LoadMetrics {
    /// The time to load one partition, in microseconds.
    pub load: Histogram,
    /// Batches and records that a load could not read, each time they were met.
    pub unreadable: Counter,
}

impl Default for LoadMetrics {
    fn default() -> LoadMetrics {
        LoadMetrics { load: Histogram::micros(), unreadable: Counter::default() }
    }
}

/// See the module's documentation.
pub struct Coordinator<M: Machine> {
    parts: Parts<M>,
    /// By partition.
    shards: ArcSwap<BTreeMap<i32, Arc<Slot<M>>>>,
    /// No shard is opened any more.
    stopping: AtomicBool,
}

/// What all shards share.
struct Parts<M: Machine> {
    setup: Arc<Setup<M>>,
    clock: Clock,
    timer: Arc<Timer>,
    loads: Arc<Semaphore>,
}

impl<M: Machine> Clone for Parts<M> {
    fn clone(&self) -> Self {
        let Parts { setup, clock, timer, loads } = self;
        Parts { setup: setup.clone(), clock: *clock, timer: timer.clone(), loads: loads.clone() }
    }
}

impl<M: Machine> Coordinator<M> {
    /// Begins to load what this broker leads, and follows the metadata from now on.
    pub fn start(setup: Setup<M>) -> Arc<Coordinator<M>> {
        let loads = Arc::new(Semaphore::new(LOADS_AT_ONCE));
        let parts = Parts { setup: Arc::new(setup), clock: Clock::start(), timer: Arc::default(), loads };
        let coordinator =
            Arc::new(Coordinator { parts, shards: ArcSwap::default(), stopping: AtomicBool::new(false) });
        let weak = Arc::downgrade(&coordinator);
        let image = coordinator.metadata().subscribe(Box::new(move |image, changes| {
            if let Some(coordinator) = weak.upgrade() {
                coordinator.apply(image, changes);
            }
        }));
        coordinator.apply(&image, &Changes::default());
        let Parts { timer, clock, .. } = coordinator.parts.clone();
        tokio::spawn(keep_time(Arc::downgrade(&coordinator), timer, clock));
        coordinator
    }

    fn metadata(&self) -> &Arc<MetadataStore> {
        &self.parts.setup.metadata
    }

    /// Hands a request to the shard that its key belongs to. The answer may be a long time in coming.
    pub fn call(&self, key: &str, call: M::Call) -> oneshot::Receiver<Answered<M::Answer>> {
        match self.partition_of(key) {
            Some(partition) => self.call_partition(partition, call),
            None => refused(ResponseError::NotCoordinator),
        }
    }

    /// The same, by the number of the partition.
    pub fn call_partition(&self, partition: i32, call: M::Call) -> oneshot::Receiver<Answered<M::Answer>> {
        match self.shards.load().get(&partition) {
            Some(shard) => shard.call(call),
            None => refused(ResponseError::NotCoordinator),
        }
    }

    /// Asks every shard that is here.
    pub fn call_all(&self, call: &M::Call) -> Vec<oneshot::Receiver<Answered<M::Answer>>>
    where
        M::Call: Clone,
    {
        self.shards.load().values().map(|shard| shard.call(call.clone())).collect()
    }

    /// The partition that a key belongs to, where there is the topic.
    pub fn partition_of(&self, key: &str) -> Option<i32> {
        partition_in(self.metadata().image().topic(M::TOPIC)?, key)
    }

    /// What a transaction's coordinator is to be asked before a call may write a producer's records for this key, if anything.
    pub fn verification(&self, key: &str, id: ProducerId, epoch: ProducerEpoch) -> Option<Verified> {
        self.shards.load().get(&self.partition_of(key)?)?.verification(id, epoch)
    }

    /// Looks at every machine that is loaded.
    pub fn look<T>(&self, look: impl Fn(&M) -> T) -> Vec<T> {
        self.shards.load().values().filter_map(|shard| shard.look(&look)).collect()
    }

    /// Looks at the one of a partition, if it is loaded.
    pub fn look_in<T>(&self, partition: i32, look: impl Fn(&M) -> T) -> Option<T> {
        self.shards.load().get(&partition)?.look(look)
    }

    /// Creates the coordinator's topic, unless it is there. The error says that it is not, or not yet.
    ///
    /// # Errors
    /// The client is to ask again.
    pub async fn ensure_topic(&self) -> Result<Arc<TopicImage>, ResponseError> {
        if let Some(topic) = self.metadata().image().topic(M::TOPIC) {
            return Ok(topic.clone());
        }
        // A creation that was begun goes on when nobody waits for it any more.
        let metadata = self.metadata().clone();
        let create = tokio::spawn(async move {
            let mut fresh = || TopicId(Uuid::new_v4());
            metadata.change(|image| Ok(create_internal_topic(image, M::TOPIC, &mut fresh))).await
        });
        match tokio::time::timeout(CREATE_WITHIN, create).await {
            Ok(Ok(Ok(Ok(())))) => {}
            Ok(Ok(Ok(Err(e)) | Err(e))) => tracing::error!("{} cannot be created: {e}", M::TOPIC),
            Ok(Err(e)) => tracing::error!("{} cannot be created: {e}", M::TOPIC),
            Err(_) => tracing::warn!("{} is still being created", M::TOPIC),
        }
        let image = self.metadata().image();
        image.topic(M::TOPIC).cloned().ok_or(ResponseError::CoordinatorNotAvailable)
    }

    /// Follows a change of the metadata. Called on its apply path, in order.
    fn apply(&self, image: &MetadataImage, changes: &Changes) {
        if self.stopping.load(Ordering::SeqCst) {
            return;
        }
        let gone: Vec<TopicName> = changes.topics_deleted.iter().map(|topic| name_of(&topic.name)).collect();
        let current = self.shards.load_full();
        if !gone.is_empty() {
            current.values().for_each(|shard| shard.topics_deleted(&gone));
        }
        if !changes.is_empty() {
            current.values().for_each(|shard| shard.metadata_changed());
        }
        let wanted = self.led(image);
        let same =
            |shard: &Slot<M>, id: &TopicIdPartition, epoch: i32| shard.id == *id && shard.epoch == epoch;
        let mut next = BTreeMap::new();
        let mut opened = Vec::new();
        for (id, epoch) in &wanted {
            let known = current.get(&id.partition).filter(|shard| same(shard, id, *epoch));
            let shard = match known {
                Some(shard) => shard.clone(),
                None => match Slot::new(*id, *epoch, self.parts.clone()) {
                    Some(shard) => {
                        opened.push(shard.clone());
                        shard
                    }
                    None => continue,
                },
            };
            next.insert(id.partition, shard);
        }
        let closed: Vec<Arc<Slot<M>>> = current
            .iter()
            .filter(|(partition, shard)| next.get(partition).is_none_or(|kept| !Arc::ptr_eq(kept, shard)))
            .map(|(_, shard)| shard.clone())
            .collect();
        if opened.is_empty() && closed.is_empty() {
            return;
        }
        self.shards.store(Arc::new(next));
        closed.iter().for_each(|shard| shard.close());
        opened.into_iter().for_each(Slot::open);
    }

    /// The partitions of the topic that this broker leads, with their leader epochs.
    fn led(&self, image: &MetadataImage) -> Vec<(TopicIdPartition, i32)> {
        let Some(topic) = image.topic(M::TOPIC) else { return Vec::new() };
        let led = (0..).zip(&topic.partitions).filter(|(_, p)| p.leader == self.parts.setup.broker_id);
        led.map(|(partition, p)| (TopicIdPartition { topic_id: topic.id, partition }, p.leader_epoch.0))
            .collect()
    }

    /// Answers everybody who waits: their next request goes to whoever coordinates then. What is on its way to the disk
    /// is still answered.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let shards = self.shards.swap(Arc::default());
        shards.values().for_each(|shard| shard.close());
    }
}

/// Waits for a shard's answer, and takes what it must be.
///
/// # Errors
/// Kafka's error, where the shard has none to answer with.
pub async fn answer<A, T>(
    told: oneshot::Receiver<Answered<A>>,
    take: impl FnOnce(A) -> Option<T>,
) -> Result<T, ResponseError> {
    // A shard that went away without a word is nobody's coordinator.
    let answer = told.await.unwrap_or(Err(ResponseError::NotCoordinator))?;
    take(answer).ok_or(ResponseError::UnknownServerError)
}

/// The same of several shards, together.
///
/// # Errors
/// The first of theirs. One that is somebody else's by now has no part in the answer.
pub async fn gather<A, T>(
    told: Vec<oneshot::Receiver<Answered<A>>>,
    take: impl Fn(A) -> Option<Vec<T>>,
) -> Result<Vec<T>, ResponseError> {
    let mut all = Vec::new();
    for told in told {
        match answer(told, &take).await {
            Ok(more) => all.extend(more),
            Err(ResponseError::NotCoordinator) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// The partition of a coordinator's topic that a group or a transactional id belongs to: Java's `String.hashCode`, as in
/// Kafka.
pub fn partition_in(topic: &TopicImage, key: &str) -> Option<i32> {
    partition_of(key, topic.partitions.len())
}

fn partition_of(key: &str, partitions: usize) -> Option<i32> {
    let partitions = i32::try_from(partitions).ok()?;
    let hash = key.encode_utf16().fold(0i32, |h, unit| h.wrapping_mul(31).wrapping_add(i32::from(unit)));
    (hash & i32::MAX).checked_rem(partitions)
}

fn name_of(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_string()))
}

fn refused<A>(error: ResponseError) -> oneshot::Receiver<Answered<A>> {
    let (tell, told) = oneshot::channel();
    // The receiver is right here.
    let _ = tell.send(Err(error));
    told
}

/// Lets each shard do what its clock says. Ends with the coordinator.
async fn keep_time<M: Machine>(coordinator: Weak<Coordinator<M>>, timer: Arc<Timer>, clock: Clock) {
    loop {
        timer.look();
        let next = {
            let Some(coordinator) = coordinator.upgrade() else { return };
            let shards = coordinator.shards.load_full();
            shards.values().filter_map(|shard| shard.tick()).min()
        };
        timer.wait_until(&clock, next).await;
    }
}

impl<M: Machine> Drop for Coordinator<M> {
    fn drop(&mut self) {
        self.parts.timer.wake();
    }
}

#[test]
fn keys_go_to_the_partitions_of_javas_hash() {
    for (id, partition) in [("", 0), ("group", 47), ("Straße-ä", 11), ("\u{1f600}", 49)] {
        assert_eq!(partition_of(id, 50), Some(partition), "{id}");
    }
    assert_eq!(partition_of("group", 0), None);
}
