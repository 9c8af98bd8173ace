//! What all coordinators have in common: records in Kafka's encoding, deadlines, and the names of those who wait.

mod timers;
mod wire;

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use thiserror::Error;

pub(crate) use timers::Timers;
pub(crate) use wire::{Reader, Writer, writable};

/// The shell's name of a request that waits for its answer. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One record for a coordinator's topic, in Kafka's own format. Without a value it is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

impl Record {
    /// The bytes of key and value.
    pub fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// Why a record of a coordinator's topic was not understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    #[error("the record is cut short, or its lengths are not possible")]
    Malformed,
    #[error("version {version} of {what} is not known")]
    Version { what: &'static str, version: i16 },
}

/// A copy with memory of its own. What a request holds are slices of the connection's buffer; state that lives on
/// must not keep whole buffers alive.
pub(crate) fn own(text: &StrBytes) -> StrBytes {
    if text.is_empty() { StrBytes::new() } else { StrBytes::from_string(text.as_str().to_owned()) }
}
