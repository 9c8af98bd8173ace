//! `chronik-e2e-client`: loads a broker by the clock, writes down the fate of each record, and reads all back.
//!
//! The last line on standard output is the result as JSON; people read standard error. The status is 0 when
//! everything is as it should be.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use chronik_client::Acks;
use chronik_e2e::client::ledger::Ledger;
use chronik_e2e::client::load::{self, Plan};
use chronik_e2e::client::report::Report;
use chronik_e2e::client::{smoke, verify};
use clap::{Args, Parser, Subcommand};

/// A Kafka client that keeps book of every record.
#[derive(Parser)]
#[command(name = "chronik-e2e-client")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send records by the clock, and write down what becomes of each
    Load(Load),
    /// Read a topic back and compare with what was written down
    Verify(Verify),
    /// Write a few records and read them back
    ProduceConsume(ProduceConsume),
    /// Make the file that ends a load
    Stop {
        /// The file of `load --until`
        file: PathBuf,
    },
}

#[derive(Args)]
struct Server {
    /// HOST:PORT, several separated by commas
    #[arg(long, env = "CHRONIK_BOOTSTRAP")]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    /// How long a request may take, in milliseconds
    #[arg(long, default_value_t = 5000)]
    request_timeout_ms: u64,
}

#[derive(Args)]
struct Load {
    #[command(flatten)]
    server: Server,
    /// Records a second
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// End as soon as this file is there
    #[arg(long)]
    until: Option<PathBuf>,
    /// What a record waits for: all or 1
    #[arg(long, default_value = "all", value_parser = acks)]
    acks: Acks,
    /// Average length of a value
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Records that may wait for an answer
    #[arg(long, default_value_t = 500_000)]
    waiting_max: usize,
    /// How long a record is tried, in milliseconds
    #[arg(long, default_value_t = 120_000)]
    delivery_timeout_ms: u64,
    /// Where to write what became of each record
    #[arg(long)]
    out: Option<PathBuf>,
    /// Read everything back afterwards
    #[arg(long)]
    verify: bool,
}

#[derive(Args)]
struct Verify {
    /// HOST:PORT, several separated by commas
    #[arg(long, env = "CHRONIK_BOOTSTRAP")]
    bootstrap: String,
    /// What `load --out` wrote
    #[arg(long)]
    ledger: PathBuf,
    /// How long a request may take, in milliseconds
    #[arg(long, default_value_t = 5000)]
    request_timeout_ms: u64,
}

#[derive(Args)]
struct ProduceConsume {
    #[command(flatten)]
    server: Server,
    #[arg(long, default_value_t = 100)]
    count: u64,
}

fn acks(text: &str) -> Result<Acks, String> {
    match text.parse()? {
        Acks::None => Err("without acknowledgements nothing can be checked".to_owned()),
        acks => Ok(acks),
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Load(args) => run_load(args).await,
        Command::Verify(args) => run_verify(args).await,
        Command::ProduceConsume(args) => run_smoke(args).await,
        Command::Stop { file } => std::fs::write(&file, "").map(|()| true).map_err(Into::into),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chronik-e2e-client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run_load(args: Load) -> Result<bool> {
    let timeout = Duration::from_millis(args.server.request_timeout_ms);
    let plan = Plan {
        bootstrap: args.server.bootstrap.clone(),
        topic: args.server.topic,
        rate: args.rate,
        seconds: args.seconds,
        until: args.until,
        acks: args.acks,
        value_bytes: args.value_bytes,
        waiting_max: args.waiting_max,
        request_timeout: timeout,
        delivery_timeout: Duration::from_millis(args.delivery_timeout_ms),
    };
    let ledger = load::run(plan).await?;
    if let Some(out) = &args.out {
        ledger.write(out)?;
    }
    let verdict = match args.verify {
        true => Some(verify::verify(&args.server.bootstrap, &ledger, timeout).await?),
        false => None,
    };
    tell(&Report::new(&ledger, verdict))
}

async fn run_verify(args: Verify) -> Result<bool> {
    let ledger = Ledger::read(&args.ledger)?;
    let timeout = Duration::from_millis(args.request_timeout_ms);
    let verdict = verify::verify(&args.bootstrap, &ledger, timeout).await?;
    tell(&Report::new(&ledger, Some(verdict)))
}

async fn run_smoke(args: ProduceConsume) -> Result<bool> {
    let timeout = Duration::from_millis(args.server.request_timeout_ms);
    let base =
        smoke::produce_consume(&args.server.bootstrap, &args.server.topic, args.count, timeout).await?;
    eprintln!("{} records written at offset {base} of {} and read back", args.count, args.server.topic);
    let (topic, count) = (&args.server.topic, args.count);
    println!("{}", serde_json::json!({ "topic": topic, "records": count, "baseOffset": base }));
    Ok(true)
}

fn tell(report: &Report) -> Result<bool> {
    eprintln!("{report}");
    println!("{}", serde_json::to_string(report).context("cannot write the report")?);
    Ok(report.is_good())
}
