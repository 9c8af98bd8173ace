//! A shard with a clock, and whoever talks to it.

use std::collections::BTreeMap;

pub use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopics;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};

use super::super::*;

pub const GROUP: &str = "g";

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}

pub fn group_id(id: &str) -> GroupId {
    GroupId(text(id))
}

pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// The metadata of a consumer: a `ConsumerProtocolSubscription`, version 0.
pub fn subscribed(topics: &[&str]) -> Bytes {
    let mut metadata = vec![0, 0];
    metadata.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        metadata.extend((topic.len() as i16).to_be_bytes());
        metadata.extend(topic.as_bytes());
    }
    metadata.extend((-1_i32).to_be_bytes());
    metadata.into()
}

/// A JoinGroup, version 9 unless told otherwise.
#[derive(Clone)]
pub struct Join {
    pub request: JoinGroupRequest,
    pub version: i16,
}

impl Join {
    /// Somebody new, a consumer of the topic `t`.
    pub fn new() -> Join {
        let request = JoinGroupRequest::default()
            .with_group_id(group_id(GROUP))
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(60_000)
            .with_protocol_type(text("consumer"));
        Join { request, version: 9 }.protocols(&[("range", subscribed(&["t"]))])
    }

    /// Version 3: no member id is required.
    pub fn old() -> Join {
        Join { version: 3, ..Join::new() }
    }

    pub fn member(mut self, id: &StrBytes) -> Join {
        self.request.member_id = id.clone();
        self
    }

    pub fn instance(mut self, id: &str) -> Join {
        self.request.group_instance_id = Some(text(id));
        self
    }

    pub fn version(self, version: i16) -> Join {
        Join { version, ..self }
    }

    pub fn protocols(mut self, protocols: &[(&str, Bytes)]) -> Join {
        let protocols = protocols.iter().map(|(name, metadata)| {
            JoinGroupRequestProtocol::default().with_name(text(name)).with_metadata(metadata.clone())
        });
        self.request.protocols = protocols.collect();
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut JoinGroupRequest)) -> Join {
        change(&mut self.request);
        self
    }
}

pub struct House {
    pub shard: Shard,
    /// The topics that there are.
    pub image: Arc<MetadataImage>,
    pub now_ms: i64,
    pub records: Vec<GroupRecord>,
    /// Which of the records belong to a producer's transaction.
    pub producers: BTreeMap<usize, ProducerId>,
    /// Which transactions ended, and before which record.
    pub ends: Vec<(usize, EndMarker)>,
    answers: BTreeMap<Ticket, Answer>,
    tickets: u64,
}

impl House {
    pub fn new() -> House {
        House::with(GroupConfig::default())
    }

    pub fn with(config: GroupConfig) -> House {
        let mut house = House {
            shard: Shard::new(config),
            image: Arc::new(MetadataImage::empty(Arc::default())),
            now_ms: 1_700_000_000_000,
            records: Vec::new(),
            producers: BTreeMap::new(),
            ends: Vec::new(),
            answers: BTreeMap::new(),
            tickets: 0,
        };
        let step = house.shard.loaded(house.now_ms);
        house.take(step);
        house
    }

    pub fn take(&mut self, step: Step) {
        if let Some((producer, _)) = step.producer {
            assert!(!step.records.is_empty(), "it has written nothing");
            self.producers.extend((0..step.records.len()).map(|at| (self.records.len() + at, producer)));
        }
        self.ends.extend(step.marker.map(|marker| (self.records.len(), marker)));
        self.records.extend(step.records);
        for (ticket, answer) in step.answers {
            assert!(ticket.0 <= self.tickets, "{ticket:?} was never given");
            assert!(self.answers.insert(ticket, answer).is_none(), "{ticket:?} is answered twice");
        }
    }

