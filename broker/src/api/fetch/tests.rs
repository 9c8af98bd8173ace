use std::sync::atomic::{AtomicBool, Ordering};

use chronik_core::ids::ProducerId;
use chronik_core::log::AbortedTransaction;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId as WireBrokerId, FetchResponse, TopicName};

use super::*;
use crate::api::RequestPermit;
use crate::api::testing::{Fixture, decode, settle};
use kafka_protocol::error::ResponseError;

/// A topic `a` of so many partitions, each with batches of 10, 10 and 10 records (1000 bytes each).
async fn filled(partitions: i32) -> Fixture {
    let fixture = Fixture::new().await;
    fixture.create_topic("a", partitions).await;
    for p in 0..partitions {
        let log = fixture.log("a", p);
        (0..3).for_each(|n| log.append(10, n * 1000));
        log.commit(30);
    }
    fixture
}

fn part(partition: i32, offset: i64) -> FetchPartition {
    FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20)
}

/// A request that does not wait.
fn ask(fixture: &Fixture, version: i16, partitions: Vec<FetchPartition>) -> FetchRequest {
    let mut topic = FetchTopic::default().with_partitions(partitions);
    if version >= BY_ID {
        topic.topic_id = fixture.broker.metadata.image().topic("a").unwrap().id.0;
    } else {
        topic.topic = TopicName(text("a"));
    }
    let request = FetchRequest::default()
        .with_max_wait_ms(0)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    if version < 15 { request.with_replica_id(WireBrokerId(-1)) } else { request }
}

fn bytes(p: &PartitionData) -> usize {
    p.records.as_ref().expect("records are never null").len()
}

async fn one(fixture: &Fixture, version: i16, partition: FetchPartition) -> PartitionData {
    let request = ask(fixture, version, vec![partition]);
    let mut response: FetchResponse = fixture.call(version, &request).await;
    response.responses.remove(0).partitions.remove(0)
}

#[tokio::test]
async fn records_in_every_version() {
    let fixture = filled(2).await;
    for version in 4..=18 {
        let request = ask(&fixture, version, vec![part(0, 0), part(1, 15), part(1, 20)]);
        let response: FetchResponse = fixture.call(version, &request).await;
        assert_eq!((response.error_code, response.session_id, response.responses.len()), (0, 0, 1));
        let partitions = &response.responses[0].partitions;
        // A partition named twice is answered once, as it was named last.
        assert_eq!(partitions.iter().map(bytes).collect::<Vec<_>>(), [3000, 1000], "version {version}");
        let p = &partitions[0];
        assert_eq!((p.error_code, p.high_watermark, p.last_stable_offset), (0, 30, 30));
        assert_eq!((p.log_start_offset, p.preferred_read_replica.0), (if version >= 5 { 0 } else { -1 }, -1));
        assert_eq!(p.aborted_transactions, None);
        let committed: FetchResponse = fixture.call(version, &request.with_isolation_level(1)).await;
        assert_eq!(committed.responses[0].partitions[0].aborted_transactions, Some(vec![]));
    }
}

