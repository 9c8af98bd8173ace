//! `cargo xtask fuzz`: runs the targets in `broker/fuzz` with libFuzzer.
//!
//! Neither nightly nor cargo-fuzz is needed: the coverage instrumentation is LLVM's own pass, which the stable
//! compiler runs too, and the `libfuzzer-sys` crate builds libFuzzer with g++. (AddressSanitizer is what stable
//! lacks; there is no unsafe code in what is fuzzed.)

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const RUSTFLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // One object file for each crate: the pass numbers the counters of an object file.
    "-Ccodegen-units=1",
    "--cfg",
    "fuzzing",
];

/// Past this much memory, in MiB, an input counts as a crash.
const RSS_LIMIT_MB: u32 = 1024;
/// Past this time, in seconds, an input counts as a crash.
const TIMEOUT_S: u32 = 10;

#[derive(clap::Args)]
pub struct Args {
    /// How long each target runs.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// The targets to run; all of them, if none is named.
    targets: Vec<String>,
}

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let known = targets(root)?;
    for target in &args.targets {
        ensure!(known.contains(target), "no fuzz target {target}; there are {}", known.join(", "));
    }
    let chosen = if args.targets.is_empty() { &known } else { &args.targets };
    let work = crate::target_dir(root).join("fuzz");
    let binaries = build(root, &work, chosen)?;
    let mut crashed = Vec::new();
    for target in chosen {
        if !fuzz(&binaries.join(target), target, &work, args.seconds)? {
            crashed.push(target.as_str());
        }
    }
    ensure!(crashed.is_empty(), "fuzzing found a crash in: {}", crashed.join(", "));
    Ok(())
}

/// The names of the files in `fuzz_targets`.
fn targets(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("broker/fuzz/fuzz_targets")).context("listing fuzz targets")? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().filter(|_| path.extension().is_some_and(|e| e == "rs")) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Builds the targets and returns the directory of their binaries.
fn build(root: &Path, work: &Path, targets: &[String]) -> Result<PathBuf> {
    // With a target named, build scripts and procedural macros are not instrumented, which would not link.
    let host = host()?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--target", &host]);
    cargo.args(targets.iter().flat_map(|target| ["--bin", target]));
    cargo.arg("--target-dir").arg(work);
    cargo.current_dir(root.join("broker/fuzz"));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f")).env_remove("RUSTFLAGS");
    let status = cargo.status().context("starting cargo")?;
    ensure!(status.success(), "the fuzz targets do not build: {status}");
    Ok(work.join(host).join("release"))
}

fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("starting rustc")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// Runs one target; false if it crashed. The corpus is kept between runs, below `work`.
fn fuzz(binary: &Path, target: &str, work: &Path, seconds: u32) -> Result<bool> {
    let (corpus, seeds, artifacts) = (
        work.join("corpus").join(target),
        work.join("seeds").join(target),
        work.join("artifacts").join(target),
    );
    for directory in [&corpus, &seeds, &artifacts] {
        std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    let output = Command::new(binary)
        .args([&corpus, &seeds])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={RSS_LIMIT_MB}"))
        .arg(format!("-timeout={TIMEOUT_S}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .env("FUZZ_SEEDS", &seeds)
        .output()
        .with_context(|| format!("starting {}", binary.display()))?;
    let log = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        println!("{target}: {}", summary(&log)?);
        return Ok(true);
    }
    // libFuzzer says what happened last: the panic, the stack, the input and where it was written.
    let lines: Vec<&str> = log.lines().collect();
    println!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
    println!("{target}: crashed ({})", output.status);
    match log.lines().find_map(|line| line.split_once("Test unit written to ")) {
        Some((_, input)) => println!("reproduce with: {} {input}", binary.display()),
        None => println!("reproduce with: {} {}", binary.display(), corpus.display()),
    }
    Ok(false)
}

/// The executions, and the coverage that libFuzzer reports when it is done.
fn summary(log: &str) -> Result<String> {
    let runs = log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units: "));
    let done = log.lines().find(|line| line.starts_with('#') && line.contains("DONE"));
    let coverage = done.and_then(|line| line.find("cov:").map(|at| &line[at..]));
    let (Some(runs), Some(coverage)) = (runs, coverage) else {
        bail!("libFuzzer has not said what it did:\n{log}");
    };
    Ok(format!("{} executions, {coverage}", runs.trim()))
}
