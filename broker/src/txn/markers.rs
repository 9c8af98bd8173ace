//! Markers: what was decided about a transaction is written into each of its partitions, however long that takes, and
//! then the coordinator is told.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chronik_core::ids::{BrokerId, TopicIdPartition};
use chronik_core::log::{AppendError, EndMarker};
use chronik_core::metadata::image::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use chronik_core::txn::{Call, Markers};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use super::Coordinator;
use crate::api::partitions::Logs;
use crate::group;
use crate::metrics::TxnMetrics;
use crate::quorum::MetadataStore;
use crate::storage::now_ms;
use crate::storage::partition::Refused;

/// When a partition that takes no marker now is tried again; longer each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub struct Writer {
    broker_id: BrokerId,
    metadata: Arc<MetadataStore>,
    logs: Arc<dyn Logs>,
    groups: Arc<group::Coordinator>,
    written: Counter,
    /// Which decision about a transactional id is being carried out. A coordinator that was loaded again gives its markers
    /// again: whoever is still at the earlier ones must not write them any more, since the producer may have a new
    /// transaction by then, in the same epoch.
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    last: u64,
    of: HashMap<StrBytes, u64>,
}

/// What became of one that was on its way.
enum Written {
    Durable,
    /// Somebody else has ended the transaction there.
    Refused,
    Later(String),
    /// The log has failed, and the broker is ending.
    Failed,
}

/// What became of one marker.
enum Placed {
    /// There is nothing to wait for.
    Done,
    When(Pin<Box<dyn Future<Output = Written> + Send>>),
    Later(String),
    /// The same decision is being carried out anew.
    Superseded,
}

