//! Groups over a real log: what they were told, in transactions and without, is there after every stop, crash and
//! compaction.

use std::collections::BTreeMap;

use chronik_core::ids::TopicIdPartition;
use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::protocol::StrBytes;
use proptest::prelude::*;

use super::tests::{ask, commit_of, fetch, marker, txn_commit_of};
use super::*;
use crate::api::partitions::{Journal, PartitionReader};
use crate::api::testing::Fixture;
use crate::storage::partition::Partition;
use crate::storage::testing::{Bed, Debris};

const GROUPS: [&str; 3] = ["a", "b", "c"];
const PARTITIONS: i32 = 3;
const PRODUCERS: i64 = 3;

#[derive(Clone, Debug)]
enum Op {
    Commit(usize, i32),
    TxnCommit(i64, usize, i32),
    End(i64, bool),
    /// What is in memory goes into segments.
    Checkpoint,
    Compact,
    Restart,
    Crash,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let group = || 0..GROUPS.len();
    let op = prop_oneof![
        6 => (group(), 0..PARTITIONS).prop_map(|(group, partition)| Op::Commit(group, partition)),
        9 => (0..PRODUCERS, group(), 0..PARTITIONS).prop_map(|(id, group, p)| Op::TxnCommit(id, group, p)),
        5 => (0..PRODUCERS, any::<bool>()).prop_map(|(producer, commit)| Op::End(producer, commit)),
        2 => Just(Op::Checkpoint),
        2 => Just(Op::Compact),
        1 => Just(Op::Restart),
        2 => Just(Op::Crash),
    ];
    proptest::collection::vec(op, 1..120)
}

/// One partition, whatever is asked for.
struct OneLog(Arc<dyn PartitionReader>, Arc<Partition>);

impl Logs for OneLog {
    fn partition(&self, _: TopicIdPartition) -> Option<Arc<dyn PartitionReader>> {
        Some(self.0.clone())
    }

    fn appendable(&self, _: TopicIdPartition) -> Option<Arc<Partition>> {
        None
    }

    fn journal(&self, _: TopicIdPartition) -> Option<Arc<dyn Journal>> {
        Some(Arc::new(self.1.clone()))
    }
}

struct House {
    bed: Bed,
    id: TopicIdPartition,
    /// Its metadata is the coordinator's.
    fixture: Fixture,
    groups: Arc<Coordinator>,
    /// Each commit has an offset of its own, larger than those before it.
    offset: i64,
    committed: BTreeMap<(usize, i32), i64>,
    pending: BTreeMap<(i64, usize, i32), i64>,
}

impl House {
    fn new() -> House {
        let mut bed = Bed::new();
        let id = bed.create_topic("offsets");
        let fixture = bed.runtime.block_on(async {
            let fixture = Fixture::with(&[("offsets.topic.num.partitions", "1")]).await;
            fixture.broker.groups.ensure_topic().await.unwrap();
            fixture
        });
        let groups = open(&bed, id, &fixture);
        House { bed, id, fixture, groups, offset: 0, committed: BTreeMap::new(), pending: BTreeMap::new() }
    }

    fn apply(&mut self, op: &Op) {
        if self.bed.is_nearly_full() {
            self.bed.checkpoint(true).unwrap();
        }
        match *op {
            Op::Commit(group, partition) => {
                self.offset += 1;
                self.ask(group, commit_of(GROUPS[group], partition, self.offset));
                self.committed.insert((group, partition), self.offset);
            }
            Op::TxnCommit(producer, group, partition) => {
                self.offset += 1;
                self.ask(group, txn_commit_of(GROUPS[group], producer, partition, self.offset));
                self.pending.insert((producer, group, partition), self.offset);
            }
            Op::End(producer, commit) => {
                let written = self.groups.write_marker(0, marker(producer, commit));
                self.bed.runtime.block_on(written).unwrap();
                let ended = self.pending.extract_if(.., |(of, ..), _| *of == producer);
                for ((_, group, partition), offset) in ended.filter(|_| commit).collect::<Vec<_>>() {
                    let known = self.committed.entry((group, partition)).or_default();
                    *known = offset.max(*known);
                }
            }
            Op::Checkpoint => self.bed.checkpoint(true).unwrap(),
            Op::Compact => {
                self.bed.pass_time(1_000);
                self.bed.compact();
            }
            Op::Restart => {
                self.groups.stop();
                self.bed.restart();
                self.groups = open(&self.bed, self.id, &self.fixture);
            }
            Op::Crash => {
                self.groups.stop();
                self.bed.settle();
                let durable = self.bed.delivered();
                self.bed.crash(Debris { wal_filled_with: Some(0), ..Debris::default() }, durable);
                self.groups = open(&self.bed, self.id, &self.fixture);
            }
        }
    }

    fn ask(&self, group: usize, call: Call) -> Answer {
        self.bed.runtime.block_on(ask(&self.groups, GROUPS[group], call)).unwrap()
    }

    /// What consumers are told that want what is stable, or do not.
    fn check(&self) {
        let unstable = ResponseError::UnstableOffsetCommit.code();
        for (group, name) in GROUPS.iter().enumerate() {
            for stable in [false, true] {
                let topic = OffsetFetchRequestTopics::default()
                    .with_name(TopicName(StrBytes::from_static_str("t")))
                    .with_partition_indexes((0..PARTITIONS).collect());
                let request = OffsetFetchRequestGroup::default()
                    .with_group_id(GroupId(StrBytes::from_static_str(name)))
                    .with_topics(Some(vec![topic]));
                let answer = self.ask(group, Call::OffsetFetch(request, stable, 8));
                let Answer::OffsetFetch(found) = answer else { panic!("{answer:?}") };
                for p in &found.topics[0].partitions {
                    let place = (group, p.partition_index);
                    let is_pending = self.pending.keys().any(|(_, group, index)| (*group, *index) == place);
                    let expected = if stable && is_pending {
                        (unstable, -1)
                    } else {
                        (0, self.committed.get(&place).copied().unwrap_or(-1))
                    };
                    assert_eq!((p.error_code, p.committed_offset), expected, "{name}-{}", p.partition_index);
                }
            }
        }
    }
}

/// Loads the groups of the log as it is now.
fn open(bed: &Bed, id: TopicIdPartition, fixture: &Fixture) -> Arc<Coordinator> {
    bed.configure(id, |config| {
        config.segment_bytes = 2_500;
        config.file_delete_delay_ms = 0;
        (config.cleanup.delete, config.cleanup.compact) = (false, true);
        config.compaction.min_dirty_ratio = 0;
        config.compaction.min_lag_ms = 0;
        config.compaction.delete_retention_ms = 0;
    });
    let log = OneLog(bed.reader(id), bed.partition(id).unwrap());
    let broker = &fixture.broker;
    let metrics = &broker.metrics.groups;
    bed.runtime.block_on(async {
        let groups = start(broker.config.broker_id, broker.metadata.clone(), Arc::new(log), metrics);
        // Markers are not waited with until it is loaded.
        ask(&groups, GROUPS[0], fetch(GROUPS[0])).await.unwrap();
        groups
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_groups_were_told_is_there_whatever_happens_to_the_log(ops in ops()) {
        let mut house = House::new();
        for op in &ops {
            house.apply(op);
            house.check();
        }
        for last in [Op::Compact, Op::Crash, Op::End(0, true), Op::End(1, false), Op::End(2, true), Op::Restart] {
            house.apply(&last);
            house.check();
        }
        house.bed.is_well();
    }
}
