//! Everything that lies on a disk.

pub mod wal;
