//! Kafka's encoding, driven by its schemas: JSON values to bytes and back, in any version.
//!
//! Integers are numbers, uuids and bytes are strings of hex digits, records are what [`crate::records`] makes of them.
//! What an answer leaves out (a tagged field) is left out of the value. Tagged fields that the schema does not know are kept
//! as `_tags`: an object from the tag to hex digits.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::records;
use crate::schema::{Field, Message, Type};

/// Where tagged fields are that no schema knows.
pub const TAGS: &str = "_tags";

/// Whether a version has all that this body names: its fields, and null where it is null.
pub fn fits(fields: &[Field], version: i16, body: &Value) -> bool {
    let Some(body) = body.as_object() else { return false };
    body.iter().all(|(name, value)| {
        let Some(field) = fields.iter().find(|f| f.name == *name) else { return name == TAGS };
        if !field.versions.contains(version) {
            return field.ignorable;
        }
        match (&field.kind, value) {
            (Type::Records, _) => true,
            (_, Value::Null) => field.nullable(version),
            (Type::Struct(_), value) => fits(&field.fields, version, value),
            (Type::Array(element), Value::Array(elements)) if matches!(**element, Type::Struct(_)) => {
                elements.iter().all(|element| fits(&field.fields, version, element))
            }
            _ => true,
        }
    })
}

/// The bytes of a body. Fields that the version does not have are left out; those that are not named have their defaults. Null
/// is written where it is said, whether or not the schema allows it.
///
/// # Errors
/// When the body is not of this message at all.
pub fn encode(message: &Message, version: i16, body: &Value) -> Result<Vec<u8>> {
    let mut encoder = Encoder { version, flexible: message.flexible(version), out: Vec::new() };
    encoder.fields(&message.fields, body).with_context(|| message.name.clone())?;
    Ok(encoder.out)
}

struct Encoder {
    version: i16,
    flexible: bool,
    out: Vec<u8>,
}

impl Encoder {
    fn fields(&mut self, fields: &[Field], body: &Value) -> Result<()> {
        let body = body.as_object().with_context(|| format!("{body} is no struct"))?;
        for name in body.keys() {
            ensure!(name == TAGS || fields.iter().any(|f| f.name == *name), "no field is named {name}");
        }
        let mut tagged: Vec<(u32, Vec<u8>)> = Vec::new();
        let version = self.version;
        for field in fields.iter().filter(|f| f.versions.contains(version)) {
            let named = body.get(&field.name);
            if let Some(tag) = field.tag(self.version) {
                if let Some(value) = named {
                    let mut inner = Encoder { out: Vec::new(), ..*self };
                    inner.value(field, &field.kind, value)?;
                    tagged.push((tag, inner.out));
                }
                continue;
            }
            let default = field.default();
            self.value(field, &field.kind, named.unwrap_or(&default)).with_context(|| field.name.clone())?;
        }
        if self.flexible {
            for (tag, bytes) in body.get(TAGS).and_then(Value::as_object).into_iter().flatten() {
                tagged.push((tag.parse()?, unhex(bytes.as_str().context("a tag's bytes are hex digits")?)?));
            }
            self.unsigned(tagged.len() as u64);
            for (tag, bytes) in tagged {
                self.unsigned(u64::from(tag));
                self.unsigned(bytes.len() as u64);
                self.out.extend(bytes);
            }
        }
        Ok(())
    }

    fn value(&mut self, field: &Field, kind: &Type, value: &Value) -> Result<()> {
        match kind {
            Type::Bool => self.out.push(u8::from(value.as_bool().context("not a bool")?)),
            Type::Int(bytes) => {
                let value = value.as_i64().with_context(|| format!("{value} is no integer"))?.to_be_bytes();
                self.out.extend(&value[8 - bytes..]);
            }
            Type::Uint16 => {
                let value = value.as_u64().context("not an integer")? as u16;
                self.out.extend(value.to_be_bytes());
            }
            Type::Float64 => self.out.extend(value.as_f64().context("not a number")?.to_be_bytes()),
            Type::Uuid => {
                let bytes = unhex(value.as_str().context("not a uuid")?)?;
                ensure!(bytes.len() == 16, "a uuid of {} bytes", bytes.len());
                self.out.extend(bytes);
            }
            Type::String => self.sized(value.as_str().map(|s| s.as_bytes().to_vec()), 2),
            Type::Bytes => self.sized(value.as_str().map(unhex).transpose()?, 4),
            Type::Records => self.sized(records::encode(value)?, 4),
            Type::Array(element) => {
                let elements = value.as_array();
                ensure!(elements.is_some() || value.is_null(), "{value} is no array");
                self.length(elements.map(Vec::len), 4);
                for value in elements.into_iter().flatten() {
                    self.value(field, element, value)?;
                }
            }
            Type::Struct(_) => {
                // Elements of arrays are never null, and have no byte for it.
                if field.nullable(self.version) && field.kind == *kind {
                    self.out.push(if value.is_null() { 0xff } else { 1 });
                }
                if !value.is_null() {
                    self.fields(&field.fields, value)?;
                }
            }
        }
        Ok(())
    }

    fn sized(&mut self, bytes: Option<Vec<u8>>, width: usize) {
        self.length(bytes.as_ref().map(Vec::len), width);
        self.out.extend(bytes.unwrap_or_default());
    }

