//! Members that join, work, stall, die, come back and leave, by chance, with restarts of the broker; and what holds
//! whatever they do.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use proptest::prelude::*;

use super::super::classic::State;
use super::super::*;
use super::house::*;

/// Group, instance id, version of JoinGroup.
const CLIENTS: [(&str, Option<&str>, i16); 6] = [
    ("g", Some("g0"), 9),
    ("h", Some("h0"), 9),
    ("g", None, 9),
    ("h", None, 5),
    ("g", None, 3),
    ("g", Some("g1"), 8),
];

/// How many producers there are, each in a transaction or not.
const PRODUCERS: i64 = 3;

#[derive(Clone, Debug)]
enum Op {
    /// A client does what it has to do next.
    Act(usize),
    /// It sends its JoinGroup or SyncGroup again, over another connection.
    Retry(usize),
    /// It is gone, and begins anew. What it has asked for is still with the broker.
    Crash(usize),
    Leave(usize),
    /// An administrator removes it, if it is a static member.
    Expel(usize),
    /// It joins again, to be subscribed to something else.
    Change(usize),
    /// It speaks of a generation that is over.
    Lag(usize),
    Commit(usize, i32),
    CommitSimply(usize, i32),
    /// A producer's transaction commits for a client's group, with its member's generation.
    TxnCommit(i64, usize, i32),
    /// A producer's transaction ends.
    End(i64, bool),
    DeleteOffset(usize, i32),
    DeleteGroup(usize),
    Pass(i64),
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let client = || 0..CLIENTS.len();
    let op = prop_oneof![
        20 => client().prop_map(Op::Act),
        1 => client().prop_map(Op::Retry),
        1 => client().prop_map(Op::Crash),
        1 => client().prop_map(Op::Leave),
        1 => client().prop_map(Op::Expel),
        1 => client().prop_map(Op::Change),
        1 => client().prop_map(Op::Lag),
        4 => (client(), 0..3).prop_map(|(client, partition)| Op::Commit(client, partition)),
        1 => (client(), 0..3).prop_map(|(client, partition)| Op::CommitSimply(client, partition)),
        3 => (0..PRODUCERS, client(), 0..3).prop_map(|(producer, client, partition)| {
            Op::TxnCommit(producer, client, partition)
        }),
        2 => (0..PRODUCERS, any::<bool>()).prop_map(|(producer, commit)| Op::End(producer, commit)),
        1 => (client(), 0..3).prop_map(|(client, partition)| Op::DeleteOffset(client, partition)),
        1 => client().prop_map(Op::DeleteGroup),
        8 => (1i64..8_000).prop_map(Op::Pass),
        1 => Just(Op::Restart),
    ];
    proptest::collection::vec(op, 1..150)
}

enum Phase {
    Out,
    Joining(Ticket),
    /// With the members, if it leads and is to assign.
    Joined(Vec<StrBytes>),
    Syncing(Ticket),
    Working,
}

struct Client {
    group: &'static str,
    instance: Option<&'static str>,
    version: i16,
    member_id: StrBytes,
    generation: i32,
    phase: Phase,
    topic: &'static str,
}

/// What everybody is told of one generation.
#[derive(Clone, Debug, PartialEq)]
struct Generation {
    leader: usize,
    protocol: Option<StrBytes>,
}

