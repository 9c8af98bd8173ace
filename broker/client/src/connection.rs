//! One connection: frames, correlation ids, versions, timeouts. One request at a time.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, CreatePartitionsRequest,
    CreateTopicsRequest, DeleteGroupsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    DescribeGroupsRequest, DescribeLogDirsRequest, DescribeTransactionsRequest, FetchRequest,
    FindCoordinatorRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest, ListGroupsRequest,
    ListOffsetsRequest, ListTransactionsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
    ProduceRequest, RequestHeader,
};
use kafka_protocol::protocol::{Decodable, HeaderVersion, Request, StrBytes, VersionRange};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::{ClientError, check};
use super::guard;

/// The name under which this client shows in a server's logs.
pub(crate) const CLIENT_ID: &str = "chronik";

/// The largest answer that is read, in bytes. It bounds what a bad server can make us allocate.
const ANSWER_BYTES_MAX: usize = 128 << 20;

/// A request this client speaks, with the versions whose answers [`guard`] knows the shape of.
pub trait RequestVersion: Request {
    /// Lowest and highest.
    const SPOKEN: VersionRange;
}

macro_rules! spoken {
    ($($request:ty => $min:literal..=$max:literal,)*) => {
        $(impl RequestVersion for $request {
            const SPOKEN: VersionRange = VersionRange { min: $min, max: $max };
        })*
    };
}

// Flexible versions that know topics by name; every broker since Kafka 2.8 has them.
spoken! {
    MetadataRequest => 11..=12,
    ProduceRequest => 9..=9,
    FetchRequest => 12..=12,
    ListOffsetsRequest => 6..=9,
    CreateTopicsRequest => 7..=7,
    DeleteTopicsRequest => 6..=6,
    CreatePartitionsRequest => 2..=3,
    DescribeConfigsRequest => 4..=4,
    DescribeLogDirsRequest => 4..=4,
    IncrementalAlterConfigsRequest => 1..=1,
    InitProducerIdRequest => 2..=4,
    FindCoordinatorRequest => 4..=4,
    ListGroupsRequest => 4..=5,
    DescribeGroupsRequest => 5..=5,
    ConsumerGroupHeartbeatRequest => 1..=1,
    ConsumerGroupDescribeRequest => 1..=1,
    OffsetFetchRequest => 8..=9,
    OffsetCommitRequest => 8..=9,
    DeleteGroupsRequest => 2..=2,
    ListTransactionsRequest => 0..=0,
    DescribeTransactionsRequest => 0..=0,
}

/// A connection to one server.
#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: TcpStream,
    timeout: Duration,
    correlation: i32,
    /// What the server offers: (API key, versions).
    offered: Vec<(i16, VersionRange)>,
    /// Set when a call was given up half-way: what comes next would be its answer.
    broken: bool,
}

