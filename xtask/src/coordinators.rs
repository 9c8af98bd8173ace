//! `cargo xtask coordinators`: what transactions and consumer groups cost, by Java's clients, against Chronik and against Kafka in
//! turn, on the same disk. One table.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bench::host::{Disk, machine, resident_mib};
use crate::bench::place::Place;
use crate::bench::rows;
use crate::bench::servers::{self, Server};
use crate::clients::process::Run;

/// Options of `cargo xtask coordinators`.
#[derive(clap::Args)]
pub struct Args {
    /// Rounds; the table shows medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds that are counted of each measurement that goes on for a time
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Groups whose memory is measured
    #[arg(long, default_value_t = 10_000)]
    groups: u32,
    /// Leave Kafka out
    #[arg(long)]
    no_kafka: bool,
    #[command(flatten)]
    place: Place,
}

/// One measurement: a command of `Coordinators.java`, and a topic of its own.
struct Row {
    title: &'static str,
    command: &'static str,
    partitions: u32,
    /// Of the command, after the topic.
    more: Vec<String>,
    /// What the topic is filled with first, in records.
    filled: u32,
    /// Columns that it gives.
    figures: &'static [&'static str],
}

/// How long a measurement may take.
const RUN: Duration = Duration::from_secs(900);
const MEMBERS: u32 = 8;
const MANY_MEMBERS: u32 = 100;
/// What the group of eight reads, in records of 1 KiB.
const RECORDS: u32 = 512 << 10;

fn rows(seconds: f64) -> Vec<Row> {
    let transactions = |title, producers: u32, records: u32| Row {
        title,
        command: "transactions",
        partitions: MEMBERS,
        more: vec![seconds.to_string(), producers.to_string(), records.to_string()],
        filled: 0,
        figures: &["transactions/s"],
    };
    let commits = |title, members: u32| Row {
        title,
        command: "commits",
        partitions: MEMBERS,
        more: vec![seconds.to_string(), members.to_string()],
        filled: 0,
        figures: &["commits/s"],
    };
    vec![
        transactions("transactions of 1 record, 1 producer", 1, 1),
        transactions("transactions of 100 records, 1 producer", 1, 100),
        transactions("transactions of 1 record, 8 producers", 8, 1),
        transactions("transactions of 100 records, 8 producers", 8, 100),
        commits("offset commits, 1 member", 1),
        commits("offset commits, 8 members", MEMBERS),
        Row {
            title: "a group of 8 reads 512 MiB",
            command: "read",
            partitions: MEMBERS,
            more: vec![MEMBERS.to_string()],
            filled: RECORDS,
            figures: &["MB/s"],
        },
        Row {
            title: "100 members",
            command: "rebalance",
            partitions: MANY_MEMBERS,
            more: vec![MANY_MEMBERS.to_string()],
            filled: 0,
            figures: &["s until all have joined", "s after one has left"],
        },
    ]
}

