//! `chronik-e2e`: stands a Kubernetes up, runs the scenarios in it, and takes it down. `cargo xtask e2e` builds what it
//! needs and calls it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use chronik_e2e::bed::{Bed, Lock, able, clean, programs};
use chronik_e2e::scenarios;
use chronik_e2e::stage::{BROKER_IMAGE, CLIENT_IMAGE, FAILED, Stage};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// A node for the operator and the clients, and one for the brokers, which may be killed.
const NODES: u32 = 2;
/// The images that the scenarios use.
const IMAGES: [&str; 3] = [BROKER_IMAGE, "localhost/chronik-operator:dev", CLIENT_IMAGE];
/// The status of `check` when this machine cannot run the tests.
const UNABLE: u8 = 3;

/// End-to-end tests on a real Kubernetes, which they stand up themselves.
#[derive(Parser)]
#[command(name = "chronik-e2e")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Say why this machine cannot run them, with status 3; or nothing
    Check,
    /// Kubernetes up, the scenarios, Kubernetes down
    Run(Run),
    /// The scenarios alone, on the Kubernetes that is up
    Scenarios(Scenarios),
    /// Stand the Kubernetes up, and leave it
    Up(Place),
    /// Take it down, whatever state it is in
    Down,
    /// Run a program beside its control plane, with kubectl and helm on its path
    Sh {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Kill a node with all its containers
    KillNode { node: u32 },
    /// Start a killed node
    StartNode { node: u32 },
}

#[derive(Args)]
struct Place {
    /// The repository
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Where the Kubernetes lives: a directory on a real disk
    #[arg(long, default_value = "target/e2e")]
    dir: PathBuf,
    /// The directory of the images' archives
    #[arg(long, default_value = "target/e2e/images")]
    images: PathBuf,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    scenarios: Scenarios,
    /// Leave the Kubernetes up afterwards
    #[arg(long)]
    keep: bool,
}

#[derive(Args)]
struct Scenarios {
    /// Run only these; all by default
    #[arg(value_name = "SCENARIO", value_parser = clap::builder::PossibleValuesParser::new(scenarios::ALL.map(|s| s.name)))]
    names: Vec<String>,
    /// The long run
    #[arg(long)]
    full: bool,
    /// The client's program; beside this one by default
    #[arg(long)]
    client: Option<PathBuf>,
    /// The repository
    #[arg(long = "in", default_value = ".", id = "scenarios_root")]
    root: PathBuf,
    /// Where ledgers and what a failure left are written
    #[arg(long, default_value = "target/e2e/out")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Check => match able::why_not() {
            None => Ok(()),
            Some(why) => {
                println!("{why}");
                return ExitCode::from(UNABLE);
            }
        },
        Task::Run(args) => run(&args),
        Task::Scenarios(args) => play(&args),
        Task::Up(place) => Lock::take().and_then(|_lock| up(&place)).map(|_| ()),
        Task::Down => Lock::take().and_then(|_lock| clean::down()),
        Task::Sh { command } => sh(&command),
        Task::KillNode { node } => Bed::open().and_then(|bed| bed.kill_node(node)),
        Task::StartNode { node } => Bed::open().and_then(|bed| bed.start_node(node)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chronik-e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn up(place: &Place) -> Result<Bed> {
    let begun = Instant::now();
    programs::install_packages()?;
    let programs = programs::kubernetes(&place.root.join("e2e/bed/kubeall"))?;
    let images = images(place)?;
    println!("Kubernetes: {NODES} nodes, {} images", images.len());
    let standing = Instant::now();
    let bed = Bed::up(&place.dir, &programs, NODES, &images, &place.root.join("e2e/bed/pause.c"))?;
    let (took, all) = (standing.elapsed(), begun.elapsed());
    println!(
        "Kubernetes is up after {:.1} s ({:.1} s with its programs)",
        took.as_secs_f64(),
        all.as_secs_f64()
    );
    Ok(bed)
}

fn images(place: &Place) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    // Whoever wants a bare Kubernetes gets one.
    let Ok(entries) = std::fs::read_dir(&place.images) else { return Ok(images) };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tar") {
            images.push(std::path::absolute(path)?);
        }
    }
    images.sort();
    Ok(images)
}

