//! The model of one partition: a list of batches that nothing can take away but what Kafka says may.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use chronik_core::ids::{Offset, ProducerId};
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
}

impl Batch {
    fn of(header: BatchHeader, bytes: Bytes) -> Batch {
        let opened = records_of(&header, &bytes).unwrap();
        let records = RecordIter::opened(&header, &opened).map(Result::unwrap).map(|r| {
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            (r.offset, Record { timestamp: r.timestamp, key: owned(r.key), value: owned(r.value) })
        });
        Batch { header, records: records.collect(), bytes }
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

    /// One of the batches ever sent, as its producer sent it.
    pub fn again(&self, which: usize) -> Option<Vec<u8>> {
        let sent = self.sent.get(which.checked_rem(self.sent.len())?)?;
        let mut bytes = sent.bytes.to_vec();
        bytes[..8].fill(0);
        bytes[12..16].fill(0xff);
        Some(bytes)
    }

    /// A producer's batches of its newest epoch, whatever has become of them.
    fn batches_of(&self, id: ProducerId) -> Vec<&BatchHeader> {
        let all = self.sent.iter().map(|sent| &sent.header).filter(|header| header.producer_id == id);
        let newest = all.clone().next_back().map(|header| header.producer_epoch);
        all.filter(|header| Some(header.producer_epoch) == newest).collect()
    }

    /// A producer's epoch, and its next sequence.
    pub fn next_of(&self, producer: i64) -> Option<(i16, i32)> {
        let newest = self.batches_of(ProducerId(producer)).pop()?;
        Some((newest.producer_epoch.0, newest.last_sequence() + 1))
    }

    /// The rules of idempotence, read off everything ever sent.
    pub fn expected(&self, header: &BatchHeader) -> Expected {
        let known = self.batches_of(header.producer_id);
        let Some(last) = known.last().filter(|_| header.has_producer()) else { return Expected::New };
        if header.producer_epoch != last.producer_epoch {
            return match (header.producer_epoch > last.producer_epoch, header.base_sequence) {
                (true, 0) => Expected::New,
                (true, _) => Expected::Refused(45),
                (false, _) => Expected::Refused(47),
            };
        }
        let same = |old: &&&BatchHeader| {
            (old.base_sequence, old.record_count) == (header.base_sequence, header.record_count)
        };
        match known.iter().rev().take(RECOGNISED).find(same) {
            Some(first) => Expected::Duplicate(first.base_offset),
            None if header.base_sequence == last.last_sequence() + 1 => Expected::New,
            None => Expected::Refused(45),
        }
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
        let mut latest: HashMap<&[u8], Offset> = HashMap::new();
        let dirty = self.visible().filter(|b| b.base() >= pass.dirty_from && b.base() < pass.end);
        for (offset, record) in dirty.flat_map(|b| &b.records) {
            if let Some(key) = &record.key {
                latest.insert(key, *offset);
            }
        }
        let mut found_by_base: HashMap<Offset, &Batch> = found.iter().map(|b| (b.base(), b)).collect();
        let last_of: HashMap<ProducerId, Offset> =
            self.sent.iter().map(|b| (b.header.producer_id, b.base())).collect();
        for old in self.visible() {
            let new = found_by_base.remove(&old.base());
            let horizon = old.header.delete_horizon_ms();
            for (offset, record) in &old.records {
                let superseded = match &record.key {
                    None => true,
                    Some(key) => latest.get(&key[..]).is_some_and(|newest| newest > offset),
                };
                let outlived =
                    record.value.is_none() && horizon.is_some_and(|horizon| pass.now_ms >= horizon);
                let goes = *offset < pass.end && (superseded || outlived);
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
}
