//! What a producer may send as a record batch, and what readers of batches do with it. Nothing may panic,
//! and what is accepted must be readable.

#![no_main]

use bytes::Bytes;
use chronik_client::compression;
use chronik_core::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use chronik_core::log::{find_timestamp, trim_run};
use chronik_core::record_batch::{
    BatchBuilder, BatchLimits, Batches, Compression, Crc, Origin, RecordIter, TimestampType, check_produced,
};
use chronik_fuzz::seeds;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_all(seeds()), |data| run(data));

fn seeds() -> Vec<Vec<u8>> {
    let plain = BatchBuilder::new().record(5, Some(b"key"), Some(b"value")).record(6, None, None);
    let idempotent =
        BatchBuilder::new().producer(ProducerId(1), ProducerEpoch(0), 7).record(5, None, Some(b"v"));
    vec![plain.build(), idempotent.build()]
}

fn run(data: &[u8]) {
    // A mutated batch seldom has the right checksum: give it one, so that what lies behind is reached too.
    let mut data = data.to_vec();
    if data.len() > 21 && data[0] & 1 == 0 {
        let crc = crc32c::crc32c(&data[21..]).to_be_bytes();
        data[17..21].copy_from_slice(&crc);
    }
    let limits = BatchLimits {
        max_message_bytes: 1 << 20,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        timestamp_type: TimestampType::CreateTime,
        now_ms: 1_000_000,
        needs_keys: false,
        origin: Origin::Client,
    };
    if let Ok(summary) = check_produced(&data, &limits) {
        let mut stored = data.clone();
        summary.patch(&mut stored, 100, LeaderEpoch(3)).expect("an accepted batch can be patched");
        let (header, range) =
            Batches::new(&stored, Crc::Check).next().expect("a batch").expect("a whole one");
        assert_eq!((header.base_offset, range.end), (100, stored.len()));
        if summary.compression == Compression::None {
            let records = RecordIter::new(&stored).expect("uncompressed");
            assert_eq!(records.map(|r| r.expect("readable")).count(), summary.record_count as usize);
        }
    }
    for batch in Batches::new(&data, Crc::Skip) {
        let Ok((_, range)) = batch else { break };
        let batch = Bytes::copy_from_slice(&data[range]);
        if let Ok(opened) = compression::opened(&batch)
            && let Ok(records) = RecordIter::new(&opened)
        {
            records.take(10_000).count();
        }
    }
    let bytes = Bytes::from(data);
    find_timestamp(&bytes, 5, 0, i64::MAX);
    assert!(trim_run(&bytes, 0, 1000, true, i64::MAX).len() <= bytes.len());
}
