//! InitProducerId of a producer that has a transactional id.

use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;

use super::transaction::{LAST_EPOCH, Partitions, State, Transaction};
use super::turn::Turn;
use super::{Producer, Transactions};
use crate::coordinator::writable;
use crate::ids::{ProducerEpoch, ProducerId};

/// Makes whoever asks the one producer of its transactional id, unless it takes itself for one that was fenced. `None` if
/// that takes a fresh id.
pub(super) fn init_producer_id(
    turn: &mut Turn<'_>,
    transactions: &mut Transactions,
    id: &StrBytes,
    timeout_ms: i32,
    expected: Option<Producer>,
    fresh: Option<ProducerId>,
) -> Option<Result<Producer, ResponseError>> {
    if id.is_empty() || !writable(id) {
        return Some(Err(ResponseError::InvalidRequest));
    }
    if timeout_ms <= 0 || timeout_ms > turn.config.max_timeout_ms {
        return Some(Err(ResponseError::InvalidTransactionTimeout));
    }
    let mut transaction = match transactions.get(id) {
        Some(known) => known.clone(),
        None => Transaction::new(fresh?, timeout_ms, turn.now_ms),
    };
    if transaction.state.decided().is_some() {
        return Some(Err(ResponseError::ConcurrentTransactions));
    }
    if !expected.is_none_or(|expected| may_be(&transaction, expected)) {
        return Some(Err(ResponseError::ProducerFenced));
    }
    if transaction.state == State::Ongoing {
        // The client asks again, and gets a higher epoch then.
        transaction.fence(turn.now_ms);
        let put = turn.put(transactions, id, transaction);
        return Some(put.and(Err(ResponseError::ConcurrentTransactions)));
    }
    let rotates = expected.is_none_or(|expected| expected.epoch == transaction.producer.epoch);
    let raised = if transaction.epochs_are_used_up() && rotates {
        let last = expected.map(|_| transaction.producer.epoch);
        Ok((Producer { id: fresh?, epoch: ProducerEpoch(0) }, last))
    } else {
        raise(&transaction, expected.map(|expected| expected.epoch))
    };
    let (producer, last_epoch) = match raised {
        Ok(raised) => raised,
        Err(fenced) => return Some(Err(fenced)),
    };
    let renewed = Transaction {
        producer,
        previous_id: transaction.producer.id,
        last_epoch,
        timeout_ms,
        state: State::Empty,
        partitions: Partitions::default(),
        started_ms: None,
        updated_ms: turn.now_ms,
        ..transaction
    };
    Some(turn.put(transactions, id, renewed).map(|()| producer))
}

/// Whether a producer that takes itself for `expected` may be the one of this transactional id: it is new; or the id is
/// right, and the epoch is looked at later; or the id is that of before, which was given up as its epochs were used up.
fn may_be(transaction: &Transaction, expected: Producer) -> bool {
    transaction.producer.epoch.0 == -1
        || transaction.producer.id == expected.id
        || transaction.previous_id == expected.id && expected.epoch.0 >= LAST_EPOCH
}

/// The producer with its next epoch, and the epoch before it, if it is the producer itself that goes on.
fn raise(
    transaction: &Transaction,
    expected: Option<ProducerEpoch>,
) -> Result<(Producer, Option<ProducerEpoch>), ResponseError> {
    let now = transaction.producer;
    let next = Producer { epoch: ProducerEpoch(now.epoch.0.saturating_add(1)), ..now };
    match expected {
        None => Ok((next, None)),
        Some(_) if now.epoch.0 == -1 => Ok((next, None)),
        Some(epoch) if epoch == now.epoch => Ok((next, Some(now.epoch))),
        // It has not heard the answer to what it asks again.
        Some(epoch) if Some(epoch) == transaction.last_epoch => Ok((now, transaction.last_epoch)),
        Some(_) => Err(ResponseError::ProducerFenced),
    }
}
