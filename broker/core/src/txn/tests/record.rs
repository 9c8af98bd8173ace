use proptest::prelude::*;

use super::super::transaction::Partitions;
use super::super::*;
use super::house::*;

fn transaction() -> Transaction {
    let mut partitions = Partitions::default();
    for (topic, partition) in [("t", 1), ("t", 0), ("uu", 5)] {
        partitions.insert(&text(topic), partition);
    }
    Transaction {
        producer: Producer::new(258, 7),
        previous_id: ProducerId(257),
        next_id: Some(ProducerId(259)),
        last_epoch: None,
        timeout_ms: 60_000,
        state: State::PrepareCommit,
        partitions,
        started_ms: Some(3),
        updated_ms: 4,
        version: V2,
    }
}

#[test]
fn keys_are_kafkas() {
    assert_eq!(&*record::key(&text("tx")), b"\0\0\0\x02tx");
    assert_eq!(record::decode_key(b"\0\0\0\x02tx"), Ok(text("tx")));
    assert_eq!(record::decode_key(b"\0\0\0\x02t"), Err(RecordError::Malformed));
}

#[test]
fn values_are_written_as_version_1() {
    let bytes = b"\0\x01\0\0\0\0\0\0\x01\x02\0\x07\0\0\xea\x60\x02\
        \x03\x02t\x03\0\0\0\0\0\0\0\x01\0\x03uu\x02\0\0\0\x05\0\
        \0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x03\
        \x03\0\x08\0\0\0\0\0\0\x01\x01\x01\x08\0\0\0\0\0\0\x01\x03\x02\x02\0\x02";
    assert_eq!(&*transaction().encode(), bytes);
    assert_eq!(Transaction::decode(bytes), Ok(transaction()));
}

#[test]
fn an_empty_one_has_no_partitions_and_no_start() {
    let mut empty = Transaction::new(ProducerId(258), 60_000, 4);
    empty.producer.epoch.0 = 0;
    let bytes = b"\0\x01\0\0\0\0\0\0\x01\x02\0\0\0\0\xea\x60\0\0\
        \0\0\0\0\0\0\0\x04\xff\xff\xff\xff\xff\xff\xff\xff\
        \x01\0\x08\0\0\0\0\0\0\x01\x02";
    assert_eq!(&*empty.encode(), bytes);
    assert_eq!(Transaction::decode(bytes), Ok(empty));
}

#[test]
fn version_0_is_read() {
    let bytes = b"\0\0\0\0\0\0\0\0\x01\x02\0\x07\0\0\xea\x60\x02\
        \0\0\0\x02\0\x01t\0\0\0\x02\0\0\0\0\0\0\0\x01\0\x02uu\0\0\0\x01\0\0\0\x05\
        \0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x03";
    let old = Transaction { previous_id: ProducerId(-1), next_id: None, version: V0, ..transaction() };
    assert_eq!(Transaction::decode(bytes), Ok(old));
    let null = b"\0\0\0\0\0\0\0\0\x01\x02\0\x07\0\0\xea\x60\0\xff\xff\xff\xff\
        \0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x03";
    assert!(Transaction::decode(null).unwrap().partitions.is_empty());
}

#[test]
fn states_that_are_never_written_are_not_read() {
    for number in [6, 7, -1] {
        let mut bytes = transaction().encode().to_vec();
        bytes[16] = number as u8;
        assert_eq!(Transaction::decode(&bytes), Err(RecordError::Malformed));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(version in 0u8..3, rest in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [&[0, version][..], &rest].concat();
        for bytes in [&bytes[..], &rest] {
            let _ = record::decode_key(bytes);
            let _ = Transaction::decode(bytes);
        }
    }

    #[test]
    fn damaged_records_are_decoded_or_refused(at in 0usize..90, byte: u8, cut in 0usize..90) {
        let mut bytes = transaction().encode().to_vec();
        bytes.truncate(cut);
        if let Some(damaged) = bytes.get_mut(at) {
            *damaged = byte;
        }
        let _ = Transaction::decode(&bytes);
    }
}
