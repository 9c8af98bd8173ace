//! `cargo xtask throughput`: Kafka's own `kafka-producer-perf-test` with default batching and `acks=all`, and a Java consumer
//! that reads it back, against Chronik and against Kafka in turn, on the same disk. One table.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bench::host::{Disk, machine};
use crate::bench::place::Place;
use crate::bench::rows;
use crate::bench::servers;
use crate::clients::process::Run;

/// Options of `cargo xtask throughput`.
#[derive(clap::Args)]
pub struct Args {
    /// Rounds; the table shows medians
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// What a run writes and reads, in MiB
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 1024)]
    record_bytes: u64,
    /// Numbers of partitions, a row for each
    #[arg(long, value_delimiter = ',', default_value = "1,6")]
    partitions: Vec<u32>,
    /// Leave Kafka out
    #[arg(long)]
    no_kafka: bool,
    #[command(flatten)]
    place: Place,
}

/// After a run, the device is left alone for so long before its counter is read.
const SETTLED: Duration = Duration::from_secs(1);
/// How long a producer or a consumer may take.
const RUN: Duration = Duration::from_secs(3600);
/// How long the device may take until then.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the runs of one row have shown.
#[derive(Debug)]
struct Row {
    broker: usize,
    partitions: u32,
    /// What `kafka-producer-perf-test` says, in MB (2^20 bytes) a second.
    into: Vec<f64>,
    /// Its 99th percentile of latency, in milliseconds.
    p99_ms: Vec<f64>,
    /// Read back, in MB a second.
    out: Vec<f64>,
    /// Bytes written to the device for each byte of values.
    written: Vec<f64>,
}

/// Builds, measures, prints the table.
///
/// # Errors
/// When something cannot be built, fetched or started, when a run fails, or a record is missing.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    ensure!(args.rounds > 0 && args.record_bytes > 0 && args.mib > 0, "nothing to measure");
    let target = crate::target_dir(root);
    let dir = args.place.run_dir(&target.join("throughput"))?;
    let disk = Disk::below(&dir)?;
    let program = args.place.program(|| crate::bench::build(root, &target))?;
    let jars = servers::fetch_kafka(root, &target)?;
    let mut brokers = servers::side_by_side(&program, &jars, &dir, &args.place.set, !args.no_kafka)?;
    let mut rows = Vec::new();
    for &partitions in &args.partitions {
        for broker in 0..brokers.len() {
            let (into, p99_ms, out, written) = Default::default();
            rows.push(Row { broker, partitions, into, p99_ms, out, written });
        }
    }
    let tools = Tools { program: &program, jars: &jars, read_back: root.join("xtask/kafka/ReadBack.java") };
    // The first round warms the servers and is not counted.
    for round in 0..=args.rounds {
        for row in &mut rows {
            let (name, broker) = &mut brokers[row.broker];
            let topic = format!("throughput-{round}-{}", row.partitions);
            let run = tools.run(args, &broker.bootstrap, &topic, row.partitions, &disk);
            let run = run.with_context(|| format!("{name}, {} partitions", row.partitions));
            let [into, p99_ms, out, written] = match run {
                Ok(figures) => figures,
                Err(error) => {
                    broker.check_alive().context(*name)?;
                    return Err(error);
                }
            };
            eprintln!(
                "round {round}/{}  {name:<12} {:>2} partitions  in {into:>6.1} MB/s  out {out:>6.1} MB/s",
                args.rounds, row.partitions
            );
            if round > 0 {
                row.into.push(into);
                row.p99_ms.push(p99_ms);
                row.out.push(out);
                row.written.push(written);
            }
        }
    }
    println!("\n{}", machine(&disk));
    println!(
        "{} MiB in records of {} bytes, acks=all, default batching; medians of {} rounds, lowest and highest\n",
        args.mib, args.record_bytes, args.rounds
    );
    let head = ["in MB/s", "", "p99 ms", "out MB/s", "", "device bytes per byte"];
    println!(
        "{:<28}{:>9}{:>15}{:>9}{:>10}{:>15}{:>23}",
        "", head[0], head[1], head[2], head[3], head[4], head[5]
    );
    for row in &rows {
        let partitions = if row.partitions == 1 { "partition" } else { "partitions" };
        println!(
            "{:<28}{:>9.1}{:>15}{:>9.0}{:>10.1}{:>15}{:>23.2}",
            format!("{}, {} {partitions}", brokers[row.broker].0, row.partitions),
            median(&row.into),
            spread(&row.into),
            median(&row.p99_ms),
            median(&row.out),
            spread(&row.out),
            median(&row.written),
        );
    }
    drop(brokers);
    fs::remove_dir_all(&dir)?;
    Ok(())
}

fn median(figures: &[f64]) -> f64 {
    rows::median(figures.iter().copied()).unwrap_or(f64::NAN)
}

