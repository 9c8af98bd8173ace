//! THE table of settings. Only what acts is in it; everything else is refused.

use super::{ConfigError, ConfigKind};

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    Bool,
    /// Whole number within the bounds, inclusive.
    Number {
        min: i64,
        max: i64,
    },
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Some of these words or none, with commas between them, in the order given.
    SomeOf(&'static [&'static str]),
    /// The same, but at least one, and none of them twice; and with this one among them, if there is one.
    InOrder {
        words: &'static [&'static str],
        must: Option<&'static str>,
    },
    /// A number from 0 to 1.
    Ratio,
    /// The only value that is accepted for now, and why others are not.
    Only {
        value: &'static str,
        why: &'static str,
    },
    /// The name of a WAL profile: letters, digits, `-` and `_`. That it exists is checked against an image.
    WalProfileName,
}

impl Check {
    /// Checks a value as it is given on the wire or in a file; returns the form it is stored in.
    pub fn check(self, name: &str, value: &str) -> Result<String, ConfigError> {
        let value = value.trim();
        let bad =
            |why: String| ConfigError::BadValue { name: name.to_string(), value: value.to_string(), why };
        match self {
            Check::Bool => match value.to_ascii_lowercase().as_str() {
                word @ ("true" | "false") => Ok(word.to_string()),
                _ => Err(bad("Expected value to be either true or false".to_string())),
            },
            Check::Number { min, max } => {
                let no_number = || bad(format!("Not a number of type {}", number_type(max)));
                let n: i64 = value.parse().map_err(|_| no_number())?;
                if max == INT_MAX && i32::try_from(n).is_err() {
                    return Err(no_number());
                }
                if n < min {
                    return Err(bad(format!("Value must be at least {min}")));
                }
                if n > max {
                    return Err(bad(format!("Value must be no more than {max}")));
                }
                Ok(n.to_string())
            }
            Check::OneOf(words) if words.contains(&value) => Ok(value.to_string()),
            Check::OneOf(words) => Err(bad(format!("String must be one of: {}", words.join(", ")))),
            Check::SomeOf(words) => {
                let none = value.is_empty();
                let chosen = if none { Vec::new() } else { words_of(value, words).map_err(bad)? };
                Ok(chosen.join(","))
            }
            Check::InOrder { words, must } => {
                let chosen = words_of(value, words).map_err(bad)?;
                if let Some(must) = must.filter(|must| !chosen.contains(must)) {
                    return Err(bad(format!("{must} cannot be left out")));
                }
                if (1..chosen.len()).any(|at| chosen[..at].contains(&chosen[at])) {
                    return Err(bad("a word is there twice".to_string()));
                }
                Ok(chosen.join(","))
            }
            Check::Ratio => match value.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(value.to_string()),
                Ok(_) => Err(bad("Value must be between 0 and 1".to_string())),
                Err(_) => Err(bad("Not a number of type DOUBLE".to_string())),
            },
            Check::Only { value: only, .. } if value == only => Ok(value.to_string()),
            Check::Only { value: only, why } => Err(bad(format!("only {only} is accepted: {why}"))),
            Check::WalProfileName => {
                crate::wal::profile::check_name(value).map_err(|e| bad(e.to_string()))?;
                Ok(value.to_string())
            }
        }
    }
}

/// Words with commas between them, each of them one of these.
fn words_of<'a>(value: &'a str, words: &[&str]) -> Result<Vec<&'a str>, String> {
    let chosen: Vec<&str> = value.split(',').map(str::trim).collect();
    match chosen.iter().find(|word| !words.contains(word)) {
        Some(other) => Err(format!("{other:?} is none of: {}", words.join(", "))),
        None => Ok(chosen),
    }
}

/// Kafka's name of the type that holds numbers up to this one.
fn number_type(max: i64) -> &'static str {
    if i16::try_from(max).is_ok() {
        "SHORT"
    } else if max <= INT_MAX {
        "INT"
    } else {
        "LONG"
    }
}

