use kafka_protocol::error::ResponseError as Error;

use super::super::*;
use super::house::*;

#[test]
fn a_new_member_is_given_an_id_and_joins_with_it() {
    let mut house = House::new();
    let required = house.join_now(Join::new());
    assert_eq!(required.error_code, Error::MemberIdRequired.code());
    assert_eq!(*required.member_id, *format!("client-{}", Uuid::from_u128(1)));
    assert_eq!((required.generation_id, required.protocol_type), (-1, None));

    let ticket = house.join(Join::new().member(&required.member_id));
    house.pass(2_999);
    assert!(house.is_waiting(ticket), "others may come");
    house.pass(1);
    let joined = house.joined(ticket);
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert_eq!((&joined.leader, &joined.member_id), (&required.member_id, &required.member_id));
    assert_eq!(joined.protocol_type.as_deref(), Some("consumer"));
    assert_eq!(joined.protocol_name.as_deref(), Some("range"));
    assert_eq!(joined.members.len(), 1);
    assert_eq!(joined.members[0].metadata, subscribed(&["t"]));
}

#[test]
fn before_version_4_no_member_id_is_required() {
    let mut house = House::new();
    let ticket = house.join(Join::old());
    assert!(house.is_waiting(ticket));
    house.pass(3_000);
    assert_eq!(house.joined(ticket).error_code, 0);
}

#[test]
fn an_id_that_was_given_and_not_used_is_forgotten_after_the_session_timeout() {
    let mut house = House::new();
    let id = house.join_now(Join::new()).member_id;
    house.pass(10_000);
    assert_eq!(house.join_now(Join::new().member(&id)).error_code, Error::UnknownMemberId.code());
}

#[test]
fn a_join_waits_for_those_who_were_given_an_id() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    let pending = house.join_now(Join::new()).member_id;
    let leader = house.join(Join::old().member(&ids[0]));
    house.pass(9_999);
    assert!(house.is_waiting(leader));
    let second = house.join(Join::new().member(&pending));
    assert_eq!(house.joined(leader).members.len(), 2);
    assert_eq!(house.joined(second).members.len(), 0, "only the leader learns of all");
}

#[test]
fn a_join_ends_when_the_one_it_waits_for_does_not_come() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    house.join_now(Join::new());
    let leader = house.join(Join::old().member(&ids[0]));
    house.pass(10_000);
    assert_eq!(house.joined(leader).members.len(), 1);
}

#[test]
fn the_first_rebalance_is_put_off_while_members_come_and_no_longer_than_a_rebalance_timeout() {
    let mut house = House::new();
    let short = || Join::old().with(|request| request.rebalance_timeout_ms = 7_000);
    let mut tickets = vec![house.join(short())];
    for _ in 0..3 {
        house.pass(2_000);
        tickets.push(house.join(short()));
    }
    house.pass(999);
    assert!(tickets.iter().all(|ticket| house.is_waiting(*ticket)));
    house.pass(1);
    let generations = tickets.iter().map(|ticket| house.joined(*ticket).generation_id);
    assert_eq!(generations.collect::<Vec<_>>(), [1; 4]);
}

#[test]
fn a_second_member_makes_the_first_join_again() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    let second = house.join(Join::old());
    assert_eq!(house.heartbeat(&ids[0], 1), Error::RebalanceInProgress.code());
    assert_eq!(house.state(), "PreparingRebalance");
    let first = house.join(Join::old().member(&ids[0]));
    let (first, second) = (house.joined(first), house.joined(second));
    assert_eq!((first.generation_id, second.generation_id), (2, 2));
    assert_eq!((&first.leader, &second.leader), (&ids[0], &ids[0]));
    house.settle(&[first, second]);
}

#[test]
fn who_does_not_join_again_in_time_is_out() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old(), Join::old()]);
    let third = house.join(Join::old());
    let leader = house.join(Join::old().member(&ids[0]));
    for _ in 0..12 {
        house.heartbeat(&ids[1], 1);
        house.pass(5_000);
    }
    assert_eq!(house.joined(leader).members.len(), 2);
    assert_eq!(house.joined(third).error_code, 0);
    assert_eq!(house.heartbeat(&ids[1], 1), Error::UnknownMemberId.code());
}

