//! Courses that have failed once, cut down to what it took.

use super::course::Course;
use super::{NewBatch, NewRecord, Op};
use crate::storage::testing::Debris;

fn batch(producer: i64, records: &[(u8, u16)]) -> NewBatch {
    let record =
        |(key, bytes): &(u8, u16)| NewRecord { key: Some(*key), value_bytes: Some(*bytes), age_ms: Some(0) };
    let records = records.iter().map(record).collect();
    NewBatch { producer, sequence: 0, epoch: 0, transactional: false, codec: 0, records }
}

fn crash() -> Op {
    Op::Crash { under_way: Vec::new(), debris: Debris::default() }
}

/// The producers' state of the checkpoint ended within the batch, and did not know it: after the crash, the batch was taken
/// for a new one when it came again.
#[test]
fn a_batch_is_recognised_although_records_were_deleted_up_to_its_middle() {
    Course::run(&[
        Op::Produce { topic: 0, batches: vec![batch(1, &[(0, 10); 3])] },
        Op::DeleteRecords { topic: 0, up_to: 2 },
        Op::Checkpoint { copies: false, fails: false },
        crash(),
        Op::Retry { topic: 0, which: 0 },
    ]);
}

/// A pass of compaction that failed halfway had replaced files, whose old records were read still while they were in memory,
/// and not any more once they were not.
#[test]
fn what_a_broken_pass_has_compacted_is_not_read_from_memory() {
    Course::run(&[
        Op::Produce { topic: 1, batches: vec![batch(0, &[(3, 10), (0, 1800)])] },
        Op::Produce { topic: 1, batches: vec![batch(0, &[(0, 900), (1, 900)])] },
        Op::Copy { topic: 1, fails_after: None, meanwhile: None },
        Op::Retain { after_ms: 400_001 },
        Op::Compact { meanwhile: None, fails_at: Some(1) },
    ]);
}
