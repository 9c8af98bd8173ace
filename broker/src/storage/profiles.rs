//! The WAL profiles in use on this broker, by a small index that entries carry.

use std::sync::{Arc, RwLock, RwLockReadGuard};

use chronik_core::wal::profile::WalProfile;

use super::admission::Admission;
use crate::metrics::{Metrics, ProfileMetrics};

/// One profile: its definition, its queue and its metrics.
pub struct ProfileEntry {
    pub index: usize,
    pub name: String,
    pub queue: Admission,
    pub metrics: Arc<ProfileMetrics>,
}

struct Defined {
    entry: Arc<ProfileEntry>,
    definition: WalProfile,
}

/// All profiles that a topic of this broker has used; an index never changes its meaning.
pub struct ProfileTable {
    defined: RwLock<Vec<Defined>>,
    metrics: Arc<Metrics>,
}

impl ProfileTable {
    pub fn new(metrics: Arc<Metrics>) -> ProfileTable {
        ProfileTable { defined: RwLock::default(), metrics }
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Defined>> {
        self.defined.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The entry of a profile, with this definition from now on. True if that changed what the WAL must know.
    pub fn define(&self, name: &str, definition: &WalProfile) -> (Arc<ProfileEntry>, bool) {
        let known = |all: &[Defined]| {
            let found = all.iter().find(|d| d.entry.name == name)?;
            (found.definition == *definition).then(|| found.entry.clone())
        };
        if let Some(entry) = known(&self.read()) {
            return (entry, false);
        }
        let mut all = self.defined.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = all.iter_mut().find(|d| d.entry.name == name) {
            found.definition = definition.clone();
            found.entry.queue.set_limits(definition.max_queue_records, definition.max_queue_bytes);
            return (found.entry.clone(), true);
        }
        let entry = Arc::new(ProfileEntry {
            index: all.len(),
            name: name.to_string(),
            queue: Admission::new(definition.max_queue_records, definition.max_queue_bytes),
            metrics: self.metrics.profile(name),
        });
        all.push(Defined { entry: entry.clone(), definition: definition.clone() });
        (entry, true)
    }

    pub fn get(&self, index: usize) -> Option<Arc<ProfileEntry>> {
        self.read().get(index).map(|d| d.entry.clone())
    }

    /// The definitions in the order of their indexes.
    pub fn definitions(&self) -> Vec<WalProfile> {
        self.read().iter().map(|d| d.definition.clone()).collect()
    }

    /// Calls `f` for the profile of an index without cloning it.
    pub fn with(&self, index: usize, f: impl FnOnce(&ProfileEntry)) {
        if let Some(defined) = self.read().get(index) {
            f(&defined.entry);
        }
    }
}
