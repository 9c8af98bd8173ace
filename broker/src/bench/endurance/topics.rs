//! The topics of the endurance load, and the shape of each record: all of it follows from partition and offset, so that
//! nothing has to be remembered for the checking.

use std::time::Duration;

use chronik_client::compression::Codec;
use chronik_client::{NewTopic, Record};

use crate::bench::payload::{Mark, VALUE_BYTES_MIN, next};

const MIB: u64 = 1 << 20;
/// The least that Kafka allows (KIP-1030).
pub const SEGMENT_BYTES: u64 = MIB;
/// From which size the oldest segments of a `sized` partition go.
pub const RETENTION_BYTES: u64 = 2 * MIB;
/// Keys of each compacted partition.
pub const KEYS: u64 = 40;
/// One partition in so many gets most of the load.
const HOT_IN: usize = 32;

/// What deletes the records of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `retention.bytes`.
    Sized,
    /// Compaction.
    Keyed,
    /// `retention.ms`.
    Aged,
    /// Compaction and `retention.ms`.
    Both,
}

impl Kind {
    /// Whether compaction may take single records.
    pub fn compacts(self) -> bool {
        matches!(self, Self::Keyed | Self::Both)
    }
}

/// One for each kind and profile.
const TOPICS: [(Kind, &str, &str); 9] = [
    (Kind::Sized, "low", "sized-low"),
    (Kind::Keyed, "low", "keyed-low"),
    (Kind::Both, "low", "both-low"),
    (Kind::Sized, "high", "sized-high"),
    (Kind::Keyed, "high", "keyed-high"),
    (Kind::Aged, "high", "aged-high"),
    (Kind::Sized, "ultra", "sized-ultra"),
    (Kind::Keyed, "ultra", "keyed-ultra"),
    (Kind::Aged, "ultra", "aged-ultra"),
];

/// How long records stay and segments grow, so that all of it happens several times within a run.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// `retention.ms`.
    pub retention: Duration,
    /// `segment.ms`.
    pub segment: Duration,
}

impl Times {
    /// Those of a run of this length.
    pub fn of(run: Duration) -> Self {
        let retention = (run / 8).clamp(Duration::from_secs(10), Duration::from_secs(120));
        Self { retention, segment: retention / 4 }
    }
}

/// A partition under load. Its records' content depends on `number` and their offsets.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Among all partitions of the run.
    pub number: usize,
    /// What deletes its records.
    pub kind: Kind,
    /// Its topic.
    pub topic: &'static str,
    /// Its index there.
    pub index: i32,
    seed: u64,
}

/// The topics and their partitions, `count` together. `profiles`: whether the broker knows WAL profiles.
pub fn lay_out(count: usize, seed: u64, times: Times, profiles: bool) -> (Vec<NewTopic>, Vec<Place>) {
    let mut topics = Vec::new();
    let mut places = Vec::new();
    for (at, (kind, profile, name)) in TOPICS.into_iter().enumerate() {
        let partitions = count / TOPICS.len() + usize::from(at < count % TOPICS.len());
        if partitions == 0 {
            continue;
        }
        let milliseconds = |time: Duration| time.as_millis().to_string();
        let mut configs = vec![
            ("segment.bytes", SEGMENT_BYTES.to_string()),
            ("segment.ms", milliseconds(times.segment)),
            ("file.delete.delay.ms", "1000".to_owned()),
        ];
        match kind {
            Kind::Sized => configs.push(("retention.bytes", RETENTION_BYTES.to_string())),
            Kind::Keyed => configs.push(("cleanup.policy", "compact".to_owned())),
            Kind::Both => configs.push(("cleanup.policy", "compact,delete".to_owned())),
            Kind::Aged => {}
        }
        if matches!(kind, Kind::Aged | Kind::Both) {
            configs.push(("retention.ms", milliseconds(times.retention)));
        }
        if kind.compacts() {
            configs.push(("min.cleanable.dirty.ratio", "0.3".to_owned()));
            configs.push(("delete.retention.ms", "5000".to_owned()));
        }
        if profiles {
            configs.push(("chronik.wal.profile", profile.to_owned()));
        }
        topics.push(NewTopic {
            name: name.to_owned(),
            partitions: Some(partitions as i32),
            replication_factor: Some(1),
            configs: configs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        });
        for index in 0..partitions as i32 {
            places.push(Place { number: places.len(), kind, topic: name, index, seed });
        }
    }
    (topics, places)
}

