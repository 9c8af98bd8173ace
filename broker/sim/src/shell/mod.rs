//! The broker's storage, re-enacted: the same decisions of core in the same order of disk operations as the
//! shell's (`broker/src/storage`), without its threads.

mod cleaner;
mod coordinator;
mod deletion;
mod read;
mod recovery;
mod segments;
mod writer;

pub use coordinator::{ASSIGNMENT_INTERVAL_MS, Answer, CONSUMER_SESSION_MS, Call, Machine};
pub use segments::segment_name;
pub use writer::CHECKPOINT;

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_core::ids::{DiskUuid, LeaderEpoch, Offset, TopicIdPartition, Uuid, WalPosition};
use chronik_core::log::{Appended, PartitionLog, ProducerStateMap, Run, WalSpan};
use chronik_core::record_batch::{
    BatchLimits, BatchSummary, Batches, Crc, NO_TIMESTAMP, Origin, TimestampType, Verified, check_produced,
};
use chronik_core::store::checkpoint::PartitionState;
use chronik_core::wal::commit::{ActiveFile, Done, GroupCommit, Step};
use chronik_core::wal::format::{BLOCK, Entry, EntryKind, FileHeader};
use chronik_core::wal::pool::Pool;
use chronik_core::wal::profile::WalProfile;
use chronik_core::wal::recovery::Hole;

use crate::bugs::Bugs;
use crate::disk::{DiskError, wal_name};
use crate::env::{Env, Event, Halt, Outcome, Request};
use crate::invariants::{self, Violation};
use crate::stats::{Deed, Fault};
use crate::topics::Topic;

const WAL_ID: DiskUuid = DiskUuid(Uuid::from_u128(0xC4_201F));
const MAX_PRODUCERS: usize = 100;

/// How a broker is set up, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Settings {
    pub file_bytes: u64,
    pub max_files: usize,
    pub in_flight: usize,
    /// `O_DSYNC`, or else `fdatasync` once the write has completed.
    pub dsync: bool,
    pub profiles: Vec<WalProfile>,
    /// So many keys the cleaner can keep in mind.
    pub cleaner_keys: usize,
    /// Of a hundred runs that are replayed, so many stay in memory.
    pub keep_percent: u64,
    /// Of a thousand groups, so many fail.
    pub write_errors_permille: u64,
    pub bugs: Bugs,
}

/// A request that waits for its batch, or for the one that it repeats, to be durable.
struct Waiter {
    base_offset: Offset,
    last_offset: Offset,
    request: Request,
}

pub struct Partition {
    pub log: PartitionLog,
    pub topic: Topic,
    waiters: Vec<Waiter>,
    segments: segments::Segments,
    /// The producers' state at the end of the segments.
    producers: ProducerStateMap,
    /// All below was compacted.
    cleaned_to: Offset,
}

pub struct Broker {
    pub life: u64,
    settings: Settings,
    pool: Pool,
    commit: GroupCommit<TopicIdPartition, Vec<u8>>,
    flying: BTreeMap<u64, (u64, Vec<u8>)>,
    delivered: WalPosition,
    pub partitions: BTreeMap<TopicIdPartition, Partition>,
    /// Not served, since records of theirs are lost.
    pub fenced: BTreeMap<TopicIdPartition, PartitionState>,
    /// What recovery found damaged.
    pub holes: Vec<Hole>,
    writer: writer::Writer,
    /// The pass that the cleaner is at.
    cleaning: Option<cleaner::Work>,
    coordinators: coordinator::Coordinators,
    making_file: bool,
    stopping: bool,
    poll_at_us: Option<u64>,
}

fn limits(settings: &Settings, topic: &Topic) -> BatchLimits {
    BatchLimits {
        max_message_bytes: chronik_core::wal::commit::max_entry_bytes(settings.file_bytes) as usize,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        timestamp_type: TimestampType::CreateTime,
        now_ms: 0,
        needs_keys: topic.compact,
        origin: Origin::Client,
    }
}

/// Creates a zeroed WAL file, durable on return.
fn create_wal_file(env: &mut Env, slot: u32, file_bytes: u64) -> Result<(), DiskError> {
    let inode = env.disk.create(&wal_name(slot), file_bytes as usize)?;
    env.disk.sync(inode)?;
    env.disk.sync_dir("wal/")
}

