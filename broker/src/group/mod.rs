//! The group coordinator: consumer groups, served from the partitions of `__consumer_offsets` that this broker leads.
//!
//! Core decides ([`chronik_core::group::Shard`]); [`crate::coordinator`] does the rest.

#[cfg(test)]
mod storage_test;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use chronik_core::group::{
    Answer, AssignorKind, Call, Caller, GroupConfig, MigrationPolicy, Shard, Step, Ticket,
};
use chronik_core::ids::{BrokerId, ProducerEpoch, ProducerId, Uuid};
use chronik_core::metadata::MetadataImage;
use chronik_core::metadata::config::table::broker_setting;
use chronik_core::metadata::config::{ConfigSource, broker_value_of, broker_values};
use chronik_core::metadata::image::OFFSETS_TOPIC;
use chronik_core::record_batch::EndMarker;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;

use crate::api::Request;
use crate::api::partitions::Logs;
use crate::coordinator::{self, Machine, Origin, Outcome, Record, Setup, Transactional};
use crate::metrics::GroupMetrics;
use crate::quorum::MetadataStore;

/// See the module's documentation.
pub type Coordinator = coordinator::Coordinator<Shard>;
/// What a shard answers, or why it cannot.
pub type Answered = coordinator::Answered<Answer>;

/// Begins to load what this broker leads.
pub fn start(
    broker_id: BrokerId,
    metadata: Arc<MetadataStore>,
    logs: Arc<dyn Logs>,
    metrics: &GroupMetrics,
) -> Arc<Coordinator> {
    let config = config_of(&metadata.image());
    let effects = Arc::new(|_: i32, effect: Infallible| match effect {});
    Coordinator::start(Setup { broker_id, metadata, logs, config, metrics: metrics.load.clone(), effects })
}

impl Machine for Shard {
    const TOPIC: &'static str = OFFSETS_TOPIC;
    const OF: &'static str = "consumer groups";

    type Config = GroupConfig;
    type Call = Call;
    type Answer = Answer;
    type Effect = Infallible;

    fn new(config: &GroupConfig, batch_bytes_max: usize) -> Shard {
        Shard::new(GroupConfig { max_batch_bytes: batch_bytes_max, ..config.clone() })
    }

    fn replay(&mut self, origin: Origin, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
        let producer = (origin != Origin::NONE).then_some(origin.producer_id);
        Shard::replay(self, producer, key, value).map_err(|e| e.to_string())
    }

    fn replay_end(&mut self, marker: EndMarker) {
        Shard::replay_end(self, marker.producer_id, marker.commit);
    }

    fn metadata(&mut self, now_ms: i64, image: Arc<MetadataImage>) -> Outcome<Shard> {
        outcome(Shard::metadata(self, now_ms, image))
    }

    fn loaded(&mut self, now_ms: i64) -> Outcome<Shard> {
        outcome(Shard::loaded(self, now_ms))
    }

    fn handle(&mut self, now_ms: i64, ticket: u64, call: Call) -> Outcome<Shard> {
        outcome(Shard::handle(self, now_ms, Ticket(ticket), call, Uuid::new_v4()))
    }

    fn transactional(call: &Call) -> Option<Transactional> {
        match call {
            Call::TxnOffsetCommit(request, verified) => {
                let origin = Origin {
                    producer_id: ProducerId(request.producer_id.0),
                    producer_epoch: ProducerEpoch(request.producer_epoch),
                };
                Some(Transactional::Records(origin, *verified))
            }
            Call::Marker(marker) => Some(Transactional::Marker(*marker)),
            _ => None,
        }
    }

    fn tick(&mut self, now_ms: i64) -> Outcome<Shard> {
        outcome(Shard::tick(self, now_ms))
    }

    fn next_tick_ms(&self) -> Option<i64> {
        Shard::next_tick_ms(self)
    }

    fn topics_deleted(topics: &[TopicName]) -> Option<Call> {
        Some(Call::TopicsDeleted(topics.to_vec()))
    }
}

