//! The coordinator over fake partitions: what waits for what, and what is there after a new start.

use std::time::Duration;

use chronik_core::group::{Answer, Call, Caller};
use chronik_core::record_batch::{BatchBuilder, BatchHeader, Verified};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    GroupId, JoinGroupRequest, OffsetCommitRequest, SyncGroupRequest, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::*;
use crate::api::partitions::PartitionReader;
use crate::api::testing::{FakePartition, Fixture};

const PATIENCE: Duration = Duration::from_secs(20);

/// A broker with one partition of groups, and the topic "t".
async fn fixture() -> Fixture {
    let fixture = Fixture::with(&[
        ("offsets.topic.num.partitions", "1"),
        ("group.initial.rebalance.delay.ms", "0"),
        ("group.min.session.timeout.ms", "1"),
    ])
    .await;
    fixture.create_topic("t", 4).await;
    fixture.broker.groups.ensure_topic().await.unwrap();
    fixture
}

fn log(fixture: &Fixture) -> Arc<FakePartition> {
    fixture.log(OFFSETS_TOPIC, 0)
}

fn commit(group: &str, offset: i64) -> Call {
    commit_of(group, 0, offset)
}

pub(super) fn commit_of(group: &str, partition: i32, offset: i64) -> Call {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_metadata(None);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(StrBytes::from_static_str("t")))
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group.to_string())))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    Call::OffsetCommit(request, 8)
}

pub(super) fn fetch(group: &str) -> Call {
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(StrBytes::from_string(group.to_string())))
        .with_topics(None);
    Call::OffsetFetch(group, false, 8)
}

/// Asks until the shard is loaded.
pub(super) async fn ask(coordinator: &Coordinator, group: &str, call: Call) -> Answered {
    let begun = std::time::Instant::now();
    loop {
        let answered = coordinator.call(group, call.clone()).await.unwrap();
        if answered.as_ref().err() != Some(&ResponseError::CoordinatorLoadInProgress) {
            return answered;
        }
        assert!(begun.elapsed() < PATIENCE, "never loaded");
        tokio::task::yield_now().await;
    }
}

async fn committed(coordinator: &Coordinator, group: &str) -> Option<i64> {
    match ask(coordinator, group, fetch(group)).await.unwrap() {
        Answer::OffsetFetch(group) => Some(group.topics.first()?.partitions.first()?.committed_offset),
        other => panic!("{other:?}"),
    }
}

#[test]
fn addresses_are_written_as_java_does() {
    for (address, written) in
        [("127.0.0.1", "/127.0.0.1"), ("::1", "/0:0:0:0:0:0:0:1"), ("::ffff:10.1.2.3", "/10.1.2.3")]
    {
        assert_eq!(host_of(address.parse().unwrap()), written);
    }
}