/// A setting of topics.
#[derive(Debug)]
pub struct TopicSetting {
    pub name: &'static str,
    pub kind: ConfigKind,
    /// The broker setting that stands in where the topic has none of its own.
    pub broker_name: &'static str,
    pub check: Check,
    pub doc: &'static str,
}

/// Whether a broker setting can be altered while the broker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    ReadOnly,
    /// On the cluster-wide default and on one broker.
    Dynamic,
}

/// A setting of brokers.
#[derive(Debug)]
pub struct BrokerSetting {
    pub name: &'static str,
    pub kind: ConfigKind,
    pub default: &'static str,
    pub update: Update,
    pub check: Check,
    pub doc: &'static str,
}

/// Smallest segment Kafka accepts (KIP-1030).
const SEGMENT_BYTES_MIN: i64 = 1 << 20;

const INT_MAX: i64 = i32::MAX as i64;
const NOT_NEGATIVE_INT: Check = Check::Number { min: 0, max: INT_MAX };
const NOT_NEGATIVE_LONG: Check = Check::Number { min: 0, max: i64::MAX };
const REPLICAS: Check = Check::Number { min: 1, max: INT_MAX };
const SEGMENT_BYTES: Check = Check::Number { min: SEGMENT_BYTES_MIN, max: INT_MAX };
const TIMESTAMP_TYPE: Check = Check::OneOf(&["CreateTime", "LogAppendTime"]);
const COMPRESSION: Check =
    Check::Only { value: "producer", why: "batches are stored as their producer compressed them" };
const CLEANUP: Check = Check::SomeOf(&["compact", "delete"]);
/// -1: without a limit.
const RETENTION: Check = Check::Number { min: -1, max: i64::MAX };
const POSITIVE_INT: Check = Check::Number { min: 1, max: INT_MAX };
const POSITIVE_LONG: Check = Check::Number { min: 1, max: i64::MAX };
const ASSIGNORS: Check = Check::InOrder { words: &["uniform", "range"], must: None };
const MIGRATION_POLICY: Check = Check::OneOf(&["bidirectional", "upgrade", "downgrade", "disabled"]);
const REBALANCE_PROTOCOLS: Check = Check::InOrder { words: &["classic", "consumer"], must: Some("classic") };

