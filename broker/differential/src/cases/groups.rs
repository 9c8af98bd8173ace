//! FindCoordinator, and groups without members: offsets, lists, what nobody is a member of.

use anyhow::Result;
use serde_json::{Value, json};

use super::{Case, Scenario, case, json_with, sample};
use crate::pair::Pair;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { api: "OffsetCommit", name: "offsets of no members", run: offsets },
    Scenario { api: "OffsetDelete", name: "offsets deleted", run: offsets_deleted },
];

/// A member's request to join, in a group of its own. No time of it is over before the run is.
pub fn join(group: &str, member: &str) -> Value {
    json!({
        "GroupId": group, "SessionTimeoutMs": 300_000, "RebalanceTimeoutMs": 300_000, "MemberId": member,
        "ProtocolType": "consumer", "Protocols": [{"Name": "range", "Metadata": "0001"}],
    })
}

pub fn cases() -> Vec<Case> {
    [coordinators(), offsets_of(), members(), lists()].into_iter().flatten().collect()
}

fn coordinators() -> Vec<Case> {
    vec![
        sample("FindCoordinator", json!({"Key": "somebody"})),
        sample("FindCoordinator", json!({"CoordinatorKeys": ["somebody", "anybody"]})),
        case("FindCoordinator", "of a transaction", json!({"Key": "somebody", "KeyType": 1})),
        case("FindCoordinator", "of transactions", json!({"CoordinatorKeys": ["a", "b"], "KeyType": 1})),
        case("FindCoordinator", "of a share group", json!({"CoordinatorKeys": ["a:b:0"], "KeyType": 2})),
        case("FindCoordinator", "of nothing there is", json!({"CoordinatorKeys": ["a"], "KeyType": 9})),
        case("FindCoordinator", "of none", json!({"CoordinatorKeys": []})),
        case("FindCoordinator", "twice", json!({"CoordinatorKeys": ["a", "a"]})),
    ]
}

pub fn committed(group: &str, topic: &str, partition: i32, offset: i64) -> Value {
    json!({"GroupId": group, "Topics": [{"Name": topic, "TopicId": format!("${topic}"), "Partitions": [
        {"PartitionIndex": partition, "CommittedOffset": offset, "CommittedMetadata": "m"},
    ]}]})
}

fn offsets_of() -> Vec<Case> {
    let fetch = |group: &str, topics: Value| json!({"GroupId": group, "Topics": topics});
    let fetches = |groups: Value| json!({"Groups": groups});
    let plain = json!([{"Name": "plain", "TopicId": "$plain", "PartitionIndexes": [0, 1, 2, 9]}]);
    let older = json!([{"Name": "plain", "PartitionIndexes": [0, 1, 2, 9]}]);
    let strange = json!([{"Name": "nobody-knows", "PartitionIndexes": [0]}]);
    vec![
        sample("OffsetFetch", fetch("committed", older.clone())),
        sample("OffsetFetch", fetches(json!([{"GroupId": "committed", "Topics": plain}]))),
        case("OffsetFetch", "all", fetch("committed", Value::Null)),
        case("OffsetFetch", "none", fetch("committed", json!([]))),
        case("OffsetFetch", "an unknown group", fetch("nobody-knows", older)),
        case("OffsetFetch", "all of an unknown group", fetch("nobody-knows", Value::Null)),
        case("OffsetFetch", "an unknown topic", fetch("committed", strange.clone())),
        case(
            "OffsetFetch",
            "several groups",
            fetches(json!([
                {"GroupId": "committed", "Topics": null},
                {"GroupId": "nobody-knows", "Topics": null},
                {"GroupId": "", "Topics": null},
                {"GroupId": "committed", "Topics": strange},
            ])),
        ),
        case(
            "OffsetFetch",
            "for an unknown member",
            fetches(
                json!([{"GroupId": "committed", "MemberId": "nobody", "MemberEpoch": 3, "Topics": null}]),
            ),
        ),
        case("OffsetFetch", "stable", {
            json!({"Groups": [{"GroupId": "committed", "Topics": null}], "RequireStable": true})
        }),
        sample("OffsetCommit", committed("sample-{n}", "plain", 0, 3)),
        case("OffsetCommit", "nothing", json!({"GroupId": "nothing"})),
        case(
            "OffsetCommit",
            "no such topic",
            json!({"GroupId": "strange", "Topics": [
                {"Name": "nobody-knows", "TopicId": "7".repeat(32), "Partitions": [{"PartitionIndex": 0, "CommittedOffset": 1}]},
            ]}),
        ),
        case("OffsetCommit", "no such partition", committed("strange", "plain", 9, 3)),
        case("OffsetCommit", "long metadata", {
            let mut body = committed("long", "plain", 0, 3);
            body["Topics"][0]["Partitions"][0]["CommittedMetadata"] = json!("x".repeat(5_000));
            body
        }),
        case(
            "OffsetCommit",
            "kept for a time",
            json_with(committed("kept", "plain", 0, 3), &json!({"RetentionTimeMs": 60_000})),
        ),
        case("OffsetCommit", "with a generation", {
            let member = json!({"GenerationIdOrMemberEpoch": 4, "MemberId": "nobody"});
            json_with(committed("generation", "plain", 0, 3), &member)
        }),
    ]
}

