//! Invariant 13, and what else must hold for any run of controller decisions.

use std::sync::Arc;

use proptest::prelude::*;

use super::record::MetadataError;
use super::*;
use crate::controller::{self, AlterOp, ConfigOp, NewPartitions, NewTopic, Registration, TopicRef};
use crate::ids::{BrokerId, DiskUuid, TopicId, Uuid};

#[derive(Clone, Debug)]
enum Op {
    Register(i32),
    Fence(i32),
    Unfence(i32),
    Move(i32, u16, bool),
    Create { name: usize, partitions: i32, factor: i16, setting: Option<usize> },
    Delete(usize),
    Grow(usize, i32),
    Alter(usize, usize, bool),
    ProducerIds(i32),
}

const NAMES: [&str; 4] = ["a", "b.c", "b_c", "__consumer_offsets"];

/// Some that are accepted on topics, some on brokers, some on groups, some nowhere.
const SETTINGS: [(&str, &str); 10] = [
    ("segment.bytes", "2000000"),
    ("chronik.wal.profile", "mine"),
    ("chronik.wal.profile.mine.max.delay.us", "7"),
    ("chronik.wal.profile.low.ack", "buffered"),
    ("message.max.bytes", "5000"),
    ("max.message.bytes", "4000"),
    ("cleanup.policy", "compact"),
    ("min.insync.replicas", "2"),
    ("consumer.session.timeout.ms", "50000"),
    ("group.consumer.assignment.interval.ms", "20"),
];

fn op() -> impl Strategy<Value = Op> {
    let (broker, name, setting) = (1..4i32, 0..NAMES.len(), 0..SETTINGS.len());
    prop_oneof![
        2 => broker.clone().prop_map(Op::Register),
        1 => broker.clone().prop_map(Op::Fence),
        1 => broker.clone().prop_map(Op::Unfence),
        1 => (broker.clone(), 1..3u16, any::<bool>()).prop_map(|(id, port, rack)| Op::Move(id, port, rack)),
        4 => (name.clone(), 1..4i32, 1..3i16, proptest::option::of(setting.clone()))
            .prop_map(|(name, partitions, factor, setting)| Op::Create { name, partitions, factor, setting }),
        1 => name.clone().prop_map(Op::Delete),
        1 => (name, 1..6i32).prop_map(|(name, count)| Op::Grow(name, count)),
        4 => (0..NAMES.len() + 3, setting, any::<bool>()).prop_map(|(on, s, set)| Op::Alter(on, s, set)),
        1 => broker.prop_map(Op::ProducerIds),
    ]
}

