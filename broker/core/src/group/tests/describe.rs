use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::list_groups_response::ListedGroup;

use super::super::*;
use super::house::*;

fn list(house: &mut House, states: &[&str], types: &[&str]) -> Vec<String> {
    let owned = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
    let ticket = house.call(Call::ListGroups { states: owned(states), types: owned(types) });
    match house.answer(ticket) {
        Answer::ListGroups(groups) => groups.iter().map(|group| group.group_id.to_string()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stable_group_is_described_in_full() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old().instance("i")]);
    let group = house.describe(5);
    assert_eq!((group.error_code, &**group.group_id, &*group.group_state), (0, GROUP, "Stable"));
    assert_eq!((&*group.protocol_type, &*group.protocol_data), ("consumer", "range"));
    let [member] = &group.members[..] else { panic!("{group:?}") };
    assert_eq!((&member.member_id, member.group_instance_id.as_deref()), (&ids[0], Some("i")));
    assert_eq!((&*member.client_id, &*member.client_host), ("client", "/127.0.0.1"));
    assert_eq!((&member.member_metadata, &*member.member_assignment), (&subscribed(&["t"]), &b"0"[..]));
}

#[test]
fn between_generations_members_are_described_without_metadata() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    house.join(Join::old());
    let group = house.describe(5);
    assert_eq!((&*group.group_state, &*group.protocol_data), ("PreparingRebalance", ""));
    assert_eq!(group.members.len(), 2);
    assert!(group.members.iter().all(|member| member.member_metadata.is_empty()));
    let old = group.members.iter().find(|member| member.member_id == ids[0]).unwrap();
    assert_eq!(old.member_assignment, "0");
}

#[test]
fn a_group_that_is_not_there_is_dead_and_since_version_6_an_error() {
    let mut house = House::new();
    let old = house.describe(5);
    assert_eq!((old.error_code, &*old.group_state, old.error_message), (0, "Dead", None));
    let new = house.describe(6);
    assert_eq!((new.error_code, &*new.group_state), (Error::GroupIdNotFound.code(), "Dead"));
    assert_eq!(new.error_message.as_deref(), Some("Group g not found."));
}

#[test]
fn groups_are_listed_by_state_and_type_whatever_the_case() {
    let mut house = House::new();
    house.stable(vec![Join::old()]);
    house.join(Join::old().with(|request| request.group_id = group_id("joining")));
    let commit = House::commit_request("t", &[(0, 1)]).with_group_id(group_id("simple"));
    house.commit(commit, 9);
    assert_eq!(list(&mut house, &[], &[]), ["g", "joining", "simple"]);
    assert_eq!(list(&mut house, &["STABLE"], &[]), ["g"]);
    assert_eq!(list(&mut house, &["empty", " preparingRebalance "], &["Classic"]), ["joining", "simple"]);
    assert!(list(&mut house, &["dead"], &[]).is_empty());
    assert!(list(&mut house, &[], &["consumer"]).is_empty());
    assert!(list(&mut house, &[], &["no such type"]).is_empty());

    let counts = Counts { empty: 1, preparing_rebalance: 1, stable: 1, offsets: 1, ..Counts::default() };
    assert_eq!(house.shard.counts(), counts);

    let ticket = house.call(Call::ListGroups { states: vec!["Stable".to_string()], types: Vec::new() });
    let listed = ListedGroup::default()
        .with_group_id(group_id(GROUP))
        .with_protocol_type(text("consumer"))
        .with_group_state(text("Stable"))
        .with_group_type(text("classic"));
    assert_eq!(house.answer(ticket), Answer::ListGroups(vec![listed]));
}
