//! `cargo xtask e2e`: builds the images and the end-to-end tests, and runs them on a real Kubernetes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The packages whose binaries are in the images, and the tests themselves.
const PACKAGES: [&str; 6] = ["-p", "chronik-broker", "-p", "chronik-operator", "-p", "chronik-e2e"];
/// The status by which the tests say that this machine cannot run them.
const UNABLE: i32 = 3;

/// End-to-end tests on a real Kubernetes, which they stand up themselves.
#[derive(clap::Args)]
pub struct Args {
    /// Run only these scenarios; all by default
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// The long run: every disturbance with and without the operator
    #[arg(long)]
    full: bool,
    /// Leave the Kubernetes up afterwards
    #[arg(long)]
    keep: bool,
    /// The directory of the binaries; built by default
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let target = std::path::absolute(crate::target_dir(root))?;
    let binaries = match &args.bin_dir {
        Some(dir) => std::path::absolute(dir)?,
        None => {
            build(root)?;
            target.join("ci")
        }
    };
    let tests = binaries.join("chronik-e2e");
    if let Some(why) = unable(&tests)? {
        let required = std::env::var("CHRONIK_E2E").is_ok_and(|value| value == "required");
        ensure!(!required, "CHRONIK_E2E=required, but this machine cannot run the end-to-end tests: {why}");
        println!("skipped: this machine cannot run the end-to-end tests: {why}");
        return Ok(());
    }
    let this = std::env::current_exe()?;
    let dir = target.join("e2e");
    let images = dir.join("images");
    pass(Command::new(&this).current_dir(root).arg("images").arg(&images).arg("--bin-dir").arg(&binaries))?;
    let mut run = Command::new(&tests);
    run.current_dir(root).env("CHRONIK_XTASK", this).arg("run").args(&args.scenarios);
    run.arg("--root").arg(root).arg("--dir").arg(&dir).arg("--images").arg(images);
    run.arg("--out").arg(dir.join("out"));
    for (given, flag) in [(args.full, "--full"), (args.keep, "--keep")] {
        if given {
            run.arg(flag);
        }
    }
    pass(&mut run)
}

/// Why the tests cannot run here.
fn unable(tests: &Path) -> Result<Option<String>> {
    let check = Command::new(tests).arg("check").output();
    let check = check.with_context(|| format!("cannot run {}", tests.display()))?;
    let said = String::from_utf8_lossy(&check.stdout).trim().to_owned();
    match check.status.code() {
        Some(0) => Ok(None),
        Some(UNABLE) => Ok(Some(said)),
        _ => bail!("{} check: {}", tests.display(), check.status),
    }
}

fn build(root: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    pass(Command::new(cargo).current_dir(root).args(["build", "--quiet", "--profile", "ci"]).args(PACKAGES))
}

fn pass(command: &mut Command) -> Result<()> {
    let shown: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(status.success(), "`{}` ended with {status}", shown.join(" "));
    Ok(())
}
