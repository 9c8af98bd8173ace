//! The WAL thread: takes what waits, forms groups, writes them, and tells their clients, in log order.
//!
//! The order of work in one turn matters: the next group goes to the device first, and the clients of the
//! last one are told while the device is busy.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chronik_core::ids::WalPosition;
use chronik_core::wal::commit::{ActiveFile, Done, GroupCommit, Step};
use chronik_core::wal::format::FileHeader;
use tokio::task::JoinSet;

use super::buffer::AlignedBuf;
use super::engine::{GroupFile, block_on};
use super::inbox::{Control, Inbox};
use super::timer::Timer;
use super::{DurableRun, Entry, GroupFacts, Shared, WalClient, WalError, WalObserver, WalOptions, at, files};
use crate::storage::priority::run_soon;

type Commit = GroupCommit<Arc<dyn WalClient>, AlignedBuf>;

/// Opens the first file of this run behind `end` and starts the thread.
pub fn start(
    options: WalOptions,
    end: WalPosition,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    observer: Arc<dyn WalObserver>,
) -> Result<std::thread::JoinHandle<()>, WalError> {
    let dir = options.dir.clone();
    let slot = at(&dir, first_free_slot(&options, &shared))?;
    let (file, active) = at(&dir, open_generation(&options, &shared, slot, end, end))?;
    let name = match options.name {
        "data" => format!("wal-{}", options.engine),
        other => format!("wal-{other}"),
    };
    let run = move || {
        run_soon();
        let engine = options.engine;
        let failing = observer.clone();
        let body = async move { Committer::new(options, file, active, shared, inbox, observer)?.run().await };
        let result = block_on(engine, body).and_then(|r| r);
        if let Err(e) = result {
            failing.failed(&format!("the write-ahead log's thread cannot run: {e}"));
        }
    };
    std::thread::Builder::new().name(name).spawn(run).map_err(WalError::Thread)
}

/// A zeroed file for the new generation; if every file is full, one beyond the pool's limit, for without it
/// the others could never be drained.
fn first_free_slot(options: &WalOptions, shared: &Shared) -> io::Result<u32> {
    let (free, add) = {
        let pool = shared.pool();
        (pool.free_slot(), pool.slot_to_add(true))
    };
    match (free, add) {
        (Some(slot), _) => Ok(slot),
        (None, Some(slot)) => {
            files::create_zeroed(&options.dir, &files::file_name(slot), options.file_bytes)?;
            shared.pool().add_free(slot);
            Ok(slot)
        }
        (None, None) => Err(io::Error::other("no slot is left for a WAL file")),
    }
}

/// Makes `slot` the file being written, its header durable.
fn open_generation(
    options: &WalOptions,
    shared: &Shared,
    slot: u32,
    base: WalPosition,
    durable: WalPosition,
) -> io::Result<(std::fs::File, ActiveFile)> {
    let file = files::open_for_groups(&files::path_of(&options.dir, slot), options.flush)?;
    let generation = shared.pool().next_generation();
    let previous = shared.pool().previous(base);
    let file_bytes = options.file_bytes;
    let header = FileHeader { wal: options.id, generation, base, durable, file_bytes, previous };
    files::write_header(&file, &header)?;
    let opened = shared.pool().open(slot, base);
    debug_assert_eq!(opened, generation);
    Ok((file, ActiveFile { slot, generation, base, file_bytes: options.file_bytes }))
}

struct Committer {
    options: WalOptions,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    observer: Arc<dyn WalObserver>,
    commit: Commit,
    file: GroupFile,
    started: Instant,
    timer: Timer,
    /// Groups at the device: sequence, result, buffer.
    flying: JoinSet<(u64, io::Result<()>, AlignedBuf)>,
    /// A new file is being made.
    making: Cell<bool>,
    told_full: bool,
    stopping: bool,
}

