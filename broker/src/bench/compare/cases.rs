//! The cases: what may become of a record in a compacted topic, one thing each.

use chronik_client::compression::Codec;

use super::workload::{Batch, Case, Left, Round, Sent};

/// Tombstones stay for so long where they must be gone in the second round, in milliseconds.
pub const BRIEF_MS: u64 = 500;
const BRIEF: &str = "500";
/// Longer than any run.
const DAY: &str = "86400000";
/// Between the first round's times and the second one's.
const HOUR: &str = "3600000";

/// What all topics have that do not say otherwise: a log is cleaned as soon as a segment is closed.
pub const SETTINGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.ms", "1000"),
    ("min.cleanable.dirty.ratio", "0"),
    ("delete.retention.ms", DAY),
];

/// Not compared. Its second round is sent when all others' first is cleaned, and the less of a log is dirty the later is its
/// turn: when this is cleaned again, all that could be cleaned is.
pub fn last_look() -> Case {
    let first: Vec<Sent> = (0..100).map(|n| put(&format!("key-{n}"), "that stays")).collect();
    let case =
        Case::new("last-look", [Round::of([Batch::of(first)], Left::Newest), Round::of([], Left::Newest)]);
    case.with(&SETTINGS)
}

/// All of them.
pub fn all() -> Vec<Case> {
    let mut cases = vec![plain(), times(), headers(), many_keys()];
    let codecs =
        [("gzip", Codec::Gzip), ("snappy", Codec::Snappy), ("lz4", Codec::Lz4), ("zstd", Codec::Zstd)];
    cases.extend(codecs.map(|(name, codec)| packed(name, codec)));
    cases.extend([
        tombstones("tombstones-stay", Codec::None, [Left::Newest; 2]),
        tombstones("tombstones-stay-lz4", Codec::Lz4, [Left::Newest; 2]),
        tombstones("tombstones-go", Codec::None, BRIEFLY).with(&[("delete.retention.ms", BRIEF)]),
        tombstones("tombstones-go-zstd", Codec::Zstd, BRIEFLY).with(&[("delete.retention.ms", BRIEF)]),
        overwritten_batches(),
        producers(),
        producers_tombstone(),
        log_append_time(),
        lagging(),
        barely_dirty(),
        compact_and_delete(),
        once_without_keys(),
    ]);
    for case in &mut cases {
        let own = std::mem::take(&mut case.settings);
        let is_own = |name: &str| own.iter().any(|(own, _)| *own == name);
        case.settings = SETTINGS.into_iter().filter(|(name, _)| !is_own(name)).collect();
        case.settings.extend(own);
    }
    cases
}

const BRIEFLY: [Left; 2] = [Left::Unsure, Left::Values];

fn put(key: &str, value: &str) -> Sent {
    Sent::put(key, value)
}

/// Overwritten within a batch and by later ones; the first, the last or any record of a batch goes; a key and a value of no
/// bytes.
fn plain() -> Case {
    let first = [
        Batch::of([put("a", "1"), put("b", "1"), put("a", "2")]),
        Batch::of([put("c", "1")]),
        Batch::of([put("b", "2"), put("", "no key's bytes"), put("d", "1")]),
        Batch::of([put("a", "3"), put("c", ""), put("", "again")]),
        Batch::of([put("e", "never again")]),
    ];
    let second = [Batch::of([put("d", "2"), put("f", "1"), put("a", "4")]), Batch::of([put("f", "2")])];
    Case::new("plain", [Round::of(first, Left::Newest), Round::of(second, Left::Newest)])
}

/// Times that do not ascend: the one that a batch's header tells goes, or stays alone; searching by time.
fn times() -> Case {
    let first = [
        Batch::of([put("late", "1").at(900), put("a", "1").at(100), put("b", "1").at(300)]),
        Batch::of([put("c", "1").at(500), put("a", "2").at(50), put("d", "1").at(700)]),
        Batch::of([put("late", "2").at(200), put("c", "2").at(250)]),
    ];
    let second = [Batch::of([put("d", "2").at(10), put("e", "1").at(5)])];
    Case::new("times", [Round::of(first, Left::Newest), Round::of(second, Left::Newest)])
}

/// A name twice, in order; without a value; without a name's bytes; on records that move within a batch that is written anew.
fn headers() -> Case {
    let dressed = |record: Sent| {
        let record = record.header("h", Some(b"1")).header("h", Some(b"2")).header("n", None);
        record.header("", Some(b"")).header("h", Some(b"1"))
    };
    let first = [
        Batch::of([put("a", "1"), dressed(put("b", "1")), dressed(put("a", "2")), put("c", "1")]),
        Batch::of([dressed(put("d", "1")), dressed(put("c", "2"))]),
        Batch::of([dressed(Sent::tombstone("e"))]),
    ];
    let second = [Batch::of([put("d", "2"), dressed(put("a", "3")), dressed(put("f", "1"))])];
    Case::new("headers", [Round::of(first, Left::Newest), Round::of(second, Left::Newest)])
}

