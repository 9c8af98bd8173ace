//! WAL profiles as settings: `chronik.wal.profile.NAME.FIELD`, on the cluster-wide default of brokers.
//!
//! Setting a field of a name that is not there defines a profile; what it does not set is as in the profile
//! `high`. A built-in profile can be altered like any other; it cannot be removed: removing brings its own
//! definition back. Removing the name (`chronik.wal.profile.NAME`), or all of its fields, removes a profile,
//! unless a topic or a broker's default uses it.

use std::collections::{BTreeMap, BTreeSet};

use super::table::broker_setting;
use super::{ConfigEntry, ConfigError, ConfigKind, ConfigSource, ConfigSynonym};
use crate::metadata::image::{ConfigMap, MetadataImage};
use crate::metadata::record::{ConfigResource, MetadataRecord};
use crate::wal::profile::{self, DEFAULT_PROFILE, WalProfile};

/// The setting that names a topic's or a broker's profile.
pub const PROFILE_SETTING: &str = "chronik.wal.profile";

/// Splits `chronik.wal.profile.NAME` or `chronik.wal.profile.NAME.FIELD`.
pub fn parse(setting: &str) -> Option<(&str, Option<&str>)> {
    let rest = setting.strip_prefix(PROFILE_SETTING)?.strip_prefix('.')?;
    Some(match rest.split_once('.') {
        Some((name, field)) => (name, Some(field)),
        None => (rest, None),
    })
}

/// The definition a profile's fields fall back to.
fn base(name: &str) -> Option<WalProfile> {
    let mut built_in = profile::built_in();
    built_in.remove(name).or_else(|| built_in.remove(DEFAULT_PROFILE)).map(|(p, _)| p)
}

fn is_built_in(name: &str) -> bool {
    profile::built_in().contains_key(name)
}

/// One request's changes to profiles, gathered field by field.
#[derive(Default)]
pub struct ProfileEdits {
    edits: BTreeMap<String, Edit>,
}

#[derive(Default)]
struct Edit {
    remove: bool,
    /// `None` puts the field back to what it is in [`base`].
    fields: BTreeMap<&'static str, Option<String>>,
}

impl ProfileEdits {
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Notes that a setting for which [`parse`] answered is set, or with `None` removed.
    pub fn note(&mut self, setting: &str, value: Option<&str>) -> Result<(), ConfigError> {
        let bad = |why: String| ConfigError::BadValue {
            name: setting.to_string(),
            value: value.unwrap_or_default().to_string(),
            why,
        };
        let unknown = || ConfigError::Unknown { scope: "broker", name: setting.to_string() };
        let (name, field) = parse(setting).ok_or_else(unknown)?;
        profile::check_name(name).map_err(|e| bad(e.to_string()))?;
        match (field, value) {
            (None, None) => self.edits.entry(name.to_string()).or_default().remove = true,
            (None, Some(_)) => {
                let fields = WalProfile::FIELDS.join(", ");
                return Err(bad(format!("set its fields: {setting}.FIELD, where FIELD is one of {fields}")));
            }
            (Some(field), value) => {
                let known = WalProfile::FIELDS.into_iter().find(|known| *known == field);
                let known = known
                    .ok_or_else(|| bad(profile::ProfileError::UnknownField(field.into()).to_string()))?;
                let edit = self.edits.entry(name.to_string()).or_default();
                edit.fields.insert(known, value.map(str::to_string));
            }
        }
        Ok(())
    }

    /// The records that carry the changes out.
    pub fn records(&self, image: &MetadataImage) -> Result<Vec<MetadataRecord>, ConfigError> {
        let mut records = Vec::new();
        for (name, edit) in &self.edits {
            let before = image.wal_profile(name).map(|p| WalProfile::clone(p));
            let after = edit.apply(name, before.clone())?;
            if after != before {
                let definition = after.filter(|p| !is_built_in(name) || Some(p) != base(name).as_ref());
                records.push(MetadataRecord::WalProfile { name: name.clone(), definition });
            }
        }
        Ok(records)
    }
}

