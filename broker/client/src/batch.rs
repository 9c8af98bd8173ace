//! Record batches of format v2 (KIP-98): a builder for what is produced, a reader for what is
//! consumed. Both keep headers as a list: Kafka allows a key twice.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::compression::{self, Codec};

/// Where the fields of a v2 batch lie, in bytes from its start.
pub mod header {
    /// `i64`, set by the broker; outside the CRC.
    pub const BASE_OFFSET: usize = 0;
    /// `i32`, bytes after this field.
    pub const LENGTH: usize = 8;
    /// `i8`, 2.
    pub const MAGIC: usize = 16;
    /// `u32`, CRC32C from [`ATTRIBUTES`] to the end.
    pub const CRC: usize = 17;
    /// `i16`.
    pub const ATTRIBUTES: usize = 21;
    /// `i32`.
    pub const LAST_OFFSET_DELTA: usize = 23;
    /// `i64`, milliseconds.
    pub const BASE_TIMESTAMP: usize = 27;
    /// `i64`, milliseconds.
    pub const MAX_TIMESTAMP: usize = 35;
    /// `i64`, -1 without.
    pub const PRODUCER_ID: usize = 43;
    /// `i16`, -1 without.
    pub const PRODUCER_EPOCH: usize = 51;
    /// `i32`, -1 without.
    pub const BASE_SEQUENCE: usize = 53;
    /// `i32`, records in the batch.
    pub const COUNT: usize = 57;
    /// The header's length; the records follow.
    pub const BYTES: usize = 61;
}

/// The fewest bytes a record can have: length, attributes, two deltas, two null lengths, no headers.
const RECORD_BYTES_MIN: usize = 7;

/// A batch that is not what the format says.
#[derive(Debug, Error)]
pub enum BatchError {
    /// Magic 0 and 1 are gone since Kafka 4; higher ones are not invented yet.
    #[error("batch at offset {offset} has magic {magic}, not 2")]
    Magic {
        /// The batch's base offset.
        offset: i64,
        /// What it has instead.
        magic: i8,
    },
    /// The bytes were changed on their way or on a disk.
    #[error("batch at offset {offset} has CRC {found:#010x} but its header says {expected:#010x}")]
    Crc {
        /// The batch's base offset.
        offset: i64,
        /// The header's.
        expected: u32,
        /// The bytes'.
        found: u32,
    },
    /// Its compressed part cannot be undone.
    #[error("batch at offset {offset} cannot be decompressed")]
    Compression {
        /// The batch's base offset.
        offset: i64,
        /// Why not.
        source: std::io::Error,
    },
    /// A length or count inside does not fit.
    #[error("batch at offset {offset} is malformed: {what}")]
    Malformed {
        /// The batch's base offset.
        offset: i64,
        /// What does not fit.
        what: &'static str,
    },
}

/// An idempotent producer's identity, as InitProducerId gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// The producer id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
}

/// A record to be produced.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// `None` is Kafka's null.
    pub key: Option<&'a [u8]>,
    /// `None` is Kafka's null, a tombstone in a compacted topic.
    pub value: Option<&'a [u8]>,
    /// In order; a key may come twice.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Gathers records into one batch.
#[derive(Debug)]
pub struct BatchBuilder {
    buffer: BytesMut,
    producer: Option<(Producer, i32)>,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch of a producer without identity.
    pub fn new() -> Self {
        let mut buffer = BytesMut::with_capacity(1024);
        buffer.put_bytes(0, header::BYTES);
        Self { buffer, producer: None, base_timestamp: 0, max_timestamp: 0, count: 0 }
    }

    /// Gives the batch an idempotent producer's identity and the sequence of its first record.
    pub fn producer(mut self, producer: Producer, base_sequence: i32) -> Self {
        self.producer = Some((producer, base_sequence));
        self
    }

