//! A disk that lies as disks do: sectors of 512 bytes, a cache over a medium, groups in flight.
//!
//! What was written is in the cache. It is on the medium once it was synced, and perhaps before. A kill leaves
//! the cache, a power loss only the medium. Every operation that changes something burns a fuse, so that a
//! crash can come between any two of them.

use std::collections::{BTreeMap, BTreeSet};

use chronik_core::wal::recovery::{Media, Unreadable};

use crate::rng::Rng;
use crate::stats::{Fault, Stats};

pub const SECTOR: usize = 512;
/// Sectors of a 4 KiB block, the unit in which many devices tear.
const BLOCK_SECTORS: usize = 8;

pub type Inode = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The machine is gone: nothing that follows happens.
    Crashed,
    Io,
    Full,
}

#[derive(Clone, Debug, Default)]
struct Content {
    cache: Vec<u8>,
    medium: Vec<u8>,
    /// Sectors in which the two may differ.
    dirty: BTreeSet<usize>,
    unreadable: BTreeSet<usize>,
}

/// A group on its way.
#[derive(Clone, Debug)]
struct Flight {
    inode: Inode,
    at: usize,
    bytes: Vec<u8>,
    fails: Option<DiskError>,
}

#[derive(Clone, Debug)]
enum NameOp {
    Link(String, Inode),
    Rename(String, String, Inode),
    Unlink(String),
}

impl NameOp {
    /// Whether the name stands in this directory itself: a directory below has names of its own.
    fn is_in(&self, dir: &str) -> bool {
        match self {
            NameOp::Link(name, _) | NameOp::Rename(name, _, _) | NameOp::Unlink(name) => {
                name.strip_prefix(dir).is_some_and(|rest| !rest.contains('/'))
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, Inode>) {
        match self {
            NameOp::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            NameOp::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            NameOp::Unlink(name) => {
                names.remove(name);
            }
        }
    }
}

/// Which of `n` sectors reach the medium.
fn survivors(n: usize, rng: &mut Rng) -> (Vec<bool>, Fault) {
    match rng.below(8) {
        0 | 1 => (vec![false; n], Fault::WriteLost),
        2 | 3 => (vec![true; n], Fault::WriteKept),
        4 => {
            let cut = rng.index(n + 1);
            ((0..n).map(|s| s < cut).collect(), Fault::TornPrefix)
        }
        5 => {
            let cut = rng.index(n + 1);
            ((0..n).map(|s| s >= cut).collect(), Fault::TornSuffix)
        }
        6 => {
            let chance = rng.between(5, 95);
            ((0..n).map(|_| rng.percent(chance)).collect(), Fault::TornSectors)
        }
        _ => {
            let blocks: Vec<bool> = (0..n.div_ceil(BLOCK_SECTORS)).map(|_| rng.percent(60)).collect();
            ((0..n).map(|s| blocks[s / BLOCK_SECTORS]).collect(), Fault::TornBlocks)
        }
    }
}

impl Content {
    fn sectors(at: usize, len: usize) -> std::ops::Range<usize> {
        at / SECTOR..(at + len).div_ceil(SECTOR)
    }

    fn write(&mut self, at: usize, bytes: &[u8], keep: impl Fn(usize) -> bool) {
        let end = at + bytes.len();
        if self.cache.len() < end {
            self.cache.resize(end, 0);
        }
        for (n, sector) in Self::sectors(at, bytes.len()).enumerate() {
            if !keep(n) {
                continue;
            }
            let from = at.max(sector * SECTOR);
            let to = end.min((sector + 1) * SECTOR);
            self.cache[from..to].copy_from_slice(&bytes[from - at..to - at]);
            self.dirty.insert(sector);
            self.unreadable.remove(&sector);
        }
    }

    /// One sector of the cache reaches the medium.
    fn write_back(&mut self, sector: usize) {
        let from = sector * SECTOR;
        let to = (from + SECTOR).min(self.cache.len());
        if from < to {
            if self.medium.len() < to {
                self.medium.resize(to, 0);
            }
            self.medium[from..to].copy_from_slice(&self.cache[from..to]);
        }
        self.dirty.remove(&sector);
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.write_back(sector);
        }
        self.medium.resize(self.cache.len(), 0);
    }

    /// Of what was not synced, some is on the medium and some is gone. Returns whether anything is gone.
    fn lose_cache(&mut self, rng: &mut Rng) -> bool {
        let dirty: Vec<usize> = self.dirty.iter().copied().collect();
        let (kept, _) = survivors(dirty.len(), rng);
        for (sector, _) in dirty.iter().zip(&kept).filter(|(_, kept)| **kept) {
            self.write_back(*sector);
        }
        let lost = self.medium != self.cache;
        self.cache = self.medium.clone();
        self.dirty.clear();
        lost
    }
}

#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<Inode, Content>,
    names: BTreeMap<String, Inode>,
    durable_names: BTreeMap<String, Inode>,
    name_ops: Vec<NameOp>,
    flights: BTreeMap<u64, Flight>,
    next_id: u64,
    /// So many operations until the machine crashes.
    fuse: Option<u64>,
}

