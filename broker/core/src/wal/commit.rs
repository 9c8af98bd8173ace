//! Group commit: what waits, when it is written, what is in flight, and what is durable.
//!
//! The log clocks itself: a group is written as soon as a slot at the device is free and a policy says that
//! an entry is due; whatever arrives while the device is busy forms the next group. Groups may finish out of
//! order at the device; they are reported durable in the order of their positions only.
//!
//! ```text
//! durable <= next position;  in flight: durable..next, without gaps;  recorded <= durable
//! ```

use std::collections::VecDeque;

use super::format::{BLOCK, Entry, FileHeader, GROUP_HEADER_LEN, ITEM_LEN, Item, Layout, round_up};
use super::policy::{GroupPolicy, Load, policy_of};
use super::profile::WalProfile;
use crate::ids::WalPosition;

/// The most an empty file can take as the body of one entry.
pub fn max_entry_bytes(file_bytes: u64) -> u64 {
    let overhead = (2 * (GROUP_HEADER_LEN + ITEM_LEN) + BLOCK) as u64;
    FileHeader::capacity(file_bytes).saturating_sub(overhead).min(u64::from(u32::MAX) / 2)
}

/// The file that groups are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveFile {
    pub slot: u32,
    pub generation: u64,
    pub base: WalPosition,
    /// The length of the file, its header included.
    pub file_bytes: u64,
}

impl ActiveFile {
    fn end(&self) -> u64 {
        self.base.0 + FileHeader::capacity(self.file_bytes)
    }

    fn file_offset(&self, position: WalPosition) -> u64 {
        super::format::FILE_HEADER_LEN + (position.0 - self.base.0)
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call [`GroupCommit::take`] and write what it returns.
    Write,
    /// The next entry does not fit: open a new file of the next generation at this position, make its header
    /// durable, and call [`GroupCommit::rolled`].
    Roll { base: WalPosition },
    /// Nothing until then (microseconds), or until something arrives or completes.
    Wait { until_us: Option<u64> },
}

/// A group ready for the device.
#[derive(Debug)]
pub struct Submission<B> {
    pub sequence: u64,
    pub slot: u32,
    pub file_offset: u64,
    pub len: usize,
    pub buf: B,
}

/// A run of a durable group, with whoever waits for it.
#[derive(Debug)]
pub struct DoneRun<C> {
    pub item: Item,
    /// Where the run's bytes lie in the log.
    pub position: WalPosition,
    pub client: C,
}

/// A group that has become durable, and everything before it.
#[derive(Debug)]
pub struct Done<C, B> {
    pub position: WalPosition,
    pub end: WalPosition,
    pub runs: Vec<DoneRun<C>>,
    pub buf: B,
    /// Records and body bytes per profile index.
    pub tallies: Vec<Tally>,
    pub padding: usize,
    /// From the arrival of the group's oldest entry to its submission, in microseconds.
    pub queued_us: u64,
    /// From submission to completion, in microseconds.
    pub flush_us: u64,
    pub is_seal: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    pub profile: usize,
    pub entries: u64,
    pub records: u64,
    pub bytes: u64,
}

struct Waiting<C> {
    entry: Entry<C>,
    arrived_us: u64,
}

struct InFlight<C, B> {
    sequence: u64,
    position: WalPosition,
    end: WalPosition,
    runs: Vec<DoneRun<C>>,
    tallies: Vec<Tally>,
    padding: usize,
    queued_us: u64,
    submitted_us: u64,
    is_seal: bool,
    done: Option<(B, u64)>,
}

struct Lane {
    limits: WalProfile,
    policy: Box<dyn GroupPolicy>,
    load: Load,
    oldest_us: Option<u64>,
}

/// See the module's documentation. `C` waits for an entry, `B` is a group's buffer.
pub struct GroupCommit<C, B> {
    queue: VecDeque<Waiting<C>>,
    lanes: Vec<Lane>,
    in_flight: VecDeque<InFlight<C, B>>,
    max_in_flight: usize,
    file: ActiveFile,
    next: WalPosition,
    durable: WalPosition,
    /// The newest durable position that a group or file header on its way to the disk names.
    recorded: WalPosition,
    /// The end of the last group with entries.
    data_end: WalPosition,
    sequence: u64,
    flush_us: u64,
    idle_since_us: u64,
    failed: bool,
}

/// An idle log records its durable position after this long.
pub const SEAL_AFTER_US: u64 = 10_000;

impl<C: Clone, B: AsMut<[u8]>> GroupCommit<C, B> {
    /// An empty log that goes on at the base of `file`, whose header is durable.
    pub fn new(file: ActiveFile, profiles: &[WalProfile], max_in_flight: usize, now_us: u64) -> Self {
        let mut this = GroupCommit {
            queue: VecDeque::new(),
            lanes: Vec::new(),
            in_flight: VecDeque::new(),
            max_in_flight: max_in_flight.max(1),
            file,
            next: file.base,
            durable: file.base,
            recorded: file.base,
            data_end: file.base,
            sequence: 0,
            flush_us: 0,
            idle_since_us: now_us,
            failed: false,
        };
        this.set_profiles(profiles);
        this
    }