/// What a record is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// In compacted topics.
    pub key: Option<u64>,
    /// Bytes of its value; `None` for a tombstone.
    pub value_bytes: Option<usize>,
}

impl Place {
    /// Whether it gets more load than the others.
    pub fn is_hot(&self) -> bool {
        self.number.is_multiple_of(HOT_IN)
    }

    /// How its batches are compressed: half of the partitions not at all.
    pub fn codec(&self) -> Codec {
        match self.number % 8 {
            4 => Codec::Gzip,
            5 => Codec::Snappy,
            6 => Codec::Lz4,
            7 => Codec::Zstd,
            _ => Codec::None,
        }
    }

    fn dice(&self, offset: i64) -> u64 {
        let mut state = self.seed ^ (self.number as u64) << 40 ^ offset as u64;
        next(&mut state)
    }

    /// What is to be at `offset`: most records have some hundred bytes, one in a hundred up to 64 KiB.
    pub fn shape(&self, offset: i64) -> Shape {
        let mut dice = self.dice(offset);
        let class = dice % 100;
        let mut between = |low: u64, high: u64| (low + next(&mut dice) % (high - low)) as usize;
        let bytes = match class {
            0..60 => between(100, 500),
            60..90 => between(500, 4 << 10),
            90..99 => between(4 << 10, 16 << 10),
            _ => between(16 << 10, 64 << 10),
        };
        let (key, tombstone) = (between(0, KEYS) as u64, between(0, 20) == 0);
        let compacts = self.kind.compacts();
        Shape {
            key: compacts.then_some(key),
            value_bytes: (!(compacts && tombstone)).then_some(bytes.max(VALUE_BYTES_MIN)),
        }
    }

    /// Writes the value of `bytes` bytes that belongs to `offset`.
    pub fn value(&self, offset: i64, bytes: usize) -> Vec<u8> {
        let mut value = vec![0; bytes];
        self.mark(offset).write(&mut value);
        value
    }

    fn mark(&self, offset: i64) -> Mark {
        Mark {
            seed: self.seed,
            producer: self.number as u32,
            partition: self.index,
            request: offset as u32,
            place: 0,
        }
    }

    /// What is wrong with a record, if anything.
    pub fn fault(&self, record: &Record) -> Option<String> {
        let shape = self.shape(record.offset);
        let key = shape.key.map(key_text);
        let what = if record.key.as_deref() != key.as_ref().map(String::as_bytes) {
            "has another key"
        } else {
            match (&record.value, shape.value_bytes) {
                (None, None) => return None,
                (Some(value), Some(bytes))
                    if value.len() == bytes && self.mark(record.offset).matches(value) =>
                {
                    return None;
                }
                _ => "has another value",
            }
        };
        Some(format!("{}-{}: the record at {} {what} than was sent", self.topic, self.index, record.offset))
    }
}

/// A key as it is sent.
pub fn key_text(key: u64) -> String {
    format!("key-{key:03}")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn partitions_are_spread_over_kinds_and_profiles() {
        let times = Times::of(Duration::from_secs(1200));
        let (topics, places) = lay_out(1000, 1, times, true);
        assert_eq!((topics.len(), places.len()), (9, 1000));
        assert!(topics.iter().all(|t| (111..=112).contains(&t.partitions.unwrap())));
        let (topics, places) = lay_out(4, 1, times, false);
        assert_eq!((topics.len(), places.len()), (4, 4));
    }

    #[test]
    fn a_record_at_another_offset_or_with_another_byte_is_a_fault() {
        let (_, places) = lay_out(9, 5, Times::of(Duration::from_secs(60)), false);
        for place in places {
            let offset = (0..).find(|o| place.shape(*o).value_bytes.is_some()).unwrap();
            let shape = place.shape(offset);
            let record = |offset, value: Vec<u8>| Record {
                offset,
                timestamp: 0,
                key: shape.key.map(|key| Bytes::from(key_text(key))),
                value: Some(Bytes::from(value)),
                headers: Vec::new(),
            };
            let mut value = place.value(offset, shape.value_bytes.unwrap());
            assert_eq!(place.fault(&record(offset, value.clone())), None);
            assert!(place.fault(&record(offset + 1, value.clone())).is_some());
            *value.last_mut().unwrap() ^= 1;
            assert!(place.fault(&record(offset, value)).is_some());
        }
    }
}
