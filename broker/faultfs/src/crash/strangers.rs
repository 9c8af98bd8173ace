//! Clients that ask coordinators for anything: requests that are well formed, of every API of groups and transactions, with
//! what no client in its right mind would say. The broker answers, grows within bounds, and honest clients notice nothing.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Request, StrBytes};

use super::faults::{Bed, RESIDENT_MAX};
use super::kafka::Connection;
use super::transactors::{TOPIC, Transactors};
use crate::seed::Seed;

const REQUESTS: u64 = 4000;

struct Stranger {
    random: Seed,
    address: String,
    broker: Connection,
    closed: u64,
}

/// One API's request by chance.
type Ask = fn(&mut Stranger) -> Result<()>;

const ASKS: [Ask; 19] = [
    find_coordinator,
    join,
    sync,
    heartbeat,
    leave,
    describe_groups,
    list_groups,
    delete_groups,
    commit,
    fetch,
    delete_offsets,
    init,
    add_partitions,
    add_offsets,
    end,
    markers,
    commit_in_transaction,
    describe_transactions,
    describe_producers,
];

/// The test.
///
/// # Errors
/// When the broker ends, panics, grows, answers what cannot be understood, or fails an honest client.
pub fn ask_anything(bed: &Bed) -> Result<String> {
    let spec = bed.on_disk()?.with("group.initial.rebalance.delay.ms", "0");
    let mut running = spec.start()?;
    let address = spec.address();
    let mut honest = Connection::open(&address)?;
    Transactors::create_topic(&mut honest)?;
    honest.find_coordinator("one", 0)?;
    honest.find_coordinator("one", 1)?;
    transact(&mut honest, 0).context("before")?;
    let random = Seed::new(bed.seed).fork(502);
    let mut stranger = Stranger { random, broker: Connection::open(&address)?, address, closed: 0 };
    for _ in 0..REQUESTS {
        let ask = ASKS[stranger.random.below(ASKS.len() as u64) as usize];
        ask(&mut stranger).with_context(|| format!("the broker's output:\n{}", running.output()))?;
    }
    ensure!(running.is_alive(), "the broker ended:\n{}", running.output());
    ensure!(!running.output().contains("panicked"), "the broker panicked:\n{}", running.output());
    let resident = running.resident_bytes()?;
    ensure!(resident < RESIDENT_MAX, "{} MiB resident", resident >> 20);
    transact(&mut honest, 1).context("beside them")?;
    running.kill()?;
    // What they have left in the coordinators' logs is loaded again.
    let mut again = spec.start()?;
    transact(&mut Connection::open(&spec.address())?, 2).context("after a kill")?;
    ensure!(again.is_alive() && !again.output().contains("panicked"), "{}", again.output());
    Ok(format!(
        "{REQUESTS} requests, {} connections closed, {} MiB resident",
        stranger.closed,
        resident >> 20
    ))
}

/// An honest transaction of one record and one offset.
fn transact(broker: &mut Connection, number: i64) -> Result<()> {
    broker.find_coordinator("honest", 1)?;
    broker.find_coordinator("honest", 0)?;
    let mut me = broker.begin_transactional("honest", true)?;
    let value = format!("honest-{number}").into_bytes();
    let code = broker.write_in_transaction(&me, (TOPIC, 0), 0, value.clone(), 1_700_000_000_000)?;
    ensure!(code == 0, "Produce: error {code}");
    let code = broker.commit_in_transaction(&me, "honest", TOPIC, number)?;
    ensure!(code == 0, "TxnOffsetCommit: error {code}");
    let code = broker.end_transaction(&mut me, true)?;
    ensure!(code == 0, "EndTxn: error {code}");
    // It is complete when the next one may begin.
    broker.begin_transactional("honest", true)?;
    ensure!(broker.committed("honest", TOPIC)? == number, "another offset is committed");
    let read = broker.read_decided(TOPIC, 0)?;
    ensure!(read.values.iter().any(|(_, read)| *read == value), "its record is not there");
    Ok(())
}