    /// Appends a record.
    pub fn push(&mut self, record: NewRecord<'_>) {
        if self.count == 0 {
            self.base_timestamp = record.timestamp;
            self.max_timestamp = record.timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        let mut body = Vec::with_capacity(32 + record.value.map_or(0, <[u8]>::len));
        body.put_i8(0);
        put_varint(&mut body, record.timestamp.wrapping_sub(self.base_timestamp));
        put_varint(&mut body, i64::from(self.count));
        put_nullable(&mut body, record.key);
        put_nullable(&mut body, record.value);
        put_varint(&mut body, record.headers.len() as i64);
        for (key, value) in record.headers {
            put_nullable(&mut body, Some(key.as_bytes()));
            put_nullable(&mut body, *value);
        }
        put_varint(&mut self.buffer, body.len() as i64);
        self.buffer.put_slice(&body);
        self.count += 1;
    }

    /// How many records it has.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// How many bytes it has, header included.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The finished batch with its records compressed.
    ///
    /// # Errors
    /// The encoder's.
    pub fn build_compressed(mut self, codec: Codec) -> std::io::Result<Bytes> {
        let records = codec.compress(&self.buffer[header::BYTES..])?;
        self.buffer.truncate(header::BYTES);
        self.buffer.extend_from_slice(&records);
        Ok(self.finish(codec))
    }

    /// The finished batch, base offset 0, leader epoch -1.
    pub fn build(self) -> Bytes {
        self.finish(Codec::None)
    }

    fn finish(mut self, codec: Codec) -> Bytes {
        let (producer, sequence) = self.producer.unwrap_or((Producer { id: -1, epoch: -1 }, -1));
        let mut head = Vec::with_capacity(header::BYTES);
        head.put_i64(0);
        head.put_i32((self.buffer.len() - header::LENGTH - 4) as i32);
        head.put_i32(-1);
        head.put_i8(2);
        head.put_u32(0);
        head.put_i16(codec as i16);
        head.put_i32((self.count - 1).max(0));
        head.put_i64(self.base_timestamp);
        head.put_i64(self.max_timestamp);
        head.put_i64(producer.id);
        head.put_i16(producer.epoch);
        head.put_i32(sequence);
        head.put_i32(self.count);
        self.buffer[..header::BYTES].copy_from_slice(&head);
        let crc = crc32c::crc32c(&self.buffer[header::ATTRIBUTES..]);
        self.buffer[header::CRC..header::ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
        self.buffer.freeze()
    }
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970; the broker's when the topic says LogAppendTime.
    pub timestamp: i64,
    /// `None` is Kafka's null.
    pub key: Option<Bytes>,
    /// `None` is Kafka's null.
    pub value: Option<Bytes>,
    /// In order; a key may come twice.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// A batch whose CRC was found right.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The offset of its first record.
    pub base_offset: i64,
    /// The offset after its last record, whether or not cleaning left that record.
    pub next_offset: i64,
    /// Compression (bits 0-2), LogAppendTime (3), transactional (4), control (5), delete horizon (6).
    pub attributes: i16,
    /// How many records it says it has.
    pub count: i32,
    /// The latest time of its records, or the broker's own under LogAppendTime, milliseconds since 1970.
    pub max_timestamp: i64,
    /// The idempotent producer that sent it.
    pub producer: Option<Producer>,
    /// The producer's number of the first record; -1 without.
    pub base_sequence: i32,
    base_timestamp: i64,
    payload: Bytes,
}

impl Batch {
    /// From when on a cleaner may drop its tombstones, milliseconds since 1970, once one has seen them (KIP-534).
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & 0x40 != 0).then_some(self.base_timestamp)
    }

    /// Whether this is a transaction's marker and not data.
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// Its records, decompressed where need be.
    ///
    /// # Errors
    /// When the compressed part or a record is broken.
    pub fn records(&self) -> Result<Vec<Record>, BatchError> {
        let offset = self.base_offset;
        let malformed = |what| BatchError::Malformed { offset, what };
        let mut data = compression::decompress(self.attributes, &self.payload)
            .map_err(|source| BatchError::Compression { offset, source })?;
        let count = usize::try_from(self.count).map_err(|_| malformed("negative record count"))?;
        if count > data.len() / RECORD_BYTES_MIN {
            return Err(malformed("more records than bytes for them"));
        }
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            let length = varint(&mut data).and_then(|n| usize::try_from(n).ok());
            let length = length.filter(|n| *n <= data.len()).ok_or_else(|| malformed("record length"))?;
            let mut body = data.split_to(length);
            records.push(self.record(&mut body).ok_or_else(|| malformed("record body"))?);
        }
        Ok(records)
    }

    fn record(&self, body: &mut Bytes) -> Option<Record> {
        body.try_get_i8().ok()?;
        let timestamp_delta = varint(body)?;
        let offset_delta = varint(body)?;
        let key = nullable(body)?;
        let value = nullable(body)?;
        let count = usize::try_from(varint(body)?).ok()?;
        if count > body.len() {
            return None;
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            headers.push((nullable(body)??, nullable(body)?));
        }
        let log_append_time = self.attributes & 0x8 != 0;
        let timestamp = if log_append_time {
            self.max_timestamp
        } else {
            self.base_timestamp.checked_add(timestamp_delta)?
        };
        let offset = self.base_offset.checked_add(offset_delta)?;
        Some(Record { offset, timestamp, key, value, headers })
    }
}

