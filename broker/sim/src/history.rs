//! What really happened, as an observer beside the broker knows it: what was sent, stored, answered, read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chronik_core::ids::{Offset, ProducerEpoch, ProducerId, TopicIdPartition};
use chronik_core::log::EndMarker;
use chronik_core::txn::{Producer, TransactionVersion};
use chronik_core::wal::format::decode_group;
use kafka_protocol::protocol::StrBytes;

use crate::invariants::Beliefs;
use crate::roster::{Fact, Roster};
use crate::topics::{Kind, Topic};

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
    pub meaning: Meaning,
}

/// What a batch is to coordinators and to readers of what is decided.
#[derive(Clone, Debug, Default)]
pub struct Meaning {
    /// The transaction that it belongs to, a place in [`History::transactions`], and who wrote it.
    pub transaction: Option<(usize, Producer)>,
    /// It ends one.
    pub marker: Option<EndMarker>,
    /// It commits these offsets of groups.
    pub commits: Vec<Commit>,
    /// It tells these things of members of the consumer protocol.
    pub members: Vec<Fact>,
}

/// Of a group and of a partition that it reads, how far it has come. No two commits have the same offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub group: StrBytes,
    pub partition: i32,
    pub offset: Offset,
}

/// A producer's transaction, as its client knows it.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub transactional_id: StrBytes,
    /// The partition of its coordinator.
    pub coordinator: TopicIdPartition,
    pub producer: Producer,
    pub version: TransactionVersion,
    /// The batches that the client was told are stored.
    pub batches: Vec<usize>,
    /// The client has asked for it to be committed, or aborted.
    pub asked: Option<bool>,
    /// That was confirmed.
    pub told: Option<bool>,
    /// What the first of its markers has made of it.
    pub outcome: Option<bool>,
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
    /// The greatest last stable offset that a reader has seen.
    pub stable: Offset,
    /// Members of the consumer protocol, as the log has them.
    pub members: Roster,
    /// The offset behind the last that a member was told of.
    pub members_told: Offset,
}

impl PartitionHistory {
    pub fn is_compacted(&self) -> bool {
        self.topic.is_some_and(|topic| topic.compact)
    }

    /// It is, and what its keys are is known here. What coordinators need of their logs shows when these are loaded.
    pub fn has_keys(&self) -> bool {
        self.topic.is_some_and(|topic| topic.compact && topic.kind == Kind::Clients)
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
    pub transactions: Vec<Transaction>,
    /// Of each producer the epoch that somebody was told to be the first: whoever has an earlier one is a zombie.
    pub fenced: BTreeMap<ProducerId, ProducerEpoch>,
    /// Of group, generation and partition: the member that was told to own it.
    pub owners: BTreeMap<(StrBytes, i32, u8), StrBytes>,
    /// Decisions about transactional ids that are being carried out: of which epoch, in which life of the broker, and since
    /// when somebody knows.
    pub decisions: BTreeMap<StrBytes, (ProducerEpoch, u64, u64)>,
    /// Groups that commit offsets, with the partition of their coordinator.
    pub consumer_groups: Vec<(StrBytes, TopicIdPartition)>,
    /// Those of them whose members use the consumer protocol.
    pub of_consumer_protocol: BTreeSet<StrBytes>,
    pub beliefs: Beliefs,
    /// So many offsets were made up.
    pub commits: Offset,
    /// So many producer ids were given out, as the metadata's log would.
    producers: i64,
}

impl History {
    pub fn partition(&mut self, tp: TopicIdPartition) -> &mut PartitionHistory {
        self.partitions.entry(tp).or_default()
    }

    /// A producer id that nobody has.
    pub fn fresh_producer(&mut self) -> ProducerId {
        self.producers += 1;
        // Idempotent producers count from below.
        ProducerId((1 << 40) + self.producers)
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

    /// The batches of transactions in a partition, by base offset, and how the first marker below `end` has decided each.
    pub fn outcomes(&self, tp: TopicIdPartition, end: Offset) -> BTreeMap<Offset, Option<bool>> {
        let mut undecided: BTreeMap<ProducerId, Vec<Offset>> = BTreeMap::new();
        let mut outcomes = BTreeMap::new();
        let Some(partition) = self.partitions.get(&tp) else { return outcomes };
        for (base, stored) in &partition.alive {
            let meaning = &self.sent[stored.batch].meaning;
            if let Some((_, producer)) = meaning.transaction {
                outcomes.insert(*base, None);
                undecided.entry(producer.id).or_default().push(*base);
            }
            if let Some(marker) = meaning.marker.filter(|_| *base < end) {
                for decided in undecided.remove(&marker.producer_id).unwrap_or_default() {
                    outcomes.insert(decided, Some(marker.commit));
                }
            }
        }
        outcomes
    }

    /// What groups of a coordinator's partition have committed: the last commit in the order of the log, where one of a
    /// transaction counts once that is committed, and at its own place.
    pub fn committed(&self, tp: TopicIdPartition) -> BTreeMap<(StrBytes, i32), Offset> {
        let mut last = BTreeMap::new();
        let Some(partition) = self.partitions.get(&tp) else { return last };
        let outcomes = self.outcomes(tp, Offset::MAX);
        for (base, stored) in &partition.alive {
            if !matches!(outcomes.get(base), None | Some(Some(true))) {
                continue;
            }
            for Commit { group, partition, offset } in &self.sent[stored.batch].meaning.commits {
                last.insert((group.clone(), *partition), *offset);
            }
        }
        last
    }

    /// What is told of members of the consumer protocol, in the order of the log.
    pub fn facts(&self, tp: TopicIdPartition) -> impl Iterator<Item = &Fact> {
        let alive = self.partitions.get(&tp).into_iter().flat_map(|partition| partition.alive.values());
        alive.flat_map(|stored| &self.sent[stored.batch].meaning.members)
    }
}
