//! A transactional producer: it writes to some partitions, commits offsets of its group, and ends its transaction. Another one
//! may have its transactional id at any time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use chronik_core::group;
use chronik_core::ids::TopicIdPartition;
use chronik_core::metadata::image::OFFSETS_TOPIC;
use chronik_core::record_batch::BatchBuilder;
use chronik_core::txn::{self, Producer, TransactionVersion};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{GroupId, ProducerId, TopicName, TransactionalId, TxnOffsetCommitRequest};
use kafka_protocol::protocol::StrBytes;

use super::line::Line;
use crate::env::{Env, Event, Outcome, Request};
use crate::history::{Meaning, Sent, Transaction};
use crate::invariants::{self, INPUTS, Violation};
use crate::post::{Ask, OffsetsAsk, Told};
use crate::shell::{Answer, Call};
use crate::stats::Deed;
use crate::topics::{DATA_TOPIC, partition_of};

/// A step of a transaction.
#[derive(Clone, Copy)]
enum Todo {
    Write(TopicIdPartition),
    CommitOffsets,
}

struct Ongoing {
    number: usize,
    left: VecDeque<Todo>,
    /// Partitions that the older protocol's client has added.
    added: BTreeSet<TopicIdPartition>,
    /// It is being added.
    adding: Option<TopicIdPartition>,
    /// The batch that is being written.
    batch: Option<usize>,
    commit: bool,
    steps: usize,
}

pub(super) struct Transactor {
    number: usize,
    line: Line,
    id: StrBytes,
    ids_at: TopicIdPartition,
    group: StrBytes,
    groups_at: TopicIdPartition,
    version: TransactionVersion,
    /// Partitions of the topic that it writes to.
    data: i32,
    timeout_ms: i32,
    producer: Option<Producer>,
    sequences: BTreeMap<TopicIdPartition, i32>,
    ongoing: Option<Ongoing>,
    /// It does nothing until then.
    rests_until_us: u64,
}

impl Transactor {
    pub fn new(
        env: &mut Env,
        number: usize,
        (id, ids_at): (StrBytes, TopicIdPartition),
        (group, groups_at): (StrBytes, TopicIdPartition),
        version: TransactionVersion,
        data: i32,
    ) -> Transactor {
        // What a client of the older protocol has given up could come into its next transaction, as both have the same epoch.
        let hangs_up = version == TransactionVersion::V0;
        let patience_us = env.rng.between(1500, 6000);
        Transactor {
            number,
            line: Line::new(number, patience_us, hangs_up),
            id,
            ids_at,
            group,
            groups_at,
            version,
            data,
            timeout_ms: env.rng.between(4000, 20_000) as i32,
            producer: None,
            sequences: BTreeMap::new(),
            ongoing: None,
            rests_until_us: 0,
        }
    }

    pub fn act(&mut self, env: &mut Env) {
        let pause_us =
            if env.rng.percent(4) { env.rng.between(3000, 15_000) } else { env.rng.between(20, 400) };
        env.after(pause_us, Event::Act { actor: self.number });
        if self.line.waits() || env.now_us < self.rests_until_us {
            return;
        }
        if env.rng.percent(1) {
            return self.die(env);
        }
        let Some(producer) = self.producer else {
            let call = txn::Call::InitProducerId {
                transactional_id: self.id.clone(),
                timeout_ms: self.timeout_ms,
                expected: None,
                // Nobody minds ids that are used up.
                fresh: Some(env.history.fresh_producer()),
            };
            return self.line.ask(env, Ask::Coordinator(self.ids_at, Box::new(Call::Txn(call))));
        };
        if self.ongoing.is_none() {
            self.begin(env, producer);
        }
        self.go_on(env, producer);
    }

