//! Which settings need a restart, and which are altered while the brokers run.

use std::collections::BTreeMap;

use crate::crd::ChronikClusterSpec;
use crate::crd::cluster::{Ack, Engine, ListenerType, Policy, WalProfile};

/// Settings of brokers that are altered live, on the cluster-wide default. A test holds this against the broker's own
/// table.
pub const LIVE_SETTINGS: [&str; 27] = [
    "chronik.scrub.bytes.per.second",
    "chronik.scrub.interval.ms",
    "chronik.wal.profile",
    "compression.type",
    "group.consumer.assignment.interval.ms",
    "log.cleaner.backoff.ms",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.delete.retention.ms",
    "log.cleaner.io.max.bytes.per.second",
    "log.cleaner.max.compaction.lag.ms",
    "log.cleaner.min.cleanable.ratio",
    "log.cleaner.min.compaction.lag.ms",
    "log.cleanup.policy",
    "log.message.timestamp.after.max.ms",
    "log.message.timestamp.before.max.ms",
    "log.message.timestamp.type",
    "log.retention.bytes",
    "log.retention.check.interval.ms",
    "log.retention.ms",
    "log.roll.ms",
    "log.segment.bytes",
    "log.segment.delete.delay.ms",
    "max.connections",
    "max.connections.per.ip",
    "message.max.bytes",
    "min.insync.replicas",
    "producer.id.expiration.ms",
];

pub const PROFILE_SETTING: &str = "chronik.wal.profile";
const PROFILE_PREFIX: &str = "chronik.wal.profile.";

/// The fields of a WAL profile, in the order of the values in [`BUILT_IN_PROFILES`].
pub const PROFILE_FIELDS: [&str; 7] = [
    "policy",
    "max.delay.us",
    "max.group.records",
    "max.group.bytes",
    "max.queue.records",
    "max.queue.bytes",
    "ack",
];

/// The profiles that every broker has. Values that are as built in are not told apart from values that nobody set, so
/// they must be known here. A test holds this against the broker's own definitions.
pub const BUILT_IN_PROFILES: [(&str, [&str; 7]); 4] = [
    ("high", ["pipelined", "100000", "10000", "50000000", "50000", "67108864", "durable"]),
    ("low", ["pipelined", "2000", "1000", "1048576", "5000", "8388608", "durable"]),
    ("medium", ["adaptive", "10000", "5000", "10000000", "20000", "33554432", "durable"]),
    ("ultra", ["hybrid", "5000", "50000", "50000000", "100000", "134217728", "durable"]),
];

const DATA_DIR: &str = "/var/lib/chronik/data";
const WAL_DIR: &str = "/var/lib/chronik-wal/wal";
const SHUTDOWN: &str = "chronik.shutdown.timeout.ms";

fn is_live(name: &str) -> bool {
    LIVE_SETTINGS.contains(&name) || name.starts_with(PROFILE_PREFIX)
}

/// The settings in `broker.yaml`: those that the operator derives, and those of `spec.config` that need a restart.
pub fn fixed(spec: &ChronikClusterSpec, cluster_id: &str) -> BTreeMap<String, String> {
    let each = |write: &dyn Fn(&str, i32) -> String| {
        let listeners = spec.listeners.iter().map(|l| write(&l.name.to_uppercase(), l.port));
        listeners.collect::<Vec<_>>().join(",")
    };
    let mut settings: BTreeMap<String, String> =
        spec.config.iter().filter(|(name, _)| !is_live(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
    // A stopping broker moves its log into segments in this time; the other half is for the pod to end.
    let grace = spec.pools.iter().map(|p| p.termination_grace_period_seconds).min().unwrap_or(120);
    settings.entry(SHUTDOWN.into()).or_insert_with(|| grace.saturating_mul(500).to_string());
    let mut derive = |name: &str, value: String| settings.insert(name.to_string(), value);
    derive("chronik.cluster.id", cluster_id.to_string());
    derive("listeners", each(&|name, port| format!("{name}://0.0.0.0:{port}")));
    derive("listener.security.protocol.map", each(&|name, _| format!("{name}:PLAINTEXT")));
    if let Some(internal) = spec.listeners.iter().find(|l| l.kind == ListenerType::Internal) {
        derive("inter.broker.listener.name", internal.name.to_uppercase());
    }
    derive("chronik.data.dir", DATA_DIR.into());
    if spec.pools.iter().any(|pool| pool.storage.wal_volume.is_some()) {
        derive("chronik.wal.dir", WAL_DIR.into());
    }
    derive("chronik.wal.engine", engine(spec.io.engine).into());
    derive("chronik.admin.listen", format!("0.0.0.0:{}", crate::broker::admin::ADMIN_PORT));
    derive("chronik.admin.token.file", "/etc/chronik/admin/token".into());
    derive("chronik.placement.dir", "/etc/chronik/placement".into());
    settings
}

fn engine(engine: Engine) -> &'static str {
    match engine {
        Engine::Auto => "auto",
        Engine::Required => "required",
        Engine::Disabled => "disabled",
    }
}

/// What the cluster-wide default of the brokers shall hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Profiles by name: the fields that differ from what is built in; all of them for a name of the cluster's own.
    pub profiles: BTreeMap<String, BTreeMap<&'static str, String>>,
    /// Other settings, the default profile among them.
    pub settings: BTreeMap<String, String>,
}

