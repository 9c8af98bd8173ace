//! What the quorum's log asks of a write-ahead log, and one that forgets.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// What an entry of the log does when it is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MetaEntryKind {
    /// The Raft entry at `index`; the body is the entry. Takes the place of what was there and after it.
    Append = 1,
    /// What is at `index` and after it is gone. No body.
    Truncate = 2,
    /// What is at `index` and before it is in a snapshot. The body is the log id.
    Purge = 3,
    /// The vote. `index` is 0.
    Vote = 4,
}

impl MetaEntryKind {
    pub fn from_u8(kind: u8) -> Option<MetaEntryKind> {
        use MetaEntryKind::{Append, Purge, Truncate, Vote};
        [Append, Truncate, Purge, Vote].into_iter().find(|known| *known as u8 == kind)
    }
}

/// An entry, opaque to the write-ahead log but for its sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaEntry {
    /// One more than that of the entry before.
    pub sequence: u64,
    pub kind: MetaEntryKind,
    pub index: u64,
    pub body: Bytes,
}

/// Told once, from any thread, that an entry is durable or can never be.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A write-ahead log for the quorum.
///
/// Entries become durable in the order of their submission. Once one has failed, every later one fails.
pub trait MetaWal: Send + Sync + 'static {
    /// Queues an entry; does not wait for the device. `done` is called when it is durable.
    fn submit(&self, entry: MetaEntry, done: Done);

    /// Entries with a smaller sequence number are not needed any more. What is replayed at the next start
    /// may still begin anywhere before it, but has no gap.
    fn release_below(&self, sequence: u64);
}

/// A log in memory: for tests, and for the tests of whatever uses a
/// [`MetadataStore`](super::MetadataStore).
#[derive(Clone, Default)]
pub struct MemoryWal {
    state: Arc<Mutex<MemoryState>>,
}

#[derive(Default)]
struct MemoryState {
    entries: Vec<MetaEntry>,
    failing: bool,
}

impl MemoryWal {
    fn state(&self) -> std::sync::MutexGuard<'_, MemoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a start would find.
    pub fn replay(&self) -> Vec<MetaEntry> {
        self.state().entries.clone()
    }

    /// Lets every entry from now on fail, as a broken disk would.
    pub fn fail(&self) {
        self.state().failing = true;
    }
}

impl MetaWal for MemoryWal {
    fn submit(&self, entry: MetaEntry, done: Done) {
        let mut state = self.state();
        let result = if state.failing {
            Err(io::Error::other("the disk is broken"))
        } else {
            state.entries.push(entry);
            Ok(())
        };
        drop(state);
        done(result);
    }

    fn release_below(&self, sequence: u64) {
        self.state().entries.retain(|entry| entry.sequence >= sequence);
    }
}
