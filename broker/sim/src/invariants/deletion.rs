//! What is deleted was asked for, may be deleted, and stays so.

use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::log::retention::Stretch;

use super::cleaning::may_be_gone;
use super::{ASKED, DELETED, Violation};
use crate::env::Env;
use crate::stats::Deed;

/// Somebody, or retention, wants everything below `offset` to go.
pub fn deletion_asked(env: &mut Env, tp: TopicIdPartition, offset: Offset) {
    let partition = env.history.partition(tp);
    partition.deletion_asked = partition.deletion_asked.max(offset);
}

/// The broker tells that the log begins here, to whoever asked and to every reader: so it must from now on.
pub fn log_start_seen(env: &mut Env, tp: TopicIdPartition, log_start: Offset) -> Result<(), Violation> {
    env.stats.checked(ASKED);
    env.stats.checked(DELETED);
    let partition = env.history.partition(tp);
    if log_start > partition.deletion_asked {
        let what = format!("{tp} begins at {log_start}, {} was asked for", partition.deletion_asked);
        return Err(Violation::new(ASKED, what));
    }
    if log_start < partition.log_start {
        let what = format!("{tp} begins at {log_start}, after it had begun at {}", partition.log_start);
        return Err(Violation::new(DELETED, what));
    }
    partition.log_start = log_start;
    Ok(())
}

/// Retention wants everything below `to` to go: all of it is too old, or what is left is enough.
pub fn retention_allows(
    env: &mut Env,
    tp: TopicIdPartition,
    to: Offset,
    stretches: &[Stretch],
) -> Result<(), Violation> {
    env.stats.checked(ASKED);
    let now_ms = env.now_ms();
    let history = &env.history;
    let Some(partition) = history.partitions.get(&tp) else { return Ok(()) };
    let Some(topic) = partition.topic else { return Ok(()) };
    let going = partition.alive.range(..to).filter(|(_, stored)| stored.last_offset >= partition.log_start);
    let is_there = |base: Offset, last: Offset| (base..=last).any(|at| !may_be_gone(history, tp, at, now_ms));
    let mut there = going.filter(|(base, stored)| is_there(**base, stored.last_offset));
    let is_old = |batch: usize, age_ms: i64| now_ms - history.sent[batch].time_ms > age_ms;
    let by_time = topic.retention.max_age_ms.is_some_and(|ms| there.all(|(_, s)| is_old(s.batch, ms)));
    let end = stretches.last().map_or(to, |s| s.end_offset);
    let left: u64 = match topic.compact {
        true => stretches.iter().filter(|s| s.end_offset > to).map(|s| s.bytes).sum(),
        false => {
            let batches = partition.alive.range(to..end).map(|(_, stored)| stored.batch);
            batches.map(|batch| history.sent[batch].bytes.len() as u64).sum()
        }
    };
    let by_size = topic.retention.max_bytes.is_some_and(|bytes| left >= bytes);
    if by_time {
        env.stats.deed(Deed::RetentionByTime);
    }
    if by_size {
        env.stats.deed(Deed::RetentionBySize);
    }
    match by_time || by_size {
        true => Ok(()),
        false => {
            let limits = topic.retention;
            let what =
                format!("{tp}: retention deletes before {to} and leaves {left} bytes; it is {limits:?}");
            Err(Violation::new(ASKED, what))
        }
    }
}