#[tokio::test]
async fn limits_give_whole_batches_and_at_least_one() {
    let fixture = filled(3).await;
    // The partition's limit.
    for (limit, got) in [(0, 1000), (1, 1000), (1999, 1000), (2000, 2000), (i32::MAX, 3000)] {
        let p = one(&fixture, 12, part(0, 0).with_partition_max_bytes(limit)).await;
        assert_eq!(bytes(&p), got, "limit {limit}");
    }
    // The request's, over several partitions: the first batch always, then what fits.
    for (limit, got) in
        [(0, [1000, 0, 0]), (1, [1000, 0, 0]), (4500, [3000, 1000, 0]), (9000, [3000, 3000, 3000])]
    {
        let request = ask(&fixture, 12, vec![part(0, 0), part(1, 0), part(2, 0)]).with_max_bytes(limit);
        let response: FetchResponse = fixture.call(12, &request).await;
        let sizes: Vec<_> = response.responses[0].partitions.iter().map(bytes).collect();
        assert_eq!(sizes, got, "limit {limit}");
    }
    // At least one batch goes to the first partition that has one, not to the first.
    let request = ask(&fixture, 12, vec![part(0, 30), part(1, 0), part(2, 0)]).with_max_bytes(1);
    let response: FetchResponse = fixture.call(12, &request).await;
    assert_eq!(response.responses[0].partitions.iter().map(bytes).collect::<Vec<_>>(), [0, 1000, 0]);
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_as_kafka_refuses_it() {
    let fixture = filled(3).await;
    for version in 4..=18 {
        let request = ask(&fixture, version, vec![part(0, 0)]).with_isolation_level(2).with_session_id(7);
        let request = if version < 7 { request.with_session_id(0).with_session_epoch(-1) } else { request };
        let response: FetchResponse = fixture.call(version, &request).await;
        assert_eq!(response.session_id, request.session_id, "it is given back");
        assert_eq!(response.error_code, if version < 7 { 0 } else { 42 });
        let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
        let told: Vec<_> = partitions.map(|p| (p.error_code, p.high_watermark)).collect();
        assert_eq!(told, if version < 13 { vec![(42, -1)] } else { vec![] }, "version {version}");
    }
    // Negative sizes: of the request, the first partition's read; of a partition, its own.
    let codes = async |request: FetchRequest| -> Vec<(i16, usize)> {
        let response: FetchResponse = fixture.call(12, &request).await;
        response.responses[0].partitions.iter().map(|p| (p.error_code, bytes(p))).collect()
    };
    let all = || vec![part(0, 30), part(1, 0), part(2, 0)];
    let request = ask(&fixture, 12, all()).with_max_bytes(-1);
    assert_eq!(codes(request).await, [(0, 0), (0, 1000), (0, 0)], "at the end nothing is read");
    let request = ask(&fixture, 12, vec![part(1, 0), part(2, 0)]).with_max_bytes(-1);
    assert_eq!(codes(request).await, [(42, 0), (0, 1000)]);
    let negative = part(1, 0).with_partition_max_bytes(-1);
    assert_eq!(codes(ask(&fixture, 12, vec![negative, part(2, 0)])).await, [(42, 0), (0, 3000)]);
}

#[tokio::test]
async fn what_nobody_knows_comes_last() {
    let fixture = filled(2).await;
    let request = ask(&fixture, 12, vec![part(7, 0), part(0, 0), part(8, 0), part(1, 99)]);
    let response: FetchResponse = fixture.call(12, &request).await;
    let partitions = &response.responses[0].partitions;
    let told: Vec<_> = partitions.iter().map(|p| (p.partition_index, p.error_code)).collect();
    assert_eq!(told, [(0, 0), (1, 1), (7, 3), (8, 3)]);
    // An empty list, and none.
    let aborted: Vec<_> = partitions.iter().map(|p| p.aborted_transactions.is_some()).collect();
    assert_eq!(aborted, [false, false, true, true]);
}

#[tokio::test]
async fn the_brokers_own_limit_counts_too() {
    let fixture = Fixture::with(&[("fetch.max.bytes", "1500")]).await;
    fixture.create_topic("a", 1).await;
    let log = fixture.log("a", 0);
    (0..3).for_each(|_| log.append(10, 0));
    log.commit(30);
    assert_eq!(bytes(&one(&fixture, 12, part(0, 0)).await), 1000);
}

#[tokio::test]
async fn what_is_not_committed_is_not_seen() {
    let fixture = filled(1).await;
    fixture.log("a", 0).append(10, 0);
    assert_eq!(bytes(&one(&fixture, 12, part(0, 20)).await), 1000);
    for offset in [30, 35, 40] {
        let p = one(&fixture, 12, part(0, offset)).await;
        assert_eq!((p.error_code, bytes(&p), p.high_watermark), (0, 0, 30), "offset {offset}");
    }
}

/// Producer 7 aborted a transaction, and another is open from offset 20 on.
#[tokio::test]
async fn readers_of_decided_records_stop_before_what_is_open() {
    let fixture = filled(1).await;
    let log = fixture.log("a", 0);
    log.set_undecided(Some(20));
    log.set_aborted(vec![AbortedTransaction {
        producer_id: ProducerId(7),
        first_offset: 0,
        last_offset: 12,
        last_stable_offset: 13,
    }]);
    for version in 4..=18 {
        let request = ask(&fixture, version, vec![part(0, 0)]);
        let response: FetchResponse = fixture.call(version, &request).await;
        let p = &response.responses[0].partitions[0];
        assert_eq!((bytes(p), p.high_watermark, p.last_stable_offset), (3000, 30, 20), "version {version}");
        assert_eq!(p.aborted_transactions, None);
        let response: FetchResponse = fixture.call(version, &request.with_isolation_level(1)).await;
        let p = &response.responses[0].partitions[0];
        assert_eq!((bytes(p), p.high_watermark, p.last_stable_offset), (2000, 30, 20), "version {version}");
        let told = p.aborted_transactions.as_ref().unwrap();
        let told: Vec<_> = told.iter().map(|t| (t.producer_id.0, t.first_offset)).collect();
        assert_eq!(told, [(7, 0)]);
    }
    let request = ask(&fixture, 12, vec![part(0, 25)]).with_isolation_level(1);
    let response: FetchResponse = fixture.call(12, &request).await;
    let p = &response.responses[0].partitions[0];
    assert_eq!((p.error_code, bytes(p)), (0, 0), "beyond what is decided, within the log");
}

/// Records that are not decided do not count as records to be read; and what a transaction held up is more than its marker.
#[tokio::test]
async fn a_transactions_end_is_waited_for() {
    let fixture = filled(1).await;
    let log = fixture.log("a", 0);
    log.set_undecided(Some(20));
    let request = ask(&fixture, 12, vec![part(0, 20)]).with_max_wait_ms(600_000).with_min_bytes(1500);
    let request = request.with_isolation_level(1);
    let answer = tokio::spawn(settle(fixture.start(12, &request).await));
    while crate::api::partitions::PartitionReader::listeners(&*log).is_empty() {
        tokio::task::yield_now().await;
    }
    log.append(10, 0);
    log.commit(40);
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert!(!answer.is_finished());
    }
    log.set_undecided(None);
    let response: FetchResponse = decode(&answer.await.unwrap().unwrap(), 12);
    assert_eq!(bytes(&response.responses[0].partitions[0]), 2000);
}

