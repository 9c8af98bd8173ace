//! A client of a whole cluster: finds brokers and leaders, keeps a connection to each it needs.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{ApiKey, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::{StrBytes, VersionRange};
use uuid::Uuid;

use super::connection::{Connection, RequestVersion};
use super::error::{ClientError, check};

/// A broker as Metadata tells it, for the listener the client came in by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub id: i32,
    /// `host:port`.
    pub address: String,
    /// Its rack, if it says one.
    pub rack: Option<String>,
}

/// A partition of a [`Topic`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its index.
    pub index: i32,
    /// The broker that leads it; `None` while there is none.
    pub leader: Option<i32>,
    /// The leader's epoch.
    pub leader_epoch: i32,
    /// The brokers that hold it, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub isr: Vec<i32>,
}

/// A topic and its partitions, by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: Uuid,
    /// Whether the brokers keep it for themselves.
    pub internal: bool,
    /// In order of their index.
    pub partitions: Vec<Partition>,
}

/// What one Metadata answer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's id.
    pub id: Option<String>,
    /// The broker to send administrative requests to.
    pub controller: Option<i32>,
    /// By id.
    pub brokers: BTreeMap<i32, Broker>,
    /// Those asked for.
    pub topics: Vec<Topic>,
}

/// A client of a cluster. Not shared: one caller at a time.
#[derive(Debug)]
pub struct Client {
    bootstrap: Vec<String>,
    timeout: Duration,
    connections: HashMap<String, Connection>,
    brokers: BTreeMap<i32, Broker>,
    /// Leaders' addresses as last heard.
    leaders: HashMap<(String, i32), String>,
}

impl Client {
    /// Connects to the first server of `bootstrap` (`host:port`, several with commas) that
    /// answers. `timeout` holds for connecting and for each call.
    ///
    /// # Errors
    /// The last server's [`ClientError`], if none answers.
    pub async fn connect(bootstrap: &str, timeout: Duration) -> Result<Self, ClientError> {
        let servers = bootstrap.split(',').map(|server| server.trim().to_owned());
        let mut client = Self {
            bootstrap: servers.filter(|server| !server.is_empty()).collect(),
            timeout,
            connections: HashMap::new(),
            brokers: BTreeMap::new(),
            leaders: HashMap::new(),
        };
        client.any().await?;
        Ok(client)
    }

    /// The cluster with the topics named; all topics for `None`. Topics are never created by it.
    ///
    /// # Errors
    /// [`ClientError`]; a topic that does not exist is the server's refusal.
    pub async fn cluster(&mut self, topics: Option<&[&str]>) -> Result<Cluster, ClientError> {
        let named = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default()
            .with_topics(topics.map(|topics| topics.iter().map(named).collect()))
            .with_allow_auto_topic_creation(false);
        let response = self.any().await?.call(&request).await?;
        let cluster = read(response)?;
        self.brokers.clone_from(&cluster.brokers);
        for topic in &cluster.topics {
            for partition in &topic.partitions {
                let key = (topic.name.clone(), partition.index);
                match partition.leader.and_then(|leader| self.brokers.get(&leader)) {
                    Some(broker) => self.leaders.insert(key, broker.address.clone()),
                    None => self.leaders.remove(&key),
                };
            }
        }
        Ok(cluster)
    }

    /// One topic.
    ///
    /// # Errors
    /// [`ClientError`]; `UNKNOWN_TOPIC_OR_PARTITION` when there is no such topic.
    pub async fn topic(&mut self, name: &str) -> Result<Topic, ClientError> {
        let cluster = self.cluster(Some(&[name])).await?;
        cluster.topics.into_iter().find(|topic| topic.name == name).ok_or_else(|| ClientError::Malformed {
            address: self.bootstrap.join(","),
            what: format!("Metadata without the topic {name} it was asked for"),
        })
    }

    /// How long each call may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The versions of an API that the first server offers.
    ///
    /// # Errors
    /// [`ClientError`] when no server can be reached.
    pub async fn offered(&mut self, api: ApiKey) -> Result<Option<VersionRange>, ClientError> {
        Ok(self.any().await?.offered(api))
    }

    /// Sends an administrative request: to the controller where it is known.
    pub(super) async fn administer<R: RequestVersion>(
        &mut self,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        let cluster = self.cluster(Some(&[])).await?;
        let controller = cluster.controller.and_then(|id| cluster.brokers.get(&id));
        match controller {
            Some(broker) => self.at(&broker.address.clone()).await?.call(request).await,
            None => self.any().await?.call(request).await,
        }
    }

