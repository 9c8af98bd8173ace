//! Seeds that found something, by the name of what they found; and what makes any seed worth running.

use chronik_sim::bugs::{Bugs, PLANTED};
use chronik_sim::run;

fn holds(seed: u64) {
    let report = run(seed, Bugs::default(), false);
    assert_eq!(report.violation, None, "replay: --seed {seed} --trace");
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
    let hashes = |seeds: std::ops::Range<u64>| -> Vec<u64> {
        seeds.map(|seed| run(seed, Bugs::default(), false).trace_hash).collect()
    };
    let first = hashes(100..120);
    assert_eq!(first, hashes(100..120));
    let distinct: std::collections::BTreeSet<_> = first.iter().collect();
    assert_eq!(distinct.len(), first.len(), "and another seed another one");
}

#[test]
fn every_planted_bug_is_caught() {
    for (name, bugs) in PLANTED {
        let caught = (0..100).find_map(|seed| run(seed, bugs, false).violation);
        assert!(caught.is_some(), "{name} was not caught");
    }
}
