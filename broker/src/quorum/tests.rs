//! The quorum of one, over a log in memory and one on the disk.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chronik_core::controller::{ControllerError, ErrorCode, Registration, register_broker};
use chronik_core::ids::{BrokerId, DiskUuid, TopicId, Uuid};
use chronik_core::metadata::{LocalConfig, MetadataImage, MetadataRecord};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{StoreBuilder, Suite, blank_ent, log_id};
use openraft::{RaftLogReader, Vote};
use proptest::prelude::*;

use super::log::LogStore;
use super::machine::Machine;
use super::snapshot::SnapshotDir;
use super::types::{StorageError, TypeConfig};
use super::*;
use crate::metrics::Metrics;
use crate::storage::wal::{Engine, FlushMode};

const DISK: DiskUuid = DiskUuid(Uuid::from_u128(0xd15c));

fn local() -> Arc<LocalConfig> {
    Arc::new(LocalConfig { broker_id: BrokerId(1), ..LocalConfig::default() })
}

fn options(dir: &Path) -> QuorumOptions {
    QuorumOptions {
        cluster_id: "c".to_string(),
        disk_uuid: DISK,
        local: local(),
        snapshot_dir: dir.join("snapshots"),
        bootstrap: true,
        snapshot_every: 10_000,
    }
}

async fn open(options: QuorumOptions, wal: &MemoryWal) -> Result<Arc<MetadataStore>, QuorumError> {
    MetadataStore::open(options, Arc::new(wal.clone()), &wal.replay()).await
}

fn topic(n: u64) -> MetadataRecord {
    MetadataRecord::Topic { name: format!("t-{n:04}"), topic_id: TopicId(Uuid::from_u128(n.into())) }
}

type Decided = Result<(Vec<MetadataRecord>, ()), ControllerError>;

/// A decision to add one more topic.
fn one_more(image: &MetadataImage) -> Decided {
    Ok((vec![topic(image.topic_count() as u64)], ()))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn change_until(store: &MetadataStore, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "it never came");
        store.change(one_more).await.unwrap();
    }
}

struct InMemory;

impl StoreBuilder<TypeConfig, LogStore, Machine, ()> for InMemory {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError> {
        let log = LogStore::recover(Arc::new(MemoryWal::default()), &[]).unwrap();
        Ok(((), log, Machine::open(SnapshotDir::in_memory(), local()).unwrap()))
    }
}

#[test]
fn the_librarys_own_suite_passes() {
    Suite::test_all(InMemory).unwrap();
}

#[derive(Clone, Debug)]
enum LogOp {
    Append(u64),
    Truncate(u64),
    Purge(u64),
    Vote(u64),
}

proptest! {
    /// Whatever was written, a start finds what was there, also after parts were released.
    #[test]
    fn the_log_reads_back_as_it_was(ops in proptest::collection::vec(prop_oneof![
        4 => (1..4u64).prop_map(LogOp::Append),
        1 => (0..4u64).prop_map(LogOp::Truncate),
        1 => (0..4u64).prop_map(LogOp::Purge),
        1 => (1..9u64).prop_map(LogOp::Vote),
    ], 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let wal = MemoryWal::default();
            let mut log = LogStore::recover(Arc::new(wal.clone()), &[]).unwrap();
            let mut term = 1;
            for op in ops {
                let state = log.get_log_state().await.unwrap();
                let next = state.last_log_id.map_or(0, |id| id.index + 1);
                let first = state.last_purged_log_id.map_or(0, |id| id.index + 1);
                match op {
                    LogOp::Append(n) => {
                        let entries = (next..next + n).map(|i| blank_ent::<TypeConfig>(term, 1, i));
                        log.blocking_append(entries.collect::<Vec<_>>()).await.unwrap();
                    }
                    LogOp::Truncate(back) if next > first => {
                        term += 1;
                        log.truncate(log_id(term, 1, next.saturating_sub(back).max(first))).await.unwrap();
                    }
                    LogOp::Purge(on) if next > first => {
                        let upto = (first + on).min(next - 1);
                        let entries = log.try_get_log_entries(upto..=upto).await.unwrap();
                        log.purge(entries[0].log_id).await.unwrap();
                    }
                    LogOp::Vote(t) => log.save_vote(&Vote::new(t, 1)).await.unwrap(),
                    LogOp::Truncate(_) | LogOp::Purge(_) => {}
                }
                let mut found = LogStore::recover(Arc::new(wal.clone()), &wal.replay()).unwrap();
                assert_eq!(found.get_log_state().await.unwrap(), log.get_log_state().await.unwrap());
                assert_eq!(found.read_vote().await.unwrap(), log.read_vote().await.unwrap());
                let all = log.try_get_log_entries(..).await.unwrap();
                assert_eq!(found.try_get_log_entries(..).await.unwrap(), all);
            }
        });
    }
}

