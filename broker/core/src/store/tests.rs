use std::collections::BTreeMap;

use super::checkpoint::{Checkpoint, CheckpointError, PartitionState, SegmentState};
use super::replay::Replay;
use crate::ids::{LeaderEpoch, ProducerEpoch, ProducerId, TopicId, TopicIdPartition, Uuid, WalPosition};
use crate::log::{AbortedTransaction, EndMarker};
use crate::record_batch::{BatchBuilder, BatchHeader, Verified, patch_base};
use crate::wal::format::{EntryKind, GroupHeader, Item};
use crate::wal::recovery::{FoundGroup, Hole, Row};

fn tp(partition: i32) -> TopicIdPartition {
    TopicIdPartition { topic_id: TopicId(Uuid::from_u128(1)), partition }
}

fn checkpoint(segment_end: i64) -> Checkpoint {
    let mut leader_epochs = crate::log::LeaderEpochs::default();
    leader_epochs.assign(LeaderEpoch(2), 0);
    let state = PartitionState {
        log_start: 0,
        segment_end,
        segments: vec![SegmentState {
            bytes: 900,
            end_offset: segment_end,
            max_timestamp: 7,
            verified_ms: 5,
            revision: 3,
            ..SegmentState::begun(0)
        }],
        leader_epochs,
        producers: Vec::new(),
        aborted: Vec::new(),
        cleaned_to: 2,
        fenced: None,
    };
    Checkpoint { position: WalPosition(8192), partitions: BTreeMap::from([(tp(0), state)]) }
}

#[test]
fn a_checkpoint_reads_back_and_damage_is_noticed() {
    let mut c = checkpoint(3);
    if let Some(p) = c.partitions.get_mut(&tp(0)) {
        p.producers = crate::log::ProducerStateMap::new(3, 10).encode();
        p.fenced = Some("why".to_string());
        p.aborted = vec![aborted(5, 0, 2, 1), aborted(6, 1, 4, 5)];
    }
    let bytes = c.encode();
    assert_eq!(Checkpoint::decode(&bytes).unwrap(), c);
    for at in [3, 12, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(Checkpoint::decode(&damaged).is_err(), "flip at {at}");
    }
    assert!(matches!(Checkpoint::decode(b""), Err(CheckpointError::NoCrc)));
}

fn aborted(
    producer: i64,
    first_offset: i64,
    last_offset: i64,
    last_stable_offset: i64,
) -> AbortedTransaction {
    AbortedTransaction { producer_id: ProducerId(producer), first_offset, last_offset, last_stable_offset }
}

/// A broker that knew nothing of verification has written it.
#[test]
fn a_checkpoint_without_times_of_verification_is_read() {
    let mut c = checkpoint(3);
    let text = String::from_utf8(c.encode()).unwrap();
    let json = text.split_once('\n').unwrap().1.replace("\"verified_ms\":5,", "");
    assert!(!json.contains("verified_ms"));
    let old = format!("crc32c={:08x}\n{json}", crc32c::crc32c(json.as_bytes()));
    for state in c.partitions.values_mut().flat_map(|p| &mut p.segments) {
        state.verified_ms = -1;
    }
    assert_eq!(Checkpoint::decode(old.as_bytes()).unwrap(), c);
    assert_eq!(c.encode(), old.as_bytes(), "what is unknown takes no room");
}

/// A broker that knew nothing of transactions has written it.
#[test]
fn a_checkpoint_of_the_version_before_is_read() {
    let c = checkpoint(3);
    let text = String::from_utf8(c.encode()).unwrap();
    let json = text.split_once('\n').unwrap().1.replace("\"version\":3", "\"version\":2");
    assert!(json.contains("\"version\":2") && !json.contains("aborted"));
    let old = format!("crc32c={:08x}\n{json}", crc32c::crc32c(json.as_bytes()));
    assert_eq!(Checkpoint::decode(old.as_bytes()).unwrap(), c);
}

fn item(partition: i32, first: i64, last: i64, body_len: u32) -> Item {
    let (kind, leader_epoch) = (EntryKind::Append, LeaderEpoch(3));
    let records = (last - first + 1) as u32;
    Item { kind, tp: tp(partition), first, last, leader_epoch, body_at: 0, body_len, records }
}

struct Feed(Replay);

impl Feed {
    fn append(&mut self, partition: i32, first: i64, sequence: i32) {
        let batch = BatchBuilder::new()
            .at(first, LeaderEpoch(3))
            .producer(ProducerId(5), ProducerEpoch(0), sequence)
            .record(10, None, Some(b"v"))
            .build();
        let items = [item(partition, first, first, batch.len() as u32)];
        self.items(&items, &batch);
    }

