//! What to do about a topic: pure. The same facts give the same decision, and once its actions are carried out, the
//! next decision has none.

use std::collections::BTreeMap;

use super::facts::{
    ClusterFacts, ClusterView, Difference, Ending, Facts, PROFILE_SETTING, TopicFacts, differences,
    has_finalizer, is_ending, topic_name, wanted_settings, wants_finalizer,
};
use crate::broker::kafka::Topic;
use crate::crd::topic::{AdoptionPolicy, ChronikTopicStatus, TopicDeletionPolicy};
use crate::crd::{ChronikTopic, conditions};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    AddFinalizer,
    RemoveFinalizer,
    /// The object goes and the topic, if there is one, stays. With `why`, somebody ought to be told.
    LetGo {
        why: Option<String>,
    },
    /// `vanished`: the id of the topic that this object managed and that is gone.
    Create {
        partitions: i32,
        settings: BTreeMap<String, String>,
        vanished: Option<String>,
    },
    /// The topic with this id is this object's from now on. `instead`: of another one that it managed before.
    Adopt {
        id: String,
        instead: Option<String>,
    },
    /// `drift`: somebody else changed what this object had set.
    Alter {
        changes: Vec<Difference>,
        drift: bool,
    },
    Grow {
        from: i32,
        to: i32,
        drift: bool,
    },
    /// Deletes the topic with its records, if it still has this id.
    Delete {
        id: String,
    },
}

/// Why a topic is ready, or what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Synced,
    /// The topic is being created. Written before it is, so that a topic whose creation went unanswered is known as
    /// this object's own.
    Creating,
    /// Changes are under way.
    Applying,
    ClusterMissing,
    ClusterNotReady,
    ClusterPaused,
    UnknownWalProfile,
    TopicExists,
    Conflict,
    TooManyPartitions,
    Refused,
    BrokerUnreachable,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Reason::Synced => "Synced",
            Reason::Creating => "Creating",
            Reason::Applying => "Applying",
            Reason::ClusterMissing => "ClusterMissing",
            Reason::ClusterNotReady => "ClusterNotReady",
            Reason::ClusterPaused => "ClusterPaused",
            Reason::UnknownWalProfile => "UnknownWalProfile",
            Reason::TopicExists => "TopicExists",
            Reason::Conflict => "Conflict",
            Reason::TooManyPartitions => "TooManyPartitions",
            Reason::Refused => "Refused",
            Reason::BrokerUnreachable => "BrokerUnreachable",
        }
    }

    /// Whether it says that the brokers were not looked at: what was true of the topic may still be.
    pub fn is_blind(self) -> bool {
        use Reason::{BrokerUnreachable, ClusterMissing, ClusterNotReady};
        matches!(self, ClusterMissing | ClusterNotReady | BrokerUnreachable)
    }
}

/// What the conditions say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub reason: Reason,
    pub message: String,
}

impl Verdict {
    pub fn new(reason: Reason, message: impl Into<String>) -> Verdict {
        Verdict { reason, message: message.into() }
    }

    pub fn is_ready(&self) -> bool {
        self.reason == Reason::Synced
    }
}

/// What the status says of the topic. `None` for all of it: as before, nobody looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The topic that this object manages.
    pub id: Option<String>,
    pub partitions: Option<i32>,
    pub wal_profile: Option<String>,
    pub drift: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub actions: Vec<Action>,
    pub verdict: Verdict,
    pub seen: Option<Seen>,
}

impl Decision {
    fn wait(reason: Reason, message: impl Into<String>) -> Decision {
        Decision { actions: Vec::new(), verdict: Verdict::new(reason, message), seen: None }
    }

    fn seeing(self, seen: Seen) -> Decision {
        Decision { seen: Some(seen), ..self }
    }
}

/// Decides.
pub fn decide(object: &ChronikTopic, facts: &Facts) -> Decision {
    if is_ending(object) {
        return end(object, facts);
    }
    let mut decision = keep(object, facts);
    let finalizer = match (wants_finalizer(object), has_finalizer(object)) {
        (true, false) => Some(Action::AddFinalizer),
        (false, true) => Some(Action::RemoveFinalizer),
        _ => None,
    };
    // First of all: a topic that is to go with its object must not be there without the finalizer.
    decision.actions.splice(0..0, finalizer);
    decision
}