/// All of it. Ctrl-C, too, takes the Kubernetes down once it is up; before that the next run does, or `down`.
fn run(args: &Run) -> Result<()> {
    let _lock = Lock::take()?;
    clear_failures(&args.scenarios.out)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = up(&args.place).and_then(|bed| {
        for image in IMAGES {
            ensure!(bed.has_image(image)?, "no image {image} in {}", args.place.images.display());
        }
        runtime.block_on(scenarios_beside(&bed, args))
    });
    if args.keep {
        println!("\nthe Kubernetes stays up: `chronik-e2e sh kubectl get pods -A`, `chronik-e2e down`");
        return result;
    }
    if result.is_err() {
        keep_logs(&args.scenarios.out);
    }
    let begun = Instant::now();
    let down = clean::down().context("taking the Kubernetes down");
    println!("Kubernetes is down after {:.1} s", begun.elapsed().as_secs_f64());
    result.and(down)
}

/// What earlier runs left of their failures would be taken for this one's.
fn clear_failures(out: &Path) -> Result<()> {
    for entry in std::fs::read_dir(out).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(FAILED) {
            std::fs::remove_dir_all(entry.path()).with_context(|| entry.path().display().to_string())?;
        }
    }
    Ok(())
}

/// The logs of Kubernetes itself lie in a tmpfs that goes with it.
fn keep_logs(out: &Path) {
    let Ok(bed) = Bed::open() else { return };
    let kept = out.join(format!("{FAILED}kubernetes"));
    let copied = std::fs::create_dir_all(&kept).and_then(|()| {
        for entry in std::fs::read_dir(bed.logs())? {
            let entry = entry?;
            std::fs::copy(entry.path(), kept.join(entry.file_name()))?;
        }
        Ok(())
    });
    match copied {
        Ok(()) => println!("the logs of Kubernetes: {}", kept.display()),
        Err(error) => println!("the logs of Kubernetes could not be kept: {error}"),
    }
}

/// Runs the scenarios as a process of their own, in the control plane's namespace.
async fn scenarios_beside(bed: &Bed, args: &Run) -> Result<()> {
    let mut play = bed.command(&std::env::current_exe()?.to_string_lossy());
    play.arg("scenarios").args(&args.scenarios.names);
    play.arg("--in").arg(&args.place.root).arg("--out").arg(&args.scenarios.out);
    if args.scenarios.full {
        play.arg("--full");
    }
    if let Some(client) = &args.scenarios.client {
        play.arg("--client").arg(client);
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut child = tokio::process::Command::from(play).kill_on_drop(true).spawn()?;
    let status: ExitStatus = tokio::select! {
        status = child.wait() => status?,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    };
    ensure!(status.success(), "the scenarios ended with {status}");
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn play(args: &Scenarios) -> Result<()> {
    let client = match &args.client {
        Some(client) => client.clone(),
        None => std::env::current_exe()?.with_file_name("chronik-e2e-client"),
    };
    ensure!(client.is_file(), "{} is not there", client.display());
    let root = std::path::absolute(&args.root)?;
    let stage = Stage::open(root, std::path::absolute(&args.out)?, client, args.full).await?;
    scenarios::run(&stage, &args.names).await
}

fn sh(command: &[String]) -> Result<()> {
    let (program, args) = command.split_first().context("no program")?;
    let mut command: Command = Bed::open()?.command(program);
    let status = command.args(args).status().with_context(|| format!("cannot start {program}"))?;
    ensure!(status.success(), "{program} ended with {status}");
    Ok(())
}
