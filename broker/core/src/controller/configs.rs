//! Dynamic settings are altered.

use std::collections::{BTreeMap, BTreeSet};

use super::{ControllerError, ErrorCode, after};
use crate::ids::BrokerId;
use crate::metadata::config::wal_profiles::{self, ProfileEdits};
use crate::metadata::config::{ConfigError, ConfigKind, Update, broker_value_of, groups, table};
use crate::metadata::{ConfigResource, MetadataImage, MetadataRecord};

/// What IncrementalAlterConfigs does to a value, by Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum AlterOp {
    Set = 0,
    Delete = 1,
    Append = 2,
    Subtract = 3,
}

impl AlterOp {
    pub fn from_wire(op: i8) -> Option<AlterOp> {
        [AlterOp::Set, AlterOp::Delete, AlterOp::Append, AlterOp::Subtract]
            .into_iter()
            .find(|known| *known as i8 == op)
    }
}

/// One change of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigOp {
    pub name: String,
    pub op: AlterOp,
    pub value: Option<String>,
}

/// One answer per resource, in the order asked.
pub type PerResource = Vec<(ConfigResource, Result<(), ControllerError>)>;

/// What has settings, by Kafka's numbers (`ConfigResource.Type`).
pub mod resource_type {
    pub const TOPIC: i8 = 2;
    pub const BROKER: i8 = 4;
    /// What one broker logs (KIP-412): nothing is stored of it.
    pub const BROKER_LOGGER: i8 = 8;
    pub const CLIENT_METRICS: i8 = 16;
    pub const GROUP: i8 = 32;
}

/// Reads a resource's type and name as they stand in a request.
pub fn config_resource(resource_type: i8, name: &str) -> Result<ConfigResource, ControllerError> {
    match resource_type {
        resource_type::TOPIC => Ok(ConfigResource::Topic(name.to_string())),
        resource_type::GROUP if name.is_empty() => {
            Err(ControllerError::new(ErrorCode::InvalidRequest, "Default group resources are not allowed."))
        }
        resource_type::GROUP => Ok(ConfigResource::Group(name.to_string())),
        resource_type::BROKER if name.is_empty() => Ok(ConfigResource::BrokerDefault),
        resource_type::BROKER => name.parse().map(|id| ConfigResource::Broker(BrokerId(id))).map_err(|_| {
            ControllerError::new(
                ErrorCode::InvalidRequest,
                format!("Node id must be an integer, but it is: {name}"),
            )
        }),
        resource_type::CLIENT_METRICS => Err(ControllerError::new(
            ErrorCode::InvalidRequest,
            "Clients' metrics cannot be subscribed to: nothing here receives them",
        )),
        other => {
            Err(ControllerError::new(ErrorCode::InvalidRequest, format!("Unknown resource type {other}")))
        }
    }
}

/// A refusal of one resource, before it is known which code its kind of resource has for it.
enum Refusal {
    Config(ConfigError),
    Other(ControllerError),
}

impl From<ConfigError> for Refusal {
    fn from(e: ConfigError) -> Refusal {
        Refusal::Config(e)
    }
}

impl From<ControllerError> for Refusal {
    fn from(e: ControllerError) -> Refusal {
        Refusal::Other(e)
    }
}

impl Refusal {
    /// Kafka answers INVALID_REQUEST to a bad or read-only value of a broker's, INVALID_CONFIG to a topic's or a group's.
    fn on(self, resource: &ConfigResource) -> ControllerError {
        let brokers = is_brokers(resource);
        match self {
            Refusal::Other(e) => e,
            Refusal::Config(e) => {
                let code = match e {
                    ConfigError::BadValue { .. }
                    | ConfigError::ReadOnly { .. }
                    | ConfigError::OutOfBounds { .. }
                        if brokers =>
                    {
                        ErrorCode::InvalidRequest
                    }
                    _ => ErrorCode::InvalidConfig,
                };
                ControllerError::new(code, e.to_string())
            }
        }
    }
}

/// Of one broker, or of all.
fn is_brokers(resource: &ConfigResource) -> bool {
    matches!(resource, ConfigResource::Broker(_) | ConfigResource::BrokerDefault)
}

