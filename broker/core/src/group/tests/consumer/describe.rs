use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::list_groups_response::ListedGroup;

use super::house::*;

#[test]
fn a_group_is_described_with_its_members_where_they_are_and_where_they_shall_be() {
    let mut house = House::hasty(&[("t", 2)]);
    house.beat(Beat::join("a").with(|request| request.rack_id = Some(text("r"))));
    house.beat(Beat::join("b").instance("i"));
    house.beat(Beat::of("a", 1));
    let group = house.describe_consumers();
    assert_eq!((group.error_code, &**group.group_id, &*group.group_state), (0, GROUP, "Reconciling"));
    assert_eq!((group.group_epoch, group.assignment_epoch, &*group.assignor_name), (2, 2, "uniform"));
    let [a, b] = &group.members[..] else { panic!("{group:?}") };
    assert_eq!((&*a.member_id, a.member_epoch, a.rack_id.as_deref()), ("a", 1, Some("r")));
    assert_eq!((&*a.client_id, &*a.client_host, a.member_type), ("client", "/127.0.0.1", 1));
    assert_eq!(a.subscribed_topic_names, [topic_name("t")]);
    assert_eq!((&*b.member_id, b.member_epoch, b.instance_id.as_deref()), ("b", 2, Some("i")));
    let [topic] = &a.assignment.topic_partitions[..] else { panic!("{a:?}") };
    assert_eq!(
        (topic.topic_id, &**topic.topic_name, &topic.partitions[..]),
        (topic_id("t").0, "t", &[0][..])
    );
    assert!(b.assignment.topic_partitions.is_empty());
    assert_eq!(b.target_assignment.topic_partitions[0].partitions, [1]);
}

#[test]
fn the_kind_of_a_member_is_told_since_version_1() {
    let mut house = House::with_topics(&[("t", 2)]);
    house.beat(Beat::join("a"));
    let ticket = house.call(Call::ConsumerGroupDescribe(group_id(GROUP), 0));
    let Answer::ConsumerGroupDescribe(group) = house.answer(ticket) else { panic!("another answer") };
    assert_eq!(group.members[0].member_type, -1);
}

#[test]
fn groups_that_are_not_there_or_not_of_this_kind_are_told_so() {
    let mut house = House::with_topics(&[("t", 1)]);
    let not_found = Error::GroupIdNotFound.code();
    let group = house.describe_consumers();
    assert_eq!((group.error_code, group.error_message.as_deref()), (not_found, Some("Group g not found.")));
    house.stable(vec![Join::old()]);
    let group = house.describe_consumers();
    let message = Some("Group g is not a consumer group.");
    assert_eq!((group.error_code, group.error_message.as_deref()), (not_found, message));
    let ticket = house.call(Call::ConsumerGroupDescribe(group_id(""), 1));
    let Answer::ConsumerGroupDescribe(group) = house.answer(ticket) else { panic!("another answer") };
    assert_eq!(group.error_code, Error::InvalidGroupId.code());
}

#[test]
fn it_is_no_classic_group() {
    let mut house = House::with_topics(&[("t", 1)]);
    house.beat(Beat::join("a"));
    let old = house.describe(5);
    assert_eq!((old.error_code, &*old.group_state), (0, "Dead"));
    let new = house.describe(6);
    assert_eq!(new.error_code, Error::GroupIdNotFound.code());
    assert_eq!(new.error_message.as_deref(), Some("Group g is not a classic group."));
}

#[test]
fn it_is_listed_by_type_and_state() {
    let mut house = House::with_topics(&[("t", 1)]);
    house.beat(Beat::join("a"));
    let mut list = |states: &[&str], types: &[&str]| -> Vec<ListedGroup> {
        let owned = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let ticket = house.call(Call::ListGroups { states: owned(states), types: owned(types) });
        match house.answer(ticket) {
            Answer::ListGroups(groups) => groups,
            other => panic!("{other:?}"),
        }
    };
    let all = list(&[], &[]);
    let [group] = &all[..] else { panic!("{all:?}") };
    assert_eq!((&**group.group_id, &*group.protocol_type), (GROUP, "consumer"));
    assert_eq!((&*group.group_state, &*group.group_type), ("Stable", "consumer"));
    assert_eq!(list(&["stable"], &["Consumer"]).len(), 1);
    assert_eq!(list(&[], &["classic"]).len(), 0);
    assert_eq!(list(&["assigning"], &[]).len(), 0);
}

#[test]
fn it_is_counted_by_its_state() {
    let mut house = House::with_topics(&[("t", 1)]);
    house.beat(Beat::join("a"));
    let consumer = ConsumerCounts { stable: 1, ..ConsumerCounts::default() };
    assert_eq!(house.shard.counts(), Counts { consumer, ..Counts::default() });
}
