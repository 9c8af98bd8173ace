//! The life of a transaction through its handlers, in every version of every request, and what they answer while nobody
//! coordinates it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chronik_core::log::EndMarker;
use chronik_core::metadata::image::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use chronik_core::record_batch::{BatchBuilder, Batches, Crc};
use chronik_core::txn::Producer;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_protocol::messages::*;

use super::partitions::PartitionReader;
use super::testing::{FakePartition, Fixture};
use super::text;
use crate::txn::patience;

const PATIENCE: Duration = Duration::from_secs(20);

const UNKNOWN_PARTITION: i16 = 3;
const LOADING: i16 = 14;
const NOT_COORDINATOR: i16 = 16;
const NOT_AUTHORIZED: i16 = 29;
const INVALID_EPOCH: i16 = 47;
const INVALID_TXN_STATE: i16 = 48;
const CONCURRENT: i16 = 51;
const NOT_ATTEMPTED: i16 = 55;
const FENCED: i16 = 90;
const ID_NOT_FOUND: i16 = 105;
const ABORTABLE: i16 = 120;

async fn fixture(settings: &[(&str, &str)]) -> Fixture {
    let own = [("transaction.state.log.num.partitions", "2"), ("offsets.topic.num.partitions", "2")];
    let fixture = Fixture::with(&[&own, settings].concat()).await;
    fixture.create_topic("t", 4).await;
    fixture
}

fn id(id: &str) -> TransactionalId {
    TransactionalId(text(id))
}

/// Waits until the coordinator is there and loaded.
async fn coordinated(fixture: &Fixture, name: &str) {
    for version in 1..=6 {
        let request = FindCoordinatorRequest::default().with_key_type(1);
        let code = match version {
            ..4 => fixture.call(version, &request.with_key(text(name))).await.error_code,
            _ => {
                let found = fixture.call(version, &request.with_coordinator_keys(vec![text(name)])).await;
                found.coordinators[0].error_code
            }
        };
        assert_eq!(code, 0, "version {version}");
    }
    while describe(fixture, name).await.error_code == LOADING {
        tokio::task::yield_now().await;
    }
}

/// A producer id and an epoch.
type Known = (i64, i16);

fn init_request(name: &str, known: Option<Known>) -> InitProducerIdRequest {
    let (producer, epoch) = known.unwrap_or((-1, -1));
    InitProducerIdRequest::default()
        .with_transactional_id(Some(id(name)))
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(ProducerId(producer))
        .with_producer_epoch(epoch)
}

async fn init(fixture: &Fixture, version: i16, name: &str) -> Result<Known, i16> {
    let told = fixture.call(version, &init_request(name, None)).await;
    match told.error_code {
        0 => Ok((told.producer_id.0, told.producer_epoch)),
        code => {
            assert_eq!((told.producer_id.0, told.producer_epoch), (-1, -1));
            Err(code)
        }
    }
}

fn topics(named: &[(&str, &[i32])]) -> Vec<AddPartitionsToTxnTopic> {
    let topic = |(name, partitions): &(&str, &[i32])| {
        AddPartitionsToTxnTopic::default()
            .with_name(TopicName(text(*name)))
            .with_partitions(partitions.to_vec())
    };
    named.iter().map(topic).collect()
}

/// Topic, partition and error of each.
type Codes = Vec<(String, i32, i16)>;

fn codes(results: &[add_partitions_to_txn_response::AddPartitionsToTxnTopicResult]) -> Codes {
    let mut codes: Codes = results
        .iter()
        .flat_map(|t| {
            let partitions = t.results_by_partition.iter();
            partitions.map(|p| (t.name.to_string(), p.partition_index, p.partition_error_code))
        })
        .collect();
    codes.sort();
    codes
}

/// As clients do.
async fn add(
    fixture: &Fixture,
    version: i16,
    name: &str,
    (producer, epoch): Known,
    named: &[(&str, &[i32])],
) -> Codes {
    let request = AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(id(name))
        .with_v3_and_below_producer_id(ProducerId(producer))
        .with_v3_and_below_producer_epoch(epoch)
        .with_v3_and_below_topics(topics(named));
    codes(&fixture.call(version, &request).await.results_by_topic_v3_and_below)
}

