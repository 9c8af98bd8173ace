//! Both servers, asked the same.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::ledger::{Asked, Ledger};
use crate::normal::Bindings;
use crate::schema::{Api, Schemas, Versions};
use crate::side::{BRIEF, PATIENCE as ANSWER_PATIENCE, Sent, Side};
use crate::wire;

/// What each of the two said: Kafka, Chronik.
pub type Both = [Value; 2];

/// Errors that say "again, in a moment": a new partition's leader, a coordinator that loads, markers that are being written.
const TRANSIENT: [i64; 4] = [6, 14, 15, 51];
/// How often, and how long apart, such a request is sent again.
const AGAIN: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);
/// How long a condition may take that both servers must come to.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request whose answers are still to come.
pub struct Pending {
    api: String,
    version: i16,
    bodies: Both,
    sent: [Sent; 2],
}

pub struct Pair<'a> {
    pub schemas: &'a Schemas,
    pub sides: [Side; 2],
    /// What `$name` in a body stands for on each side.
    variables: BTreeMap<String, Both>,
    bindings: Bindings,
    pub ledger: Ledger,
    /// What is under way, for the report.
    pub case: String,
    counter: u32,
}

impl<'a> Pair<'a> {
    /// # Errors
    /// When one of them cannot be reached.
    pub fn open(schemas: &'a Schemas, kafka: &str, chronik: &str) -> Result<Self> {
        let api = schemas.api("ApiVersions")?;
        let sides = [Side::open("Kafka", kafka, api)?, Side::open("Chronik", chronik, api)?];
        Ok(Pair {
            schemas,
            sides,
            variables: BTreeMap::new(),
            bindings: Bindings::new(),
            ledger: Ledger::default(),
            case: String::new(),
            counter: 0,
        })
    }

    /// The versions of an API that both serve; none, when one does not.
    pub fn common(&self, api: &Api) -> Versions {
        let [kafka, chronik] = self.sides.each_ref().map(|side| side.versions_of(api).unwrap_or_default());
        let both = kafka.and(chronik);
        // Of Produce both advertise versions that neither serves, for the sake of librdkafka.
        if api.name == "Produce" { both.and(Versions(3, i16::MAX)) } else { both }
    }

    /// The common version of an API that is nearest to this one.
    ///
    /// # Errors
    /// When there is none.
    pub fn near(&self, api: &str, version: i16) -> Result<i16> {
        let common = self.common(self.schemas.api(api)?);
        ensure!(common.0 <= common.1, "no version of {api} is served by both");
        Ok(version.clamp(common.0, common.1))
    }

    /// A number that no other request has.
    pub fn next(&mut self) -> u32 {
        self.counter += 1;
        self.counter
    }

    /// Asks both in the version nearest to this one, and compares. Again, while a server says so.
    ///
    /// # Errors
    /// When a server cannot be connected to, or the body is none of this API.
    pub fn ask(&mut self, api: &str, version: i16, body: Value) -> Result<Both> {
        let version = self.near(api, version)?;
        self.ask_exactly(api, version, &body)
    }

    /// The same in this version, served or not.
    ///
    /// # Errors
    /// As [`Pair::ask`].
    pub fn ask_exactly(&mut self, api: &str, version: i16, body: &Value) -> Result<Both> {
        let pending = self.send("main", api, version, body)?;
        self.receive(pending)
    }

    /// Sends only, on a connection of this name.
    ///
    /// # Errors
    /// As [`Pair::ask`].
    pub fn send(&mut self, connection: &str, api: &str, version: i16, body: &Value) -> Result<Pending> {
        let schema = self.schemas.api(api)?;
        let bodies = [self.filled(body, 0), self.filled(body, 1)];
        let bytes = |body| wire::encode(&schema.request, version, body).with_context(|| format!("{body}"));
        let bytes = [bytes(&bodies[0])?, bytes(&bodies[1])?];
        let [kafka, chronik] = &mut self.sides;
        let sent = [
            kafka.send(connection, schema, version, &bytes[0])?,
            chronik.send(connection, schema, version, &bytes[1])?,
        ];
        Ok(Pending { api: api.to_owned(), version, bodies, sent })
    }

