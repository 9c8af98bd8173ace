//! `chronik-crash`: kills brokers, cuts their power, and reads back what they acknowledged. Usually called as
//! `cargo xtask crash …`, which builds the broker first.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use chronik_faultfs::crash::faults::{self as crash_faults, Bed};
use chronik_faultfs::crash::process::Spec;
use chronik_faultfs::crash::rounds::{Death, Run, Totals};
use chronik_faultfs::mount::{Mounted, unavailable};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// A log of the smallest size, so that its files are recycled within a few rounds.
const SMALL_WAL: [(&str, &str); 2] =
    [("chronik.wal.file.bytes", "16777216"), ("chronik.wal.size.bytes", "67108864")];

/// Kills brokers, cuts their power, and reads back what they acknowledged.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Clone)]
struct Common {
    /// The broker's binary.
    #[arg(long, global = true, default_value = "target/ci/chronik")]
    broker_bin: PathBuf,
    /// A directory on a real disk for the broker's data, the mount point and logs. It is emptied.
    #[arg(long, global = true, default_value = "target/crash")]
    work_dir: PathBuf,
    /// The seed of the first round; printed with each round, so that it can be given again.
    #[arg(long, global = true, value_parser = parse_seed)]
    seed: Option<u64>,
    /// More broker settings, NAME=VALUE.
    #[arg(long = "set", global = true)]
    settings: Vec<String>,
    /// Test any Kafka broker instead: a shell command with {data} and {port} in it.
    #[arg(long, global = true)]
    command_line: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Load, kill -9 at a random moment, restart, verify; again and again on one directory.
    Kill {
        #[arg(long, default_value_t = 50)]
        rounds: u64,
        #[arg(long, value_enum, default_value = "auto")]
        engine: Engine,
    },
    /// The same with the power cut: what was not flushed is lost.
    Power {
        #[arg(long, default_value_t = 50)]
        rounds: u64,
        #[arg(long, value_enum, default_value = "required")]
        engine: Engine,
        #[arg(long, value_enum, default_value = "dsync")]
        flush: Flush,
        /// Start the broker with its test-only switch that leaves out flushes: then a loss must be found.
        #[arg(long)]
        no_flush: bool,
        /// Let any flush keep all names, as ext4 does; else only a flush of their directory keeps them.
        #[arg(long)]
        lenient: bool,
    },
    /// A full or failing disk, a wrong directory, hostile clients.
    Faults {
        /// Only the tests whose name contains this.
        #[arg(long)]
        only: Option<String>,
    },
    /// A short run of each, with a table.
    Ci,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    Auto,
    Required,
    Disabled,
}

#[derive(Clone, Copy, ValueEnum)]
enum Flush {
    Dsync,
    Fdatasync,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let common = &cli.common;
    match cli.command {
        Command::Kill { rounds, engine } => {
            report(&[kill(common, rounds, engine)?]);
            Ok(())
        }
        Command::Power { rounds, engine, flush, no_flush, lenient } => {
            let disk = Disk { engine, flush, no_flush, lenient };
            report(&[if no_flush { loss(common, rounds, disk)? } else { power(common, rounds, disk)? }]);
            Ok(())
        }
        Command::Faults { only } => faults(common, only.as_deref()),
        Command::Ci => ci(common),
    }
}

/// One line of the table at the end.
struct Line {
    name: String,
    totals: Totals,
}

fn faults(common: &Common, only: Option<&str>) -> Result<()> {
    std::fs::create_dir_all(&common.work_dir)?;
    let bed = Bed {
        binary: common.broker_bin.clone(),
        work_dir: std::path::absolute(&common.work_dir)?,
        seed: seed(common)?,
    };
    println!("# faults, seed {:#x}", bed.seed);
    ensure!(crash_faults::run(&bed, only), "see above; the broker's output is in {}", bed.work_dir.display());
    Ok(())
}

fn ci(common: &Common) -> Result<()> {
    let mut lines = vec![kill(common, 6, Engine::Auto)?];
    for engine in [Engine::Required, Engine::Disabled] {
        for flush in [Flush::Dsync, Flush::Fdatasync] {
            lines.push(power(common, 4, Disk { engine, flush, no_flush: false, lenient: false })?);
        }
    }
    for engine in [Engine::Required, Engine::Disabled] {
        let disk = Disk { engine, flush: Flush::Dsync, no_flush: true, lenient: false };
        lines.push(loss(common, 5, disk)?);
    }
    faults(common, None)?;
    report(&lines);
    Ok(())
}

