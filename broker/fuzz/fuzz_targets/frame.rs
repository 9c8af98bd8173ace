//! The bytes of a connection, in two reads: frames, then their headers. Nothing may panic, no byte may be
//! lost, and the buffer may not grow beyond what arrived.

#![no_main]

use bytes::BytesMut;
use chronik_broker::net::frame::{FrameSplitter, READ_BUFFER_MIN};
use chronik_broker::net::guard;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
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
});