#[test]
fn a_leader_that_does_not_come_back_is_replaced() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old(), Join::old()]);
    let follower = house.join(Join::old().member(&ids[1]).protocols(&[("range", subscribed(&["u"]))]));
    house.pass(10_000);
    let joined = house.joined(follower);
    assert_eq!((joined.generation_id, &joined.leader), (2, &ids[1]));
    assert_eq!(joined.members.len(), 1);
}

#[test]
fn a_follower_that_joins_again_unchanged_gets_the_same_generation() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old(), Join::old()]);
    let again = house.join_now(Join::old().member(&ids[1]));
    assert_eq!((again.error_code, again.generation_id, &again.leader), (0, 1, &ids[0]));
    assert_eq!(house.state(), "Stable");
}

#[test]
fn a_leader_that_joins_again_starts_a_rebalance() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old(), Join::old()]);
    let leader = house.join(Join::old().member(&ids[0]));
    assert!(house.is_waiting(leader));
    assert_eq!(house.heartbeat(&ids[1], 1), Error::RebalanceInProgress.code());
}

#[test]
fn a_member_that_did_not_get_the_answer_gets_it_again() {
    let mut house = House::new();
    let ticket = house.join(Join::old());
    house.pass(3_000);
    let first = house.joined(ticket);
    let again = house.join_now(Join::old().member(&first.member_id));
    assert_eq!(again, first);
}

#[test]
fn a_member_that_joins_twice_waits_once() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old(), Join::old()]);
    let changed = Join::old().member(&ids[1]).protocols(&[("range", subscribed(&["u"]))]);
    let first = house.join(changed.clone());
    let second = house.join(changed);
    assert_eq!(house.joined(first).error_code, Error::RebalanceInProgress.code());
    house.join(Join::old().member(&ids[0]));
    assert_eq!(house.joined(second).generation_id, 2);
}

#[test]
fn a_group_takes_the_protocol_that_all_have_and_most_like() {
    let mut house = House::new();
    let liking = |names: &[&str]| {
        let protocols: Vec<_> = names.iter().map(|name| (*name, subscribed(&["t"]))).collect();
        Join::old().protocols(&protocols)
    };
    let tickets = [liking(&["x", "b", "a"]), liking(&["b", "a"]), liking(&["a", "b", "y"])];
    let tickets = tickets.map(|join| house.join(join));
    house.pass(6_000);
    for ticket in tickets {
        assert_eq!(house.joined(ticket).protocol_name.as_deref(), Some("b"));
    }
    let alien = house.join_now(liking(&["x", "y"]));
    assert_eq!(alien.error_code, Error::InconsistentGroupProtocol.code());
}

#[test]
fn another_protocol_type_or_none_at_all_is_inconsistent() {
    let mut house = House::new();
    let inconsistent = Error::InconsistentGroupProtocol.code();
    assert_eq!(house.join_now(Join::old().protocols(&[])).error_code, inconsistent);
    let untyped = Join::old().with(|request| request.protocol_type = StrBytes::new());
    assert_eq!(house.join_now(untyped).error_code, inconsistent);
    house.stable(vec![Join::old()]);
    let connect = Join::old().with(|request| request.protocol_type = text("connect"));
    assert_eq!(house.join_now(connect).error_code, inconsistent);
}

#[test]
fn a_protocol_that_a_member_names_twice_counts_once() {
    let mut house = House::new();
    house.join(Join::old().protocols(&[("a", Bytes::new()), ("a", Bytes::new())]));
    let other = house.join_now(Join::old().protocols(&[("b", Bytes::new())]));
    assert_eq!(other.error_code, Error::InconsistentGroupProtocol.code());
}

#[test]
fn session_timeouts_have_limits() {
    let mut house = House::new();
    for session_timeout_ms in [5_999, 1_800_001] {
        let answer =
            house.join_now(Join::new().with(|request| request.session_timeout_ms = session_timeout_ms));
        assert_eq!(answer.error_code, Error::InvalidSessionTimeout.code());
    }
    assert!(house.records.is_empty());
}

