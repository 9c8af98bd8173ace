//! The file system itself, without FUSE: a pure state machine that knows what is visible and what is durable.
//!
//! What becomes durable when (no more than POSIX promises, unless `lenient`):
//! - the contents and length of a file: at `fsync` or `fdatasync` of that file (an `O_DSYNC` write is a write
//!   followed by one);
//! - the entries of a directory: at `fsync` of that directory. Flushing a new file does not keep its name;
//! - with `lenient`, every flush also keeps all names, as ext4's journal happens to do.
//!
//! After [`FileSystem::cut`] every operation fails with `EIO` until [`FileSystem::power_on`], and handles that
//! were opened before stay dead for ever, so that nothing of the old process can reach the disk any more.

mod faults;
mod file;
mod names;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use crate::seed::Seed;
pub use faults::{Faults, Stats};
pub use file::{BLOCK_BYTES, CutReport, FileData, SECTOR_BYTES};
use names::{Change, Names};

/// The number of a file, never used twice.
pub type Ino = u64;
/// The root directory.
pub const ROOT: Ino = 1;
/// The size that the file system claims unless told otherwise, in bytes.
const CAPACITY_BYTES: u64 = 64 << 30;

/// A refused operation, as the errno (`libc::E…`) that the caller gets.
pub type Refused = i32;

/// What a power cut does to what was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutMode {
    /// All of it is lost.
    Forget,
    /// Each block is lost, kept or torn at its sectors, and each length and name lost or kept, by seed: a
    /// device that had begun to write in an order of its own.
    Mixed,
}

/// What an open file remembers: handles of before a power cut are dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(pub u64);

/// The outside of a file or directory.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    pub ino: Ino,
    pub directory: bool,
    /// Bytes.
    pub size: u64,
    /// Used space in units of 512 bytes, as `stat` counts it.
    pub sectors: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: SystemTime,
}

#[derive(Debug)]
struct Node {
    /// `None` for a directory; its entries are in [`Names`].
    data: Option<FileData>,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: SystemTime,
    opens: u64,
}

impl Node {
    fn new(data: Option<FileData>, mode: u32, uid: u32, gid: u32) -> Self {
        Self { data, mode, uid, gid, modified: SystemTime::UNIX_EPOCH, opens: 0 }
    }
}

/// A new attribute is `Some`, an old one kept is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
}

/// The whole file system.
#[derive(Debug)]
pub struct FileSystem {
    nodes: BTreeMap<Ino, Node>,
    names: Names,
    next_ino: Ino,
    /// Counts power cuts; a handle is the number it was opened under.
    epoch: u64,
    powered: bool,
    lenient: bool,
    used_blocks: u64,
    faults: Faults,
    stats: Stats,
}

