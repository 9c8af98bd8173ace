//! `cargo xtask differential`: a real Kafka and Chronik get the same requests, and must answer the same.
//! `chronik-differential` sends, reads and judges.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::bench::place::Place;
use crate::bench::servers::{self, Server};

/// Options of `cargo xtask differential`.
#[derive(clap::Args)]
pub struct Args {
    /// Only the cases of this API
    #[arg(long, value_name = "API")]
    only: Option<String>,
    /// Print every request with both answers
    #[arg(long)]
    verbose: bool,
    /// Use this `chronik-differential` instead of building one
    #[arg(long)]
    differential: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// For both: members join at once, few partitions of coordinators are waited for, and topics are created when asked for.
const BOTH: [&str; 4] = [
    "auto.create.topics.enable=false",
    "group.initial.rebalance.delay.ms=0",
    "offsets.topic.num.partitions=2",
    "transaction.state.log.num.partitions=2",
];

/// Runs both servers and the comparison.
///
/// # Errors
/// When something cannot be built, fetched or started, and when Chronik answers otherwise than Kafka.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let target = std::path::absolute(crate::target_dir(root))?;
    let program = args.place.program(|| crate::clients::build_broker(root, &target))?;
    let differential = match &args.differential {
        Some(differential) => differential.canonicalize().context("--differential")?,
        None => crate::clients::build(root, &target, "chronik-differential", "chronik-differential")?,
    };
    let jars = servers::fetch_kafka(root, &target)?;
    let schemas = crate::shapes::fetch(root)?;
    let dir = args.place.run_dir(&target.join("differential"))?;
    let both = BOTH.map(str::to_owned);
    let mut kafka = Server::kafka(&jars, &dir.join("kafka"), &both)?;
    let mut chronik =
        Server::chronik(&program, &dir.join("chronik"), &[&both[..], &args.place.set].concat())?;
    chronik.wait().context("Chronik")?;
    kafka.wait().context("Kafka")?;
    let mut compare = Command::new(&differential);
    compare.args(["--reference", &kafka.bootstrap, "--bootstrap", &chronik.bootstrap, "--schemas"]);
    compare.arg(schemas);
    if let Some(only) = &args.only {
        compare.args(["--only", only]);
    }
    if args.verbose {
        compare.arg("--verbose");
    }
    let status = compare.stdin(Stdio::null()).status()?;
    kafka.check_alive().context("Kafka")?;
    chronik.check_alive().context("Chronik")?;
    ensure!(status.success(), "Chronik does not answer as Kafka does; kept: {}", dir.display());
    kafka.stop();
    chronik.stop();
    fs::remove_dir_all(&dir)?;
    Ok(())
}
