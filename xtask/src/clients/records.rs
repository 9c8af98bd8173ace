//! The records that every client writes and expects: `broker/tests/clients/README.md`.

use std::fmt::Write as _;

/// Old on purpose: a broker that takes its own clock for the record's is found out.
const BASE_TIMESTAMP_MS: i64 = 1_700_000_000_000;

pub struct Record {
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(&'static str, Option<Vec<u8>>)>,
}

/// The top bytes of xorshift32: the same few lines in each language.
fn pseudo_random_bytes(seed: u32, count: usize) -> Vec<u8> {
    let mut state = seed.max(1);
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// zlib's CRC-32, bit by bit: it only ever sees a few bytes.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

fn timestamp_ms(partition: u32, index: u32) -> i64 {
    let late = if index % 5 == 3 { 5000 } else { 0 };
    BASE_TIMESTAMP_MS + i64::from(partition) * 1_000_000 + i64::from(index) * 1000 - late
}

/// Written by a client that refuses null header values, or a record without key and value.
fn limited(topic: &str) -> bool {
    [".kafkajs.", ".kafka-python.", ".aiokafka."].iter().any(|name| topic.contains(name))
}

pub fn expected(topic: &str, partition: u32, index: u32) -> Record {
    let seed = crc32(format!("{topic}/{partition}/{index}").as_bytes());
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let key = match index % 5 {
        0 => None,
        1 => text(""),
        2 => text(&format!("key-{index}")),
        3 => Some(pseudo_random_bytes(seed, 16)),
        _ => text(&format!("ключ-{index}")),
    };
    let mut value = match index % 7 {
        0 => Some(pseudo_random_bytes(seed, 256)),
        1 => text(""),
        2 => None,
        3 => text(&format!("value {index} of {topic}/{partition}")),
        4 => Some(pseudo_random_bytes(seed, 1 + seed as usize % 1000)),
        5 => text(&format!("{{\"i\":{index}}}")),
        _ => Some(pseudo_random_bytes(seed, 17)),
    };
    if index == 10 {
        value = Some(pseudo_random_bytes(seed, 1000).repeat(100));
    }
    let mut headers = match index % 4 {
        1 => vec![("h", text("1"))],
        2 => vec![("trace", Some(pseudo_random_bytes(seed, 8))), ("empty", text(""))],
        3 => vec![("twice", text("a")), ("twice", text("b")), ("twice", text("a"))],
        _ => vec![],
    };
    if limited(topic) {
        if key.is_none() && value.is_none() {
            value = text("");
        }
    } else if index % 4 == 2 {
        headers.push(("null", None));
    }
    Record { timestamp_ms: timestamp_ms(partition, index), key, value, headers }
}

/// As kcat prints it by [`super::kcat::FORMAT`], but for partition and offset, which come first.
pub fn as_kcat_prints(record: &Record) -> Vec<u8> {
    let length = |part: &Option<Vec<u8>>| part.as_ref().map_or(-1, |bytes| bytes.len() as i64);
    let mut head = String::new();
    let _ = write!(head, " {} {} {} ", record.timestamp_ms, length(&record.key), length(&record.value));
    let mut out = head.into_bytes();
    out.extend(record.key.iter().flatten());
    out.push(b'|');
    out.extend(record.value.iter().flatten());
    out.push(b'|');
    for (at, (name, value)) in record.headers.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend(name.as_bytes());
        out.push(b'=');
        // A C string: it ends at the first 0.
        let printed = value.as_deref().unwrap_or(b"NULL").iter().take_while(|byte| **byte != 0);
        out.extend(printed);
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn records_are_those_of_the_other_languages() {
        // From records.py: r.record("t.java.plain", 2, 4), and 10, 30 of "t.aiokafka.plain".
        let record = expected("t.java.plain", 2, 4);
        assert_eq!(record.timestamp_ms, 1_700_002_004_000);
        assert_eq!(record.key.as_deref(), Some("ключ-4".as_bytes()));
        let value = record.value.unwrap_or_default();
        assert_eq!((value.len(), crc32(&value)), (159, 0x608A_7116));
        let large = expected("t.java.plain", 2, 10).value.unwrap_or_default();
        assert_eq!((large.len(), crc32(&large)), (100_000, 0xCFFE_5DDA));
        assert_eq!(expected("t.java.plain", 0, 30).value, None);
        assert_eq!(expected("t.aiokafka.plain", 0, 30).value.as_deref(), Some(&b""[..]));
        assert_eq!(expected("t.aiokafka.plain", 0, 30).headers.len(), 2);
    }
}
