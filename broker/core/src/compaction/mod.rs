//! Compaction: which part of a log is worth cleaning, and what of it stays. Decisions only; the shell reads, compresses
//! and writes.
//!
//! A log has a clean part, in front, and a dirty one. A pass notes the newest offset of every key of the dirty part
//! ([`KeyOffsets`]), as far as memory reaches, and then writes all segments up to there anew without what is no longer
//! needed ([`Pass`]). Offsets never change; those of records that went are gaps. What is not decided yet is never touched.

mod clean;
mod keys;
#[cfg(test)]
mod tests;
mod transactions;

pub use clean::{Cleaned, Pass};
pub use keys::KeyOffsets;
pub use transactions::Transactions;

use crate::ids::Offset;
use crate::record_batch::NO_TIMESTAMP;

/// What a topic asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// `min.cleanable.dirty.ratio`: more than this part of the log must be dirty before it is cleaned.
    pub min_dirty_ratio: f64,
    /// `min.compaction.lag.ms`: younger records are not touched.
    pub min_lag_ms: i64,
    /// `max.compaction.lag.ms`: older dirty records are cleaned whatever the ratio.
    pub max_lag_ms: i64,
    /// `segment.bytes`: small segments are put together up to this size.
    pub segment_bytes: u64,
}

/// A closed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    pub base_offset: Offset,
    pub end_offset: Offset,
    pub bytes: u64,
    /// Of the first batch, ms since 1970.
    pub first_timestamp: i64,
    /// The latest, ms since 1970.
    pub max_timestamp: i64,
}

/// What is worth cleaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Where the dirty part begins.
    pub dirty_from: Offset,
    /// What lies from here on is not touched.
    pub end: Offset,
    /// The dirty part of what would be cleaned: who has the most comes first.
    pub dirty_ratio: f64,
    /// It must be cleaned whatever the ratio.
    pub overdue: bool,
}

/// Whether a log is worth cleaning now. `closed` are its closed segments, oldest first; all below `cleaned_to` was cleaned
/// before; nothing from `limit` on is stable yet.
pub fn plan(
    policy: &Policy,
    closed: &[Closed],
    cleaned_to: Offset,
    limit: Offset,
    now_ms: i64,
) -> Option<Plan> {
    let old_enough = |s: &&Closed| {
        // What was cleaned has its age behind it: a record of the future there holds up nothing that follows.
        let is_old = s.end_offset <= cleaned_to
            || policy.min_lag_ms <= 0
            || s.max_timestamp == NO_TIMESTAMP
            || now_ms.saturating_sub(s.max_timestamp) >= policy.min_lag_ms;
        s.end_offset <= limit && is_old
    };
    let cleanable: Vec<&Closed> = closed.iter().take_while(old_enough).collect();
    let end = cleanable.last()?.end_offset;
    let size = |of: &[&Closed]| of.iter().map(|s| s.bytes).sum::<u64>();
    let dirty: Vec<&Closed> = cleanable.iter().filter(|s| s.end_offset > cleaned_to).copied().collect();
    let dirty_ratio = size(&dirty) as f64 / size(&cleanable).max(1) as f64;
    // Records do not always come in the order of their times.
    let oldest = dirty.iter().map(|s| s.first_timestamp).filter(|time| *time > 0).min();
    let overdue = oldest.is_some_and(|time| now_ms.saturating_sub(time) > policy.max_lag_ms);
    let worth = size(&dirty) > 0 && (overdue || dirty_ratio > policy.min_dirty_ratio);
    worth.then(|| Plan { dirty_from: cleaned_to.max(cleanable[0].base_offset), end, dirty_ratio, overdue })
}

/// Puts segments that lie one behind the other into groups, each of which becomes one segment: at most `segment_bytes`
/// together, but for one that is larger by itself.
pub fn groups(segments: &[Closed], segment_bytes: u64) -> Vec<&[Closed]> {
    let mut groups = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, segment) in segments.iter().enumerate() {
        // A batch's place within its segment counts in 32 bits elsewhere in Kafka's world; keep to it.
        let span = segment.end_offset.saturating_sub(segments[from].base_offset);
        if at > from && (bytes + segment.bytes > segment_bytes || span > i64::from(i32::MAX)) {
            groups.push(&segments[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += segment.bytes;
    }
    if from < segments.len() {
        groups.push(&segments[from..]);
    }
    groups
}