fn spread(figures: &[f64]) -> String {
    let (low, high) = (figures.iter().copied().reduce(f64::min), figures.iter().copied().reduce(f64::max));
    format!("({:.0} to {:.0})", low.unwrap_or(f64::NAN), high.unwrap_or(f64::NAN))
}

/// The programs that put load on a broker.
struct Tools<'a> {
    program: &'a Path,
    jars: &'a Path,
    read_back: PathBuf,
}

impl Tools<'_> {
    /// One run: MB/s in, p99 in milliseconds, MB/s out, device bytes per byte.
    fn run(
        &self,
        args: &Args,
        bootstrap: &str,
        topic: &str,
        partitions: u32,
        disk: &Disk,
    ) -> Result<[f64; 4]> {
        let topics = |rest: &[&str]| {
            Run::new(self.program).args(["topics", "--bootstrap", bootstrap]).args(rest).output()
        };
        topics(&["create", topic, "--partitions", &partitions.to_string()])?;
        let before = settled(disk)?;
        let bytes = args.mib << 20;
        let records = bytes / args.record_bytes;
        let length = args.record_bytes.to_string();
        let produce = self.java().args(["org.apache.kafka.tools.ProducerPerformance", "--topic", topic]);
        let produce = produce.args(["--throughput", "-1", "--num-records", &records.to_string()]);
        let produce = produce.args(["--record-size", &length, "--producer-props"]);
        let produce = produce.args([&format!("bootstrap.servers={bootstrap}"), "acks=all"]);
        let told = produce.output()?.text();
        let (into, p99_ms) = produced(&told).with_context(|| format!("not understood: {told}"))?;
        let told = self.java().args([&self.read_back]).args([bootstrap, topic, &length]).output()?.text();
        let (count, out) = read_back(&told).with_context(|| format!("not understood: {told}"))?;
        ensure!(count == records, "{count} of {records} records were read back");
        let written =
            settled(disk)?.zip(before).map(|(after, before)| (after - before) as f64 / bytes as f64);
        topics(&["delete", topic])?;
        Ok([into, p99_ms, out, written.unwrap_or(f64::NAN)])
    }

    /// Java with Kafka's jars, and the heap that Kafka's own script gives its tools.
    fn java(&self) -> Run {
        Run::new("java").limit(RUN).args(["-Xmx512M", "-cp", &format!("{}/*", self.jars.display())])
    }
}

/// What the device has been given so far, once all that is dirty is written and nobody writes any more.
fn settled(disk: &Disk) -> Result<Option<u64>> {
    rustix::fs::sync();
    let begun = Instant::now();
    let Some(mut last) = disk.written_bytes() else { return Ok(None) };
    while begun.elapsed() < PATIENCE {
        sleep(SETTLED);
        let now = disk.written_bytes().context("the device is gone")?;
        // A few blocks are everybody's.
        if now - last < 1 << 20 {
            return Ok(Some(now));
        }
        last = now;
    }
    anyhow::bail!("the device is still written to after {PATIENCE:?}")
}

/// Rate and 99th percentile of the last line of `kafka-producer-perf-test`: `1048576 records sent, 103000.5 records/sec (100.59
/// MB/sec), 285.1 ms avg latency, 500.0 ms max latency, 290 ms 50th, 400 ms 95th, 450 ms 99th, 480 ms 99.9th.`
fn produced(told: &str) -> Option<(f64, f64)> {
    let line = told.lines().rev().find(|line| line.contains("99th"))?;
    let rate = line.split_once(" MB/sec")?.0.rsplit_once('(')?.1;
    let p99 = line.split_once(" ms 99th")?.0.rsplit_once(' ')?.1;
    Some((rate.parse().ok()?, p99.parse().ok()?))
}

/// Records and rate of `1048576 records, 2.041 s, 501.71 MB/sec`.
fn read_back(told: &str) -> Option<(u64, f64)> {
    let (records, rest) = told.lines().last()?.split_once(" records, ")?;
    let rate = rest.strip_suffix(" MB/sec")?.rsplit_once(' ')?.1;
    Some((records.parse().ok()?, rate.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tools_say_is_read() {
        let told = "204801 records sent, 40960.2 records/sec (40.00 MB/sec), 1.0 ms avg latency, 9.0 ms max latency.\n\
            1048576 records sent, 103000.5 records/sec (100.59 MB/sec), 285.10 ms avg latency, 500.00 ms max latency, \
            290 ms 50th, 400 ms 95th, 450 ms 99th, 480 ms 99.9th.\n";
        assert_eq!(produced(told), Some((100.59, 450.0)));
        assert_eq!(produced("nothing"), None);
        assert_eq!(read_back("1048576 records, 2.041 s, 501.71 MB/sec\n"), Some((1_048_576, 501.71)));
        assert_eq!(read_back("Exception"), None);
        assert_eq!((median(&[3.0, 1.0, 2.0]), spread(&[3.0, 1.0, 2.0])), (2.0, "(1 to 3)".to_owned()));
    }
}
