//! What the scrub has found out about segments: when they were verified, and which stretches of them are damaged.

use std::io;
use std::path::PathBuf;

use chronik_core::ids::Offset;
use chronik_core::scrub::Seen;
use chronik_core::store::checkpoint::SegmentState;
use thiserror::Error;

use super::index::{self, Entry};
use super::verify::Damaged;
use super::{Place, Segments};

/// Records that are known to be damaged: everything that is to be said of them was logged when they were found.
#[derive(Debug, Error)]
#[error("{file}: {damaged}")]
pub struct KnownDamage {
    file: String,
    damaged: Damaged,
}

impl KnownDamage {
    pub fn is(e: &io::Error) -> bool {
        e.get_ref().is_some_and(|inner| inner.is::<KnownDamage>())
    }
}

/// Of one segment.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    /// When damage was last found in it, ms since 1970.
    found_ms: Option<i64>,
    /// In the order of the file.
    damaged: Vec<Damaged>,
}

/// What a verification has changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// The segment is another one by now, or gone.
    Gone,
    /// As before.
    None,
    /// It is damaged, or at other places than it was.
    Damaged,
    /// It was damaged, and is not any more.
    WholeAgain,
}

impl Place {
    /// Keeps a reader of `offset` out of damaged stretches.
    ///
    /// # Errors
    /// [`KnownDamage`] when `offset` lies in one.
    pub(super) fn beside(mut self, damaged: &[Damaged], offset: Offset) -> io::Result<Place> {
        for damaged in damaged {
            if offset < damaged.from_offset {
                (self.end, self.end_offset) = (damaged.at, damaged.from_offset);
                break;
            }
            if offset < damaged.to_offset {
                let file = self.path.display().to_string();
                let known = KnownDamage { file, damaged: damaged.clone() };
                return Err(io::Error::new(io::ErrorKind::InvalidData, known));
            }
            if self.at < damaged.to {
                (self.at, self.first) = (damaged.to, damaged.to_offset);
            }
        }
        Ok(self)
    }
}

impl Segments {
    /// The closed segments as the scrub sees them, by their base offsets.
    pub fn to_verify(&self) -> impl Iterator<Item = Seen<Offset>> {
        let active = self.active_base();
        self.segments.values().filter(move |s| Some(s.state.base_offset) != active).map(|s| {
            let verified_ms = match (s.health.found_ms, s.state.verified_ms) {
                (Some(found_ms), _) => found_ms,
                (None, ms) if ms < 0 => s.state.written_ms,
                (None, ms) => ms,
            };
            let suspect = s.health.found_ms.is_none() && s.state.verified_ms == 0;
            Seen { key: s.state.base_offset, bytes: s.state.bytes, verified_ms, suspect }
        })
    }

    /// A closed segment, and its file.
    pub fn closed_at(&self, base: Offset) -> Option<(SegmentState, PathBuf)> {
        let segment = self.segments.get(&base).filter(|_| self.active_base() != Some(base))?;
        Some((segment.state.clone(), self.path_of(&segment.state)))
    }

    /// Closed segments that compaction may take: those before the first damaged one. Behind it, a tombstone could go before
    /// what it deletes.
    pub fn cleanable(&self) -> Vec<SegmentState> {
        let active = self.active_base();
        let whole = self.segments.values().take_while(|s| s.health.damaged.is_empty());
        whole.map(|s| &s.state).filter(|s| Some(s.base_offset) != active).cloned().collect()
    }

    /// The damaged stretches of a segment.
    pub(super) fn damaged_in(&self, base: Offset) -> &[Damaged] {
        self.segments.get(&base).map_or(&[], |segment| &segment.health.damaged)
    }

    pub fn is_damaged(&self, base: Offset) -> bool {
        !self.damaged_in(base).is_empty()
    }

    /// How many segments are damaged.
    pub fn damaged(&self) -> usize {
        self.segments.values().filter(|s| !s.health.damaged.is_empty()).count()
    }

    /// Somebody who read at `offset` met damage: its segment is to be verified before all others, also by another run.
    pub fn suspect(&mut self, offset: Offset) {
        let base = self.base_at(offset);
        if let Some(segment) = base.and_then(|base| self.segments.get_mut(&base)) {
            segment.state.verified_ms = 0;
            segment.health.found_ms = None;
        }
    }

    /// Takes note of a verification: damaged stretches are not served from now on. A damaged segment is the first to be
    /// verified after a restart, which knows nothing of what was found.
    pub fn verified(&mut self, state: &SegmentState, damaged: Vec<Damaged>, now_ms: i64) -> Change {
        let segment = self.segments.get_mut(&state.base_offset);
        let segment = segment.filter(|s| (s.state.revision, s.state.bytes) == (state.revision, state.bytes));
        let Some(segment) = segment else { return Change::Gone };
        let change = match (damaged.is_empty(), segment.health.damaged.is_empty()) {
            (true, false) => Change::WholeAgain,
            (false, _) if damaged != segment.health.damaged => Change::Damaged,
            _ => Change::None,
        };
        (segment.state.verified_ms, segment.health.found_ms) = match damaged.is_empty() {
            true => (now_ms, None),
            false => (0, Some(now_ms)),
        };
        segment.health.damaged = damaged;
        change
    }

    /// Holds the index of a segment against what its batches say. One that says anything else is written anew: true.
    pub fn check_index(&mut self, state: &SegmentState, entries: &[Entry]) -> bool {
        let path = self.path_of(state);
        let Some(segment) = self.segments.get_mut(&state.base_offset) else { return false };
        let is_same = (segment.state.revision, segment.state.bytes) == (state.revision, state.bytes);
        if !is_same || index::belongs(&path, entries) {
            return false;
        }
        // Whoever needs it looks at it, and completes it where that failed.
        segment.indexed = None;
        if let Err(e) = index::replace(&path, entries) {
            tracing::debug!(file = %path.display(), "the index of a segment cannot be written: {e}");
        }
        true
    }
}