/// Every setting of topics that acts, by name.
pub const TOPIC_SETTINGS: [TopicSetting; 17] = [
    TopicSetting {
        name: "chronik.wal.profile",
        kind: ConfigKind::String,
        broker_name: "chronik.wal.profile",
        check: Check::WalProfileName,
        doc: "The WAL profile by which this topic's records are committed: a built-in one or one defined by chronik.wal.profile.NAME.FIELD.",
    },
    TopicSetting {
        name: "cleanup.policy",
        kind: ConfigKind::List,
        broker_name: "log.cleanup.policy",
        check: CLEANUP,
        doc: "What becomes of old records: delete takes whole segments by age and size, compact keeps the newest record of each key. Both may be named, or none: then everything stays.",
    },
    TopicSetting {
        name: "compression.type",
        kind: ConfigKind::String,
        broker_name: "compression.type",
        check: COMPRESSION,
        doc: "How batches are stored. Only producer: as they were sent.",
    },
    TopicSetting {
        name: "delete.retention.ms",
        kind: ConfigKind::Long,
        broker_name: "log.cleaner.delete.retention.ms",
        check: NOT_NEGATIVE_LONG,
        doc: "How long a compacted topic keeps a tombstone after the cleaner first saw it, in milliseconds: the time a consumer has to read the log from its start.",
    },
    TopicSetting {
        name: "file.delete.delay.ms",
        kind: ConfigKind::Long,
        broker_name: "log.segment.delete.delay.ms",
        check: NOT_NEGATIVE_LONG,
        doc: "How long the file of a segment stays after it was deleted from the log, in milliseconds, for those who read it just then.",
    },
    TopicSetting {
        name: "max.compaction.lag.ms",
        kind: ConfigKind::Long,
        broker_name: "log.cleaner.max.compaction.lag.ms",
        check: POSITIVE_LONG,
        doc: "How long a record may stay uncompacted, in milliseconds. Older ones are compacted whatever the dirty ratio.",
    },
    TopicSetting {
        name: "max.message.bytes",
        kind: ConfigKind::Int,
        broker_name: "message.max.bytes",
        check: NOT_NEGATIVE_INT,
        doc: "The largest record batch accepted, in bytes, as it is compressed.",
    },
    TopicSetting {
        name: "message.timestamp.after.max.ms",
        kind: ConfigKind::Long,
        broker_name: "log.message.timestamp.after.max.ms",
        check: NOT_NEGATIVE_LONG,
        doc: "How far a record's timestamp may lie ahead of the broker's clock, in milliseconds. Ignored with LogAppendTime.",
    },
    TopicSetting {
        name: "message.timestamp.before.max.ms",
        kind: ConfigKind::Long,
        broker_name: "log.message.timestamp.before.max.ms",
        check: NOT_NEGATIVE_LONG,
        doc: "How far a record's timestamp may lie behind the broker's clock, in milliseconds. Ignored with LogAppendTime.",
    },
    TopicSetting {
        name: "message.timestamp.type",
        kind: ConfigKind::String,
        broker_name: "log.message.timestamp.type",
        check: TIMESTAMP_TYPE,
        doc: "Whether records keep the time their producer gave them or get the time of their append.",
    },
    TopicSetting {
        name: "min.cleanable.dirty.ratio",
        kind: ConfigKind::Double,
        broker_name: "log.cleaner.min.cleanable.ratio",
        check: Check::Ratio,
        doc: "The part of a compacted log that must be dirty before it is compacted.",
    },
    TopicSetting {
        name: "min.compaction.lag.ms",
        kind: ConfigKind::Long,
        broker_name: "log.cleaner.min.compaction.lag.ms",
        check: NOT_NEGATIVE_LONG,
        doc: "How long a record stays uncompacted at least, in milliseconds.",
    },
    TopicSetting {
        name: "min.insync.replicas",
        kind: ConfigKind::Int,
        broker_name: "min.insync.replicas",
        check: REPLICAS,
        doc: "How many replicas must be in sync for a produce request with acks=all to be accepted.",
    },
    TopicSetting {
        name: "retention.bytes",
        kind: ConfigKind::Long,
        broker_name: "log.retention.bytes",
        check: RETENTION,
        doc: "The size from which a partition's oldest segments are deleted, in bytes. -1: never.",
    },
    TopicSetting {
        name: "retention.ms",
        kind: ConfigKind::Long,
        broker_name: "log.retention.ms",
        check: RETENTION,
        doc: "The age from which records are deleted, in milliseconds. -1: never.",
    },
    TopicSetting {
        name: "segment.bytes",
        kind: ConfigKind::Int,
        broker_name: "log.segment.bytes",
        check: SEGMENT_BYTES,
        doc: "The size at which a partition's segment file is closed and the next one begun, in bytes.",
    },
    TopicSetting {
        name: "segment.ms",
        kind: ConfigKind::Long,
        broker_name: "log.roll.ms",
        check: POSITIVE_LONG,
        doc: "The age at which a segment file is closed even if it is not full, in milliseconds: retention and compaction take closed ones.",
    },
];

