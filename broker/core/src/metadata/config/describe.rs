//! Every setting with its value and where it came from, for DescribeConfigs.

use super::groups::GROUP_SETTINGS;
use super::table::{BROKER_SETTINGS, TOPIC_SETTINGS, Update, broker_setting};
use super::{ConfigKind, ConfigSource, FixedSetting, LocalConfig, broker_values, wal_profiles};
use crate::ids::BrokerId;
use crate::metadata::image::MetadataImage;
use crate::metadata::record::ConfigResource;

/// A value a setting has or would fall back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSynonym {
    pub name: String,
    pub value: Option<String>,
    pub source: ConfigSource,
}

/// One setting of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    pub name: String,
    /// `None` for a sensitive one.
    pub value: Option<String>,
    pub source: ConfigSource,
    pub kind: ConfigKind,
    pub read_only: bool,
    pub sensitive: bool,
    /// The value in effect first, then what would take its place, one by one.
    pub synonyms: Vec<ConfigSynonym>,
    pub doc: &'static str,
}

fn synonym(name: &str, value: &str, source: ConfigSource) -> ConfigSynonym {
    ConfigSynonym { name: name.to_string(), value: Some(value.to_string()), source }
}

/// An entry whose value is that of its first synonym; `None` when it has none.
fn entry(
    name: &str,
    kind: ConfigKind,
    read_only: bool,
    synonyms: Vec<ConfigSynonym>,
    doc: &'static str,
) -> Option<ConfigEntry> {
    let first = synonyms.first()?;
    let (value, source) = (first.value.clone(), first.source);
    Some(ConfigEntry {
        name: name.to_string(),
        value,
        source,
        kind,
        read_only,
        sensitive: false,
        synonyms,
        doc,
    })
}

/// The settings of a topic, whether it exists or not, sorted by name.
pub fn describe_topic(image: &MetadataImage, topic: &str) -> Vec<ConfigEntry> {
    let own = image.config(&ConfigResource::Topic(topic.to_string()));
    let described = TOPIC_SETTINGS.iter().filter_map(|s| {
        let set = own.and_then(|c| c.get(s.name));
        let mut synonyms: Vec<ConfigSynonym> =
            set.map(|v| synonym(s.name, v, ConfigSource::DynamicTopic)).into_iter().collect();
        if let Some(broker) = broker_setting(s.broker_name) {
            synonyms.extend(broker_values(image, broker).map(|(v, source)| synonym(broker.name, v, source)));
        }
        entry(s.name, s.kind, false, synonyms, s.doc)
    });
    described.collect()
}

/// The settings of a consumer group, whether it exists or not, sorted by name.
pub fn describe_group(image: &MetadataImage, group: &str) -> Vec<ConfigEntry> {
    let own = image.config(&ConfigResource::Group(group.to_string()));
    let described = GROUP_SETTINGS.iter().filter_map(|s| {
        let broker = broker_setting(s.broker_name)?;
        let set = own.and_then(|c| c.get(s.name)).map(|v| synonym(s.name, v, ConfigSource::Group));
        let behind = broker_values(image, broker).map(|(v, source)| synonym(broker.name, v, source));
        entry(s.name, broker.kind, false, set.into_iter().chain(behind).collect(), s.doc)
    });
    described.collect()
}

