//! The request guard against the decoder, for every request of a broker listener in every version: what the
//! guard accepts decodes, from the same bytes, and within the memory that the guard said; what a client
//! sends passes the guard; what is cut short does not.

// The allocator that counts what the decoder takes has to be unsafe.
#![allow(unsafe_code)]

mod every_request;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};
use chronik_broker::net::guard::{self, Cost, Limits, REQUESTS};
use every_request::wire::{self, Random};
use every_request::{Row, rows};
use kafka_protocol::messages::RequestHeader;
use kafka_protocol::protocol::{Encodable, StrBytes};

/// Counts the live bytes of each thread and their peak.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counters any more, and nothing to measure.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call is passed to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those of `System.alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are those of `System.dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The heap that `work` takes at its peak, in bytes.
fn heap_peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = work();
    (result, (PEAK.get() - before) as usize)
}

fn each_version(mut visit: impl FnMut(&Row, i16)) {
    for row in rows() {
        for version in row.versions.min..=row.versions.max {
            visit(&row, version);
        }
    }
}

fn check(row: &Row, version: i16, body: &[u8]) -> Result<Cost, guard::GuardError> {
    guard::check_body(row.api_key, version, body, &Limits::default())
}

/// Decodes what the guard has accepted at `cost`, and holds the guard to it. Returns the heap it took.
fn decode_accepted(row: &Row, version: i16, body: &[u8], cost: Cost) -> usize {
    let mut input = Bytes::copy_from_slice(body);
    let decoded = catch_unwind(AssertUnwindSafe(|| heap_peak(|| (row.decode)(&mut input, version))));
    let context = || format!("API {} v{version}, {cost:?}, body {body:02x?}", row.api_key);
    let (result, heap) = decoded.unwrap_or_else(|_| panic!("the decoder panicked: {}", context()));
    if let Err(error) = result {
        panic!("the guard accepted what does not decode ({error}): {}", context());
    }
    assert_eq!(body.len() - input.len(), cost.body_bytes, "the guard read other bytes: {}", context());
    assert!(heap <= cost.decoded_bytes, "decoding took {heap} bytes: {}", context());
    heap
}

#[test]
fn every_shape_has_a_decoder_and_every_decoder_a_shape() {
    // The decoder has no streams groups (KIP-1071).
    let without_decoder: Vec<i16> = REQUESTS
        .iter()
        .flatten()
        .map(|request| request.api_key)
        .filter(|key| rows().iter().all(|row| row.api_key != *key))
        .collect();
    assert_eq!(without_decoder, [88, 89]);
    each_version(|row, version| {
        let request = guard::request(row.api_key).unwrap();
        assert!(request.versions.contain(version), "{} v{version}", request.name);
        let header = if version >= request.flexible_from { 2 } else { 1 };
        assert_eq!((row.header_version)(version), header, "{} v{version}", request.name);
    });
}

#[test]
fn default_requests_pass() {
    each_version(|row, version| {
        let body = (row.encode_default)(version).unwrap();
        let cost = check(row, version, &body).unwrap();
        assert_eq!(cost.body_bytes, body.len());
        decode_accepted(row, version, &body, cost);
    });
}

#[test]
fn random_requests_pass_and_the_estimate_is_close() {
    let mut random = Random(1);
    let (mut estimated, mut taken) = (0, 0);
    each_version(|row, version| {
        let request = guard::request(row.api_key).unwrap();
        for _ in 0..50 {
            let body = wire::body(request, version, &mut random);
            let cost = check(row, version, &body).unwrap_or_else(|e| panic!("v{version}: {e}: {body:02x?}"));
            assert_eq!(cost.body_bytes, body.len());
            estimated += cost.decoded_bytes;
            taken += decode_accepted(row, version, &body, cost);

            // The same request as the client library writes it.
            let encoded = (row.reencode)(&mut Bytes::from(body), version)
                .unwrap_or_else(|e| panic!("{} v{version}: {e}", request.name));
            assert_eq!(check(row, version, &encoded).unwrap().body_bytes, encoded.len());
            assert_eq!((row.reencode)(&mut encoded.clone(), version).unwrap(), encoded);
        }
    });
    assert!(estimated < 2 * taken, "{estimated} bytes estimated, {taken} taken");
}

