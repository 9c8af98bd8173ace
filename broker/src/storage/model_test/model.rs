//! The model of one partition: a list of batches that nothing can take away but what Kafka says may.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use chronik_core::ids::{Offset, ProducerEpoch, ProducerId};
use chronik_core::log::EndMarker;
use chronik_core::log::retention::Stretch;
use chronik_core::metadata::TopicConfig;
use chronik_core::record_batch::{BatchHeader, Batches, Crc, NO_TIMESTAMP, RecordIter};

use crate::storage::segments::records_of;

/// So many batches of a producer are recognised when they come again.
const RECOGNISED: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// A batch as it lies in the log.
#[derive(Clone, Debug)]
pub struct Batch {
    pub header: BatchHeader,
    pub bytes: Bytes,
    pub records: BTreeMap<Offset, Record>,
    /// Of a control batch that has its record still.
    pub marker: Option<EndMarker>,
}

impl Batch {
    fn of(header: BatchHeader, bytes: Bytes) -> Batch {
        let opened = records_of(&header, &bytes).unwrap();
        let records = RecordIter::opened(&header, &opened).map(Result::unwrap).map(|r| {
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            (r.offset, Record { timestamp: r.timestamp, key: owned(r.key), value: owned(r.value) })
        });
        Batch { header, records: records.collect(), marker: EndMarker::of(&header, &bytes), bytes }
    }

    /// Reads whole batches, every checksum verified.
    pub fn all_in(bytes: &Bytes) -> Vec<Batch> {
        let found = Batches::new(bytes, Crc::Check).map(Result::unwrap);
        found.map(|(header, range)| Batch::of(header, bytes.slice(range))).collect()
    }

    pub fn base(&self) -> Offset {
        self.header.base_offset
    }

    fn has_tombstones(&self) -> bool {
        self.records.values().any(|r| r.value.is_none())
    }
}

/// What becomes of a batch that is sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    New,
    Duplicate(Offset),
    Refused(i16),
}

/// A pass of compaction: it noted the keys from `dirty_from` on, and wrote anew what lies below `end`.
pub struct Pass {
    pub dirty_from: Offset,
    pub end: Offset,
    pub now_ms: i64,
    pub delete_retention_ms: i64,
    /// Nothing kept it from its end.
    pub is_whole: bool,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub start: Offset,
    /// As it should be read, deleted batches too.
    batches: Vec<Batch>,
    /// As they were sent: each one that was ever given offsets.
    sent: Vec<Batch>,
    /// What was in segments at the last checkpoint, and where those ended.
    checkpointed: Vec<Batch>,
    checkpointed_end: Offset,
}

impl Log {
    pub fn end(&self) -> Offset {
        self.sent.last().map_or(0, |last| last.header.next_offset())
    }

    /// The batches that hold what is not deleted.
    pub fn visible(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter().filter(|b| b.header.next_offset() > self.start)
    }

    /// The bytes that a reader of everything from `from` on is given, batch by batch.
    pub fn read(&self, from: Offset) -> Vec<Bytes> {
        self.visible().filter(|b| b.header.next_offset() > from).map(|b| b.bytes.clone()).collect()
    }

    /// The first record of this time or later.
    pub fn search(&self, timestamp: i64) -> Option<(Offset, i64)> {
        let mut records = self.records().map(|(offset, record)| (*offset, record.timestamp));
        records.find(|(_, time)| *time >= timestamp)
    }

    pub fn max_timestamp(&self) -> Option<i64> {
        self.records().map(|(_, record)| record.timestamp).filter(|time| *time >= 0).max()
    }

    /// Whether there was a later record once than those that can be read.
    pub fn latest_is_gone(&self) -> bool {
        let sent = self.sent.iter().map(|sent| sent.header.max_timestamp).max();
        sent > self.max_timestamp()
    }

    fn records(&self) -> impl Iterator<Item = (&Offset, &Record)> {
        self.visible().flat_map(|b| &b.records).filter(|(offset, _)| **offset >= self.start)
    }

    /// The offsets at which batches begin that lie in no segment.
    pub fn bases_from(&self, segment_end: Offset) -> Vec<Offset> {
        self.sent.iter().map(Batch::base).filter(|base| *base >= segment_end).collect()
    }

