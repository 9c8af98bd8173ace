use kafka_protocol::error::ResponseError as Error;

use super::super::*;
use super::house::*;

#[test]
fn a_member_without_heartbeats_is_out_after_its_session_timeout() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old(), Join::old()]);
    for _ in 0..3 {
        assert_eq!(house.heartbeat(&ids[1], 1), 0);
        house.pass(4_000);
    }
    assert_eq!(house.heartbeat(&ids[1], 1), Error::RebalanceInProgress.code());
    let joined = house.join_now(Join::old().member(&ids[1]));
    assert_eq!((joined.generation_id, &joined.leader), (2, &ids[1]));
}

#[test]
fn a_group_whose_last_member_is_out_is_empty_and_in_the_log() {
    let mut house = House::new();
    house.stable(vec![Join::old()]);
    house.pass(10_000);
    assert_eq!(house.state(), "Empty");
    house.restart();
    assert_eq!(house.state(), "Empty");
    let ids = house.stable(vec![Join::old()]);
    assert_eq!(house.heartbeat(&ids[0], 3), 0, "generations go on: 1, 2 of nobody, 3");
}

#[test]
fn a_heartbeat_is_checked() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    assert_eq!(house.heartbeat(&ids[0], 1), 0);
    assert_eq!(house.heartbeat(&ids[0], 2), Error::IllegalGeneration.code());
    assert_eq!(house.heartbeat(&text("x"), 1), Error::UnknownMemberId.code());
    for (group, error) in [("", Error::InvalidGroupId), ("x", Error::UnknownMemberId)] {
        let request = HeartbeatRequest::default().with_group_id(group_id(group));
        let ticket = house.call(Call::Heartbeat(request, 0));
        let refused = HeartbeatResponse::default().with_error_code(error.code());
        assert_eq!(house.answer(ticket), Answer::Heartbeat(refused));
    }
}

#[test]
fn heartbeats_keep_a_session_while_the_group_rebalances() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old(), Join::old()]);
    house.join(Join::old().member(&ids[0]));
    for _ in 0..10 {
        house.pass(5_000);
        assert_eq!(house.heartbeat(&ids[1], 1), Error::RebalanceInProgress.code());
    }
}

#[test]
fn who_leaves_is_out_at_once() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old(), Join::old()]);
    let answer = house.leave(&[(&ids[1], None), ("x", None)]);
    assert_eq!(answer.members[0].error_code, 0);
    assert_eq!(answer.members[1].error_code, Error::UnknownMemberId.code());
    assert_eq!(house.heartbeat(&ids[0], 1), Error::RebalanceInProgress.code());
    assert_eq!(house.leave(&[(&ids[0], None)]).error_code, 0);
    assert_eq!(house.state(), "Empty");
}

#[test]
fn who_leaves_while_it_waits_is_told() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old(), Join::old()]);
    let waiting = house.join(Join::old().member(&ids[0]));
    house.leave(&[(&ids[0], None)]);
    assert_eq!(house.joined(waiting).error_code, Error::UnknownMemberId.code());
    let joined = house.join_now(Join::old().member(&ids[1]));
    let third = house.join(Join::old());
    let second = house.join(Join::old().member(&joined.member_id));
    let (second, third) = (house.joined(second), house.joined(third));
    let follower = if second.leader == second.member_id { &third } else { &second };
    let waiting = house.sync(&follower.member_id, 3, &[]);
    house.leave(&[(&follower.member_id, None)]);
    assert_eq!(house.synced(waiting).error_code, Error::UnknownMemberId.code());
}

#[test]
fn an_id_that_is_pending_can_leave() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    let pending = house.join_now(Join::new()).member_id;
    let waiting = house.join(Join::old().member(&ids[0]));
    assert!(house.is_waiting(waiting));
    assert_eq!(house.leave(&[(&pending, None)]).members[0].error_code, 0);
    assert_eq!(house.joined(waiting).generation_id, 2);
}

#[test]
fn below_version_3_the_error_of_leaving_is_the_requests() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    let request = |group: &str, member: &StrBytes| {
        LeaveGroupRequest::default().with_group_id(group_id(group)).with_member_id(member.clone())
    };
    let unknown = LeaveGroupResponse::default().with_error_code(Error::UnknownMemberId.code());
    assert_eq!(house.leave_request(request(GROUP, &text("x")), 2), unknown);
    assert_eq!(house.leave_request(request("x", &ids[0]), 0), unknown);
    assert_eq!(house.leave_request(request(GROUP, &ids[0]), 2), LeaveGroupResponse::default());
    assert_eq!(house.state(), "Empty");
    let invalid = LeaveGroupResponse::default().with_error_code(Error::InvalidGroupId.code());
    assert_eq!(house.leave_request(request("", &ids[0]), 2), invalid);
}

#[test]
fn nobody_is_known_in_a_group_that_is_not_there() {
    let mut house = House::new();
    let answer = house.leave(&[("a", Some("i")), ("b", None)]);
    assert_eq!(answer.error_code, 0);
    let unknown = Error::UnknownMemberId.code();
    assert_eq!(answer.members.iter().map(|member| member.error_code).collect::<Vec<_>>(), [unknown; 2]);
}

/// Clients choose it.
fn hasty(join: Join, timeout_ms: i32) -> Join {
    join.with(|request| request.rebalance_timeout_ms = timeout_ms)
}

#[test]
fn a_rebalance_timeout_of_nothing_is_a_short_one() {
    let mut house = House::new();
    for timeout_ms in [0, -5, i32::MIN] {
        let ticket = house.join(hasty(Join::old().instance("i"), timeout_ms));
        house.pass(3_000);
        let joined = house.joined(ticket);
        house.sync(&joined.member_id, joined.generation_id, &[]);
        assert_eq!(house.state(), "Stable");
        house.join(hasty(Join::old().instance("j"), timeout_ms));
        house.pass(60_000);
        assert_eq!(house.state(), "Empty");
    }
}

#[test]
fn a_group_that_waits_for_absent_static_members_does_not_keep_the_clock_busy() {
    let mut house = House::new();
    let tickets = [hasty(Join::old().instance("i"), 0), hasty(Join::old(), 0)].map(|join| house.join(join));
    house.pass(3_000);
    let [absent, dynamic] = tickets.map(|ticket| house.joined(ticket).member_id);
    house.sync(&absent, 1, &[]);
    house.sync(&dynamic, 1, &[]);
    house.leave(&[(&dynamic, None)]);
    let mut wakings = 0;
    let until_ms = house.now_ms + 5_000;
    while let Some(at_ms) = house.shard.next_tick_ms().filter(|at_ms| *at_ms <= until_ms) {
        house.pass(at_ms - house.now_ms);
        wakings += 1;
    }
    assert_eq!(house.state(), "PreparingRebalance");
    assert!((10..=51).contains(&wakings), "{wakings}");
    house.pass(10_000);
    assert_eq!(house.state(), "Empty", "its session ended");
}
