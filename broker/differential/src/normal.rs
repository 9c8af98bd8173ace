//! What must differ between two servers, and what they may order as they like.
//!
//! An id that a server chooses is not ignored: it is *bound*. The first time that two ids stand in the same place they become one
//! symbol; from then on each of them may only stand where the other does.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::records::now_ms;

/// How a field's two values are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As ids of this sort.
    Bound(&'static str),
    /// As times: the same, or both of this run.
    Clock,
    /// As amounts: what a disk holds, how far a log went. Neither is negative.
    Amount,
}

/// Fields by their names; `API.Name` where the name means something else elsewhere.
const KINDS: [(&str, Kind); 36] = [
    ("ClusterId", Kind::Bound("cluster")),
    ("TopicId", Kind::Bound("topic")),
    ("ProducerId", Kind::Bound("producer")),
    ("MemberId", Kind::Bound("member")),
    ("Leader", Kind::Bound("member")),
    ("SessionId", Kind::Bound("session")),
    ("Port", Kind::Bound("port")),
    ("NodeId", Kind::Bound("broker")),
    ("BrokerId", Kind::Bound("broker")),
    ("LeaderId", Kind::Bound("broker")),
    ("ControllerId", Kind::Bound("broker")),
    ("ReplicaNodes", Kind::Bound("broker")),
    ("IsrNodes", Kind::Bound("broker")),
    ("OfflineReplicas", Kind::Bound("broker")),
    ("EligibleLeaderReplicas", Kind::Bound("broker")),
    ("LastKnownElr", Kind::Bound("broker")),
    ("LogDir", Kind::Bound("directory")),
    ("LogAppendTimeMs", Kind::Clock),
    ("LastTimestamp", Kind::Clock),
    ("TransactionStartTimeMs", Kind::Clock),
    ("BaseTimestamp", Kind::Clock),
    ("MaxTimestamp", Kind::Clock),
    ("ListOffsets.Timestamp", Kind::Clock),
    ("TotalBytes", Kind::Amount),
    ("UsableBytes", Kind::Amount),
    ("FinalizedFeaturesEpoch", Kind::Amount),
    ("StartedAt", Kind::Clock),
    ("LastFetchTimestamp", Kind::Clock),
    ("LastCaughtUpTimestamp", Kind::Clock),
    ("DescribeQuorum.LeaderEpoch", Kind::Amount),
    ("DescribeQuorum.HighWatermark", Kind::Amount),
    ("DescribeQuorum.LogEndOffset", Kind::Amount),
    ("LocalTimestamp", Kind::Clock),
    ("OngoingTxnProducerId", Kind::Bound("producer")),
    ("SubscriptionId", Kind::Bound("subscription")),
    ("ClientInstanceId", Kind::Bound("client")),
];

/// Arrays that Kafka makes from hash maps or sets: their order says nothing. Elements are compared by these fields.
const KEYED: &[(&str, &[&str])] = &[
    ("AddPartitionsToTxn.ResultsByTopicV3AndBelow", &["Name"]),
    ("AddPartitionsToTxn.ResultsByTopicV3AndBelow.ResultsByPartition", &["PartitionIndex"]),
    ("AddPartitionsToTxn.ResultsByTransaction.TopicResults", &["Name"]),
    ("AddPartitionsToTxn.ResultsByTransaction.TopicResults.ResultsByPartition", &["PartitionIndex"]),
    ("ApiVersions.ApiKeys", &["ApiKey"]),
    ("ApiVersions.SupportedFeatures", &["Name"]),
    ("ApiVersions.FinalizedFeatures", &["Name"]),
    ("Metadata.Topics", &["Name"]),
    ("ListOffsets.Topics", &["Name"]),
    ("ListOffsets.Topics.Partitions", &["PartitionIndex"]),
    ("DeleteRecords.Topics", &["Name"]),
    ("DeleteRecords.Topics.Partitions", &["PartitionIndex"]),
    ("DescribeProducers.Topics.Partitions.ActiveProducers", &["ProducerEpoch", "LastSequence"]),
    ("WriteTxnMarkers.Markers.Topics", &["Name"]),
    ("WriteTxnMarkers.Markers.Topics.Partitions", &["PartitionIndex"]),
    ("CreateTopics.Topics", &["Name"]),
    ("CreateTopics.Topics.Configs", &["Name"]),
    ("DeleteTopics.Responses", &["Name"]),
    ("ConsumerGroupDescribe.Groups", &["GroupId"]),
    ("DeleteGroups.Results", &["GroupId"]),
    ("ElectLeaders.ReplicaElectionResults", &["Topic"]),
    ("CreatePartitions.Results", &["Name"]),
    ("DescribeConfigs.Results", &["ResourceType", "ResourceName"]),
    ("DescribeConfigs.Results.Configs", &["Name"]),
    ("DescribeLogDirs.Results.Topics", &["Name"]),
    ("DescribeLogDirs.Results.Topics.Partitions", &["PartitionIndex"]),
    ("DescribeGroups.Groups.Members", &["MemberId"]),
    ("JoinGroup.Members", &["MemberId"]),
    ("ListGroups.Groups", &["GroupId"]),
    ("ListTransactions.TransactionStates", &["TransactionalId"]),
    ("ListConfigResources.ConfigResources", &["ResourceType", "ResourceName"]),
    ("OffsetFetch.Topics", &["Name"]),
    ("OffsetFetch.Groups.Topics", &["Name"]),
    ("OffsetFetch.Topics.Partitions", &["PartitionIndex"]),
    ("OffsetFetch.Groups.Topics.Partitions", &["PartitionIndex"]),
    ("DescribeTransactions.TransactionStates.Topics", &["Topic"]),
];