/// The complete batches at the start of what a Fetch brought. A last, partial batch, which Kafka
/// may send, is left out.
pub fn batches(data: Bytes) -> impl Iterator<Item = Result<Batch, BatchError>> {
    Batches { data }
}

struct Batches {
    data: Bytes,
}

impl Iterator for Batches {
    type Item = Result<Batch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.data.len() < header::BYTES {
            return None;
        }
        let mut head = self.data.slice(..header::BYTES);
        let offset = head.get_i64();
        let length = head.get_i32();
        let _leader_epoch = head.get_i32();
        let magic = head.get_i8();
        let result = if magic != 2 {
            Err(BatchError::Magic { offset, magic })
        } else {
            match usize::try_from(length).ok().filter(|n| *n >= header::BYTES - 12) {
                None => Err(BatchError::Malformed { offset, what: "length below its header's" }),
                Some(length) if length + 12 > self.data.len() => return None,
                Some(length) => self.read(offset, length + 12, head),
            }
        };
        if result.is_err() {
            // After a bad batch nothing tells where the next one starts.
            self.data.clear();
        }
        Some(result)
    }
}

impl Batches {
    /// Takes one whole batch; `head` stands at the CRC.
    fn read(&mut self, offset: i64, length: usize, mut head: Bytes) -> Result<Batch, BatchError> {
        let bytes = self.data.split_to(length);
        let expected = head.get_u32();
        let found = crc32c::crc32c(&bytes[header::ATTRIBUTES..]);
        if found != expected {
            return Err(BatchError::Crc { offset, expected, found });
        }
        let attributes = head.get_i16();
        let last_offset_delta = head.get_i32();
        let next_offset = offset
            .checked_add(i64::from(last_offset_delta) + 1)
            .filter(|next| *next > offset && offset >= 0)
            .ok_or(BatchError::Malformed { offset, what: "offsets out of range" })?;
        let base_timestamp = head.get_i64();
        let max_timestamp = head.get_i64();
        let producer = Producer { id: head.get_i64(), epoch: head.get_i16() };
        let base_sequence = head.get_i32();
        let count = head.get_i32();
        let payload = bytes.slice(header::BYTES..);
        Ok(Batch {
            base_offset: offset,
            next_offset,
            attributes,
            count,
            max_timestamp,
            producer: Some(producer).filter(|producer| producer.id >= 0),
            base_sequence,
            base_timestamp,
            payload,
        })
    }
}

/// Zig-zag variable-length integer, as records use it.
pub(crate) fn put_varint(out: &mut impl BufMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

fn put_nullable(out: &mut impl BufMut, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.put_slice(bytes);
        }
    }
}

