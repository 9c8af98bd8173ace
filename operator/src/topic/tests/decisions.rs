//! Row by row: what is found, and what is decided.

use chronik_core::wal::profile::built_in;
use kube::Resource;

use super::*;
use crate::crd::cluster::ChronikClusterStatus;
use crate::crd::{ChronikCluster, ChronikClusterSpec};
use crate::topic::decide::{Seen, Verdict};
use crate::topic::facts::{Difference, rival};

fn actions(object: &ChronikTopic, facts: &Facts) -> Vec<Action> {
    decide(object, facts).actions
}

fn message(object: &ChronikTopic, facts: &Facts) -> String {
    decide(object, facts).verdict.message
}

fn difference(setting: &str, found: Option<&str>, wanted: Option<&str>) -> Difference {
    let text = |value: Option<&str>| value.map(str::to_string);
    Difference { setting: setting.into(), found: text(found), wanted: text(wanted) }
}

#[test]
fn a_topic_that_is_not_there_is_created_as_declared() {
    let object = object(|spec| {
        spec.wal_profile = Some("bulk".into());
        spec.config = Some(map(&[("max.message.bytes", "2000000")]));
    });
    let create = Action::Create {
        partitions: 3,
        settings: map(&[(PROFILE_SETTING, "bulk"), ("max.message.bytes", "2000000")]),
        vanished: None,
    };
    let mut world = World::new(object, facts(TopicFacts::Absent));
    assert_eq!(actions(&world.object, &world.facts), [create]);
    let settled = world.settle();
    assert_eq!(settled.verdict.reason, Reason::Synced);
    let seen = Seen {
        id: Some("t-101".into()),
        partitions: Some(3),
        wal_profile: Some("bulk".into()),
        drift: Vec::new(),
    };
    assert_eq!(settled.seen, Some(seen));
}

#[test]
fn a_topic_that_vanished_is_created_again() {
    let object = managing(object(|_| ()), "t-1");
    let decision = decide(&object, &facts(TopicFacts::Absent));
    let [Action::Create { vanished, .. }] = &decision.actions[..] else { panic!("{decision:?}") };
    assert_eq!(vanished.as_deref(), Some("t-1"));
}

#[test]
fn what_the_brokers_write_otherwise_is_not_another_value() {
    let object =
        object(|spec| spec.config = Some(map(&[("segment.bytes", " 02097152"), ("some.flag", "TRUE")])));
    let found = topic("t-1", 3, &[("segment.bytes", "2097152"), ("some.flag", "true")]);
    assert_eq!(actions(&managing(object, "t-1"), &there(found)), []);
}

#[test]
fn a_changed_object_changes_its_topic() {
    let mut object = managing(object(|spec| spec.wal_profile = Some("low".into())), "t-1");
    object.metadata.generation = Some(2);
    object.spec.wal_profile = Some("high".into());
    object.spec.partitions = 5;
    object.spec.config = Some(map(&[("segment.bytes", "2097152")]));
    let found = topic("t-1", 3, &[(PROFILE_SETTING, "low"), ("max.message.bytes", "7")]);
    let decision = decide(&object, &there(found));
    let profile = difference(PROFILE_SETTING, Some("low"), Some("high"));
    let others = vec![
        difference("max.message.bytes", Some("7"), None),
        difference("segment.bytes", None, Some("2097152")),
    ];
    let wanted = [
        Action::Alter { changes: vec![profile], drift: false },
        Action::Alter { changes: others, drift: false },
        Action::Grow { from: 3, to: 5, drift: false },
    ];
    assert_eq!(decision.actions, wanted);
    assert_eq!(decision.seen.unwrap().drift, Vec::<String>::new(), "the object changed, not the topic");
}

#[test]
fn drift_is_listed_and_set_right() {
    let object = managing(
        object(|spec| {
            spec.wal_profile = Some("low".into());
            spec.config = Some(map(&[("segment.bytes", "2097152")]));
        }),
        "t-1",
    );
    let found = topic("t-1", 2, &[(PROFILE_SETTING, "ultra"), ("max.message.bytes", "7")]);
    let decision = decide(&object, &there(found));
    let drift = [
        "partitions: 2 instead of 3",
        "chronik.wal.profile: ultra instead of low",
        "max.message.bytes: 7 instead of not set",
        "segment.bytes: not set instead of 2097152",
    ];
    assert_eq!(decision.seen.unwrap().drift, drift);
    assert!(decision.actions.contains(&Action::Grow { from: 2, to: 3, drift: true }));
    assert_eq!(decision.actions.len(), 3);
}

