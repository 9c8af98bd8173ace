//! What holds for every input.

use proptest::prelude::*;

use super::*;
use crate::topic::facts::{Ending, differences};

/// Values that the brokers take for the same, and others.
fn settings() -> impl Strategy<Value = BTreeMap<String, String>> {
    let names = prop::sample::select(vec!["segment.bytes", "max.message.bytes", "message.timestamp.type"]);
    let values = prop::sample::select(vec!["7", "007", " 7 ", "8", "true", "TRUE", "CreateTime", ""]);
    prop::collection::btree_map(names.prop_map(str::to_string), values.prop_map(str::to_string), 0..3)
}

fn profile() -> impl Strategy<Value = Option<String>> {
    let names = prop::sample::select(vec!["low", "high", "bulk", "night"]);
    prop::option::of(names.prop_map(str::to_string))
}

fn id() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["t-1", "t-2"]).prop_map(str::to_string)
}

fn found() -> impl Strategy<Value = TopicFacts> {
    let there = (id(), 1..6i32, settings(), profile(), prop::bool::weighted(0.1)).prop_map(
        |(id, partitions, mut own, profile, internal)| {
            own.values_mut().for_each(|value| *value = kept(value));
            own.extend(profile.map(|profile| (PROFILE_SETTING.to_string(), profile)));
            let own: Vec<(&str, &str)> = own.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            TopicFacts::There(Topic { internal, ..topic(&id, partitions, &own) })
        },
    );
    prop_oneof![
        6 => there,
        3 => Just(TopicFacts::Absent),
        1 => Just(TopicFacts::Unknown),
        1 => Just(TopicFacts::Unreachable("no answer".into())),
        1 => Just(TopicFacts::Refused("no".into())),
    ]
}

fn cluster() -> impl Strategy<Value = ClusterFacts> {
    let there = (prop::bool::weighted(0.9), prop::bool::weighted(0.2)).prop_map(|(ready, paused)| {
        let ready = if ready { Ok(()) } else { Err("it starts".to_string()) };
        ClusterFacts::There(ClusterView { ready, paused, ..view() })
    });
    prop_oneof![8 => there, 1 => Just(ClusterFacts::Missing), 1 => Just(ClusterFacts::Ending)]
}

