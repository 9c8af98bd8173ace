//! The checkpoint: below its position, nothing in the write-ahead log is needed any more.
//!
//! Its order of events is invariant 11: segments are synced, then the checkpoint that describes them is
//! written and synced, and only then are WAL files recycled. A checkpoint never speaks of bytes that might be
//! lost: what a segment file holds beyond `bytes` is cut off at start and comes again from the log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::compaction::Closed;
use crate::ids::{LeaderEpoch, Offset, ProducerId, TopicId, TopicIdPartition, WalPosition};
use crate::log::retention::Stretch;
use crate::log::{AbortedTransaction, LeaderEpochs, ProducerStateMap, SnapshotError};

/// 1 knew neither revisions of segments nor compaction, 2 no transactions.
const VERSION: u32 = 3;

/// A synced stretch of a segment file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentState {
    pub base_offset: Offset,
    /// The file's synced length: whole batches.
    pub bytes: u64,
    /// The offset behind its last batch.
    pub end_offset: Offset,
    /// The latest timestamp in it, ms since 1970; -1 for none.
    pub max_timestamp: i64,
    /// The latest timestamp of its first batch, ms since 1970; -1 for none or unknown.
    #[serde(default = "unknown")]
    pub first_timestamp: i64,
    /// When it was begun, ms since 1970; -1 where nobody knows.
    #[serde(default = "unknown")]
    pub begun_ms: i64,
    /// When it was last written to, ms since 1970; -1 where nobody knows.
    #[serde(default = "unknown")]
    pub written_ms: i64,
    /// When all of it was last read and found whole, ms since 1970; -1 for never, 0 where damage was met since.
    #[serde(default = "unknown", skip_serializing_if = "is_unknown")]
    pub verified_ms: i64,
    /// How often it was written anew by the cleaner: a part of the file's name.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u32,
}

impl SegmentState {
    /// A segment that holds nothing yet.
    pub fn begun(base_offset: Offset) -> SegmentState {
        SegmentState {
            base_offset,
            bytes: 0,
            end_offset: base_offset,
            max_timestamp: unknown(),
            first_timestamp: unknown(),
            begun_ms: unknown(),
            written_ms: unknown(),
            verified_ms: unknown(),
            revision: 0,
        }
    }

    /// What compaction judges it by.
    pub fn facts(&self) -> Closed {
        Closed {
            base_offset: self.base_offset,
            end_offset: self.end_offset,
            bytes: self.bytes,
            first_timestamp: self.first_timestamp,
            max_timestamp: self.max_timestamp,
        }
    }

    /// What retention judges it by.
    pub fn stretch(&self, is_closed_segment: bool) -> Stretch {
        Stretch {
            end_offset: self.end_offset,
            bytes: self.bytes,
            max_timestamp: self.max_timestamp,
            written_ms: Some(self.written_ms).filter(|ms| *ms >= 0),
            is_closed_segment,
        }
    }
}

fn unknown() -> i64 {
    -1
}

fn is_unknown(ms: &i64) -> bool {
    *ms == unknown()
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A partition as of the checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    pub log_start: Offset,
    /// Everything below is in the segments.
    pub segment_end: Offset,
    /// Oldest first.
    pub segments: Vec<SegmentState>,
    pub leader_epochs: LeaderEpochs,
    /// The producers' state at `segment_end`, encoded; empty for none.
    pub producers: Vec<u8>,
    /// The aborted transactions that ended below the end of the producers' state, by their markers.
    pub aborted: Vec<AbortedTransaction>,
    /// All below was compacted.
    pub cleaned_to: Offset,
    /// Why the partition must not be served: records are known to be lost.
    pub fenced: Option<String>,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    pub position: WalPosition,
    pub partitions: BTreeMap<TopicIdPartition, PartitionState>,
}

/// Why a checkpoint file cannot be read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    #[error("the checkpoint's checksum does not match: it is damaged")]
    Crc,
    #[error("the checkpoint has no checksum line")]
    NoCrc,
    #[error("the checkpoint is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the checkpoint has format {0}, newer than this program")]
    Newer(u32),
    #[error("the producers' state of {0}: {1}")]
    Producers(TopicIdPartition, SnapshotError),
    #[error("the producers' state of {0} is not hexadecimal")]
    Hex(TopicIdPartition),
}