#[tokio::test]
async fn refusals_carry_kafkas_codes() {
    let fixture = filled(1).await;
    fixture.bump_leader_epoch("a").await;
    fixture.log("a", 0).set_log_start(10);
    for (wanted, code) in [
        (part(0, 9), ResponseError::OffsetOutOfRange),
        (part(0, 31), ResponseError::OffsetOutOfRange),
        (part(0, -1), ResponseError::OffsetOutOfRange),
        (part(1, 0), ResponseError::UnknownTopicOrPartition),
        (part(-1, 0), ResponseError::UnknownTopicOrPartition),
        (part(0, 10).with_current_leader_epoch(0), ResponseError::FencedLeaderEpoch),
        (part(0, 10).with_current_leader_epoch(2), ResponseError::UnknownLeaderEpoch),
    ] {
        let p = one(&fixture, 16, wanted.clone()).await;
        assert_eq!((p.error_code, bytes(&p), p.high_watermark), (code.code(), 0, -1), "{wanted:?}");
    }
    let mut unknown = ask(&fixture, 13, vec![part(0, 10)]);
    unknown.topics[0].topic_id = uuid::Uuid::from_u128(9);
    let response: FetchResponse = fixture.call(13, &unknown).await;
    assert_eq!(response.responses[0].partitions[0].error_code, ResponseError::UnknownTopicId.code());
    let mut unknown = ask(&fixture, 12, vec![part(0, 10)]);
    unknown.topics[0].topic = TopicName(text("gone"));
    let response: FetchResponse = fixture.call(12, &unknown).await;
    assert_eq!(response.responses[0].partitions[0].error_code, ResponseError::UnknownTopicOrPartition.code());
    fixture.log("a", 0).break_disk();
    assert_eq!(one(&fixture, 12, part(0, 10)).await.error_code, ResponseError::KafkaStorageError.code());
}