#[test]
fn without_config_only_the_profile_is_looked_at() {
    let object = managing(object(|_| ()), "t-1");
    let found = topic("t-1", 3, &[("max.message.bytes", "7"), (PROFILE_SETTING, "low")]);
    let reset = Action::Alter { changes: vec![difference(PROFILE_SETTING, Some("low"), None)], drift: true };
    assert_eq!(actions(&object, &there(found)), [reset]);
    let found = topic("t-1", 3, &[("max.message.bytes", "7")]);
    let decision = decide(&object, &there(found));
    assert_eq!((decision.actions.len(), decision.verdict.reason), (0, Reason::Synced));
    assert_eq!(decision.seen.unwrap().wal_profile.as_deref(), Some("high"), "the default's");
}

#[test]
fn partitions_are_never_taken_away() {
    let object = managing(object(|_| ()), "t-1");
    let decision = decide(&object, &there(topic("t-1", 6, &[])));
    assert_eq!((decision.actions.len(), decision.verdict.reason), (0, Reason::TooManyPartitions));
    assert!(decision.verdict.message.contains('6') && decision.verdict.message.contains('3'));
    assert_eq!(decision.seen.unwrap().drift, ["partitions: 6 instead of 3"]);
    // It stays listed while it lasts.
    let mut world = World::new(object, there(topic("t-1", 6, &[])));
    world.settle();
    assert_eq!(world.settle().seen.unwrap().drift, ["partitions: 6 instead of 3"]);
    // And is mended by YAML.
    world.object.spec.partitions = 6;
    world.object.metadata.generation = Some(2);
    assert_eq!(world.settle().verdict.reason, Reason::Synced);
}

#[test]
fn existing_topics_under_each_policy() {
    let equal = there(topic("t-1", 3, &[]));
    let unequal = there(topic("t-1", 2, &[(PROFILE_SETTING, "low")]));
    let larger = there(topic("t-1", 9, &[]));
    let adopt = Action::Adopt { id: "t-1".into(), instead: None };

    let never = adopting(AdoptionPolicy::Never);
    assert_eq!((actions(&never, &equal).len(), reason(&never, &equal)), (0, Reason::TopicExists));

    let if_equal = adopting(AdoptionPolicy::IfEqual);
    assert_eq!(actions(&if_equal, &equal), std::slice::from_ref(&adopt));
    for other in [&unequal, &larger] {
        assert_eq!((actions(&if_equal, other).len(), reason(&if_equal, other)), (0, Reason::TopicExists));
    }
    let why = message(&if_equal, &unequal);
    assert!(why.contains("partitions: 2 instead of 3; chronik.wal.profile: low instead of not set"), "{why}");

    let always = adopting(AdoptionPolicy::Always);
    assert_eq!(actions(&always, &equal), std::slice::from_ref(&adopt));
    let taken = actions(&always, &unequal);
    assert_eq!((taken.len(), &taken[0]), (3, &adopt));
    assert_eq!(actions(&always, &larger), [adopt]);
    let mut world = World::new(always, larger);
    assert_eq!(world.settle().verdict.reason, Reason::TooManyPartitions);
    assert_eq!(owned_id(&world.object).map(String::as_str), Some("t-1"));
}

#[test]
fn another_topic_of_the_same_name_is_another_topic() {
    let remade = there(topic("t-2", 3, &[]));
    let never = managing(adopting(AdoptionPolicy::Never), "t-1");
    let decision = decide(&never, &remade);
    assert_eq!((decision.actions.len(), decision.verdict.reason), (0, Reason::TopicExists));
    assert_eq!(decision.seen.unwrap().id, None, "it manages nothing now");
    let if_equal = managing(adopting(AdoptionPolicy::IfEqual), "t-1");
    let adopt = Action::Adopt { id: "t-2".into(), instead: Some("t-1".into()) };
    assert_eq!(actions(&if_equal, &remade), [adopt]);
}

