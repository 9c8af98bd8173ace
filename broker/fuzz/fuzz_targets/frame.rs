//! The bytes of a connection, in two reads: frames, then their headers. Nothing may panic, no byte may be
//! lost, and the buffer may not grow beyond what arrived.

#![no_main]

use bytes::BytesMut;
use chronik_broker::net::frame::{FrameSplitter, READ_BUFFER_MIN};
use chronik_broker::net::guard;
use chronik_fuzz::every_request::Row;
use chronik_fuzz::seeds;
use kafka_protocol::messages::RequestHeader;
use kafka_protocol::protocol::{Encodable, StrBytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write(seed), |data| run(data));

/// Where the reads are cut, then one frame: a header, and a little of the body.
fn seed(row: &Row, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = BytesMut::new();
    RequestHeader::default()
        .with_request_api_key(row.api_key)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("seed")))
        .encode(&mut frame, (row.header_version)(version))
        .expect("a header encodes");
    frame.extend_from_slice(&body[..body.len().min(20)]);
    let size = (frame.len() as u32).to_be_bytes();
    [&[9], &size[..], &frame[..]].concat()
}

fn run(data: &[u8]) {
    let Some((&cut, wire)) = data.split_first() else { return };
    let (first, second) = wire.split_at(usize::from(cut).min(wire.len()));
    let splitter = FrameSplitter::new(1 << 20);
    let mut buffer = BytesMut::new();
    let mut taken = 0;
    for read in [first, second] {
        if splitter.reserve(&mut buffer).is_err() {
            return;
        }
        assert!(buffer.capacity() <= 2 * wire.len() + 2 * READ_BUFFER_MIN);
        buffer.extend_from_slice(read);
        loop {
            let before = buffer.len();
            let Ok(next) = splitter.next_frame(&mut buffer) else {
                assert_eq!(buffer.len(), before);
                return;
            };
            let Some(frame) = next else { break };
            assert_eq!(&frame[..], &wire[taken + 4..taken + 4 + frame.len()]);
            taken += 4 + frame.len();
            if let Ok(facts) = guard::check_header(&frame) {
                assert!(facts.header_bytes <= frame.len());
            }
        }
    }
    assert_eq!(&buffer[..], &wire[taken..]);
}
