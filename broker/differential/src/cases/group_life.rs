//! Classic groups with members: who joins, leaves, is late, or comes back.

use anyhow::Result;
use serde_json::{Value, json};

use super::groups::{committed, join};
use super::{Scenario, json_with};
use crate::pair::Pair;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { api: "JoinGroup", name: "one member", run: one_member },
    Scenario { api: "JoinGroup", name: "two members", run: two_members },
    Scenario { api: "JoinGroup", name: "a static member", run: static_member },
    Scenario { api: "LeaveGroup", name: "members leave", run: members_leave },
    Scenario { api: "JoinGroup", name: "protocols", run: protocols },
];

/// Joins as a new member, which since version 4 takes two requests; keeps the id as `$name`.
fn enter(pair: &mut Pair<'_>, v: i16, name: &str, group: &str) -> Result<()> {
    let asked = pair.ask("JoinGroup", v, join(group, ""))?;
    pair.keep(name, &asked, "/MemberId");
    if v >= 4 {
        pair.ask("JoinGroup", v, join(group, &format!("${name}")))?;
    }
    Ok(())
}

fn member(group: &str, generation: i32, member: &str) -> Value {
    json!({"GroupId": group, "GenerationId": generation, "MemberId": member})
}

fn sync(group: &str, generation: i32, who: &str, assigned: &[&str]) -> Value {
    let assignments: Vec<Value> =
        assigned.iter().map(|m| json!({"MemberId": m, "Assignment": "000102"})).collect();
    json_with(member(group, generation, who), &json!({"Assignments": assignments}))
}

/// What is told of a group, by whoever asks.
fn look(pair: &mut Pair<'_>, v: i16, group: &str) -> Result<()> {
    pair.ask("DescribeGroups", v, json!({"Groups": [group], "IncludeAuthorizedOperations": v % 2 == 1}))?;
    pair.ask(
        "ListGroups",
        5,
        json!({"StatesFilter": ["Stable", "PreparingRebalance", "CompletingRebalance"]}),
    )?;
    Ok(())
}

fn one_member(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let group = format!("one-{v}");
    enter(pair, v, "one", &group)?;
    look(pair, v, &group)?;
    // Before its assignment is known.
    pair.ask("Heartbeat", v, member(&group, 1, "$one"))?;
    let commit = |generation: i32, who: &str| {
        json_with(
            committed(&group, "plain", 0, 7),
            &json!({"GenerationIdOrMemberEpoch": generation, "MemberId": who}),
        )
    };
    pair.ask("OffsetCommit", v, commit(1, "$one"))?;
    pair.ask("SyncGroup", v, sync(&group, 2, "$one", &["$one"]))?;
    pair.ask("SyncGroup", v, sync(&group, 1, "nobody", &["$one"]))?;
    pair.ask("SyncGroup", v, sync(&group, 1, "$one", &["$one"]))?;
    pair.ask("SyncGroup", v, sync(&group, 1, "$one", &[]))?;
    look(pair, v, &group)?;
    for (generation, who) in [(1, "$one"), (0, "$one"), (2, "$one"), (-1, "$one"), (1, "nobody"), (1, "")] {
        pair.ask("Heartbeat", v, member(&group, generation, who))?;
        pair.ask("OffsetCommit", v, commit(generation, who))?;
    }
    pair.ask("OffsetCommit", v, commit(-1, ""))?;
    for (who, epoch) in [("$one", 1), ("$one", 0), ("nobody", 1)] {
        let groups = json!([{"GroupId": group, "MemberId": who, "MemberEpoch": epoch, "Topics": null}]);
        pair.ask("OffsetFetch", 9, json!({"Groups": groups, "RequireStable": true}))?;
    }
    pair.ask("DeleteGroups", v, json!({"GroupsNames": [group]}))?;
    let offset =
        json!({"GroupId": group, "Topics": [{"Name": "plain", "Partitions": [{"PartitionIndex": 0}]}]});
    pair.ask("OffsetDelete", v, offset)?;
    // The leader joins again, and again with the same protocols.
    pair.ask("JoinGroup", v, join(&group, "$one"))?;
    pair.ask("JoinGroup", v, join(&group, "$one"))?;
    pair.ask("SyncGroup", v, sync(&group, 3, "$one", &["$one"]))?;
    leave(pair, v, &group, "nobody")?;
    leave(pair, v, &group, "$one")?;
    look(pair, v, &group)?;
    pair.ask("DescribeGroups", v, json!({"Groups": [group]}))?;
    pair.ask("OffsetDelete", v, json!({"GroupId": group, "Topics": []}))?;
    pair.ask("DeleteGroups", v, json!({"GroupsNames": [group]}))?;
    pair.ask("DescribeGroups", v, json!({"Groups": [group]}))?;
    Ok(())
}

