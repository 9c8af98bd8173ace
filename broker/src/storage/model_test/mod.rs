//! The storage of a broker against a model of a Kafka log: whatever is done to topics, and whenever the broker crashes,
//! every offset reads as the model says.
//!
//! `CHRONIK_MODEL_CASES` sets how many courses are tried. A course that fails is cut down to the operations that it
//! takes, and printed: it becomes a test with a name of its own in `found.rs`.

mod course;
mod found;
mod model;

use proptest::prelude::*;

use self::course::Course;
use super::testing::Debris;

/// As many as a run of all tests can afford.
const CASES: u32 = 150;
const TOPICS: usize = 2;

/// What a topic is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Records go by their age.
    Aged,
    /// Records go by the log's size.
    Sized,
    Compacted,
    /// Compacted, and records go by age and size as well.
    Both,
}

/// A record to be sent. What it holds is made up when it is.
#[derive(Clone, Copy, Debug)]
struct NewRecord {
    /// Without one, a compacted topic gives it up.
    key: Option<u8>,
    /// `None`: a tombstone.
    value_bytes: Option<u16>,
    /// How old it claims to be, ms; below 0, of the future. `None`: it has no time.
    age_ms: Option<i64>,
}

/// A batch to be sent. Sequence and epoch are relative to what its producer's next would be; producer 0 is not idempotent.
#[derive(Clone, Debug)]
struct NewBatch {
    producer: i64,
    sequence: i32,
    epoch: i16,
    transactional: bool,
    codec: u8,
    records: Vec<NewRecord>,
}

/// Numbers are taken modulo what there is to choose from.
#[derive(Clone, Debug)]
enum Op {
    /// Batches are sent at once, and their acknowledgements waited for.
    Produce {
        topic: usize,
        batches: Vec<NewBatch>,
    },
    /// A producer's transaction ends, if it is in one. Epochs are relative to the last ones.
    End {
        topic: usize,
        producer: i64,
        commit: bool,
        epoch: i16,
        coordinator: i32,
    },
    /// A batch comes again.
    Retry {
        topic: usize,
        which: usize,
    },
    DeleteRecords {
        topic: usize,
        up_to: i64,
    },
    /// Memory is needed elsewhere.
    Evict {
        topic: usize,
        bytes: usize,
    },
    /// Records are copied into segments, without a checkpoint. The attempt fails when a file is to be begun so many
    /// batches on; or records are deleted after so many chunks.
    Copy {
        topic: usize,
        fails_after: Option<usize>,
        meanwhile: Option<(usize, i64)>,
    },
    Checkpoint {
        copies: bool,
        fails: bool,
    },
    /// Time passes, and retention looks at all topics.
    Retain {
        after_ms: i64,
    },
    /// Whatever partition needs it most is compacted. Records are deleted while it is at it; it fails at some segment.
    Compact {
        meanwhile: Option<i64>,
        fails_at: Option<usize>,
    },
    Configure {
        topic: usize,
        kind: Kind,
    },
    /// A topic is deleted, and there is another one of its name.
    Recreate {
        topic: usize,
    },
    /// A stop in good order, and a start.
    Restart,
    /// The broker is gone from one moment to the next. Of the batches that are under way, any number may have arrived.
    Crash {
        under_way: Vec<(usize, NewBatch)>,
        debris: Debris,
    },
}

fn records() -> impl Strategy<Value = Vec<NewRecord>> {
    let key = prop_oneof![6 => (0u8..5).prop_map(Some), 1 => Just(None)];
    let value =
        prop_oneof![2 => Just(None), 8 => (0u16..200).prop_map(Some), 1 => (900u16..2500).prop_map(Some)];
    let age = prop_oneof![9 => (-100_000i64..900_000).prop_map(Some), 1 => Just(None)];
    let record = (key, value, age);
    proptest::collection::vec(
        record.prop_map(|(key, value_bytes, age_ms)| NewRecord { key, value_bytes, age_ms }),
        1..4,
    )
}

