use kafka_protocol::error::ResponseError as Error;

use super::super::*;
use super::house::*;

fn consumer(instance: &str) -> Join {
    Join::new().instance(instance)
}

#[test]
fn a_static_member_needs_no_id_first() {
    let mut house = House::new();
    let ids = house.stable(vec![consumer("i")]);
    assert!(ids[0].starts_with("i-"), "{}", ids[0]);
}

#[test]
fn a_static_follower_comes_back_to_a_stable_group_without_a_rebalance() {
    let mut house = House::new();
    let ids = house.stable(vec![consumer("a"), consumer("b")]);
    let follower = if ids[1].starts_with("a-") { "a" } else { "b" };
    let back = house.join_now(consumer(follower));
    assert_eq!((back.error_code, back.generation_id, &back.leader), (0, 1, &ids[0]));
    assert!(!back.skip_assignment && back.members.is_empty());
    assert_ne!(back.member_id, ids[1]);
    assert_eq!(house.state(), "Stable");
    let work = house.sync(&back.member_id, 1, &[]);
    assert_eq!(house.synced(work).assignment, "1");
    house.restart();
    assert_eq!(house.heartbeat(&back.member_id, 1), 0, "the new id is in the log");
    assert_eq!(house.heartbeat(&ids[1], 1), Error::UnknownMemberId.code());
}

#[test]
fn a_static_leader_that_comes_back_skips_the_assignment() {
    let mut house = House::new();
    house.stable(vec![consumer("i")]);
    let back = house.join_now(consumer("i"));
    assert!(back.skip_assignment);
    assert_eq!((&back.leader, back.members.len()), (&back.member_id, 1));
}

#[test]
fn a_static_leader_that_cannot_skip_the_assignment_does_not_know_that_it_leads() {
    let mut house = House::new();
    let ids = house.stable(vec![consumer("i")]);
    let back = house.join_now(consumer("i").version(8));
    assert!(!back.skip_assignment && back.members.is_empty());
    assert_eq!((back.error_code, &back.leader), (0, &ids[0]));
    let work = house.sync(&back.member_id, 1, &[]);
    assert_eq!(house.synced(work).assignment, "0");
}

#[test]
fn a_static_member_with_other_metadata_and_the_same_protocol_starts_no_rebalance() {
    let mut house = House::new();
    house.stable(vec![consumer("i")]);
    let back = house.join_now(consumer("i").protocols(&[("range", subscribed(&["u"]))]));
    assert_eq!(back.generation_id, 1);
    assert_eq!(house.describe(5).members[0].member_metadata, subscribed(&["u"]));
}

#[test]
fn a_static_member_that_changes_the_protocol_starts_a_rebalance() {
    let mut house = House::new();
    let both = [("range", Bytes::new()), ("sticky", Bytes::new())];
    house.stable(vec![consumer("i").protocols(&both)]);
    let back = house.join_now(consumer("i").protocols(&both[1..]));
    assert_eq!((back.generation_id, back.protocol_name.as_deref()), (2, Some("sticky")));
}

#[test]
fn a_static_member_that_comes_back_while_assignments_are_awaited_starts_a_rebalance() {
    let mut house = House::new();
    let tickets = [house.join(consumer("a")), house.join(consumer("b"))];
    house.pass(6_000);
    let [a, b] = tickets.map(|ticket| house.joined(ticket));
    let waiting = house.sync(&b.member_id, 1, &[]);
    let back = house.join(consumer("a"));
    assert_eq!(house.synced(waiting).error_code, Error::RebalanceInProgress.code());
    assert!(house.is_waiting(back));
    house.join(consumer("b").member(&b.member_id));
    let joined = house.joined(back);
    assert_eq!(joined.generation_id, 2);
    assert_ne!(joined.member_id, a.member_id);
}

#[test]
fn whoever_uses_the_old_id_is_fenced() {
    let mut house = House::new();
    let ids = house.stable(vec![consumer("i")]);
    house.join_now(consumer("i"));
    let fenced = Error::FencedInstanceId.code();
    let stale = house.join_now(consumer("i").member(&ids[0]));
    assert_eq!((stale.error_code, stale.protocol_name), (fenced, None));
    let heartbeat = HeartbeatRequest::default()
        .with_group_id(group_id(GROUP))
        .with_member_id(ids[0].clone())
        .with_generation_id(1)
        .with_group_instance_id(Some(text("i")));
    let ticket = house.call(Call::Heartbeat(heartbeat, 4));
    assert_eq!(house.answer(ticket), Answer::Heartbeat(HeartbeatResponse::default().with_error_code(fenced)));
    let sync = House::sync_request(&ids[0], 1).with_group_instance_id(Some(text("i")));
    let ticket = house.call(Call::SyncGroup(sync, 5));
    assert_eq!(house.synced(ticket).error_code, fenced);
    let commit = House::commit_request("t", &[(0, 5)])
        .with_member_id(ids[0].clone())
        .with_generation_id_or_member_epoch(1)
        .with_group_instance_id(Some(text("i")));
    assert_eq!(house.commit(commit, 9), [fenced]);
    assert_eq!(house.leave(&[(&ids[0], Some("i"))]).members[0].error_code, fenced);
    let unknown = house.join_now(consumer("other").member(&ids[0]));
    assert_eq!(unknown.error_code, Error::UnknownMemberId.code());
}

