//! What each WAL profile is at the moment: its definition, and how many topics use it.

use std::sync::atomic::AtomicU64;

use chronik_core::metadata::MetadataImage;
use chronik_core::wal::profile::WalProfile;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Labels;

/// Filled from an image before the metrics are read: nobody has to follow profiles, and one that is gone is
/// gone here too.
#[derive(Debug)]
pub(super) struct Definitions {
    info: Family<Labels, Gauge>,
    max_delay: Family<Labels, Gauge<f64, AtomicU64>>,
    topics: Family<Labels, Gauge>,
    limits: [Family<Labels, Gauge>; LIMITS.len()],
}

/// A limit of a profile: its name, its help text, and its value.
type Limit = (&'static str, &'static str, fn(&WalProfile) -> u64);

const LIMITS: [Limit; 4] = [
    ("wal_profile_max_group_records", "The most records of one commit group, by profile", |p| {
        p.max_group_records
    }),
    ("wal_profile_max_group_bytes", "The most bytes of one commit group, by profile", |p| p.max_group_bytes),
    ("wal_profile_max_queue_records", "The most records that may wait, by profile", |p| p.max_queue_records),
    ("wal_profile_max_queue_bytes", "The most bytes that may wait, by profile", |p| p.max_queue_bytes),
];

impl Definitions {
    pub(super) fn register(registry: &mut Registry) -> Definitions {
        let definitions = Definitions {
            info: Family::default(),
            max_delay: Family::default(),
            topics: Family::default(),
            limits: Default::default(),
        };
        registry.register(
            "wal_profile_info",
            "The WAL profiles, as they are defined now",
            definitions.info.clone(),
        );
        let help = "The longest a record may wait for company, by profile";
        registry.register("wal_profile_max_delay_seconds", help, definitions.max_delay.clone());
        registry.register("wal_profile_topics", "Topics that use the profile", definitions.topics.clone());
        for ((name, help, _), family) in LIMITS.iter().zip(&definitions.limits) {
            registry.register(*name, *help, family.clone());
        }
        definitions
    }

    /// To be called with the registry locked, so that nobody reads it half done.
    pub(super) fn set(&self, image: &MetadataImage) {
        self.info.clear();
        self.max_delay.clear();
        self.topics.clear();
        self.limits.iter().for_each(Family::clear);
        for (name, profile) in image.wal_profiles() {
            let labels = vec![("profile", name.to_string())];
            let named = |key, value: &str| (key, value.to_string());
            let definition = [named("policy", profile.policy.name()), named("ack", profile.ack.name())];
            self.info.get_or_create_owned(&labels.iter().cloned().chain(definition).collect()).set(1);
            self.max_delay.get_or_create_owned(&labels).set(profile.max_delay_us as f64 / 1e6);
            self.topics.get_or_create_owned(&labels).set(0);
            for ((_, _, limit), family) in LIMITS.iter().zip(&self.limits) {
                family.get_or_create_owned(&labels).set(i64::try_from(limit(profile)).unwrap_or(i64::MAX));
            }
        }
        let mut uses = std::collections::BTreeMap::<&str, i64>::new();
        for topic in image.topics() {
            *uses.entry(&topic.config.wal_profile_name).or_default() += 1;
        }
        for (name, topics) in uses {
            self.topics.get_or_create_owned(&vec![("profile", name.to_string())]).set(topics);
        }
    }
}
