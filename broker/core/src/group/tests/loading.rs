use kafka_protocol::error::ResponseError as Error;

use super::super::*;
use super::house::*;

#[test]
fn a_stable_group_goes_on_after_a_restart() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old(), Join::old()]);
    house.pass(9_000);
    house.restart();
    house.pass(9_000);
    assert_eq!(house.heartbeat(&ids[0], 1), 0, "sessions begin anew");
    let again = house.sync(&ids[1], 1, &[]);
    assert_eq!(house.synced(again).assignment, "1");
    let rejoined = house.join_now(Join::old().member(&ids[1]));
    assert_eq!((rejoined.generation_id, &rejoined.leader), (1, &ids[0]));
    house.pass(1_000);
    assert_eq!(house.heartbeat(&ids[1], 1), Error::UnknownMemberId.code(), "it was not heard of");
    assert_eq!(house.heartbeat(&ids[0], 1), Error::RebalanceInProgress.code());
}

#[test]
fn a_generation_without_assignments_is_lost_by_a_restart() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    let ticket = house.join(Join::old().member(&ids[0]));
    assert_eq!(house.joined(ticket).generation_id, 2);
    house.restart();
    assert_eq!(house.heartbeat(&ids[0], 2), Error::IllegalGeneration.code());
    let ticket = house.join(Join::old().member(&ids[0]));
    let joined = house.joined(ticket);
    house.settle(&[joined]);
}

#[test]
fn a_tombstone_ends_a_group() {
    let mut house = House::new();
    house.stable(vec![Join::old()]);
    house.records.push(GroupRecord { key: record::group_key(GROUP), value: None });
    house.restart();
    assert_eq!(house.state(), "Dead");
}

#[test]
fn a_record_that_nobody_understands_changes_nothing() {
    let mut house = House::new();
    house.stable(vec![Join::old()]);
    let key = record::group_key(GROUP);
    let cut = &house.records.last().unwrap().value.clone().unwrap()[..20];
    assert_eq!(house.shard.replay(None, &key, Some(cut)), Err(RecordError::Malformed));
    let newer = RecordError::Version { what: "GroupMetadataValue", version: 5 };
    assert_eq!(house.shard.replay(None, &key, Some(&[0, 5])), Err(newer));
    let newer = RecordError::Version { what: "a key", version: 11 };
    assert_eq!(house.shard.replay(None, &[0, 11, 0, 1, b'g'], None), Err(newer));
    assert_eq!(house.state(), "Stable");
}

#[test]
fn a_group_whose_members_contradict_each_other_is_not_loaded() {
    let mut house = House::new();
    house.stable(vec![Join::old().instance("a"), Join::old().instance("b")]);
    let good = GroupValue::decode(house.records.last().unwrap().value.as_ref().unwrap()).unwrap();
    let mut load = |change: fn(&mut GroupValue)| {
        let mut value = good.clone();
        change(&mut value);
        house.shard.replay(None, &record::group_key("x"), Some(&value.encode()))
    };
    assert_eq!(load(|_| ()), Ok(()));
    assert_eq!(load(|value| value.protocol = None), Err(RecordError::Malformed));
    let twice = |value: &mut GroupValue| value.members[0].instance_id = value.members[1].instance_id.clone();
    assert_eq!(load(twice), Err(RecordError::Malformed));
    let twice = |value: &mut GroupValue| value.members[0].member_id = value.members[1].member_id.clone();
    assert_eq!(load(twice), Err(RecordError::Malformed));
}

#[test]
fn a_leader_that_is_not_among_the_members_is_replaced() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    let mut value = GroupValue::decode(house.records.last().unwrap().value.as_ref().unwrap()).unwrap();
    value.leader = Some(text("gone"));
    house.records.push(GroupRecord { key: record::group_key(GROUP), value: Some(value.encode()) });
    house.restart();
    house.join(Join::old());
    let joined = house.join_now(Join::old().member(&ids[0]));
    assert_eq!((joined.error_code, joined.generation_id), (0, 2));
    assert_ne!(&*joined.leader, "gone");
}