#[tokio::test]
async fn a_fenced_client_is_told_the_leader_and_where_it_is() {
    let fixture = filled(1).await;
    fixture.bump_leader_epoch("a").await;
    let stale = part(0, 0).with_current_leader_epoch(0);
    let response: FetchResponse = fixture.call(16, &ask(&fixture, 16, vec![stale.clone()])).await;
    let p = &response.responses[0].partitions[0];
    assert_eq!((p.current_leader.leader_id.0, p.current_leader.leader_epoch), (1, 1));
    assert_eq!((response.node_endpoints.len(), response.node_endpoints[0].port), (1, 9092));
    let older = one(&fixture, 12, stale).await;
    assert_eq!((older.error_code, older.current_leader.leader_id.0), (74, -1));
}

#[tokio::test]
async fn logs_that_parted_are_told_where() {
    let fixture = filled(1).await;
    fixture.bump_leader_epoch("a").await;
    fixture.log("a", 0).append(10, 0);
    fixture.log("a", 0).commit(40);
    // Epoch 0 ended at 30 here.
    let p = one(&fixture, 12, part(0, 35).with_last_fetched_epoch(0)).await;
    assert_eq!(
        (p.error_code, p.diverging_epoch.epoch, p.diverging_epoch.end_offset, bytes(&p)),
        (0, 0, 30, 0)
    );
    for (offset, epoch) in [(30, 0), (35, 1)] {
        let p = one(&fixture, 12, part(0, offset).with_last_fetched_epoch(epoch)).await;
        assert_eq!((p.diverging_epoch.epoch, bytes(&p)), (-1, 1000));
    }
}

#[tokio::test]
async fn other_brokers_are_no_replicas_here() {
    let fixture = filled(1).await;
    for (version, epoch, code) in [
        (12, -1, ResponseError::NotLeaderOrFollower),
        (12, 0, ResponseError::UnknownLeaderEpoch),
        (15, -1, ResponseError::NotLeaderOrFollower),
    ] {
        let mut request = ask(&fixture, version, vec![part(0, 0).with_current_leader_epoch(epoch)]);
        if version >= 15 {
            request.replica_state = ReplicaState::default().with_replica_id(WireBrokerId(2));
        } else {
            request.replica_id = WireBrokerId(2);
        }
        let response: FetchResponse = fixture.call(version, &request).await;
        assert_eq!(response.responses[0].partitions[0].error_code, code.code());
    }
}

