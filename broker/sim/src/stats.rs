//! What a run has met: hits per row of the recovery table, per kind of fault, per deed of the broker, and checks per
//! invariant.

use std::collections::BTreeMap;

use chronik_core::wal::recovery::Row;

macro_rules! kinds {
    ($(#[$of:meta])* $kind:ident { $($(#[$doc:meta])* $name:ident),+ $(,)? }) => {
        $(#[$of])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $kind { $($(#[$doc])* $name),+ }
        impl $kind {
            pub const ALL: &'static [$kind] = &[$($kind::$name),+];
        }
    };
}

kinds! {
    /// Everything that the simulated world does to a broker. None may go unused in a full run.
    Fault {
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
        /// While a partition was copied: the attempt is given up, and begun again later.
        NoSpaceForSegment,
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
}

kinds! {
    /// Everything that a broker does, or that its log goes through. None may be missing in a full run.
    Deed {
        Acknowledgement,
        GroupWritten,
        /// A start has cut off what was torn.
        GroupCutOff,
        WalFileOpened,
        WalFileWaitedFor,
        WalFileRecycled,
        Reconnect,
        DuplicateRecognised,
        DuplicateInFlight,
        ReadFromMemory,
        ReadFromWal,
        ReadFromSegments,
        /// Compaction had left nothing up to the end of a segment.
        ReadOverAGap,
        Checkpoint,
        PartitionDeleted,
        PartitionFenced,
        FenceKept,
        SegmentRolledBySize,
        SegmentRolledByAge,
        /// Nobody wrote to it any more.
        SegmentClosedByAge,
        /// A partition has more than one synced segment.
        SeveralSegments,
        RetentionByTime,
        RetentionBySize,
        RecordsDeleted,
        /// The new log start lies within a batch.
        RecordsDeletedWithinABatch,
        LogStartMoved,
        SegmentDeleted,
        /// The segment writer found that records had been deleted while it copied what was before them.
        DeletedBeforeCopied,
        /// A start found segments that the crash had kept from being removed.
        CrashAfterTrim,
        /// A start found a segment of which no checkpoint tells yet.
        CrashBeforeCounted,
        CleaningDone,
        /// The cleaner could not keep all keys in mind.
        CleaningCutShort,
        /// Retention was faster than the cleaner.
        CleaningOvertaken,
        Swap,
        /// A start found a cleaned segment of which no checkpoint tells yet: the swap is undone.
        CrashBeforeSwap,
        /// A start found the segments that a cleaned one has taken the place of.
        CrashAfterSwap,
        RecordSuperseded,
        TombstoneKept,
        TombstoneRemoved,
        /// A batch stays for its producer's sequence, or as the last one.
        EmptyBatchKept,
        CoordinatorStillLoading,
        TransactionCommitted,
        TransactionAborted,
        /// Nobody had ended it in time.
        TransactionTimedOut,
        /// A newer producer of the same transactional id has aborted it.
        TransactionTakenOver,
        /// Markers were still to be written when the broker crashed.
        DecisionFoundAtStart,
        /// Some of them were written.
        CrashBetweenMarkers,
        /// The partition took none just then.
        MarkerLater,
        ZombieRefused,
        OffsetsCommitted,
        OffsetsCommittedInTransaction,
        /// What was read is in no transaction that is still open; what comes behind it is.
        ReaderHeldBack,
        AbortedBatchLeftOut,
        DecidedBatchRead,
        /// A transaction over several partitions, or with offsets, was confirmed.
        WideTransaction,
        GenerationShared,
        MemberFenced,
        MemberLeft,
        /// A start found members of the consumer protocol.
        MembersFoundAtStart,
        /// A partition is another member's than before.
        PartitionHandedOver,
        /// A member has given up what it was to give up, and was heard.
        RevocationAcknowledged,
        /// A member that had missed an answer was told everything.
        HeardAgain,
        /// A commit counted although its member is in a newer epoch: it has had the partition since.
        CommitInAnEarlierEpoch,
        StaleEpochRefused,
        /// A static member that was away has its partitions again.
        StaticMemberCameBack,
        /// The instance id is somebody else's, who is not away.
        InstanceUnreleased,
        /// Somebody else has taken over the instance id.
        InstanceFenced,
    }
}

/// Counters of one or of many runs.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub rows: BTreeMap<Row, u64>,
    pub faults: BTreeMap<Fault, u64>,
    pub checks: BTreeMap<&'static str, u64>,
    pub deeds: BTreeMap<Deed, u64>,
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

    pub fn deed(&mut self, deed: Deed) {
        *self.deeds.entry(deed).or_default() += 1;
    }

    pub fn add(&mut self, other: &Stats) {
        add(&mut self.rows, &other.rows);
        add(&mut self.faults, &other.faults);
        add(&mut self.checks, &other.checks);
        add(&mut self.deeds, &other.deeds);
        self.virtual_us += other.virtual_us;
    }

    /// Rows, faults and deeds that were never met: a simulator that does not meet them proves nothing about them.
    pub fn unmet(&self) -> Vec<String> {
        let rows = missing(&self.rows, &Row::ALL).map(|r| format!("row {r}"));
        let faults = missing(&self.faults, Fault::ALL).map(|f| format!("fault {f:?}"));
        let deeds = missing(&self.deeds, Deed::ALL).map(|d| format!("deed {d:?}"));
        rows.chain(faults).chain(deeds).collect()
    }
}

fn missing<'a, K: Ord>(met: &'a BTreeMap<K, u64>, all: &'a [K]) -> impl Iterator<Item = &'a K> {
    all.iter().filter(|kind| !met.contains_key(kind))
}

fn add<K: Ord + Copy>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, n) in from {
        *to.entry(*key).or_default() += n;
    }
}