    /// The answers to what was sent.
    ///
    /// # Errors
    /// As [`Pair::ask`].
    pub fn receive(&mut self, pending: Pending) -> Result<Both> {
        let api = self.schemas.api(&pending.api)?;
        let mut answers = [Value::Null, Value::Null];
        for (n, side) in self.sides.iter_mut().enumerate() {
            // What is wrong with a request on purpose does not pass.
            let (again, patience) =
                if self.case.starts_with("mutated") { (0, BRIEF) } else { (AGAIN, ANSWER_PATIENCE) };
            side.patience = patience;
            let mut answer = side.receive(api, &pending.sent[n])?;
            for _ in 0..again {
                if !is_transient(&answer) {
                    break;
                }
                thread::sleep(PAUSE);
                let bytes = wire::encode(&api.request, pending.version, &pending.bodies[n])?;
                let sent = side.send("main", api, pending.version, &bytes)?;
                answer = side.receive(api, &sent)?;
            }
            answers[n] = answer;
        }
        self.compare(&pending.api, pending.version, &pending.bodies[0], answers)
    }

    /// Sends each side bytes in place of a body, and compares.
    ///
    /// # Errors
    /// As [`Pair::ask`].
    pub fn ask_raw(&mut self, api: &str, version: i16, bytes: [&[u8]; 2]) -> Result<Both> {
        let schema = self.schemas.api(api)?;
        let mut answers = [Value::Null, Value::Null];
        for (n, side) in self.sides.iter_mut().enumerate() {
            let mut sent = side.send("main", schema, version, bytes[n])?;
            if schema.name == "ApiVersions" && !side.versions_of(schema).unwrap_or_default().contains(version)
            {
                sent.version = 0;
            }
            answers[n] = side.receive(schema, &sent)?;
        }
        self.compare(api, version, &json!(wire::hex(bytes[0])), answers)
    }

    fn compare(&mut self, api: &str, version: i16, body: &Value, answers: Both) -> Result<Both> {
        let differences = self.bindings.differences(api, &answers[0], &answers[1]);
        let case = self.case.clone();
        let [kafka, chronik] = &answers;
        self.ledger.note(&Asked { api, version, case: &case, body, kafka, chronik }, differences);
        Ok(answers)
    }

    /// Asks both until they answer as they must, without comparing.
    ///
    /// # Errors
    /// When one does not in time.
    pub fn until(&mut self, api: &str, body: &Value, is_so: impl Fn(&Value) -> bool) -> Result<Both> {
        let schema = self.schemas.api(api)?;
        let version = self.near(api, i16::MAX)?;
        let mut answers = [Value::Null, Value::Null];
        for (n, answer) in answers.iter_mut().enumerate() {
            let bytes = wire::encode(&schema.request, version, &self.filled(body, n))?;
            let side = &mut self.sides[n];
            let begun = Instant::now();
            loop {
                let sent = side.send("main", schema, version, &bytes)?;
                *answer = side.receive(schema, &sent)?;
                if is_so(answer) {
                    break;
                }
                ensure!(begun.elapsed() < PATIENCE, "{} goes on answering {api} with {answer}", side.name);
                thread::sleep(PAUSE);
            }
        }
        Ok(answers)
    }

    /// Keeps a part of two answers under a name, for `$name` in later bodies.
    pub fn keep(&mut self, name: &str, answers: &Both, pointer: &str) {
        let values = answers.each_ref().map(|a| a.pointer(pointer).cloned().unwrap_or(Value::Null));
        self.variables.insert(name.to_owned(), values);
    }

    /// A body with what `$name` stands for on a side.
    pub fn filled(&self, body: &Value, side: usize) -> Value {
        match body {
            Value::String(text) => match text.strip_prefix('$').and_then(|name| self.variables.get(name)) {
                Some(values) => values[side].clone(),
                None => body.clone(),
            },
            Value::Array(elements) => elements.iter().map(|e| self.filled(e, side)).collect(),
            Value::Object(fields) => {
                Value::Object(fields.iter().map(|(n, v)| (n.clone(), self.filled(v, side))).collect())
            }
            other => other.clone(),
        }
    }

    /// Closes a connection on both sides.
    pub fn close(&mut self, connection: &str) {
        self.sides.iter_mut().for_each(|side| side.close(connection));
    }
}

fn is_transient(answer: &Value) -> bool {
    match answer {
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            (name.ends_with("ErrorCode") && value.as_i64().is_some_and(|code| TRANSIENT.contains(&code)))
                || is_transient(value)
        }),
        Value::Array(elements) => elements.iter().any(is_transient),
        _ => false,
    }
}