impl Connection {
    /// Connects to `address` (`host:port`) and asks for the server's versions. `timeout` holds
    /// for the connection attempt and for every later call.
    ///
    /// # Errors
    /// [`ClientError`], with the address.
    pub async fn connect(address: &str, timeout: Duration) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { address: address.to_owned(), source };
        let stream = tokio::time::timeout(timeout, TcpStream::connect(address))
            .await
            .map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut connection = Self {
            address: address.to_owned(),
            stream,
            timeout,
            correlation: 0,
            offered: Vec::new(),
            broken: false,
        };
        connection.negotiate().await?;
        Ok(connection)
    }

    /// The server, as `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether a call failed in a way that leaves the connection unusable.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The versions of an API that the server offers.
    pub fn offered(&self, api: ApiKey) -> Option<VersionRange> {
        self.offered.iter().find(|(key, _)| *key == api as i16).map(|(_, versions)| *versions)
    }

    /// Sends `request` in the highest version both sides speak and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError`]. After an I/O error, a timeout or an unreadable answer the connection
    /// [is broken](Self::is_broken).
    pub async fn call<R: RequestVersion>(&mut self, request: &R) -> Result<R::Response, ClientError> {
        let (api, frame, version) = self.frame(request)?;
        let answer = self.exchange(&frame, api).await?;
        let mut body = self.without_header(answer, R::Response::header_version(version))?;
        let malformed = |what: String| ClientError::Malformed {
            address: self.address.clone(),
            what: format!("{api:?} {what}"),
        };
        guard::check_version(api, version, &body).map_err(|what| malformed(what.to_owned()))?;
        R::Response::decode(&mut body, version).map_err(|error| malformed(error.to_string()))
    }

    /// Sends `request` and waits for nothing: a Produce with `acks=0` has no answer.
    ///
    /// # Errors
    /// [`ClientError`]; that the bytes left says nothing of their arrival.
    pub async fn tell<R: RequestVersion>(&mut self, request: &R) -> Result<(), ClientError> {
        let (_, frame, _) = self.frame(request)?;
        let result = self.stream.write_all(&frame).await;
        result.map_err(|source| self.io(source))
    }

    fn frame<R: RequestVersion>(&mut self, request: &R) -> Result<(ApiKey, Bytes, i16), ClientError> {
        let bad = |what: String| ClientError::Request { api: format!("API {}", R::KEY), what };
        let api = ApiKey::try_from(R::KEY).map_err(|()| bad("unknown API".into()))?;
        let both = self.offered(api).map(|offered| R::SPOKEN.intersect(&offered));
        let Some(versions) = both.filter(|both| !both.is_empty()) else {
            return Err(ClientError::Unsupported { address: self.address.clone(), api: format!("{api:?}") });
        };
        let version = versions.max;
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        kafka_protocol::protocol::Encodable::encode(&header, &mut frame, R::header_version(version))
            .and_then(|()| request.encode(&mut frame, version))
            .map_err(|error| bad(error.to_string()))?;
        let length = i32::try_from(frame.len() - 4).map_err(|_| bad("more than 2 GiB".into()))?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok((api, frame.freeze(), version))
    }

    /// Writes a frame and reads the next one, correlation id included.
    async fn exchange(&mut self, frame: &[u8], api: ApiKey) -> Result<Bytes, ClientError> {
        let after = self.timeout;
        // Until the answer is complete, giving up (also by dropping this future) breaks the line.
        self.broken = true;
        let answer = match timeout(after, exchange(&mut self.stream, frame)).await {
            Err(_) => {
                let address = self.address.clone();
                return Err(ClientError::Timeout { address, api: format!("{api:?}"), after });
            }
            Ok(Err(source)) => return Err(self.io(source)),
            Ok(Ok(answer)) => answer,
        };
        self.broken = false;
        Ok(answer)
    }

    fn without_header(&mut self, answer: Bytes, header_version: i16) -> Result<Bytes, ClientError> {
        let malformed =
            |what: &str| ClientError::Malformed { address: self.address.clone(), what: what.to_owned() };
        let mut rest = answer.as_ref();
        let correlation = rest.try_get_i32().map_err(|_| malformed("it is too short"))?;
        if correlation != self.correlation {
            self.broken = true;
            return Err(malformed("it answers another request"));
        }
        if header_version >= 1 {
            guard::tags(&mut rest).map_err(malformed)?;
        }
        Ok(answer.slice_ref(rest))
    }

    /// ApiVersions 0: every server answers it, and its shape never changed.
    async fn negotiate(&mut self) -> Result<(), ClientError> {
        self.correlation = self.correlation.wrapping_add(1);
        let mut frame = BytesMut::new();
        frame.put_i32(10 + CLIENT_ID.len() as i32);
        frame.put_i16(ApiKey::ApiVersions as i16);
        frame.put_i16(0);
        frame.put_i32(self.correlation);
        frame.put_i16(CLIENT_ID.len() as i16);
        frame.put_slice(CLIENT_ID.as_bytes());
        let answer = self.exchange(&frame, ApiKey::ApiVersions).await?;
        let body = self.without_header(answer, 0)?;
        let (code, offered) = api_versions(&body).ok_or_else(|| ClientError::Malformed {
            address: self.address.clone(),
            what: "ApiVersions is not what Kafka's protocol promises".to_owned(),
        })?;
        check(code, None, || format!("ask {} for its API versions", self.address))?;
        self.offered = offered;
        Ok(())
    }

    fn io(&mut self, source: std::io::Error) -> ClientError {
        self.broken = true;
        ClientError::Io { address: self.address.clone(), source }
    }
}

