//! `chronik`: the broker and the tools around it.

use anyhow::{Context, Result};
use chronik_broker::bench::{self, BenchArgs};
use chronik_broker::cli::configs::{self, ConfigsArgs};
use chronik_broker::cli::consume::{self, ConsumeArgs};
use chronik_broker::cli::groups::{self, GroupsArgs};
use chronik_broker::cli::log_dirs::{self, LogDirsArgs};
use chronik_broker::cli::produce::{self, ProduceArgs};
use chronik_broker::cli::segment::{self, SegmentArgs};
use chronik_broker::cli::topics::{self, TopicsArgs};
use chronik_broker::cli::transactions::{self, TransactionsArgs};
use chronik_broker::cli::wal::{self, WalArgs};
use chronik_broker::config::{BrokerArgs, Config, Surroundings};
use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A Kafka-protocol broker that flushes before it answers.
#[derive(Parser)]
#[command(name = "chronik", version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    broker: BrokerArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run a broker (also what happens without a command)
    Broker(BrokerArgs),
    /// List every configuration key with its default and meaning
    Config,
    /// Load a broker, read everything back, and print what was measured
    Bench(BenchArgs),
    /// Measure a device, or look into a write-ahead log
    Wal(WalArgs),
    /// Look into segment files, check them, or show their records
    Segment(SegmentArgs),
    /// List, create, describe, alter and delete topics
    Topics(TopicsArgs),
    /// List, describe and delete consumer groups, and set their offsets
    Groups(GroupsArgs),
    /// List and describe transactional ids
    Transactions(TransactionsArgs),
    /// Show and alter settings of brokers and topics, and what is logged
    Configs(ConfigsArgs),
    /// Show how much of the disk each partition takes
    LogDirs(LogDirsArgs),
    /// Write lines from standard input to a topic
    Produce(ProduceArgs),
    /// Print the records of a topic
    Consume(ConsumeArgs),
}

fn main() {
    let cli = Cli::parse();
    let result = match cli.command {
        None => run_broker(&cli.broker),
        Some(Command::Broker(args)) => run_broker(&args),
        Some(Command::Config) => {
            print!("{}", chronik_broker::config::listing());
            Ok(())
        }
        Some(Command::Bench(args)) => bench::run(args),
        Some(Command::Wal(args)) => wal::run(args),
        Some(Command::Segment(args)) => segment::run(args),
        Some(Command::Topics(args)) => topics::run(args),
        Some(Command::Groups(args)) => groups::run(args),
        Some(Command::Transactions(args)) => transactions::run(args),
        Some(Command::Configs(args)) => configs::run(args),
        Some(Command::LogDirs(args)) => log_dirs::run(args),
        Some(Command::Produce(args)) => produce::run(args),
        Some(Command::Consume(args)) => consume::run(args),
    };
    if let Err(e) = result {
        eprintln!("chronik: {}", in_one_line(&e));
        std::process::exit(1);
    }
}

/// An error and its causes, but for causes that the error's own text tells already.
fn in_one_line(e: &anyhow::Error) -> String {
    let mut line = e.to_string();
    for cause in e.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    line
}

fn run_broker(args: &BrokerArgs) -> Result<()> {
    let filter = std::env::var("CHRONIK_LOG").ok();
    let shown = || format!("CHRONIK_LOG={}", filter.as_deref().unwrap_or_default());
    chronik_broker::logging::start(filter.as_deref()).with_context(shown)?;
    let config = Config::load(args, &Surroundings::of_this_process())?;
    chronik_broker::run::run(config)
}
