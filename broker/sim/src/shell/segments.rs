//! A partition's segment files, as the shell keeps them (`broker/src/storage/segments`): batches are appended, synced, and
//! only then counted; files that are no longer needed are condemned, and go once a checkpoint without them is written.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::store::checkpoint::SegmentState;

use crate::bugs::Bugs;
use crate::disk::Inode;
use crate::env::{Env, Halt};
use crate::invariants::Violation;
use crate::stats::{Deed, Fault};
use crate::topics::Topic;

pub fn segment_name(tp: TopicIdPartition, segment: &SegmentState) -> String {
    let (dir, base_offset) = (segment_dir(tp), segment.base_offset);
    match segment.revision {
        0 => format!("{dir}{base_offset:020}.log"),
        revision => format!("{dir}{base_offset:020}.{revision}.log"),
    }
}

/// Which segment a file is named for: base offset and revision.
pub fn base_and_revision(name: &str) -> Option<(Offset, u32)> {
    let mut parts = name.rsplit('/').next()?.strip_suffix(".log")?.split('.');
    let base = parts.next()?.parse().ok()?;
    Some((base, parts.next().map_or(Some(0), |revision| revision.parse().ok())?))
}

pub(super) fn segment_dir(tp: TopicIdPartition) -> String {
    format!("data/{tp}/")
}

/// Whole batches, to be appended at once.
pub(super) struct Chunk {
    pub bytes: Vec<u8>,
    pub first: Offset,
    /// The offset behind the last.
    pub next: Offset,
    /// Of the first run.
    pub first_timestamp: i64,
    pub max_timestamp: i64,
}

/// The segments of one partition.
pub struct Segments {
    tp: TopicIdPartition,
    synced: BTreeMap<Offset, SegmentState>,
    /// The active file, with what was written behind its synced end.
    unsynced: Option<SegmentState>,
    dir_dirty: bool,
    /// Nothing is added to the newest file.
    sealed: bool,
    condemned: Vec<String>,
}

impl Segments {
    pub fn new(tp: TopicIdPartition, states: Vec<SegmentState>) -> Segments {
        let synced = states.into_iter().map(|state| (state.base_offset, state)).collect();
        Segments { tp, synced, unsynced: None, dir_dirty: false, sealed: false, condemned: Vec::new() }
    }

    /// The synced segments, oldest first.
    pub fn states(&self) -> Vec<SegmentState> {
        self.synced.values().cloned().collect()
    }

    /// The offset behind the last synced batch; 0 without one.
    pub fn end(&self) -> Offset {
        self.synced.values().next_back().map_or(0, |s| s.end_offset)
    }

    /// The file that batches are added to, if there is one.
    fn active(&self) -> Option<&SegmentState> {
        match &self.unsynced {
            Some(unsynced) => Some(unsynced),
            None if self.sealed => None,
            None => self.synced.values().next_back(),
        }
    }

    pub fn active_base(&self) -> Option<Offset> {
        self.active().map(|state| state.base_offset)
    }

    /// Synced segments that nothing is added to any more, oldest first.
    pub fn closed(&self) -> Vec<SegmentState> {
        let active = self.active_base();
        self.synced.values().filter(|s| Some(s.base_offset) != active).cloned().collect()
    }

    /// Closes the newest file if it was begun longer ago than `age_ms`.
    pub fn close_old(&mut self, env: &mut Env, age_ms: i64) {
        let Some(newest) = self.synced.values().next_back().filter(|_| self.unsynced.is_none()) else {
            return;
        };
        if newest.begun_ms >= 0 && env.now_ms().saturating_sub(newest.begun_ms) > age_ms && !self.sealed {
            self.sealed = true;
            env.stats.deed(Deed::SegmentClosedByAge);
        }
    }

    /// Gives up the files that end at or below `log_start`.
    pub fn trim(&mut self, env: &mut Env, log_start: Offset) {
        while let Some(oldest) = self.synced.first_entry() {
            let written_to = self.unsynced.as_ref().is_some_and(|s| s.base_offset == *oldest.key());
            if oldest.get().end_offset > log_start || written_to {
                return;
            }
            let state = oldest.remove();
            env.stats.deed(Deed::SegmentDeleted);
            self.condemned.push(segment_name(self.tp, &state));
        }
    }

    /// Whether a segment still is what it was.
    pub fn holds(&self, s: &SegmentState) -> bool {
        let now = self.synced.get(&s.base_offset);
        now.is_some_and(|now| (now.revision, now.bytes) == (s.revision, s.bytes))
    }