/// For an object that is to stay.
fn keep(object: &ChronikTopic, facts: &Facts) -> Decision {
    let name = topic_name(object);
    if let Some(rival) = &facts.rival {
        let why = format!("the topic {name} belongs to the older ChronikTopic {rival}");
        return Decision::wait(Reason::Conflict, why).seeing(Seen::default());
    }
    let cluster = match the_cluster(object, facts) {
        Ok(cluster) => cluster,
        Err(verdict) => return Decision { actions: Vec::new(), verdict, seen: None },
    };
    match &facts.topic {
        TopicFacts::Unknown => Decision::wait(Reason::ClusterNotReady, "the brokers were not asked"),
        TopicFacts::Unreachable(why) => Decision::wait(Reason::BrokerUnreachable, why),
        TopicFacts::Refused(why) => Decision::wait(Reason::Refused, why),
        TopicFacts::Absent => absent(object, cluster),
        TopicFacts::There(topic) if owned_id(object) == Some(&topic.id) => {
            mend(object, cluster, topic, Vec::new())
        }
        TopicFacts::There(topic) => foreign(object, cluster, topic),
    }
}

/// The cluster, if its brokers can be asked.
fn the_cluster<'a>(object: &ChronikTopic, facts: &'a Facts) -> Result<&'a ClusterView, Verdict> {
    let name = &object.spec.cluster_ref.name;
    match &facts.cluster {
        ClusterFacts::Missing => {
            let why = format!("there is no ChronikCluster {name} in this namespace");
            Err(Verdict::new(Reason::ClusterMissing, why))
        }
        ClusterFacts::Ending => {
            Err(Verdict::new(Reason::ClusterNotReady, format!("the cluster {name} is being deleted")))
        }
        ClusterFacts::There(view) => match &view.ready {
            Err(why) => Err(Verdict::new(Reason::ClusterNotReady, why)),
            Ok(()) => Ok(view),
        },
    }
}

/// There is no topic of the name.
fn absent(object: &ChronikTopic, cluster: &ClusterView) -> Decision {
    let name = topic_name(object);
    let vanished = owned_id(object).cloned();
    let wait = if let Some(wait) = unknown_profile(object, cluster) {
        Some(wait)
    } else if cluster.paused {
        Some(paused(object, &format!("the topic {name} is to be created")))
    } else {
        None
    };
    // While it waits, it is still the object that managed the topic that vanished.
    let seen = Seen { id: vanished.clone(), ..Seen::default() };
    if let Some(verdict) = wait {
        return Decision { actions: Vec::new(), verdict, seen: Some(seen) };
    }
    let create =
        Action::Create { partitions: object.spec.partitions, settings: wanted_settings(object), vanished };
    let verdict = Verdict::new(Reason::Creating, format!("the topic {name} is being created"));
    Decision { actions: vec![create], verdict, seen: Some(seen) }
}

/// There is a topic of the name that is not known as this object's.
fn foreign(object: &ChronikTopic, cluster: &ClusterView, topic: &Topic) -> Decision {
    let name = topic_name(object);
    let exists = |why: String| {
        Decision::wait(Reason::TopicExists, format!("a topic {name} exists already: {why}"))
            .seeing(Seen { id: None, ..look(topic) })
    };
    if topic.internal {
        return exists("the brokers keep it for themselves".to_string());
    }
    let mut unequal: Vec<String> = differences(object, topic).iter().map(ToString::to_string).collect();
    if topic.partitions != object.spec.partitions {
        unequal.insert(0, partitions_differ(object, topic));
    }
    // One that this object was creating when the answer failed to come is its own.
    let made_here = was_creating(object) && unequal.is_empty();
    match object.spec.adoption_policy {
        _ if made_here => {}
        AdoptionPolicy::Never => return exists("adoptionPolicy is Never".to_string()),
        AdoptionPolicy::IfEqual if !unequal.is_empty() => {
            let why = format!("adoptionPolicy is IfEqual, and it has {}", unequal.join("; "));
            return exists(why);
        }
        AdoptionPolicy::IfEqual | AdoptionPolicy::Always => {}
    }
    let wait = unknown_profile(object, cluster);
    let wait = wait
        .or_else(|| cluster.paused.then(|| paused(object, &format!("the topic {name} is to be adopted"))));
    // Its own is put on record whatever else there is to wait for: the wait would overwrite what tells that it is.
    if let Some(verdict) = wait.filter(|_| !made_here) {
        return Decision { actions: Vec::new(), verdict, seen: Some(Seen { id: None, ..look(topic) }) };
    }
    let adopt = Action::Adopt { id: topic.id.clone(), instead: owned_id(object).cloned() };
    mend(object, cluster, topic, vec![adopt])
}

