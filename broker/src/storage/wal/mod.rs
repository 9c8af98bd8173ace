//! One write-ahead log: a directory of files, the thread that writes them, and the handle that the rest of
//! the broker submits entries to.
//!
//! Opening is in two steps, so that what was recovered is durable before anybody sees it: [`recover`] reads
//! and flushes, [`Recovering::start`] opens a new generation and the thread.

pub mod buffer;
pub mod committer;
pub mod engine;
pub mod files;
pub mod inbox;
pub mod probe;
pub mod reader;
mod timer;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chronik_core::ids::{DiskUuid, WalPosition};
use chronik_core::wal::commit::Tally;
use chronik_core::wal::format::{self, Item};
use chronik_core::wal::pool::Pool;
use chronik_core::wal::profile::WalProfile;
use chronik_core::wal::recovery::{self, Event, PlantedBugs, Recovered, RecoveryError};

pub use engine::{Engine, EngineChoice};
pub use inbox::Inbox;

pub type Entry = format::Entry<Arc<dyn WalClient>>;

/// How a group is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMode {
    /// The file is open with `O_DSYNC`: the write returns when the bytes are on the medium.
    Dsync,
    /// `fdatasync` once the write has completed in full.
    Fdatasync,
    /// Not at all: a test-only switch, to show that the power-loss test can fail.
    #[cfg(feature = "test-switches")]
    Never,
}

impl fmt::Display for FlushMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FlushMode::Dsync => "O_DSYNC",
            FlushMode::Fdatasync => "fdatasync",
            #[cfg(feature = "test-switches")]
            FlushMode::Never => "never (test switch)",
        })
    }
}

/// A run of entries that is on the disk now.
pub struct DurableRun {
    pub item: Item,
    /// Where its bytes lie in the log.
    pub position: WalPosition,
    /// Its bytes as written: base offsets and leader epochs are patched.
    pub bytes: Bytes,
}

/// Whoever waits for an entry. Called on the WAL thread, in log order: do little.
pub trait WalClient: Send + Sync {
    fn durable(self: Arc<Self>, run: DurableRun);
    /// The log has failed: the entry may or may not be on the disk, and never will be acknowledged.
    fn failed(self: Arc<Self>);
}

/// What one durable group was like.
pub struct GroupFacts<'a> {
    pub end: WalPosition,
    pub bytes: usize,
    pub padding: usize,
    pub queued_us: u64,
    pub flush_us: u64,
    pub tallies: &'a [Tally],
}

