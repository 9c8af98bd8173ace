//! What a handler is given and what it gives back.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use thiserror::Error;

use super::Broker;

/// What the broker knows about the connection a request came on.
#[derive(Debug)]
pub struct ConnectionInfo {
    pub peer: SocketAddr,
    /// The name of the listener it came in on: answers give addresses of the same listener.
    pub listener: Arc<str>,
    /// The client's name and version, once it has told them (KIP-511).
    pub software: OnceLock<(StrBytes, StrBytes)>,
}

impl ConnectionInfo {
    pub fn new(peer: SocketAddr, listener: Arc<str>) -> ConnectionInfo {
        ConnectionInfo { peer, listener, software: OnceLock::new() }
    }
}

/// The request header, of any version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    pub api_key: i16,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<StrBytes>,
}

/// Why a frame has no readable header: the connection cannot go on.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HeadError {
    #[error("request of {0} bytes is too short for its header")]
    Short(usize),
    #[error("client id is not UTF-8")]
    ClientId,
    #[error("unknown API key {0}")]
    UnknownApi(i16),
    #[error("malformed tagged fields in the request header")]
    Tags,
}

impl RequestHead {
    /// Reads the header off the front of a frame (without its size), and leaves the body.
    pub fn read(frame: &mut Bytes) -> Result<RequestHead, HeadError> {
        let length = frame.len();
        let short = |_| HeadError::Short(length);
        let api_key = frame.try_get_i16().map_err(short)?;
        let version = frame.try_get_i16().map_err(short)?;
        let correlation_id = frame.try_get_i32().map_err(short)?;
        let known = ApiKey::try_from(api_key).map_err(|()| HeadError::UnknownApi(api_key))?;
        let client_id = match frame.try_get_i16().map_err(short)? {
            n if n < 0 => None,
            n if n as usize > frame.remaining() => return Err(HeadError::Short(length)),
            n => Some(StrBytes::from_utf8(frame.split_to(n as usize)).map_err(|_| HeadError::ClientId)?),
        };
        if known.request_header_version(version) >= 2 {
            let tags = unsigned_varint(frame).ok_or(HeadError::Tags)?;
            for _ in 0..tags {
                unsigned_varint(frame).ok_or(HeadError::Tags)?;
                let size = unsigned_varint(frame).ok_or(HeadError::Tags)? as usize;
                if size > frame.remaining() {
                    return Err(HeadError::Tags);
                }
                frame.advance(size);
            }
        }
        Ok(RequestHead { api_key, version, correlation_id, client_id })
    }
}

fn unsigned_varint(buffer: &mut Bytes) -> Option<u32> {
    let mut value = 0u32;
    for shift in (0..35).step_by(7) {
        let byte = buffer.try_get_u8().ok()?;
        value |= u32::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A request's share of the broker's budgets (memory, requests in work), given back when dropped. A handler
/// that waits drops it first.
#[derive(Default)]
pub struct RequestPermit(Option<Box<dyn Any + Send>>);

impl RequestPermit {
    /// Holds `guard` until dropped.
    pub fn new(guard: impl Any + Send) -> RequestPermit {
        RequestPermit(Some(Box::new(guard)))
    }

    /// For requests that are under no budget.
    pub fn none() -> RequestPermit {
        RequestPermit(None)
    }
}

impl fmt::Debug for RequestPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "RequestPermit(held)" } else { "RequestPermit(none)" })
    }
}

/// One request: its header read, its body checked by the guard but not yet decoded.
pub struct Request {
    pub broker: Arc<Broker>,
    pub conn: Arc<ConnectionInfo>,
    pub head: RequestHead,
    pub body: Bytes,
    pub permit: RequestPermit,
    /// When its last byte was read.
    pub received: std::time::Instant,
}

/// What becomes of a request.
pub enum Reply {
    /// Nothing is to be answered.
    None,
    Now(Frame),
    /// Answered when the future is ready; with nothing when it gives `None`.
    Later(Pin<Box<dyn Future<Output = Option<Frame>> + Send>>),
    /// The connection cannot go on, for this reason.
    Close(String),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::None => f.write_str("None"),
            Reply::Now(frame) => write!(f, "Now({} bytes)", frame.len()),
            Reply::Later(_) => f.write_str("Later"),
            Reply::Close(why) => write!(f, "Close({why:?})"),
        }
    }
}

/// A response as it goes onto the wire: size, header and body, in pieces that are not copied together.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    pub pieces: Vec<Bytes>,
}

impl Frame {
    /// All bytes, the size included.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.iter().all(Bytes::is_empty)
    }
}

/// Why a response could not be built.
#[derive(Debug, Error)]
pub enum FrameError {
    #[error("response cannot be encoded: {0}")]
    Encode(String),
    #[error("response of {0} bytes does not fit a frame")]
    TooLarge(usize),
}

