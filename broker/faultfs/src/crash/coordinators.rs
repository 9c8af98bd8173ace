//! What the client of the crash tests says to coordinators, and how it reads what transactions have decided.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, FetchRequest, FindCoordinatorRequest,
    GroupId, InitProducerIdRequest, OffsetCommitRequest, OffsetFetchRequest, ProduceRequest, ProducerId,
    TransactionalId, TxnOffsetCommitRequest,
};

use super::batch::{ReadBatch, Writer, decode_all, encode_in_transaction};
use super::kafka::{Connection, error, name, text};
use super::records::plain_record;

/// How long coordinators may take to be loaded, and to end what is to be ended.
const WITHIN: Duration = Duration::from_secs(20);

/// Answers after which a client asks again.
const AGAIN: [i16; 5] = [
    error::COORDINATOR_LOAD_IN_PROGRESS,
    error::COORDINATOR_NOT_AVAILABLE,
    error::NOT_COORDINATOR,
    error::NOT_ENOUGH_REPLICAS,
    error::CONCURRENT_TRANSACTIONS,
];

/// A producer of a transactional id.
#[derive(Clone, Debug)]
pub struct Transactional {
    pub id: String,
    pub producer_id: i64,
    pub epoch: i16,
    /// Its partitions are added by writing to them, and each transaction has an epoch of its own (KIP-890).
    pub newer: bool,
}

/// Who commits: a member in its generation, or in its epoch.
#[derive(Clone, Copy, Debug)]
pub struct Committer<'a> {
    pub group: &'a str,
    pub member_id: &'a str,
    pub epoch: i32,
}

/// What a reader of decided records got.
#[derive(Debug, Default)]
pub struct Decided {
    /// The records' values, with their offsets.
    pub values: Vec<(i64, Vec<u8>)>,
    pub last_stable: i64,
    pub high_watermark: i64,
}

