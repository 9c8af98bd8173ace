//! What is altered while the brokers run: live settings and WAL profiles, on the cluster-wide default. The spec owns all
//! of it: what it does not name is removed.

use std::collections::{BTreeMap, BTreeSet};

use chronik_client::{ConfigEntry, ConfigSource, Resource};

use crate::broker::kafka::{Kafka, KafkaError};
use crate::context::Context;
use crate::crd::ChronikCluster;
use crate::crd::cluster::ListenerType;

use super::facts::{Facts, PodFacts};
use super::names::Names;
use super::placement::host_port;
use super::settings::{Live, PROFILE_SETTING, built_in, profile_field};

/// One request to the brokers: all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whether it only takes something away.
    pub removes: bool,
    pub changes: Vec<(String, Option<String>)>,
}

/// How far the brokers are what the spec says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// No broker was there to be asked.
    #[default]
    NotAsked,
    Applied {
        /// What was altered just now.
        altered: Vec<String>,
    },
    /// The brokers' own words, for what they refused; the rest is applied.
    Refused {
        settings: Vec<String>,
        removals: Vec<String>,
        altered: Vec<String>,
    },
    Unreachable(String),
}

impl Outcome {
    pub fn altered(&self) -> &[String] {
        match self {
            Outcome::Applied { altered } | Outcome::Refused { altered, .. } => altered,
            Outcome::NotAsked | Outcome::Unreachable(_) => &[],
        }
    }
}

/// The steps from what is set to what is wanted, in order: profiles are there before they are named, and are no longer
/// named before they go. Pure.
pub fn steps(wanted: &Live, found: &[ConfigEntry]) -> Vec<Step> {
    let set = found.iter().filter(|entry| entry.source == ConfigSource::ClusterDefault);
    let set: BTreeMap<&str, &str> =
        set.map(|entry| (entry.name.as_str(), entry.value.as_deref().unwrap_or_default())).collect();
    let mut steps = Vec::new();
    let mut step = |removes, changes: Vec<(String, Option<String>)>| {
        if !changes.is_empty() {
            steps.push(Step { removes, changes });
        }
    };
    for (name, fields) in &wanted.profiles {
        let setting = |field: &str| format!("{PROFILE_SETTING}.{name}.{field}");
        let mut changes: Vec<(String, Option<String>)> = Vec::new();
        for (field, value) in fields {
            if set.get(setting(field).as_str()).is_none_or(|is| !same(is, value)) {
                changes.push((setting(field), Some(value.clone())));
            }
        }
        // Fields of a built-in profile that were set once and are no longer.
        let mine = set.keys().filter_map(|key| Some((profile_field(key)?, *key)));
        let gone = mine.filter(|((of, field), _)| of == name && !fields.contains_key(field));
        changes.extend(gone.map(|(_, key)| (key.to_string(), None)));
        step(false, changes);
    }
    let differs = |name: &str, value: &str| set.get(name).is_none_or(|is| !same(is, value));
    let mut settings: Vec<_> = wanted.settings.iter().filter(|(name, value)| differs(name, value)).collect();
    settings.sort_by_key(|(name, _)| name.as_str() != PROFILE_SETTING);
    for (name, value) in settings {
        step(false, vec![(name.clone(), Some(value.clone()))]);
    }
    let plain = set.keys().filter(|key| profile_field(key).is_none());
    for name in plain.filter(|key| !wanted.settings.contains_key(**key)) {
        step(true, vec![(name.to_string(), None)]);
    }
    let profiles: BTreeSet<&str> = set.keys().filter_map(|key| Some(profile_field(key)?.0)).collect();
    for name in profiles.into_iter().filter(|name| !wanted.profiles.contains_key(*name)) {
        match built_in(name) {
            // Its own definition comes back.
            Some(_) => {
                let fields = set.keys().filter(|key| profile_field(key).is_some_and(|(of, _)| of == name));
                step(true, fields.map(|key| (key.to_string(), None)).collect());
            }
            None => step(true, vec![(format!("{PROFILE_SETTING}.{name}"), None)]),
        }
    }
    steps
}

