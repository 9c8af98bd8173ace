//! Registration: which disks belong to which broker, and a new leader epoch for each start.

use super::{ControllerError, ErrorCode};
use crate::ids::{BrokerEpoch, BrokerId, DiskUuid, LeaderEpoch, PartitionEpoch, Uuid};
use crate::metadata::image::{NO_LEADER, PartitionImage, TopicImage};
use crate::metadata::{Listener, MetadataImage, MetadataRecord};

/// A broker that has started and wants to take part.
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

/// Lets a started broker into the cluster, fenced, with a fresh broker epoch. Each partition it leads gets a
/// new leader epoch, so that nothing of the incarnation before can be mistaken for this one's.
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
    let lost: Vec<DiskUuid> = before
        .map(|b| [b.disk_uuid, b.wal_disk_uuid].into_iter().filter(|d| !disks.contains(d)).collect())
        .unwrap_or_default();
    if let Some(disk) = lost.first() {
        let only_here = |p: &PartitionImage| {
            let elsewhere = p.isr.iter().chain(&p.elr).any(|replica| *replica != id);
            p.replicas.contains(&id) && !elsewhere
        };
        let count = image.topics().flat_map(|t| &t.partitions).filter(|p| only_here(p)).count();
        if count > 0 {
            return Err(refuse(format!(
                "broker {id} came without its disk {disk}, which holds the only copy of {count} partitions"
            )));
        }
        let unique = if lost.first() == lost.get(1) { &lost[..1] } else { &lost[..] };
        records.extend(unique.iter().map(|&disk_uuid| MetadataRecord::RetireDisk { disk_uuid }));
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
    for topic in image.topics() {
        for (number, p) in topic.partitions.iter().enumerate() {
            records.extend(restart_change(topic, number, p, id, !lost.is_empty())?);
        }
    }
    Ok((records, broker_epoch))
}

/// What a start of `broker` changes about one partition, if anything.
fn restart_change(
    topic: &TopicImage,
    number: usize,
    p: &PartitionImage,
    broker: BrokerId,
    disk_lost: bool,
) -> Result<Option<MetadataRecord>, ControllerError> {
    let leads = p.leader == broker;
    let leaves = disk_lost && (p.isr.contains(&broker) || p.elr.contains(&broker));
    if !leads && !leaves {
        return Ok(None);
    }
    let exhausted = || {
        ControllerError::new(
            ErrorCode::UnknownServerError,
            format!("{}-{number} has used up its epochs", topic.name),
        )
    };
    let without = |list: &[BrokerId]| list.iter().copied().filter(|b| *b != broker).collect::<Vec<_>>();
    let (isr, elr) = if leaves { (Some(without(&p.isr)), Some(without(&p.elr))) } else { (None, None) };
    let leader = (leads && disk_lost).then(|| {
        let in_sync = isr.as_deref().unwrap_or(&p.isr);
        p.replicas.iter().copied().find(|r| in_sync.contains(r)).unwrap_or(NO_LEADER)
    });
    let bump = i32::from(leads);
    Ok(Some(MetadataRecord::PartitionChange {
        topic_id: topic.id,
        partition: i32::try_from(number).map_err(|_| exhausted())?,
        replicas: None,
        isr,
        elr,
        leader,
        leader_epoch: LeaderEpoch(p.leader_epoch.0.checked_add(bump).ok_or_else(exhausted)?),
        partition_epoch: PartitionEpoch(p.partition_epoch.0.checked_add(1).ok_or_else(exhausted)?),
    }))
}

/// The broker has recovered its logs: it may lead and be given replicas.
pub fn unfence_broker(
    image: &MetadataImage,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<(Vec<MetadataRecord>, ()), ControllerError> {
    check_epoch(image, broker_id, broker_epoch)?;
    let fenced = image.broker(broker_id).is_some_and(|b| b.fenced);
    let record = MetadataRecord::UnfenceBroker { broker_id, broker_epoch };
    Ok((if fenced { vec![record] } else { Vec::new() }, ()))
}

/// The broker is stopping, or its incarnation is not heard of any more.
pub fn fence_broker(
    image: &MetadataImage,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<(Vec<MetadataRecord>, ()), ControllerError> {
    check_epoch(image, broker_id, broker_epoch)?;
    let fenced = image.broker(broker_id).is_some_and(|b| b.fenced);
    let record = MetadataRecord::FenceBroker { broker_id, broker_epoch };
    Ok((if fenced { Vec::new() } else { vec![record] }, ()))
}