/// Values that are no id, though they stand where one could.
fn is_constant(value: &Value) -> bool {
    match value {
        Value::Number(n) => n.as_i64().is_some_and(|n| n <= 0),
        Value::String(s) => s.trim_matches('0').is_empty(),
        _ => true,
    }
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Where, with the index of each array: `Topics[0].Name`.
    pub place: String,
    /// Where, without: `Topics.Name`; keys of keyed arrays stay.
    pub path: String,
    pub kafka: Value,
    pub chronik: Value,
}

/// What stands for what, over a whole run.
#[derive(Default)]
pub struct Bindings {
    kafkas: BTreeMap<(&'static str, String), Value>,
    chroniks: BTreeMap<(&'static str, String), Value>,
    began_ms: i64,
}

impl Bindings {
    pub fn new() -> Self {
        Bindings { began_ms: now_ms(), ..Bindings::default() }
    }

    fn agree(&mut self, kind: Kind, kafka: &Value, chronik: &Value) -> bool {
        match kind {
            Kind::Amount => [kafka, chronik].iter().all(|v| v.as_i64().is_some_and(|v| v >= 0)),
            Kind::Clock => {
                let run = self.began_ms - 1_000..=now_ms() + 1_000;
                [kafka, chronik].iter().all(|v| v.as_i64().is_some_and(|v| run.contains(&v)))
            }
            Kind::Bound(_) if is_constant(kafka) || is_constant(chronik) => false,
            Kind::Bound(sort) => {
                let (left, right) = ((sort, kafka.to_string()), (sort, chronik.to_string()));
                match (self.kafkas.get(&left), self.chroniks.get(&right)) {
                    (None, None) => {
                        self.kafkas.insert(left, chronik.clone());
                        self.chroniks.insert(right, kafka.clone());
                        true
                    }
                    (Some(bound), _) => bound == chronik,
                    (None, Some(_)) => false,
                }
            }
        }
    }

    /// What an element of an array is found by, where that is an id: Kafka's, if it is bound already.
    fn known_as(&self, at: &Place<'_>, field: &str, value: &Value, chroniks: bool) -> Option<Value> {
        let Some(Kind::Bound(sort)) = at.field(field).kind() else { return None };
        let id = (sort, value.to_string());
        let known = if chroniks {
            self.chroniks.get(&id).cloned()
        } else {
            self.kafkas.contains_key(&id).then(|| value.clone())
        };
        Some(known.unwrap_or_else(|| json!("(new)")))
    }

    /// All that differs between two answers of an API.
    pub fn differences(&mut self, api: &str, kafka: &Value, chronik: &Value) -> Vec<Difference> {
        let mut found = Vec::new();
        let at = Place { api, place: String::new(), schema: api.to_owned(), path: String::new() };
        self.walk(&at, kafka, chronik, &mut found);
        found
    }

    fn walk(&mut self, at: &Place<'_>, kafka: &Value, chronik: &Value, found: &mut Vec<Difference>) {
        match (kafka, chronik) {
            (Value::Object(left), Value::Object(right)) => {
                self.walk_named((left, right), |name| at.field(name), found);
            }
            (Value::Array(left), Value::Array(right)) => {
                match KEYED.iter().find(|(path, _)| *path == at.schema) {
                    Some((_, key)) => {
                        let left = by_key(left, key, |field, id| self.known_as(at, field, id, false));
                        let right = by_key(right, key, |field, id| self.known_as(at, field, id, true));
                        self.walk_named((&left, &right), |key| at.key(key), found);
                    }
                    None => {
                        let absent = json!("(absent)");
                        for n in 0..left.len().max(right.len()) {
                            let values = (left.get(n).unwrap_or(&absent), right.get(n).unwrap_or(&absent));
                            self.walk(&at.index(n), values.0, values.1, found);
                        }
                    }
                }
            }
            (left, right) => {
                let kind = at.kind();
                let bound = matches!(kind, Some(Kind::Bound(_))) && !is_constant(left) && !is_constant(right);
                // Equal ids are bound as well, or not equal later.
                let agree =
                    (left == right && !bound) || kind.is_some_and(|kind| self.agree(kind, left, right));
                if !agree {
                    let (place, path) = (at.place.clone(), at.path.clone());
                    found.push(Difference { place, path, kafka: left.clone(), chronik: right.clone() });
                }
            }
        }
    }

    fn walk_named<'p>(
        &mut self,
        (left, right): (&Map<String, Value>, &Map<String, Value>),
        at: impl Fn(&str) -> Place<'p>,
        found: &mut Vec<Difference>,
    ) {
        let absent = json!("(absent)");
        let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
        for name in names {
            let values = (left.get(name).unwrap_or(&absent), right.get(name).unwrap_or(&absent));
            self.walk(&at(name), values.0, values.1, found);
        }
    }
}

/// The elements by what they are found by; `known_as` says what stands for an id there.
fn by_key(
    elements: &[Value],
    key: &[&str],
    known_as: impl Fn(&str, &Value) -> Option<Value>,
) -> Map<String, Value> {
    let mut map = Map::new();
    for element in elements {
        let part = |name: &&str| {
            let value = known_as(name, &element[*name]).unwrap_or_else(|| element[*name].clone());
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        };
        let name = key.iter().map(part).collect::<Vec<_>>().join(",");
        let again = (1..).map(|n| if n == 1 { name.clone() } else { format!("{name}#{n}") });
        if let Some(free) = again.take(elements.len()).find(|name| !map.contains_key(name)) {
            map.insert(free, element.clone());
        }
    }
    map
}

struct Place<'a> {
    api: &'a str,
    place: String,
    /// With the API before it, and neither indices nor keys.
    schema: String,
    path: String,
}

