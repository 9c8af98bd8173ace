//! Settings that a consumer group of the new protocol (KIP-848) may have of its own, and the bounds that brokers set for them.

use super::table::{self, broker_setting};
use super::{ConfigError, ConfigSource, broker_value_of, broker_values, unsupported};
use crate::metadata::image::{ConfigMap, MetadataImage};
use crate::metadata::record::ConfigResource;

/// A setting of groups: milliseconds, as the broker setting that stands in where a group has none of its own.
#[derive(Debug)]
pub struct GroupSetting {
    pub name: &'static str,
    pub broker_name: &'static str,
    /// The broker settings that bound it.
    pub min_name: &'static str,
    pub max_name: &'static str,
    pub doc: &'static str,
}

/// Every setting of groups that acts, by name.
pub const GROUP_SETTINGS: [GroupSetting; 3] = [
    GroupSetting {
        name: ASSIGNMENT_INTERVAL,
        broker_name: "group.consumer.assignment.interval.ms",
        min_name: "group.consumer.min.assignment.interval.ms",
        max_name: "group.consumer.max.assignment.interval.ms",
        doc: "How long this group keeps a target assignment at least before it makes another, in milliseconds.",
    },
    GroupSetting {
        name: HEARTBEAT_INTERVAL,
        broker_name: "group.consumer.heartbeat.interval.ms",
        min_name: "group.consumer.min.heartbeat.interval.ms",
        max_name: "group.consumer.max.heartbeat.interval.ms",
        doc: "How often this group's members are told to send a heartbeat, in milliseconds.",
    },
    GroupSetting {
        name: SESSION_TIMEOUT,
        broker_name: "group.consumer.session.timeout.ms",
        min_name: "group.consumer.min.session.timeout.ms",
        max_name: "group.consumer.max.session.timeout.ms",
        doc: "How long a member of this group may send no heartbeat before it has left, in milliseconds.",
    },
];

pub const ASSIGNMENT_INTERVAL: &str = "consumer.assignment.interval.ms";
pub const HEARTBEAT_INTERVAL: &str = "consumer.heartbeat.interval.ms";
pub const SESSION_TIMEOUT: &str = "consumer.session.timeout.ms";

/// The protocols that groups may use.
const PROTOCOLS: &str = "group.coordinator.rebalance.protocols";

/// Whether groups may use the new protocol.
pub fn consumer_protocol(image: &MetadataImage) -> bool {
    broker_value_of(image, PROTOCOLS).split(',').any(|protocol| protocol == "consumer")
}

pub fn group_setting(name: &str) -> Option<&'static GroupSetting> {
    GROUP_SETTINGS.iter().find(|s| s.name == name)
}

/// Whether this broker setting stands in for one of groups.
pub fn is_brokers(name: &str) -> bool {
    GROUP_SETTINGS.iter().any(|s| s.broker_name == name)
}

/// Checks the value of one setting of groups by itself; returns the form it is stored in.
pub fn check(name: &str, value: &str) -> Result<String, ConfigError> {
    let unknown = || table::unknown("group", name, &unsupported::GROUP_SETTINGS);
    let setting = group_setting(name).and_then(|s| broker_setting(s.broker_name)).ok_or_else(unknown)?;
    setting.check.check(name, value)
}

/// Checks what a group's settings are together, those that it has not included.
pub fn check_together(image: &MetadataImage, own: &ConfigMap) -> Result<(), ConfigError> {
    let broker = |name: &str| number(broker_value_of(image, name));
    let value = |s: &GroupSetting| match own.get(s.name) {
        Some(value) => number(value),
        None => broker(s.broker_name),
    };
    check_bounds(|s| s.name, value, broker)
}

/// The same of the broker settings that stand in, and which `broker` knows by name.
pub fn check_brokers(broker: impl Fn(&str) -> i64) -> Result<(), ConfigError> {
    check_bounds(|s| s.broker_name, |s| broker(s.broker_name), &broker)
}

