//! Topics come and go, and grow.

use std::collections::{BTreeMap, BTreeSet};

use super::internal::internal_topic;
use super::placement::{MAX_PARTITIONS_PER_REQUEST, place};
use super::{ControllerError, ErrorCode, after, configs};
use crate::ids::{BrokerId, LeaderEpoch, PartitionEpoch, TopicId};
use crate::metadata::config::{ConfigEntry, broker_value_of, describe_topic};
use crate::metadata::image::NO_LEADER;
use crate::metadata::{ConfigResource, MetadataImage, MetadataRecord, TopicImage};

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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// Longest name of a topic, in characters.
const NAME_LENGTH_MAX: usize = 249;

/// Checks a topic's name by Kafka's rules.
pub fn check_topic_name(name: &str) -> Result<(), ControllerError> {
    let why = if name.is_empty() {
        "the empty string is not allowed".to_string()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.len() > NAME_LENGTH_MAX {
        format!("the length of '{name}' is longer than the max allowed length {NAME_LENGTH_MAX}")
    } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(ControllerError::new(ErrorCode::InvalidTopic, format!("Topic name is invalid: {why}")))
}

/// A topic whose name differs from this one only in '.' and '_': the two would share their metrics' names.
fn collision<'a>(image: &'a MetadataImage, name: &str) -> Option<&'a TopicImage> {
    let plain = |name: &str| name.replace('.', "_");
    let ambiguous = |name: &str| name.contains(['.', '_']);
    if !ambiguous(name) {
        return None;
    }
    let wanted = plain(name);
    let same = |t: &&std::sync::Arc<TopicImage>| t.name.len() == name.len() && plain(&t.name) == wanted;
    image.topics().find(same).map(|t| &**t)
}

fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, ControllerError> {
    Err(ControllerError::new(code, message))
}

/// What stands in a request more than once: each of its places is refused.
fn repeated<T: Ord + Copy>(all: impl Iterator<Item = T>) -> BTreeSet<T> {
    let mut seen = BTreeSet::new();
    all.filter(|one| !seen.insert(*one)).collect()
}

fn duplicate<T>() -> Result<T, ControllerError> {
    refuse(ErrorCode::InvalidRequest, "Duplicate topic name.")
}

/// Creates topics, each as a whole or not at all. `fresh_id` gives random ids. With `validate_only` there are
/// no records, but the same answers.
pub fn create_topics(
    image: &MetadataImage,
    topics: &[NewTopic],
    validate_only: bool,
    fresh_id: &mut dyn FnMut() -> TopicId,
) -> (Vec<MetadataRecord>, PerTopic<CreatedTopic>) {
    let asked = |t: &NewTopic| usize::try_from(t.num_partitions).unwrap_or(0).max(t.assignments.len());
    let total = topics.iter().map(asked).fold(0usize, usize::saturating_add);
    let repeated = repeated(topics.iter().map(|t| t.name.as_str()));
    let before = image;
    let mut image = image.clone();
    let mut records = Vec::new();
    let mut answers = Vec::new();
    for topic in topics {
        let result = if repeated.contains(topic.name.as_str()) {
            duplicate()
        } else if total > MAX_PARTITIONS_PER_REQUEST {
            refuse(ErrorCode::PolicyViolation, "Excessively large number of partitions per request.")
        } else {
            create_topic(before, &image, topic, fresh_id).and_then(|(new, mut created)| {
                image = after(&image, &new)?;
                created.configs = describe_topic(&image, &topic.name);
                records.extend(new);
                Ok(created)
            })
        };
        answers.push((topic.name.clone(), result));
    }
    (if validate_only { Vec::new() } else { records }, answers)
}

