use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};

use super::super::*;
use super::house::*;

/// A member's commit of `t-0`.
fn commit_of(member: &StrBytes, generation: i32) -> OffsetCommitRequest {
    House::commit_request("t", &[(0, 42)])
        .with_member_id(member.clone())
        .with_generation_id_or_member_epoch(generation)
}

/// The error of all, and those of the partitions.
fn delete(house: &mut House, topic: &str, partitions: &[i32]) -> (i16, Vec<i16>) {
    let indexes = partitions.iter();
    let partitions =
        indexes.map(|index| OffsetDeleteRequestPartition::default().with_partition_index(*index)).collect();
    let topic = OffsetDeleteRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions);
    let request = OffsetDeleteRequest::default().with_group_id(group_id(GROUP)).with_topics(vec![topic]);
    let ticket = house.call(Call::OffsetDelete(request));
    match house.answer(ticket) {
        Answer::OffsetDelete(response) => {
            let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            (response.error_code, partitions.map(|partition| partition.error_code).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_member_commits_and_the_next_one_reads() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    assert_eq!(house.commit(commit_of(&ids[0], 1), 9), [0]);
    let fetched = house.fetch(Some(&[("t", &[0, 1]), ("u", &[0])]));
    assert_eq!((fetched.error_code, &**fetched.group_id), (0, GROUP));
    let [t, u] = &fetched.topics[..] else { panic!("{fetched:?}") };
    assert_eq!((&**t.name, &**u.name), ("t", "u"));
    let [committed, unknown] = &t.partitions[..] else { panic!("{t:?}") };
    assert_eq!((committed.committed_offset, committed.committed_leader_epoch), (42, 7));
    assert_eq!(committed.metadata.as_deref(), Some("m"));
    assert_eq!((unknown.partition_index, unknown.error_code), (1, 0));
    assert_eq!((unknown.committed_offset, unknown.committed_leader_epoch), (-1, -1));
    assert_eq!(unknown.metadata.as_deref(), Some(""));
    assert_eq!(u.partitions[0].committed_offset, -1);
    assert_eq!(house.offsets(), [("t".to_string(), 0, 42)]);
}

#[test]
fn a_group_that_is_not_there_has_no_offsets() {
    let mut house = House::new();
    assert!(house.offsets().is_empty());
    assert_eq!(house.fetch(Some(&[("t", &[3])])).topics[0].partitions[0].committed_offset, -1);
}

#[test]
fn a_member_commits_only_in_its_generation() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old(), Join::old()]);
    assert_eq!(house.commit(commit_of(&ids[0], 0), 9), [Error::IllegalGeneration.code()]);
    assert_eq!(house.commit(commit_of(&ids[0], -1), 9), [Error::IllegalGeneration.code()]);
    assert_eq!(house.commit(commit_of(&text("x"), 1), 9), [Error::UnknownMemberId.code()]);
    let nobody = House::commit_request("t", &[(0, 1)]);
    assert_eq!(house.commit(nobody, 9), [Error::UnknownMemberId.code()], "the group is not empty");
    assert!(house.offsets().is_empty());

    let leader = house.join(Join::old().member(&ids[0]));
    assert_eq!(house.commit(commit_of(&ids[1], 1), 9), [0], "while others join again");
    let follower = house.join(Join::old().member(&ids[1]));
    assert_eq!(house.joined(leader).generation_id, 2);
    assert_eq!(house.joined(follower).generation_id, 2);
    assert_eq!(house.commit(commit_of(&ids[1], 2), 9), [Error::RebalanceInProgress.code()]);
}

#[test]
fn a_commit_is_a_sign_of_life() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    for _ in 0..3 {
        house.pass(6_000);
        assert_eq!(house.commit(commit_of(&ids[0], 1), 9), [0]);
    }
}

#[test]
fn whoever_has_no_membership_commits_to_groups_that_are_empty_or_not_there() {
    let mut house = House::new();
    house.commit_simply("t", &[(0, 1)]);
    assert_eq!(house.state(), "Empty");
    house.commit_simply("t", &[(0, 2)]);
    let stale = commit_of(&text("x"), 3);
    assert_eq!(house.commit(stale, 9), [Error::UnknownMemberId.code()]);
    house.restart();
    assert_eq!(house.offsets(), [("t".to_string(), 0, 2)]);
    assert_eq!(house.state(), "Empty");
}

#[test]
fn a_member_of_a_group_that_is_not_there_cannot_commit() {
    let mut house = House::new();
    assert_eq!(house.commit(commit_of(&text("x"), 1), 9), [Error::GroupIdNotFound.code()]);
    assert_eq!(house.commit(commit_of(&text("x"), 1), 8), [Error::IllegalGeneration.code()]);
    assert!(house.records.is_empty());
}

#[test]
fn metadata_has_a_limit_that_counts_as_java_does() {
    let mut house = House::with(GroupConfig { offset_metadata_max_bytes: 4, ..GroupConfig::default() });
    let mut commit = |metadata: Option<&str>| {
        let mut request = House::commit_request("t", &[(0, 1), (1, 1)]);
        request.topics[0].partitions[1].committed_metadata = metadata.map(text);
        house.commit(request, 9)
    };
    assert_eq!(commit(Some("1234")), [0, 0]);
    assert_eq!(commit(Some("äöüß")), [0, 0]);
    assert_eq!(commit(None), [0, 0]);
    let too_large = Error::OffsetMetadataTooLarge.code();
    assert_eq!(commit(Some("12345")), [0, too_large], "the other partition is committed");
    assert_eq!(commit(Some("123😀")), [0, too_large]);
    let fetched = house.fetch(None);
    assert_eq!(fetched.topics[0].partitions[1].metadata.as_deref(), Some(""));
}

