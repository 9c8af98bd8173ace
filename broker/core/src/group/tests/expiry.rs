use super::super::*;
use super::house::*;

const DAY_MS: i64 = 24 * 3_600_000;
/// The next look at what has expired is at most this far away.
const CHECK_MS: i64 = 600_000;

fn connect() -> Join {
    Join::old().with(|request| request.protocol_type = text("connect"))
}

/// A member that heartbeats for days, and commits nothing.
fn live_on(house: &mut House, member: &StrBytes, days: i64) {
    for _ in 0..days * DAY_MS / 9_000 + 1 {
        house.pass(9_000);
        assert_eq!(house.heartbeat(member, 1), 0);
    }
}

fn commit(house: &mut House, member: &StrBytes, topic: &str) {
    let request = House::commit_request(topic, &[(0, 1)])
        .with_member_id(member.clone())
        .with_generation_id_or_member_epoch(1);
    assert_eq!(house.commit(request, 9), [0]);
}

#[test]
fn the_offsets_of_a_simple_group_expire_after_their_last_commit() {
    let mut house = House::new();
    house.commit_simply("t", &[(0, 1), (1, 1)]);
    house.pass(4 * DAY_MS);
    house.commit_simply("t", &[(0, 2)]);
    house.pass(3 * DAY_MS + CHECK_MS);
    assert_eq!(house.offsets(), [("t".to_string(), 0, 2)]);
    house.pass(4 * DAY_MS);
    assert_eq!(house.state(), "Dead", "without offsets the group goes, too");
    house.restart();
    assert_eq!(house.state(), "Dead");
}

#[test]
fn the_offsets_of_a_group_expire_after_its_last_member_has_left() {
    let mut house = House::new();
    let ids = house.stable(vec![connect()]);
    commit(&mut house, &ids[0], "t");
    live_on(&mut house, &ids[0], 1);
    house.leave(&[(&ids[0], None)]);
    house.pass(7 * DAY_MS - CHECK_MS);
    house.restart();
    assert_eq!(house.offsets().len(), 1, "the commit is eight days old");
    house.pass(2 * CHECK_MS);
    assert_eq!(house.state(), "Dead");
}

#[test]
fn consumers_keep_what_they_are_subscribed_to() {
    let mut house = House::with(GroupConfig { offsets_retention_ms: DAY_MS, ..GroupConfig::default() });
    let ids = house.stable(vec![Join::old()]);
    commit(&mut house, &ids[0], "t");
    commit(&mut house, &ids[0], "earlier");
    live_on(&mut house, &ids[0], 1);
    house.pass(5_000);
    house.heartbeat(&ids[0], 1);
    for _ in 0..CHECK_MS / 9_000 + 1 {
        house.pass(9_000);
        house.heartbeat(&ids[0], 1);
    }
    assert_eq!(house.offsets(), [("t".to_string(), 0, 1)]);
    assert_eq!(house.state(), "Stable");
}

#[test]
fn the_offsets_of_other_members_do_not_expire() {
    let mut house = House::with(GroupConfig { offsets_retention_ms: 1, ..GroupConfig::default() });
    let ids = house.stable(vec![connect()]);
    commit(&mut house, &ids[0], "t");
    for _ in 0..CHECK_MS / 9_000 + 1 {
        house.pass(9_000);
        assert_eq!(house.heartbeat(&ids[0], 1), 0);
    }
    assert_eq!(house.offsets().len(), 1);
}

#[test]
fn old_clients_ask_for_a_retention_time_of_their_own() {
    let mut house = House::new();
    let short = House::commit_request("short", &[(0, 1)]).with_retention_time_ms(1_000);
    assert_eq!(house.commit(short, 4), [0]);
    let long = House::commit_request("long", &[(0, 1)]).with_retention_time_ms(30 * DAY_MS);
    assert_eq!(house.commit(long, 2), [0]);
    house.commit_simply("usual", &[(0, 1)]);
    house.restart();
    house.pass(CHECK_MS);
    assert_eq!(house.offsets().into_iter().map(|(topic, ..)| topic).collect::<Vec<_>>(), ["long", "usual"]);
    house.pass(29 * DAY_MS);
    assert_eq!(house.offsets().len(), 1);
    house.pass(DAY_MS);
    assert!(house.offsets().is_empty());
}

#[test]
fn an_empty_group_without_offsets_goes_at_the_next_look() {
    let mut house = House::new();
    house.join_now(Join::new());
    assert_eq!(house.state(), "Empty");
    house.pass(CHECK_MS);
    assert_eq!(house.state(), "Dead");
    assert_eq!(house.shard.next_tick_ms(), Some(house.now_ms + CHECK_MS));
}
