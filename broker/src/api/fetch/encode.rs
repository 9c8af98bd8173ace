//! The Fetch response by hand: the record bytes are spliced into the frame, never copied.
//!
//! The layout is that of `FetchResponse.json`; a test holds it against the generated encoder in all versions.

use bytes::{BufMut, Bytes, BytesMut};
use chronik_core::log::AbortedTransaction;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

use super::session::TopicKey;
use crate::api::request::{Frame, FrameError};

/// One partition of a response.
#[derive(Clone, Debug)]
pub struct PartitionAnswer {
    pub index: i32,
    pub error_code: i16,
    pub high_watermark: i64,
    pub last_stable: i64,
    pub log_start: i64,
    /// Epoch and end offset where the client's log and this one part (from version 12 on).
    pub diverging: Option<(i32, i64)>,
    /// Leader and epoch, for a client that believes in another (from version 12 on).
    pub current_leader: Option<(i32, i32)>,
    /// For a reader of decided records: whose it leaves out.
    pub aborted: Option<Vec<AbortedTransaction>>,
    pub records: Vec<Bytes>,
}

impl PartitionAnswer {
    pub fn refused(index: i32, error: ResponseError) -> PartitionAnswer {
        let answer = PartitionAnswer {
            index,
            error_code: error.code(),
            high_watermark: -1,
            last_stable: -1,
            log_start: -1,
            diverging: None,
            current_leader: None,
            aborted: None,
            records: Vec::new(),
        };
        // What Kafka refuses before it asks a log has an empty list there.
        PartitionAnswer { aborted: answer.is_of_nobody().then(Vec::new), ..answer }
    }

    /// Whether the metadata knows no such partition.
    pub fn is_of_nobody(&self) -> bool {
        let unknown = [ResponseError::UnknownTopicOrPartition, ResponseError::UnknownTopicId];
        unknown.iter().any(|error| error.code() == self.error_code)
    }
}

/// A leader a client did not know where to find (from version 16 on).
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub node_id: i32,
    pub host: StrBytes,
    pub port: i32,
    pub rack: Option<StrBytes>,
}

/// A whole response.
#[derive(Clone, Debug, Default)]
pub struct FetchAnswer {
    pub error_code: i16,
    pub session_id: i32,
    /// Consecutive partitions of a topic together.
    pub topics: Vec<(TopicKey, Vec<PartitionAnswer>)>,
    pub endpoints: Vec<Endpoint>,
}

struct Writer {
    buffer: BytesMut,
    flexible: bool,
    /// Pieces to be put in before the byte at this place of `buffer`.
    splices: Vec<(usize, Vec<Bytes>)>,
}

impl Writer {
    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.put_u8(value as u8);
    }

    fn array(&mut self, length: usize) -> Result<(), FrameError> {
        let length = i32::try_from(length).map_err(|_| FrameError::TooLarge(length))?;
        if self.flexible {
            self.varint(length as u32 + 1)
        } else {
            self.buffer.put_i32(length)
        }
        Ok(())
    }

    fn string(&mut self, value: &str) -> Result<(), FrameError> {
        let length = i16::try_from(value.len()).map_err(|_| FrameError::TooLarge(value.len()))?;
        if self.flexible {
            self.varint(length as u32 + 1)
        } else {
            self.buffer.put_i16(length)
        }
        self.buffer.put_slice(value.as_bytes());
        Ok(())
    }

    fn no_tags(&mut self) {
        if self.flexible {
            self.buffer.put_u8(0);
        }
    }
}

/// Encodes a response to the request of this correlation id and version (4 to 18).
pub fn encode(answer: FetchAnswer, correlation_id: i32, version: i16) -> Result<Frame, FrameError> {
    let partitions: usize = answer.topics.iter().map(|(_, p)| p.len()).sum();
    let aborted = answer.topics.iter().flat_map(|(_, p)| p).filter_map(|p| p.aborted.as_ref());
    let aborted: usize = aborted.map(Vec::len).sum();
    let buffer = BytesMut::with_capacity(64 + answer.topics.len() * 32 + partitions * 64 + aborted * 17);
    let mut w = Writer { buffer, flexible: version >= 12, splices: Vec::new() };
    w.buffer.put_i32(0); // The size, once it is known.
    w.buffer.put_i32(correlation_id);
    w.no_tags();
    w.buffer.put_i32(0); // Throttle time.
    if version >= 7 {
        w.buffer.put_i16(answer.error_code);
        w.buffer.put_i32(answer.session_id);
    }
    w.array(answer.topics.len())?;
    for (key, partitions) in answer.topics {
        match key {
            TopicKey::Name(TopicName(name)) => w.string(&name)?,
            TopicKey::Id(id) => w.buffer.put_slice(id.as_bytes()),
        }
        w.array(partitions.len())?;
        for p in partitions {
            partition(&mut w, p, version)?;
        }
        w.no_tags();
    }
    if version >= 16 && !answer.endpoints.is_empty() {
        endpoints(&mut w, &answer.endpoints)?;
    } else {
        w.no_tags();
    }
    finish(w)
}

