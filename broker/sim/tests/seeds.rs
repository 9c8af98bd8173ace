//! Seeds that found something, by the name of what they found; and what makes any seed worth running.

use chronik_sim::bugs::{Bugs, PLANTED, Planted};
use chronik_sim::stats::{Deed, Stats};
use chronik_sim::{Scenario, run};

fn holds(seed: u64) {
    let report = run(Scenario::Storage, seed, Bugs::default(), false);
    assert_eq!(report.violation, None, "replay: --scenario storage --seed {seed} --trace");
}

/// A file whose generation began at a cut was lost, and what had been cut off was read in its place.
#[test]
fn a_lost_file_behind_a_cut_brings_nothing_back() {
    holds(857);
    holds(3373);
}

/// Nothing told of a first file that was lost before there was a checkpoint.
#[test]
fn a_first_file_lost_before_the_first_checkpoint_is_noticed() {
    holds(76);
    holds(480);
}

/// A checkpoint named a position within a group, and recovery took what lies there for damage.
#[test]
fn a_checkpoint_within_a_group_loses_nothing() {
    (0..6).for_each(holds);
}

/// A stop had to roll when no file was free, and none was made any more.
#[test]
fn a_stop_that_rolls_ends() {
    holds(4147);
    holds(4708);
}

#[test]
fn the_same_seed_takes_the_same_course() {
    let hashes = |scenario: Scenario| -> Vec<u64> {
        (100..120).map(|seed| run(scenario, seed, Bugs::default(), false).trace_hash).collect()
    };
    for scenario in Scenario::ALL {
        let first = hashes(scenario);
        assert_eq!(first, hashes(scenario));
        let distinct: std::collections::BTreeSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), first.len(), "and another seed another one");
    }
}

#[test]
fn every_planted_bug_is_caught() {
    for Planted { name, scenario, bugs } in PLANTED {
        let caught = (0..100).find_map(|seed| run(scenario, seed, bugs, false).violation);
        assert!(caught.is_some(), "{name} was not caught");
    }
}

/// The logs of some seeds live: they roll, give up records in every way, and crash in the middle of it.
#[test]
fn every_deed_of_a_broker_is_met() {
    let mut stats = Stats::default();
    for scenario in Scenario::ALL {
        (0..120).for_each(|seed| stats.add(&run(scenario, seed, Bugs::default(), false).stats));
    }
    let unmet: Vec<_> = Deed::ALL.iter().filter(|deed| !stats.deeds.contains_key(deed)).collect();
    assert!(unmet.is_empty(), "never met: {unmet:?}");
}

/// A log start lay within a batch, and the checkpoint's producers ended before it.
#[test]
fn a_log_start_within_a_batch_loses_no_sequence() {
    holds(146);
}

/// What a failed copy had put into segments was counted twice.
#[test]
fn retention_by_size_counts_nothing_twice() {
    holds(1283);
    holds(2334);
}
