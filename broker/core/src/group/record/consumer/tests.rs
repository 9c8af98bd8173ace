use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use uuid::Uuid;

use super::super::super::classic::Protocol;
use super::super::Key;
use super::*;
use crate::ids::TopicId;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}

fn topic() -> TopicId {
    TopicId(Uuid::from_u128(0x0102))
}

fn member() -> MemberValue {
    MemberValue {
        instance_id: Some(text("i")),
        rack_id: None,
        client_id: text("c"),
        client_host: text("/h"),
        subscribed_topics: BTreeSet::from([text("t"), text("u")]),
        subscribed_regex: text("r.*"),
        rebalance_timeout_ms: 258,
        server_assignor: Some(text("range")),
        classic: None,
    }
}

fn classic_member() -> MemberValue {
    let protocols = vec![Protocol { name: text("p"), metadata: Bytes::from_static(b"ab") }];
    MemberValue {
        server_assignor: None,
        classic: Some(ClassicValue { session_timeout_ms: 5, protocols }),
        ..member()
    }
}

fn current() -> CurrentValue {
    CurrentValue {
        epoch: 4,
        previous_epoch: 3,
        state: MemberState::UnrevokedPartitions,
        assigned: BTreeMap::from([(topic(), BTreeMap::from([(0, 2), (7, 4)]))]),
        pending_revocation: PartitionEpochs::new(),
    }
}

fn all() -> Vec<ConsumerRecord> {
    let target = BTreeMap::from([(topic(), BTreeSet::from([0, 7]))]);
    let regex = RegexValue { topics: BTreeSet::from([text("t")]), version: 1, timestamp_ms: 2 };
    vec![
        ConsumerRecord::Epoch(Some(EpochValue { epoch: 4, metadata_hash: -2 })),
        ConsumerRecord::Epoch(Some(EpochValue { epoch: 4, metadata_hash: 0 })),
        ConsumerRecord::Member(text("m"), Some(member())),
        ConsumerRecord::Member(text("m"), Some(classic_member())),
        ConsumerRecord::TargetEpoch(Some(TargetEpochValue { epoch: 4, timestamp_ms: 3 })),
        ConsumerRecord::TargetEpoch(Some(TargetEpochValue { epoch: 4, timestamp_ms: 0 })),
        ConsumerRecord::Target(text("m"), Some(target)),
        ConsumerRecord::Current(text("m"), Some(current())),
        ConsumerRecord::Regex(text("r.*"), Some(regex)),
        ConsumerRecord::Epoch(None),
        ConsumerRecord::PartitionMetadata(false),
        ConsumerRecord::Member(text("m"), None),
        ConsumerRecord::TargetEpoch(None),
        ConsumerRecord::Target(text("m"), None),
        ConsumerRecord::Current(text("m"), None),
        ConsumerRecord::Regex(text("r.*"), None),
    ]
}

fn read(key: &[u8], value: Option<&[u8]>) -> Result<ConsumerRecord, RecordError> {
    match Key::decode(key)? {
        Key::Consumer(group, key) => {
            assert_eq!(group, text("g"));
            ConsumerRecord::decode(key, value)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_written_is_read() {
    for record in all() {
        let written = record.encode("g");
        assert_eq!(read(&written.key, written.value.as_deref()), Ok(record));
    }
}

#[test]
fn keys_are_kafkas() {
    let keys: Vec<_> = all().iter().map(|record| record.encode("g").key).collect();
    assert_eq!(&*keys[0], b"\0\x03\0\x01g");
    assert_eq!(&*keys[2], b"\0\x05\0\x01g\0\x01m");
    assert_eq!(&*keys[4], b"\0\x06\0\x01g");
    assert_eq!(&*keys[6], b"\0\x07\0\x01g\0\x01m");
    assert_eq!(&*keys[7], b"\0\x08\0\x01g\0\x01m");
    assert_eq!(&*keys[8], b"\0\x10\0\x01g\0\x03r.*");
    assert_eq!(&*keys[10], b"\0\x04\0\x01g");
    let unknown = RecordError::Version { what: "a key", version: 11 };
    assert_eq!(Key::decode(b"\0\x0b\0\x01g"), Err(unknown), "of a share group");
}

#[test]
fn values_are_kafkas() {
    let values: Vec<_> = all().iter().filter_map(|record| record.encode("g").value).collect();
    assert_eq!(&*values[0], b"\0\0\0\0\0\x04\x01\0\x08\xff\xff\xff\xff\xff\xff\xff\xfe");
    assert_eq!(&*values[1], b"\0\0\0\0\0\x04\0");
    assert_eq!(&*values[2], b"\0\0\x02i\0\x02c\x03/h\x03\x02t\x02u\x04r.*\0\0\x01\x02\x06range\x01\0\x01\0");
    let classic = b"\0\0\x02i\0\x02c\x03/h\x03\x02t\x02u\x04r.*\0\0\x01\x02\0\x01\0\x0d\x01\0\0\0\x05\x02\x02p\x03ab\0\0";
    assert_eq!(&*values[3], classic);
    assert_eq!(&*values[4], b"\0\0\0\0\0\x04\x01\0\x08\0\0\0\0\0\0\0\x03");
    assert_eq!(&*values[5], b"\0\0\0\0\0\x04\0");
    let topic = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\x03\0\0\0\0\0\0\0\x07";
    assert_eq!(&*values[6], [b"\0\0\x02", &topic[..], b"\0\0"].concat());
    let epochs = b"\x01\0\x09\x03\0\0\0\x02\0\0\0\x04";
    assert_eq!(&*values[7], [b"\0\0\0\0\0\x04\0\0\0\x03\x01\x02", &topic[..], epochs, b"\x01\0"].concat());
    assert_eq!(&*values[8], b"\0\0\x02\x02t\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0");
}

#[test]
fn without_epochs_a_partition_has_its_members() {
    let topic = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\x03\0\0\0\0\0\0\0\x07";
    let old = [b"\0\0\0\0\0\x04\0\0\0\x03\x01\x02", &topic[..], b"\0\x01\0"].concat();
    let assigned = BTreeMap::from([(self::topic(), BTreeMap::from([(0, 4), (7, 4)]))]);
    assert_eq!(CurrentValue::decode(&old), Ok(CurrentValue { assigned, ..current() }));
    let too_few =
        [b"\0\0\0\0\0\x04\0\0\0\x03\x01\x02", &topic[..], b"\x01\0\x05\x02\0\0\0\x02\x01\0"].concat();
    assert_eq!(CurrentValue::decode(&too_few), CurrentValue::decode(&old));
}

#[test]
fn a_state_of_a_later_version_is_unknown() {
    let later = b"\0\0\0\0\0\x04\0\0\0\x03\x03\x01\x01\0";
    assert_eq!(CurrentValue::decode(later).map(|value| value.state), Ok(MemberState::Unknown));
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(rest in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [&[0, 0][..], &rest].concat();
        for record in all() {
            let _ = read(&record.encode("g").key, Some(&bytes));
            let _ = read(&record.encode("g").key, Some(&rest));
        }
    }

    /// What is nearly right gets further than noise.
    #[test]
    fn damaged_records_are_decoded_or_refused(at in 0usize..80, byte: u8, cut in 0usize..80) {
        for record in all() {
            let GroupRecord { key, value: Some(value) } = record.encode("g") else { continue };
            let mut bytes = value.to_vec();
            bytes.truncate(cut);
            if let Some(damaged) = bytes.get_mut(at) {
                *damaged = byte;
            }
            let _ = read(&key, Some(&bytes));
        }
    }
}
