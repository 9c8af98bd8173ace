//! The topics of the crash tests: whole logs under three profiles, and logs that give up records by size, by
//! `DeleteRecords` and by compaction.

use std::fmt;

/// Partitions of each topic.
pub const PARTITIONS: usize = 3;
/// `retention.bytes` of the topic that has it.
pub const RETENTION_BYTES: u64 = 100_000;

/// How a log gives up records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Not at all.
    Whole,
    /// The oldest segments go, but for [`RETENTION_BYTES`].
    Sized,
    /// A client deletes records.
    Deleted,
    /// All but the newest of each key; tombstones stay.
    Compacted,
    /// All but the newest of each key; tombstones go after a second.
    Brief,
}

impl Life {
    /// Whether it keeps the newest record of each key only.
    pub fn is_compacted(self) -> bool {
        matches!(self, Self::Compacted | Self::Brief)
    }

    /// Settings that any Kafka broker knows. Segments are begun anew all the time.
    fn settings(self) -> &'static [(&'static str, &'static str)] {
        const ROLL: (&str, &str) = ("segment.ms", "100");
        const SMALL: (&str, &str) = ("segment.bytes", "1048576");
        const GONE: (&str, &str) = ("file.delete.delay.ms", "50");
        const COMPACT: (&str, &str) = ("cleanup.policy", "compact");
        const DIRTY: (&str, &str) = ("min.cleanable.dirty.ratio", "0.01");
        match self {
            Self::Whole => &[SMALL],
            Self::Sized => &[ROLL, SMALL, GONE, ("retention.bytes", "100000")],
            Self::Deleted => &[ROLL, SMALL, GONE],
            Self::Compacted => &[ROLL, SMALL, GONE, COMPACT, DIRTY],
            Self::Brief => &[ROLL, SMALL, GONE, COMPACT, DIRTY, ("delete.retention.ms", "1000")],
        }
    }
}

/// A topic of the test.
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    pub name: &'static str,
    /// The WAL profile that it gets from a broker that knows such.
    profile: &'static str,
    pub life: Life,
}

const fn topic(name: &'static str, profile: &'static str, life: Life) -> Topic {
    Topic { name, profile, life }
}

/// All of them.
pub const TOPICS: [Topic; 7] = [
    topic("crash-low", "low", Life::Whole),
    topic("crash-high", "high", Life::Whole),
    topic("crash-ultra", "ultra", Life::Whole),
    topic("crash-sized", "high", Life::Sized),
    topic("crash-deleted", "low", Life::Deleted),
    topic("crash-compacted", "high", Life::Compacted),
    topic("crash-brief", "high", Life::Brief),
];

impl Topic {
    /// Its settings. `profiles`: the broker knows profiles.
    pub fn settings(&self, profiles: bool) -> Vec<(&'static str, &'static str)> {
        let profile = profiles.then_some(("chronik.wal.profile", self.profile));
        self.life.settings().iter().copied().chain(profile).collect()
    }
}

/// A partition of one of [`TOPICS`], counted through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part(pub usize);

impl Part {
    /// All partitions.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..TOPICS.len() * PARTITIONS).map(Self)
    }

    /// Those of the topics that live so.
    pub fn living(life: Life) -> impl Iterator<Item = Self> {
        Self::all().filter(move |part| part.life() == life)
    }

    /// Its topic's name.
    pub fn topic(self) -> &'static str {
        TOPICS[self.0 / PARTITIONS].name
    }

    /// How it gives up records.
    pub fn life(self) -> Life {
        TOPICS[self.0 / PARTITIONS].life
    }

    /// Its number within the topic.
    pub fn partition(self) -> i32 {
        (self.0 % PARTITIONS) as i32
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic(), self.partition())
    }
}
