//! The decision, case by case, and its properties over many clusters.

use k8s_openapi::jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::cluster::facts::NotRunning;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn pod(id: i32, revision: &str) -> PodFacts {
    PodFacts {
        name: format!("demo-main-{id}"),
        uid: format!("uid-{id}-{revision}"),
        created: Some(now() - SignedDuration::from_hours(1)),
        node: Some("n".into()),
        revision: Some(revision.into()),
        image: Some("i".into()),
        listeners: vec![("internal".to_string(), 9092)],
        config_hash: Some(revision.into()),
        terminating: false,
        ready: true,
        placed: true,
        not_running: None,
    }
}

fn safe() -> PreRestart {
    PreRestart { safe: true, ..PreRestart::default() }
}

/// A broker that runs revision `new`, which is the one that is wanted.
fn broker(id: i32) -> Broker {
    Broker {
        id,
        pod_name: format!("demo-main-{id}"),
        pod: Some(pod(id, "new")),
        wanted: Some(Wanted { revision: "new".into(), image: "i".into(), config_hash: "new".into() }),
        controller: false,
        waits_for: vec![],
        pre_restart: Some(Ok(safe())),
        post_restart: Some(Ok(PostRestart { caught_up: true, ..PostRestart::default() })),
    }
}

fn outdated_broker(id: i32) -> Broker {
    Broker { pod: Some(pod(id, "old")), ..broker(id) }
}

fn input<'a>(brokers: &'a [Broker], verdict: &'a Verdict) -> Input<'a> {
    Input { now: now(), brokers, restart: None, unavoidable: Unavoidable::Proceed, verdict, last: None }
}

fn deleted(decision: &Decision) -> &Delete {
    match decision {
        Decision::Delete(delete) => delete,
        other => panic!("not a deletion: {other:?}"),
    }
}

fn waited(decision: &Decision) -> &Operation {
    match decision {
        Decision::Wait(operation) => operation,
        other => panic!("not waiting: {other:?}"),
    }
}

#[test]
fn nothing_to_do_is_nothing() {
    assert_eq!(decide(&input(&[broker(0), broker(1)], &Verdict::NotNeeded)), Decision::Nothing);
}

#[test]
fn an_outdated_broker_is_restarted_once_it_may() {
    let brokers = [outdated_broker(0)];
    let decision = decide(&input(&brokers, &Verdict::Valid));
    let delete = deleted(&decision);
    assert_eq!((delete.uid.as_str(), delete.cause), ("uid-0-old", Cause::Config));
    assert_eq!((delete.operation.kind.as_str(), delete.operation.step.as_str()), ("Roll", "Stopping"));

    let mut other_image = brokers.clone();
    other_image[0].wanted.as_mut().unwrap().image = "j".into();
    // A broker of the old image cannot judge what the new one takes.
    let verdict = Verdict::Unknown("nobody asked".into());
    assert_eq!(deleted(&decide(&input(&other_image, &verdict))).cause, Cause::Image);
}

#[test]
fn a_configuration_that_is_wrong_or_unchecked_restarts_nobody() {
    let brokers = [outdated_broker(0)];
    let decision = decide(&input(&brokers, &Verdict::Invalid(vec!["num.partitions: no".into()])));
    assert_eq!(waited(&decision).blocked_by, ["num.partitions: no"]);
    let decision = decide(&input(&brokers, &Verdict::Unknown("timeout".into())));
    assert!(waited(&decision).blocked_by[0].contains("timeout"));
}