/// Every setting of brokers that topics or the controller resolve, by name.
pub const BROKER_SETTINGS: [BrokerSetting; 60] = [
    BrokerSetting {
        name: "auto.create.topics.enable",
        kind: ConfigKind::Boolean,
        default: "true",
        update: Update::ReadOnly,
        check: Check::Bool,
        doc: "Whether a topic is created when a client that allows it asks for one that does not exist.",
    },
    BrokerSetting {
        name: "chronik.scrub.bytes.per.second",
        kind: ConfigKind::Long,
        default: "16777216",
        update: Update::Dynamic,
        check: Check::Number { min: 1 << 16, max: i64::MAX },
        doc: "How much the scrub reads a second at most, in bytes. It reads no faster than chronik.scrub.interval.ms needs, but at least 1 MiB.",
    },
    BrokerSetting {
        name: "chronik.scrub.interval.ms",
        kind: ConfigKind::Long,
        default: "604800000",
        update: Update::Dynamic,
        check: RETENTION,
        doc: "How often every byte of closed segments is read and verified at least, in milliseconds. 0 or -1: never.",
    },
    BrokerSetting {
        name: "chronik.wal.profile",
        kind: ConfigKind::String,
        default: crate::wal::profile::DEFAULT_PROFILE,
        update: Update::Dynamic,
        check: Check::WalProfileName,
        doc: "The WAL profile of topics that name none.",
    },
    BrokerSetting {
        name: "compression.type",
        kind: ConfigKind::String,
        default: "producer",
        update: Update::Dynamic,
        check: COMPRESSION,
        doc: "How batches are stored. Only producer: as they were sent.",
    },
    BrokerSetting {
        name: "default.replication.factor",
        kind: ConfigKind::Int,
        default: "1",
        update: Update::ReadOnly,
        check: Check::Number { min: 1, max: i16::MAX as i64 },
        doc: "The replication factor of topics that are created without one.",
    },
    BrokerSetting {
        name: "group.consumer.assignment.interval.ms",
        kind: ConfigKind::Int,
        default: "1000",
        update: Update::Dynamic,
        check: NOT_NEGATIVE_INT,
        doc: "How long a consumer group of the new protocol keeps a target assignment at least before it makes another, in milliseconds.",
    },
    BrokerSetting {
        name: "group.consumer.assignors",
        kind: ConfigKind::List,
        default: "uniform,range",
        update: Update::ReadOnly,
        check: ASSIGNORS,
        doc: "The assignors of consumer groups of the new protocol. The first one shares out the partitions of groups whose members name none.",
    },
    BrokerSetting {
        name: "group.consumer.heartbeat.interval.ms",
        kind: ConfigKind::Int,
        default: "5000",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "How often members of consumer groups of the new protocol are told to send a heartbeat, in milliseconds.",
    },
    BrokerSetting {
        name: "group.consumer.max.assignment.interval.ms",
        kind: ConfigKind::Int,
        default: "15000",
        update: Update::ReadOnly,
        check: NOT_NEGATIVE_INT,
        doc: "The most that a group's consumer.assignment.interval.ms may be, in milliseconds.",
    },
    BrokerSetting {
        name: "group.consumer.max.heartbeat.interval.ms",
        kind: ConfigKind::Int,
        default: "15000",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "The most that a group's consumer.heartbeat.interval.ms may be, in milliseconds.",
    },
    BrokerSetting {
        name: "group.consumer.max.session.timeout.ms",
        kind: ConfigKind::Int,
        default: "60000",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "The most that a group's consumer.session.timeout.ms may be, in milliseconds.",
    },
    BrokerSetting {
        name: "group.consumer.max.size",
        kind: ConfigKind::Int,
        default: "2147483647",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "How many members a consumer group of the new protocol may have.",
    },
    BrokerSetting {
        name: "group.consumer.migration.policy",
        kind: ConfigKind::String,
        default: "bidirectional",
        update: Update::ReadOnly,
        check: MIGRATION_POLICY,
        doc: "Whether a consumer group with members may go over from the classic protocol to the new one (upgrade), back (downgrade), both (bidirectional), or neither (disabled). One without members always may.",
    },
    BrokerSetting {
        name: "group.consumer.min.assignment.interval.ms",
        kind: ConfigKind::Int,
        default: "0",
        update: Update::ReadOnly,
        check: NOT_NEGATIVE_INT,
        doc: "The least that a group's consumer.assignment.interval.ms may be, in milliseconds.",
    },
    BrokerSetting {
        name: "group.consumer.min.heartbeat.interval.ms",
        kind: ConfigKind::Int,
        default: "5000",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "The least that a group's consumer.heartbeat.interval.ms may be, in milliseconds.",
    },
    BrokerSetting {
        name: "group.consumer.min.session.timeout.ms",
        kind: ConfigKind::Int,
        default: "45000",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "The least that a group's consumer.session.timeout.ms may be, in milliseconds.",
    },
    BrokerSetting {
        name: "group.consumer.regex.refresh.interval.ms",
        kind: ConfigKind::Int,
        default: "600000",
        update: Update::ReadOnly,
        check: Check::Number { min: 10_000, max: INT_MAX },
        doc: "How long topics that match the regular expressions of a consumer group of the new protocol are remembered at most, in milliseconds.",
    },
    BrokerSetting {
        name: "group.consumer.session.timeout.ms",
        kind: ConfigKind::Int,
        default: "45000",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "How long a member of a consumer group of the new protocol may send no heartbeat before it has left, in milliseconds.",
    },
    BrokerSetting {
        name: "group.coordinator.rebalance.protocols",
        kind: ConfigKind::List,
        default: "classic,consumer",
        update: Update::ReadOnly,
        check: REBALANCE_PROTOCOLS,
        doc: "The protocols that consumer groups may use. Without consumer, the new one is refused.",
    },
    BrokerSetting {
        name: "group.initial.rebalance.delay.ms",
        kind: ConfigKind::Int,
        default: "3000",
        update: Update::ReadOnly,
        check: NOT_NEGATIVE_INT,
        doc: "How long an empty consumer group that gets its first member waits for more before it hands out partitions, in milliseconds.",
    },
    BrokerSetting {
        name: "group.max.session.timeout.ms",
        kind: ConfigKind::Int,
        default: "1800000",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "The longest session timeout that a member of a consumer group may ask for, in milliseconds.",
    },
    BrokerSetting {
        name: "group.max.size",
        kind: ConfigKind::Int,
        default: "2147483647",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "How many members a consumer group may have.",
    },
    BrokerSetting {
        name: "group.min.session.timeout.ms",
        kind: ConfigKind::Int,
        default: "6000",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "The shortest session timeout that a member of a consumer group may ask for, in milliseconds.",
    },
    BrokerSetting {
        name: "log.cleaner.backoff.ms",
        kind: ConfigKind::Long,
        default: "15000",
        update: Update::Dynamic,
        check: NOT_NEGATIVE_LONG,
        doc: "How long the cleaner rests when there is nothing to compact, in milliseconds.",
    },
    BrokerSetting {
        name: "log.cleaner.dedupe.buffer.size",
        kind: ConfigKind::Long,
        default: "134217728",
        update: Update::Dynamic,
        check: Check::Number { min: 1 << 20, max: 1 << 40 },
        doc: "Memory that the cleaner may use for the keys of one pass, in bytes; what does not fit is compacted by the next pass.",
    },
    BrokerSetting {
        name: "log.cleaner.delete.retention.ms",
        kind: ConfigKind::Long,
        default: "86400000",
        update: Update::Dynamic,
        check: NOT_NEGATIVE_LONG,
        doc: "How long compacted topics keep a tombstone after the cleaner first saw it, in milliseconds.",
    },
    BrokerSetting {
        name: "log.cleaner.io.max.bytes.per.second",
        kind: ConfigKind::Long,
        default: "104857600",
        update: Update::Dynamic,
        check: Check::Number { min: 1 << 20, max: i64::MAX },
        doc: "How much the cleaner reads and writes a second, in bytes.",
    },
    BrokerSetting {
        name: "log.cleaner.max.compaction.lag.ms",
        kind: ConfigKind::Long,
        default: "9223372036854775807",
        update: Update::Dynamic,
        check: POSITIVE_LONG,
        doc: "How long a record may stay uncompacted, in milliseconds.",
    },
    BrokerSetting {
        name: "log.cleaner.min.cleanable.ratio",
        kind: ConfigKind::Double,
        default: "0.5",
        update: Update::Dynamic,
        check: Check::Ratio,
        doc: "The part of a compacted log that must be dirty before it is compacted.",
    },
    BrokerSetting {
        name: "log.cleaner.min.compaction.lag.ms",
        kind: ConfigKind::Long,
        default: "0",
        update: Update::Dynamic,
        check: NOT_NEGATIVE_LONG,
        doc: "How long a record stays uncompacted at least, in milliseconds.",
    },
    BrokerSetting {
        name: "log.cleanup.policy",
        kind: ConfigKind::List,
        default: "delete",
        update: Update::Dynamic,
        check: CLEANUP,
        doc: "What becomes of old records: delete, compact, both, or none of them.",
    },
    BrokerSetting {
        name: "log.message.timestamp.after.max.ms",
        kind: ConfigKind::Long,
        default: "3600000",
        update: Update::Dynamic,
        check: NOT_NEGATIVE_LONG,
        doc: "How far a record's timestamp may lie ahead of the broker's clock, in milliseconds.",
    },
    BrokerSetting {
        name: "log.message.timestamp.before.max.ms",
        kind: ConfigKind::Long,
        default: "9223372036854775807",
        update: Update::Dynamic,
        check: NOT_NEGATIVE_LONG,
        doc: "How far a record's timestamp may lie behind the broker's clock, in milliseconds.",
    },
    BrokerSetting {
        name: "log.message.timestamp.type",
        kind: ConfigKind::String,
        default: "CreateTime",
        update: Update::Dynamic,
        check: TIMESTAMP_TYPE,
        doc: "Whether records keep the time their producer gave them or get the time of their append.",
    },
    BrokerSetting {
        name: "log.retention.bytes",
        kind: ConfigKind::Long,
        default: "-1",
        update: Update::Dynamic,
        check: RETENTION,
        doc: "The size from which a partition's oldest segments are deleted, in bytes. -1: never.",
    },
    BrokerSetting {
        name: "log.retention.check.interval.ms",
        kind: ConfigKind::Long,
        default: "300000",
        update: Update::Dynamic,
        check: POSITIVE_LONG,
        doc: "How often it is looked for records to delete, in milliseconds. As often, what is in the write-ahead log alone moves into segments.",
    },
    BrokerSetting {
        name: "log.retention.ms",
        kind: ConfigKind::Long,
        default: "604800000",
        update: Update::Dynamic,
        check: RETENTION,
        doc: "The age from which records are deleted, in milliseconds. -1: never.",
    },
    BrokerSetting {
        name: "log.roll.ms",
        kind: ConfigKind::Long,
        default: "604800000",
        update: Update::Dynamic,
        check: POSITIVE_LONG,
        doc: "The age at which a segment file is closed even if it is not full, in milliseconds.",
    },
    BrokerSetting {
        name: "log.segment.bytes",
        kind: ConfigKind::Int,
        default: "1073741824",
        update: Update::Dynamic,
        check: SEGMENT_BYTES,
        doc: "The size at which a partition's segment file is closed and the next one begun, in bytes.",
    },
    BrokerSetting {
        name: "log.segment.delete.delay.ms",
        kind: ConfigKind::Long,
        default: "60000",
        update: Update::Dynamic,
        check: NOT_NEGATIVE_LONG,
        doc: "How long the file of a segment stays after it was deleted from the log, in milliseconds.",
    },
    BrokerSetting {
        name: "max.connections",
        kind: ConfigKind::Int,
        default: "10000",
        update: Update::Dynamic,
        check: POSITIVE_INT,
        doc: "Connections open at once on all Kafka listeners together. One more is closed at once.",
    },
    BrokerSetting {
        name: "max.connections.per.ip",
        kind: ConfigKind::Int,
        default: "2147483647",
        update: Update::Dynamic,
        check: POSITIVE_INT,
        doc: "Connections open at once from one address. One more is closed at once.",
    },
    BrokerSetting {
        name: "message.max.bytes",
        kind: ConfigKind::Int,
        default: "1048588",
        update: Update::Dynamic,
        check: NOT_NEGATIVE_INT,
        doc: "The largest record batch accepted, in bytes, as it is compressed.",
    },
    BrokerSetting {
        name: "min.insync.replicas",
        kind: ConfigKind::Int,
        default: "1",
        update: Update::Dynamic,
        check: REPLICAS,
        doc: "How many replicas must be in sync for a produce request with acks=all to be accepted.",
    },
    BrokerSetting {
        name: "num.partitions",
        kind: ConfigKind::Int,
        default: "1",
        update: Update::ReadOnly,
        check: Check::Number { min: 1, max: INT_MAX },
        doc: "The number of partitions of topics that are created without one.",
    },
    BrokerSetting {
        name: "offset.metadata.max.bytes",
        kind: ConfigKind::Int,
        default: "4096",
        update: Update::ReadOnly,
        check: NOT_NEGATIVE_INT,
        doc: "The most bytes that a client may attach to a committed offset.",
    },
    BrokerSetting {
        name: "offsets.retention.check.interval.ms",
        kind: ConfigKind::Long,
        default: "600000",
        update: Update::ReadOnly,
        check: POSITIVE_LONG,
        doc: "How often it is looked for committed offsets that have expired, in milliseconds.",
    },
    BrokerSetting {
        name: "offsets.retention.minutes",
        kind: ConfigKind::Int,
        default: "10080",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "How long committed offsets are kept after their group has become empty, or, of groups without members, after the commit, in minutes.",
    },
    BrokerSetting {
        name: "offsets.topic.num.partitions",
        kind: ConfigKind::Int,
        default: "50",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "The number of partitions of __consumer_offsets, when it is created.",
    },
    BrokerSetting {
        name: "offsets.topic.replication.factor",
        kind: ConfigKind::Short,
        default: "1",
        update: Update::ReadOnly,
        check: Check::Number { min: 1, max: i16::MAX as i64 },
        doc: "The replication factor of __consumer_offsets, when it is created.",
    },
    BrokerSetting {
        name: "offsets.topic.segment.bytes",
        kind: ConfigKind::Int,
        default: "104857600",
        update: Update::ReadOnly,
        check: SEGMENT_BYTES,
        doc: "The segment.bytes of __consumer_offsets, when it is created.",
    },
    BrokerSetting {
        name: "producer.id.expiration.ms",
        kind: ConfigKind::Int,
        default: "86400000",
        update: Update::Dynamic,
        check: POSITIVE_INT,
        doc: "How long an idempotent producer that sends nothing is remembered, in milliseconds.",
    },
    BrokerSetting {
        name: "transaction.abort.timed.out.transaction.cleanup.interval.ms",
        kind: ConfigKind::Int,
        default: "10000",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "How often it is looked for transactions that have run longer than their producer allows, to abort them, in milliseconds.",
    },
    BrokerSetting {
        name: "transaction.max.timeout.ms",
        kind: ConfigKind::Int,
        default: "900000",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "The longest time that a producer may allow its transactions, in milliseconds.",
    },
    BrokerSetting {
        name: "transaction.remove.expired.transaction.cleanup.interval.ms",
        kind: ConfigKind::Int,
        default: "3600000",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "How often it is looked for transactional ids that have expired, in milliseconds.",
    },
    BrokerSetting {
        name: "transaction.state.log.num.partitions",
        kind: ConfigKind::Int,
        default: "50",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "The number of partitions of __transaction_state, when it is created.",
    },
    BrokerSetting {
        name: "transaction.state.log.replication.factor",
        kind: ConfigKind::Short,
        default: "1",
        update: Update::ReadOnly,
        check: Check::Number { min: 1, max: i16::MAX as i64 },
        doc: "The replication factor of __transaction_state, when it is created.",
    },
    BrokerSetting {
        name: "transaction.state.log.segment.bytes",
        kind: ConfigKind::Int,
        default: "104857600",
        update: Update::ReadOnly,
        check: SEGMENT_BYTES,
        doc: "The segment.bytes of __transaction_state, when it is created.",
    },
    BrokerSetting {
        name: "transactional.id.expiration.ms",
        kind: ConfigKind::Int,
        default: "604800000",
        update: Update::ReadOnly,
        check: POSITIVE_INT,
        doc: "How long a transactional id is remembered that no producer uses, in milliseconds.",
    },
];