/// Makes `slot` the file being written, its header durable.
fn open_generation(
    env: &mut Env,
    pool: &mut Pool,
    settings: &Settings,
    slot: u32,
    base: WalPosition,
    durable: WalPosition,
) -> Result<ActiveFile, Halt> {
    let inode = env.disk.inode(&wal_name(slot)).ok_or(DiskError::Io)?;
    let file_bytes = settings.file_bytes;
    let generation = pool.next_generation();
    let previous = pool.previous(base);
    let header = FileHeader { wal: WAL_ID, generation, base, durable, file_bytes, previous };
    let block = header.encode();
    let mut both = [0; 2 * BLOCK];
    both[..BLOCK].copy_from_slice(&block);
    both[BLOCK..].copy_from_slice(&block);
    env.disk.write(inode, 0, &both)?;
    env.disk.sync(inode)?;
    pool.open(slot, base);
    env.note("opened", &[u64::from(slot), generation, base.0]);
    env.stats.deed(Deed::WalFileOpened);
    Ok(ActiveFile { slot, generation, base, file_bytes })
}

impl Broker {
    pub fn has_failed(&self) -> bool {
        self.commit.has_failed()
    }

    /// Nothing waits, nothing is in flight, the durable position is on the disk.
    pub fn is_quiet(&self) -> bool {
        self.commit.is_quiet()
    }

    /// Refuses new requests and writes what waits.
    pub fn stop(&mut self, env: &mut Env) -> Result<(), Halt> {
        self.stopping = true;
        self.pump(env)
    }

    pub fn create(&mut self, env: &mut Env, tp: TopicIdPartition, topic: Topic) -> Result<(), Halt> {
        let mut log = PartitionLog::empty(MAX_PRODUCERS);
        self.lead(&mut log)?;
        let partition = Partition {
            log,
            topic,
            waiters: Vec::new(),
            segments: segments::Segments::new(tp, Vec::new()),
            producers: ProducerStateMap::new(0, MAX_PRODUCERS),
            cleaned_to: 0,
        };
        self.partitions.insert(tp, partition);
        self.push_marker(env, EntryKind::PartitionCreated, tp, 0)
    }

    pub fn delete(&mut self, env: &mut Env, tp: TopicIdPartition) -> Result<(), Halt> {
        self.fenced.remove(&tp);
        self.partitions.remove(&tp);
        self.writer.removed.push(tp);
        self.push_marker(env, EntryKind::PartitionDeleted, tp, 0)
    }

    /// An entry without records.
    fn push_marker(
        &mut self,
        env: &mut Env,
        kind: EntryKind,
        tp: TopicIdPartition,
        offset: Offset,
    ) -> Result<(), Halt> {
        let entry = Entry {
            kind,
            tp,
            first: offset,
            last: offset,
            leader_epoch: LeaderEpoch(self.life as i32),
            records: 0,
            patch: false,
            body: Bytes::new(),
            profile: 0,
            client: tp,
        };
        self.commit.push(entry, env.now_us);
        self.pump(env)
    }

    /// Every start leads each partition in a new epoch.
    fn lead(&self, log: &mut PartitionLog) -> Result<(), Halt> {
        log.answer_duplicates_early = self.settings.bugs.answer_duplicates_early;
        let led = log.become_leader(LeaderEpoch(self.life as i32));
        led.map_err(|e| Violation::new("invariant_9_epochs_only_grow", e.to_string()).into())
    }

    /// A produce request has arrived.
    pub fn produce(&mut self, env: &mut Env, request: Request, profile: usize) -> Result<(), Halt> {
        if self.has_failed() || self.stopping {
            return Ok(());
        }
        let vouched = if self.settings.bugs.zombie_accepted { Verified::Own } else { Verified::Not };
        if vouched == Verified::Not && self.asks_about(env, request, profile)? {
            return Ok(());
        }
        self.append_produced(env, request, profile, vouched)
    }