#[tokio::test]
async fn an_answer_waits_for_the_disk_and_for_those_before_it() {
    let fixture = fixture().await;
    let groups = &fixture.broker.groups;
    assert!(matches!(ask(groups, "g", commit("g", 3)).await, Ok(Answer::OffsetCommit(_))));
    log(&fixture).hold_flushes(true);
    let mut first = groups.call("g", commit("g", 4));
    let mut second = groups.call("other", commit("other", 5));
    // It writes nothing, but tells of what is not on the disk yet.
    let mut reads = groups.call("g", fetch("g"));
    tokio::time::sleep(Duration::from_millis(20)).await;
    for told in [&mut first, &mut second, &mut reads] {
        assert!(told.try_recv().is_err(), "answered before it was durable");
    }
    log(&fixture).flush();
    for told in [first, second] {
        assert!(matches!(told.await.unwrap(), Ok(Answer::OffsetCommit(_))));
    }
    assert!(matches!(reads.await.unwrap(), Ok(Answer::OffsetFetch(_))));
    assert_eq!(committed(groups, "g").await, Some(4));
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_new_start() {
    let fixture = fixture().await;
    for (group, offset) in [("a", 1), ("b", 2), ("a", 3)] {
        ask(&fixture.broker.groups, group, commit(group, offset)).await.unwrap();
    }
    // Nobody understands these; they are passed over.
    let odd =
        BatchBuilder::new().record(1, Some(b"\xff\xff?"), Some(b"?")).record(1, Some(b""), None).build();
    log(&fixture).append_own(odd.into());
    let again = fixture.restarted();
    assert_eq!(committed(&again.broker.groups, "a").await, Some(3));
    assert_eq!(committed(&again.broker.groups, "b").await, Some(2));
    assert_eq!(committed(&again.broker.groups, "c").await, None);
}

#[tokio::test]
async fn a_load_waits_for_what_is_on_its_way_to_the_disk() {
    let fixture = fixture().await;
    ask(&fixture.broker.groups, "g", commit("g", 1)).await.unwrap();
    log(&fixture).hold_flushes(true);
    let pending = fixture.broker.groups.call("g", commit("g", 2));
    let again = fixture.restarted();
    let told = again.broker.groups.call("g", fetch("g")).await.unwrap();
    assert_eq!(told.unwrap_err(), ResponseError::CoordinatorLoadInProgress);
    log(&fixture).hold_flushes(false);
    log(&fixture).flush();
    pending.await.unwrap().unwrap();
    assert_eq!(committed(&again.broker.groups, "g").await, Some(2));
}

#[tokio::test]
async fn a_failed_append_is_answered_and_the_shard_begins_anew() {
    let fixture = fixture().await;
    let groups = &fixture.broker.groups;
    ask(groups, "g", commit("g", 1)).await.unwrap();
    log(&fixture).refuse_appends(true);
    let failed = groups.call("g", commit("g", 2)).await.unwrap();
    assert_eq!(failed.unwrap_err(), ResponseError::NotCoordinator);
    log(&fixture).refuse_appends(false);
    assert_eq!(committed(groups, "g").await, Some(1), "what was not written is not told");
    ask(groups, "g", commit("g", 3)).await.unwrap();
    assert_eq!(committed(groups, "g").await, Some(3));
}

#[tokio::test]
async fn offsets_of_a_deleted_topic_go() {
    use chronik_core::controller::{TopicRef, delete_topics};
    let fixture = fixture().await;
    ask(&fixture.broker.groups, "g", commit("g", 1)).await.unwrap();
    let delete = |name: &'static str| async {
        let topics = [TopicRef::Name(name.to_string())];
        fixture.broker.metadata.change(|image| Ok(delete_topics(image, &topics))).await.unwrap();
    };
    delete("t").await;
    assert_eq!(committed(&fixture.broker.groups, "g").await, None);
    assert_eq!(committed(&fixture.restarted().broker.groups, "g").await, None);
    // Without its topic, nobody coordinates groups; it is made again when it is asked for.
    delete(OFFSETS_TOPIC).await;
    let told = fixture.broker.groups.call("g", fetch("g")).await.unwrap();
    assert_eq!(told.unwrap_err(), ResponseError::NotCoordinator);
    fixture.broker.groups.ensure_topic().await.unwrap();
    assert_eq!(committed(&fixture.broker.groups, "g").await, None);
}

#[tokio::test]
async fn a_silent_member_is_gone_in_its_time() {
    let fixture = fixture().await;
    let groups = &fixture.broker.groups;
    let id = || GroupId(StrBytes::from_static_str("g"));
    let protocol = JoinGroupRequestProtocol::default().with_name(StrBytes::from_static_str("range"));
    let join = JoinGroupRequest::default()
        .with_group_id(id())
        .with_session_timeout_ms(50)
        .with_rebalance_timeout_ms(1000)
        .with_protocol_type(StrBytes::from_static_str("consumer"))
        .with_protocols(vec![protocol]);
    let caller = Caller { client_id: "c".to_string(), client_host: "/127.0.0.1".to_string() };
    let Ok(Answer::JoinGroup(joined)) = ask(groups, "g", Call::JoinGroup(join, 3, caller)).await else {
        panic!("not joined")
    };
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    let sync = SyncGroupRequest::default()
        .with_group_id(id())
        .with_generation_id(1)
        .with_member_id(joined.member_id);
    assert!(matches!(ask(groups, "g", Call::SyncGroup(sync, 3)).await, Ok(Answer::SyncGroup(_))));
    let begun = std::time::Instant::now();
    loop {
        let described = ask(groups, "g", Call::DescribeGroup(id(), 5)).await;
        let Ok(Answer::DescribeGroup(group)) = described else { panic!("{described:?}") };
        if group.members.is_empty() {
            assert_eq!(&group.group_state[..], "Empty");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it is still there: {group:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // That, too, was written down.
    let described = ask(&fixture.restarted().broker.groups, "g", Call::DescribeGroup(id(), 5)).await;
    let Ok(Answer::DescribeGroup(group)) = described else { panic!("{described:?}") };
    assert_eq!((&group.group_state[..], group.members.len()), ("Empty", 0));
}

#[tokio::test]
async fn a_stop_answers_those_who_wait() {
    let fixture = fixture().await;
    ask(&fixture.broker.groups, "g", commit("g", 1)).await.unwrap();
    log(&fixture).hold_flushes(true);
    let on_its_way = fixture.broker.groups.call("g", commit("g", 2));
    fixture.broker.groups.stop();
    let late = fixture.broker.groups.call("g", fetch("g")).await.unwrap();
    assert_eq!(late.unwrap_err(), ResponseError::NotCoordinator);
    log(&fixture).flush();
    assert!(on_its_way.await.unwrap().is_ok(), "what is on its way is answered when it is there");
}

fn txn_commit(group: &str, producer: i64, offset: i64) -> Call {
    txn_commit_of(group, producer, 0, offset)
}

pub(super) fn txn_commit_of(group: &str, producer: i64, partition: i32, offset: i64) -> Call {
    let partition = TxnOffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset);
    let topic = TxnOffsetCommitRequestTopic::default()
        .with_name(TopicName(StrBytes::from_static_str("t")))
        .with_partitions(vec![partition]);
    let request = TxnOffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group.to_string())))
        .with_producer_id(producer.into())
        .with_producer_epoch(2)
        .with_topics(vec![topic]);
    Call::TxnOffsetCommit(request, Verified::Own)
}

