//! Crash tests: a broker process, load on it, its sudden death, and the check of what it acknowledged.

pub mod batch;
pub mod compacted;
pub mod consumers;
pub mod coordinators;
pub mod crew;
pub mod evidence;
pub mod faults;
mod full;
pub mod journal;
pub mod kafka;
pub mod load;
pub mod members;
pub mod process;
pub mod readback;
pub mod records;
pub mod rounds;
pub mod starts;
mod strangers;
pub mod topics;
pub mod transactors;
mod unreadable;
