//! Topics and configuration, by Kafka's administrative requests.

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeLogDirsRequest,
    IncrementalAlterConfigsRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::cluster::{Client, topic_name};
use super::error::{ClientError, check};

/// How long the server may take for an administrative request, in milliseconds.
const ADMIN_TIMEOUT_MS: i32 = 30_000;

/// A topic to be created.
#[derive(Debug, Clone)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// `None`: the broker's default.
    pub partitions: Option<i32>,
    /// `None`: the broker's default.
    pub replication_factor: Option<i16>,
    /// Settings by Kafka's or Chronik's names.
    pub configs: Vec<(String, String)>,
}

/// What a setting belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// A topic, by name.
    Topic(String),
    /// One broker.
    Broker(i32),
    /// Every broker: the cluster-wide default.
    ClusterDefault,
    /// What one broker logs.
    Loggers(i32),
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic {name}"),
            Self::Broker(id) => write!(f, "broker {id}"),
            Self::ClusterDefault => f.write_str("the cluster"),
            Self::Loggers(id) => write!(f, "the loggers of broker {id}"),
        }
    }
}

impl Resource {
    pub(super) fn wire(&self) -> (i8, StrBytes) {
        match self {
            Self::Topic(name) => (2, StrBytes::from_string(name.clone())),
            Self::Broker(id) => (4, StrBytes::from_string(id.to_string())),
            Self::ClusterDefault => (4, StrBytes::new()),
            Self::Loggers(id) => (8, StrBytes::from_string(id.to_string())),
        }
    }

    /// The one broker that answers for it, if not every broker does.
    pub(super) fn broker(&self) -> Option<i32> {
        match self {
            Self::Broker(id) | Self::Loggers(id) => Some(*id),
            Self::Topic(_) | Self::ClusterDefault => None,
        }
    }
}

/// Where a setting's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic itself.
    Topic,
    /// Set on this broker, live.
    Broker,
    /// Set for all brokers, live.
    ClusterDefault,
    /// The broker's own configuration at start.
    Static,
    /// Nobody set it.
    Default,
    /// A number this client does not know.
    Other(i8),
}

impl ConfigSource {
    pub(super) fn from_wire(source: i8) -> Self {
        match source {
            1 => Self::Topic,
            2 => Self::Broker,
            3 => Self::ClusterDefault,
            4 => Self::Static,
            5 => Self::Default,
            other => Self::Other(other),
        }
    }
}

/// A setting as the server tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// `None` for a secret.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether the server refuses to change it while it runs.
    pub read_only: bool,
}

/// A directory in which a broker keeps its logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDir {
    /// Its path, on the broker.
    pub path: String,
    /// Of its file system; `None` where the broker does not tell (KIP-827).
    pub total_bytes: Option<u64>,
    /// Free for the broker.
    pub usable_bytes: Option<u64>,
    /// By topic and index.
    pub partitions: Vec<PartitionSize>,
}

/// What a partition takes of a [`LogDir`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionSize {
    /// The topic's name.
    pub topic: String,
    /// The partition's index.
    pub partition: i32,
    /// Record batches, wherever they lie.
    pub bytes: u64,
}

impl Client {
    /// What a broker keeps on its disk.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name, e.g. `KAFKA_STORAGE_ERROR`.
    pub async fn log_dirs(&mut self, broker: i32) -> Result<Vec<LogDir>, ClientError> {
        let what = || format!("describe the log directories of broker {broker}");
        let request = DescribeLogDirsRequest::default().with_topics(None);
        let response = self.broker(broker).await?.call(&request).await?;
        check(response.error_code, None, what)?;
        let dirs = response.results.into_iter().map(|dir| {
            check(dir.error_code, None, what)?;
            let mut partitions = Vec::new();
            for topic in dir.topics {
                let sizes = topic.partitions.iter().map(|p| PartitionSize {
                    topic: topic.name.to_string(),
                    partition: p.partition_index,
                    bytes: u64::try_from(p.partition_size).unwrap_or(0),
                });
                partitions.extend(sizes);
            }
            partitions.sort();
            Ok(LogDir {
                path: dir.log_dir.to_string(),
                total_bytes: u64::try_from(dir.total_bytes).ok(),
                usable_bytes: u64::try_from(dir.usable_bytes).ok(),
                partitions,
            })
        });
        dirs.collect()
    }

