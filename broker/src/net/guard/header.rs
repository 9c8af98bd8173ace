//! The request header: API key, version, correlation id, client id, and in flexible versions tagged fields.

use std::borrow::Cow;

use super::GuardError;
use super::walk::Input;

/// What a request's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderFacts<'a> {
    pub api_key: i16,
    /// As the client wrote it: it may be one that is not supported.
    pub api_version: i16,
    pub correlation_id: i32,
    /// Bytes that are not UTF-8 are replaced, as Kafka does.
    pub client_id: Option<Cow<'a, str>>,
    /// Where the body starts in the frame, in bytes.
    pub header_bytes: usize,
}

/// Reads the header of a frame of any length.
///
/// The header's own version follows from the API and its version: 2, with tagged fields, from the API's first
/// flexible version on, else 1. That holds for versions that are not supported too, so that an ApiVersions
/// request from a client newer than the broker can be answered. Tagged fields are skipped; none is known.
///
/// # Errors
/// [`GuardError`] if the frame has no such header, or is of an API that no broker listener has. Kafka closes
/// the connection.
pub fn check_header(frame: &[u8]) -> Result<HeaderFacts<'_>, GuardError> {
    let mut input = Input::new(frame);
    let api_key = input.int16("RequestHeader.RequestApiKey")?;
    let api_version = input.int16("RequestHeader.RequestApiVersion")?;
    let request = super::request(api_key)?;
    let correlation_id = input.int32("RequestHeader.CorrelationId")?;

    // The client id keeps its int16 length in flexible versions.
    let field = "RequestHeader.ClientId";
    let client_id = match input.length16(field)? {
        Some(length) => Some(String::from_utf8_lossy(input.take(length, field)?)),
        None => None,
    };

    if api_version >= request.flexible_from {
        let field = "RequestHeader tagged fields";
        for _ in 0..input.tagged_count(field)? {
            input.varint(field)?;
            let size = input.varint(field)?;
            input.take(size as usize, field)?;
        }
    }
    Ok(HeaderFacts { api_key, api_version, correlation_id, client_id, header_bytes: input.at })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: [u8; 13] = [0, 3, 0, 1, 0, 0, 0, 7, 0, 2, b'm', b'e', 99];
    const V2: [u8; 16] = [0, 3, 0, 12, 0, 0, 0, 7, 0xff, 0xff, 2, 5, 0, 1, 1, 9];

    #[test]
    fn both_versions() {
        let v1 = check_header(&V1).unwrap();
        assert_eq!((v1.api_key, v1.api_version, v1.correlation_id), (3, 1, 7));
        assert_eq!((v1.client_id.as_deref(), v1.header_bytes), (Some("me"), 12));
        let v2 = check_header(&V2).unwrap();
        assert_eq!((v2.client_id.as_deref(), v2.header_bytes), (None, 16));
    }

    #[test]
    fn no_length_panics() {
        for header in [&V1[..12], &V2[..]] {
            for length in 0..header.len() {
                let refused = check_header(&header[..length]).unwrap_err();
                assert!(matches!(refused, GuardError::Malformed { .. }), "{length}: {refused}");
            }
        }
    }

    #[test]
    fn versions_that_are_not_supported_have_a_header_too() {
        let newer = [0, 18, 0, 99, 0, 0, 0, 7, 0, 0, 0];
        assert_eq!(check_header(&newer).unwrap().header_bytes, 11);
        let negative = [0, 18, 0xff, 0xff, 0, 0, 0, 7, 0, 0];
        assert_eq!(check_header(&negative).unwrap().api_version, -1);
    }

    #[test]
    fn client_ids() {
        let latin1 = [0, 3, 0, 0, 0, 0, 0, 7, 0, 1, 0xe9];
        assert_eq!(check_header(&latin1).unwrap().client_id.as_deref(), Some("\u{fffd}"));
        let negative = [0, 3, 0, 0, 0, 0, 0, 7, 0xff, 0xfe];
        assert_eq!(
            check_header(&negative).unwrap_err().to_string(),
            "RequestHeader.ClientId at byte 8: negative length -2"
        );
    }
}
