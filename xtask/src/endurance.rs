//! `cargo xtask endurance`: Chronik, and Kafka after it, under the load of `chronik bench endurance`, and what they use
//! meanwhile. One table; records and leaks fail the run, times are told only.

mod judge;
mod watch;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::bench::host::{Disk, machine};
use crate::bench::place::Place;
use crate::bench::servers::{self, Server};
use watch::Watch;

/// Options of `cargo xtask endurance`.
#[derive(clap::Args)]
pub struct Args {
    /// Minutes of load that are judged, in four quarters, for each broker
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,
    /// What a cold consumer reads afterwards, beside the load, in MiB
    #[arg(long, default_value_t = 5 * 1024)]
    cold_mib: u64,
    /// Partitions
    #[arg(long, default_value_t = 1_000)]
    partitions: u32,
    /// Requests a second, three records each
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Leave Kafka out
    #[arg(long)]
    no_kafka: bool,
    #[command(flatten)]
    place: Place,
}

/// Between two looks at the process; at the directory every fifth time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What filling, the cold consumer and reading back may take beside the load.
const BESIDE: Duration = Duration::from_secs(900);
/// Chronik's WAL when nobody says otherwise: `chronik.wal.size.bytes`.
const WAL_BYTES: u64 = 512 << 20;

/// What the load says, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Report {
    phases: Vec<Phase>,
    cold: Option<Cold>,
    found: Found,
    fault_count: u64,
    faults: Vec<String>,
    bound_bytes: std::collections::BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct Phase {
    name: String,
    records: u64,
    produce_p50_us: f64,
    produce_p99_us: f64,
    seen_p99_us: f64,
    fetch_p99_us: f64,
}

#[derive(Debug, Deserialize)]
struct Cold {
    bytes: f64,
    seconds: f64,
}

#[derive(Debug, Deserialize)]
struct Found {
    partitions: u64,
    acknowledged: u64,
    deleted: u64,
    compacted: u64,
    read: u64,
}

/// One broker's run.
struct Course {
    name: &'static str,
    report: Report,
    watch: Watch,
    /// What the data directory may take at most, in bytes.
    bound_bytes: u64,
}

/// Runs both, prints the table.
///
/// # Errors
/// When something cannot be built or started; when records are wrong, or memory, descriptors or disk of Chronik grow.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    ensure!(args.minutes > 0.0 && args.minutes < 10_000.0, "--minutes is out of range");
    let target = crate::target_dir(root);
    let dir = args.place.run_dir(&target.join("endurance"))?;
    let disk = Disk::below(&dir)?;
    let program = args.place.program(|| crate::bench::build(root, &target))?;
    let jars = if args.no_kafka { None } else { Some(servers::fetch_kafka(root, &target)?) };
    let check = check_interval(args);
    let every = [
        format!("log.retention.check.interval.ms={}", check.as_millis()),
        "log.cleaner.backoff.ms=1000".to_owned(),
    ];
    let mut courses = Vec::new();
    let at = dir.join("chronik");
    let settings = [&every[..], &args.place.set].concat();
    courses.push(course("Chronik", args, &program, Server::chronik(&program, &at, &settings)?, &at)?);
    if let Some(jars) = &jars {
        let at = dir.join("kafka");
        courses.push(course("Kafka 4.3.1", args, &program, Server::kafka(jars, &at, &every)?, &at)?);
    }
    println!("\n{}\n", machine(&disk));
    println!("{}", judge::table(&courses));
    let failures = judge::failures(&courses);
    ensure!(failures.is_empty(), "{}\nkept: {}", failures.join("\n"), dir.display());
    fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Sixty looks in a run, one in half a minute at most.
fn check_interval(args: &Args) -> Duration {
    Duration::from_secs_f64((args.minutes).clamp(3.0, 30.0))
}

fn course(name: &'static str, args: &Args, program: &Path, mut server: Server, dir: &Path) -> Result<Course> {
    eprintln!("{name}");
    server.wait().context(name)?;
    let json = dir.join("load.json");
    let seconds = args.minutes * 60.0;
    let (warmup, compare) = ((seconds / 4.0).clamp(15.0, 240.0), (seconds / 10.0).clamp(5.0, 60.0));
    let mut load = Command::new(program);
    load.args(["bench", "endurance", "--bootstrap", &server.bootstrap, "--json"]).arg(&json);
    for (option, value) in [
        ("--duration", seconds),
        ("--warmup", warmup),
        ("--compare", compare),
        ("--check-interval", check_interval(args).as_secs_f64()),
        ("--cold-mib", args.cold_mib as f64),
        ("--partitions", f64::from(args.partitions)),
        ("--rate", f64::from(args.rate)),
    ] {
        load.arg(option).arg(value.to_string());
    }
    let is_chronik = server.admin.is_some();
    if is_chronik {
        load.arg("--profiles");
    }
    let limit = Duration::from_secs_f64(warmup + seconds + compare) + BESIDE;
    let mut load = Running(load.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    let lines = lines(&mut load.0)?;
    let mut watch = Watch::new(dir);
    let begun = Instant::now();
    loop {
        match lines.recv_timeout(LOOK_EVERY) {
            Ok(phase) => {
                eprintln!("{:>8.0?}  {phase}", begun.elapsed());
                if phase == "without the reader" {
                    // Beside the watching: syncing takes its time.
                    let data = dir.join("data");
                    std::thread::spawn(move || watch::evict(&data));
                }
                watch.enter(&phase, &server)?;
            }
            Err(RecvTimeoutError::Timeout) => watch.look(&server)?,
            Err(RecvTimeoutError::Disconnected) => break,
        }
        server.check_alive().context(name)?;
        ensure!(begun.elapsed() < limit, "{name}: the load does not end; see {}", dir.display());
    }
    let status = load.0.wait()?;
    let Ok(text) = fs::read_to_string(&json) else { bail!("{name}: the load ended with {status}") };
    server.stop();
    let report: Report = serde_json::from_str(&text)?;
    // The metadata log, checkpoints and directories; a file of each kind takes a block however small it is.
    let small = u64::from(args.partitions) * (256 << 10) + (64 << 20);
    let wal = if is_chronik { WAL_BYTES } else { 0 };
    let bound_bytes = report.bound_bytes.values().sum::<u64>() + small + wal;
    // The next broker is to find the disk as this one did; what has a fault is kept to be looked at.
    if report.fault_count == 0 {
        fs::remove_dir_all(dir.join("data"))?;
    }
    Ok(Course { name, report, watch, bound_bytes })
}

/// A process that does not outlive this one's interest in it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

fn lines(child: &mut Child) -> Result<Receiver<String>> {
    let out = child.stdout.take().context("no pipe")?;
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    Ok(receive)
}
