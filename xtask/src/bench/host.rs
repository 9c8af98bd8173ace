//! The machine a benchmark runs on: what it is, and how often its disk was flushed.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// Facts to print above the table.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Processor model.
    pub cpu: String,
    /// Processors that may be used.
    pub cpus: usize,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// The block device below the directory.
    pub disk: String,
    /// What the kernel says of its cache: flushes reach it only with `write back`.
    pub write_cache: String,
    /// The directory's file system.
    pub file_system: String,
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu, cpus, memory_mib, kernel, file_system, disk, write_cache } = self;
        writeln!(f, "{cpu}, {cpus} processors, {memory_mib} MiB, Linux {kernel}")?;
        write!(f, "{file_system} on {disk}, write cache: {write_cache}")
    }
}

/// The block device below a directory.
#[derive(Debug, Clone)]
pub struct Disk {
    sys: Option<PathBuf>,
    file_system: String,
}

impl Disk {
    /// Finds it.
    ///
    /// # Errors
    /// When the directory's file system is in memory: a flush means nothing there.
    pub fn below(dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize().with_context(|| format!("cannot look at {}", dir.display()))?;
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let file_system = file_system_of(&dir, &mounts).unwrap_or_else(|| "unknown".to_owned());
        ensure!(
            !matches!(file_system.as_str(), "tmpfs" | "ramfs" | "devtmpfs"),
            "{} is in memory ({file_system}): a flush means nothing there; name a directory on a disk with --dir",
            dir.display()
        );
        let device = fs::metadata(&dir)?.st_dev();
        // The kernel's encoding of major and minor (glibc's gnu_dev_major and gnu_dev_minor).
        let major = (device >> 8 & 0xfff) | (device >> 32 & 0xffff_f000);
        let minor = (device & 0xff) | (device >> 12 & 0xffff_ff00);
        let sys = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok();
        Ok(Self { sys, file_system })
    }

    /// How many flush requests the device has completed since it came up; `None` where the
    /// kernel does not tell (a file system without a device of its own, or before 5.5).
    pub fn flushes(&self) -> Option<u64> {
        self.stat(15)
    }

    /// Bytes written to the device since it came up.
    pub fn written_bytes(&self) -> Option<u64> {
        // Sectors of 512 bytes, whatever the device's own are.
        Some(self.stat(6)? * 512)
    }

    /// A field of the device's counters, from 0 (`Documentation/block/stat.rst`).
    fn stat(&self, field: usize) -> Option<u64> {
        let stat = fs::read_to_string(self.sys.as_ref()?.join("stat")).ok()?;
        stat.split_ascii_whitespace().nth(field)?.parse().ok()
    }

    fn attribute(&self, name: &str) -> Option<String> {
        let sys = self.sys.as_ref()?;
        // A partition has no queue of its own: its disk, the directory above, has.
        let paths = [sys.join(name), sys.parent()?.join(name)];
        paths.iter().find_map(|path| fs::read_to_string(path).ok()).map(|text| text.trim().to_owned())
    }
}

/// Gathers the facts.
pub fn machine(disk: &Disk) -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kib: u64 = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
    let name = disk.sys.as_ref().and_then(|sys| Some(sys.file_name()?.to_string_lossy().into_owned()));
    let fua = match disk.attribute("queue/fua").as_deref() {
        Some("1") => ", FUA",
        _ => ", no FUA",
    };
    Machine {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mib: kib / 1024,
        disk: name.unwrap_or_else(|| "unknown".to_owned()),
        write_cache: disk.attribute("queue/write_cache").map_or("unknown".to_owned(), |cache| cache + fua),
        file_system: disk.file_system.clone(),
    }
}

/// The file system of the longest mount point above `dir`.
fn file_system_of(dir: &Path, mounts: &str) -> Option<String> {
    let entry = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        dir.starts_with(point).then(|| (point.len(), kind.to_owned()))
    };
    // Of equally long ones the last was mounted over the others.
    mounts.lines().filter_map(entry).max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

/// Resident memory of a process, in MiB.
///
/// # Errors
/// When there is no such process.
pub fn resident_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
    Ok(kib.context("no VmRSS")? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_last_mount_wins() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/deep xfs rw 0 0\n";
        for (dir, kind) in
            [("/home/me", "ext4"), ("/tmp/x", "tmpfs"), ("/tmp/deep/x", "xfs"), ("/tmpx", "ext4")]
        {
            assert_eq!(file_system_of(Path::new(dir), mounts).as_deref(), Some(kind), "{dir}");
        }
        let over = "/dev/a /tmp ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n";
        assert_eq!(file_system_of(Path::new("/tmp"), over).as_deref(), Some("tmpfs"));
    }

    #[test]
    fn memory_is_refused() {
        if Path::new("/dev/shm").is_dir() {
            assert!(Disk::below(Path::new("/dev/shm")).is_err());
        }
        assert!(resident_mib(std::process::id()).unwrap() > 0.5);
    }
}