    /// Appends a client's batch. `verified` is what is known of the transaction that it would begin.
    fn append_produced(
        &mut self,
        env: &mut Env,
        request: Request,
        profile: usize,
        verified: Verified,
    ) -> Result<(), Halt> {
        if self.has_failed() || self.stopping {
            return Ok(());
        }
        let sent = env.history.sent[request.batch].clone();
        let Some(partition) = self.partitions.get_mut(&sent.tp) else {
            let delay = env.rng.between(50, 500);
            env.after(delay, Event::Respond(request, Outcome::Gone));
            return Ok(());
        };
        let batch = check_produced(&sent.bytes, &limits(&self.settings, &partition.topic))
            .map_err(|e| Violation::new("a_good_batch_is_accepted", e.to_string()))?;
        let batch = BatchSummary { verified, ..batch };
        match partition.log.append(&batch, env.now_ms()) {
            Ok(Appended::New { base_offset, last_offset, leader_epoch, .. }) => {
                env.note("append", &[request.batch as u64, base_offset as u64]);
                invariants::assigned(env, sent.tp, request.batch, base_offset, last_offset, leader_epoch)?;
                partition.waiters.push(Waiter { base_offset, last_offset, request });
                let entry = Entry {
                    kind: EntryKind::Append,
                    tp: sent.tp,
                    first: base_offset,
                    last: last_offset,
                    leader_epoch,
                    records: batch.record_count as u32,
                    patch: true,
                    body: sent.bytes,
                    profile,
                    client: sent.tp,
                };
                self.commit.push(entry, env.now_us);
                self.pump(env)
            }
            Ok(Appended::Duplicate { base_offset, last_offset, .. }) => {
                env.note("duplicate", &[request.batch as u64, base_offset as u64]);
                env.stats.deed(Deed::DuplicateRecognised);
                if partition.log.duplicate_is_durable(last_offset) {
                    return answer(env, sent.tp, base_offset, request);
                }
                env.stats.deed(Deed::DuplicateInFlight);
                partition.waiters.push(Waiter { base_offset, last_offset, request });
                Ok(())
            }
            Err(e) => {
                let outcome = Outcome::Refused(e.kafka_code());
                let delay = env.rng.between(50, 500);
                env.after(delay, Event::Respond(request, outcome));
                Ok(())
            }
        }
    }

    /// Sends groups until the log must wait.
    pub fn pump(&mut self, env: &mut Env) -> Result<(), Halt> {
        loop {
            match self.commit.poll(env.now_us, self.stopping) {
                Step::Write => self.write_group(env)?,
                Step::Roll { base } => {
                    if !self.roll(env, base)? {
                        return Ok(());
                    }
                }
                Step::Wait { until_us } => {
                    if let Some(until) = until_us
                        && self.poll_at_us.is_none_or(|at| at > until || at <= env.now_us)
                    {
                        self.poll_at_us = Some(until);
                        env.after(until.saturating_sub(env.now_us).max(1), Event::Poll { life: self.life });
                    }
                    return Ok(());
                }
            }
        }
    }

    fn write_group(&mut self, env: &mut Env) -> Result<(), Halt> {
        let s = self.commit.take(env.now_us, |len| vec![0xAA; len]);
        let fails = match env.rng.below(1000) < self.settings.write_errors_permille {
            true if env.rng.percent(30) => Some(DiskError::Full),
            true => Some(DiskError::Io),
            false => None,
        };
        let inode = env.disk.inode(&wal_name(s.slot)).ok_or(DiskError::Io)?;
        env.history.submitted(&s.buf, s.slot, s.file_offset);
        let flight = env.disk.submit(inode, s.file_offset, s.buf.clone(), fails)?;
        env.note("group", &[s.sequence, u64::from(s.slot), s.file_offset, s.len as u64]);
        env.stats.deed(Deed::GroupWritten);
        let slow = if env.rng.percent(5) { 20 } else { 1 };
        let latency_us = env.rng.between(40, 400) * slow;
        env.after(latency_us, Event::Landed { life: self.life, flight });
        if self.settings.bugs.ack_before_flush {
            let done = self.commit.written(s.sequence, s.buf, env.now_us);
            self.flying.insert(flight, (u64::MAX, Vec::new()));
            return self.deliver(env, done);
        }
        self.flying.insert(flight, (s.sequence, s.buf));
        Ok(())
    }

    /// A group's write has returned.
    pub fn landed(&mut self, env: &mut Env, flight: u64) -> Result<(), Halt> {
        match env.disk.land(flight, self.settings.dsync, &mut env.rng) {
            Ok(_) if self.settings.dsync => self.completed(env, flight),
            Ok(inode) => {
                let delay = env.rng.between(20, 300);
                env.after(delay, Event::Synced { life: self.life, flight, inode });
                Ok(())
            }
            Err(DiskError::Crashed) => Err(Halt::Crashed),
            Err(error) => {
                let full = error == DiskError::Full;
                env.stats.fault(if full { Fault::NoSpaceForGroup } else { Fault::WriteError });
                self.fail(env);
                Ok(())
            }
        }
    }

    /// Its `fdatasync` is due.
    pub fn synced(&mut self, env: &mut Env, flight: u64, inode: u64) -> Result<(), Halt> {
        env.disk.sync(inode)?;
        self.completed(env, flight)
    }

    fn completed(&mut self, env: &mut Env, flight: u64) -> Result<(), Halt> {
        let Some((sequence, buf)) = self.flying.remove(&flight) else { return Ok(()) };
        let done = self.commit.written(sequence, buf, env.now_us);
        self.deliver(env, done)?;
        self.pump(env)
    }