fn partition(w: &mut Writer, p: PartitionAnswer, version: i16) -> Result<(), FrameError> {
    w.buffer.put_i32(p.index);
    w.buffer.put_i16(p.error_code);
    w.buffer.put_i64(p.high_watermark);
    w.buffer.put_i64(p.last_stable);
    if version >= 5 {
        w.buffer.put_i64(p.log_start);
    }
    match (&p.aborted, w.flexible) {
        (Some(aborted), _) => {
            w.array(aborted.len())?;
            for transaction in aborted {
                w.buffer.put_i64(transaction.producer_id.0);
                w.buffer.put_i64(transaction.first_offset);
                w.no_tags();
            }
        }
        (None, true) => w.buffer.put_u8(0),
        (None, false) => w.buffer.put_i32(-1),
    }
    if version >= 11 {
        w.buffer.put_i32(-1); // Preferred read replica.
    }
    // Never null: librdkafka takes a null for a broken response.
    w.array(p.records.iter().map(Bytes::len).sum())?;
    w.splices.push((w.buffer.len(), p.records));
    if w.flexible {
        w.buffer.put_u8(u8::from(p.diverging.is_some()) + u8::from(p.current_leader.is_some()));
        if let Some((epoch, end_offset)) = p.diverging {
            w.buffer.put_slice(&[0, 13]); // Tag, and size.
            w.buffer.put_i32(epoch);
            w.buffer.put_i64(end_offset);
            w.no_tags();
        }
        if let Some((leader, epoch)) = p.current_leader {
            w.buffer.put_slice(&[1, 9]);
            w.buffer.put_i32(leader);
            w.buffer.put_i32(epoch);
            w.no_tags();
        }
    }
    Ok(())
}

fn endpoints(w: &mut Writer, endpoints: &[Endpoint]) -> Result<(), FrameError> {
    let mut tag = Writer { buffer: BytesMut::new(), flexible: true, splices: Vec::new() };
    tag.array(endpoints.len())?;
    for endpoint in endpoints {
        tag.buffer.put_i32(endpoint.node_id);
        tag.string(&endpoint.host)?;
        tag.buffer.put_i32(endpoint.port);
        match &endpoint.rack {
            Some(rack) => tag.string(rack)?,
            None => tag.buffer.put_u8(0),
        }
        tag.no_tags();
    }
    w.buffer.put_slice(&[1, 0]); // One tag, number 0.
    w.varint(u32::try_from(tag.buffer.len()).map_err(|_| FrameError::TooLarge(tag.buffer.len()))?);
    w.buffer.put_slice(&tag.buffer);
    Ok(())
}