fn leave(pair: &mut Pair<'_>, v: i16, group: &str, who: &str) -> Result<()> {
    let body = if v < 3 {
        json!({"GroupId": group, "MemberId": who})
    } else {
        json!({"GroupId": group, "Members": [{"MemberId": who, "Reason": "enough"}]})
    };
    pair.ask("LeaveGroup", v, body)?;
    Ok(())
}

fn two_members(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let group = format!("two-{v}");
    enter(pair, v, "one", &group)?;
    pair.ask("SyncGroup", v, sync(&group, 1, "$one", &["$one"]))?;
    // The second one waits until the first has heard of it.
    let second = if v >= 4 {
        let asked = pair.ask("JoinGroup", v, join(&group, ""))?;
        pair.keep("two", &asked, "/MemberId");
        join(&group, "$two")
    } else {
        join(&group, "")
    };
    let version = pair.near("JoinGroup", v)?;
    let waiting = pair.send("second", "JoinGroup", version, &second)?;
    let heard = |answer: &Value| answer["ErrorCode"] == json!(27);
    pair.until("Heartbeat", &member(&group, 1, "$one"), heard)?;
    pair.ask("Heartbeat", v, member(&group, 1, "$one"))?;
    pair.ask("SyncGroup", v, sync(&group, 1, "$one", &[]))?;
    look(pair, v, &group)?;
    pair.ask("JoinGroup", v, join(&group, "$one"))?;
    let joined = pair.receive(waiting)?;
    pair.keep("two", &joined, "/MemberId");
    let version = pair.near("SyncGroup", v)?;
    let waiting = pair.send("second", "SyncGroup", version, &sync(&group, 2, "$two", &[]))?;
    pair.ask("SyncGroup", v, sync(&group, 2, "$one", &["$one", "$two"]))?;
    pair.receive(waiting)?;
    look(pair, v, &group)?;
    pair.ask("Heartbeat", v, member(&group, 2, "$two"))?;
    pair.ask("Heartbeat", v, member(&group, 1, "$two"))?;
    leave(pair, v, &group, "$two")?;
    pair.ask("Heartbeat", v, member(&group, 2, "$two"))?;
    pair.until("Heartbeat", &member(&group, 2, "$one"), heard)?;
    pair.ask("JoinGroup", v, join(&group, "$one"))?;
    pair.ask("SyncGroup", v, sync(&group, 3, "$one", &["$one"]))?;
    leave(pair, v, &group, "$one")?;
    pair.close("second");
    Ok(())
}