/// The topic is this object's, or becomes so by the `actions` given: what differs is set right.
fn mend(object: &ChronikTopic, cluster: &ClusterView, topic: &Topic, mut actions: Vec<Action>) -> Decision {
    let unknown_profile = unknown_profile(object, cluster);
    let differences = differences(object, topic);
    let (missing, surplus) =
        (topic.partitions < object.spec.partitions, topic.partitions > object.spec.partitions);
    let drifted = actions.is_empty() && drifts(object);
    let mut seen = Seen { id: Some(topic.id.clone()), ..look(topic) };
    if drifted {
        if missing || surplus {
            seen.drift.push(partitions_differ(object, topic));
        }
        seen.drift.extend(differences.iter().map(ToString::to_string));
    }

    let mut changes = Vec::new();
    if !cluster.paused {
        let (profile, others): (Vec<Difference>, Vec<Difference>) =
            differences.iter().cloned().partition(|d| d.setting == PROFILE_SETTING);
        // Apart, so that a setting that the brokers refuse does not hold up the profile. One that the cluster does
        // not have is not tried.
        let profile = if unknown_profile.is_some() { Vec::new() } else { profile };
        for changed in [profile, others] {
            if !changed.is_empty() {
                changes.push(Action::Alter { changes: changed, drift: drifted });
            }
        }
        if missing {
            let (from, to) = (topic.partitions, object.spec.partitions);
            changes.push(Action::Grow { from, to, drift: drifted });
        }
    }
    let changing = !changes.is_empty();
    actions.extend(changes);

    let verdict = if changing {
        Verdict::new(Reason::Applying, "changes are being applied")
    } else if let Some(unknown) = unknown_profile {
        unknown
    } else if cluster.paused && (missing || !differences.is_empty()) {
        let waiting: Vec<String> = missing
            .then(|| partitions_differ(object, topic))
            .into_iter()
            .chain(differences.iter().map(ToString::to_string))
            .collect();
        paused(object, &waiting.join("; "))
    } else if surplus {
        Verdict::new(
            Reason::TooManyPartitions,
            format!(
                "the topic has {} partitions, spec.partitions is {}: partitions are never taken away",
                topic.partitions, object.spec.partitions
            ),
        )
    } else {
        Verdict::new(Reason::Synced, format!("the topic {} is as declared", topic_name(object)))
    };
    Decision { actions, verdict, seen: Some(seen) }
}