fn batch() -> impl Strategy<Value = NewBatch> {
    let slip = prop_oneof![12 => Just(0), 1 => Just(1), 1 => Just(-1)];
    (0i64..4, slip.clone(), slip, any::<bool>(), 0u8..5, records()).prop_map(
        |(producer, sequence, epoch, transactional, codec, records)| {
            // A batch has a time or has none.
            let timeless = records[0].age_ms.is_none();
            let age_ms = |record: NewRecord| if timeless { None } else { record.age_ms.or(Some(0)) };
            let records = records.into_iter().map(|r| NewRecord { age_ms: age_ms(r), ..r }).collect();
            NewBatch { producer, sequence, epoch: epoch as i16, transactional, codec, records }
        },
    )
}

fn debris() -> impl Strategy<Value = Debris> {
    let filling = prop_oneof![Just(None), Just(Some(0)), Just(Some(0xee))];
    (any::<bool>(), any::<bool>(), any::<bool>(), filling).prop_map(
        |(behind_segments, unknown_files, indexes_lost, wal_filled_with)| Debris {
            behind_segments,
            unknown_files,
            indexes_lost,
            wal_filled_with,
        },
    )
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let topic = || 0..TOPICS;
    let rarely = |n: std::ops::Range<usize>| proptest::option::weighted(0.25, n);
    let kind = prop_oneof![Just(Kind::Aged), Just(Kind::Sized), Just(Kind::Compacted), Just(Kind::Both)];
    let meanwhile = proptest::option::weighted(0.25, any::<i64>());
    let slip = || prop_oneof![8 => Just(0), 1 => Just(1), 1 => Just(-1)];
    let op = prop_oneof![
        10 => (topic(), proptest::collection::vec(batch(), 1..5))
            .prop_map(|(topic, batches)| Op::Produce { topic, batches }),
        5 => (topic(), 1i64..4, any::<bool>(), slip(), slip()).prop_map(
            |(topic, producer, commit, epoch, coordinator)| {
                Op::End { topic, producer, commit, epoch: epoch as i16, coordinator }
            }
        ),
        2 => (topic(), any::<usize>()).prop_map(|(topic, which)| Op::Retry { topic, which }),
        2 => (topic(), any::<i64>()).prop_map(|(topic, up_to)| Op::DeleteRecords { topic, up_to }),
        2 => (topic(), 0usize..8000).prop_map(|(topic, bytes)| Op::Evict { topic, bytes }),
        4 => (topic(), rarely(0..6), proptest::option::weighted(0.3, (0usize..4, any::<i64>())))
            .prop_map(|(topic, fails_after, meanwhile)| Op::Copy { topic, fails_after, meanwhile }),
        3 => (any::<bool>(), prop_oneof![4 => Just(false), 1 => Just(true)])
            .prop_map(|(copies, fails)| Op::Checkpoint { copies, fails }),
        2 => (0i64..500_000).prop_map(|after_ms| Op::Retain { after_ms }),
        4 => (meanwhile, rarely(0..4)).prop_map(|(meanwhile, fails_at)| Op::Compact { meanwhile, fails_at }),
        1 => (topic(), kind).prop_map(|(topic, kind)| Op::Configure { topic, kind }),
        1 => topic().prop_map(|topic| Op::Recreate { topic }),
        1 => Just(Op::Restart),
        3 => (proptest::collection::vec((topic(), batch()), 0..4), debris())
            .prop_map(|(under_way, debris)| Op::Crash { under_way, debris }),
    ];
    proptest::collection::vec(op, 1..40)
}

fn cases() -> u32 {
    std::env::var("CHRONIK_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    })]

    /// Invariants 1, 9, 10 and 11, as far as one broker can break them: what was acknowledged is there, at its offset and
    /// with its bytes, until retention, DeleteRecords or compaction may take it, and then for good.
    #[test]
    fn the_storage_does_as_the_model(ops in ops()) {
        Course::run(&ops);
    }
}