/// Fills in the size, and cuts the frame where records belong.
fn finish(mut w: Writer) -> Result<Frame, FrameError> {
    let spliced: usize = w.splices.iter().flat_map(|(_, pieces)| pieces).map(Bytes::len).sum();
    let size = w.buffer.len() - 4 + spliced;
    let prefix = i32::try_from(size).map_err(|_| FrameError::TooLarge(size))?;
    if let Some(place) = w.buffer.first_chunk_mut() {
        *place = prefix.to_be_bytes();
    }
    let mut rest = w.buffer.freeze();
    let mut pieces = Vec::new();
    let mut taken = 0;
    for (at, records) in w.splices {
        if records.iter().any(|r| !r.is_empty()) {
            pieces.push(rest.split_to(at - taken));
            taken = at;
            pieces.extend(records.into_iter().filter(|r| !r.is_empty()));
        }
    }
    pieces.push(rest);
    Ok(Frame { pieces })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{RequestHead, text};
    use chronik_core::ids::ProducerId;
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction as WireAborted, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch,
        NodeEndpoint, PartitionData,
    };
    use kafka_protocol::messages::{BrokerId, FetchResponse};
    use uuid::Uuid;

    fn aborted(transaction: &AbortedTransaction) -> WireAborted {
        WireAborted::default()
            .with_producer_id(transaction.producer_id.0.into())
            .with_first_offset(transaction.first_offset)
    }

    fn generated(answer: &FetchAnswer, version: i16) -> Bytes {
        let partition = |p: &PartitionAnswer| {
            let mut data = PartitionData::default()
                .with_partition_index(p.index)
                .with_error_code(p.error_code)
                .with_high_watermark(p.high_watermark)
                .with_last_stable_offset(p.last_stable)
                .with_log_start_offset(p.log_start)
                .with_aborted_transactions(p.aborted.as_ref().map(|all| all.iter().map(aborted).collect()))
                .with_preferred_read_replica(BrokerId(-1))
                .with_records(Some(p.records.concat().into()));
            if let Some((epoch, end)) = p.diverging {
                data.diverging_epoch = EpochEndOffset::default().with_epoch(epoch).with_end_offset(end);
            }
            if let Some((leader, epoch)) = p.current_leader {
                data.current_leader =
                    LeaderIdAndEpoch::default().with_leader_id(BrokerId(leader)).with_leader_epoch(epoch);
            }
            data
        };
        let topic = |(key, partitions): &(TopicKey, Vec<PartitionAnswer>)| {
            let topic =
                FetchableTopicResponse::default().with_partitions(partitions.iter().map(partition).collect());
            match key {
                TopicKey::Name(name) => topic.with_topic(name.clone()),
                TopicKey::Id(id) => topic.with_topic_id(*id),
            }
        };
        let endpoint = |e: &Endpoint| {
            NodeEndpoint::default()
                .with_node_id(BrokerId(e.node_id))
                .with_host(e.host.clone())
                .with_port(e.port)
                .with_rack(e.rack.clone())
        };
        let response = FetchResponse::default()
            .with_error_code(answer.error_code)
            .with_session_id(answer.session_id)
            .with_responses(answer.topics.iter().map(topic).collect())
            .with_node_endpoints(answer.endpoints.iter().map(endpoint).collect());
        let head = RequestHead { api_key: 1, version, correlation_id: 99, client_id: None };
        head.frame(&response).unwrap().pieces.concat().into()
    }

    fn transaction(producer: i64, first_offset: i64) -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId(producer),
            first_offset,
            last_offset: first_offset + 9,
            last_stable_offset: first_offset + 10,
        }
    }

    #[test]
    fn equals_the_generated_encoding_in_all_versions() {
        for version in 4..=18 {
            let plain = PartitionAnswer {
                index: 0,
                error_code: 0,
                high_watermark: 1 << 40,
                last_stable: 77,
                log_start: if version >= 5 { 5 } else { -1 },
                diverging: None,
                current_leader: None,
                aborted: Some(vec![transaction(7, 40), transaction(1 << 33, 3)]),
                records: vec![Bytes::from_static(b"one"), Bytes::new(), Bytes::from(vec![7; 300])],
            };
            let empty = PartitionAnswer { index: 1, records: vec![], aborted: None, ..plain.clone() };
            let mut strange = PartitionAnswer { index: 2, error_code: 6, ..empty.clone() };
            if version >= 12 {
                strange.diverging = Some((3, 1000));
                strange.current_leader = Some((2, 9));
            }
            let key = |n: u8| match version {
                13.. => TopicKey::Id(Uuid::from_bytes([n; 16])),
                _ => TopicKey::Name(TopicName(text("t".repeat(usize::from(n) * 100)))),
            };
            let rack = |rack: Option<&str>| Endpoint {
                node_id: 2,
                host: text("host-2.example"),
                port: 9092,
                rack: rack.map(text),
            };
            let answer = FetchAnswer {
                error_code: if version >= 7 { 71 } else { 0 },
                session_id: if version >= 7 { 12345 } else { 0 },
                topics: vec![(key(1), vec![plain.clone(), empty]), (key(2), vec![strange, plain])],
                endpoints: if version >= 16 { vec![rack(None), rack(Some("r"))] } else { vec![] },
            };
            for answer in [answer, FetchAnswer::default()] {
                let frame = encode(answer.clone(), 99, version).unwrap();
                assert_eq!(frame.pieces.concat(), generated(&answer, version), "version {version}");
                assert_eq!(frame.len(), frame.pieces.concat().len());
            }
        }
    }

    #[test]
    fn records_are_not_copied() {
        let records = Bytes::from(vec![1; 5000]);
        let partition = PartitionAnswer {
            index: 0,
            error_code: 0,
            high_watermark: 1,
            last_stable: 1,
            log_start: 0,
            diverging: None,
            current_leader: None,
            aborted: Some(vec![]),
            records: vec![records.clone()],
        };
        let topics = vec![(TopicKey::Name(TopicName(text("a"))), vec![partition])];
        let frame = encode(FetchAnswer { topics, ..FetchAnswer::default() }, 1, 12).unwrap();
        assert!(frame.pieces.iter().any(|piece| piece.as_ptr() == records.as_ptr()));
        assert_eq!(frame.pieces.len(), 3);
    }
}
