//! The records of `__transaction_state`, in the versions that Kafka 4.3 writes with `transaction.version` 2, and read in
//! every one that it reads (`transaction-coordinator/src/main/resources/common/message`).

use std::collections::BTreeSet;

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use super::transaction::{Partitions, State, Transaction};
use super::{Producer, RecordError, TransactionVersion};
use crate::coordinator::{Reader, Writer};
use crate::ids::ProducerId;

/// `TransactionLogKey`.
const KEY_VERSION: i16 = 0;
/// `TransactionLogValue`: the first flexible one.
const VALUE_VERSION: i16 = 1;

/// Tags of `TransactionLogValue`.
const PREVIOUS_PRODUCER_ID: u32 = 0;
const NEXT_PRODUCER_ID: u32 = 1;
const CLIENT_TRANSACTION_VERSION: u32 = 2;

/// "None" of ids and times.
const NONE: i64 = -1;

/// The id must be writable.
pub(super) fn key(id: &StrBytes) -> Bytes {
    let mut writer = Writer::new(KEY_VERSION);
    writer.string(id);
    writer.finish()
}

pub(super) fn decode_key(bytes: &[u8]) -> Result<StrBytes, RecordError> {
    let mut reader = Reader::new(bytes);
    reader.version("a key", KEY_VERSION..=KEY_VERSION, i16::MAX)?;
    reader.string()
}

impl Transaction {
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(VALUE_VERSION);
        writer.i64(self.producer.id.0);
        writer.i16(self.producer.epoch.0);
        writer.i32(self.timeout_ms);
        writer.i8(self.state.number());
        if self.state == State::Empty {
            writer.compact_null();
        } else {
            writer.compact_array(self.partitions.0.len());
            for (topic, partitions) in &self.partitions.0 {
                writer.compact_string(topic);
                writer.compact_array(partitions.len());
                partitions.iter().for_each(|partition| writer.i32(*partition));
                writer.tagged(&[]);
            }
        }
        writer.i64(self.updated_ms);
        writer.i64(self.started_ms.unwrap_or(NONE));
        let previous = self.previous_id.0.to_be_bytes();
        let next = self.next_id.map_or(NONE, |id| id.0).to_be_bytes();
        let version = self.version.0.to_be_bytes();
        let mut tagged: Vec<(u32, &[u8])> = vec![(PREVIOUS_PRODUCER_ID, &previous)];
        if self.next_id.is_some() {
            tagged.push((NEXT_PRODUCER_ID, &next));
        }
        if self.version != TransactionVersion::V0 {
            tagged.push((CLIENT_TRANSACTION_VERSION, &version));
        }
        writer.tagged(&tagged);
        writer.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<Transaction, RecordError> {
        let mut reader = Reader::new(bytes);
        reader.version("TransactionLogValue", 0..=VALUE_VERSION, VALUE_VERSION)?;
        let producer = Producer::new(reader.i64()?, reader.i16()?);
        let timeout_ms = reader.i32()?;
        let number = reader.i8()?;
        let state = State::ALL.into_iter().find(|state| state.number() == number);
        let state = state.ok_or(RecordError::Malformed)?;
        let partitions = decode_partitions(&mut reader)?;
        let updated_ms = reader.i64()?;
        let started_ms = Some(reader.i64()?).filter(|ms| *ms != NONE);
        let (mut previous, mut next, mut version) = (NONE, NONE, 0);
        reader.tagged(|tag, field| {
            match tag {
                PREVIOUS_PRODUCER_ID => previous = field.i64()?,
                NEXT_PRODUCER_ID => next = field.i64()?,
                CLIENT_TRANSACTION_VERSION => version = field.i16()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(Transaction {
            producer,
            previous_id: ProducerId(previous),
            next_id: (next != NONE).then_some(ProducerId(next)),
            last_epoch: None,
            timeout_ms,
            state,
            partitions,
            started_ms,
            updated_ms,
            version: TransactionVersion(version),
        })
    }
}

fn decode_partitions(reader: &mut Reader<'_>) -> Result<Partitions, RecordError> {
    let mut partitions = Partitions::default();
    for _ in 0..reader.array_or_null()?.unwrap_or(0) {
        let topic = reader.string()?;
        let mut indexes = BTreeSet::new();
        for _ in 0..reader.array()? {
            indexes.insert(reader.i32()?);
        }
        reader.tags()?;
        if !indexes.is_empty() {
            partitions.0.entry(topic).or_default().append(&mut indexes);
        }
    }
    Ok(partitions)
}
