//! WAL profiles: how eagerly a topic's records are committed, and what its queue may hold.
//!
//! A profile's limits are limits, not a schedule: with the `pipelined` policy a group is written as soon as
//! the device is free, and the limits only bound how large it may become meanwhile.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// When a waiting entry may be written at the latest, in the absence of a full group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyKind {
    /// Commit as soon as a slot at the device is free; gather while it is busy. The default.
    Pipelined,
    /// Wait a little: the deeper the queue the shorter, at most half the measured flush time.
    Adaptive,
    /// `adaptive` with the thresholds of the old proposal (over 100 waiting: 10 ms; over 10: 50 ms; else
    /// 100 ms), kept so that the benchmark can show it.
    AdaptiveThresholds,
    /// Interval or size, whichever is first.
    Hybrid,
    /// Every `max_delay_us`, whatever waits: the benchmark's control.
    Fixed,
}

impl PolicyKind {
    pub const ALL: [PolicyKind; 5] = [
        PolicyKind::Pipelined,
        PolicyKind::Adaptive,
        PolicyKind::AdaptiveThresholds,
        PolicyKind::Hybrid,
        PolicyKind::Fixed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            PolicyKind::Pipelined => "pipelined",
            PolicyKind::Adaptive => "adaptive",
            PolicyKind::AdaptiveThresholds => "adaptive-thresholds",
            PolicyKind::Hybrid => "hybrid",
            PolicyKind::Fixed => "fixed",
        }
    }
}

/// What an acknowledgement of a plain `acks=1` producer promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AckMode {
    /// The record is on the disk.
    Durable,
    /// The record is in the WAL's buffer and will be on the disk within `max_delay_us`: a crash may lose it.
    /// Applies to non-idempotent `acks=1` only; everything else stays durable.
    Buffered,
}

impl AckMode {
    pub const ALL: [AckMode; 2] = [AckMode::Durable, AckMode::Buffered];

    pub fn name(self) -> &'static str {
        match self {
            AckMode::Durable => "durable",
            AckMode::Buffered => "buffered",
        }
    }
}

/// A WAL profile. Set per topic by `chronik.wal.profile`, per broker by `--wal-profile`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalProfile {
    pub policy: PolicyKind,
    /// The longest an entry may wait for company, in microseconds.
    pub max_delay_us: u64,
    pub max_group_records: u64,
    pub max_group_bytes: u64,
    /// Records that may wait for their group before the broker stops reading from the sockets that send them.
    pub max_queue_records: u64,
    pub max_queue_bytes: u64,
    pub ack: AckMode,
}

/// The profile of a topic that names none, on a broker that names none.
pub const DEFAULT_PROFILE: &str = "high";

const MIB: u64 = 1 << 20;

/// The profiles every cluster has, with one line about each.
pub fn built_in() -> BTreeMap<&'static str, (WalProfile, &'static str)> {
    let high = WalProfile {
        policy: PolicyKind::Pipelined,
        max_delay_us: 100_000,
        max_group_records: 10_000,
        max_group_bytes: 50_000_000,
        max_queue_records: 50_000,
        max_queue_bytes: 64 * MIB,
        ack: AckMode::Durable,
    };
    let low = WalProfile {
        max_delay_us: 2_000,
        max_group_records: 1_000,
        max_group_bytes: MIB,
        max_queue_records: 5_000,
        max_queue_bytes: 8 * MIB,
        ..high.clone()
    };
    let medium = WalProfile {
        policy: PolicyKind::Adaptive,
        max_delay_us: 10_000,
        max_group_records: 5_000,
        max_group_bytes: 10_000_000,
        max_queue_records: 20_000,
        max_queue_bytes: 32 * MIB,
        ..high.clone()
    };
    let ultra = WalProfile {
        policy: PolicyKind::Hybrid,
        max_delay_us: 5_000,
        max_group_records: 50_000,
        max_group_bytes: 50_000_000,
        max_queue_records: 100_000,
        max_queue_bytes: 128 * MIB,
        ..high.clone()
    };
    BTreeMap::from([
        ("low", (low, "small groups, short queue: the least waiting under load")),
        ("medium", (medium, "gathers for up to half a flush before it writes")),
        ("high", (high, "writes as soon as the device is free; large limits")),
        ("ultra", (ultra, "gathers by size or 5 ms: the fewest, largest flushes")),
    ])
}