/// For an object that is being deleted.
fn end(object: &ChronikTopic, facts: &Facts) -> Decision {
    let name = topic_name(object);
    if !has_finalizer(object) {
        // Kubernetes does the rest.
        return Decision::wait(Reason::Synced, "this object is being deleted, the topic stays");
    }
    let let_go = |why: Option<String>| Decision {
        actions: vec![Action::LetGo { why }],
        verdict: Verdict::new(Reason::Applying, "this object is being deleted"),
        seen: None,
    };
    let kept = |why: &str| let_go(Some(format!("the topic {name} is not deleted: {why}")));
    if object.spec.deletion_policy == TopicDeletionPolicy::Retain {
        return kept("deletionPolicy is Retain");
    }
    if facts.ending == Some(Ending::Namespace) {
        return kept("the namespace is being deleted");
    }
    let Some(own) = owned_id(object) else {
        return match was_creating(object) {
            true => kept("it is not certain that this object created it, if it exists"),
            false => let_go(None),
        };
    };
    if let Some(rival) = &facts.rival {
        return kept(&format!("it belongs to the ChronikTopic {rival}"));
    }
    let cluster = match &facts.cluster {
        ClusterFacts::Missing => return kept("its cluster is gone"),
        ClusterFacts::Ending => return kept("its cluster is being deleted"),
        ClusterFacts::There(cluster) => cluster,
    };
    let unreached = |reason: Reason, why: &str| {
        if facts.ending == Some(Ending::Definition) {
            return kept(&format!(
                "the kind ChronikTopic is being deleted, and the brokers do not help: {why}"
            ));
        }
        let message = format!(
            "the topic {name} is to be deleted: {why}. To let this object go without its topic, set deletionPolicy \
             to Retain"
        );
        Decision::wait(reason, message)
    };
    match &facts.topic {
        TopicFacts::Absent => let_go(None),
        TopicFacts::There(topic) if topic.id != *own => kept("another one has its name by now"),
        TopicFacts::There(topic) if topic.internal => kept("the brokers keep it for themselves"),
        TopicFacts::There(_) if cluster.paused => unreached(
            Reason::ClusterPaused,
            &format!("the cluster {} is paused", object.spec.cluster_ref.name),
        ),
        TopicFacts::There(topic) => Decision {
            actions: vec![Action::Delete { id: topic.id.clone() }],
            verdict: Verdict::new(Reason::Applying, format!("the topic {name} is being deleted")),
            seen: None,
        },
        TopicFacts::Unknown => unreached(Reason::ClusterNotReady, "the brokers were not asked"),
        TopicFacts::Unreachable(why) => unreached(Reason::BrokerUnreachable, why),
        TopicFacts::Refused(why) => unreached(Reason::Refused, why),
    }
}

/// The id of the topic that the object manages.
pub fn owned_id(object: &ChronikTopic) -> Option<&String> {
    object.status.as_ref()?.topic_id.as_ref()
}

/// What the brokers have, without a judgement.
fn look(topic: &Topic) -> Seen {
    let wal_profile = topic.setting(PROFILE_SETTING).map(str::to_string);
    Seen { id: None, partitions: Some(topic.partitions), wal_profile, drift: Vec::new() }
}

fn partitions_differ(object: &ChronikTopic, topic: &Topic) -> String {
    format!("partitions: {} instead of {}", topic.partitions, object.spec.partitions)
}

fn unknown_profile(object: &ChronikTopic, cluster: &ClusterView) -> Option<Verdict> {
    let profile = object.spec.wal_profile.as_ref().filter(|p| !cluster.profiles.contains(*p))?;
    let known: Vec<&str> = cluster.profiles.iter().map(String::as_str).collect();
    let message = format!(
        "the cluster {} has no WAL profile {profile}; there are {}",
        object.spec.cluster_ref.name,
        known.join(", ")
    );
    Some(Verdict::new(Reason::UnknownWalProfile, message))
}

fn paused(object: &ChronikTopic, what: &str) -> Verdict {
    let cluster = &object.spec.cluster_ref.name;
    Verdict::new(Reason::ClusterPaused, format!("the cluster {cluster} is paused; waiting: {what}"))
}

/// Whether the topic's creation was announced and its end is not known.
pub fn was_creating(object: &ChronikTopic) -> bool {
    let of = |status: &ChronikTopicStatus| {
        status.conditions.iter().any(|c| c.type_ == "Synced" && c.reason == Reason::Creating.name())
    };
    object.status.as_ref().is_some_and(of)
}

/// Whether what differs now was as this object says before, so that somebody else changed it. Otherwise it is the
/// object that changed.
fn drifts(object: &ChronikTopic) -> bool {
    let Some(status) = &object.status else { return false };
    let generation = object.metadata.generation;
    if generation.is_none() || status.observed_generation != generation {
        return false;
    }
    conditions::is_true(&status.conditions, "Synced") || !status.drift.is_empty()
}
