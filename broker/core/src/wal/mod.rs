//! The write-ahead log: entry format, group commit, the pool of files, recovery.

pub mod commit;
pub mod format;
pub mod policy;
pub mod pool;
pub mod profile;
pub mod recovery;
#[cfg(test)]
mod tests;
