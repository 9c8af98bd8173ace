//! `cargo xtask`: the one entry to the project's tasks. CI calls the same commands.

mod bench;
mod charts;
mod clients;
mod compare;
mod coordinators;
mod crash;
mod differential;
mod e2e;
mod each;
mod endurance;
mod fuzz;
mod images;
mod shapes;
mod test;
mod throughput;
mod watched;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Everything that must pass: what CI runs.
    Test(test::Args),
    /// Measure Chronik beside Apache Kafka and the floor, and print one table.
    Bench(bench::Args),
    /// Test the broker with Kafka's own clients.
    Clients(clients::Args),
    /// Compact the same records with Kafka's own cleaner and with Chronik's, and compare what is left.
    Compare(compare::Args),
    /// Transactions and consumer groups by Java's clients: Chronik beside Kafka.
    Coordinators(coordinators::Args),
    /// Send the same requests to Kafka and to Chronik, and compare the answers.
    Differential(differential::Args),
    /// Crash, power-loss and fault tests against the real broker.
    Crash(crash::Args),
    /// Many partitions under load for long: what grows, what gets slower, and whether every record is right.
    Endurance(endurance::Args),
    /// Kafka's own producer test and reading it back: Chronik beside Kafka, in MB/s.
    Throughput(throughput::Args),
    /// Test all of it on a real Kubernetes.
    E2e(e2e::Args),
    /// Generate the request guard's table of message shapes from Kafka's schemas.
    Shapes(shapes::Args),
    /// Write the container images as OCI tar files, without a container engine.
    Images(images::Args),
    /// Write the tables of the charts' READMEs, or check charts and documents.
    Charts(charts::Args),
    /// Fuzz the decoders with libFuzzer, on the stable toolchain.
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    match run(&Task::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    let root = root()?;
    match task {
        Task::Test(args) => test::run(&root, args),
        Task::Bench(args) => bench::run(&root, args),
        Task::Clients(args) => clients::run(&root, args),
        Task::Compare(args) => compare::run(&root, args),
        Task::Coordinators(args) => coordinators::run(&root, args),
        Task::Differential(args) => differential::run(&root, args),
        Task::Crash(args) => crash::run(&root, args),
        Task::Endurance(args) => endurance::run(&root, args),
        Task::Throughput(args) => throughput::run(&root, args),
        Task::E2e(args) => e2e::run(&root, args),
        Task::Shapes(args) => shapes::run(&root, args),
        Task::Images(args) => images::run(&root, args),
        Task::Charts(args) => charts::run(&root, args),
        Task::Fuzz(args) => fuzz::run(&root, args),
    }
}

/// The workspace's directory.
fn root() -> Result<PathBuf> {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(xtask.parent().context("xtask lies outside a workspace")?.to_owned())
}

/// Where cargo builds to.
fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}
