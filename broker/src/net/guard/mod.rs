//! The request guard: every request is checked here, without allocating, before it is decoded.
//!
//! The decoder believes the sizes that it reads (it allocates an array for as many elements as the wire
//! claims, and panics on a header under 4 bytes), and it is reached before authentication. So the guard walks
//! each request by the table of message shapes generated from Kafka's own schemas, and refuses whatever the
//! decoder could not read, or only at an unreasonable cost in memory. What the guard accepts, the decoder
//! decodes, from the same bytes; `tests/guard_sweep.rs` and the fuzz target `guard` hold them to it.
//!
//! Where Kafka is lenient, so is the guard: bytes after a body are ignored, any byte but 0 is `true`, tagged
//! fields may come in any order, and varints need not be minimal. It is stricter in four places, which no
//! known client needs: a string must be UTF-8 (Kafka replaces what is not; the decoder refuses), a null array
//! is -1 and no other negative count, a known tagged field must have the size that it claims, and a varint
//! must fit into 32 bits.

mod header;
mod shape;
// One row a line, generated so.
#[rustfmt::skip]
mod shapes;
mod walk;

pub use header::{HeaderFacts, check_header};
pub use shape::{Field, Kind, Request, Struct, Tagged, Versions};
pub use shapes::REQUESTS;

/// What a request may cost at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The heap that decoding one request may take, in bytes, beside the request's own buffer.
    pub decoded_bytes_max: usize,
}

impl Default for Limits {
    /// 64 MiB, which is some 700,000 partitions in one request.
    fn default() -> Limits {
        Limits { decoded_bytes_max: 64 << 20 }
    }
}

/// What an accepted request costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// An upper bound of the heap that decoding takes, in bytes: the elements of arrays, and maps of unknown
    /// tagged fields. Strings and records count nothing, because they alias the request's buffer as long as
    /// the decoder is given [`bytes::Bytes`].
    pub decoded_bytes: usize,
    /// Where the body ends, in bytes. Kafka ignores what follows, and so do we.
    pub body_bytes: usize,
}

/// Why a request was refused. The connection cannot be used after it, except that an unsupported version of
/// ApiVersions is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    #[error("unknown API key {api_key}")]
    UnknownApi { api_key: i16 },
    #[error("{name} has no version {version}, only {first} to {last}")]
    UnsupportedVersion { name: &'static str, version: i16, first: i16, last: i16 },
    /// `at` counts bytes from the start of the header or of the body, whichever was checked.
    #[error("{field} at byte {at}: {flaw}")]
    Malformed { field: &'static str, at: usize, flaw: Flaw },
    #[error("{field} at byte {at}: decoding would take {decoded_bytes} bytes or more, over {max}")]
    TooMuchMemory { field: &'static str, at: usize, decoded_bytes: usize, max: usize },
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("needs {needs} bytes of {left}")]
    Truncated { needs: usize, left: usize },
    #[error("negative length {0}")]
    NegativeLength(i32),
    #[error("null, but may not be")]
    Null,
    #[error("not UTF-8")]
    NotUtf8,
    #[error("a varint of more than 32 bits")]
    VarintTooLong,
    #[error("{0} is neither 1 (a struct follows) nor -1 (null)")]
    StructMarker(i8),
    #[error("tag {0} is not valid in this version")]
    TagNotInVersion(u32),
    #[error("a tagged field of {actual} bytes claims {claimed}")]
    TagSize { claimed: usize, actual: usize },
}

/// The shape of a request of a broker listener, by its API key.
pub fn request(api_key: i16) -> Result<&'static Request, GuardError> {
    let row = usize::try_from(api_key).ok().and_then(|key| REQUESTS.get(key));
    row.copied().flatten().ok_or(GuardError::UnknownApi { api_key })
}