impl Disk {
    /// Crashes after so many more operations.
    pub fn light_fuse(&mut self, operations: u64) {
        self.fuse = Some(operations);
    }

    pub fn has_fuse(&self) -> bool {
        self.fuse.is_some()
    }

    fn burn(&mut self) -> Result<(), DiskError> {
        match &mut self.fuse {
            Some(0) => Err(DiskError::Crashed),
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The names that begin with `dir`.
    pub fn list(&self, dir: &str) -> Vec<String> {
        self.names.keys().filter(|name| name.starts_with(dir)).cloned().collect()
    }

    pub fn inode(&self, name: &str) -> Option<Inode> {
        self.names.get(name).copied()
    }

    pub fn len(&self, inode: Inode) -> usize {
        self.files.get(&inode).map_or(0, |f| f.cache.len())
    }

    /// A file of zeros. Its content is synced or not as any other.
    pub fn create(&mut self, name: &str, len: usize) -> Result<Inode, DiskError> {
        self.burn()?;
        let inode = self.new_id();
        let mut content = Content::default();
        content.write(0, &vec![0; len], |_| true);
        self.files.insert(inode, content);
        let op = NameOp::Link(name.to_string(), inode);
        op.apply(&mut self.names);
        self.name_ops.push(op);
        Ok(inode)
    }

    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        self.burn()?;
        let inode = self.inode(from).ok_or(DiskError::Io)?;
        let op = NameOp::Rename(from.to_string(), to.to_string(), inode);
        op.apply(&mut self.names);
        self.name_ops.push(op);
        Ok(())
    }

    pub fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.burn()?;
        let op = NameOp::Unlink(name.to_string());
        op.apply(&mut self.names);
        self.name_ops.push(op);
        Ok(())
    }

    /// Makes what happened to the names in `dir` durable. Directories themselves are always there.
    pub fn sync_dir(&mut self, dir: &str) -> Result<(), DiskError> {
        self.burn()?;
        let ops = std::mem::take(&mut self.name_ops);
        let (here, elsewhere): (Vec<_>, Vec<_>) = ops.into_iter().partition(|op| op.is_in(dir));
        here.iter().for_each(|op| op.apply(&mut self.durable_names));
        self.name_ops = elsewhere;
        Ok(())
    }

    pub fn write(&mut self, inode: Inode, at: usize, bytes: &[u8]) -> Result<(), DiskError> {
        self.burn()?;
        self.files.get_mut(&inode).ok_or(DiskError::Io)?.write(at, bytes, |_| true);
        Ok(())
    }

    pub fn sync(&mut self, inode: Inode) -> Result<(), DiskError> {
        self.burn()?;
        self.files.get_mut(&inode).ok_or(DiskError::Io)?.sync();
        Ok(())
    }

    /// Up to `len` bytes of the cache; fewer at the end of the file.
    pub fn read(&self, inode: Inode, at: usize, len: usize) -> Result<&[u8], DiskError> {
        let file = self.files.get(&inode).ok_or(DiskError::Io)?;
        let end = (at + len).min(file.cache.len());
        let at = at.min(end);
        match file.unreadable.range(Content::sectors(at, end - at)).next() {
            Some(_) => Err(DiskError::Io),
            None => Ok(&file.cache[at..end]),
        }
    }

    /// Sends a group. Nothing of it is sure before it lands and is synced.
    pub fn submit(
        &mut self,
        inode: Inode,
        at: u64,
        bytes: Vec<u8>,
        fails: Option<DiskError>,
    ) -> Result<u64, DiskError> {
        self.burn()?;
        let id = self.new_id();
        self.flights.insert(id, Flight { inode, at: at as usize, bytes, fails });
        Ok(id)
    }

    /// The group's bytes are in the cache; an `O_DSYNC` write puts them on the medium at once.
    pub fn land(&mut self, id: u64, dsync: bool, rng: &mut Rng) -> Result<Inode, DiskError> {
        self.burn()?;
        let flight = self.flights.remove(&id).ok_or(DiskError::Io)?;
        let file = self.files.get_mut(&flight.inode).ok_or(DiskError::Io)?;
        if let Some(error) = flight.fails {
            let (kept, _) = survivors(flight.bytes.len() / SECTOR, rng);
            file.write(flight.at, &flight.bytes, |n| kept[n]);
            return Err(error);
        }
        file.write(flight.at, &flight.bytes, |_| true);
        if dsync {
            for sector in Content::sectors(flight.at, flight.bytes.len()) {
                file.write_back(sector);
            }
        }
        Ok(flight.inode)
    }

