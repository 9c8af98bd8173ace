//! Kafka Streams counts words with `exactly_once_v2`, while it and the broker are killed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::broker::Broker;
use super::process::{Running, until};
use super::table::Client;
use super::tests::Tests;

const WITHIN: Duration = Duration::from_secs(90);
/// Written to each partition of the input at a time.
const LINES: u32 = 500;
/// What the program must have counted before it is disturbed: lines that it prints.
const SOME: usize = 10;

struct Counting<'t, 'a> {
    tests: &'t Tests<'a>,
    client: &'t Client,
    /// The input, and where the program keeps its state.
    args: [String; 2],
    written: u32,
}

impl Counting<'_, '_> {
    fn feed(&mut self) -> Result<()> {
        self.tests.said(self.client, "lines", self.written, LINES, &self.args[..1])?;
        self.written += LINES;
        Ok(())
    }

    fn start(&self) -> Result<Running> {
        self.tests.program(self.client, "streams", 0, 0)?.args(&self.args).start()
    }

    /// Feeds it, and waits until it has counted some of that.
    fn go_on(&mut self, program: &mut Running) -> Result<()> {
        program.new_lines()?;
        self.feed()?;
        let mut counted = 0;
        until("words are counted", WITHIN, || {
            counted += program.new_lines()?.iter().filter(|line| line.starts_with("counted ")).count();
            Ok(counted >= SOME)
        })
    }

    /// Waits for the right counts: exactly these, and no step on the way that is out of order.
    fn check(&self) -> Result<String> {
        self.tests.said(self.client, "counts", 0, self.written, &self.args[..1])
    }
}

impl Tests<'_> {
    pub fn streams(&mut self, mut broker: Option<&mut Broker>) {
        for client in self.having("streams") {
            let since = Instant::now();
            let result = self.streams_of(client, broker.as_deref_mut());
            self.report("streams", client.name, since, result);
        }
    }

    fn streams_of(&self, client: &Client, broker: Option<&mut Broker>) -> Result<String> {
        let input = format!("{}.{}.lines", self.prefix, client.name);
        let state = self.dir.join("streams").to_string_lossy().into_owned();
        let mut counting = Counting { tests: self, client, args: [input, state], written: 0 };
        counting.feed()?;
        let mut program = counting.start()?;
        counting.go_on(&mut program).context("at first")?;
        program.kill()?;
        program = counting.start()?;
        counting.go_on(&mut program).context("after its own death")?;
        if let Some(broker) = broker {
            broker.kill()?;
            broker.start_again()?;
            counting.go_on(&mut program).context("after the broker's death")?;
            broker.kill()?;
            program.kill()?;
            broker.start_again()?;
            program = counting.start()?;
            counting.go_on(&mut program).context("after the death of both")?;
        }
        counting.check()?;
        program.stop()?;
        // Its end writes nothing that was not there.
        counting.check()
    }
}
