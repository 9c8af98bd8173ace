//! The scrub: which closed segments are read and verified next, and how fast. Decisions only; the shell reads.
//!
//! Every byte is to be verified once per interval. What was verified longest ago comes first, and is due once half of the
//! interval has passed: so much room there is to read evenly. The pace is the slowest that keeps all deadlines, however
//! they lie; it is never more than what the broker allows.

/// What the broker asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `chronik.scrub.interval.ms`: how old a verification may become. Without a positive one nothing is verified.
    pub interval_ms: i64,
    /// `chronik.scrub.bytes.per.second`.
    pub bytes_per_second_max: u64,
}

/// A closed segment, as far as the scrub is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<K> {
    pub key: K,
    pub bytes: u64,
    /// When it was last verified, or else written, ms since 1970; -1 where nobody knows.
    pub verified_ms: i64,
    /// Somebody met damage in it: it comes before all others.
    pub suspect: bool,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<K> {
    /// What is due, in order.
    pub due: Vec<K>,
    pub bytes_per_second: u64,
    /// How long to rest, in milliseconds, when all of that is done. Everything is looked over afterwards, which must not
    /// happen for each segment that becomes due.
    pub rest_ms: u64,
    /// Everything was verified or written since then, ms since 1970: the last full pass. -1 where something was not.
    pub complete_since_ms: i64,
    /// The allowed pace is too slow for the interval: one pass takes so many milliseconds.
    pub pass_takes_ms: Option<i64>,
}

/// Slower than this it never reads, unless it must: a small log is done at once, and then there is rest.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// More is not planned at once; what is left over is due still.
const DUE_MAX: usize = 10_000;
/// A suspect waits so long while there is nothing else to do.
const REST_MS_MAX: u64 = 10_000;
const REST_MS_MIN: u64 = 100;

impl Policy {
    pub fn is_off(&self) -> bool {
        self.interval_ms <= 0
    }
}

/// What of `segments` to verify, in which order and how fast. Takes the time of sorting them.
pub fn plan<K: Ord>(policy: &Policy, mut segments: Vec<Seen<K>>, now_ms: i64) -> Plan<K> {
    let interval = policy.interval_ms.max(1);
    let rate_max = policy.bytes_per_second_max.max(1);
    for segment in &mut segments {
        // A clock that was set back must not put anything off.
        segment.verified_ms = segment.verified_ms.min(now_ms);
    }
    segments.sort_unstable_by(|a, b| {
        (!a.suspect, a.verified_ms, &a.key).cmp(&(!b.suspect, b.verified_ms, &b.key))
    });

    let settled = || segments.iter().filter(|s| !s.suspect);
    let complete_since_ms = settled().map(|s| s.verified_ms).next().unwrap_or(now_ms);
    // An eighth is kept in hand.
    let deadline = |s: &Seen<K>| s.verified_ms.saturating_add(interval - interval / 8);
    let mut until = 0_u64;
    let needed = segments.iter().map(|segment| {
        until = until.saturating_add(segment.bytes);
        match deadline(segment).saturating_sub(now_ms) {
            left if left <= 0 || segment.suspect => rate_max,
            left => per_second(until, left),
        }
    });
    let bytes_per_second = needed.max().unwrap_or(0).max(BYTES_PER_SECOND_MIN).min(rate_max);

    let pass_ms = i64::try_from(u128::from(until) * 1000 / u128::from(rate_max)).unwrap_or(i64::MAX);
    let is_due = |s: &Seen<K>| s.suspect || s.verified_ms.saturating_add(interval / 2) <= now_ms;
    let rest_ms = (interval / 8).unsigned_abs().clamp(REST_MS_MIN, REST_MS_MAX);
    let due = segments.into_iter().take_while(is_due).take(DUE_MAX).map(|s| s.key).collect();
    let pass_takes_ms = (pass_ms > interval).then_some(pass_ms);
    Plan { due, bytes_per_second, rest_ms, complete_since_ms, pass_takes_ms }
}