    /// Replaces the definitions; an index keeps its meaning. Entries that wait are judged by the new ones.
    pub fn set_profiles(&mut self, profiles: &[WalProfile]) {
        for (n, profile) in profiles.iter().enumerate() {
            match self.lanes.get_mut(n) {
                Some(lane) => {
                    lane.policy = policy_of(profile);
                    lane.limits = profile.clone();
                }
                None => self.lanes.push(Lane {
                    limits: profile.clone(),
                    policy: policy_of(profile),
                    load: Load::default(),
                    oldest_us: None,
                }),
            }
        }
    }

    pub fn durable(&self) -> WalPosition {
        self.durable
    }

    pub fn next_position(&self) -> WalPosition {
        self.next
    }

    pub fn file(&self) -> ActiveFile {
        self.file
    }

    /// Groups at the device.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub fn has_free_slot(&self) -> bool {
        self.in_flight.len() < self.max_in_flight
    }

    /// Entries that wait for a group.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Adds an entry. Its body must be at most [`max_entry_bytes`].
    pub fn push(&mut self, mut entry: Entry<C>, now_us: u64) {
        if entry.profile >= self.lanes.len() {
            entry.profile = 0;
        }
        let lane = &mut self.lanes[entry.profile];
        lane.load.waiting_records += u64::from(entry.records);
        lane.load.waiting_bytes += entry.body.len() as u64;
        lane.oldest_us.get_or_insert(now_us);
        self.queue.push_back(Waiting { entry, arrived_us: now_us });
    }

    /// What to do now. `stopping` writes whatever waits and records the durable position at once.
    pub fn poll(&self, now_us: u64, stopping: bool) -> Step {
        if self.failed || !self.has_free_slot() {
            return Step::Wait { until_us: None };
        }
        let Some(first) = self.queue.front() else {
            return self.poll_seal(now_us, stopping);
        };
        let due_us = self
            .lanes
            .iter()
            .filter_map(|lane| {
                let load = Load { flush_us: self.flush_us, ..lane.load };
                Some(lane.policy.not_before(lane.oldest_us?, &load))
            })
            .min()
            .unwrap_or(now_us);
        if due_us > now_us && !stopping {
            return Step::Wait { until_us: Some(due_us) };
        }
        if self.next.0 + group_bound(1, first.entry.body.len() as u64) > self.file.end() {
            return Step::Roll { base: self.next };
        }
        Step::Write
    }

    fn poll_seal(&self, now_us: u64, stopping: bool) -> Step {
        let all_durable = self.in_flight.is_empty() && self.data_end <= self.durable;
        if !all_durable || self.data_end <= self.recorded {
            return Step::Wait { until_us: None };
        }
        let due_us = self.idle_since_us + SEAL_AFTER_US;
        if due_us > now_us && !stopping {
            return Step::Wait { until_us: Some(due_us) };
        }
        if self.next.0 + BLOCK as u64 > self.file.end() {
            return Step::Roll { base: self.next };
        }
        Step::Write
    }

    /// The new file's header is durable. It named [`GroupCommit::durable`] as of this call's `recorded`.
    pub fn rolled(&mut self, file: ActiveFile, recorded: WalPosition) {
        debug_assert_eq!(file.base, self.next);
        self.file = file;
        self.recorded = self.recorded.max(recorded);
    }

