//! The group coordinator: consumer groups, served from the partitions of `__consumer_offsets` that this broker leads.
//!
//! Core decides ([`chronik_core::group::Shard`], one per partition); this module loads shards, carries out their steps
//! and keeps their time. A call changes its shard at once and its records are appended at once; its answer leaves when
//! they are durable, and not before those of the calls before it.

mod clock;
mod load;
mod shard;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use chronik_core::controller::create_internal_topic;
use chronik_core::group::{Answer, Call, GroupConfig};
use chronik_core::ids::{BrokerId, TopicId, TopicIdPartition, Uuid};
use chronik_core::metadata::config::broker_value_of;
use chronik_core::metadata::image::OFFSETS_TOPIC;
use chronik_core::metadata::{Changes, MetadataImage, TopicImage};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;
use tokio::sync::{Semaphore, oneshot};

use crate::api::partitions::Logs;
use crate::metrics::GroupMetrics;
use crate::quorum::MetadataStore;
use clock::{Clock, Timer};
use shard::Slot;

/// What a shard answers, or why it cannot.
pub type Answered = Result<Answer, ResponseError>;

/// Partitions that are loaded at once: their reads share the disk, and each holds a chunk in memory.
const LOADS_AT_ONCE: usize = 2;
/// How long the creation of the topic may hold up those who need it; they ask again.
const CREATE_WITHIN: Duration = Duration::from_secs(5);

/// See the module's documentation.
pub struct Coordinator {
    broker_id: BrokerId,
    logs: Arc<dyn Logs>,
    parts: Parts,
    /// By partition.
    shards: ArcSwap<BTreeMap<i32, Arc<Slot>>>,
    /// No shard is opened any more.
    stopping: AtomicBool,
}

/// What all shards share.
#[derive(Clone)]
struct Parts {
    config: GroupConfig,
    metadata: Arc<MetadataStore>,
    clock: Clock,
    timer: Arc<Timer>,
    loads: Arc<Semaphore>,
    metrics: GroupMetrics,
}