    fn items(&mut self, items: &[Item], bytes: &[u8]) {
        let header = GroupHeader {
            generation: 1,
            position: WalPosition(8192),
            durable: WalPosition(0),
            group_len: 4096,
            payload_len: bytes.len() as u32,
            items: items.len() as u32,
            payload_crc: 0,
        };
        let group = FoundGroup { header, items, bytes, slot: 0, file_offset: 8192 };
        self.0.group(&group, &mut |_| None);
    }

    fn hole(&mut self, named: Option<Vec<Item>>) {
        let row = if named.is_some() { Row::CorruptNamedByHead } else { Row::CorruptUnnamed };
        let (start, end) = (WalPosition(0), WalPosition(4096));
        self.0.hole(&Hole { start, end, named, row, place: Some((0, 8192)) });
    }
}

fn feed(segment_end: i64) -> Feed {
    Feed(Replay::new(checkpoint(segment_end), 10).unwrap())
}

#[test]
fn replay_over_newer_segments_changes_nothing_and_goes_on_behind_them() {
    let mut f = feed(2);
    for (offset, sequence) in [(0, 0), (1, 1), (2, 2), (3, 3)] {
        f.append(0, offset, sequence);
    }
    let (mut partitions, blind) = f.0.finish();
    let p = partitions.remove(&tp(0)).unwrap();
    assert_eq!((p.log.segment_end, p.log.log_end, p.log.runs.len()), (2, 4, 2));
    assert_eq!((p.fenced, blind, p.log.producers.len()), (None, None, 1));
    assert!(p.segment_producers.is_empty(), "the segments' own state is not the log's");
    assert_eq!(p.log.leader_epochs.entries().len(), 2);
    crate::log::PartitionLog::new(p.log).unwrap();
}

/// A log start may lie within a run, and the segments' end with it.
#[test]
fn a_run_that_begins_before_the_segments_end_is_no_gap() {
    let mut f = feed(3);
    let three = (0..3).fold(BatchBuilder::new().at(2, LeaderEpoch(3)), |b, _| b.record(10, None, Some(b"v")));
    let bytes = three.producer(ProducerId(5), ProducerEpoch(0), 0).build();
    f.items(&[item(0, 2, 4, bytes.len() as u32)], &bytes);
    f.append(0, 5, 3);
    let (mut partitions, _) = f.0.finish();
    let p = partitions.remove(&tp(0)).unwrap();
    assert_eq!((p.fenced, p.log.segment_end, p.log.log_end, p.log.runs.len()), (None, 3, 6, 2));
    crate::log::PartitionLog::new(p.log).unwrap();
}

/// What a checkpoint keeps of producers then must not end before that batch: the log does not tell of it again.
#[test]
fn a_log_start_within_a_batch_keeps_its_producers_sequence() {
    let three = (0..3).fold(BatchBuilder::new().at(2, LeaderEpoch(3)), |b, _| b.record(10, None, Some(b"v")));
    let bytes = three.producer(ProducerId(5), ProducerEpoch(0), 0).build();
    let header = BatchHeader::parse(&bytes).unwrap();
    let mut log = crate::log::ProducerStateMap::new(0, 10);
    log.apply(&header, None, 10);
    let mut before = checkpoint(3);
    before.partitions.get_mut(&tp(0)).unwrap().producers = log.truncated(3, &Default::default()).encode();
    let mut f = Feed(Replay::new(before, 10).unwrap());
    f.items(&[item(0, 2, 4, bytes.len() as u32)], &bytes);
    let p = f.0.finish().0.remove(&tp(0)).unwrap();
    let again = crate::log::Checked::Duplicate { base_offset: 2, last_offset: 4, append_time_ms: 10 };
    assert_eq!((p.log.producers.check(&header, None, Verified::Not), p.log.log_end), (Ok(again), 5));
}

