//! Deliberate bugs. A check earns trust by failing on one.

use crate::scenario::Scenario;

/// All off, unless a test says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bugs {
    /// Producers are answered when their group is sent, not when it is flushed.
    pub ack_before_flush: bool,
    /// Recovery reads on behind the place where the next generation begins.
    pub parse_stale_groups: bool,
    /// WAL files are written again while the segments with their content are not synced.
    pub recycle_before_sync: bool,
    /// A duplicate is answered while its original is in flight.
    pub answer_duplicates_early: bool,
    /// After a kill, what is read back from the cache is served without being flushed.
    pub serve_unflushed: bool,
    /// The cleaner drops tombstones without regard to `delete.retention.ms`.
    pub drop_tombstones_early: bool,
    /// Cleaned files take the place of others while neither they nor their names are synced.
    pub swap_without_dir_sync: bool,
    /// The checkpoint holds what producers have sent, in flight or not.
    pub snapshot_ahead_of_its_log: bool,
    /// Segment files go as soon as it is decided that their records go.
    pub delete_before_logged: bool,
    /// Coordinators answer when they have changed, not when the log has it.
    pub answer_before_durable: bool,
    /// A coordinator is told that the markers are written before they are.
    pub complete_before_markers: bool,
    /// A producer's word is enough for the log that it is in a transaction.
    pub zombie_accepted: bool,
    /// Readers of decided records get all that is committed.
    pub lso_ignores_ongoing: bool,
    /// A start forgets which transactions were aborted.
    pub abort_index_dropped: bool,
    /// Offsets that were committed in a transaction count after a start, decided or not.
    pub offsets_before_marker: bool,
    /// A start forgets that decisions are to be carried out.
    pub markers_forgotten: bool,
    /// A start passes over what groups were last.
    pub generations_forgotten: bool,
    /// Members are told their epochs when their groups have changed, not when the log has it.
    pub epochs_before_durable: bool,
    /// Whatever a member is to give up is taken for given up.
    pub revocation_assumed: bool,
    /// A member may commit whatever epoch it says.
    pub stale_epoch_accepted: bool,
    /// A start passes over where members are.
    pub places_forgotten: bool,
    /// Whoever says a static member's instance id is taken for the one that has it now.
    pub instance_not_fenced: bool,
}

/// A bug, and where it shows.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    pub name: &'static str,
    pub scenario: Scenario,
    pub bugs: Bugs,
}

const fn planted(name: &'static str, scenario: Scenario, bugs: Bugs) -> Planted {
    Planted { name, scenario, bugs }
}

/// The planted bugs.
pub const PLANTED: [Planted; 22] = {
    use Scenario::{Coordinators, Storage};
    const NONE: Bugs = Bugs {
        ack_before_flush: false,
        parse_stale_groups: false,
        recycle_before_sync: false,
        answer_duplicates_early: false,
        serve_unflushed: false,
        drop_tombstones_early: false,
        swap_without_dir_sync: false,
        snapshot_ahead_of_its_log: false,
        delete_before_logged: false,
        answer_before_durable: false,
        complete_before_markers: false,
        zombie_accepted: false,
        lso_ignores_ongoing: false,
        abort_index_dropped: false,
        offsets_before_marker: false,
        markers_forgotten: false,
        generations_forgotten: false,
        epochs_before_durable: false,
        revocation_assumed: false,
        stale_epoch_accepted: false,
        places_forgotten: false,
        instance_not_fenced: false,
    };
    [
        planted("ack-before-flush", Storage, Bugs { ack_before_flush: true, ..NONE }),
        planted("parse-stale-groups", Storage, Bugs { parse_stale_groups: true, ..NONE }),
        planted("recycle-before-sync", Storage, Bugs { recycle_before_sync: true, ..NONE }),
        planted("answer-duplicates-early", Storage, Bugs { answer_duplicates_early: true, ..NONE }),
        planted("serve-unflushed", Storage, Bugs { serve_unflushed: true, ..NONE }),
        planted("drop-tombstones-early", Storage, Bugs { drop_tombstones_early: true, ..NONE }),
        planted("swap-without-dir-sync", Storage, Bugs { swap_without_dir_sync: true, ..NONE }),
        planted("snapshot-ahead-of-its-log", Storage, Bugs { snapshot_ahead_of_its_log: true, ..NONE }),
        planted("delete-before-logged", Storage, Bugs { delete_before_logged: true, ..NONE }),
        planted("answer-before-durable", Coordinators, Bugs { answer_before_durable: true, ..NONE }),
        planted("complete-before-markers", Coordinators, Bugs { complete_before_markers: true, ..NONE }),
        planted("zombie-accepted", Coordinators, Bugs { zombie_accepted: true, ..NONE }),
        planted("lso-ignores-ongoing", Coordinators, Bugs { lso_ignores_ongoing: true, ..NONE }),
        planted("abort-index-dropped", Coordinators, Bugs { abort_index_dropped: true, ..NONE }),
        planted("offsets-before-marker", Coordinators, Bugs { offsets_before_marker: true, ..NONE }),
        planted("markers-forgotten", Coordinators, Bugs { markers_forgotten: true, ..NONE }),
        planted("generations-forgotten", Coordinators, Bugs { generations_forgotten: true, ..NONE }),
        planted("epochs-before-durable", Coordinators, Bugs { epochs_before_durable: true, ..NONE }),
        planted("revocation-assumed", Coordinators, Bugs { revocation_assumed: true, ..NONE }),
        planted("stale-epoch-accepted", Coordinators, Bugs { stale_epoch_accepted: true, ..NONE }),
        planted("places-forgotten", Coordinators, Bugs { places_forgotten: true, ..NONE }),
        planted("instance-not-fenced", Coordinators, Bugs { instance_not_fenced: true, ..NONE }),
    ]
};

pub fn by_name(name: &str) -> Option<Planted> {
    PLANTED.into_iter().find(|known| known.name == name)
}
