//! Objects, clusters and topics for tests, and a small model of the brokers.

mod decisions;
mod endings;
mod properties;
mod statuses;

use std::collections::BTreeMap;

use chronik_client::{ConfigEntry, ConfigSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;

use super::decide::{Action, Decision, Reason, decide, owned_id};
use super::facts::{
    BUILT_IN_PROFILES, ClusterFacts, ClusterView, FINALIZER, Facts, PROFILE_SETTING, TopicFacts, is_ending,
};
use super::status::status;
use crate::broker::kafka::Topic;
use crate::crd::topic::{
    AdoptionPolicy, ChronikTopicSpec, ChronikTopicStatus, ClusterRef, TopicDeletionPolicy,
};
use crate::crd::{ChronikTopic, conditions};

pub fn time(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

/// A topic object `orders` of the cluster `demo`, as it is just after it was made.
pub fn object(change: impl FnOnce(&mut ChronikTopicSpec)) -> ChronikTopic {
    let mut spec = ChronikTopicSpec {
        cluster_ref: ClusterRef { name: "demo".into() },
        partitions: 3,
        ..Default::default()
    };
    change(&mut spec);
    let mut object = ChronikTopic::new("orders", spec);
    let meta = object.meta_mut();
    (meta.namespace, meta.uid) = (Some("shop".into()), Some("u-1".into()));
    (meta.generation, meta.creation_timestamp) = (Some(1), Some(time(1_000)));
    object
}

/// Makes an object manage the topic of this id, as of a look that found all well.
pub fn managing(mut object: ChronikTopic, id: &str) -> ChronikTopic {
    let generation = object.metadata.generation;
    let mut status = ChronikTopicStatus {
        observed_generation: generation,
        topic_id: Some(id.into()),
        ..ChronikTopicStatus::default()
    };
    for kind in ["Ready", "Synced"] {
        conditions::set(&mut status.conditions, &time(1_001), generation, kind, true, "Synced", "");
    }
    object.status = Some(status);
    if object.spec.deletion_policy == TopicDeletionPolicy::Delete {
        object.meta_mut().finalizers = Some(vec![FINALIZER.into()]);
    }
    object
}

pub fn ending(mut object: ChronikTopic) -> ChronikTopic {
    object.meta_mut().deletion_timestamp = Some(time(2_000));
    object
}

pub fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// A topic with settings of its own, on brokers whose default profile is `high`.
pub fn topic(id: &str, partitions: i32, own: &[(&str, &str)]) -> Topic {
    let mut own = map(own);
    let profile = own.remove(PROFILE_SETTING);
    let entry = |name: String, value: String, source| ConfigEntry {
        name,
        value: Some(value),
        source,
        read_only: false,
    };
    let mut settings = vec![match profile {
        Some(profile) => entry(PROFILE_SETTING.into(), profile, ConfigSource::Topic),
        None => entry(PROFILE_SETTING.into(), "high".into(), ConfigSource::Default),
    }];
    settings.extend(own.into_iter().map(|(name, value)| entry(name, value, ConfigSource::Topic)));
    Topic { id: id.into(), internal: false, partitions, settings }
}

pub fn view() -> ClusterView {
    let profiles = BUILT_IN_PROFILES.into_iter().chain(["bulk"]).map(str::to_string).collect();
    ClusterView { ready: Ok(()), paused: false, profiles }
}

pub fn facts(topic: TopicFacts) -> Facts {
    Facts { cluster: ClusterFacts::There(view()), rival: None, ending: None, topic }
}

pub fn there(topic: Topic) -> Facts {
    facts(TopicFacts::There(topic))
}

impl TopicFacts {
    pub fn topic(&self) -> Option<&Topic> {
        match self {
            TopicFacts::There(topic) => Some(topic),
            _ => None,
        }
    }
}

/// An object and what is around it. Carrying out an action changes it as the brokers and Kubernetes would.
#[derive(Clone, Debug)]
pub struct World {
    pub object: ChronikTopic,
    pub facts: Facts,
    pub gone: bool,
    pub next_id: u32,
}

/// The form in which the brokers keep a value.
fn kept(value: &str) -> String {
    let value = value.trim();
    match (value.parse::<i64>(), value.to_ascii_lowercase()) {
        (Ok(number), _) => number.to_string(),
        (_, word) if word == "true" || word == "false" => word,
        _ => value.to_string(),
    }
}

impl World {
    pub fn new(object: ChronikTopic, facts: Facts) -> World {
        World { object, facts, gone: false, next_id: 100 }
    }

    fn own(&mut self, id: String) {
        self.object.status.get_or_insert_default().topic_id = Some(id);
    }

    pub fn carry_out(&mut self, action: &Action) {
        let found = self.facts.topic.clone();
        match action {
            Action::AddFinalizer => self.object.meta_mut().finalizers = Some(vec![FINALIZER.into()]),
            Action::RemoveFinalizer => self.object.meta_mut().finalizers = None,
            Action::LetGo { .. } => self.gone = true,
            Action::Create { partitions, settings, .. } => {
                assert!(matches!(found, TopicFacts::Absent), "creates what exists");
                self.next_id += 1;
                let id = format!("t-{}", self.next_id);
                let own: Vec<(&str, String)> = settings.iter().map(|(n, v)| (n.as_str(), kept(v))).collect();
                let own: Vec<(&str, &str)> = own.iter().map(|(n, v)| (*n, v.as_str())).collect();
                self.facts.topic = TopicFacts::There(topic(&id, *partitions, &own));
                self.own(id);
            }
            Action::Adopt { id, .. } => self.own(id.clone()),
            Action::Alter { changes, .. } => {
                let TopicFacts::There(found) = found else { panic!("alters what is not there") };
                let mut own = found.own_settings();
                for change in changes {
                    match &change.wanted {
                        Some(value) => own.insert(change.setting.clone(), kept(value)),
                        None => own.remove(&change.setting),
                    };
                }
                let own: Vec<(&str, &str)> = own.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                let altered = topic(&found.id, found.partitions, &own);
                self.facts.topic = TopicFacts::There(Topic { internal: found.internal, ..altered });
            }
            Action::Grow { from, to, .. } => {
                let TopicFacts::There(found) = &mut self.facts.topic else {
                    panic!("grows what is not there")
                };
                assert!(found.partitions == *from && to > from, "a topic only grows");
                found.partitions = *to;
            }
            Action::Delete { id } => {
                let TopicFacts::There(found) = found else { panic!("deletes what is not there") };
                assert_eq!(&found.id, id);
                assert_eq!(owned_id(&self.object), Some(id), "deletes what is not its own");
                assert!(is_ending(&self.object));
                assert_eq!(self.object.spec.deletion_policy, TopicDeletionPolicy::Delete);
                assert_eq!(self.facts.rival, None);
                self.facts.topic = TopicFacts::Absent;
            }
        }
    }

    /// What the operator does in one go: decides and acts until nothing is left to do, and writes the status.
    pub fn settle(&mut self) -> Decision {
        for _ in 0..4 {
            let decision = decide(&self.object, &self.facts);
            if decision.actions.is_empty() || self.gone {
                let written = status(&self.object, &decision.verdict, decision.seen.as_ref(), &time(3_000));
                self.object.status = Some(written);
                return decision;
            }
            decision.actions.iter().for_each(|action| self.carry_out(action));
        }
        panic!("there is always something more to do: {:?}", decide(&self.object, &self.facts).actions);
    }
}

pub fn reason(object: &ChronikTopic, facts: &Facts) -> Reason {
    decide(object, facts).verdict.reason
}

pub fn adopting(policy: AdoptionPolicy) -> ChronikTopic {
    object(|spec| spec.adoption_policy = policy)
}
