//! Produce requests at the least cost: one frame is laid out once, and for each request only
//! what differs is patched.

use bytes::BufMut;
use chronik_client::{Acks, Producer, batch_header as batch};
use uuid::Uuid;

use super::payload::Mark;

/// The Produce versions this module writes: flexible ones. From 13 on topics go by id (KIP-516).
pub const VERSIONS: std::ops::RangeInclusive<i16> = 9..=13;

/// The version from which on a topic goes by id.
const BY_ID: i16 = 13;

const CLIENT_ID: &[u8] = b"chronik-bench";

/// What all frames of a run have in common.
#[derive(Debug, Clone)]
pub struct Layout<'a> {
    /// Of Produce, one of [`VERSIONS`].
    pub version: i16,
    /// The topic's name, below version 13.
    pub topic: &'a str,
    /// The topic's id, from version 13 on.
    pub topic_id: Uuid,
    /// What the producers wait for.
    pub acks: Acks,
    /// Bytes of each record's value.
    pub record_bytes: usize,
    /// Records in each request's one batch.
    pub records_per_batch: u32,
    /// The run's seed.
    pub seed: u64,
}

/// What differs from frame to frame.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Comes back in the answer.
    pub correlation: i32,
    /// Whose it is, from 0.
    pub producer: u32,
    /// That producer's request, from 0.
    pub request: u32,
    /// Where it goes.
    pub partition: i32,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Identity and first sequence of an idempotent producer.
    pub identity: Option<(Producer, i32)>,
}

/// The frame of a run, patched anew for each request.
#[derive(Debug)]
pub struct Frame {
    bytes: Vec<u8>,
    partition_at: usize,
    batch_at: usize,
    batch_end: usize,
    /// Where each record's value begins.
    values: Vec<usize>,
    record_bytes: usize,
    seed: u64,
}

const CORRELATION_AT: usize = 8;
const PRODUCE_TIMEOUT_MS: i32 = 30_000;

impl Frame {
    /// Lays the frame out. Panics on no input: sizes were checked with the options.
    pub fn new(layout: &Layout<'_>) -> Self {
        let (batch, mut values) = lay_out_batch(layout);
        let mut out = Vec::with_capacity(batch.len() + 128);
        out.put_i32(0);
        out.put_i16(0);
        out.put_i16(layout.version);
        out.put_i32(0);
        out.put_i16(CLIENT_ID.len() as i16);
        out.put_slice(CLIENT_ID);
        put_uvarint(&mut out, 0); // tagged fields of the header
        put_uvarint(&mut out, 0); // no transactional id
        out.put_i16(layout.acks.wire());
        out.put_i32(PRODUCE_TIMEOUT_MS);
        put_uvarint(&mut out, 2); // one topic
        if layout.version >= BY_ID {
            out.put_slice(layout.topic_id.as_bytes());
        } else {
            put_uvarint(&mut out, layout.topic.len() as u32 + 1);
            out.put_slice(layout.topic.as_bytes());
        }
        put_uvarint(&mut out, 2); // one partition
        let partition_at = out.len();
        out.put_i32(0);
        put_uvarint(&mut out, batch.len() as u32 + 1);
        let batch_at = out.len();
        out.put_slice(&batch);
        out.put_slice(&[0, 0, 0]); // tagged fields of the partition, the topic, the request
        let length = (out.len() - 4) as i32;
        out[..4].copy_from_slice(&length.to_be_bytes());
        for value in &mut values {
            *value += batch_at;
        }
        Self {
            batch_end: batch_at + batch.len(),
            bytes: out,
            partition_at,
            batch_at,
            values,
            record_bytes: layout.record_bytes,
            seed: layout.seed,
        }
    }