fn invalid_request(message: impl Into<String>) -> Refusal {
    Refusal::Other(ControllerError::new(ErrorCode::InvalidRequest, message))
}

/// Settings by name; `None` removes one.
type Edits<'a> = BTreeMap<&'a str, Option<String>>;

/// The settings of a topic that is being created, checked.
pub(super) fn new_topic_settings(
    image: &MetadataImage,
    given: &[(String, Option<String>)],
) -> Result<BTreeMap<String, String>, ControllerError> {
    let refuse = |message: String| ControllerError::new(ErrorCode::InvalidConfig, message);
    // Of one that is given more than once the last value counts, as in Kafka.
    let mut settings = BTreeMap::new();
    for (name, value) in given {
        let null = || refuse(format!("Null value not supported for topic configs: {name}"));
        settings.insert(name, value.as_ref().ok_or_else(null)?);
    }
    let checked = |(name, value): (&String, &String)| {
        let value = check_topic(image, name, value).map_err(|e| refuse(e.to_string()))?;
        Ok((name.clone(), value))
    };
    settings.into_iter().map(checked).collect()
}

fn check_topic(image: &MetadataImage, name: &str, value: &str) -> Result<String, ConfigError> {
    let value = table::known_topic_setting(name)?.check.check(name, value)?;
    wal_profiles::check_exists(image, name, &value)?;
    Ok(value)
}

/// IncrementalAlterConfigs: each resource is altered as a whole or not at all.
pub fn incremental_alter_configs(
    image: &MetadataImage,
    requests: &[(ConfigResource, Vec<ConfigOp>)],
    validate_only: bool,
) -> (Vec<MetadataRecord>, PerResource) {
    each_resource(image, requests, validate_only, |image, resource, ops| {
        let mut edits = Edits::new();
        for op in ops {
            let edit = evaluate(image, resource, op)?;
            if edits.insert(&op.name, edit).is_some() {
                return Err(invalid_request("Error due to duplicate config keys"));
            }
        }
        Ok(edits)
    })
}

/// All that is to be set on a resource, by name.
pub type Replacement = Vec<(String, Option<String>)>;

/// AlterConfigs: what is not given is removed. WAL profiles are definitions, not values: those that are not
/// given are left alone.
pub fn alter_configs(
    image: &MetadataImage,
    requests: &[(ConfigResource, Replacement)],
    validate_only: bool,
) -> (Vec<MetadataRecord>, PerResource) {
    each_resource(image, requests, validate_only, |image, resource, given| {
        let mut edits = Edits::new();
        for (name, value) in given {
            if value.is_none() {
                return Err(invalid_request(format!("Null value not supported for : {name}")));
            }
            if edits.insert(name, value.clone()).is_some() {
                return Err(invalid_request("Error due to duplicate config keys"));
            }
        }
        let set = image.config(resource).into_iter().flatten().map(|(name, _)| name.as_str());
        for name in set {
            edits.entry(name).or_insert(None);
        }
        Ok(edits)
    })
}

/// What one operation leaves of a setting.
fn evaluate(
    image: &MetadataImage,
    resource: &ConfigResource,
    op: &ConfigOp,
) -> Result<Option<String>, Refusal> {
    if op.op == AlterOp::Delete {
        return Ok(None);
    }
    let Some(value) = &op.value else {
        return Err(invalid_request(format!("Null value not supported for : {}", op.name)));
    };
    if op.op == AlterOp::Set {
        return Ok(Some(value.clone()));
    }
    let (kind, broker_name) = match resource {
        ConfigResource::Topic(_) => table::topic_setting(&op.name).map(|s| (s.kind, s.broker_name)),
        // None of theirs is a list.
        ConfigResource::Group(_) => None,
        ConfigResource::Broker(_) | ConfigResource::BrokerDefault => {
            table::broker_setting(&op.name).map(|s| (s.kind, s.name))
        }
    }
    .unwrap_or((ConfigKind::String, ""));
    if kind != ConfigKind::List {
        let verb = if op.op == AlterOp::Append { "APPEND" } else { "SUBTRACT" };
        let message = format!("Can't {verb} to key {} because its type is not LIST.", op.name);
        return Err(Refusal::Other(ControllerError::new(ErrorCode::InvalidConfig, message)));
    }
    let own = image.config(resource).and_then(|c| c.get(&op.name)).map(String::as_str);
    let now = own.unwrap_or_else(|| broker_value_of(image, broker_name));
    let mut parts: Vec<&str> = now.split(',').map(str::trim).filter(|p| !p.is_empty()).collect();
    for part in value.split(',').map(str::trim) {
        match op.op {
            AlterOp::Append if !parts.contains(&part) => parts.push(part),
            AlterOp::Subtract => parts.retain(|p| *p != part),
            _ => {}
        }
    }
    Ok(Some(parts.join(",")))
}