impl Stranger {
    /// Asks, and understands the answer. That the broker closes the connection is an answer, too.
    fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<()> {
        match self.broker.call(request, version) {
            Ok(_) => Ok(()),
            Err(error) if error.downcast_ref::<std::io::Error>().is_some() => self.reconnect(),
            Err(error) => Err(error),
        }
    }

    /// Asks, and does not wait: the answer may be a long time in coming.
    fn call_and_go<R: Request>(&mut self, request: &R, version: i16) -> Result<()> {
        // That the broker closes the connection meanwhile is fine.
        let _ = self.broker.send(request, version);
        self.reconnect()
    }

    fn reconnect(&mut self) -> Result<()> {
        self.closed += 1;
        self.broker = Connection::open(&self.address)?;
        Ok(())
    }

    /// Mostly one of a few, so that they meet; sometimes nothing, odd, or far too long.
    fn name(&mut self) -> StrBytes {
        let name = match self.random.below(12) {
            0 => String::new(),
            1 => "\u{0}\u{202e}/../größe".to_owned(),
            2 => "x".repeat(self.random.between(200, 32_767) as usize),
            3 => "__transaction_state".to_owned(),
            n => format!("strange-{}", n % 4),
        };
        StrBytes::from_string(name)
    }

    fn maybe_name(&mut self) -> Option<StrBytes> {
        self.random.one_in(3).then(|| self.name())
    }

    fn topic(&mut self) -> TopicName {
        match self.random.below(4) {
            0 => TopicName(self.name()),
            1 => TopicName(StrBytes::from_static_str("__consumer_offsets")),
            _ => TopicName(StrBytes::from_static_str(TOPIC)),
        }
    }

    fn group(&mut self) -> GroupId {
        GroupId(self.name())
    }

    fn id(&mut self) -> TransactionalId {
        TransactionalId(self.name())
    }

    fn int(&mut self) -> i32 {
        const EDGES: [i32; 8] = [-1, 0, 1, 2, -2, i32::MAX, i32::MIN, 6_000];
        match self.random.one_in(4) {
            true => self.random.draw() as i32,
            false => EDGES[self.random.below(EDGES.len() as u64) as usize],
        }
    }

    fn short(&mut self) -> i16 {
        const EDGES: [i16; 6] = [-1, 0, 1, 2, i16::MAX, i16::MIN];
        EDGES[self.random.below(EDGES.len() as u64) as usize]
    }

    fn long(&mut self) -> i64 {
        const EDGES: [i64; 7] = [-1, 0, 1, 2, 1000, i64::MAX, i64::MIN];
        EDGES[self.random.below(EDGES.len() as u64) as usize]
    }

    fn flag(&mut self) -> bool {
        self.random.one_in(2)
    }

    /// Seldom many.
    fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = if self.random.one_in(40) { self.random.between(50, 300) } else { self.random.below(4) };
        (0..count).map(|_| one(self)).collect()
    }

    fn bytes(&mut self) -> Bytes {
        let length = if self.random.one_in(20) { 50_000 } else { self.random.below(60) };
        let mut bytes = vec![0; length as usize];
        self.random.fill(&mut bytes);
        bytes.into()
    }
}

fn find_coordinator(s: &mut Stranger) -> Result<()> {
    let keys = s.many(Stranger::name);
    let kind = s.int() as i8;
    s.call(&FindCoordinatorRequest::default().with_key_type(kind).with_coordinator_keys(keys), 4)
}

fn join(s: &mut Stranger) -> Result<()> {
    let protocols =
        s.many(|s| JoinGroupRequestProtocol::default().with_name(s.name()).with_metadata(s.bytes()));
    let session_ms = if s.flag() { 6_000 } else { s.int() };
    let request = JoinGroupRequest::default()
        .with_group_id(s.group())
        .with_session_timeout_ms(session_ms)
        .with_rebalance_timeout_ms(s.int())
        .with_member_id(s.maybe_name().unwrap_or_default())
        .with_group_instance_id(s.maybe_name())
        .with_protocol_type(s.name())
        .with_protocols(protocols);
    let version = if s.flag() { 9 } else { 3 };
    let request = if version == 3 { request.with_group_instance_id(None) } else { request };
    s.call_and_go(&request, version)
}

