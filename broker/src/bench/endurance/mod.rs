//! `chronik bench endurance`: many partitions under a modest load for long, with retention and compaction at work, consumers
//! beside it, and every record checked. It speaks to any Kafka broker; `cargo xtask endurance` starts the brokers and
//! watches what they use.

mod check;
mod cold;
mod consume;
mod course;
mod produce;
mod report;
mod topics;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use chronik_client::{Client, NewTopic};
use clap::Args;
use tokio::task::JoinSet;

use self::course::{Course, PHASES};
use self::produce::Sender;
use self::report::Report;
use self::topics::Times;
use crate::cli::Server;

/// Options of the endurance load.
#[derive(Debug, Args)]
pub struct EnduranceArgs {
    #[command(flatten)]
    server: Server,
    /// Partitions, over nine topics
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u32).range(9..=100_000))]
    partitions: u32,
    /// Producers, each with a connection of its own
    #[arg(long, default_value = "48", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    producers: u32,
    /// Consumers that follow the end of a partition
    #[arg(long, default_value = "32", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    consumers: u32,
    /// Requests per second, all producers together; three records each, on average
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Seconds of load before anything is judged
    #[arg(long, default_value = "20", value_parser = super::seconds)]
    warmup: Duration,
    /// Seconds of load, in four quarters
    #[arg(long, default_value = "60", value_parser = super::seconds)]
    duration: Duration,
    /// Seconds of load before the cold consumer, to compare with
    #[arg(long, default_value = "20", value_parser = super::seconds)]
    compare: Duration,
    /// What the cold consumer reads, in MiB; 0 for none
    #[arg(long, default_value = "256", value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    cold_mib: u64,
    /// How often the broker looks for records to delete, in seconds; for the bound of the disk's use
    #[arg(long, default_value = "10", value_parser = super::seconds)]
    check_interval: Duration,
    /// The broker knows WAL profiles: use three of them
    #[arg(long)]
    profiles: bool,
    /// Seed of the records' bytes [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
}

/// How long topics may take to be there.
const TOPICS_WITHIN: Duration = Duration::from_secs(60);
/// Tasks that look at old records.
const LOOKERS: u64 = 2;

/// Runs the load, and writes what was found. The phases' names go to standard output as they begin.
///
/// # Errors
/// When the broker cannot be reached or refuses, and when a record is not as it should be.
pub fn run(args: &EnduranceArgs) -> Result<()> {
    // Two threads: checking and compressing must not hold up the clock of the others.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(drive(args))?;
    runtime.shutdown_background();
    let json = serde_json::to_string_pretty(&report)? + "\n";
    std::fs::write(&args.json, json).with_context(|| format!("cannot write {}", args.json.display()))?;
    ensure!(report.fault_count == 0, "{} faults; the first: {:?}", report.fault_count, report.faults.first());
    Ok(())
}

async fn drive(args: &EnduranceArgs) -> Result<Report> {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = args.seed.unwrap_or(clock.as_nanos() as u64);
    let times = Times::of(args.duration);
    let (topics, places) = topics::lay_out(args.partitions as usize, seed, times, args.profiles);
    let mut client = args.server.connect().await?;
    for topic in &topics {
        create(&mut client, topic).await?;
    }
    let bootstrap = args.server.bootstrap.clone();
    if args.cold_mib > 0 {
        println!("filling");
        cold::fill(&bootstrap, args.cold_mib << 20, seed).await?;
    }
    let course = Arc::new(Course::new(bootstrap, times, places));
    let mut tasks = JoinSet::new();
    start(args, &course, seed, &mut tasks).await?;
    let begun = Instant::now();
    let quarter = args.duration / 4;
    let mut lasts = vec![args.warmup, quarter, quarter, quarter, quarter];
    if args.cold_mib > 0 {
        lasts.push(args.compare);
    }
    for (phase, lasts) in lasts.iter().enumerate() {
        enter(&course, phase);
        watch(&course, &mut tasks, *lasts).await?;
    }
    let mut cold = None;
    if args.cold_mib > 0 {
        enter(&course, lasts.len());
        // In a thread of its own: its work must not hold up those who measure.
        let bootstrap = course.bootstrap.clone();
        let read = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(cold::read(&bootstrap))
        });
        cold = Some(read.await?.context("the cold consumer")?);
    }
    let lasted = begun.elapsed();
    println!("reading back");
    course.stop();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let found = check::all(&course).await?;
    Ok(Report::new(&course, cold, found, lasted, args.check_interval))
}

fn enter(course: &Course, phase: usize) {
    println!("{}", PHASES.get(phase).copied().unwrap_or_default());
    course.enter(phase);
}

/// Lets a phase pass; a task that ends in it has failed.
async fn watch(course: &Course, tasks: &mut JoinSet<Result<()>>, lasts: Duration) -> Result<()> {
    let ended = tokio::time::timeout(lasts, tasks.join_next()).await;
    if let Ok(Some(ended)) = ended {
        course.stop();
        ended?.context("in the middle of the load")?;
    }
    Ok(())
}

async fn start(
    args: &EnduranceArgs,
    course: &Arc<Course>,
    seed: u64,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let producers = args.producers as usize;
    let mut senders = Vec::with_capacity(producers);
    for number in 0..producers {
        senders.push(Sender::new(Arc::clone(course), number, producers, seed).await?);
    }
    // Half of the consumers follow hot partitions, the others any.
    let all = course.partitions.len();
    for number in 0..args.consumers as usize {
        let partition = match number % 2 {
            0 => course.partitions.iter().filter(|p| p.place.is_hot()).nth(number / 2),
            _ => course.partitions.get(number * 31 % all),
        };
        if let Some(partition) = partition {
            tasks.spawn(consume::follow(Arc::clone(course), partition.place.number));
        }
    }
    for number in 0..LOOKERS {
        tasks.spawn(consume::look_back(Arc::clone(course), seed ^ number));
    }
    let interval_ns = 1_000_000_000 * u64::from(args.producers) / u64::from(args.rate);
    let first_ns = course.now_ns();
    for (number, sender) in senders.into_iter().enumerate() {
        // They take turns.
        let first_ns = first_ns + interval_ns * number as u64 / producers as u64;
        tasks.spawn(async move {
            sender.run(first_ns, interval_ns).await;
            Ok(())
        });
    }
    Ok(())
}

/// Creates a topic and waits until all its partitions have a leader that answers.
pub async fn create(client: &mut Client, topic: &NewTopic) -> Result<()> {
    client.create_topic(topic).await?;
    let described = super::plan::with_leaders(client, &topic.name).await?;
    let begun = Instant::now();
    for partition in described.partitions {
        super::plan::end_offset(client, &topic.name, partition.index).await?;
        ensure!(begun.elapsed() < TOPICS_WITHIN, "topic {} takes too long", topic.name);
    }
    Ok(())
}