/// A topic that was there `before` may stand in its way; one that the same request creates is none, as in Kafka.
fn create_topic(
    before: &MetadataImage,
    image: &MetadataImage,
    topic: &NewTopic,
    fresh_id: &mut dyn FnMut() -> TopicId,
) -> Result<(Vec<MetadataRecord>, CreatedTopic), ControllerError> {
    check_topic_name(&topic.name)?;
    if image.topic(&topic.name).is_some() {
        return refuse(ErrorCode::TopicAlreadyExists, format!("Topic '{}' already exists.", topic.name));
    }
    if let Some(other) = collision(before, &topic.name) {
        let message = format!("Topic '{}' collides with existing topic: {}", topic.name, other.name);
        return refuse(ErrorCode::InvalidTopic, message);
    }
    let settings = configs::new_topic_settings(image, &topic.configs)?;
    let topic_id = fresh_id();
    let partitions = if topic.assignments.is_empty() {
        placed_partitions(image, topic, topic_id)?
    } else {
        assigned_partitions(image, topic)?
    };
    let factor = partitions.first().map_or(0, |p| p.replicas.len());
    let num_partitions = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
    let mut records = vec![MetadataRecord::Topic { name: topic.name.clone(), topic_id }];
    records.extend((0..).zip(partitions).map(|(number, p)| p.record(topic_id, number)));
    records.extend(settings.into_iter().map(|(name, value)| MetadataRecord::Config {
        resource: ConfigResource::Topic(topic.name.clone()),
        name,
        value: Some(value),
    }));
    let replication_factor = i16::try_from(factor).unwrap_or(i16::MAX);
    Ok((records, CreatedTopic { topic_id, num_partitions, replication_factor, configs: Vec::new() }))
}

/// The replicas of a partition to come.
struct NewPartition {
    replicas: Vec<BrokerId>,
    isr: Vec<BrokerId>,
}

impl NewPartition {
    /// Fenced brokers are in no ISR (invariant 8); `None` when that leaves nobody to lead.
    fn new(image: &MetadataImage, replicas: Vec<BrokerId>) -> Option<NewPartition> {
        let usable = |id: &&BrokerId| image.broker(**id).is_some_and(|b| !b.fenced);
        let isr: Vec<BrokerId> = replicas.iter().filter(usable).copied().collect();
        (!isr.is_empty()).then_some(NewPartition { replicas, isr })
    }

    fn record(self, topic_id: TopicId, partition: i32) -> MetadataRecord {
        MetadataRecord::Partition {
            topic_id,
            partition,
            leader: self.isr.first().copied().unwrap_or(NO_LEADER),
            replicas: self.replicas,
            isr: self.isr,
            elr: Vec::new(),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
        }
    }
}

