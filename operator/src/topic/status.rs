//! What a decision comes to in the object's status. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::{Reason, Seen, Verdict, was_creating};
use super::facts::topic_name;
use crate::crd::topic::ChronikTopicStatus;
use crate::crd::{ChronikTopic, conditions};

/// The status of an object after a look at its topic. What was not looked at stays as it was.
pub fn status(
    object: &ChronikTopic,
    verdict: &Verdict,
    seen: Option<&Seen>,
    now: &Time,
) -> ChronikTopicStatus {
    let generation = object.metadata.generation;
    let mut status = object.status.clone().unwrap_or_default();
    if let Some(seen) = seen {
        status.topic_id = seen.id.clone();
        status.partitions = seen.partitions;
        status.wal_profile = seen.wal_profile.clone();
        status.drift = seen.drift.clone();
    } else if status.observed_generation != generation {
        // Drift is from what an earlier generation said.
        status.drift.clear();
    }
    status.observed_generation = generation;
    status.topic_name = Some(topic_name(object));

    let (ready, reason) = (verdict.is_ready(), verdict.reason.name());
    let old = status.conditions.iter().find(|c| c.type_ == "Synced");
    let judged = old.is_some_and(|c| c.observed_generation == generation);
    conditions::set(&mut status.conditions, now, generation, "Ready", ready, reason, &verdict.message);
    if verdict.reason.is_blind() && was_creating(object) {
        // Still not known what became of it: to be remembered until somebody can look.
        let reason = Reason::Creating.name();
        conditions::set(&mut status.conditions, now, generation, "Synced", false, reason, &verdict.message);
    } else if !(verdict.reason.is_blind() && judged) {
        conditions::set(&mut status.conditions, now, generation, "Synced", ready, reason, &verdict.message);
    }
    status
}

/// The reason that the Ready condition of a status has.
pub fn ready_reason(status: Option<&ChronikTopicStatus>) -> Option<&str> {
    let ready = status?.conditions.iter().find(|c| c.type_ == "Ready")?;
    Some(&ready.reason)
}
