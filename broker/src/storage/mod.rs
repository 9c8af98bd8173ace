//! Everything that lies on a disk.

pub mod admission;
mod cleaner;
mod copying;
pub mod disk;
pub mod durable;
pub mod identity;
pub mod logs;
#[cfg(test)]
mod model_test;
mod pace;
pub mod partition;
pub mod priority;
pub mod profiles;
pub mod read;
mod scrub;
pub mod segments;
mod tail_cache;
#[cfg(test)]
pub(crate) mod testing;
pub mod wal;
mod writer;

/// The time, in milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as i64
}
