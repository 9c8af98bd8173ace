//! What happens by the clock.

use kafka_protocol::protocol::StrBytes;

use super::turn::Turn;
use super::{Record, Transactions, record};

/// Whose time may be up. There is at most one deadline of each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// A transaction that its producer has not ended is aborted.
    Abort(StrBytes),
    /// A transactional id that nobody uses is forgotten.
    Expire(StrBytes),
}

/// The deadline of an id that is used is moved or taken away: this one was not.
pub(super) fn expire(turn: &mut Turn<'_>, transactions: &mut Transactions, id: &StrBytes) {
    if transactions.remove(id).is_some() {
        turn.step.records.push(Record { key: record::key(id), value: None });
    }
}
