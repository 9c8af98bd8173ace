//! `cargo xtask clients`: Kafka's own clients against the broker, over its restarts and theirs.
//!
//! The programs, their command line and the records they write are described in `broker/tests/clients/README.md`.

mod broker;
mod exactly_once;
mod install;
mod kcat;
mod members;
pub mod process;
mod records;
mod streams;
mod table;
mod tests;
mod tools;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;

use broker::Broker;
use install::Places;
use table::{CLIENTS, Client};
use tests::Tests;

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
    /// Let a member of each client share one group, too
    #[arg(long)]
    mixed: bool,
}

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
        tests.disturb(None, args.mixed);
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
            tests.disturb(Some(&mut broker), args.mixed);
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
