//! What the model test does not reach: refusals, what recovery may hand over, and searches in compressed batches.

use bytes::Bytes;

use super::*;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, WalPosition};
use crate::record_batch::{
    BatchBuilder, BatchHeader, BatchLimits, BatchSummary, Origin, TimestampType, check_produced, patch_base,
};

fn limits(timestamp_type: TimestampType, now_ms: i64) -> BatchLimits {
    BatchLimits {
        max_message_bytes: 1 << 20,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        timestamp_type,
        now_ms,
        needs_keys: false,
        origin: Origin::Client,
    }
}

fn summary(builder: BatchBuilder) -> BatchSummary {
    check_produced(&builder.build(), &limits(TimestampType::CreateTime, 0)).unwrap()
}

fn plain() -> BatchSummary {
    summary(BatchBuilder::new().record(7, None, None).record(8, None, None))
}

fn leading() -> PartitionLog {
    let mut log = PartitionLog::empty(10);
    log.become_leader(LeaderEpoch(3)).unwrap();
    log
}

/// A run of one batch of two records.
fn run(base_offset: Offset) -> Run {
    let mut batch = BatchBuilder::new().record(7, None, None).record(8, None, None).build();
    patch_base(&mut batch, base_offset, LeaderEpoch(3)).unwrap();
    let span = WalSpan { position: WalPosition(0), len: batch.len() as u32 };
    Run { base_offset, last_offset: base_offset + 1, span, max_timestamp: 8, bytes: Some(batch.into()) }
}

#[test]
fn the_high_watermark_is_what_all_have_flushed() {
    assert_eq!(high_watermark(0, 10, &[]), 10, "alone");
    assert_eq!(high_watermark(0, 10, &[12, 7]), 7);
    assert_eq!(high_watermark(0, 10, &[12, 11]), 10, "the leader counts as well");
    assert_eq!(high_watermark(9, 10, &[7]), 9, "it never goes back");
}

#[test]
fn only_a_leader_appends_and_terms_only_grow() {
    let mut log = PartitionLog::empty(10);
    assert_eq!(log.append(&plain(), 0).unwrap_err().kafka_code(), 6);
    log.become_leader(LeaderEpoch(3)).unwrap();
    assert_eq!(log.become_leader(LeaderEpoch(3)), Ok(()), "told twice");
    assert_eq!(log.become_leader(LeaderEpoch(2)).unwrap_err().kafka_code(), 74);
    assert!(log.append(&plain(), 0).is_ok());
    log.resign();
    assert_eq!((log.leading(), log.append(&plain(), 0)), (None, Err(AppendError::NotLeader)));
    assert!(log.become_leader(LeaderEpoch(3)).is_err());
    log.become_leader(LeaderEpoch(5)).unwrap();
    let starts: Vec<_> =
        log.leader_epochs().entries().iter().map(|entry| (entry.epoch.0, entry.start_offset)).collect();
    assert_eq!(starts, [(3, 0), (5, 2)]);
}

#[test]
fn log_append_time_is_answered_and_kept_for_duplicates() {
    let mut log = leading();
    let builder = BatchBuilder::new().producer(ProducerId(1), ProducerEpoch(0), 0).record(7, None, None);
    let bytes = builder.build();
    let batch = check_produced(&bytes, &limits(TimestampType::LogAppendTime, 500)).unwrap();
    let appended = log.append(&batch, 500).unwrap();
    let leader_epoch = LeaderEpoch(3);
    assert_eq!(appended, Appended::New { base_offset: 0, last_offset: 0, leader_epoch, append_time_ms: 500 });
    let again = check_produced(&bytes, &limits(TimestampType::LogAppendTime, 900)).unwrap();
    let appended = log.append(&again, 900).unwrap();
    assert_eq!(appended, Appended::Duplicate { base_offset: 0, last_offset: 0, append_time_ms: 500 });
}

#[test]
fn a_duplicate_waits_for_its_original() {
    let mut log = leading();
    log.append(&plain(), 0).unwrap();
    assert!(!log.duplicate_is_durable(1));
    #[cfg(feature = "planted-bugs")]
    {
        log.answer_duplicates_early = true;
        assert!(log.duplicate_is_durable(1));
        log.answer_duplicates_early = false;
    }
    log.durable(run(0)).unwrap();
    assert!(log.duplicate_is_durable(1));
    assert!(!log.duplicate_is_durable(2));
}

