use proptest::prelude::*;

use super::*;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}

fn offset(expires: Option<i64>) -> OffsetValue {
    OffsetValue {
        offset: 258,
        leader_epoch: if expires.is_some() { -1 } else { 7 },
        metadata: text("m"),
        commit_timestamp_ms: 3,
        expire_timestamp_ms: expires,
    }
}

fn group() -> GroupValue {
    let member = MemberValue {
        member_id: text("c-1"),
        instance_id: Some(text("i")),
        client_id: text("c"),
        client_host: text("/h"),
        rebalance_timeout_ms: 4,
        session_timeout_ms: 5,
        subscription: Bytes::from_static(b"ab"),
        assignment: Bytes::new(),
    };
    GroupValue {
        protocol_type: text("t"),
        generation: 2,
        protocol: Some(text("p")),
        leader: None,
        state_since_ms: Some(3),
        members: vec![member],
    }
}

#[test]
fn keys_are_kafkas() {
    let key = Key::Offset { group: text("g"), topic: text("tt"), partition: 3 };
    assert_eq!(&*offset_key("g", "tt", 3), b"\0\x01\0\x01g\0\x02tt\0\0\0\x03");
    assert_eq!(Key::decode(&offset_key("g", "tt", 3)), Ok(key.clone()));
    assert_eq!(Key::decode(b"\0\0\0\x01g\0\x02tt\0\0\0\x03"), Ok(key), "the legacy one");
    assert_eq!(&*group_key("g"), b"\0\x02\0\x01g");
    assert_eq!(Key::decode(&group_key("g")), Ok(Key::Group(text("g"))));
}

#[test]
fn offsets_are_written_as_version_3_and_with_an_expire_timestamp_as_version_1() {
    let plain = b"\0\x03\0\0\0\0\0\0\x01\x02\0\0\0\x07\0\x01m\0\0\0\0\0\0\0\x03";
    assert_eq!(&*offset(None).encode(), plain);
    let expiring = b"\0\x01\0\0\0\0\0\0\x01\x02\0\x01m\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x09";
    assert_eq!(&*offset(Some(9)).encode(), expiring);
    for value in [offset(None), offset(Some(9))] {
        assert_eq!(OffsetValue::decode(&value.encode()), Ok(value));
    }
}

#[test]
fn offsets_are_read_in_all_versions() {
    let old = OffsetValue { leader_epoch: -1, ..offset(None) };
    for version in [0, 2] {
        let bytes = [&[0, version][..], b"\0\0\0\0\0\0\x01\x02\0\x01m\0\0\0\0\0\0\0\x03"].concat();
        assert_eq!(OffsetValue::decode(&bytes), Ok(old.clone()));
    }
    let never = b"\0\x01\0\0\0\0\0\0\x01\x02\0\x01m\0\0\0\0\0\0\0\x03\xff\xff\xff\xff\xff\xff\xff\xff";
    assert_eq!(OffsetValue::decode(never), Ok(old));
    // Flexible, with a tagged field, such as a topic id, that is passed over.
    let flexible = b"\0\x04\0\0\0\0\0\0\x01\x02\0\0\0\x07\x02m\0\0\0\0\0\0\0\x03\x01\0\x02xx";
    assert_eq!(OffsetValue::decode(flexible), Ok(offset(None)));
    assert_eq!(
        OffsetValue::decode(&[0, 5]),
        Err(RecordError::Version { what: "OffsetCommitValue", version: 5 })
    );
}

#[test]
fn groups_are_written_as_version_3() {
    let bytes = b"\0\x03\0\x01t\0\0\0\x02\0\x01p\xff\xff\0\0\0\0\0\0\0\x03\0\0\0\x01\
        \0\x03c-1\0\x01i\0\x01c\0\x02/h\0\0\0\x04\0\0\0\x05\0\0\0\x02ab\0\0\0\0";
    assert_eq!(&*group().encode(), bytes);
    assert_eq!(GroupValue::decode(bytes), Ok(group()));
}

#[test]
fn groups_are_read_in_all_versions() {
    let mut old = group();
    old.members[0].instance_id = None;
    let version_2 = b"\0\x02\0\x01t\0\0\0\x02\0\x01p\xff\xff\0\0\0\0\0\0\0\x03\0\0\0\x01\
        \0\x03c-1\0\x01c\0\x02/h\0\0\0\x04\0\0\0\x05\0\0\0\x02ab\0\0\0\0";
    assert_eq!(GroupValue::decode(version_2), Ok(old.clone()));
    old.state_since_ms = None;
    let version_1 = b"\0\x01\0\x01t\0\0\0\x02\0\x01p\xff\xff\0\0\0\x01\
        \0\x03c-1\0\x01c\0\x02/h\0\0\0\x04\0\0\0\x05\0\0\0\x02ab\0\0\0\0";
    assert_eq!(GroupValue::decode(version_1), Ok(old.clone()));
    old.members[0].rebalance_timeout_ms = 5;
    let version_0 = b"\0\0\0\x01t\0\0\0\x02\0\x01p\xff\xff\0\0\0\x01\
        \0\x03c-1\0\x01c\0\x02/h\0\0\0\x05\0\0\0\x02ab\0\0\0\0";
    assert_eq!(GroupValue::decode(version_0), Ok(old));
    let flexible = b"\0\x04\x02t\0\0\0\x02\x02p\0\0\0\0\0\0\0\0\x03\x02\
        \x04c-1\x02i\x02c\x03/h\0\0\0\x04\0\0\0\x05\x03ab\x01\0\0";
    assert_eq!(GroupValue::decode(flexible), Ok(group()));
}

#[test]
fn a_claimed_length_is_not_believed() {
    let members = b"\0\x03\0\x01t\0\0\0\x02\0\x01p\xff\xff\0\0\0\0\0\0\0\x03\x7f\xff\xff\xff";
    assert_eq!(GroupValue::decode(members), Err(RecordError::Malformed));
    let negative = b"\0\x02\xff\xfe";
    assert_eq!(Key::decode(negative), Err(RecordError::Malformed));
    let null = b"\0\x02\xff\xff";
    assert_eq!(Key::decode(null), Err(RecordError::Malformed));
    let not_a_text = b"\0\x02\0\x01\xff";
    assert_eq!(Key::decode(not_a_text), Err(RecordError::Malformed));
    let endless = [&[0, 4][..], &[0; 12], &[0xff; 6]].concat();
    assert_eq!(OffsetValue::decode(&endless), Err(RecordError::Malformed));
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(version in 0u8..6, rest in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [&[0, version][..], &rest].concat();
        for bytes in [&bytes[..], &rest] {
            let _ = Key::decode(bytes);
            let _ = OffsetValue::decode(bytes);
            let _ = GroupValue::decode(bytes);
        }
    }

    /// What is nearly right gets further than noise.
    #[test]
    fn damaged_records_are_decoded_or_refused(at in 0usize..70, byte: u8, cut in 0usize..70) {
        for good in [group().encode(), offset(None).encode(), group_key("g"), offset_key("g", "t", 1)] {
            let mut bytes = good.to_vec();
            bytes.truncate(cut);
            if let Some(damaged) = bytes.get_mut(at) {
                *damaged = byte;
            }
            let _ = Key::decode(&bytes);
            let _ = OffsetValue::decode(&bytes);
            let _ = GroupValue::decode(&bytes);
        }
    }
}
