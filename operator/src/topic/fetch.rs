//! Reads what a decision about a topic is made of. Nothing is changed here.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::CustomResourceExt;
use kube::{Api, Resource, ResourceExt};
use tracing::debug;

use super::decide::owned_id;
use super::facts::{
    ClusterFacts, ClusterView, Ending, Facts, TopicFacts, has_finalizer, is_ending, rival, topic_name,
    wants_finalizer,
};
use super::{Scope, TopicError};
use crate::broker::kafka::{Kafka, KafkaError, bootstrap};
use crate::crd::{ChronikCluster, ChronikTopic};

/// What was read, and the connection over which the brokers answered.
pub struct Look {
    pub facts: Facts,
    kafka: Option<Kafka>,
}

/// The object as it is now; the cache may be behind what this program itself wrote. `None`: it is gone, or another
/// one has its name.
pub async fn object(scope: &Scope, cached: &ChronikTopic) -> Result<Option<ChronikTopic>, TopicError> {
    let found = absent_is_none(scope.api(cached).get_opt(&cached.name_any()).await)?;
    Ok(found.filter(|object| object.uid() == cached.uid()))
}

/// Looks at everything.
pub async fn look(scope: &Scope, object: &ChronikTopic) -> Result<Look, TopicError> {
    let going = is_ending(object) && has_finalizer(object) && wants_finalizer(object);
    let rival = match going {
        // Before a topic is deleted, the cache is not good enough.
        true => rival(object, &scope.api(object).list(&Default::default()).await?.items),
        false => rival(object, scope.store.state().iter().map(|other| &**other)),
    };
    let mut look = Look {
        facts: Facts {
            cluster: ClusterFacts::Missing,
            rival,
            ending: if going { ending(scope, object).await } else { None },
            topic: TopicFacts::Unknown,
        },
        kafka: None,
    };
    let clusters: Api<ChronikCluster> =
        Api::namespaced(scope.ctx.client.clone(), &object.namespace().unwrap_or_default());
    let cluster = absent_is_none(clusters.get_opt(&object.spec.cluster_ref.name).await)?;
    if let Some(cluster) = cluster {
        look.facts.cluster = ClusterView::of(&cluster);
        if worth_asking(object, &look.facts) {
            look.connect(scope, object, &cluster).await;
        }
    }
    Ok(look)
}

/// `None` also where there is no such kind any more: the API server then says 404 in plain text, which is no answer that
/// an object is not there.
fn absent_is_none<K>(found: Result<Option<K>, kube::Error>) -> Result<Option<K>, kube::Error> {
    match found {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        other => other,
    }
}

/// Whether anything hangs on what the brokers say.
fn worth_asking(object: &ChronikTopic, facts: &Facts) -> bool {
    let ClusterFacts::There(cluster) = &facts.cluster else { return false };
    if facts.rival.is_some() || facts.ending == Some(Ending::Namespace) {
        return false;
    }
    match is_ending(object) {
        // The cluster's own word that it is down does not count: an object that waits for its end is worth a try.
        true => has_finalizer(object) && wants_finalizer(object) && owned_id(object).is_some(),
        false => cluster.ready.is_ok(),
    }
}

impl Look {
    async fn connect(&mut self, scope: &Scope, object: &ChronikTopic, cluster: &ChronikCluster) {
        let Some(address) = bootstrap(cluster, &scope.ctx.options.cluster_domain) else {
            self.facts.topic = TopicFacts::Unreachable("the cluster has no internal listener".to_string());
            return;
        };
        let id = cluster.status.as_ref().and_then(|status| status.cluster_id.as_deref());
        match Kafka::connect(&scope.ctx.metrics, &address, id).await {
            Ok(kafka) => {
                self.kafka = Some(kafka);
                self.again(object).await;
            }
            Err(error) => self.facts.topic = told(Err(error)),
        }
    }

    /// Asks the brokers again.
    pub async fn again(&mut self, object: &ChronikTopic) {
        if let Some(kafka) = &mut self.kafka {
            self.facts.topic = told(kafka.find(&topic_name(object)).await.map(|found| match found {
                Some(topic) => TopicFacts::There(topic),
                None => TopicFacts::Absent,
            }));
        }
    }

    /// The connection, for use.
    pub fn kafka(&mut self) -> Result<&mut Kafka, KafkaError> {
        let none = || KafkaError::Unreachable("there is no connection to the brokers".to_string());
        self.kafka.as_mut().ok_or_else(none)
    }
}

fn told(answer: Result<TopicFacts, KafkaError>) -> TopicFacts {
    match answer {
        Ok(facts) => facts,
        Err(KafkaError::Unreachable(why)) => TopicFacts::Unreachable(why),
        Err(KafkaError::Refused(words)) => TopicFacts::Refused(words.to_string()),
    }
}

/// What is being deleted around the object. What this program may not read counts as not being deleted: then the
/// object waits, and says so.
async fn ending(scope: &Scope, object: &ChronikTopic) -> Option<Ending> {
    let client = &scope.ctx.client;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = object.namespace().unwrap_or_default();
    if is_going(namespaces.get_opt(&namespace).await, "namespace") {
        return Some(Ending::Namespace);
    }
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = definitions.get_opt(ChronikTopic::crd_name()).await;
    is_going(definition, "definition").then_some(Ending::Definition)
}

fn is_going<K: Resource>(found: Result<Option<K>, kube::Error>, what: &str) -> bool {
    match found {
        Ok(Some(object)) => object.meta().deletion_timestamp.is_some(),
        Ok(None) => true,
        Err(error) => {
            debug!(%error, "cannot read the {what} of a topic that is being deleted");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::topic::TopicDeletionPolicy::Delete;
    use crate::topic::tests::{ending, facts, managing, object, view};

    #[test]
    fn brokers_are_asked_when_it_matters() {
        let fine = facts(TopicFacts::Unknown);
        let down = ClusterFacts::There(ClusterView { ready: Err("it starts".to_string()), ..view() });
        let down = Facts { cluster: down, ..fine.clone() };
        let plain = object(|_| ());
        assert!(worth_asking(&plain, &fine));
        assert!(!worth_asking(&plain, &down), "topics of a cluster that is down do not queue for time-outs");
        assert!(!worth_asking(&plain, &Facts { rival: Some("older".to_string()), ..fine.clone() }));
        assert!(!worth_asking(&plain, &Facts { cluster: ClusterFacts::Ending, ..fine.clone() }));

        let doomed = ending(managing(object(|spec| spec.deletion_policy = Delete), "t-1"));
        assert!(worth_asking(&doomed, &fine) && worth_asking(&doomed, &down));
        assert!(!worth_asking(&ending(plain), &fine), "its topic stays");
        let going = Facts { ending: Some(Ending::Namespace), ..fine };
        assert!(!worth_asking(&doomed, &going), "nobody waits for the brokers");
    }
}
