use kafka_protocol::error::ResponseError as Error;

use super::house::*;
use super::offsets::commit;

fn joined(house: &mut House, id: &str) -> ConsumerGroupHeartbeatResponse {
    house.beat(Beat::join(id).instance("i"))
}

#[test]
fn a_static_member_that_is_back_has_what_it_had() {
    let mut house = House::with_topics(&[("t", 2)]);
    let first = joined(&mut house, "a");
    let all = owned(&[("t", 0), ("t", 1)]);
    assert_eq!(assigned(&first), Some(all.clone()));
    let left = house.beat(Beat::of("a", -2).instance("i"));
    assert_eq!((left.error_code, left.member_epoch), (0, -2));
    assert_eq!(house.epochs().1, 1, "nothing has changed for the others");
    let back = joined(&mut house, "b");
    assert_eq!((back.error_code, back.member_epoch, assigned(&back)), (0, 1, Some(all)));
    assert_eq!(house.epochs(), ("Stable".to_string(), 1, 1));
    house.restart();
    assert_eq!(house.beat(Beat::of("b", 1).instance("i")).error_code, 0);
    let group = house.describe_consumers();
    assert_eq!(group.members.len(), 1);
}

#[test]
fn it_may_come_back_under_its_old_id() {
    let mut house = House::with_topics(&[("t", 2)]);
    joined(&mut house, "a");
    house.beat(Beat::of("a", -2).instance("i"));
    let back = joined(&mut house, "a");
    assert_eq!((back.error_code, back.member_epoch), (0, 1));
    assert_eq!(house.beat(Beat::of("a", 1).instance("i")).error_code, 0);
    house.restart();
    assert_eq!(house.beat(Beat::of("a", 1).instance("i")).error_code, 0);
    assert_eq!(house.describe_consumers().members.len(), 1);
}

#[test]
fn an_instance_id_that_is_in_use_is_not_given_away() {
    let mut house = House::with_topics(&[("t", 1)]);
    joined(&mut house, "a");
    assert_eq!(joined(&mut house, "b").error_code, Error::UnreleasedInstanceId.code());
    assert_eq!(house.beat(Beat::of("a", 1).instance("i")).error_code, 0);
}

#[test]
fn whoever_uses_the_old_id_is_fenced() {
    let mut house = House::with_topics(&[("t", 1)]);
    joined(&mut house, "a");
    house.beat(Beat::of("a", -2).instance("i"));
    let away = house.beat(Beat::of("a", 1).instance("i"));
    assert_eq!(away.error_code, Error::FencedMemberEpoch.code(), "it has left");
    joined(&mut house, "b");
    let fenced = Error::FencedInstanceId.code();
    assert_eq!(house.beat(Beat::of("a", 1).instance("i")).error_code, fenced);
    assert_eq!(house.beat(Beat::of("a", -1).instance("i")).error_code, fenced);
    assert_eq!(house.beat(Beat::of("a", 1)).error_code, Error::UnknownMemberId.code());
    let unknown = house.beat(Beat::of("b", 1).instance("other"));
    assert_eq!(unknown.error_code, Error::UnknownMemberId.code());
}

#[test]
fn what_it_was_to_give_up_is_free_while_it_is_away() {
    let mut house = House::hasty(&[("t", 2)]);
    joined(&mut house, "a");
    house.beat(Beat::join("b"));
    house.beat(Beat::of("a", 1).instance("i"));
    house.beat(Beat::of("a", -2).instance("i"));
    let got = house.beat(Beat::of("b", 2));
    assert_eq!(assigned(&got), Some(owned(&[("t", 1)])));
    let back = joined(&mut house, "c");
    assert_eq!((back.member_epoch, assigned(&back)), (2, Some(owned(&[("t", 0)]))));
}

#[test]
fn one_that_does_not_come_back_is_out_after_its_session() {
    let mut house = House::with_topics(&[("t", 2)]);
    joined(&mut house, "a");
    house.beat(Beat::of("a", -2).instance("i"));
    house.pass(44_999);
    assert_eq!(house.describe_consumers().members.len(), 1);
    house.pass(1);
    assert_eq!(house.epochs(), ("Empty".to_string(), 2, 1));
}

#[test]
fn one_that_leaves_for_good_is_out_at_once() {
    let mut house = House::with_topics(&[("t", 2)]);
    joined(&mut house, "a");
    let left = house.beat(Beat::of("a", -1).instance("i"));
    assert_eq!((left.error_code, left.member_epoch), (0, -1));
    assert_eq!(house.epochs().0, "Empty");
    assert_eq!(joined(&mut house, "b").error_code, 0);
}

/// Between a member's then and now somebody else had the instance id, and the partition.
#[test]
fn what_it_committed_as_before_does_not_count_for_the_place_that_it_takes() {
    let mut house = House::hasty(&[("t", 1)]);
    joined(&mut house, "a");
    house.beat(Beat::of("a", -1).instance("i"));
    let other = joined(&mut house, "b").member_epoch;
    assert!(other > 1);
    house.beat(Beat::of("b", -2).instance("i"));
    assert_eq!(joined(&mut house, "a").member_epoch, other);
    assert_eq!(house.commit(commit("a", 1, 0), 9), [Error::StaleMemberEpoch.code()]);
    assert_eq!(house.commit(commit("a", other, 0), 9), [0]);
}