    pub fn call(&mut self, call: Call) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let step = self.shard.handle(self.now_ms, ticket, call, Uuid::from_u128(self.tickets.into()));
        self.take(step);
        ticket
    }

    /// Time passes, and everything that is due happens at its time.
    pub fn pass(&mut self, ms: i64) {
        let until_ms = self.now_ms + ms;
        while let Some(at_ms) = self.shard.next_tick_ms().filter(|at_ms| *at_ms <= until_ms) {
            assert!(at_ms > self.now_ms, "time stands still");
            self.now_ms = at_ms;
            let step = self.shard.tick(at_ms);
            self.take(step);
        }
        self.now_ms = until_ms;
    }

    /// The broker is started anew: what the log tells is all that is left.
    pub fn restart(&mut self) {
        self.shard = self.replayed();
        let step = self.shard.metadata(self.now_ms, self.image.clone());
        self.take(step);
        let step = self.shard.loaded(self.now_ms);
        self.take(step);
    }

    pub fn replayed(&self) -> Shard {
        self.replayed_without(|_| false)
    }

    /// Without the records that a cleaner has taken, by their numbers.
    pub fn replayed_without(&self, cleaned: impl Fn(usize) -> bool) -> Shard {
        let mut shard = Shard::new(self.shard.config.clone());
        let mut ends = self.ends.iter().peekable();
        for (at, record) in self.records.iter().enumerate() {
            while let Some((_, marker)) = ends.next_if(|(before, _)| *before <= at) {
                shard.replay_end(marker.producer_id, marker.commit);
            }
            if !cleaned(at) {
                let producer = self.producers.get(&at).copied();
                shard.replay(producer, &record.key, record.value.as_deref()).unwrap();
            }
        }
        for (_, marker) in ends {
            shard.replay_end(marker.producer_id, marker.commit);
        }
        shard
    }

    pub fn is_waiting(&self, ticket: Ticket) -> bool {
        !self.answers.contains_key(&ticket)
    }

    /// All answers that nobody has looked at.
    pub fn answers(&mut self) -> BTreeMap<Ticket, Answer> {
        std::mem::take(&mut self.answers)
    }

    pub fn answer(&mut self, ticket: Ticket) -> Answer {
        self.answers.remove(&ticket).expect("there is no answer yet")
    }

    pub fn join(&mut self, join: Join) -> Ticket {
        let caller = Caller { client_id: "client".to_string(), client_host: "/127.0.0.1".to_string() };
        self.call(Call::JoinGroup(join.request, join.version, caller))
    }

    pub fn joined(&mut self, ticket: Ticket) -> JoinGroupResponse {
        match self.answer(ticket) {
            Answer::JoinGroup(response) => response,
            other => panic!("{other:?}"),
        }
    }

    /// A JoinGroup that is answered at once.
    pub fn join_now(&mut self, join: Join) -> JoinGroupResponse {
        let ticket = self.join(join);
        self.joined(ticket)
    }

    pub fn sync_request(member: &StrBytes, generation: i32) -> SyncGroupRequest {
        SyncGroupRequest::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(member.clone())
            .with_generation_id(generation)
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
    }

    /// A SyncGroup; a leader's with assignments.
    pub fn sync(&mut self, member: &StrBytes, generation: i32, assignments: &[(&StrBytes, &str)]) -> Ticket {
        let assignments = assignments.iter().map(|(member, work)| {
            SyncGroupRequestAssignment::default()
                .with_member_id((*member).clone())
                .with_assignment(Bytes::copy_from_slice(work.as_bytes()))
        });
        let request = House::sync_request(member, generation)
            .with_protocol_type(None)
            .with_protocol_name(None)
            .with_assignments(assignments.collect());
        self.call(Call::SyncGroup(request, 4))
    }

    pub fn synced(&mut self, ticket: Ticket) -> SyncGroupResponse {
        match self.answer(ticket) {
            Answer::SyncGroup(response) => response,
            other => panic!("{other:?}"),
        }
    }

    pub fn heartbeat(&mut self, member: &StrBytes, generation: i32) -> i16 {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(member.clone())
            .with_generation_id(generation);
        let ticket = self.call(Call::Heartbeat(request, 4));
        match self.answer(ticket) {
            Answer::Heartbeat(response) => response.error_code,
            other => panic!("{other:?}"),
        }
    }

    /// Several leave; by member id, instance id.
    pub fn leave(&mut self, leaving: &[(&str, Option<&str>)]) -> LeaveGroupResponse {
        let members = leaving.iter().map(|(member, instance)| {
            MemberIdentity::default()
                .with_member_id(text(member))
                .with_group_instance_id(instance.map(text))
                .with_reason(Some(text("it is late")))
        });
        let request =
            LeaveGroupRequest::default().with_group_id(group_id(GROUP)).with_members(members.collect());
        self.leave_request(request, 5)
    }

    pub fn leave_request(&mut self, request: LeaveGroupRequest, version: i16) -> LeaveGroupResponse {
        let ticket = self.call(Call::LeaveGroup(request, version));
        match self.answer(ticket) {
            Answer::LeaveGroup(response) => response,
            other => panic!("{other:?}"),
        }
    }

    pub fn commit_request(topic: &str, offsets: &[(i32, i64)]) -> OffsetCommitRequest {
        let partitions = offsets.iter().map(|(index, offset)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(*index)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(7)
                .with_committed_metadata(Some(text("m")))
        });
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(partitions.collect());
        OffsetCommitRequest::default().with_group_id(group_id(GROUP)).with_topics(vec![topic])
    }

    /// The error of each partition.
    pub fn commit(&mut self, request: OffsetCommitRequest, version: i16) -> Vec<i16> {
        let ticket = self.call(Call::OffsetCommit(request, version));
        match self.answer(ticket) {
            Answer::OffsetCommit(response) => {
                let partitions = response.topics.into_iter().flat_map(|topic| topic.partitions);
                partitions.map(|partition| partition.error_code).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// Somebody without a group's membership commits.
    pub fn commit_simply(&mut self, topic: &str, offsets: &[(i32, i64)]) {
        let errors = self.commit(House::commit_request(topic, offsets), 9);
        assert!(errors.iter().all(|error| *error == 0), "{errors:?}");
    }

    /// A commit in the transaction of a producer.
    pub fn txn_commit_request(producer: i64, topic: &str, offsets: &[(i32, i64)]) -> TxnOffsetCommitRequest {
        let partitions = offsets.iter().map(|(index, offset)| {
            TxnOffsetCommitRequestPartition::default()
                .with_partition_index(*index)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(7)
                .with_committed_metadata(Some(text("m")))
        });
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(partitions.collect());
        TxnOffsetCommitRequest::default()
            .with_group_id(group_id(GROUP))
            .with_producer_id(producer.into())
            .with_topics(vec![topic])
    }

    /// The error of each partition.
    pub fn txn_commit(&mut self, request: TxnOffsetCommitRequest) -> Vec<i16> {
        let ticket = self.call(Call::TxnOffsetCommit(request, Verified::Own));
        match self.answer(ticket) {
            Answer::TxnOffsetCommit(response) => {
                let partitions = response.topics.into_iter().flat_map(|topic| topic.partitions);
                partitions.map(|partition| partition.error_code).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// A producer commits by itself, without a member of the group.
    pub fn txn_commit_simply(&mut self, producer: i64, topic: &str, offsets: &[(i32, i64)]) {
        let errors = self.txn_commit(House::txn_commit_request(producer, topic, offsets));
        assert!(errors.iter().all(|error| *error == 0), "{errors:?}");
    }

    /// A producer's transaction ends.
    pub fn end(&mut self, producer: i64, commit: bool) {
        let producer_id = ProducerId(producer);
        let marker =
            EndMarker { producer_id, producer_epoch: ProducerEpoch(0), coordinator_epoch: 0, commit };
        let ticket = self.call(Call::Marker(marker));
        assert_eq!(self.answer(ticket), Answer::Marker);
        assert_eq!(self.ends.last(), Some(&(self.records.len(), marker)));
    }

    /// What waits for the ends of transactions: producer, topic, partition, offset.
    pub fn pending(&self) -> Vec<(i64, String, i32, i64)> {
        let pending = self.shard.offsets.pending().into_iter();
        pending.map(|((producer, _, topic, index), value)| (producer.0, topic, index, value.offset)).collect()
    }

    pub fn fetch(&mut self, topics: Option<&[(&str, &[i32])]>) -> OffsetFetchResponseGroup {
        self.fetch_as(topics, true)
    }

    pub fn fetch_as(&mut self, topics: Option<&[(&str, &[i32])]>, stable: bool) -> OffsetFetchResponseGroup {
        let topics = topics.map(|topics| {
            let topics = topics.iter().map(|(name, partitions)| {
                OffsetFetchRequestTopics::default()
                    .with_name(topic_name(name))
                    .with_partition_indexes(partitions.to_vec())
            });
            topics.collect()
        });
        let request = OffsetFetchRequestGroup::default().with_group_id(group_id(GROUP)).with_topics(topics);
        let ticket = self.call(Call::OffsetFetch(request, stable, 9));
        match self.answer(ticket) {
            Answer::OffsetFetch(response) => response,
            other => panic!("{other:?}"),
        }
    }

    /// Everything that is committed: topic, partition, offset.
    pub fn offsets(&mut self) -> Vec<(String, i32, i64)> {
        let topics = self.fetch_as(None, false).topics.into_iter();
        let all = topics.flat_map(|topic| {
            let name = topic.name.to_string();
            topic.partitions.into_iter().map(move |p| (name.clone(), p.partition_index, p.committed_offset))
        });
        all.collect()
    }

    pub fn describe(&mut self, version: i16) -> DescribedGroup {
        let ticket = self.call(Call::DescribeGroup(group_id(GROUP), version));
        match self.answer(ticket) {
            Answer::DescribeGroup(group) => group,
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&mut self) -> String {
        self.describe(5).group_state.to_string()
    }

    pub fn delete(&mut self) -> i16 {
        let ticket = self.call(Call::DeleteGroup(group_id(GROUP)));
        match self.answer(ticket) {
            Answer::DeleteGroup(result) => result.error_code,
            other => panic!("{other:?}"),
        }
    }

    /// A group in its first generation: these join, and each is assigned its number. Their ids, the leader's first.
    pub fn stable(&mut self, joins: Vec<Join>) -> Vec<StrBytes> {
        let tickets: Vec<_> = joins.into_iter().map(|join| self.join(join)).collect();
        self.pass(6_000);
        let answers: Vec<_> = tickets.into_iter().map(|ticket| self.joined(ticket)).collect();
        self.settle(&answers)
    }

    /// All have joined: the leader assigns, and all get their share.
    pub fn settle(&mut self, joined: &[JoinGroupResponse]) -> Vec<StrBytes> {
        let generation = joined[0].generation_id;
        let mut ids: Vec<_> = joined.iter().map(|answer| answer.member_id.clone()).collect();
        let leader = ids.iter().position(|id| *id == joined[0].leader).unwrap();
        ids.swap(0, leader);
        let work: Vec<_> = (0..ids.len()).map(|number| number.to_string()).collect();
        let assignments: Vec<_> = ids.iter().zip(&work).map(|(id, work)| (id, work.as_str())).collect();
        let followers: Vec<_> = ids[1..].iter().map(|id| self.sync(id, generation, &[])).collect();
        let leader = self.sync(&ids[0], generation, &assignments);
        for (number, ticket) in [leader].into_iter().chain(followers).enumerate() {
            let synced = self.synced(ticket);
            assert_eq!((synced.error_code, synced.assignment), (0, Bytes::from(work[number].clone())));
        }
        assert_eq!(self.state(), "Stable");
        ids
    }
}
