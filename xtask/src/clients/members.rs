//! Groups whose members join, leave and die: each partition has always one owner in the end, and no record is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::broker::Broker;
use super::process::{Running, until};
use super::table::Client;
use super::tests::{Tests, WAITING};
use super::{MORE_RECORDS, PARTITIONS, RECORDS};
use crate::each::each;

/// A dead member's partitions wait for its session's end, after 6 s; then comes a rebalance, for which slow clients take
/// their time.
const WITHIN: Duration = Duration::from_secs(60);
/// Of the topic that members of different clients share.
const MANY_PARTITIONS: u32 = 12;

struct Member {
    client: &'static str,
    program: Running,
    assigned: BTreeSet<u32>,
}

/// The members of one group, and what they said.
struct Group<'t, 'a> {
    tests: &'t Tests<'a>,
    topic: String,
    id: String,
    partitions: u32,
    /// To each partition.
    written: u32,
    members: Vec<Member>,
    /// How often each record was taken, by partition and offset.
    taken: BTreeMap<(u32, u32), u32>,
}

impl<'t, 'a> Group<'t, 'a> {
    /// `how`: `range`, or `own` for the client's default assignor.
    fn new(tests: &'t Tests<'a>, who: &str, how: &str, partitions: u32) -> Group<'t, 'a> {
        let topic = format!("{}.{who}.members.plain", tests.prefix);
        let id = format!("{topic}.{how}");
        Group { tests, topic, id, partitions, written: 0, members: Vec::new(), taken: BTreeMap::new() }
    }

    fn write(&mut self, by: &Client, records: u32) -> Result<()> {
        let program = self.tests.program_of(by, "write", self.partitions, self.written, records)?;
        program.args([&self.topic]).output()?;
        self.written += records;
        Ok(())
    }

    fn join(&mut self, client: &Client) -> Result<()> {
        let program = if client.name == "kcat" {
            self.tests.kcat.member(&self.topic, &self.id)
        } else {
            let program = self.tests.program_of(client, "member", self.partitions, 0, 0)?;
            program.args([&self.topic, &self.id])
        };
        let program = program.limit(WITHIN).start()?;
        self.members.push(Member { client: client.name, program, assigned: BTreeSet::new() });
        Ok(())
    }

    fn leave(&mut self, index: usize) -> Result<()> {
        self.end(index, Running::stop)
    }

    fn die(&mut self, index: usize) -> Result<()> {
        self.end(index, Running::kill)
    }

    fn end(&mut self, index: usize, end: fn(&mut Running) -> Result<Vec<String>>) -> Result<()> {
        let mut member = self.members.remove(index);
        let lines = end(&mut member.program)?;
        lines.iter().for_each(|line| heard(line, &mut member, &mut self.taken));
        Ok(())
    }

    fn listen(&mut self) -> Result<()> {
        for member in &mut self.members {
            let lines = member.program.new_lines().with_context(|| member.client.to_owned())?;
            lines.iter().for_each(|line| heard(line, member, &mut self.taken));
        }
        Ok(())
    }

    /// Waits until the members share all partitions, each with one at least.
    fn settle(&mut self, when: &str) -> Result<()> {
        let all: BTreeSet<_> = (0..self.partitions).collect();
        let settled = until(when, WITHIN, || {
            self.listen()?;
            let shares = self.members.iter().map(|member| &member.assigned);
            let count: usize = shares.clone().map(|share| share.len()).sum();
            let union: BTreeSet<_> = shares.clone().flatten().copied().collect();
            Ok(union == all && count == all.len() && shares.clone().all(|share| !share.is_empty()))
        });
        settled.with_context(|| {
            let shares: Vec<_> = self.members.iter().map(|m| (m.client, &m.assigned)).collect();
            format!("{} is shared as {shares:?}", self.topic)
        })
    }

    /// Waits until all that was written was taken by some member.
    fn take_all(&mut self, when: &str) -> Result<()> {
        let wanted = self.partitions as usize * self.written as usize;
        let complete = until(when, WITHIN, || {
            self.listen()?;
            Ok(self.taken.len() >= wanted)
        });
        complete
            .with_context(|| format!("{}: {} of {wanted} records taken", self.topic, self.taken.len()))?;
        let beyond = self.taken.keys().find(|(_, offset)| *offset >= self.written);
        ensure!(beyond.is_none(), "{}: a record at {beyond:?}", self.topic);
        Ok(())
    }

    fn conclude(mut self) -> Result<String> {
        while !self.members.is_empty() {
            self.leave(0)?;
        }
        let twice = self.taken.values().filter(|&&times| times > 1).count();
        Ok(format!("member: {} records, {twice} of them more than once", self.taken.len()))
    }
}

