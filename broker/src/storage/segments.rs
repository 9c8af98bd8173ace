//! A partition's segment files: where durable batches live once they leave the write-ahead log.
//!
//! Batches are appended, synced, and only then counted (`SegmentState::bytes`): what lies behind is never
//! read, and is overwritten by the next attempt. Batches are added to the newest file only; the others are closed. Files
//! that are no longer needed are *condemned*: the checkpoint on the disk may name them still, so they go once another
//! one is written.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chronik_client::compression;
use chronik_core::ids::Offset;
use chronik_core::metadata::TopicConfig;
use chronik_core::record_batch::{BatchError, BatchHeader, Batches, Crc, HEADER_LEN};
use chronik_core::store::checkpoint::SegmentState;

use super::wal::files::sync_dir;

/// A position in the index every so many bytes.
const INDEX_EVERY: u64 = 64 * 1024;

fn file_name(base_offset: Offset, revision: u32) -> String {
    match revision {
        0 => format!("{base_offset:020}.log"),
        _ => format!("{base_offset:020}.{revision}.log"),
    }
}

/// When a file is full.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `segment.bytes`.
    pub bytes: u64,
    /// `segment.ms`: from the first batch's time to that of the next.
    pub age_ms: i64,
}

impl Limits {
    pub fn of(config: &TopicConfig) -> Limits {
        let bytes = u64::try_from(config.segment_bytes).unwrap_or(1 << 30);
        Limits { bytes, age_ms: config.segment_ms }
    }
}

