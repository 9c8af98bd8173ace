//! A node: containerd in a private mount namespace and a network namespace, a kubelet, and a kube-proxy. It can be
//! killed at once, with all its containers, and started again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::json;

use super::process::{self, output, signal, wait};
use super::{Bed, able};

/// Runs containerd where a node's directories are the usual ones. The CNI plugins' names for network namespaces stay
/// inside.
const START: &str = r#"
set -e
mount --make-rslave /
mount --make-rshared /
mkdir -p /var/lib/containerd /var/lib/kubelet /run/containerd /run/runc /run/netns /var/log/pods /var/log/containers
mount --bind "$1/containerd" /var/lib/containerd
mount --rbind "$1/kubelet" /var/lib/kubelet
mount --bind "$1/logs/pods" /var/log/pods
mount --bind "$1/logs/containers" /var/log/containers
mount -t tmpfs tmpfs /run/containerd
mount -t tmpfs tmpfs /run/runc
mount -t tmpfs tmpfs /run/netns
exec containerd --config "$1/containerd.toml"
"#;

impl Bed {
    /// Makes a node's directories, starts it and loads the images.
    pub(super) fn first_start(&self, node: u32, images: &[PathBuf]) -> Result<()> {
        self.node_files(node)?;
        self.start_containerd(node)?;
        for image in images {
            let import = ["ctr", "-n", "k8s.io", "images", "import", "--snapshotter", "overlayfs"];
            output(self.in_node(node)?.args(import).arg(image))
                .with_context(|| format!("loading {} into n{node}", image.display()))?;
        }
        self.start_kubelet(node)
    }

    /// Starts a node that was killed.
    pub fn start_node(&self, node: u32) -> Result<()> {
        self.start_containerd(node)?;
        self.start_kubelet(node)
    }

    /// The node dies at once: kubelet, proxy, containerd, and every container of it.
    pub fn kill_node(&self, node: u32) -> Result<()> {
        for name in [format!("kubelet-{node}"), format!("proxy-{node}")] {
            if let Some(pid) = self.pid(&name) {
                signal(pid, Signal::KILL);
            }
            let _ = std::fs::remove_file(self.pid_file(&name));
        }
        let name = format!("containerd-{node}");
        let Some(containerd) = self.pid(&name) else { return Ok(()) };
        let mounts = mount_namespace(containerd);
        wait(&format!("the end of n{node}"), Duration::from_secs(20), Duration::from_millis(50), || {
            let mut left = processes_of_node(node);
            if let Some(mounts) = mounts.as_ref().filter(|mounts| Some(*mounts) != own_mounts().as_ref()) {
                // containerd and its shims.
                left.extend(process::all().into_iter().filter(|pid| {
                    mount_namespace(*pid).as_ref() == Some(mounts) && process::is_running(*pid)
                }));
            }
            left.iter().for_each(|pid| signal(*pid, Signal::KILL));
            left.is_empty()
        })?;
        let _ = std::fs::remove_file(self.pid_file(&name));
        Ok(())
    }

