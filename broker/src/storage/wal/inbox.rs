//! The queue in front of the WAL thread: many writers, one reader that takes all at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chronik_core::wal::profile::WalProfile;
use tokio::sync::Notify;

use super::Entry;

/// Orders to the WAL thread, beside entries.
pub enum Control {
    Profiles(Vec<WalProfile>),
    /// A file of the pool can be written.
    FileFree,
    /// A file could not be made.
    FileFailed(std::io::Error),
    Stop,
}

#[derive(Default)]
struct Waiting {
    entries: Vec<(Entry, Instant)>,
    controls: Vec<Control>,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    /// The thread sleeps and could do something with an entry. While the device is busy it could not, and is
    /// not woken: that spares a system call per request.
    hungry: AtomicBool,
    wake: Notify,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn submit(&self, entry: Entry) {
        let now = Instant::now();
        self.lock().entries.push((entry, now));
        if self.hungry.load(Ordering::SeqCst) && self.hungry.swap(false, Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    pub fn control(&self, control: Control) {
        self.lock().controls.push(control);
        self.wake.notify_one();
    }

    /// Takes everything that waits. `entries` must be empty: its allocation goes round.
    pub fn take(&self, entries: &mut Vec<(Entry, Instant)>) -> Vec<Control> {
        let mut waiting = self.lock();
        std::mem::swap(&mut waiting.entries, entries);
        std::mem::take(&mut waiting.controls)
    }

    /// Says that the thread is about to sleep and wants to be woken by entries; false if one is here already.
    pub fn sleep_hungry(&self) -> bool {
        self.hungry.store(true, Ordering::SeqCst);
        let waiting = self.lock();
        let empty = waiting.entries.is_empty() && waiting.controls.is_empty();
        if !empty {
            self.hungry.store(false, Ordering::SeqCst);
        }
        empty
    }

    pub fn awake(&self) {
        self.hungry.store(false, Ordering::SeqCst);
    }

    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}
