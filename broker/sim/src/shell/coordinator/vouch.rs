//! The word of a transaction's coordinator, without which nothing begins a transaction in a partition (KIP-890), as
//! `broker/src/api/produce/transaction.rs` and `txn_offset_commit.rs` ask for it.

use chronik_core::group;
use chronik_core::ids::TopicIdPartition;
use chronik_core::metadata::image::OFFSETS_TOPIC;
use chronik_core::record_batch::Verified;
use chronik_core::txn::{self, Producer, TransactionVersion};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

use super::{Answer, Asker, Broker, Call};
use crate::env::{Env, Event, Halt, Outcome, Request};
use crate::history::Meaning;
use crate::post::{Address, OffsetsAsk};
use crate::stats::Deed;
use crate::topics::DATA_TOPIC;

impl Broker {
    /// Asks a transaction's coordinator about a batch that would begin it in its partition. False if there is nothing to ask.
    pub(in super::super) fn asks_about(
        &mut self,
        env: &mut Env,
        request: Request,
        profile: usize,
    ) -> Result<bool, Halt> {
        let sent = &env.history.sent[request.batch];
        let (tp, Some((transaction, producer))) = (sent.tp, sent.meaning.transaction) else {
            return Ok(false);
        };
        let version = env.history.transactions[transaction].version;
        let is_v2 = version == TransactionVersion::V2;
        let verification = self
            .partitions
            .get(&tp)
            .and_then(|partition| partition.log.verification(producer.id, producer.epoch, is_v2));
        let Some(verified) = verification else { return Ok(false) };
        let asker = Asker::Batch { request, profile, verified };
        self.ask_for_word(env, transaction, producer, (DATA_TOPIC, tp.partition), asker)?;
        Ok(true)
    }

    pub(super) fn commit_offsets(
        &mut self,
        env: &mut Env,
        from: Address,
        ask: Box<OffsetsAsk>,
    ) -> Result<(), Halt> {
        let Producer { id, epoch } = ask.producer;
        let partition = self.partitions.get(&ask.tp);
        match partition.and_then(|partition| partition.log.verification(id, epoch, false)) {
            Some(verified) => {
                let (transaction, producer, index) = (ask.transaction, ask.producer, ask.tp.partition);
                let asker = Asker::Offsets { from, ask, verified };
                self.ask_for_word(env, transaction, producer, (OFFSETS_TOPIC, index), asker)
            }
            None => self.hand_offsets_on(env, from, ask, Verified::Not),
        }
    }

    /// Clients of the newer protocol add a partition by writing to it; those of the older one have added it.
    fn ask_for_word(
        &mut self,
        env: &mut Env,
        transaction: usize,
        producer: Producer,
        (topic, index): (&'static str, i32),
        asker: Asker,
    ) -> Result<(), Halt> {
        let known = &env.history.transactions[transaction];
        let (transactional_id, version) = (known.transactional_id.clone(), known.version);
        let coordinator: TopicIdPartition = known.coordinator;
        let partitions = vec![(TopicName(StrBytes::from_static_str(topic)), index)];
        let call = match version {
            TransactionVersion::V2 => {
                txn::Call::AddPartitions { transactional_id, producer, partitions, version }
            }
            _ => txn::Call::Verify { transactional_id, producer, partitions },
        };
        self.call(env, coordinator, Call::Txn(call), asker, Meaning::default())
    }

    pub(super) fn hand_offsets_on(
        &mut self,
        env: &mut Env,
        from: Address,
        ask: Box<OffsetsAsk>,
        verified: Verified,
    ) -> Result<(), Halt> {
        let OffsetsAsk { tp, request, producer, transaction, .. } = *ask;
        let meaning = Meaning { transaction: Some((transaction, producer)), ..Meaning::default() };
        let verified = if self.settings.bugs.zombie_accepted { Verified::Own } else { verified };
        let call = Call::Group(group::Call::TxnOffsetCommit(request, verified));
        self.call(env, tp, call, Asker::Client(from), meaning)
    }
}

/// What a coordinator's answer says of the one partition it was asked about.
pub(super) fn word(answer: Answer) -> Result<(), ResponseError> {
    match answer {
        Answer::Txn(txn::Answer::AddPartitions(added)) => added,
        Answer::Txn(txn::Answer::Verify(there)) => match there?.first() {
            Some(true) => Ok(()),
            _ => Err(ResponseError::TransactionAbortable),
        },
        _ => Err(ResponseError::UnknownServerError),
    }
}

pub(super) fn refuse_batch(env: &mut Env, request: Request, error: ResponseError) {
    if error == ResponseError::ProducerFenced {
        env.stats.deed(Deed::ZombieRefused);
    }
    let delay_us = env.rng.between(50, 500);
    env.after(delay_us, Event::Respond(request, Outcome::Refused(error.code())));
}
