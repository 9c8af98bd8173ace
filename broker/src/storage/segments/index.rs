//! The sparse index of a segment file, by offset and by time, in a file beside it.
//!
//! A batch every 64 KiB has an entry: its base offset, its place, and the latest time of all batches before it in the file.
//! All three ascend, so either is searched by halves, without loading the file, and an index costs no memory.
//!
//! Nothing depends on it. Each entry bears a checksum; one that is missing, damaged or of another file is built anew from
//! the headers of the batches. That is why it is never flushed, and why an error of writing it is none of the log's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use chronik_core::ids::Offset;
use chronik_core::record_batch::{BatchHeader, HEADER_LEN, NO_TIMESTAMP};

use super::named;

/// At least so many bytes lie between two entries.
pub const INDEX_EVERY: u64 = 64 * 1024;
const MAGIC: &[u8; 4] = b"CIX1";
const ENTRY_LEN: usize = 32;
/// Headers are read by so much at once.
const WALK_BYTES: u64 = 16 * 1024;

/// What the index says of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub offset: Offset,
    pub at: u64,
    /// Of the batches before it in the file, ms since 1970; -1 for none.
    pub latest_before: i64,
}

impl Entry {
    fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut out = [0; ENTRY_LEN];
        out[..4].copy_from_slice(MAGIC);
        out[4..12].copy_from_slice(&self.offset.to_be_bytes());
        out[12..20].copy_from_slice(&self.at.to_be_bytes());
        out[20..28].copy_from_slice(&self.latest_before.to_be_bytes());
        let crc = crc32c::crc32c(&out[..28]);
        out[28..].copy_from_slice(&crc.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8; ENTRY_LEN]) -> Option<Entry> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if body.first_chunk() != Some(MAGIC) || crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
            return None;
        }
        let word = |at: usize| body.get(at..)?.first_chunk().copied();
        Some(Entry {
            offset: Offset::from_be_bytes(word(4)?),
            at: u64::from_be_bytes(word(12)?),
            latest_before: i64::from_be_bytes(word(20)?),
        })
    }
}

/// How far a file has been indexed. The file's beginning needs no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexed {
    to: u64,
    entries: u64,
    last_at: u64,
    latest: i64,
}

impl Default for Indexed {
    fn default() -> Self {
        Indexed { to: 0, entries: 0, last_at: 0, latest: NO_TIMESTAMP }
    }
}

impl Indexed {
    /// Sees the next batch of the file; its entry, if it gets one.
    pub fn note(&mut self, header: &BatchHeader) -> Option<Entry> {
        let entry = (self.to - self.last_at >= INDEX_EVERY).then_some(Entry {
            offset: header.base_offset,
            at: self.to,
            latest_before: self.latest,
        });
        if entry.is_some() {
            self.last_at = self.to;
            self.entries += 1;
        }
        self.latest = self.latest.max(header.max_timestamp);
        self.to += header.size_in_bytes() as u64;
        entry
    }

    /// All batches before this place were seen.
    pub fn to(&self) -> u64 {
        self.to
    }

    /// How many entries there are.
    pub fn entries(&self) -> u64 {
        self.entries
    }
}

/// Where the index of a segment file lies.
pub fn path_of(log: &Path) -> PathBuf {
    log.with_extension("index")
}

/// Writes entries from the `first`th on.
///
/// # Errors
/// When the file cannot be written. Nobody needs to care.
pub fn write(log: &Path, first: u64, entries: &[Entry]) -> io::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path_of(log))?;
    let bytes: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
    file.write_all_at(&bytes, first * ENTRY_LEN as u64)
}

/// Brings the index of a file up to `end`, where a batch ends: what is there already is kept.
///
/// # Errors
/// When the segment file itself cannot be read.
pub fn complete(log: &Path, end: u64) -> io::Result<Indexed> {
    // Without a file there is nothing to keep; with one that cannot be read neither.
    let mut indexed = last_good(log, end).unwrap_or_default();
    let first = indexed.entries;
    let mut entries = Vec::new();
    walk_headers(log, indexed.to, end, &mut |header| entries.extend(indexed.note(header)))?;
    if let Ok(file) = OpenOptions::new().write(true).open(path_of(log)) {
        // What a crash left behind is of batches that may not be there any more.
        let _ = file.set_len(first * ENTRY_LEN as u64);
    }
    if let Err(e) = write(log, first, &entries) {
        tracing::debug!(file = %log.display(), "the index of a segment cannot be written: {e}");
    }
    Ok(indexed)
}