#[test]
fn a_full_group_takes_nobody_more() {
    let mut house = House::with(GroupConfig { max_size: 2, ..GroupConfig::default() });
    let ids = house.stable(vec![Join::old(), Join::old()]);
    let third = house.join_now(Join::old());
    assert_eq!(third.error_code, Error::GroupMaxSizeReached.code());
    assert_eq!(third.member_id, StrBytes::new());
    assert_eq!(house.state(), "Stable");
    let ticket = house.join(Join::old().member(&ids[0]));
    assert!(house.is_waiting(ticket), "its own are let in again");
}

#[test]
fn the_last_to_join_again_are_kicked_out_of_a_group_that_is_too_big() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old(), Join::old(), Join::old()]);
    house.shard.config.max_size = 2;
    house.restart();
    assert_eq!(house.state(), "PreparingRebalance");
    let tickets = ids.iter().take(2).map(|id| house.join(Join::old().member(id))).collect::<Vec<_>>();
    let third = house.join_now(Join::old().member(&ids[2]));
    assert_eq!(third.error_code, Error::GroupMaxSizeReached.code());
    house.pass(60_000);
    for ticket in tickets {
        assert_eq!(house.joined(ticket).generation_id, 2);
    }
}

#[test]
fn a_new_member_does_not_wait_for_ever() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old().with(|request| request.rebalance_timeout_ms = 600_000)]);
    let second = house.join(Join::old());
    for _ in 0..60 {
        house.pass(5_000);
        house.heartbeat(&ids[0], 1);
    }
    let gone = house.joined(second);
    assert_eq!((gone.error_code, gone.member_id), (Error::UnknownMemberId.code(), StrBytes::new()));
}

#[test]
fn an_unknown_group_has_no_members() {
    let mut house = House::new();
    let answer = house.join_now(Join::new().member(&text("somebody")));
    assert_eq!((answer.error_code, &*answer.member_id), (Error::UnknownMemberId.code(), "somebody"));
    assert_eq!(answer.protocol_name.as_deref(), Some(""));
    let unnamed = Join::new().with(|request| request.group_id = GroupId::default());
    assert_eq!(house.join_now(unnamed).error_code, Error::InvalidGroupId.code());
    assert!(house.records.is_empty());
}

#[test]
fn names_that_no_record_can_hold_are_refused() {
    let mut house = House::new();
    let long = text(&"x".repeat(40_000));
    let group = house.join_now(Join::new().with(|request| request.group_id = GroupId(long.clone())));
    assert_eq!(group.error_code, Error::InvalidGroupId.code());
    let instance = house.join_now(Join::new().with(|request| request.group_instance_id = Some(long.clone())));
    assert_eq!(instance.error_code, Error::InvalidRequest.code());
    let protocol = house.join_now(Join::new().protocols(&[(&long, Bytes::new())]));
    assert_eq!(protocol.error_code, Error::InvalidRequest.code());
}

#[test]
fn below_version_7_there_is_no_null_protocol_name() {
    let mut house = House::new();
    house.stable(vec![Join::old()]);
    for (version, name) in [(6, Some("")), (7, None)] {
        let unknown = house.join_now(Join::new().version(version).member(&text("unknown")));
        assert_eq!(unknown.error_code, Error::UnknownMemberId.code());
        assert_eq!(unknown.protocol_name.as_deref(), name);
    }
}

#[test]
fn version_0_has_one_timeout_for_both() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    let old = Join::old().version(0).with(|request| request.rebalance_timeout_ms = -1);
    let joins = [old.member(&ids[0])].map(|join| house.join(join));
    assert_eq!(house.joined(joins[0]).generation_id, 2);
    house.pass(9_999);
    assert_eq!(house.state(), "CompletingRebalance");
    house.pass(1);
    assert_eq!(house.state(), "Empty", "there was no SyncGroup within the session timeout");
}
