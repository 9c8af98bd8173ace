//! The differences that are known: those that are meant, and those that are to be mended.

use serde_json::Value;

use crate::normal::Difference;
use crate::schema::Versions;

/// What becomes of a difference.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It stays.
    Allowed,
    /// It goes; until then it is known.
    Open,
}

/// Differences of an API at a path.
pub struct Rule {
    pub standing: Standing,
    /// `*` stands for any text.
    pub api: &'static str,
    pub versions: Versions,
    /// As in [`Difference::path`]; `*` stands for any text.
    pub path: &'static str,
    /// Of cases with such a name; `*` stands for any text.
    pub case: &'static str,
    /// Which values: as JSON, Kafka's and Chronik's; `*` stands for any text.
    pub values: [&'static str; 2],
    pub why: &'static str,
}

const ALL: Versions = Versions(0, i16::MAX);

const fn allowed(
    api: &'static str,
    path: &'static str,
    values: [&'static str; 2],
    why: &'static str,
) -> Rule {
    Rule { standing: Standing::Allowed, api, versions: ALL, path, case: "*", values, why }
}

/// A rule of cases with such a name only.
const fn in_case(case: &'static str, rule: Rule) -> Rule {
    Rule { case, ..rule }
}

const fn open(
    api: &'static str,
    path: &'static str,
    case: &'static str,
    values: [&'static str; 2],
    why: &'static str,
) -> Rule {
    Rule { standing: Standing::Open, api, versions: ALL, path, case, values, why }
}

/// What stands where one of them has a field, an element or a setting that the other has not.
const ABSENT: &str = "\"(absent)\"";
const TEXT: &str = "\"*\"";

/// All of them. The first that fits decides. One that nothing needs any more fails the run.
pub const RULES: &[Rule] = &[
    allowed("*", "*ErrorMessage", [TEXT, TEXT], "a text for people, and both have one"),
    allowed("ApiVersions", "ApiKeys[*]", ["*", ABSENT], "only what is served is advertised"),
    allowed(
        "DescribeConfigs",
        "Results[*].Configs[*]",
        ["*", ABSENT],
        "settings that nothing here acts on are not told",
    ),
    allowed(
        "CreateTopics",
        "Topics[*].Configs[*]",
        ["*", ABSENT],
        "settings that nothing here acts on are not told",
    ),
    allowed("DescribeConfigs", "Results[*].Configs[chronik.*]", [ABSENT, "*"], "Chronik's own settings"),
    allowed("CreateTopics", "Topics[*].Configs[chronik.*]", [ABSENT, "*"], "Chronik's own settings"),
    allowed("DescribeConfigs", "*.Documentation", [TEXT, TEXT], "a text for people, and both have one"),
    allowed("*", "", ["\"(silent)\"", "*"], "Kafka's handler throws and never answers"),
    allowed("*", "*ErrorMessage", ["null", TEXT], "Chronik says more about what it refuses"),
    allowed(
        "DescribeConfigs",
        "Results[4,1].Configs[listener*",
        ["*", "*"],
        "Kafka has its controller's listener there, and protocols that are not here; Chronik's are fixed",
    ),
    allowed(
        "DescribeConfigs",
        "Results[4,1].Configs[max.connections].Value",
        ["*", "*"],
        "Chronik has a limit from the start",
    ),
    allowed(
        "DescribeConfigs",
        "Results[4,1].Configs[group.coordinator.rebalance.protocols].Value",
        ["*streams*", "*"],
        "there are no groups of that protocol here",
    ),
    allowed(
        "DescribeConfigs",
        "Results[4,1].Configs[group.consumer.regex.refresh.interval.ms]",
        [ABSENT, "*"],
        "Kafka has this setting, and does not tell of it",
    ),
    allowed(
        "DescribeConfigs",
        "Results[4,1].Configs[log.*",
        ["*", "*"],
        "defaults and what can be altered live are Chronik's own",
    ),
    allowed(
        "DescribeConfigs",
        "Results[4,1].Configs[*.replication.factor].ConfigSource",
        ["4", "5"],
        "Kafka is started with this setting, Chronik needs it not",
    ),
    allowed(
        "DescribeConfigs",
        "Results[4,1].Configs[broker.id].ConfigSource",
        ["4", "5"],
        "Kafka is started with this setting, Chronik needs it not",
    ),
    allowed(
        "DescribeQuorum",
        "Nodes.Listeners.*",
        ["*", "*"],
        "Kafka's controller has a listener of its own",
    ),
    allowed(
        "DescribeQuorum",
        "*.ReplicaDirectoryId",
        ["*", "*"],
        "Kafka is started with voters that have none",
    ),
    allowed(
        "*",
        "*.Configs[min.insync.replicas].ConfigSource",
        ["3", "5"],
        "the same value: Kafka's format writes it down for the whole cluster (ELR)",
    ),
    allowed(
        "DescribeConfigs",
        "*.Configs[retention.ms].Synonyms",
        [ABSENT, "*"],
        "Kafka's default is in hours, and it leaves that synonym out",
    ),
    in_case(
        "a value with spaces",
        allowed(
            "CreateTopics",
            "Topics[*].Configs[*].Value",
            [TEXT, TEXT],
            "spaces around a value are not kept",
        ),
    ),
    in_case(
        "compressed by the broker",
        allowed(
            "CreateTopics",
            "Topics[*",
            ["*", "*"],
            "batches stay as their producer compressed them, and who wants them otherwise is told so",
        ),
    ),
    allowed(
        "IncrementalAlterConfigs",
        "Responses.ErrorCode",
        ["-1", "42"],
        "Kafka's server fails at an operation that there is not",
    ),
    allowed(
        "ListGroups",
        "Groups[long]",
        ["*", ABSENT],
        "a commit that is refused makes no group; Kafka has one until it next cleans up",
    ),
    allowed(
        "DescribeLogDirs",
        "Results.Topics[__*",
        ["*", "*"],
        "the records of internal topics are each server's own",
    ),
    open("ApiVersions", "ApiKeys[*].MaxVersion", "*", ["*", "*"], "versions newer than the codec"),
    open(
        "ApiVersions",
        "*Features[*]",
        "*",
        ["*", ABSENT],
        "features that Kafka has and Chronik does not tell of",
    ),
    open(
        "ApiVersions",
        "SupportedFeatures[transaction.version]",
        "*",
        [ABSENT, "*"],
        "Kafka leaves out features whose lowest level is 0 below version 4",
    ),
    open(
        "DescribeLogDirs",
        "Results.Topics[*",
        "mutated: *",
        ["*", "*"],
        "topics that only one created, and partitions asked for twice",
    ),
    open(
        "DescribeTopicPartitions",
        "Topics*",
        "*",
        ["*", "*"],
        "topics that only one created; names that cannot be",
    ),
    open(
        "DeleteRecords",
        "Topics*",
        "mutated: *twice",
        ["*", "*"],
        "what is asked for twice is answered once",
    ),
    open(
        "DescribeProducers",
        "Topics.Partitions.*",
        "*",
        ["*", "*"],
        "LastTimestamp is the records' time; unknown producers; invalid names",
    ),
    open("Fetch", "*Error*", "mutated: IsolationLevel*", ["*", "*"], "an isolation level that there is not"),
    open(
        "Fetch",
        "*Responses*",
        "mutated: IsolationLevel*",
        ["*", "*"],
        "an isolation level that there is not",
    ),
    open("Fetch", "*ErrorCode", "mutated: *", ["*", "*"], "negative sizes, and what they answer"),
    open("Fetch", "*SessionId", "mutated: *", ["*", "*"], "a session that there is not"),
    open("Fetch", "NodeEndpoints", "*", ["*", "*"], "a replica is not told where the leader is"),
    open("Fetch", "Responses*", "no such topic", ["*", "*"], "refused partitions come last"),
    open("Fetch", "Responses*", "mutated: *", ["*", "*"], "negative sizes, and what they answer"),
    open("Fetch", "Responses*AbortedTransactions", "*", ["[]", "null"], "beside an error"),
    open("Fetch", "Responses*Records", "some b*", ["*", ABSENT], "a batch that is cut by the limit"),
    open("Fetch", "Responses*", "batches*", ["*", "*"], "follows from what only one of them took before"),
    open("Fetch", "Responses*", "idempotent*", ["*", "*"], "follows from what only one of them took before"),
    open("ListOffsets", "Topics*", "*twice", [ABSENT, "*"], "a partition twice is answered once"),
    open(
        "ListOffsets",
        "Topics*",
        "mutated: *",
        ["*", "*"],
        "negative epochs, and isolation levels that there are not",
    ),
    open("ListOffsets", "Topics*", "decided only", ["*", "*"], "the order of partitions"),
    open(
        "ListOffsets",
        "Topics*",
        "deleted: *",
        ["*", "*"],
        "the greatest time where several records have it, and where all are deleted",
    ),
    open(
        "ListOffsets",
        "Topics*Offset",
        "without an answer: *",
        ["*", "*"],
        "markers that only one of them took before",
    ),
    open("Metadata", "*ErrorCode", "mutated: Topics.Name null", ["-1", "42"], "neither a name nor an id"),
    open("OffsetForLeaderEpoch", "Topics.Partitions.*", "mutated: *", ["*", "*"], "negative epochs"),
    open("Produce", "Responses*", "*twice*", ["*", "*"], "a partition twice in a request is answered once"),
    open(
        "Produce",
        "Responses*BaseOffset",
        "*",
        ["*", "*"],
        "follows from what only one of them took before",
    ),
    open("Produce", "Responses*LogStartOffset", "*", ["0", "-1"], "the log start beside an error"),
    open("Produce", "Responses*RecordErrors", "*", ["*", ABSENT], "which record of a batch was refused"),
    open(
        "Produce",
        "Responses*ErrorCode",
        "batches*",
        ["*", "*"],
        "attributes that no producer sets, broken gzip, and the codec 5",
    ),
    open("Produce", "Responses*ErrorCode", "idempotent*", ["0", "87"], "a producer epoch of -1"),
    open(
        "Produce",
        "Responses*ErrorCode",
        "idempotent*",
        ["53", "48"],
        "a transaction's batch of a producer without one",
    ),
    open(
        "WriteTxnMarkers",
        "Markers*",
        "*",
        ["*", "*"],
        "duplicates once, negative producers, the order of results",
    ),
];

/// The rule of a difference.
pub fn find(api: &str, version: i16, case: &str, difference: &Difference) -> Option<usize> {
    RULES.iter().position(|rule| {
        let value = |pattern: &str, value: &Value| glob(pattern, &value.to_string());
        glob(rule.api, api)
            && rule.versions.contains(version)
            && glob(rule.path, &difference.path)
            && glob(rule.case, case)
            && value(rule.values[0], &difference.kafka)
            && value(rule.values[1], &difference.chronik)
    })
}

/// Whether a text is as a pattern says, in which `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(before) else { return false };
    let starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    rest.is_empty() || starts.into_iter().any(|at| glob(rest, &text[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        assert!(glob("*", "") && glob("a*", "a") && glob("*b", "ab") && glob("a*c*e", "abcde"));
        assert!(!glob("a*", "ba") && !glob("*b", "abc") && !glob("", "a") && !glob("a*c*e", "abced"));
    }
}