    /// Creates a topic and returns how many partitions and replicas it got.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name, e.g. `TOPIC_ALREADY_EXISTS`.
    pub async fn create_topic(&mut self, topic: &NewTopic) -> Result<(i32, i16), ClientError> {
        let text = |text: &String| StrBytes::from_string(text.clone());
        let configs = topic.configs.iter().map(|(name, value)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        });
        let wanted = CreatableTopic::default()
            .with_name(topic_name(&topic.name))
            .with_num_partitions(topic.partitions.unwrap_or(-1))
            .with_replication_factor(topic.replication_factor.unwrap_or(-1))
            .with_configs(configs.collect());
        let request =
            CreateTopicsRequest::default().with_topics(vec![wanted]).with_timeout_ms(ADMIN_TIMEOUT_MS);
        let response = self.administer(&request).await?;
        let what = || format!("create topic {}", topic.name);
        let result = first(response.topics, what)?;
        check(result.error_code, result.error_message.as_deref(), what)?;
        Ok((result.num_partitions, result.replication_factor))
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name.
    pub async fn delete_topic(&mut self, name: &str) -> Result<(), ClientError> {
        let topic = DeleteTopicState::default().with_name(Some(topic_name(name)));
        self.delete(topic, &format!("delete topic {name}")).await
    }

    /// Deletes the topic of this id, and none that took its name (KIP-516).
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name.
    pub async fn delete_topic_by_id(&mut self, id: uuid::Uuid) -> Result<(), ClientError> {
        let topic = DeleteTopicState::default().with_name(None).with_topic_id(id);
        self.delete(topic, &format!("delete the topic with the id {id}")).await
    }

    async fn delete(&mut self, topic: DeleteTopicState, what: &str) -> Result<(), ClientError> {
        let request =
            DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(ADMIN_TIMEOUT_MS);
        let response = self.administer(&request).await?;
        let what = || what.to_string();
        let result = first(response.responses, what)?;
        Ok(check(result.error_code, result.error_message.as_deref(), what)?)
    }

    /// Grows a topic to `count` partitions.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name.
    pub async fn create_partitions(&mut self, name: &str, count: i32) -> Result<(), ClientError> {
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_name(name))
            .with_count(count)
            .with_assignments(None);
        let request =
            CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(ADMIN_TIMEOUT_MS);
        let response = self.administer(&request).await?;
        let what = || format!("grow topic {name} to {count} partitions");
        let result = first(response.results, what)?;
        Ok(check(result.error_code, result.error_message.as_deref(), what)?)
    }

    /// Sets (`Some`) or removes (`None`) settings of a resource, all or none.
    ///
    /// # Errors
    /// [`ClientError`]; the server's refusal by name, e.g. `INVALID_CONFIG`.
    pub async fn alter_configs(
        &mut self,
        resource: &Resource,
        changes: &[(String, Option<String>)],
    ) -> Result<(), ClientError> {
        let (kind, name) = resource.wire();
        let changes = changes.iter().map(|(name, value)| {
            AlterableConfig::default()
                .with_name(StrBytes::from_string(name.clone()))
                .with_config_operation(i8::from(value.is_none()))
                .with_value(value.clone().map(StrBytes::from_string))
        });
        let altered = AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(name)
            .with_configs(changes.collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![altered]);
        let response = match resource.broker() {
            Some(id) => self.broker(id).await?.call(&request).await?,
            None => self.administer(&request).await?,
        };
        let what = || format!("alter the settings of {resource}");
        let result = first(response.responses, what)?;
        Ok(check(result.error_code, result.error_message.as_deref(), what)?)
    }
}

/// The one result of a request about one thing.
pub(super) fn first<T>(results: Vec<T>, what: impl FnOnce() -> String) -> Result<T, ClientError> {
    results.into_iter().next().ok_or_else(|| ClientError::Malformed {
        address: "the server".to_owned(),
        what: format!("no result where it was asked to {}", what()),
    })
}
