//! What a run has met: hits per row of the recovery table, per kind of fault, and checks per invariant.

use std::collections::BTreeMap;

use chronik_core::wal::recovery::Row;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Everything that the simulated world does to a broker. None may go unused in a full run.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $name),+ }
        impl Fault {
            pub const ALL: &'static [Fault] = &[$(Fault::$name),+];
        }
    };
}

faults! {
    /// The process ends; what it had written stays in the cache.
    Kill,
    /// The cache is lost as well.
    PowerLoss,
    /// What was read back after a kill must have been flushed before it was served.
    KillThenPowerLoss,
    CleanStop,
    CrashInRecovery,
    /// A group in flight left nothing behind.
    WriteLost,
    /// It is on the disk although nobody has been told.
    WriteKept,
    TornPrefix,
    TornSuffix,
    TornSectors,
    TornBlocks,
    /// A later group is on the disk and an earlier one, in flight with it, is not.
    Reordered,
    /// Bytes written to a segment or checkpoint and not synced.
    UnsyncedBytesLost,
    /// A created, renamed or removed file whose directory was not synced.
    UnsyncedNameLost,
    /// The device took a group and answered with an error.
    WriteError,
    NoSpaceForGroup,
    NoSpaceForFile,
    /// Bit rot: one bit in a group's payload.
    RotPayload,
    RotGroupHeader,
    RotFirstDirectory,
    RotEndDirectory,
    /// Both ends of a group: nothing names what it held.
    RotBothEnds,
    GarbageSector,
    ZeroedBlock,
    UnreadableSector,
    RotOneFileHeader,
    RotBothFileHeaders,
    LostWalFile,
    /// Damage to what nobody needs any more: it must not fence anybody.
    RotBelowCheckpoint,
}

/// Counters of one or of many runs.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub rows: BTreeMap<Row, u64>,
    pub faults: BTreeMap<Fault, u64>,
    pub checks: BTreeMap<&'static str, u64>,
    pub facts: BTreeMap<&'static str, u64>,
    pub virtual_us: u64,
}

impl Stats {
    pub fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub fn row(&mut self, row: Row) {
        *self.rows.entry(row).or_default() += 1;
    }

    pub fn checked(&mut self, invariant: &'static str) {
        *self.checks.entry(invariant).or_default() += 1;
    }

    pub fn fact(&mut self, name: &'static str) {
        *self.facts.entry(name).or_default() += 1;
    }

    pub fn add(&mut self, other: &Stats) {
        add(&mut self.rows, &other.rows);
        add(&mut self.faults, &other.faults);
        add(&mut self.checks, &other.checks);
        add(&mut self.facts, &other.facts);
        self.virtual_us += other.virtual_us;
    }

    /// Rows and faults that were never hit: a simulator that does not meet them proves nothing about them.
    pub fn unmet(&self) -> Vec<String> {
        let rows = Row::ALL.iter().filter(|r| !self.rows.contains_key(r)).map(|r| format!("row {r}"));
        let faults =
            Fault::ALL.iter().filter(|f| !self.faults.contains_key(f)).map(|f| format!("fault {f:?}"));
        rows.chain(faults).collect()
    }
}

fn add<K: Ord + Copy>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, n) in from {
        *to.entry(*key).or_default() += n;
    }
}