fn per_second(bytes: u64, within_ms: i64) -> u64 {
    let within = u128::from(within_ms.max(1).unsigned_abs());
    u64::try_from((u128::from(bytes) * 1000).div_ceil(within)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const HOUR: i64 = 3_600_000;
    const NOW: i64 = 1000 * HOUR;
    const POLICY: Policy = Policy { interval_ms: 100 * HOUR, bytes_per_second_max: 16 * MIB };

    fn seen(key: u32, bytes: u64, hours_ago: i64) -> Seen<u32> {
        Seen { key, bytes, verified_ms: NOW - hours_ago * HOUR, suspect: false }
    }

    #[test]
    fn what_was_verified_longest_ago_comes_first_and_young_ones_rest() {
        let log =
            vec![seen(1, MIB, 60), seen(2, MIB, 49), seen(3, MIB, 80), seen(4, MIB, 50), seen(5, MIB, 80)];
        let plan = plan(&POLICY, log, NOW);
        assert_eq!(plan.due, [3, 5, 1, 4], "half of the interval is 50 hours");
        assert_eq!(plan.complete_since_ms, NOW - 80 * HOUR);
        assert_eq!((plan.bytes_per_second, plan.pass_takes_ms), (MIB, None), "not slower");
    }

    #[test]
    fn where_nothing_is_due_it_rests() {
        let rests = plan(&POLICY, vec![seen(1, MIB, 30), seen(2, MIB, 49)], NOW);
        assert_eq!((rests.due, rests.rest_ms), (vec![], 10_000));
        let empty = plan::<u32>(&POLICY, Vec::new(), NOW);
        assert_eq!((empty.due, empty.complete_since_ms), (vec![], NOW), "nothing is left out");
        let often = |interval_ms| plan::<u32>(&Policy { interval_ms, ..POLICY }, Vec::new(), NOW).rest_ms;
        assert_eq!([often(8000), often(8), often(i64::MAX)], [1000, 100, 10_000]);
    }

    #[test]
    fn the_unknown_and_the_suspect_come_before_all_others() {
        let unknown = Seen { verified_ms: -1, ..seen(1, MIB, 0) };
        let suspect = Seen { suspect: true, ..seen(2, MIB, 1) };
        let found = plan(&POLICY, vec![seen(3, MIB, 99), unknown, suspect], NOW);
        assert_eq!(found.due, [2, 1, 3]);
        assert_eq!(
            (found.bytes_per_second, found.complete_since_ms),
            (16 * MIB, -1),
            "overdue: all that is allowed"
        );
        let found = plan(&POLICY, vec![seen(3, MIB, 40), suspect], NOW);
        assert_eq!((found.due, found.complete_since_ms), (vec![2], NOW - 40 * HOUR));
    }

    #[test]
    fn the_pace_is_the_slowest_that_keeps_every_deadline() {
        let hour_s = 3600;
        // Deadlines are 87.5 hours after the last time. Evenly spread, so much an hour is needed.
        let even: Vec<_> = (0..80).map(|n| seen(n, 20 * hour_s * MIB / 10, 87 - i64::from(n))).collect();
        let pace = plan(&POLICY, even, NOW).bytes_per_second;
        assert!((2 * MIB..5 * MIB).contains(&pace), "{pace}: the oldest has half an hour left");
        // All at once, the day before yesterday: in what is left of the time.
        let bunched: Vec<_> = (0..10).map(|n| seen(n, 8 * hour_s * MIB, 47)).collect();
        let exact = (80 * hour_s * MIB * 1000).div_ceil((40 * HOUR + HOUR / 2) as u64);
        assert_eq!(plan(&POLICY, bunched, NOW).bytes_per_second, exact);
        // A large one behind a small one that is urgent counts, too.
        let log = vec![seen(1, MIB, 87), seen(2, 87 * hour_s * MIB * 10, 0)];
        assert_eq!(plan(&POLICY, log, NOW).bytes_per_second / MIB, 9);
        // Never more than what is allowed.
        assert_eq!(plan(&POLICY, vec![seen(1, u64::MAX, 87)], NOW).bytes_per_second, 16 * MIB);
        let slow = Policy { bytes_per_second_max: 1000, ..POLICY };
        assert_eq!(plan(&slow, vec![seen(1, MIB, 60)], NOW).bytes_per_second, 1000);
    }

    #[test]
    fn a_pace_that_cannot_keep_the_interval_is_told() {
        let week = 100 * 3600 * 16 * MIB;
        assert_eq!(plan(&POLICY, vec![seen(1, week, 0)], NOW).pass_takes_ms, None);
        assert_eq!(plan(&POLICY, vec![seen(1, 2 * week, 0)], NOW).pass_takes_ms, Some(200 * HOUR));
    }

    #[test]
    fn a_clock_that_was_set_back_puts_nothing_off() {
        let clocks = |now| plan(&POLICY, vec![seen(1, MIB, -500)], now);
        assert_eq!((clocks(NOW).due, clocks(NOW).complete_since_ms), (vec![], NOW));
        assert_eq!(clocks(NOW + 550 * HOUR).due, [1]);
    }

    #[test]
    fn it_is_off_without_an_interval() {
        assert!([0, -1].iter().all(|interval_ms| Policy { interval_ms: *interval_ms, ..POLICY }.is_off()));
        assert!(!POLICY.is_off());
    }

    /// Carried out hour by hour, everything is verified in time, and the disk is read evenly.
    #[test]
    fn over_months_every_deadline_is_kept() {
        let mut log: Vec<_> = (0..200).map(|n| seen(n, 4 << 30, i64::from(n % 7))).collect();
        let (mut now, mut carried) = (NOW, 0_u64);
        for _ in 0..3000 {
            let plan = plan(&POLICY, log.clone(), now);
            carried += if plan.due.is_empty() { 0 } else { plan.bytes_per_second * 3600 };
            for key in plan.due {
                let segment = log.iter_mut().find(|s| s.key == key).unwrap();
                if carried < segment.bytes {
                    break;
                }
                carried -= segment.bytes;
                segment.verified_ms = now;
            }
            let oldest = log.iter().map(|s| now - s.verified_ms).max().unwrap();
            assert!(oldest <= POLICY.interval_ms, "{} hours", oldest / HOUR);
            now += HOUR;
        }
    }
}
