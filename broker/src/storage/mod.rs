//! Everything that lies on a disk.

pub mod admission;
mod cleaner;
pub mod disk;
pub mod durable;
pub mod identity;
pub mod logs;
pub mod partition;
pub mod profiles;
pub mod read;
pub mod segments;
mod tail_cache;
pub mod wal;
mod writer;