impl Committer {
    fn new(
        options: WalOptions,
        file: std::fs::File,
        active: ActiveFile,
        shared: Arc<Shared>,
        inbox: Arc<Inbox>,
        observer: Arc<dyn WalObserver>,
    ) -> io::Result<Committer> {
        let commit = GroupCommit::new(active, &options.profiles, options.in_flight, 0);
        Ok(Committer {
            file: GroupFile::new(options.engine, file),
            timer: Timer::new()?,
            started: Instant::now(),
            flying: JoinSet::new(),
            making: Cell::new(false),
            told_full: false,
            stopping: false,
            options,
            shared,
            inbox,
            observer,
            commit,
        })
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    async fn run(mut self) -> io::Result<()> {
        let mut entries: Vec<(Entry, Instant)> = Vec::new();
        let mut durable: Vec<Done<Arc<dyn WalClient>, AlignedBuf>> = Vec::new();
        self.make_spare();
        loop {
            self.take_inbox(&mut entries);
            let (sent, wait) = self.write_what_is_due();
            if !durable.is_empty() {
                if sent {
                    self.file.submitted().await;
                }
                self.deliver(durable.drain(..));
                continue; // New entries may have arrived meanwhile.
            }
            if self.stopping && (self.commit.is_quiet() || self.commit.has_failed()) {
                return Ok(());
            }
            self.sleep(wait, &mut durable).await?;
        }
    }

    fn take_inbox(&mut self, entries: &mut Vec<(Entry, Instant)>) {
        for control in self.inbox.take(entries) {
            match control {
                Control::Profiles(profiles) => self.commit.set_profiles(&profiles),
                Control::FileFree => {
                    self.making.set(false);
                    self.told_full = false;
                }
                Control::FileFailed(e) => {
                    // Not a failure of the log: it goes on in the files it has.
                    self.making.set(false);
                    tracing::warn!(wal = self.options.name, "no new WAL file could be made: {e}");
                }
                Control::Stop => self.stopping = true,
            }
        }
        for (entry, arrived) in entries.drain(..) {
            if self.commit.has_failed() {
                entry.client.failed();
                continue;
            }
            let arrived_us = arrived.saturating_duration_since(self.started).as_micros() as u64;
            self.commit.push(entry, arrived_us);
        }
    }

    /// Sends groups until the log must wait. Returns whether it sent any, and until when to wait.
    fn write_what_is_due(&mut self) -> (bool, Option<u64>) {
        let mut sent = false;
        loop {
            let now_us = self.now_us();
            match self.commit.poll(now_us, self.stopping) {
                Step::Write => {
                    let cached = &self.shared.cached;
                    let s = self.commit.take(now_us, |len| AlignedBuf::new(len, Some(cached.clone())));
                    let (file, flush) = (self.file.clone(), self.options.flush);
                    self.flying.spawn_local(async move {
                        let (result, buf) = file.write(flush, s.buf, s.file_offset).await;
                        (s.sequence, result, buf)
                    });
                    sent = true;
                }
                Step::Roll { base } => {
                    if !self.roll(base) {
                        return (sent, None);
                    }
                }
                Step::Wait { until_us } => return (sent, until_us),
            }
        }
    }

    /// Goes on in the next file; false when there is none yet.
    fn roll(&mut self, base: WalPosition) -> bool {
        let free = self.shared.pool().free_slot();
        let Some(slot) = free else {
            self.make_file(true);
            if !self.making.get() && !self.told_full {
                self.told_full = true;
                self.observer.pool_is_full();
            }
            return false;
        };
        let durable = self.commit.durable();
        match open_generation(&self.options, &self.shared, slot, base, durable) {
            Ok((file, active)) => {
                self.file = GroupFile::new(self.options.engine, file);
                self.commit.rolled(active, durable);
                self.make_spare();
                true
            }
            Err(e) => {
                self.fail(&e);
                false
            }
        }
    }

    /// Keeps one zeroed file ahead. A log that stops wants no spare one.
    fn make_spare(&self) {
        self.make_file(!self.stopping);
    }

    /// Makes a zeroed file, on a thread of its own: zeroing takes longer than many flushes.
    fn make_file(&self, wanted: bool) {
        let add = {
            let pool = self.shared.pool();
            if pool.free() > 0 { None } else { pool.slot_to_add(false) }
        };
        let Some(slot) = add.filter(|_| wanted && !self.making.get()) else { return };
        self.making.set(true);
        let (dir, file_bytes) = (self.options.dir.clone(), self.options.file_bytes);
        let (shared, inbox) = (self.shared.clone(), self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            match files::create_zeroed(&dir, &files::file_name(slot), file_bytes) {
                Ok(()) => {
                    shared.pool().add_free(slot);
                    inbox.control(Control::FileFree);
                }
                Err(e) => inbox.control(Control::FileFailed(e)),
            }
        });
    }

    async fn sleep(
        &mut self,
        until_us: Option<u64>,
        durable: &mut Vec<Done<Arc<dyn WalClient>, AlignedBuf>>,
    ) -> io::Result<()> {
        let hungry = self.commit.has_free_slot();
        if hungry && !self.inbox.sleep_hungry() {
            return Ok(());
        }
        let wait = until_us.map(|until| Duration::from_micros(until.saturating_sub(self.now_us())));
        let timed = async {
            match wait {
                Some(wait) => self.timer.sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let done = tokio::select! {
            biased;
            Some(done) = self.flying.join_next() => Some(done),
            () = self.inbox.woken() => None,
            result = timed => {
                result?;
                None
            }
        };
        self.inbox.awake();
        let mut done = done;
        while let Some(finished) = done {
            let (sequence, result, buf) = finished.map_err(io::Error::other)?;
            match result {
                Ok(()) => durable.extend(self.commit.written(sequence, buf, self.now_us())),
                Err(e) => self.fail(&e),
            }
            done = self.flying.try_join_next();
        }
        Ok(())
    }

    fn deliver(&self, groups: impl Iterator<Item = Done<Arc<dyn WalClient>, AlignedBuf>>) {
        for group in groups {
            let len = (group.end.0 - group.position.0) as usize;
            let bytes = group.buf.into_bytes();
            for run in group.runs {
                let from = run.item.body_at as usize;
                let bytes = bytes.slice(from..from + run.item.body_len as usize);
                run.client.durable(DurableRun { item: run.item, position: run.position, bytes });
            }
            self.shared.delivered.store(group.end.0, Ordering::Release);
            self.observer.group(&GroupFacts {
                end: group.end,
                bytes: len,
                padding: group.padding,
                queued_us: group.queued_us,
                flush_us: group.flush_us,
                tallies: &group.tallies,
            });
        }
    }

    /// Fail stop: after a failed write or flush the kernel may have dropped the pages, so nothing is tried
    /// again and nothing is acknowledged any more (invariant 12).
    fn fail(&mut self, e: &io::Error) {
        if self.commit.has_failed() {
            return;
        }
        self.shared.failed.store(true, Ordering::Release);
        let waiting = self.commit.fail();
        let dir = self.options.dir.display();
        self.observer.failed(&format!("a write or flush of the write-ahead log in {dir} failed: {e}"));
        for client in waiting {
            client.failed();
        }
    }
}