#[test]
fn what_the_broker_says_is_heeded() {
    let partition = PartitionReason { topic: "t".into(), partition: 3, reason: "would go offline".into() };
    let with = |answer| [Broker { pre_restart: answer, ..outdated_broker(0) }];
    let blocked = PreRestart { safe: false, blocking: vec![partition.clone()], blocking_count: 7, ..safe() };
    let brokers = with(Some(Ok(blocked)));
    let decision = decide(&input(&brokers, &Verdict::Valid));
    assert_eq!(waited(&decision).blocked_by, ["t-3: would go offline", "and 6 more"]);

    let brokers = with(Some(Err("no route".into())));
    assert_eq!(waited(&decide(&input(&brokers, &Verdict::Valid))).blocked_by, ["no route"]);
    let brokers = with(None);
    assert!(waited(&decide(&input(&brokers, &Verdict::Valid))).blocked_by[0].contains("broker 0"));
    let brokers = with(Some(Ok(PreRestart::default())));
    assert!(!waited(&decide(&input(&brokers, &Verdict::Valid))).blocked_by.is_empty());

    let unavoidable = PreRestart { unavoidable: vec![partition], unavoidable_count: 1, ..safe() };
    let brokers = with(Some(Ok(unavoidable)));
    let decision = decide(&input(&brokers, &Verdict::Valid));
    assert_eq!(deleted(&decision).unavoidable, ["t-3: would go offline"]);
    let wait = Input { unavoidable: Unavoidable::Wait, ..input(&brokers, &Verdict::Valid) };
    assert!(waited(&decide(&wait)).blocked_by[0].contains("rollout.unavoidable"));
}

#[test]
fn good_yaml_mends_a_bad_apply_even_when_every_broker_is_down() {
    let failing = |id| {
        let mut broken = outdated_broker(id);
        let pod = broken.pod.as_mut().unwrap();
        (pod.ready, pod.not_running) = (false, Some(NotRunning::Image("ErrImagePull: no".into())));
        Broker { pre_restart: None, post_restart: None, ..broken }
    };
    let brokers = [failing(0), failing(1)];
    let decision = decide(&input(&brokers, &Verdict::Unknown("nobody is there".into())));
    let delete = deleted(&decision);
    assert_eq!((delete.pod.as_str(), delete.cause), ("demo-main-0", Cause::Broken));
    assert!(delete.why.contains("ErrImagePull"));
    assert_eq!(delete.operation.kind, "Recreate");
    // The first one is new and waits for the second one.
    let mut fresh = broker(0);
    fresh.pod.as_mut().unwrap().ready = false;
    let brokers = [fresh, failing(1)];
    assert_eq!(deleted(&decide(&input(&brokers, &Verdict::NotNeeded))).pod, "demo-main-1");
}

#[test]
fn a_broker_that_was_never_told_its_address_has_nothing_to_lose() {
    let mut broken = outdated_broker(0);
    let pod = broken.pod.as_mut().unwrap();
    (pod.ready, pod.placed) = (false, false);
    broken.pre_restart = None;
    assert_eq!(deleted(&decide(&input(&[broken], &Verdict::NotNeeded))).cause, Cause::Broken);
}

#[test]
fn a_broker_that_recovers_is_not_torn_from_it() {
    let mut starting = outdated_broker(0);
    starting.pod.as_mut().unwrap().ready = false;
    starting.pre_restart = None;
    starting.waits_for = vec!["log-recovered: 3 of 9 GiB".into()];
    let brokers = [starting];
    let decision = decide(&input(&brokers, &Verdict::Valid));
    assert!(waited(&decision).blocked_by.contains(&"log-recovered: 3 of 9 GiB".to_string()));
}

#[test]
fn unready_ones_first_and_the_controller_last() {
    let mut brokers = [outdated_broker(0), outdated_broker(1), outdated_broker(2)];
    brokers[0].controller = true;
    assert_eq!(deleted(&decide(&input(&brokers, &Verdict::Valid))).pod, "demo-main-1");
    brokers[2].pod.as_mut().unwrap().ready = false;
    assert_eq!(deleted(&decide(&input(&brokers, &Verdict::Valid))).pod, "demo-main-2");
}

#[test]
fn others_are_waited_for() {
    let mut brokers = [broker(0), outdated_broker(1)];
    brokers[0].pod = None;
    let decision = decide(&input(&brokers, &Verdict::Valid));
    assert_eq!((waited(&decision).broker_id, waited(&decision).step.as_str()), (1, "PreRestart"));
    assert_eq!(waited(&decision).blocked_by, ["pod demo-main-0 is not there yet"]);

    // One that we restarted has to catch up, too.
    let mut brokers = [broker(0), outdated_broker(1)];
    let behind = PostRestart { caught_up: false, percent: 50.0, ..PostRestart::default() };
    brokers[0].post_restart = Some(Ok(behind));
    let last = Operation {
        kind: "Roll".into(),
        broker_id: 0,
        step: "Starting".into(),
        started_at: Some(Time(now())),
        blocked_by: vec![],
    };
    let after = Input { last: Some(&last), ..input(&brokers, &Verdict::Valid) };
    let decision = decide(&after);
    assert_eq!((waited(&decision).broker_id, waited(&decision).step.as_str()), (0, "CatchingUp"));
    assert_eq!(waited(&decision).started_at, last.started_at);
}

