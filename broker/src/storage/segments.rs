//! A partition's segment files: where durable batches live once they leave the write-ahead log.
//!
//! Batches are appended, synced, and only then counted (`SegmentState::bytes`): what lies behind is never
//! read, and is overwritten by the next attempt.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chronik_core::ids::Offset;
use chronik_core::record_batch::{BatchError, BatchHeader, Batches, Crc, HEADER_LEN};
use chronik_core::store::checkpoint::SegmentState;

use super::wal::files::sync_dir;

/// A position in the index every so many bytes.
const INDEX_EVERY: u64 = 64 * 1024;

fn file_name(base_offset: Offset) -> String {
    format!("{base_offset:020}.log")
}

struct Segment {
    state: SegmentState,
    /// Some batches' base offsets and places, ascending; complete for the file once `indexed_to` is its end.
    index: Vec<(Offset, u64)>,
    indexed_to: u64,
}

/// Where to read.
#[derive(Clone, Debug)]
pub struct Place {
    pub path: PathBuf,
    /// A batch starts here, at or before the one that is looked for.
    pub at: u64,
    /// The synced end of the file.
    pub end: u64,
}

/// The segments of one partition.
pub struct Segments {
    dir: PathBuf,
    segments: BTreeMap<Offset, Segment>,
    /// The file being written, and whether its directory entry is synced.
    active: Option<(Offset, File)>,
    /// Bytes written to the active file behind its state, not yet synced.
    unsynced: Option<SegmentState>,
    dir_dirty: bool,
    /// The newest file is damaged: nothing is added to it.
    sealed: bool,
}

impl Segments {
    /// Takes over what a checkpoint says; files or lengths it does not know are not touched here.
    pub fn new(dir: PathBuf, states: Vec<SegmentState>) -> Segments {
        let segment =
            |state: SegmentState| (state.base_offset, Segment { state, index: Vec::new(), indexed_to: 0 });
        Segments {
            dir,
            segments: states.into_iter().map(segment).collect(),
            active: None,
            unsynced: None,
            dir_dirty: false,
            sealed: false,
        }
    }

