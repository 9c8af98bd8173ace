//! One run of the clients: each test of each client, one line and one count for it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use super::broker::Broker;
use super::install::Places;
use super::kcat::Kcat;
use super::process::Run;
use super::table::Client;
use super::tools::Tools;
use super::{PARTITIONS, RECORDS};
use crate::each::each;

/// Clients that wait for each other's members more than they work: so many of them at once.
pub const WAITING: usize = 4;
/// Clients that work.
const WORKING: usize = 2;

/// The topics have a prefix of their own, so that a server can see many runs.
pub struct Tests<'a> {
    pub places: &'a Places,
    bootstrap: String,
    pub prefix: String,
    /// For what programs leave on the disk.
    pub dir: PathBuf,
    pub clients: Vec<&'a Client>,
    pub kcat: Kcat,
    begun: Instant,
    passed: AtomicU32,
    /// Their lines.
    failed: Mutex<Vec<String>>,
}

impl<'a> Tests<'a> {
    pub fn new(
        places: &'a Places,
        bootstrap: &str,
        dir: PathBuf,
        clients: Vec<&'a Client>,
        begun: Instant,
    ) -> Result<Tests<'a>> {
        let prefix = format!("t{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
        let (bootstrap, kcat) = (bootstrap.to_owned(), Kcat::new(bootstrap, dir.clone()));
        let (passed, failed) = Default::default();
        Ok(Tests { places, bootstrap, prefix, dir, clients, kcat, begun, passed, failed })
    }

    /// What a fresh server sees, up to its first restart.
    pub fn first_life(&mut self) {
        self.write(0, RECORDS);
        self.read(RECORDS);
        self.group(0, RECORDS);
        self.transact(0, RECORDS);
        self.admin();
    }

    /// What needs members and brokers that die.
    pub fn disturb(&mut self, mut broker: Option<&mut Broker>, mixed: bool) {
        self.rebalance(broker.as_deref_mut());
        if mixed {
            self.mixed();
        }
        self.transform(broker.as_deref_mut());
        self.streams(broker);
    }

