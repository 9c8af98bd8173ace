//! What a handler is given and what it gives back.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ResponseHeader;
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

    /// Works on `answer` at once, whatever of this connection is to be answered before it: a request that
    /// waited behind a long poll with its permit in hand would keep others out. The permit is given back
    /// when the answer is ready.
    pub fn later<T, F>(self, answer: F) -> Reply
    where
        T: Encodable + HeaderVersion + Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let Request { head, permit, broker, received, .. } = self;
        let work = tokio::spawn(async move {
            let body = answer.await;
            drop(permit);
            if let Some(metrics) = broker.metrics.api(head.api_key) {
                metrics.time.observe_since(received);
            }
            let failed = |e| tracing::error!(api = head.api_key, version = head.version, "{e}");
            head.frame(&body).map_err(failed).ok()
        });
        Reply::Later(Box::pin(async move { work.await.ok().flatten() }))
    }

    /// Answers when `answer` is ready, however long that takes, and gives the permit back now. For what somebody else
    /// has in hand already, and keeps within bounds.
    pub fn waiting<T, F>(self, answer: F) -> Reply
    where
        T: Encodable + HeaderVersion + Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let Request { head, broker, received, .. } = self;
        Reply::Later(Box::pin(async move {
            let body = answer.await;
            if let Some(metrics) = broker.metrics.api(head.api_key) {
                metrics.time.observe_since(received);
            }
            let failed = |e| tracing::error!(api = head.api_key, version = head.version, "{e}");
            head.frame(&body).map_err(failed).ok()
        }))
    }
}
