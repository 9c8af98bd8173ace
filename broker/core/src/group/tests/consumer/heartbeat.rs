use kafka_protocol::error::ResponseError as Error;

use super::house::*;

#[test]
fn the_first_member_gets_all_partitions_at_once() {
    let mut house = House::with_topics(&[("t", 3), ("u", 1)]);
    let joined = house.beat(Beat::join("m"));
    assert_eq!((joined.error_code, joined.member_epoch, joined.heartbeat_interval_ms), (0, 1, 5_000));
    assert_eq!(joined.member_id.as_deref(), Some("m"));
    assert_eq!(assigned(&joined), Some(owned(&[("t", 0), ("t", 1), ("t", 2)])));
    assert_eq!(house.epochs(), ("Stable".to_string(), 1, 1));
    let nothing_new = house.beat(Beat::of("m", 1));
    assert_eq!((nothing_new.error_code, nothing_new.member_epoch, assigned(&nothing_new)), (0, 1, None));
}

#[test]
fn a_heartbeat_without_news_writes_nothing() {
    let mut house = House::with_topics(&[("t", 3)]);
    house.beat(Beat::join("m"));
    let written = house.records.len();
    house.beat(Beat::of("m", 1));
    house.beat(Beat::join("m").with(|request| request.member_epoch = 1));
    assert_eq!(house.records.len(), written);
}

#[test]
fn a_full_request_is_told_everything() {
    let mut house = House::with_topics(&[("t", 1)]);
    house.beat(Beat::join("m"));
    let full = house.beat(Beat::join("m").with(|request| request.member_epoch = 1));
    assert_eq!(assigned(&full), Some(owned(&[("t", 0)])));
}

#[test]
fn in_version_0_the_coordinator_chooses_the_member_id() {
    let mut house = House::with_topics(&[("t", 1)]);
    let joined = house.beat(Beat::join("").version(0));
    let id = joined.member_id.unwrap();
    assert_eq!(joined.error_code, 0);
    assert!(!id.is_empty());
    assert_eq!(house.beat(Beat::of(&id, 1).version(0)).error_code, 0);
}

#[test]
fn what_is_not_valid_is_refused() {
    let mut house = House::with_topics(&[("t", 1)]);
    let cases: Vec<(&str, Beat)> = vec![
        ("MemberId can't be empty.", Beat::join("")),
        ("MemberId can't be empty.", Beat::of("", 1).version(0)),
        ("MemberId can't be empty.", Beat::of(" ", -1).version(0)),
        ("GroupId can't be empty.", Beat::join("m").with(|request| request.group_id = group_id(""))),
        ("InstanceId can't be empty.", Beat::join("m").instance("")),
        ("RackId can't be empty.", Beat::join("m").with(|request| request.rack_id = Some(text("")))),
        (
            "RebalanceTimeoutMs must be provided in first request.",
            Beat::join("m").with(|request| request.rebalance_timeout_ms = -1),
        ),
        (
            "TopicPartitions must be empty when (re-)joining.",
            Beat::join("m").with(|request| request.topic_partitions = None),
        ),
        ("TopicPartitions must be empty when (re-)joining.", Beat::join("m").owns(&owned(&[("t", 0)]))),
        (
            "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
            Beat::join("m").with(|request| request.subscribed_topic_names = None),
        ),
        ("InstanceId can't be null.", Beat::of("m", -2)),
        ("MemberEpoch is invalid.", Beat::of("m", -3)),
        ("The request has a string that is too long.", Beat::join(&"m".repeat(40_000))),
    ];
    for (message, beat) in cases {
        let refused = house.beat(beat);
        assert_eq!(refused.error_code, Error::InvalidRequest.code(), "{message}");
        assert_eq!(refused.error_message.as_deref(), Some(message));
    }
    let refused = house.beat(Beat::join("m").with(|request| request.server_assignor = Some(text("mine"))));
    assert_eq!(refused.error_code, Error::UnsupportedAssignor.code());
    let message = "ServerAssignor mine is not supported. Supported assignors: uniform, range.";
    assert_eq!(refused.error_message.as_deref(), Some(message));
    assert_eq!(house.records, [], "nothing has changed");
}

#[test]
fn groups_and_members_that_are_not_there_are_told_so() {
    let mut house = House::with_topics(&[("t", 1)]);
    for epoch in [1, -1] {
        assert_eq!(house.beat(Beat::of("m", epoch)).error_code, Error::GroupIdNotFound.code());
    }
    house.beat(Beat::join("m"));
    for epoch in [1, -1] {
        assert_eq!(house.beat(Beat::of("x", epoch)).error_code, Error::UnknownMemberId.code());
    }
}

