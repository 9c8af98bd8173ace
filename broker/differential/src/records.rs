//! The records of a request or an answer as JSON: batches, whose headers are compared field by field.
//!
//! In a request a batch is an object: `{"count": 3, "codec": "gzip"}` and what is named below; several are an array; a string is
//! raw bytes in hex digits.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use chronik_client::compression::Codec;
use chronik_client::{BatchBuilder, NewRecord, Producer, batch_header as header};
use serde_json::{Value, json};

use crate::wire::{hex, signed, unhex};

/// Records of more bytes than this are shown by their checksum.
const SHOWN_BYTES: usize = 48;

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// The time that records' times count from: when this run began, less a minute.
pub fn epoch_ms() -> i64 {
    static EPOCH: OnceLock<i64> = OnceLock::new();
    *EPOCH.get_or_init(|| now_ms() - 60_000)
}

/// The bytes of records.
///
/// # Errors
/// When the value describes none.
pub fn encode(value: &Value) -> Result<Option<Vec<u8>>> {
    Ok(match value {
        Value::Null => None,
        Value::String(raw) => Some(unhex(raw)?),
        Value::Array(batches) => {
            let bytes: Vec<Vec<u8>> = batches.iter().map(batch).collect::<Result<_>>()?;
            Some(bytes.concat())
        }
        one => Some(batch(one)?),
    })
}

/// One batch: `count` records from `time` on, 10 ms apart. `producer`, `epoch`, `sequence`; `key`, `value`; `attributes` and
/// `magic` as they are to be; `null` keys; a wrong `crc`; how many bytes it is `cut` by.
fn batch(spec: &Value) -> Result<Vec<u8>> {
    let number = |name: &str, default: i64| spec[name].as_i64().unwrap_or(default);
    let codec = match spec["codec"].as_str() {
        None | Some("none") => Codec::None,
        Some("gzip") => Codec::Gzip,
        Some("snappy") => Codec::Snappy,
        Some("lz4") => Codec::Lz4,
        Some("zstd") => Codec::Zstd,
        Some(other) => anyhow::bail!("no codec {other}"),
    };
    let mut builder = BatchBuilder::new();
    if let Some(id) = spec["producer"].as_i64() {
        let producer = Producer { id, epoch: number("epoch", 0) as i16 };
        builder = builder.producer(producer, number("sequence", 0) as i32);
    }
    let base = epoch_ms() + number("time", 0);
    for n in 0..number("count", 1) {
        let (key, value) =
            (format!("key-{n}"), spec["value"].as_str().map_or(format!("value-{n}"), str::to_owned));
        let key = (spec["key"] != json!("null")).then_some(key.as_bytes());
        let headers: &[(&str, Option<&[u8]>)] = &[("h", Some(b"1")), ("h", None)];
        builder.push(NewRecord { timestamp: base + 10 * n, key, value: Some(value.as_bytes()), headers });
    }
    let mut bytes = builder.build_compressed(codec)?.to_vec();
    if let Some(more) = spec["attributes"].as_i64() {
        let attributes = (codec as i16 | more as i16).to_be_bytes();
        bytes[header::ATTRIBUTES..header::LAST_OFFSET_DELTA].copy_from_slice(&attributes);
    }
    if let Some(delta) = spec["last"].as_i64() {
        bytes[header::LAST_OFFSET_DELTA..header::BASE_TIMESTAMP]
            .copy_from_slice(&(delta as i32).to_be_bytes());
    }
    if let Some(magic) = spec["magic"].as_i64() {
        bytes[header::MAGIC] = magic as u8;
    }
    let crc = crc32c::crc32c(&bytes[header::ATTRIBUTES..]) ^ u32::from(spec["crc"] == json!("wrong"));
    bytes[header::CRC..header::ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    bytes.truncate(bytes.len().saturating_sub(number("cut", 0) as usize));
    Ok(bytes)
}

/// What is in the records of an answer: batches, and how many bytes of another one follow.
pub fn decode(mut bytes: &[u8]) -> Value {
    let mut batches = Vec::new();
    while let Some((batch, rest)) = split(bytes) {
        batches.push(describe(batch).unwrap_or_else(|| json!(hex(batch))));
        bytes = rest;
    }
    if !bytes.is_empty() {
        batches.push(json!({ "Part": format!("{} bytes", bytes.len()) }));
    }
    Value::Array(batches)
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = number(bytes, header::LENGTH, 4)?;
    bytes.split_at_checked(usize::try_from(length).ok()? + header::LENGTH + 4)
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<i64> {
    Some(signed(bytes.get(at..at + width)?))
}

fn describe(batch: &[u8]) -> Option<Value> {
    let field = |at: usize, width: usize| number(batch, at, width);
    let payload = batch.get(header::BYTES..)?;
    let crc = crc32c::crc32c(batch.get(header::ATTRIBUTES..)?);
    Some(json!({
        "BaseOffset": field(header::BASE_OFFSET, 8)?,
        "Length": field(header::LENGTH, 4)?,
        "LeaderEpoch": field(header::LENGTH + 4, 4)?,
        "Magic": field(header::MAGIC, 1)?,
        "Crc": if field(header::CRC, 4)? as u32 == crc { "right" } else { "wrong" },
        "Attributes": field(header::ATTRIBUTES, 2)?,
        "LastOffsetDelta": field(header::LAST_OFFSET_DELTA, 4)?,
        "BaseTimestamp": field(header::BASE_TIMESTAMP, 8)?,
        "MaxTimestamp": field(header::MAX_TIMESTAMP, 8)?,
        "ProducerId": field(header::PRODUCER_ID, 8)?,
        "ProducerEpoch": field(header::PRODUCER_EPOCH, 2)?,
        "BaseSequence": field(header::BASE_SEQUENCE, 4)?,
        "Count": field(header::COUNT, 4)?,
        "Records": if payload.len() <= SHOWN_BYTES {
            hex(payload)
        } else {
            format!("{} bytes, CRC32C {:08x}", payload.len(), crc32c::crc32c(payload))
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_what_it_was_told_to_be() {
        let bytes = encode(&json!([{"count": 2}, {"crc": "wrong", "producer": 7}])).unwrap().unwrap();
        let read = decode(&bytes);
        assert_eq!(read[0]["Count"], 2);
        assert_eq!(read[0]["Crc"], "right");
        assert_eq!(read[1]["Crc"], "wrong");
        assert_eq!(read[1]["ProducerId"], 7);
        assert_eq!(read.as_array().map(Vec::len), Some(2));
    }
}
