use kafka_protocol::error::ResponseError as Error;

use super::house::*;

#[test]
fn a_member_without_heartbeats_is_out_after_its_session_timeout() {
    let mut house = House::hasty(&[("t", 2)]);
    house.beat(Beat::join("a"));
    house.beat(Beat::join("b"));
    for _ in 0..8 {
        house.pass(5_000);
        assert_eq!(house.beat(Beat::of("b", 2)).error_code, 0);
    }
    assert_eq!(house.describe_consumers().members.len(), 2);
    house.pass(5_000);
    assert_eq!(house.beat(Beat::of("a", 1)).error_code, Error::UnknownMemberId.code());
    let got = house.beat(Beat::of("b", 2));
    assert_eq!(assigned(&got), Some(owned(&[("t", 0), ("t", 1)])));
}

#[test]
fn sessions_begin_anew_with_a_restart() {
    let mut house = House::with_topics(&[("t", 2)]);
    house.beat(Beat::join("a"));
    house.pass(40_000);
    house.restart();
    house.pass(44_999);
    assert_eq!(house.beat(Beat::of("a", 1)).error_code, 0);
    house.pass(45_000);
    assert_eq!(house.beat(Beat::of("a", 1)).error_code, Error::UnknownMemberId.code());
}

/// `a` is to give up a partition, within its rebalance timeout of ten seconds.
fn revoking() -> House {
    let mut house = House::hasty(&[("t", 2)]);
    house.beat(Beat::join("a").with(|request| request.rebalance_timeout_ms = 10_000));
    house.beat(Beat::join("b"));
    house.beat(Beat::of("a", 1));
    house
}

#[test]
fn who_gives_up_nothing_in_time_is_out() {
    let mut house = revoking();
    house.pass(9_999);
    assert_eq!(house.beat(Beat::of("a", 1)).error_code, 0);
    house.pass(1);
    assert_eq!(house.beat(Beat::of("a", 1)).error_code, Error::UnknownMemberId.code());
    let got = house.beat(Beat::of("b", 2));
    assert_eq!(assigned(&got), Some(owned(&[("t", 0), ("t", 1)])));
}

#[test]
fn who_has_given_up_in_time_stays() {
    let mut house = revoking();
    house.pass(9_000);
    assert_eq!(house.beat(Beat::of("a", 1).owns(&owned(&[("t", 0)]))).member_epoch, 2);
    house.pass(30_000);
    assert_eq!(house.beat(Beat::of("a", 2)).error_code, 0);
}

#[test]
fn the_time_to_give_up_begins_anew_with_a_restart() {
    let mut house = revoking();
    house.pass(9_000);
    house.restart();
    house.pass(9_999);
    assert_eq!(house.beat(Beat::of("a", 1)).error_code, 0);
    house.pass(1);
    assert_eq!(house.beat(Beat::of("a", 1)).error_code, Error::UnknownMemberId.code());
}

#[test]
fn an_empty_group_without_offsets_is_deleted_in_time() {
    let mut house = House::with_topics(&[("t", 1)]);
    house.beat(Beat::join("m"));
    house.beat(Beat::of("m", -1));
    house.pass(700_000);
    assert_eq!(house.describe_consumers().error_code, Error::GroupIdNotFound.code());
    house.restart();
    assert_eq!(house.describe_consumers().error_code, Error::GroupIdNotFound.code());
}
