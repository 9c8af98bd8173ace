//! `chronik bench`: a load generator for any Kafka-protocol broker, with reading back, and
//! `chronik bench floor`, the yardstick beside it.

mod compare;
mod endurance;
mod engine;
mod floor;
mod frame;
mod ledger;
mod payload;
mod plan;
mod producer;
mod report;
mod response;
mod stats;
mod verify;
mod wire;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use chronik_client::{Acks, Client, NewTopic};
use clap::{Args, Subcommand};

pub use engine::{Engine, Load, Outcome};
pub use floor::{Flush, refuse_memory};
pub use plan::{Plan, Target};
pub use report::{FloorGroups, Latency, Report, grouped};
pub use verify::Verification;

use crate::cli::{Server, key_value, runtime};

/// Put load on a broker and measure what it acknowledges
///
/// Every producer is a connection of its own that sends its next request when an answer arrives.
/// With --verify all records are read back and held against what was acknowledged, offset by
/// offset and byte by byte.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    load: LoadArgs,
    /// Topic to produce to; made if it is not there [default: a new one, deleted afterwards]
    #[arg(long, short)]
    topic: Option<String>,
    /// Partitions of a new topic [default: the broker's]
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Replicas of a new topic [default: the broker's]
    #[arg(long, value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// WAL profile of a new topic (Chronik only: sets chronik.wal.profile)
    #[arg(long, value_name = "NAME")]
    wal_profile: Option<String>,
    /// A setting of a new topic; may be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value)]
    topic_config: Vec<(String, String)>,
    /// What a producer waits for: 0 nothing, 1 the leader, all the replicas in sync
    #[arg(long, default_value = "1")]
    acks: Acks,
    /// Use idempotent producers, which send again what has no answer (acks is all)
    #[arg(long)]
    idempotent: bool,
    /// Read everything back afterwards and compare
    #[arg(long)]
    verify: bool,
    /// Keep the topic even when it was made for this run
    #[arg(long)]
    keep_topic: bool,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Measure what this machine can do at best: receive, write, flush, answer
    Floor(FloorArgs),
    /// Load 1,000 partitions for long, with retention and compaction, and check every record
    Endurance(endurance::EnduranceArgs),
    /// Send the same keyed records to two brokers and compare what compaction leaves of them
    Compare(compare::CompareArgs),
}

/// Options of the floor.
#[derive(Debug, Args)]
pub struct FloorArgs {
    /// Directory for its 256 MiB file; the disk to be measured
    #[arg(long)]
    dir: PathBuf,
    /// How a write is made durable
    #[arg(long, value_enum, default_value = "dsync")]
    flush: Flush,
    /// Run the server alone, until standard input ends
    #[arg(long, hide = true)]
    serve: bool,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// Producers, each with a connection of its own
    #[arg(long, default_value = "128", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    producers: u32,
    /// Requests a producer may have under way
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    in_flight: u32,
    /// Bytes of each record's value
    #[arg(long, default_value = "256", value_parser = clap::value_parser!(u32).range(28..=16_777_216))]
    record_bytes: u32,
    /// Records in each request
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    records_per_batch: u32,
    /// Records per second, sent at even intervals whether answers come or not; latency then
    /// counts from when a record was due [default: as fast as answers come]
    #[arg(long, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Seconds of load that are measured
    #[arg(long, default_value = "10", value_parser = seconds)]
    duration: Duration,
    /// Seconds of load before that
    #[arg(long, default_value = "3", value_parser = seconds)]
    warmup: Duration,
    /// Seed of the records' bytes [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Write the result as JSON to this file, or to standard output with -
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No progress lines
    #[arg(long, short)]
    quiet: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| duration.as_secs() <= 86_400)
        .ok_or_else(|| "between 0 and 86400 seconds".to_owned())
}

/// How long a broker that is away after the load is waited for, before the reading back.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// The most a request's records may have together, in bytes.
const BATCH_BYTES_MAX: u64 = 32 << 20;