    /// One line, and one count, for each thing tried. What fails does not stop the others.
    pub fn report(&self, what: &str, who: &str, since: Instant, result: Result<String>) -> bool {
        let at = format!("[{:6.1} s] {what:8} {who:12}", self.begun.elapsed().as_secs_f64());
        let took = since.elapsed().as_secs_f64();
        match &result {
            Ok(said) => {
                println!("{at} ok {took:5.1} s  {said}");
                self.passed.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let line = format!("{at} FAILED {took:.1} s  {error:#}");
                println!("{line}");
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        }
        result.is_ok()
    }

    pub fn outcome(&self, what: &str, who: &str, act: impl FnOnce() -> Result<()>) -> bool {
        let since = Instant::now();
        let result = act();
        self.report(what, who, since, result.map(|()| String::new()))
    }

    fn topics(&self, client: &Client) -> Vec<String> {
        client.modes.iter().map(|mode| format!("{}.{}.{mode}", self.prefix, client.name)).collect()
    }

    /// The client's program with the arguments that all take.
    pub fn program(&self, client: &Client, command: &str, first: u32, records: u32) -> Result<Run> {
        self.program_of(client, command, PARTITIONS, first, records)
    }

    /// The same for topics with another number of partitions.
    pub fn program_of(
        &self,
        client: &Client,
        command: &str,
        partitions: u32,
        first: u32,
        records: u32,
    ) -> Result<Run> {
        let places = self.places;
        let program = match client.name {
            "java" => places.java("chronik.clients.Main"),
            "confluent" => places.python("confluent_client.py"),
            "aiokafka" => places.python("aiokafka_client.py"),
            "kafka-python" => places.python("kafka_python_client.py"),
            "franz-go" | "sarama" | "kafka-go" => places.go(client.name),
            "kafkajs" => places.node("kafkajs_client.js"),
            "krafka" => places.rust(),
            other => bail!("{other} has no program"),
        };
        let numbers = [("--partitions", partitions), ("--first", first), ("--records", records)];
        let numbers = numbers.map(|(name, number)| [name.to_owned(), number.to_string()]).concat();
        Ok(program.args([command, "--bootstrap", &self.bootstrap]).args(numbers))
    }

    /// Runs the client's program and returns what it says at its end.
    pub fn said(
        &self,
        client: &Client,
        command: &str,
        first: u32,
        records: u32,
        topics: &[String],
    ) -> Result<String> {
        Ok(self.program(client, command, first, records)?.args(topics).output()?.last_line())
    }

    /// Each client writes to topics of its own. One that fails takes no further part: nobody could read its topics.
    pub fn write(&mut self, first: u32, records: u32) {
        let mut fit = Vec::new();
        for client in self.clients.clone() {
            let since = Instant::now();
            let result = match client.name {
                "tools" => Ok(None),
                "kcat" => self.kcat_writes(client, first, records).map(Some),
                _ => self.said(client, "write", first, records, &self.topics(client)).map(Some),
            };
            match result {
                Ok(None) => fit.push(client),
                Ok(Some(said)) => {
                    self.report("write", client.name, since, Ok(said));
                    fit.push(client);
                }
                Err(error) => {
                    self.report("write", client.name, since, Err(error));
                }
            }
        }
        self.clients = fit;
    }

    /// Each client reads the topics of all, as far as it has the codec.
    pub fn read(&self, records: u32) {
        let readers: Vec<_> = self.clients.iter().copied().filter(|c| c.name != "tools").collect();
        each(WORKING, readers, |client| {
            let since = Instant::now();
            let others: Vec<_> = self.clients.iter().filter(|c| c.name != "kcat").collect();
            let readable: Vec<String> = others
                .iter()
                .flat_map(|writer| self.topics(writer))
                // Batches of idempotent producers are plain ones to a reader.
                .filter(|topic| client.modes.iter().chain(&["idempotent"]).any(|mode| topic.ends_with(mode)))
                .collect();
            let result = match client.name {
                "kcat" => self.kcat_reads(client, &readable, records),
                _ => self.said(client, "read", 0, records, &readable),
            };
            self.report("read", client.name, since, result);
        });
    }

    /// Each client's group goes on where it has come to, in the first of the client's topics, and must find `records` new
    /// ones there; another group by the new protocol (KIP-848) does the same.
    pub fn group(&self, first: u32, records: u32) {
        let of = |command| self.having(command).into_iter().map(move |client| (command, client));
        each(WAITING, of("consumer-group").chain(of("group")).collect(), |(command, client)| {
            let since = Instant::now();
            let Some(topic) = self.topics(client).into_iter().next() else { return };
            let result = match client.name {
                "kcat" => self
                    .kcat
                    .group(&topic, first, records)
                    .map(|()| format!("group: {records} records of 1 topics")),
                _ => self.said(client, command, first, records, &[topic]),
            };
            let what = if command == "group" { command } else { "group*" };
            self.report(what, client.name, since, result);
        });
    }

    /// Each client's transactional producer goes on where its last incarnation was cut short.
    pub fn transact(&self, first: u32, records: u32) {
        each(WORKING, self.having("transact"), |client| {
            let since = Instant::now();
            let topic = format!("{}.{}.transactions", self.prefix, client.name);
            let result = self.said(client, "transact", first, records, &[topic]);
            self.report("transact", client.name, since, result);
        });
    }

    fn admin(&self) {
        each(WORKING, self.having("admin"), |client| {
            let since = Instant::now();
            let topic = format!("{}.{}.admin", self.prefix, client.name);
            let result = match client.name {
                "tools" => Tools { places: self.places, bootstrap: &self.bootstrap, topic: &topic }.run(),
                _ => self.said(client, "admin", 0, 0, &[topic]),
            };
            self.report("admin", client.name, since, result);
        });
    }

    /// The clients whose programs have the command.
    pub fn having(&self, command: &str) -> Vec<&'a Client> {
        self.clients.iter().copied().filter(|client| client.has(command)).collect()
    }

    fn kcat_writes(&mut self, client: &Client, first: u32, records: u32) -> Result<String> {
        for (topic, mode) in self.topics(client).iter().zip(client.modes) {
            self.kcat.write(topic, mode, first, records)?;
        }
        Ok(format!(
            "write: {} records of {} topics",
            records as usize * client.modes.len(),
            client.modes.len()
        ))
    }

    fn kcat_reads(&self, client: &Client, others: &[String], records: u32) -> Result<String> {
        let own = self.topics(client);
        own.iter().try_for_each(|topic| self.kcat.read_own(topic, records))?;
        others.iter().try_for_each(|topic| self.kcat.read(topic, PARTITIONS, records))?;
        if let Some(topic) = others.first() {
            self.kcat.metadata_and_errors(topic, PARTITIONS)?;
        }
        let count = records as usize * (own.len() + others.len() * PARTITIONS as usize);
        Ok(format!("read: {count} records of {} topics", own.len() + others.len()))
    }

    pub fn conclude(self) -> Result<()> {
        let passed = self.passed.into_inner();
        let failed = self.failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        println!("clients: {passed} passed, {} failed", failed.len());
        anyhow::ensure!(failed.is_empty(), "not all clients passed:\n{}", failed.join("\n"));
        anyhow::ensure!(passed > 0, "nothing was tried");
        Ok(())
    }
}