    fn begin(&mut self, env: &mut Env, producer: Producer) {
        let mut left = VecDeque::new();
        for _ in 0..env.rng.between(1, 4) {
            let index = env.rng.below(self.data as u64) as i32;
            left.push_back(Todo::Write(partition_of(DATA_TOPIC, index)));
        }
        if env.rng.percent(50) {
            let at = env.rng.index(left.len() + 1);
            left.insert(at, Todo::CommitOffsets);
        }
        let number = env.history.transactions.len();
        env.history.transactions.push(Transaction {
            transactional_id: self.id.clone(),
            coordinator: self.ids_at,
            producer,
            version: self.version,
            batches: Vec::new(),
            asked: None,
            told: None,
            outcome: None,
        });
        self.ongoing = Some(Ongoing {
            number,
            steps: left.len(),
            left,
            added: BTreeSet::new(),
            adding: None,
            batch: None,
            commit: env.rng.percent(70),
        });
    }

    /// The next step of its transaction, or the same again.
    fn go_on(&mut self, env: &mut Env, producer: Producer) {
        let Some(ongoing) = &mut self.ongoing else { return };
        let number = ongoing.number;
        let (transactional_id, version) = (self.id.clone(), self.version);
        let Some(todo) = ongoing.left.front().copied() else {
            let commit = ongoing.commit;
            env.history.transactions[number].asked = Some(commit);
            let fresh = Some(env.history.fresh_producer());
            let call = txn::Call::EndTxn { transactional_id, producer, commit, version, fresh };
            return self.line.ask(env, Ask::Coordinator(self.ids_at, Box::new(Call::Txn(call))));
        };
        let (tp, topic) = match todo {
            Todo::Write(tp) => (tp, DATA_TOPIC),
            Todo::CommitOffsets => (self.groups_at, OFFSETS_TOPIC),
        };
        if version == TransactionVersion::V0 && !ongoing.added.contains(&tp) {
            ongoing.adding = Some(tp);
            let partitions = vec![(TopicName(StrBytes::from_static_str(topic)), tp.partition)];
            let call = txn::Call::AddPartitions { transactional_id, producer, partitions, version };
            return self.line.ask(env, Ask::Coordinator(self.ids_at, Box::new(Call::Txn(call))));
        }
        match todo {
            Todo::CommitOffsets => self.commit_offsets(env, producer, number),
            Todo::Write(tp) => {
                let batch = match ongoing.batch {
                    Some(batch) => batch,
                    None => {
                        let sequence = self.sequences.entry(tp).or_insert(0);
                        let batch = build(env, tp, producer, number, sequence);
                        ongoing.batch = Some(batch);
                        batch
                    }
                };
                self.line.produce(env, batch);
            }
        }
    }

    fn commit_offsets(&mut self, env: &mut Env, producer: Producer, transaction: usize) {
        env.history.commits += 1;
        let partition = TxnOffsetCommitRequestPartition::default()
            .with_partition_index(env.rng.below(INPUTS as u64) as i32)
            .with_committed_offset(env.history.commits);
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(TopicName(StrBytes::from_static_str(DATA_TOPIC)))
            .with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(TransactionalId(self.id.clone()))
            .with_group_id(GroupId(self.group.clone()))
            .with_producer_id(ProducerId(producer.id.0))
            .with_producer_epoch(producer.epoch.0)
            .with_generation_id(-1)
            .with_topics(vec![topic]);
        let ask = OffsetsAsk { tp: self.groups_at, request, producer, transaction };
        self.line.ask(env, Ask::Offsets(Box::new(ask)));
    }

    pub fn late(&mut self, env: &mut Env, number: u64) {
        if self.line.is_late(env, number) && env.rng.percent(15) {
            self.die(env);
        }
    }

