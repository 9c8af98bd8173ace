//! `cargo xtask clients`: Kafka's own clients against the broker, before and after its restarts.
//!
//! The programs, their command line and the records they write are described in `broker/tests/clients/README.md`.

mod broker;
mod install;
mod kcat;
pub mod process;
mod records;
mod tools;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;

use broker::Broker;
use install::Places;
use kcat::Kcat;
use process::Run;
use tools::Tools;

#[derive(clap::Args, Default)]
pub struct Args {
    /// Only these clients; all by default.
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(CLIENTS.map(|client| client.name)))]
    names: Vec<String>,
    /// A server that already runs. It is not restarted, and the topics stay there.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap: Option<String>,
    /// The broker to start; by default the one of the ci profile, which is built first.
    #[arg(long, value_name = "FILE", conflicts_with = "bootstrap")]
    broker_bin: Option<PathBuf>,
}

/// How a topic's records are written: the last part of its name.
type Mode = &'static str;

const ALL: &[Mode] = &["plain", "idempotent", "gzip", "snappy", "lz4", "zstd"];
/// Of a client whose other codecs would be packages of their own.
const WITHOUT_NATIVE: &[Mode] = &["plain", "idempotent", "gzip"];

struct Client {
    name: &'static str,
    /// What is to be installed for it.
    language: &'static str,
    /// Ways in which it writes, and which it can read.
    modes: &'static [Mode],
    /// Its program has the command `admin`.
    has_admin: bool,
    /// Its program has the command `transact`.
    transacts: bool,
}

const CLIENTS: [Client; 8] = [
    Client { name: "java", language: "java", modes: ALL, has_admin: true, transacts: true },
    Client { name: "confluent", language: "python", modes: ALL, has_admin: false, transacts: true },
    Client {
        name: "aiokafka",
        language: "python",
        modes: WITHOUT_NATIVE,
        has_admin: false,
        transacts: false,
    },
    Client {
        name: "kafka-python",
        language: "python",
        modes: WITHOUT_NATIVE,
        has_admin: false,
        transacts: false,
    },
    Client { name: "franz-go", language: "go", modes: ALL, has_admin: false, transacts: false },
    Client { name: "kafkajs", language: "node", modes: WITHOUT_NATIVE, has_admin: true, transacts: false },
    Client { name: "kcat", language: "kcat", modes: ALL, has_admin: false, transacts: false },
    // Apache Kafka's command line tools: no program of ours, see `tools`.
    Client { name: "tools", language: "java", modes: &[], has_admin: false, transacts: false },
];

const PARTITIONS: u32 = 3;
/// Of each partition of each topic, before the first restart.
const RECORDS: u32 = 60;
/// Appended after it.
const MORE_RECORDS: u32 = 30;

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let target = std::path::absolute(crate::target_dir(root))?;
    let chosen: Vec<&Client> =
        CLIENTS.iter().filter(|c| args.names.is_empty() || args.names.iter().any(|n| n == c.name)).collect();
    let places = Places::new(root, &target);
    let begun = Instant::now();
    install(&places, &chosen)?;

    let dir = target.join("clients/run");
    let mut tests;
    if let Some(bootstrap) = &args.bootstrap {
        std::fs::create_dir_all(&dir)?;
        tests = Tests::new(&places, bootstrap, dir, chosen, begun)?;
        tests.first_life();
    } else {
        let bin = match &args.broker_bin {
            Some(bin) => bin.clone(),
            None => build_broker(root, &target)?,
        };
        let mut broker = Broker::start(&bin, &dir)?;
        println!("{} serves {}, its data in {}", bin.display(), broker.bootstrap(), dir.display());
        tests = Tests::new(&places, &broker.bootstrap(), dir, chosen, begun)?;
        tests.first_life();
        if tests.outcome("stop", "SIGTERM", || broker.stop())
            && tests.outcome("start", "", || broker.start_again())
        {
            tests.read(RECORDS);
            tests.group(RECORDS, 0);
            tests.transact(RECORDS, MORE_RECORDS);
            // To the same topics, by new producers: offsets go on, and no old producer id is in the way.
            tests.write(RECORDS, MORE_RECORDS);
            tests.group(RECORDS, MORE_RECORDS);
            tests.outcome("kill", "SIGKILL", || broker.kill());
            tests.outcome("start", "", || broker.start_again());
            tests.read(RECORDS + MORE_RECORDS);
            tests.group(RECORDS + MORE_RECORDS, 0);
            tests.transact(RECORDS + MORE_RECORDS, MORE_RECORDS);
            tests.outcome("stop", "SIGTERM", || broker.stop());
        }
    }
    tests.conclude()
}