#[test]
fn a_restart_is_of_pods_older_than_the_request_and_once() {
    let at =
        |time: &str| Restart { requested_at: Time(time.parse().unwrap()), broker_ids: vec![], force: false };
    let brokers = [broker(0)];
    let ask =
        |restart: &Restart| decide(&Input { restart: Some(restart), ..input(&brokers, &Verdict::NotNeeded) });
    let due = at("2026-01-01T11:30:00Z");
    let decision = ask(&due);
    assert_eq!(deleted(&decision).cause, Cause::Requested);
    assert_eq!(deleted(&decision).operation.kind, "Restart");
    assert_eq!(ask(&at("2026-01-01T10:00:00Z")), Decision::Nothing);
    // One of the future waits for its time.
    assert_eq!(ask(&at("2026-01-01T13:00:00Z")), Decision::Nothing);
    assert_eq!(ask(&Restart { broker_ids: vec![5], ..due.clone() }), Decision::Nothing);
}

#[test]
fn force_passes_over_what_brokers_say_for_what_was_asked_only() {
    let mut blocked = broker(0);
    blocked.pre_restart = Some(Err("no answer".into()));
    let brokers = [blocked.clone()];
    let restart = Restart {
        requested_at: Time("2026-01-01T11:30:00Z".parse().unwrap()),
        broker_ids: vec![0],
        force: true,
    };
    let forced = Input { restart: Some(&restart), ..input(&brokers, &Verdict::NotNeeded) };
    assert!(deleted(&decide(&forced)).forced);
    let other = Restart { broker_ids: vec![1], ..restart };
    let mut outdated = outdated_broker(0);
    outdated.pre_restart = blocked.pre_restart;
    let brokers = [outdated];
    let not_meant = Input { restart: Some(&other), ..input(&brokers, &Verdict::Valid) };
    assert_eq!(waited(&decide(&not_meant)).blocked_by, ["no answer"]);
}

#[test]
fn eviction_is_allowed_only_while_all_is_well() {
    let brokers = [broker(0), broker(1)];
    assert!(disruptable(&brokers, &Decision::Nothing));
    // One replica everywhere is unavoidable, and does not make nodes undrainable.
    let mut alone = [broker(0)];
    let partition = PartitionReason { topic: "t".into(), partition: 0, reason: String::new() };
    alone[0].pre_restart = Some(Ok(PreRestart { unavoidable: vec![partition.clone()], ..safe() }));
    assert!(disruptable(&alone, &Decision::Nothing));
    alone[0].pre_restart =
        Some(Ok(PreRestart { safe: false, blocking: vec![partition], ..PreRestart::default() }));
    assert!(!disruptable(&alone, &Decision::Nothing));
    let mut down = [broker(0), broker(1)];
    down[1].pod.as_mut().unwrap().ready = false;
    assert!(!disruptable(&down, &Decision::Nothing));
    let under_way = decide(&input(&[outdated_broker(0)], &Verdict::Valid));
    assert!(!disruptable(&brokers, &under_way));
}

/// A world that the decisions act on: pods that are deleted come back new, start, and catch up.
#[derive(Clone, Debug)]
struct World {
    brokers: Vec<Broker>,
    last: Option<Operation>,
    time: i64,
}

fn any_world() -> impl Strategy<Value = World> {
    let broker = (any::<bool>(), any::<bool>(), any::<bool>(), 0..6u8, any::<bool>());
    proptest::collection::vec(broker, 1..5).prop_map(|brokers| {
        let brokers =
            brokers.into_iter().zip(0..).map(|((outdated, ready, placed, state, controller), id)| {
                let mut b = if outdated { outdated_broker(id) } else { self::broker(id) };
                b.controller = controller;
                let pod = b.pod.as_mut().unwrap();
                pod.ready = ready;
                pod.placed = placed || ready;
                match state {
                    0 => (pod.ready, pod.terminating) = (false, true),
                    1 => {
                        (pod.ready, pod.not_running) =
                            (false, Some(NotRunning::Failing("exit status 1".into())));
                        b.pre_restart = None;
                    }
                    2 => b.pod = None,
                    _ => (),
                }
                b
            });
        World { brokers: brokers.collect(), last: None, time: 0 }
    })
}