    /// One of the batches ever sent, as its producer sent it. A marker is not sent by clients.
    pub fn again(&self, which: usize) -> Option<Vec<u8>> {
        let sent = self.sent.get(which.checked_rem(self.sent.len())?)?;
        sent.marker.is_none().then_some(())?;
        let mut bytes = sent.bytes.to_vec();
        bytes[..8].fill(0);
        bytes[12..16].fill(0xff);
        Some(bytes)
    }

    fn all_of(&self, id: ProducerId) -> impl DoubleEndedIterator<Item = &Batch> {
        self.sent.iter().filter(move |sent| sent.header.producer_id == id)
    }

    fn epoch_of(&self, id: ProducerId) -> Option<ProducerEpoch> {
        self.all_of(id).next_back().map(|last| last.header.producer_epoch)
    }

    /// A producer's batches of records of its newest epoch, whatever has become of them.
    fn batches_of(&self, id: ProducerId) -> Vec<&BatchHeader> {
        let newest = self.epoch_of(id);
        let records = self.all_of(id).map(|sent| &sent.header).filter(|header| !header.is_control());
        records.filter(|header| Some(header.producer_epoch) == newest).collect()
    }

    /// A producer's epoch, and its next sequence.
    pub fn next_of(&self, producer: i64) -> Option<(i16, i32)> {
        let id = ProducerId(producer);
        let epoch = self.epoch_of(id)?;
        Some((epoch.0, self.batches_of(id).pop().map_or(0, |newest| newest.last_sequence() + 1)))
    }

    /// The epoch of the coordinator that a producer had last.
    pub fn coordinator_of(&self, producer: i64) -> Option<i32> {
        self.all_of(ProducerId(producer)).rev().find_map(|sent| sent.marker).map(|m| m.coordinator_epoch)
    }

    /// What has become of each batch of a transaction, by its first offset: committed, aborted, or none of both yet.
    pub fn outcomes(&self) -> BTreeMap<Offset, Option<bool>> {
        let mut outcomes = BTreeMap::new();
        let mut open: HashMap<ProducerId, Vec<Offset>> = HashMap::new();
        for Batch { header, marker, .. } in &self.sent {
            match marker {
                Some(marker) => {
                    let ended = open.remove(&header.producer_id).unwrap_or_default();
                    outcomes.extend(ended.into_iter().map(|base| (base, Some(marker.commit))));
                }
                None if header.is_transactional() => {
                    outcomes.insert(header.base_offset, None);
                    open.entry(header.producer_id).or_default().push(header.base_offset);
                }
                None => {}
            }
        }
        outcomes
    }

    /// All below is decided.
    pub fn last_stable(&self) -> Offset {
        let undecided = self.outcomes().into_iter().find(|(_, outcome)| outcome.is_none());
        undecided.map_or(self.end(), |(first, _)| first.max(self.start))
    }

    /// What a reader of decided records makes of some batches: the committed ones.
    pub fn decided(&self, batches: &[Batch]) -> Vec<Offset> {
        let outcomes = self.outcomes();
        let records = batches.iter().filter(|b| !b.header.is_control());
        let committed =
            records.filter(|b| outcomes.get(&b.base()).is_none_or(|outcome| *outcome == Some(true)));
        committed.map(Batch::base).collect()
    }

    /// The rules of idempotence and of transactions, read off everything ever sent.
    pub fn expected(&self, header: &BatchHeader, marker: Option<EndMarker>) -> Expected {
        if !header.has_producer() {
            return Expected::New;
        }
        let id = header.producer_id;
        let (epoch, known) = (self.epoch_of(id), self.batches_of(id));
        let same = |old: &&&BatchHeader| {
            (old.producer_epoch, old.base_sequence, old.record_count)
                == (header.producer_epoch, header.base_sequence, header.record_count)
        };
        if let Some(first) = known.iter().rev().take(RECOGNISED).find(same).filter(|_| marker.is_none()) {
            return Expected::Duplicate(first.base_offset);
        }
        let next = known.last().filter(|last| last.producer_epoch == header.producer_epoch);
        let next = next.map_or(0, |last| last.last_sequence() + 1);
        let coordinator = self.coordinator_of(id.0);
        match marker {
            _ if epoch.is_some_and(|epoch| header.producer_epoch < epoch) => Expected::Refused(47),
            Some(marker) if coordinator.is_some_and(|known| marker.coordinator_epoch < known) => {
                Expected::Refused(52)
            }
            Some(_) => Expected::New,
            None if epoch.is_some() && header.base_sequence != next => Expected::Refused(45),
            None if !header.is_transactional() && self.is_open(id) => Expected::Refused(48),
            None => Expected::New,
        }
    }

