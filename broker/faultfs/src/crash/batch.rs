//! Record batches (Kafka's message format v2), built and taken apart by hand, so that what is checked does not
//! rest on the broker's own code.

use anyhow::{Result, bail, ensure};

/// Bytes before the first record.
const HEADER_BYTES: usize = 61;
/// Attributes of a batch that is part of a transaction, and of a marker.
pub const TRANSACTIONAL: i16 = 0b1_0000;
pub const CONTROL: i16 = 0b10_0000;
/// Where the part that the checksum covers begins.
const CHECKED_FROM: usize = 21;

/// Who wrote a batch, for idempotence. All -1 for a plain producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    pub producer_id: i64,
    pub epoch: i16,
    /// The sequence of the batch's first record.
    pub sequence: i32,
}

impl Writer {
    /// No idempotence.
    pub const PLAIN: Self = Self { producer_id: -1, epoch: -1, sequence: -1 };
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Option<Vec<u8>>,
    /// Without one it is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Names, which may be there twice, and values.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A batch as read back.
#[derive(Debug)]
pub struct ReadBatch {
    /// The offset of the first record, when it was written.
    pub base_offset: i64,
    /// The offset behind the last record, when it was written.
    pub next_offset: i64,
    pub writer: Writer,
    pub attributes: i16,
    /// Those that are left, and by how much their offsets are above the first one's, ascending.
    pub records: Vec<Record>,
    pub deltas: Vec<i64>,
    /// Its size.
    pub bytes: u64,
}

impl ReadBatch {
    /// Nothing was compacted away.
    pub fn is_whole(&self) -> bool {
        self.records.len() as i64 == self.next_offset - self.base_offset
    }

    /// It is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// It is a marker.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }
}

#[cfg(test)]
impl ReadBatch {
    /// A whole one, of a plain producer.
    pub fn of(base_offset: i64, records: Vec<Record>) -> ReadBatch {
        let count = records.len() as i64;
        let (next_offset, deltas) = (base_offset + count, (0..count).collect());
        let writer = Writer::PLAIN;
        ReadBatch { base_offset, next_offset, writer, attributes: 0, records, deltas, bytes: 0 }
    }
}

/// One uncompressed batch of `records`, all with the same timestamp.
pub fn encode(records: &[Record], writer: Writer, timestamp_ms: i64) -> Vec<u8> {
    encode_with(0, records, writer, timestamp_ms)
}

/// The same as part of the writer's transaction.
pub fn encode_in_transaction(records: &[Record], writer: Writer, timestamp_ms: i64) -> Vec<u8> {
    encode_with(TRANSACTIONAL, records, writer, timestamp_ms)
}

fn encode_with(attributes: i16, records: &[Record], writer: Writer, timestamp_ms: i64) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let mut one = vec![0u8];
        varint(&mut one, 0);
        varint(&mut one, index as i64);
        field(&mut one, record.key.as_deref());
        field(&mut one, record.value.as_deref());
        varint(&mut one, record.headers.len() as i64);
        for (name, value) in &record.headers {
            field(&mut one, Some(name));
            field(&mut one, Some(value));
        }
        varint(&mut body, one.len() as i64);
        body.extend(one);
    }
    let mut checked = Vec::with_capacity(HEADER_BYTES - CHECKED_FROM + body.len());
    checked.extend(attributes.to_be_bytes());
    checked.extend((records.len() as i32 - 1).to_be_bytes());
    checked.extend(timestamp_ms.to_be_bytes());
    checked.extend(timestamp_ms.to_be_bytes());
    checked.extend(writer.producer_id.to_be_bytes());
    checked.extend(writer.epoch.to_be_bytes());
    checked.extend(writer.sequence.to_be_bytes());
    checked.extend((records.len() as i32).to_be_bytes());
    checked.extend(body);

    let mut batch = Vec::with_capacity(CHECKED_FROM + checked.len());
    batch.extend(0i64.to_be_bytes());
    batch.extend((9 + checked.len() as i32).to_be_bytes());
    batch.extend((-1i32).to_be_bytes());
    batch.push(2);
    batch.extend(crc32c::crc32c(&checked).to_be_bytes());
    batch.extend(checked);
    batch
}