fn kill(common: &Common, rounds: u64, engine: Engine) -> Result<Line> {
    let name = format!("kill, {}", engine_name(engine));
    println!("# {name}");
    let directory = fresh(&common.work_dir.join("disk"))?;
    let mut run = Run::new(spec(common, &directory.join("data"), engine)?, Death::Kill, seed(common)?)?;
    finish(name, &mut run, rounds)
}

/// How a power-loss run treats its disk.
#[derive(Clone, Copy)]
struct Disk {
    engine: Engine,
    flush: Flush,
    no_flush: bool,
    lenient: bool,
}

impl Disk {
    fn name(self) -> String {
        let lenient = if self.lenient { ", lenient" } else { "" };
        let no_flush = if self.no_flush { ", NO FLUSH" } else { "" };
        format!("power, {}, {}{lenient}{no_flush}", engine_name(self.engine), flush_name(self.flush))
    }
}

fn power(common: &Common, rounds: u64, disk: Disk) -> Result<Line> {
    println!("# {}", disk.name());
    let mut run = power_run(common, disk)?;
    finish(disk.name(), &mut run, rounds)
}

/// Without flushes the same test must find acknowledged records lost: a test that cannot fail shows nothing.
fn loss(common: &Common, rounds: u64, disk: Disk) -> Result<Line> {
    println!("# {}: a loss must be found", disk.name());
    let mut run = power_run(common, disk)?;
    let verdict = run.rounds(rounds)?;
    ensure!(verdict.lost > 0, "{rounds} power cuts without flushes, and no acknowledged record was lost");
    println!("  found, as it must be");
    Ok(Line { name: disk.name(), totals: run.totals().clone() })
}

fn power_run(common: &Common, disk: Disk) -> Result<Run> {
    if let Some(why) = unavailable() {
        bail!("power-loss tests mount a file system: {why}");
    }
    let mount_point = common.work_dir.join("mount");
    let mounted = Mounted::new(&mount_point, disk.lenient).context("cannot mount")?;
    let mut spec = spec(common, &mount_point.join("data"), disk.engine)?;
    spec = spec.with("chronik.wal.flush.mode", flush_name(disk.flush));
    spec.no_flush = disk.no_flush;
    Run::new(spec, Death::Power(mounted), seed(common)?)
}

fn finish(name: String, run: &mut Run, rounds: u64) -> Result<Line> {
    let verdict = run.rounds(rounds)?;
    ensure!(verdict.is_good(), "{name}: see the problems above");
    Ok(Line { name, totals: run.totals().clone() })
}

fn spec(common: &Common, data_dir: &Path, engine: Engine) -> Result<Spec> {
    let log = common.work_dir.join("broker.log");
    let mut spec = Spec::new(&common.broker_bin, data_dir, &log)?;
    spec.engine = engine_name(engine).into();
    spec.command.clone_from(&common.command_line);
    for (name, value) in SMALL_WAL {
        spec = spec.with(name, value);
    }
    for setting in &common.settings {
        let (name, value) = setting.split_once('=').context("--set wants NAME=VALUE")?;
        spec = spec.with(name, value);
    }
    Ok(spec)
}

fn fresh(directory: &Path) -> Result<PathBuf> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    std::fs::create_dir_all(directory)?;
    Ok(directory.to_owned())
}

fn seed(common: &Common) -> Result<u64> {
    match common.seed {
        Some(seed) => Ok(seed),
        None => Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64
            & 0xffff_ffff),
    }
}

fn report(lines: &[Line]) {
    println!(
        "\n{:<40} {:>6} {:>10} {:>8} {:>9} {:>8} {:>5} {:>5} {:>5}  cut blocks lost/kept/torn",
        "test", "rounds", "acked", "in doubt", "recovered", "restart", "lost", "dupl.", "wrong"
    );
    for Line { name, totals } in lines {
        println!(
            "{name:<40} {:>6} {:>10} {:>8} {:>9} {:>5} ms {:>5} {:>5} {:>5}  {}/{}/{}",
            totals.rounds,
            totals.acked,
            totals.in_doubt,
            totals.recovered,
            totals.slowest_restart.as_millis(),
            totals.lost,
            totals.duplicates,
            totals.wrong,
            totals.cut.lost,
            totals.cut.kept,
            totals.cut.torn,
        );
    }
}

fn engine_name(engine: Engine) -> &'static str {
    match engine {
        Engine::Auto => "auto",
        Engine::Required => "required",
        Engine::Disabled => "disabled",
    }
}

fn flush_name(flush: Flush) -> &'static str {
    match flush {
        Flush::Dsync => "dsync",
        Flush::Fdatasync => "fdatasync",
    }
}

fn parse_seed(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
}
