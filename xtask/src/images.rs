//! `cargo xtask images DIR`: the container images as OCI image-layout tar files, made without a container engine.
//!
//! An image has one layer: the programs in `/usr/bin`, the shared libraries they need, the loader, and the few files
//! that a C library looks for. The same programs give the same bytes: times are zero and names are sorted.
//! `ctr images import`, `k3s ctr images import`, `kind load image-archive`, `podman load` and `skopeo` read the files.

mod oci;
mod rootfs;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use rootfs::RootFs;

/// Write the container images as OCI tar files, without a container engine.
#[derive(clap::Args)]
pub struct Args {
    /// Where the tar files go
    #[arg(value_name = "DIR")]
    out: PathBuf,
    /// Cargo's profile for the programs
    #[arg(long, default_value = "ci", conflicts_with = "bin_dir")]
    profile: String,
    /// The same as --profile release
    #[arg(long, conflicts_with_all = ["profile", "bin_dir"])]
    release: bool,
    /// Take programs that are built already from here
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Only this image; may be given more than once
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(IMAGES.map(|i| i.name)))]
    only: Vec<String>,
}

/// An image and what goes into it.
pub struct Image {
    /// What the image is called after `chronik-`.
    pub name: &'static str,
    /// Programs by cargo package and binary. The first is the entry point.
    programs: &'static [(&'static str, &'static str)],
    /// Directories for volumes, which belong to the image's user.
    volumes: &'static [&'static str],
    /// Whether a shell goes in for looking around, on machines that have a static busybox.
    shell: bool,
}

/// Every image. A row here is all that a new one needs.
pub const IMAGES: [Image; 3] = [
    Image {
        name: "broker",
        programs: &[("chronik-broker", "chronik")],
        volumes: &["var/lib/chronik", "var/lib/chronik-wal"],
        shell: false,
    },
    Image {
        name: "operator",
        programs: &[("chronik-operator", "chronik-operator")],
        volumes: &[],
        shell: false,
    },
    // For tests only: the clients that run inside Kubernetes.
    Image {
        name: "e2e",
        programs: &[("chronik-e2e", "chronik-e2e-client"), ("chronik-broker", "chronik")],
        volumes: &[],
        shell: true,
    },
];

impl Image {
    /// The name by which pods ask for it.
    pub fn reference(&self) -> String {
        format!("localhost/chronik-{}:dev", self.name)
    }

    /// The name of its tar file.
    pub fn file_name(&self) -> String {
        format!("chronik-{}.tar", self.name)
    }
}

/// Where the programs come from.
pub enum Programs {
    /// Built by cargo, with this profile.
    Build(String),
    /// Built already, in this directory.
    Directory(PathBuf),
}

/// An image that was written.
pub struct Written {
    pub reference: String,
    pub file: PathBuf,
}

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let programs = match (&args.bin_dir, args.release) {
        (Some(directory), _) => Programs::Directory(directory.clone()),
        (None, true) => Programs::Build("release".to_owned()),
        (None, false) => Programs::Build(args.profile.clone()),
    };
    let only: Vec<&str> = args.only.iter().map(String::as_str).collect();
    for image in write(root, &args.out, &programs, &only)? {
        let bytes = std::fs::metadata(&image.file)?.len();
        println!("{:<34} {:>6.1} MiB  {}", image.reference, bytes as f64 / 1048576.0, image.file.display());
    }
    Ok(())
}

/// Writes the images named in `only`, or all of them, to `out`.
pub fn write(root: &Path, out: &Path, programs: &Programs, only: &[&str]) -> Result<Vec<Written>> {
    let chosen: Vec<&Image> =
        IMAGES.iter().filter(|image| only.is_empty() || only.contains(&image.name)).collect();
    ensure!(!chosen.is_empty(), "no image is named {}", only.join(" or "));
    let directory = match programs {
        Programs::Directory(directory) => directory.clone(),
        Programs::Build(profile) => build(root, profile, &chosen)?,
    };
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut written = Vec::new();
    for image in chosen {
        let file = out.join(image.file_name());
        pack(image, &directory, &file).with_context(|| format!("image {}", image.name))?;
        written.push(Written { reference: image.reference(), file });
    }
    Ok(written)
}

/// Builds the programs of these images; the directory they are then in.
fn build(root: &Path, profile: &str, images: &[&Image]) -> Result<PathBuf> {
    let mut programs: Vec<_> = images.iter().flat_map(|image| image.programs).collect();
    programs.sort();
    programs.dedup();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args(["build", "--profile", profile]);
    for (package, program) in programs {
        cargo.args(["--package", package, "--bin", program]);
    }
    let status = cargo.status().context("cannot run cargo")?;
    ensure!(status.success(), "the build of the programs ended with {status}");
    // Cargo keeps the directory's name of old for its own development profile.
    let directory = if profile == "dev" { "debug" } else { profile };
    Ok(std::path::absolute(crate::target_dir(root))?.join(directory))
}

fn pack(image: &Image, programs: &Path, file: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut rootfs = RootFs::with_basics();
    for (_, name) in image.programs {
        let program = programs.join(name);
        ensure!(program.is_file(), "{} is not built", program.display());
        let stripped = scratch.path().join(name);
        let is_stripped = strip(&program, &stripped);
        rootfs.add_program(name, if is_stripped { &stripped } else { &program })?;
    }
    for volume in image.volumes {
        rootfs.add_own_directory(volume);
    }
    if image.shell {
        rootfs.add_shell(Path::new("/bin/busybox"))?;
    }
    let entry = image.programs.first().map(|(_, name)| format!("/usr/bin/{name}"));
    let layer = scratch.path().join("layer.tar");
    rootfs.write(&layer)?;
    oci::write(file, &image.reference(), entry.as_deref(), &layer)
}

