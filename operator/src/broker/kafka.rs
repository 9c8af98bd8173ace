//! The brokers' own Kafka protocol, as far as the operator speaks it: topics and settings.
//!
//! Two things can go wrong with a call, and they call for different things: nobody answered (look again soon), or
//! the brokers refused (say so in their own words; somebody must change something). Every call has a time limit.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chronik_client::{Client, ClientError, ConfigEntry, ConfigSource, NewTopic, Refusal, Resource};
use kube::ResourceExt;
use thiserror::Error;

use crate::crd::ChronikCluster;
use crate::crd::cluster::ListenerType;
use crate::metrics::Metrics;

/// For connecting, all of it: the name's address, the connection, and whether it is the right cluster.
const CONNECT: Duration = Duration::from_secs(5);
/// For one question.
const READ: Duration = Duration::from_secs(5);
/// For one change. Thousands of partitions take their time.
const CHANGE: Duration = Duration::from_secs(20);

/// Kafka's error codes that are told apart here.
mod code {
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const UNKNOWN_TOPIC_ID: i16 = 100;
    pub const UNSUPPORTED_VERSION: i16 = 35;
    pub const TOPIC_ALREADY_EXISTS: i16 = 36;
    pub const INVALID_REQUEST: i16 = 42;
    /// Refusals that only say "not now": LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, REQUEST_TIMED_OUT,
    /// BROKER_NOT_AVAILABLE, NETWORK_EXCEPTION, COORDINATOR_LOAD_IN_PROGRESS, NOT_CONTROLLER.
    pub const NOT_NOW: [i16; 7] = [5, 6, 7, 8, 13, 14, 41];
}

/// Why a call came to nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KafkaError {
    /// Nobody answered, or nobody who can now. What became of a change is not known.
    #[error("{0}")]
    Unreachable(String),
    /// The brokers' own words.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl KafkaError {
    /// Whether a topic was not created because there is one of its name.
    pub fn is_topic_exists(&self) -> bool {
        matches!(self, KafkaError::Refused(refusal) if refusal.code == code::TOPIC_ALREADY_EXISTS)
    }

    fn is_no_topic(&self) -> bool {
        let unknown = [code::UNKNOWN_TOPIC_OR_PARTITION, code::UNKNOWN_TOPIC_ID];
        matches!(self, KafkaError::Refused(refusal) if unknown.contains(&refusal.code))
    }

    /// The label of `broker_calls_total`.
    fn label(&self) -> &'static str {
        match self {
            KafkaError::Unreachable(_) => "unreachable",
            KafkaError::Refused(_) => "refused",
        }
    }
}

impl From<ClientError> for KafkaError {
    fn from(error: ClientError) -> KafkaError {
        match error {
            ClientError::Refused(refusal) if !code::NOT_NOW.contains(&refusal.code) => refusal.into(),
            // Neither is mended by waiting, so both are told like a refusal.
            ClientError::Unsupported { .. } => refusal(&error, code::UNSUPPORTED_VERSION),
            ClientError::Request { .. } => refusal(&error, code::INVALID_REQUEST),
            other => KafkaError::Unreachable(with_causes(&other)),
        }
    }
}

fn refusal(error: &ClientError, code: i16) -> KafkaError {
    Refusal { what: error.to_string(), code, message: None }.into()
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A topic as the brokers have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// As it is written everywhere else: with hyphens.
    pub id: String,
    /// Kept by the brokers for themselves.
    pub internal: bool,
    pub partitions: i32,
    /// All of them, with where each value comes from.
    pub settings: Vec<ConfigEntry>,
}

impl Topic {
    /// The settings that are set on the topic itself.
    pub fn own_settings(&self) -> BTreeMap<String, String> {
        let own = self.settings.iter().filter(|entry| entry.source == ConfigSource::Topic);
        own.map(|entry| (entry.name.clone(), entry.value.clone().unwrap_or_default())).collect()
    }