/// Asks until the answer is not one of those that go away.
///
/// # Errors
/// When the connection fails, or they do not go away.
pub fn until_it_answers(mut ask: impl FnMut() -> Result<i16>) -> Result<i16> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let code = ask()?;
        if !AGAIN.contains(&code) {
            return Ok(code);
        }
        ensure!(Instant::now() < deadline, "error {code} does not go away");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Connection {
    /// Has the coordinator's topic made. `kind`: 0 for a group, 1 for a transactional id.
    ///
    /// # Errors
    /// When the connection fails, or there is no coordinator in time.
    pub fn find_coordinator(&mut self, key: &str, kind: i8) -> Result<()> {
        let request =
            FindCoordinatorRequest::default().with_key_type(kind).with_coordinator_keys(vec![text(key)]);
        let code = until_it_answers(|| {
            let response = self.call(&request, 4)?;
            Ok(response.coordinators.first().map_or(-1, |coordinator| coordinator.error_code))
        })?;
        ensure!(code == 0, "FindCoordinator of {key}: error {code}");
        Ok(())
    }

    /// Becomes the one producer of a transactional id: what its predecessor has not ended is aborted.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn begin_transactional(&mut self, id: &str, newer: bool) -> Result<Transactional> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(text(id))))
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let mut given = (-1, -1);
        let code = until_it_answers(|| {
            let response = self.call(&request, if newer { 5 } else { 4 })?;
            given = (response.producer_id.0, response.producer_epoch);
            Ok(response.error_code)
        })?;
        ensure!(code == 0, "InitProducerId of {id}: error {code}");
        Ok(Transactional { id: id.to_owned(), producer_id: given.0, epoch: given.1, newer })
    }

    /// Adds a partition to a transaction, as clients of the older protocol must.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn add_partition(&mut self, who: &Transactional, topic: &str, partition: i32) -> Result<i16> {
        let topic =
            AddPartitionsToTxnTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(TransactionalId(text(&who.id)))
            .with_v3_and_below_producer_id(ProducerId(who.producer_id))
            .with_v3_and_below_producer_epoch(who.epoch)
            .with_v3_and_below_topics(vec![topic]);
        until_it_answers(|| {
            let response = self.call(&request, 3)?;
            let partitions =
                response.results_by_topic_v3_and_below.iter().flat_map(|topic| &topic.results_by_partition);
            Ok(partitions.map(|partition| partition.partition_error_code).next().unwrap_or(-1))
        })
    }

    /// Writes one record in a transaction.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn write_in_transaction(
        &mut self,
        who: &Transactional,
        (topic, partition): (&str, i32),
        sequence: i32,
        value: Vec<u8>,
        timestamp_ms: i64,
    ) -> Result<i16> {
        let writer = Writer { producer_id: who.producer_id, epoch: who.epoch, sequence };
        let records = Bytes::from(encode_in_transaction(&[plain_record(value)], writer, timestamp_ms));
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
        let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_transactional_id(Some(TransactionalId(text(&who.id))))
            .with_acks(-1)
            .with_timeout_ms(15_000)
            .with_topic_data(vec![topic]);
        until_it_answers(|| {
            let response = self.call(&request, if who.newer { 12 } else { 9 })?;
            let partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
            Ok(partitions.map(|partition| partition.error_code).next().unwrap_or(-1))
        })
    }

    /// Commits an offset of a group for one partition as part of a transaction.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn commit_in_transaction(
        &mut self,
        who: &Transactional,
        group: &str,
        topic: &str,
        offset: i64,
    ) -> Result<i16> {
        if !who.newer {
            let request = AddOffsetsToTxnRequest::default()
                .with_transactional_id(TransactionalId(text(&who.id)))
                .with_producer_id(ProducerId(who.producer_id))
                .with_producer_epoch(who.epoch)
                .with_group_id(GroupId(text(group)));
            let code = until_it_answers(|| Ok(self.call(&request, 3)?.error_code))?;
            if code != 0 {
                return Ok(code);
            }
        }
        let partition = TxnOffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(-1);
        let topic =
            TxnOffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(TransactionalId(text(&who.id)))
            .with_group_id(GroupId(text(group)))
            .with_producer_id(ProducerId(who.producer_id))
            .with_producer_epoch(who.epoch)
            .with_generation_id(-1)
            .with_topics(vec![topic]);
        until_it_answers(|| {
            let response = self.call(&request, if who.newer { 5 } else { 3 })?;
            let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            Ok(partitions.map(|partition| partition.error_code).next().unwrap_or(-1))
        })
    }

    /// Ends a transaction. Of the newer protocol, the producer has its next epoch then.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn end_transaction(&mut self, who: &mut Transactional, commit: bool) -> Result<i16> {
        let request = EndTxnRequest::default()
            .with_transactional_id(TransactionalId(text(&who.id)))
            .with_producer_id(ProducerId(who.producer_id))
            .with_producer_epoch(who.epoch)
            .with_committed(commit);
        let mut next = (who.producer_id, who.epoch);
        let newer = who.newer;
        let code = until_it_answers(|| {
            let response = self.call(&request, if newer { 5 } else { 3 })?;
            if newer && response.error_code == 0 {
                next = (response.producer_id.0, response.producer_epoch);
            }
            Ok(response.error_code)
        })?;
        (who.producer_id, who.epoch) = next;
        Ok(code)
    }

    /// Commits an offset for partition 0 of a topic.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn commit(&mut self, who: Committer<'_>, topic: &str, offset: i64) -> Result<i16> {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(-1);
        let topic =
            OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(who.group)))
            .with_generation_id_or_member_epoch(who.epoch)
            .with_member_id(text(who.member_id))
            .with_topics(vec![topic]);
        until_it_answers(|| {
            let response = self.call(&request, 9)?;
            let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            Ok(partitions.map(|partition| partition.error_code).next().unwrap_or(-1))
        })
    }

    /// What a group has committed for partition 0 of a topic; -1 for nothing.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn committed(&mut self, group: &str, topic: &str) -> Result<i64> {
        let topics =
            OffsetFetchRequestTopics::default().with_name(name(topic)).with_partition_indexes(vec![0]);
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(Some(vec![topics]));
        let request = OffsetFetchRequest::default().with_groups(vec![group]).with_require_stable(true);
        let mut committed = -1;
        let code = until_it_answers(|| {
            let response = self.call(&request, 8)?;
            let group = response.groups.first().context("OffsetFetch answered nothing")?;
            let partition = group.topics.iter().flat_map(|topic| &topic.partitions).next();
            committed = partition.map_or(-1, |partition| partition.committed_offset);
            let code = partition.map_or(0, |partition| partition.error_code);
            Ok(if group.error_code != 0 { group.error_code } else { code })
        })?;
        ensure!(code == 0, "OffsetFetch: error {code}");
        Ok(committed)
    }

    /// Reads a partition from its beginning as a consumer with `isolation.level=read_committed` does.
    ///
    /// # Errors
    /// When the broker refuses, or a batch is broken.
    pub fn read_decided(&mut self, topic: &str, partition: i32) -> Result<Decided> {
        let mut decided = Decided::default();
        let mut next = 0;
        loop {
            let how = FetchRequest::default().with_isolation_level(1);
            let answer = self.fetch_as(how, topic, partition, next, 1 << 20)?;
            (decided.last_stable, decided.high_watermark) =
                (answer.last_stable_offset, answer.high_watermark);
            let batches = decode_all(answer.records.as_deref().unwrap_or_default())?;
            let aborted = answer.aborted_transactions.iter().flatten();
            let mut aborted: Vec<_> = aborted.map(|t| (t.first_offset, t.producer_id.0)).collect();
            aborted.sort_unstable();
            hand_on(&batches, next, &aborted, &mut decided.values);
            match batches.last() {
                Some(last) if last.next_offset > next => next = last.next_offset,
                _ if next >= decided.last_stable => return Ok(decided),
                _ => bail!("nothing to read at {next}, though all is decided below {}", decided.last_stable),
            }
        }
    }
}

