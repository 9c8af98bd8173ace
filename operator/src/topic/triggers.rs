//! What makes the operator look at a topic: a change of its object, of its cluster, and the end of another object
//! that had the topic.
//!
//! Each watch backs off by itself and none of them ends the queue: with the kind ChronikCluster deleted, its watch
//! fails for good, and topics must go on (to be let go). `kube::runtime::Controller` has one back-off for all of its
//! watches, so the queue is built here and handed to `kube::runtime::applier`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash;

use futures::{Stream, StreamExt, stream};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, Resource, ResourceExt};
use tracing::warn;

use super::facts::{ClusterFacts, ClusterView, topic_name};
use crate::crd::{ChronikCluster, ChronikTopic};

type Topics = Vec<ObjectRef<ChronikTopic>>;

/// The queue of objects to look at. It fills the store.
pub fn queue(
    topics: Api<ChronikTopic>,
    clusters: Api<ChronikCluster>,
    writer: Writer<ChronikTopic>,
    store: &Store<ChronikTopic>,
) -> impl Stream<Item = Result<ObjectRef<ChronikTopic>, Infallible>> + Send + 'static {
    let config = watcher::Config::default;
    let own = reflector(writer, watcher(topics, config())).default_backoff();
    let others = watcher(clusters, config()).default_backoff();

    let (mut changes, in_store) = (Changes::default(), store.clone());
    let own = own.map(move |event| match news(event, &mut changes, topic_print) {
        Some(News::Changed(topic)) => vec![ObjectRef::from_obj(&topic)],
        Some(News::Gone(topic)) => those(&in_store, |other| shares_topic(&topic, other)),
        None => Topics::new(),
    });
    let (mut changes, in_store) = (Changes::default(), store.clone());
    let others = others.map(move |event| match news(event, &mut changes, cluster_print) {
        Some(News::Changed(cluster) | News::Gone(cluster)) => those(&in_store, |t| is_of(&cluster, t)),
        None => Topics::new(),
    });
    stream::select(own, others).flat_map(stream::iter).map(Ok)
}

fn those(store: &Store<ChronikTopic>, wanted: impl Fn(&ChronikTopic) -> bool) -> Topics {
    let all = store.state();
    all.iter().filter(|topic| wanted(topic)).map(|topic| ObjectRef::from_obj(&**topic)).collect()
}

fn is_of(cluster: &ChronikCluster, topic: &ChronikTopic) -> bool {
    topic.namespace() == cluster.namespace() && topic.spec.cluster_ref.name == cluster.name_any()
}

fn shares_topic(one: &ChronikTopic, other: &ChronikTopic) -> bool {
    one.namespace() == other.namespace()
        && one.spec.cluster_ref == other.spec.cluster_ref
        && topic_name(one) == topic_name(other)
}

/// An event of a watch that matters.
#[derive(Debug, PartialEq)]
enum News<K> {
    Changed(K),
    Gone(K),
}

/// What was last seen of each object, as far as it matters, by namespace and name.
type Changes<P> = HashMap<(Option<String>, String), P>;

/// What an event says that is new by an object's `print`: what is written to a status by this program itself, or
/// is of no concern, is not.
fn news<K: Resource<DynamicType = ()>, P: Hash + Eq>(
    event: Result<Event<K>, watcher::Error>,
    seen: &mut Changes<P>,
    print: fn(&K) -> P,
) -> Option<News<K>> {
    let key = |object: &K| (object.namespace(), object.name_any());
    match event {
        Ok(Event::Apply(object) | Event::InitApply(object)) => {
            let print = print(&object);
            let before = seen.insert(key(&object), print);
            (before.as_ref() != seen.get(&key(&object))).then_some(News::Changed(object))
        }
        Ok(Event::Delete(object)) => {
            seen.remove(&key(&object));
            Some(News::Gone(object))
        }
        // All objects come again, and those that went meanwhile do not: everything is looked at.
        Ok(Event::Init) => {
            seen.clear();
            None
        }
        Ok(Event::InitDone) => None,
        Err(error) => {
            warn!(kind = %K::kind(&()), %error, "a watch failed; it is tried again");
            None
        }
    }
}

