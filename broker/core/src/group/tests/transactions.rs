use kafka_protocol::error::ResponseError as Error;

use super::super::*;
use super::house::*;

const DAY_MS: i64 = 24 * 3_600_000;
const CHECK_MS: i64 = 600_000;

/// What is committed of the topic `t`, as an offset of each partition.
fn committed(house: &mut House) -> Vec<(i32, i64)> {
    house.offsets().into_iter().map(|(_, partition, offset)| (partition, offset)).collect()
}

/// Error and offset of one partition, for a consumer that wants what is stable, or not.
fn fetched(house: &mut House, partition: i32, stable: bool) -> (i16, i64) {
    let answer = house.fetch_as(Some(&[("t", &[partition])]), stable);
    let found = &answer.topics[0].partitions[0];
    (found.error_code, found.committed_offset)
}

#[test]
fn offsets_of_a_transaction_count_when_it_is_committed() {
    let mut house = House::new();
    house.commit_simply("t", &[(0, 1), (1, 2)]);
    house.txn_commit_simply(5, "t", &[(0, 10), (2, 30)]);
    assert_eq!(house.producers.values().collect::<Vec<_>>(), [&ProducerId(5); 2]);
    assert_eq!(committed(&mut house), [(0, 1), (1, 2)]);
    let unstable = (Error::UnstableOffsetCommit.code(), -1);
    for (partition, stable, found) in
        [(0, true, unstable), (0, false, (0, 1)), (1, true, (0, 2)), (2, true, unstable), (2, false, (0, -1))]
    {
        assert_eq!(fetched(&mut house, partition, stable), found, "{partition} {stable}");
    }
    let all = house.fetch(None);
    let codes: Vec<_> = all.topics[0].partitions.iter().map(|p| (p.partition_index, p.error_code)).collect();
    assert_eq!(codes, [(0, unstable.0), (1, 0)]);

    house.end(5, true);
    assert_eq!(committed(&mut house), [(0, 10), (1, 2), (2, 30)]);
    assert_eq!(fetched(&mut house, 0, true), (0, 10));
    let found = &house.fetch(None).topics[0].partitions[2];
    assert_eq!((found.committed_leader_epoch, found.metadata.as_deref()), (7, Some("m")));
    assert!(house.pending().is_empty());
}

#[test]
fn offsets_of_an_aborted_transaction_are_forgotten() {
    let mut house = House::new();
    house.txn_commit_simply(5, "t", &[(0, 10)]);
    house.end(5, false);
    assert_eq!(fetched(&mut house, 0, true), (0, -1));
    house.commit_simply("t", &[(0, 1)]);
    house.txn_commit_simply(5, "t", &[(0, 11)]);
    house.end(5, false);
    assert_eq!(committed(&mut house), [(0, 1)]);
    house.end(5, true);
    house.end(6, true);
    assert_eq!(committed(&mut house), [(0, 1)], "there is nothing left to be committed");
}

#[test]
fn what_is_pending_survives_a_restart() {
    let mut house = House::new();
    house.txn_commit_simply(5, "t", &[(0, 10)]);
    house.txn_commit_simply(6, "t", &[(0, 20), (1, 21)]);
    house.end(6, false);
    house.txn_commit_simply(6, "t", &[(1, 22)]);
    house.restart();
    assert_eq!(house.state(), "Empty", "the group is there already");
    assert_eq!(house.pending(), [(5, "t".to_string(), 0, 10), (6, "t".to_string(), 1, 22)]);
    house.end(5, true);
    house.restart();
    assert_eq!(committed(&mut house), [(0, 10)]);
    assert_eq!(house.pending(), [(6, "t".to_string(), 1, 22)]);
}

