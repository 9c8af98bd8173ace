//! A partition's segment files: where durable batches live once they leave the write-ahead log.
//!
//! Batches are appended, synced, and only then counted (`SegmentState::bytes`): what lies behind is never
//! read, and is overwritten by the next attempt. Batches are added to the newest file only; the others are closed. Files
//! that are no longer needed are *condemned*: the checkpoint on the disk may name them still, so they go once another
//! one is written.

mod health;
pub mod index;
mod read;
mod verify;
mod walk;

pub use health::{Change, KnownDamage};
pub use read::{read, records_of};
pub use verify::{Damaged, Extent, verify_file};
pub use walk::{Damage, is_damage, walk};

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use chronik_core::ids::Offset;
use chronik_core::metadata::TopicConfig;
use chronik_core::record_batch::{Batches, Crc};
use chronik_core::store::checkpoint::SegmentState;

use self::health::Health;
use self::index::{Entry, Indexed};
use super::wal::files::sync_dir;

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
    /// How far the index on the disk is known to reach: up to the synced end, or nobody has looked yet.
    indexed: Option<Indexed>,
    health: Health,
}

impl Segment {
    fn new(state: SegmentState) -> Segment {
        Segment { state, indexed: None, health: Health::default() }
    }
}

/// What was written to the active file behind its state, and not synced yet.
struct Unsynced {
    state: SegmentState,
    indexed: Option<Indexed>,
    /// Entries of the index that are not written yet, and the number of the first.
    entries: Vec<Entry>,
    first_entry: u64,
}

/// Where to read.
#[derive(Clone, Debug)]
pub struct Place {
    pub path: PathBuf,
    /// A batch starts here, at or before the one that is looked for.
    pub at: u64,
    /// Its offset is this one, or a later one where the file begins.
    pub first: Offset,
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
    unsynced: Option<Unsynced>,
    dir_dirty: bool,
    /// Nothing is added to the newest file.
    sealed: bool,
    /// Files that are deleted once a checkpoint without them is written.
    condemned: Vec<PathBuf>,
    /// Of all synced files together.
    bytes: u64,
}

