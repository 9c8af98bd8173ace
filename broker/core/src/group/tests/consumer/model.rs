//! Members of both protocols that join, work, dawdle, die, come back and leave, by chance, with answers that get lost,
//! topics that change, and restarts of the broker; and what holds whatever they do.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::classic_client::ClassicClient;
use super::house::*;
use crate::ids::TopicIdPartition;

const TOPICS: [&str; 3] = ["t", "u", "tu"];
const CLIENTS: usize = 6;
/// The most partitions that a topic comes to have.
const PARTITIONS_MAX: i32 = 5;

#[derive(Clone, Debug)]
enum Op {
    /// A client does what it has to do next.
    Act(usize),
    /// It sends a heartbeat, and the answer is lost.
    Lose(usize),
    /// It begins to work on what it was told, and stops with the rest.
    Apply(usize),
    /// It is gone, and begins anew.
    Crash(usize),
    Leave(usize),
    /// It begins anew with the other protocol, after it left, or without.
    Switch(usize, bool),
    /// It wants other topics.
    Subscribe(usize, Wish),
    /// A topic gets one more partition, or is created.
    Grow(usize),
    DeleteTopic(usize),
    Pass(i64),
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    Topics(u8),
    Regex(&'static str),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let client = || 0..CLIENTS;
    let wish = prop_oneof![
        (0u8..8).prop_map(Wish::Topics),
        prop_oneof![Just("t.*"), Just("u|tu"), Just("x")].prop_map(Wish::Regex),
    ];
    let op = prop_oneof![
        24 => client().prop_map(Op::Act),
        3 => client().prop_map(Op::Lose),
        12 => client().prop_map(Op::Apply),
        1 => client().prop_map(Op::Crash),
        2 => client().prop_map(Op::Leave),
        1 => (client(), any::<bool>()).prop_map(|(client, leaves)| Op::Switch(client, leaves)),
        2 => (client(), wish).prop_map(|(client, wish)| Op::Subscribe(client, wish)),
        1 => (0..TOPICS.len()).prop_map(Op::Grow),
        // Not the one of the classic protocol, whose assignments know topics by their names.
        1 => (1..TOPICS.len()).prop_map(Op::DeleteTopic),
        8 => (1i64..8_000).prop_map(Op::Pass),
        1 => Just(Op::Restart),
    ];
    proptest::collection::vec(op, 1..200)
}

/// A client that takes its time.
struct Slow {
    client: Client,
    /// What it was told to have, as long as that is not what it has.
    told: Option<Owned>,
}

enum Process {
    Consumer(Slow),
    Classic(ClassicClient),
}

struct Model {
    house: House,
    processes: Vec<Process>,
    topics: BTreeMap<&'static str, i32>,
    started: usize,
}

impl Model {
    fn new() -> Model {
        let config = GroupConfig {
            consumer_assignment_interval_ms: 500,
            // Time alone deletes nothing here.
            offsets_retention_check_interval_ms: 1_000_000_000_000,
            ..GroupConfig::default()
        };
        let mut model = Model {
            house: House::with(config),
            processes: Vec::new(),
            topics: BTreeMap::from([("t", 3), ("u", 2)]),
            started: 0,
        };
        model.topics_changed();
        for index in 0..CLIENTS {
            let process = model.start(index, index % 3 == 2);
            model.processes.push(process);
        }
        model
    }

    fn topics_changed(&mut self) {
        let topics: Vec<_> = self.topics.iter().map(|(name, count)| (*name, *count)).collect();
        self.house.set_topics(&topics);
    }