impl Writer {
    pub fn new(
        broker_id: BrokerId,
        metadata: Arc<MetadataStore>,
        logs: Arc<dyn Logs>,
        groups: Arc<group::Coordinator>,
        metrics: &TxnMetrics,
    ) -> Writer {
        let written = metrics.markers.clone();
        Writer { broker_id, metadata, logs, groups, written, current: Mutex::default() }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out what steps of the coordinator's gave, with the partition of `__transaction_state` that each is of, in
    /// the order of steps. Ends with the coordinator.
    pub async fn carry_out(
        self: Arc<Self>,
        coordinator: Weak<Coordinator>,
        mut due: mpsc::UnboundedReceiver<(i32, Markers)>,
    ) {
        while let Some((partition, due)) = due.recv().await {
            let turn = self.begin(&due.transactional_id);
            // From here on nobody else can have it completed. Whoever carried it out before may have done so already.
            let standing = coordinator.upgrade().and_then(|coordinator| {
                coordinator.look_in(partition, |shard| shard.has_decided(&due.transactional_id, due.producer))
            });
            if standing != Some(true) {
                self.give_up(&due.transactional_id, turn);
                continue;
            }
            tokio::spawn(self.clone().end(coordinator.clone(), partition, due, turn));
        }
    }

    /// From now on nobody else carries out a decision about this id, nor says that it is carried out.
    fn begin(&self, id: &StrBytes) -> u64 {
        let mut current = self.current();
        current.last += 1;
        let turn = current.last;
        current.of.insert(id.clone(), turn);
        turn
    }

    fn give_up(&self, id: &StrBytes, turn: u64) {
        let mut current = self.current();
        if current.of.get(id) == Some(&turn) {
            current.of.remove(id);
        }
    }

    async fn end(self: Arc<Self>, coordinator: Weak<Coordinator>, partition: i32, due: Markers, turn: u64) {
        if !self.write(&coordinator, partition, &due, turn).await {
            return;
        }
        let Markers { transactional_id: id, producer, .. } = due;
        let Some(coordinator) = coordinator.upgrade() else { return };
        let call = Call::MarkersWritten { transactional_id: id.clone(), producer };
        let told = {
            let mut current = self.current();
            if current.of.get(&id) != Some(&turn) {
                return;
            }
            current.of.remove(&id);
            coordinator.call(&id, call)
        };
        // A coordinator that is being loaded gives these markers again.
        let _ = told.await;
    }

    /// Whether all of them are durable.
    async fn write(&self, coordinator: &Weak<Coordinator>, partition: i32, due: &Markers, turn: u64) -> bool {
        let mut left: Vec<&(TopicName, i32)> = due.partitions.iter().collect();
        let mut pause = FIRST_PAUSE;
        loop {
            let mut on_their_way = Vec::new();
            let mut refused = Vec::new();
            for at in left {
                match self.place(partition, due, at, turn) {
                    Placed::Done => {}
                    Placed::When(told) => on_their_way.push((at, told)),
                    Placed::Later(why) => refused.push((at, why)),
                    Placed::Superseded => return false,
                }
            }
            for (at, told) in on_their_way {
                match told.await {
                    Written::Durable => _ = self.written.inc(),
                    Written::Refused => {}
                    Written::Later(why) => refused.push((at, why)),
                    Written::Failed => return false,
                }
            }
            let Some(((topic, index), why)) = refused.first() else { return true };
            if pause >= LONGEST_PAUSE {
                let id = due.transactional_id.as_str();
                tracing::warn!(transactional_id = id, "no marker in {}-{index} yet: {why}", topic.as_str());
            }
            left = refused.into_iter().map(|(at, _)| at).collect();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            if coordinator.strong_count() == 0 {
                return false;
            }
        }
    }

    fn place(&self, of: i32, due: &Markers, (topic, index): &(TopicName, i32), turn: u64) -> Placed {
        let image = self.metadata.image();
        let led = |name: &str, index: i32| {
            let topic = image.topic(name)?;
            topic.partition(index).filter(|p| p.leader == self.broker_id).map(|p| (topic.id, p.leader_epoch))
        };
        let Some((_, coordinator_epoch)) = led(TRANSACTIONS_TOPIC, of) else {
            // Whoever coordinates it now has read the decision.
            return Placed::Superseded;
        };
        if image.topic(topic).is_none_or(|topic| topic.partition(*index).is_none()) {
            // It was deleted.
            return Placed::Done;
        }
        let Some((topic_id, _)) = led(topic, *index) else {
            return Placed::Later("another broker leads it".to_string());
        };
        let marker = EndMarker {
            producer_id: due.producer.id,
            producer_epoch: due.producer.epoch,
            coordinator_epoch: coordinator_epoch.0,
            commit: due.commit,
        };
        // Until the marker has its place.
        let current = self.current();
        if current.of.get(&due.transactional_id) != Some(&turn) {
            return Placed::Superseded;
        }
        if **topic == *OFFSETS_TOPIC {
            let told = self.groups.write_marker(*index, marker);
            return Placed::When(Box::pin(async move {
                match told.await {
                    Ok(()) => Written::Durable,
                    Err(
                        ResponseError::InvalidProducerEpoch | ResponseError::TransactionCoordinatorFenced,
                    ) => Written::Refused,
                    Err(e) => Written::Later(e.to_string()),
                }
            }));
        }
        let Some(journal) = self.logs.journal(TopicIdPartition { topic_id, partition: *index }) else {
            return Placed::Later("it is not open here".to_string());
        };
        match journal.append_marker(marker, now_ms()) {
            Ok(told) => Placed::When(Box::pin(async move {
                if told.await.is_ok() { Written::Durable } else { Written::Failed }
            })),
            Err(Refused::Deleted) => Placed::Done,
            Err(Refused::Log(AppendError::Producer(e))) => {
                // A newer producer, or a newer coordinator, has ended it.
                tracing::warn!(transactional_id = due.transactional_id.as_str(), "a marker is refused: {e}");
                Placed::Done
            }
            Err(e) => Placed::Later(e.to_string()),
        }
    }
}