impl Place<'_> {
    fn field(&self, name: &str) -> Self {
        let join =
            |before: &str| if before.is_empty() { name.to_owned() } else { format!("{before}.{name}") };
        Place { place: join(&self.place), schema: join(&self.schema), path: join(&self.path), ..*self }
    }

    fn index(&self, n: usize) -> Self {
        let place = format!("{}[{n}]", self.place);
        Place { place, schema: self.schema.clone(), path: self.path.clone(), ..*self }
    }

    fn key(&self, key: &str) -> Self {
        let (place, path) = (format!("{}[{key}]", self.place), format!("{}[{key}]", self.path));
        Place { place, schema: self.schema.clone(), path, ..*self }
    }

    fn kind(&self) -> Option<Kind> {
        let name = self.schema.rsplit('.').next()?;
        let of_api = KINDS.iter().find(|(field, _)| *field == format!("{}.{name}", self.api));
        of_api.or_else(|| KINDS.iter().find(|(field, _)| *field == name)).map(|(_, kind)| *kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differ(bindings: &mut Bindings, kafka: Value, chronik: Value) -> usize {
        bindings.differences("Metadata", &kafka, &chronik).len()
    }

    #[test]
    fn ids_are_bound_to_each_other() {
        let mut bindings = Bindings::new();
        assert_eq!(differ(&mut bindings, json!({"TopicId": "aa"}), json!({"TopicId": "bb"})), 0);
        assert_eq!(differ(&mut bindings, json!({"TopicId": "aa"}), json!({"TopicId": "bb"})), 0);
        assert_eq!(differ(&mut bindings, json!({"TopicId": "aa"}), json!({"TopicId": "cc"})), 1);
        assert_eq!(differ(&mut bindings, json!({"TopicId": "dd"}), json!({"TopicId": "bb"})), 1);
        assert_eq!(differ(&mut bindings, json!({"TopicId": "bb"}), json!({"TopicId": "bb"})), 1);
        assert_eq!(differ(&mut bindings, json!({"TopicId": "00"}), json!({"TopicId": "bb"})), 1);
    }

    #[test]
    fn hash_maps_have_no_order_and_lists_have() {
        let mut bindings = Bindings::new();
        let topics = |names: [&str; 2]| json!({"Topics": [{"Name": names[0]}, {"Name": names[1]}]});
        assert_eq!(differ(&mut bindings, topics(["a", "b"]), topics(["b", "a"])), 0);
        assert_eq!(differ(&mut bindings, topics(["a", "b"]), topics(["b", "c"])), 2);
        assert_eq!(differ(&mut bindings, json!({"X": [1, 2]}), json!({"X": [2, 1]})), 2);
        assert_eq!(differ(&mut bindings, json!({"X": [1]}), json!({"X": [1, 2]})), 1);
    }

    #[test]
    fn elements_are_found_by_the_ids_that_are_bound() {
        let mut bindings = Bindings::new();
        let mut differ = |kafka: [&str; 2], chronik: [&str; 2]| {
            let members =
                |ids: [&str; 2]| json!({"Members": ids.map(|id| json!({"MemberId": id, "Metadata": ""}))});
            bindings.differences("JoinGroup", &members(kafka), &members(chronik)).len()
        };
        assert_eq!(differ(["a", "b"], ["1", "2"]), 0, "new ones are taken in their order");
        assert_eq!(differ(["b", "a"], ["1", "2"]), 0);
        assert_eq!(differ(["b", "c"], ["3", "2"]), 0);
        assert_eq!(differ(["a", "b"], ["1", "3"]), 2);
    }

    #[test]
    fn what_is_left_out_differs_from_a_default() {
        let mut bindings = Bindings::new();
        assert_eq!(differ(&mut bindings, json!({}), json!({"X": 0})), 1);
        assert_eq!(differ(&mut bindings, json!({"X": null}), json!({"X": ""})), 1);
    }
}