    /// Every other one is static. Those of the classic protocol all want the same, which leaders find easy.
    fn start(&mut self, index: usize, classic: bool) -> Process {
        self.started += 1;
        let instance = ["i0", "", "i2", "", "i4", ""][index];
        if classic {
            let client = ClassicClient::new("t", PARTITIONS_MAX);
            return Process::Classic(if instance.is_empty() { client } else { client.instance(instance) });
        }
        let client = Client::new(&format!("m{}", self.started));
        let client = if instance.is_empty() { client } else { client.instance(instance) };
        Process::Consumer(Slow { client, told: None })
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Act(index) => self.act(index),
            Op::Lose(index) => {
                if let Process::Consumer(slow) = &mut self.processes[index] {
                    self.house.beat(slow.heartbeat());
                    slow.client.lost = true;
                }
            }
            Op::Apply(index) => self.processes[index].apply(),
            Op::Crash(index) => self.restart_process(index, false, false),
            Op::Leave(index) => self.restart_process(index, true, false),
            Op::Switch(index, leaves) => self.restart_process(index, leaves, true),
            Op::Subscribe(index, wish) => {
                if let Process::Consumer(slow) = &mut self.processes[index] {
                    slow.client.wish(wish);
                }
            }
            Op::Grow(topic) => {
                let count = self.topics.entry(TOPICS[topic]).or_default();
                *count = (*count + 1).min(PARTITIONS_MAX);
                self.topics_changed();
            }
            Op::DeleteTopic(topic) => {
                self.topics.remove(TOPICS[topic]);
                self.topics_changed();
            }
            Op::Pass(ms) => self.house.pass(ms),
            Op::Restart => {
                self.house.restart();
                // Whoever waits will not hear.
                self.house.answers();
                for process in &mut self.processes {
                    if let Process::Classic(client) = process {
                        client.restart();
                    }
                }
            }
        }
    }

    fn act(&mut self, index: usize) {
        match &mut self.processes[index] {
            Process::Classic(client) => client.act(&mut self.house),
            Process::Consumer(slow) => {
                let response = self.house.beat(slow.heartbeat());
                slow.hear(&response);
            }
        }
    }

    fn restart_process(&mut self, index: usize, leaves: bool, switches: bool) {
        let classic = matches!(self.processes[index], Process::Classic(_));
        if leaves {
            match &mut self.processes[index] {
                Process::Classic(client) => client.leave(&mut self.house),
                Process::Consumer(slow) => {
                    // A static member leaves for a while only.
                    let epoch = if slow.client.instance.is_some() { -2 } else { -1 };
                    let mut beat = Beat::of(&slow.client.id, epoch);
                    beat.request.instance_id = slow.client.instance.map(text);
                    self.house.beat(beat);
                }
            }
        }
        self.processes[index] = self.start(index, classic != switches);
    }

    fn group(&self) -> Option<&ConsumerGroup> {
        match self.house.shard.groups.get(&text(GROUP)) {
            Some(Group::Consumer(group)) => Some(group),
            _ => None,
        }
    }

    /// No partition has two members, and no member works on what it does not have.
    fn check(&self) {
        let Some(group) = self.group() else { return };
        let mut owners: BTreeMap<TopicIdPartition, &StrBytes> = BTreeMap::new();
        for (id, member) in group.members() {
            for partition in member.partitions() {
                let other = owners.insert(partition, id);
                assert_eq!(other, None, "{partition} is of {id} and of another");
            }
        }
        let known = group.owners().iter().map(|(partition, id)| (*partition, id));
        assert_eq!(known.collect::<BTreeMap<_, _>>(), owners);
        for process in &self.processes {
            let (id, has) = process.work();
            let Some(member) = group.members().get(&id) else { continue };
            let of_member: BTreeSet<_> = member.partitions().collect();
            for (topic, partition) in has {
                let partition = TopicIdPartition { topic_id: topic_id(topic), partition: *partition };
                assert!(of_member.contains(&partition), "{id} works on {partition}");
            }
        }
    }

    /// The log tells all that there is, compacted or not.
    fn check_log(&self) {
        let live = &self.house.shard.groups;
        for loaded in [self.house.replayed(), self.compacted()] {
            for (id, group) in live {
                match (group, loaded.groups.get(id)) {
                    (Group::Consumer(group), Some(Group::Consumer(copy))) => {
                        assert_eq!(copy.as_loaded(), group.as_loaded());
                    }
                    (Group::Classic(_), Some(Group::Classic(_)) | None) => {}
                    (group, copy) => panic!("{group:?} is {copy:?}"),
                }
            }
            assert!(loaded.groups.keys().all(|id| live.contains_key(id)));
        }
    }