/// Keys in the order of a pseudo-random walk, so that batches lose any of their records.
fn many_keys() -> Case {
    const KEYS: u64 = 4_000;
    let round = |from: u64| {
        let batches = (from..from + 20).map(|batch| {
            let record = |n: u64| {
                let number = batch * 500 + n;
                let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) % KEYS;
                put(&format!("key-{key}"), &format!("value-{number}")).at(number as i64 % 700)
            };
            Batch::of((0..500).map(record).collect::<Vec<_>>())
        });
        Round::of(batches.collect::<Vec<_>>(), Left::Newest)
    };
    Case::new("many-keys", [round(0), round(20)])
}

/// Compressed batches: opened, and written anew with the same codec, but for those that stay whole. A value of several of
/// the codecs' blocks.
fn packed(name: &'static str, codec: Codec) -> Case {
    let large: String = (0..25_000).map(|n| char::from(b'a' + (n * n % 23) as u8)).collect();
    let of = |records: Vec<Sent>| Batch::of(records).packed(codec);
    let first = [
        of(vec![put("a", "1"), put("large", &large), put("b", "1")]),
        of(vec![put("whole", &large), put("alone", &large)]),
        of(vec![put("a", "2"), put("c", "1"), put("c", "2")]),
        of(vec![put("b", "2")]),
        Batch::of([put("c", "not compressed")]),
    ];
    let second = [of(vec![put("a", "3"), put("d", "1")]), of(vec![put("large", "small")])];
    Case::new(name, [Round::of(first, Left::Newest), Round::of(second, Left::Newest)])
}

/// In a batch of their own and among others; twice; overwritten by a value; of a key that never had one.
fn tombstones(name: &'static str, codec: Codec, left: [Left; 2]) -> Case {
    let gone = Sent::tombstone;
    let of = |records: Vec<Sent>| Batch::of(records).packed(codec);
    let first = [
        of(vec![put("a", "1"), put("b", "1"), put("c", "1"), put("d", "1").at(20)]),
        of(vec![gone("a").at(30)]),
        of(vec![gone("b").at(40), put("e", "1").at(45), gone("unknown").at(35)]),
        of(vec![gone("c").at(50), put("f", "1").at(51)]),
        of(vec![gone("c").at(60)]),
        of(vec![gone("d").at(70), put("d", "2").at(71)]),
        of(vec![gone("g").at(80), gone("h").at(81)]),
    ];
    let second = [of(vec![put("e", "2"), put("a", "back")]), of(vec![put("b", "back")])];
    let [left_first, left_second] = left;
    Case::new(name, [Round::of(first, left_first), Round::of(second, left_second)])
}

/// Batches of no producer in particular of which nothing stays: first, in between, several in a row.
fn overwritten_batches() -> Case {
    let of = |value: &str| Batch::of([put("a", value), put("b", value)]);
    let first = [of("1"), of("2"), Batch::of([put("c", "1")]), of("3"), of("4"), Batch::of([put("c", "2")])];
    Case::new("gone-batches", [Round::of(first, Left::Newest), Round::of([of("5")], Left::Newest)])
}

/// Idempotent producers: of each the last batch stays, without records if need be, and with its numbers.
fn producers() -> Case {
    let of = |producer: usize, keys: &[&str]| {
        Batch::of(keys.iter().map(|key| put(key, &format!("of {producer}"))).collect::<Vec<_>>()).by(producer)
    };
    let first = [
        of(0, &["a", "b"]),
        of(1, &["a", "c"]),
        of(0, &["a"]).packed(Codec::Gzip),
        of(2, &["d", "e", "f"]),
        of(1, &["c", "b", "a"]),
        Batch::of([put("a", "of nobody"), put("b", "of nobody")]),
        of(2, &["d", "g"]).packed(Codec::Zstd),
    ];
    let second = [Batch::of([put("c", "of nobody"), put("d", "of nobody"), put("g", "of nobody")])];
    Case::new("producers", [Round::of(first, Left::Newest), Round::of(second, Left::Newest)])
}