/// What a consumer hands on of these batches: nothing of a transaction that was aborted.
fn hand_on(batches: &[ReadBatch], from: i64, aborted: &[(i64, i64)], values: &mut Vec<(i64, Vec<u8>)>) {
    let mut to_come = aborted.iter().peekable();
    let mut being_aborted = BTreeSet::new();
    for batch in batches {
        while let Some((_, producer)) = to_come.next_if(|(first, _)| *first < batch.next_offset) {
            being_aborted.insert(*producer);
        }
        let producer = batch.writer.producer_id;
        if batch.is_control() {
            being_aborted.remove(&producer);
            continue;
        }
        if batch.is_transactional() && being_aborted.contains(&producer) {
            continue;
        }
        let records = batch
            .deltas
            .iter()
            .zip(&batch.records)
            .map(|(delta, record)| (batch.base_offset + delta, record.value.clone().unwrap_or_default()));
        values.extend(records.filter(|(offset, _)| *offset >= from));
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::{CONTROL, TRANSACTIONAL};
    use super::*;

    fn batch(offset: i64, producer_id: i64, attributes: i16) -> ReadBatch {
        ReadBatch {
            writer: Writer { producer_id, epoch: 0, sequence: 0 },
            attributes,
            ..ReadBatch::of(offset, vec![plain_record(vec![offset as u8])])
        }
    }

    #[test]
    fn what_was_aborted_is_left_out_and_no_more() {
        let batches = [
            batch(0, 7, TRANSACTIONAL),
            batch(1, 8, TRANSACTIONAL),
            batch(2, -1, 0),
            batch(3, 7, TRANSACTIONAL | CONTROL),
            batch(4, 7, TRANSACTIONAL),
            batch(5, 8, TRANSACTIONAL | CONTROL),
        ];
        let mut values = Vec::new();
        hand_on(&batches, 0, &[(0, 7)], &mut values);
        assert_eq!(values.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [1, 2, 4]);
    }
}
