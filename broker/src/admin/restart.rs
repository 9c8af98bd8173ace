//! `GET /v1/brokers/{id}/pre-restart` and `/post-restart`: what core decides, as JSON.

use chronik_core::controller::{AffectedList, PostRestart, PreRestart, post_restart, pre_restart};
use chronik_core::ids::BrokerId;
use serde::Serialize;

use crate::api::Broker;

/// May this broker stop now?
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreRestartAnswer {
    pub broker_id: i32,
    /// Nothing is blocking: neither a partition nor a reason of the broker as a whole.
    pub safe: bool,
    /// Partitions that would suffer, and that waiting could spare; the first hundred.
    pub blocking: Vec<AffectedPartition>,
    /// Partitions that suffer whenever it is done; the first hundred.
    pub unavoidable: Vec<AffectedPartition>,
    pub reasons: Vec<String>,
    pub blocking_count: usize,
    pub unavoidable_count: usize,
}

#[derive(Debug, Serialize)]
pub struct AffectedPartition {
    pub topic: String,
    pub partition: i32,
    pub reason: String,
}

/// Is this broker back where it was?
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PostRestartAnswer {
    pub broker_id: i32,
    pub caught_up: bool,
    /// Of its replicas, how many are in sync.
    pub percent: f64,
    pub waiting_for: Vec<String>,
}

fn list(affected: AffectedList) -> Vec<AffectedPartition> {
    let one = |a: chronik_core::controller::Affected| AffectedPartition {
        topic: a.topic.to_string(),
        partition: a.partition,
        reason: a.reason,
    };
    affected.partitions.into_iter().map(one).collect()
}

impl PreRestartAnswer {
    /// `unready` is what the asked broker itself still waits for: a broker that is not ready yet, or not any
    /// more, is in the middle of something. `None` if `id` is not registered.
    pub fn of(broker: &Broker, id: BrokerId, unready: Vec<String>) -> Option<PreRestartAnswer> {
        let mut decided = pre_restart(&broker.metadata.image(), &broker.metadata.quorum(), id)?;
        if id == broker.config.broker_id {
            decided.reasons.extend(unready);
        }
        let safe = decided.is_safe();
        let PreRestart { blocking, unavoidable, reasons } = decided;
        Some(PreRestartAnswer {
            broker_id: id.0,
            safe,
            blocking_count: blocking.count,
            unavoidable_count: unavoidable.count,
            blocking: list(blocking),
            unavoidable: list(unavoidable),
            reasons,
        })
    }
}

impl PostRestartAnswer {
    /// As [`PreRestartAnswer::of`].
    pub fn of(broker: &Broker, id: BrokerId, unready: Vec<String>) -> Option<PostRestartAnswer> {
        let mut decided = post_restart(&broker.metadata.image(), id)?;
        if id == broker.config.broker_id {
            decided.waiting_for.extend(unready);
        }
        let percent = decided.percent();
        let PostRestart { waiting_for, .. } = decided;
        Some(PostRestartAnswer { broker_id: id.0, caught_up: waiting_for.is_empty(), percent, waiting_for })
    }
}