/// As brokers do.
async fn ask(
    fixture: &Fixture,
    version: i16,
    name: &str,
    (producer, epoch): Known,
    verify_only: bool,
    named: &[(&str, &[i32])],
) -> Codes {
    let transaction = AddPartitionsToTxnTransaction::default()
        .with_transactional_id(id(name))
        .with_producer_id(ProducerId(producer))
        .with_producer_epoch(epoch)
        .with_verify_only(verify_only)
        .with_topics(topics(named));
    let request = AddPartitionsToTxnRequest::default().with_transactions(vec![transaction]);
    let response = fixture.call(version, &request).await;
    assert_eq!(response.error_code, 0);
    let [result] = &response.results_by_transaction[..] else { panic!("{response:?}") };
    assert_eq!(result.transactional_id, id(name));
    codes(&result.topic_results)
}

fn each(topic: &str, codes: &[(i32, i16)]) -> Codes {
    codes.iter().map(|(partition, code)| (topic.to_string(), *partition, *code)).collect()
}

async fn end(
    fixture: &Fixture,
    version: i16,
    name: &str,
    (producer, epoch): Known,
    commit: bool,
) -> (i16, Known) {
    let request = EndTxnRequest::default()
        .with_transactional_id(id(name))
        .with_producer_id(ProducerId(producer))
        .with_producer_epoch(epoch)
        .with_committed(commit);
    let told = fixture.call(version, &request).await;
    (told.error_code, (told.producer_id.0, told.producer_epoch))
}

async fn add_offsets(fixture: &Fixture, version: i16, name: &str, (producer, epoch): Known) -> i16 {
    let request = AddOffsetsToTxnRequest::default()
        .with_transactional_id(id(name))
        .with_producer_id(ProducerId(producer))
        .with_producer_epoch(epoch)
        .with_group_id(GroupId(text("g")));
    fixture.call(version, &request).await.error_code
}

async fn describe(fixture: &Fixture, name: &str) -> describe_transactions_response::TransactionState {
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![id(name)]);
    let [state] = <[_; 1]>::try_from(fixture.call(0, &request).await.transaction_states).unwrap();
    assert_eq!(state.transactional_id, id(name));
    state
}

