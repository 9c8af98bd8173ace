//! A partition's log: which offsets exist, what of them is durable, visible, and where it lies.
//!
//! Decisions only. Bytes are in memory ([`tail`]), in the write-ahead log, or in segments; the shell fetches them
//! from where [`PartitionLog`] says.

mod codec;
mod copying;
pub mod leader_epochs;
#[cfg(test)]
mod model_test;
pub mod partition_log;
#[cfg(test)]
mod partition_log_test;
mod producer_snapshot;
pub mod producer_state;
#[cfg(test)]
mod producer_state_test;
pub mod read;
pub mod retention;
pub mod tail;
mod transactions;

pub use crate::record_batch::EndMarker;
pub use codec::SnapshotError;
pub use copying::{Copied, Copying};
pub use leader_epochs::{EpochStart, LeaderEpochs};
pub use partition_log::{Advanced, AppendError, Appended, LogError, PartitionLog, Recovered, high_watermark};
pub use producer_state::{ActiveProducer, Checked, ProducerError, ProducerStateMap};
pub use read::{
    OffsetOutOfRange, ReadPlan, ReadRequest, ReadUpTo, TimestampAndOffset, TimestampPlan, find_timestamp,
    trim_run,
};
pub use tail::{Run, Tail, TailError, WalSpan};
pub use transactions::{AbortedTransaction, Ended, EndedTransactions};