/// The records that the controller decides on; none for a refusal.
fn decide(image: &MetadataImage, op: &Op, fresh: &mut dyn FnMut() -> TopicId) -> Vec<MetadataRecord> {
    let epoch = |id: &i32| image.broker(BrokerId(*id)).map(|b| b.broker_epoch).unwrap_or_default();
    match op {
        Op::Register(id) => {
            let disk = DiskUuid(Uuid::from_u128(*id as u128));
            let request = Registration {
                cluster_id: "c".to_string(),
                broker_id: BrokerId(*id),
                incarnation: Uuid::from_u128(9),
                disk_uuid: disk,
                wal_disk_uuid: disk,
                listeners: vec![Listener {
                    name: "PLAINTEXT".to_string(),
                    host: "h".to_string(),
                    port: 9092,
                    security_protocol: SecurityProtocol::Plaintext,
                }],
                rack: (*id > 1).then(|| "r".to_string()),
            };
            controller::register_broker(image, &request).map(|(r, _)| r)
        }
        Op::Fence(id) => controller::fence_broker(image, BrokerId(*id), epoch(id)).map(|(r, _)| r),
        Op::Unfence(id) => controller::unfence_broker(image, BrokerId(*id), epoch(id)).map(|(r, _)| r),
        Op::Move(id, port, rack) => {
            let listeners = [Listener {
                name: "PLAINTEXT".to_string(),
                host: "elsewhere".to_string(),
                port: *port,
                security_protocol: SecurityProtocol::Plaintext,
            }];
            let rack = rack.then_some("elsewhere");
            let moved = controller::change_registration(image, BrokerId(*id), epoch(id), &listeners, rack);
            moved.map(|(r, _)| r)
        }
        Op::Create { name, partitions, factor, setting } => {
            let setting = setting.map(|s| (SETTINGS[s].0.to_string(), Some(SETTINGS[s].1.to_string())));
            let new = NewTopic {
                name: NAMES[*name].to_string(),
                num_partitions: *partitions,
                replication_factor: *factor,
                assignments: Vec::new(),
                configs: setting.into_iter().collect(),
            };
            Ok(controller::create_topics(image, &[new], false, fresh).0)
        }
        Op::Delete(name) => {
            Ok(controller::delete_topics(image, &[TopicRef::Name(NAMES[*name].to_string())]).0)
        }
        Op::Grow(name, count) => {
            let name = NAMES[*name].to_string();
            let request = [NewPartitions { name, count: *count, assignments: None }];
            Ok(controller::create_partitions(image, &request, false).0)
        }
        Op::Alter(on, setting, set) => {
            let resource = match NAMES.get(*on) {
                Some(name) => ConfigResource::Topic(name.to_string()),
                None if *on == NAMES.len() => ConfigResource::BrokerDefault,
                None if *on == NAMES.len() + 1 => ConfigResource::Group("g".to_string()),
                None => ConfigResource::Broker(BrokerId(1)),
            };
            let (name, value) = SETTINGS[*setting];
            let op = if *set { AlterOp::Set } else { AlterOp::Delete };
            let op = ConfigOp { name: name.to_string(), op, value: Some(value.to_string()) };
            Ok(controller::incremental_alter_configs(image, &[(resource, vec![op])], false).0)
        }
        Op::ProducerIds(id) => {
            controller::allocate_producer_ids(image, BrokerId(*id), epoch(id)).map(|(r, _)| r)
        }
    }
    .unwrap_or_default()
}

fn local() -> Arc<LocalConfig> {
    Arc::new(LocalConfig { broker_id: BrokerId(1), ..LocalConfig::default() })
}

fn step(image: &MetadataImage, records: &[MetadataRecord]) -> (MetadataImage, Changes) {
    let mut delta = MetadataDelta::new(image);
    for record in records {
        delta.replay(record).unwrap();
    }
    delta.finish(image.offset() + 1)
}

/// Invariants 5 and 8, and that a partition's sets fit together.
fn check(before: &MetadataImage, after: &MetadataImage) {
    for topic in after.topics() {
        for (number, p) in topic.partitions.iter().enumerate() {
            let fenced = |id: &BrokerId| after.broker(*id).is_none_or(|b| b.fenced);
            assert!(p.isr.iter().chain(&p.elr).all(|id| p.replicas.contains(id)), "{p:?}");
            assert!(!p.isr.iter().any(fenced), "invariant 8: {p:?}");
            assert!(p.leader.0 == -1 || p.isr.contains(&p.leader), "invariant 8: {p:?}");
            assert!(p.leader.0 != -1 || p.isr.is_empty(), "somebody could lead: {p:?}");
            let old = before.topic_by_id(topic.id).and_then(|t| t.partitions.get(number));
            if let Some(old) = old {
                assert!(p.leader_epoch >= old.leader_epoch && p.partition_epoch >= old.partition_epoch);
                assert!(p.leader == old.leader || p.leader_epoch > old.leader_epoch, "invariant 5");
            }
        }
    }
}