    /// Whether a producer is in a transaction.
    fn is_open(&self, id: ProducerId) -> bool {
        let last = self.all_of(id).rev().find(|sent| sent.header.is_transactional());
        last.is_some_and(|last| last.marker.is_none())
    }

    /// By which batch the log tells of each producer: its last one of records, or the marker that began its epoch.
    fn last_of(&self) -> HashMap<ProducerId, Offset> {
        let ids: HashSet<ProducerId> = self.sent.iter().map(|sent| sent.header.producer_id).collect();
        let last = |id: ProducerId| match self.batches_of(id).pop() {
            Some(records) => records.base_offset,
            None => self.all_of(id).next_back().map_or(-1, Batch::base),
        };
        ids.into_iter().map(|id| (id, last(id))).collect()
    }

    /// A batch has its offsets; `bytes` bear them.
    pub fn append(&mut self, bytes: &Bytes) {
        for batch in Batch::all_in(bytes) {
            assert_eq!(batch.base(), self.end(), "offsets are dense");
            self.sent.push(batch.clone());
            self.batches.push(batch);
        }
    }

    /// A checkpoint was written when the segments ended there.
    pub fn checkpointed(&mut self, segment_end: Offset) {
        let below = self.batches.iter().filter(|b| b.base() < segment_end);
        (self.checkpointed, self.checkpointed_end) = (below.cloned().collect(), segment_end);
    }

    /// A crash: what compaction has done since the checkpoint is undone, and batches that nobody has acknowledged may
    /// be gone, from `end` on.
    pub fn crashed(&mut self, acknowledged: Offset, end: Offset) {
        assert!(end >= acknowledged, "acknowledged records are lost: {acknowledged} to {end}");
        self.sent.retain(|b| b.base() < end);
        assert_eq!(self.end(), end, "a batch was cut in two");
        let behind = self.sent.iter().filter(|b| b.base() >= self.checkpointed_end).cloned();
        self.batches = self.checkpointed.iter().cloned().chain(behind).collect();
    }

    /// Where the log must begin once retention was applied. `stretches` are its files, which it goes by.
    pub fn retained_from(&self, stretches: &[Stretch], config: &TopicConfig, now_ms: i64) -> Offset {
        if !config.cleanup.delete {
            return self.start;
        }
        let is_old = |s: &Stretch| {
            let time = if s.max_timestamp == NO_TIMESTAMP { s.written_ms } else { Some(s.max_timestamp) };
            config.retention_ms >= 0 && time.is_some_and(|time| now_ms - time > config.retention_ms)
        };
        let bytes_from = |n: usize| stretches[n..].iter().map(|s| s.bytes as i64).sum::<i64>();
        let may_go = |n: &usize| {
            let by_age = stretches[..*n].iter().all(is_old);
            let by_size = config.retention_bytes >= 0
                && stretches[..*n].iter().all(|s| s.is_closed_segment)
                && bytes_from(*n) >= config.retention_bytes;
            by_age || by_size
        };
        let most = (1..=stretches.len()).filter(may_go).max();
        most.map_or(self.start, |n| stretches[n - 1].end_offset.max(self.start))
    }

    /// The bytes and the latest time of what should lie in a file, when all of it is visible.
    pub fn stretch(&self, base: Offset, end: Offset) -> Option<(u64, i64)> {
        if base < self.start {
            return None;
        }
        let inside = self.batches.iter().filter(|b| b.base() >= base && b.base() < end);
        let latest = inside.clone().map(|b| b.header.max_timestamp).max().unwrap_or(NO_TIMESTAMP);
        Some((inside.map(|b| b.bytes.len() as u64).sum(), latest))
    }