pub fn live(spec: &ChronikClusterSpec) -> Live {
    let mut settings: BTreeMap<String, String> =
        spec.config.iter().filter(|(name, _)| is_live(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
    if let Some(profile) = &spec.default_wal_profile {
        settings.insert(PROFILE_SETTING.into(), profile.clone());
    }
    let profiles = spec.wal_profiles.iter().map(|(name, profile)| (name.clone(), definition(name, profile)));
    Live { profiles: profiles.collect(), settings }
}

fn definition(name: &str, profile: &WalProfile) -> BTreeMap<&'static str, String> {
    let built_in = built_in(name);
    let base = built_in.or_else(|| self::built_in("high"));
    let mut fields = BTreeMap::new();
    for (n, field) in PROFILE_FIELDS.into_iter().enumerate() {
        let default = base.and_then(|values| values.get(n)).copied();
        let value = value_of(profile, field).or_else(|| default.map(str::to_string));
        if let Some(value) = value
            && (built_in.is_none() || Some(value.as_str()) != default)
        {
            fields.insert(field, value);
        }
    }
    fields
}

/// The values of a built-in profile.
pub fn built_in(name: &str) -> Option<&'static [&'static str; 7]> {
    BUILT_IN_PROFILES.iter().find(|(known, _)| *known == name).map(|(_, values)| values)
}

fn value_of(profile: &WalProfile, field: &str) -> Option<String> {
    let number = |n: Option<i64>| n.map(|n| n.to_string());
    match field {
        "policy" => profile.policy.map(|policy| {
            match policy {
                Policy::Pipelined => "pipelined",
                Policy::Adaptive => "adaptive",
                Policy::AdaptiveThresholds => "adaptive-thresholds",
                Policy::Hybrid => "hybrid",
                Policy::Fixed => "fixed",
            }
            .to_string()
        }),
        "max.delay.us" => number(profile.max_delay_us),
        "max.group.records" => number(profile.max_group_records),
        "max.group.bytes" => number(profile.max_group_bytes),
        "max.queue.records" => number(profile.max_queue_records),
        "max.queue.bytes" => number(profile.max_queue_bytes),
        "ack" => profile.ack.map(|ack| match ack {
            Ack::Durable => "durable".to_string(),
            Ack::Buffered => "buffered".to_string(),
        }),
        _ => None,
    }
}

/// Splits `chronik.wal.profile.NAME.FIELD`.
pub fn profile_field(setting: &str) -> Option<(&str, &str)> {
    setting.strip_prefix(PROFILE_PREFIX)?.split_once('.')
}

#[cfg(test)]
mod tests {
    use chronik_core::metadata::config::{BROKER_SETTINGS, Update};
    use chronik_core::wal::profile::{self, WalProfile as Core};

    use super::*;
    use crate::cluster::build::tests::small;

    #[test]
    fn the_live_settings_are_the_brokers_own() {
        let dynamic = BROKER_SETTINGS.iter().filter(|s| s.update == Update::Dynamic).map(|s| s.name);
        assert_eq!(LIVE_SETTINGS.to_vec(), dynamic.collect::<Vec<_>>());
    }

    #[test]
    fn the_built_in_profiles_are_the_brokers_own() {
        let brokers: BTreeMap<&str, Vec<String>> = profile::built_in()
            .into_iter()
            .map(|(name, (profile, _))| (name, Core::FIELDS.map(|f| profile.get(f).unwrap()).to_vec()))
            .collect();
        let ours: BTreeMap<&str, Vec<String>> = BUILT_IN_PROFILES
            .into_iter()
            .map(|(name, values)| (name, values.map(str::to_string).to_vec()))
            .collect();
        assert_eq!(ours, brokers);
        assert_eq!(PROFILE_FIELDS, Core::FIELDS);
        assert_eq!(profile::DEFAULT_PROFILE, "high");
    }

    #[test]
    fn every_setting_is_either_fixed_or_live() {
        let mut spec = small().spec;
        for setting in &BROKER_SETTINGS {
            spec.config.insert(setting.name.to_string(), "x".to_string());
        }
        let (fixed, live) = (fixed(&spec, "id"), live(&spec).settings);
        for setting in &BROKER_SETTINGS {
            assert!(fixed.contains_key(setting.name) != live.contains_key(setting.name), "{}", setting.name);
            assert_eq!(live.contains_key(setting.name), setting.update == Update::Dynamic);
        }
    }

    #[test]
    fn what_the_operator_derives_cannot_be_set_beside_it() {
        let mut spec = small().spec;
        spec.config.insert("chronik.cluster.id".into(), "another".into());
        spec.config.insert("chronik.shutdown.timeout.ms".into(), "7".into());
        let fixed = fixed(&spec, "id");
        assert_eq!(fixed["chronik.cluster.id"], "id");
        assert_eq!(fixed["chronik.shutdown.timeout.ms"], "7");
    }
}