/// The whole batches at the head of `bytes`. A part of one at the end, as Kafka allows in a fetch, is left out.
///
/// # Errors
/// When a batch is neither what [`encode`] could have made nor a marker, its checksum included.
pub fn decode_all(mut bytes: &[u8]) -> Result<Vec<ReadBatch>> {
    let mut batches = Vec::new();
    while bytes.len() >= 12 {
        let mut at = Cursor { bytes };
        let base_offset = at.i64()?;
        let length = at.i32()?;
        ensure!(length >= (HEADER_BYTES - 12) as i32, "batch at offset {base_offset} claims {length} bytes");
        let total = 12 + length as usize;
        if bytes.len() < total {
            break;
        }
        batches.push(decode(base_offset, &bytes[..total])?);
        bytes = &bytes[total..];
    }
    Ok(batches)
}

fn decode(base_offset: i64, bytes: &[u8]) -> Result<ReadBatch> {
    let mut at = Cursor { bytes: &bytes[16..] };
    ensure!(at.take(1)?[0] == 2, "batch at offset {base_offset} has another magic than 2");
    let crc = at.i32()? as u32;
    ensure!(
        crc == crc32c::crc32c(&bytes[CHECKED_FROM..]),
        "batch at offset {base_offset}: its checksum does not fit"
    );
    let attributes = i16::from_be_bytes(at.array()?);
    ensure!(attributes & 0b111 == 0, "batch at offset {base_offset} has attributes {attributes:#b}");
    let last_delta = at.i32()?;
    at.take(16)?;
    let writer =
        Writer { producer_id: at.i64()?, epoch: i16::from_be_bytes(at.array()?), sequence: at.i32()? };
    let count = at.i32()?;
    let (mut records, mut deltas) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let length = at.varint()?;
        let mut one = Cursor { bytes: at.take(usize::try_from(length)?)? };
        one.take(1)?;
        one.varint()?;
        let delta = one.varint()?;
        let above = deltas.last().map_or(0, |last| last + 1);
        ensure!(
            (above..=i64::from(last_delta)).contains(&delta),
            "batch at offset {base_offset}: offset delta {delta}, {above} to {last_delta} expected"
        );
        let key = one.field()?;
        let value = one.field()?;
        let mut headers = Vec::new();
        for _ in 0..one.varint()? {
            headers.push((one.field()?.unwrap_or_default(), one.field()?.unwrap_or_default()));
        }
        ensure!(one.bytes.is_empty(), "batch at offset {base_offset}: bytes behind a record's headers");
        records.push(Record { key, value, headers });
        deltas.push(delta);
    }
    ensure!(at.bytes.is_empty(), "batch at offset {base_offset}: {} bytes too many", at.bytes.len());
    let next_offset = base_offset + i64::from(last_delta) + 1;
    let bytes = bytes.len() as u64;
    Ok(ReadBatch { base_offset, next_offset, writer, attributes, records, deltas, bytes })
}

struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.bytes.split_at_checked(n) {
            Some((head, tail)) => {
                self.bytes = tail;
                Ok(head)
            }
            None => bail!("{n} bytes wanted, {} left", self.bytes.len()),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn varint(&mut self) -> Result<i64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        bail!("a varint of more than 64 bits")
    }

    fn field(&mut self) -> Result<Option<Vec<u8>>> {
        let length = self.varint()?;
        if length < 0 { Ok(None) } else { Ok(Some(self.take(usize::try_from(length)?)?.to_vec())) }
    }
}

fn field(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    varint(out, bytes.map_or(-1, |bytes| bytes.len() as i64));
    out.extend(bytes.unwrap_or_default());
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        vec![
            Record { key: None, value: Some(vec![1; 300]), headers: vec![] },
            Record { key: Some(b"k".to_vec()), value: Some(vec![]), headers: vec![(vec![1], vec![]); 2] },
            Record { key: Some(vec![]), value: None, headers: vec![] },
        ]
    }

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let writer = Writer { producer_id: 7, epoch: 1, sequence: 42 };
        let mut bytes = encode(&records(), writer, 1_700_000_000_000);
        bytes[..8].copy_from_slice(&500i64.to_be_bytes());
        let mut two = bytes.clone();
        two.extend(&bytes[..bytes.len() - 1]);
        let batches = decode_all(&two).unwrap();
        assert_eq!(batches.len(), 1, "the cut-off second batch is left out");
        assert_eq!(batches[0].base_offset, 500);
        assert_eq!(batches[0].writer, writer);
        assert_eq!(batches[0].records, records());
        assert_eq!((batches[0].next_offset, batches[0].bytes), (503, bytes.len() as u64));
        assert!(batches[0].is_whole());
    }

    #[test]
    fn any_changed_byte_that_the_checksum_covers_is_noticed() {
        let bytes = encode(&records(), Writer::PLAIN, 0);
        for at in 17..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(decode_all(&changed).is_err(), "byte {at}");
        }
    }
}