/// Producer 5 began before the checkpoint, whose state knows it, and ended behind it. Of producer 6 the checkpoint knows an
/// aborted transaction, whose marker the log still has; it began another one.
#[test]
fn transactions_are_what_the_checkpoint_and_the_log_say_together() {
    let batch = |producer: i64, offset: i64| {
        let builder = BatchBuilder::new().at(offset, LeaderEpoch(3)).transactional();
        let builder = builder.producer(ProducerId(producer), ProducerEpoch(0), offset as i32);
        builder.record(10, None, Some(b"v")).build()
    };
    let end = |producer: i64, offset: i64, commit: bool| {
        let (producer_id, producer_epoch) = (ProducerId(producer), ProducerEpoch(0));
        let mut bytes = EndMarker { producer_id, producer_epoch, coordinator_epoch: 7, commit }.batch(10);
        patch_base(&mut bytes, offset, LeaderEpoch(3)).unwrap();
        bytes
    };
    let log = [batch(6, 0), batch(5, 1), end(6, 2, false), batch(6, 3), end(5, 4, false), batch(6, 5)];
    let mut producers = crate::log::ProducerStateMap::new(0, 10);
    let mut known = Vec::new();
    for bytes in &log[..3] {
        let header = BatchHeader::parse(bytes).unwrap();
        let ended = producers.apply(&header, EndMarker::of(&header, bytes).as_ref(), 10);
        known.extend(ended.map(|ended| ended.transaction));
    }
    let mut before = checkpoint(3);
    let state = before.partitions.get_mut(&tp(0)).unwrap();
    (state.producers, state.aborted) = (producers.encode(), known);
    let mut f = Feed(Replay::new(before, 10).unwrap());
    for (offset, bytes) in (0..).zip(&log) {
        f.items(&[item(0, offset, offset, bytes.len() as u32)], bytes);
    }
    let p = f.0.finish().0.remove(&tp(0)).unwrap();
    let log = crate::log::PartitionLog::new(p.log).unwrap();
    assert_eq!(log.aborted_between(0, 9), [aborted(6, 0, 2, 1), aborted(5, 1, 4, 3)]);
    assert_eq!((log.last_stable_offset(), log.high_watermark()), (3, 6));
    assert!(log.has_ongoing(ProducerId(6), ProducerEpoch(0)));
    assert!(!log.has_ongoing(ProducerId(5), ProducerEpoch(0)));
}

#[test]
fn a_log_start_in_a_damaged_group_still_counts() {
    let mut f = feed(3);
    f.hole(Some(vec![Item { kind: EntryKind::LogStart, ..item(0, 2, 2, 0) }]));
    f.append(0, 3, 0);
    let p = f.0.finish().0.remove(&tp(0)).unwrap();
    assert_eq!((p.fenced, p.log.log_start, p.log.log_end), (None, 2, 4));
}

#[test]
fn a_gap_fences() {
    let mut f = feed(2);
    f.append(0, 5, 0);
    let (partitions, _) = f.0.finish();
    let p = &partitions[&tp(0)];
    assert!(p.fenced.as_ref().unwrap().contains("offsets 2 to 4 are missing"), "{:?}", p.fenced);
    assert_eq!((p.salvaged.len(), p.log.log_end), (1, 6));
}

#[test]
fn a_named_hole_fences_only_whom_it_names_and_only_if_the_segments_lack_it() {
    let mut f = feed(2);
    f.append(1, 0, 0);
    f.hole(Some(vec![item(0, 0, 1, 10), item(1, 1, 1, 10)]));
    f.append(0, 2, 0);
    f.append(1, 2, 1);
    let (partitions, blind) = f.0.finish();
    assert_eq!((&partitions[&tp(0)].fenced, blind), (&None, None), "its part is in segments");
    let p = &partitions[&tp(1)];
    assert!(p.fenced.as_ref().unwrap().contains("WAL file 0 at byte 8192"), "{:?}", p.fenced);
    assert_eq!(p.salvaged.len(), 2);
}

#[test]
fn after_an_unnamed_hole_only_those_who_go_on_without_a_gap_are_served() {
    let mut f = feed(2);
    f.append(1, 0, 0);
    f.hole(None);
    f.append(0, 2, 0);
    f.append(2, 0, 0);
    f.append(3, 1, 0);
    let (partitions, blind) = f.0.finish();
    let fenced: Vec<bool> = (0..4).map(|n| partitions[&tp(n)].fenced.is_some()).collect();
    assert_eq!(fenced, [false, true, false, true]);
    assert!(blind.is_some(), "partitions that were not seen at all cannot be trusted either");
}

#[test]
fn a_deleted_partition_does_not_come_back() {
    let mut f = feed(2);
    f.append(0, 2, 0);
    f.items(&[Item { kind: EntryKind::PartitionDeleted, ..item(0, 0, 0, 0) }], &[]);
    f.append(0, 3, 1);
    assert!(f.0.finish().0.is_empty());
}
