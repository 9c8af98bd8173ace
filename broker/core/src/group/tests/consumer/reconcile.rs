use super::house::*;

/// `a` has both partitions, `b` has joined.
fn two() -> House {
    let mut house = House::hasty(&[("t", 2)]);
    house.beat(Beat::join("a"));
    let joined = house.beat(Beat::join("b"));
    assert_eq!((joined.member_epoch, assigned(&joined)), (2, Some(owned(&[]))), "its part is not free yet");
    house
}

#[test]
fn a_partition_is_given_up_before_somebody_else_gets_it() {
    let mut house = two();
    assert_eq!(house.epochs().0, "Reconciling");
    let told = house.beat(Beat::of("a", 1));
    assert_eq!((told.member_epoch, assigned(&told)), (1, Some(owned(&[("t", 0)]))), "it is to give up one");
    let waiting = house.beat(Beat::of("b", 2));
    assert_eq!(assigned(&waiting), None);
    let both = owned(&[("t", 0), ("t", 1)]);
    let still = house.beat(Beat::of("a", 1).owns(&both));
    assert_eq!((still.member_epoch, assigned(&still)), (1, None), "it still has it");
    let mute = house.beat(Beat::of("a", 1));
    assert_eq!(mute.member_epoch, 1, "and here it does not say");
    let done = house.beat(Beat::of("a", 1).owns(&owned(&[("t", 0)])));
    assert_eq!((done.member_epoch, assigned(&done)), (2, None));
    let got = house.beat(Beat::of("b", 2));
    assert_eq!((got.member_epoch, assigned(&got)), (2, Some(owned(&[("t", 1)]))));
    assert_eq!(house.epochs(), ("Stable".to_string(), 2, 2));
}

#[test]
fn it_goes_on_where_it_was_after_a_restart() {
    let mut house = two();
    house.beat(Beat::of("a", 1));
    house.restart();
    let waiting = house.beat(Beat::of("b", 2));
    assert_eq!((waiting.error_code, assigned(&waiting)), (0, None));
    let done = house.beat(Beat::of("a", 1).owns(&owned(&[("t", 0)])));
    assert_eq!(done.member_epoch, 2);
    house.restart();
    let got = house.beat(Beat::of("b", 2));
    assert_eq!(assigned(&got), Some(owned(&[("t", 1)])));
    assert_eq!(house.epochs(), ("Stable".to_string(), 2, 2));
}

#[test]
fn what_nobody_has_any_more_is_free_at_once() {
    let mut house = two();
    house.beat(Beat::of("a", -1));
    let got = house.beat(Beat::of("b", 2));
    assert_eq!((got.member_epoch, assigned(&got)), (3, Some(owned(&[("t", 0), ("t", 1)]))));
}

#[test]
fn a_newer_target_overtakes_an_older_one() {
    let mut house = House::hasty(&[("t", 4)]);
    house.beat(Beat::join("a"));
    house.beat(Beat::join("b"));
    let told = house.beat(Beat::of("a", 1));
    assert_eq!(assigned(&told).map(|partitions| partitions.len()), Some(2));
    house.beat(Beat::of("b", -1));
    let has = assigned(&told).unwrap();
    let back = house.beat(Beat::of("a", 1).owns(&has));
    assert_eq!((back.member_epoch, assigned(&back).map(|partitions| partitions.len())), (3, Some(4)));
}

#[test]
fn who_changes_its_topics_gives_up_the_old_ones_whatever_the_target_is() {
    let mut house = House::with_topics(&[("t", 1), ("u", 1)]);
    house.beat(Beat::join("a"));
    let changed = house.beat(Beat::of("a", 1).topics(&["u"]));
    assert_eq!(
        (changed.member_epoch, assigned(&changed)),
        (1, Some(owned(&[]))),
        "it is too early for a new target"
    );
    house.pass(1_000);
    let still = house.beat(Beat::of("a", 1).owns(&owned(&[("t", 0)])));
    assert_eq!((still.member_epoch, assigned(&still)), (1, None));
    let next = house.beat(Beat::of("a", 1).owns(&owned(&[])));
    assert_eq!((next.member_epoch, assigned(&next)), (2, Some(owned(&[("u", 0)]))));
}

#[test]
fn many_members_share_many_partitions_and_few_move() {
    let mut house = House::hasty(&[("t", 12)]);
    let mut clients: Vec<_> = ["a", "b", "c"].into_iter().map(Client::new).collect();
    house.settle_consumers(&mut clients);
    assert!(clients.iter().all(|client| client.has.len() == 4), "{clients:?}");
    let before = clients.clone();
    clients.push(Client::new("d"));
    house.settle_consumers(&mut clients);
    assert!(clients.iter().all(|client| client.has.len() == 3), "{clients:?}");
    for (before, after) in before.iter().zip(&clients) {
        assert!(after.has.is_subset(&before.has));
    }
}