/// A line of a member's: `assigned P P ...`, `took P OFFSET`, or what kcat says instead of the first.
fn heard(line: &str, member: &mut Member, taken: &mut BTreeMap<(u32, u32), u32>) {
    if let Some(partitions) = line.strip_prefix("assigned") {
        member.assigned = numbers(partitions);
    } else if let Some((partition, offset)) = line.strip_prefix("took ").and_then(|at| at.split_once(' ')) {
        if let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse()) {
            *taken.entry((partition, offset)).or_default() += 1;
        }
    } else if let Some((_, partitions)) = line.split_once("): assigned: ") {
        // TOPIC [P], TOPIC [P]
        let brackets = partitions.split('[').skip(1).filter_map(|rest| rest.split(']').next());
        member.assigned = brackets.filter_map(|partition| partition.parse().ok()).collect();
    } else if line.contains("): revoked: ") {
        member.assigned.clear();
    }
}

fn numbers(text: &str) -> BTreeSet<u32> {
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// After the broker's death: they go on, and one after another leaves or dies.
fn go_on_and_part(client: &Client, mut group: Group<'_, '_>) -> Result<String> {
    group.write(client, MORE_RECORDS)?;
    group.take_all("after the broker's death they go on")?;
    group.settle("after the broker's death they share")?;
    group.leave(1)?;
    group.settle("one member has left")?;
    group.die(1)?;
    group.settle("one member has died")?;
    group.write(client, MORE_RECORDS)?;
    group.take_all("the last member takes all")?;
    group.conclude()
}

impl Tests<'_> {
    /// Each client's members among themselves, with its own assignor. A living group outlives the broker.
    pub fn rebalance(&self, broker: Option<&mut Broker>) {
        let clients: Vec<_> = self.having("member").into_iter().filter(|c| c.name != "kcat").collect();
        let groups = Mutex::new(Vec::new());
        each(WAITING, clients, |client| {
            let since = Instant::now();
            match self.gather(client) {
                Ok(group) => {
                    groups.lock().unwrap_or_else(PoisonError::into_inner).push((client, since, group))
                }
                Err(error) => {
                    self.report("member", client.name, since, Err(error));
                }
            }
        });
        let groups = groups.into_inner().unwrap_or_else(PoisonError::into_inner);
        let outlived = broker.is_none_or(|broker| {
            self.outcome("kill", "SIGKILL", || broker.kill())
                && self.outcome("start", "", || broker.start_again())
        });
        // All are alive: whoever waits would lose members.
        each(groups.len(), groups, |(client, since, group)| {
            let result = if outlived {
                go_on_and_part(client, group)
            } else {
                Err(anyhow!("there is no broker any more"))
            };
            self.report("member", client.name, since, result);
        });
    }

    /// A group of three, with their records taken.
    fn gather(&self, client: &Client) -> Result<Group<'_, '_>> {
        let mut group = Group::new(self, client.name, "own", PARTITIONS);
        group.write(client, RECORDS)?;
        group.join(client)?;
        group.settle("the first member has all")?;
        group.join(client)?;
        group.join(client)?;
        group.settle("three members share")?;
        group.write(client, MORE_RECORDS)?;
        group.take_all("three members take all")?;
        Ok(group)
    }

    /// One group with a member of each client. Whichever leads assigns for all.
    pub fn mixed(&self) {
        let members: Vec<_> = self.having("member").into_iter().filter(|c| c.mixes).collect();
        let Some(&writer) = members.iter().find(|client| client.name != "kcat") else { return };
        if members.len() > 1 {
            let since = Instant::now();
            let result = self.mixed_of(writer, &members);
            self.report("member", "all in one", since, result);
        }
    }

    fn mixed_of(&self, writer: &Client, members: &[&Client]) -> Result<String> {
        let mut group = Group::new(self, "mixed", "range", MANY_PARTITIONS);
        group.write(writer, RECORDS)?;
        for client in members {
            group.join(client)?;
        }
        group.settle("a member of each client")?;
        group.take_all("a member of each client takes its share")?;
        group.die(0)?;
        group.settle("one member has died")?;
        // From the last on, so that the ones before keep their place.
        for index in (0..group.members.len()).rev().filter(|index| index % 2 == 1) {
            group.leave(index)?;
        }
        group.settle("every second member has left")?;
        group.write(writer, MORE_RECORDS)?;
        group.take_all("those that are left take all")?;
        group.conclude()
    }
}