fn sync(s: &mut Stranger) -> Result<()> {
    let assignments =
        s.many(|s| SyncGroupRequestAssignment::default().with_member_id(s.name()).with_assignment(s.bytes()));
    let request = SyncGroupRequest::default()
        .with_group_id(s.group())
        .with_generation_id(s.int())
        .with_member_id(s.name())
        .with_group_instance_id(s.maybe_name())
        .with_protocol_type(s.maybe_name())
        .with_protocol_name(s.maybe_name())
        .with_assignments(assignments);
    s.call_and_go(&request, 5)
}

fn heartbeat(s: &mut Stranger) -> Result<()> {
    let request = HeartbeatRequest::default()
        .with_group_id(s.group())
        .with_generation_id(s.int())
        .with_member_id(s.name())
        .with_group_instance_id(s.maybe_name());
    s.call(&request, 4)
}

fn leave(s: &mut Stranger) -> Result<()> {
    let members =
        s.many(|s| MemberIdentity::default().with_member_id(s.name()).with_group_instance_id(s.maybe_name()));
    let request = LeaveGroupRequest::default().with_group_id(s.group()).with_members(members);
    s.call(&request, 5)
}

fn describe_groups(s: &mut Stranger) -> Result<()> {
    let groups = s.many(Stranger::group);
    s.call(&DescribeGroupsRequest::default().with_groups(groups), 5)
}

fn list_groups(s: &mut Stranger) -> Result<()> {
    let request = ListGroupsRequest::default()
        .with_states_filter(s.many(Stranger::name))
        .with_types_filter(s.many(Stranger::name));
    s.call(&request, 5)
}

fn delete_groups(s: &mut Stranger) -> Result<()> {
    let groups = s.many(Stranger::group);
    s.call(&DeleteGroupsRequest::default().with_groups_names(groups), 2)
}

fn commit(s: &mut Stranger) -> Result<()> {
    let topics = s.many(|s| {
        let partitions = s.many(|s| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(s.int())
                .with_committed_offset(s.long())
                .with_committed_leader_epoch(s.int())
                .with_committed_metadata(s.maybe_name())
        });
        OffsetCommitRequestTopic::default().with_name(s.topic()).with_partitions(partitions)
    });
    let request = OffsetCommitRequest::default()
        .with_group_id(s.group())
        .with_generation_id_or_member_epoch(s.int())
        .with_member_id(s.maybe_name().unwrap_or_default())
        .with_topics(topics);
    s.call(&request, 9)
}

fn fetch(s: &mut Stranger) -> Result<()> {
    let groups = s.many(|s| {
        let topics = s.many(|s| {
            let indexes = s.many(Stranger::int);
            OffsetFetchRequestTopics::default().with_name(s.topic()).with_partition_indexes(indexes)
        });
        let topics = s.flag().then_some(topics);
        OffsetFetchRequestGroup::default().with_group_id(s.group()).with_topics(topics)
    });
    let request = OffsetFetchRequest::default().with_groups(groups).with_require_stable(s.flag());
    s.call(&request, 8)
}

fn delete_offsets(s: &mut Stranger) -> Result<()> {
    let topics = s.many(|s| {
        let partitions = s.many(|s| OffsetDeleteRequestPartition::default().with_partition_index(s.int()));
        OffsetDeleteRequestTopic::default().with_name(s.topic()).with_partitions(partitions)
    });
    let request = OffsetDeleteRequest::default().with_group_id(s.group()).with_topics(topics);
    s.call(&request, 0)
}

fn init(s: &mut Stranger) -> Result<()> {
    let id = s.flag().then(|| s.id());
    let request = InitProducerIdRequest::default()
        .with_transactional_id(id)
        .with_transaction_timeout_ms(s.int())
        .with_producer_id(ProducerId(s.long()))
        .with_producer_epoch(s.short());
    s.call(&request, 5)
}