    /// Asks any server.
    pub(super) async fn ask<R: RequestVersion>(&mut self, request: &R) -> Result<R::Response, ClientError> {
        self.any().await?.call(request).await
    }

    /// The connection to a broker. To any if there is no such broker: it says so.
    pub(super) async fn broker(&mut self, id: i32) -> Result<&mut Connection, ClientError> {
        if !self.brokers.contains_key(&id) {
            self.cluster(Some(&[])).await?;
        }
        match self.brokers.get(&id).map(|broker| broker.address.clone()) {
            Some(address) => self.at(&address).await,
            None => self.any().await,
        }
    }

    /// The connection to a partition's leader.
    pub(super) async fn leader(
        &mut self,
        topic: &str,
        partition: i32,
    ) -> Result<&mut Connection, ClientError> {
        let key = (topic.to_owned(), partition);
        if !self.leaders.contains_key(&key) {
            let known = self.topic(topic).await?;
            if !known.partitions.iter().any(|known| known.index == partition) {
                return Err(ClientError::NoPartition { topic: key.0, partition });
            }
        }
        match self.leaders.get(&key).cloned() {
            Some(address) => self.at(&address).await,
            None => Err(ClientError::NoLeader { topic: key.0, partition }),
        }
    }

    /// Forgets who leads a partition, after an answer that says it is another broker now.
    pub(super) fn forget_leader(&mut self, topic: &str, partition: i32) {
        self.leaders.remove(&(topic.to_owned(), partition));
    }

    async fn any(&mut self) -> Result<&mut Connection, ClientError> {
        let live = self.connections.iter().find(|(_, c)| !c.is_broken()).map(|(address, _)| address.clone());
        if let Some(address) = live {
            return self.at(&address).await;
        }
        let mut result = Err(ClientError::Connect {
            address: "the bootstrap servers".to_owned(),
            source: std::io::Error::other("none was named"),
        });
        let mut known: Vec<String> = self.bootstrap.clone();
        known.extend(self.brokers.values().map(|broker| broker.address.clone()));
        for address in known {
            match Connection::connect(&address, self.timeout).await {
                Ok(connection) => {
                    self.connections.insert(address.clone(), connection);
                    return self.at(&address).await;
                }
                Err(error) => result = Err(error),
            }
        }
        result
    }

    async fn at(&mut self, address: &str) -> Result<&mut Connection, ClientError> {
        if self.connections.get(address).is_some_and(Connection::is_broken) {
            self.connections.remove(address);
        }
        match self.connections.entry(address.to_owned()) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                Ok(entry.insert(Connection::connect(address, self.timeout).await?))
            }
        }
    }
}

/// A name in the codec's type.
pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn read(response: MetadataResponse) -> Result<Cluster, ClientError> {
    check(response.error_code, None, || "ask for the cluster's metadata".to_owned())?;
    let brokers = response.brokers.into_iter().map(|broker| {
        let id = broker.node_id.0;
        // A bare IPv6 address needs brackets beside a port.
        let host = broker.host.as_str();
        let address = match host.contains(':') {
            true => format!("[{host}]:{}", broker.port),
            false => format!("{host}:{}", broker.port),
        };
        (id, Broker { id, address, rack: broker.rack.map(|rack| rack.to_string()) })
    });
    Ok(Cluster {
        id: response.cluster_id.map(|id| id.to_string()),
        controller: Some(response.controller_id.0).filter(|id| *id >= 0),
        brokers: brokers.collect(),
        topics: response.topics.into_iter().map(topic).collect::<Result<_, _>>()?,
    })
}

fn topic(topic: MetadataResponseTopic) -> Result<Topic, ClientError> {
    let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
    check(topic.error_code, None, || format!("find topic {name}"))?;
    let ids = |nodes: Vec<kafka_protocol::messages::BrokerId>| nodes.into_iter().map(|id| id.0).collect();
    let mut partitions: Vec<Partition> = topic
        .partitions
        .into_iter()
        .map(|partition| Partition {
            index: partition.partition_index,
            leader: Some(partition.leader_id.0).filter(|id| *id >= 0),
            leader_epoch: partition.leader_epoch,
            replicas: ids(partition.replica_nodes),
            isr: ids(partition.isr_nodes),
        })
        .collect();
    partitions.sort_by_key(|partition| partition.index);
    Ok(Topic { name, id: topic.topic_id, internal: topic.is_internal, partitions })
}