#[test]
fn a_commit_that_the_log_would_not_take_changes_nothing() {
    let mut house = House::with(GroupConfig { max_batch_bytes: 1_000, ..GroupConfig::default() });
    let many: Vec<_> = (0..100).map(|index| (index, 1)).collect();
    let errors = house.commit(House::commit_request("t", &many), 9);
    assert_eq!(errors, [Error::UnknownServerError.code(); 100]);
    assert!(house.records.is_empty());
    assert_eq!(house.state(), "Dead");
}

#[test]
fn names_that_no_record_can_hold_are_not_committed() {
    let mut house = House::new();
    let long = "x".repeat(40_000);
    let topic = House::commit_request(&long, &[(0, 1)]);
    assert_eq!(house.commit(topic, 9), [Error::InvalidTopicException.code()]);
    let group = House::commit_request("t", &[(0, 1)]).with_group_id(group_id(&long));
    assert_eq!(house.commit(group, 9), [Error::InvalidGroupId.code()]);
    let mut metadata = House::commit_request("t", &[(0, 1)]);
    metadata.topics[0].partitions[0].committed_metadata = Some(text(&long));
    house.shard.config.offset_metadata_max_bytes = usize::MAX;
    assert_eq!(house.commit(metadata, 9), [Error::OffsetMetadataTooLarge.code()]);
    assert!(house.records.is_empty());
}

#[test]
fn offsets_of_topics_that_consumers_use_are_not_deleted() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    house.commit(commit_of(&ids[0], 1), 9);
    let other = House::commit_request("u", &[(0, 5), (1, 6)])
        .with_member_id(ids[0].clone())
        .with_generation_id_or_member_epoch(1);
    house.commit(other, 9);
    let subscribed = Error::GroupSubscribedToTopic.code();
    assert_eq!(delete(&mut house, "t", &[0, 9]), (0, vec![subscribed; 2]));
    assert_eq!(delete(&mut house, "u", &[1, 2]), (0, vec![0; 2]));
    assert_eq!(house.offsets(), [("t".to_string(), 0, 42), ("u".to_string(), 0, 5)]);
    house.restart();
    assert_eq!(house.offsets(), [("t".to_string(), 0, 42), ("u".to_string(), 0, 5)]);
    assert_eq!(delete(&mut house, "t", &[0]), (0, vec![subscribed]), "the log tells the subscriptions");
    house.leave(&[(&ids[0], None)]);
    assert_eq!(delete(&mut house, "t", &[0]), (0, vec![0]));
}

#[test]
fn offsets_of_consumers_whose_subscriptions_nobody_understands_are_not_deleted() {
    let mut house = House::new();
    for metadata in [&b""[..], b"\0", b"\0\0\0\0\0\x01\0\x09t", b"\xff\xff\0\0\0\0\xff\xff\xff\xff"] {
        let metadata = Bytes::from_static(metadata);
        let ids = house.stable(vec![Join::old().protocols(&[("range", metadata)])]);
        assert_eq!(delete(&mut house, "u", &[0]).1, [Error::GroupSubscribedToTopic.code()]);
        house.leave(&[(&ids[0], None)]);
    }
}

#[test]
fn offsets_of_other_groups_with_members_are_not_deleted() {
    let mut house = House::new();
    assert_eq!(delete(&mut house, "t", &[0]), (Error::GroupIdNotFound.code(), Vec::new()));
    house.join(Join::old().with(|request| request.protocol_type = text("connect")));
    assert_eq!(delete(&mut house, "t", &[0]), (Error::NonEmptyGroup.code(), Vec::new()));
    let unnamed = OffsetDeleteRequest::default();
    let ticket = house.call(Call::OffsetDelete(unnamed));
    let invalid = OffsetDeleteResponse::default().with_error_code(Error::InvalidGroupId.code());
    assert_eq!(house.answer(ticket), Answer::OffsetDelete(invalid));
}

#[test]
fn a_group_is_deleted_with_its_offsets_when_it_is_empty() {
    let mut house = House::new();
    assert_eq!(house.delete(), Error::GroupIdNotFound.code());
    let ids = house.stable(vec![Join::old()]);
    house.commit(commit_of(&ids[0], 1), 9);
    assert_eq!(house.delete(), Error::NonEmptyGroup.code());
    house.leave(&[(&ids[0], None)]);
    house.join_now(Join::new());
    let before = house.records.len();
    assert_eq!(house.delete(), 0);
    let keys: Vec<_> =
        house.records[before..].iter().map(|r| (Key::decode(&r.key).unwrap(), &r.value)).collect();
    let offset = Key::Offset { group: text(GROUP), topic: text("t"), partition: 0 };
    assert_eq!(keys, [(offset, &None), (Key::Group(text(GROUP)), &None)]);
    assert_eq!(house.state(), "Dead");
    assert!(house.offsets().is_empty());
    house.pass(20_000);
    house.restart();
    assert_eq!(house.state(), "Dead");
    assert!(house.offsets().is_empty());
}

#[test]
fn the_offsets_of_a_deleted_topic_go() {
    let mut house = House::new();
    house.commit_simply("t", &[(0, 1), (1, 2)]);
    house.commit_simply("u", &[(0, 3)]);
    let other = House::commit_request("t", &[(5, 4)]).with_group_id(group_id("other"));
    house.commit(other, 9);
    let before = house.records.len();
    let ticket = house.call(Call::TopicsDeleted(vec![topic_name("t"), topic_name("none")]));
    assert_eq!(house.answer(ticket), Answer::TopicsDeleted);
    assert_eq!(house.records.len() - before, 3);
    assert!(house.records[before..].iter().all(|record| record.value.is_none()));
    assert_eq!(house.offsets(), [("u".to_string(), 0, 3)]);
}