pub(super) fn marker(producer: i64, commit: bool) -> EndMarker {
    EndMarker {
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(2),
        coordinator_epoch: 1,
        commit,
    }
}

#[tokio::test]
async fn transactions_are_decided_after_a_new_start_too() {
    let fixture = fixture().await;
    let groups = &fixture.broker.groups;
    for (group, producer, offset) in [("a", 1, 10), ("b", 2, 20), ("a", 2, 21), ("c", 3, 30)] {
        ask(groups, group, txn_commit(group, producer, offset)).await.unwrap();
    }
    groups.write_marker(0, marker(1, true)).await.unwrap();
    let again = fixture.restarted();
    let groups = &again.broker.groups;
    for (group, offset) in [("a", Some(10)), ("b", None), ("c", None)] {
        assert_eq!(committed(groups, group).await, offset, "{group}");
    }
    groups.write_marker(0, marker(2, true)).await.unwrap();
    groups.write_marker(0, marker(3, false)).await.unwrap();
    for fixture in [&again, &again.restarted()] {
        for (group, offset) in [("a", Some(21)), ("b", Some(20)), ("c", None)] {
            assert_eq!(committed(&fixture.broker.groups, group).await, offset, "{group}");
        }
    }
}

#[tokio::test]
async fn what_a_transaction_commits_is_its_producers_in_the_log() {
    let fixture = fixture().await;
    let groups = &fixture.broker.groups;
    ask(groups, "g", txn_commit("g", 5, 1)).await.unwrap();
    ask(groups, "g", commit("g", 2)).await.unwrap();
    groups.write_marker(0, marker(5, true)).await.unwrap();
    let log = log(&fixture);
    let written = log.read(0, log.end(), 1 << 20, true).await.unwrap().pieces;
    let headers: Vec<_> = written.iter().map(|batch| BatchHeader::parse(batch).unwrap()).collect();
    let told: Vec<_> =
        headers.iter().map(|h| (h.producer_id.0, h.is_transactional(), h.is_control())).collect();
    assert_eq!(told, [(5, true, false), (-1, false, false), (5, true, true)]);
    assert_eq!((headers[0].producer_epoch, headers[0].base_sequence), (ProducerEpoch(2), -1));
    assert_eq!(EndMarker::of(&headers[2], &written[2]), Some(marker(5, true)));
    assert_eq!(committed(groups, "g").await, Some(2), "the later of the two");
}

#[tokio::test]
async fn a_marker_is_there_when_it_is_on_the_disk() {
    let fixture = fixture().await;
    let groups = &fixture.broker.groups;
    ask(groups, "g", txn_commit("g", 5, 1)).await.unwrap();
    log(&fixture).hold_flushes(true);
    let mut ended = std::pin::pin!(groups.write_marker(0, marker(5, true)));
    let mut reads = groups.call("g", fetch("g"));
    tokio::time::timeout(Duration::from_millis(20), &mut ended).await.unwrap_err();
    assert!(reads.try_recv().is_err(), "told before it was durable");
    log(&fixture).flush();
    ended.await.unwrap();
    assert!(matches!(reads.await.unwrap(), Ok(Answer::OffsetFetch(_))));
    log(&fixture).hold_flushes(false);
    log(&fixture).refuse_appends(true);
    let refused = groups.write_marker(0, marker(5, true)).await;
    assert_eq!(refused, Err(ResponseError::NotLeaderOrFollower));
    log(&fixture).refuse_appends(false);
    assert_eq!(committed(groups, "g").await, Some(1));
}
