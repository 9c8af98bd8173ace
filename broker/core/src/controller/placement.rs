//! Which brokers get the replicas of a new partition.

use std::collections::BTreeSet;

use super::{ControllerError, ErrorCode};
use crate::ids::BrokerId;
use crate::metadata::MetadataImage;

/// Most partitions that one request may create, as in Kafka.
pub const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;

fn bad_factor(why: String) -> ControllerError {
    ControllerError::new(ErrorCode::InvalidReplicationFactor, why)
}

/// Brokers that may be given replicas, ordered so that neighbours are in different racks where possible.
fn candidates(image: &MetadataImage) -> Vec<(BrokerId, Option<&str>)> {
    let usable = image.brokers().values().filter(|b| !b.fenced);
    let mut racks: std::collections::BTreeMap<Option<&str>, Vec<BrokerId>> = Default::default();
    for broker in usable {
        racks.entry(broker.rack.as_deref()).or_default().push(broker.broker_id);
    }
    let longest = racks.values().map(Vec::len).max().unwrap_or(0);
    let at = |n: usize| racks.iter().filter_map(move |(rack, ids)| Some((*ids.get(n)?, *rack)));
    (0..longest).flat_map(at).collect()
}

/// The replicas of `count` new partitions, the preferred leader first: leaders go round the brokers, and a
/// partition's replicas lie in as many racks as there are. `first` is the number of the first of them, and
/// `spread` a random number, so that not every topic begins at the same broker.
pub fn place(
    image: &MetadataImage,
    first: usize,
    count: usize,
    factor: i16,
    spread: u128,
) -> Result<Vec<Vec<BrokerId>>, ControllerError> {
    let brokers = candidates(image);
    let unreachable = |why: &str| {
        bad_factor(format!(
            "Unable to replicate the partition {factor} time(s): The target replication factor of {factor} cannot be reached because {why}."
        ))
    };
    let wanted = usize::try_from(factor).map_err(|_| unreachable("it is negative"))?;
    if brokers.is_empty() {
        return Err(bad_factor(format!(
            "Unable to replicate the partition {factor} time(s): All brokers are currently fenced."
        )));
    }
    if wanted > brokers.len() {
        return Err(unreachable(&format!("only {} broker(s) are registered and unfenced", brokers.len())));
    }
    let n = brokers.len();
    let start = usize::try_from(spread % n as u128).unwrap_or(0);
    let rack_count = brokers.iter().map(|(_, rack)| rack).collect::<BTreeSet<_>>().len();
    let place_one = |number: usize| {
        let lead = (start + number) % n;
        // Each time the leaders have gone round, the followers move on by one, so that the same leader does
        // not always have the same followers.
        let shift = number / n;
        let (leader, leader_rack) = brokers[lead];
        let mut replicas = vec![leader];
        let mut racks = BTreeSet::from([leader_rack]);
        let followers: Vec<(BrokerId, Option<&str>)> =
            (0..n - 1).map(|i| brokers[(lead + 1 + (i + shift) % (n - 1)) % n]).collect();
        for other_racks_first in [true, false] {
            for (broker, rack) in &followers {
                let fresh = !racks.contains(rack) || racks.len() == rack_count;
                if replicas.len() < wanted && !replicas.contains(broker) && (fresh || !other_racks_first) {
                    replicas.push(*broker);
                    racks.insert(*rack);
                }
            }
        }
        replicas
    };
    Ok((first..first + count).map(place_one).collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::cluster;
    use super::*;

    #[test]
    fn leaders_go_round_and_replicas_are_distinct() {
        let image = cluster(&[(1, Some("a")), (2, Some("a")), (3, Some("b")), (4, Some("b"))]);
        for spread in [0, 1, 77] {
            let placed = place(&image, 0, 16, 2, spread).unwrap();
            for id in 1..=4 {
                assert_eq!(placed.iter().filter(|r| r[0] == BrokerId(id)).count(), 4);
            }
            for replicas in &placed {
                let racks: BTreeSet<_> =
                    replicas.iter().map(|id| image.broker(*id).unwrap().rack.clone()).collect();
                assert_eq!((replicas.len(), racks.len()), (2, 2), "{placed:?}");
            }
            let all = place(&image, 0, 8, 4, spread).unwrap();
            assert!(all.iter().all(|r| r.iter().collect::<BTreeSet<_>>().len() == 4));
        }
    }

    #[test]
    fn more_replicas_than_brokers_is_refused() {
        let image = cluster(&[(1, None)]);
        let e = place(&image, 0, 1, 3, 0).unwrap_err();
        assert_eq!(e.code, ErrorCode::InvalidReplicationFactor);
        assert!(e.message.contains("only 1 broker(s)"), "{e}");
    }
}