/// Checks the body of a request: what follows the header, [`HeaderFacts::header_bytes`] into the frame.
///
/// Allocates nothing and visits no byte twice; record bytes are skipped.
///
/// # Errors
/// [`GuardError`], if the request must not be decoded.
pub fn check_body(api_key: i16, version: i16, body: &[u8], limits: &Limits) -> Result<Cost, GuardError> {
    let request = request(api_key)?;
    let Versions(first, last) = request.versions;
    if !request.versions.contain(version) {
        return Err(GuardError::UnsupportedVersion { name: request.name, version, first, last });
    }
    walk::check(request, version, body, limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata_v0(body: &[u8]) -> Result<Cost, GuardError> {
        check_body(3, 0, body, &Limits::default())
    }

    fn flaw(result: Result<Cost, GuardError>) -> Flaw {
        match result {
            Err(GuardError::Malformed { flaw, .. }) => flaw,
            other => panic!("not malformed: {other:?}"),
        }
    }

    #[test]
    fn the_count_that_would_abort_the_process() {
        let refused = metadata_v0(&[0x7f, 0xff, 0xff, 0xff]).unwrap_err();
        assert_eq!(refused.to_string(), "Metadata.Topics at byte 0: needs 2147483647 bytes of 0");
    }

    #[test]
    fn bytes_after_the_body_are_ignored() {
        let cost = metadata_v0(&[0, 0, 0, 1, 0, 1, b't', 9, 9]).unwrap();
        assert_eq!(cost.body_bytes, 7);
        assert!(cost.decoded_bytes >= 64);
    }

    #[test]
    fn lengths() {
        assert_eq!(flaw(metadata_v0(&[0, 0])), Flaw::Truncated { needs: 4, left: 2 });
        assert_eq!(flaw(metadata_v0(&[0xff, 0xff, 0xff, 0xff])), Flaw::Null);
        assert_eq!(flaw(metadata_v0(&[0xff, 0xff, 0xff, 0xfe])), Flaw::NegativeLength(-2));
        assert_eq!(flaw(metadata_v0(&[0, 0, 0, 1, 0xff, 0xff])), Flaw::Null);
        assert_eq!(flaw(metadata_v0(&[0, 0, 0, 1, 0xff, 0xfe])), Flaw::NegativeLength(-2));
        assert_eq!(flaw(metadata_v0(&[0, 0, 0, 1, 0, 9, b't'])), Flaw::Truncated { needs: 9, left: 1 });
        assert_eq!(flaw(metadata_v0(&[0, 0, 0, 1, 0, 1, 0xff])), Flaw::NotUtf8);
    }

    /// Metadata v12: no topics, two booleans, then the tagged fields that are given.
    fn metadata_v12(tags: &[u8]) -> Result<Cost, GuardError> {
        let body = [&[1, 7, 0], tags].concat();
        check_body(3, 12, &body, &Limits::default())
    }

    #[test]
    fn tagged_fields() {
        assert_eq!(
            metadata_v12(&[0]).unwrap().decoded_bytes,
            metadata_v12(&[0x80, 0]).unwrap().decoded_bytes
        );
        // Out of order and twice, as Kafka 4.3.1 accepts them.
        let unknown = metadata_v12(&[3, 9, 1, b'a', 5, 0, 9, 1, b'b']).unwrap();
        assert_eq!(unknown.body_bytes, 12);
        assert!(unknown.decoded_bytes > metadata_v12(&[0]).unwrap().decoded_bytes + 400);
        assert_eq!(flaw(metadata_v12(&[1, 9, 2, 0])), Flaw::Truncated { needs: 2, left: 1 });
        assert_eq!(flaw(metadata_v12(&[0x80, 0x80, 0x80, 0x80, 0x80, 0])), Flaw::VarintTooLong);
        assert_eq!(flaw(metadata_v12(&[0x80, 0x80, 0x80, 0x80, 0x10])), Flaw::VarintTooLong);
        assert!(matches!(flaw(metadata_v12(&[0xff, 0xff, 0xff, 0xff, 0x0f])), Flaw::Truncated { .. }));
    }

    /// Fetch, flexible, without topics, then the tagged fields that are given.
    fn fetch(version: i16, tags: &[u8]) -> Result<Cost, GuardError> {
        let replica_id: &[u8] = if version < 15 { &[0; 4] } else { &[] };
        let body = [replica_id, &[0; 21], &[1, 1, 1], tags].concat();
        check_body(1, version, &body, &Limits::default())
    }

    #[test]
    fn known_tags_are_read_by_shape() {
        let state = [&[1, 1, 13][..], &[0; 12], &[0]].concat();
        fetch(17, &state).unwrap();
        assert_eq!(flaw(fetch(12, &state)), Flaw::TagNotInVersion(1));
        let short = [&[1, 1, 12][..], &[0; 12], &[0]].concat();
        assert_eq!(flaw(fetch(17, &short)), Flaw::TagSize { claimed: 12, actual: 13 });
    }

    #[test]
    fn a_nullable_struct_says_so_in_one_way() {
        // DescribeTopicPartitions v0: no topics, a limit, the cursor, no tagged fields.
        let cursor = |marker: u8| check_body(75, 0, &[1, 0, 0, 0, 0, marker, 0], &Limits::default());
        cursor(0xff).unwrap();
        assert_eq!(flaw(cursor(0)), Flaw::StructMarker(0));
    }

    #[test]
    fn memory_is_bounded() {
        // A million topics of two bytes each: an empty name and no tagged fields.
        let count = 1_000_000_u32;
        let mut body =
            vec![(count + 1) as u8 | 0x80, ((count + 1) >> 7) as u8 | 0x80, ((count + 1) >> 14) as u8];
        body.extend(std::iter::repeat_n([1, 0], count as usize).flatten());
        body.extend([0, 0, 0, 0]);
        let refused = check_body(3, 9, &body, &Limits::default()).unwrap_err();
        assert!(matches!(refused, GuardError::TooMuchMemory { at: 0, .. }), "{refused}");
        let cost = check_body(3, 9, &body, &Limits { decoded_bytes_max: 1 << 30 }).unwrap();
        assert!(cost.decoded_bytes >= 72_000_000);
    }

    #[test]
    fn what_is_not_served() {
        assert_eq!(request(4).unwrap_err(), GuardError::UnknownApi { api_key: 4 });
        assert_eq!(request(-1).unwrap_err(), GuardError::UnknownApi { api_key: -1 });
        assert_eq!(request(i16::MAX).unwrap_err(), GuardError::UnknownApi { api_key: i16::MAX });
        let refused = check_body(0, 2, &[], &Limits::default()).unwrap_err();
        assert_eq!(refused.to_string(), "Produce has no version 2, only 3 to 13");
    }

    #[test]
    fn the_table_is_indexed_by_key() {
        for (key, row) in REQUESTS.iter().enumerate() {
            assert!(row.is_none_or(|request| request.api_key as usize == key));
        }
    }

    /// The walk is bounded by the bytes that are there only if each element takes at least one.
    #[test]
    fn no_element_is_empty_on_the_wire() {
        fn visit(request: &Request, version: i16, kind: &Kind) {
            match kind {
                Kind::Fixed(size) => assert!(*size > 0),
                Kind::String | Kind::Bytes => {}
                Kind::Array(element) => visit(request, version, element),
                Kind::Struct(of) => {
                    let there = |field: &&Field| field.versions.contain(version);
                    let fields: Vec<_> = of.fields.iter().filter(there).collect();
                    let empty = fields.is_empty() && version < request.flexible_from;
                    assert!(!empty || std::ptr::eq(*of, request.body), "{} v{version}", request.name);
                    let tagged = of.tagged.iter().map(|tagged| &tagged.field).filter(there);
                    fields.into_iter().chain(tagged).for_each(|field| visit(request, version, &field.kind));
                }
            }
        }
        for request in REQUESTS.iter().flatten() {
            for version in request.versions.0..=request.versions.1 {
                visit(request, version, &Kind::Struct(request.body));
            }
        }
    }
}
