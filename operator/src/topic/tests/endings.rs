//! Objects that are being deleted: the topic goes with its object, or stays, and nothing hangs for long.

use super::*;
use crate::topic::facts::Ending;

fn doomed() -> ChronikTopic {
    ending(managing(object(|spec| spec.deletion_policy = TopicDeletionPolicy::Delete), "t-1"))
}

fn own() -> TopicFacts {
    TopicFacts::There(topic("t-1", 3, &[]))
}

/// Whether the object is let go, with the topic left where it is; and what is told.
fn kept(object: &ChronikTopic, facts: &Facts) -> Option<String> {
    match &decide(object, facts).actions[..] {
        [Action::LetGo { why }] => Some(why.clone().unwrap_or_default()),
        _ => None,
    }
}

#[test]
fn the_topic_goes_and_then_the_object() {
    let mut world = World::new(doomed(), facts(own()));
    assert_eq!(decide(&world.object, &world.facts).actions, [Action::Delete { id: "t-1".into() }]);
    world.settle();
    assert!(world.gone && matches!(world.facts.topic, TopicFacts::Absent));
}

#[test]
fn an_object_without_the_finalizer_is_no_concern() {
    let retained = ending(managing(object(|_| ()), "t-1"));
    let decision = decide(&retained, &facts(own()));
    assert_eq!((decision.actions.len(), decision.seen), (0, None));
}

#[test]
fn it_lets_go_of_what_is_not_to_be_deleted() {
    let doomed = doomed();
    let mut retained = doomed.clone();
    retained.spec.deletion_policy = TopicDeletionPolicy::Retain;
    assert!(kept(&retained, &facts(own())).unwrap().contains("Retain"));

    let gone = Facts { cluster: ClusterFacts::Missing, ..facts(TopicFacts::Unknown) };
    assert!(kept(&doomed, &gone).unwrap().contains("cluster is gone"));
    let going = Facts { cluster: ClusterFacts::Ending, ..facts(TopicFacts::Unknown) };
    assert!(kept(&doomed, &going).unwrap().contains("being deleted"));
    let namespace = Facts { ending: Some(Ending::Namespace), ..facts(own()) };
    assert!(kept(&doomed, &namespace).unwrap().contains("namespace"));
    assert_eq!(kept(&doomed, &facts(TopicFacts::Absent)).as_deref(), Some(""));
    assert!(kept(&doomed, &there(topic("t-2", 3, &[]))).unwrap().contains("another one"));
    let rival = Facts { rival: Some("older".into()), ..facts(own()) };
    assert!(kept(&doomed, &rival).unwrap().contains("older"));

    let mut never_had_one = doomed;
    never_had_one.status = None;
    assert_eq!(kept(&never_had_one, &facts(TopicFacts::Unknown)).as_deref(), Some(""));
}

#[test]
fn it_waits_for_brokers_that_do_not_answer_and_says_so() {
    let doomed = doomed();
    for (topic, reason) in [
        (TopicFacts::Unreachable("connection refused".into()), Reason::BrokerUnreachable),
        (TopicFacts::Refused("not now".into()), Reason::Refused),
        (TopicFacts::Unknown, Reason::ClusterNotReady),
    ] {
        let decision = decide(&doomed, &facts(topic.clone()));
        assert_eq!((decision.actions.len(), decision.verdict.reason), (0, reason));
        assert!(decision.verdict.message.contains("set deletionPolicy to Retain"));
        // The kind itself is not held up.
        let definition = Facts { ending: Some(Ending::Definition), ..facts(topic) };
        assert!(kept(&doomed, &definition).is_some());
    }
    let definition = Facts { ending: Some(Ending::Definition), ..facts(own()) };
    assert!(kept(&doomed, &definition).is_none(), "brokers that answer delete it");
}

#[test]
fn a_paused_cluster_loses_nothing() {
    let paused = ClusterFacts::There(ClusterView { paused: true, ..view() });
    let decision = decide(&doomed(), &Facts { cluster: paused.clone(), ..facts(own()) });
    assert_eq!((decision.actions.len(), decision.verdict.reason), (0, Reason::ClusterPaused));
    let absent = Facts { cluster: paused, ..facts(TopicFacts::Absent) };
    assert!(kept(&doomed(), &absent).is_some());
}
