//! One file's contents, twice: what a reader sees now, and what would be left after a power cut.
//!
//! Contents are kept in 4 KiB blocks, and a block of zeros is not kept at all, so that a preallocated
//! write-ahead log costs nothing. Since the last flush, changed blocks lie in `dirty` over the `durable` ones;
//! a flush moves them down, a power cut decides over each of them.
//!
//! Invariant: bytes at and beyond the length read as zeros in both views, so that growing a file reveals
//! nothing.

use std::collections::{BTreeMap, HashMap};

use super::CutMode;
use crate::seed::Seed;

/// The unit in which a device may lose or keep what was not flushed.
pub const BLOCK_BYTES: usize = 4096;
/// The unit that a device writes whole: a block may be torn between its sectors.
pub const SECTOR_BYTES: usize = 512;

type Block = Box<[u8; BLOCK_BYTES]>;

/// A block written since the last flush. `data` is `None` for a block of zeros.
#[derive(Clone, Debug)]
struct Dirty {
    data: Option<Block>,
    /// A flush of this block was refused. As on Linux, the page then counts as clean: a later flush succeeds
    /// without having written it, and only rewriting it makes it durable.
    abandoned: bool,
}

/// How one power cut dealt with the blocks of a file (or of all files) that had not been flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutReport {
    /// Blocks of which nothing was left.
    pub lost: u64,
    /// Blocks that had reached the disk without being flushed.
    pub kept: u64,
    /// Blocks of which some sectors had reached the disk.
    pub torn: u64,
    /// Directory operations that were undone.
    pub names_lost: u64,
    /// Directory operations that had reached the disk without being flushed.
    pub names_kept: u64,
}

/// The contents of a regular file.
#[derive(Debug, Default)]
pub struct FileData {
    durable: HashMap<u64, Block>,
    durable_len: u64,
    dirty: BTreeMap<u64, Dirty>,
    len: u64,
    allocated: Allocation,
}

impl FileData {
    /// The length in bytes that a reader sees.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True when a reader sees no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The length in bytes that a power cut leaves for certain.
    pub fn durable_len(&self) -> u64 {
        self.durable_len
    }

    /// Blocks that count as used on the disk, written zeros included.
    pub fn allocated_blocks(&self) -> u64 {
        self.allocated.count
    }

    /// How many blocks a write or preallocation of `len` bytes at `offset` would newly take.
    pub fn blocks_needed(&self, offset: u64, len: u64) -> u64 {
        block_range(offset, len).filter(|&block| !self.allocated.contains(block)).count() as u64
    }

    /// Counts the blocks of `offset..offset + len` as used, without a change to the contents.
    pub fn allocate(&mut self, offset: u64, len: u64) {
        for block in block_range(offset, len) {
            self.allocated.insert(block);
        }
    }