    /// The value in force, wherever it comes from.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|entry| entry.name == name)?.value.as_deref()
    }
}

/// Where the operator reaches a cluster's brokers: the bootstrap Service, at the port of the first internal listener.
pub fn bootstrap(cluster: &ChronikCluster, cluster_domain: &str) -> Option<String> {
    let listener = cluster.spec.listeners.iter().find(|l| l.kind == ListenerType::Internal)?;
    let (name, namespace) = (cluster.name_any(), cluster.namespace()?);
    Some(format!("{name}-bootstrap.{namespace}.svc.{cluster_domain}:{}", listener.port))
}

/// A connection to a cluster, for one piece of work.
pub struct Kafka {
    client: Client,
    metrics: Arc<Metrics>,
}

impl Kafka {
    /// Connects to `address` (`host:port`). With `cluster_id`, brokers of another cluster count as not reached.
    pub async fn connect(
        metrics: &Arc<Metrics>,
        address: &str,
        cluster_id: Option<&str>,
    ) -> Result<Kafka, KafkaError> {
        let work = async {
            let mut client = Client::connect(address, CHANGE).await?;
            let found = client.cluster(Some(&[])).await?.id;
            Ok((client, found))
        };
        let (client, found) = timed(metrics, "connect", CONNECT, work).await?;
        match (cluster_id, found) {
            (Some(wanted), Some(found)) if wanted != found => Err(KafkaError::Unreachable(format!(
                "{address} is of the cluster with the id {found}, not {wanted}"
            ))),
            _ => Ok(Kafka { client, metrics: metrics.clone() }),
        }
    }

    /// The topic of this name.
    pub async fn find(&mut self, name: &str) -> Result<Option<Topic>, KafkaError> {
        let client = &mut self.client;
        let work = async {
            match client.topic(name).await {
                Err(ClientError::Refused(refusal)) if refusal.code == code::UNKNOWN_TOPIC_OR_PARTITION => {
                    Ok(None)
                }
                other => other.map(Some),
            }
        };
        let Some(topic) = timed(&self.metrics, "metadata", READ, work).await? else { return Ok(None) };
        let settings = match self.settings(&Resource::Topic(name.to_string())).await {
            // It went between the two questions.
            Err(error) if error.is_no_topic() => return Ok(None),
            other => other?,
        };
        Ok(Some(Topic {
            id: topic.id.to_string(),
            internal: topic.internal,
            partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
            settings,
        }))
    }

    /// Creates a topic and finds it.
    pub async fn create(
        &mut self,
        name: &str,
        partitions: i32,
        settings: BTreeMap<String, String>,
    ) -> Result<Topic, KafkaError> {
        let topic = NewTopic {
            name: name.to_string(),
            partitions: Some(partitions),
            replication_factor: None,
            configs: settings.into_iter().collect(),
        };
        timed(&self.metrics, "create_topics", CHANGE, self.client.create_topic(&topic)).await?;
        let found = self.find(name).await?;
        found.ok_or_else(|| KafkaError::Unreachable(format!("the new topic {name} is not to be seen yet")))
    }

    /// Grows a topic to `count` partitions.
    pub async fn grow(&mut self, name: &str, count: i32) -> Result<(), KafkaError> {
        let work = self.client.create_partitions(name, count);
        timed(&self.metrics, "create_partitions", CHANGE, work).await
    }