    /// Puts files that the cleaner has written in the place of others. False, and nothing is done, if those are no longer
    /// what they were.
    pub fn replace(&mut self, old: &[SegmentState], new: &[SegmentState]) -> bool {
        let written_to = self.unsynced.as_ref().map(|unsynced| unsynced.base_offset);
        if !old.iter().all(|s| self.holds(s)) || old.iter().any(|s| Some(s.base_offset) == written_to) {
            return false;
        }
        for state in old {
            self.synced.remove(&state.base_offset);
            self.condemned.push(segment_name(self.tp, state));
        }
        self.synced.extend(new.iter().map(|state| (state.base_offset, state.clone())));
        true
    }

    /// Files that may be deleted once a checkpoint of the present state is written.
    pub fn take_condemned(&mut self) -> Vec<String> {
        std::mem::take(&mut self.condemned)
    }

    /// Appends whole batches behind everything written so far. Nothing counts before [`Segments::sync`].
    pub(super) fn append(
        &mut self,
        env: &mut Env,
        topic: &Topic,
        chunk: &Chunk,
        bugs: &Bugs,
    ) -> Result<(), Halt> {
        let len = chunk.bytes.len() as u64;
        let is_young = |s: &SegmentState| {
            let age_ms = chunk.max_timestamp.saturating_sub(s.first_timestamp);
            s.first_timestamp < 0 || age_ms <= topic.segment_ms
        };
        let fits =
            |s: &SegmentState| s.bytes == 0 || s.bytes + len <= topic.compaction.segment_bytes && is_young(s);
        let mut state = match self.active() {
            Some(state) if fits(state) => state.clone(),
            active => {
                if active.is_some_and(is_young) {
                    env.stats.deed(Deed::SegmentRolledBySize);
                } else if active.is_some() {
                    env.stats.deed(Deed::SegmentRolledByAge);
                }
                self.sync(env, bugs)?;
                let (first_timestamp, begun_ms) = (chunk.first_timestamp, env.now_ms());
                SegmentState { first_timestamp, begun_ms, ..SegmentState::begun(chunk.first) }
            }
        };
        let name = segment_name(self.tp, &state);
        // What lies behind the counted bytes, of a file that is known or not, is overwritten.
        let inode = match env.disk.inode(&name) {
            Some(inode) => inode,
            None => {
                self.dir_dirty = true;
                env.disk.create(&name, 0)?
            }
        };
        env.disk.write(inode, state.bytes as usize, &chunk.bytes)?;
        state.bytes += len;
        state.end_offset = chunk.next;
        state.max_timestamp = state.max_timestamp.max(chunk.max_timestamp);
        state.written_ms = env.now_ms();
        self.unsynced = Some(state);
        Ok(())
    }

    /// Makes what was appended durable; from now on it counts.
    pub fn sync(&mut self, env: &mut Env, bugs: &Bugs) -> Result<(), Halt> {
        let Some(state) = self.unsynced.clone() else { return Ok(()) };
        if !bugs.recycle_before_sync {
            let inode = self.inode(env, &state)?;
            env.disk.sync(inode)?;
        }
        if self.dir_dirty {
            env.disk.sync_dir(&segment_dir(self.tp))?;
            self.dir_dirty = false;
        }
        self.unsynced = None;
        self.sealed = false;
        self.synced.insert(state.base_offset, state);
        if self.synced.len() > 1 {
            env.stats.deed(Deed::SeveralSegments);
        }
        Ok(())
    }

    /// Forgets what was appended since the last sync, after an error: it will be appended again.
    pub fn abandon(&mut self, env: &mut Env) {
        env.stats.fault(Fault::NoSpaceForSegment);
        self.unsynced = None;
    }

    /// The segment that holds `offset`, or the first behind it.
    pub fn at(&self, offset: Offset) -> Option<&SegmentState> {
        let before = self.synced.range(..=offset).next_back().filter(|(_, s)| s.end_offset > offset);
        before.or_else(|| self.synced.range(offset..).next()).map(|(_, state)| state)
    }

    fn inode(&self, env: &Env, state: &SegmentState) -> Result<Inode, Halt> {
        let name = segment_name(self.tp, state);
        let lost =
            || Violation::new("invariant_11_segments_hold_what_was_recycled", format!("{name} is missing"));
        Ok(env.disk.inode(&name).ok_or_else(lost)?)
    }

    /// The counted bytes of a segment's file.
    pub fn bytes_of(&self, env: &Env, state: &SegmentState) -> Result<Bytes, Halt> {
        let inode = self.inode(env, state)?;
        let bytes = env.disk.read(inode, 0, state.bytes as usize)?;
        Ok(Bytes::copy_from_slice(bytes))
    }
}
