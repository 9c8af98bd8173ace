use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};

use super::house::*;

pub(super) fn commit(member: &str, epoch: i32, partition: i32) -> OffsetCommitRequest {
    House::commit_request("t", &[(partition, 5)])
        .with_member_id(text(member))
        .with_generation_id_or_member_epoch(epoch)
}

/// `a` has partition 0 since epoch 1 and is at epoch 2; `b` has partition 1 since epoch 2.
fn two() -> House {
    let mut house = House::hasty(&[("t", 2)]);
    let mut clients = [Client::new("a"), Client::new("b")];
    house.settle_consumers(&mut clients);
    assert_eq!((&clients[0].has, &clients[1].has), (&owned(&[("t", 0)]), &owned(&[("t", 1)])));
    house
}

#[test]
fn a_member_commits_with_its_epoch() {
    let mut house = two();
    assert_eq!(house.commit(commit("a", 2, 0), 9), [0]);
    let stale = Error::StaleMemberEpoch.code();
    assert_eq!(house.commit(commit("a", 3, 0), 9), [stale]);
    assert_eq!(house.commit(commit("x", 2, 0), 9), [Error::UnknownMemberId.code()]);
    assert_eq!(house.commit(commit("", -1, 0), 9), [Error::UnknownMemberId.code()]);
    assert_eq!(house.commit(commit("a", 2, 0), 8), [Error::UnsupportedVersion.code()]);
}

#[test]
fn with_an_older_epoch_it_commits_what_it_had_then() {
    let mut house = two();
    let stale = Error::StaleMemberEpoch.code();
    assert_eq!(house.commit(commit("a", 1, 0), 9), [0], "it has it since then");
    assert_eq!(house.commit(commit("a", 1, 1), 9), [stale], "that is another's now");
    assert_eq!(house.commit(commit("b", 1, 1), 9), [stale], "it did not have it then");
    let both = House::commit_request("t", &[(0, 7), (1, 7)])
        .with_member_id(text("a"))
        .with_generation_id_or_member_epoch(1);
    assert_eq!(house.commit(both, 9), [stale, stale], "one is enough");
}

#[test]
fn what_is_to_be_given_up_may_still_be_committed() {
    let mut house = House::hasty(&[("t", 2)]);
    house.beat(Beat::join("a"));
    house.beat(Beat::join("b"));
    house.beat(Beat::of("a", 1));
    assert_eq!(house.commit(commit("a", 1, 1), 9), [0]);
}

#[test]
fn a_producer_commits_with_or_without_a_member() {
    let mut house = two();
    let plain = House::txn_commit_request(1, "t", &[(0, 5)]).with_generation_id(-1);
    assert_eq!(house.txn_commit(plain.clone()), [0]);
    let member = plain.with_member_id(text("a"));
    assert_eq!(house.txn_commit(member.clone().with_generation_id(2)), [0]);
    assert_eq!(house.txn_commit(member.clone().with_generation_id(1)), [0]);
    let stale = Error::StaleMemberEpoch.code();
    assert_eq!(house.txn_commit(member.with_generation_id(3)), [stale]);
}

#[test]
fn an_empty_group_is_anybodys() {
    let mut house = two();
    for id in ["a", "b"] {
        house.beat(Beat::of(id, -1));
    }
    assert_eq!(house.commit(commit("", -1, 0), 9), [0]);
}

#[test]
fn a_member_fetches_with_its_epoch() {
    let mut house = two();
    house.commit(commit("a", 2, 0), 9);
    let mut fetch = |member: Option<&str>, epoch| {
        let request = OffsetFetchRequestGroup::default()
            .with_group_id(group_id(GROUP))
            .with_topics(None)
            .with_member_id(member.map(text))
            .with_member_epoch(epoch);
        let ticket = house.call(Call::OffsetFetch(request, true, 9));
        match house.answer(ticket) {
            Answer::OffsetFetch(response) => (response.error_code, response.topics.len()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(fetch(None, -1), (0, 1));
    assert_eq!(fetch(Some("a"), 2), (0, 1));
    assert_eq!(fetch(Some("a"), 1), (Error::StaleMemberEpoch.code(), 0));
    assert_eq!(fetch(Some("x"), 2), (Error::UnknownMemberId.code(), 0));
}

#[test]
fn offsets_of_topics_that_somebody_is_subscribed_to_are_not_deleted() {
    let mut house = two();
    house.commit(commit("a", 2, 0), 9);
    let mut delete = || {
        let partitions = vec![OffsetDeleteRequestPartition::default().with_partition_index(0)];
        let topic =
            OffsetDeleteRequestTopic::default().with_name(topic_name("t")).with_partitions(partitions);
        let request = OffsetDeleteRequest::default().with_group_id(group_id(GROUP)).with_topics(vec![topic]);
        let ticket = house.call(Call::OffsetDelete(request));
        match house.answer(ticket) {
            Answer::OffsetDelete(response) => response.topics[0].partitions[0].error_code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(delete(), Error::GroupSubscribedToTopic.code());
}

#[test]
fn offsets_expire_by_their_age_once_nobody_is_subscribed() {
    let mut house = House::with_topics(&[("t", 1)]);
    let mut client = Client::new("a");
    client.act(&mut house);
    house.commit(commit("a", 1, 0), 9);
    let day_ms = 24 * 3_600_000;
    let until_ms = house.now_ms + 8 * day_ms;
    while house.now_ms < until_ms {
        client.act(&mut house);
        house.pass(40_000);
    }
    assert_eq!(house.offsets().len(), 1, "it is in use");
    client.leave(&mut house);
    house.pass(600_000);
    assert_eq!(house.offsets(), []);
    house.pass(600_000);
    assert_eq!(
        house.describe_consumers().error_code,
        Error::GroupIdNotFound.code(),
        "and the group with them"
    );
}

#[test]
fn a_group_is_deleted_once_it_is_empty() {
    let mut house = two();
    house.commit(commit("a", 2, 0), 9);
    assert_eq!(house.delete(), Error::NonEmptyGroup.code());
    for id in ["a", "b"] {
        house.beat(Beat::of(id, -1));
    }
    assert_eq!(house.delete(), 0);
    house.restart();
    assert_eq!(house.delete(), Error::GroupIdNotFound.code());
    assert_eq!(house.offsets(), []);
}
