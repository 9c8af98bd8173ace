use proptest::prelude::*;

use super::*;
use crate::ids::{LeaderEpoch, ProducerEpoch, ProducerId};

const NOW: i64 = 1_700_000_000_000;

/// Three records of an idempotent producer, encoded by another program: times +0, +5 and -3, a null key, a header
/// key that occurs twice, and sequences that wrap.
const GOLDEN: &str = "000000000000000000000056ffffffff0235b8a7fd0000000000020000018bcfe568000000018bcfe56805\
    0000000000000fa000027ffffffe0000000312000000026b047630001a000a020100040268023102680118000504066b65790678787800";

fn golden() -> Vec<u8> {
    let digits = GOLDEN.as_bytes();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn golden_builder() -> BatchBuilder {
    BatchBuilder::new()
        .producer(ProducerId(4000), ProducerEpoch(2), i32::MAX - 1)
        .record(NOW, Some(b"k"), Some(b"v0"))
        .record_with_headers(NOW + 5, None, Some(b""), &[(b"h", Some(b"1")), (b"h", None)])
        .record(NOW - 3, Some(b"key"), Some(b"xxx"))
}

fn limits() -> BatchLimits {
    BatchLimits {
        max_message_bytes: 1 << 20,
        before_max_ms: i64::MAX,
        after_max_ms: 3_600_000,
        timestamp_type: TimestampType::CreateTime,
        now_ms: NOW,
        needs_keys: false,
        origin: Origin::Client,
    }
}

/// Changes a field and makes the checksum right again.
fn with(mut batch: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// A batch of one record with this body, whatever it says.
fn with_body(body: &[u8]) -> Vec<u8> {
    let mut batch = BatchBuilder::new().record(NOW, None, None).build();
    batch.truncate(61);
    batch.push((body.len() * 2) as u8);
    batch.extend_from_slice(body);
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    with(batch, 61, &[])
}

#[test]
fn the_builder_writes_what_others_write() {
    assert_eq!(golden_builder().build(), golden());
}

#[test]
fn a_golden_batch_is_accepted_and_read_in_place() {
    let bytes = golden();
    let summary = check_produced(&bytes, &limits()).unwrap();
    assert_eq!((summary.record_count, summary.size), (3, bytes.len()));
    assert_eq!((summary.max_timestamp, summary.stamp), (NOW + 5, Stamp::Keep));
    assert_eq!(summary.log_append_time_ms(), NO_TIMESTAMP);
    assert_eq!(summary.header.last_sequence(), 0, "MAX - 1, MAX, 0");

    let records: Vec<_> = RecordIter::new(&bytes).unwrap().map(Result::unwrap).collect();
    let places: Vec<_> = records.iter().map(|r| (r.offset, r.timestamp - NOW)).collect();
    assert_eq!(places, [(0, 0), (1, 5), (2, -3)]);
    let keys: Vec<_> = records.iter().map(|r| r.key).collect();
    assert_eq!(keys, [Some(&b"k"[..]), None, Some(b"key")]);
    let values: Vec<_> = records.iter().map(|r| r.value).collect();
    assert_eq!(values, [Some(&b"v0"[..]), Some(b""), Some(b"xxx")]);
    let headers: Vec<_> = records[1].headers.clone().collect();
    assert_eq!(headers, [(&b"h"[..], Some(&b"1"[..])), (b"h", None)]);
}

/// Each refusal with the code that Kafka 4.3.1 answers to the same bytes, but where `error.rs` says otherwise.
#[test]
fn refusals_and_their_codes() {
    let good = || BatchBuilder::new().record(NOW, Some(b"k"), Some(b"v")).build();
    let idempotent = |id, epoch, seq| BatchBuilder::new().producer(ProducerId(id), ProducerEpoch(epoch), seq);
    let code = |bytes: &[u8]| check_produced(bytes, &limits()).unwrap_err().kafka_code();
    let cases: Vec<(&str, Vec<u8>, i16)> = vec![
        ("nothing", vec![], 87),
        ("part of a header", good()[..40].to_vec(), 87),
        ("cut short", good()[..good().len() - 1].to_vec(), 87),
        ("two batches", [good(), good()].concat(), 87),
        ("bytes behind", [good(), b"abc".to_vec()].concat(), 87),
        ("magic 0", with(good(), 16, &[0]), 87),
        ("a short message of magic 1", with(good(), 16, &[1])[..34].to_vec(), 87),
        ("magic 3", with(good(), 16, &[3]), 2),
        ("magic -1", with(good(), 16, &[255]), 2),
        ("length 3", with(good(), 8, &3i32.to_be_bytes()), 2),
        ("negative length", with(good(), 8, &(-1i32).to_be_bytes()), 2),
        ("base offset", with(good(), 0, &5i64.to_be_bytes()), 87),
        ("last offset delta", with(good(), 23, &3i32.to_be_bytes()), 87),
        ("no records", BatchBuilder::new().build(), 87),
        ("too few records", with(with(good(), 57, &[0, 0, 0, 2]), 23, &[0, 0, 0, 1]), 87),
        ("control", BatchBuilder::new().control().record(NOW, None, None).build(), 87),
        ("codec 5", with(good(), 22, &[5]), 76),
        ("plain records said to be gzip", with(good(), 22, &[1]), 87),
        ("plain records said to be lz4", with(good(), 22, &[3]), 87),
        ("plain records said to be zstd", with(good(), 22, &[4]), 87),
        ("no sequence", idempotent(5, 0, -1).record(NOW, None, None).build(), 87),
        ("transaction of nobody", BatchBuilder::new().transactional().record(NOW, None, None).build(), 87),
        ("the future", BatchBuilder::new().record(NOW + 3_600_001, None, None).build(), 32),
        ("offset delta 4", with_body(&[0, 0, 8, 1, 1, 0]), 87),
        ("key beyond the record", with_body(&[0, 0, 0, 0x7e, 1, 0]), 87),
        ("length -2", with_body(&[0, 0, 0, 3, 1, 0]), 87),
        ("bytes behind the fields", with_body(&[0, 0, 0, 1, 1, 0, 0]), 87),
        ("negative header count", with_body(&[0, 0, 0, 1, 1, 1]), 87),
        ("null header key", with_body(&[0, 0, 0, 1, 1, 2, 1, 1]), 87),
        ("header count beyond the record", with_body(&[0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f]), 87),
        ("unending varint", with_body(&[0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]), 87),
        ("time overflow", with_body(&[0, 254, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 1, 1, 0]), 87),
    ];
    for (name, bytes, want) in cases {
        assert_eq!(code(&bytes), want, "{name}: {:?}", check_produced(&bytes, &limits()));
    }
    let mut damaged = good();
    damaged[62] ^= 1;
    assert_eq!(code(&damaged), 2);
    let size = good().len();
    let tight = |max_message_bytes| BatchLimits { max_message_bytes, ..limits() };
    assert!(check_produced(&good(), &tight(size)).is_ok());
    assert_eq!(check_produced(&good(), &tight(size - 1)).unwrap_err().kafka_code(), 10);
    assert_eq!(
        check_produced(&damaged, &tight(size - 1)).unwrap_err().kafka_code(),
        10,
        "size before checksum"
    );
}

#[test]
fn what_kafka_lets_pass_passes() {
    let good = || BatchBuilder::new().record(NOW, Some(b"k"), Some(b"v")).build();
    for (name, bytes) in [
        ("sequence without producer", with(good(), 53, &0i32.to_be_bytes())),
        ("producer -5", with(good(), 43, &(-5i64).to_be_bytes())),
        (
            "no producer epoch",
            BatchBuilder::new().producer(ProducerId(5), ProducerEpoch(-1), 0).record(NOW, None, None).build(),
        ),
        ("LogAppendTime from a producer", with(good(), 22, &[8])),
        ("no time", BatchBuilder::new().record(NO_TIMESTAMP, None, None).build()),
        ("time before 1970", BatchBuilder::new().record(-9, None, None).build()),
        ("record attributes", with_body(&[7, 0, 0, 1, 1, 0])),
        ("header key that is no text", with_body(&[0, 0, 0, 1, 1, 2, 2, 0xff, 1])),
        ("exactly at the latest time", BatchBuilder::new().record(NOW + 3_600_000, None, None).build()),
    ] {
        assert!(check_produced(&bytes, &limits()).is_ok(), "{name}: {:?}", check_produced(&bytes, &limits()));
    }
}

#[test]
fn a_wrong_max_timestamp_is_corrected() {
    for wrong in [NOW - 99, NOW + 7_200_000, -1] {
        let mut bytes = with(golden(), 35, &wrong.to_be_bytes());
        let summary = check_produced(&bytes, &limits()).unwrap();
        assert_eq!(summary.stamp, Stamp::MaxTimestamp(NOW + 5));
        summary.patch(&mut bytes, 0, LeaderEpoch(-1)).unwrap();
        assert_eq!(bytes, golden());
    }
}

#[test]
fn attributes_that_are_the_brokers_are_taken_out() {
    // The time's type, the delete horizon, and a bit that means nothing.
    for set in [[0, 0x08], [0, 0x40], [0x80, 0]] {
        let mut bytes = with(golden(), 21, &set);
        let summary = check_produced(&bytes, &limits()).unwrap();
        assert_eq!(summary.stamp, Stamp::MaxTimestamp(NOW + 5));
        summary.patch(&mut bytes, 0, LeaderEpoch(-1)).unwrap();
        assert_eq!(bytes, golden(), "{set:?}");
    }
    let stamped = BatchLimits { timestamp_type: TimestampType::LogAppendTime, ..limits() };
    let twice = with(golden(), 22, &[8]);
    assert_eq!(check_produced(&twice, &stamped).unwrap_err().kafka_code(), 32);
    let all: Vec<_> = (0..3).map(|index| (index, BatchError::TimestampType)).collect();
    assert_eq!(refused_records(&twice, &stamped), all);
}

#[test]
fn records_that_are_to_blame_are_named() {
    let late = NOW + 3_600_001;
    let bytes = BatchBuilder::new()
        .record(NOW, None, None)
        .record(NOW, Some(b"k"), None)
        .record(late, Some(b"k"), None)
        .build();
    let keyed = BatchLimits { needs_keys: true, ..limits() };
    let index = |(index, _): &(i32, BatchError)| *index;
    assert_eq!(refused_records(&bytes, &limits()).iter().map(index).collect::<Vec<_>>(), [2]);
    assert_eq!(refused_records(&bytes, &keyed).iter().map(index).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(check_produced(&bytes, &keyed).unwrap_err().kafka_code(), 32, "the time's error is told");
    assert!(refused_records(&bytes[..65], &keyed).is_empty());
}

#[test]
fn the_brokers_fields_are_written_in_place() {
    let mut bytes = golden();
    let summary = check_produced(&bytes, &limits()).unwrap();
    summary.patch(&mut bytes, 1000, LeaderEpoch(7)).unwrap();
    assert_eq!(bytes, golden_builder().at(1000, LeaderEpoch(7)).build());

    let stamped = BatchLimits { timestamp_type: TimestampType::LogAppendTime, now_ms: NOW + 50, ..limits() };
    let mut bytes = golden();
    let summary = check_produced(&bytes, &stamped).unwrap();
    assert_eq!((summary.max_timestamp, summary.log_append_time_ms()), (NOW + 50, NOW + 50));
    summary.patch(&mut bytes, 3, LeaderEpoch(1)).unwrap();
    let (header, range) = Batches::new(&bytes, Crc::Check).next().unwrap().unwrap();
    assert_eq!((header.timestamp_type(), range), (TimestampType::LogAppendTime, 0..bytes.len()));
    assert_eq!((header.base_offset, header.last_offset(), header.leader_epoch), (3, 5, LeaderEpoch(1)));
    let times: Vec<_> = RecordIter::new(&bytes).unwrap().map(|record| record.unwrap().timestamp).collect();
    assert_eq!(times, [NOW + 50; 3]);

    assert!(patch_base(&mut [0; 60], 0, LeaderEpoch(0)).is_err());
    assert!(patch_log_append_time(&mut golden()[..70], 0).is_err());
}

#[test]
fn compressed_batches_are_judged_by_their_header() {
    let future = NOW + 3_600_001;
    let gzip = with(with(golden(), 22, &[1]), 61, &[0x1f, 0x8b]);
    assert_eq!(check_produced(&gzip, &limits()).unwrap().compression, Compression::Gzip);
    assert_eq!(RecordIter::new(&gzip).unwrap_err(), BatchError::Compressed);
    let late = with(gzip, 35, &future.to_be_bytes());
    assert_eq!(check_produced(&late, &limits()).unwrap_err().kafka_code(), 32);
    let stamped = BatchLimits { timestamp_type: TimestampType::LogAppendTime, ..limits() };
    assert!(check_produced(&late, &stamped).is_ok());
}

#[test]
fn a_cut_batch_is_told_from_a_damaged_one() {
    let one = golden_builder().at(0, LeaderEpoch(1)).build();
    let two = golden_builder().at(3, LeaderEpoch(1)).build();
    let mut both = [one.clone(), two].concat();
    for cut in one.len() + 1..both.len() {
        let mut batches = Batches::new(&both[..cut], Crc::Check);
        assert_eq!(batches.next().unwrap().unwrap().1, 0..one.len());
        assert!(matches!(batches.next(), Some(Err(BatchError::Truncated { .. }))), "{cut}");
        assert!(batches.next().is_none());
        assert_eq!(batches.position(), one.len());
    }
    *both.last_mut().unwrap() ^= 1;
    let ends: Vec<_> = Batches::new(&both, Crc::Check).collect();
    assert!(matches!(ends[..], [Ok(_), Err(BatchError::Checksum { .. })]));
    let bases: Vec<_> = Batches::new(&both, Crc::Skip).map(|batch| batch.unwrap().0.base_offset).collect();
    assert_eq!(bases, [0, 3]);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = check_produced(&bytes, &limits());
        let _ = Batches::new(&bytes, Crc::Check).count();
        if let Ok(records) = RecordIter::new(&bytes) {
            let _ = records.count();
        }
    }

    /// Damage behind a right checksum: what the checker accepts, the reader can read to its end.
    #[test]
    fn accepted_batches_are_readable(at in 21usize..98, byte in any::<u8>()) {
        let bytes = with(golden(), at, &[byte]);
        if let Ok(summary) = check_produced(&bytes, &limits())
            && summary.compression == Compression::None
        {
            let records: Vec<_> = RecordIter::new(&bytes).unwrap().collect();
            prop_assert_eq!(records.len(), summary.record_count as usize);
            for (index, record) in records.into_iter().enumerate() {
                let record = record.unwrap();
                prop_assert_eq!(record.offset, index as i64);
                prop_assert!(record.timestamp <= summary.max_timestamp.max(NO_TIMESTAMP));
            }
        }
    }

    #[test]
    fn what_is_built_is_accepted_and_read_back(
        records in proptest::collection::vec(
            (
                0..NOW,
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..4),
            ),
            1..20,
        ),
    ) {
        let mut builder = BatchBuilder::new();
        for (time, key, value, headers) in &records {
            let headers: Vec<(&[u8], Option<&[u8]>)> =
                headers.iter().map(|header| (&header[..], (header.len() % 2 == 0).then_some(&header[..]))).collect();
            builder = builder.record_with_headers(*time, key.as_deref(), value.as_deref(), &headers);
        }
        let bytes = builder.build();
        let summary = check_produced(&bytes, &limits()).unwrap();
        prop_assert_eq!(summary.stamp, Stamp::Keep);
        prop_assert_eq!(Some(summary.max_timestamp), records.iter().map(|record| record.0).max());
        let read: Vec<_> = RecordIter::new(&bytes).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(read.len(), records.len());
        for (read, (time, key, value, headers)) in read.iter().zip(&records) {
            prop_assert_eq!(read.timestamp, *time);
            prop_assert_eq!(read.key, key.as_deref());
            prop_assert_eq!(read.value, value.as_deref());
            let keys: Vec<_> = read.headers.clone().map(|(key, _)| key.to_vec()).collect();
            prop_assert_eq!(&keys, headers);
        }
    }
}