    /// Nothing is tried again and nothing is acknowledged any more (invariant 12).
    fn fail(&mut self, env: &mut Env) {
        env.note("failed", &[]);
        env.history.write_failed = true;
        self.commit.fail();
        for partition in self.partitions.values_mut() {
            partition.waiters.clear();
        }
    }

    fn deliver(&mut self, env: &mut Env, groups: Vec<Done<TopicIdPartition, Vec<u8>>>) -> Result<(), Halt> {
        for group in groups {
            let bytes = Bytes::from(group.buf);
            for run in group.runs {
                let item = run.item;
                if item.kind == EntryKind::LogStart {
                    self.log_start_is_durable(env, item.tp, item.first)?;
                }
                let Some(partition) = self.partitions.get_mut(&item.tp) else { continue };
                if item.kind != EntryKind::Append {
                    continue;
                }
                let from = item.body_at as usize;
                let body = bytes.slice(from..from + item.body_len as usize);
                let latest = Batches::new(&body, Crc::Skip).flatten().map(|(h, _)| h.max_timestamp).max();
                let durable = partition.log.durable(Run {
                    base_offset: item.first,
                    last_offset: item.last,
                    span: WalSpan { position: run.position, len: item.body_len },
                    max_timestamp: latest.unwrap_or(NO_TIMESTAMP),
                    bytes: Some(body),
                });
                durable
                    .map_err(|e| Violation::new("invariant_9_runs_become_durable_in_order", e.to_string()))?;
                answer_waiters(env, item.tp, partition)?;
            }
            self.delivered = group.end;
        }
        self.release(env)
    }

    /// Goes on in the next file; false when there is none yet.
    fn roll(&mut self, env: &mut Env, base: WalPosition) -> Result<bool, Halt> {
        let Some(slot) = self.pool.free_slot() else {
            env.stats.deed(Deed::WalFileWaitedFor);
            self.make_file(env, true);
            return Ok(false);
        };
        let durable = self.commit.durable();
        let file = open_generation(env, &mut self.pool, &self.settings, slot, base, durable)?;
        self.commit.rolled(file, durable);
        self.make_spare(env);
        Ok(true)
    }

    /// A log that stops wants no spare file.
    fn make_spare(&mut self, env: &mut Env) {
        self.make_file(env, !self.stopping);
    }

    fn make_file(&mut self, env: &mut Env, wanted: bool) {
        let possible = self.pool.free() == 0 && self.pool.slot_to_add(false).is_some();
        if wanted && possible && !self.making_file {
            self.making_file = true;
            let delay = env.rng.between(200, 3000);
            env.after(delay, Event::FileMade { life: self.life });
        }
    }

    /// The thread that makes files is done with one.
    pub fn file_made(&mut self, env: &mut Env) -> Result<(), Halt> {
        self.making_file = false;
        let Some(slot) = self.pool.slot_to_add(false) else { return Ok(()) };
        if env.rng.percent(5) {
            // Not a failure of the log: it goes on in the files it has, or waits for space.
            env.stats.fault(Fault::NoSpaceForFile);
            return self.pump(env);
        }
        create_wal_file(env, slot, self.settings.file_bytes)?;
        self.pool.add_free(slot);
        self.pump(env)
    }

    /// Memory runs short.
    pub fn evict(&mut self, env: &mut Env) {
        for partition in self.partitions.values_mut() {
            let wanted = env.rng.below(1 << 16) as usize;
            partition.log.evict(wanted);
        }
    }
}

fn answer_waiters(env: &mut Env, tp: TopicIdPartition, partition: &mut Partition) -> Result<(), Halt> {
    let high_watermark = partition.log.high_watermark();
    let (ready, waiting) = std::mem::take(&mut partition.waiters)
        .into_iter()
        .partition::<Vec<_>, _>(|waiter| waiter.last_offset < high_watermark);
    partition.waiters = waiting;
    ready.into_iter().try_for_each(|waiter| answer(env, tp, waiter.base_offset, waiter.request))
}

/// Tells a producer that its batch is stored. From here on, it must be.
fn answer(env: &mut Env, tp: TopicIdPartition, base_offset: Offset, request: Request) -> Result<(), Halt> {
    env.note("answer", &[request.batch as u64, base_offset as u64]);
    invariants::acknowledged(env, tp, base_offset, request.batch)?;
    let delay = env.rng.between(50, 500);
    env.after(delay, Event::Respond(request, Outcome::Stored));
    Ok(())
}