/// All languages at once: they wait for different registries.
fn install(places: &Places, chosen: &[&Client]) -> Result<()> {
    let languages: BTreeSet<_> = chosen.iter().map(|client| client.language).collect();
    std::thread::scope(|scope| {
        let installing: Vec<_> = languages
            .into_iter()
            .map(|language| {
                scope.spawn(move || {
                    let begun = Instant::now();
                    let installed = places.install(language)?;
                    let what = if installed { "installed" } else { "is installed" };
                    println!("{language} {what} ({:.1} s)", begun.elapsed().as_secs_f64());
                    anyhow::Ok(())
                })
            })
            .collect();
        installing
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("installing panicked")))
    })
}

/// Builds `chronik` as tests use it.
///
/// # Errors
/// The build's.
pub fn build_broker(root: &Path, target: &Path) -> Result<PathBuf> {
    build(root, target, "chronik-broker", "chronik")
}

/// Builds a package; where its program is.
///
/// # Errors
/// The build's.
pub fn build(root: &Path, target: &Path, package: &str, program: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = std::process::Command::new(cargo)
        .args(["build", "--profile", "ci", "-p", package])
        .current_dir(root)
        .status()
        .context("cannot start cargo")?;
    anyhow::ensure!(done.success(), "{package} does not build");
    Ok(target.join("ci").join(program))
}

/// One run of the clients: the topics have a prefix of their own, so that a server can see many runs.
struct Tests<'a> {
    places: &'a Places,
    bootstrap: String,
    prefix: String,
    clients: Vec<&'a Client>,
    kcat: Kcat,
    begun: Instant,
    passed: u32,
    failed: u32,
}

impl<'a> Tests<'a> {
    fn new(
        places: &'a Places,
        bootstrap: &str,
        dir: PathBuf,
        clients: Vec<&'a Client>,
        begun: Instant,
    ) -> Result<Tests<'a>> {
        let prefix = format!("t{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
        let (bootstrap, kcat) = (bootstrap.to_owned(), Kcat::new(bootstrap, dir));
        Ok(Tests { places, bootstrap, prefix, clients, kcat, begun, passed: 0, failed: 0 })
    }

    /// What a fresh server sees, up to its first restart.
    fn first_life(&mut self) {
        self.write(0, RECORDS);
        self.read(RECORDS);
        self.group(0, RECORDS);
        self.transact(0, RECORDS);
        self.admin();
    }

    /// One line, and one count, for each thing tried. What fails does not stop the others.
    fn report(&mut self, what: &str, who: &str, since: Instant, result: Result<String>) -> bool {
        let at = format!("[{:6.1} s] {what:8} {who:12}", self.begun.elapsed().as_secs_f64());
        let took = since.elapsed().as_secs_f64();
        match &result {
            Ok(said) => println!("{at} ok {took:5.1} s  {said}"),
            Err(error) => println!("{at} FAILED {took:.1} s  {error:#}"),
        }
        *(if result.is_ok() { &mut self.passed } else { &mut self.failed }) += 1;
        result.is_ok()
    }

    fn outcome(&mut self, what: &str, who: &str, act: impl FnOnce() -> Result<()>) -> bool {
        let since = Instant::now();
        let result = act();
        self.report(what, who, since, result.map(|()| String::new()))
    }

    fn topics(&self, client: &Client) -> Vec<String> {
        client.modes.iter().map(|mode| format!("{}.{}.{mode}", self.prefix, client.name)).collect()
    }