/// Whether two values say the same; the brokers keep theirs in a form of their own.
fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.trim(), other.trim());
    let numbers = one.parse::<i64>().ok().zip(other.parse::<i64>().ok());
    one == other || numbers.is_some_and(|(one, other)| one == other)
}

/// Brings the brokers to what is wanted. What they refuse does not keep the rest back.
pub async fn apply(
    ctx: &Context,
    cluster: &ChronikCluster,
    names: &Names,
    facts: &Facts,
    cluster_id: &str,
    wanted: &Live,
) -> Outcome {
    let Some(address) = address(cluster, names, facts) else { return Outcome::NotAsked };
    let result = async {
        let mut kafka = Kafka::connect(&ctx.metrics, &address, Some(cluster_id)).await?;
        let found = kafka.settings(&Resource::ClusterDefault).await?;
        let (mut settings, mut removals, mut altered) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps(wanted, &found) {
            match kafka.alter(&Resource::ClusterDefault, &step.changes).await {
                Ok(()) => altered.extend(step.changes.iter().map(shown)),
                Err(KafkaError::Refused(refusal)) if step.removes => removals.push(refusal.to_string()),
                Err(KafkaError::Refused(refusal)) => settings.push(refusal.to_string()),
                Err(e) => return Err(e),
            }
        }
        Ok(if settings.is_empty() && removals.is_empty() {
            Outcome::Applied { altered }
        } else {
            Outcome::Refused { settings, removals, altered }
        })
    };
    result.await.unwrap_or_else(|e: KafkaError| Outcome::Unreachable(e.to_string()))
}

fn shown((name, value): &(String, Option<String>)) -> String {
    match value {
        Some(value) => format!("{name}={value}"),
        None => format!("{name} removed"),
    }
}