#[tokio::test]
async fn what_was_changed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemoryWal::default();
    let store = open(options(dir.path()), &wal).await.unwrap();
    assert_eq!((store.image().cluster_id(), store.image().feature_level()), ("c", 1));
    assert_eq!(store.leader(), Some(BrokerId(1)));
    store.change(|_| Ok((vec![topic(0), topic(1)], ()))).await.unwrap();
    let before = store.image();
    store.shutdown().await;
    let stopped = store.change(one_more).await.unwrap_err();
    assert_eq!(stopped.code, ErrorCode::KafkaStorageError);

    let founded = QuorumOptions { bootstrap: false, ..options(dir.path()) };
    let again = open(founded, &wal).await.unwrap();
    assert_eq!(again.image().to_records(), before.to_records());
    assert!(again.applied_offset() > before.offset());
    again.shutdown().await;
}

#[tokio::test]
async fn snapshots_take_the_place_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let wal = MemoryWal::default();
    let few = QuorumOptions { snapshot_every: 8, ..options(dir.path()) };
    let store = open(few.clone(), &wal).await.unwrap();
    // A snapshot that is due while one is being written is taken up by a later change.
    change_until(&store, || wal.replay()[0].position.0 > 20).await;
    // Records count, too: one entry with many of them makes a snapshot due.
    let many = QuorumOptions { snapshot_every: 100, ..options(other.path()) };
    let other_wal = MemoryWal::default();
    let other = open(many, &other_wal).await.unwrap();
    other.change(|_| Ok(((0..100).map(topic).collect(), ()))).await.unwrap();
    until("one entry made a snapshot due", || other_wal.replay()[0].position.0 > 2).await;
    other.shutdown().await;
    let before = store.image();
    store.shutdown().await;
    let files = std::fs::read_dir(dir.path().join("snapshots")).unwrap();
    let whole = files.filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "jsonl"));
    assert!(whole.count() <= 2, "older snapshots are removed");

    let again = open(few, &wal).await.unwrap();
    assert_eq!(again.image().to_records(), before.to_records());
    again.change(one_more).await.unwrap();
    again.shutdown().await;
}

#[tokio::test]
async fn a_voter_is_a_broker_with_its_disk() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemoryWal::default();
    open(options(dir.path()), &wal).await.unwrap().shutdown().await;

    let refused = |options: QuorumOptions, wal: MemoryWal| async move {
        open(options, &wal).await.err().expect("refused").to_string()
    };
    let other_disk = QuorumOptions { disk_uuid: DiskUuid(Uuid::from_u128(2)), ..options(dir.path()) };
    let why = refused(other_disk, wal.clone()).await;
    assert!(why.contains("a voter that lost its disk may not vote"), "{why}");

    let local = Arc::new(LocalConfig { broker_id: BrokerId(2), ..LocalConfig::default() });
    let why = refused(QuorumOptions { local, ..options(dir.path()) }, wal.clone()).await;
    assert!(why.contains("belongs to broker 1, not to broker 2"), "{why}");

    let other = QuorumOptions { cluster_id: "d".to_string(), ..options(dir.path()) };
    let why = refused(other, wal.clone()).await;
    assert!(why.contains("is of cluster c, not of d"), "{why}");

    let empty = tempfile::tempdir().unwrap();
    let lost = QuorumOptions { bootstrap: false, ..options(empty.path()) };
    let why = refused(lost, MemoryWal::default()).await;
    assert!(why.contains("founds no second cluster"), "{why}");
    // Nothing of this harmed the rightful voter.
    open(options(dir.path()), &wal).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_broken_disk_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemoryWal::default();
    let store = open(options(dir.path()), &wal).await.unwrap();
    wal.fail();
    let e = store.change(one_more).await.unwrap_err();
    assert_eq!(e.code, ErrorCode::KafkaStorageError, "{e}");
    assert_eq!(store.image().topic_count(), 0, "nothing that is not durable is seen");
    assert!(store.failed().await.contains("the disk is broken"));
}

