//! Crash tests: a broker process, load on it, its sudden death, and the check of what it acknowledged.

pub mod batch;
pub mod faults;
pub mod journal;
pub mod kafka;
pub mod load;
pub mod process;
pub mod rounds;
