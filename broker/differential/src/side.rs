//! One of the two servers: its connections, and what it answers, whatever that is.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::schema::{Api, Versions};
use crate::wire;

/// Whose client this is, as every request says.
pub const CLIENT_ID: &str = "differential";
/// How long an answer may take. Nothing here waits longer on purpose.
pub const PATIENCE: Duration = Duration::from_secs(8);
/// The same of a request that is wrong on purpose: some of those Kafka never answers.
pub const BRIEF: Duration = Duration::from_secs(2);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: i32 = 64 << 20;

/// What stands where an answer should be.
pub const CLOSED: &str = "(closed)";
pub const SILENT: &str = "(silent)";

/// A request on its way.
pub struct Sent {
    /// None when it could not be sent.
    correlation: Option<i32>,
    connection: String,
    /// How the answer is read.
    pub version: i16,
}

pub struct Side {
    pub name: &'static str,
    address: String,
    connections: BTreeMap<String, TcpStream>,
    next_correlation: i32,
    /// How long its next answers may take.
    pub patience: Duration,
    /// What it advertises, by API key.
    pub versions: BTreeMap<i16, Versions>,
}

impl Side {
    /// Connects, and asks for the versions.
    ///
    /// # Errors
    /// When it cannot be reached, or answers ApiVersions with an error.
    pub fn open(name: &'static str, address: &str, api_versions: &Api) -> Result<Side> {
        let mut side = Side {
            name,
            address: address.to_owned(),
            connections: BTreeMap::new(),
            next_correlation: 0,
            patience: PATIENCE,
            versions: BTreeMap::new(),
        };
        let sent = side.send("main", api_versions, 0, &[])?;
        let answer = side.receive(api_versions, &sent)?;
        let keys = answer["ApiKeys"].as_array().with_context(|| format!("{name} answers {answer}"))?;
        for api in keys {
            let number = |name: &str| api[name].as_i64().unwrap_or(-1) as i16;
            side.versions.insert(number("ApiKey"), Versions(number("MinVersion"), number("MaxVersion")));
        }
        Ok(side)
    }

    /// Sends a body that was encoded. That a server does not take it is found when its answer is read.
    ///
    /// # Errors
    /// When the server cannot be connected to.
    pub fn send(&mut self, connection: &str, api: &Api, version: i16, body: &[u8]) -> Result<Sent> {
        self.next_correlation += 1;
        let mut frame = vec![0; 4];
        frame.extend(api.key.to_be_bytes());
        frame.extend(version.to_be_bytes());
        frame.extend(self.next_correlation.to_be_bytes());
        frame.extend((CLIENT_ID.len() as i16).to_be_bytes());
        frame.extend(CLIENT_ID.as_bytes());
        if api.request.flexible(version) {
            frame.push(0);
        }
        frame.extend(body);
        let length = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        let stream = match self.connections.get_mut(connection) {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address)
                    .with_context(|| format!("connecting to {}", self.name))?;
                stream.set_nodelay(true)?;
                self.connections.entry(connection.to_owned()).or_insert(stream)
            }
        };
        let correlation = stream.write_all(&frame).is_ok().then_some(self.next_correlation);
        Ok(Sent { correlation, connection: connection.to_owned(), version })
    }

    /// The answer as a value: a body, or a string that says why there is none.
    ///
    /// # Errors
    /// When the connection is out of step: the fault of the test, not of the server.
    pub fn receive(&mut self, api: &Api, sent: &Sent) -> Result<Value> {
        let frame = match (self.connections.get_mut(&sent.connection), sent.correlation) {
            (Some(stream), Some(_)) => {
                stream.set_read_timeout(Some(self.patience))?;
                read_frame(stream)
            }
            _ => Err(CLOSED),
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(why) => {
                self.connections.remove(&sent.connection);
                return Ok(json!(why));
            }
        };
        let (correlation, body) = frame.split_at_checked(4).context("an answer without a header")?;
        let expected = sent.correlation.unwrap_or_default().to_be_bytes();
        ensure!(correlation == expected, "{}: the answer to another request", self.name);
        // An older client must be able to read that its version is not known.
        let flexible = api.response.flexible(sent.version) && api.name != "ApiVersions";
        let body = if flexible { wire::skip_tags(body) } else { Ok(body) };
        let answer = body.and_then(|body| wire::decode(&api.response, sent.version, body));
        Ok(answer.unwrap_or_else(|why| json!(format!("(unreadable: {why:#}: {})", wire::hex(&frame)))))
    }

    /// Closes a connection, if it is open.
    pub fn close(&mut self, connection: &str) {
        self.connections.remove(connection);
    }

    /// The versions of an API that it advertises.
    pub fn versions_of(&self, api: &Api) -> Option<Versions> {
        self.versions.get(&api.key).copied()
    }
}

fn read_frame(stream: &mut TcpStream) -> Result<Vec<u8>, &'static str> {
    let why = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => SILENT,
        _ => CLOSED,
    };
    let mut length = [0; 4];
    stream.read_exact(&mut length).map_err(why)?;
    let length = i32::from_be_bytes(length);
    if !(0..=ANSWER_BYTES_MAX).contains(&length) {
        return Err("(a frame of no sensible length)");
    }
    let mut frame = vec![0; length as usize];
    stream.read_exact(&mut frame).map_err(why)?;
    Ok(frame)
}
