//! Produce answers, read by hand: the generator needs four numbers of each.

use std::fmt;

/// What an answer to a request with one partition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The request's.
    pub correlation: i32,
    /// Kafka's error code, 0 when the records were taken.
    pub code: i16,
    /// The offset of the first record.
    pub base_offset: i64,
}

/// An answer that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable(&'static str);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an unreadable Produce answer: {}", self.0)
    }
}

impl std::error::Error for Unreadable {}

/// Reads the answer to a Produce request of `version` (one of [`super::frame::VERSIONS`]) with
/// one topic and one partition, `frame` being what follows the length.
///
/// The fields behind the base offset (log start, messages, tagged fields) are left unread: the
/// frame's length has already told where the next answer begins.
///
/// # Errors
/// [`Unreadable`] when it ends early or answers for no partition.
pub fn read(frame: &[u8], version: i16) -> Result<Answer, Unreadable> {
    let mut rest = frame;
    let correlation = i32::from_be_bytes(take(&mut rest)?);
    let tags = uvarint(&mut rest)?;
    for _ in 0..tags {
        uvarint(&mut rest)?;
        let length = uvarint(&mut rest)?;
        skip(&mut rest, length as usize)?;
    }
    if uvarint(&mut rest)? != 2 {
        return Err(Unreadable("not one topic"));
    }
    if version >= 13 {
        skip(&mut rest, 16)?;
    } else {
        let name = uvarint(&mut rest)?.saturating_sub(1);
        skip(&mut rest, name as usize)?;
    }
    if uvarint(&mut rest)? != 2 {
        return Err(Unreadable("not one partition"));
    }
    skip(&mut rest, 4)?;
    let code = i16::from_be_bytes(take(&mut rest)?);
    let base_offset = i64::from_be_bytes(take(&mut rest)?);
    Ok(Answer { correlation, code, base_offset })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Unreadable> {
    let (taken, after) = rest.split_first_chunk().ok_or(Unreadable("it ends early"))?;
    *rest = after;
    Ok(*taken)
}

fn skip(rest: &mut &[u8], bytes: usize) -> Result<(), Unreadable> {
    *rest = rest.get(bytes..).ok_or(Unreadable("it ends early"))?;
    Ok(())
}

fn uvarint(rest: &mut &[u8]) -> Result<u32, Unreadable> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let [byte] = take(rest)?;
        value |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Unreadable("a number of more than five bytes"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::{Bytes, BytesMut};
    use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
    use kafka_protocol::messages::{ProduceResponse, ResponseHeader, TopicName};
    use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::super::frame::VERSIONS;
    use super::*;

    fn encoded(version: i16, code: i16) -> Bytes {
        let partition = PartitionProduceResponse::default()
            .with_index(2)
            .with_error_code(code)
            .with_base_offset(1 << 40)
            .with_error_message((code != 0).then(|| StrBytes::from_static_str("because")));
        let mut topic = TopicProduceResponse::default().with_partition_responses(vec![partition]);
        topic = match version {
            13 => topic.with_topic_id(Uuid::from_u128(77)),
            _ => topic.with_name(TopicName(StrBytes::from_static_str("events"))),
        };
        let body = ProduceResponse::default().with_responses(vec![topic]);
        let header = ResponseHeader::default()
            .with_correlation_id(-5)
            .with_unknown_tagged_fields(BTreeMap::from([(9, Bytes::from_static(b"tag"))]));
        let mut out = BytesMut::new();
        header.encode(&mut out, ProduceResponse::header_version(version)).unwrap();
        body.encode(&mut out, version).unwrap();
        out.freeze()
    }

    #[test]
    fn every_version_is_read() {
        for version in VERSIONS {
            for code in [0, 56] {
                let answer = read(&encoded(version, code), version).unwrap();
                assert_eq!(answer, Answer { correlation: -5, code, base_offset: 1 << 40 });
            }
        }
    }

    #[test]
    fn what_is_cut_before_the_offset_is_unreadable() {
        for version in VERSIONS {
            let whole = encoded(version, 0);
            // Behind the base offset: two times eight bytes, two lists, tagged fields, throttle time.
            let needed = whole.len() - (8 + 8 + 1 + 1 + 1) - 1 - 4 - 1;
            assert!(read(&whole[..needed], version).is_ok());
            for cut in 0..needed {
                assert!(read(&whole[..cut], version).is_err(), "version {version} cut at {cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(data in proptest::collection::vec(any::<u8>(), 0..80), version in 9i16..=13) {
            let _ = read(&data, version);
        }
    }
}
