//! APIs that every broker answers in a word or two. What only one of the two serves is left out, so that new ones are compared
//! from the day they are advertised.

use serde_json::{Value, json};

use super::{Case, case, sample};

pub fn cases() -> Vec<Case> {
    [security(), replicas(), features(), consumers()].into_iter().flatten().collect()
}

fn security() -> Vec<Case> {
    let anything = json!({"ResourceTypeFilter": 1, "ResourceNameFilter": null, "PatternTypeFilter": 1,
        "PrincipalFilter": null, "HostFilter": null, "Operation": 1, "PermissionType": 1});
    vec![
        sample("SaslHandshake", json!({"Mechanism": "PLAIN"})),
        sample("DescribeUserScramCredentials", json!({"Users": [{"Name": "somebody"}]})),
        case("DescribeUserScramCredentials", "all", json!({"Users": null})),
        case("DescribeUserScramCredentials", "twice", json!({"Users": [{"Name": "a"}, {"Name": "a"}]})),
        sample("DescribeAcls", anything.clone()),
        sample("DeleteAcls", json!({"Filters": [anything]})),
        sample(
            "CreateAcls",
            json!({"Creations": [{"ResourceType": 2, "ResourceName": "plain", "ResourcePatternType": 3,
                "Principal": "User:somebody", "Host": "*", "Operation": 3, "PermissionType": 3}]}),
        ),
        sample("DescribeClientQuotas", json!({"Components": [], "Strict": false})),
    ]
}

fn replicas() -> Vec<Case> {
    let elect = |topics: Value| json!({"TopicPartitions": topics, "TimeoutMs": 10_000});
    let some = json!([{"Topic": "plain", "Partitions": [0]}]);
    let reassign = |replicas: Value| {
        json!({"TimeoutMs": 10_000, "Topics": [{"Name": "plain", "Partitions": [
            {"PartitionIndex": 0, "Replicas": replicas},
        ]}]})
    };
    vec![
        sample("ElectLeaders", elect(some.clone())),
        case("ElectLeaders", "all", elect(Value::Null)),
        case(
            "ElectLeaders",
            "unclean",
            json!({"ElectionType": 1, "TopicPartitions": some, "TimeoutMs": 10_000}),
        ),
        sample("AlterPartitionReassignments", reassign(json!([1]))),
        case("AlterPartitionReassignments", "cancelled", reassign(Value::Null)),
        case("AlterPartitionReassignments", "to nobody", reassign(json!([99]))),
        sample(
            "ListPartitionReassignments",
            json!({"TimeoutMs": 10_000, "Topics": [{"Name": "plain", "PartitionIndexes": [0]}]}),
        ),
        case("ListPartitionReassignments", "all", json!({"TimeoutMs": 10_000, "Topics": null})),
        sample(
            "AlterReplicaLogDirs",
            json!({"Dirs": [{"Path": "/nowhere", "Topics": [{"Name": "plain", "Partitions": [0]}]}]}),
        ),
    ]
}

fn features() -> Vec<Case> {
    let update = |feature: &str, level: i16, kind: i8| {
        let update = json!({"Feature": feature, "MaxVersionLevel": level, "UpgradeType": kind});
        json!({"timeoutMs": 10_000, "ValidateOnly": true, "FeatureUpdates": [update]})
    };
    vec![
        sample(
            "DescribeQuorum",
            json!({"Topics": [{"TopicName": "__cluster_metadata", "Partitions": [{"PartitionIndex": 0}]}]}),
        ),
        sample(
            "UpdateFeatures",
            json!({"timeoutMs": 10_000, "FeatureUpdates": [
                {"Feature": "nobody.knows", "MaxVersionLevel": 1, "AllowDowngrade": false},
            ]}),
        ),
        sample("UpdateFeatures", update("nobody.knows", 1, 1)),
        case("UpdateFeatures", "what is", update("transaction.version", 2, 1)),
        case("UpdateFeatures", "more than there is", update("transaction.version", 9, 1)),
        case("UpdateFeatures", "less, and called more", update("transaction.version", 1, 1)),
        case("UpdateFeatures", "more, and called less", update("transaction.version", 9, 2)),
        case("UnregisterBroker", "nobody", json!({"BrokerId": 99})),
        sample("GetTelemetrySubscriptions", json!({"ClientInstanceId": "0".repeat(32)})),
        sample(
            "PushTelemetry",
            json!({"ClientInstanceId": "6".repeat(32), "SubscriptionId": 5, "Metrics": ""}),
        ),
    ]
}

fn consumers() -> Vec<Case> {
    vec![
        case(
            "ConsumerGroupHeartbeat",
            "an unknown member",
            json!({"GroupId": "consumers", "MemberId": "nobody", "MemberEpoch": 3}),
        ),
        case(
            "ConsumerGroupHeartbeat",
            "no group",
            json!({"GroupId": "", "MemberId": "nobody", "MemberEpoch": 0}),
        ),
        case(
            "ConsumerGroupHeartbeat",
            "no topics",
            json!({"GroupId": "consumers", "MemberId": "m", "MemberEpoch": 0}),
        ),
        case(
            "ConsumerGroupHeartbeat",
            "an unknown assignor",
            json!({"GroupId": "consumers", "MemberId": "m", "MemberEpoch": 0, "RebalanceTimeoutMs": 5_000,
                "SubscribedTopicNames": ["plain"], "TopicPartitions": [], "ServerAssignor": "nonsense"}),
        ),
        sample(
            "ConsumerGroupDescribe",
            json!({"GroupIds": ["committed"], "IncludeAuthorizedOperations": true}),
        ),
        case("ConsumerGroupDescribe", "unknown", json!({"GroupIds": ["nobody-knows", ""]})),
    ]
}