type TopicPrint = (Option<String>, Option<i64>, bool, Vec<String>);

fn topic_print(topic: &ChronikTopic) -> TopicPrint {
    let meta = topic.meta();
    let ending = meta.deletion_timestamp.is_some();
    (meta.uid.clone(), meta.generation, ending, topic.finalizers().to_vec())
}

type ClusterPrint = (Option<String>, Option<i64>, Option<String>, bool);

/// Whether it can be asked, beside what the spec says; being deleted raises the generation.
fn cluster_print(cluster: &ChronikCluster) -> ClusterPrint {
    let id = cluster.status.as_ref().and_then(|status| status.cluster_id.clone());
    let ready = matches!(ClusterView::of(cluster), ClusterFacts::There(view) if view.ready.is_ok());
    (cluster.uid(), cluster.meta().generation, id, ready)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::tests::{ending, managing, object, time};

    fn changed(event: Event<ChronikTopic>, seen: &mut Changes<TopicPrint>) -> bool {
        matches!(news(Ok(event), seen, topic_print), Some(News::Changed(_)))
    }

    #[test]
    fn what_the_operator_writes_itself_is_no_news() {
        let mut seen = Changes::default();
        let topic = object(|_| ());
        assert!(changed(Event::Apply(topic.clone()), &mut seen));
        assert!(!changed(Event::Apply(managing(topic.clone(), "t-1")), &mut seen), "status alone");
        let mut spec = topic.clone();
        spec.metadata.generation = Some(2);
        assert!(changed(Event::Apply(spec.clone()), &mut seen));
        assert!(changed(Event::Apply(ending(spec.clone())), &mut seen));
        let gone = news(Ok(Event::Delete(spec.clone())), &mut seen, topic_print);
        assert_eq!(gone, Some(News::Gone(spec.clone())));
        assert!(changed(Event::Apply(spec), &mut seen), "another one of its name");
    }

    #[test]
    fn after_a_broken_watch_everything_is_looked_at() {
        let mut seen = Changes::default();
        let topic = object(|_| ());
        assert!(changed(Event::InitApply(topic.clone()), &mut seen));
        assert!(!changed(Event::InitDone, &mut seen));
        assert!(!changed(Event::Apply(topic.clone()), &mut seen));
        assert!(!changed(Event::Init, &mut seen));
        assert!(changed(Event::InitApply(topic), &mut seen));
    }

    #[test]
    fn a_cluster_matters_by_its_spec_and_by_whether_it_can_be_asked() {
        let cluster = |generation: i64, id: Option<&str>, available: bool| {
            let mut cluster = ChronikCluster::new("demo", Default::default());
            cluster.metadata.generation = Some(generation);
            let mut status = crate::crd::ChronikClusterStatus {
                cluster_id: id.map(str::to_string),
                ready: Some("0/1".to_string()),
                ..Default::default()
            };
            let conditions = &mut status.conditions;
            crate::crd::conditions::set(conditions, &time(1), None, "Available", available, "x", "");
            cluster.status = Some(status);
            cluster
        };
        let print = |c: ChronikCluster| cluster_print(&c);
        let base = print(cluster(1, Some("a"), true));
        let mut busy = cluster(1, Some("a"), true);
        busy.status.as_mut().unwrap().ready = Some("1/1".to_string());
        assert_eq!(base, print(busy), "of no concern");
        for other in [cluster(2, Some("a"), true), cluster(1, Some("b"), true), cluster(1, Some("a"), false)]
        {
            assert_ne!(base, print(other));
        }
    }

    #[test]
    fn the_right_topics_are_looked_at() {
        let topic = object(|_| ());
        let mut cluster = ChronikCluster::new("demo", Default::default());
        assert!(!is_of(&cluster, &topic), "another namespace");
        cluster.metadata.namespace = Some("shop".to_string());
        assert!(is_of(&cluster, &topic));
        let mut twin = object(|spec| spec.topic_name = Some("orders".to_string()));
        twin.metadata.name = Some("twin".to_string());
        assert!(shares_topic(&topic, &twin));
        assert!(!shares_topic(&topic, &object(|spec| spec.topic_name = Some("returns".to_string()))));
    }
}