/// Told of every durable group, after its clients; and of the log's failure, once.
pub trait WalObserver: Send + Sync {
    fn group(&self, facts: &GroupFacts<'_>);
    /// Every file is full: nothing can be written until a checkpoint frees one.
    fn pool_is_full(&self);
    fn failed(&self, why: &str);
}

#[derive(Clone)]
pub struct WalOptions {
    /// Names the thread and the metrics: `data` or `metadata`.
    pub name: &'static str,
    pub dir: PathBuf,
    pub id: DiskUuid,
    pub file_bytes: u64,
    pub max_files: usize,
    pub engine: Engine,
    pub flush: FlushMode,
    pub in_flight: usize,
    pub profiles: Vec<WalProfile>,
}

#[derive(Debug, thiserror::Error)]
pub enum WalError {
    #[error("WAL directory {}: {source}", dir.display())]
    Io { dir: PathBuf, source: io::Error },
    #[error("WAL directory {}: {source}", dir.display())]
    Recovery { dir: PathBuf, source: RecoveryError },
    #[error("the write-ahead log cannot start its thread: {0}")]
    Thread(io::Error),
}

fn at<T>(dir: &Path, result: io::Result<T>) -> Result<T, WalError> {
    result.map_err(|source| WalError::Io { dir: dir.to_path_buf(), source })
}

/// A log that has been read and flushed, but is not written yet.
pub struct Recovering {
    options: WalOptions,
    checkpoint: WalPosition,
    pub recovered: Recovered,
}

/// Reads the log from `checkpoint` on and hands over what it holds, in order; flushes it, so that what is
/// served from it cannot be lost any more.
pub fn recover(
    options: WalOptions,
    checkpoint: WalPosition,
    sink: &mut dyn FnMut(Event<'_>),
) -> Result<Recovering, WalError> {
    let dir = options.dir.clone();
    let mut media = at(&dir, files::DirMedia::open(&dir))?;
    at(&dir, media.sync())?;
    let recovered = recovery::recover(&mut media, options.id, Some(checkpoint), PlantedBugs::default(), sink)
        .map_err(|source| WalError::Recovery { dir, source })?;
    if let Some((slot, place, e)) = &media.last_error {
        tracing::error!(file = %files::path_of(&options.dir, *slot).display(), at = place, "WAL read error: {e}");
    }
    Ok(Recovering { options, checkpoint, recovered })
}

impl Recovering {
    /// Opens the next generation behind what was recovered and starts the thread.
    pub fn start(self, observer: Arc<dyn WalObserver>) -> Result<Wal, WalError> {
        let Recovering { options, checkpoint, recovered } = self;
        let mut pool = Pool::new(options.file_bytes, options.max_files);
        pool.set_previous(recovered.previous);
        let lengths = at(&options.dir, files::list(&options.dir))?;
        let length_of = |slot| lengths.iter().find(|(s, _)| *s == slot).map(|(_, len)| *len);
        for file in &recovered.files {
            pool.seen_generation(file.generation);
            if file.end > file.base || length_of(file.slot) == Some(options.file_bytes) {
                pool.add_found(file.slot, file.generation, file.base, file.end);
            } else {
                at(&options.dir, std::fs::remove_file(files::path_of(&options.dir, file.slot)))?;
            }
        }
        // What the run before had recycled, and not written again, is free still.
        pool.recycle(checkpoint);
        for slot in &recovered.blank {
            // Never trusted: an unreadable header may hide anything. Made anew when it is needed.
            at(&options.dir, std::fs::remove_file(files::path_of(&options.dir, *slot)))?;
        }
        let shared = Arc::new(Shared {
            pool: Mutex::new(pool),
            delivered: AtomicU64::new(recovered.end.0),
            cached: Arc::new(AtomicUsize::new(0)),
            failed: AtomicBool::new(false),
            read_from: Mutex::default(),
        });
        let inbox = Arc::new(Inbox::default());
        let dir = options.dir.clone();
        let file_bytes = options.file_bytes;
        let thread = committer::start(options, recovered.end, shared.clone(), inbox.clone(), observer)?;
        Ok(Wal { dir, file_bytes, shared, inbox, thread: Mutex::new(Some(thread)) })
    }
}

/// What the WAL thread and its users both see.
pub struct Shared {
    pub pool: Mutex<Pool>,
    /// Everything before this position is durable and has been handed to its clients.
    delivered: AtomicU64,
    /// Bytes of group buffers that are still held by somebody.
    pub cached: Arc<AtomicUsize>,
    failed: AtomicBool,
    /// Files that have been read from, by slot. A slot keeps its file for as long as the log runs.
    read_from: Mutex<BTreeMap<u32, Arc<File>>>,
}

impl Shared {
    fn open_to_read(&self, dir: &Path, slot: u32) -> io::Result<Arc<File>> {
        let mut open = self.read_from.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&slot) {
            return Ok(file.clone());
        }
        let file = Arc::new(files::open_for_reading(dir, slot)?);
        open.insert(slot, file.clone());
        Ok(file)
    }

    pub fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running write-ahead log.
pub struct Wal {
    dir: PathBuf,
    file_bytes: u64,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Wal {
    /// Queues an entry; never blocks. Entries of one partition are logged in the order of their submission.
    /// The caller bounds what waits.
    pub fn submit(&self, entry: Entry) {
        self.inbox.submit(entry);
    }

    /// The largest body of one entry.
    pub fn max_entry_bytes(&self) -> u64 {
        chronik_core::wal::commit::max_entry_bytes(self.file_bytes)
    }

    pub fn set_profiles(&self, profiles: Vec<WalProfile>) {
        self.inbox.control(inbox::Control::Profiles(profiles));
    }

    /// Everything before `checkpoint` is in synced segments and the checkpoint is synced: its files may be
    /// written again. Returns how many that freed.
    pub fn recycle(&self, checkpoint: WalPosition) -> usize {
        let freed = self.shared.pool().recycle(checkpoint);
        if freed > 0 {
            self.inbox.control(inbox::Control::FileFree);
        }
        freed
    }

    /// Everything before this position is durable and has been handed to its clients.
    pub fn delivered(&self) -> WalPosition {
        WalPosition(self.shared.delivered.load(Ordering::Acquire))
    }

    /// Files that hold something, of those the pool may have.
    pub fn fill(&self) -> (usize, usize) {
        self.shared.pool().fill()
    }

    /// Bytes of group buffers that readers and the tails still hold.
    pub fn cached_bytes(&self) -> usize {
        self.shared.cached.load(Ordering::Relaxed)
    }

    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// Bytes of the log by position; see [`reader::read`]. Blocks: not for a runtime's threads.
    pub fn read(&self, position: WalPosition, len: usize) -> io::Result<Option<Bytes>> {
        reader::read(&self.dir, &self.shared, position, len)
    }

    /// Writes and flushes what waits, records the durable position, and ends the thread.
    pub fn stop(&self) {
        self.inbox.control(inbox::Control::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.stop();
    }
}