pub fn topic_setting(name: &str) -> Option<&'static TopicSetting> {
    TOPIC_SETTINGS.iter().find(|s| s.name == name)
}

pub fn broker_setting(name: &str) -> Option<&'static BrokerSetting> {
    BROKER_SETTINGS.iter().find(|s| s.name == name)
}

/// The setting of topics, or why there is none of this name.
pub fn known_topic_setting(name: &str) -> Result<&'static TopicSetting, ConfigError> {
    topic_setting(name).ok_or_else(|| unknown("topic", name, &super::unsupported::TOPIC_SETTINGS))
}

/// The setting of brokers, or why there is none of this name.
pub fn known_broker_setting(name: &str) -> Result<&'static BrokerSetting, ConfigError> {
    broker_setting(name).ok_or_else(|| unknown("broker", name, &super::unsupported::BROKER_SETTINGS))
}

pub(super) fn unknown(scope: &'static str, name: &str, unsupported: &[&str]) -> ConfigError {
    let name = name.to_string();
    if unsupported.contains(&name.as_str()) {
        ConfigError::NotSupported { name }
    } else {
        ConfigError::Unknown { scope, name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_and_agree() {
        assert!(TOPIC_SETTINGS.is_sorted_by(|a, b| a.name < b.name));
        assert!(BROKER_SETTINGS.is_sorted_by(|a, b| a.name < b.name));
        for topic in &TOPIC_SETTINGS {
            let broker = broker_setting(topic.broker_name).unwrap();
            assert_eq!((topic.check, topic.kind), (broker.check, broker.kind), "{}", topic.name);
            assert_eq!(broker.update, Update::Dynamic, "{}", topic.name);
        }
    }

    #[test]
    fn every_default_passes_its_own_check() {
        for s in &BROKER_SETTINGS {
            assert_eq!(s.check.check(s.name, s.default).unwrap(), s.default);
        }
    }

    #[test]
    fn what_acts_is_not_listed_as_unsupported() {
        use super::super::unsupported;
        assert!(TOPIC_SETTINGS.iter().all(|s| !unsupported::TOPIC_SETTINGS.contains(&s.name)));
        assert!(BROKER_SETTINGS.iter().all(|s| !unsupported::BROKER_SETTINGS.contains(&s.name)));
    }

    #[test]
    fn refusals_name_the_key_and_say_why() {
        let known = known_topic_setting("flush.ms").unwrap_err().to_string();
        assert!(known.contains("flush.ms") && known.contains("no effect here yet"), "{known}");
        assert_eq!(known_topic_setting("foo").unwrap_err().to_string(), "Unknown topic config name: foo");
        let refused = |name: &str, value: &str| {
            known_topic_setting(name).unwrap().check.check(name, value).unwrap_err().to_string()
        };
        assert_eq!(
            refused("segment.bytes", "1"),
            "Invalid value 1 for configuration segment.bytes: Value must be at least 1048576"
        );
        assert!(refused("retention.ms", "-2").contains("at least -1"));
        assert!(refused("cleanup.policy", "compact,squeeze").contains("squeeze"));
        assert!(refused("min.cleanable.dirty.ratio", "1.5").contains("between 0 and 1"));
        let stored = |value| known_topic_setting("cleanup.policy").unwrap().check.check("", value).unwrap();
        assert_eq!(["delete , compact", "compact", " "].map(stored), ["delete,compact", "compact", ""]);
        let assignors = |value| ASSIGNORS.check("a", value);
        assert_eq!(assignors(" range , uniform"), Ok("range,uniform".to_string()));
        assert!(assignors("range,range").unwrap_err().to_string().contains("twice"));
        assert!(assignors("sticky").unwrap_err().to_string().contains("none of: uniform, range"));
        let without_classic = REBALANCE_PROTOCOLS.check("p", "consumer").unwrap_err().to_string();
        assert!(without_classic.contains("classic cannot be left out"), "{without_classic}");
        assert!(refused("max.message.bytes", "2147483648").ends_with("Not a number of type INT"));
        assert!(refused("retention.ms", "soon").ends_with("Not a number of type LONG"));
        assert!(refused("message.timestamp.type", "x").contains("CreateTime, LogAppendTime"));
    }
}