#[test]
fn the_brokers_own_topics_are_left_alone() {
    let internal = Topic { internal: true, ..topic("t-1", 3, &[]) };
    assert_eq!(reason(&adopting(AdoptionPolicy::Always), &there(internal)), Reason::TopicExists);
}

#[test]
fn a_topic_whose_creation_went_unanswered_is_its_own() {
    let never = adopting(AdoptionPolicy::Never);
    let mut creating = never.clone();
    let verdict = Verdict::new(Reason::Creating, "");
    creating.status = Some(status(&never, &verdict, None, &time(1)));
    // It is remembered while nobody answers.
    let unreachable = Verdict::new(Reason::BrokerUnreachable, "no answer");
    creating.status = Some(status(&creating, &unreachable, None, &time(2)));
    assert_eq!(actions(&creating, &there(topic("t-1", 3, &[]))).len(), 1);
    assert_eq!(reason(&creating, &there(topic("t-1", 4, &[]))), Reason::TopicExists);
    // A refusal ends it.
    let refused = Verdict::new(Reason::Refused, "no");
    creating.status = Some(status(&creating, &refused, None, &time(3)));
    assert_eq!(reason(&creating, &there(topic("t-1", 3, &[]))), Reason::TopicExists);
}

#[test]
fn an_unknown_profile_waits_until_the_cluster_has_it() {
    let wanting = object(|spec| spec.wal_profile = Some("night".into()));
    let mut world = World::new(wanting, facts(TopicFacts::Absent));
    let decision = world.settle();
    assert_eq!(decision.verdict.reason, Reason::UnknownWalProfile);
    let why = &decision.verdict.message;
    assert!(why.contains("night") && why.contains("bulk, high, low, medium, ultra"), "{why}");

    let mut with_it = view();
    with_it.profiles.insert("night".into());
    world.facts.cluster = ClusterFacts::There(with_it);
    assert_eq!(world.settle().verdict.reason, Reason::Synced);

    // Taken away from the cluster, it is not tried, and the rest goes on.
    world.facts.cluster = ClusterFacts::There(view());
    world.object.spec.partitions = 4;
    world.object.metadata.generation = Some(2);
    let decision = decide(&world.object, &world.facts);
    assert_eq!(decision.actions, [Action::Grow { from: 3, to: 4, drift: false }]);
    assert_eq!(world.settle().verdict.reason, Reason::UnknownWalProfile);
}

#[test]
fn clusters_that_cannot_be_asked() {
    let object = managing(object(|_| ()), "t-1");
    let with = |cluster| Facts { cluster, ..facts(TopicFacts::Unknown) };
    let down = ClusterView { ready: Err("the cluster demo is not ready: Starting".into()), ..view() };
    for (facts, wanted) in [
        (with(ClusterFacts::Missing), Reason::ClusterMissing),
        (with(ClusterFacts::Ending), Reason::ClusterNotReady),
        (with(ClusterFacts::There(down)), Reason::ClusterNotReady),
        (facts(TopicFacts::Unreachable("no route".into())), Reason::BrokerUnreachable),
        (facts(TopicFacts::Refused("describe: POLICY_VIOLATION".into())), Reason::Refused),
    ] {
        let decision = decide(&object, &facts);
        assert_eq!((decision.verdict.reason, decision.actions.len(), decision.seen), (wanted, 0, None));
        assert!(!decision.verdict.message.is_empty());
    }
}

#[test]
fn a_paused_cluster_is_looked_at_and_not_changed() {
    let paused = |topic| Facts {
        cluster: ClusterFacts::There(ClusterView { paused: true, ..view() }),
        ..facts(topic)
    };
    let object = managing(object(|_| ()), "t-1");
    let drifted = paused(TopicFacts::There(topic("t-1", 2, &[])));
    let decision = decide(&object, &drifted);
    assert_eq!((decision.verdict.reason, decision.actions.len()), (Reason::ClusterPaused, 0));
    assert_eq!(decision.seen.unwrap().drift, ["partitions: 2 instead of 3"]);
    assert_eq!(reason(&object, &paused(TopicFacts::There(topic("t-1", 3, &[])))), Reason::Synced);
    let new = adopting(AdoptionPolicy::Always);
    for found in [TopicFacts::Absent, drifted.topic] {
        assert_eq!(
            (reason(&new, &paused(found.clone())), actions(&new, &paused(found)).len()),
            (Reason::ClusterPaused, 0)
        );
    }
}