/// A producer whose last batch is a tombstone, and goes.
fn producers_tombstone() -> Case {
    let gone = Sent::tombstone;
    let first = [
        Batch::of([put("a", "1"), put("b", "1")]).by(0),
        Batch::of([gone("a").at(10), gone("b").at(20)]).by(0),
        Batch::of([put("c", "1"), gone("d").at(30)]).by(1).packed(Codec::Snappy),
        Batch::of([gone("e").at(40)]).by(2).packed(Codec::Lz4),
    ];
    let rounds = [Round::of(first, Left::Unsure), Round::of([Batch::of([put("c", "2")])], Left::Values)];
    Case::new("producers-tombstone", rounds).with(&[("delete.retention.ms", BRIEF)])
}

/// The broker's clock, in batches that are written anew, and with a delete horizon in the place of their base time.
fn log_append_time() -> Case {
    let first = [
        Batch::of([put("a", "1").at(900), put("b", "1"), put("a", "2").at(-500)]),
        Batch::of([put("b", "2"), Sent::tombstone("c"), put("d", "1")]).packed(Codec::Gzip),
        Batch::of([put("a", "3"), Sent::tombstone("d")]).by(0),
        Batch::of([put("e", "1"), put("f", "1")]).by(1),
    ];
    let second = [Batch::of([put("a", "4"), put("e", "2"), put("f", "2"), put("b", "3")])];
    let rounds = [Round::of(first, Left::Newest), Round::of(second, Left::Newest)];
    Case::new("log-append-time", rounds).with(&[("message.timestamp.type", "LogAppendTime")])
}

/// Too young to be cleaned, until the lag is altered.
fn lagging() -> Case {
    let batches = || [Batch::of([put("a", "1"), put("b", "1")]), Batch::of([put("a", "2")])];
    let second = Round::of(batches(), Left::Newest).altering(&[("min.compaction.lag.ms", "0")]);
    Case::new("min-lag", [Round::of(batches(), Left::Everything), second])
        .with(&[("min.compaction.lag.ms", DAY)])
}

/// All of it is dirty, and more than all is asked for; then a record is dirty for too long.
fn barely_dirty() -> Case {
    let batches = || [Batch::of([put("a", "1"), put("b", "1")]), Batch::of([put("a", "2")])];
    let second = Round::of(batches(), Left::Newest).altering(&[("max.compaction.lag.ms", "1000")]);
    Case::new("dirty-ratio", [Round::of(batches(), Left::Everything), second])
        .with(&[("min.cleanable.dirty.ratio", "1")])
}

/// Compacted first; then everything becomes too old, and the log begins behind it.
fn compact_and_delete() -> Case {
    let first = [Batch::of([put("a", "1"), put("b", "1")]), Batch::of([put("a", "2"), Sent::tombstone("b")])];
    let second = [Batch::of([put("a", "3"), put("c", "1")]), Batch::of([put("c", "2")])];
    let second = Round::of(second, Left::Newest).altering(&[("retention.ms", HOUR)]).emptying();
    Case::new("compact-and-delete", [Round::of(first, Left::Newest), second])
        .with(&[("cleanup.policy", "compact,delete"), ("retention.ms", "-1")])
}

/// A topic that becomes a compacted one: records without a key go, and are refused from then on.
fn once_without_keys() -> Case {
    let first = [
        Batch::of([Sent::keyless("x"), put("a", "1"), Sent::keyless("y")]),
        Batch::of([Sent::keyless("z")]),
        Batch::of([Sent::keyless("of 0")]).by(0),
        Batch::of([Sent::default(), put("a", "2")]).packed(Codec::Gzip),
    ];
    let second = Round::of([Batch::of([put("b", "1")])], Left::Newest);
    let second = second.altering(&[("cleanup.policy", "compact")]);
    Case::new("once-without-keys", [Round::of(first, Left::Everything), second])
        .with(&[("cleanup.policy", "delete"), ("retention.ms", "-1")])
        .refusing([
            Batch::of([Sent::keyless("x")]),
            Batch::of([put("a", "x"), Sent::keyless("x")]).packed(Codec::Zstd),
            Batch::of([Sent::default()]),
        ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_case_has_a_name_of_its_own_and_loses_records() {
        let cases = all();
        let names: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), cases.len());
        for case in &cases {
            let left = case.left(1).map(|left| left.len() as i64);
            assert!(left.is_some_and(|left| left < case.end(1) - case.start(1)), "{}", case.name);
            let settings: BTreeSet<&str> = case.settings.iter().map(|(name, _)| *name).collect();
            assert_eq!(settings.len(), case.settings.len(), "{}", case.name);
        }
    }

    #[test]
    fn brief_is_the_time_that_is_waited_for() {
        assert_eq!(BRIEF.parse(), Ok(BRIEF_MS));
    }
}
