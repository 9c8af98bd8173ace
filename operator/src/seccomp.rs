//! `chronik-operator install-seccomp`: keeps one seccomp profile in the kubelet's directory of a node.
//!
//! It is what the chart's installer DaemonSet runs. The image has no shell, so copying a file takes a program.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// Keep a seccomp profile on this node
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The profile, in the form of the OCI runtime specification
    #[arg(long, value_name = "FILE")]
    source: PathBuf,
    /// Where it shall be; directories are made
    #[arg(long, value_name = "FILE")]
    target: PathBuf,
    /// Write it once and end
    #[arg(long)]
    once: bool,
}

/// How often the file is looked at again: a node's tools may clean up, and the source may change.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// A profile has a few kilobytes; nothing larger is read.
const PROFILE_BYTES_MAX: u64 = 1 << 20;

/// Writes the profile, and again whenever it is missing or another, until a signal ends the process.
///
/// # Errors
/// When the source is no profile, or the target cannot be written.
pub async fn run(args: Args) -> Result<()> {
    let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        if install(&args.source, &args.target)? {
            tracing::info!(target = %args.target.display(), "the seccomp profile is written");
        }
        if args.once {
            return Ok(());
        }
        tokio::select! {
            _ = stop.recv() => return Ok(()),
            _ = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

/// Makes the target equal to the source; whether that changed it.
fn install(source: &Path, target: &Path) -> Result<bool> {
    let length =
        std::fs::metadata(source).with_context(|| format!("cannot read {}", source.display()))?.len();
    anyhow::ensure!(length <= PROFILE_BYTES_MAX, "{} is too large for a profile", source.display());
    let profile = std::fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
    // A file that is no profile would keep every container that names it from starting.
    let parsed: serde_json::Value =
        serde_json::from_slice(&profile).with_context(|| format!("{} is not JSON", source.display()))?;
    anyhow::ensure!(
        parsed.get("defaultAction").is_some_and(serde_json::Value::is_string),
        "{} has no defaultAction: it is no seccomp profile",
        source.display()
    );
    if std::fs::read(target).is_ok_and(|there| there == profile) {
        return Ok(false);
    }
    let directory = target.parent().context("the target has no directory")?;
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    // A container may start at any moment: it sees the old file or the new one, never a part.
    let partial = directory.join(".chronik-seccomp.partial");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(&profile)?;
        file.sync_all()?;
        std::fs::rename(&partial, target)
    };
    write().with_context(|| format!("cannot write {}", target.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("chronik-seccomp-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn a_profile_is_written_once_and_mended() {
        let directory = scratch("written");
        let (source, target) = (directory.join("in.json"), directory.join("host/chronik/out.json"));
        std::fs::write(&source, r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#).unwrap();
        assert!(install(&source, &target).unwrap());
        assert!(!install(&source, &target).unwrap());
        std::fs::write(&target, "{").unwrap();
        assert!(install(&source, &target).unwrap());
        assert_eq!(std::fs::read(&target).unwrap(), std::fs::read(&source).unwrap());
        let left = std::fs::read_dir(target.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "the partial file stayed");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_is_no_profile_is_not_installed() {
        let directory = scratch("refused");
        let (source, target) = (directory.join("in.json"), directory.join("out.json"));
        for bad in ["", "[]", "{}", r#"{"defaultAction":1}"#] {
            std::fs::write(&source, bad).unwrap();
            assert!(install(&source, &target).is_err(), "{bad:?}");
        }
        assert!(install(&directory.join("missing"), &target).is_err());
        assert!(!target.exists());
        std::fs::remove_dir_all(directory).unwrap();
    }

    /// The profile that the chart brings allows what the write-ahead log needs, and not what escapes from containers.
    #[test]
    fn the_charts_profile_allows_io_uring() {
        let profile: serde_json::Value =
            serde_json::from_str(include_str!("../../charts/chronik-operator/files/seccomp/io-uring.json"))
                .unwrap();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        let allowed: Vec<&str> = profile["syscalls"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW")
            .flat_map(|rule| rule["names"].as_array().unwrap())
            .map(|name| name.as_str().unwrap())
            .collect();
        for needed in
            ["io_uring_setup", "io_uring_enter", "io_uring_register", "clone", "fdatasync", "fallocate"]
        {
            assert!(allowed.contains(&needed), "{needed}");
        }
        for refused in ["mount", "ptrace", "bpf", "unshare", "setns", "keyctl", "init_module", "kexec_load"] {
            assert!(!allowed.contains(&refused), "{refused}");
        }
    }
}