impl Segments {
    /// Takes over what a checkpoint says; files or lengths it does not know are not touched here.
    pub fn new(dir: PathBuf, states: Vec<SegmentState>) -> Segments {
        Segments {
            dir,
            bytes: states.iter().map(|s| s.bytes).sum(),
            segments: states.into_iter().map(|state| (state.base_offset, Segment::new(state))).collect(),
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
            let logs = self.segments.values().map(|s| self.path_of(&s.state));
            let known: HashSet<PathBuf> = logs.flat_map(files_of).collect();
            for entry in std::fs::read_dir(&self.dir)? {
                let path = entry?.path();
                let is_ours = path.extension().is_some_and(|e| e == "log" || e == "index");
                if is_ours && !known.contains(&path) {
                    std::fs::remove_file(path)?;
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

    /// Bytes of all synced segments.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file that batches are added to, if there is one.
    fn active(&self) -> Option<&SegmentState> {
        match &self.unsynced {
            Some(unsynced) => Some(&unsynced.state),
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
            let written_to = self.unsynced.as_ref().is_some_and(|u| u.state.base_offset == state.base_offset);
            if state.end_offset > log_start || written_to {
                return;
            }
            let state = oldest.remove().state;
            self.bytes -= state.bytes;
            if self.active.as_ref().is_some_and(|(base, _)| *base == state.base_offset) {
                self.active = None;
            }
            self.condemned.extend(files_of(self.path_of(&state)));
        }
    }

    /// Puts files that a cleaner has written and synced in the place of others. False, and nothing is done, if those are
    /// no longer what they were.
    pub fn replace(&mut self, old: &[SegmentState], new: &[SegmentState]) -> bool {
        let is_same = |s: &SegmentState| {
            let now = self.segments.get(&s.base_offset).map(|now| &now.state);
            now.is_some_and(|now| (now.revision, now.bytes) == (s.revision, s.bytes))
        };
        let written_to = self.unsynced.as_ref().map(|unsynced| unsynced.state.base_offset);
        if !old.iter().all(is_same) || old.iter().any(|s| Some(s.base_offset) == written_to) {
            return false;
        }
        for state in old {
            self.segments.remove(&state.base_offset);
            self.bytes -= state.bytes;
            self.condemned.extend(files_of(self.path_of(state)));
        }
        for state in new {
            self.bytes += state.bytes;
            self.segments.insert(state.base_offset, Segment::new(state.clone()));
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
        let mut index = self.begin_indexing(&state);
        let file = self.open_active(&state)?;
        file.write_all_at(bytes, state.bytes)?;
        if let Some(indexed) = &mut index.indexed {
            let headers = Batches::new(bytes, Crc::Skip).flatten().map(|(header, _)| header);
            index.entries.extend(headers.filter_map(|header| indexed.note(&header)));
        }
        state.bytes += bytes.len() as u64;
        state.end_offset = next;
        state.max_timestamp = state.max_timestamp.max(max_timestamp);
        state.written_ms = chunk.now_ms;
        self.unsynced = Some(Unsynced { state, ..index });
        Ok(())
    }

    /// Goes on with the index of the file that `state` tells of, from where it ends.
    fn begin_indexing(&mut self, state: &SegmentState) -> Unsynced {
        if let Some(begun) = self.unsynced.take() {
            return begun;
        }
        let indexed = match self.segments.get_mut(&state.base_offset) {
            None => Some(Indexed::default()),
            Some(segment) => indexed(segment, &self.dir.join(file_name(state.base_offset, state.revision))),
        };
        // Behind damage nothing can be indexed.
        let indexed = indexed.filter(|indexed| indexed.to() == state.bytes);
        let first_entry = indexed.map_or(0, |indexed| indexed.entries());
        Unsynced { state: state.clone(), indexed, entries: Vec::new(), first_entry }
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
        if self.unsynced.is_none() {
            return Ok(());
        }
        if let Some((_, file)) = &self.active {
            file.sync_data()?;
        }
        if self.dir_dirty {
            sync_dir(&self.dir)?;
            self.dir_dirty = false;
        }
        let Some(Unsynced { state, indexed, entries, first_entry }) = self.unsynced.take() else {
            return Ok(());
        };
        self.sealed = false;
        let written = index::write(&self.path_of(&state), first_entry, &entries);
        // Whoever needs the index completes it then.
        let indexed = indexed.filter(|_| written.is_ok());
        let segment =
            self.segments.entry(state.base_offset).or_insert_with(|| Segment::new(SegmentState::begun(0)));
        self.bytes = self.bytes - segment.state.bytes + state.bytes;
        (segment.state, segment.indexed) = (state, indexed);
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
    ///
    /// # Errors
    /// [`KnownDamage`] when it is known to be damaged.
    pub fn find(&mut self, offset: Offset) -> io::Result<Option<Place>> {
        let Some(base) = self.base_at(offset) else { return Ok(None) };
        let place = self.place(base, &|entry| entry.offset <= offset)?;
        place.map(|place| place.beside(self.damaged_in(base), offset)).transpose()
    }

    /// Where to look for the first record of `timestamp` or later, searching from `from` on, and which offset to read on
    /// from there.
    pub fn find_time(&mut self, timestamp: i64, from: Offset) -> io::Result<Option<(Place, Offset)>> {
        let later = |s: &&Segment| s.state.end_offset > from && s.state.max_timestamp >= timestamp;
        let Some(base) = self.segments.values().find(later).map(|s| s.state.base_offset) else {
            return Ok(None);
        };
        let place = self.place(base, &|entry| entry.offset <= from || entry.latest_before < timestamp)?;
        let Some(place) = place else { return Ok(None) };
        let offset = place.first.max(from);
        let place = place.beside(self.damaged_in(base), offset)?;
        Ok(Some((place, offset)))
    }

    /// The last indexed batch of a segment of which `is_before` is true, or its beginning.
    fn place(&mut self, base: Offset, is_before: &dyn Fn(&Entry) -> bool) -> io::Result<Option<Place>> {
        let Some(segment) = self.segments.get_mut(&base) else { return Ok(None) };
        let path = self.dir.join(file_name(base, segment.state.revision));
        let known = match indexed(segment, &path) {
            Some(known) => index::search(&path, &known, is_before),
            None => Ok(None),
        };
        let entry = match known {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(file = %path.display(), "the index of a segment is built anew: {e}");
                let rebuilt = index::rebuild(&path, segment.state.bytes)?;
                segment.indexed = Some(rebuilt);
                // Where it cannot be written, the file is read from its beginning.
                index::search(&path, &rebuilt, is_before).unwrap_or_default()
            }
            found => found?,
        };
        let (at, first) = entry.map_or((0, base), |entry| (entry.at, entry.offset));
        let SegmentState { bytes: end, end_offset, .. } = segment.state;
        Ok(Some(Place { path, at, first, end, end_offset }))
    }

    /// The latest timestamp of any segment.
    pub fn max_timestamp(&self) -> Option<i64> {
        self.segments.values().map(|s| s.state.max_timestamp).max()
    }

    /// The segment that holds `offset`, or the first behind it.
    fn base_at(&self, offset: Offset) -> Option<Offset> {
        let before = self.segments.range(..=offset).next_back().filter(|(_, s)| s.state.end_offset > offset);
        before.or_else(|| self.segments.range(offset..).next()).map(|(base, _)| *base)
    }

    /// Where the segment ends that holds `offset`, or the first behind it.
    pub fn end_of_segment_at(&self, offset: Offset) -> Option<Offset> {
        let segment = self.segments.get(&self.base_at(offset)?)?;
        Some(segment.state.end_offset)
    }

    /// Removes the partition's directory.
    pub fn remove(&mut self) -> io::Result<()> {
        self.abandon();
        self.segments.clear();
        self.bytes = 0;
        match std::fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// How far a segment is indexed, up to its synced end. `None` when its file cannot be read: its reader will tell.
fn indexed(segment: &mut Segment, path: &Path) -> Option<Indexed> {
    if segment.indexed.is_none() {
        segment.indexed = index::complete(path, segment.state.bytes).ok();
    }
    segment.indexed
}

/// The files that belong to a segment, by its own.
pub fn files_of(log: PathBuf) -> [PathBuf; 2] {
    let index = index::path_of(&log);
    [log, index]
}

fn named(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod verify_tests;
