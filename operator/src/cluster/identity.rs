//! Whose records the volumes hold. A cluster gets its id once, before its first broker starts; a new object of an old
//! name takes the id up again from the volumes that are still there.

use std::collections::BTreeSet;

use kube::ResourceExt;

use crate::crd::ChronikCluster;

use super::facts::Facts;
use super::names::{self, CLUSTER_ID, CLUSTER_LABEL, Names};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterId {
    Known(String),
    /// The volumes of an earlier object of this name say so.
    Adopted(String),
    /// There has never been a broker.
    New,
    /// There are volumes, and whose they are cannot be told: nothing may be created.
    Unknown(String),
    /// The volumes are on their way out with an earlier object of this name.
    Wait(String),
}

/// Pure. `New` leaves the making to [`new_id`].
pub fn cluster_id(cluster: &ChronikCluster, names: &Names, facts: &Facts) -> ClusterId {
    if let Some(id) = cluster.status.as_ref().and_then(|status| status.cluster_id.clone()) {
        return ClusterId::Known(id);
    }
    let mut ids = BTreeSet::new();
    for (broker, pool) in names::brokers(cluster) {
        for name in names.claims(pool, broker) {
            let Some(claim) = facts.claims.get(&name) else { continue };
            if claim.metadata.deletion_timestamp.is_some() {
                return ClusterId::Wait(format!("volume claim {name} is being deleted"));
            }
            if facts.is_foreign(&cluster.uid().unwrap_or_default(), claim) {
                return ClusterId::Wait(format!(
                    "volume claim {name} goes with an earlier cluster of this name"
                ));
            }
            if let Some(other) = claim.labels().get(CLUSTER_LABEL).filter(|other| **other != names.cluster) {
                return ClusterId::Unknown(format!("volume claim {name} is cluster {other}'s"));
            }
            match claim.annotations().get(CLUSTER_ID) {
                Some(id) => ids.insert(id.clone()),
                None => {
                    return ClusterId::Unknown(format!(
                        "volume claim {name} exists and does not say whose records it holds; delete it, or annotate \
                         it with {CLUSTER_ID}"
                    ));
                }
            };
        }
    }
    let mut ids = ids.into_iter();
    match (ids.next(), ids.next()) {
        (None, _) => ClusterId::New,
        (Some(id), None) => ClusterId::Adopted(id),
        (Some(one), Some(other)) => {
            ClusterId::Unknown(format!("the volume claims are of different clusters: {one} and {other}"))
        }
    }
}

/// A cluster id in Kafka's form: 16 bytes in 22 characters of URL-safe base64. One that begins with `-` would be taken
/// for a flag on command lines.
pub fn new_id(
    mut random: impl FnMut() -> Result<[u8; 16], getrandom::Error>,
) -> Result<String, getrandom::Error> {
    loop {
        let id = base64_url(&random()?);
        if !id.starts_with('-') {
            return Ok(id);
        }
    }
}

fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let padded = (0..3).fold(0u32, |n, i| n << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        for digit in 0..=chunk.len() {
            let index = padded >> (18 - 6 * digit) & 63;
            text.push(char::from(DIGITS.get(index as usize).copied().unwrap_or(b'A')));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::cluster::build::tests::small;
    use crate::crd::ChronikClusterStatus;

    fn with(claims: &[(&str, serde_json::Value)]) -> Facts {
        let claim =
            |metadata: &serde_json::Value| serde_json::from_value(json!({"metadata": metadata})).unwrap();
        Facts {
            claims: claims.iter().map(|(name, metadata)| (name.to_string(), claim(metadata))).collect(),
            ..Facts::default()
        }
    }

    fn found(facts: &Facts) -> ClusterId {
        let mut cluster = small();
        let volume = cluster.spec.pools[0].storage.volume.clone();
        cluster.spec.pools[0].storage.wal_volume = Some(volume);
        cluster_id(&cluster, &Names::of(&cluster, "cluster.local"), facts)
    }

    #[test]
    fn an_id_is_kept_taken_up_or_made() {
        let of = |id: &str| json!({"annotations": {"chronik.io/cluster-id": id}});
        assert_eq!(found(&with(&[])), ClusterId::New);
        let both = [("data-demo-main-0", of("a")), ("wal-demo-main-0", of("a"))];
        assert_eq!(found(&with(&both)), ClusterId::Adopted("a".into()));
        assert_eq!(found(&with(&[("data-other-main-0", of("b"))])), ClusterId::New);

        let mut cluster = small();
        let status = ChronikClusterStatus { cluster_id: Some("k".into()), ..Default::default() };
        cluster.status = Some(status);
        let names = Names::of(&cluster, "cluster.local");
        assert_eq!(cluster_id(&cluster, &names, &with(&both)), ClusterId::Known("k".into()));
    }

    #[test]
    fn volumes_that_do_not_say_whose_they_are_stop_everything() {
        let of = |id: &str| json!({"annotations": {"chronik.io/cluster-id": id}});
        let bare = with(&[("data-demo-main-0", json!({}))]);
        assert!(matches!(found(&bare), ClusterId::Unknown(why) if why.contains("data-demo-main-0")));
        let two = with(&[("data-demo-main-0", of("a")), ("wal-demo-main-0", of("b"))]);
        assert!(matches!(found(&two), ClusterId::Unknown(why) if why.contains("a and b")));
        let labelled =
            json!({"labels": {"chronik.io/cluster": "other"}, "annotations": {"chronik.io/cluster-id": "a"}});
        let anothers = with(&[("data-demo-main-0", labelled)]);
        assert!(matches!(found(&anothers), ClusterId::Unknown(why) if why.contains("cluster other")));
        let owner = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "demo-main", "uid": "s0"});
        let left = json!({"annotations": {"chronik.io/cluster-id": "a"}, "ownerReferences": [owner]});
        assert!(matches!(found(&with(&[("data-demo-main-0", left)])), ClusterId::Wait(_)));
        let ending = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert!(matches!(found(&with(&[("data-demo-main-0", ending)])), ClusterId::Wait(_)));
    }

    #[test]
    fn ids_have_kafkas_form() {
        assert_eq!(base64_url(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw");
        assert_eq!(base64_url(&[0xff; 16]), "_____________________w");
        // 0xf8 begins with `-`.
        let mut next = [[0xf8; 16], [0; 16]].into_iter();
        assert_eq!(new_id(|| Ok(next.next().unwrap())).unwrap(), "A".repeat(22));
        let ids: BTreeMap<String, ()> = (0..50)
            .map(|_| {
                let random = || {
                    let mut bytes = [0; 16];
                    getrandom::fill(&mut bytes).map(|()| bytes)
                };
                (new_id(random).unwrap(), ())
            })
            .collect();
        assert_eq!(ids.len(), 50);
        assert!(ids.keys().all(|id| id.len() == 22));
    }
}
