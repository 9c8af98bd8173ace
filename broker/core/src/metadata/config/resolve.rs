//! What is in effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::table::{BrokerSetting, TOPIC_SETTINGS, TopicSetting, broker_setting};
use super::{ConfigSource, LocalConfig};
use crate::metadata::image::{ConfigMap, MetadataImage};
use crate::metadata::record::ConfigResource;
use crate::wal::profile::{DEFAULT_PROFILE, WalProfile};

/// Whose clock a record's timestamp is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// A topic's effective configuration, typed. Resolved once per change, read per request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// The name of `wal_profile`.
    pub wal_profile_name: Arc<str>,
    pub wal_profile: Arc<WalProfile>,
    pub max_message_bytes: i32,
    pub timestamp_type: TimestampType,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    pub min_insync_replicas: i32,
    pub segment_bytes: i32,
    pub segment_ms: i64,
    pub cleanup: Cleanup,
    /// -1: without a limit.
    pub retention_ms: i64,
    /// -1: without a limit.
    pub retention_bytes: i64,
    pub file_delete_delay_ms: i64,
    pub compaction: Compaction,
}

/// What becomes of old records (`cleanup.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    pub delete: bool,
    pub compact: bool,
}

/// How a compacted topic is cleaned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// Millionths.
    pub min_dirty_ratio: u32,
    pub min_lag_ms: i64,
    pub max_lag_ms: i64,
    pub delete_retention_ms: i64,
}

impl TopicConfig {
    /// The defaults: what a topic has while the delta that creates it is still being replayed.
    pub fn unresolved() -> TopicConfig {
        let empty = MetadataImage::empty(Arc::new(LocalConfig::default()));
        Resolver::new(&empty).resolve(None)
    }
}

/// Resolves the effective configuration of topics of one image.
pub struct Resolver<'a> {
    image: &'a MetadataImage,
    /// What topics without settings of their own have in common.
    plain: Option<Arc<TopicConfig>>,
}

/// The values a broker setting has on the broker that holds the image: the one in effect first, then what
/// would take its place; the default last. A static value that its check refuses (start-up refuses it, too)
/// counts as not set.
pub fn broker_values<'a>(
    image: &'a MetadataImage,
    setting: &'static BrokerSetting,
) -> impl Iterator<Item = (&'a str, ConfigSource)> {
    let own = ConfigResource::Broker(image.local().broker_id);
    let set = |resource: &ConfigResource| image.config(resource).and_then(|c| c.get(setting.name));
    let fixed = image.local().settings.get(setting.name);
    let fixed = fixed.filter(|value| setting.check.check(setting.name, value).is_ok());
    [
        (set(&own), ConfigSource::DynamicBroker),
        (set(&ConfigResource::BrokerDefault), ConfigSource::DynamicDefaultBroker),
        (fixed, ConfigSource::StaticBroker),
    ]
    .into_iter()
    .filter_map(|(value, source)| Some((value?.as_str(), source)))
    .chain([(setting.default, ConfigSource::Default)])
}

/// The value of a broker setting in effect on the broker that holds the image, and where it comes from.
pub fn broker_value<'a>(
    image: &'a MetadataImage,
    setting: &'static BrokerSetting,
) -> (&'a str, ConfigSource) {
    broker_values(image, setting).next().unwrap_or((setting.default, ConfigSource::Default))
}

/// The same by name; the empty string when the table has no such setting.
pub fn broker_value_of<'a>(image: &'a MetadataImage, name: &str) -> &'a str {
    broker_setting(name).map_or("", |setting| broker_value(image, setting).0)
}

impl<'a> Resolver<'a> {
    pub fn new(image: &'a MetadataImage) -> Resolver<'a> {
        Resolver { image, plain: None }
    }

    /// The effective configuration of the topic of this name, whether it exists or not.
    pub fn topic(&mut self, name: &str) -> Arc<TopicConfig> {
        match self.image.config(&ConfigResource::Topic(name.to_string())) {
            Some(own) => Arc::new(self.resolve(Some(own))),
            None => {
                let plain = self.plain.take().unwrap_or_else(|| Arc::new(self.resolve(None)));
                self.plain.insert(plain).clone()
            }
        }
    }

    fn resolve(&self, own: Option<&ConfigMap>) -> TopicConfig {
        let values: BTreeMap<&str, &str> =
            TOPIC_SETTINGS.iter().map(|s| (s.name, self.value(own, s))).collect();
        let text = |name: &str| values.get(name).copied().unwrap_or_default();
        let long = |name: &str| text(name).parse::<i64>().unwrap_or_default();
        let int = |name: &str| text(name).parse::<i32>().unwrap_or_default();
        let named = text("chronik.wal.profile");
        let (wal_profile_name, wal_profile) = self.wal_profile(named);
        TopicConfig {
            wal_profile_name,
            wal_profile,
            max_message_bytes: int("max.message.bytes"),
            timestamp_type: match text("message.timestamp.type") {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
            min_insync_replicas: int("min.insync.replicas"),
            segment_bytes: int("segment.bytes"),
            segment_ms: long("segment.ms"),
            cleanup: Cleanup {
                delete: text("cleanup.policy").contains("delete"),
                compact: text("cleanup.policy").contains("compact"),
            },
            retention_ms: long("retention.ms"),
            retention_bytes: long("retention.bytes"),
            file_delete_delay_ms: long("file.delete.delay.ms"),
            compaction: Compaction {
                min_dirty_ratio: (text("min.cleanable.dirty.ratio").parse().unwrap_or(0.5) * 1e6) as u32,
                min_lag_ms: long("min.compaction.lag.ms"),
                max_lag_ms: long("max.compaction.lag.ms"),
                delete_retention_ms: long("delete.retention.ms"),
            },
        }
    }

    fn value<'v>(&'v self, own: Option<&'v ConfigMap>, setting: &TopicSetting) -> &'v str {
        match own.and_then(|c| c.get(setting.name)) {
            Some(value) => value,
            None => broker_value_of(self.image, setting.broker_name),
        }
    }

    /// The profile of this name. A static configuration may name one that is defined nowhere; then it is the
    /// default one that acts, and that is what the name says.
    fn wal_profile(&self, name: &str) -> (Arc<str>, Arc<WalProfile>) {
        let find = |name: &str| self.image.wal_profiles().get_key_value(name);
        let found = find(name).or_else(|| find(DEFAULT_PROFILE));
        let (name, profile) = found.expect("a delta cannot remove a built-in profile");
        (name.clone(), profile.clone())
    }
}