    /// A command that runs inside a node.
    pub(super) fn in_node(&self, node: u32) -> Result<Command> {
        let pid = self.pid(&format!("containerd-{node}")).with_context(|| format!("n{node} is down"))?;
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid.to_string(), "-m", "-n"]);
        Ok(command)
    }

    fn start_containerd(&self, node: u32) -> Result<()> {
        let dir = self.node_dir(node).display().to_string();
        let net = format!("--net=/run/netns/kn{node}");
        let unshare = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", START, "sh", &dir];
        let args = std::iter::once(net).chain(unshare.iter().map(|arg| (*arg).to_owned())).collect();
        let pid = self.background(&format!("containerd-{node}"), "nsenter", args)?;
        // Asked before it listens, ctr would wait for ten seconds; and the machine may have a containerd of its own.
        let socket = format!("/proc/{pid}/root/run/containerd/containerd.sock");
        wait(&format!("containerd of n{node}"), Duration::from_secs(30), Duration::from_millis(50), || {
            mount_namespace(pid) != own_mounts()
                && Path::new(&socket).exists()
                && self.in_node(node).is_ok_and(|mut node| output(node.args(["ctr", "version"])).is_ok())
        })
    }

    fn start_kubelet(&self, node: u32) -> Result<()> {
        let dir = self.node_dir(node);
        let file = |name: &str| dir.join(name).display().to_string();
        let containerd = self.pid(&format!("containerd-{node}")).context("containerd has no process id")?;
        let inside = |args: &[&str]| {
            let mut all = vec!["-t".to_owned(), containerd.to_string(), "-m".to_owned(), "-n".to_owned()];
            all.push(self.kubeall.display().to_string());
            all.extend(args.iter().map(|arg| (*arg).to_owned()));
            all
        };
        let (name, address) = (format!("n{node}"), self.address(node));
        let label = format!("topology.kubernetes.io/zone=z{node}");
        #[rustfmt::skip]
        let kubelet = inside(&["kubelet", "--config", &file("kubelet.json"),
            "--kubeconfig", &self.kubeconfig().display().to_string(), "--hostname-override", &name,
            "--node-ip", &address, "--cert-dir", &file("kubelet/pki"), "--node-labels", &label,
        ]);
        self.background(&format!("kubelet-{node}"), "nsenter", kubelet)?;
        let proxy = inside(&["kube-proxy", "--config", &file("proxy.json"), "--hostname-override", &name]);
        self.background(&format!("proxy-{node}"), "nsenter", proxy)?;
        Ok(())
    }

    fn node_files(&self, node: u32) -> Result<()> {
        let dir = self.node_dir(node);
        for name in ["containerd", "kubelet", "cni/net.d", "cnidata", "logs/pods", "logs/containers"] {
            std::fs::create_dir_all(dir.join(name))?;
        }
        for cgroup in able::cgroups(node) {
            std::fs::create_dir_all(&cgroup).with_context(|| cgroup.display().to_string())?;
        }
        // A new cpuset takes no processes before it has processors and memory.
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let of_all = std::fs::read_to_string(Path::new("/sys/fs/cgroup/cpuset").join(name))?;
            std::fs::write(Path::new("/sys/fs/cgroup/cpuset").join(format!("kn{node}")).join(name), of_all)?;
        }
        let ipam = json!({
            "type": "host-local", "dataDir": dir.join("cnidata"),
            "ranges": [[{"subnet": format!("10.88.{node}.0/24")}]], "routes": [{"dst": "0.0.0.0/0"}],
        });
        let cni = json!({
            "cniVersion": "1.0.0", "name": "k", "plugins": [
                {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": ipam},
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        std::fs::write(dir.join("cni/net.d/10-k.conflist"), cni.to_string())?;
        std::fs::write(dir.join("containerd.toml"), containerd_config(&dir))?;
        std::fs::write(dir.join("kubelet.json"), kubelet_config(node))?;
        std::fs::write(dir.join("proxy.json"), self.proxy_config(&self.address(node)))?;
        Ok(())
    }
}

/// The processes in the node's cgroups.
pub(super) fn processes_of_node(node: u32) -> Vec<u32> {
    let mut pids = Vec::new();
    let mut dirs: Vec<PathBuf> =
        able::cgroups(node).into_iter().filter(|dir| dir.starts_with("/sys/fs/cgroup/pids")).collect();
    while let Some(dir) = dirs.pop() {
        let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        pids.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
        let below = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        dirs.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    pids.retain(|pid| process::is_running(*pid));
    pids
}

fn mount_namespace(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}

fn own_mounts() -> Option<PathBuf> {
    std::fs::read_link("/proc/self/ns/mnt").ok()
}

fn containerd_config(dir: &Path) -> String {
    // `restrict_oom_score_adj`: without CAP_SYS_RESOURCE a process cannot be made less likely to be killed.
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{dir}/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#,
        dir = dir.display()
    )
}

fn kubelet_config(node: u32) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/kn{node}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": [super::CONTROL_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 8,
        "enforceNodeAllocatable": [],
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "24h",
        "serializeImagePulls": false,
        "maxPods": 100,
    })
    .to_string()
}
