//! What a log may give up by its age or its size (`retention.ms`, `retention.bytes`).

use super::partition_log::PartitionLog;
use crate::ids::Offset;
use crate::record_batch::NO_TIMESTAMP;

/// How long and how much is kept. `None`: without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Milliseconds.
    pub max_age_ms: Option<i64>,
    /// Bytes of one partition.
    pub max_bytes: Option<u64>,
}

/// A stretch of a log that goes as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The offset behind it.
    pub end_offset: Offset,
    pub bytes: u64,
    /// The latest of its records' times, ms since 1970.
    pub max_timestamp: i64,
    /// When it was written, ms since 1970: its age if its records have no times. `None` where nobody knows.
    pub written_ms: Option<i64>,
    /// Whether it is a segment that nothing is added to any more. Only such a one goes by size, as in Kafka.
    pub is_closed_segment: bool,
}

impl Stretch {
    fn is_older_than(&self, max_age_ms: i64, now_ms: i64) -> bool {
        let time = Some(self.max_timestamp).filter(|time| *time != NO_TIMESTAMP).or(self.written_ms);
        time.is_some_and(|time| now_ms.saturating_sub(time) > max_age_ms)
    }
}

/// What of a log is to be judged: its segments, oldest first, then what is in the write-ahead log alone, up to the high
/// watermark. Segments may reach behind what the log counts as theirs, when a copy of its runs was given up half way.
pub fn stretches(segments: impl IntoIterator<Item = Stretch>, log: &PartitionLog) -> Vec<Stretch> {
    let limit = log.high_watermark();
    let mut stretches: Vec<Stretch> = segments.into_iter().take_while(|s| s.end_offset <= limit).collect();
    let copied = stretches.last().map_or(0, |last| last.end_offset).max(log.segment_end());
    let tail = log.tail();
    let in_wal = tail.from(copied.max(tail.start())).filter(|run| run.base_offset >= copied);
    stretches.extend(in_wal.take_while(|run| run.next_offset() <= limit).map(|run| Stretch {
        end_offset: run.next_offset(),
        bytes: u64::from(run.span.len),
        max_timestamp: run.max_timestamp,
        written_ms: None,
        is_closed_segment: false,
    }));
    stretches
}

/// The offset up to which a log may be deleted, if it has anything to give up. `stretches` are the log from its oldest
/// on, up to the high watermark: what is not committed is not judged.
///
/// A record of the future keeps all that follows it until its time has come, as in Kafka: a clock that jumps deletes
/// nothing too early.
pub fn deletable(retention: &Retention, stretches: &[Stretch], now_ms: i64) -> Option<Offset> {
    let is_expired = |s: &&Stretch| retention.max_age_ms.is_some_and(|age| s.is_older_than(age, now_ms));
    let expired = stretches.iter().take_while(is_expired).count();
    let mut size: u64 = stretches.iter().map(|s| s.bytes).sum();
    let mut surplus = 0;
    for stretch in stretches.iter().take_while(|s| s.is_closed_segment) {
        size -= stretch.bytes;
        if retention.max_bytes.is_none_or(|max| size < max) {
            break;
        }
        surplus += 1;
    }
    stretches.get(expired.max(surplus).checked_sub(1)?).map(|last| last.end_offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::WalPosition;
    use crate::log::{EndedTransactions, LeaderEpochs, ProducerStateMap, Recovered, Run, WalSpan};

    /// Three closed segments of 100 bytes each, an open one, and what is only in the write-ahead log.
    fn log_of_five() -> Vec<Stretch> {
        let segment = |n: i64, is_closed_segment| Stretch {
            end_offset: n * 10,
            bytes: 100,
            max_timestamp: n * 1000,
            written_ms: None,
            is_closed_segment,
        };
        (1..=5).map(|n| segment(n, n <= 3)).collect()
    }

    /// What a failed copy had put into segments was counted twice, and too much was deleted.
    #[test]
    fn what_is_in_segments_is_not_counted_as_in_the_log_too() {
        let runs = (0..5).map(|n| Run {
            base_offset: n * 10,
            last_offset: n * 10 + 9,
            span: WalSpan { position: WalPosition(4096), len: 100 },
            max_timestamp: (n + 1) * 1000,
            bytes: None,
        });
        let log = PartitionLog::new(Recovered {
            log_start: 0,
            segment_end: 10,
            high_watermark: 50,
            log_end: 50,
            leader_epochs: LeaderEpochs::default(),
            producers: ProducerStateMap::new(50, 1),
            transactions: EndedTransactions::default(),
            runs: runs.collect(),
        });
        let in_segments = log_of_five().into_iter().take(4);
        let judged = stretches(in_segments, &log.unwrap());
        assert_eq!(judged.iter().map(|s| s.end_offset).collect::<Vec<_>>(), [10, 20, 30, 40, 50]);
        assert_eq!(judged.iter().filter(|s| s.is_closed_segment).count(), 3);
    }

    fn by_age(max_age_ms: i64) -> Retention {
        Retention { max_age_ms: Some(max_age_ms), max_bytes: None }
    }

    fn by_size(max_bytes: u64) -> Retention {
        Retention { max_age_ms: None, max_bytes: Some(max_bytes) }
    }

    #[test]
    fn without_limits_nothing_goes() {
        assert_eq!(deletable(&Retention::default(), &log_of_five(), i64::MAX), None);
        assert_eq!(deletable(&by_age(0), &[], i64::MAX), None);
    }

    #[test]
    fn what_is_older_goes_from_the_front() {
        assert_eq!(deletable(&by_age(1000), &log_of_five(), 2000), None, "not older, just as old");
        assert_eq!(deletable(&by_age(1000), &log_of_five(), 2001), Some(10));
        assert_eq!(deletable(&by_age(1000), &log_of_five(), 4500), Some(30));
        assert_eq!(deletable(&by_age(1000), &log_of_five(), 9000), Some(50), "the newest too");
    }

    #[test]
    fn a_record_of_the_future_keeps_what_follows() {
        let mut log = log_of_five();
        log[1].max_timestamp = i64::MAX;
        assert_eq!(deletable(&by_age(1), &log, 1_000_000), Some(10));
    }

    #[test]
    fn records_without_a_time_are_as_old_as_their_file() {
        let mut log = log_of_five();
        log[0].max_timestamp = NO_TIMESTAMP;
        assert_eq!(deletable(&by_age(1000), &log, 9000), None);
        log[0].written_ms = Some(500);
        assert_eq!(deletable(&by_age(1000), &log, 1501), Some(10));
    }

    #[test]
    fn size_takes_closed_segments_while_enough_is_left() {
        assert_eq!(deletable(&by_size(500), &log_of_five(), 0), None);
        assert_eq!(deletable(&by_size(401), &log_of_five(), 0), None, "400 would be left");
        assert_eq!(deletable(&by_size(400), &log_of_five(), 0), Some(10));
        assert_eq!(deletable(&by_size(250), &log_of_five(), 0), Some(20));
        assert_eq!(deletable(&by_size(0), &log_of_five(), 0), Some(30), "never the open one");
        let both = Retention { max_age_ms: Some(1000), max_bytes: Some(400) };
        assert_eq!(deletable(&both, &log_of_five(), 3500), Some(20), "whichever takes more");
    }
}