#[test]
fn of_two_commits_the_later_one_counts() {
    let mut house = House::new();
    house.txn_commit_simply(5, "t", &[(0, 10), (1, 11)]);
    house.commit_simply("t", &[(0, 1)]);
    house.txn_commit_simply(6, "t", &[(0, 20)]);
    house.end(6, true);
    house.end(5, true);
    assert_eq!(committed(&mut house), [(0, 20), (1, 11)], "whenever the marker comes");
    house.restart();
    assert_eq!(committed(&mut house), [(0, 20), (1, 11)]);

    house.txn_commit_simply(5, "t", &[(1, 12)]);
    house.txn_commit_simply(5, "t", &[(1, 13)]);
    house.end(5, true);
    assert_eq!(committed(&mut house), [(0, 20), (1, 13)], "of one transaction, too");
}

#[test]
fn a_producer_that_tells_its_member_is_fenced_with_it() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old().instance("i"), Join::old()]);
    let mut told = |member: &StrBytes, instance: Option<&str>, generation: i32| {
        let request = House::txn_commit_request(5, "t", &[(0, 1)])
            .with_member_id(member.clone())
            .with_group_instance_id(instance.map(text))
            .with_generation_id(generation);
        house.txn_commit(request)[0]
    };
    let (fixed, other) = if ids[0].starts_with("i-") { (&ids[0], &ids[1]) } else { (&ids[1], &ids[0]) };
    assert_eq!(told(fixed, Some("i"), 1), 0);
    assert_eq!(told(other, None, 1), 0);
    assert_eq!(told(other, None, 0), Error::IllegalGeneration.code());
    assert_eq!(told(other, None, -1), Error::IllegalGeneration.code());
    assert_eq!(told(other, Some("i"), 1), Error::FencedInstanceId.code());
    assert_eq!(told(fixed, Some("x"), 1), Error::UnknownMemberId.code());
    assert_eq!(told(&text("gone"), None, 1), Error::UnknownMemberId.code());
    assert_eq!(told(&text(""), None, 1), Error::UnknownMemberId.code());
    assert_eq!(told(&text(""), None, -1), 0, "before version 3 nobody could tell");
}

#[test]
fn a_rebalance_does_not_hold_up_a_transaction() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    let ticket = house.join(Join::old().member(&ids[0]));
    assert_eq!(house.joined(ticket).generation_id, 2);
    let request = House::txn_commit_request(5, "t", &[(0, 1)]).with_member_id(ids[0].clone());
    assert_eq!(house.txn_commit(request.clone().with_generation_id(2)), [0], "it is no commit yet");
    assert_eq!(house.txn_commit(request.with_generation_id(1)), [Error::IllegalGeneration.code()]);
}

#[test]
fn a_commit_of_a_transaction_is_no_sign_of_life() {
    let mut house = House::new();
    let ids = house.stable(vec![Join::old()]);
    house.pass(9_000);
    let request =
        House::txn_commit_request(5, "t", &[(0, 1)]).with_member_id(ids[0].clone()).with_generation_id(1);
    assert_eq!(house.txn_commit(request), [0]);
    house.pass(1_000);
    assert_eq!(house.heartbeat(&ids[0], 1), Error::UnknownMemberId.code());
}

#[test]
fn a_generation_of_a_group_that_is_not_there_is_none() {
    let mut house = House::new();
    let request = House::txn_commit_request(5, "t", &[(0, 1)]).with_generation_id(1);
    assert_eq!(house.txn_commit(request), [Error::IllegalGeneration.code()]);
    let unnamed = House::txn_commit_request(5, "t", &[(0, 1)]).with_group_id(group_id(""));
    assert_eq!(house.txn_commit(unnamed), [Error::InvalidGroupId.code()]);
    let long = House::txn_commit_request(5, "t", &[(0, 1)]).with_group_id(group_id(&"x".repeat(40_000)));
    assert_eq!(house.txn_commit(long), [Error::InvalidGroupId.code()]);
    assert!(house.records.is_empty() && house.producers.is_empty());
    assert_eq!(house.state(), "Dead");
}

