//! A real Kubernetes on one machine: its control plane in one network namespace, each node in another, with a
//! containerd, kubelet and kube-proxy of its own.
//!
//! | namespace | address | what |
//! |---|---|---|
//! | `kc` | 10.89.0.1 | etcd, the control plane, CoreDNS, and the test programs |
//! | `kn1`, `kn2`, … | 10.89.0.11, .12, … | node `n1`, `n2`, …; its pods are 10.88.N.0/24 |
//!
//! Nothing touches the machine's own network. Names and addresses are fixed, so there is one bed on a machine at a time;
//! a lock sees to that. State lies in a tmpfs (`run`): no flush of etcd or containerd waits for a disk. Volumes of the
//! brokers lie on the disk beside it.

pub mod able;
pub mod clean;
mod control;
mod net;
mod node;
pub mod process;
pub mod programs;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use process::{output, run};
use programs::Programs;

/// Where the control plane and the test programs are.
pub const CONTROL_ADDRESS: &str = "10.89.0.1";
/// Held by whoever has a bed up.
const LOCK: &str = "/run/chronik-e2e.lock";
/// Names the directory of the bed that is up, or was when its program was killed.
const POINTER: &str = "/run/chronik-e2e.bed";
/// In the bed's directory: what it is made of.
const STATE: &str = "bed.json";
/// What the kubelet sets for the whole machine; set back at the end.
const SYSCTLS: [&str; 3] = ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"];

/// A bed that is up, or is being set up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bed {
    /// The tmpfs.
    run: PathBuf,
    /// On the disk.
    volumes: PathBuf,
    kubeall: PathBuf,
    nodes: u32,
    /// The machine's own values of [`SYSCTLS`].
    sysctls: Vec<String>,
}

/// Keeps others from setting up a bed of theirs, as long as it lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for nobody: two beds cannot be up.
    ///
    /// # Errors
    /// If another program holds it.
    pub fn take() -> Result<Lock> {
        let file = File::create(LOCK).with_context(|| format!("cannot write {LOCK}"))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .context("another run of the end-to-end tests has its Kubernetes up on this machine")?;
        Ok(Lock { _file: file })
    }
}

impl Bed {
    /// Sets up a Kubernetes below `dir` with `nodes` nodes that have `images` (OCI archives). What an earlier,
    /// interrupted run has left is removed first. `pause` is the source of the pause program.
    pub fn up(dir: &Path, programs: &Programs, nodes: u32, images: &[PathBuf], pause: &Path) -> Result<Bed> {
        ensure!((1..=9).contains(&nodes), "1 to 9 nodes");
        clean::down()?;
        let dir = std::path::absolute(dir)?;
        let begun = Instant::now();
        let step = |what: &str| println!("  {what} after {:.1} s", begun.elapsed().as_secs_f64());
        let bed = Bed::prepare(&dir, programs, nodes)?;
        let pause_image = bed.run.join("pause.tar");
        programs::pause_image(pause, &pause_image)?;
        bed.certificates().context("making the certificates")?;
        bed.network().context("making the network")?;
        bed.control_plane().context("starting the control plane")?;
        step("control plane");
        let images: Vec<PathBuf> = std::iter::once(pause_image).chain(images.iter().cloned()).collect();
        let (bed_ref, images) = (&bed, images.as_slice());
        std::thread::scope(|scope| {
            let starts: Vec<_> =
                (1..=nodes).map(|n| scope.spawn(move || bed_ref.first_start(n, images))).collect();
            starts.into_iter().try_for_each(|start| match start.join() {
                Ok(done) => done,
                Err(_) => bail!("a thread panicked"),
            })
        })?;
        step("containers and kubelets");
        bed.wait_for_nodes()?;
        step("nodes ready");
        Ok(bed)
    }

    /// Directories, the tmpfs, and the pointer by which `down` finds it all.
    fn prepare(dir: &Path, programs: &Programs, nodes: u32) -> Result<Bed> {
        let (run_dir, volumes) = (dir.join("run"), dir.join("volumes"));
        std::fs::create_dir_all(&run_dir).with_context(|| run_dir.display().to_string())?;
        std::fs::create_dir_all(&volumes).with_context(|| volumes.display().to_string())?;
        std::fs::write(POINTER, run_dir.as_os_str().as_encoded_bytes())?;
        let tmpfs = ["-t", "tmpfs", "-o", "size=8g,mode=755", "tmpfs"];
        output(Command::new("mount").args(tmpfs).arg(&run_dir))?;
        for name in ["log", "pid", "bin"] {
            std::fs::create_dir(run_dir.join(name))?;
        }
        for (name, program) in [("kubectl", &programs.kubeall), ("helm", &programs.helm)] {
            std::os::unix::fs::symlink(program, run_dir.join("bin").join(name))?;
        }
        let read = |name: &&str| std::fs::read_to_string(Path::new("/proc/sys").join(name));
        let sysctls = SYSCTLS.iter().map(read).collect::<Result<_, _>>()?;
        let bed = Bed { run: run_dir, volumes, kubeall: programs.kubeall.clone(), nodes, sysctls };
        std::fs::write(bed.run.join(STATE), serde_json::to_string(&bed)?)?;
        Ok(bed)
    }

