//! Deliberate bugs. A check earns trust by failing on one.

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
}

/// The planted bugs by name.
pub const PLANTED: [(&str, Bugs); 9] = {
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
    };
    [
        ("ack-before-flush", Bugs { ack_before_flush: true, ..NONE }),
        ("parse-stale-groups", Bugs { parse_stale_groups: true, ..NONE }),
        ("recycle-before-sync", Bugs { recycle_before_sync: true, ..NONE }),
        ("answer-duplicates-early", Bugs { answer_duplicates_early: true, ..NONE }),
        ("serve-unflushed", Bugs { serve_unflushed: true, ..NONE }),
        ("drop-tombstones-early", Bugs { drop_tombstones_early: true, ..NONE }),
        ("swap-without-dir-sync", Bugs { swap_without_dir_sync: true, ..NONE }),
        ("snapshot-ahead-of-its-log", Bugs { snapshot_ahead_of_its_log: true, ..NONE }),
        ("delete-before-logged", Bugs { delete_before_logged: true, ..NONE }),
    ]
};

pub fn by_name(name: &str) -> Option<Bugs> {
    PLANTED.iter().find(|(known, _)| *known == name).map(|(_, bugs)| *bugs)
}