    /// Up to `size` bytes at `offset`, as a reader sees them; shorter only at the end of the file.
    pub fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let end = self.len.min(offset.saturating_add(size as u64));
        if offset >= end {
            return Vec::new();
        }
        let mut out = vec![0; (end - offset) as usize];
        for piece in pieces(offset, out.len()) {
            if let Some(block) = self.block(piece.block) {
                out[piece.outer].copy_from_slice(&block[piece.inner]);
            }
        }
        out
    }

    /// Writes `data` at `offset`, growing the file where needed. Nothing of it is durable yet.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for piece in pieces(offset, data.len()) {
            let bytes = &data[piece.outer.clone()];
            self.allocated.insert(piece.block);
            // Zero-filling a new write-ahead log ends here: zeros over a block that is not kept.
            if self.block(piece.block).is_none()
                && !self.dirty.contains_key(&piece.block)
                && bytes.iter().all(|&byte| byte == 0)
            {
                continue;
            }
            let mut block = match self.dirty.remove(&piece.block) {
                Some(Dirty { data, .. }) => data.unwrap_or_else(zeros),
                None if bytes.len() == BLOCK_BYTES => zeros(),
                None => self.durable.get(&piece.block).cloned().unwrap_or_else(zeros),
            };
            block[piece.inner].copy_from_slice(bytes);
            self.dirty.insert(piece.block, Dirty { data: Some(block), abandoned: false });
        }
        self.len = self.len.max(offset.saturating_add(data.len() as u64));
    }

    /// Makes `offset..offset + len` read as zeros, within the file's length.
    pub fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len);
        if offset < end {
            self.zero_unbounded(offset, end);
        }
    }

    /// Sets the length. What is cut off is gone from the readers' view, and stays durable until a flush.
    pub fn truncate(&mut self, len: u64) {
        if len < self.len {
            self.zero_unbounded(len, self.len);
            self.allocated.keep_below(len.div_ceil(BLOCK_BYTES as u64));
        }
        self.len = len;
    }

    /// Makes the contents and the length durable.
    pub fn flush(&mut self) {
        for (block, mut dirty) in std::mem::take(&mut self.dirty) {
            if dirty.abandoned {
                self.dirty.insert(block, dirty);
                continue;
            }
            match dirty.data.take() {
                Some(data) => self.durable.insert(block, data),
                None => self.durable.remove(&block),
            };
        }
        let shrunk = self.len < self.durable_len;
        self.durable_len = self.len;
        if shrunk {
            self.clip();
        }
    }

    /// Marks everything unflushed as never to become durable: what a refused flush leaves behind.
    pub fn abandon(&mut self) {
        for dirty in self.dirty.values_mut() {
            dirty.abandoned = true;
        }
    }

    /// Loses power: both views become what the disk holds.
    pub fn cut(&mut self, mode: CutMode, seed: &mut Seed, report: &mut CutReport) {
        for (block, dirty) in std::mem::take(&mut self.dirty) {
            let fate = match mode {
                CutMode::Forget => 0,
                CutMode::Mixed if dirty.abandoned => 0,
                CutMode::Mixed => seed.below(3),
            };
            let new = dirty.data.unwrap_or_else(zeros);
            match fate {
                0 => report.lost += 1,
                1 => {
                    report.kept += 1;
                    self.durable.insert(block, new);
                }
                _ => {
                    report.torn += 1;
                    let old = self.durable.entry(block).or_insert_with(zeros);
                    for start in (0..BLOCK_BYTES).step_by(SECTOR_BYTES) {
                        if seed.one_in(2) {
                            let sector = start..start + SECTOR_BYTES;
                            old[sector.clone()].copy_from_slice(&new[sector]);
                        }
                    }
                }
            }
        }
        if mode == CutMode::Mixed && self.len != self.durable_len && seed.one_in(2) {
            self.durable_len = self.len;
        }
        self.len = self.durable_len;
        self.clip();
        self.allocated.keep_below(self.len.div_ceil(BLOCK_BYTES as u64));
    }

    /// Flips one bit on the disk, in both views. False when `offset` lies beyond the end.
    pub fn flip(&mut self, offset: u64) -> bool {
        if offset >= self.len {
            return false;
        }
        let (block, at) = (offset / BLOCK_BYTES as u64, (offset % BLOCK_BYTES as u64) as usize);
        if let Some(data) = self.dirty.get_mut(&block).and_then(|dirty| dirty.data.as_mut()) {
            data[at] ^= 1;
        }
        self.durable.entry(block).or_insert_with(zeros)[at] ^= 1;
        true
    }

    fn block(&self, block: u64) -> Option<&Block> {
        match self.dirty.get(&block) {
            Some(dirty) => dirty.data.as_ref(),
            None => self.durable.get(&block),
        }
    }

    fn zero_unbounded(&mut self, offset: u64, end: u64) {
        let size = BLOCK_BYTES as u64;
        let (first_whole, end_whole) = (offset.div_ceil(size), end / size);
        // A file may claim terabytes: only blocks that exist are visited.
        let held: Vec<u64> = self
            .durable
            .keys()
            .chain(self.dirty.keys())
            .copied()
            .filter(|&b| self.block(b).is_some())
            .collect();
        for block in held {
            if block >= first_whole && block < end_whole {
                self.dirty.insert(block, Dirty { data: None, abandoned: false });
            } else if block >= offset / size && block <= (end - 1) / size {
                let from = offset.max(block * size);
                let to = end.min((block + 1) * size);
                self.write_within(from, (to - from) as usize);
            }
        }
    }

    fn write_within(&mut self, offset: u64, len: usize) {
        let before = self.len;
        self.write(offset, &vec![0; len]);
        self.len = before;
    }

    /// Keeps the invariant for the durable view after its length moved.
    fn clip(&mut self) {
        let size = BLOCK_BYTES as u64;
        let (whole, rest) = (self.durable_len / size, (self.durable_len % size) as usize);
        self.durable.retain(|&block, _| block < self.durable_len.div_ceil(size));
        if rest > 0
            && let Some(block) = self.durable.get_mut(&whole)
        {
            block[rest..].fill(0);
        }
    }
}

/// Which blocks of a file are used on the disk.
#[derive(Debug, Default)]
struct Allocation {
    words: Vec<u64>,
    count: u64,
}

impl Allocation {
    fn contains(&self, block: u64) -> bool {
        self.words.get((block / 64) as usize).is_some_and(|word| word & (1 << (block % 64)) != 0)
    }

    fn insert(&mut self, block: u64) {
        let index = (block / 64) as usize;
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        let bit = 1 << (block % 64);
        if self.words[index] & bit == 0 {
            self.words[index] |= bit;
            self.count += 1;
        }
    }

    fn keep_below(&mut self, end: u64) {
        self.words.truncate(end.div_ceil(64) as usize);
        if !end.is_multiple_of(64)
            && let Some(word) = self.words.get_mut((end / 64) as usize)
        {
            *word &= (1 << (end % 64)) - 1;
        }
        self.count = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
    }
}

/// One block's share of a byte range: `outer` within the caller's buffer, `inner` within the block.
struct Piece {
    block: u64,
    outer: std::ops::Range<usize>,
    inner: std::ops::Range<usize>,
}

fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % BLOCK_BYTES as u64) as usize;
        let take = (BLOCK_BYTES - start).min(len - done);
        let piece =
            Piece { block: at / BLOCK_BYTES as u64, outer: done..done + take, inner: start..start + take };
        done += take;
        Some(piece)
    })
}

fn block_range(offset: u64, len: u64) -> std::ops::Range<u64> {
    let size = BLOCK_BYTES as u64;
    if len == 0 { 0..0 } else { offset / size..offset.saturating_add(len).div_ceil(size) }
}

fn zeros() -> Block {
    Box::new([0; BLOCK_BYTES])
}