    /// A length: of `width` bytes, or one more than it is and as a varint; -1 or 0 for null.
    fn length(&mut self, length: Option<usize>, width: usize) {
        if self.flexible {
            self.unsigned(length.map_or(0, |l| l as u64 + 1));
        } else {
            let length = length.map_or(-1, |l| l as i64).to_be_bytes();
            self.out.extend(&length[8 - width..]);
        }
    }

    fn unsigned(&mut self, mut value: u64) {
        while value > 0x7f {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }
}

/// Reads a body, to its last byte.
///
/// # Errors
/// When it ends early, or goes on, or breaks a rule of the encoding.
pub fn decode(message: &Message, version: i16, bytes: &[u8]) -> Result<Value> {
    let mut decoder = Decoder { version, flexible: message.flexible(version), rest: bytes };
    let body = decoder.fields(&message.fields)?;
    ensure!(decoder.rest.is_empty(), "{} bytes follow", decoder.rest.len());
    Ok(body)
}

/// Skips the tagged fields of a response's header; none are known.
///
/// # Errors
/// When it ends early.
pub fn skip_tags(bytes: &[u8]) -> Result<&[u8]> {
    let mut decoder = Decoder { version: 0, flexible: true, rest: bytes };
    for _ in 0..decoder.unsigned()? {
        decoder.unsigned()?;
        let length = decoder.unsigned()?;
        decoder.take(length as usize)?;
    }
    Ok(decoder.rest)
}

struct Decoder<'a> {
    version: i16,
    flexible: bool,
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    fn fields(&mut self, fields: &[Field]) -> Result<Value> {
        let mut body = Map::new();
        let version = self.version;
        for field in fields.iter().filter(|f| f.versions.contains(version) && f.tag(version).is_none()) {
            let value = self.value(field, &field.kind).with_context(|| field.name.clone())?;
            body.insert(field.name.clone(), value);
        }
        if !self.flexible {
            return Ok(Value::Object(body));
        }
        let mut unknown = Map::new();
        for _ in 0..self.unsigned()? {
            let tag = self.unsigned()?;
            let length = self.unsigned()?;
            let mut inner = Decoder { rest: self.take(length as usize)?, ..*self };
            let field = fields.iter().find(|f| f.tag(version).is_some_and(|t| u64::from(t) == tag));
            match field.filter(|f| f.versions.contains(version)) {
                Some(field) => {
                    let value = inner.value(field, &field.kind).with_context(|| field.name.clone())?;
                    ensure!(inner.rest.is_empty(), "{} is longer than its tag says", field.name);
                    body.insert(field.name.clone(), value);
                }
                None => {
                    unknown.insert(tag.to_string(), json!(hex(inner.rest)));
                }
            }
        }
        if !unknown.is_empty() {
            body.insert(TAGS.to_owned(), Value::Object(unknown));
        }
        Ok(Value::Object(body))
    }

    fn value(&mut self, field: &Field, kind: &Type) -> Result<Value> {
        let version = self.version;
        let null = move |bytes: Option<Value>| match bytes {
            Some(value) => Ok(value),
            None if field.nullable(version) => Ok(Value::Null),
            None => bail!("null, which version {version} does not allow"),
        };
        Ok(match kind {
            Type::Bool => match self.take(1)? {
                [0] => json!(false),
                [1] => json!(true),
                other => bail!("a bool of {other:?}"),
            },
            Type::Int(bytes) => json!(self.signed(*bytes)?),
            Type::Uint16 => json!(self.signed(2)? as u16),
            Type::Float64 => json!(f64::from_bits(self.signed(8)? as u64)),
            Type::Uuid => json!(hex(self.take(16)?)),
            Type::String => {
                let bytes = self.sized(2)?;
                null(bytes.map(std::str::from_utf8).transpose()?.map(|s| json!(s)))?
            }
            Type::Bytes => {
                let bytes = self.sized(4)?;
                null(bytes.map(|b| json!(hex(b))))?
            }
            Type::Records => {
                let bytes = self.sized(4)?;
                null(bytes.map(records::decode))?
            }
            Type::Array(element) => match self.length(4)? {
                None => null(None)?,
                Some(count) => {
                    ensure!(count <= self.rest.len(), "an array of {count}");
                    Value::Array((0..count).map(|_| self.value(field, element)).collect::<Result<_>>()?)
                }
            },
            Type::Struct(_) => {
                let absent = field.nullable(self.version) && field.kind == *kind && self.signed(1)? < 0;
                if absent { Value::Null } else { self.fields(&field.fields)? }
            }
        })
    }

    fn sized(&mut self, width: usize) -> Result<Option<&'a [u8]>> {
        self.length(width)?.map(|length| self.take(length)).transpose()
    }

    fn length(&mut self, width: usize) -> Result<Option<usize>> {
        let length = if self.flexible { self.unsigned()? as i64 - 1 } else { self.signed(width)? };
        ensure!(length >= -1, "a length of {length}");
        Ok(usize::try_from(length).ok())
    }

    fn signed(&mut self, width: usize) -> Result<i64> {
        Ok(signed(self.take(width)?))
    }

    fn unsigned(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        bail!("a varint of more than five bytes")
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).context("it ends early")?;
        self.rest = rest;
        Ok(taken)
    }
}

/// A big-endian integer with its sign.
pub fn signed(bytes: &[u8]) -> i64 {
    let start = if bytes.first().is_some_and(|b| b & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(start, |value, byte| value << 8 | i64::from(*byte))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// # Errors
/// When these are not hex digits, two for each byte.
pub fn unhex(text: &str) -> Result<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}
