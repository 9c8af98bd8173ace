//! `cargo xtask differential`: a real Kafka and Chronik get the same requests, and must answer the same.
//! `chronik-differential` sends, reads and judges.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::bench::place::Place;
use crate::bench::servers;

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
    let of_chronik = [&both[..], &args.place.set].concat();
    let mut judge = Command::new(&differential);
    judge.arg("--schemas").arg(schemas);
    if let Some(only) = &args.only {
        judge.args(["--only", only]);
    }
    if args.verbose {
        judge.arg("--verbose");
    }
    let complaint = "Chronik does not answer as Kafka does";
    servers::compare(&dir, (&jars, &both), (&program, &of_chronik), judge, complaint)
}