fn varint(data: &mut Bytes) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let byte = data.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// `None`: broken. `Some(None)`: Kafka's null.
fn nullable(data: &mut Bytes) -> Option<Option<Bytes>> {
    let length = varint(data)?;
    if length == -1 {
        return Some(None);
    }
    let length = usize::try_from(length).ok().filter(|n| *n <= data.len())?;
    Some(Some(data.split_to(length)))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::records::RecordBatchDecoder;
    use proptest::prelude::*;

    use super::*;

    fn built() -> Bytes {
        let mut builder = BatchBuilder::new().producer(Producer { id: 77, epoch: 3 }, 500);
        builder.push(NewRecord { timestamp: 1_000, key: Some(b"k"), value: Some(b"v"), headers: &[] });
        let headers: &[(&str, Option<&[u8]>)] = &[("a", Some(b"1")), ("a", Some(b"2")), ("b", None)];
        builder.push(NewRecord { timestamp: 900, key: None, value: None, headers });
        builder.push(NewRecord { timestamp: 70_000, key: Some(b""), value: Some(&[7; 300]), headers: &[] });
        assert_eq!(builder.count(), 3);
        let bytes = builder.bytes();
        let batch = builder.build();
        assert_eq!(batch.len(), bytes);
        batch
    }

    #[test]
    fn what_is_compressed_reads_as_it_was() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut builder = BatchBuilder::new();
            for _ in 0..3 {
                builder.push(NewRecord { key: Some(b"k"), value: Some(&[7; 3000]), ..NewRecord::default() });
            }
            let batch = batches(builder.build_compressed(codec).unwrap()).next().unwrap().unwrap();
            assert_eq!(batch.attributes, codec as i16);
            let records = batch.records().unwrap();
            assert!(records.len() == 3 && records.iter().all(|r| r.value.as_deref() == Some(&[7; 3000])));
        }
    }

    #[test]
    fn an_independent_decoder_reads_what_is_built() {
        let set = RecordBatchDecoder::decode(&mut built()).unwrap();
        let seen: Vec<_> = set
            .records
            .iter()
            .map(|r| (r.offset, r.sequence, r.timestamp, r.key.clone(), r.value.as_ref().map(Bytes::len)))
            .collect();
        assert_eq!(
            seen,
            [
                (0, 500, 1_000, Some(Bytes::from("k")), Some(1)),
                (1, 501, 900, None, None),
                (2, 502, 70_000, Some(Bytes::new()), Some(300)),
            ]
        );
        assert!(set.records.iter().all(|r| r.producer_id == 77 && r.producer_epoch == 3));
    }

    #[test]
    fn duplicate_headers_and_nulls_come_back() {
        let batches: Vec<_> = batches(built()).collect::<Result<_, _>>().unwrap();
        let [batch] = batches.as_slice() else { panic!("one batch") };
        assert_eq!((batch.base_offset, batch.next_offset, batch.count), (0, 3, 3));
        assert_eq!((batch.producer, batch.base_sequence), (Some(Producer { id: 77, epoch: 3 }), 500));
        assert_eq!((batch.max_timestamp, batch.delete_horizon_ms()), (70_000, None));
        let records = batch.records().unwrap();
        assert_eq!(records[0].value.as_deref(), Some(b"v".as_slice()));
        assert_eq!((records[1].timestamp, &records[1].key, &records[1].value), (900, &None, &None));
        let two = |k: &'static str, v: Option<&'static str>| (Bytes::from(k), v.map(Bytes::from));
        assert_eq!(records[1].headers, [two("a", Some("1")), two("a", Some("2")), two("b", None)]);
        assert_eq!(records[2].key.as_deref(), Some(b"".as_slice()));
    }

    #[test]
    fn a_partial_last_batch_is_left_out() {
        let whole = built();
        let mut data = BytesMut::from(whole.as_ref());
        data.put_slice(&whole[..whole.len() - 1]);
        assert_eq!(batches(data.freeze()).count(), 1);
    }

    #[test]
    fn a_changed_byte_is_noticed_and_ends_the_reading() {
        let whole = built();
        let mut data = BytesMut::from(whole.as_ref());
        data[70] ^= 1;
        data.put_slice(&whole);
        let read: Vec<_> = batches(data.freeze()).collect();
        assert!(matches!(read.as_slice(), [Err(BatchError::Crc { offset: 0, .. })]));
    }

    proptest! {
        #[test]
        fn no_input_panics(mut data in proptest::collection::vec(any::<u8>(), 0..400), mend in any::<bool>()) {
            if mend && data.len() >= header::BYTES {
                // Let it past the checks in front, so that the records are reached too.
                let length = (data.len() - 12) as i32;
                data[header::LENGTH..12].copy_from_slice(&length.to_be_bytes());
                data[header::MAGIC] = 2;
                let crc = crc32c::crc32c(&data[header::ATTRIBUTES..]);
                data[header::CRC..header::ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
                data[header::LAST_OFFSET_DELTA..header::BASE_TIMESTAMP].copy_from_slice(&[0, 0, 0, 9]);
                data[0] = 0;
                let crc = crc32c::crc32c(&data[header::ATTRIBUTES..]);
                data[header::CRC..header::ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
            }
            for batch in batches(data.into()).flatten() {
                let _ = batch.records();
            }
        }

        #[test]
        fn varints_come_back(value in any::<i64>()) {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            prop_assert_eq!(varint(&mut out.freeze()), Some(value));
        }
    }
}