#[tokio::test]
async fn a_refusal_and_an_empty_decision_write_nothing() {
    let store = MetadataStore::in_memory(local(), "c").await.unwrap();
    let before = store.applied_offset();
    let refusal = ControllerError::new(ErrorCode::InvalidTopic, "no");
    let refused: Result<(), _> = store.change(|_| Err(refusal.clone())).await;
    assert_eq!(refused.unwrap_err(), refusal);
    assert_eq!(store.change(|_| Ok((Vec::new(), 7))).await.unwrap(), 7);
    // What does not fit never gets into the log.
    let remove = MetadataRecord::RemoveTopic { topic_id: TopicId::default() };
    let e = store.change(|_| Ok((vec![remove], ()))).await.unwrap_err();
    assert_eq!(e.code, ErrorCode::UnknownServerError);
    let large: Vec<MetadataRecord> = (0..300_000).map(topic).collect();
    let e = store.change(|_| Ok((large, ()))).await.unwrap_err();
    assert_eq!(e.code, ErrorCode::PolicyViolation);
    assert_eq!(store.applied_offset(), before);
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_decision_sees_the_one_before_and_publishers_see_all_in_order() {
    let store = MetadataStore::in_memory(local(), "c").await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let last = Arc::new(AtomicU64::new(0));
    let (seen_by, last_by) = (seen.clone(), last.clone());
    let first = store.subscribe(Box::new(move |image, changes| {
        assert!(image.offset() > last_by.swap(image.offset(), Ordering::SeqCst));
        seen_by.lock().unwrap().extend(changes.topics_created.iter().map(|t| t.name.to_string()));
    }));
    assert_eq!(first.topic_count(), 0);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    store.change(one_more).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let expected: Vec<String> = (0..80).map(|n| format!("t-{n:04}")).collect();
    assert_eq!(*seen.lock().unwrap(), expected);
    assert_eq!(last.load(Ordering::SeqCst), store.applied_offset());
    store.shutdown().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_its_change_to_be_finished() {
    let store = MetadataStore::in_memory(local(), "c").await.unwrap();
    {
        let change = store.change(one_more);
        tokio::select! {
            biased;
            _ = change => panic!("a change takes more than one turn"),
            () = std::future::ready(()) => {}
        }
    }
    store.change(one_more).await.unwrap();
    assert_eq!(store.image().topic_count(), 2);
    store.shutdown().await;
}

#[tokio::test]
async fn producer_ids_are_never_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemoryWal::default();
    let mut given = Vec::new();
    for _ in 0..2 {
        let store = open(options(dir.path()), &wal).await.unwrap();
        if given.is_empty() {
            let e = store.allocate_producer_id().await.unwrap_err();
            assert_eq!(e.code, ErrorCode::BrokerIdNotRegistered);
        }
        let request = Registration {
            cluster_id: "c".to_string(),
            broker_id: BrokerId(1),
            incarnation: Uuid::from_u128(1),
            disk_uuid: DISK,
            wal_disk_uuid: DISK,
            listeners: Vec::new(),
            rack: None,
        };
        store.change(|image| register_broker(image, &request)).await.unwrap();
        for _ in 0..1_500 {
            given.push(store.allocate_producer_id().await.unwrap().0);
        }
        store.shutdown().await;
    }
    assert!(given.is_sorted_by(|a, b| a < b));
    assert_eq!(given[0], 0);
}

#[tokio::test]
async fn a_damaged_snapshot_is_never_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemoryWal::default();
    let few = QuorumOptions { snapshot_every: 2, ..options(dir.path()) };
    let store = open(few.clone(), &wal).await.unwrap();
    let snapshots = dir.path().join("snapshots");
    change_until(&store, || wal.replay()[0].position.0 > 4).await;
    store.shutdown().await;
    let names = std::fs::read_dir(&snapshots).unwrap().map(|e| e.unwrap().path());
    let path = names.filter(|p| p.extension().is_some_and(|e| e == "jsonl")).max().unwrap();
    let good = std::fs::read(&path).unwrap();
    for at in [0, good.len() / 2, good.len() - 3] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let why = open(few.clone(), &wal).await.err().expect("refused").to_string();
        assert!(why.contains("damaged"), "{why}");
        std::fs::write(&path, &good[..at]).unwrap();
        let why = open(few.clone(), &wal).await.err().expect("refused").to_string();
        assert!(why.contains("damaged"), "{why}");
    }
    std::fs::write(&path, &good).unwrap();
    open(few, &wal).await.unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_disk_it_survives_many_starts_in_few_files() {
    let dir = tempfile::tempdir().unwrap();
    let wal_dir = dir.path().join("log");
    let mut count = 0;
    for start in 0..10 {
        let (wal, replayed) =
            DiskWal::open(&wal_dir, DISK, Engine::Pwrite, FlushMode::Dsync, Metrics::new([]).wal("metadata"))
                .unwrap();
        let options = QuorumOptions { bootstrap: start == 0, ..options(dir.path()) };
        let store = MetadataStore::open(options, wal.clone(), &replayed).await.unwrap();
        assert_eq!(store.image().topic_count(), count);
        for _ in 0..3 {
            store.change(one_more).await.unwrap();
            count += 1;
        }
        store.shutdown().await;
        wal.stop();
    }
    let files = std::fs::read_dir(&wal_dir).unwrap();
    let files = files.filter(|f| f.as_ref().unwrap().metadata().unwrap().len() > 1 << 20).count();
    assert!(files <= 6, "{files} files");
}
