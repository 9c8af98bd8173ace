//! Topics come and go, and grow.

use super::{ControllerError, ErrorCode};
use crate::ids::{BrokerId, TopicId};
use crate::metadata::config::ConfigEntry;
use crate::metadata::{MetadataImage, MetadataRecord};

/// A topic that is to be created (CreateTopics).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    /// -1: the broker's `num.partitions`, or given by `assignments`.
    pub num_partitions: i32,
    /// -1: the broker's `default.replication.factor`, or given by `assignments`.
    pub replication_factor: i16,
    /// Partition number and its replicas, the preferred leader first.
    pub assignments: Vec<(i32, Vec<BrokerId>)>,
    pub configs: Vec<(String, Option<String>)>,
}

/// What a created topic came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    pub topic_id: TopicId,
    pub num_partitions: i32,
    pub replication_factor: i16,
    pub configs: Vec<ConfigEntry>,
}

/// A topic to be deleted, by name or by id (KIP-516).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicRef {
    Name(String),
    Id(TopicId),
}

/// What became of one [`TopicRef`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    pub name: Option<String>,
    pub id: Option<TopicId>,
    pub result: Result<(), ControllerError>,
}

/// A topic that is to have more partitions (CreatePartitions).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPartitions {
    pub name: String,
    /// The total afterwards.
    pub count: i32,
    /// The replicas of each added partition, the preferred leader first.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
}

/// One answer per topic, in the order asked.
pub type PerTopic<T> = Vec<(String, Result<T, ControllerError>)>;

/// Checks a topic's name by Kafka's rules.
pub fn check_topic_name(name: &str) -> Result<(), ControllerError> {
    let refuse = |why: String| Err(ControllerError::new(ErrorCode::InvalidTopic, why));
    let _ = name;
    let _ = refuse("".into()) as Result<(), _>;
    Ok(())
}

pub fn create_topics(
    image: &MetadataImage,
    topics: &[NewTopic],
    validate_only: bool,
    fresh_id: &mut dyn FnMut() -> TopicId,
) -> (Vec<MetadataRecord>, PerTopic<CreatedTopic>) {
    let _ = (image, topics, validate_only, fresh_id);
    (Vec::new(), Vec::new())
}

/// Topics that a client named in a Metadata request and that do not exist: created with the defaults when
/// `auto.create.topics.enable` allows it.
pub fn auto_create_topics(
    image: &MetadataImage,
    names: &[String],
    fresh_id: &mut dyn FnMut() -> TopicId,
) -> (Vec<MetadataRecord>, PerTopic<CreatedTopic>) {
    let _ = (image, names, fresh_id);
    (Vec::new(), Vec::new())
}

pub fn delete_topics(image: &MetadataImage, topics: &[TopicRef]) -> (Vec<MetadataRecord>, Vec<DeletedTopic>) {
    let _ = (image, topics);
    (Vec::new(), Vec::new())
}

pub fn create_partitions(
    image: &MetadataImage,
    topics: &[NewPartitions],
    validate_only: bool,
) -> (Vec<MetadataRecord>, PerTopic<()>) {
    let _ = (image, topics, validate_only);
    (Vec::new(), Vec::new())
}
