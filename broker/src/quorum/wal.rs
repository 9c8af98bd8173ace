//! What the quorum's log asks of a write-ahead log, and one that forgets.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chronik_core::ids::WalPosition;

/// What an entry of the log does when it is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaEntryKind {
    /// The Raft entry at `index`; the body is the entry. Takes the place of what was there and after it.
    Append,
    /// What is at `index` and after it is gone. No body.
    Truncate,
    /// What is at `index` and before it is in a snapshot. The body is the log id.
    Purge,
    /// The vote. `index` is 0.
    Vote,
}

/// An entry, opaque to the write-ahead log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaEntry {
    pub kind: MetaEntryKind,
    pub index: u64,
    pub body: Bytes,
}

/// An entry that a start found, and where: a position that the log can be released below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    pub position: WalPosition,
    pub entry: MetaEntry,
}

/// Told once, from any thread and perhaps before `submit` returns, that an entry is durable, and where; or
/// that it may never be. Must be quick, and must not submit.
pub type Done = Box<dyn FnOnce(io::Result<WalPosition>) + Send>;

/// A write-ahead log for the quorum.
///
/// Entries become durable in the order of their submission. Once one has failed, every later one fails.
pub trait MetaWal: Send + Sync + 'static {
    /// Queues an entry; does not wait for the device. `done` is called when it is durable.
    fn submit(&self, entry: MetaEntry, done: Done);

    /// Nothing before `position` is needed any more. What the next start replays may still begin anywhere
    /// before it, but has no gap. May block on the device.
    fn release_below(&self, position: WalPosition) -> io::Result<()>;

    /// The largest body of one entry, in bytes.
    fn max_entry_bytes(&self) -> u64;

    /// Whether it is time for a snapshot, so that something can be released.
    fn is_crowded(&self) -> bool;
}

/// A log in memory: for tests, and for the tests of whatever uses a
/// [`MetadataStore`](super::MetadataStore).
#[derive(Clone, Default)]
pub struct MemoryWal {
    state: Arc<Mutex<MemoryState>>,
}

#[derive(Default)]
struct MemoryState {
    entries: Vec<Replayed>,
    end: u64,
    failing: bool,
}

impl MemoryWal {
    fn state(&self) -> MutexGuard<'_, MemoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a start would find.
    pub fn replay(&self) -> Vec<Replayed> {
        self.state().entries.clone()
    }

    /// Lets every entry from now on fail, as a broken disk would.
    pub fn fail(&self) {
        self.state().failing = true;
    }
}

impl MetaWal for MemoryWal {
    fn submit(&self, entry: MetaEntry, done: Done) {
        let result = {
            let mut state = self.state();
            if state.failing {
                Err(io::Error::other("the disk is broken"))
            } else {
                let position = WalPosition(state.end);
                state.end += 1;
                state.entries.push(Replayed { position, entry });
                Ok(position)
            }
        };
        done(result);
    }

    fn release_below(&self, position: WalPosition) -> io::Result<()> {
        self.state().entries.retain(|entry| entry.position >= position);
        Ok(())
    }

    fn max_entry_bytes(&self) -> u64 {
        1 << 24
    }

    fn is_crowded(&self) -> bool {
        false
    }
}
