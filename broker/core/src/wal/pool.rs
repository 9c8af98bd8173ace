//! The pool of WAL files: which is written, which hold what, which may be written again.
//!
//! A file is recycled only when everything in it is in synced segments and the checkpoint that says so is
//! synced too (invariant 11): [`Pool::recycle`] is called with that checkpoint and no other.

use std::collections::BTreeMap;

use super::format::{FILE_HEADER_LEN, FileHeader, PreviousFile};
use crate::ids::WalPosition;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    /// Holds `base..end`; the file being written has no end yet.
    Holds {
        generation: u64,
        base: WalPosition,
        end: Option<WalPosition>,
    },
}

/// The files of one WAL, by slot number (which is in their names).
#[derive(Clone, Debug)]
pub struct Pool {
    file_bytes: u64,
    max_files: usize,
    slots: BTreeMap<u32, Slot>,
    generation: u64,
    /// The file before the first one opened in this run, as recovery knows it.
    found_previous: Option<PreviousFile>,
}

impl Pool {
    pub fn new(file_bytes: u64, max_files: usize) -> Pool {
        Pool {
            file_bytes,
            max_files: max_files.max(2),
            slots: BTreeMap::new(),
            generation: 0,
            found_previous: None,
        }
    }

    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The number of files that exist.
    pub fn files(&self) -> usize {
        self.slots.len()
    }

    /// A zeroed file has been added in this slot.
    pub fn add_free(&mut self, slot: u32) {
        self.slots.insert(slot, Slot::Free);
    }

    /// A file found by recovery: it holds `base..end`, or nothing that counts.
    pub fn add_found(&mut self, slot: u32, generation: u64, base: WalPosition, end: WalPosition) {
        self.generation = self.generation.max(generation);
        let state = if end > base { Slot::Holds { generation, base, end: Some(end) } } else { Slot::Free };
        self.slots.insert(slot, state);
    }

    /// A file that may be written, if there is one.
    pub fn free_slot(&self) -> Option<u32> {
        self.slots.iter().find(|(_, s)| **s == Slot::Free).map(|(n, _)| *n)
    }

    /// Free files.
    pub fn free(&self) -> usize {
        self.slots.values().filter(|s| **s == Slot::Free).count()
    }

    /// The slot for one file more, unless the pool is as large as it may be. `beyond_limit` is for a start
    /// that finds every file full: without a file to go on in, it could never drain them.
    pub fn slot_to_add(&self, beyond_limit: bool) -> Option<u32> {
        if self.slots.len() >= self.max_files && !beyond_limit {
            return None;
        }
        (0..).find(|n| !self.slots.contains_key(n))
    }

    /// The generation that the next opened file gets.
    pub fn next_generation(&self) -> u64 {
        self.generation + 1
    }

    /// The newest generation seen in a file, even in one that holds nothing that counts.
    pub fn seen_generation(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// What recovery says of the file before those that will be opened: it may be one that is lost.
    pub fn set_previous(&mut self, previous: Option<PreviousFile>) {
        self.found_previous = previous;
    }

    /// The file that holds what comes before `base`, for the header of a file that begins there.
    pub fn previous(&self, base: WalPosition) -> Option<PreviousFile> {
        let held = self.slots.values().filter_map(|state| match state {
            Slot::Holds { generation, base: begins, .. } if *begins < base => {
                Some(PreviousFile { generation: *generation, base: *begins })
            }
            _ => None,
        });
        held.chain(self.found_previous).max_by_key(|previous| previous.generation)
    }

    /// `slot` is now the file being written; the one before it ends at `base`.
    pub fn open(&mut self, slot: u32, base: WalPosition) -> u64 {
        self.generation += 1;
        for state in self.slots.values_mut() {
            if let Slot::Holds { base: older, end: end @ None, .. } = state {
                if *older == base {
                    *state = Slot::Free;
                } else {
                    *end = Some(base);
                }
            }
        }
        self.slots.insert(slot, Slot::Holds { generation: self.generation, base, end: None });
        self.generation
    }

    /// Everything before `checkpoint` is in synced segments, and so is the checkpoint. Returns how many files
    /// that freed.
    pub fn recycle(&mut self, checkpoint: WalPosition) -> usize {
        let mut freed = 0;
        for state in self.slots.values_mut() {
            if matches!(state, Slot::Holds { end: Some(end), .. } if *end <= checkpoint) {
                *state = Slot::Free;
                freed += 1;
            }
        }
        freed
    }

    /// Where a position lies: slot and offset in the file. `None` when its file has been recycled.
    pub fn locate(&self, position: WalPosition) -> Option<(u32, u64)> {
        self.slots.iter().find_map(|(n, state)| match state {
            Slot::Holds { base, end, .. } => {
                let end = end.map_or(base.0 + FileHeader::capacity(self.file_bytes), |e| e.0);
                (base.0 <= position.0 && position.0 < end)
                    .then(|| (*n, FILE_HEADER_LEN + position.0 - base.0))
            }
            Slot::Free => None,
        })
    }

    /// How full the pool is: files that hold something, of those it may have.
    pub fn fill(&self) -> (usize, usize) {
        (self.slots.len() - self.free(), self.max_files.max(self.slots.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u64 = 1 << 20;

    #[test]
    fn files_are_recycled_only_below_the_checkpoint() {
        let mut pool = Pool::new(FILE, 3);
        for slot in 0..3 {
            pool.add_free(slot);
        }
        assert_eq!(pool.open(0, WalPosition(0)), 1);
        assert_eq!(pool.open(1, WalPosition(40_960)), 2);
        assert_eq!(pool.open(2, WalPosition(81_920)), 3);
        assert_eq!(
            (pool.free_slot(), pool.slot_to_add(false), pool.slot_to_add(true)),
            (None, None, Some(3))
        );
        let previous = PreviousFile { generation: 2, base: WalPosition(40_960) };
        assert_eq!(pool.previous(WalPosition(81_920)), Some(previous), "not the file that begins there");
        assert_eq!(pool.previous(WalPosition(0)), None);
        assert_eq!(pool.recycle(WalPosition(40_959)), 0);
        assert_eq!(pool.recycle(WalPosition(40_960)), 1);
        assert_eq!(pool.free_slot(), Some(0));
        assert_eq!(pool.locate(WalPosition(0)), None, "its file may be written again");
        assert_eq!(pool.locate(WalPosition(45_056)), Some((1, FILE_HEADER_LEN + 4096)));
        assert_eq!(pool.recycle(WalPosition(u64::MAX)), 1, "never the file being written");
    }

    #[test]
    fn an_empty_file_is_opened_again_instead_of_using_up_the_pool() {
        let mut pool = Pool::new(FILE, 2);
        pool.add_free(0);
        pool.add_free(1);
        pool.open(0, WalPosition(0));
        pool.open(1, WalPosition(0));
        assert_eq!(pool.free_slot(), Some(0));
        assert_eq!(pool.next_generation(), 3);
    }
}