    /// Forms the next group from the front of the queue, in arrival order, up to the profiles' limits and the
    /// room in the file; or a seal when nothing waits. Call it only when [`GroupCommit::poll`] said so.
    pub fn take(&mut self, now_us: u64, alloc: impl FnOnce(usize) -> B) -> Submission<B> {
        let room = self.file.end() - self.next.0;
        let mut tallies: Vec<Tally> = Vec::new();
        let mut entries: Vec<Entry<C>> = Vec::with_capacity(self.queue.len().min(4096));
        let mut bytes = 0;
        let mut oldest_us = now_us;
        while let Some(waiting) = self.queue.front() {
            let (len, records) = (waiting.entry.body.len() as u64, u64::from(waiting.entry.records));
            let profile = waiting.entry.profile;
            let at = tallies.iter().position(|t| t.profile == profile).unwrap_or_else(|| {
                tallies.push(Tally { profile, entries: 0, records: 0, bytes: 0 });
                tallies.len() - 1
            });
            let tally = &mut tallies[at];
            let limits = &self.lanes[profile].limits;
            let over = tally.records + records > limits.max_group_records
                || tally.bytes + len > limits.max_group_bytes;
            // An entry larger than a limit is admitted alone.
            if (over && tally.entries > 0) || group_bound(entries.len() as u64 + 1, bytes + len) > room {
                break;
            }
            tally.entries += 1;
            tally.records += records;
            tally.bytes += len;
            bytes += len;
            let Some(waiting) = self.queue.pop_front() else { break };
            oldest_us = oldest_us.min(waiting.arrived_us);
            entries.push(waiting.entry);
        }
        tallies.retain(|t| t.entries > 0);
        self.forget_waiting(&tallies);

        let (layout, firsts) = Layout::plan(&entries);
        let mut buf = alloc(layout.group_len);
        let out = &mut buf.as_mut()[..layout.group_len];
        layout.encode(&entries, self.file.generation, self.next, self.durable, out);
        let (position, len) = (self.next, layout.group_len);
        let end = WalPosition(position.0 + len as u64);
        let is_seal = entries.is_empty();
        let padding = layout.padding();
        let runs = layout
            .items
            .iter()
            .zip(firsts)
            .map(|(item, first)| DoneRun {
                item: *item,
                position: WalPosition(position.0 + u64::from(item.body_at)),
                client: entries[first].client.clone(),
            })
            .collect();
        self.sequence += 1;
        self.in_flight.push_back(InFlight {
            sequence: self.sequence,
            position,
            end,
            runs,
            tallies,
            padding,
            queued_us: now_us.saturating_sub(oldest_us),
            submitted_us: now_us,
            is_seal,
            done: None,
        });
        self.next = end;
        self.recorded = self.durable;
        if !is_seal {
            self.data_end = end;
        }
        Submission {
            sequence: self.sequence,
            slot: self.file.slot,
            file_offset: self.file.file_offset(position),
            len,
            buf,
        }
    }

    fn forget_waiting(&mut self, taken: &[Tally]) {
        for tally in taken {
            let lane = &mut self.lanes[tally.profile];
            lane.load.waiting_records = lane.load.waiting_records.saturating_sub(tally.records);
            lane.load.waiting_bytes = lane.load.waiting_bytes.saturating_sub(tally.bytes);
            lane.oldest_us = None;
        }
        if !self.queue.is_empty() {
            for lane in &mut self.lanes {
                lane.oldest_us = None;
            }
            for waiting in &self.queue {
                self.lanes[waiting.entry.profile].oldest_us.get_or_insert(waiting.arrived_us);
            }
        }
    }

    /// A group's write and flush have succeeded. Returns the groups that are durable now, in log order.
    pub fn written(&mut self, sequence: u64, buf: B, now_us: u64) -> Vec<Done<C, B>> {
        if let Some(group) = self.in_flight.iter_mut().find(|g| g.sequence == sequence) {
            group.done = Some((buf, now_us));
        }
        let mut durable = Vec::new();
        if self.failed {
            return durable; // Nothing is acknowledged after a failed write or flush (invariant 12).
        }
        while let Some(group) = self.in_flight.pop_front_if(|g| g.done.is_some()) {
            let Some((buf, done_us)) = group.done else { break };
            let flush_us = done_us.saturating_sub(group.submitted_us);
            self.flush_us = if self.flush_us == 0 { flush_us } else { (self.flush_us * 7 + flush_us) / 8 };
            self.durable = group.end;
            durable.push(Done {
                position: group.position,
                end: group.end,
                runs: group.runs,
                buf,
                tallies: group.tallies,
                padding: group.padding,
                queued_us: group.queued_us,
                flush_us,
                is_seal: group.is_seal,
            });
        }
        if self.in_flight.is_empty() {
            self.idle_since_us = now_us;
        }
        durable
    }

    /// A write or flush has failed: nothing is written or acknowledged any more (invariant 12). Returns
    /// everybody who waits.
    pub fn fail(&mut self) -> Vec<C> {
        self.failed = true;
        let flying = self.in_flight.drain(..).flat_map(|g| g.runs.into_iter().map(|r| r.client));
        flying.chain(self.queue.drain(..).map(|w| w.entry.client)).collect()
    }

    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Nothing waits, nothing is in flight, and the durable position is on the disk.
    pub fn is_quiet(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty() && self.data_end <= self.recorded
    }
}

#[cfg(test)]
impl<C, B> GroupCommit<C, B> {
    /// Moves the newest waiting entry to another profile.
    pub(super) fn queue_profile_for_test(&mut self, profile: usize) {
        if let Some(waiting) = self.queue.back_mut() {
            waiting.entry.profile = profile;
            self.lanes[profile].oldest_us = Some(waiting.arrived_us);
        }
    }
}

/// An upper bound for the length of a group of so many entries.
fn group_bound(entries: u64, bytes: u64) -> u64 {
    round_up((bytes + entries * 2 * ITEM_LEN as u64) as usize + 2 * GROUP_HEADER_LEN) as u64
}