impl LoadArgs {
    fn load(&self, acks: Acks, keep_ledger: bool) -> Result<Load> {
        let batch_bytes = u64::from(self.record_bytes) * u64::from(self.records_per_batch);
        ensure!(
            batch_bytes <= BATCH_BYTES_MAX,
            "--record-bytes times --records-per-batch is {batch_bytes}, more than {BATCH_BYTES_MAX}"
        );
        ensure!(!self.duration.is_zero(), "--duration is zero");
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Load {
            producers: self.producers,
            in_flight: self.in_flight,
            record_bytes: self.record_bytes as usize,
            records_per_batch: self.records_per_batch,
            acks,
            warmup: self.warmup,
            duration: self.duration,
            rate: self.rate,
            seed: self.seed.unwrap_or(clock.as_nanos() as u64),
            keep_ledger,
        })
    }

    fn run(&self, plan: &Plan, load: &Load) -> Result<Outcome> {
        let quiet = self.quiet;
        Engine::new(plan, load)?.run(|second| {
            if !quiet {
                eprintln!("{}", report::progress(second));
            }
        })
    }

    fn publish(&self, report: &Report) -> Result<()> {
        let json = || serde_json::to_string_pretty(report);
        match &self.json {
            None => println!("{report}"),
            Some(path) if path.as_os_str() == "-" => {
                // Standard output is for the reader of JSON; the table goes beside it.
                if !self.quiet {
                    eprintln!("{report}");
                }
                println!("{}", json()?);
            }
            Some(path) => {
                println!("{report}");
                std::fs::write(path, json()? + "\n")
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Runs `chronik bench`. Not to be called inside an async runtime: it brings its own.
///
/// # Errors
/// In words for the user: a server that cannot be reached, a refusal by Kafka's name, a run in
/// which nothing was acknowledged, records that were acknowledged and are not there.
pub fn run(args: BenchArgs) -> Result<()> {
    allow_open_files();
    match &args.command {
        Some(BenchCommand::Floor(floor)) => run_floor(floor),
        Some(BenchCommand::Endurance(endurance)) => endurance::run(endurance),
        Some(BenchCommand::Compare(compare)) => compare::run(compare),
        None => run_broker(&args),
    }
}

/// Raises the soft limit of open files to the hard one: a producer takes one, and the usual 1,024
/// are soon gone. Where that is not allowed, connecting will say so.
fn allow_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn run_broker(args: &BenchArgs) -> Result<()> {
    ensure!(
        !(args.idempotent && args.acks == Acks::None),
        "--idempotent waits for all replicas in sync: it cannot go with --acks 0"
    );
    let acks = if args.idempotent { Acks::All } else { args.acks };
    let load = args.load.load(acks, args.verify)?;
    let runtime = runtime()?;
    let mut client = runtime.block_on(args.server.connect())?;
    let topic = args.new_topic(load.seed);
    let identities = args.idempotent.then_some(load.producers as usize);
    let plan = runtime.block_on(plan::prepare(&mut client, &topic, identities))?;
    let outcome = args.load.run(&plan, &load)?;
    let mut report = Report::new("broker", &args.server.bootstrap, &load, &outcome);
    report.topic.clone_from(&plan.topic);
    report.produce_version = plan.version;
    report.partitions = plan.targets.len();
    report.idempotent = args.idempotent;
    let acknowledged = outcome.stats.requests_all;
    let mut unread = None;
    if args.verify {
        match runtime.block_on(args.verify(outcome, &load, &plan)) {
            Ok(verification) => report.verification = Some(verification),
            Err(error) => unread = Some(error),
        }
    }
    // What was measured is told, even when it cannot be read back.
    args.load.publish(&report)?;
    if let Some(error) = unread {
        return Err(error);
    }
    let good = report.verification.as_ref().is_none_or(Verification::is_good);
    if plan.created && args.topic.is_none() && !args.keep_topic && good {
        runtime.block_on(args.delete(&plan.topic))?;
    }
    ensure!(good, "the broker does not hold what it acknowledged (topic {})", plan.topic);
    if acknowledged == 0 {
        bail!("nothing was acknowledged");
    }
    Ok(())
}

impl BenchArgs {
    fn new_topic(&self, seed: u64) -> NewTopic {
        let mut configs = self.topic_config.clone();
        if let Some(profile) = &self.wal_profile {
            configs.push(("chronik.wal.profile".to_owned(), profile.clone()));
        }
        NewTopic {
            name: self.topic.clone().unwrap_or_else(|| format!("bench-{seed:016x}")),
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            configs,
        }
    }

    async fn verify(&self, outcome: Outcome, load: &Load, plan: &Plan) -> Result<Verification> {
        // A new client: the broker may have been restarted under the load, and be on its way back.
        let begun = Instant::now();
        let mut client = loop {
            match self.server.connect().await {
                Err(_) if begun.elapsed() < BACK_WITHIN => tokio::time::sleep(BACK_WITHIN / 300).await,
                connected => break connected?,
            }
        };
        let verifier = verify::Verifier::new(outcome.ledger, load.seed, load.records_per_batch, plan.created);
        let read = |records| {
            if !self.load.quiet {
                eprintln!("        read back {} records", grouped(records));
            }
        };
        verifier.read_back(&mut client, plan, read).await.context("cannot read the records back")
    }

    async fn delete(&self, topic: &str) -> Result<()> {
        let mut client: Client = self.server.connect().await?;
        Ok(client.delete_topic(topic).await?)
    }
}

fn run_floor(args: &FloorArgs) -> Result<()> {
    if args.serve {
        return floor::serve(&args.dir, args.flush);
    }
    refuse_memory(&args.dir)?;
    let load = args.load.load(Acks::Leader, false)?;
    let floor = floor::Floor::start(&args.dir, args.flush)?;
    let plan = Plan {
        version: floor::VERSION,
        topic: "floor".to_owned(),
        topic_id: uuid::Uuid::nil(),
        targets: vec![Target { index: 0, address: floor.address.clone(), start_offset: 0 }],
        identities: Vec::new(),
        created: false,
    };
    let outcome = args.load.run(&plan, &load)?;
    let mut report = Report::new("floor", &floor.address, &load, &outcome);
    report.topic.clone_from(&plan.topic);
    report.produce_version = plan.version;
    report.partitions = plan.targets.len();
    report.floor = Some(floor.finish()?);
    args.load.publish(&report)?;
    ensure!(outcome.stats.requests_all > 0, "nothing was acknowledged");
    Ok(())
}
