use kafka_protocol::error::ResponseError as Error;

use super::house::*;

#[test]
fn a_topic_that_does_not_exist_is_assigned_once_it_does() {
    let mut house = House::hasty(&[]);
    let joined = house.beat(Beat::join("m"));
    assert_eq!((joined.member_epoch, assigned(&joined)), (1, Some(owned(&[]))));
    house.set_topics(&[("u", 3)]);
    assert_eq!(house.beat(Beat::of("m", 1)).member_epoch, 1, "another topic is no reason");
    house.set_topics(&[("u", 3), ("t", 1)]);
    let got = house.beat(Beat::of("m", 1));
    assert_eq!((got.member_epoch, assigned(&got)), (2, Some(owned(&[("t", 0)]))));
}

#[test]
fn new_partitions_are_assigned_and_a_topic_that_is_gone_is_not() {
    let mut house = House::hasty(&[("t", 1)]);
    let mut clients = [Client::new("m")];
    clients[0].act(&mut house);
    house.set_topics(&[("t", 2)]);
    clients[0].act(&mut house);
    assert_eq!(clients[0].has, owned(&[("t", 0), ("t", 1)]));
    house.set_topics(&[]);
    house.settle_consumers(&mut clients);
    assert_eq!(clients[0].has, owned(&[]));
}

#[test]
fn topics_that_changed_while_the_coordinator_was_away_are_noticed() {
    let mut house = House::hasty(&[("t", 1)]);
    house.beat(Beat::join("m"));
    house.set_topics(&[("t", 2)]);
    house.restart();
    let got = house.beat(Beat::of("m", 1));
    assert_eq!((got.member_epoch, assigned(&got)), (2, Some(owned(&[("t", 0), ("t", 1)]))));
    let written = house.records.len();
    house.restart();
    assert_eq!(house.beat(Beat::of("m", 2)).member_epoch, 2);
    assert_eq!(house.records.len(), written, "the same topics are no news");
}

#[test]
fn members_with_different_topics_share_what_they_have_in_common() {
    let mut house = House::hasty(&[("t", 4), ("u", 2), ("v", 2)]);
    let mut clients = [Client::new("a").topics(&["t", "u"]), Client::new("b").topics(&["t", "v"])];
    house.settle_consumers(&mut clients);
    assert!(clients.iter().all(|client| client.has.len() == 4), "{clients:?}");
    clients[1].subscribe(&["v"]);
    house.settle_consumers(&mut clients);
    assert_eq!(clients[1].has, owned(&[("v", 0), ("v", 1)]));
    assert_eq!(clients[0].has.len(), 6);
}

#[test]
fn a_regular_expression_is_a_subscription_to_what_matches() {
    let mut house = House::hasty(&[("foo", 1), ("foo-2", 1), ("bar", 1)]);
    let mut client = Client::new("m").regex("foo.*");
    let joined = client.act(&mut house);
    assert_eq!((joined.error_code, joined.member_epoch), (0, 1));
    assert_eq!(client.has, owned(&[("foo", 0), ("foo-2", 0)]));
    let member = &house.describe_consumers().members[0];
    assert_eq!(member.subscribed_topic_regex.as_deref(), Some("foo.*"));
    assert!(member.subscribed_topic_names.is_empty());
    let written = house.records.len();
    house.restart();
    assert_eq!(client.act(&mut house).member_epoch, 1);
    assert_eq!(house.records.len(), written);
}

#[test]
fn a_new_topic_that_matches_is_found_in_time() {
    let mut house = House::hasty(&[("foo", 1)]);
    let mut client = Client::new("m").regex("foo.*");
    client.act(&mut house);
    house.set_topics(&[("foo", 1), ("foo-2", 1)]);
    house.pass(10_000);
    assert_eq!(client.act(&mut house).member_epoch, 1, "not more often than every ten seconds");
    house.pass(1);
    assert_eq!(client.act(&mut house).member_epoch, 2);
    assert_eq!(client.has, owned(&[("foo", 0), ("foo-2", 0)]));
    house.set_topics(&[("foo-2", 1)]);
    house.pass(10_001);
    client.act(&mut house);
    client.act(&mut house);
    assert_eq!(client.has, owned(&[("foo-2", 0)]));
}

#[test]
fn an_expression_that_is_none_is_refused() {
    let mut house = House::with_topics(&[("t", 1)]);
    let refused = house.beat(Beat::join("m").regex("foo("));
    assert_eq!(refused.error_code, Error::InvalidRegularExpression.code());
    let message = refused.error_message.unwrap();
    assert!(
        message.starts_with("SubscribedTopicRegex `foo(` is not a valid regular expression: "),
        "{message}"
    );
    assert_eq!(house.records, []);
}

#[test]
fn an_expression_goes_with_the_last_who_is_subscribed_to_it() {
    let mut house = House::hasty(&[("foo", 2), ("bar", 2)]);
    let mut clients = [Client::new("a").regex("foo.*"), Client::new("b").regex("foo.*")];
    house.settle_consumers(&mut clients);
    assert!(clients.iter().all(|client| client.has.len() == 1), "{clients:?}");
    clients[1].leave(&mut house);
    assert!(house.shard.groups[&text(GROUP)].is_subscribed_to(&text("foo")));
    let beat = clients[0].heartbeat().regex("bar");
    clients[0].hear(&house.beat(beat));
    assert!(!house.shard.groups[&text(GROUP)].is_subscribed_to(&text("foo")));
    assert!(house.shard.groups[&text(GROUP)].is_subscribed_to(&text("bar")));
    house.settle_consumers(&mut clients[..1]);
    assert_eq!(clients[0].has, owned(&[("bar", 0), ("bar", 1)]));
    clients[0].leave(&mut house);
    assert!(!house.shard.groups[&text(GROUP)].is_subscribed_to(&text("bar")));
    house.restart();
    assert!(!house.shard.groups[&text(GROUP)].is_subscribed_to(&text("bar")));
}

#[test]
fn names_and_an_expression_go_together() {
    let mut house = House::hasty(&[("foo", 1), ("bar", 1)]);
    let joined = house.beat(Beat::join("m").topics(&["bar"]).regex("f.*"));
    assert_eq!(assigned(&joined), Some(owned(&[("bar", 0), ("foo", 0)])));
}
