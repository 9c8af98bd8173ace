//! Kafka's message schemas: JSON with comments, as they ship in the `kafka-clients` jar (its README tells the format).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

/// An inclusive range of versions; empty when the first is above the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Versions(pub i16, pub i16);

impl Default for Versions {
    fn default() -> Self {
        Versions(0, -1)
    }
}

impl TryFrom<String> for Versions {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Ok(match (text.as_str(), text.strip_suffix('+'), text.split_once('-')) {
            ("" | "none", _, _) => Versions::default(),
            (_, Some(from), _) => Versions(from.parse()?, i16::MAX),
            (_, _, Some((from, to))) => Versions(from.parse()?, to.parse()?),
            (one, _, _) => Versions(one.parse()?, one.parse()?),
        })
    }
}

impl Versions {
    pub fn contains(self, version: i16) -> bool {
        (self.0..=self.1).contains(&version)
    }

    /// What both have.
    pub fn and(self, other: Versions) -> Versions {
        Versions(self.0.max(other.0), self.1.min(other.1))
    }

    pub fn all(self) -> impl DoubleEndedIterator<Item = i16> {
        self.0..=self.1
    }
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Type {
    Bool,
    /// Signed, of so many bytes.
    Int(usize),
    Uint16,
    Float64,
    Uuid,
    String,
    Bytes,
    Records,
    Array(Box<Type>),
    Struct(String),
}

impl From<String> for Type {
    fn from(text: String) -> Self {
        match text.as_str() {
            "bool" => Type::Bool,
            "int8" => Type::Int(1),
            "int16" => Type::Int(2),
            "int32" => Type::Int(4),
            "int64" => Type::Int(8),
            "uint16" => Type::Uint16,
            "float64" => Type::Float64,
            "uuid" => Type::Uuid,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "records" => Type::Records,
            other => match other.strip_prefix("[]") {
                Some(element) => Type::Array(Box::new(Type::from(element.to_owned()))),
                None => Type::Struct(other.to_owned()),
            },
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Field {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: Type,
    pub versions: Versions,
    #[serde(default)]
    nullable_versions: Versions,
    #[serde(default)]
    tagged_versions: Versions,
    tag: Option<u32>,
    /// A request for a version without this field is a request all the same.
    #[serde(default)]
    pub ignorable: bool,
    default: Option<Value>,
    /// Of the struct that it holds, or an array of which it holds.
    #[serde(default)]
    pub fields: Vec<Field>,
}

impl Field {
    pub fn nullable(&self, version: i16) -> bool {
        self.nullable_versions.contains(version)
    }

    /// Its tag, where it is a tagged field.
    pub fn tag(&self, version: i16) -> Option<u32> {
        self.tag.filter(|_| self.tagged_versions.contains(version))
    }

    /// What is sent when a request does not name it.
    pub fn default(&self) -> Value {
        let given = self.default.as_ref().map(|d| d.as_str().map_or_else(|| d.to_string(), str::to_owned));
        match (&self.kind, given.as_deref()) {
            (_, Some("null")) => Value::Null,
            (Type::Bool, given) => json!(given.is_some_and(|g| g.eq_ignore_ascii_case("true"))),
            (Type::Int(_) | Type::Uint16, given) => json!(given.and_then(integer).unwrap_or(0)),
            (Type::Float64, _) => json!(0.0),
            (Type::Uuid, _) => json!("0".repeat(32)),
            (Type::String | Type::Bytes, given) => json!(given.unwrap_or_default()),
            (Type::Records, _) => Value::Null,
            (Type::Array(_), _) => json!([]),
            (Type::Struct(_), _) => json!({}),
        }
    }
}

fn integer(text: &str) -> Option<i64> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| i64::from_str_radix(hex, 16).ok())
}

#[derive(Deserialize)]
struct Struct {
    name: String,
    fields: Vec<Field>,
}

/// A request, or an answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    pub name: String,
    r#type: String,
    api_key: Option<i16>,
    #[serde(default)]
    flexible_versions: Versions,
    /// Messages that no version of Kafka serves any more have none.
    #[serde(default)]
    pub fields: Vec<Field>,
    #[serde(default)]
    common_structs: Vec<Struct>,
}

impl Message {
    /// Whether this version has compact lengths and tagged fields.
    pub fn flexible(&self, version: i16) -> bool {
        self.flexible_versions.contains(version)
    }
}

/// An API: its name as Kafka writes it, without `Request`.
pub struct Api {
    pub key: i16,
    pub name: String,
    pub request: Message,
    pub response: Message,
}

/// All of them, by their names.
pub struct Schemas(BTreeMap<String, Api>);

impl Schemas {
    /// Reads all schemas of a directory.
    ///
    /// # Errors
    /// When there are none, or one is not as Kafka's README tells.
    pub fn load(directory: &Path) -> Result<Schemas> {
        let mut halves: BTreeMap<i16, BTreeMap<String, Message>> = BTreeMap::new();
        let entries = fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let mut message: Message = serde_json::from_str(&without_comments(&fs::read_to_string(&path)?))
                .with_context(|| format!("parsing {}", path.display()))?;
            let common = std::mem::take(&mut message.common_structs);
            resolve(&mut message.fields, &common);
            if let Some(key) = message.api_key {
                halves.entry(key).or_default().insert(message.r#type.clone(), message);
            }
        }
        let mut apis = BTreeMap::new();
        for (key, mut halves) in halves {
            if let (Some(request), Some(response)) = (halves.remove("request"), halves.remove("response")) {
                let name = request.name.trim_end_matches("Request").to_owned();
                apis.insert(name.clone(), Api { key, name, request, response });
            }
        }
        ensure!(!apis.is_empty(), "no schemas in {}", directory.display());
        Ok(Schemas(apis))
    }

    /// # Errors
    /// When Kafka has no API of this name.
    pub fn api(&self, name: &str) -> Result<&Api> {
        self.0.get(name).with_context(|| format!("Kafka has no API {name}"))
    }

    pub fn all(&self) -> impl Iterator<Item = &Api> {
        self.0.values()
    }
}

/// Structs that are named where they are used get their fields there.
fn resolve(fields: &mut [Field], common: &[Struct]) {
    for field in fields {
        let element = match &field.kind {
            Type::Array(element) => element.as_ref(),
            kind => kind,
        };
        if let (Type::Struct(name), true) = (element, field.fields.is_empty())
            && let Some(found) = common.iter().find(|c| c.name == *name)
        {
            field.fields.clone_from(&found.fields);
        }
        resolve(&mut field.fields, common);
    }
}

/// Cuts what follows `//`, unless that stands within a string.
fn without_comments(text: &str) -> String {
    let cut = |line: &str| {
        let within = |at: usize| line[..at].matches('"').count() % 2 == 1;
        let end = line.match_indices("//").map(|(at, _)| at).find(|at| !within(*at));
        line[..end.unwrap_or(line.len())].to_owned() + "\n"
    };
    text.lines().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_strings_stay() {
        assert_eq!(without_comments("// a\n\"http://x\" // b"), "\n\"http://x\" \n");
    }

    #[test]
    fn versions_are_ranges() {
        let versions = |text: &str| Versions::try_from(text.to_owned()).unwrap();
        assert_eq!(versions("none"), Versions::default());
        assert_eq!(versions("3+"), Versions(3, i16::MAX));
        assert_eq!(versions("3-12"), Versions(3, 12));
        assert_eq!(versions("7"), Versions(7, 7));
    }
}