    /// The client's program with the arguments that all take.
    fn program(&self, client: &Client, command: &str, first: u32, records: u32) -> Result<Run> {
        let places = self.places;
        let program = match client.name {
            "java" => places.java("chronik.clients.Main"),
            "confluent" => places.python("confluent_client.py"),
            "aiokafka" => places.python("aiokafka_client.py"),
            "kafka-python" => places.python("kafka_python_client.py"),
            "franz-go" => places.go(),
            "kafkajs" => places.node("kafkajs_client.js"),
            other => bail!("{other} has no program"),
        };
        let numbers = [("--partitions", PARTITIONS), ("--first", first), ("--records", records)];
        let numbers = numbers.map(|(name, number)| [name.to_owned(), number.to_string()]).concat();
        Ok(program.args([command, "--bootstrap", &self.bootstrap]).args(numbers))
    }

    /// Each client writes to topics of its own. One that fails takes no further part: nobody could read its topics.
    fn write(&mut self, first: u32, records: u32) {
        let mut fit = Vec::new();
        for client in self.clients.clone() {
            let since = Instant::now();
            let result = match client.name {
                "tools" => Ok(None),
                "kcat" => self.kcat_writes(client, first, records).map(Some),
                _ => self
                    .program(client, "write", first, records)
                    .and_then(|program| program.args(self.topics(client)).output())
                    .map(|output| Some(output.last_line())),
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
    fn read(&mut self, records: u32) {
        for client in self.clients.clone() {
            let since = Instant::now();
            let others: Vec<_> = self.clients.iter().filter(|c| c.name != "kcat").collect();
            let readable: Vec<String> = others
                .iter()
                .flat_map(|writer| self.topics(writer))
                .filter(|topic| client.modes.iter().any(|mode| topic.ends_with(mode)))
                .collect();
            let result = match client.name {
                "tools" => continue,
                "kcat" => self.kcat_reads(client, &readable, records),
                _ => self
                    .program(client, "read", 0, records)
                    .and_then(|program| program.args(readable).output())
                    .map(|output| output.last_line()),
            };
            self.report("read", client.name, since, result);
        }
    }

    /// Each client's group goes on where it has come to, in the first of the client's topics, and must find `records` new
    /// ones there.
    fn group(&mut self, first: u32, records: u32) {
        for client in self.clients.clone() {
            let since = Instant::now();
            let Some(topic) = self.topics(client).into_iter().next() else { continue };
            let result = match client.name {
                "kcat" => self
                    .kcat
                    .group(&topic, first, records)
                    .map(|()| format!("group: {records} records of 1 topics")),
                _ => self
                    .program(client, "group", first, records)
                    .and_then(|program| program.args([topic]).output())
                    .map(|output| output.last_line()),
            };
            self.report("group", client.name, since, result);
        }
    }

    /// Each client's transactional producer goes on where its last incarnation was cut short.
    fn transact(&mut self, first: u32, records: u32) {
        for client in self.clients.clone().into_iter().filter(|client| client.transacts) {
            let since = Instant::now();
            let topic = format!("{}.{}.transactions", self.prefix, client.name);
            let result = self
                .program(client, "transact", first, records)
                .and_then(|program| program.args([topic]).output())
                .map(|output| output.last_line());
            self.report("transact", client.name, since, result);
        }
    }

    fn admin(&mut self) {
        for client in self.clients.clone() {
            let since = Instant::now();
            let topic = format!("{}.{}.admin", self.prefix, client.name);
            let result = if client.name == "tools" {
                Tools { places: self.places, bootstrap: &self.bootstrap, topic: &topic }.run()
            } else if client.has_admin {
                self.program(client, "admin", 0, 0)
                    .and_then(|program| program.args([&topic]).output())
                    .map(|output| output.last_line())
            } else {
                continue;
            };
            self.report("admin", client.name, since, result);
        }
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

    fn conclude(self) -> Result<()> {
        println!("clients: {} passed, {} failed", self.passed, self.failed);
        anyhow::ensure!(self.failed == 0 && self.passed > 0, "not all clients passed");
        Ok(())
    }
}