    /// A pass of compaction is over, and `found` is what can be read now. Of each key the newest record is there still, and
    /// of what had to go nothing.
    pub fn compacted(&mut self, pass: &Pass, found: Vec<Batch>) {
        let outcomes = self.outcomes();
        let is_aborted = |batch: &Batch| outcomes.get(&batch.base()) == Some(&Some(false));
        let mut latest: HashMap<&[u8], Offset> = HashMap::new();
        let dirty = self.visible().filter(|b| b.base() >= pass.dirty_from && b.base() < pass.end);
        let dirty = dirty.filter(|b| !b.header.is_control() && !is_aborted(b));
        for (offset, record) in dirty.flat_map(|b| &b.records) {
            if let Some(key) = &record.key {
                latest.insert(key, *offset);
            }
        }
        let mut found_by_base: HashMap<Offset, &Batch> = found.iter().map(|b| (b.base(), b)).collect();
        let last_of = self.last_of();
        assert!(pass.end <= self.last_stable(), "nothing that is open is touched");
        for old in self.visible() {
            let new = found_by_base.remove(&old.base());
            if old.header.is_control() {
                self.marker_compacted(pass, old, new, last_of[&old.header.producer_id] == old.base());
                continue;
            }
            let horizon = old.header.delete_horizon_ms();
            for (offset, record) in &old.records {
                let superseded = match &record.key {
                    None => true,
                    Some(key) => latest.get(&key[..]).is_some_and(|newest| newest > offset),
                };
                let outlived =
                    record.value.is_none() && horizon.is_some_and(|horizon| pass.now_ms >= horizon);
                let goes = *offset < pass.end && (superseded || outlived || is_aborted(old));
                match new.and_then(|new| new.records.get(offset)) {
                    Some(kept) => {
                        assert_eq!(kept, record, "offset {offset}");
                        assert!(!goes || !pass.is_whole, "offset {offset} should be gone: {record:?}");
                    }
                    None => assert!(goes, "offset {offset} is lost: {record:?}"),
                }
            }
            let Some(new) = new else {
                let stays = old.header.has_producer() && last_of[&old.header.producer_id] == old.base();
                assert!(!stays, "the last batch of producer {} is gone", old.header.producer_id);
                continue;
            };
            let facts = |b: &Batch| {
                let h = &b.header;
                (h.last_offset(), h.leader_epoch, h.producer_id, h.producer_epoch, h.base_sequence)
            };
            assert_eq!(facts(new), facts(old));
            assert!(new.records.keys().all(|offset| old.records.contains_key(offset)));
            if new.has_tombstones() && old.base() < pass.end && pass.is_whole {
                let now = pass.now_ms + pass.delete_retention_ms;
                assert_eq!(new.header.delete_horizon_ms(), horizon.or(Some(now)));
            }
            if new.records.len() == old.records.len() && new.header.delete_horizon_ms() == horizon {
                assert_eq!(new.bytes, old.bytes, "the batch of offset {} was touched", old.base());
            }
        }
        assert!(found_by_base.is_empty(), "batches that nobody sent: {found_by_base:?}");
        let start = self.start;
        self.batches.retain(|b| b.header.next_offset() <= start);
        self.batches.extend(found);
    }

    /// A marker stays while anything of its transaction is there, and then for as long as a tombstone.
    fn marker_compacted(&self, pass: &Pass, old: &Batch, new: Option<&Batch>, is_last: bool) {
        let base = old.base();
        let before = self.all_of(old.header.producer_id).rev().filter(|sent| sent.base() < base);
        let records = before.take_while(|sent| sent.marker.is_none()).filter(|b| b.header.is_transactional());
        let records: HashSet<Offset> = records.map(Batch::base).collect();
        let left: Vec<&Batch> = self.batches.iter().filter(|b| records.contains(&b.base())).collect();
        let horizon = old.header.delete_horizon_ms();
        let is_over = horizon.is_some_and(|horizon| pass.now_ms >= horizon);
        let is_empty = old.records.is_empty();
        let Some(new) = new else {
            // Whether batches that are deleted are in a file still, only the files know.
            let deleted = left.iter().all(|b| b.header.next_offset() <= self.start);
            assert!(base < pass.end && deleted && !is_last, "the marker at {base} is lost");
            assert!(is_over || is_empty, "the marker at {base} went too early");
            return;
        };
        if new.bytes == old.bytes {
            let had_to_change = pass.is_whole && base < pass.end && left.is_empty();
            let waits = horizon.is_some() && !is_over || is_empty;
            assert!(!had_to_change || waits, "the marker at {base} was passed over");
        } else if new.records.is_empty() {
            assert!(is_over, "the marker at {base} tells nothing any more");
        } else {
            assert_eq!((new.records.clone(), new.marker), (old.records.clone(), old.marker));
            let now = pass.now_ms + pass.delete_retention_ms;
            assert_eq!((horizon, new.header.delete_horizon_ms()), (None, Some(now)));
        }
    }
}