impl Coordinator {
    /// Begins to load what this broker leads, and follows the metadata from now on.
    pub fn start(
        broker_id: BrokerId,
        metadata: Arc<MetadataStore>,
        logs: Arc<dyn Logs>,
        metrics: GroupMetrics,
    ) -> Arc<Coordinator> {
        let config = config_of(&metadata.image());
        let loads = Arc::new(Semaphore::new(LOADS_AT_ONCE));
        let parts = Parts { config, metadata, clock: Clock::start(), timer: Arc::default(), loads, metrics };
        let coordinator = Arc::new(Coordinator {
            broker_id,
            logs,
            parts,
            shards: ArcSwap::default(),
            stopping: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&coordinator);
        let image = coordinator.parts.metadata.subscribe(Box::new(move |image, changes| {
            if let Some(coordinator) = weak.upgrade() {
                coordinator.apply(image, changes);
            }
        }));
        coordinator.apply(&image, &Changes::default());
        let Parts { timer, clock, .. } = coordinator.parts.clone();
        tokio::spawn(keep_time(Arc::downgrade(&coordinator), timer, clock));
        coordinator
    }

    /// Hands a group's request to its shard. The answer may be a long time in coming.
    pub fn call(&self, group_id: &str, call: Call) -> oneshot::Receiver<Answered> {
        match self.shard_of(group_id) {
            Some(shard) => shard.call(call),
            None => refused(ResponseError::NotCoordinator),
        }
    }

    /// Asks every shard that is here.
    pub fn call_all(&self, call: &Call) -> Vec<oneshot::Receiver<Answered>> {
        self.shards.load().values().map(|shard| shard.call(call.clone())).collect()
    }

    fn shard_of(&self, group_id: &str) -> Option<Arc<Slot>> {
        let image = self.parts.metadata.image();
        let partition = partition_of(group_id, image.topic(OFFSETS_TOPIC)?.partitions.len())?;
        self.shards.load().get(&partition).cloned()
    }

    /// Creates the topic of groups, unless it is there. The error says that it is not, or not yet.
    ///
    /// # Errors
    /// The client is to ask again.
    pub async fn ensure_topic(&self) -> Result<Arc<TopicImage>, ResponseError> {
        if let Some(topic) = self.parts.metadata.image().topic(OFFSETS_TOPIC) {
            return Ok(topic.clone());
        }
        // A creation that was begun goes on when nobody waits for it any more.
        let metadata = self.parts.metadata.clone();
        let create = tokio::spawn(async move {
            let mut fresh = || TopicId(Uuid::new_v4());
            metadata.change(|image| Ok(create_internal_topic(image, OFFSETS_TOPIC, &mut fresh))).await
        });
        match tokio::time::timeout(CREATE_WITHIN, create).await {
            Ok(Ok(Ok(Ok(())))) => {}
            Ok(Ok(Ok(Err(e)) | Err(e))) => tracing::error!("{OFFSETS_TOPIC} cannot be created: {e}"),
            Ok(Err(e)) => tracing::error!("{OFFSETS_TOPIC} cannot be created: {e}"),
            Err(_) => tracing::warn!("{OFFSETS_TOPIC} is still being created"),
        }
        let image = self.parts.metadata.image();
        image.topic(OFFSETS_TOPIC).cloned().ok_or(ResponseError::CoordinatorNotAvailable)
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
        let wanted = self.led(image);
        let same = |shard: &Slot, id: &TopicIdPartition, epoch: i32| shard.id == *id && shard.epoch == epoch;
        let mut next = BTreeMap::new();
        let mut opened = Vec::new();
        for (id, epoch) in &wanted {
            let known = current.get(&id.partition).filter(|shard| same(shard, id, *epoch));
            let shard = match known {
                Some(shard) => shard.clone(),
                None => match Slot::new(*id, *epoch, &*self.logs, self.parts.clone()) {
                    Some(shard) => {
                        opened.push(shard.clone());
                        shard
                    }
                    None => continue,
                },
            };
            next.insert(id.partition, shard);
        }
        let closed: Vec<Arc<Slot>> = current
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
        let Some(topic) = image.topic(OFFSETS_TOPIC) else { return Vec::new() };
        let led = (0..).zip(&topic.partitions).filter(|(_, p)| p.leader == self.broker_id);
        led.map(|(partition, p)| (TopicIdPartition { topic_id: topic.id, partition }, p.leader_epoch.0))
            .collect()
    }

    /// Publishes what is counted nowhere, only looked at.
    pub fn observe(&self) {
        let counts: Vec<_> = self.shards.load().values().filter_map(|shard| shard.counts()).collect();
        self.parts.metrics.set(&counts);
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
pub async fn answer<T>(
    told: oneshot::Receiver<Answered>,
    take: impl FnOnce(Answer) -> Option<T>,
) -> Result<T, ResponseError> {
    // A shard that went away without a word is nobody's coordinator.
    let answer = told.await.unwrap_or(Err(ResponseError::NotCoordinator))?;
    take(answer).ok_or(ResponseError::UnknownServerError)
}

/// A client's address as Java writes it.
pub fn host_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => format!("/{v4}"),
        IpAddr::V6(v6) => {
            let parts: Vec<String> = v6.segments().iter().map(|part| format!("{part:x}")).collect();
            format!("/{}", parts.join(":"))
        }
    }
}

/// The partition of `__consumer_offsets` that a group belongs to: Java's `String.hashCode`, as in Kafka.
fn partition_of(group_id: &str, partitions: usize) -> Option<i32> {
    let partitions = i32::try_from(partitions).ok()?;
    let hash = group_id.encode_utf16().fold(0i32, |h, unit| h.wrapping_mul(31).wrapping_add(i32::from(unit)));
    (hash & i32::MAX).checked_rem(partitions)
}

/// The partition of a group, where there is the topic.
pub fn partition_in(topic: &TopicImage, group_id: &str) -> Option<i32> {
    partition_of(group_id, topic.partitions.len())
}

fn name_of(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_string()))
}

fn refused(error: ResponseError) -> oneshot::Receiver<Answered> {
    let (tell, told) = oneshot::channel();
    // The receiver is right here.
    let _ = tell.send(Err(error));
    told
}

fn config_of(image: &MetadataImage) -> GroupConfig {
    // The table has checked them.
    let number = |name: &str| broker_value_of(image, name).parse::<i64>().unwrap_or_default();
    let int = |name: &str| i32::try_from(number(name)).unwrap_or(i32::MAX);
    let size = |name: &str| usize::try_from(number(name)).unwrap_or(usize::MAX);
    GroupConfig {
        min_session_timeout_ms: int("group.min.session.timeout.ms"),
        max_session_timeout_ms: int("group.max.session.timeout.ms"),
        initial_rebalance_delay_ms: int("group.initial.rebalance.delay.ms"),
        max_size: size("group.max.size"),
        offset_metadata_max_bytes: size("offset.metadata.max.bytes"),
        offsets_retention_ms: number("offsets.retention.minutes").saturating_mul(60_000),
        offsets_retention_check_interval_ms: number("offsets.retention.check.interval.ms"),
        ..GroupConfig::default()
    }
}

/// Lets each shard do what its clock says. Ends with the coordinator.
async fn keep_time(coordinator: Weak<Coordinator>, timer: Arc<Timer>, clock: Clock) {
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

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.parts.timer.wake();
    }
}