    /// The bed that is up.
    ///
    /// # Errors
    /// If there is none.
    pub fn open() -> Result<Bed> {
        let run = std::fs::read_to_string(POINTER).context("no Kubernetes of the end-to-end tests is up")?;
        let state = Path::new(&run).join(STATE);
        let text = std::fs::read(&state).with_context(|| state.display().to_string())?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// How many nodes it has: `n1`, `n2`, ….
    pub fn nodes(&self) -> u32 {
        self.nodes
    }

    /// A node's address.
    pub fn address(&self, node: u32) -> String {
        format!("10.89.0.1{node}")
    }

    /// The directory of `kubectl` and `helm`.
    pub fn bin(&self) -> PathBuf {
        self.run.join("bin")
    }

    /// For `KUBECONFIG`: everything is allowed.
    pub fn kubeconfig(&self) -> PathBuf {
        self.run.join("admin.conf")
    }

    /// What the bed's programs print.
    pub fn logs(&self) -> PathBuf {
        self.run.join("log")
    }

    /// Makes an empty directory on the disk for a local volume. Every node sees it at its path.
    pub fn volume(&self, name: &str) -> Result<PathBuf> {
        let path = self.volumes.join(name);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Writes a seccomp profile where the kubelet of each node looks for it.
    pub fn seccomp_profile(&self, name: &str, profile: &str) -> Result<()> {
        for node in 1..=self.nodes {
            let path = self.node_dir(node).join("kubelet/seccomp").join(name);
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            std::fs::write(&path, profile).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Gives an image another name, on every node.
    pub fn tag_image(&self, from: &str, to: &str) -> Result<()> {
        for node in 1..=self.nodes {
            let args = ["-n", "k8s.io", "images", "tag", "--force", from, to];
            output(self.in_node(node)?.arg("ctr").args(args))?;
        }
        Ok(())
    }

    /// Whether every node has an image.
    pub fn has_image(&self, name: &str) -> Result<bool> {
        for node in 1..=self.nodes {
            let list = output(self.in_node(node)?.args(["ctr", "-n", "k8s.io", "images", "list", "-q"]))?;
            if !list.lines().any(|line| line == name) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The processes of a pod's containers, without the one that holds its namespaces.
    pub fn processes_of_pod(&self, uid: &str) -> Vec<u32> {
        let of_pod = |pid: &u32| {
            let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let program = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            cgroup.contains(uid) && !program.is_empty() && !program.starts_with(b"/pause")
        };
        process::all().into_iter().filter(of_pod).collect()
    }

    /// A command that runs in the control plane's namespace, with kubectl, helm and the configuration for both.
    pub fn command(&self, program: &str) -> Command {
        let mut path = self.bin().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new("nsenter");
        command
            .arg("--net=/run/netns/kc")
            .arg(program)
            .env("KUBECONFIG", self.kubeconfig())
            .env("PATH", path);
        command
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        output(self.command("kubectl").args(args))
    }

    fn node_dir(&self, node: u32) -> PathBuf {
        self.run.join(format!("n{node}"))
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.run.join("pid").join(name)
    }

    /// The process id of a program in the background.
    fn pid(&self, name: &str) -> Option<u32> {
        std::fs::read_to_string(self.pid_file(name)).ok()?.trim().parse().ok()
    }

    /// Starts a program in the background, and remembers its process id under `name`.
    fn background(&self, name: &str, program: &str, args: Vec<String>) -> Result<u32> {
        let pid = process::background(&self.logs().join(format!("{name}.log")), program, &args)?;
        std::fs::write(self.pid_file(name), pid.to_string())?;
        Ok(pid)
    }

    /// Starts one of Kubernetes' programs in a network namespace.
    fn start(&self, namespace: &str, name: &str, args: &[&str]) -> Result<u32> {
        let net = format!("--net=/run/netns/{namespace}");
        let mut all = vec![net, self.kubeall.display().to_string()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        self.background(name, "nsenter", all)
    }

    fn wait_for_nodes(&self) -> Result<()> {
        let template = r#"jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}"#;
        process::wait("nodes ready", Duration::from_secs(180), Duration::from_millis(500), || {
            let Ok(ready) = self.kubectl(&["get", "nodes", "-o", template]) else { return false };
            ready.split_whitespace().filter(|status| *status == "True").count() == self.nodes as usize
        })
    }
}

/// Runs `ip` with the words of `line`.
fn ip(line: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    run("ip", &words).map(|_| ())
}