/// Builds, measures, prints the table.
///
/// # Errors
/// When something cannot be built, fetched or started, when a run fails, or what it checks does not hold.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    ensure!(args.rounds > 0 && args.seconds > 0.0, "nothing to measure");
    let target = crate::target_dir(root);
    let dir = args.place.run_dir(&target.join("coordinators"))?;
    let disk = Disk::below(&dir)?;
    let program = args.place.program(|| crate::bench::build(root, &target))?;
    let jars = servers::fetch_kafka(root, &target)?;
    let mut brokers = servers::side_by_side(&program, &jars, &dir, &args.place.set, !args.no_kafka)?;
    let tools = Tools { program: &program, jars: &jars, source: root.join("xtask/kafka/Coordinators.java") };
    let rows = rows(args.seconds);
    // By row, figure, broker: what each round has shown.
    let mut shown: Vec<Vec<Vec<Vec<f64>>>> =
        rows.iter().map(|row| vec![vec![Vec::new(); brokers.len()]; row.figures.len()]).collect();
    // The first round warms the servers and is not counted.
    for round in 0..=args.rounds {
        for (row, shown) in rows.iter().zip(&mut shown) {
            for (at, (name, broker)) in brokers.iter_mut().enumerate() {
                let figures = tools.measure(row, &broker.bootstrap, round);
                let figures = figures.with_context(|| format!("{name}, {}", row.title));
                broker.check_alive().context(*name)?;
                let figures = figures?;
                eprintln!("round {round}/{}  {name:<12} {:<42} {figures:?}", args.rounds, row.title);
                if round > 0 {
                    for (shown, figure) in shown.iter_mut().zip(figures) {
                        shown[at].push(figure);
                    }
                }
            }
        }
    }
    let mut memory = Vec::new();
    for (name, broker) in &brokers {
        let grown = tools.memory_of_groups(broker, args.groups).with_context(|| format!("{name}, groups"))?;
        memory.push(grown);
    }

    println!("\n{}", machine(&disk));
    println!(
        "Java's clients, one broker, records of 100 bytes; medians of {} rounds, lowest and highest\n",
        args.rounds
    );
    print!("{:<68}", "");
    for (name, _) in &brokers {
        print!("{name:>30}");
    }
    println!();
    for (row, shown) in rows.iter().zip(&shown) {
        for (figure, shown) in row.figures.iter().zip(shown) {
            print!("{:<68}", format!("{}: {figure}", row.title));
            for figures in shown {
                print!("{:>30}", told(figures));
            }
            println!();
        }
    }
    print!("{:<68}", format!("resident memory: MiB more for {} groups", args.groups));
    for grown in memory {
        print!("{grown:>30.1}");
    }
    println!();
    drop(brokers);
    fs::remove_dir_all(&dir)?;
    Ok(())
}

fn told(figures: &[f64]) -> String {
    let [middle, low, high] = [
        rows::median(figures.iter().copied()),
        figures.iter().copied().reduce(f64::min),
        figures.iter().copied().reduce(f64::max),
    ]
    .map(|figure| figure.unwrap_or(f64::NAN));
    let digits = if middle < 20.0 { 2 } else { 0 };
    format!("{middle:.digits$} ({low:.digits$} to {high:.digits$})")
}

/// The programs that put load on a broker.
struct Tools<'a> {
    program: &'a Path,
    jars: &'a Path,
    source: PathBuf,
}

impl Tools<'_> {
    fn measure(&self, row: &Row, bootstrap: &str, round: usize) -> Result<Vec<f64>> {
        let topic = format!("{}-{round}-{}", row.command, row.more.join("-"));
        self.topics(bootstrap, &["create", &topic, "--partitions", &row.partitions.to_string()])?;
        if row.filled > 0 {
            let filled = [row.partitions.to_string(), row.filled.to_string()];
            self.java("fill", bootstrap, &topic, &filled)?;
        }
        let figures = self.java(row.command, bootstrap, &topic, &row.more)?;
        ensure!(figures.len() == row.figures.len(), "not understood: {figures:?}");
        self.topics(bootstrap, &["delete", &topic])?;
        Ok(figures)
    }

    /// How much a server grows by groups that have committed one offset each, in MiB.
    fn memory_of_groups(&self, broker: &Server, groups: u32) -> Result<f64> {
        let bootstrap = &broker.bootstrap;
        self.topics(bootstrap, &["create", "groups", "--partitions", "1"])?;
        let before = resident_mib(broker.pid())?;
        self.java("groups", bootstrap, "groups", &[groups.to_string()])?;
        Ok(resident_mib(broker.pid())? - before)
    }

    fn topics(&self, bootstrap: &str, rest: &[&str]) -> Result<()> {
        Run::new(self.program).args(["topics", "--bootstrap", bootstrap]).args(rest).output()?;
        Ok(())
    }

    /// The figures of the line that the command ends with.
    fn java(&self, command: &str, bootstrap: &str, topic: &str, more: &[String]) -> Result<Vec<f64>> {
        let run = Run::new("java").limit(RUN).args(["-Xmx1G", "-cp", &format!("{}/*", self.jars.display())]);
        let run = run.args([&self.source]).args([command, bootstrap, topic]).args(more);
        let told = run.output()?.last_line();
        let figures: Result<Vec<f64>, _> = told.split(' ').map(str::parse).collect();
        figures.with_context(|| format!("not understood: {told}"))
    }
}