impl World {
    fn decide(&self) -> Decision {
        let verdict = Verdict::Valid;
        let now = now() + SignedDuration::from_secs(self.time);
        decide(&Input { now, last: self.last.as_ref(), ..input(&self.brokers, &verdict) })
    }

    /// Carries the decision out, and lets everything else move on by one.
    fn step(&mut self, decision: Decision) {
        self.time += 1;
        let mut stopped = None;
        self.last = match decision {
            Decision::Nothing => None,
            Decision::Wait(operation) => Some(operation),
            Decision::Delete(delete) => {
                let broker = self
                    .brokers
                    .iter_mut()
                    .find(|b| b.pod.as_ref().is_some_and(|pod| pod.uid == delete.uid && !pod.terminating));
                let broker = broker.expect("a pod that is there is deleted");
                let pod = broker.pod.as_mut().unwrap();
                (pod.terminating, pod.ready) = (true, false);
                stopped = Some(broker.id);
                Some(delete.operation)
            }
        };
        for broker in self.brokers.iter_mut().filter(|b| Some(b.id) != stopped) {
            match &mut broker.pod {
                Some(pod) if pod.terminating => broker.pod = None,
                Some(pod) if pod.revision.as_deref() == Some("new") => {
                    (pod.ready, pod.placed, pod.not_running) = (true, true, None);
                    broker.pre_restart = Some(Ok(safe()));
                }
                // An outdated one that recovers gets there; one that fails does not.
                Some(pod) if pod.not_running.is_none() => (pod.ready, pod.placed) = (true, true),
                Some(_) => (),
                None => {
                    let mut fresh = pod(broker.id, "new");
                    fresh.ready = false;
                    fresh.placed = false;
                    fresh.created = Some(now() + SignedDuration::from_secs(self.time));
                    broker.pod = Some(fresh);
                }
            }
        }
    }
}

proptest! {
    /// From any beginning it ends, in a number of steps that is bounded by the number of brokers, with every pod new;
    /// until then each look either deletes a pod or says what it waits for.
    #[test]
    fn it_ends_or_says_what_it_waits_for(mut world in any_world()) {
        for _ in 0..(world.brokers.len() * 6 + 10) {
            let decision = world.decide();
            if let Decision::Wait(operation) = &decision {
                prop_assert!(!operation.blocked_by.is_empty());
            }
            world.step(decision);
        }
        prop_assert_eq!(world.decide(), Decision::Nothing);
        prop_assert!(world.brokers.iter().all(|b| b.pod.as_ref().unwrap().revision.as_deref() == Some("new")));
    }

    /// No pod is deleted while another is on its way out; and one whose broker runs only while all others are up.
    #[test]
    fn never_two_at_once(mut world in any_world()) {
        for _ in 0..(world.brokers.len() * 6 + 10) {
            let decision = world.decide();
            if let Decision::Delete(delete) = &decision {
                let others = || world.brokers.iter().filter(|b| b.pod_name != delete.pod);
                prop_assert!(world.brokers.iter().all(|b| b.pod.as_ref().is_none_or(|pod| !pod.terminating)));
                if delete.cause != Cause::Broken {
                    let due = |b: &Broker| b.pod.as_ref().is_some_and(|p| p.revision.as_deref() == Some("old"));
                    prop_assert!(others().all(|b| due(b) || b.pod.as_ref().is_some_and(|pod| pod.ready)));
                }
            }
            world.step(decision);
        }
    }

    /// The same facts give the same decision, and telling it changes nothing: what was decided is decided again.
    #[test]
    fn it_is_idempotent(world in any_world()) {
        let decision = world.decide();
        prop_assert_eq!(&world.decide(), &decision);
        let mut told = world.clone();
        told.last = match &decision {
            Decision::Wait(operation) => Some(operation.clone()),
            _ => None,
        };
        prop_assert_eq!(told.decide(), decision);
    }
}