/// Leaves the debugger's tables out, which are most of a program's size. Names of functions stay, for backtraces.
/// Where there is no `strip`, the image is only larger.
fn strip(program: &Path, to: &Path) -> bool {
    let strip = Command::new("strip").arg("--strip-debug").arg("-o").arg(to).arg(program).output();
    strip.is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read as _;

    fn entries(file: &Path) -> BTreeMap<String, (tar::Header, Vec<u8>)> {
        let mut archive = tar::Archive::new(std::fs::File::open(file).unwrap());
        let mut found = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let name = entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned();
            let before = found.insert(name.clone(), (entry.header().clone(), bytes));
            assert!(before.is_none(), "{name} is there twice");
        }
        found
    }

    fn blob<'a>(image: &'a BTreeMap<String, (tar::Header, Vec<u8>)>, what: &serde_json::Value) -> &'a [u8] {
        let digest = what["digest"].as_str().unwrap();
        let bytes = &image[&format!("blobs/sha256/{}", digest.strip_prefix("sha256:").unwrap())].1;
        assert_eq!(bytes.len() as u64, what["size"].as_u64().unwrap());
        assert_eq!(oci::digest(bytes), digest);
        bytes
    }

    fn json(bytes: &[u8]) -> serde_json::Value {
        serde_json::from_slice(bytes).unwrap()
    }

    /// This test's own program stands in for a broker: it is dynamic, as a broker is.
    fn programs(directory: &Path) {
        let program = std::env::current_exe().unwrap();
        for name in ["chronik", "chronik-operator", "chronik-e2e-client"] {
            std::os::unix::fs::symlink(&program, directory.join(name)).unwrap();
        }
    }

    #[test]
    fn an_image_is_a_complete_oci_layout() {
        let work = tempfile::tempdir().unwrap();
        programs(work.path());
        let out = work.path().join("out");
        let from = Programs::Directory(work.path().to_owned());
        let written = write(Path::new("/"), &out, &from, &["broker"]).unwrap();
        assert_eq!((written.len(), written[0].reference.as_str()), (1, "localhost/chronik-broker:dev"));
        let image = entries(&written[0].file);
        assert_eq!(json(&image["oci-layout"].1)["imageLayoutVersion"], "1.0.0");
        let index = json(&image["index.json"].1);
        let named = &index["manifests"][0];
        assert_eq!(named["annotations"]["io.containerd.image.name"], "localhost/chronik-broker:dev");
        assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "dev");
        let manifest = json(blob(&image, named));
        let config = json(blob(&image, &manifest["config"]));
        assert_eq!(config["config"]["User"], "10001:10001");
        assert_eq!(config["config"]["Env"][0], "PATH=/usr/bin:/bin");
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/chronik");
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
        let layer = blob(&image, &manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], oci::digest(layer).as_str());

        let tar = work.path().join("layer.tar");
        std::fs::write(&tar, layer).unwrap();
        let layer = entries(&tar);
        let mode = |name: &str| layer[name].0.mode().unwrap();
        assert_eq!((mode("usr/bin/chronik"), mode("tmp"), mode("etc/passwd")), (0o755, 0o1777, 0o644));
        assert_eq!(layer["var/lib/chronik"].0.uid().unwrap(), 10_001);
        assert_eq!(layer["usr/bin"].0.uid().unwrap(), 0);
        assert!(layer.keys().any(|name| name.ends_with("/libc.so.6")), "{:?}", layer.keys());
        assert!(layer.keys().any(|name| name.contains("/ld-linux")), "{:?}", layer.keys());
        for (name, (header, _)) in &layer {
            assert_eq!(header.mtime().unwrap(), 0, "{name}");
            let parent = Path::new(name).parent().unwrap().to_string_lossy().into_owned();
            assert!(parent.is_empty() || layer.contains_key(&parent), "{name} has no directory");
        }
    }

    #[test]
    fn the_same_programs_make_the_same_bytes() {
        let work = tempfile::tempdir().unwrap();
        programs(work.path());
        let from = Programs::Directory(work.path().to_owned());
        let (one, two) = (work.path().join("1"), work.path().join("2"));
        let all = write(Path::new("/"), &one, &from, &[]).unwrap();
        assert_eq!(all.len(), IMAGES.len());
        write(Path::new("/"), &two, &from, &[]).unwrap();
        for image in &IMAGES {
            let read = |directory: &Path| std::fs::read(directory.join(image.file_name())).unwrap();
            assert!(read(&one) == read(&two), "{}", image.name);
        }
    }

    #[test]
    fn a_program_that_is_missing_is_told() {
        let work = tempfile::tempdir().unwrap();
        let from = Programs::Directory(work.path().to_owned());
        let error = write(Path::new("/"), &work.path().join("out"), &from, &["operator"]).err().unwrap();
        assert!(format!("{error:#}").contains("chronik-operator is not built"), "{error:#}");
        assert!(write(Path::new("/"), work.path(), &from, &["unknown"]).is_err());
    }
}