#[test]
fn an_epoch_that_is_not_the_members_fences_it() {
    let mut house = House::hasty(&[("t", 2)]);
    house.beat(Beat::join("a"));
    house.beat(Beat::join("b"));
    let fenced = Error::FencedMemberEpoch.code();
    assert_eq!(house.beat(Beat::of("a", 7)).error_code, fenced, "it was never told of that");
    let all = owned(&[("t", 0), ("t", 1)]);
    house.beat(Beat::of("a", 1).owns(&all));
    let advanced = house.beat(Beat::of("a", 1).owns(&owned(&[("t", 0)])));
    assert_eq!(advanced.member_epoch, 2);
    assert_eq!(house.beat(Beat::of("a", 1)).error_code, fenced, "it does not say what it has");
    assert_eq!(house.beat(Beat::of("a", 1).owns(&all)).error_code, fenced, "it has what it should not have");
    let lost = house.beat(Beat::of("a", 1).owns(&owned(&[("t", 0)])));
    assert_eq!((lost.error_code, lost.member_epoch), (0, 2), "the answer that told it was lost");
    assert_eq!(house.beat(Beat::of("a", 2)).error_code, 0);
}

#[test]
fn who_joins_again_keeps_its_place() {
    let mut house = House::with_topics(&[("t", 2)]);
    house.beat(Beat::join("m"));
    let again = house.beat(Beat::join("m"));
    assert_eq!((again.error_code, again.member_epoch), (0, 1));
    assert_eq!(assigned(&again), Some(owned(&[("t", 0), ("t", 1)])));
}

#[test]
fn a_group_that_is_full_takes_nobody_else() {
    let config = GroupConfig { consumer_max_size: 1, ..GroupConfig::default() };
    let mut house = House::with(config);
    house.set_topics(&[("t", 1)]);
    assert_eq!(house.beat(Beat::join("a")).error_code, 0);
    let refused = house.beat(Beat::join("b"));
    assert_eq!(refused.error_code, Error::GroupMaxSizeReached.code());
    assert_eq!(house.beat(Beat::join("a")).error_code, 0);
}

#[test]
fn what_the_log_would_not_take_changes_nothing() {
    let config = GroupConfig { max_batch_bytes: 2_000, ..GroupConfig::default() };
    let mut house = House::with(config);
    house.set_topics(&[("t", 10), ("u", 1_000)]);
    assert_eq!(house.beat(Beat::join("a")).error_code, 0);
    house.pass(1_000);
    let written = house.records.len();
    let refused = house.beat(Beat::of("a", 1).topics(&["u"]));
    assert_eq!(refused.error_code, Error::UnknownServerError.code());
    assert_eq!(house.records.len(), written);
    assert_eq!(house.epochs(), ("Stable".to_string(), 1, 1));
}

#[test]
fn a_target_is_not_made_anew_at_every_change() {
    let mut house = House::with_topics(&[("t", 2)]);
    house.beat(Beat::join("a"));
    let early = house.beat(Beat::join("b"));
    assert_eq!((early.member_epoch, assigned(&early)), (1, Some(owned(&[]))));
    assert_eq!(house.epochs(), ("Assigning".to_string(), 2, 1));
    house.pass(999);
    house.beat(Beat::of("b", 1));
    assert_eq!(house.epochs(), ("Assigning".to_string(), 2, 1));
    house.pass(1);
    house.beat(Beat::of("b", 1));
    assert_eq!(house.epochs(), ("Reconciling".to_string(), 2, 2));
}

#[test]
fn the_assignor_that_most_members_prefer_shares_out() {
    let mut house = House::hasty(&[("t", 2), ("u", 2)]);
    let both = |id| Client::new(id).topics(&["t", "u"]);
    let mut clients =
        vec![both("a").assignor("range"), both("b").assignor("range"), both("c").assignor("uniform")];
    for client in &mut clients {
        client.act(&mut house);
    }
    assert_eq!(&*house.describe_consumers().assignor_name, "range");
    house.settle_consumers(&mut clients);
    assert_eq!(clients[0].has, owned(&[("t", 0), ("u", 0)]));
    assert_eq!(clients[1].has, owned(&[("t", 1), ("u", 1)]));
    clients[0].leave(&mut house);
    assert_eq!(
        &*house.describe_consumers().assignor_name,
        "range",
        "of two with as many votes, the first by name"
    );
    clients[1].leave(&mut house);
    assert_eq!(&*house.describe_consumers().assignor_name, "uniform");
}

#[test]
fn an_empty_classic_group_makes_place_and_keeps_its_offsets() {
    let mut house = House::with_topics(&[("t", 1)]);
    house.commit_simply("t", &[(0, 5)]);
    assert_eq!(house.beat(Beat::join("m")).error_code, 0);
    assert_eq!(house.offsets(), [("t".to_string(), 0, 5)]);
    house.restart();
    assert_eq!(house.offsets(), [("t".to_string(), 0, 5)]);
    assert_eq!(house.beat(Beat::of("m", 1)).error_code, 0);
}

#[test]
fn an_empty_group_becomes_a_classic_one_when_a_classic_member_joins() {
    let mut house = House::with_topics(&[("t", 1)]);
    house.beat(Beat::join("m"));
    house.beat(Beat::of("m", -1));
    assert_eq!(&*house.describe_consumers().group_state, "Empty");
    let stranger = house.join_now(Join::old().member(&text("m")));
    assert_eq!(stranger.error_code, Error::UnknownMemberId.code());
    house.stable(vec![Join::old()]);
    assert_eq!(house.describe_consumers().error_code, Error::GroupIdNotFound.code());
    house.restart();
    assert_eq!(house.state(), "Stable");
}