fn check_bounds(
    name: impl Fn(&GroupSetting) -> &'static str,
    value: impl Fn(&GroupSetting) -> i64,
    broker: impl Fn(&str) -> i64,
) -> Result<(), ConfigError> {
    let refuse = |name, relation, other| Err(ConfigError::OutOfBounds { name, relation, other });
    for setting in &GROUP_SETTINGS {
        if value(setting) < broker(setting.min_name) {
            return refuse(name(setting), "greater than or equal to", setting.min_name);
        }
        if value(setting) > broker(setting.max_name) {
            return refuse(name(setting), "less than or equal to", setting.max_name);
        }
    }
    let [_, heartbeat, session] = &GROUP_SETTINGS;
    if value(session) <= value(heartbeat) {
        return refuse(name(session), "greater than", name(heartbeat));
    }
    Ok(())
}

/// What was set while the brokers run for this setting of a group: on the group, or else on the broker. Within the bounds as
/// they are now.
pub fn dynamic_value_ms(image: &MetadataImage, group: &str, name: &str) -> Option<i32> {
    let setting = group_setting(name)?;
    let own = image.config(&ConfigResource::Group(group.to_string())).and_then(|own| own.get(name));
    let value = match own {
        Some(own) => own,
        None => {
            let dynamic = [ConfigSource::DynamicBroker, ConfigSource::DynamicDefaultBroker];
            let mut values = broker_values(image, broker_setting(setting.broker_name)?);
            values.find(|(_, source)| dynamic.contains(source))?.0
        }
    };
    let bound = |name: &str| number(broker_value_of(image, name));
    let value = number(value).min(bound(setting.max_name)).max(bound(setting.min_name));
    i32::try_from(value).ok()
}

