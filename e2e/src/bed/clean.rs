//! Takes the bed down, whatever state it is in: also after a run that was interrupted, or killed in the middle of
//! setting it up.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::node::processes_of_node;
use super::process::{is_running, output, run, signal, wait};
use super::{Bed, POINTER, STATE, SYSCTLS, ip};

/// More nodes than a bed ever has.
const NODES_MAX: u32 = 9;

/// Removes the bed that is up, and all that is left of one. Nothing is done if there is none.
pub fn down() -> Result<()> {
    let Ok(run_dir) = std::fs::read_to_string(POINTER) else { return Ok(()) };
    let run_dir = Path::new(&run_dir);
    // Without its state it was interrupted right at the beginning.
    let bed: Option<Bed> =
        std::fs::read(run_dir.join(STATE)).ok().and_then(|state| serde_json::from_slice(&state).ok());
    if let Some(bed) = &bed {
        for node in 1..=bed.nodes {
            bed.kill_node(node)?;
        }
    }
    end_processes(run_dir)?;
    // containerd makes some in hierarchies that we did not name.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        for node in 1..=NODES_MAX {
            remove_cgroups(&hierarchy.path().join(format!("kn{node}")));
        }
    }
    for name in std::iter::once("kc".to_owned()).chain((1..=NODES_MAX).map(|n| format!("kn{n}"))) {
        if Path::new("/run/netns").join(&name).exists() {
            ip(&format!("netns del {name}"))?;
        }
    }
    if let Some(bed) = &bed {
        for (name, value) in SYSCTLS.iter().zip(&bed.sysctls) {
            std::fs::write(Path::new("/proc/sys").join(name), value).context(*name)?;
        }
        if bed.volumes.exists() {
            std::fs::remove_dir_all(&bed.volumes).with_context(|| bed.volumes.display().to_string())?;
        }
    }
    unmount(run_dir)?;
    std::fs::remove_file(POINTER)?;
    Ok(())
}

/// Ends what runs in our namespaces and cgroups: first by the names it was started under, then by where it is.
fn end_processes(run_dir: &Path) -> Result<()> {
    let mut named = Vec::new();
    for entry in std::fs::read_dir(run_dir.join("pid")).into_iter().flatten().flatten() {
        let pid = std::fs::read_to_string(entry.path()).ok().and_then(|text| text.trim().parse::<u32>().ok());
        named.extend(pid);
    }
    named.iter().for_each(|pid| signal(*pid, Signal::TERM));
    let pause = Duration::from_millis(50);
    let in_time = wait("the end of the control plane", Duration::from_secs(2), pause, || {
        !named.iter().any(|pid| is_running(*pid))
    });
    if in_time.is_err() {
        named.iter().for_each(|pid| signal(*pid, Signal::KILL));
    }
    wait("the end of the bed's processes", Duration::from_secs(20), pause, || {
        let mut left: Vec<u32> = (1..=NODES_MAX).flat_map(processes_of_node).collect();
        for name in std::iter::once("kc".to_owned()).chain((1..=NODES_MAX).map(|n| format!("kn{n}"))) {
            if Path::new("/run/netns").join(&name).exists() {
                let pids = run("ip", &["netns", "pids", &name]).unwrap_or_default();
                left.extend(pids.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        left.retain(|pid| *pid != std::process::id() && is_running(*pid));
        left.iter().for_each(|pid| signal(*pid, Signal::KILL));
        left.is_empty()
    })
}

/// A cgroup goes when it has no processes and none below.
fn remove_cgroups(cgroup: &Path) {
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(cgroup);
}

fn unmount(run_dir: &Path) -> Result<()> {
    let _ = wait("unmounting", Duration::from_secs(5), Duration::from_millis(200), || {
        !is_mounted(run_dir) || output(Command::new("umount").arg(run_dir)).is_ok()
    });
    if is_mounted(run_dir) {
        // Somebody looks into it; it goes when they leave.
        output(Command::new("umount").arg("--lazy").arg(run_dir))?;
    }
    ensure!(!is_mounted(run_dir), "{} stays mounted", run_dir.display());
    if run_dir.exists() {
        std::fs::remove_dir_all(run_dir).with_context(|| run_dir.display().to_string())?;
    }
    Ok(())
}

fn is_mounted(dir: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4) == dir.to_str())
}