/// The ready brokers' addresses on the first internal listener.
fn address(cluster: &ChronikCluster, names: &Names, facts: &Facts) -> Option<String> {
    let listener = cluster.spec.listeners.iter().find(|l| l.kind == ListenerType::Internal)?;
    let brokers = super::names::brokers(cluster);
    let pods = brokers.into_iter().filter_map(|(id, pool)| facts.pods.get(&names.pod(&pool.name, id)));
    let ready = pods.filter(|pod| PodFacts::of(pod).ready);
    let hosts = ready.filter_map(|pod| pod.status.as_ref()?.pod_ip.clone());
    let addresses: Vec<String> = hosts.map(|host| host_port(&host, listener.port)).collect();
    Some(addresses.join(",")).filter(|addresses| !addresses.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::build::tests::small;
    use crate::cluster::settings;
    use crate::crd::cluster::{Policy, WalProfile};

    fn set(pairs: &[(&str, &str)]) -> Vec<ConfigEntry> {
        let entry = |(name, value): &(&str, &str)| ConfigEntry {
            name: name.to_string(),
            value: Some(value.to_string()),
            source: ConfigSource::ClusterDefault,
            read_only: false,
        };
        pairs.iter().map(entry).collect()
    }

    fn wanted(profiles: &[(&str, WalProfile)], config: &[(&str, &str)], default: Option<&str>) -> Live {
        let mut spec = small().spec;
        spec.wal_profiles = profiles.iter().map(|(n, p)| (n.to_string(), p.clone())).collect();
        spec.config = config.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        spec.default_wal_profile = default.map(str::to_string);
        settings::live(&spec)
    }

    /// What the brokers would tell after these steps.
    fn after(found: &[ConfigEntry], steps: &[Step]) -> Vec<ConfigEntry> {
        let mut set: BTreeMap<String, String> =
            found.iter().map(|e| (e.name.clone(), e.value.clone().unwrap())).collect();
        for (name, value) in steps.iter().flat_map(|step| &step.changes) {
            match value {
                Some(value) => drop(set.insert(name.clone(), value.clone())),
                None if name == PROFILE_SETTING => drop(set.remove(name)),
                None => set.retain(|key, _| key != name && !key.starts_with(&format!("{name}."))),
            }
        }
        let pairs: Vec<(&str, &str)> = set.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        super::tests::set(&pairs)
    }

    fn bulk() -> WalProfile {
        WalProfile { policy: Some(Policy::Hybrid), max_delay_us: Some(5000), ..WalProfile::default() }
    }

    #[test]
    fn profiles_come_before_the_default_that_names_them_and_go_last() {
        let found = set(&[
            ("chronik.wal.profile", "old"),
            ("chronik.wal.profile.old.policy", "fixed"),
            ("chronik.wal.profile.old.max.delay.us", "1"),
            ("chronik.wal.profile.low.max.delay.us", "9"),
            ("log.segment.bytes", "2000000"),
            ("message.max.bytes", "1000000"),
        ]);
        let wanted = wanted(&[("bulk", bulk())], &[("message.max.bytes", "01000000")], Some("bulk"));
        let steps = steps(&wanted, &found);
        let first: Vec<(&str, bool)> = steps.iter().map(|s| (s.changes[0].0.as_str(), s.removes)).collect();
        assert_eq!(
            first,
            [
                ("chronik.wal.profile.bulk.ack", false),
                ("chronik.wal.profile", false),
                ("log.segment.bytes", true),
                ("chronik.wal.profile.low.max.delay.us", true),
                ("chronik.wal.profile.old", true),
            ]
        );
        assert_eq!(steps[0].changes.len(), 7, "a profile of its own is written whole");
        assert_eq!(super::steps(&wanted, &after(&found, &steps)), []);
    }

    #[test]
    fn a_built_in_profile_is_altered_by_field_and_goes_back_by_field() {
        let low =
            WalProfile { max_delay_us: Some(2000), max_group_records: Some(7), ..WalProfile::default() };
        let wanted_low = wanted(&[("low", low)], &[], None);
        // 2,000 us is what it has anyway, which the brokers do not tell from not set.
        let one = steps(&wanted_low, &[]);
        let field = "chronik.wal.profile.low.max.group.records".to_string();
        assert_eq!(one, [Step { removes: false, changes: vec![(field.clone(), Some("7".into()))] }]);
        let found = after(&[], &one);
        assert_eq!(steps(&wanted_low, &found), []);
        let unset = wanted(&[("low", WalProfile::default())], &[], None);
        assert_eq!(steps(&unset, &found), [Step { removes: false, changes: vec![(field, None)] }]);
    }

    #[test]
    fn only_the_cluster_wide_default_is_owned() {
        let mut found = set(&[("log.segment.bytes", "2000000")]);
        found[0].source = ConfigSource::Static;
        assert_eq!(steps(&Live::default(), &found), []);
    }

    proptest::proptest! {
        /// Whatever was set, one pass leads to what is wanted, and a second finds nothing to do.
        #[test]
        fn one_pass_is_enough(
            found in proptest::collection::btree_map(
                proptest::sample::select(vec!["log.segment.bytes", "message.max.bytes", "chronik.wal.profile",
                    "chronik.wal.profile.x.policy", "chronik.wal.profile.low.policy", "chronik.wal.profile.y.ack"]),
                proptest::sample::select(vec!["1", "02", "fixed", "x"]), 0..6),
            config in proptest::collection::btree_map(
                proptest::sample::select(vec!["log.segment.bytes", "message.max.bytes"]),
                proptest::sample::select(vec!["1", "2", " 3"]), 0..3),
            own in proptest::bool::ANY,
            low in proptest::option::of(1i64..5),
        ) {
            let found: Vec<(&str, &str)> = found.into_iter().collect();
            let config: Vec<(&str, &str)> = config.into_iter().collect();
            let mut profiles = Vec::new();
            if own { profiles.push(("x", bulk())); }
            if low.is_some() { profiles.push(("low", WalProfile { max_delay_us: low, ..WalProfile::default() })); }
            let wanted = wanted(&profiles, &config, own.then_some("x"));
            let found = set(&found);
            let once = steps(&wanted, &found);
            proptest::prop_assert_eq!(steps(&wanted, &after(&found, &once)), vec![]);
        }
    }
}
