//! Brokers come and go: which disks belong to which broker, and what that does to partitions.
//!
//! A broker registers once its logs are recovered, and may lead from then on. Its registration ends its
//! earlier incarnation: where others are in sync it leaves the ISR, and follows until it has caught up; where
//! it is the only one, it leads with a new leader epoch. A fenced broker is in no ISR (invariant 8): where it
//! was the last one, it stays eligible (KIP-966) and the partition is without a leader until it is back.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{ControllerError, ErrorCode};
use crate::ids::{BrokerEpoch, BrokerId, DiskUuid, LeaderEpoch, PartitionEpoch, Uuid};
use crate::metadata::image::{NO_LEADER, PartitionImage};
use crate::metadata::{BrokerRegistration, Listener, MetadataImage, MetadataRecord, TopicImage};

/// A broker that has started, has recovered its logs, and wants to take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub cluster_id: String,
    pub broker_id: BrokerId,
    /// Random per start of the process.
    pub incarnation: Uuid,
    pub disk_uuid: DiskUuid,
    /// Equals `disk_uuid` when the WAL lies on the data volume.
    pub wal_disk_uuid: DiskUuid,
    pub listeners: Vec<Listener>,
    pub rack: Option<String>,
}

/// Checks that the broker is registered with this very epoch.
pub(super) fn check_epoch(
    image: &MetadataImage,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<(), ControllerError> {
    match image.broker(broker_id) {
        None => Err(ControllerError::new(
            ErrorCode::BrokerIdNotRegistered,
            format!("Broker ID {broker_id} is not registered"),
        )),
        Some(b) if b.broker_epoch != broker_epoch => Err(ControllerError::new(
            ErrorCode::StaleBrokerEpoch,
            format!(
                "Expected broker epoch {broker_epoch} of broker {broker_id}, but it is {}",
                b.broker_epoch
            ),
        )),
        Some(_) => Ok(()),
    }
}

/// Lets a broker into the cluster, with a fresh broker epoch. Each partition it leads gets a new leader
/// epoch, so that nothing of the incarnation before can be mistaken for this one's.
pub fn register_broker(
    image: &MetadataImage,
    request: &Registration,
) -> Result<(Vec<MetadataRecord>, BrokerEpoch), ControllerError> {
    let refuse = |message: String| ControllerError::new(ErrorCode::DuplicateBrokerRegistration, message);
    if image.cluster_id() != request.cluster_id {
        return Err(ControllerError::new(
            ErrorCode::InconsistentClusterId,
            format!("Expected cluster ID {}, but got cluster ID {}", image.cluster_id(), request.cluster_id),
        ));
    }
    let id = request.broker_id;
    let disks = [request.disk_uuid, request.wal_disk_uuid];
    if let Some(disk) = disks.into_iter().find(|d| image.is_retired(*d)) {
        return Err(refuse(format!("disk {disk} was replaced or retired and may not come back")));
    }
    for other in image.brokers().values().filter(|b| b.broker_id != id) {
        if let Some(disk) = disks.into_iter().find(|d| [other.disk_uuid, other.wal_disk_uuid].contains(d)) {
            return Err(refuse(format!("disk {disk} belongs to broker {}, not to {id}", other.broker_id)));
        }
    }

    let before = image.broker(id);
    let mut records = Vec::new();
    // A log on another disk is as lost as the data: what it held was not in segments yet.
    let disk_lost = before.is_some_and(|b| [b.disk_uuid, b.wal_disk_uuid] != disks);
    if let Some(b) = before.filter(|_| disk_lost) {
        let only_here = |p: &PartitionImage| {
            let elsewhere = p.isr.iter().chain(&p.elr).any(|replica| *replica != id);
            p.replicas.contains(&id) && !elsewhere
        };
        let count = image.topics().flat_map(|t| &t.partitions).filter(|p| only_here(p)).count();
        if count > 0 {
            return Err(refuse(format!(
                "broker {id} came without its disks {} (data) and {} (WAL), which hold the only copy of {count} partitions",
                b.disk_uuid, b.wal_disk_uuid
            )));
        }
        let gone: BTreeSet<DiskUuid> =
            [b.disk_uuid, b.wal_disk_uuid].into_iter().filter(|d| !disks.contains(d)).collect();
        records.extend(gone.into_iter().map(|disk_uuid| MetadataRecord::RetireDisk { disk_uuid }));
    }

    let next = i64::try_from(image.offset()).unwrap_or(i64::MAX).saturating_add(1);
    let broker_epoch = BrokerEpoch(next.max(before.map_or(0, |b| b.broker_epoch.0.saturating_add(1))));
    records.push(MetadataRecord::RegisterBroker {
        broker_id: id,
        broker_epoch,
        incarnation: request.incarnation,
        disk_uuid: request.disk_uuid,
        wal_disk_uuid: request.wal_disk_uuid,
        listeners: request.listeners.clone(),
        rack: request.rack.clone(),
    });
    records.push(MetadataRecord::UnfenceBroker { broker_id: id, broker_epoch });
    records.extend(partition_changes(image, |p| {
        let was_in = p.isr.contains(&id) || p.elr.contains(&id);
        let mut next = p.clone();
        next.isr.retain(|b| *b != id);
        next.elr.retain(|b| *b != id);
        if was_in && !disk_lost && next.isr.is_empty() {
            next.isr = vec![id];
        }
        let leads = p.leader == id || p.leader == NO_LEADER;
        if leads {
            next.leader = elect(image, &next, Some(id));
        }
        (next, p.leader == id)
    })?);
    Ok((records, broker_epoch))
}

/// A broker that runs is reached at other addresses, or stands in another rack, than it registered with. It
/// goes on as it is: no epoch changes, nothing is fenced, and no leader moves. No record if nothing differs.
pub fn change_registration(
    image: &MetadataImage,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
    listeners: &[Listener],
    rack: Option<&str>,
) -> Result<(Vec<MetadataRecord>, ()), ControllerError> {
    check_epoch(image, broker_id, broker_epoch)?;
    let same = |b: &Arc<BrokerRegistration>| b.listeners == listeners && b.rack.as_deref() == rack;
    if image.broker(broker_id).is_some_and(same) {
        return Ok((Vec::new(), ()));
    }
    let (listeners, rack) = (listeners.to_vec(), rack.map(str::to_string));
    let change = MetadataRecord::BrokerRegistrationChange { broker_id, broker_epoch, listeners, rack };
    Ok((vec![change], ()))
}

/// Whether a replica is in sync and may lead; `returning` is let in by the same batch of records.
pub(super) fn may_lead(
    image: &MetadataImage,
    p: &PartitionImage,
    id: BrokerId,
    returning: Option<BrokerId>,
) -> bool {
    let unfenced = image.broker(id).is_some_and(|b| !b.fenced);
    p.isr.contains(&id) && (unfenced || returning == Some(id))
}

/// The first replica that [`may_lead`].
pub(super) fn elect(image: &MetadataImage, p: &PartitionImage, returning: Option<BrokerId>) -> BrokerId {
    p.replicas.iter().copied().find(|id| may_lead(image, p, *id, returning)).unwrap_or(NO_LEADER)
}

/// The record that makes a partition what it is to be, in a new leader epoch if its leader changes or `new_term` says so. None if
/// nothing changes.
pub(super) fn partition_change(
    topic: &TopicImage,
    number: i32,
    p: &PartitionImage,
    next: PartitionImage,
    new_term: bool,
) -> Result<Option<MetadataRecord>, ControllerError> {
    let new_term = new_term || next.leader != p.leader;
    if next == *p && !new_term {
        return Ok(None);
    }
    let exhausted = || {
        let message = format!("{}-{number} has used up its epochs", topic.name);
        ControllerError::new(ErrorCode::UnknownServerError, message)
    };
    let leader_epoch = p.leader_epoch.0.checked_add(i32::from(new_term)).ok_or_else(exhausted)?;
    let partition_epoch = p.partition_epoch.0.checked_add(1).ok_or_else(exhausted)?;
    Ok(Some(MetadataRecord::PartitionChange {
        topic_id: topic.id,
        partition: number,
        replicas: None,
        isr: (next.isr != p.isr).then_some(next.isr),
        elr: (next.elr != p.elr).then_some(next.elr),
        leader: (next.leader != p.leader).then_some(next.leader),
        leader_epoch: LeaderEpoch(leader_epoch),
        partition_epoch: PartitionEpoch(partition_epoch),
    }))
}

/// The records that change partitions as `decide` says: what they become, and whether they get a new leader
/// epoch even if the leader stays.
fn partition_changes(
    image: &MetadataImage,
    decide: impl Fn(&PartitionImage) -> (PartitionImage, bool),
) -> Result<Vec<MetadataRecord>, ControllerError> {
    let mut records = Vec::new();
    for topic in image.topics() {
        for (number, p) in (0..).zip(&topic.partitions) {
            let (next, new_term) = decide(p);
            records.extend(partition_change(topic, number, p, next, new_term)?);
        }
    }
    Ok(records)
}

/// A fenced broker is back without having been away: it leads again where nobody else could.
pub fn unfence_broker(
    image: &MetadataImage,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<(Vec<MetadataRecord>, ()), ControllerError> {
    check_epoch(image, broker_id, broker_epoch)?;
    if image.broker(broker_id).is_none_or(|b| !b.fenced) {
        return Ok((Vec::new(), ()));
    }
    let mut records = vec![MetadataRecord::UnfenceBroker { broker_id, broker_epoch }];
    records.extend(partition_changes(image, |p| {
        let mut next = p.clone();
        if p.isr.is_empty() && p.elr.contains(&broker_id) {
            next.elr.retain(|b| *b != broker_id);
            next.isr = vec![broker_id];
            next.leader = elect(image, &next, Some(broker_id));
        }
        (next, false)
    })?);
    Ok((records, ()))
}

/// The broker is stopping, or is not heard of any more: it leaves every ISR and leads nothing.
pub fn fence_broker(
    image: &MetadataImage,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<(Vec<MetadataRecord>, ()), ControllerError> {
    check_epoch(image, broker_id, broker_epoch)?;
    if image.broker(broker_id).is_none_or(|b| b.fenced) {
        return Ok((Vec::new(), ()));
    }
    let mut records = partition_changes(image, |p| {
        let mut next = p.clone();
        if p.isr.contains(&broker_id) {
            next.isr.retain(|b| *b != broker_id);
            if next.isr.is_empty() {
                next.elr = vec![broker_id];
            }
        }
        if p.leader == broker_id {
            next.leader = elect(image, &next, None);
        }
        (next, false)
    })?;
    records.push(MetadataRecord::FenceBroker { broker_id, broker_epoch });
    Ok((records, ()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, cluster, registration, topic, with_topics};
    use super::super::{NewTopic, create_topics};
    use super::*;
    use crate::metadata::SecurityProtocol;

    fn epochs(image: &MetadataImage, name: &str) -> Vec<(i32, i32, i32)> {
        let partitions = &image.topic(name).unwrap().partitions;
        partitions.iter().map(|p| (p.leader.0, p.leader_epoch.0, p.partition_epoch.0)).collect()
    }

    #[test]
    fn each_start_gives_led_partitions_a_new_leader_epoch() {
        let image = with_topics(&cluster(&[(1, None)]), &[topic("t", 2)]);
        assert_eq!(epochs(&image, "t"), [(1, 0, 0), (1, 0, 0)]);
        let (records, epoch) = register_broker(&image, &registration(1)).unwrap();
        let again = apply(&image, &records);
        assert_eq!(epochs(&again, "t"), [(1, 1, 1), (1, 1, 1)]);
        assert_eq!(again.topic("t").unwrap().partitions[0].isr, [BrokerId(1)]);
        assert!(epoch > image.broker(BrokerId(1)).unwrap().broker_epoch);
        assert!(!again.broker(BrokerId(1)).unwrap().fenced);
    }

    #[test]
    fn a_broker_that_was_fenced_last_leads_again() {
        let image = with_topics(&cluster(&[(1, None)]), &[topic("t", 1)]);
        let epoch = image.broker(BrokerId(1)).unwrap().broker_epoch;
        let fenced = apply(&image, &fence_broker(&image, BrokerId(1), epoch).unwrap().0);
        let p = &fenced.topic("t").unwrap().partitions[0];
        assert_eq!((p.leader, p.isr.len(), &p.elr[..]), (NO_LEADER, 0, &[BrokerId(1)][..]));
        let unfenced = apply(&fenced, &unfence_broker(&fenced, BrokerId(1), epoch).unwrap().0);
        assert_eq!(epochs(&unfenced, "t"), [(1, 2, 2)]);
        let restarted = apply(&fenced, &register_broker(&fenced, &registration(1)).unwrap().0);
        assert_eq!(epochs(&restarted, "t"), [(1, 2, 2)]);
        let stale = fence_broker(&restarted, BrokerId(1), epoch).unwrap_err();
        assert_eq!(stale.code, ErrorCode::StaleBrokerEpoch);
    }

    #[test]
    fn a_broker_moves_without_leaving() {
        let image = with_topics(&cluster(&[(1, Some("a")), (2, None)]), &[topic("t", 2)]);
        let before = image.broker(BrokerId(1)).unwrap().clone();
        let listener = |host: &str| Listener {
            name: "OUTSIDE".to_string(),
            host: host.to_string(),
            port: 31_000,
            security_protocol: SecurityProtocol::Plaintext,
        };
        let listeners = [listener("10.0.0.2")];
        let change = |image: &MetadataImage, rack: Option<&str>| {
            change_registration(image, BrokerId(1), before.broker_epoch, &listeners, rack).unwrap().0
        };
        let records = change(&image, Some("b"));
        assert_eq!(records.len(), 1);
        let moved = apply(&image, &records);
        let want = BrokerRegistration {
            listeners: listeners.to_vec(),
            rack: Some("b".to_string()),
            ..BrokerRegistration::clone(&before)
        };
        assert_eq!(**moved.broker(BrokerId(1)).unwrap(), want);
        assert_eq!(epochs(&moved, "t"), epochs(&image, "t"));
        assert!(change(&moved, Some("b")).is_empty());
        assert_eq!(apply(&moved, &change(&moved, None)).broker(BrokerId(1)).unwrap().rack, None);

        // Another incarnation has taken over since.
        let restarted = apply(&moved, &register_broker(&moved, &registration(1)).unwrap().0);
        let late = change_registration(&restarted, BrokerId(1), before.broker_epoch, &listeners, None);
        assert_eq!(late.unwrap_err().code, ErrorCode::StaleBrokerEpoch);
        let unknown = change_registration(&image, BrokerId(9), before.broker_epoch, &listeners, None);
        assert_eq!(unknown.unwrap_err().code, ErrorCode::BrokerIdNotRegistered);
    }

    #[test]
    fn where_others_are_in_sync_they_lead() {
        let image = cluster(&[(1, None), (2, None)]);
        let assignments = vec![(0, vec![BrokerId(1), BrokerId(2)])];
        let new = NewTopic { assignments, replication_factor: -1, ..topic("t", -1) };
        let image = with_topics(&image, &[new]);
        let image = apply(&image, &register_broker(&image, &registration(1)).unwrap().0);
        let p = &image.topic("t").unwrap().partitions[0];
        assert_eq!((p.leader, &p.isr[..], p.leader_epoch.0), (BrokerId(2), &[BrokerId(2)][..], 1));
    }

    #[test]
    fn disks_belong_to_one_broker_for_good() {
        let image = cluster(&[(1, None), (2, None)]);
        let refused = |image: &MetadataImage, request: &Registration| {
            let e = register_broker(image, request).unwrap_err();
            (e.code, e.message)
        };
        let stolen = Registration { disk_uuid: registration(2).disk_uuid, ..registration(1) };
        let (code, why) = refused(&image, &stolen);
        assert_eq!(code, ErrorCode::DuplicateBrokerRegistration);
        assert!(why.contains("belongs to broker 2"), "{why}");

        let new_disk = DiskUuid(Uuid::from_u128(77));
        let replaced = Registration { disk_uuid: new_disk, wal_disk_uuid: new_disk, ..registration(1) };
        let image = apply(&image, &register_broker(&image, &replaced).unwrap().0);
        let (_, why) = refused(&image, &registration(1));
        assert!(why.contains("may not come back"), "{why}");

        let mut id = super::super::testing::ids(1);
        let only_here = NewTopic { assignments: vec![(0, vec![BrokerId(1)])], ..topic("t", -1) };
        let image = apply(&image, &create_topics(&image, &[only_here], false, &mut id).0);
        let (_, why) =
            refused(&image, &Registration { wal_disk_uuid: DiskUuid(Uuid::from_u128(78)), ..replaced });
        assert!(why.contains("only copy of 1 partitions"), "{why}");

        let other = Registration { cluster_id: "d".to_string(), ..registration(1) };
        assert_eq!(refused(&image, &other).0, ErrorCode::InconsistentClusterId);
    }
}