/// Partitions placed by the controller.
fn placed_partitions(
    image: &MetadataImage,
    topic: &NewTopic,
    topic_id: TopicId,
) -> Result<Vec<NewPartition>, ControllerError> {
    let default = |name: &str| broker_value_of(image, name).parse::<i32>().unwrap_or(1);
    let count = match topic.num_partitions {
        -1 => default("num.partitions"),
        count if count > 0 => count,
        _ => {
            let message = "Number of partitions was set to an invalid non-positive value.";
            return refuse(ErrorCode::InvalidPartitions, message);
        }
    };
    let factor = match topic.replication_factor {
        -1 => i16::try_from(default("default.replication.factor")).unwrap_or(i16::MAX),
        factor if factor > 0 => factor,
        _ => {
            let message = "Replication factor must be larger than 0, or -1 to use the default value.";
            return refuse(ErrorCode::InvalidReplicationFactor, message);
        }
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > MAX_PARTITIONS_PER_REQUEST {
        return refuse(ErrorCode::PolicyViolation, "Excessively large number of partitions per request.");
    }
    let placed = place(image, 0, count, factor, topic_id.0.as_u128())?;
    Ok(placed.into_iter().filter_map(|replicas| NewPartition::new(image, replicas)).collect())
}

/// Partitions placed by the request.
fn assigned_partitions(
    image: &MetadataImage,
    topic: &NewTopic,
) -> Result<Vec<NewPartition>, ControllerError> {
    for (given, what) in
        [(i32::from(topic.replication_factor), "replication factor"), (topic.num_partitions, "numPartitions")]
    {
        if given != -1 {
            let message =
                format!("A manual partition assignment was specified, but {what} was not set to -1.");
            return refuse(ErrorCode::InvalidRequest, message);
        }
    }
    let mut by_number = BTreeMap::new();
    for (number, replicas) in &topic.assignments {
        if by_number.insert(*number, replicas).is_some() {
            let message = format!("Found multiple manual partition assignments for partition {number}");
            return refuse(ErrorCode::InvalidReplicaAssignment, message);
        }
    }
    if by_number.keys().copied().ne(0..i32::try_from(by_number.len()).unwrap_or(i32::MAX)) {
        let message = "partitions should be a consecutive 0-based integer sequence";
        return refuse(ErrorCode::InvalidReplicaAssignment, message);
    }
    let mut factor = None;
    by_number
        .into_iter()
        .map(|(number, replicas)| assigned_partition(image, number, replicas, &mut factor))
        .collect()
}

/// Checks one manual assignment; the first one sets the replication `factor` of those that follow.
fn assigned_partition(
    image: &MetadataImage,
    number: i32,
    replicas: &[BrokerId],
    factor: &mut Option<usize>,
) -> Result<NewPartition, ControllerError> {
    let bad = |why: String| {
        let message = format!("The manual partition assignment includes {why}");
        refuse(ErrorCode::InvalidReplicaAssignment, message)
    };
    if replicas.is_empty() {
        return bad("an empty replica list.".to_string());
    }
    let mut seen = BTreeSet::new();
    for id in replicas {
        if image.broker(*id).is_none() {
            return bad(format!("broker {id}, but no such broker is registered."));
        }
        if !seen.insert(*id) {
            return bad(format!("the broker {id} more than once."));
        }
    }
    let expected = *factor.get_or_insert(replicas.len());
    if expected != replicas.len() {
        return bad(format!(
            "a partition with {} replica(s), but this is not consistent with previous partitions, which have {expected} replica(s).",
            replicas.len()
        ));
    }
    NewPartition::new(image, replicas.to_vec()).ok_or_else(|| {
        ControllerError::new(
            ErrorCode::InvalidReplicaAssignment,
            format!(
                "All brokers specified in the manual partition assignment for partition {number} are fenced or in controlled shutdown."
            ),
        )
    })
}

/// Topics that a client named in a Metadata request and that do not exist: created with the defaults when
/// `auto.create.topics.enable` allows it.
pub fn auto_create_topics(
    image: &MetadataImage,
    names: &[String],
    fresh_id: &mut dyn FnMut() -> TopicId,
) -> (Vec<MetadataRecord>, PerTopic<CreatedTopic>) {
    if broker_value_of(image, "auto.create.topics.enable") != "true" {
        let message = "This server does not host this topic-partition.";
        let answer = |name: &String| (name.clone(), refuse(ErrorCode::UnknownTopicOrPartition, message));
        return (Vec::new(), names.iter().map(answer).collect());
    }
    let defaults = |name: &String| {
        internal_topic(image, name).unwrap_or_else(|| NewTopic {
            name: name.clone(),
            num_partitions: -1,
            replication_factor: -1,
            ..NewTopic::default()
        })
    };
    create_topics(image, &names.iter().map(defaults).collect::<Vec<_>>(), false, fresh_id)
}

/// Deletes topics. What is named more than once is refused, in one answer; so is a name whose id is there, too.
pub fn delete_topics(image: &MetadataImage, topics: &[TopicRef]) -> (Vec<MetadataRecord>, Vec<DeletedTopic>) {
    let repeated = repeated(topics.iter());
    let mut answered = BTreeSet::new();
    let mut records = Vec::new();
    let answer = |topic: &TopicRef| {
        let (found, mut name, mut id) = match topic {
            TopicRef::Name(name) => (image.topic(name), Some(name.clone()), None),
            TopicRef::Id(id) => (image.topic_by_id(*id), None, Some(*id)),
        };
        let invalid = |why: &str| refuse(ErrorCode::InvalidRequest, why);
        let result = match (found, topic) {
            (_, TopicRef::Name(_)) if repeated.contains(topic) => duplicate(),
            (_, TopicRef::Id(_)) if repeated.contains(topic) => invalid("Duplicate topic id."),
            (Some(found), TopicRef::Name(_)) if topics.contains(&TopicRef::Id(found.id)) => {
                id = Some(found.id);
                invalid("The provided topic name maps to an ID that was already supplied.")
            }
            (Some(found), _) => {
                (name, id) = (Some(found.name.to_string()), Some(found.id));
                records.push(MetadataRecord::RemoveTopic { topic_id: found.id });
                Ok(())
            }
            (None, TopicRef::Name(_)) => {
                refuse(ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition.")
            }
            (None, TopicRef::Id(_)) => {
                refuse(ErrorCode::UnknownTopicId, "This server does not host this topic ID.")
            }
        };
        DeletedTopic { name, id, result }
    };
    let answers = topics.iter().filter(|topic| answered.insert(*topic)).map(answer).collect();
    (records, answers)
}

/// Adds partitions to topics, to each as a whole or not at all.
pub fn create_partitions(
    image: &MetadataImage,
    topics: &[NewPartitions],
    validate_only: bool,
) -> (Vec<MetadataRecord>, PerTopic<()>) {
    let repeated = repeated(topics.iter().map(|t| t.name.as_str()));
    let mut records = Vec::new();
    let mut answers = Vec::new();
    for topic in topics {
        let result = if repeated.contains(topic.name.as_str()) {
            duplicate()
        } else {
            grow_topic(image, topic).and_then(|new| {
                if records.len() + new.len() > MAX_PARTITIONS_PER_REQUEST {
                    let message = "Excessively large number of partitions per request.";
                    return refuse(ErrorCode::PolicyViolation, message);
                }
                records.extend(new);
                Ok(())
            })
        };
        answers.push((topic.name.clone(), result));
    }
    (if validate_only { Vec::new() } else { records }, answers)
}

fn grow_topic(
    image: &MetadataImage,
    request: &NewPartitions,
) -> Result<Vec<MetadataRecord>, ControllerError> {
    let Some(topic) = image.topic(&request.name) else {
        // The code says it all; Kafka has no words for it either.
        return refuse(ErrorCode::UnknownTopicOrPartition, "");
    };
    let now = topic.partitions.len();
    let count = usize::try_from(request.count).unwrap_or(0);
    if count == now {
        return refuse(ErrorCode::InvalidPartitions, format!("Topic already has {now} partition(s)."));
    }
    if count < now {
        let message = format!(
            "The topic {} currently has {now} partition(s); {} would not be an increase.",
            topic.name, request.count
        );
        return refuse(ErrorCode::InvalidPartitions, message);
    }
    let added = count - now;
    if added > MAX_PARTITIONS_PER_REQUEST {
        return refuse(ErrorCode::PolicyViolation, "Excessively large number of partitions per request.");
    }
    let factor = topic.partitions.first().map_or(1, |p| p.replicas.len());
    let partitions: Vec<NewPartition> = match &request.assignments {
        Some(given) if given.len() != added => {
            let message = format!(
                "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
                given.len()
            );
            return refuse(ErrorCode::InvalidReplicaAssignment, message);
        }
        Some(given) => {
            let number = |at: usize| i32::try_from(now + at).unwrap_or(i32::MAX);
            let mut factor = Some(factor);
            let each = given.iter().enumerate();
            each.map(|(at, replicas)| assigned_partition(image, number(at), replicas, &mut factor))
                .collect::<Result<_, _>>()?
        }
        None => {
            let factor = i16::try_from(factor).unwrap_or(i16::MAX);
            let placed = place(image, now, added, factor, topic.id.0.as_u128())?;
            placed.into_iter().filter_map(|replicas| NewPartition::new(image, replicas)).collect()
        }
    };
    let numbers = i32::try_from(now).unwrap_or(i32::MAX)..;
    Ok(numbers.zip(partitions).map(|(number, p)| p.record(topic.id, number)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, cluster, ids, topic, with_topics};
    use super::*;

    fn refused(image: &MetadataImage, new: NewTopic) -> (ErrorCode, String) {
        let (records, mut answers) = create_topics(image, &[new], false, &mut ids(1));
        assert!(records.is_empty());
        let e = answers.remove(0).1.unwrap_err();
        (e.code, e.message)
    }

    fn assigned(assignments: &[(i32, &[i32])]) -> NewTopic {
        let each =
            |(number, replicas): &(i32, &[i32])| (*number, replicas.iter().copied().map(BrokerId).collect());
        NewTopic { assignments: assignments.iter().map(each).collect(), ..topic("t", -1) }
    }

    #[test]
    fn refusals_are_kafkas() {
        let image = with_topics(&cluster(&[(1, None)]), &[topic("a.b", 1)]);
        let config = |name: &str, value: Option<&str>| NewTopic {
            configs: vec![(name.to_string(), value.map(str::to_string))],
            ..topic("t", 1)
        };
        let factor = |replication_factor| NewTopic { replication_factor, ..topic("t", 1) };
        use ErrorCode::*;
        let cases = [
            (topic("", 1), InvalidTopic, "the empty string is not allowed"),
            (topic("..", 1), InvalidTopic, "'..' is not allowed"),
            (topic(&"x".repeat(250), 1), InvalidTopic, "longer than the max allowed length 249"),
            (topic("a b", 1), InvalidTopic, "other than ASCII alphanumerics"),
            (topic("a.b", 1), TopicAlreadyExists, "Topic 'a.b' already exists."),
            (topic("a_b", 1), InvalidTopic, "Topic 'a_b' collides with existing topic: a.b"),
            (topic("t", 0), InvalidPartitions, "non-positive"),
            (topic("t", -2), InvalidPartitions, "non-positive"),
            (topic("t", 10_001), PolicyViolation, "Excessively large number of partitions per request."),
            (factor(0), InvalidReplicationFactor, "larger than 0, or -1"),
            (factor(3), InvalidReplicationFactor, "only 1 broker(s) are registered"),
            (assigned(&[(0, &[7])]), InvalidReplicaAssignment, "broker 7, but no such broker"),
            (assigned(&[(0, &[1, 1])]), InvalidReplicaAssignment, "the broker 1 more than once"),
            (assigned(&[(0, &[1]), (2, &[1])]), InvalidReplicaAssignment, "consecutive 0-based"),
            (assigned(&[(0, &[1]), (0, &[1])]), InvalidReplicaAssignment, "multiple manual partition"),
            (assigned(&[(0, &[])]), InvalidReplicaAssignment, "an empty replica list"),
            (
                NewTopic { num_partitions: 1, ..assigned(&[(0, &[1])]) },
                InvalidRequest,
                "numPartitions was not",
            ),
            (config("foo", Some("1")), InvalidConfig, "Unknown topic config name: foo"),
            (config("segment.bytes", Some("1")), InvalidConfig, "must be at least 1048576"),
            (config("segment.bytes", None), InvalidConfig, "Null value not supported"),
            (config("chronik.wal.profile", Some("none")), InvalidConfig, "no such WAL profile"),
            (config("compression.type", Some("gzip")), InvalidConfig, "as their producer compressed them"),
            (config("retention.ms", Some("-2")), InvalidConfig, "at least -1"),
        ];
        for (new, code, words) in cases {
            let (found, why) = refused(&image, new);
            assert!(found == code && why.contains(words), "{found:?} {why}, expected {code:?} {words}");
        }
    }

    #[test]
    fn one_request_is_judged_topic_by_topic() {
        let image = cluster(&[(1, None)]);
        let request = [topic("x", 1), topic("twice", 1), topic("a_b", 2), topic("twice", 1), topic("a.b", 1)];
        let (records, answers) = create_topics(&image, &request, false, &mut ids(1));
        let codes: Vec<Option<ErrorCode>> =
            answers.iter().map(|(_, r)| r.as_ref().err().map(|e| e.code)).collect();
        let twice = Some(ErrorCode::InvalidRequest);
        assert_eq!(
            codes,
            [None, twice, None, twice, None],
            "only topics that were there before are collided with"
        );
        let image = apply(&image, &records);
        let names: Vec<&str> = image.topics().map(|t| &*t.name).collect();
        assert_eq!(names, ["a.b", "a_b", "x"]);
        let given = |value: &str| ("retention.ms".to_string(), Some(value.to_string()));
        let configs = vec![given("soon"), given("1000")];
        let (records, answers) =
            create_topics(&image, &[NewTopic { configs, ..topic("y", 1) }], false, &mut ids(8));
        assert!(answers[0].1.is_ok(), "the last value counts");
        assert_eq!(apply(&image, &records).topic("y").unwrap().config.retention_ms, 1000);
        let (records, answers) = create_topics(&image, &[topic("new", 3)], true, &mut ids(9));
        assert!(records.is_empty(), "validate only");
        let created = answers[0].1.as_ref().unwrap();
        assert_eq!((created.num_partitions, created.replication_factor), (3, 1));
        assert!(created.configs.iter().any(|c| c.name == "segment.bytes"));
    }

    #[test]
    fn topics_grow_but_never_shrink() {
        let image = with_topics(&cluster(&[(1, None)]), &[topic("t", 2)]);
        let grow = |name: &str, count, given: Option<&[&[i32]]>| {
            let each = |r: &&[i32]| r.iter().copied().map(BrokerId).collect();
            let assignments = given.map(|g| g.iter().map(each).collect());
            let request = [NewPartitions { name: name.to_string(), count, assignments }];
            let (records, mut answers) = create_partitions(&image, &request, false);
            answers.remove(0).1.map(|()| records).map_err(|e| (e.code, e.message))
        };
        use ErrorCode::*;
        let cases = [
            (grow("t", 2, None), InvalidPartitions, "Topic already has 2 partition(s)."),
            (grow("t", -1, None), InvalidPartitions, "has 2 partition(s); -1 would not be an increase."),
            (grow("u", 3, None), UnknownTopicOrPartition, ""),
            (grow("t", 4, Some(&[&[1]])), InvalidReplicaAssignment, "only 1 assignment(s)"),
            (grow("t", 3, Some(&[&[9]])), InvalidReplicaAssignment, "broker 9"),
            (grow("t", 20_000, None), PolicyViolation, "Excessively large"),
        ];
        for (result, code, words) in cases {
            let (found, why) = result.unwrap_err();
            assert!(found == code && why.contains(words), "{found:?} {why}");
        }
        let grown = apply(&image, &grow("t", 5, None).unwrap());
        assert_eq!(grown.topic("t").unwrap().partitions.len(), 5);
    }

    #[test]
    fn topics_are_deleted_by_name_and_by_id() {
        let image = with_topics(&cluster(&[(1, None)]), &[topic("t", 1), topic("u", 1)]);
        let id = image.topic("u").unwrap().id;
        let unknown = TopicId(crate::ids::Uuid::from_u128(5));
        let name = |n: &str| TopicRef::Name(n.to_string());
        let request = [name("t"), name("none"), TopicRef::Id(id), TopicRef::Id(unknown), name("u")];
        let (records, answers) = delete_topics(&image, &request);
        let codes: Vec<_> = answers.iter().map(|a| a.result.as_ref().err().map(|e| e.code)).collect();
        use ErrorCode::*;
        let expected =
            [None, Some(UnknownTopicOrPartition), None, Some(UnknownTopicId), Some(InvalidRequest)];
        assert_eq!(codes, expected);
        assert_eq!(answers[2].name.as_deref(), Some("u"));
        assert_eq!(apply(&image, &records).topic_count(), 0);

        let twice = [name("t"), TopicRef::Id(id), name("none"), name("t"), TopicRef::Id(id), name("none")];
        let (records, answers) = delete_topics(&image, &twice);
        let refused = |a: &DeletedTopic| a.result.as_ref().is_err_and(|e| e.code == InvalidRequest);
        assert!(records.is_empty() && answers.len() == 3 && answers.iter().all(refused), "{answers:?}");
    }

    #[test]
    fn topics_are_created_on_demand_with_the_defaults() {
        let image = cluster(&[(1, None)]);
        let names = ["t".to_string()];
        let (records, answers) = auto_create_topics(&image, &names, &mut ids(1));
        assert!(answers[0].1.is_ok());
        assert_eq!(apply(&image, &records).topic("t").unwrap().partitions.len(), 1);
    }
}
