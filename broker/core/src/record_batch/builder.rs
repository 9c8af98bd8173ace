//! Writes uncompressed batches: for internal topics and for tests.

use super::header::{BatchHeader, CONTROL_BIT, LOG_APPEND_TIME_BIT, NO_TIMESTAMP, TRANSACTIONAL_BIT};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// Gathers records, then [`BatchBuilder::build`]s their batch. A batch holds less than 2 GiB: its length and
/// count are 32 bits in the format.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    attributes: i16,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
    records: Vec<u8>,
    /// The record at work: its length comes before it.
    scratch: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        BatchBuilder {
            base_offset: 0,
            leader_epoch: LeaderEpoch(-1),
            attributes: 0,
            producer_id: ProducerId(-1),
            producer_epoch: ProducerEpoch(-1),
            base_sequence: -1,
            base_timestamp: NO_TIMESTAMP,
            max_timestamp: NO_TIMESTAMP,
            count: 0,
            records: Vec::new(),
            scratch: Vec::new(),
        }
    }
}

impl BatchBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// The batch's place in the log; a producer sends 0 and no epoch.
    pub fn at(mut self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Self {
        (self.base_offset, self.leader_epoch) = (base_offset, leader_epoch);
        self
    }

    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Self {
        (self.producer_id, self.producer_epoch, self.base_sequence) = (id, epoch, base_sequence);
        self
    }

    pub fn transactional(mut self) -> Self {
        self.attributes |= TRANSACTIONAL_BIT;
        self
    }

    pub fn control(mut self) -> Self {
        self.attributes |= CONTROL_BIT;
        self
    }

    /// Stamps the batch with the broker's time, ms since 1970.
    pub fn log_append_time(mut self, now_ms: i64) -> Self {
        self.attributes |= LOG_APPEND_TIME_BIT;
        self.max_timestamp = now_ms;
        self
    }

    pub fn record(self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        self.record_with_headers(timestamp, key, value, &[])
    }

    /// Adds a record; `timestamp` in ms since 1970. Headers keep their order and their duplicates.
    pub fn record_with_headers(
        mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Self {
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        if self.attributes & LOG_APPEND_TIME_BIT == 0 {
            self.max_timestamp = self.max_timestamp.max(timestamp);
        }
        let body = &mut self.scratch;
        body.clear();
        body.push(0); // attributes
        put_varint(body, timestamp.wrapping_sub(self.base_timestamp));
        put_varint(body, i64::from(self.count));
        put_bytes(body, key);
        put_bytes(body, value);
        put_varint(body, headers.len() as i64);
        for (key, value) in headers {
            put_bytes(body, Some(key));
            put_bytes(body, *value);
        }
        put_varint(&mut self.records, body.len() as i64);
        self.records.extend_from_slice(body);
        self.count += 1;
        self
    }

    /// The finished batch.
    pub fn build(self) -> Vec<u8> {
        let header = BatchHeader {
            base_offset: self.base_offset,
            batch_length: 0,
            leader_epoch: self.leader_epoch,
            crc: 0,
            attributes: self.attributes,
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            record_count: self.count,
        };
        header.with_records(&self.records)
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => put_varint(out, -1),
    }
}

/// The zigzag varint that `records.rs` reads.
pub(super) fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