fn static_member(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    if v < 5 {
        return Ok(());
    }
    let group = format!("static-{v}");
    let instance = |body: Value| json_with(body, &json!({"GroupInstanceId": "i1"}));
    let joined = pair.ask("JoinGroup", v, instance(join(&group, "")))?;
    pair.keep("old", &joined, "/MemberId");
    pair.ask("SyncGroup", v, instance(sync(&group, 1, "$old", &["$old"])))?;
    pair.ask("Heartbeat", v, instance(member(&group, 1, "$old")))?;
    look(pair, v, &group)?;
    // It comes back with a new id, and nothing moves; the old id is fenced.
    let joined = pair.ask("JoinGroup", v, instance(join(&group, "")))?;
    pair.keep("new", &joined, "/MemberId");
    pair.ask("SyncGroup", v, instance(sync(&group, 1, "$new", &[])))?;
    for who in ["$old", "$new", "nobody"] {
        pair.ask("Heartbeat", v, instance(member(&group, 1, who)))?;
        pair.ask("SyncGroup", v, instance(sync(&group, 1, who, &[])))?;
        let commit = json!({"GenerationIdOrMemberEpoch": 1, "MemberId": who, "GroupInstanceId": "i1"});
        pair.ask("OffsetCommit", v, json_with(committed(&group, "plain", 0, 2), &commit))?;
    }
    pair.ask("JoinGroup", v, instance(join(&group, "$old")))?;
    pair.ask("JoinGroup", v, instance(join(&group, "nobody")))?;
    let other = json!({"GroupInstanceId": "i2"});
    pair.ask("Heartbeat", v, json_with(member(&group, 1, "$new"), &other))?;
    look(pair, v, &group)?;
    for members in [
        json!([{"MemberId": "$old", "GroupInstanceId": "i1"}]),
        json!([{"MemberId": "", "GroupInstanceId": "i9"}]),
        json!([{"MemberId": "", "GroupInstanceId": "i1"}, {"MemberId": "", "GroupInstanceId": "i1"}]),
    ] {
        pair.ask("LeaveGroup", v, json!({"GroupId": group, "Members": members}))?;
    }
    look(pair, v, &group)
}

fn members_leave(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let group = format!("leave-{v}");
    enter(pair, 9, "one", &group)?;
    pair.ask("SyncGroup", 5, sync(&group, 1, "$one", &["$one"]))?;
    if v >= 3 {
        let twice = json!([{"MemberId": "nobody"}, {"MemberId": "$one"}, {"MemberId": "$one"}]);
        pair.ask("LeaveGroup", v, json!({"GroupId": group, "Members": twice}))?;
    } else {
        leave(pair, v, &group, "$one")?;
    }
    leave(pair, v, &group, "$one")?;
    look(pair, v, &group)?;
    pair.ask("DeleteGroups", 2, json!({"GroupsNames": [group]}))?;
    leave(pair, v, &group, "$one")
}

/// A member whose protocols are not the group's.
fn protocols(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let group = format!("protocols-{v}");
    let several = json!({"Protocols": [{"Name": "a", "Metadata": "00"}, {"Name": "b", "Metadata": "01"}]});
    let asked = pair.ask("JoinGroup", v, json_with(join(&group, ""), &several))?;
    pair.keep("one", &asked, "/MemberId");
    if v >= 4 {
        pair.ask("JoinGroup", v, json_with(join(&group, "$one"), &several))?;
    }
    pair.ask("SyncGroup", v, sync(&group, 1, "$one", &["$one"]))?;
    if v >= 5 {
        for (kind, name) in [("consumer", "a"), ("consumer", "b"), ("connect", "a")] {
            let named = json!({"ProtocolType": kind, "ProtocolName": name});
            pair.ask("SyncGroup", v, json_with(sync(&group, 1, "$one", &[]), &named))?;
        }
    }
    for other in [
        json!({"Protocols": [{"Name": "c", "Metadata": "00"}]}),
        json!({"ProtocolType": "connect"}),
        json!({"ProtocolType": ""}),
        json!({"Protocols": []}),
    ] {
        pair.ask("JoinGroup", v, json_with(join(&group, ""), &other))?;
        pair.ask("JoinGroup", v, json_with(join(&group, "$one"), &other))?;
    }
    leave(pair, v, &group, "$one")
}
