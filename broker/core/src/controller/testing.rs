//! Images for the controller's tests.

use std::sync::Arc;

use crate::ids::{BrokerId, DiskUuid, TopicId, Uuid};
use crate::metadata::{LocalConfig, MetadataImage, MetadataRecord};

use super::{NewTopic, Registration, create_topics, register_broker};

pub fn registration(id: i32) -> Registration {
    let disk = DiskUuid(Uuid::from_u128(0xd15c_0000 + id as u128));
    Registration {
        cluster_id: "c".to_string(),
        broker_id: BrokerId(id),
        incarnation: Uuid::from_u128(id as u128),
        disk_uuid: disk,
        wal_disk_uuid: disk,
        listeners: Vec::new(),
        rack: None,
    }
}

pub fn apply(image: &MetadataImage, records: &[MetadataRecord]) -> MetadataImage {
    super::after(image, records).unwrap()
}

/// A cluster of unfenced brokers with their racks, seen by the first.
pub fn cluster(brokers: &[(i32, Option<&str>)]) -> MetadataImage {
    let local = LocalConfig { broker_id: BrokerId(brokers[0].0), ..LocalConfig::default() };
    let founding =
        [MetadataRecord::Cluster { cluster_id: "c".to_string() }, MetadataRecord::FeatureLevel { level: 1 }];
    let mut image = apply(&MetadataImage::empty(Arc::new(local)), &founding);
    for (id, rack) in brokers {
        let request = Registration { rack: rack.map(str::to_string), ..registration(*id) };
        image = apply(&image, &register_broker(&image, &request).unwrap().0);
    }
    image
}

/// Topic ids 1, 2, 3, …
pub fn ids(from: u128) -> impl FnMut() -> TopicId {
    let mut last = from - 1;
    move || {
        last += 1;
        TopicId(Uuid::from_u128(last))
    }
}

pub fn topic(name: &str, num_partitions: i32) -> NewTopic {
    NewTopic { name: name.to_string(), num_partitions, replication_factor: -1, ..NewTopic::default() }
}

/// The image with these topics; each must be created.
pub fn with_topics(image: &MetadataImage, topics: &[NewTopic]) -> MetadataImage {
    let mut next = ids(1000 + image.topic_count() as u128);
    let (records, results) = create_topics(image, topics, false, &mut next);
    for (name, result) in results {
        result.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    apply(image, &records)
}
