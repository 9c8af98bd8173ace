//! The write-ahead log: entry format, group commit, the pool of files, recovery.

pub mod profile;