/// Whole batches, to be appended at once.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    pub bytes: &'a [u8],
    pub first: Offset,
    /// The offset behind the last.
    pub next: Offset,
    /// Of the first batch.
    pub first_timestamp: i64,
    pub max_timestamp: i64,
    pub now_ms: i64,
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
    /// The offset at which the next file begins, or would.
    pub end_offset: Offset,
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
    /// Nothing is added to the newest file.
    sealed: bool,
    /// Files that are deleted once a checkpoint without them is written.
    condemned: Vec<PathBuf>,
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
            condemned: Vec::new(),
        }
    }

    /// The file of a segment.
    pub fn path_of(&self, state: &SegmentState) -> PathBuf {
        self.dir.join(file_name(state.base_offset, state.revision))
    }

    /// The directory, which a cleaner writes new files into.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves the files as they are: what follows goes into a new one.
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    /// Checks that the files hold at least what the checkpoint says, and removes those it does not know.
    pub fn check(&self) -> io::Result<()> {
        for segment in self.segments.values() {
            let path = self.path_of(&segment.state);
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
                let known =
                    |s: &Segment| name.to_str() == Some(&file_name(s.state.base_offset, s.state.revision));
                if !self.segments.values().any(known) && name.to_str().is_some_and(|n| n.ends_with(".log")) {
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

    /// The file that batches are added to, if there is one.
    fn active(&self) -> Option<&SegmentState> {
        match &self.unsynced {
            Some(state) => Some(state),
            None if self.sealed => None,
            None => self.segments.values().next_back().map(|s| &s.state),
        }
    }

    /// Where that file begins.
    pub fn active_base(&self) -> Option<Offset> {
        self.active().map(|state| state.base_offset)
    }

    /// Synced segments that nothing is added to any more, oldest first.
    pub fn closed(&self) -> Vec<SegmentState> {
        let active = self.active_base();
        let states = self.segments.values().map(|s| &s.state);
        states.filter(|s| Some(s.base_offset) != active).cloned().collect()
    }

    /// Closes the newest file if it was begun longer than `age_ms` ago, by the broker's clock: nobody may write to it for
    /// long.
    pub fn close_old(&mut self, age_ms: i64, now_ms: i64) {
        let Some(newest) = self.segments.values().next_back().filter(|_| self.unsynced.is_none()) else {
            return;
        };
        let began = newest.state.begun_ms;
        if began >= 0 && now_ms.saturating_sub(began) > age_ms {
            self.sealed = true;
        }
    }

    /// Gives up the files that end at or below `log_start`.
    pub fn trim(&mut self, log_start: Offset) {
        while let Some(oldest) = self.segments.first_entry() {
            let state = &oldest.get().state;
            let written_to = self.unsynced.as_ref().is_some_and(|u| u.base_offset == state.base_offset);
            if state.end_offset > log_start || written_to {
                return;
            }
            let state = oldest.remove().state;
            if self.active.as_ref().is_some_and(|(base, _)| *base == state.base_offset) {
                self.active = None;
            }
            self.condemned.push(self.path_of(&state));
        }
    }

    /// Puts files that a cleaner has written and synced in the place of others. False, and nothing is done, if those are
    /// no longer what they were.
    pub fn replace(&mut self, old: &[SegmentState], new: &[SegmentState]) -> bool {
        let is_same = |s: &SegmentState| self.segments.get(&s.base_offset).is_some_and(|now| now.state == *s);
        let written_to = self.unsynced.as_ref().map(|state| state.base_offset);
        if !old.iter().all(is_same) || old.iter().any(|s| Some(s.base_offset) == written_to) {
            return false;
        }
        for state in old {
            self.segments.remove(&state.base_offset);
            self.condemned.push(self.path_of(state));
        }
        for state in new {
            let segment = Segment { state: state.clone(), index: Vec::new(), indexed_to: 0 };
            self.segments.insert(state.base_offset, segment);
        }
        true
    }

    /// Files that may be deleted once a checkpoint of the present state is written.
    pub fn take_condemned(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.condemned)
    }

    /// Appends whole batches behind everything written so far. Nothing counts before [`Segments::sync`].
    pub fn append(&mut self, chunk: &Chunk<'_>, limits: &Limits) -> io::Result<()> {
        let Chunk { bytes, first, next, max_timestamp, .. } = *chunk;
        let is_young = |s: &SegmentState| {
            s.first_timestamp < 0 || max_timestamp.saturating_sub(s.first_timestamp) <= limits.age_ms
        };
        let fits =
            |s: &SegmentState| s.bytes == 0 || (s.bytes + bytes.len() as u64 <= limits.bytes && is_young(s));
        let mut state = match self.active() {
            Some(state) if fits(state) => state.clone(),
            _ => {
                self.sync()?;
                let (first_timestamp, begun_ms) = (chunk.first_timestamp, chunk.now_ms);
                SegmentState { first_timestamp, begun_ms, ..SegmentState::begun(first) }
            }
        };
        let file = self.open_active(&state)?;
        file.write_all_at(bytes, state.bytes)?;
        state.bytes += bytes.len() as u64;
        state.end_offset = next;
        state.max_timestamp = state.max_timestamp.max(max_timestamp);
        state.written_ms = chunk.now_ms;
        self.unsynced = Some(state);
        Ok(())
    }

    fn open_active(&mut self, state: &SegmentState) -> io::Result<&File> {
        let base = state.base_offset;
        if self.active.as_ref().is_none_or(|(open, _)| *open != base) {
            if !self.dir.is_dir() {
                std::fs::create_dir_all(&self.dir)?;
                for dir in self.dir.ancestors().skip(1).take(2) {
                    sync_dir(dir)?;
                }
            }
            let path = self.path_of(state);
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
        self.sealed = false;
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
        let Some(segment) = self.segments.get_mut(&base) else { return Ok(None) };
        let path = self.dir.join(file_name(base, segment.state.revision));
        segment.index(&path)?;
        let before = segment.index.partition_point(|(first, _)| *first <= offset);
        let at = before.checked_sub(1).map_or(0, |n| segment.index[n].1);
        Ok(Some(Place { path, at, end: segment.state.bytes, end_offset: segment.state.end_offset }))
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

/// The records of a batch, decompressed under a cap.
pub fn records_of(header: &BatchHeader, batch: &Bytes) -> io::Result<Bytes> {
    if header.record_count == 0 {
        return Ok(Bytes::new());
    }
    compression::decompress(header.attributes, &batch.slice(HEADER_LEN..))
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

    const LIMITS: Limits = Limits { bytes: 100_000, age_ms: i64::MAX };

    fn append(segments: &mut Segments, offset: Offset, len: usize) {
        let bytes = batch(offset, len);
        let time = 1000 + offset;
        let chunk = Chunk {
            bytes: &bytes,
            first: offset,
            next: offset + 1,
            first_timestamp: time,
            max_timestamp: time,
            now_ms: 5000 + offset,
        };
        segments.append(&chunk, &LIMITS).unwrap();
    }

    fn filled(dir: &Path) -> Segments {
        let mut segments = Segments::new(dir.join("topic/0"), Vec::new());
        for offset in 0..100 {
            append(&mut segments, offset, 3000);
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
        append(&mut segments, 0, 900_000);
        segments.sync().unwrap();
        let place = segments.find(0).unwrap().unwrap();
        assert_eq!(read(&place, 0, 1, 10, true).unwrap().len(), batch(0, 900_000).len());
        assert!(read(&place, 0, 1, 10, false).unwrap().is_empty());
    }

    #[test]
    fn old_segments_are_given_up_and_their_files_wait_for_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = filled(dir.path());
        let before = segments.states();
        segments.trim(before[1].end_offset + 1);
        assert_eq!(segments.states(), before[2..]);
        let condemned = segments.take_condemned();
        assert_eq!(condemned.len(), 2);
        assert!(condemned.iter().all(|path| path.is_file()) && segments.take_condemned().is_empty());
        // A start after a crash before the checkpoint finds all of them; one after it removes them.
        Segments::new(dir.path().join("topic/0"), before).check().unwrap();
        assert!(condemned[0].is_file());
        Segments::new(dir.path().join("topic/0"), segments.states()).check().unwrap();
        assert!(!condemned[0].exists());
        segments.trim(100);
        assert_eq!(segments.states(), [], "the newest too, once all of it is deleted");
        append(&mut segments, 100, 10);
        segments.sync().unwrap();
        assert_eq!(segments.states()[0].base_offset, 100);
    }

    #[test]
    fn the_newest_file_is_closed_by_age() {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = filled(dir.path());
        let all = segments.states();
        assert_eq!(segments.closed(), all[..all.len() - 1]);
        let first = all.last().unwrap().begun_ms;
        segments.close_old(10, first + 10);
        assert_eq!(segments.closed().len(), all.len() - 1, "not older, just as old");
        segments.close_old(10, first + 11);
        assert_eq!(segments.closed(), all);
        append(&mut segments, 100, 10);
        segments.sync().unwrap();
        assert_eq!(segments.states().len(), all.len() + 1);
        // By the records' own times, too.
        let bytes = batch(101, 10);
        let late = Chunk {
            bytes: &bytes,
            first: 101,
            next: 102,
            first_timestamp: 9999,
            max_timestamp: 9999,
            now_ms: 0,
        };
        segments.append(&late, &Limits { bytes: 100_000, age_ms: 100 }).unwrap();
        segments.sync().unwrap();
        assert_eq!(segments.states().last().unwrap().base_offset, 101);
    }

    #[test]
    fn cleaned_files_take_the_place_of_others_unless_those_have_changed() {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = filled(dir.path());
        let old = segments.closed()[..2].to_vec();
        let new = SegmentState { revision: 1, bytes: 3100, end_offset: old[1].end_offset, ..old[0].clone() };
        std::fs::write(segments.path_of(&new), batch(old[1].end_offset - 1, 3000)).unwrap();
        assert!(segments.replace(&old, std::slice::from_ref(&new)));
        let place = segments.find(0).unwrap().unwrap();
        assert_eq!((place.end, place.end_offset), (3100, old[1].end_offset));
        assert_eq!(segments.take_condemned().len(), 2);
        assert!(!segments.replace(&old, &[new]), "they are gone");
    }

    #[test]
    fn damage_is_an_error_and_unsynced_bytes_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = filled(dir.path());
        append(&mut segments, 100, 10);
        assert!(segments.find(100).unwrap().is_none());
        assert_eq!(segments.end(), 100);
        segments.abandon();
        let place = segments.find(0).unwrap().unwrap();
        let file = OpenOptions::new().write(true).open(&place.path).unwrap();
        file.write_all_at(b"rot", 2000).unwrap();
        assert!(read(&place, 0, 100, 1 << 20, true).is_err());
    }
}
