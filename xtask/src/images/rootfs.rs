//! What lies in an image: a list of files, directories and links, written as one layer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The user that programs run as, and their group.
pub const USER: u32 = 10_001;

/// Paths have no leading slash. A directory is there as soon as something lies in it.
pub struct RootFs(BTreeMap<String, Node>);

struct Node {
    mode: u32,
    owner: u32,
    kind: Kind,
}

enum Kind {
    Directory,
    Text(String),
    /// The bytes of a file of this machine.
    Copy(PathBuf),
    Link(String),
}

impl RootFs {
    /// What every program may look for: users, how names are resolved, and a place for temporary files.
    pub fn with_basics() -> RootFs {
        let mut rootfs = RootFs(BTreeMap::new());
        let user = USER;
        for (path, text) in [
            (
                "etc/passwd",
                format!(
                    "root:x:0:0:root:/:/sbin/nologin\nchronik:x:{user}:{user}:chronik:/tmp:/sbin/nologin\n"
                ),
            ),
            ("etc/group", format!("root:x:0:\nchronik:x:{user}:\n")),
            ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned()),
        ] {
            rootfs.put(path, 0o644, 0, Kind::Text(text));
        }
        rootfs.put("tmp", 0o1777, 0, Kind::Directory);
        rootfs
    }

    fn put(&mut self, path: &str, mode: u32, owner: u32, kind: Kind) {
        for parent in Path::new(path).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            let directory = Node { mode: 0o755, owner: 0, kind: Kind::Directory };
            self.0.entry(parent.to_string_lossy().into_owned()).or_insert(directory);
        }
        self.0.insert(path.to_owned(), Node { mode, owner, kind });
    }

    /// A directory that belongs to the image's user.
    pub fn add_own_directory(&mut self, path: &str) {
        self.put(path, 0o755, USER, Kind::Directory);
    }

    /// A program in `/usr/bin`, with the libraries it is linked with, each where the loader found it.
    pub fn add_program(&mut self, name: &str, program: &Path) -> Result<()> {
        for library in libraries(program)? {
            self.add_library(&library)?;
        }
        self.put(&format!("usr/bin/{name}"), 0o755, 0, Kind::Copy(program.to_owned()));
        Ok(())
    }

    fn add_library(&mut self, library: &Path) -> Result<()> {
        let path = library.to_str().with_context(|| format!("{library:?} is no text"))?;
        self.put(path.trim_start_matches('/'), 0o755, 0, Kind::Copy(library.to_owned()));
        if !path.ends_with("/libc.so.6") {
            return Ok(());
        }
        // Older C libraries load these by name when a host is looked up; in newer ones they are empty.
        for module in ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"] {
            let beside = library.with_file_name(module);
            if beside.is_file() {
                self.add_library(&beside)?;
            }
        }
        Ok(())
    }

    /// A shell and the usual tools, if this machine has them as one static program.
    pub fn add_shell(&mut self, busybox: &Path) -> Result<()> {
        if !busybox.is_file() || !libraries(busybox)?.is_empty() {
            return Ok(());
        }
        let list = Command::new(busybox).arg("--list").output()?;
        ensure!(list.status.success(), "{} --list ended with {}", busybox.display(), list.status);
        self.put("bin/busybox", 0o755, 0, Kind::Copy(busybox.to_owned()));
        for tool in String::from_utf8_lossy(&list.stdout).lines().filter(|tool| *tool != "busybox") {
            self.put(&format!("bin/{tool}"), 0o777, 0, Kind::Link("busybox".to_owned()));
        }
        Ok(())
    }

    /// Writes everything as a tar file.
    pub fn write(&self, to: &Path) -> Result<()> {
        let mut tar = tar::Builder::new(BufWriter::new(File::create(to)?));
        for (path, node) in &self.0 {
            let mut header = header(node.mode);
            header.set_uid(node.owner.into());
            header.set_gid(node.owner.into());
            match &node.kind {
                Kind::Directory => {
                    header.set_entry_type(tar::EntryType::Directory);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Kind::Text(text) => {
                    header.set_size(text.len() as u64);
                    tar.append_data(&mut header, path, text.as_bytes())?;
                }
                Kind::Copy(from) => {
                    let file = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
                    header.set_size(file.metadata()?.len());
                    tar.append_data(&mut header, path, file)?;
                }
                Kind::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        tar.into_inner()?.flush()?;
        Ok(())
    }
}

/// A header that says nothing of this machine or this hour.
pub fn header(mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// The shared libraries of a program and its loader, by asking the loader itself. None for a static program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output =
        Command::new("ldd").arg(program).env_remove("LD_PRELOAD").output().context("cannot run ldd")?;
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        ensure!(
            said.contains("not a dynamic executable") || complaint.contains("not a dynamic executable"),
            "ldd {} ended with {}: {}",
            program.display(),
            output.status,
            complaint.trim()
        );
        return Ok(Vec::new());
    }
    parse_ldd(&said).with_context(|| format!("the libraries of {}", program.display()))
}

fn parse_ldd(said: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in said.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place.starts_with("not found") {
            bail!("{name} is not on this machine");
        }
        // The address at the end differs from run to run. What is no path lies in the kernel.
        let path = place.split(" (").next().unwrap_or(place);
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_is_understood() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f01)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f02)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f03)\n";
        let found = parse_ldd(said).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib/x86_64-linux-gnu/libgcc_s.so.1",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert!(parse_ldd("\tstatically linked\n").unwrap().is_empty());
        assert!(parse_ldd("\tlibz.so.1 => not found\n").is_err());
    }

    #[test]
    fn a_directory_comes_before_what_lies_in_it() {
        let mut rootfs = RootFs::with_basics();
        rootfs.add_own_directory("var/lib/chronik");
        let names: Vec<_> = rootfs.0.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "etc",
                "etc/group",
                "etc/nsswitch.conf",
                "etc/passwd",
                "tmp",
                "var",
                "var/lib",
                "var/lib/chronik"
            ]
        );
        assert_eq!((rootfs.0["var/lib"].owner, rootfs.0["var/lib/chronik"].owner), (0, USER));
    }
}
