//! One call or one tick: the time, the settings and the timers it sees, and what it leads to.

use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;

use super::expiry::Timer;
use super::transaction::{State, Transaction};
use super::{Markers, Record, Step, Timers, Transactions, TxnConfig, record};
use crate::coordinator::own;

/// What a record may still grow by until its transaction is complete: a next producer id.
const GROWTH_BYTES: usize = 32;

pub(super) struct Turn<'a> {
    pub now_ms: i64,
    pub config: &'a TxnConfig,
    pub timers: &'a mut Timers,
    pub loaded_ms: i64,
    pub step: Step,
}

impl Turn<'_> {
    /// Lets a transactional id be what it has become: in the log, in memory, and by the clock. Markers are due if it is
    /// prepared.
    ///
    /// # Errors
    /// It would make a record that the log does not take. Nothing has changed. Not so for what ends a transaction.
    pub fn put(
        &mut self,
        transactions: &mut Transactions,
        id: &StrBytes,
        transaction: Transaction,
    ) -> Result<(), ResponseError> {
        let record = Record { key: record::key(id), value: Some(transaction.encode()) };
        let may_grow = matches!(transaction.state, State::Empty | State::Ongoing);
        if may_grow && record.size() + GROWTH_BYTES > self.config.max_batch_bytes {
            return Err(ResponseError::UnknownServerError);
        }
        self.step.records.push(record);
        let id = transactions.get_key_value(id).map_or_else(|| own(id), |(known, _)| known.clone());
        self.schedule(&id, &transaction);
        self.markers(&id, &transaction);
        transactions.insert(id, transaction);
        Ok(())
    }

    pub fn markers(&mut self, id: &StrBytes, transaction: &Transaction) {
        if let Some(commit) = transaction.state.decided() {
            let Transaction { producer, partitions, .. } = transaction;
            let (transactional_id, partitions) = (id.clone(), partitions.to_vec());
            self.step.markers.push(Markers { transactional_id, producer: *producer, commit, partitions });
        }
    }

    /// What happens to it if nobody does anything.
    pub fn schedule(&mut self, id: &StrBytes, transaction: &Transaction) {
        let config = self.config;
        let abort_ms = match transaction.state {
            State::Ongoing => {
                let started_ms = transaction.started_ms.unwrap_or(transaction.updated_ms);
                let over_ms = started_ms.saturating_add(i64::from(transaction.timeout_ms)).saturating_add(1);
                Some(self.looked_at_ms(over_ms, config.abort_timed_out_interval_ms))
            }
            _ => None,
        };
        let expire_ms = match transaction.state {
            State::Empty | State::CompleteCommit | State::CompleteAbort => {
                let over_ms = transaction.updated_ms.saturating_add(config.id_expiration_ms);
                Some(self.looked_at_ms(over_ms, config.remove_expired_interval_ms))
            }
            _ => None,
        };
        for (timer, at_ms) in [(Timer::Abort(id.clone()), abort_ms), (Timer::Expire(id.clone()), expire_ms)] {
            match at_ms {
                Some(at_ms) => self.timers.schedule(timer, at_ms),
                None => self.timers.cancel(timer),
            }
        }
    }

    /// When it is next looked for what is over at `over_ms`: once in an interval since the load, and not before now has
    /// passed, since a tick must come to an end.
    fn looked_at_ms(&self, over_ms: i64, interval_ms: i64) -> i64 {
        let interval_ms = interval_ms.max(1);
        let over_ms = over_ms.max(self.now_ms.saturating_add(1));
        let since_ms = over_ms.saturating_sub(self.loaded_ms);
        let behind_ms = since_ms.rem_euclid(interval_ms);
        if behind_ms == 0 { over_ms } else { over_ms.saturating_add(interval_ms - behind_ms) }
    }
}