#[test]
fn who_waits_under_the_old_id_is_fenced() {
    let mut house = House::new();
    let first = house.join(consumer("i"));
    let second = house.join(consumer("i"));
    let fenced = house.joined(first);
    assert_eq!(fenced.error_code, Error::FencedInstanceId.code());
    assert!(fenced.member_id.starts_with("i-"));
    house.pass(6_000);
    let joined = house.joined(second);
    assert_eq!((joined.error_code, joined.members.len()), (0, 1));

    house.join(consumer("other"));
    let syncing = house.join(consumer("i").member(&joined.member_id));
    let joined = house.joined(syncing);
    let syncing = house.sync(&text("nobody"), 2, &[]);
    assert_eq!(house.synced(syncing).error_code, Error::UnknownMemberId.code());
    let followers = joined.members.iter().map(|member| &member.member_id);
    let mut followers = followers.filter(|id| **id != joined.leader);
    let follower = followers.next().unwrap().clone();
    let syncing = house.sync(&follower, 2, &[]);
    let instance = if follower.starts_with("i-") { "i" } else { "other" };
    house.join(consumer(instance));
    assert_eq!(house.synced(syncing).error_code, Error::FencedInstanceId.code());
}

#[test]
fn a_static_member_that_does_not_join_again_stays_until_its_session_ends() {
    let mut house = House::new();
    let ids =
        house.stable(vec![Join::old(), consumer("i").with(|request| request.session_timeout_ms = 100_000)]);
    let dynamic = if ids[0].starts_with("i-") { &ids[1] } else { &ids[0] };
    let changed = Join::old().member(dynamic).protocols(&[("range", subscribed(&["u"]))]);
    let ticket = house.join(changed);
    house.pass(60_000);
    let joined = house.joined(ticket);
    assert_eq!((joined.generation_id, &joined.leader, joined.members.len()), (2, dynamic, 2));
    house.sync(dynamic, 2, &[]);
    assert_eq!(house.state(), "Stable");
    for _ in 0..13 {
        assert_eq!(house.heartbeat(dynamic, 2), 0);
        house.pass(4_500);
    }
    house.pass(1_500);
    assert_eq!(house.heartbeat(dynamic, 2), Error::RebalanceInProgress.code(), "it never asked for its work");
}

#[test]
fn a_group_of_absent_static_members_waits_for_one_of_them() {
    let mut house = House::new();
    let long = |instance| consumer(instance).with(|request| request.session_timeout_ms = 600_000);
    let ids = house.stable(vec![long("a"), long("b"), Join::old()]);
    let dynamic = ids.iter().find(|id| id.starts_with("client")).unwrap();
    house.leave(&[(dynamic, None)]);
    house.pass(200_000);
    assert_eq!(house.state(), "PreparingRebalance");
    let back = house.join(long("a"));
    house.pass(60_000);
    let joined = house.joined(back);
    assert_eq!((joined.generation_id, &joined.leader), (2, &joined.member_id));
}

#[test]
fn an_administrator_removes_static_members_by_their_instance_ids() {
    let mut house = House::new();
    let ids = house.stable(vec![consumer("a"), consumer("b")]);
    let answer = house.leave(&[("", Some("b")), ("", Some("c")), ("", None)]);
    let unknown = Error::UnknownMemberId.code();
    assert_eq!(answer.error_code, 0);
    assert_eq!(
        answer.members.iter().map(|member| member.error_code).collect::<Vec<_>>(),
        [0, unknown, unknown]
    );
    assert_eq!(answer.members[0].group_instance_id.as_deref(), Some("b"));
    assert_eq!(house.describe(5).members.len(), 1);
    let a = ids.iter().find(|id| id.starts_with("a-")).unwrap();
    assert_eq!(house.heartbeat(a, 1), Error::RebalanceInProgress.code());
}

#[test]
fn an_id_that_is_pending_is_nobody_static() {
    let mut house = House::new();
    let pending = house.join_now(Join::new()).member_id;
    let answer = house.join_now(consumer("i").member(&pending));
    assert_eq!(answer.error_code, Error::UnknownServerError.code());
}
