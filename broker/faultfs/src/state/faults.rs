//! Faults that can be switched on, and the counters that show that they struck.

use super::Ino;

/// The faults in force.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// So many more flushes succeed, and then each fails with `EIO`.
    pub fail_flush_after: Option<u64>,
    /// So many more writes succeed, and then each fails with `EIO`.
    pub fail_write_after: Option<u64>,
    /// Everything that changes anything fails with `EROFS`.
    pub read_only: bool,
    /// Reading the block that holds this byte of a file fails with `EIO`.
    pub unreadable: Option<(Ino, u64)>,
    /// The size of the disk in blocks.
    pub capacity_blocks: u64,
}

impl Faults {
    /// Counts one operation against `after`, and says whether it fails.
    pub fn strikes(after: &mut Option<u64>) -> bool {
        match after {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }
}

/// Counters since the file system was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Write requests.
    pub writes: u64,
    /// Bytes in them.
    pub written_bytes: u64,
    /// Flushes of files (`fsync`, `fdatasync`, and one for each `O_DSYNC` write).
    pub flushes: u64,
    /// Flushes of directories.
    pub dir_flushes: u64,
    /// Writes that were made to fail.
    pub failed_writes: u64,
    /// Flushes that were made to fail.
    pub failed_flushes: u64,
    /// Reads that were made to fail.
    pub failed_reads: u64,
    /// Requests refused because the disk was full.
    pub refused_for_space: u64,
    /// Power cuts.
    pub cuts: u64,
}
