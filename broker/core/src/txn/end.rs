//! How a transaction ends: its producer commits or aborts it, or its time is up; markers are written; it is complete.

use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;

use super::transaction::{LAST_EPOCH, State, Transaction};
use super::turn::Turn;
use super::{Producer, TransactionVersion, Transactions};
use crate::ids::ProducerId;

/// An EndTxn.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub producer: Producer,
    pub commit: bool,
    pub version: TransactionVersion,
    pub fresh: Option<ProducerId>,
}

/// What an EndTxn that is in order does.
enum Does {
    Decide,
    /// It was done before: the answer was lost.
    Nothing,
}

/// Tells the producer who it is from now on. `None` if that takes a fresh id.
pub(super) fn end(
    turn: &mut Turn<'_>,
    transactions: &mut Transactions,
    id: &StrBytes,
    request: Request,
) -> Option<Result<Producer, ResponseError>> {
    let Request { commit, version, fresh, .. } = request;
    let judged = match transactions.get(id) {
        _ if id.is_empty() => Err(ResponseError::InvalidRequest),
        None => Err(ResponseError::InvalidProducerIdMapping),
        Some(known) if version.bumps_epoch() => judge_v2(known, request).map(|does| (known, does)),
        Some(known) => judge_v0(known, request).map(|does| (known, does)),
    };
    let mut transaction = match judged {
        Err(refused) => return Some(Err(refused)),
        Ok((known, Does::Nothing)) => return Some(Ok(known.producer)),
        Ok((known, Does::Decide)) => known.clone(),
    };
    let next_id = if version.bumps_epoch() && transaction.epochs_are_used_up() { Some(fresh?) } else { None };
    transaction.prepare(commit, version, next_id, turn.now_ms);
    let told = transaction.told();
    Some(turn.put(transactions, id, transaction).map(|()| told))
}

/// A client that keeps its epoch.
fn judge_v0(known: &Transaction, request: Request) -> Result<Does, ResponseError> {
    if known.producer.id != request.producer.id {
        return Err(ResponseError::InvalidProducerIdMapping);
    }
    if known.producer.epoch != request.producer.epoch {
        return Err(ResponseError::ProducerFenced);
    }
    match known.state {
        State::Ongoing => Ok(Does::Decide),
        State::PrepareCommit | State::PrepareAbort => Err(ResponseError::ConcurrentTransactions),
        State::CompleteCommit if request.commit => Ok(Does::Nothing),
        State::CompleteAbort if !request.commit => Ok(Does::Nothing),
        State::CompleteCommit | State::CompleteAbort | State::Empty => Err(ResponseError::InvalidTxnState),
    }
}

/// A client whose epoch is raised by each EndTxn: one that comes with the epoch before asks again, and one with the epoch of
/// now means its next transaction, which may have nothing in it.
fn judge_v2(known: &Transaction, request: Request) -> Result<Does, ResponseError> {
    if known.state.decided().is_some() {
        // Looked at first: the producer may know already who it is once the markers are written.
        return Err(ResponseError::ConcurrentTransactions);
    }
    let (now, asking) = (known.producer, request.producer);
    let rotated = known.previous_id == asking.id && asking.epoch.0 == LAST_EPOCH && now.epoch.0 == 0;
    if now.id != asking.id && !rotated {
        return Err(ResponseError::InvalidProducerIdMapping);
    }
    let over = matches!(known.state, State::CompleteCommit | State::CompleteAbort);
    // The highest epoch fences the last one that is given, by one alone: whoever was fenced does not ask again.
    let raised = now.epoch.0 <= LAST_EPOCH && asking.epoch.0.checked_add(1) == Some(now.epoch.0);
    let again = over && (rotated || raised);
    if !again && asking.epoch != now.epoch {
        return Err(ResponseError::ProducerFenced);
    }
    match (known.state, request.commit) {
        (State::Ongoing, _) => Ok(Does::Decide),
        (State::CompleteCommit, true) | (State::CompleteAbort, false) if again => Ok(Does::Nothing),
        (State::Empty | State::CompleteCommit | State::CompleteAbort, false) if !again => Ok(Does::Decide),
        _ => Err(ResponseError::InvalidTxnState),
    }
}

/// Nobody has ended it in time: it is aborted, and its producer fenced.
pub(super) fn time_is_up(turn: &mut Turn<'_>, transactions: &mut Transactions, id: &StrBytes) {
    let Some(mut transaction) = transactions.get(id).filter(|t| t.state == State::Ongoing).cloned() else {
        return;
    };
    transaction.fence(turn.now_ms);
    // What is prepared fits.
    let _ = turn.put(transactions, id, transaction);
}

/// The markers of what was decided are durable. Those of an earlier decision mean nothing any more.
pub(super) fn markers_written(
    turn: &mut Turn<'_>,
    transactions: &mut Transactions,
    id: &StrBytes,
    producer: Producer,
) {
    let known = transactions.get(id).filter(|known| known.producer == producer);
    let Some((transaction, commit)) = known.and_then(|known| Some((known, known.state.decided()?))) else {
        return;
    };
    let mut transaction = transaction.clone();
    transaction.complete(commit, turn.now_ms);
    // It is smaller than what is there.
    let _ = turn.put(transactions, id, transaction);
}
