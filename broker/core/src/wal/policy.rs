//! The four group commit policies behind one small trait.
//!
//! A policy maps a waiting entry to the time before which it need not be written. The earliest due entry of
//! any profile flushes the whole log, so a patient profile never holds back an eager one, and rides along.

use super::profile::{PolicyKind, WalProfile};

/// What a policy may look at besides the entry's age.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Records and bytes of this profile that wait for a group.
    pub waiting_records: u64,
    pub waiting_bytes: u64,
    /// The device's recent time for one group, in microseconds; 0 when nothing has been measured yet.
    pub flush_us: u64,
}

/// When an entry that arrived at `arrived_us` becomes due, in microseconds of the same clock.
pub trait GroupPolicy: Send {
    fn not_before(&self, arrived_us: u64, load: &Load) -> u64;
}

struct Pipelined;

impl GroupPolicy for Pipelined {
    fn not_before(&self, arrived_us: u64, _: &Load) -> u64 {
        arrived_us
    }
}

/// Gathers for up to half a flush, less the more wait already: with 16 or more waiting, not at all.
struct Adaptive {
    max_delay_us: u64,
}

impl GroupPolicy for Adaptive {
    fn not_before(&self, arrived_us: u64, load: &Load) -> u64 {
        let patience = (load.flush_us / 2).min(self.max_delay_us);
        let left = 16u64.saturating_sub(load.waiting_records);
        arrived_us + patience * left / 16
    }
}

struct AdaptiveThresholds {
    max_delay_us: u64,
}

impl GroupPolicy for AdaptiveThresholds {
    fn not_before(&self, arrived_us: u64, load: &Load) -> u64 {
        let delay_us = match load.waiting_records {
            101.. => 10_000,
            11..=100 => 50_000,
            _ => 100_000,
        };
        arrived_us + delay_us.min(self.max_delay_us)
    }
}

struct Hybrid {
    max_delay_us: u64,
    max_records: u64,
    max_bytes: u64,
}

impl GroupPolicy for Hybrid {
    fn not_before(&self, arrived_us: u64, load: &Load) -> u64 {
        let full = load.waiting_records >= self.max_records || load.waiting_bytes >= self.max_bytes;
        if full { arrived_us } else { arrived_us + self.max_delay_us }
    }
}

struct Fixed {
    interval_us: u64,
}

impl GroupPolicy for Fixed {
    fn not_before(&self, arrived_us: u64, _: &Load) -> u64 {
        (arrived_us / self.interval_us + 1) * self.interval_us
    }
}

/// The policy a profile names, with the profile's limits.
pub fn policy_of(profile: &WalProfile) -> Box<dyn GroupPolicy> {
    let max_delay_us = profile.max_delay_us.max(1);
    match profile.policy {
        PolicyKind::Pipelined => Box::new(Pipelined),
        PolicyKind::Adaptive => Box::new(Adaptive { max_delay_us }),
        PolicyKind::AdaptiveThresholds => Box::new(AdaptiveThresholds { max_delay_us }),
        PolicyKind::Hybrid => Box::new(Hybrid {
            max_delay_us,
            max_records: profile.max_group_records,
            max_bytes: profile.max_group_bytes,
        }),
        PolicyKind::Fixed => Box::new(Fixed { interval_us: max_delay_us }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::profile::built_in;

    fn due(kind: PolicyKind, arrived_us: u64, load: Load) -> u64 {
        let profile = WalProfile { policy: kind, max_delay_us: 100_000, ..built_in()["high"].0.clone() };
        policy_of(&profile).not_before(arrived_us, &load)
    }

    #[test]
    fn each_policy_waits_as_it_says() {
        let load = |n| Load { waiting_records: n, waiting_bytes: 256 * n, flush_us: 200 };
        assert_eq!(due(PolicyKind::Pipelined, 5, load(1)), 5);
        assert_eq!(due(PolicyKind::Adaptive, 0, load(0)), 100, "half a flush at most");
        assert_eq!(due(PolicyKind::Adaptive, 0, load(8)), 50, "less with company");
        assert_eq!(due(PolicyKind::Adaptive, 0, load(16)), 0);
        assert_eq!(due(PolicyKind::AdaptiveThresholds, 0, load(10)), 100_000);
        assert_eq!(due(PolicyKind::AdaptiveThresholds, 0, load(11)), 50_000);
        assert_eq!(due(PolicyKind::AdaptiveThresholds, 0, load(101)), 10_000);
        assert_eq!(due(PolicyKind::Hybrid, 7, load(9_999)), 100_007);
        assert_eq!(due(PolicyKind::Hybrid, 7, load(10_000)), 7);
        assert_eq!(due(PolicyKind::Fixed, 100_001, load(1)), 200_000, "at the next tick");
    }
}