    /// What is left of the log when it is compacted as far as it can be.
    fn compacted(&self) -> Shard {
        let records = &self.house.records;
        let last: BTreeMap<_, _> = records.iter().enumerate().map(|(at, record)| (&record.key, at)).collect();
        self.house
            .replayed_without(|at| last.get(&records[at].key) != Some(&at) || records[at].value.is_none())
    }

    /// Nothing goes wrong any more: soon all have what they shall have, and every partition is somebody's who wants it.
    fn settle(&mut self) {
        for _ in 0..200 {
            for index in 0..CLIENTS {
                self.run(&Op::Act(index));
                self.run(&Op::Apply(index));
                self.check();
            }
            self.run(&Op::Pass(500));
        }
        self.check_log();
        let mut given: BTreeMap<(String, i32), usize> = BTreeMap::new();
        let mut wanted = BTreeSet::new();
        for (index, process) in self.processes.iter().enumerate() {
            let topics = process.wants();
            for (topic, partition) in process.work().1 {
                let other = given.insert((topic.clone(), *partition), index);
                assert_eq!(other, None, "{topic}-{partition} is of {index} and of another");
                assert!(topics.contains(&topic.as_str()), "{index} does not want {topic}");
            }
            wanted.extend(topics);
        }
        let Some(group) = self.group() else { return };
        assert_eq!(group.state().name(), "Stable");
        assert_eq!(group.members().len(), CLIENTS);
        for (topic, count) in self.topics.iter().filter(|(topic, _)| wanted.contains(*topic)) {
            for partition in 0..*count {
                assert!(
                    given.contains_key(&(topic.to_string(), partition)),
                    "{topic}-{partition} is nobody's"
                );
            }
        }
    }
}

impl Slow {
    /// What it has it says only when that is what it was told to have: else what it is about to begin with would seem free.
    fn heartbeat(&self) -> Beat {
        let beat = self.client.heartbeat();
        if self.told.is_none() { beat } else { beat.with(|request| request.topic_partitions = None) }
    }

    fn hear(&mut self, response: &ConsumerGroupHeartbeatResponse) {
        let has = self.client.has.clone();
        let still_lost = self.client.lost && self.told.is_some();
        self.client.hear(response);
        self.client.lost = still_lost;
        if response.error_code != 0 {
            self.told = None;
        } else if let Some(told) = assigned(response) {
            self.told = Some(told);
            self.client.has = has;
        }
    }
}

impl Process {
    /// Its member id, and what it works on.
    fn work(&self) -> (StrBytes, &Owned) {
        match self {
            Process::Consumer(slow) => (text(&slow.client.id), &slow.client.has),
            Process::Classic(client) => (client.id.clone(), &client.has),
        }
    }

    fn apply(&mut self) {
        if let Process::Consumer(slow) = self
            && let Some(told) = slow.told.take()
        {
            slow.client.has = told;
        }
    }

    fn wants(&self) -> Vec<&'static str> {
        match self {
            Process::Classic(client) => vec![client.topic],
            Process::Consumer(slow) => {
                let regex = match slow.client.regex {
                    Some("t.*") => &["t", "tu"][..],
                    Some("u|tu") => &["u", "tu"],
                    _ => &[],
                };
                slow.client.topics.iter().chain(regex).copied().collect()
            }
        }
    }
}

impl Client {
    fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Topics(bits) => {
                let topics: Vec<_> = TOPICS
                    .into_iter()
                    .enumerate()
                    .filter(|(at, _)| (bits >> at) & 1 == 1)
                    .map(|(_, t)| t)
                    .collect();
                self.subscribe(&topics);
                self.regex = self.regex.map(|_| "");
            }
            Wish::Regex(regex) => {
                self.subscribe(&[]);
                self.regex = Some(regex);
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_members_do_partitions_have_one_owner_and_all_get_there(ops in ops()) {
        let mut model = Model::new();
        for (number, op) in ops.iter().enumerate() {
            model.run(op);
            model.check();
            if number % 8 == 0 {
                model.check_log();
            }
        }
        model.settle();
    }
}
