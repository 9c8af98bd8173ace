//! What a decision about a topic is made of: what the object wants, and what was found. No client in here.

use std::collections::{BTreeMap, BTreeSet};

use kube::{Resource, ResourceExt};

use crate::broker::kafka::Topic;
use crate::crd::topic::TopicDeletionPolicy;
use crate::crd::{ChronikCluster, ChronikTopic, conditions};

/// The setting that names a topic's WAL profile.
pub const PROFILE_SETTING: &str = "chronik.wal.profile";

/// The WAL profiles that every broker has.
pub const BUILT_IN_PROFILES: [&str; 4] = ["high", "low", "medium", "ultra"];

/// Present on an object whose topic is to be deleted with it.
pub const FINALIZER: &str = "chronik.io/topic";

/// What was found, by reads alone.
#[derive(Clone, Debug)]
pub struct Facts {
    pub cluster: ClusterFacts,
    /// The name of another object that has this topic.
    pub rival: Option<String>,
    /// What else is being deleted, so that this object's deletion must not be held up: asked only for an object
    /// that is being deleted itself.
    pub ending: Option<Ending>,
    pub topic: TopicFacts,
}

/// The ChronikCluster that the object names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterFacts {
    Missing,
    /// It is being deleted.
    Ending,
    There(ClusterView),
}

/// What a topic needs to know of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// `Err`: why brokers need not be asked yet.
    pub ready: Result<(), String>,
    /// Nothing may be changed.
    pub paused: bool,
    /// The WAL profiles that there are, built-in ones too.
    pub profiles: BTreeSet<String>,
}

/// What is ending around an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Namespace,
    /// The CustomResourceDefinition of topics.
    Definition,
}

/// What the brokers say.
#[derive(Clone, Debug)]
pub enum TopicFacts {
    /// They were not asked.
    Unknown,
    Unreachable(String),
    /// They refused to tell, in their own words.
    Refused(String),
    Absent,
    There(Topic),
}

impl ClusterView {
    pub fn of(cluster: &ChronikCluster) -> ClusterFacts {
        if cluster.meta().deletion_timestamp.is_some() {
            return ClusterFacts::Ending;
        }
        let built_in = BUILT_IN_PROFILES.into_iter().map(str::to_string);
        ClusterFacts::There(ClusterView {
            ready: ready(cluster),
            paused: cluster.spec.paused,
            profiles: built_in.chain(cluster.spec.wal_profiles.keys().cloned()).collect(),
        })
    }
}

/// A cluster whose brokers can be asked has its id, and the last look at it found it working. That spares topics of a
/// cluster that is down a time-out each.
fn ready(cluster: &ChronikCluster) -> Result<(), String> {
    let name = cluster.name_any();
    let Some(status) = &cluster.status else {
        return Err(format!("the cluster {name} has not been started yet"));
    };
    if status.cluster_id.is_none() {
        return Err(format!("the cluster {name} has no id yet"));
    }
    if ["Available", "Ready"].iter().any(|kind| conditions::is_true(&status.conditions, kind)) {
        return Ok(());
    }
    let why = status.conditions.iter().find(|c| c.type_ == "Ready");
    Err(match why {
        Some(c) if c.message.is_empty() => format!("the cluster {name} is not ready: {}", c.reason),
        Some(c) => format!("the cluster {name} is not ready: {}: {}", c.reason, c.message),
        None => format!("the cluster {name} is not ready"),
    })
}

/// The topic's name in Kafka's protocol.
pub fn topic_name(object: &ChronikTopic) -> String {
    object.spec.topic_name.clone().unwrap_or_else(|| object.name_any())
}

pub fn has_finalizer(object: &ChronikTopic) -> bool {
    object.finalizers().iter().any(|f| f == FINALIZER)
}

pub fn wants_finalizer(object: &ChronikTopic) -> bool {
    object.spec.deletion_policy == TopicDeletionPolicy::Delete
}

pub fn is_ending(object: &ChronikTopic) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// The name of the object that has the topic instead of this one: of those that name the same topic of the same
/// cluster, the oldest has it, and among those of one second the first by name. One that is being deleted has it
/// until it is gone: its deletion may still delete the topic.
pub fn rival<'a>(
    object: &ChronikTopic,
    others: impl IntoIterator<Item = &'a ChronikTopic>,
) -> Option<String> {
    // An age that is not there counts as the youngest.
    let order = |o: &ChronikTopic| {
        let created = o.meta().creation_timestamp.as_ref().map(|t| t.0);
        (created.is_none(), created, o.name_any())
    };
    let same = |other: &&ChronikTopic| {
        other.namespace() == object.namespace()
            && other.name_any() != object.name_any()
            && other.spec.cluster_ref == object.spec.cluster_ref
            && topic_name(other) == topic_name(object)
    };
    let first = others.into_iter().filter(same).map(order).min()?;
    (first < order(object)).then_some(first.2)
}

/// The topic's own settings as the object wants them; the WAL profile is one of them.
pub fn wanted_settings(object: &ChronikTopic) -> BTreeMap<String, String> {
    let mut settings = object.spec.config.clone().unwrap_or_default();
    // The schema does not allow it there; were it there all the same, walProfile would decide.
    settings.remove(PROFILE_SETTING);
    if let Some(profile) = &object.spec.wal_profile {
        settings.insert(PROFILE_SETTING.to_string(), profile.clone());
    }
    settings
}

/// A setting that is not as the object wants it. `None`: not set on the topic itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub setting: String,
    pub found: Option<String>,
    pub wanted: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let found = self.found.as_deref().unwrap_or("not set");
        write!(f, "{}: {found} instead of {}", self.setting, self.wanted.as_deref().unwrap_or("not set"))
    }
}

/// The settings that differ, by name. Without `config`, only the WAL profile is looked at.
pub fn differences(object: &ChronikTopic, topic: &Topic) -> Vec<Difference> {
    let own = topic.own_settings();
    let wanted = wanted_settings(object);
    let names: BTreeSet<&String> = own.keys().chain(wanted.keys()).collect();
    let managed = |name: &str| name == PROFILE_SETTING || object.spec.config.is_some();
    let differ = |name: &&String| managed(name) && !same(own.get(*name), wanted.get(*name));
    let difference = |name: &String| Difference {
        setting: name.clone(),
        found: own.get(name).cloned(),
        wanted: wanted.get(name).cloned(),
    };
    names.into_iter().filter(differ).map(difference).collect()
}

/// Whether the brokers would store both alike: they trim values, and write numbers and truth values in one form.
fn same(one: Option<&String>, other: Option<&String>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            let (one, other) = (one.trim(), other.trim());
            let truth = |word: &str| ["true", "false"].iter().any(|t| word.eq_ignore_ascii_case(t));
            let number = |word: &str| word.parse::<i64>().ok();
            one == other
                || (truth(one) && one.eq_ignore_ascii_case(other))
                || (number(one).is_some() && number(one) == number(other))
        }
        (None, None) => true,
        _ => false,
    }
}
