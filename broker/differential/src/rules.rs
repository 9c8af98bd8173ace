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
        "Results[4,1].Configs[listeners].*",
        ["*", "*"],
        "Kafka has its controller's listener there; Chronik's are fixed",
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
    open(
        "AddPartitionsToTxn",
        "Results*",
        "*",
        ["*", "*"],
        "errors first, each partition once, and TRANSACTION_ABORTABLE for what a transaction lacks",
    ),
    open(
        "*lterConfigs",
        "Responses.ErrorCode",
        "mutated: Resources.ResourceName empty",
        ["42", "17"],
        "no topic's name is an invalid request",
    ),
    open(
        "IncrementalAlterConfigs",
        "Responses.Error*",
        "*",
        ["*", "*"],
        "unknown operations, fixed settings, an empty cleanup.policy",
    ),
    open(
        "CreateTopics",
        "Topics[*].Configs[min.insync.replicas].ConfigSource",
        "*",
        ["3", "5"],
        "Kafka sets it for the cluster when it is formatted (ELR)",
    ),
    open(
        "DescribeConfigs",
        "*.Configs[min.insync.replicas].ConfigSource",
        "*",
        ["3", "5"],
        "Kafka sets it for the cluster when it is formatted (ELR)",
    ),
    open(
        "CreateTopics",
        "Topics[col_lides-*",
        "collides",
        ["*", "*"],
        "names that collide within one request",
    ),
    open(
        "CreateTopics",
        "Topics[*",
        "*setting*",
        ["*", "*"],
        "a setting twice, an empty cleanup.policy, compression.type",
    ),
    open("CreateTopics", "Topics[sample-*", "mutated: Topics.Configs twice", ["*", "*"], "a setting twice"),
    open(
        "ListConfigResources",
        "ConfigResources[2,*]",
        "*",
        ["*", ABSENT],
        "topics that only Kafka created before",
    ),
    open("ListConfigResources", "ConfigResources[8,1]", "*", ["*", ABSENT], "broker loggers"),
    open("DeleteGroups", "Results.*", "several", ["*", "*"], "the order of results"),
    open("DeleteTopics", "Responses[*", "*", ["*", "*"], "duplicates, and an unknown id without a name"),
    open("DescribeConfigs", "*.Synonyms", "*", ["*", "*"], "a default that Kafka has no synonym for"),
    open(
        "DescribeConfigs",
        "*[cleanup.policy].Value",
        "after a change",
        ["*", "*"],
        "the order after an append",
    ),
    open("DescribeGroups", "Groups.Members*", "two members*", ["*", "*"], "the order of members"),
    open("JoinGroup", "Members*", "two members*", ["*", "*"], "the order of members"),
    open("FindCoordinator", "*ErrorCode", "*", ["42", "-1"], "a kind of key that there is not"),
    open(
        "ListGroups",
        "Groups[*",
        "*",
        ["*", "*"],
        "groups of members that never came back, and a group whose only commit was refused",
    ),
    open("OffsetDelete", "*", "*", ["*", "*"], "a group without such topics, and the order of results"),
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