struct Model {
    house: House,
    clients: Vec<Client>,
    /// Requests that wait, and whose they are.
    open: BTreeMap<Ticket, usize>,
    /// Whose each member id is, or was.
    owners: BTreeMap<StrBytes, usize>,
    generations: BTreeMap<(&'static str, i32), Generation>,
    /// Which SyncGroup's assignments a generation uses.
    assigned_by: BTreeMap<(&'static str, i32), String>,
    /// Each commit has an offset of its own, larger than those before it.
    committed: BTreeMap<(&'static str, i32), i64>,
    pending: BTreeMap<(i64, &'static str, i32), i64>,
    commits: i64,
}

impl Model {
    fn new() -> Model {
        let clients = CLIENTS.iter().map(|(group, instance, version)| Client {
            group,
            instance: *instance,
            version: *version,
            member_id: StrBytes::new(),
            generation: -1,
            phase: Phase::Out,
            topic: "t",
        });
        // Time alone deletes nothing here.
        let config =
            GroupConfig { offsets_retention_check_interval_ms: 1_000_000_000_000, ..GroupConfig::default() };
        Model {
            house: House::with(config),
            clients: clients.collect(),
            open: BTreeMap::new(),
            owners: BTreeMap::new(),
            generations: BTreeMap::new(),
            assigned_by: BTreeMap::new(),
            committed: BTreeMap::new(),
            pending: BTreeMap::new(),
            commits: 0,
        }
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Act(index) => self.act(index),
            Op::Retry(index) => self.retry(index),
            Op::Crash(index) => self.out(index, true),
            Op::Leave(index) => {
                let id = self.clients[index].member_id.clone();
                self.leave(index, &id, None);
                self.out(index, true);
            }
            Op::Expel(index) => {
                if let Some(instance) = self.clients[index].instance {
                    self.leave(index, &StrBytes::new(), Some(instance));
                }
            }
            Op::Change(index) => {
                if matches!(self.clients[index].phase, Phase::Working) {
                    let client = &mut self.clients[index];
                    client.topic = if client.topic == "t" { "u" } else { "t" };
                    self.join(index);
                }
            }
            Op::Lag(index) => {
                if matches!(self.clients[index].phase, Phase::Working) {
                    let generation = self.clients[index].generation - 1;
                    assert_ne!(self.heartbeat(index, generation), 0);
                }
            }
            Op::Commit(index, partition) => {
                let Client { member_id, generation, .. } = &self.clients[index];
                let member = (member_id.clone(), *generation);
                self.commit(index, partition, member);
            }
            Op::CommitSimply(index, partition) => self.commit(index, partition, (StrBytes::new(), -1)),
            Op::TxnCommit(producer, index, partition) => self.txn_commit(producer, index, partition),
            Op::End(producer, commit) => self.end(producer, commit),
            Op::DeleteOffset(index, partition) => self.delete_offset(self.clients[index].group, partition),
            Op::DeleteGroup(index) => self.delete_group(self.clients[index].group),
            Op::Pass(ms) => self.house.pass(ms),
            Op::Restart => self.restart(),
        }
        self.hear();
    }

    fn out(&mut self, index: usize, forget: bool) {
        let client = &mut self.clients[index];
        client.phase = Phase::Out;
        if forget {
            client.member_id = StrBytes::new();
            client.generation = -1;
        }
    }

    fn act(&mut self, index: usize) {
        match &self.clients[index].phase {
            Phase::Out => self.join(index),
            Phase::Joined(members) => {
                let members = members.clone();
                self.sync(index, &members);
            }
            Phase::Joining(_) | Phase::Syncing(_) => {}
            Phase::Working => {
                let error = self.heartbeat(index, self.clients[index].generation);
                self.fail(index, error);
            }
        }
    }

    /// As clients do: after most errors they join again, with their id unless that is the problem.
    fn fail(&mut self, index: usize, error: i16) {
        let forget = [Error::UnknownMemberId.code(), Error::FencedInstanceId.code()].contains(&error);
        let known = [0, Error::RebalanceInProgress.code(), Error::IllegalGeneration.code()].contains(&error);
        assert!(forget || known, "{error}");
        if error != 0 {
            self.out(index, forget);
        }
    }

    fn retry(&mut self, index: usize) {
        match self.clients[index].phase {
            Phase::Joining(_) => self.join(index),
            Phase::Syncing(_) => self.sync(index, &[]),
            _ => {}
        }
    }

    fn join(&mut self, index: usize) {
        let client = &self.clients[index];
        let mut protocols = [("range", subscribed(&[client.topic])), ("sticky", subscribed(&[client.topic]))];
        protocols.rotate_left(index % 2);
        let join = Join::new().version(client.version).member(&client.member_id).protocols(&protocols);
        let join = join.with(|request| {
            request.group_id = group_id(client.group);
            request.group_instance_id = client.instance.map(text);
            request.rebalance_timeout_ms = 20_000;
        });
        let ticket = self.house.join(join);
        self.open.insert(ticket, index);
        self.clients[index].phase = Phase::Joining(ticket);
    }

    fn sync(&mut self, index: usize, members: &[StrBytes]) {
        let client = &self.clients[index];
        let assignments = members.iter().map(|id| {
            // The leader signs, so that assignments of two SyncGroups are told apart.
            let work = format!("{}/{}/{id}", self.house.records.len(), client.member_id);
            SyncGroupRequestAssignment::default().with_member_id(id.clone()).with_assignment(work.into())
        });
        let request = SyncGroupRequest::default()
            .with_group_id(group_id(client.group))
            .with_member_id(client.member_id.clone())
            .with_generation_id(client.generation)
            .with_group_instance_id(client.instance.map(text))
            .with_assignments(assignments.collect());
        let ticket = self.house.call(Call::SyncGroup(request, 4));
        self.open.insert(ticket, index);
        self.clients[index].phase = Phase::Syncing(ticket);
    }

    fn heartbeat(&mut self, index: usize, generation: i32) -> i16 {
        let client = &self.clients[index];
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(client.group))
            .with_member_id(client.member_id.clone())
            .with_group_instance_id(client.instance.map(text))
            .with_generation_id(generation);
        let ticket = self.house.call(Call::Heartbeat(request, 4));
        match self.house.answer(ticket) {
            Answer::Heartbeat(response) => response.error_code,
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, index: usize, member_id: &StrBytes, instance: Option<&str>) {
        let member = MemberIdentity::default().with_member_id(member_id.clone());
        let member = member.with_group_instance_id(instance.map(text));
        let group = group_id(self.clients[index].group);
        let request = LeaveGroupRequest::default().with_group_id(group).with_members(vec![member]);
        self.house.leave_request(request, 5);
    }

    fn commit(&mut self, index: usize, partition: i32, (member_id, generation): (StrBytes, i32)) {
        let group = self.clients[index].group;
        self.commits += 1;
        let request = House::commit_request("t", &[(partition, self.commits)])
            .with_group_id(group_id(group))
            .with_member_id(member_id)
            .with_generation_id_or_member_epoch(generation);
        if self.house.commit(request, 9) == [0] {
            self.committed.insert((group, partition), self.commits);
        }
    }

    fn txn_commit(&mut self, producer: i64, index: usize, partition: i32) {
        let Client { group, ref member_id, generation, .. } = self.clients[index];
        self.commits += 1;
        let request = House::txn_commit_request(producer, "t", &[(partition, self.commits)])
            .with_group_id(group_id(group))
            .with_member_id(member_id.clone())
            .with_generation_id(generation);
        if self.house.txn_commit(request) == [0] {
            self.pending.insert((producer, group, partition), self.commits);
        }
    }

    fn end(&mut self, producer: i64, commit: bool) {
        self.house.end(producer, commit);
        let ended = self.pending.extract_if(.., |(of, ..), _| *of == producer);
        for ((_, group, partition), offset) in ended.filter(|_| commit).collect::<Vec<_>>() {
            let known = self.committed.entry((group, partition)).or_default();
            *known = offset.max(*known);
        }
    }

    fn delete_offset(&mut self, group: &'static str, partition: i32) {
        let partitions = vec![OffsetDeleteRequestPartition::default().with_partition_index(partition)];
        let topic =
            OffsetDeleteRequestTopic::default().with_name(topic_name("t")).with_partitions(partitions);
        let request = OffsetDeleteRequest::default().with_group_id(group_id(group)).with_topics(vec![topic]);
        let ticket = self.house.call(Call::OffsetDelete(request));
        let Answer::OffsetDelete(response) = self.house.answer(ticket) else { panic!("another answer") };
        if response.topics.iter().any(|topic| topic.partitions[0].error_code == 0) {
            self.committed.remove(&(group, partition));
            self.pending.retain(|(_, of, index), _| (*of, *index) != (group, partition));
        }
    }

    fn delete_group(&mut self, group: &'static str) {
        let ticket = self.house.call(Call::DeleteGroup(group_id(group)));
        let Answer::DeleteGroup(result) = self.house.answer(ticket) else { panic!("another answer") };
        if result.error_code == 0 {
            self.committed.retain(|(of, _), _| *of != group);
            self.pending.retain(|(_, of, _), _| *of != group);
            self.generations.retain(|(of, _), _| *of != group);
            self.assigned_by.retain(|(of, _), _| *of != group);
        }
    }

    /// Whoever waits is told to look for the coordinator again. Generations without assignments are lost, and their
    /// numbers come again.
    fn restart(&mut self) {
        self.house.restart();
        self.open.clear();
        self.generations.clear();
        for index in 0..self.clients.len() {
            if matches!(self.clients[index].phase, Phase::Joining(_) | Phase::Syncing(_)) {
                self.out(index, false);
            }
        }
    }

    /// Answers reach those who wait for them, if they still do.
    fn hear(&mut self) {
        let answers = self.house.answers();
        let owned =
            answers.iter().map(|(ticket, answer)| (self.open.remove(ticket).unwrap(), *ticket, answer));
        let owned: Vec<_> = owned.collect();
        for (index, _, answer) in &owned {
            if let Answer::JoinGroup(response) = answer {
                self.owners.insert(response.member_id.clone(), *index);
            }
        }
        for (index, ticket, answer) in owned {
            match answer {
                Answer::JoinGroup(response) => self.hear_joined(index, ticket, response),
                Answer::SyncGroup(response) => self.hear_synced(index, ticket, response),
                other => panic!("{other:?}"),
            }
        }
    }

    fn hear_joined(&mut self, index: usize, ticket: Ticket, response: &JoinGroupResponse) {
        let client = &mut self.clients[index];
        if response.error_code == 0 {
            let told = Generation {
                leader: self.owners[&response.leader],
                protocol: response.protocol_name.clone(),
            };
            let number = (client.group, response.generation_id);
            let known = self.generations.entry(number).or_insert_with(|| told.clone());
            assert_eq!(*known, told, "all are told the same of generation {number:?}");
        }
        if !matches!(client.phase, Phase::Joining(awaited) if awaited == ticket) {
            return;
        }
        match response.error_code {
            0 => {
                client.member_id = response.member_id.clone();
                client.generation = response.generation_id;
                let to_assign = !response.skip_assignment;
                let members = response.members.iter().filter(|_| to_assign).map(|m| m.member_id.clone());
                client.phase = Phase::Joined(members.collect());
            }
            error if error == Error::MemberIdRequired.code() => {
                client.member_id = response.member_id.clone();
                client.phase = Phase::Out;
            }
            error => self.fail(index, error),
        }
    }

    fn hear_synced(&mut self, index: usize, ticket: Ticket, response: &SyncGroupResponse) {
        let client = &mut self.clients[index];
        if !matches!(client.phase, Phase::Syncing(awaited) if awaited == ticket) {
            return;
        }
        if response.error_code != 0 {
            return self.fail(index, response.error_code);
        }
        client.phase = Phase::Working;
        let work = String::from_utf8(response.assignment.to_vec()).unwrap();
        let (signature, member_id) = work.rsplit_once('/').expect("everybody gets something");
        assert_eq!(self.owners.get(&text(member_id)), Some(&index), "it is this member's work");
        let number = (client.group, client.generation);
        let known = self.assigned_by.entry(number).or_insert_with(|| signature.to_string());
        assert_eq!(known, signature, "generation {number:?} has one assignment");
    }

    /// Whether the transaction of a record is decided, and how.
    fn outcome(&self, at: usize) -> Option<bool> {
        let Some(producer) = self.house.producers.get(&at) else { return Some(true) };
        let end = self.house.ends.iter().find(|(before, end)| *before > at && end.producer_id == *producer);
        end.map(|(_, end)| end.commit)
    }

    /// What is left of the log when it is compacted as far as it can be: up to the first record that is not decided.
    fn compacted(&self) -> Shard {
        let records = &self.house.records;
        let outcomes: Vec<_> = (0..records.len()).map(|at| self.outcome(at)).collect();
        let stable = outcomes.iter().position(Option::is_none).unwrap_or(records.len());
        let mut last = BTreeMap::new();
        for at in (0..stable).filter(|at| outcomes[*at] == Some(true)) {
            last.insert(&records[at].key, at);
        }
        let stays = |at: usize| last.get(&records[at].key) == Some(&at) && records[at].value.is_some();
        self.house.replayed_without(|at| at < stable && !stays(at))
    }

    /// The log tells everything that matters, compacted or not.
    fn check_log(&self) {
        let live = &self.house.shard;
        for loaded in [self.house.replayed(), self.compacted()] {
            for (id, group) in &live.groups {
                let Group::Classic(group) = group else { panic!("{group:?}") };
                let Some(Group::Classic(copy)) = loaded.groups.get(id) else {
                    // One that only committed, whose offsets are deleted, and that has no generation yet.
                    let typed = group.protocol_type().is_some();
                    let written = group.state() == State::Stable || group.is_empty() && typed;
                    let needed = live.offsets.of(id).is_some() || live.offsets.has_pending(id);
                    assert!(!written && !needed, "{id:?} is not in the log");
                    continue;
                };
                match group.state() {
                    State::Empty if group.protocol_type().is_none() => assert!(copy.is_empty()),
                    State::Empty | State::Stable => assert_eq!(copy.value(), group.value()),
                    _ => assert!(copy.value().generation <= group.value().generation),
                }
            }
            assert!(loaded.groups.keys().all(|id| live.groups.contains_key(id)));
            assert_eq!(committed(&loaded), committed(live));
            assert_eq!(loaded.offsets.pending(), live.offsets.pending());
        }
        let offsets = committed(live);
        let offsets =
            offsets.iter().map(|(group, partition, value)| (group.clone(), *partition, value.offset));
        let expected = self
            .committed
            .iter()
            .map(|((group, partition), offset)| (group.to_string(), *partition, *offset));
        assert_eq!(offsets.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        let pending = live.offsets.pending().into_iter();
        let pending = pending.map(|((id, group, _, index), value)| ((id.0, group, index), value.offset));
        let expected = self.pending.iter();
        let expected =
            expected.map(|((id, group, index), offset)| ((*id, group.to_string(), *index), *offset));
        assert_eq!(pending.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }

    /// Nothing goes wrong any more: soon all work, and nobody waits.
    fn settle(&mut self) {
        for _ in 0..400 {
            for index in 0..self.clients.len() {
                self.run(&Op::Act(index));
            }
            self.run(&Op::Pass(500));
        }
        for index in 0..self.clients.len() {
            let Client { group, generation, .. } = self.clients[index];
            assert_eq!(self.heartbeat(index, generation), 0);
            assert!(matches!(self.clients[index].phase, Phase::Working));
            let Group::Classic(group) = &self.house.shard.groups[&text(group)] else { panic!("{group}") };
            let members = self.clients.iter().filter(|client| *client.group == **group.id()).count();
            assert_eq!((group.state(), group.members().len()), (State::Stable, members));
        }
        assert!(self.open.is_empty());
    }
}

/// Group, partition and what is committed, of the one topic there is.
fn committed(shard: &Shard) -> Vec<(String, i32, OffsetValue)> {
    let all = shard.offsets.groups().flat_map(|(group, topics)| {
        let partitions = topics.values().flatten();
        partitions.map(move |(partition, committed)| (group.to_string(), *partition, committed.value.clone()))
    });
    all.collect()
}

proptest! {
    #[test]
    fn whatever_members_do_the_group_holds_together(ops in ops()) {
        let mut model = Model::new();
        for op in &ops {
            model.run(op);
            model.check_log();
        }
        model.settle();
        model.check_log();
    }
}
