//! Directory entries, twice: as they are now, and as a power cut would leave them.
//!
//! Every create, remove and rename is one [`Change`] that sets a few names at once. Changes wait in the order
//! in which they were made. A flush of a directory makes those that touch it durable; a power cut keeps some
//! of the rest. A rename sets both its names in one change, so it is never seen half done.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use super::{CutMode, CutReport, Ino};
use crate::seed::Seed;

/// A name within a directory.
type Key = (Ino, OsString);

/// Names that change together: each is set to a file, or removed.
#[derive(Clone, Debug)]
pub struct Change(pub Vec<(Ino, OsString, Option<Ino>)>);

/// All directory entries of the file system.
#[derive(Debug, Default)]
pub struct Names {
    now: BTreeMap<Ino, BTreeMap<OsString, Ino>>,
    durable: BTreeMap<Key, Ino>,
    pending: Vec<Change>,
}

impl Names {
    /// The file behind a name.
    pub fn get(&self, dir: Ino, name: &std::ffi::OsStr) -> Option<Ino> {
        self.now.get(&dir)?.get(name).copied()
    }

    /// A directory's entries, in the order of their names.
    pub fn list(&self, dir: Ino) -> impl Iterator<Item = (&OsString, Ino)> {
        self.now.get(&dir).into_iter().flatten().map(|(name, &ino)| (name, ino))
    }

    /// True when a directory has no entries.
    pub fn is_empty(&self, dir: Ino) -> bool {
        self.now.get(&dir).is_none_or(BTreeMap::is_empty)
    }

    /// Makes a change, visible at once and durable later.
    pub fn apply(&mut self, change: Change) {
        for (dir, name, target) in &change.0 {
            let entries = self.now.entry(*dir).or_default();
            match target {
                Some(ino) => entries.insert(name.clone(), *ino),
                None => entries.remove(name),
            };
        }
        self.pending.push(change);
    }

    /// Makes a directory's changes durable, and with them every earlier change of a name they share (else the
    /// old name of a file moved here could come back beside the new one).
    pub fn flush(&mut self, dir: Ino) {
        let mut names: BTreeSet<Key> = BTreeSet::new();
        let mut chosen = vec![false; self.pending.len()];
        for (index, change) in self.pending.iter().enumerate().rev() {
            if change.0.iter().any(|(d, name, _)| *d == dir || names.contains(&(*d, name.clone()))) {
                chosen[index] = true;
                names.extend(change.0.iter().map(|(d, name, _)| (*d, name.clone())));
            }
        }
        self.settle(|index| chosen.get(index).copied().unwrap_or(false));
    }

    /// Makes every change durable, as a journal that commits as a whole does.
    pub fn flush_all(&mut self) {
        self.settle(|_| true);
    }

    /// Loses power. Within a directory, what survives is a prefix of what was done to it.
    pub fn cut(&mut self, mode: CutMode, seed: &mut Seed, report: &mut CutReport) {
        let mut broken: BTreeSet<Ino> = BTreeSet::new();
        let mut kept = vec![false; self.pending.len()];
        for (index, change) in self.pending.iter().enumerate() {
            let lucky = mode == CutMode::Mixed && seed.one_in(2);
            if lucky && !change.0.iter().any(|(dir, _, _)| broken.contains(dir)) {
                kept[index] = true;
                report.names_kept += 1;
            } else {
                broken.extend(change.0.iter().map(|(dir, _, _)| *dir));
                report.names_lost += 1;
            }
        }
        self.settle(|index| kept.get(index).copied().unwrap_or(false));
        self.pending.clear();
        self.now.clear();
        for ((dir, name), ino) in &self.durable {
            self.now.entry(*dir).or_default().insert(name.clone(), *ino);
        }
    }

    /// Forgets directories that nothing refers to any more.
    pub fn retain(&mut self, alive: &BTreeSet<Ino>) {
        self.now.retain(|dir, _| alive.contains(dir));
        self.durable.retain(|(dir, _), _| alive.contains(dir));
        self.pending.retain(|change| change.0.iter().any(|(dir, _, _)| alive.contains(dir)));
    }

    /// Every file that a name leads to now.
    pub fn visible(&self) -> BTreeSet<Ino> {
        self.now.values().flat_map(|entries| entries.values().copied()).collect()
    }

    /// Every file that a name leads to, now or after a power cut.
    pub fn referred(&self) -> BTreeSet<Ino> {
        let pending = self.pending.iter().flat_map(|change| change.0.iter().filter_map(|(_, _, ino)| *ino));
        self.visible().into_iter().chain(self.durable.values().copied()).chain(pending).collect()
    }

    fn settle(&mut self, chosen: impl Fn(usize) -> bool) {
        let mut index = 0;
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let settles = chosen(index);
            index += 1;
            if settles {
                for (dir, name, target) in &change.0 {
                    match target {
                        Some(ino) => durable.insert((*dir, name.clone()), *ino),
                        None => durable.remove(&(*dir, name.clone())),
                    };
                }
            }
            !settles
        });
    }
}