#[test]
fn the_older_object_has_the_topic() {
    let named = |name: &str, topic: Option<&str>, created: i64| {
        let mut object = object(|spec| spec.topic_name = topic.map(str::to_string));
        let meta = object.meta_mut();
        (meta.name, meta.creation_timestamp) = (Some(name.into()), Some(time(created)));
        object
    };
    let old = named("z-old", Some("orders"), 10);
    let twin = named("a-young", Some("orders"), 20);
    let tie = named("orders", None, 20);
    let other = named("else", None, 1);
    let mut elsewhere = named("elsewhere", Some("orders"), 1);
    elsewhere.spec.cluster_ref.name = "test".into();
    let mut foreign = named("foreign", Some("orders"), 1);
    foreign.meta_mut().namespace = Some("bank".into());
    let all = [old.clone(), twin.clone(), tie.clone(), other, elsewhere, foreign];
    assert_eq!(rival(&old, &all), None);
    assert_eq!(rival(&twin, &all).as_deref(), Some("z-old"));
    assert_eq!(rival(&tie, &all).as_deref(), Some("z-old"));
    assert_eq!(rival(&tie, &all[1..]).as_deref(), Some("a-young"), "of the same age: by name");
    assert_eq!(rival(&twin, &all[1..]), None);
    assert_eq!(rival(&twin, &[ending(old)]).as_deref(), Some("z-old"), "until it is gone");

    let conflict = Facts { rival: Some("z-old".into()), ..facts(TopicFacts::Unknown) };
    let decision = decide(&managing(twin, "t-1"), &conflict);
    assert_eq!((decision.verdict.reason, decision.actions.len()), (Reason::Conflict, 0));
    assert_eq!(decision.seen.unwrap().id, None);
}

#[test]
fn the_finalizer_is_there_for_delete_alone() {
    let deleting = object(|spec| spec.deletion_policy = TopicDeletionPolicy::Delete);
    let first = actions(&deleting, &facts(TopicFacts::Absent));
    assert_eq!((&first[0], first.len()), (&Action::AddFinalizer, 2), "before the topic is there");
    let missing = Facts { cluster: ClusterFacts::Missing, ..facts(TopicFacts::Unknown) };
    assert_eq!(actions(&deleting, &missing), [Action::AddFinalizer]);

    let mut retained = managing(deleting, "t-1");
    let same = there(topic("t-1", 3, &[]));
    assert_eq!(actions(&retained, &same), []);
    retained.spec.deletion_policy = TopicDeletionPolicy::Retain;
    assert_eq!(actions(&retained, &same), [Action::RemoveFinalizer]);
}

#[test]
fn a_cluster_is_asked_once_it_works() {
    let mut cluster = ChronikCluster::new("demo", ChronikClusterSpec::default());
    let why = |cluster: &ChronikCluster| match ClusterView::of(cluster) {
        ClusterFacts::There(view) => view.ready.err(),
        other => panic!("{other:?}"),
    };
    assert!(why(&cluster).unwrap().contains("not been started"));
    let mut status = ChronikClusterStatus::default();
    conditions::set(&mut status.conditions, &time(1), None, "Ready", false, "Starting", "broker 0 starts");
    cluster.status = Some(status.clone());
    assert!(why(&cluster).unwrap().contains("no id"));
    status.cluster_id = Some("abc".into());
    cluster.status = Some(status.clone());
    assert_eq!(why(&cluster).unwrap(), "the cluster demo is not ready: Starting: broker 0 starts");
    conditions::set(&mut status.conditions, &time(1), None, "Available", true, "Available", "");
    cluster.status = Some(status);
    assert_eq!(why(&cluster), None);
    cluster.spec.wal_profiles.insert("bulk".into(), Default::default());
    let ClusterFacts::There(view) = ClusterView::of(&cluster) else { panic!("it is there") };
    assert_eq!(view.profiles.len(), 5);
    cluster.meta_mut().deletion_timestamp = Some(time(2));
    assert_eq!(ClusterView::of(&cluster), ClusterFacts::Ending);
}

#[test]
fn the_built_in_profiles_are_the_brokers() {
    assert_eq!(BUILT_IN_PROFILES.to_vec(), built_in().into_keys().collect::<Vec<_>>());
}