    /// The kernel writes some of the cache back, as it may at any time.
    pub fn write_back_some(&mut self, rng: &mut Rng) {
        for file in self.files.values_mut() {
            let some: Vec<usize> = file.dirty.iter().copied().filter(|_| rng.percent(50)).collect();
            some.into_iter().for_each(|sector| file.write_back(sector));
        }
    }

    /// The process ends, and with `power` the machine's memory too.
    pub fn crash(&mut self, power: bool, rng: &mut Rng, stats: &mut Stats) {
        self.fuse = None;
        let mut earlier_missing = false;
        for flight in std::mem::take(&mut self.flights).into_values() {
            let (kept, fault) = survivors(flight.bytes.len() / SECTOR, rng);
            stats.fault(fault);
            if let Some(file) = self.files.get_mut(&flight.inode) {
                file.write(flight.at, &flight.bytes, |n| kept[n]);
                for (sector, _) in
                    Content::sectors(flight.at, flight.bytes.len()).zip(&kept).filter(|(_, k)| **k && power)
                {
                    file.write_back(sector);
                }
            }
            let whole = kept.iter().all(|k| *k);
            if whole && earlier_missing {
                stats.fault(Fault::Reordered);
            }
            earlier_missing |= !whole;
        }
        if rng.percent(50) {
            self.write_back_some(rng);
        }
        if !power {
            return;
        }
        for file in self.files.values_mut() {
            if file.lose_cache(rng) {
                stats.fault(Fault::UnsyncedBytesLost);
            }
        }
        for op in std::mem::take(&mut self.name_ops) {
            match rng.percent(50) {
                true => op.apply(&mut self.durable_names),
                false => stats.fault(Fault::UnsyncedNameLost),
            }
        }
        self.names = self.durable_names.clone();
        let linked: BTreeSet<Inode> = self.names.values().copied().collect();
        self.files.retain(|inode, _| linked.contains(inode));
    }
}

/// What the checks and the damage need to see: the medium itself.
impl Disk {
    pub fn medium(&self, inode: Inode) -> &[u8] {
        self.files.get(&inode).map_or(&[], |f| &f.medium)
    }

    pub fn durable_inode(&self, name: &str) -> Option<Inode> {
        self.durable_names.get(name).copied()
    }

    /// Whether the first `len` bytes are on the medium as they are in the cache.
    pub fn is_synced(&self, inode: Inode, len: usize) -> bool {
        self.files.get(&inode).is_some_and(|f| {
            f.medium.len() >= len && f.cache.len() >= len && f.medium[..len] == f.cache[..len]
        })
    }

    /// Bytes that can be read and that not even a power loss takes back.
    pub fn durable_bytes(&self, inode: Inode, at: usize, len: usize) -> Option<&[u8]> {
        let bytes = self.read(inode, at, len).ok()?;
        let on_medium = self.files.get(&inode)?.medium.get(at..at + len)?;
        (bytes == on_medium).then_some(on_medium)
    }

    /// Changes bytes where they lie, behind everybody's back.
    pub fn rot(&mut self, inode: Inode, at: usize, len: usize, change: &mut dyn FnMut(&mut [u8])) {
        if let Some(file) = self.files.get_mut(&inode)
            && at + len <= file.medium.len().min(file.cache.len())
        {
            change(&mut file.medium[at..at + len]);
            let rotten = file.medium[at..at + len].to_vec();
            file.cache[at..at + len].copy_from_slice(&rotten);
        }
    }

    pub fn make_unreadable(&mut self, inode: Inode, at: usize) {
        if let Some(file) = self.files.get_mut(&inode) {
            file.unreadable.insert(at / SECTOR);
        }
    }

    /// The file is gone, for good.
    pub fn lose_file(&mut self, name: &str) {
        self.names.remove(name);
        self.durable_names.remove(name);
    }
}

pub fn wal_name(slot: u32) -> String {
    format!("wal/{slot:05}.wal")
}

/// The WAL's files as recovery reads them.
pub struct WalMedia<'a>(pub &'a Disk);

impl Media for WalMedia<'_> {
    fn files(&mut self) -> Vec<(u32, u64)> {
        let slot = |name: &String| name.strip_prefix("wal/")?.strip_suffix(".wal")?.parse().ok();
        let names = self.0.list("wal/");
        names.iter().filter_map(|n| Some((slot(n)?, self.0.len(self.0.inode(n)?) as u64))).collect()
    }

    fn read(&mut self, slot: u32, at: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        let inode = self.0.inode(&wal_name(slot)).ok_or(Unreadable)?;
        let bytes = self.0.read(inode, at as usize, buf.len()).map_err(|_| Unreadable)?;
        buf[..bytes.len()].copy_from_slice(bytes);
        buf[bytes.len()..].fill(0);
        Ok(())
    }
}