    /// Leaves the files as they are: what follows goes into a new one.
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    /// Checks that the files hold at least what the checkpoint says, and removes those it does not know.
    pub fn check(&self) -> io::Result<()> {
        for segment in self.segments.values() {
            let path = self.dir.join(file_name(segment.state.base_offset));
            let len = std::fs::metadata(&path).map_err(|e| named(&path, e))?.len();
            if len < segment.state.bytes {
                let why = format!("has {len} bytes, {} were synced", segment.state.bytes);
                return Err(named(&path, io::Error::other(why)));
            }
        }
        if self.dir.is_dir() {
            for entry in std::fs::read_dir(&self.dir)? {
                let entry = entry?;
                let name = entry.file_name();
                let known = |base: &Offset| name.to_str() == Some(&file_name(*base));
                if !self.segments.keys().any(known) && name.to_str().is_some_and(|n| n.ends_with(".log")) {
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// The synced segments, oldest first.
    pub fn states(&self) -> Vec<SegmentState> {
        self.segments.values().map(|s| s.state.clone()).collect()
    }

    /// The offset behind the last synced batch; 0 without one.
    pub fn end(&self) -> Offset {
        self.segments.values().next_back().map_or(0, |s| s.state.end_offset)
    }

    /// Appends whole batches behind everything written so far. Nothing counts before [`Segments::sync`].
    pub fn append(
        &mut self,
        bytes: &[u8],
        first: Offset,
        next: Offset,
        max_timestamp: i64,
        segment_bytes: u64,
    ) -> io::Result<()> {
        let newest = match &self.unsynced {
            Some(state) => Some(state.clone()),
            None if self.sealed => None,
            None => self.segments.values().next_back().map(|s| s.state.clone()),
        };
        let fits = |s: &SegmentState| s.bytes == 0 || s.bytes + bytes.len() as u64 <= segment_bytes;
        let mut state = match newest {
            Some(state) if fits(&state) => state,
            _ => {
                self.sync()?;
                SegmentState { base_offset: first, bytes: 0, end_offset: first, max_timestamp: -1 }
            }
        };
        let file = self.open_active(state.base_offset)?;
        file.write_all_at(bytes, state.bytes)?;
        self.sealed = false;
        state.bytes += bytes.len() as u64;
        state.end_offset = next;
        state.max_timestamp = state.max_timestamp.max(max_timestamp);
        self.unsynced = Some(state);
        Ok(())
    }

    fn open_active(&mut self, base: Offset) -> io::Result<&File> {
        if self.active.as_ref().is_none_or(|(open, _)| *open != base) {
            if !self.dir.is_dir() {
                std::fs::create_dir_all(&self.dir)?;
                for dir in self.dir.ancestors().skip(1).take(2) {
                    sync_dir(dir)?;
                }
            }
            let path = self.dir.join(file_name(base));
            // What lies behind the counted bytes, of a file that is known or not, is overwritten.
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
            self.dir_dirty = true;
            self.active = Some((base, file));
        }
        match &self.active {
            Some((_, file)) => Ok(file),
            None => Err(io::Error::other("no active segment")),
        }
    }

    /// Makes what was appended durable; from now on it counts.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(state) = self.unsynced.clone() else { return Ok(()) };
        if let Some((_, file)) = &self.active {
            file.sync_data()?;
        }
        if self.dir_dirty {
            sync_dir(&self.dir)?;
            self.dir_dirty = false;
        }
        self.unsynced = None;
        match self.segments.get_mut(&state.base_offset) {
            Some(segment) => segment.state = state,
            None => {
                let base = state.base_offset;
                self.segments.insert(base, Segment { state, index: Vec::new(), indexed_to: 0 });
            }
        }
        Ok(())
    }

    /// Closes the file being written: thousands of partitions must not keep one open each.
    pub fn close(&mut self) {
        if self.unsynced.is_none() {
            self.active = None;
        }
    }

    /// Forgets what was appended since the last sync, after an error: it will be appended again.
    pub fn abandon(&mut self) {
        self.unsynced = None;
        self.active = None;
    }

    /// Where the batch that holds `offset` is, or the first behind it (offsets may have gaps). `None` behind
    /// the last segment.
    pub fn find(&mut self, offset: Offset) -> io::Result<Option<Place>> {
        let at_or_before = self.segments.range(..=offset).next_back().map(|(base, _)| *base);
        let holds = |base: &Offset| self.segments.get(base).is_some_and(|s| s.state.end_offset > offset);
        let base = match at_or_before.filter(holds) {
            Some(base) => base,
            None => match self.segments.range(offset..).next() {
                Some((base, _)) => *base,
                None => return Ok(None),
            },
        };
        let path = self.dir.join(file_name(base));
        let Some(segment) = self.segments.get_mut(&base) else { return Ok(None) };
        segment.index(&path)?;
        let before = segment.index.partition_point(|(first, _)| *first <= offset);
        let at = before.checked_sub(1).map_or(0, |n| segment.index[n].1);
        Ok(Some(Place { path, at, end: segment.state.bytes }))
    }

    /// The first segment whose latest timestamp is at least `timestamp`, searching from `from` on.
    pub fn find_time(&self, timestamp: i64, from: Offset) -> Option<Offset> {
        let later = |s: &&Segment| s.state.end_offset > from && s.state.max_timestamp >= timestamp;
        self.segments.values().find(later).map(|s| s.state.base_offset.max(from))
    }

    /// The latest timestamp of any segment.
    pub fn max_timestamp(&self) -> Option<i64> {
        self.segments.values().map(|s| s.state.max_timestamp).max()
    }

    /// The latest timestamp of the segment that begins or goes on at `offset`, and where that segment ends.
    pub fn segment_at(&self, offset: Offset) -> Option<SegmentState> {
        let ends_later = |s: &&Segment| s.state.end_offset > offset;
        self.segments.values().find(ends_later).map(|s| s.state.clone())
    }

    /// Removes the partition's directory.
    pub fn remove(&mut self) -> io::Result<()> {
        self.abandon();
        self.segments.clear();
        match std::fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

impl Segment {
    /// Brings the index up to the synced end, reading the headers of batches not seen yet.
    fn index(&mut self, path: &Path) -> io::Result<()> {
        if self.indexed_to >= self.state.bytes {
            return Ok(());
        }
        let file = File::open(path).map_err(|e| named(path, e))?;
        let mut header = [0; HEADER_LEN];
        while self.indexed_to + HEADER_LEN as u64 <= self.state.bytes {
            file.read_exact_at(&mut header, self.indexed_to).map_err(|e| named(path, e))?;
            let parsed = BatchHeader::parse(&header).map_err(|e| named(path, io::Error::other(e)))?;
            let last = self.index.last().map(|(_, at)| *at);
            if last.is_none_or(|at| self.indexed_to - at >= INDEX_EVERY) {
                self.index.push((parsed.base_offset, self.indexed_to));
            }
            self.indexed_to += parsed.size_in_bytes() as u64;
        }
        Ok(())
    }
}

fn named(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

/// Whole batches at `place` from the one that holds `from`, below `to`: up to `max_bytes`, and at least one
/// if `min_one`. Every checksum is verified: damaged bytes are an error, never an answer.
pub fn read(place: &Place, from: Offset, to: Offset, max_bytes: usize, min_one: bool) -> io::Result<Bytes> {
    let file = File::open(&place.path).map_err(|e| named(&place.path, e))?;
    // Enough for the skipped batches and the answer; a larger first batch is read again, alone.
    let mut want = (INDEX_EVERY as usize + max_bytes).min((place.end - place.at) as usize);
    loop {
        let mut buf = vec![0; want];
        file.read_exact_at(&mut buf, place.at).map_err(|e| named(&place.path, e))?;
        let mut answer = 0..0;
        let mut complete = place.at + want as u64 >= place.end;
        for batch in Batches::new(&buf, Crc::Check) {
            let (header, range) = match batch {
                Ok(found) => found,
                Err(BatchError::Truncated { .. }) => break,
                Err(e) => return Err(named(&place.path, io::Error::other(e))),
            };
            if header.next_offset() <= from {
                continue;
            }
            let start = if answer.is_empty() { range.start } else { answer.start };
            let too_much = range.end - start > max_bytes && !(answer.is_empty() && min_one);
            if too_much || header.next_offset() > to {
                complete = true;
                break;
            }
            answer = start..range.end;
        }
        if complete || !answer.is_empty() {
            return Ok(Bytes::from(buf).slice(answer));
        }
        // The batch that is looked for is larger than what was read.
        want = (want * 4).min((place.end - place.at) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chronik_core::ids::LeaderEpoch;
    use chronik_core::record_batch::BatchBuilder;

    fn batch(offset: Offset, len: usize) -> Vec<u8> {
        let value = vec![offset as u8; len];
        BatchBuilder::new().at(offset, LeaderEpoch(0)).record(1000 + offset, None, Some(&value)).build()
    }

    fn filled(dir: &Path) -> Segments {
        let mut segments = Segments::new(dir.join("topic/0"), Vec::new());
        for offset in 0..100 {
            segments.append(&batch(offset, 3000), offset, offset + 1, 1000 + offset, 100_000).unwrap();
        }
        segments.sync().unwrap();
        segments
    }

    #[test]
    fn what_was_synced_is_read_back_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let states = filled(dir.path()).states();
        assert!(states.len() > 2, "rolled by size");
        let mut segments = Segments::new(dir.path().join("topic/0"), states);
        segments.check().unwrap();
        let mut next = 0;
        while let Some(place) = segments.find(next).unwrap() {
            let bytes = read(&place, next, 90, 10_000, true).unwrap();
            if bytes.is_empty() {
                break;
            }
            for found in Batches::new(&bytes, Crc::Check) {
                let (header, range) = found.unwrap();
                assert_eq!(header.base_offset, next);
                assert_eq!(&bytes[range], &batch(next, 3000)[..]);
                next += 1;
            }
        }
        assert_eq!(next, 90, "nothing at or beyond the limit");
        assert_eq!(segments.find_time(1050, 0).map(|o| o <= 50), Some(true));
    }

    #[test]
    fn a_batch_larger_than_the_limit_comes_alone_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = Segments::new(dir.path().join("t/0"), Vec::new());
        segments.append(&batch(0, 900_000), 0, 1, 1000, 1 << 30).unwrap();
        segments.sync().unwrap();
        let place = segments.find(0).unwrap().unwrap();
        assert_eq!(read(&place, 0, 1, 10, true).unwrap().len(), batch(0, 900_000).len());
        assert!(read(&place, 0, 1, 10, false).unwrap().is_empty());
    }

    #[test]
    fn damage_is_an_error_and_unsynced_bytes_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = filled(dir.path());
        segments.append(&batch(100, 10), 100, 101, 1100, 100_000).unwrap();
        assert!(segments.find(100).unwrap().is_none());
        assert_eq!(segments.end(), 100);
        segments.abandon();
        let place = segments.find(0).unwrap().unwrap();
        let file = OpenOptions::new().write(true).open(&place.path).unwrap();
        file.write_all_at(b"rot", 2000).unwrap();
        assert!(read(&place, 0, 100, 1 << 20, true).is_err());
    }
}