fn members() -> Vec<Case> {
    let sync = json!({"GroupId": "nobody-knows", "GenerationId": 1, "MemberId": "nobody"});
    vec![
        sample("JoinGroup", join("join-{n}", "")),
        case("JoinGroup", "an unknown member", join("join-{n}", "nobody")),
        case("JoinGroup", "no group", join("", "")),
        case(
            "JoinGroup",
            "no protocols",
            json!({"GroupId": "join-{n}", "SessionTimeoutMs": 10_000, "ProtocolType": "consumer"}),
        ),
        case(
            "JoinGroup",
            "too short a session",
            json_with(join("join-{n}", ""), &json!({"SessionTimeoutMs": 10})),
        ),
        case(
            "JoinGroup",
            "too long a session",
            json_with(join("join-{n}", ""), &json!({"SessionTimeoutMs": i32::MAX})),
        ),
        case(
            "JoinGroup",
            "an empty instance id",
            json_with(join("join-{n}", ""), &json!({"GroupInstanceId": ""})),
        ),
        sample("SyncGroup", sync.clone()),
        sample("Heartbeat", sync),
        sample("LeaveGroup", json!({"GroupId": "nobody-knows", "MemberId": "nobody"})),
        sample("LeaveGroup", json!({"GroupId": "nobody-knows", "Members": [{"MemberId": "nobody"}]})),
        case("LeaveGroup", "nobody at all", json!({"GroupId": "nobody-knows", "Members": []})),
        case(
            "LeaveGroup",
            "a static one",
            json!({"GroupId": "committed", "Members": [{"MemberId": "", "GroupInstanceId": "i"}]}),
        ),
    ]
}

fn lists() -> Vec<Case> {
    vec![
        sample("DescribeGroups", json!({"Groups": ["nobody-knows"], "IncludeAuthorizedOperations": true})),
        case("DescribeGroups", "several", json!({"Groups": ["committed", "", "nobody-knows", "committed"]})),
        case(
            "DescribeGroups",
            "with operations",
            json!({"Groups": ["committed"], "IncludeAuthorizedOperations": true}),
        ),
        sample("ListGroups", json!({})),
        case("ListGroups", "empty ones", json!({"StatesFilter": ["Empty"]})),
        case("ListGroups", "in any letters", json!({"StatesFilter": ["eMPTY", "stable"]})),
        case("ListGroups", "states there are not", json!({"StatesFilter": ["Sleepy"]})),
        case("ListGroups", "classic ones", json!({"TypesFilter": ["classic"]})),
        case("ListGroups", "in any letters, types", json!({"TypesFilter": ["ClassIC"]})),
        case("ListGroups", "consumer ones", json!({"TypesFilter": ["consumer"]})),
        case("ListGroups", "types there are not", json!({"TypesFilter": ["modern"]})),
        sample("DeleteGroups", json!({"GroupsNames": ["nobody-knows"]})),
        case("DeleteGroups", "several", json!({"GroupsNames": ["kept", "nobody-knows", "", "kept"]})),
        case("DeleteGroups", "none", json!({"GroupsNames": []})),
        sample(
            "OffsetDelete",
            json!({"GroupId": "nobody-knows", "Topics": [{"Name": "plain", "Partitions": [{"PartitionIndex": 0}]}]}),
        ),
    ]
}

fn offsets(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let group = format!("offsets-{v}");
    let fetch = |group: &str| json!({"Groups": [{"GroupId": group, "Topics": null}]});
    for (partition, offset) in [(0, 4), (1, 0), (0, 9), (2, -1), (2, i64::MAX), (9, 1)] {
        pair.ask("OffsetCommit", v, committed(&group, "plain", partition, offset))?;
        pair.ask("OffsetFetch", 9, fetch(&group))?;
    }
    pair.ask("DescribeGroups", i16::MAX, json!({"Groups": [group]}))?;
    pair.ask("DeleteGroups", i16::MAX, json!({"GroupsNames": [group]}))?;
    pair.ask("DescribeGroups", 5, json!({"Groups": [group]}))?;
    pair.ask("OffsetFetch", 9, fetch(&group))?;
    Ok(())
}

fn offsets_deleted(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let group = format!("thinned-{v}");
    for partition in 0..3 {
        pair.ask("OffsetCommit", 9, committed(&group, "plain", partition, 1))?;
    }
    let delete = |partitions: &[i32]| {
        let partitions: Vec<Value> = partitions.iter().map(|p| json!({"PartitionIndex": p})).collect();
        json!({"GroupId": group, "Topics": [{"Name": "plain", "Partitions": partitions}]})
    };
    for partitions in [&[0][..], &[0, 9], &[], &[1, 2], &[1]] {
        pair.ask("OffsetDelete", v, delete(partitions))?;
        pair.ask("OffsetFetch", 9, json!({"Groups": [{"GroupId": group, "Topics": null}]}))?;
    }
    Ok(())
}
