//! What is in effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::table::{BrokerSetting, TOPIC_SETTINGS, TopicSetting, broker_setting};
use super::{ConfigSource, LocalConfig};
use crate::metadata::image::{ConfigMap, MetadataImage};
use crate::metadata::record::ConfigResource;
use crate::wal::profile::{DEFAULT_PROFILE, WalProfile, built_in};

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

/// A broker setting's value as it acts on the broker that holds the image.
pub fn broker_value<'a>(
    image: &'a MetadataImage,
    setting: &'static BrokerSetting,
) -> (&'a str, ConfigSource) {
    let broker = ConfigResource::Broker(image.local().broker_id);
    let set = |resource| image.config(resource).and_then(|c| c.get(setting.name)).map(String::as_str);
    let fixed = || image.local().settings.get(setting.name).map(String::as_str);
    set(&broker)
        .map(|v| (v, ConfigSource::DynamicBroker))
        .or_else(|| set(&ConfigResource::BrokerDefault).map(|v| (v, ConfigSource::DynamicDefaultBroker)))
        .or_else(|| fixed().map(|v| (v, ConfigSource::StaticBroker)))
        .unwrap_or((setting.default, ConfigSource::Default))
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
        }
    }

    /// The value of a setting, valid by its check: a static value that is not, which start-up refuses, counts
    /// as not set.
    fn value<'v>(&'v self, own: Option<&'v ConfigMap>, setting: &TopicSetting) -> &'v str {
        if let Some(value) = own.and_then(|c| c.get(setting.name)) {
            return value;
        }
        let Some(broker) = broker_setting(setting.broker_name) else { return "" };
        let (value, source) = broker_value(self.image, broker);
        if source == ConfigSource::StaticBroker && broker.check.check(broker.name, value).is_err() {
            return broker.default;
        }
        value
    }

    /// The profile of this name; the default one when a static configuration names one that is not there.
    fn wal_profile(&self, name: &str) -> (Arc<str>, Arc<WalProfile>) {
        let find = |name: &str| self.image.wal_profiles().get_key_value(name);
        match find(name).or_else(|| find(DEFAULT_PROFILE)) {
            Some((name, profile)) => (name.clone(), profile.clone()),
            None => {
                let (name, (profile, _)) = built_in().pop_first().unwrap_or_else(|| unreachable!());
                (Arc::from(name), Arc::new(profile))
            }
        }
    }
}