proptest! {
    #[test]
    fn snapshot_and_replay_equal_full_replay(ops in proptest::collection::vec(op(), 1..60)) {
        let mut next_id = 0u128;
        let mut fresh = || { next_id += 1; TopicId(Uuid::from_u128(next_id)) };
        let founding = [
            MetadataRecord::Cluster { cluster_id: "c".to_string() },
            MetadataRecord::FeatureLevel { level: 1 },
        ];
        let mut image = step(&MetadataImage::empty(local()), &founding).0;
        let mut log = founding.to_vec();
        for op in &ops {
            let records = decide(&image, op, &mut fresh);
            let (next, changes) = step(&image, &records);
            check(&image, &next);

            // What a delta tells is what a comparison finds.
            let compared = Changes::between(&image, &next);
            prop_assert_eq!(&changes.topics_created, &compared.topics_created);
            prop_assert_eq!(&changes.topics_deleted, &compared.topics_deleted);
            prop_assert_eq!(&changes.partitions_created, &compared.partitions_created);
            prop_assert_eq!(&changes.partitions_changed, &compared.partitions_changed);
            prop_assert_eq!(&changes.topic_configs_changed, &compared.topic_configs_changed);
            prop_assert!(changes.brokers_changed.is_superset(&compared.brokers_changed));
            prop_assert!(changes.wal_profiles_changed.is_superset(&compared.wal_profiles_changed));

            // Invariant 13: from here, the snapshot and the log before it lead to the same.
            log.extend(records);
            let snapshot = next.to_records();
            let restored = MetadataImage::from_records(local(), next.offset(), &snapshot).unwrap();
            prop_assert_eq!(&restored, &next);
            let replayed = MetadataImage::from_records(local(), next.offset(), &log).unwrap();
            prop_assert_eq!(&replayed, &next);
            image = next;
        }
        for record in log.iter().chain(&image.to_records()) {
            let json = record.encode().unwrap();
            prop_assert_eq!(&MetadataRecord::decode(&json).unwrap(), record);
            let name = json.split('"').nth(1).unwrap();
            prop_assert!(MetadataRecord::NAMES.contains(&name));
        }
    }
}

#[test]
fn a_record_of_a_newer_version_is_named() {
    let newer = r#"{"ScramCredential":{"user":"u"}}"#;
    let e = MetadataRecord::decode(newer).unwrap_err();
    assert_eq!(e, MetadataError::UnknownRecord { name: "ScramCredential".to_string() });
    assert!(e.to_string().contains("a newer one"), "{e}");
    let new_field = r#"{"Cluster":{"cluster_id":"c","colour":"red"}}"#;
    assert!(matches!(MetadataRecord::decode(new_field), Err(MetadataError::Malformed(_))));
    let image = MetadataImage::empty(local());
    let e = MetadataDelta::new(&image).replay(&MetadataRecord::FeatureLevel { level: 999 }).unwrap_err();
    assert_eq!(e, MetadataError::FeatureLevelTooHigh { level: 999 });
}

#[test]
fn one_change_among_ten_thousand_topics_shares_the_rest() {
    let names: Vec<String> = (0..10_000).map(|n| format!("t-{n:05}")).collect();
    let records = names.iter().enumerate().map(|(n, name)| MetadataRecord::Topic {
        name: name.clone(),
        topic_id: TopicId(Uuid::from_u128(n as u128)),
    });
    let image = step(&MetadataImage::empty(local()), &records.collect::<Vec<_>>()).0;
    assert!(image.topics().map(|t| &*t.name).eq(names.iter().map(String::as_str)), "sorted by name");
    let remove = MetadataRecord::RemoveTopic { topic_id: TopicId(Uuid::from_u128(5_000)) };
    let (next, changes) = step(&image, &[remove]);
    assert_eq!((changes.topics_deleted.len(), next.topic_count()), (1, 9_999));
    let same = |name: &str| Arc::ptr_eq(image.topic(name).unwrap(), next.topic(name).unwrap());
    assert!(same("t-00000") && same("t-09999"));
    assert_eq!(next.topics_from("t-05000").next().unwrap().name, "t-05001".into());
}

#[test]
fn what_does_not_fit_is_refused() {
    let id = TopicId(Uuid::from_u128(1));
    let topic = MetadataRecord::Topic { name: "t".to_string(), topic_id: id };
    let image = step(&MetadataImage::empty(local()), std::slice::from_ref(&topic)).0;
    let other = TopicId(Uuid::from_u128(2));
    let config = |name: &str| MetadataRecord::Config {
        resource: ConfigResource::Topic(name.to_string()),
        name: "segment.bytes".to_string(),
        value: Some("2000000".to_string()),
    };
    for record in [topic, MetadataRecord::RemoveTopic { topic_id: other }, config("u")] {
        let refused = MetadataDelta::new(&image).replay(&record);
        assert!(matches!(refused, Err(MetadataError::Inconsistent(_))), "{record:?}");
    }
}
