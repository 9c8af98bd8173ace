//! What really happened, as an observer beside the broker knows it: what was sent, stored, answered, read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::wal::format::decode_group;

/// A batch as its producer sent it. Its number is its place in [`History::sent`] and the timestamp of its
/// records, so that a batch found anywhere says which it is.
#[derive(Clone, Debug)]
pub struct Sent {
    pub tp: TopicIdPartition,
    pub bytes: Bytes,
    pub idempotent: bool,
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
    /// By base offset: what was found at the last start, and what has been assigned since. Nothing else may
    /// ever be found in the log.
    pub alive: BTreeMap<Offset, Stored>,
    /// By base offset: what producers were told is stored.
    pub acknowledged: BTreeMap<Offset, usize>,
    /// By base offset: what consumers have read.
    pub read: BTreeMap<Offset, usize>,
    /// It was once found to have lost records.
    pub fenced: bool,
    /// Damage was done to WAL groups that hold its records.
    pub damaged: bool,
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