#[test]
fn flushes_come_in_order_and_of_what_was_appended() {
    let mut log = leading();
    assert!(log.durable(run(0)).is_err(), "never appended");
    log.append(&plain(), 0).unwrap();
    log.append(&plain(), 0).unwrap();
    assert!(log.durable(run(2)).is_err(), "not the next");
    assert_eq!(log.durable(run(0)), Ok(Advanced { durable_end: 2, high_watermark: 2 }));
    assert!(log.in_segments(3).is_err(), "not flushed yet");
    assert_eq!(log.log_start_to(3).unwrap_err().kafka_code(), 1, "beyond the high watermark");
    log.log_start_to(2).unwrap();
    assert_eq!((log.segment_end(), log.tail().start()), (2, 2), "what is deleted holds no WAL file");
    assert!(matches!(log.read(&at(1)), Err(error) if error.kafka_code() == 1));
    assert!(matches!(log.read(&at(2)), Ok(ReadPlan::Empty)), "assigned, not flushed");
    assert!(matches!(log.read(&at(4)), Ok(ReadPlan::Empty)));
    assert!(log.read(&at(5)).is_err());
}

fn at(from: Offset) -> ReadRequest {
    ReadRequest { from, max_bytes: 1 << 20, at_least_one: true, up_to: ReadUpTo::HighWatermark }
}

fn recovered() -> Recovered {
    let mut leader_epochs = LeaderEpochs::default();
    leader_epochs.assign(LeaderEpoch(3), 0);
    Recovered {
        log_start: 0,
        segment_end: 2,
        high_watermark: 4,
        log_end: 4,
        leader_epochs,
        producers: ProducerStateMap::new(4, 10),
        transactions: EndedTransactions::default(),
        runs: vec![run(0), run(2)],
    }
}

#[test]
fn recovery_may_not_contradict_itself() {
    let log = PartitionLog::new(recovered()).unwrap();
    assert!(matches!(log.read(&at(0)), Ok(ReadPlan::Memory(slices)) if slices.len() == 2));
    assert_eq!(log.max_timestamp(), Some((8, 0)));
    for (what, broken) in [
        ("start beyond segments", Recovered { log_start: 3, ..recovered() }),
        ("segments beyond the end", Recovered { segment_end: 5, ..recovered() }),
        ("negative start", Recovered { log_start: -1, ..recovered() }),
        ("high watermark beyond the end", Recovered { high_watermark: 5, ..recovered() }),
        ("high watermark deleted", Recovered { high_watermark: 0, log_start: 1, ..recovered() }),
        ("end not reached", Recovered { runs: vec![run(0)], ..recovered() }),
        ("no runs", Recovered { runs: vec![], ..recovered() }),
        ("a hole before the runs", Recovered { segment_end: 1, runs: vec![run(2)], ..recovered() }),
        ("a hole between runs", Recovered { runs: vec![run(0), run(3)], ..recovered() }),
        ("producers of another end", Recovered { producers: ProducerStateMap::new(3, 10), ..recovered() }),
        ("epochs beyond the end", {
            let mut leader_epochs = LeaderEpochs::default();
            leader_epochs.assign(LeaderEpoch(3), 5);
            Recovered { leader_epochs, ..recovered() }
        }),
    ] {
        assert!(PartitionLog::new(broken).is_err(), "{what}");
    }
}

#[test]
fn followers_see_beyond_the_high_watermark_and_consumers_do_not() {
    let log = PartitionLog::new(Recovered { high_watermark: 2, ..recovered() }).unwrap();
    let slices = |up_to| match log.read(&ReadRequest { up_to, ..at(0) }) {
        Ok(ReadPlan::Memory(slices)) => slices.len(),
        plan => panic!("{plan:?}"),
    };
    assert_eq!((slices(ReadUpTo::HighWatermark), slices(ReadUpTo::DurableEnd)), (1, 2));
    let split = PartitionLog::new(Recovered { high_watermark: 1, ..recovered() }).unwrap();
    assert!(matches!(split.read(&at(0)), Ok(ReadPlan::Empty)), "half a batch is not committed");
}

#[test]
fn a_search_does_not_open_compressed_batches() {
    let mut bytes =
        BatchBuilder::new().at(10, LeaderEpoch(1)).record(7, None, None).record(9, None, None).build();
    bytes[22] = 4;
    let bytes = Bytes::from(bytes);
    assert_eq!(BatchHeader::parse(&bytes).unwrap().last_offset(), 11);
    let find =
        |target, from| find_timestamp(&bytes, target, from, 12).map(|found| (found.timestamp, found.offset));
    assert_eq!(find(7, 0), Some((7, 10)), "its first record");
    assert_eq!(find(8, 0), Some((9, 10)), "somewhere in it");
    assert_eq!(find(8, 11), Some((9, 11)));
    assert_eq!(find(10, 0), None);
    assert_eq!(find_timestamp(&bytes, 7, 0, 11), None, "not all of it is visible");
    assert_eq!(find_timestamp(&bytes[..70], 7, 0, 12), None, "cut short");
}
