use kafka_protocol::error::ResponseError as Error;

use super::super::*;
use super::house::*;

/// A group whose leader is to assign: leader and follower.
fn completing(house: &mut House) -> [StrBytes; 2] {
    let tickets = [house.join(Join::old()), house.join(Join::old())];
    house.pass(6_000);
    let [first, second] = tickets.map(|ticket| house.joined(ticket));
    if first.leader == first.member_id {
        [first.member_id, second.member_id]
    } else {
        [second.member_id, first.member_id]
    }
}

#[test]
fn followers_wait_for_the_leader() {
    let mut house = House::new();
    let [leader, follower] = completing(&mut house);
    let waiting = house.sync(&follower, 1, &[]);
    assert!(house.is_waiting(waiting));
    assert_eq!(house.state(), "CompletingRebalance");
    let own = house.sync(&leader, 1, &[(&leader, "left"), (&follower, "right")]);
    let (own, followers) = (house.synced(own), house.synced(waiting));
    assert_eq!((own.assignment, followers.assignment), (Bytes::from("left"), Bytes::from("right")));
    assert_eq!(followers.protocol_type.as_deref(), Some("consumer"));
    assert_eq!(followers.protocol_name.as_deref(), Some("range"));
    assert_eq!(house.state(), "Stable");
}

#[test]
fn a_follower_that_comes_later_gets_what_the_leader_has_assigned() {
    let mut house = House::new();
    let [leader, follower] = completing(&mut house);
    house.sync(&leader, 1, &[(&follower, "right")]);
    let late = house.sync(&follower, 1, &[]);
    assert_eq!(house.synced(late).assignment, "right");
}

#[test]
fn whom_the_leader_forgets_gets_nothing() {
    let mut house = House::new();
    let [leader, follower] = completing(&mut house);
    let waiting = house.sync(&follower, 1, &[]);
    house.sync(&leader, 1, &[(&leader, "all"), (&text("nobody"), "none")]);
    let synced = house.synced(waiting);
    assert_eq!((synced.error_code, synced.assignment), (0, Bytes::new()));
}

#[test]
fn a_rebalance_ends_the_wait_for_the_leader() {
    let mut house = House::new();
    let [leader, follower] = completing(&mut house);
    let waiting = house.sync(&follower, 1, &[]);
    house.join(Join::old());
    assert_eq!(house.synced(waiting).error_code, Error::RebalanceInProgress.code());
    let late = house.sync(&leader, 1, &[]);
    assert_eq!(house.synced(late).error_code, Error::RebalanceInProgress.code());
}

#[test]
fn who_does_not_sync_in_time_is_out() {
    let mut house = House::new();
    let [leader, follower] = completing(&mut house);
    let waiting = house.sync(&follower, 1, &[]);
    for _ in 0..12 {
        assert_eq!(house.heartbeat(&leader, 1), 0);
        house.pass(5_000);
    }
    assert_eq!(house.synced(waiting).error_code, Error::RebalanceInProgress.code());
    assert_eq!(house.heartbeat(&leader, 1), Error::UnknownMemberId.code());
    let joined = house.join_now(Join::old().member(&follower));
    assert_eq!((joined.generation_id, joined.members.len()), (2, 1));
}

#[test]
fn a_follower_of_a_stable_group_that_never_syncs_is_out() {
    let mut house = House::new();
    let [leader, follower] = completing(&mut house);
    house.sync(&leader, 1, &[]);
    for _ in 0..12 {
        house.heartbeat(&leader, 1);
        house.heartbeat(&follower, 1);
        house.pass(5_000);
    }
    assert_eq!(house.heartbeat(&leader, 1), Error::RebalanceInProgress.code());
    assert_eq!(house.heartbeat(&follower, 1), Error::UnknownMemberId.code());
}

#[test]
fn a_member_that_syncs_twice_waits_once() {
    let mut house = House::new();
    let [leader, follower] = completing(&mut house);
    let first = house.sync(&follower, 1, &[]);
    let second = house.sync(&follower, 1, &[]);
    assert_eq!(house.synced(first).error_code, Error::RebalanceInProgress.code());
    house.sync(&leader, 1, &[(&follower, "right")]);
    assert_eq!(house.synced(second).assignment, "right");
}

#[test]
fn a_sync_is_checked() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    let mut error = |request: SyncGroupRequest, version| {
        let ticket = house.call(Call::SyncGroup(request, version));
        house.synced(ticket).error_code
    };
    let right = || House::sync_request(&ids[0], 1);
    assert_eq!(error(right(), 5), 0);
    assert_eq!(error(right().with_generation_id(0), 5), Error::IllegalGeneration.code());
    assert_eq!(error(right().with_member_id(text("x")), 5), Error::UnknownMemberId.code());
    assert_eq!(error(right().with_group_id(group_id("x")), 5), Error::UnknownMemberId.code());
    assert_eq!(error(right().with_group_id(group_id("")), 5), Error::InvalidGroupId.code());
    let inconsistent = Error::InconsistentGroupProtocol.code();
    assert_eq!(error(right().with_protocol_name(Some(text("x"))), 5), inconsistent);
    assert_eq!(error(right().with_protocol_type(Some(text("x"))), 5), inconsistent);
    assert_eq!(error(right().with_protocol_name(None), 5), inconsistent, "mandatory since version 5");
    assert_eq!(error(right().with_protocol_name(None).with_protocol_type(None), 4), 0);
}

#[test]
fn assignments_that_the_log_would_not_take_are_an_error_and_a_new_rebalance() {
    let mut house = House::with(GroupConfig { max_batch_bytes: 1_000, ..GroupConfig::default() });
    let [leader, follower] = completing(&mut house);
    let waiting = house.sync(&follower, 1, &[]);
    let big = "x".repeat(1_000);
    let own = house.sync(&leader, 1, &[(&leader, &big)]);
    for ticket in [own, waiting] {
        let refused = house.synced(ticket);
        assert_eq!(
            (refused.error_code, refused.assignment),
            (Error::UnknownServerError.code(), Bytes::new())
        );
    }
    assert_eq!(house.heartbeat(&leader, 1), Error::RebalanceInProgress.code());
    assert!(house.records.iter().all(|record| record.value.as_ref().unwrap().len() < 1_000));
}
