//! What is written down.

use super::*;
use crate::topic::decide::{Seen, Verdict};
use crate::topic::status::ready_reason;

fn condition(status: &ChronikTopicStatus, kind: &str) -> (String, String, i64) {
    let found = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
    (found.status.clone(), found.reason.clone(), found.last_transition_time.0.as_second())
}

fn seen() -> Seen {
    Seen { id: Some("t-1".into()), partitions: Some(3), wal_profile: Some("low".into()), drift: Vec::new() }
}

#[test]
fn a_look_is_written_down_whole() {
    let synced = Verdict::new(Reason::Synced, "as declared");
    let written = status(&object(|_| ()), &synced, Some(&seen()), &time(5));
    assert_eq!(written.observed_generation, Some(1));
    assert_eq!(written.topic_name.as_deref(), Some("orders"));
    assert_eq!(written.topic_id.as_deref(), Some("t-1"));
    assert_eq!((written.partitions, written.wal_profile.as_deref()), (Some(3), Some("low")));
    assert_eq!(condition(&written, "Ready"), ("True".into(), "Synced".into(), 5));
    assert_eq!(condition(&written, "Synced"), ("True".into(), "Synced".into(), 5));
    assert_eq!(ready_reason(Some(&written)), Some("Synced"));
}

#[test]
fn the_same_look_again_changes_nothing() {
    let mut object = object(|_| ());
    let synced = Verdict::new(Reason::Synced, "as declared");
    let first = status(&object, &synced, Some(&seen()), &time(5));
    object.status = Some(first.clone());
    assert_eq!(status(&object, &synced, Some(&seen()), &time(900)), first);
}

#[test]
fn what_nobody_could_look_at_stays() {
    let mut object = managing(object(|_| ()), "t-1");
    object.status.as_mut().unwrap().partitions = Some(3);
    object.status.as_mut().unwrap().drift = vec!["x".into()];
    let unreachable = Verdict::new(Reason::BrokerUnreachable, "no answer");
    let written = status(&object, &unreachable, None, &time(2_000));
    assert_eq!(written.topic_id.as_deref(), Some("t-1"));
    assert_eq!((written.partitions, written.drift.len()), (Some(3), 1));
    assert_eq!(condition(&written, "Ready"), ("False".into(), "BrokerUnreachable".into(), 2_000));
    assert_eq!(condition(&written, "Synced"), ("True".into(), "Synced".into(), 1_001));

    // A changed object was not synced yet.
    object.metadata.generation = Some(2);
    let written = status(&object, &unreachable, None, &time(2_000));
    assert_eq!(condition(&written, "Synced"), ("False".into(), "BrokerUnreachable".into(), 2_000));
    assert_eq!((written.observed_generation, written.drift.len()), (Some(2), 0));
}