/// The map of unknown tagged fields costs most when its nodes are filled badly.
#[test]
fn a_map_of_many_tags_is_within_the_estimate() {
    let mut random = Random(5);
    let metadata = rows().into_iter().find(|row| row.api_key == 3).unwrap();
    for tags in [1, 11, 12, 17, 100, 1000, 20_000_u32] {
        for order in 0..3 {
            let order: Vec<u32> = match order {
                0 => (0..tags).collect(),
                1 => (0..tags).rev().collect(),
                _ => (0..tags).map(|_| random.next() as u32 >> 8).collect(),
            };
            let mut body = vec![1, 0, 0];
            wire::put_varint(&mut body, tags);
            for tag in order {
                wire::put_varint(&mut body, tag);
                body.push(0);
            }
            let cost = check(&metadata, 12, &body).unwrap();
            decode_accepted(&metadata, 12, &body, cost);
        }
    }
}

#[test]
fn no_truncated_request_passes() {
    let mut random = Random(2);
    each_version(|row, version| {
        let request = guard::request(row.api_key).unwrap();
        for _ in 0..3 {
            let body = wire::body(request, version, &mut random);
            for length in 0..body.len().min(600) {
                let accepted = check(row, version, &body[..length]);
                assert!(accepted.is_err(), "{} v{version}: {:02x?}", request.name, &body[..length]);
            }
        }
    });
}

#[test]
fn no_mutated_request_harms_the_decoder() {
    let mut random = Random(3);
    let (mut accepted, mut refused) = (0, 0);
    each_version(|row, version| {
        let request = guard::request(row.api_key).unwrap();
        for _ in 0..300 {
            let mut body = wire::body(request, version, &mut random);
            for _ in 0..1 + random.below(3) {
                mutate(&mut body, &mut random);
            }
            match check(row, version, &body) {
                Ok(cost) => {
                    decode_accepted(row, version, &body, cost);
                    accepted += 1;
                }
                Err(_) => refused += 1,
            }
        }
    });
    // Both outcomes must be common, or the sweep has tested nothing.
    assert!(accepted > 5000 && refused > 5000, "{accepted} accepted, {refused} refused");
}

fn mutate(body: &mut Vec<u8>, random: &mut Random) {
    const LENGTHS: [i32; 7] = [-1, -2, 0, 1, i32::MAX, i32::MIN, 0x00ff_ffff];
    let at = random.below(body.len() + 1);
    match random.below(6) {
        0 if at < body.len() => body[at] ^= 1 << random.below(8),
        1 if at < body.len() => body[at] = random.next() as u8,
        2 => {
            let length = LENGTHS[random.below(LENGTHS.len())].to_be_bytes();
            let end = (at + 4).min(body.len());
            body.splice(at..end, length);
        }
        3 => {
            let mut varint = Vec::new();
            wire::put_varint(&mut varint, random.next() as u32 >> random.below(32));
            body.splice(at..at, varint);
        }
        4 => body.truncate(at),
        _ => {
            let end = (at + random.below(8)).min(body.len());
            let copy = body[at..end].to_vec();
            let to = random.below(body.len() + 1);
            body.splice(to..to, copy);
        }
    }
}

#[test]
fn headers_as_clients_write_them() {
    for client_id in [None, Some(""), Some("größe")] {
        each_version(|row, version| {
            let mut header = RequestHeader::default()
                .with_request_api_key(row.api_key)
                .with_request_api_version(version)
                .with_correlation_id(-7)
                .with_client_id(client_id.map(StrBytes::from_static_str));
            let header_version = (row.header_version)(version);
            if header_version == 2 {
                header.unknown_tagged_fields.insert(300, Bytes::from_static(&[1, 2, 3]));
            }
            let mut frame = BytesMut::new();
            header.encode(&mut frame, header_version).unwrap();
            let length = frame.len();
            frame.extend_from_slice(&[0xff; 9]);

            let facts = guard::check_header(&frame).unwrap();
            assert_eq!((facts.api_key, facts.api_version), (row.api_key, version));
            assert_eq!((facts.correlation_id, facts.client_id.as_deref()), (-7, client_id));
            assert_eq!(facts.header_bytes, length);
            for length in 0..length {
                guard::check_header(&frame[..length]).unwrap_err();
            }
        });
    }
}
