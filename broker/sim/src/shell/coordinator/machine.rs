//! The two kinds of coordinators as one, as the shell's `Machine` makes them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use chronik_core::group::{self, GroupConfig, GroupRecord, Ticket};
use chronik_core::ids::{ProducerEpoch, ProducerId, Uuid};
use chronik_core::log::EndMarker;
use chronik_core::metadata::MetadataImage;
use chronik_core::record_batch::{BatchBuilder, Verified};
use chronik_core::txn::{self, Markers, Producer, TxnConfig};

use crate::bugs::Bugs;
use crate::history::Commit;
use crate::roster::CURRENT;
use crate::topics::Kind;

/// `group.consumer.session.timeout.ms`
pub const CONSUMER_SESSION_MS: i32 = 5000;
/// `group.consumer.assignment.interval.ms`
pub const ASSIGNMENT_INTERVAL_MS: i32 = 300;

pub enum Machine {
    Groups(group::Shard),
    Transactions(txn::Shard),
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "those that wait are boxed")]
pub enum Call {
    Group(group::Call),
    Txn(txn::Call),
}

#[derive(Clone, Debug)]
pub enum Answer {
    Group(group::Answer),
    Txn(txn::Answer),
}

/// What a call, a tick or a load leads to.
#[derive(Default)]
pub(super) struct Step {
    pub records: Vec<GroupRecord>,
    /// Whose transaction the records belong to.
    pub producer: Option<Producer>,
    pub marker: Option<EndMarker>,
    pub answers: Vec<(Ticket, Answer)>,
    pub decisions: Vec<Markers>,
}

impl From<group::Step> for Step {
    fn from(step: group::Step) -> Step {
        let answers = step.answers.into_iter().map(|(ticket, answer)| (ticket, Answer::Group(answer)));
        Step {
            records: step.records,
            producer: step.producer.map(|(id, epoch)| Producer { id, epoch }),
            marker: step.marker,
            answers: answers.collect(),
            decisions: Vec::new(),
        }
    }
}

impl From<txn::Step> for Step {
    fn from(step: txn::Step) -> Step {
        let answers = step.answers.into_iter().map(|(ticket, answer)| (ticket, Answer::Txn(answer)));
        Step { records: step.records, answers: answers.collect(), decisions: step.markers, ..Step::default() }
    }
}

impl Machine {
    /// Times are the records' (see [`crate::env::Env::now_ms`]): a life of the broker is some ten seconds long.
    pub fn new(kind: Kind, max_batch_bytes: usize) -> Machine {
        match kind {
            Kind::Clients | Kind::Groups => Machine::Groups(group::Shard::new(GroupConfig {
                min_session_timeout_ms: 100,
                initial_rebalance_delay_ms: 400,
                consumer_session_timeout_ms: CONSUMER_SESSION_MS,
                consumer_assignment_interval_ms: ASSIGNMENT_INTERVAL_MS,
                max_batch_bytes,
                ..GroupConfig::default()
            })),
            Kind::Transactions => Machine::Transactions(txn::Shard::new(TxnConfig {
                abort_timed_out_interval_ms: 1000,
                max_batch_bytes,
                ..TxnConfig::default()
            })),
        }
    }

    /// What topics there are. Groups alone want to know.
    pub fn metadata(&mut self, now_ms: i64, image: Arc<MetadataImage>) {
        if let Machine::Groups(shard) = self {
            shard.metadata(now_ms, image);
        }
    }

    /// # Errors
    /// Why nobody understands this record.
    pub fn replay(
        &mut self,
        producer: Option<ProducerId>,
        key: &[u8],
        value: Option<&[u8]>,
        bugs: &Bugs,
    ) -> Result<(), String> {
        match self {
            // The version of the key tells what it is of.
            Machine::Groups(_) if bugs.generations_forgotten && key.starts_with(&[0, 2]) => Ok(()),
            Machine::Groups(_) if bugs.places_forgotten && key.starts_with(&CURRENT) => Ok(()),
            Machine::Groups(shard) => {
                let producer = producer.filter(|_| !bugs.offsets_before_marker);
                shard.replay(producer, key, value).map_err(|e| e.to_string())
            }
            Machine::Transactions(shard) => shard.replay(key, value).map_err(|e| e.to_string()),
        }
    }

    pub fn replay_end(&mut self, marker: EndMarker) {
        if let Machine::Groups(shard) = self {
            shard.replay_end(marker.producer_id, marker.commit);
        }
    }

    pub(super) fn loaded(&mut self, now_ms: i64) -> Step {
        match self {
            Machine::Groups(shard) => shard.loaded(now_ms).into(),
            Machine::Transactions(shard) => shard.loaded(now_ms).into(),
        }
    }

    /// A call of the other kind does nothing.
    pub(super) fn handle(&mut self, now_ms: i64, ticket: Ticket, call: Call, random: u128) -> Step {
        match (self, call) {
            (Machine::Groups(shard), Call::Group(call)) => {
                shard.handle(now_ms, ticket, call, Uuid::from_u128(random)).into()
            }
            (Machine::Transactions(shard), Call::Txn(call)) => shard.handle(now_ms, ticket, call).into(),
            _ => Step::default(),
        }
    }

    pub(super) fn tick(&mut self, now_ms: i64) -> Step {
        match self {
            Machine::Groups(shard) => shard.tick(now_ms).into(),
            Machine::Transactions(shard) => shard.tick(now_ms).into(),
        }
    }

    pub fn next_tick_ms(&self) -> Option<i64> {
        match self {
            Machine::Groups(shard) => shard.next_tick_ms(),
            Machine::Transactions(shard) => shard.next_tick_ms(),
        }
    }

    pub fn has_decided(&self, due: &Markers) -> bool {
        match self {
            Machine::Groups(_) => false,
            Machine::Transactions(shard) => shard.has_decided(&due.transactional_id, due.producer),
        }
    }
}

impl Call {
    /// A batch like the one that it would write for a producer, and what is known of that one's transaction.
    pub(super) fn transactional(&self) -> Option<(Bytes, Verified)> {
        match self {
            Call::Group(group::Call::TxnOffsetCommit(request, verified)) => {
                let epoch = ProducerEpoch(request.producer_epoch);
                let batch = BatchBuilder::new().producer(ProducerId(request.producer_id.0), epoch, -1);
                Some((batch.transactional().record(0, Some(b""), None).build().into(), *verified))
            }
            Call::Group(group::Call::Marker(marker)) => Some((marker.batch(0).into(), Verified::Own)),
            _ => None,
        }
    }

    /// The offsets that it commits, if they are accepted.
    pub(super) fn commits(&self) -> Vec<Commit> {
        let one = |group: &kafka_protocol::messages::GroupId, partition, offset| Commit {
            group: group.0.clone(),
            partition,
            offset,
        };
        match self {
            Call::Group(group::Call::OffsetCommit(request, _)) => {
                let partitions = request.topics.iter().flat_map(|topic| &topic.partitions);
                let commits =
                    partitions.map(|p| one(&request.group_id, p.partition_index, p.committed_offset));
                commits.collect()
            }
            Call::Group(group::Call::TxnOffsetCommit(request, _)) => {
                let partitions = request.topics.iter().flat_map(|topic| &topic.partitions);
                let commits =
                    partitions.map(|p| one(&request.group_id, p.partition_index, p.committed_offset));
                commits.collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Producers that have a transaction in this log.
pub(super) fn ongoing(log: &chronik_core::log::PartitionLog) -> BTreeSet<ProducerId> {
    let active = log.producers().active().filter(|producer| producer.transaction_start.is_some());
    active.map(|producer| producer.id).collect()
}
