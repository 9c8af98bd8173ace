//! Two programs that consume, transform and produce in transactions as members of one group, while they and the broker
//! are killed: each record of the input is in the output once, and the group's offsets say so.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::PARTITIONS;
use super::broker::Broker;
use super::process::{Running, until};
use super::table::Client;
use super::tests::Tests;

/// A killed member's session, its transaction's timeout, and a rebalance.
const WITHIN: Duration = Duration::from_secs(90);
/// Appended to each partition of the input before each disturbance. Far more than a few transactions take.
const CHUNK: u32 = 300;
/// Transactions between which a disturbance must come.
const TRANSACTIONS: u32 = 7;

/// What happens to the programs, by index, and the broker.
#[derive(Clone, Copy)]
enum Disturbance {
    KillClient(usize),
    KillBroker,
    /// Until the other one has taken over: what is under way must not be committed afterwards.
    PauseClient(usize),
    KillBoth(usize),
}

use Disturbance::{KillBoth, KillBroker, KillClient, PauseClient};

/// Each with the time after a commit, in milliseconds, that places it amid another transaction, or nearly so.
const DISTURBANCES: [(Disturbance, u64); 6] = [
    (KillClient(0), 3),
    (KillBroker, 1),
    (PauseClient(1), 6),
    (KillBroker, 9),
    (KillClient(1), 0),
    (KillBoth(0), 4),
];

struct Flow<'t, 'a> {
    tests: &'t Tests<'a>,
    client: &'t Client,
    /// Input and output.
    topics: [String; 2],
    programs: Vec<Running>,
    /// Written to each partition of the input.
    written: u32,
    /// The offset that is committed in each partition of the input.
    committed: Vec<u32>,
    transactions: u32,
}

impl Flow<'_, '_> {
    fn feed(&mut self) -> Result<()> {
        self.tests.said(self.client, "write", self.written, CHUNK, &self.topics[..1])?;
        self.written += CHUNK;
        Ok(())
    }

    fn start(&self, index: usize) -> Result<Running> {
        let id = index.to_string();
        self.tests.program(self.client, "transform", 0, 0)?.args(&self.topics).args([id]).start()
    }

    /// `committed P OFFSET P OFFSET ...`, after each transaction.
    fn hear(&mut self, lines: &[String]) {
        for line in lines {
            let Some(pairs) = line.strip_prefix("committed ") else { continue };
            let numbers: Vec<u32> = pairs.split(' ').filter_map(|number| number.parse().ok()).collect();
            for pair in numbers.chunks_exact(2) {
                if let Some(offset) = self.committed.get_mut(pair[0] as usize) {
                    *offset = pair[1].max(*offset);
                }
            }
            self.transactions += 1;
        }
    }

    fn listen(&mut self) -> Result<()> {
        for index in 0..self.programs.len() {
            let lines = self.programs[index].new_lines()?;
            self.hear(&lines);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.committed.iter().all(|&offset| offset == self.written)
    }

    /// Waits for some transactions, or for the end of the input.
    fn go_on(&mut self, transactions: u32) -> Result<()> {
        let wanted = self.transactions.saturating_add(transactions);
        let gone_on = until("transactions", WITHIN, || {
            self.listen()?;
            Ok(self.transactions >= wanted || self.is_complete())
        });
        gone_on.with_context(|| format!("{:?} of {} committed", self.committed, self.written))
    }

    fn replace(&mut self, index: usize) -> Result<()> {
        let lines = self.programs[index].kill()?;
        self.hear(&lines);
        self.programs[index] = self.start(index)?;
        Ok(())
    }

    fn disturb(&mut self, how: Disturbance, broker: Option<&mut Broker>) -> Result<()> {
        match (how, broker) {
            (KillClient(index), _) | (KillBoth(index), None) => self.replace(index)?,
            (PauseClient(index), _) => {
                self.programs[index].signal(Signal::STOP)?;
                self.go_on(u32::MAX).context("one program is paused")?;
                self.programs[index].signal(Signal::CONT)?;
            }
            (KillBroker, Some(broker)) => {
                broker.kill()?;
                broker.start_again()?;
            }
            (KillBoth(index), Some(broker)) => {
                broker.kill()?;
                self.replace(index)?;
                broker.start_again()?;
            }
            (KillBroker, None) => {}
        }
        Ok(())
    }
}

impl Tests<'_> {
    /// The loops of all clients that have one, each verified by all that can.
    pub fn transform(&mut self, mut broker: Option<&mut Broker>) {
        for client in self.having("transform") {
            let since = Instant::now();
            let result = self.transform_of(client, broker.as_deref_mut());
            self.report("transform", client.name, since, result);
        }
    }

    fn transform_of(&self, client: &Client, mut broker: Option<&mut Broker>) -> Result<String> {
        let topics = ["in", "out"].map(|which| format!("{}.{}.{which}.idempotent", self.prefix, client.name));
        let committed = vec![0; PARTITIONS as usize];
        let mut flow = Flow {
            tests: self,
            client,
            topics,
            programs: Vec::new(),
            written: 0,
            committed,
            transactions: 0,
        };
        flow.feed()?;
        self.said(client, "write", 0, 0, &flow.topics[1..])?;
        for index in 0..2 {
            flow.programs.push(flow.start(index)?);
        }
        flow.go_on(u32::MAX)?;
        for (how, after_ms) in DISTURBANCES {
            if client.transforms_briefly && !matches!(how, KillBroker) {
                continue;
            }
            flow.feed()?;
            flow.go_on(TRANSACTIONS)?;
            std::thread::sleep(Duration::from_millis(after_ms));
            flow.disturb(how, broker.as_deref_mut())?;
        }
        flow.feed()?;
        flow.go_on(u32::MAX)?;
        for program in &mut flow.programs {
            program.stop()?;
        }
        for verifier in self.having("verify") {
            let verified = self.said(verifier, "verify", 0, flow.written, &flow.topics);
            verified.with_context(|| format!("as {} reads it", verifier.name))?;
        }
        let (records, transactions) = (flow.written * PARTITIONS, flow.transactions);
        Ok(format!("transform: {records} records, each once, in {transactions} transactions and more"))
    }
}