/// The file's form: a line with the checksum, then JSON, so that a person can read it.
#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    position: u64,
    partitions: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    topic_id: TopicId,
    partition: i32,
    log_start: Offset,
    segment_end: Offset,
    segments: Vec<SegmentState>,
    leader_epochs: Vec<(i32, Offset)>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    producers: String,
    /// Producer, first and last offset, last stable offset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aborted: Vec<(ProducerId, Offset, Offset, Offset)>,
    #[serde(default)]
    cleaned_to: Offset,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fenced: Option<String>,
}

impl Checkpoint {
    /// The position a checkpoint may name: the oldest entry that is in no synced segment, or all that has been
    /// delivered. `delivered` must have been read before the partitions were asked.
    pub fn position_for(
        delivered: WalPosition,
        oldest_needed: impl IntoIterator<Item = WalPosition>,
    ) -> WalPosition {
        oldest_needed.into_iter().fold(delivered, WalPosition::min)
    }

    pub fn encode(&self) -> Vec<u8> {
        let row = |(id, p): (&TopicIdPartition, &PartitionState)| Row {
            topic_id: id.topic_id,
            partition: id.partition,
            log_start: p.log_start,
            segment_end: p.segment_end,
            segments: p.segments.clone(),
            leader_epochs: p.leader_epochs.entries().iter().map(|e| (e.epoch.0, e.start_offset)).collect(),
            producers: to_hex(&p.producers),
            aborted: p
                .aborted
                .iter()
                .map(|t| (t.producer_id, t.first_offset, t.last_offset, t.last_stable_offset))
                .collect(),
            cleaned_to: p.cleaned_to,
            fenced: p.fenced.clone(),
        };
        let file = File {
            version: VERSION,
            position: self.position.0,
            partitions: self.partitions.iter().map(row).collect(),
        };
        // Serialising plain data into memory has nothing that can fail.
        let json = serde_json::to_vec(&file).unwrap_or_default();
        let mut out = format!("crc32c={:08x}\n", crc32c::crc32c(&json)).into_bytes();
        out.extend(json);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
        let split = bytes.iter().position(|b| *b == b'\n').ok_or(CheckpointError::NoCrc)?;
        let (line, json) = (&bytes[..split], &bytes[split + 1..]);
        let crc = line.strip_prefix(b"crc32c=").and_then(|hex| std::str::from_utf8(hex).ok());
        let crc = crc.and_then(|hex| u32::from_str_radix(hex, 16).ok()).ok_or(CheckpointError::NoCrc)?;
        if crc32c::crc32c(json) != crc {
            return Err(CheckpointError::Crc);
        }
        let file: File = serde_json::from_slice(json)?;
        if file.version > VERSION {
            return Err(CheckpointError::Newer(file.version));
        }
        let mut partitions = BTreeMap::new();
        for row in file.partitions {
            let id = TopicIdPartition { topic_id: row.topic_id, partition: row.partition };
            let mut leader_epochs = LeaderEpochs::default();
            for (epoch, start) in row.leader_epochs {
                leader_epochs.assign(LeaderEpoch(epoch), start);
            }
            let state = PartitionState {
                log_start: row.log_start,
                segment_end: row.segment_end,
                segments: row.segments,
                leader_epochs,
                producers: from_hex(&row.producers).ok_or(CheckpointError::Hex(id))?,
                aborted: row.aborted.into_iter().map(aborted).collect(),
                cleaned_to: row.cleaned_to,
                fenced: row.fenced,
            };
            partitions.insert(id, state);
        }
        Ok(Checkpoint { position: WalPosition(file.position), partitions })
    }
}

impl PartitionState {
    /// The producers' state at `segment_end`.
    pub fn producers(&self, max_producers: usize) -> Result<ProducerStateMap, SnapshotError> {
        if self.producers.is_empty() {
            return Ok(ProducerStateMap::new(self.segment_end, max_producers));
        }
        ProducerStateMap::decode(&self.producers, max_producers)
    }
}

fn aborted(row: (ProducerId, Offset, Offset, Offset)) -> AbortedTransaction {
    let (producer_id, first_offset, last_offset, last_stable_offset) = row;
    AbortedTransaction { producer_id, first_offset, last_offset, last_stable_offset }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|p| p[0] << 4 | p[1]).collect())
}