fn add_partitions(s: &mut Stranger) -> Result<()> {
    let topics = |s: &mut Stranger| {
        s.many(|s| {
            let partitions = s.many(Stranger::int);
            AddPartitionsToTxnTopic::default().with_name(s.topic()).with_partitions(partitions)
        })
    };
    if s.flag() {
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(s.id())
            .with_v3_and_below_producer_id(ProducerId(s.long()))
            .with_v3_and_below_producer_epoch(s.short())
            .with_v3_and_below_topics(topics(s));
        return s.call(&request, 3);
    }
    let transactions = s.many(|s| {
        AddPartitionsToTxnTransaction::default()
            .with_transactional_id(s.id())
            .with_producer_id(ProducerId(s.long()))
            .with_producer_epoch(s.short())
            .with_verify_only(s.flag())
            .with_topics(topics(s))
    });
    s.call(&AddPartitionsToTxnRequest::default().with_transactions(transactions), 5)
}

fn add_offsets(s: &mut Stranger) -> Result<()> {
    let request = AddOffsetsToTxnRequest::default()
        .with_transactional_id(s.id())
        .with_producer_id(ProducerId(s.long()))
        .with_producer_epoch(s.short())
        .with_group_id(s.group());
    s.call(&request, 4)
}

fn end(s: &mut Stranger) -> Result<()> {
    let request = EndTxnRequest::default()
        .with_transactional_id(s.id())
        .with_producer_id(ProducerId(s.long()))
        .with_producer_epoch(s.short())
        .with_committed(s.flag());
    s.call(&request, 5)
}

fn markers(s: &mut Stranger) -> Result<()> {
    let markers = s.many(|s| {
        let topics = s.many(|s| {
            let indexes = s.many(Stranger::int);
            WritableTxnMarkerTopic::default().with_name(s.topic()).with_partition_indexes(indexes)
        });
        // Not of a producer that is there: brokers alone may send these.
        WritableTxnMarker::default()
            .with_producer_id(ProducerId(s.long().saturating_add(1_000_000)))
            .with_producer_epoch(s.short())
            .with_transaction_result(s.flag())
            .with_topics(topics)
            .with_coordinator_epoch(s.int())
    });
    s.call(&WriteTxnMarkersRequest::default().with_markers(markers), 1)
}

fn commit_in_transaction(s: &mut Stranger) -> Result<()> {
    let topics = s.many(|s| {
        let partitions = s.many(|s| {
            TxnOffsetCommitRequestPartition::default()
                .with_partition_index(s.int())
                .with_committed_offset(s.long())
                .with_committed_leader_epoch(s.int())
                .with_committed_metadata(s.maybe_name())
        });
        TxnOffsetCommitRequestTopic::default().with_name(s.topic()).with_partitions(partitions)
    });
    let request = TxnOffsetCommitRequest::default()
        .with_transactional_id(s.id())
        .with_group_id(s.group())
        .with_producer_id(ProducerId(s.long()))
        .with_producer_epoch(s.short())
        .with_generation_id(s.int())
        .with_member_id(s.maybe_name().unwrap_or_default())
        .with_group_instance_id(s.maybe_name())
        .with_topics(topics);
    s.call(&request, 5)
}

fn describe_transactions(s: &mut Stranger) -> Result<()> {
    let ids = s.many(Stranger::id);
    s.call(&DescribeTransactionsRequest::default().with_transactional_ids(ids), 0)?;
    let request = ListTransactionsRequest::default()
        .with_state_filters(s.many(Stranger::name))
        .with_producer_id_filters(s.many(|s| ProducerId(s.long())))
        .with_duration_filter(s.long());
    s.call(&request, 1)
}

fn describe_producers(s: &mut Stranger) -> Result<()> {
    let topics = s.many(|s| {
        let indexes = s.many(Stranger::int);
        TopicRequest::default().with_name(s.topic()).with_partition_indexes(indexes)
    });
    s.call(&DescribeProducersRequest::default().with_topics(topics), 0)
}