/// Goes through the resources of a request; each is judged by the image that those before it lead to.
fn each_resource<T>(
    image: &MetadataImage,
    requests: &[(ConfigResource, T)],
    validate_only: bool,
    edits: impl for<'a> Fn(&'a MetadataImage, &ConfigResource, &'a T) -> Result<Edits<'a>, Refusal>,
) -> (Vec<MetadataRecord>, PerResource) {
    let mut image = image.clone();
    let mut seen = BTreeSet::new();
    let mut records = Vec::new();
    let mut answers = Vec::new();
    for (resource, request) in requests {
        let decided = if seen.insert(resource) {
            edits(&image, resource, request).and_then(|edits| alter(&image, resource, &edits))
        } else {
            Err(invalid_request("Each resource must appear at most once."))
        };
        let result = match decided {
            Ok((new, next)) => {
                image = next;
                records.extend(new);
                Ok(())
            }
            Err(refusal) => Err(refusal.on(resource)),
        };
        answers.push((resource.clone(), result));
    }
    (if validate_only { Vec::new() } else { records }, answers)
}

/// The records that carry out the edits of one resource, and the image they lead to.
fn alter(
    image: &MetadataImage,
    resource: &ConfigResource,
    edits: &Edits<'_>,
) -> Result<(Vec<MetadataRecord>, MetadataImage), Refusal> {
    // Profiles first: the same request may define one and make it the default.
    let mut profiles = ProfileEdits::default();
    let is_profile = |name: &str| is_brokers(resource) && wal_profiles::parse(name).is_some();
    for (name, value) in edits.iter().filter(|(name, _)| is_profile(name)) {
        if *resource != ConfigResource::BrokerDefault {
            let (name, on) =
                (name.to_string(), "all brokers at once (the broker resource with the empty name)");
            return Err(ConfigError::WrongResource { name, on }.into());
        }
        profiles.note(name, value.as_deref())?;
    }
    let mut records = profiles.records(image)?;
    let with_profiles = after(image, &records)?;

    let set = image.config(resource);
    for (name, value) in edits.iter().filter(|(name, _)| !is_profile(name)) {
        let value = match value {
            Some(value) => Some(check(&with_profiles, resource, name, value)?),
            // Removing what cannot be set is no harm, and mends a mistake of an older version.
            None => None,
        };
        if set.and_then(|c| c.get(*name)) != value.as_ref() {
            let (resource, name) = (resource.clone(), name.to_string());
            records.push(MetadataRecord::Config { resource, name, value });
        }
    }
    exists(image, resource)?;
    let next = after(image, &records)?;
    check_group_bounds(&next, resource, &records)?;
    let removed: BTreeSet<&str> = records
        .iter()
        .filter_map(|r| match r {
            MetadataRecord::WalProfile { name, definition: None } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    if !removed.is_empty() {
        wal_profiles::check_in_use(&next, &removed)?;
    }
    Ok((records, next))
}

fn check(
    image: &MetadataImage,
    resource: &ConfigResource,
    name: &str,
    value: &str,
) -> Result<String, ConfigError> {
    match resource {
        ConfigResource::Topic(_) => return check_topic(image, name, value),
        ConfigResource::Group(_) => return groups::check(name, value),
        ConfigResource::Broker(_) | ConfigResource::BrokerDefault => {}
    }
    let read_only = || ConfigError::ReadOnly { name: name.to_string() };
    if image.local().fixed(name).is_some() {
        return Err(read_only());
    }
    let setting = table::known_broker_setting(name)?;
    if setting.update == Update::ReadOnly {
        return Err(read_only());
    }
    let value = setting.check.check(name, value)?;
    wal_profiles::check_exists(image, name, &value)?;
    Ok(value)
}

/// What a group's settings are together with the brokers', where either changed.
fn check_group_bounds(
    next: &MetadataImage,
    resource: &ConfigResource,
    records: &[MetadataRecord],
) -> Result<(), ConfigError> {
    if let ConfigResource::Group(_) = resource {
        return match next.config(resource) {
            Some(own) if !records.is_empty() => groups::check_together(next, own),
            _ => Ok(()),
        };
    }
    let of_groups =
        |r: &MetadataRecord| matches!(r, MetadataRecord::Config { name, .. } if groups::is_brokers(name));
    if records.iter().any(of_groups) {
        let value = |name: &str| broker_value_of(next, name).parse().unwrap_or_default();
        return groups::check_brokers(value);
    }
    Ok(())
}

fn exists(image: &MetadataImage, resource: &ConfigResource) -> Result<(), ControllerError> {
    match resource {
        ConfigResource::Topic(name) if image.topic(name).is_none() => Err(ControllerError::new(
            ErrorCode::UnknownTopicOrPartition,
            format!("The topic '{name}' does not exist."),
        )),
        ConfigResource::Broker(id) if image.broker(*id).is_none() => Err(ControllerError::new(
            ErrorCode::BrokerIdNotRegistered,
            format!("No broker with id {id} found."),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, cluster, topic, with_topics};
    use super::*;
    use crate::metadata::config::{TimestampType, describe_broker_default};

    fn op(name: &str, op: AlterOp, value: Option<&str>) -> ConfigOp {
        ConfigOp { name: name.to_string(), op, value: value.map(str::to_string) }
    }

    fn set(name: &str, value: &str) -> ConfigOp {
        op(name, AlterOp::Set, Some(value))
    }

    fn delete(name: &str) -> ConfigOp {
        op(name, AlterOp::Delete, None)
    }

    fn t() -> ConfigResource {
        ConfigResource::Topic("t".to_string())
    }

    fn image() -> MetadataImage {
        with_topics(&cluster(&[(1, None)]), &[topic("t", 1)])
    }

    fn alter(
        image: &MetadataImage,
        resource: ConfigResource,
        ops: &[ConfigOp],
    ) -> Result<MetadataImage, (ErrorCode, String)> {
        let (records, mut answers) = incremental_alter_configs(image, &[(resource, ops.to_vec())], false);
        let answer = answers.remove(0).1;
        answer.map(|()| apply(image, &records)).map_err(|e| (e.code, e.message))
    }

    #[test]
    fn refusals_are_kafkas() {
        let image = image();
        let default = || ConfigResource::BrokerDefault;
        use AlterOp::*;
        use ErrorCode::*;
        let cases = [
            (t(), set("foo", "1"), InvalidConfig, "Unknown topic config name: foo"),
            (t(), set("flush.ms", "1"), InvalidConfig, "flush.ms is a setting of Kafka that has no effect"),
            (t(), set("segment.bytes", "2"), InvalidConfig, "Value must be at least 1048576"),
            (
                t(),
                op("segment.bytes", Set, None),
                InvalidRequest,
                "Null value not supported for : segment.bytes",
            ),
            (t(), op("segment.bytes", Append, Some("2")), InvalidConfig, "Can't APPEND to key segment.bytes"),
            (t(), op("cleanup.policy", Append, Some("squeeze")), InvalidConfig, "squeeze"),
            (
                ConfigResource::Topic("u".into()),
                set("segment.bytes", "2000000"),
                UnknownTopicOrPartition,
                "'u'",
            ),
            (
                ConfigResource::Broker(BrokerId(9)),
                set("message.max.bytes", "9"),
                BrokerIdNotRegistered,
                "id 9",
            ),
            (default(), set("num.partitions", "2"), InvalidRequest, "[num.partitions]"),
            (default(), set("message.max.bytes", "x"), InvalidRequest, "Not a number"),
            (default(), set("foo.bar", "x"), InvalidConfig, "Unknown broker config name: foo.bar"),
            (default(), set("log.flush.interval.ms", "1"), InvalidConfig, "no effect here yet"),
            (default(), set("chronik.wal.profile", "none"), InvalidRequest, "no such WAL profile"),
            (default(), set("chronik.wal.profile.x.size", "1"), InvalidRequest, "unknown WAL profile field"),
            (default(), set("chronik.wal.profile.x", "1"), InvalidRequest, "set its fields"),
            (
                ConfigResource::Broker(BrokerId(1)),
                set("chronik.wal.profile.x.ack", "durable"),
                InvalidConfig,
                "all brokers",
            ),
        ];
        for (resource, op, code, words) in cases {
            let (found, why) = alter(&image, resource, &[op]).unwrap_err();
            assert!(found == code && why.contains(words), "{found:?} {why}, expected {code:?} {words}");
        }
        let group = || ConfigResource::Group("g".into());
        let cases = [
            (group(), set("foo", "1"), InvalidConfig, "Unknown group config name: foo"),
            (group(), set("share.session.timeout.ms", "1"), InvalidConfig, "no effect here yet"),
            (group(), set("consumer.session.timeout.ms", "x"), InvalidConfig, "Not a number"),
            (group(), set("consumer.session.timeout.ms", "44999"), InvalidConfig, "greater than or equal to"),
            (group(), op("consumer.session.timeout.ms", Set, None), InvalidRequest, "Null value"),
            (group(), op("consumer.session.timeout.ms", Append, Some("1")), InvalidConfig, "Can't APPEND"),
            (default(), set("group.consumer.assignment.interval.ms", "15001"), InvalidRequest, "less than"),
            (default(), set("group.consumer.session.timeout.ms", "46000"), InvalidRequest, "Cannot update"),
        ];
        for (resource, op, code, words) in cases {
            let (found, why) = alter(&image, resource, &[op]).unwrap_err();
            assert!(found == code && why.contains(words), "{found:?} {why}, expected {code:?} {words}");
        }
        let twice = [set("segment.bytes", "2000000"), delete("segment.bytes")];
        assert_eq!(alter(&image, t(), &twice).unwrap_err().0, InvalidRequest);
        let (_, answers) = incremental_alter_configs(&image, &[(t(), vec![]), (t(), vec![])], false);
        assert_eq!(answers[1].1.as_ref().unwrap_err().code, InvalidRequest);
        assert!(config_resource(4, "x").is_err() && config_resource(8, "1").is_err());
        assert!(config_resource(16, "m").is_err());
        assert!(config_resource(32, "").is_err());
    }

    #[test]
    fn a_topics_value_wins_over_the_brokers() {
        let image = image();
        let of = |image: &MetadataImage| image.topic("t").unwrap().config.clone();
        assert_eq!(of(&image).max_message_bytes, 1_048_588);
        let image =
            alter(&image, ConfigResource::BrokerDefault, &[set("message.max.bytes", "3000")]).unwrap();
        assert_eq!(of(&image).max_message_bytes, 3000);
        let own = ConfigResource::Broker(BrokerId(1));
        let image = alter(&image, own, &[set("message.max.bytes", "2000")]).unwrap();
        assert_eq!(of(&image).max_message_bytes, 2000);
        let both = [set("max.message.bytes", "1000"), set("message.timestamp.type", "LogAppendTime")];
        let image = alter(&image, t(), &both).unwrap();
        assert_eq!(
            (of(&image).max_message_bytes, of(&image).timestamp_type),
            (1000, TimestampType::LogAppendTime)
        );
        let image = alter(&image, t(), &[delete("max.message.bytes"), delete("foo")]).unwrap();
        assert_eq!(of(&image).max_message_bytes, 2000);

        let given = vec![("segment.bytes".to_string(), Some("2000000".to_string()))];
        let (records, answers) = alter_configs(&image, &[(t(), given)], false);
        assert!(answers[0].1.is_ok());
        let image = apply(&image, &records);
        let set: Vec<&String> = image.config(&t()).unwrap().keys().collect();
        assert_eq!(set, ["segment.bytes"], "what was not given is gone");
    }

    #[test]
    fn a_group_has_settings_whether_it_is_there_or_not() {
        let group = || config_resource(32, "g").unwrap();
        let both =
            [set("consumer.session.timeout.ms", "50000"), set("consumer.heartbeat.interval.ms", "6000")];
        let image = alter(&image(), group(), &both).unwrap();
        assert_eq!(image.config(&group()).map(|own| own.len()), Some(2));
        let again = MetadataImage::from_records(image.local().clone(), image.offset(), &image.to_records());
        assert_eq!(again.unwrap().config(&group()), image.config(&group()));

        let given = vec![("consumer.heartbeat.interval.ms".to_string(), Some("7000".to_string()))];
        let (records, answers) = alter_configs(&image, &[(group(), given)], false);
        assert!(answers[0].1.is_ok());
        let image = apply(&image, &records);
        assert_eq!(
            image.config(&group()).unwrap().keys().collect::<Vec<_>>(),
            ["consumer.heartbeat.interval.ms"]
        );
        let image = alter(&image, group(), &[delete("consumer.heartbeat.interval.ms")]).unwrap();
        assert_eq!(image.config(&group()), None);
    }

    #[test]
    fn profiles_are_defined_used_and_removed() {
        let image = image();
        let default = ConfigResource::BrokerDefault;
        // Defined, made the default and used by a topic in one request.
        let define = [
            set("chronik.wal.profile", "bulk"),
            set("chronik.wal.profile.bulk.policy", "hybrid"),
            set("chronik.wal.profile.bulk.max.delay.us", "7000"),
        ];
        let requests = [(default.clone(), define.to_vec()), (t(), vec![set("chronik.wal.profile", "bulk")])];
        let (records, answers) = incremental_alter_configs(&image, &requests, false);
        assert!(answers.iter().all(|(_, r)| r.is_ok()), "{answers:?}");
        let image = apply(&image, &records);
        let config = image.topic("t").unwrap().config.clone();
        assert_eq!((&*config.wal_profile_name, config.wal_profile.max_delay_us), ("bulk", 7000));
        assert_eq!(config.wal_profile.max_queue_records, 50_000, "the rest is as in high");

        // Altered live.
        let image =
            alter(&image, default.clone(), &[set("chronik.wal.profile.bulk.max.delay.us", "8000")]).unwrap();
        assert_eq!(image.topic("t").unwrap().config.wal_profile.max_delay_us, 8000);
        let described: Vec<String> = describe_broker_default(&image).into_iter().map(|e| e.name).collect();
        assert!(described.contains(&"chronik.wal.profile.bulk.max.delay.us".to_string()), "{described:?}");

        // Not removed while in use.
        let remove = [delete("chronik.wal.profile.bulk")];
        let (code, why) = alter(&image, default.clone(), &remove).unwrap_err();
        assert!(code == ErrorCode::InvalidConfig && why.contains("in use by the brokers' default"), "{why}");
        let with_default = [delete("chronik.wal.profile.bulk"), delete("chronik.wal.profile")];
        let (_, why) = alter(&image, default.clone(), &with_default).unwrap_err();
        assert!(why.contains("in use by topic t"), "{why}");
        let image = alter(&image, t(), &[delete("chronik.wal.profile")]).unwrap();
        let image = alter(&image, default.clone(), &with_default).unwrap();
        assert!(image.wal_profile("bulk").is_none());
        assert_eq!(&*image.topic("t").unwrap().config.wal_profile_name, "high");

        // A built-in one is altered, and comes back.
        let image =
            alter(&image, default.clone(), &[set("chronik.wal.profile.high.max.delay.us", "5")]).unwrap();
        assert_eq!(image.topic("t").unwrap().config.wal_profile.max_delay_us, 5);
        let image = alter(&image, default, &[delete("chronik.wal.profile.high")]).unwrap();
        assert_eq!(image.topic("t").unwrap().config.wal_profile.max_delay_us, 100_000);
    }
}
