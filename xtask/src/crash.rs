//! `cargo xtask crash`: builds the broker with its test-only switches and the crash program, and runs that.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Crash, power-loss and fault tests against the real broker.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// `kill`, `power`, `faults` or `ci`, and their options; `--help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    rest: Vec<String>,
}

/// Runs the crash program in the workspace at `root`.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    build(root, &["-p", "chronik-faultfs"])?;
    let given = |option: &str| args.rest.iter().any(|arg| arg.starts_with(option));
    let needs_broker = !given("--broker-bin") && !given("--command-line") && !given("--help");
    if needs_broker {
        build(root, &["-p", "chronik-broker", "--features", "test-switches"])?;
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
    let mut crash = Command::new(target.join("ci/chronik-crash"));
    crash.current_dir(root);
    if needs_broker {
        crash.arg("--broker-bin").arg(target.join("ci/chronik"));
    }
    if !given("--work-dir") {
        // Beside the binaries: on a real disk, and never committed.
        crash.arg("--work-dir").arg(target.join("crash"));
    }
    crash.args(&args.rest);
    let status = crash.status().context("cannot run chronik-crash")?;
    ensure!(status.success(), "the crash tests failed");
    Ok(())
}

fn build(root: &Path, what: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(root)
        .args(["build", "--quiet", "--profile", "ci"])
        .args(what)
        .status()?;
    ensure!(status.success(), "the build failed");
    Ok(())
}