/// The last entry below `end` that is whole and of this file.
fn last_good(log: &Path, end: u64) -> Option<Indexed> {
    let index = File::open(path_of(log)).ok()?;
    let mut count = index.metadata().ok()?.len() / ENTRY_LEN as u64;
    let entry = loop {
        count = count.checked_sub(1)?;
        match entry_at(&index, count) {
            Ok(Some(entry)) if entry.at < end => break entry,
            _ => {}
        }
    };
    let mut header = [0; HEADER_LEN];
    File::open(log).ok()?.read_exact_at(&mut header, entry.at).ok()?;
    let is_of_this_file = BatchHeader::parse(&header).ok()?.base_offset == entry.offset;
    is_of_this_file.then_some(Indexed {
        to: entry.at,
        entries: count + 1,
        last_at: entry.at,
        latest: entry.latest_before,
    })
}

/// The last entry of which `is_before` is true, if there is one. `indexed` tells how many there are.
///
/// # Errors
/// `InvalidData` when an entry on the way is damaged or missing: [`rebuild`] it.
pub fn search(
    log: &Path,
    indexed: &Indexed,
    is_before: &dyn Fn(&Entry) -> bool,
) -> io::Result<Option<Entry>> {
    if indexed.entries == 0 {
        return Ok(None);
    }
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    let index = File::open(path_of(log)).map_err(|e| damaged(&e.to_string()))?;
    let (mut low, mut high) = (0, indexed.entries);
    let mut found = None;
    while low < high {
        let middle = low + (high - low) / 2;
        let entry = entry_at(&index, middle).ok().flatten().filter(|entry| entry.at < indexed.to);
        let entry = entry.ok_or_else(|| damaged("an entry is damaged"))?;
        if is_before(&entry) {
            (low, found) = (middle + 1, Some(entry));
        } else {
            high = middle;
        }
    }
    Ok(found)
}

/// The entries of a file's index that are whole, as far as there are any.
pub fn entries(log: &Path) -> Vec<Entry> {
    let bytes = std::fs::read(path_of(log)).unwrap_or_default();
    bytes.as_chunks::<ENTRY_LEN>().0.iter().filter_map(Entry::decode).collect()
}

/// Whether the index of a file holds these entries, or the first of them: what is missing is not wrong.
pub fn belongs(log: &Path, entries: &[Entry]) -> bool {
    let bytes = std::fs::read(path_of(log)).unwrap_or_default();
    let should: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
    should.starts_with(&bytes)
}

/// Puts these entries in the place of a file's index.
///
/// # Errors
/// When it cannot be written. Nobody needs to care.
pub fn replace(log: &Path, entries: &[Entry]) -> io::Result<()> {
    match std::fs::remove_file(path_of(log)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => write(log, 0, entries),
    }
}

/// Builds the index of a file anew.
///
/// # Errors
/// When the segment file itself cannot be read.
pub fn rebuild(log: &Path, end: u64) -> io::Result<Indexed> {
    let _ = std::fs::remove_file(path_of(log));
    complete(log, end)
}

fn entry_at(index: &File, n: u64) -> io::Result<Option<Entry>> {
    let mut bytes = [0; ENTRY_LEN];
    index.read_exact_at(&mut bytes, n * ENTRY_LEN as u64)?;
    Ok(Entry::decode(&bytes))
}