async fn until(fixture: &Fixture, name: &str, wanted: &str) {
    let begun = Instant::now();
    loop {
        let state = describe(fixture, name).await;
        if *state.transaction_state == *wanted {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{name} is never {wanted}: {state:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The markers in a log.
async fn markers(log: &Arc<FakePartition>) -> Vec<EndMarker> {
    let end = log.offsets().log_end;
    let mut markers = Vec::new();
    for piece in log.read(0, end, usize::MAX, true).await.unwrap().pieces {
        for batch in Batches::new(&piece, Crc::Skip) {
            let (header, range) = batch.unwrap();
            markers.extend(EndMarker::of(&header, &piece[range]));
        }
    }
    markers
}

#[tokio::test]
async fn a_transaction_lives_in_every_version() {
    let fixture = fixture(&[]).await;
    coordinated(&fixture, "tx").await;
    for version in 0..=5 {
        for commit in [true, false] {
            live(&fixture, &format!("tx-{version}-{commit}"), version, commit).await;
        }
    }
}

async fn live(fixture: &Fixture, name: &str, version: i16, commit: bool) {
    let producer = init(fixture, version, name).await.unwrap();
    assert_eq!(producer.1, 0);
    // With a version of each request that knows PRODUCER_FENCED, or that does not.
    let fenced = if version < 2 { INVALID_EPOCH } else { FENCED };
    let later = (producer.0, 7);

    let old = version.min(3);
    assert_eq!(add(fixture, old, name, producer, &[("t", &[0, 1])]).await, each("t", &[(0, 0), (1, 0)]));
    assert_eq!(add(fixture, old, name, later, &[("t", &[2])]).await, each("t", &[(2, fenced)]));
    let unknown = each("t", &[(2, NOT_ATTEMPTED), (9, UNKNOWN_PARTITION)]);
    assert_eq!(add(fixture, old, name, producer, &[("t", &[2, 9])]).await, unknown);
    assert_eq!(add_offsets(fixture, version.min(4), name, producer).await, 0);
    assert_eq!(add_offsets(fixture, version.min(4), name, later).await, fenced);

    let state = describe(fixture, name).await;
    assert_eq!((state.error_code, state.transaction_state.as_str()), (0, "Ongoing"));
    assert_eq!((state.producer_id.0, state.producer_epoch), producer);
    assert_eq!(state.transaction_timeout_ms, 60_000);
    let there: Vec<_> = state.topics.iter().map(|t| (t.topic.as_str(), t.partitions.len())).collect();
    assert_eq!(there, [(OFFSETS_TOPIC, 1), ("t", 2)]);

    assert_eq!(end(fixture, version, name, later, commit).await.0, fenced);
    let (code, next) = end(fixture, version, name, producer, commit).await;
    let raised = if version < 5 { (-1, -1) } else { (producer.0, 1) };
    assert_eq!((code, next), (0, raised));
    until(fixture, name, if commit { "CompleteCommit" } else { "CompleteAbort" }).await;
    let again = end(fixture, version, name, producer, commit).await;
    assert_eq!(again, (0, raised), "the answer was lost");
    assert_eq!(end(fixture, version, name, producer, !commit).await.0, INVALID_TXN_STATE);

    let epoch = if version < 5 { 0 } else { 1 };
    for partition in 0..2 {
        let written = markers(&fixture.log("t", partition)).await;
        let written: Vec<_> = written.iter().filter(|m| m.producer_id.0 == producer.0).collect();
        let [marker] = written[..] else { panic!("{written:?}") };
        assert_eq!((marker.producer_epoch.0, marker.commit), (epoch, commit));
    }
}

#[tokio::test]
async fn brokers_add_partitions_or_only_ask_for_them() {
    let fixture = fixture(&[]).await;
    coordinated(&fixture, "tx").await;
    let producer = init(&fixture, 5, "tx").await.unwrap();
    for version in [4, 5] {
        let twice: [(&str, &[i32]); 2] = [("t", &[1, 1]), ("t", &[0])];
        let asked = ask(&fixture, version, "tx", producer, true, &twice).await;
        assert_eq!(asked, each("t", &[(0, ABORTABLE), (1, ABORTABLE)]));
    }
    assert_eq!(describe(&fixture, "tx").await.transaction_state.as_str(), "Empty", "it was only asked");
    for version in [4, 5] {
        let added = ask(&fixture, version, "tx", producer, false, &[("t", &[0])]).await;
        assert_eq!(added, each("t", &[(0, 0)]));
        let asked = ask(&fixture, version, "tx", producer, true, &[("t", &[0])]).await;
        assert_eq!(asked, each("t", &[(0, 0)]));
        let fenced = ask(&fixture, version, "tx", (producer.0, 9), true, &[("t", &[0])]).await;
        assert_eq!(fenced, each("t", &[(0, FENCED)]));
    }
    let group = ask(&fixture, 5, "tx", producer, false, &[("none", &[0])]).await;
    assert_eq!(group, each("none", &[(0, UNKNOWN_PARTITION)]));
}

#[tokio::test]
async fn clients_add_no_internal_topics() {
    let fixture = fixture(&[]).await;
    coordinated(&fixture, "tx").await;
    let producer = init(&fixture, 5, "tx").await.unwrap();
    let added = add(&fixture, 3, "tx", producer, &[("t", &[0]), (TRANSACTIONS_TOPIC, &[1])]).await;
    let refused = [each(TRANSACTIONS_TOPIC, &[(1, NOT_AUTHORIZED)]), each("t", &[(0, NOT_ATTEMPTED)])];
    assert_eq!(added, refused.concat());
}

#[tokio::test]
async fn a_new_incarnation_aborts_what_the_old_one_has_begun() {
    let fixture = fixture(&[]).await;
    coordinated(&fixture, "tx").await;
    let old = init(&fixture, 5, "tx").await.unwrap();
    add(&fixture, 3, "tx", old, &[("t", &[0])]).await;
    assert_eq!(init(&fixture, 5, "tx").await, Err(CONCURRENT));
    until(&fixture, "tx", "CompleteAbort").await;
    assert_eq!(init(&fixture, 5, "tx").await, Ok((old.0, 3)));
    let [marker] = markers(&fixture.log("t", 0)).await[..] else { panic!("one marker") };
    assert_eq!((marker.producer_epoch.0, marker.commit), (2, false));
    for (version, code) in [(3, INVALID_EPOCH), (4, FENCED)] {
        let told = fixture.call(version, &init_request("tx", Some(old))).await;
        assert_eq!((told.error_code, told.producer_id.0), (code, -1));
    }
    let told = fixture.call(5, &init_request("tx", Some((old.0, 3)))).await;
    assert_eq!((told.error_code, told.producer_epoch), (0, 4));
}

#[tokio::test]
async fn a_transaction_that_nobody_ends_is_aborted() {
    let soon = [("transaction.abort.timed.out.transaction.cleanup.interval.ms", "5")];
    let fixture = fixture(&soon).await;
    coordinated(&fixture, "tx").await;
    let request = init_request("tx", None).with_transaction_timeout_ms(20);
    let told = fixture.call(5, &request).await;
    let producer = (told.producer_id.0, told.producer_epoch);
    add(&fixture, 3, "tx", producer, &[("t", &[3])]).await;
    until(&fixture, "tx", "CompleteAbort").await;
    assert_eq!(end(&fixture, 5, "tx", producer, true).await.0, FENCED);
    let [marker] = markers(&fixture.log("t", 3)).await[..] else { panic!("one marker") };
    assert!(!marker.commit);
}

#[tokio::test]
async fn transactional_ids_are_listed() {
    let fixture = fixture(&[]).await;
    coordinated(&fixture, "a-1").await;
    coordinated(&fixture, "b").await;
    let a = init(&fixture, 5, "a-1").await.unwrap();
    init(&fixture, 5, "a-2").await.unwrap();
    let b = init(&fixture, 5, "b").await.unwrap();
    add(&fixture, 3, "a-1", a, &[("t", &[0])]).await;
    let list = async |version: i16, request: ListTransactionsRequest| {
        let told = fixture.call(version, &request).await;
        let mut ids: Vec<String> = told
            .transaction_states
            .iter()
            .map(|t| format!("{} {} {}", t.transactional_id.as_str(), t.transaction_state, t.producer_id.0))
            .collect();
        ids.sort();
        let unknown: Vec<String> = told.unknown_state_filters.iter().map(ToString::to_string).collect();
        (told.error_code, ids, unknown)
    };
    let plain = || ListTransactionsRequest::default().with_duration_filter(-1);
    let (ongoing, empty) = (format!("a-1 Ongoing {}", a.0), format!("b Empty {}", b.0));
    for version in 0..=2 {
        let (code, ids, unknown) = list(version, plain()).await;
        assert_eq!((code, ids.len(), unknown.len()), (0, 3, 0));
        let filtered = plain().with_state_filters(vec![text("Ongoing"), text("None")]);
        let only = (0, vec![ongoing.clone()], vec!["None".to_string()]);
        assert_eq!(list(version, filtered).await, only);
        let filtered = plain().with_producer_id_filters(vec![ProducerId(b.0)]);
        assert_eq!(list(version, filtered).await, (0, vec![empty.clone()], vec![]));
    }
    let running = plain().with_state_filters(vec![text("Ongoing")]).with_duration_filter(3_600_000);
    assert_eq!(list(1, running).await, (0, vec![], vec![]));
    let pattern = |pattern: &str| plain().with_transactional_id_pattern(Some(text(pattern)));
    assert_eq!(list(2, pattern("a.*")).await.1.len(), 2);
    assert_eq!(list(2, pattern("a")).await.1.len(), 0, "all of an id must match");
    assert_eq!(list(2, pattern("")).await.1.len(), 3);
    assert_eq!(list(2, pattern("a(")).await, (128, vec![], vec![]));
}

/// What every API says.
async fn all_codes(fixture: &Fixture) -> Vec<(&'static str, i16)> {
    let producer = (1, 0);
    vec![
        ("InitProducerId", init(fixture, 5, "tx").await.unwrap_err()),
        ("AddPartitionsToTxn", add(fixture, 3, "tx", producer, &[("t", &[0])]).await[0].2),
        ("AddPartitionsToTxn", ask(fixture, 5, "tx", producer, true, &[("t", &[0])]).await[0].2),
        ("AddOffsetsToTxn", add_offsets(fixture, 4, "tx", producer).await),
        ("EndTxn", end(fixture, 5, "tx", producer, true).await.0),
        ("DescribeTransactions", describe(fixture, "tx").await.error_code),
    ]
}

#[tokio::test]
async fn without_the_topic_nobody_coordinates_and_while_it_loads_clients_wait() {
    let fixture = fixture(&[]).await;
    for (api, code) in all_codes(&fixture).await {
        assert_eq!(code, NOT_COORDINATOR, "{api}");
    }
    let list = ListTransactionsRequest::default();
    assert_eq!(fixture.call(0, &list).await.error_code, 0);
    coordinated(&fixture, "tx").await;
    assert_eq!(describe(&fixture, "tx").await.error_code, ID_NOT_FOUND);
    for partition in 0..2 {
        let log = fixture.log(TRANSACTIONS_TOPIC, partition);
        log.hold_flushes(true);
        log.append_own(BatchBuilder::new().record(1, Some(b"k"), None).build().into());
    }
    let again = fixture.restarted();
    for (api, code) in all_codes(&again).await {
        assert_eq!(code, LOADING, "{api}");
    }
    assert_eq!(again.call(0, &list).await.error_code, LOADING);
}

#[tokio::test]
async fn a_decision_is_carried_out_after_a_new_start() {
    let fixture = fixture(&[]).await;
    coordinated(&fixture, "tx").await;
    let producer = init(&fixture, 5, "tx").await.unwrap();
    add(&fixture, 3, "tx", producer, &[("t", &[0, 1])]).await;
    let log = fixture.log("t", 0);
    log.refuse_appends(true);
    assert_eq!(end(&fixture, 5, "tx", producer, true).await.0, 0, "it is decided");
    assert_eq!(end(&fixture, 5, "tx", producer, true).await.0, CONCURRENT);
    let again = fixture.restarted();
    drop(fixture);
    coordinated(&again, "tx").await;
    assert_eq!(describe(&again, "tx").await.transaction_state.as_str(), "PrepareCommit");
    log.refuse_appends(false);
    until(&again, "tx", "CompleteCommit").await;
    let [marker] = markers(&log).await[..] else { panic!("one marker") };
    assert_eq!((marker.producer_id.0, marker.commit), (producer.0, true));
    assert_eq!(end(&again, 5, "tx", producer, true).await, (0, (producer.0, 1)));
}

/// The next transaction begins while the last one's markers are on their way.
#[tokio::test]
async fn who_writes_waits_a_moment_for_the_last_transaction() {
    let fixture = fixture(&[]).await;
    coordinated(&fixture, "tx").await;
    let producer = init(&fixture, 5, "tx").await.unwrap();
    add(&fixture, 3, "tx", producer, &[("t", &[0])]).await;
    let log = fixture.log("t", 0);
    log.hold_flushes(true);
    let (code, next) = end(&fixture, 5, "tx", producer, true).await;
    assert_eq!(code, 0);
    let (id, next) = (id("tx"), Producer::new(next.0, next.1));
    let join = || fixture.broker.txn.join(&id, next, vec![(TopicName(text("t")), 1)]);
    let write = || patience::until_complete(patience::PATIENCE, join);
    let begun = Instant::now();
    assert_eq!(write().await, Err(ResponseError::ConcurrentTransactions), "a moment is over");
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
    log.hold_flushes(false);
    log.flush();
    until(&fixture, "tx", "CompleteCommit").await;
    assert_eq!(write().await, Ok(()));
    assert_eq!(describe(&fixture, "tx").await.transaction_state.as_str(), "Ongoing");
}

/// A coordinator that begins anew gives its markers again; those who were still at the earlier ones write them no more.
#[tokio::test]
async fn no_marker_comes_late() {
    let fixture = fixture(&[("transaction.state.log.num.partitions", "1")]).await;
    coordinated(&fixture, "tx").await;
    let producer = init(&fixture, 3, "tx").await.unwrap();
    add(&fixture, 3, "tx", producer, &[("t", &[0])]).await;
    let log = fixture.log("t", 0);
    log.refuse_appends(true);
    assert_eq!(end(&fixture, 3, "tx", producer, true).await.0, 0);
    let state = fixture.log(TRANSACTIONS_TOPIC, 0);
    state.refuse_appends(true);
    assert_eq!(init(&fixture, 5, "other").await, Err(NOT_COORDINATOR));
    state.refuse_appends(false);
    coordinated(&fixture, "tx").await;
    log.refuse_appends(false);
    until(&fixture, "tx", "CompleteCommit").await;
    add(&fixture, 3, "tx", producer, &[("t", &[0])]).await;
    // Longer than anybody waits before the next try.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(markers(&log).await.len(), 1, "the second transaction is not ended");
    assert_eq!(describe(&fixture, "tx").await.transaction_state.as_str(), "Ongoing");
}

#[tokio::test]
async fn a_deleted_topic_needs_no_marker() {
    use chronik_core::controller::{TopicRef, delete_topics};
    let fixture = fixture(&[]).await;
    coordinated(&fixture, "tx").await;
    let producer = init(&fixture, 5, "tx").await.unwrap();
    add(&fixture, 3, "tx", producer, &[("t", &[0])]).await;
    let topics = [TopicRef::Name("t".to_string())];
    fixture.broker.metadata.change(|image| Ok(delete_topics(image, &topics))).await.unwrap();
    assert_eq!(end(&fixture, 5, "tx", producer, true).await.0, 0);
    until(&fixture, "tx", "CompleteCommit").await;
}
