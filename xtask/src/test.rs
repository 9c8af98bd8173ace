//! `cargo xtask test`: every check there is, from cheap to dear, with progress and durations.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail, ensure};

use crate::watched::pass;

/// Everything that must pass: what CI runs.
#[derive(clap::Args)]
pub struct Args {
    /// Run only these steps; all by default
    #[arg(value_name = "STEP", value_parser = clap::builder::PossibleValuesParser::new(STEPS.map(|s| s.name)))]
    steps: Vec<String>,
    /// Leave these steps out
    #[arg(long, value_name = "STEP")]
    skip: Vec<String>,
}

struct Step {
    name: &'static str,
    what: &'static str,
    run: fn(&Path) -> Result<()>,
}

const STEPS: [Step; 14] = [
    Step { name: "format", what: "rustfmt finds nothing to change", run: format },
    Step { name: "lints", what: "clippy has nothing to say", run: lints },
    Step { name: "deny", what: "licences, sources and bans of all dependencies", run: deny },
    Step { name: "build", what: "everything, in the profile that all tests share", run: build },
    Step { name: "unit", what: "unit, property and golden tests", run: unit },
    Step { name: "sim", what: "the simulator: a lying disk, by seed", run: sim },
    Step { name: "crash", what: "kill, power loss and faults against the real broker", run: crash },
    Step { name: "bench", what: "the bench and its yardstick, every byte verified", run: bench },
    Step {
        name: "endurance",
        what: "1,000 partitions, retention and compaction, nothing grows",
        run: endurance,
    },
    Step { name: "compare", what: "compaction leaves what Kafka's own cleaner leaves", run: compare },
    Step { name: "differential", what: "every request is answered as Kafka answers it", run: differential },
    Step {
        name: "clients",
        what: "Kafka's own clients, over restarts and deaths, theirs and the broker's",
        run: clients,
    },
    Step { name: "fuzz", what: "every decoder under libFuzzer, 10 s each", run: fuzz },
    Step { name: "e2e", what: "operator, brokers and clients on a real Kubernetes", run: e2e },
];

/// One set of packages and features for every build, so that nothing is compiled twice.
const WHOLE: [&str; 5] = ["--profile", "ci", "--workspace", "--features", "chronik-broker/test-switches"];

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let named = |list: &[String], step: &Step| list.iter().any(|n| n == step.name);
    let chosen: Vec<&Step> = STEPS
        .iter()
        .filter(|s| args.steps.is_empty() || named(&args.steps, s))
        .filter(|s| !named(&args.skip, s))
        .collect();
    let begun = Instant::now();
    let mut done: Vec<(&Step, Duration, Option<Error>)> = Vec::new();
    for (n, step) in chosen.iter().enumerate() {
        println!("\n==> {}/{} {}: {}", n + 1, chosen.len(), step.name, step.what);
        let started = Instant::now();
        let failed = (step.run)(root).err();
        let took = started.elapsed();
        match &failed {
            None => println!("<== {} passed in {:.0?}", step.name, took),
            Some(why) => println!("<== {} FAILED in {:.0?}: {why}", step.name, took),
        }
        let broken = failed.is_some();
        done.push((step, took, failed));
        // What follows a broken build would only repeat its errors.
        if broken && step.name == "build" {
            break;
        }
    }
    // What failed is told again where it is looked for: at the end of hours of output.
    for (step, _, failed) in &done {
        if let Some(why) = failed {
            println!("\n{} FAILED: {why:#}", step.name);
        }
    }
    println!();
    for (step, took, failed) in &done {
        println!("{:<13} {:>6.0?}  {}", step.name, took, if failed.is_some() { "FAILED" } else { "passed" });
    }
    let failed = done.iter().filter(|(_, _, failed)| failed.is_some()).count();
    println!("in {:.0?} altogether", begun.elapsed());
    println!("{} passed, {failed} failed", done.len() - failed);
    ensure!(failed == 0, "{failed} of {} steps failed", done.len());
    Ok(())
}

fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

/// This program again, with another task.
fn xtask(root: &Path, args: &[&str]) -> Result<()> {
    pass(Command::new(std::env::current_exe()?).current_dir(root).args(args))
}

fn binary(root: &Path, name: &str) -> Result<PathBuf> {
    Ok(std::path::absolute(crate::target_dir(root))?.join("ci").join(name))
}

/// The fuzz targets, and the Rust client that the broker is tested with.
const OTHER_WORKSPACES: [&str; 2] = ["broker/fuzz/Cargo.toml", "broker/tests/clients/rust/Cargo.toml"];

fn format(root: &Path) -> Result<()> {
    pass(cargo(root).args(["fmt", "--all", "--check"]))?;
    OTHER_WORKSPACES
        .iter()
        .try_for_each(|other| pass(cargo(root).args(["fmt", "--check", "--manifest-path", other])))
}