fn objects() -> impl Strategy<Value = ChronikTopic> {
    let policies = (
        prop::sample::select(vec![AdoptionPolicy::Never, AdoptionPolicy::IfEqual, AdoptionPolicy::Always]),
        prop::sample::select(vec![TopicDeletionPolicy::Retain, TopicDeletionPolicy::Delete]),
    );
    let wanted = (1..6i32, profile(), prop::option::of(settings()));
    let life = (prop::option::of(id()), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (policies, wanted, life).prop_map(|((adoption, deletion), (partitions, profile, config), life)| {
        let (owned, fresh, creating, finalizer, deleted) = life;
        let mut made = object(|spec| {
            (spec.partitions, spec.wal_profile, spec.config) = (partitions, profile, config);
            (spec.adoption_policy, spec.deletion_policy) = (adoption, deletion);
        });
        if let Some(id) = owned {
            made = managing(made, &id);
        }
        if creating {
            let status = made.status.get_or_insert_default();
            conditions::set(&mut status.conditions, &time(1), Some(1), "Synced", false, "Creating", "");
        }
        if !fresh {
            made.metadata.generation = Some(2);
        }
        made.metadata.finalizers = finalizer.then(|| vec![FINALIZER.to_string()]);
        if deleted { ending(made) } else { made }
    })
}

fn worlds() -> impl Strategy<Value = World> {
    let around =
        prop_oneof![8 => Just(None), 1 => Just(Some(Ending::Namespace)), 1 => Just(Some(Ending::Definition))];
    let rival = prop::option::weighted(0.1, Just("older".to_string()));
    (objects(), cluster(), found(), around, rival).prop_map(|(object, cluster, topic, around, rival)| {
        let around = around.filter(|_| is_ending(&object));
        World::new(object, Facts { cluster, rival, ending: around, topic })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Acting and deciding again gives nothing to do (`settle` panics otherwise, and the model panics where a topic
    /// would shrink, or one be deleted that is not the object's own).
    #[test]
    fn it_comes_to_rest_and_says_where(mut world in worlds()) {
        let decision = world.settle();
        if world.gone {
            prop_assert!(is_ending(&world.object));
            return Ok(());
        }
        prop_assert!(!decision.verdict.message.is_empty());
        if is_ending(&world.object) {
            return Ok(());
        }
        if decision.verdict.is_ready() {
            let found = world.facts.topic.topic().expect("a ready topic is there");
            prop_assert_eq!(owned_id(&world.object), Some(&found.id));
            prop_assert_eq!(found.partitions, world.object.spec.partitions);
            prop_assert_eq!(differences(&world.object, found), vec![]);
        }
        // The written status leads to the same decision.
        let written = world.object.status.clone();
        let again = world.settle();
        prop_assert_eq!(&again.verdict, &decision.verdict);
        prop_assert_eq!(world.object.status.map(|s| s.conditions), written.map(|s| s.conditions));
    }

    /// With brokers that answer, a cluster that is not paused and nobody else's topic in the way, the end is Ready,
    /// but for a profile that there is not, and partitions that there are too many of.
    #[test]
    fn it_gets_ready_where_nothing_is_in_the_way(mut world in worlds()) {
        let (TopicFacts::Absent | TopicFacts::There(_)) = world.facts.topic else { return Ok(()) };
        world.facts.cluster = ClusterFacts::There(view());
        world.facts.rival = None;
        world.object.metadata.deletion_timestamp = None;
        world.object.spec.adoption_policy = AdoptionPolicy::Always;
        if let TopicFacts::There(topic) = &mut world.facts.topic {
            topic.internal = false;
        }
        let wanted = world.object.spec.wal_profile.clone();
        let most = world.facts.topic.topic().map_or(0, |t| t.partitions);
        let expected = if wanted.as_deref() == Some("night") {
            Reason::UnknownWalProfile
        } else if most > world.object.spec.partitions {
            Reason::TooManyPartitions
        } else {
            Reason::Synced
        };
        prop_assert_eq!(world.settle().verdict.reason, expected);
    }

    /// An object that is being deleted goes, unless its own topic is to be deleted and the brokers do not do it.
    #[test]
    fn deletion_does_not_hang(mut world in worlds()) {
        world.object = ending(world.object);
        let doomed = world.object.spec.deletion_policy == TopicDeletionPolicy::Delete
            && world.object.metadata.finalizers.is_some();
        let before = world.facts.topic.topic().cloned();
        let owned = owned_id(&world.object).cloned();
        let decision = world.settle();
        if world.object.metadata.finalizers.is_none() {
            prop_assert!(decision.actions.is_empty() && !world.gone);
        } else if !world.gone {
            prop_assert!(doomed && owned.is_some() && world.facts.ending.is_none());
            prop_assert!(!decision.verdict.is_ready() && !decision.verdict.message.is_empty());
            let ClusterFacts::There(view) = &world.facts.cluster else { panic!("there is no cluster to wait for") };
            prop_assert!(view.paused || world.facts.topic.topic().is_none());
            prop_assert!(!matches!(world.facts.topic, TopicFacts::Absent));
        }
        // Nothing of somebody else's is touched.
        if let Some(before) = before.filter(|topic| !doomed || Some(&topic.id) != owned.as_ref()) {
            prop_assert_eq!(world.facts.topic.topic(), Some(&before));
        }
    }

    /// A foreign topic is left as it is, except where the policy allows it.
    #[test]
    fn foreign_topics_are_left_alone(mut world in worlds()) {
        let Some(before) = world.facts.topic.topic().cloned() else { return Ok(()) };
        if owned_id(&world.object) == Some(&before.id)
            || world.object.spec.adoption_policy == AdoptionPolicy::Always
        {
            return Ok(());
        }
        world.settle();
        prop_assert_eq!(world.facts.topic.topic(), Some(&before));
    }
}
