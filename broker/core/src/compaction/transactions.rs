//! What a pass knows of transactions, as Kafka's `CleanedTransactionMetadata`: which records were aborted, and of which
//! transactions nothing but the marker is left.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Offset, ProducerId};
use crate::log::AbortedTransaction;
use crate::record_batch::BatchHeader;

/// For batches in the order of their offsets, from the start of the log on.
#[derive(Clone, Debug, Default)]
pub struct Transactions {
    /// By producer and first offset: the marker's.
    aborted: BTreeMap<(ProducerId, Offset), Offset>,
    /// Producers of whose transaction a batch was met.
    met: BTreeSet<ProducerId>,
    /// Markers that go.
    gone: Vec<Offset>,
}

impl Transactions {
    /// `aborted` are all that reach into what the pass is about.
    pub fn new(aborted: impl IntoIterator<Item = AbortedTransaction>) -> Transactions {
        let aborted = aborted.into_iter().map(|t| ((t.producer_id, t.first_offset), t.last_offset));
        Transactions { aborted: aborted.collect(), ..Transactions::default() }
    }

    /// Whether a batch of records belongs to an aborted transaction.
    pub fn is_aborted(&self, header: &BatchHeader) -> bool {
        let id = header.producer_id;
        let mut began = self.aborted.range((id, Offset::MIN)..=(id, header.base_offset));
        header.is_transactional() && began.next_back().is_some_and(|(_, marker)| header.base_offset < *marker)
    }

    /// Markers that went since this was last asked, ascending.
    pub fn take_gone(&mut self) -> Vec<Offset> {
        std::mem::take(&mut self.gone)
    }

    pub(super) fn meets(&mut self, header: &BatchHeader) {
        if header.is_transactional() && !header.is_control() {
            self.met.insert(header.producer_id);
        }
    }

    /// Whether nothing is left of the transaction that this marker ends.
    pub(super) fn is_empty_at(&mut self, marker: &BatchHeader) -> bool {
        !self.met.remove(&marker.producer_id)
    }

    pub(super) fn goes(&mut self, marker: &BatchHeader) {
        self.gone.push(marker.base_offset);
    }
}