/// The headers of the batches from `from` to `end`, where batches begin and end; up to damage, if there is any.
fn walk_headers(log: &Path, from: u64, end: u64, each: &mut dyn FnMut(&BatchHeader)) -> io::Result<()> {
    let file = File::open(log).map_err(|e| named(log, e))?;
    let (mut at, mut next) = (from, 0);
    let mut buf = Vec::new();
    while at + HEADER_LEN as u64 <= end {
        buf.resize(WALK_BYTES.min(end - at) as usize, 0);
        file.read_exact_at(&mut buf, at).map_err(|e| named(log, e))?;
        let mut seen = 0_usize;
        while let Some(bytes) = buf.get(seen..seen.saturating_add(HEADER_LEN)) {
            // Whoever reads what follows meets the damage, and tells of it.
            let Ok(header) = BatchHeader::parse(bytes) else { return Ok(()) };
            if header.base_offset < next {
                return Ok(());
            }
            next = header.next_offset();
            each(&header);
            seen = seen.saturating_add(header.size_in_bytes());
        }
        at += seen as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chronik_core::ids::LeaderEpoch;
    use chronik_core::record_batch::BatchBuilder;

    /// A file of batches of about 10 kB, with times that jump about; its end.
    fn file(dir: &Path, batches: i64) -> (PathBuf, u64) {
        let path = dir.join("00000000000000000000.log");
        let batch = |offset: i64| {
            let time = 1000 + offset * 10 - (offset % 3) * 25;
            let value = vec![7; 10_000];
            BatchBuilder::new().at(offset, LeaderEpoch(0)).record(time, None, Some(&value)).build()
        };
        let bytes: Vec<u8> = (0..batches).flat_map(batch).collect();
        std::fs::write(&path, &bytes).unwrap();
        (path, bytes.len() as u64)
    }

    /// By searching every offset and time, and by walking from what the index gave.
    fn check(path: &Path, indexed: &Indexed, end: u64, batches: i64) {
        let mut all = Vec::new();
        let mut at = 0;
        walk_headers(path, 0, end, &mut |header| {
            all.push((header.base_offset, at, header.max_timestamp));
            at += header.size_in_bytes() as u64;
        })
        .unwrap();
        assert_eq!(all.len() as i64, batches);
        for &(offset, place, time) in &all {
            let found = search(path, indexed, &|entry| entry.offset <= offset).unwrap();
            let from = found.map_or(0, |entry| entry.at);
            assert!(from <= place && place - from < INDEX_EVERY + 20_000, "offset {offset}");
            let first = all.iter().find(|(.., t)| *t >= time).unwrap().1;
            let found = search(path, indexed, &|entry| entry.latest_before < time).unwrap();
            let from = found.map_or(0, |entry| entry.at);
            assert!(from <= first && first - from < INDEX_EVERY + 20_000, "time {time}");
        }
    }

    #[test]
    fn every_batch_is_found_by_offset_and_by_time() {
        let dir = tempfile::tempdir().unwrap();
        let (path, end) = file(dir.path(), 200);
        let indexed = complete(&path, end).unwrap();
        assert!(indexed.entries() > 20);
        check(&path, &indexed, end, 200);
        assert_eq!(complete(&path, end).unwrap(), indexed, "once more, from what is there");
    }

    #[test]
    fn what_is_missing_damaged_or_of_another_time_is_built_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, end) = file(dir.path(), 200);
        let whole = complete(&path, end).unwrap();
        let index = path_of(&path);
        let bytes = std::fs::read(&index).unwrap();

        // Cut short: what is there is kept, and the rest comes again.
        std::fs::write(&index, &bytes[..bytes.len() / 2 + 5]).unwrap();
        assert_eq!(complete(&path, end).unwrap(), whole);
        assert_eq!(std::fs::read(&index).unwrap(), bytes);
        // Entries of batches that were never synced.
        let stale = Entry { offset: 5000, at: end + 10, latest_before: 1 }.encode();
        std::fs::write(&index, [&bytes[..], &stale].concat()).unwrap();
        assert_eq!(complete(&path, end).unwrap(), whole);
        assert_eq!(std::fs::read(&index).unwrap(), bytes);
        // A flipped bit in the middle is noticed by whoever comes by.
        let mut rotten = bytes.clone();
        rotten[bytes.len() / ENTRY_LEN / 2 * ENTRY_LEN + 9] ^= 4;
        std::fs::write(&index, &rotten).unwrap();
        let e = search(&path, &whole, &|_| true).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::InvalidData);
        assert_eq!(rebuild(&path, end).unwrap(), whole);
        check(&path, &whole, end, 200);
        // The index of another file.
        let other = Entry { offset: 17, at: 70_000, latest_before: 1 }.encode();
        std::fs::write(&index, other).unwrap();
        assert_eq!(complete(&path, end).unwrap(), whole);
        // None.
        std::fs::remove_file(&index).unwrap();
        assert!(search(&path, &whole, &|_| true).is_err());
        assert_eq!(complete(&path, end).unwrap(), whole);
        assert_eq!(std::fs::read(&index).unwrap(), bytes);
    }

    #[test]
    fn it_grows_with_the_file_as_if_built_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (path, end) = file(dir.path(), 50);
        let mut by_hand = Indexed::default();
        walk_headers(&path, 0, end, &mut |header| {
            let first = by_hand.entries();
            let entry = by_hand.note(header);
            write(&path, first, entry.as_slice()).unwrap();
        })
        .unwrap();
        let grown = std::fs::read(path_of(&path)).unwrap();
        assert_eq!(rebuild(&path, end).unwrap(), by_hand);
        assert_eq!(std::fs::read(path_of(&path)).unwrap(), grown);
    }
}