#[test]
fn what_the_log_would_not_take_is_not_pending() {
    let config =
        GroupConfig { offset_metadata_max_bytes: 4, max_batch_bytes: 1_000, ..GroupConfig::default() };
    let mut house = House::with(config);
    let many: Vec<_> = (0..100).map(|index| (index, 1)).collect();
    let errors = house.txn_commit(House::txn_commit_request(5, "t", &many));
    assert_eq!(errors, [Error::UnknownServerError.code(); 100]);
    let mut request = House::txn_commit_request(5, "t", &[(0, 1), (1, 1)]);
    request.topics[0].partitions[1].committed_metadata = Some(text("12345"));
    assert_eq!(house.txn_commit(request.clone()), [0, Error::OffsetMetadataTooLarge.code()]);
    request.topics[0].partitions.remove(0);
    assert_eq!(house.txn_commit(request), [Error::OffsetMetadataTooLarge.code()]);
    assert_eq!(house.pending(), [(5, "t".to_string(), 0, 1)]);
}

#[test]
fn nothing_expires_that_a_transaction_renews() {
    let mut house = House::new();
    house.commit_simply("t", &[(0, 1), (1, 1)]);
    house.txn_commit_simply(5, "t", &[(0, 2)]);
    house.pass(7 * DAY_MS + CHECK_MS);
    assert_eq!(committed(&mut house), [(0, 1)]);
    house.restart();
    house.end(5, false);
    house.pass(CHECK_MS);
    assert_eq!(house.state(), "Dead");

    house.txn_commit_simply(5, "t", &[(0, 2)]);
    house.pass(30 * DAY_MS);
    assert_eq!(house.state(), "Empty", "a group that waits for its first offsets stays");
    house.end(5, true);
    assert_eq!(committed(&mut house), [(0, 2)]);
    house.pass(CHECK_MS);
    assert_eq!(house.state(), "Dead", "which are as old as their commit");
}

#[test]
fn what_is_deleted_is_no_longer_pending() {
    let mut house = House::new();
    let pending = |house: &mut House| {
        house.commit_simply("t", &[(0, 1)]);
        house.txn_commit_simply(5, "t", &[(0, 2), (1, 3)]);
        house.txn_commit_simply(6, "t", &[(1, 4)]);
        house.txn_commit_simply(6, "u", &[(0, 5)]);
        house.records.len()
    };
    let tombstones = |house: &House, before: usize| {
        assert!(house.records[before..].iter().all(|record| record.value.is_none()));
        house.records.len() - before
    };
    let over = |house: &mut House| {
        for producer in [5, 6] {
            house.end(producer, true);
        }
        house.restart();
        house.offsets()
    };
    let before = pending(&mut house);
    let ticket = house.call(Call::TopicsDeleted(vec![topic_name("t")]));
    assert_eq!(house.answer(ticket), Answer::TopicsDeleted);
    assert_eq!((tombstones(&house, before), house.pending()), (2, vec![(6, "u".to_string(), 0, 5)]));
    assert_eq!(over(&mut house), [("u".to_string(), 0, 5)]);

    let before = pending(&mut house);
    assert_eq!(house.delete(), 0);
    assert_eq!(
        (tombstones(&house, before), house.pending()),
        (4, Vec::new()),
        "three offsets, and the group"
    );
    assert!(over(&mut house).is_empty());
    assert_eq!(house.state(), "Dead");
}

#[test]
fn an_offset_that_is_deleted_is_no_longer_pending() {
    use kafka_protocol::messages::offset_delete_request::{
        OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
    };
    let mut house = House::new();
    house.txn_commit_simply(5, "t", &[(0, 1), (1, 2)]);
    let partitions = vec![OffsetDeleteRequestPartition::default().with_partition_index(0)];
    let topic = OffsetDeleteRequestTopic::default().with_name(topic_name("t")).with_partitions(partitions);
    let request = OffsetDeleteRequest::default().with_group_id(group_id(GROUP)).with_topics(vec![topic]);
    let before = house.records.len();
    house.call(Call::OffsetDelete(request));
    assert_eq!(house.records.len(), before + 1);
    house.end(5, true);
    assert_eq!(committed(&mut house), [(1, 2)]);
    house.restart();
    assert_eq!(committed(&mut house), [(1, 2)]);
}