/// Why a profile's field was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ProfileError {
    #[error(
        "unknown WAL profile field {0:?}; known: policy, max.delay.us, max.group.records, max.group.bytes, max.queue.records, max.queue.bytes, ack"
    )]
    UnknownField(String),
    #[error("{field}={value:?}: {why}")]
    BadValue { field: &'static str, value: String, why: String },
    #[error("WAL profile name {0:?}: letters, digits, '-' and '_' only, at most 64")]
    BadName(String),
}

/// The longest delay a profile may ask for: 10 s.
const MAX_DELAY_US: u64 = 10_000_000;

impl WalProfile {
    /// The fields, in the order they are shown, by their configuration names.
    pub const FIELDS: [&'static str; 7] = [
        "policy",
        "max.delay.us",
        "max.group.records",
        "max.group.bytes",
        "max.queue.records",
        "max.queue.bytes",
        "ack",
    ];

    /// The value of one of [`WalProfile::FIELDS`], as it is set.
    pub fn get(&self, field: &str) -> Option<String> {
        Some(match field {
            "policy" => self.policy.name().to_string(),
            "max.delay.us" => self.max_delay_us.to_string(),
            "max.group.records" => self.max_group_records.to_string(),
            "max.group.bytes" => self.max_group_bytes.to_string(),
            "max.queue.records" => self.max_queue_records.to_string(),
            "max.queue.bytes" => self.max_queue_bytes.to_string(),
            "ack" => self.ack.name().to_string(),
            _ => return None,
        })
    }

    /// Sets one field by its configuration name; the profile is unchanged on error.
    pub fn set(&mut self, field: &str, value: &str) -> Result<(), ProfileError> {
        let number = |field: &'static str, min: u64, max: u64| {
            let bad = |why: String| ProfileError::BadValue { field, value: value.to_string(), why };
            let n: u64 = value.trim().parse().map_err(|_| bad("not a whole number".to_string()))?;
            if n < min || n > max { Err(bad(format!("must be from {min} to {max}"))) } else { Ok(n) }
        };
        match field {
            "policy" => {
                let known = PolicyKind::ALL.into_iter().find(|p| p.name() == value);
                self.policy = known.ok_or_else(|| ProfileError::BadValue {
                    field: "policy",
                    value: value.to_string(),
                    why: format!("must be one of {}", PolicyKind::ALL.map(PolicyKind::name).join(", ")),
                })?;
            }
            "ack" => {
                let known = AckMode::ALL.into_iter().find(|a| a.name() == value);
                self.ack = known.ok_or_else(|| ProfileError::BadValue {
                    field: "ack",
                    value: value.to_string(),
                    why: "must be durable or buffered".to_string(),
                })?;
            }
            "max.delay.us" => self.max_delay_us = number("max.delay.us", 1, MAX_DELAY_US)?,
            "max.group.records" => self.max_group_records = number("max.group.records", 1, 10_000_000)?,
            "max.group.bytes" => self.max_group_bytes = number("max.group.bytes", 4096, 1 << 30)?,
            "max.queue.records" => self.max_queue_records = number("max.queue.records", 1, 100_000_000)?,
            "max.queue.bytes" => self.max_queue_bytes = number("max.queue.bytes", 4096, 1 << 34)?,
            other => return Err(ProfileError::UnknownField(other.to_string())),
        }
        Ok(())
    }
}

/// Checks the name of a profile: it becomes part of a configuration name and a metric's label.
pub fn check_name(name: &str) -> Result<(), ProfileError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(fine) {
        return Err(ProfileError::BadName(name.to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_reads_back_as_it_was_set() {
        for (_, (profile, _)) in built_in() {
            let mut copy = built_in()["low"].0.clone();
            for field in WalProfile::FIELDS {
                copy.set(field, &profile.get(field).unwrap()).unwrap();
            }
            assert_eq!(copy, profile);
        }
    }

    #[test]
    fn bad_values_are_named_and_change_nothing() {
        let mut p = built_in()["high"].0.clone();
        let before = p.clone();
        for (field, value) in [
            ("policy", "sometimes"),
            ("ack", "maybe"),
            ("max.delay.us", "0"),
            ("max.delay.us", "x"),
            ("size", "1"),
        ] {
            let e = p.set(field, value).unwrap_err().to_string();
            assert!(e.contains(field) || e.contains(value), "{e}");
        }
        assert_eq!(p, before);
        assert!(check_name("bulk-1").is_ok() && check_name("a.b").is_err() && check_name("").is_err());
    }
}