    pub fn hear(&mut self, env: &mut Env, number: u64, told: Told) -> Result<(), Violation> {
        if !self.line.hears(number) {
            return Ok(());
        }
        match told {
            Err(error) => self.fail(env, error),
            Ok(Answer::Txn(txn::Answer::InitProducerId(Ok(producer)))) => {
                self.producer = Some(producer);
                self.sequences.clear();
            }
            Ok(Answer::Txn(txn::Answer::AddPartitions(Ok(())))) => {
                if let Some(ongoing) = &mut self.ongoing {
                    ongoing.added.extend(ongoing.adding.take());
                }
            }
            Ok(Answer::Txn(txn::Answer::EndTxn(Ok(producer)))) => {
                if self.producer != Some(producer) {
                    self.sequences.clear();
                }
                self.producer = Some(producer);
                if let Some(Ongoing { number, commit, steps, .. }) = self.ongoing.take() {
                    if steps > 1 {
                        env.stats.deed(Deed::WideTransaction);
                    }
                    invariants::confirmed(env, number, commit)?;
                }
            }
            Ok(Answer::Txn(
                txn::Answer::InitProducerId(Err(error))
                | txn::Answer::AddPartitions(Err(error))
                | txn::Answer::EndTxn(Err(error)),
            )) => self.fail(env, error),
            Ok(Answer::Group(group::Answer::TxnOffsetCommit(response))) => {
                let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
                match partitions.map(|partition| partition.error_code).find(|code| *code != 0) {
                    None => {
                        env.stats.deed(Deed::OffsetsCommittedInTransaction);
                        self.step_is_done();
                    }
                    Some(code) => self.fail_with(env, code),
                }
            }
            Ok(_) => {}
        }
        Ok(())
    }

    pub fn stored(&mut self, env: &mut Env, request: Request, outcome: Outcome) {
        if !self.line.hears(request.connection) {
            return;
        }
        match outcome {
            Outcome::Stored => {
                if let Some(ongoing) = &mut self.ongoing {
                    ongoing.batch = None;
                    env.history.transactions[ongoing.number].batches.push(request.batch);
                }
                self.step_is_done();
            }
            Outcome::Refused(code) => self.fail_with(env, code),
            Outcome::Gone => self.die(env),
        }
    }

    fn step_is_done(&mut self) {
        if let Some(ongoing) = &mut self.ongoing {
            ongoing.left.pop_front();
        }
    }

    fn fail_with(&mut self, env: &mut Env, code: i16) {
        self.fail(env, ResponseError::try_from_code(code).unwrap_or(ResponseError::UnknownServerError));
    }

    /// As clients do: some errors go away.
    fn fail(&mut self, env: &mut Env, error: ResponseError) {
        env.note("refused", &[self.number as u64, error.code() as u64]);
        match error {
            ResponseError::ConcurrentTransactions => {
                if self.producer.is_none() {
                    env.stats.deed(Deed::TransactionTakenOver);
                }
            }
            ResponseError::NotCoordinator
            | ResponseError::CoordinatorNotAvailable
            | ResponseError::CoordinatorLoadInProgress => {}
            ResponseError::ProducerFenced | ResponseError::InvalidProducerEpoch => {
                env.stats.deed(Deed::ZombieRefused);
                self.fenced(env);
            }
            _ => self.fenced(env),
        }
    }

    /// Another one has its id now: it leaves it to that one for a while.
    fn fenced(&mut self, env: &mut Env) {
        self.die(env);
        self.rests_until_us = env.now_us + env.rng.between(0, 15_000);
    }

    /// It knows nothing any more.
    fn die(&mut self, env: &mut Env) {
        self.line.hang_up(env);
        self.producer = None;
        self.ongoing = None;
        self.sequences.clear();
    }
}

fn build(
    env: &mut Env,
    tp: TopicIdPartition,
    producer: Producer,
    transaction: usize,
    sequence: &mut i32,
) -> usize {
    let time_ms = env.fresh_time_ms();
    let records = env.rng.between(1, 3);
    let mut builder = BatchBuilder::new().producer(producer.id, producer.epoch, *sequence).transactional();
    *sequence += records as i32;
    for _ in 0..records {
        let value = vec![env.rng.next() as u8; env.rng.between(1, 400) as usize];
        builder = builder.record(time_ms, None, Some(&value));
    }
    let bytes = Bytes::from(builder.build());
    let meaning = Meaning { transaction: Some((transaction, producer)), ..Meaning::default() };
    env.history.sent.push(Sent { tp, bytes, idempotent: true, time_ms, records: Vec::new(), meaning });
    env.history.sent.len() - 1
}