impl RequestHead {
    /// Encodes a response to this request.
    pub fn frame<T: Encodable + HeaderVersion>(&self, body: &T) -> Result<Frame, FrameError> {
        self.frame_of_version(body, self.version)
    }

    /// Encodes a response in another version than the request's: ApiVersions alone needs it.
    pub fn frame_of_version<T: Encodable + HeaderVersion>(
        &self,
        body: &T,
        version: i16,
    ) -> Result<Frame, FrameError> {
        let failed = |e: anyhow::Error| FrameError::Encode(e.to_string());
        let header = ResponseHeader::default().with_correlation_id(self.correlation_id);
        let header_version = T::header_version(version);
        let size = header.compute_size(header_version).map_err(failed)?
            + body.compute_size(version).map_err(failed)?;
        let prefix = i32::try_from(size).map_err(|_| FrameError::TooLarge(size))?;
        let mut buffer = BytesMut::with_capacity(4 + size);
        buffer.put_i32(prefix);
        header.encode(&mut buffer, header_version).map_err(failed)?;
        body.encode(&mut buffer, version).map_err(failed)?;
        // The prefix must never disagree with what follows it: the client would lose its place.
        if buffer.len() != 4 + size {
            return Err(FrameError::Encode(format!("computed {size} bytes, wrote {}", buffer.len() - 4)));
        }
        Ok(Frame { pieces: vec![buffer.freeze()] })
    }

    /// Encodes a response, or says why the connection must close.
    pub fn reply<T: Encodable + HeaderVersion>(&self, body: &T) -> Reply {
        match self.frame(body) {
            Ok(frame) => Reply::Now(frame),
            Err(e) => Reply::Close(e.to_string()),
        }
    }
}

impl Request {
    /// Decodes the body; the error closes the connection.
    pub fn decode<T: Decodable>(&mut self) -> Result<T, Reply> {
        T::decode(&mut self.body, self.head.version)
            .map_err(|e| Reply::Close(format!("malformed request: {e}")))
    }

    /// Answers when `answer` is ready. The request's permit is kept until then.
    pub fn later<T, F>(self, answer: F) -> Reply
    where
        T: Encodable + HeaderVersion + Send,
        F: Future<Output = T> + Send + 'static,
    {
        let Request { head, permit, broker, received, .. } = self;
        Reply::Later(Box::pin(async move {
            let body = answer.await;
            drop(permit);
            if let Some(metrics) = broker.metrics.api(head.api_key) {
                metrics.time.observe_since(received);
            }
            head.frame(&body)
                .map_err(|e| tracing::error!(api = head.api_key, version = head.version, "{e}"))
                .ok()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::RequestHeader;
    use kafka_protocol::protocol::encode_request_header_into_buffer;

    fn header(key: ApiKey, version: i16, client: Option<&'static str>) -> Bytes {
        let mut out = BytesMut::new();
        let header = RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(77)
            .with_client_id(client.map(StrBytes::from_static_str));
        encode_request_header_into_buffer(&mut out, &header).unwrap();
        out.put_slice(b"body");
        out.freeze()
    }

    #[test]
    fn headers_of_all_versions_are_read() {
        for (key, version) in [(ApiKey::Metadata, 1), (ApiKey::Metadata, 12), (ApiKey::ApiVersions, 4)] {
            for client in [None, Some(""), Some("rdkafka")] {
                let mut frame = header(key, version, client);
                let head = RequestHead::read(&mut frame).unwrap();
                assert_eq!((head.api_key, head.version, head.correlation_id), (key as i16, version, 77));
                assert_eq!((head.client_id.as_deref(), &frame[..]), (client, &b"body"[..]));
            }
        }
    }

    #[test]
    fn broken_headers_are_errors() {
        let whole = header(ApiKey::Metadata, 12, Some("abc"));
        let body_at = whole.len() - 4;
        for cut in 0..body_at {
            assert!(RequestHead::read(&mut whole.slice(..cut)).is_err(), "cut at {cut}");
        }
        let read = |bytes: &'static [u8]| RequestHead::read(&mut Bytes::from_static(bytes)).unwrap_err();
        assert_eq!(read(&[0x7f, 0, 0, 0, 0, 0, 0, 1]), HeadError::UnknownApi(0x7f00));
        assert_eq!(read(&[0, 3, 0, 1, 0, 0, 0, 1, 0, 1, 0xff]), HeadError::ClientId);
        assert_eq!(
            read(&[0, 3, 0, 12, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            HeadError::Tags
        );
        assert_eq!(read(&[0, 3, 0, 12, 0, 0, 0, 1, 0xff, 0xff, 1, 0, 9]), HeadError::Tags);
    }
}