    /// The frame's bytes for this request.
    pub fn patch(&mut self, request: &Request) -> &[u8] {
        for (place, at) in self.values.iter().enumerate() {
            let mark = Mark {
                seed: self.seed,
                producer: request.producer,
                partition: request.partition,
                request: request.request,
                place: place as u32,
            };
            mark.write(&mut self.bytes[*at..*at + self.record_bytes]);
        }
        put(&mut self.bytes, CORRELATION_AT, request.correlation.to_be_bytes());
        put(&mut self.bytes, self.partition_at, request.partition.to_be_bytes());
        let batch = &mut self.bytes[self.batch_at..self.batch_end];
        put(batch, batch::BASE_TIMESTAMP, request.timestamp.to_be_bytes());
        put(batch, batch::MAX_TIMESTAMP, request.timestamp.to_be_bytes());
        if let Some((producer, sequence)) = request.identity {
            put(batch, batch::PRODUCER_ID, producer.id.to_be_bytes());
            put(batch, batch::PRODUCER_EPOCH, producer.epoch.to_be_bytes());
            put(batch, batch::BASE_SEQUENCE, sequence.to_be_bytes());
        }
        let crc = crc32c::crc32c(&batch[batch::ATTRIBUTES..]);
        put(batch, batch::CRC, crc.to_be_bytes());
        &self.bytes
    }
}

/// A batch with empty values, and where its values begin.
fn lay_out_batch(layout: &Layout<'_>) -> (Vec<u8>, Vec<usize>) {
    use chronik_client::{BatchBuilder, NewRecord};
    let value = vec![0; layout.record_bytes];
    let mut builder = BatchBuilder::new();
    let mut values = Vec::with_capacity(layout.records_per_batch as usize);
    for _ in 0..layout.records_per_batch {
        builder.push(NewRecord { timestamp: 0, key: None, value: Some(&value), headers: &[] });
        // A record ends with its value and one byte that says "no headers".
        values.push(builder.bytes() - 1 - layout.record_bytes);
    }
    (builder.build().to_vec(), values)
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

fn put_uvarint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use bytes::{Buf, Bytes};
    use kafka_protocol::messages::ProduceRequest;
    use kafka_protocol::protocol::{Decodable, decode_request_header_from_buffer};
    use kafka_protocol::records::RecordBatchDecoder;

    use super::*;

    #[test]
    fn the_codec_reads_every_version_and_every_record() {
        let id = Uuid::from_u128(0x1234_5678);
        for version in VERSIONS {
            let layout = Layout {
                version,
                topic: "events",
                topic_id: id,
                acks: Acks::All,
                record_bytes: 300,
                records_per_batch: 130,
                seed: 5,
            };
            let mut frame = Frame::new(&layout);
            // Patched twice: nothing of the first request may remain.
            frame.patch(&Request {
                correlation: 1,
                producer: 1,
                request: 1,
                partition: 1,
                timestamp: 1,
                identity: None,
            });
            let producer = Producer { id: 7, epoch: 2 };
            let request = Request {
                correlation: -9,
                producer: 3,
                request: 44,
                partition: 12,
                timestamp: 1_000,
                identity: Some((producer, 5_720)),
            };
            let mut bytes = Bytes::copy_from_slice(frame.patch(&request));
            assert_eq!(bytes.get_i32() as usize, bytes.len());
            let header = decode_request_header_from_buffer(&mut bytes).unwrap();
            assert_eq!((header.request_api_key, header.correlation_id), (0, -9));
            let body = ProduceRequest::decode(&mut bytes, version).unwrap();
            assert!(bytes.is_empty());
            assert_eq!((body.acks, body.transactional_id), (-1, None));
            let topic = &body.topic_data[0];
            match version {
                13 => assert_eq!(topic.topic_id, id),
                _ => assert_eq!(topic.name.as_str(), "events"),
            }
            let partition = &topic.partition_data[0];
            assert_eq!(partition.index, 12);
            let set = RecordBatchDecoder::decode(&mut partition.records.clone().unwrap()).unwrap();
            assert_eq!(set.records.len(), 130);
            for (place, record) in set.records.iter().enumerate() {
                let value = record.value.as_ref().unwrap();
                let mark = Mark { seed: 5, producer: 3, partition: 12, request: 44, place: place as u32 };
                assert_eq!(value.len(), 300);
                assert!(mark.matches(value));
                assert_eq!((record.offset, record.timestamp), (place as i64, 1_000));
                assert_eq!((record.producer_id, record.producer_epoch), (7, 2));
                assert_eq!(record.sequence, 5_720 + place as i32);
            }
        }
    }
}