impl Edit {
    fn apply(&self, name: &str, before: Option<WalProfile>) -> Result<Option<WalProfile>, ConfigError> {
        let sets = self.fields.values().any(Option::is_some);
        let removes = self.remove || self.fields.len() == WalProfile::FIELDS.len();
        if !sets && (removes || before.is_none()) {
            return Ok(base(name).filter(|_| is_built_in(name)));
        }
        let fallback = base(name);
        let start = before.filter(|_| !self.remove).or_else(|| fallback.clone());
        let Some(mut definition) = start else { return Ok(None) };
        for (field, value) in &self.fields {
            let back = || fallback.as_ref().and_then(|p| p.get(field)).unwrap_or_default();
            let value = value.clone().unwrap_or_else(back);
            definition.set(field, &value).map_err(|e| ConfigError::BadValue {
                name: format!("{PROFILE_SETTING}.{name}.{field}"),
                value,
                why: e.to_string(),
            })?;
        }
        Ok(Some(definition))
    }
}

/// Checks that every profile that something names is there; `image` is as it would be afterwards.
pub fn check_in_use(image: &MetadataImage, removed: &BTreeSet<&str>) -> Result<(), ConfigError> {
    let gone = |name: Option<&String>| {
        name.filter(|n| removed.contains(n.as_str()) && image.wal_profile(n).is_none()).cloned()
    };
    let named = |config: &ConfigMap| gone(config.get(PROFILE_SETTING));
    for (resource, config) in image.configs() {
        if let Some(profile) = named(config) {
            let by = match resource {
                ConfigResource::Topic(topic) => format!("topic {topic}"),
                ConfigResource::Group(group) => format!("group {group}"),
                ConfigResource::Broker(id) => format!("broker {id}"),
                ConfigResource::BrokerDefault => "the brokers' default".to_string(),
            };
            return Err(ConfigError::ProfileInUse { profile, by });
        }
    }
    match gone(image.local().settings.get(PROFILE_SETTING)) {
        Some(profile) => {
            let by = format!("the static configuration of broker {}", image.local().broker_id);
            Err(ConfigError::ProfileInUse { profile, by })
        }
        None => Ok(()),
    }
}

/// Every profile's fields as settings of the brokers; with `dynamic_only`, those that were set.
pub(super) fn describe(image: &MetadataImage, dynamic_only: bool) -> Vec<ConfigEntry> {
    let mut entries = Vec::new();
    for (profile_name, definition) in image.wal_profiles() {
        let built_in = base(profile_name).filter(|_| is_built_in(profile_name));
        for field in WalProfile::FIELDS {
            let name = format!("{PROFILE_SETTING}.{profile_name}.{field}");
            let value = definition.get(field);
            let default = built_in.as_ref().and_then(|p| p.get(field));
            let source =
                if value == default { ConfigSource::Default } else { ConfigSource::DynamicDefaultBroker };
            if dynamic_only && source == ConfigSource::Default {
                continue;
            }
            let mut synonyms = Vec::new();
            if source != ConfigSource::Default {
                synonyms.push(ConfigSynonym { name: name.clone(), value: value.clone(), source });
            }
            if let Some(default) = default.filter(|_| !dynamic_only) {
                let (name, source) = (name.clone(), ConfigSource::Default);
                synonyms.push(ConfigSynonym { name, value: Some(default), source });
            }
            entries.push(ConfigEntry {
                name,
                value,
                source,
                kind: if matches!(field, "policy" | "ack") { ConfigKind::String } else { ConfigKind::Long },
                read_only: false,
                sensitive: false,
                synonyms,
                doc: field_doc(field),
            });
        }
    }
    entries
}

fn field_doc(field: &str) -> &'static str {
    match field {
        "policy" => {
            "When a waiting group is written: pipelined, adaptive, adaptive-thresholds, hybrid or fixed."
        }
        "max.delay.us" => "The longest an entry may wait for company, in microseconds.",
        "max.group.records" => "The most records in one commit group.",
        "max.group.bytes" => "The most bytes in one commit group.",
        "max.queue.records" => "Records that may wait before the broker stops reading from their senders.",
        "max.queue.bytes" => "Bytes that may wait before the broker stops reading from their senders.",
        "ack" => "durable: acks=1 is answered after the flush. buffered: before it, and a crash may lose it.",
        _ => "",
    }
}

/// Checks that the profile a setting names exists.
pub fn check_exists(image: &MetadataImage, setting: &str, value: &str) -> Result<(), ConfigError> {
    let is_profile = broker_setting(setting).is_some_and(|s| s.name == PROFILE_SETTING);
    if !is_profile || image.wal_profile(value).is_some() {
        return Ok(());
    }
    let known: Vec<&str> = image.wal_profiles().keys().map(|n| &**n).collect();
    Err(ConfigError::BadValue {
        name: setting.to_string(),
        value: value.to_string(),
        why: format!("no such WAL profile; there are {}", known.join(", ")),
    })
}
