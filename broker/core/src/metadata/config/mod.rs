//! Settings that can be altered while the broker runs, and what they come to.
//!
//! [`table`] lists every setting that acts, once ([`groups`] those of consumer groups); [`resolve`] finds what is in effect: a topic's own value,
//! else this broker's dynamic one, else the cluster-wide dynamic one, else the static configuration's, else
//! the default; [`describe`] tells where each value came from, for DescribeConfigs.

pub mod describe;
pub mod groups;
pub mod resolve;
pub mod table;
pub mod unsupported;
pub mod wal_profiles;

use std::collections::BTreeMap;

use thiserror::Error;

use crate::ids::BrokerId;

pub use describe::{
    ConfigEntry, ConfigSynonym, describe_broker, describe_broker_default, describe_group, describe_topic,
};
pub use resolve::{Resolver, TimestampType, TopicConfig, broker_value, broker_value_of, broker_values};
pub use table::{BROKER_SETTINGS, BrokerSetting, Check, TOPIC_SETTINGS, TopicSetting, Update};

/// The type of a setting's value, by Kafka's numbers (DescribeConfigs `ConfigType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigKind {
    Boolean = 1,
    String = 2,
    Int = 3,
    Short = 4,
    Long = 5,
    Double = 6,
    List = 7,
    Class = 8,
    Password = 9,
}

/// Where a value comes from, by Kafka's numbers (DescribeConfigs `ConfigSource`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigSource {
    DynamicTopic = 1,
    DynamicBroker = 2,
    DynamicDefaultBroker = 3,
    StaticBroker = 4,
    Default = 5,
    Group = 8,
}

/// Explicitly set static settings by name: file, environment and flags, already merged and validated.
pub type StaticBrokerConfig = BTreeMap<String, String>;

/// A setting that a broker has from its start to its stop. It is no metadata: the broker tells which there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedSetting {
    pub name: &'static str,
    /// What it is called, too.
    pub alias: Option<&'static str>,
    /// The value of a [`ConfigKind::Password`] is told to nobody.
    pub kind: ConfigKind,
    /// `None`: not set.
    pub default: Option<&'static str>,
    pub doc: &'static str,
}

/// This broker's own, not replicated part of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalConfig {
    pub broker_id: BrokerId,
    pub settings: StaticBrokerConfig,
    /// The settings that are not in [`BROKER_SETTINGS`].
    pub fixed: Vec<FixedSetting>,
}

impl LocalConfig {
    /// Checks the value of every setting that is in the table; what the table does not know is not judged
    /// here.
    pub fn new(broker_id: BrokerId, settings: StaticBrokerConfig) -> Result<LocalConfig, ConfigError> {
        for (name, value) in &settings {
            if let Some(setting) = table::broker_setting(name) {
                setting.check.check(name, value)?;
            }
        }
        Ok(LocalConfig { broker_id, settings, fixed: Vec::new() })
    }

    /// The setting of this name that cannot be altered while the broker runs.
    pub fn fixed(&self, name: &str) -> Option<&FixedSetting> {
        self.fixed.iter().find(|s| s.name == name || s.alias == Some(name))
    }
}

/// Why a setting was refused. The message names the key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("Unknown {scope} config name: {name}")]
    Unknown { scope: &'static str, name: String },
    #[error("{name} is a setting of Kafka that has no effect here yet, so it is not accepted")]
    NotSupported { name: String },
    #[error("Invalid value {value} for configuration {name}: {why}")]
    BadValue { name: String, value: String, why: String },
    #[error("Cannot update these configs dynamically: [{name}]")]
    ReadOnly { name: String },
    #[error("{name} must be {relation} {other}")]
    OutOfBounds { name: &'static str, relation: &'static str, other: &'static str },
    #[error("{name} can only be set on {on}")]
    WrongResource { name: String, on: &'static str },
    #[error("WAL profile {profile} is in use by {by}: it cannot be removed")]
    ProfileInUse { profile: String, by: String },
}