/// The table has checked it.
fn number(value: &str) -> i64 {
    value.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::BrokerId;
    use crate::metadata::config::{ConfigKind, LocalConfig, describe_group};
    use crate::metadata::record::MetadataRecord;

    fn image(local: &[(&str, &str)], group: &[(&str, &str)]) -> MetadataImage {
        let settings = local.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let local = Arc::new(LocalConfig::new(BrokerId(1), settings).unwrap());
        let set = |resource: &ConfigResource, name: &str, value: &str| MetadataRecord::Config {
            resource: resource.clone(),
            name: name.to_string(),
            value: Some(value.to_string()),
        };
        let of = ConfigResource::Group("g".to_string());
        let mut records: Vec<MetadataRecord> = group.iter().map(|(n, v)| set(&of, n, v)).collect();
        records.push(set(&ConfigResource::BrokerDefault, "group.consumer.assignment.interval.ms", "700"));
        MetadataImage::from_records(local, 1, &records).unwrap()
    }

    fn own(settings: &[(&str, &str)]) -> ConfigMap {
        settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn the_table_is_sorted_and_its_broker_settings_are_there() {
        assert!(GROUP_SETTINGS.is_sorted_by(|a, b| a.name < b.name));
        assert!(unsupported::GROUP_SETTINGS.iter().all(|name| group_setting(name).is_none()));
        for s in &GROUP_SETTINGS {
            assert_eq!(s.broker_name, format!("group.{}", s.name));
            for name in [s.broker_name, s.min_name, s.max_name] {
                assert_eq!(broker_setting(name).unwrap().kind, ConfigKind::Int, "{name}");
            }
        }
        let defaults = |name: &str| number(broker_setting(name).unwrap().default);
        assert_eq!(check_brokers(defaults), Ok(()));
    }

    #[test]
    fn what_a_group_has_is_checked_against_the_brokers_bounds() {
        let image = image(&[("group.consumer.max.session.timeout.ms", "50000")], &[]);
        let refused = |settings: &[(&str, &str)]| {
            check_together(&image, &own(settings)).map_err(|e| e.to_string()).unwrap_err()
        };
        assert_eq!(check_together(&image, &own(&[(SESSION_TIMEOUT, "50000")])), Ok(()));
        assert_eq!(
            refused(&[(SESSION_TIMEOUT, "50001")]),
            "consumer.session.timeout.ms must be less than or equal to group.consumer.max.session.timeout.ms"
        );
        assert_eq!(
            refused(&[(HEARTBEAT_INTERVAL, "4999")]),
            "consumer.heartbeat.interval.ms must be greater than or equal to group.consumer.min.heartbeat.interval.ms"
        );
        let known = |value| check(SESSION_TIMEOUT, value).map_err(|e| e.to_string());
        assert_eq!(known(" 46000 "), Ok("46000".to_string()));
        assert!(known("x").unwrap_err().contains("Not a number"));
        assert!(known("0").unwrap_err().contains("at least 1"));
        let unknown = |name| check(name, "1").unwrap_err().to_string();
        assert_eq!(unknown("foo"), "Unknown group config name: foo");
        assert!(unknown("share.session.timeout.ms").contains("no effect here yet"));
    }

    #[test]
    fn a_session_is_longer_than_the_time_between_heartbeats() {
        let low = [
            ("group.consumer.min.session.timeout.ms", "1"),
            ("group.consumer.min.heartbeat.interval.ms", "1"),
        ];
        let together = |settings: &[(&str, &str)]| {
            check_together(&image(&low, &[]), &own(settings)).map_err(|e| e.to_string())
        };
        assert_eq!(together(&[(SESSION_TIMEOUT, "5001")]), Ok(()));
        assert_eq!(
            together(&[(SESSION_TIMEOUT, "5000")]).unwrap_err(),
            "consumer.session.timeout.ms must be greater than consumer.heartbeat.interval.ms"
        );
        assert_eq!(together(&[(SESSION_TIMEOUT, "5000"), (HEARTBEAT_INTERVAL, "4999")]), Ok(()));
    }

    #[test]
    fn a_groups_value_comes_before_the_brokers_and_stays_within_their_bounds() {
        let narrow = [("group.consumer.max.session.timeout.ms", "50000")];
        let image = image(&narrow, &[(SESSION_TIMEOUT, "60000"), (HEARTBEAT_INTERVAL, "6000")]);
        let value = |group: &str, name: &str| dynamic_value_ms(&image, group, name);
        assert_eq!((value("g", SESSION_TIMEOUT), value("h", SESSION_TIMEOUT)), (Some(50_000), None));
        assert_eq!((value("g", HEARTBEAT_INTERVAL), value("h", HEARTBEAT_INTERVAL)), (Some(6_000), None));
        assert_eq!(
            (value("g", ASSIGNMENT_INTERVAL), value("h", ASSIGNMENT_INTERVAL)),
            (Some(700), Some(700))
        );

        let entries = describe_group(&image, "g");
        let entry = entries.iter().find(|e| e.name == HEARTBEAT_INTERVAL).unwrap();
        let synonyms: Vec<(&str, &str, i8)> = entry
            .synonyms
            .iter()
            .map(|s| (s.name.as_str(), s.value.as_deref().unwrap(), s.source as i8))
            .collect();
        let expected = [(HEARTBEAT_INTERVAL, "6000", 8), ("group.consumer.heartbeat.interval.ms", "5000", 5)];
        assert_eq!(synonyms, expected);
        assert!(!entry.read_only && entry.kind == ConfigKind::Int && entry.source == ConfigSource::Group);
        assert_eq!(describe_group(&image, "h").len(), GROUP_SETTINGS.len());
    }

    #[test]
    fn groups_may_use_the_new_protocol_unless_the_broker_says_otherwise() {
        assert!(consumer_protocol(&image(&[], &[])));
        assert!(!consumer_protocol(&image(&[("group.coordinator.rebalance.protocols", "classic")], &[])));
    }
}