/// The settings of one broker, sorted by name. Static ones are known to the broker itself only: asked about
/// another one, this lists what was set on it while it ran.
pub fn describe_broker(image: &MetadataImage, broker: BrokerId) -> Vec<ConfigEntry> {
    if broker != image.local().broker_id {
        return describe_set(image, &ConfigResource::Broker(broker), ConfigSource::DynamicBroker);
    }
    let mut entries: Vec<ConfigEntry> = BROKER_SETTINGS
        .iter()
        .filter_map(|s| {
            let synonyms = broker_values(image, s).map(|(v, source)| synonym(s.name, v, source)).collect();
            entry(s.name, s.kind, s.update == Update::ReadOnly, synonyms, s.doc)
        })
        .collect();
    entries.extend(wal_profiles::describe(image, false));
    entries.extend(image.local().fixed.iter().map(|s| describe_fixed(image.local(), s)));
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// As Kafka does, one without a value is told, too.
fn describe_fixed(local: &LocalConfig, setting: &FixedSetting) -> ConfigEntry {
    let FixedSetting { name, kind, default, doc, .. } = *setting;
    let set = local.settings.get(name).map(|v| synonym(name, v, ConfigSource::StaticBroker));
    let default = default.map(|v| synonym(name, v, ConfigSource::Default));
    let mut synonyms: Vec<ConfigSynonym> = set.into_iter().chain(default).collect();
    let sensitive = kind == ConfigKind::Password;
    if sensitive {
        synonyms.iter_mut().for_each(|s| s.value = None);
    }
    let first = synonyms.first();
    let value = first.and_then(|s| s.value.clone());
    let source = first.map_or(ConfigSource::Default, |s| s.source);
    ConfigEntry { name: name.to_string(), value, source, kind, read_only: true, sensitive, synonyms, doc }
}

/// What was set on all brokers, sorted by name; nothing else, as in Kafka.
pub fn describe_broker_default(image: &MetadataImage) -> Vec<ConfigEntry> {
    let mut entries = describe_set(image, &ConfigResource::BrokerDefault, ConfigSource::DynamicDefaultBroker);
    entries.extend(wal_profiles::describe(image, true));
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

fn describe_set(image: &MetadataImage, resource: &ConfigResource, source: ConfigSource) -> Vec<ConfigEntry> {
    let set = image.config(resource).into_iter().flatten();
    let described = set.filter_map(|(name, value)| {
        let s = broker_setting(name)?;
        entry(s.name, s.kind, s.update == Update::ReadOnly, vec![synonym(name, value, source)], s.doc)
    });
    described.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::metadata::config::LocalConfig;
    use crate::metadata::record::MetadataRecord;

    fn set(resource: ConfigResource, name: &str, value: &str) -> MetadataRecord {
        MetadataRecord::Config { resource, name: name.to_string(), value: Some(value.to_string()) }
    }

    #[test]
    fn synonyms_go_from_the_topic_to_the_default() {
        let settings = BTreeMap::from([
            ("message.max.bytes".to_string(), "4000".to_string()),
            ("admin.token".to_string(), "hush".to_string()),
            ("admin.token.file".to_string(), "/etc/token".to_string()),
        ]);
        let fixed = |name, kind, default| FixedSetting { name, alias: None, kind, default, doc: "d" };
        let local = LocalConfig {
            fixed: vec![
                fixed("admin.token", ConfigKind::Password, None),
                fixed("admin.token.file", ConfigKind::String, None),
                fixed("broker.rack", ConfigKind::String, None),
                fixed("requests.max", ConfigKind::Int, Some("7")),
            ],
            ..LocalConfig::new(BrokerId(1), settings).unwrap()
        };
        let local = Arc::new(local);
        let topic = MetadataRecord::Topic { name: "t".to_string(), topic_id: Default::default() };
        let records = [
            topic,
            set(ConfigResource::Topic("t".to_string()), "max.message.bytes", "1000"),
            set(ConfigResource::Broker(BrokerId(1)), "message.max.bytes", "2000"),
            set(ConfigResource::BrokerDefault, "message.max.bytes", "3000"),
        ];
        let image = MetadataImage::from_records(local, 4, &records).unwrap();
        let entries = describe_topic(&image, "t");
        let e = entries.iter().find(|e| e.name == "max.message.bytes").unwrap();
        let synonyms: Vec<(&str, &str, i8)> = e
            .synonyms
            .iter()
            .map(|s| (s.name.as_str(), s.value.as_deref().unwrap(), s.source as i8))
            .collect();
        let expected = [
            ("max.message.bytes", "1000", 1),
            ("message.max.bytes", "2000", 2),
            ("message.max.bytes", "3000", 3),
            ("message.max.bytes", "4000", 4),
            ("message.max.bytes", "1048588", 5),
        ];
        assert_eq!(synonyms, expected);
        assert_eq!((e.value.as_deref(), e.source), (Some("1000"), ConfigSource::DynamicTopic));

        let broker = describe_broker(&image, BrokerId(1));
        assert!(broker.is_sorted_by(|a, b| a.name < b.name), "sorted and unique");
        let find = |name: &str| broker.iter().find(|e| e.name == name).unwrap();
        assert_eq!(find("message.max.bytes").value.as_deref(), Some("2000"));
        assert!(find("admin.token").sensitive && find("admin.token").value.is_none());
        assert!(find("admin.token").synonyms.iter().all(|s| s.value.is_none()));
        assert_eq!(find("admin.token.file").value.as_deref(), Some("/etc/token"));
        let rack = find("broker.rack");
        assert_eq!(
            (rack.value.as_deref(), rack.source, rack.synonyms.len()),
            (None, ConfigSource::Default, 0)
        );
        assert_eq!(
            (find("requests.max").value.as_deref(), find("requests.max").read_only),
            (Some("7"), true)
        );
        assert!(find("num.partitions").read_only);
        assert_eq!(find("chronik.wal.profile.high.policy").value.as_deref(), Some("pipelined"));

        let default: Vec<String> = describe_broker_default(&image).into_iter().map(|e| e.name).collect();
        assert_eq!(default, ["message.max.bytes"]);
    }
}
