//! What really happened, as an observer beside the broker knows it: what was sent, stored, answered, read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::wal::format::decode_group;

use crate::topics::Topic;

/// A batch as its producer sent it. Its number is its place in [`History::sent`].
#[derive(Clone, Debug)]
pub struct Sent {
    pub tp: TopicIdPartition,
    pub bytes: Bytes,
    pub idempotent: bool,
    /// The time of all its records, and of no other batch's: a batch found anywhere says which it is.
    pub time_ms: i64,
    /// Of a compacted topic: its records in their order.
    pub records: Vec<Keyed>,
}

/// A record of a compacted topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyed {
    pub key: u64,
    pub is_tombstone: bool,
}

/// A batch in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub batch: usize,
    pub leader_epoch: i32,
    pub last_offset: Offset,
}

#[derive(Clone, Debug, Default)]
pub struct PartitionHistory {
    pub topic: Option<Topic>,
    /// By base offset: what the last start has not cut off, and what has been assigned since, whatever has become of it.
    /// Nothing else may ever be found in the log.
    pub alive: BTreeMap<Offset, Stored>,
    /// By key: the offsets of its records among them.
    pub by_key: BTreeMap<u64, BTreeSet<Offset>>,
    /// The offset behind the last that a producer was told is stored.
    pub acknowledged: Offset,
    /// The offset behind the last that a consumer has read.
    pub read: Offset,
    /// The greatest log start that anybody could see.
    pub log_start: Offset,
    /// The greatest that was asked for.
    pub deletion_asked: Offset,
    /// No cleaner has judged what lies from here on.
    pub judged: Offset,
    /// When a cleaner first saw a tombstone, by the records' time.
    pub tombstones: BTreeMap<Offset, i64>,
    /// It was once found to have lost records.
    pub fenced: bool,
    /// Damage was done to WAL groups that hold its records.
    pub damaged: bool,
}

impl PartitionHistory {
    pub fn is_compacted(&self) -> bool {
        self.topic.is_some_and(|topic| topic.compact)
    }

    /// The batch that an offset was given to.
    pub fn batch_at(&self, offset: Offset) -> Option<(Offset, Stored)> {
        let (base, stored) = self.alive.range(..=offset).next_back()?;
        (offset <= stored.last_offset).then_some((*base, *stored))
    }

    /// What was cut off is forgotten.
    pub fn cut(&mut self, end: Offset) {
        _ = self.alive.split_off(&end);
        self.by_key.values_mut().for_each(|offsets| _ = offsets.split_off(&end));
    }
}

/// A commit group that was sent to the disk.
#[derive(Clone, Debug)]
pub struct GroupFact {
    pub generation: u64,
    pub slot: u32,
    pub file_offset: u64,
    pub len: usize,
    pub payload_at: usize,
    pub payload_len: usize,
    pub directory_len: usize,
    pub partitions: BTreeSet<TopicIdPartition>,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    pub sent: Vec<Sent>,
    pub partitions: BTreeMap<TopicIdPartition, PartitionHistory>,
    /// By position: the group that counts there. What a start has cut off is not among them.
    pub groups: BTreeMap<u64, GroupFact>,
    /// A group's write has failed in this life of the broker.
    pub write_failed: bool,
    /// Positions of groups that were damaged, and of what was in lost files.
    pub damaged_groups: BTreeSet<u64>,
    /// Any damage was done at all.
    pub any_damage: bool,
}

impl History {
    pub fn partition(&mut self, tp: TopicIdPartition) -> &mut PartitionHistory {
        self.partitions.entry(tp).or_default()
    }

    /// The batch whose records have this time.
    pub fn sent_at(&self, time_ms: i64) -> Option<usize> {
        self.sent.binary_search_by_key(&time_ms, |sent| sent.time_ms).ok()
    }

    /// The record of a compacted topic that has an offset.
    pub fn keyed(&self, tp: TopicIdPartition, offset: Offset) -> Option<Keyed> {
        let (base, stored) = self.partitions.get(&tp)?.batch_at(offset)?;
        self.sent.get(stored.batch)?.records.get((offset - base) as usize).copied()
    }

    /// A group goes to the disk.
    pub fn submitted(&mut self, bytes: &[u8], slot: u32, file_offset: u64) {
        let Ok((header, items)) = decode_group(bytes) else { return };
        let payload_len = header.payload_len as usize;
        let directory_len = header.directory_len();
        let fact = GroupFact {
            generation: header.generation,
            slot,
            file_offset,
            len: bytes.len(),
            payload_at: chronik_core::wal::format::GROUP_HEADER_LEN + directory_len,
            payload_len,
            directory_len,
            partitions: items.iter().map(|item| item.tp).collect(),
        };
        self.groups.insert(header.position.0, fact);
    }
}
