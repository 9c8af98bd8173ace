//! `cargo xtask bench`: Chronik beside Apache Kafka and the floor, on the same disk, in one table.
//!
//! Both servers run for the whole time and only one is under load at a time, in turn. Each is
//! warmed before the first round. What the table shows are medians over the rounds.

pub mod host;
mod life;
pub mod place;
pub mod rows;
pub mod servers;
pub mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use host::{Disk, machine};
use place::Place;
use rows::{Bed, Measured, ROWS, Row, Target, Times};
use servers::Server;
use verdict::Results;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Rounds; the table shows medians.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// One short round, to see that everything runs: its figures mean little.
    #[arg(long)]
    quick: bool,
    /// Seconds of each run that are measured.
    #[arg(long, default_value_t = 8.0)]
    duration: f64,
    /// Seconds of load before that.
    #[arg(long, default_value_t = 3.0)]
    warmup: f64,
    #[command(flatten)]
    place: Place,
    /// Leave Kafka out.
    #[arg(long)]
    no_kafka: bool,
    /// Only these rows, such as pipelined,floor
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Leave memory, start and recovery out.
    #[arg(long)]
    no_life: bool,
}

/// Builds, measures, prints the table, and writes the JSON.
///
/// # Errors
/// When something cannot be built, fetched or started; a run that fails is told in the table.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let known = |key: &String| ROWS.iter().any(|row| row.key == key);
    if let Some(unknown) = args.rows.iter().find(|key| !known(key)) {
        let keys: Vec<_> = ROWS.iter().map(|row| row.key).collect();
        anyhow::bail!("there is no row {unknown}; the rows are {}", keys.join(", "));
    }
    let target = crate::target_dir(root);
    let out = target.join("bench");
    fs::create_dir_all(&out)?;
    let dir = args.place.run_dir(&out.join("run"))?;
    let disk = Disk::below(&dir)?;
    let program = args.place.program(|| build(root, &target))?;
    let jars = if args.no_kafka { None } else { Some(servers::fetch_kafka(root, &target)?) };

    let mut results = Results::default();
    let measured = measure_all(args, &program, jars.as_deref(), &dir, &disk, &mut results);
    let measured = measured.and_then(|()| match args.no_life {
        true => Ok(()),
        false => measure_life(args, &program, jars.as_deref(), &dir, &mut results),
    });
    // What has been measured is shown, whatever ended the measuring.
    publish(&out, &disk, &results)?;
    measured?;
    fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Builds `chronik` for release.
///
/// # Errors
/// The build's.
pub fn build(root: &Path, target: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--release", "--package", "chronik-broker"];
    let status = Command::new(cargo).args(build).current_dir(root).status()?;
    ensure!(status.success(), "the build failed");
    Ok(target.join("release/chronik"))
}

fn measure_all(
    args: &Args,
    program: &Path,
    jars: Option<&Path>,
    dir: &Path,
    disk: &Disk,
    results: &mut Results,
) -> Result<()> {
    let wanted = |row: &Row| args.rows.is_empty() || args.rows.iter().any(|key| key == row.key);
    let possible = |row: &Row| jars.is_some() || !matches!(row.target, Target::Kafka(_));
    let chosen: Vec<&Row> = ROWS.iter().filter(|row| wanted(row) && possible(row)).collect();
    let mut bed = Bed { program, dir, disk, chronik: None, kafka: None };
    if chosen.iter().any(|row| matches!(row.target, Target::Chronik(_))) {
        let mut settings = rows::profiles();
        settings.extend(args.place.set.iter().cloned());
        let chronik = bed.chronik.insert(Server::chronik(program, &dir.join("chronik"), &settings)?);
        chronik.wait().context("Chronik")?;
        results.wal = chronik.labels("chronik_wal_engine_info");
    }
    if let Some(jars) = jars
        && chosen.iter().any(|row| matches!(row.target, Target::Kafka(_)))
    {
        let kafka = bed.kafka.insert(Server::kafka(jars, &dir.join("kafka"), &[])?);
        kafka.wait().context("Kafka")?;
    }
    let (rounds, times, warm) = match args.quick {
        true => (1, Times { warmup: 1.0, duration: 2.0 }, Times { warmup: 0.0, duration: 3.0 }),
        false => {
            let times = Times { warmup: args.warmup, duration: args.duration };
            (args.rounds.max(1), times, Times { warmup: 0.0, duration: 20.0 })
        }
    };
    // The Java side compiles its hot paths in its first seconds; neither side's first run counts.
    for row in chosen.iter().filter(|row| ["pipelined", "kafka", "kafka-flush"].contains(&row.key)) {
        eprintln!("warming  {}", row.title);
        rows::measure(row, &bed, warm, false)?;
    }
    results.rows = chosen
        .iter()
        .map(|row| Measured { key: row.key, title: row.title, samples: Vec::new(), failures: Vec::new() })
        .collect();
    for round in 1..=rounds {
        for (row, measured) in chosen.iter().zip(&mut results.rows) {
            // Reading everything back once per row is enough, and it takes its time.
            let verify = round == 1;
            match rows::measure(row, &bed, times, verify) {
                Ok(sample) => {
                    eprintln!(
                        "round {round}/{rounds}  {:<40} {:>9.0}/s",
                        row.title, sample.records_per_second
                    );
                    measured.samples.push(sample);
                }
                Err(error) => {
                    eprintln!("round {round}/{rounds}  {:<40} FAILED: {error:#}", row.title);
                    measured.failures.push(format!("{error:#}"));
                    if let Some(chronik) = &mut bed.chronik {
                        chronik.check_alive().context("Chronik")?;
                    }
                }
            }
        }
    }
    // Going away with the bed, both servers are stopped.
    Ok(())
}

fn measure_life(
    args: &Args,
    program: &Path,
    jars: Option<&Path>,
    dir: &Path,
    results: &mut Results,
) -> Result<()> {
    let times = if args.quick { 1 } else { args.rounds.clamp(1, 5) };
    eprintln!("memory and start of Chronik");
    let start = |dir: &Path| Server::chronik(program, dir, &args.place.set);
    results.chronik_life = Some(life::life(times, program, &dir.join("chronik-life"), start)?);
    if let Some(jars) = jars {
        eprintln!("memory and start of Kafka");
        let start = |dir: &Path| Server::kafka(jars, dir, &[]);
        results.kafka_life = Some(life::life(times.min(3), program, &dir.join("kafka-life"), start)?);
    }
    eprintln!("recovery of Chronik");
    let start = |dir: &Path, pool: &str| {
        let mut settings = args.place.set.clone();
        settings.push(pool.to_owned());
        Server::chronik(program, dir, &settings)
    };
    results.recovery = Some(life::recovery(program, &dir.join("chronik-life"), start)?);
    Ok(())
}

/// Prints the table and writes `bench-TIME.json` and `latest.json`.
fn publish(out: &Path, disk: &Disk, results: &Results) -> Result<()> {
    let machine = machine(disk);
    println!();
    println!("{machine}");
    println!("one 256-byte record per request, one request in flight per producer, acks=1\n");
    println!("{}", results.table());
    let json = serde_json::json!({
        "machine": machine,
        "results": results,
        "verdicts": results.verdicts(),
    });
    let json = serde_json::to_string_pretty(&json)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let path = out.join(format!("bench-{now}.json"));
    fs::write(&path, &json)?;
    fs::write(out.join("latest.json"), &json)?;
    println!("written to {}", path.display());
    Ok(())
}