impl FileSystem {
    /// An empty file system, powered on. `lenient`: any flush keeps all names.
    pub fn new(lenient: bool) -> Self {
        let root = Node::new(None, 0o755, 0, 0);
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            names: Names::default(),
            next_ino: ROOT + 1,
            epoch: 1,
            powered: true,
            lenient,
            used_blocks: 0,
            faults: Faults { capacity_blocks: CAPACITY_BYTES / BLOCK_BYTES as u64, ..Faults::default() },
            stats: Stats::default(),
        }
    }

    // --- Faults -------------------------------------------------------------------------------------------

    /// Loses power: what was not flushed meets its fate, and nothing works until [`Self::power_on`].
    pub fn cut(&mut self, mode: CutMode, seed: u64) -> CutReport {
        let mut seed = Seed::new(seed);
        let mut report = CutReport::default();
        self.names.cut(mode, &mut seed, &mut report);
        for node in self.nodes.values_mut() {
            node.opens = 0;
            if let Some(data) = &mut node.data {
                data.cut(mode, &mut seed, &mut report);
            }
        }
        self.powered = false;
        self.epoch += 1;
        self.collect();
        self.stats.cuts += 1;
        report
    }

    /// Brings power back. Faults that were set are over: the machine has a new disk controller, so to speak.
    pub fn power_on(&mut self) {
        self.powered = true;
        self.faults.fail_flush_after = None;
        self.faults.fail_write_after = None;
    }

    /// The faults to inject.
    pub fn faults_mut(&mut self) -> &mut Faults {
        &mut self.faults
    }

    /// Leaves `bytes` of free space, from now on.
    pub fn limit_free_space(&mut self, bytes: u64) {
        self.faults.capacity_blocks = self.used_blocks + bytes / BLOCK_BYTES as u64;
    }

    /// Gives back all space that a limit took away.
    pub fn unlimit_free_space(&mut self) {
        self.faults.capacity_blocks = CAPACITY_BYTES / BLOCK_BYTES as u64;
    }

    /// What has happened so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Total and free blocks of [`BLOCK_BYTES`].
    pub fn space(&self) -> (u64, u64) {
        (self.faults.capacity_blocks, self.faults.capacity_blocks.saturating_sub(self.used_blocks))
    }

    /// Flips one bit of the file at `path` (relative to the root), as a decaying disk would.
    pub fn flip(&mut self, path: &std::path::Path, offset: u64) -> Result<(), Refused> {
        let mut ino = ROOT;
        for part in path.iter().filter(|part| *part != "/") {
            ino = self.names.get(ino, part).ok_or(libc::ENOENT)?;
        }
        if self.file_mut(ino)?.flip(offset) { Ok(()) } else { Err(libc::EINVAL) }
    }

    // --- Operations ---------------------------------------------------------------------------------------

    /// Finds a name.
    pub fn lookup(&self, dir: Ino, name: &OsStr) -> Result<Attr, Refused> {
        self.check_power()?;
        self.attr_of(self.names.get(dir, name).ok_or(libc::ENOENT)?)
    }

    /// The attributes of a file.
    pub fn attr(&self, ino: Ino) -> Result<Attr, Refused> {
        self.check_power()?;
        self.attr_of(ino)
    }

    /// Whether a file is there and may be used, and changed if `write`.
    pub fn access(&self, ino: Ino, write: bool) -> Result<(), Refused> {
        self.attr(ino)?;
        if write { self.check_writable() } else { Ok(()) }
    }

    /// The entries of a directory: number, whether it is a directory, name.
    pub fn list(&self, dir: Ino) -> Result<Vec<(Ino, bool, OsString)>, Refused> {
        self.check_power()?;
        let is_dir = |ino| self.nodes.get(&ino).is_some_and(|node: &Node| node.data.is_none());
        Ok(self.names.list(dir).map(|(name, ino)| (ino, is_dir(ino), name.clone())).collect())
    }

    /// Makes a file or a directory.
    pub fn create(
        &mut self,
        dir: Ino,
        name: &OsStr,
        directory: bool,
        (mode, uid, gid): (u32, u32, u32),
    ) -> Result<Attr, Refused> {
        self.check_writable()?;
        if self.nodes.get(&dir).is_none_or(|node| node.data.is_some()) {
            return Err(libc::ENOENT);
        }
        if self.names.get(dir, name).is_some() {
            return Err(libc::EEXIST);
        }
        let ino = self.next_ino;
        self.next_ino += 1;
        let data = (!directory).then(FileData::default);
        let mut node = Node::new(data, mode, uid, gid);
        node.modified = SystemTime::now();
        self.nodes.insert(ino, node);
        self.names.apply(Change(vec![(dir, name.to_owned(), Some(ino))]));
        self.attr_of(ino)
    }

    /// Removes a file, or an empty directory.
    pub fn remove(&mut self, dir: Ino, name: &OsStr, directory: bool) -> Result<(), Refused> {
        self.check_writable()?;
        let ino = self.names.get(dir, name).ok_or(libc::ENOENT)?;
        match (self.attr_of(ino)?.directory, directory) {
            (true, false) => return Err(libc::EISDIR),
            (false, true) => return Err(libc::ENOTDIR),
            (true, true) if !self.names.is_empty(ino) => return Err(libc::ENOTEMPTY),
            _ => {}
        }
        self.names.apply(Change(vec![(dir, name.to_owned(), None)]));
        self.recount();
        Ok(())
    }

    /// Moves a name over another, at once. `replace`: whether the target may exist.
    pub fn rename(
        &mut self,
        (dir, name): (Ino, &OsStr),
        (to_dir, to_name): (Ino, &OsStr),
        replace: bool,
    ) -> Result<(), Refused> {
        self.check_writable()?;
        let ino = self.names.get(dir, name).ok_or(libc::ENOENT)?;
        if let Some(old) = self.names.get(to_dir, to_name) {
            if !replace {
                return Err(libc::EEXIST);
            }
            if old == ino {
                return Ok(());
            }
            match (self.attr_of(ino)?.directory, self.attr_of(old)?.directory) {
                (false, true) => return Err(libc::EISDIR),
                (true, false) => return Err(libc::ENOTDIR),
                (true, true) if !self.names.is_empty(old) => return Err(libc::ENOTEMPTY),
                _ => {}
            }
        }
        self.names.apply(Change(vec![(dir, name.to_owned(), None), (to_dir, to_name.to_owned(), Some(ino))]));
        self.recount();
        Ok(())
    }

    /// Opens a file; the handle dies with the power.
    pub fn open(&mut self, ino: Ino) -> Result<Handle, Refused> {
        self.check_power()?;
        self.nodes.get_mut(&ino).ok_or(libc::ENOENT)?.opens += 1;
        Ok(Handle(self.epoch))
    }

    /// Closes a file.
    pub fn release(&mut self, ino: Ino, handle: Handle) {
        if handle.0 == self.epoch
            && let Some(node) = self.nodes.get_mut(&ino)
        {
            node.opens = node.opens.saturating_sub(1);
            if node.opens == 0 {
                self.recount();
            }
        }
    }

    /// Reads up to `size` bytes at `offset`.
    pub fn read(&mut self, ino: Ino, handle: Handle, offset: u64, size: usize) -> Result<Vec<u8>, Refused> {
        self.check_handle(handle)?;
        let block = |byte: u64| byte / BLOCK_BYTES as u64;
        let meets = |bad: u64| (block(offset)..=block(offset + size.max(1) as u64 - 1)).contains(&block(bad));
        if self.faults.unreadable.is_some_and(|(file, bad)| file == ino && meets(bad)) {
            self.stats.failed_reads += 1;
            return Err(libc::EIO);
        }
        let data = self.nodes.get(&ino).and_then(|node| node.data.as_ref()).ok_or(libc::EISDIR)?;
        Ok(data.read(offset, size))
    }

    /// Writes `data` at `offset`, all or nothing.
    pub fn write(&mut self, ino: Ino, handle: Handle, offset: u64, data: &[u8]) -> Result<(), Refused> {
        self.check_handle(handle)?;
        self.check_writable()?;
        self.stats.writes += 1;
        if Faults::strikes(&mut self.faults.fail_write_after) {
            self.stats.failed_writes += 1;
            return Err(libc::EIO);
        }
        self.reserve(ino, offset, data.len() as u64)?;
        self.stats.written_bytes += data.len() as u64;
        self.file_mut(ino)?.write(offset, data);
        self.touch(ino);
        Ok(())
    }

    /// `fallocate`: reserves space, or zeroes (`zero`), and grows the file unless `keep_size`.
    pub fn allocate(
        &mut self,
        ino: Ino,
        handle: Handle,
        (offset, len): (u64, u64),
        (zero, keep_size): (bool, bool),
    ) -> Result<(), Refused> {
        self.check_handle(handle)?;
        self.check_writable()?;
        self.reserve(ino, offset, len)?;
        let end = offset.checked_add(len).ok_or(libc::EFBIG)?;
        let data = self.file_mut(ino)?;
        data.allocate(offset, len);
        if zero {
            data.zero(offset, len);
        }
        if !keep_size && end > data.len() {
            data.truncate(end);
        }
        self.recount();
        Ok(())
    }

    /// Changes attributes and, with `size`, truncates or extends.
    pub fn set_attr(&mut self, ino: Ino, change: NewAttr) -> Result<Attr, Refused> {
        self.check_writable()?;
        if let Some(size) = change.size {
            self.file_mut(ino)?.truncate(size);
            self.recount();
            self.touch(ino);
        }
        let node = self.nodes.get_mut(&ino).ok_or(libc::ENOENT)?;
        node.mode = change.mode.unwrap_or(node.mode);
        node.uid = change.uid.unwrap_or(node.uid);
        node.gid = change.gid.unwrap_or(node.gid);
        self.attr_of(ino)
    }

    /// `fsync` or `fdatasync` of a file: its contents and its length are durable when this returns `Ok`.
    pub fn flush(&mut self, ino: Ino, handle: Handle) -> Result<(), Refused> {
        self.check_handle(handle)?;
        self.stats.flushes += 1;
        if Faults::strikes(&mut self.faults.fail_flush_after) {
            self.stats.failed_flushes += 1;
            self.file_mut(ino)?.abandon();
            return Err(libc::EIO);
        }
        self.file_mut(ino)?.flush();
        if self.lenient {
            self.names.flush_all();
        }
        Ok(())
    }

    /// `fsync` of a directory: its entries are durable when this returns `Ok`.
    pub fn flush_dir(&mut self, dir: Ino) -> Result<(), Refused> {
        self.check_power()?;
        self.stats.dir_flushes += 1;
        if Faults::strikes(&mut self.faults.fail_flush_after) {
            self.stats.failed_flushes += 1;
            return Err(libc::EIO);
        }
        if self.lenient {
            self.names.flush_all();
        } else {
            self.names.flush(dir);
        }
        self.collect();
        Ok(())
    }

    // --- Inside -------------------------------------------------------------------------------------------

    fn check_power(&self) -> Result<(), Refused> {
        if self.powered { Ok(()) } else { Err(libc::EIO) }
    }

    fn check_handle(&self, handle: Handle) -> Result<(), Refused> {
        if self.powered && handle.0 == self.epoch { Ok(()) } else { Err(libc::EIO) }
    }

    fn check_writable(&self) -> Result<(), Refused> {
        self.check_power()?;
        if self.faults.read_only { Err(libc::EROFS) } else { Ok(()) }
    }

    fn reserve(&mut self, ino: Ino, offset: u64, len: u64) -> Result<(), Refused> {
        let needed = self.file_mut(ino)?.blocks_needed(offset, len);
        if needed > 0 && self.used_blocks + needed > self.faults.capacity_blocks {
            self.stats.refused_for_space += 1;
            return Err(libc::ENOSPC);
        }
        self.used_blocks += needed;
        Ok(())
    }

    /// Space is used by what has a name now or is open, whatever a power cut would bring back.
    fn recount(&mut self) {
        let named = self.names.visible();
        let counts = |ino: &Ino, node: &Node| node.opens > 0 || named.contains(ino);
        let files = self.nodes.iter().filter(|(ino, node)| counts(ino, node));
        let data = files.filter_map(|(_, node)| node.data.as_ref());
        self.used_blocks = data.map(FileData::allocated_blocks).sum();
    }

    fn file_mut(&mut self, ino: Ino) -> Result<&mut FileData, Refused> {
        self.nodes.get_mut(&ino).ok_or(libc::ENOENT)?.data.as_mut().ok_or(libc::EISDIR)
    }

    fn touch(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.modified = SystemTime::now();
        }
    }

    fn attr_of(&self, ino: Ino) -> Result<Attr, Refused> {
        let node = self.nodes.get(&ino).ok_or(libc::ENOENT)?;
        Ok(Attr {
            ino,
            directory: node.data.is_none(),
            size: node.data.as_ref().map_or(0, FileData::len),
            sectors: node
                .data
                .as_ref()
                .map_or(0, |data| data.allocated_blocks() * (BLOCK_BYTES / SECTOR_BYTES) as u64),
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            modified: node.modified,
        })
    }

    /// Frees what no name leads to, neither now nor after a power cut, and nobody has open.
    fn collect(&mut self) {
        loop {
            let mut alive: BTreeSet<Ino> = self.names.referred();
            alive.insert(ROOT);
            alive.extend(self.nodes.iter().filter(|(_, node)| node.opens > 0).map(|(ino, _)| *ino));
            let before = self.nodes.len();
            self.nodes.retain(|ino, _| alive.contains(ino));
            self.names.retain(&alive);
            if self.nodes.len() == before {
                break;
            }
        }
        self.recount();
    }
}