fn outcome(step: Step) -> Outcome<Shard> {
    let records = step.records.into_iter().map(|r| Record { key: r.key, value: r.value });
    let answers = step.answers.into_iter().map(|(ticket, answer)| (ticket.0, answer));
    let origin = step
        .producer
        .map_or(Origin::NONE, |(producer_id, producer_epoch)| Origin { producer_id, producer_epoch });
    Outcome {
        records: records.collect(),
        origin,
        marker: step.marker,
        answers: answers.collect(),
        effects: Vec::new(),
    }
}

impl Coordinator {
    /// Ends a producer's transaction in a partition of groups, in the order of what happens to them: what it has committed
    /// there is committed, or forgotten. The marker is there when this is done.
    ///
    /// # Errors
    /// Kafka's error of WriteTxnMarkers for the partition.
    pub fn write_marker(
        &self,
        partition: i32,
        marker: EndMarker,
    ) -> impl Future<Output = Result<(), ResponseError>> + Send + use<> {
        let told = self.call_partition(partition, Call::Marker(marker));
        async move {
            let answered = coordinator::answer(told, |answer| matches!(answer, Answer::Marker).then_some(()));
            answered.await.map_err(|e| match e {
                ResponseError::NotCoordinator
                | ResponseError::CoordinatorNotAvailable
                | ResponseError::CoordinatorLoadInProgress => ResponseError::NotLeaderOrFollower,
                e => e,
            })
        }
    }
}

/// Who sends a request that makes somebody a member.
pub fn caller_of(request: &Request) -> Caller {
    Caller {
        client_id: request.head.client_id.as_deref().unwrap_or_default().to_string(),
        client_host: host_of(request.conn.peer.ip()),
    }
}

/// A client's address as Java writes it.
fn host_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => format!("/{v4}"),
        IpAddr::V6(v6) => {
            let parts: Vec<String> = v6.segments().iter().map(|part| format!("{part:x}")).collect();
            format!("/{}", parts.join(":"))
        }
    }
}

fn config_of(image: &MetadataImage) -> GroupConfig {
    // The table has checked them.
    let number = |name: &str| broker_value_of(image, name).parse::<i64>().unwrap_or_default();
    let int = |name: &str| i32::try_from(number(name)).unwrap_or(i32::MAX);
    let size = |name: &str| usize::try_from(number(name)).unwrap_or(usize::MAX);
    let assignors = broker_value_of(image, "group.consumer.assignors").split(',');
    let policy = MigrationPolicy::parse(broker_value_of(image, "group.consumer.migration.policy"));
    GroupConfig {
        min_session_timeout_ms: int("group.min.session.timeout.ms"),
        max_session_timeout_ms: int("group.max.session.timeout.ms"),
        initial_rebalance_delay_ms: int("group.initial.rebalance.delay.ms"),
        max_size: size("group.max.size"),
        consumer_session_timeout_ms: int("group.consumer.session.timeout.ms"),
        consumer_heartbeat_interval_ms: int("group.consumer.heartbeat.interval.ms"),
        consumer_assignment_interval_ms: fixed_int(image, "group.consumer.assignment.interval.ms"),
        consumer_max_size: size("group.consumer.max.size"),
        consumer_assignors: assignors.filter_map(AssignorKind::parse).collect(),
        consumer_migration_policy: policy.unwrap_or(MigrationPolicy::Bidirectional),
        consumer_regex_refresh_interval_ms: int("group.consumer.regex.refresh.interval.ms"),
        offset_metadata_max_bytes: size("offset.metadata.max.bytes"),
        offsets_retention_ms: number("offsets.retention.minutes").saturating_mul(60_000),
        offsets_retention_check_interval_ms: number("offsets.retention.check.interval.ms"),
        ..GroupConfig::default()
    }
}

/// A setting that is altered live, as it was when the broker started: core sees in the image what was altered.
fn fixed_int(image: &MetadataImage, name: &str) -> i32 {
    let fixed = [ConfigSource::StaticBroker, ConfigSource::Default];
    let mut values = broker_setting(name).into_iter().flat_map(|setting| broker_values(image, setting));
    let value = values.find(|(_, source)| fixed.contains(source));
    value.and_then(|(value, _)| value.parse().ok()).unwrap_or_default()
}