    /// Deletes the topic of this id, whatever its name is by now; `false` if there is none such.
    pub async fn delete(&mut self, id: &str) -> Result<bool, KafkaError> {
        let Ok(id) = id.parse() else { return Ok(false) };
        match timed(&self.metrics, "delete_topics", CHANGE, self.client.delete_topic_by_id(id)).await {
            Err(error) if error.is_no_topic() => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// All settings of a resource.
    pub async fn settings(&mut self, of: &Resource) -> Result<Vec<ConfigEntry>, KafkaError> {
        timed(&self.metrics, "describe_configs", READ, self.client.describe_configs(of)).await
    }

    /// Sets (`Some`) or removes (`None`) settings of a resource, all or none.
    pub async fn alter(
        &mut self,
        of: &Resource,
        changes: &[(String, Option<String>)],
    ) -> Result<(), KafkaError> {
        timed(&self.metrics, "alter_configs", CHANGE, self.client.alter_configs(of, changes)).await
    }
}

/// Makes a call within its time and counts it.
async fn timed<T>(
    metrics: &Metrics,
    call: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, KafkaError> {
    let result = match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(KafkaError::from),
        Err(_) => Err(KafkaError::Unreachable(format!("no answer within {} s", limit.as_secs()))),
    };
    metrics.broker_call(call, result.as_ref().map_or_else(KafkaError::label, |_| "ok"));
    result
}

#[cfg(test)]
mod tests {
    use kube::Resource;
    use tokio::net::TcpListener;

    use super::*;
    use crate::crd::ChronikClusterSpec;
    use crate::crd::cluster::Listener;

    fn refused(code: i16) -> ClientError {
        Refusal { what: "create topic orders".into(), code, message: Some("because".into()) }.into()
    }

    #[test]
    fn refusals_keep_the_brokers_words_and_not_now_is_none() {
        let error = KafkaError::from(refused(40));
        assert_eq!(error.to_string(), "create topic orders: INVALID_CONFIG (because)");
        assert!(KafkaError::from(refused(36)).is_topic_exists() && !error.is_topic_exists());
        for code in code::NOT_NOW {
            assert_eq!(KafkaError::from(refused(code)).label(), "unreachable", "{code}");
        }
        let old = ClientError::Unsupported { address: "b:1".into(), api: "CreateTopics".into() };
        assert_eq!(KafkaError::from(old).label(), "refused");
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable_and_says_why() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let metrics = Arc::new(Metrics::default());
        let Err(error) = Kafka::connect(&metrics, &free.to_string(), None).await else {
            panic!("nobody listens there")
        };
        assert!(matches!(&error, KafkaError::Unreachable(why) if why.contains("refused")), "{error}");
        let counted = "broker_calls_total{call=\"connect\",result=\"unreachable\"} 1";
        assert!(metrics.encode().unwrap().contains(counted));
    }

    #[tokio::test]
    async fn a_call_ends_with_its_time() {
        let work = std::future::pending::<Result<(), ClientError>>();
        let result = timed(&Metrics::default(), "metadata", Duration::from_millis(20), work).await;
        assert!(matches!(result, Err(KafkaError::Unreachable(_))), "{result:?}");
    }

    #[test]
    fn the_bootstrap_service_is_asked_at_the_first_internal_listener() {
        let spec = ChronikClusterSpec { listeners: Listener::defaults(), ..Default::default() };
        let mut cluster = ChronikCluster::new("demo", spec);
        cluster.meta_mut().namespace = Some("shop".into());
        cluster.spec.listeners[0].port = 9094;
        let outside = Listener {
            name: "outside".into(),
            port: 9095,
            kind: ListenerType::Nodeport,
            ..cluster.spec.listeners[0].clone()
        };
        cluster.spec.listeners.insert(0, outside);
        assert_eq!(
            bootstrap(&cluster, "cluster.local").unwrap(),
            "demo-bootstrap.shop.svc.cluster.local:9094"
        );
        cluster.spec.listeners.truncate(1);
        assert_eq!(bootstrap(&cluster, "cluster.local"), None);
    }

    #[test]
    fn own_settings_are_told_from_the_value_in_force() {
        let entry = |name: &str, source| ConfigEntry {
            name: name.into(),
            value: Some("x".into()),
            source,
            read_only: false,
        };
        let settings = vec![entry("a", ConfigSource::Topic), entry("b", ConfigSource::Default)];
        let topic = Topic { id: "t".into(), internal: false, partitions: 1, settings };
        assert_eq!(topic.own_settings().into_keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!((topic.setting("b"), topic.setting("c")), (Some("x"), None));
    }
}
