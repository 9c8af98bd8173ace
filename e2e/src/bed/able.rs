//! Whether this machine can have the bed.

use std::path::{Path, PathBuf};

use super::process::{is_there, run};
use super::programs::missing_packages;

/// The hierarchies in which a node has a cgroup. The kubelet is told to use cgroups of version 1.
const HIERARCHIES: [&str; 9] =
    ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"];

/// A node's cgroups.
pub fn cgroups(node: u32) -> Vec<PathBuf> {
    let dir = |name: &&str| Path::new("/sys/fs/cgroup").join(name).join(format!("kn{node}"));
    HIERARCHIES.iter().map(dir).collect()
}

/// Why this machine cannot have the bed; `None` if it can, as far as can be seen without trying.
pub fn why_not() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("this is not Linux".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    for name in HIERARCHIES {
        let probe = Path::new("/sys/fs/cgroup").join(name).join("chronik-e2e-probe");
        if let Err(error) = std::fs::create_dir(&probe) {
            return Some(format!("no cgroup of version 1 can be made in {name}: {error}"));
        }
        let _ = std::fs::remove_dir(&probe);
    }
    if let Err(error) = run("unshare", &["--net", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]) {
        return Some(format!("no namespaces: {error:#}"));
    }
    if !std::fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains("\toverlay\n")) {
        return Some("the kernel has no overlayfs".to_owned());
    }
    let missing = missing_packages();
    if !missing.is_empty() && !is_there("apt-get") {
        return Some(format!("{} missing, and there is no apt-get to install them", missing.join(", ")));
    }
    if !is_there("go") {
        return Some("there is no Go to build Kubernetes with".to_owned());
    }
    let foreign = Path::new("/run/netns/kc").exists() && !Path::new(super::POINTER).exists();
    foreign.then(|| "a network namespace named kc is there, which is not ours".to_owned())
}