#[tokio::test]
async fn a_request_waits_for_enough_and_holds_nothing() {
    struct Held(Arc<AtomicBool>);
    impl Drop for Held {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let fixture = filled(2).await;
    let request =
        ask(&fixture, 12, vec![part(0, 30), part(1, 30)]).with_max_wait_ms(600_000).with_min_bytes(1500);
    let released = Arc::new(AtomicBool::new(false));
    let permit = RequestPermit::new(Held(released.clone()));
    let answer = tokio::spawn(settle(fixture.start_with(12, &request, permit).await));
    let log = fixture.log("a", 0);
    while crate::api::partitions::PartitionReader::listeners(&*log).is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(released.load(Ordering::SeqCst));
    // Appended is not committed, and 1000 bytes are too few.
    log.append(10, 0);
    log.commit(40);
    (0..10).for_each(|_| assert!(!answer.is_finished()));
    fixture.log("a", 1).append(10, 0);
    fixture.log("a", 1).commit(40);
    let response: FetchResponse = decode(&answer.await.unwrap().unwrap(), 12);
    assert_eq!(response.responses[0].partitions.iter().map(bytes).collect::<Vec<_>>(), [1000, 1000]);
    assert!(crate::api::partitions::PartitionReader::listeners(&*log).is_empty());
}

#[tokio::test]
async fn a_request_waits_no_longer_than_it_said() {
    let fixture = filled(1).await;
    let request = ask(&fixture, 12, vec![part(0, 30)]).with_max_wait_ms(50);
    let response: FetchResponse = fixture.call(12, &request).await;
    assert_eq!(
        (response.responses[0].partitions[0].error_code, bytes(&response.responses[0].partitions[0])),
        (0, 0)
    );
    // An error is not waited over.
    let request = ask(&fixture, 12, vec![part(0, 30), part(7, 0)]).with_max_wait_ms(i32::MAX);
    let response: FetchResponse = fixture.call(12, &request).await;
    assert_eq!(response.responses[0].partitions.len(), 2);
}

#[tokio::test]
async fn a_deleted_topic_ends_the_wait() {
    let fixture = filled(1).await;
    let request = ask(&fixture, 12, vec![part(0, 30)]).with_max_wait_ms(600_000);
    let answer = tokio::spawn(settle(fixture.start(12, &request).await));
    let log = fixture.log("a", 0);
    while crate::api::partitions::PartitionReader::listeners(&*log).is_empty() {
        tokio::task::yield_now().await;
    }
    let gone = [chronik_core::controller::TopicRef::Name("a".to_string())];
    let delete = |image: &MetadataImage| Ok(chronik_core::controller::delete_topics(image, &gone));
    fixture.broker.metadata.change(delete).await.unwrap();
    crate::api::partitions::PartitionReader::listeners(&*log).wake();
    let response: FetchResponse = decode(&answer.await.unwrap().unwrap(), 12);
    assert_eq!(response.responses[0].partitions[0].error_code, 3);
}

#[tokio::test]
async fn a_session_tells_only_news() {
    let fixture = filled(3).await;
    for version in [7, 12, 13, 18] {
        let all = vec![part(0, 30), part(1, 30), part(2, 30)];
        let full = ask(&fixture, version, all).with_session_epoch(0);
        let first: FetchResponse = fixture.call(version, &full).await;
        assert_eq!(first.responses[0].partitions.len(), 3);
        let session = first.session_id;
        assert_ne!(session, 0);
        let next = |epoch: i32, partitions: Vec<FetchPartition>| {
            let mut request =
                ask(&fixture, version, partitions).with_session_id(session).with_session_epoch(epoch);
            request.topics.retain(|t| !t.partitions.is_empty());
            request
        };
        let quiet: FetchResponse = fixture.call(version, &next(1, vec![])).await;
        assert_eq!((quiet.session_id, quiet.responses.len()), (session, 0));
        let moved: FetchResponse = fixture.call(version, &next(2, vec![part(1, 20)])).await;
        let partitions = &moved.responses[0].partitions;
        assert_eq!((partitions.len(), partitions[0].partition_index, bytes(&partitions[0])), (1, 1, 1000));
        let mut forget = next(3, vec![]);
        let mut topic = ForgottenTopic::default().with_partitions(vec![1]);
        if version >= BY_ID {
            topic.topic_id = full.topics[0].topic_id;
        } else {
            topic.topic = TopicName(text("a"));
        }
        forget.forgotten_topics_data = vec![topic];
        let rest: FetchResponse = fixture.call(version, &forget).await;
        assert_eq!((rest.error_code, rest.responses.len()), (0, 0));
        let stale: FetchResponse = fixture.call(version, &next(3, vec![])).await;
        assert_eq!((stale.error_code, stale.session_id), (ResponseError::InvalidFetchSessionEpoch.code(), 0));
        let end: FetchResponse = fixture.call(version, &next(-1, vec![part(0, 20)])).await;
        assert_eq!((end.session_id, bytes(&end.responses[0].partitions[0])), (0, 1000));
        let gone: FetchResponse = fixture.call(version, &next(1, vec![])).await;
        assert_eq!(gone.error_code, ResponseError::FetchSessionIdNotFound.code());
    }
    assert!(fixture.broker.fetch_sessions.is_empty());
}

#[tokio::test]
async fn without_room_there_is_no_session() {
    let fixture = Fixture::with(&[("max.incremental.fetch.session.cache.slots", "0")]).await;
    fixture.create_topic("a", 1).await;
    let full = ask(&fixture, 12, vec![part(0, 0)]).with_session_epoch(0);
    let response: FetchResponse = fixture.call(12, &full).await;
    assert_eq!((response.error_code, response.session_id, response.responses.len()), (0, 0, 1));
}
