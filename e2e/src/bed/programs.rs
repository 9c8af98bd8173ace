//! What the bed runs: packages of the system, Kubernetes and Helm built from their Go modules, and a pause image.
//! Everything is brought only if it is missing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::process::{is_there, output, run};

/// Programs, and the Debian packages they come from.
const PACKAGES: [(&str, &str); 9] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("conntrack", "conntrack"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("gcc", "gcc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
];

/// Kubernetes (all its programs in one) and Helm.
#[derive(Clone, Debug)]
pub struct Programs {
    pub kubeall: PathBuf,
    pub helm: PathBuf,
}

/// The packages whose programs are missing.
pub fn missing_packages() -> Vec<&'static str> {
    let missing = |program: &str| match program.starts_with('/') {
        true => !Path::new(program).exists(),
        false => !is_there(program),
    };
    PACKAGES.iter().filter(|(program, _)| missing(program)).map(|(_, package)| *package).collect()
}

/// Installs what is missing of the system's packages.
pub fn install_packages() -> Result<()> {
    let missing = missing_packages();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {} with apt-get", missing.join(", "));
    run("apt-get", &["update", "-qq"])?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(&missing);
    output(install.env("DEBIAN_FRONTEND", "noninteractive"))?;
    let missing = missing_packages();
    ensure!(missing.is_empty(), "still missing after apt-get: {}", missing.join(", "));
    Ok(())
}

/// Kubernetes and Helm, from the cache or built now. `sources` is the Go module's directory.
///
/// The cache is `$CHRONIK_CACHE`, or `~/.cache/chronik/kube`. In it, a directory for each hash of the module's files and
/// the Go version holds the two programs.
pub fn kubernetes(sources: &Path) -> Result<Programs> {
    let cache = match std::env::var_os("CHRONIK_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("neither CHRONIK_CACHE nor HOME is set")?)
            .join(".cache/chronik/kube"),
    };
    let dir = cache.join(hash(sources)?);
    let programs = Programs { kubeall: dir.join("kubeall"), helm: dir.join("helm") };
    if programs.kubeall.is_file() && programs.helm.is_file() {
        return Ok(programs);
    }
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    println!("building Kubernetes and Helm from their Go modules: some 10 minutes on two cores, once");
    let mut build = Command::new("bash");
    build.arg(sources.join("build.sh")).env("OUT", &dir);
    let mut build = build.spawn().context("cannot start bash")?;
    let (begun, mut told) = (Instant::now(), Duration::ZERO);
    let status = loop {
        if let Some(status) = build.try_wait()? {
            break status;
        }
        if begun.elapsed() >= told + Duration::from_secs(60) {
            told = begun.elapsed();
            println!("  … {} minutes", told.as_secs() / 60);
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    ensure!(status.success(), "{} ended with {status}", sources.join("build.sh").display());
    ensure!(programs.kubeall.is_file() && programs.helm.is_file(), "{}: nothing was built", dir.display());
    println!("built in {:.0?}", begun.elapsed());
    Ok(programs)
}

/// Of everything that goes into the programs: the module's files in this order, and the Go version.
fn hash(sources: &Path) -> Result<String> {
    let files = ["main.go", "pause.go", "go.mod", "go.sum", "build.sh"];
    let script = format!("{{ cat {}; go version; }} | sha256sum | cut -c1-16", files.join(" "));
    let hash = output(Command::new("sh").args(["-e", "-c", &script]).current_dir(sources))?;
    let hash = hash.trim().to_owned();
    ensure!(hash.len() == 16, "no hash of {}", sources.display());
    Ok(hash)
}

/// Packs the program that holds a pod's namespaces as the image `localhost/pause:1` (an OCI archive).
pub fn pause_image(source: &Path, out: &Path) -> Result<()> {
    const PACK: &str = r#"
umask 022
gcc -static -Os -s -o root/pause "$1"
mkdir -p oci/blobs/sha256
put() { h=$(sha256sum "$1" | cut -d' ' -f1); s=$(stat -c %s "$1"); mv "$1" "oci/blobs/sha256/$h"; }
pack="tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner"
$pack -C root -cf layer .
put layer; layer=$h size=$s
printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":["/pause"],"User":"65535:65535"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$2" $layer > config
put config
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":%s}]}' $h $s $layer $size > manifest
put manifest
printf '{"imageLayoutVersion":"1.0.0"}' > oci/oci-layout
printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"platform":{"architecture":"%s","os":"linux"},"annotations":{"io.containerd.image.name":"localhost/pause:1","org.opencontainers.image.ref.name":"1"}}]}' $h $s "$2" > oci/index.json
$pack -C oci -cf "$3" oci-layout index.json blobs
"#;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let work = out.with_extension("work");
    let _ = std::fs::remove_dir_all(&work);
    std::fs::create_dir_all(work.join("root"))?;
    let (source, out) = (std::path::absolute(source)?, std::path::absolute(out)?);
    let mut pack = Command::new("sh");
    pack.args(["-e", "-c", PACK, "sh"]).arg(source).arg(architecture).arg(out).current_dir(&work);
    output(&mut pack).context("packing the pause image")?;
    std::fs::remove_dir_all(&work)?;
    Ok(())
}