async fn exchange(stream: &mut TcpStream, frame: &[u8]) -> std::io::Result<Bytes> {
    stream.write_all(frame).await?;
    let length = stream.read_i32().await?;
    let length = usize::try_from(length).ok().filter(|n| *n <= ANSWER_BYTES_MAX).ok_or_else(|| {
        std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("it announced an answer of {length} bytes (is this a Kafka listener without TLS?)"),
        )
    })?;
    // Grown as bytes arrive, not by what the length claims.
    let mut answer = BytesMut::with_capacity(length.min(64 << 10));
    let mut rest = stream.take(length as u64);
    while answer.len() < length {
        if rest.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(answer.freeze())
}

/// Error code and offered versions of an ApiVersions 0 body.
fn api_versions(body: &[u8]) -> Option<(i16, Vec<(i16, VersionRange)>)> {
    let (code, rest) = body.split_first_chunk()?;
    let code = i16::from_be_bytes(*code);
    let Some((count, rest)) = rest.split_first_chunk() else {
        return (code != 0).then(|| (code, Vec::new()));
    };
    let count = usize::try_from(i32::from_be_bytes(*count)).ok()?;
    let rest = rest.get(..count.checked_mul(6)?)?;
    let word = |chunk: &[u8], at: usize| i16::from_be_bytes([chunk[at], chunk[at + 1]]);
    let offered = rest
        .chunks_exact(6)
        .map(|api| (word(api, 0), VersionRange { min: word(api, 2), max: word(api, 4) }))
        .collect();
    Some((code, offered))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const OFFER: [u8; 16] = [0, 0, 0, 0, 0, 1, 0, 3, 0, 0, 0, 13, 0, 0, 0, 0];

    /// A server that answers each request of one connection with the next of `answers`.
    async fn server(answers: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in answers {
                let length = stream.read_i32().await.unwrap();
                let mut request = vec![0; length as usize];
                stream.read_exact(&mut request).await.unwrap();
                let mut out = ((answer.len() + 4) as i32).to_be_bytes().to_vec();
                out.extend_from_slice(&request[4..8]);
                out.extend_from_slice(&answer);
                stream.write_all(&out).await.unwrap();
            }
        });
        address
    }

    fn ask() -> MetadataRequest {
        MetadataRequest::default().with_topics(Some(Vec::new()))
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn it_negotiates_and_refuses_what_is_not_offered() {
        let address = server(vec![OFFER[..12].to_vec()]).await;
        let mut connection = Connection::connect(&address, PATIENCE).await.unwrap();
        assert_eq!(connection.offered(ApiKey::Metadata), Some(VersionRange { min: 0, max: 13 }));
        let error = connection.call(&DeleteTopicsRequest::default()).await.unwrap_err();
        assert!(matches!(error, ClientError::Unsupported { .. }), "{error}");
        assert!(!connection.is_broken());
    }

    #[tokio::test]
    async fn a_hostile_count_is_an_error_and_not_an_abort() {
        // Header tags, throttle time, then four thousand million brokers.
        let hostile = vec![0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
        let address = server(vec![OFFER[..12].to_vec(), hostile]).await;
        let mut connection = Connection::connect(&address, PATIENCE).await.unwrap();
        let error = connection.call(&ask()).await.unwrap_err();
        assert!(matches!(error, ClientError::Malformed { .. }), "{error}");
    }

    #[tokio::test]
    async fn something_that_is_no_kafka_is_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            let _ = stream.read(&mut [0; 64]).await;
        });
        let error = Connection::connect(&address, PATIENCE).await.unwrap_err();
        let ClientError::Io { source, .. } = error else { panic!("{error}") };
        assert!(source.to_string().contains("is this a Kafka listener"), "{source}");
    }

    #[tokio::test]
    async fn a_connection_closed_in_the_middle_is_an_error() {
        let address = server(vec![OFFER[..12].to_vec()]).await;
        let mut connection = Connection::connect(&address, PATIENCE).await.unwrap();
        let error = connection.call(&ask()).await.unwrap_err();
        assert!(matches!(error, ClientError::Io { .. }), "{error}");
        assert!(connection.is_broken());
    }

    #[test]
    fn short_version_lists_are_refused() {
        assert!(api_versions(&OFFER[..12]).is_some());
        for cut in 0..12 {
            assert!(api_versions(&OFFER[..cut]).is_none(), "cut at {cut}");
        }
        assert_eq!(api_versions(&[0, 35]).unwrap().0, 35);
    }
}