fn lints(root: &Path) -> Result<()> {
    pass(cargo(root).args(["clippy", "--quiet", "--workspace", "--all-targets"]).args([
        "--features",
        "chronik-broker/test-switches",
        "--",
        "--deny",
        "warnings",
    ]))?;
    // They build late: a lock file that knows too little is told here.
    for other in OTHER_WORKSPACES {
        let tree = ["tree", "--quiet", "--locked", "--depth", "0", "--manifest-path", other];
        pass(cargo(root).args(tree))?;
    }
    xtask(root, &["shapes", "--check"])?;
    xtask(root, &["charts", "--check"])
}

/// The advisory database is fetched from its repository: where that cannot be reached, the rest is checked.
fn deny(root: &Path) -> Result<()> {
    const VERSION: &str = "0.20.2";
    let tools = std::path::absolute(crate::target_dir(root))?.join("tools");
    let installed = tools.join("bin/cargo-deny");
    let program = if installed.is_file() {
        installed
    } else if on_path("cargo-deny") {
        PathBuf::from("cargo-deny")
    } else {
        println!("installing cargo-deny {VERSION}, once");
        let install = ["install", "--quiet", "--locked", "cargo-deny", "--version", VERSION, "--root"];
        pass(cargo(root).args(install).arg(&tools).args(["--no-default-features", "--debug"]))?;
        installed
    };
    pass(Command::new(&program).current_dir(root).args(["check", "bans", "licenses", "sources"]))?;
    let advisories = Command::new(&program).current_dir(root).args(["check", "advisories"]).output()?;
    if advisories.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&advisories.stderr);
    if said.contains("failed to fetch advisory database") || said.contains("failed to clone") {
        println!("advisories: not checked, their database cannot be fetched from here");
        return Ok(());
    }
    bail!("advisories:\n{said}")
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn build(root: &Path) -> Result<()> {
    pass(cargo(root).arg("build").args(WHOLE))
}

fn unit(root: &Path) -> Result<()> {
    let mut test = cargo(root);
    if std::env::var_os("CI").is_some() {
        // Where CI runs, FUSE is there: a test that skips itself has not passed.
        test.env("CHRONIK_FAULTFS", "required");
    }
    pass(test.arg("test").args(WHOLE))
}

fn sim(root: &Path) -> Result<()> {
    pass(Command::new(binary(root, "chronik-sim")?).current_dir(root))
}

fn crash(root: &Path) -> Result<()> {
    let work = std::path::absolute(crate::target_dir(root))?.join("crash");
    pass(
        Command::new(binary(root, "chronik-crash")?)
            .arg("--broker-bin")
            .arg(binary(root, "chronik")?)
            .arg("--work-dir")
            .arg(work)
            .arg("ci"),
    )
}

/// No figure is judged here: only that everything that measures runs, and that all that was acknowledged is
/// read back.
fn bench(root: &Path) -> Result<()> {
    let chronik = binary(root, "chronik")?;
    let rows = "fixed,pipelined,floor";
    let short = [
        "bench",
        "--quick",
        "--no-kafka",
        "--no-life",
        "--duration",
        "1.5",
        "--warmup",
        "0.5",
        "--rows",
        rows,
    ];
    let mut args = short.to_vec();
    let chronik = chronik.to_string_lossy();
    args.extend(["--program", &chronik]);
    xtask(root, &args)
}

/// Two minutes of Chronik alone. Records, memory, descriptors and the disk are judged; times are not.
fn endurance(root: &Path) -> Result<()> {
    let chronik = binary(root, "chronik")?;
    let program = chronik.to_string_lossy();
    let short = ["endurance", "--no-kafka", "--minutes", "1.2", "--cold-mib", "256", "--program", &program];
    xtask(root, &short)
}

fn compare(root: &Path) -> Result<()> {
    let chronik = binary(root, "chronik")?;
    xtask(root, &["compare", "--program", &chronik.to_string_lossy()])
}

fn differential(root: &Path) -> Result<()> {
    let [chronik, judge] = [binary(root, "chronik")?, binary(root, "chronik-differential")?];
    let (chronik, judge) = (chronik.to_string_lossy(), judge.to_string_lossy());
    xtask(root, &["differential", "--program", &chronik, "--differential", &judge])
}

fn clients(root: &Path) -> Result<()> {
    let broker = binary(root, "chronik")?;
    xtask(root, &["clients", "--broker-bin", &broker.to_string_lossy()])
}

fn fuzz(root: &Path) -> Result<()> {
    xtask(root, &["fuzz", "--seconds", "10"])
}

/// Skips itself where no Kubernetes can be stood up, unless CHRONIK_E2E=required.
fn e2e(root: &Path) -> Result<()> {
    let binaries = std::path::absolute(crate::target_dir(root))?.join("ci");
    xtask(root, &["e2e", "--bin-dir", &binaries.to_string_lossy()])
}
