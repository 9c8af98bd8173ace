//! What compaction may take, and what it must leave as it was.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::record_batch::{BatchHeader, Batches, Crc, RecordIter};

use super::{HORIZON, NEWEST, SAME, Violation};
use crate::env::Env;
use crate::history::History;
use crate::stats::Deed;
use crate::topics::Topic;

/// A cleaned file takes the place of others.
pub struct Swap<'a> {
    pub tp: TopicIdPartition,
    pub topic: &'a Topic,
    /// What the old files hold.
    pub before: &'a [Bytes],
    pub after: &'a [u8],
    /// The cleaner has not read beyond.
    pub end: Offset,
    /// When the pass began, by the records' time.
    pub began_ms: i64,
}

/// Whether compaction may have taken the record at `offset`: a newer one of its key has been read by a cleaner, or it is a
/// tombstone whose time is over.
pub(super) fn may_be_gone(history: &History, tp: TopicIdPartition, offset: Offset, now_ms: i64) -> bool {
    let Some(partition) = history.partitions.get(&tp) else { return false };
    let (Some(topic), Some(record)) = (partition.topic, history.keyed(tp, offset)) else { return false };
    if !topic.compact || offset >= partition.judged {
        return false;
    }
    let newer = partition.by_key.get(&record.key);
    let is_over = |since: &i64| now_ms - since >= topic.delete_retention_ms;
    newer.is_some_and(|offsets| offsets.range(offset + 1..partition.judged).next().is_some())
        || record.is_tombstone && partition.tombstones.get(&offset).is_some_and(is_over)
}

/// What a record says, whatever its time is counted from.
#[derive(PartialEq, Eq)]
struct Content<'a> {
    time_ms: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

/// The records of whole batches by their offsets.
fn contents(bytes: &[u8]) -> impl Iterator<Item = (Offset, Content<'_>)> {
    let batches = Batches::new(bytes, Crc::Skip).flatten();
    let records = batches.flat_map(|(_, range)| RecordIter::new(&bytes[range]).into_iter().flatten());
    records.flatten().map(|record| {
        let content = Content { time_ms: record.timestamp, key: record.key, value: record.value };
        (record.offset, content)
    })
}

/// The cleaner has put a file in the place of others: what is no longer there may go, what is there is what it was.
pub fn swapped(env: &mut Env, swap: &Swap<'_>) -> Result<(), Violation> {
    let Swap { tp, end, began_ms, .. } = *swap;
    let has_keys = env.history.partition(tp).has_keys();
    if has_keys {
        env.stats.checked(NEWEST);
    }
    env.stats.checked(SAME);
    let before: BTreeMap<_, _> = swap.before.iter().flat_map(|bytes| contents(bytes)).collect();
    let after: BTreeMap<_, _> = contents(swap.after).collect();
    let partition = env.history.partition(tp);
    partition.judged = partition.judged.max(end);
    if let Some((at, _)) = after.iter().find(|(at, content)| before.get(at) != Some(content)) {
        return Err(Violation::new(SAME, format!("{tp}: the record at {at} is another one")));
    }
    for header in Batches::new(swap.after, Crc::Skip).flatten().map(|(header, _)| header) {
        if header.record_count == 0 {
            env.stats.deed(Deed::EmptyBatchKept);
        }
    }
    for (at, content) in before.into_iter().filter(|_| has_keys) {
        let is_tombstone = content.value.is_none();
        let stays = after.contains_key(&at);
        if stays && is_tombstone {
            env.stats.deed(Deed::TombstoneKept);
            env.history.partition(tp).tombstones.entry(at).or_insert(began_ms);
        }
        if stays {
            continue;
        }
        if may_be_gone(&env.history, tp, at, began_ms) {
            let removed = is_tombstone && !has_newer(&env.history, tp, at);
            env.stats.deed(if removed { Deed::TombstoneRemoved } else { Deed::RecordSuperseded });
            continue;
        }
        let invariant = if is_tombstone { HORIZON } else { NEWEST };
        let since = env.history.partition(tp).tombstones.get(&at);
        let what = format!(
            "{tp}: the record at {at} is gone at {began_ms} ms, {since:?} seen, {} ms to be kept",
            swap.topic.delete_retention_ms
        );
        return Err(Violation::new(invariant, what));
    }
    Ok(())
}

fn has_newer(history: &History, tp: TopicIdPartition, offset: Offset) -> bool {
    let Some(record) = history.keyed(tp, offset) else { return false };
    let offsets = history.partitions.get(&tp).and_then(|p| p.by_key.get(&record.key));
    offsets.is_some_and(|offsets| offsets.range(offset + 1..).next().is_some())
}

/// Whether a stored batch of a compacted topic is what is left of the one that was sent.
pub(super) fn is_left_of(sent: &[u8], stored: &[u8]) -> bool {
    let (Ok(was), Ok(is)) = (BatchHeader::parse(sent), BatchHeader::parse(stored)) else { return false };
    let producer = |h: &BatchHeader| (h.producer_id, h.producer_epoch, h.base_sequence, h.last_offset_delta);
    if producer(&was) != producer(&is) {
        return false;
    }
    let original: BTreeMap<_, _> = contents(sent).collect();
    let left: BTreeMap<_, _> = contents(stored).collect();
    left.len() == is.record_count as usize
        && left.iter().all(|(at, content)| original.get(&(at - is.base_offset)) == Some(content))
}
