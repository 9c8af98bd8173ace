//! The differences that stay, and why.

use serde_json::Value;

use crate::normal::Difference;
use crate::schema::Versions;

/// Differences of an API at a path.
pub struct Rule {
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
    Rule { api, versions: ALL, path, case: "*", values, why }
}

/// A rule of cases with such a name only.
const fn in_case(case: &'static str, rule: Rule) -> Rule {
    Rule { case, ..rule }
}

/// What stands where one of them has a field, an element or a setting that the other has not.
const ABSENT: &str = "\"(absent)\"";
const TEXT: &str = "\"*\"";

const OF_A_DELETED_RECORD: &str = "asked for the greatest time, Kafka tells of a record that is deleted";

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
    allowed(
        "ApiVersions",
        "ApiKeys[*].MaxVersion",
        ["*", "*"],
        "a version that the codec's library does not have yet",
    ),
    allowed(
        "ApiVersions",
        "*Features[*]",
        ["*", ABSENT],
        "Kafka's metadata, replicas, share groups and groups of Streams: Chronik has none of them",
    ),
    allowed(
        "ApiVersions",
        "SupportedFeatures",
        ["*", ABSENT],
        "below version 4, where features whose lowest level is 0 are not told, Kafka's metadata is all that is left",
    ),
    allowed(
        "*",
        "*ErrorCode",
        ["-1", "42"],
        "Kafka's server trips over it; Chronik says that the request is invalid",
    ),
    Rule {
        case: "batches*",
        ..allowed(
            "Produce",
            "*ErrorCode",
            ["-1", "76"],
            "a codec that there is not: Kafka's server trips over it",
        )
    },
    Rule {
        case: "batches*",
        ..allowed(
            "Produce",
            "*ErrorCode",
            ["-1", "87"],
            "records that are not what they say they are compressed with: Kafka's server trips over them",
        )
    },
    Rule {
        case: "batches*",
        ..allowed(
            "Fetch",
            "*Records.Attributes",
            ["64", "0"],
            "the delete horizon is the cleaner's: what a producer says of it is taken out",
        )
    },
    Rule {
        case: "some b*",
        ..allowed(
            "Fetch",
            "*Records",
            ["{\"Part\":*", ABSENT],
            "only whole batches are sent; a part of one is of no use to a consumer",
        )
    },
    Rule {
        case: "mutated: SessionId *",
        ..allowed(
            "Fetch",
            "*",
            ["*", "*"],
            "Kafka's server trips over ids that are in none of its shards; Chronik has a session of any id, or has it not",
        )
    },
    Rule {
        case: "deleted: *",
        ..allowed("ListOffsets", "Topics[deleted-*.Offset", ["2", "*"], OF_A_DELETED_RECORD)
    },
    Rule {
        case: "deleted: *",
        ..allowed("ListOffsets", "Topics[deleted-*.Timestamp", ["*", "-1"], OF_A_DELETED_RECORD)
    },
    Rule {
        case: "deleted: *",
        ..allowed("ListOffsets", "Topics[deleted-*.LeaderEpoch", ["0", "-1"], OF_A_DELETED_RECORD)
    },
    Rule {
        case: "mutated: Topics null",
        ..allowed(
            "DescribeLogDirs",
            "Results.Topics[plain].Partitions[1].PartitionSize",
            ["*", "0"],
            "what is deleted takes no space any more; in Kafka it does until its segment goes",
        )
    },
    allowed(
        "DescribeTopicPartitions",
        "Topics.ErrorCode",
        ["-1", "17"],
        "no topic's name: Kafka's server trips over it",
    ),
    allowed(
        "DescribeTopicPartitions",
        "Topics.TopicAuthorizedOperations",
        ["-2147483648", "*"],
        "beside no topic's name: Kafka's server trips over it",
    ),
    allowed(
        "WriteTxnMarkers",
        "Markers.Topics*.ErrorCode",
        ["-1", "47"],
        "an epoch that no producer has: Kafka's server trips over it",
    ),
    allowed(
        "WriteTxnMarkers",
        "Markers.Topics*.ErrorCode",
        ["0", "42"],
        "a marker that ends nobody's transaction",
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
