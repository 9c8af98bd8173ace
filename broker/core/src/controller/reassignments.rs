//! Partitions are to move to other brokers (AlterPartitionReassignments).
//!
//! While a partition has one replica, and nothing is copied to another broker, the only assignment that can be
//! asked for is the present one. So there is never a reassignment under way, and requests are judged only.

use std::collections::BTreeSet;

use super::{ControllerError, ErrorCode};
use crate::ids::BrokerId;
use crate::metadata::MetadataImage;

fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, ControllerError> {
    Err(ControllerError::new(code, message))
}

/// Judges the assignment that a partition is to have; `None` cancels the reassignment under way.
pub fn check_reassignment(
    image: &MetadataImage,
    topic: &str,
    number: i32,
    target: Option<&[BrokerId]>,
    factor_may_change: bool,
) -> Result<(), ControllerError> {
    let Some(found) = image.topic(topic) else {
        let message = format!("Unable to find a topic named {topic}.");
        return refuse(ErrorCode::UnknownTopicOrPartition, message);
    };
    let Some(partition) = found.partition(number) else {
        let message = format!("Unable to find partition {topic}:{number}.");
        return refuse(ErrorCode::UnknownTopicOrPartition, message);
    };
    let Some(target) = target else {
        return refuse(ErrorCode::NoReassignmentInProgress, "No partition reassignment is in progress.");
    };
    check_assignment(image, target)?;
    let (now, then) = (partition.replicas.len(), target.len());
    if !factor_may_change && now != then {
        let message = format!("The replication factor is changed from {now} to {then}");
        return refuse(ErrorCode::InvalidReplicationFactor, message);
    }
    if target != partition.replicas {
        let message = format!("{topic}-{number} cannot be moved: nothing is copied between brokers yet.");
        return refuse(ErrorCode::InvalidReplicaAssignment, message);
    }
    Ok(())
}

/// Brokers that are there, none of them twice.
fn check_assignment(image: &MetadataImage, target: &[BrokerId]) -> Result<(), ControllerError> {
    let bad = |why: String| {
        let message = format!("The manual partition assignment includes {why}");
        refuse(ErrorCode::InvalidReplicaAssignment, message)
    };
    if target.is_empty() {
        return bad("an empty replica list.".to_string());
    }
    // In the order of the ids, as Kafka judges them.
    let mut sorted = target.to_vec();
    sorted.sort_unstable();
    let mut seen = BTreeSet::new();
    for id in sorted {
        if image.broker(id).is_none() {
            return bad(format!("broker {id}, but no such broker is registered."));
        }
        if !seen.insert(id) {
            return bad(format!("the broker {id} more than once."));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cluster, topic, with_topics};
    use super::*;

    #[test]
    fn only_the_present_assignment_can_be_asked_for() {
        let image = with_topics(&cluster(&[(1, None), (2, None)]), &[topic("t", 1)]);
        let here = image.topic("t").unwrap().partitions[0].replicas.clone();
        let elsewhere = BrokerId(3 - here[0].0);
        use ErrorCode::*;
        type Case<'a> = (&'a str, i32, Option<&'a [BrokerId]>, bool, ErrorCode, &'a str);
        let cases: [Case<'_>; 9] = [
            ("u", 0, Some(&here), true, UnknownTopicOrPartition, "topic named u"),
            ("t", 1, Some(&here), true, UnknownTopicOrPartition, "partition t:1"),
            ("t", -1, None, true, UnknownTopicOrPartition, "partition t:-1"),
            ("t", 0, None, true, NoReassignmentInProgress, "in progress"),
            ("t", 0, Some(&[]), true, InvalidReplicaAssignment, "an empty replica list"),
            ("t", 0, Some(&[BrokerId(9)]), true, InvalidReplicaAssignment, "no such broker is registered"),
            ("t", 0, Some(&[here[0], here[0]]), true, InvalidReplicaAssignment, "more than once"),
            ("t", 0, Some(&[here[0], elsewhere]), false, InvalidReplicationFactor, "from 1 to 2"),
            ("t", 0, Some(&[elsewhere]), true, InvalidReplicaAssignment, "cannot be moved"),
        ];
        for (name, number, target, factor_may_change, code, words) in cases {
            let e = check_reassignment(&image, name, number, target, factor_may_change).unwrap_err();
            assert!(e.code == code && e.message.contains(words), "{e:?}, expected {code:?} {words}");
        }
        assert_eq!(check_reassignment(&image, "t", 0, Some(&here), false), Ok(()));
    }
}
