//! Requests with one thing wrong: made from a right one, field by field.

use serde_json::{Map, Value, json};

use crate::schema::{Field, Message, Type};

/// What would only wait, or whose answer depends on who is faster: all of a field, or one way to change it.
const LEFT_ALONE: [(&str, &str); 13] = [
    ("FetchRequest", "MaxWaitMs"),
    ("FetchRequest", "MinBytes"),
    ("CreateTopicsRequest", "timeoutMs"),
    ("DeleteTopicsRequest", "TimeoutMs"),
    ("CreatePartitionsRequest", "TimeoutMs"),
    ("DeleteRecordsRequest", "TimeoutMs"),
    ("ListOffsetsRequest", "TimeoutMs"),
    ("ElectLeadersRequest", "TimeoutMs"),
    ("AlterPartitionReassignmentsRequest", "TimeoutMs"),
    // Nothing keeps Kafka from trying to make two thousand million partitions.
    ("CreatePartitionsRequest", "Count"),
    // A second member of one group would wait for the first.
    ("JoinGroupRequest", "GroupId"),
    // Kafka throws halfway, answers nothing, and keeps a group that is never ready again.
    ("JoinGroupRequest", "Protocols twice"),
    // Nobody answers acks=0.
    ("ProduceRequest", "Acks"),
];

/// All bodies that differ from this one in one field, each with a name: other values, null (allowed or not), what is empty,
/// twice, too long, unknown, negative, the least and the most.
pub fn mutations(message: &Message, version: i16, body: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    let mutator = Mutator { message, version };
    if let Some(body) = body.as_object() {
        mutator.fields(&message.fields, body, "", &|changed: Value| changed, &mut found);
    }
    found
}

struct Mutator<'a> {
    message: &'a Message,
    version: i16,
}

impl Mutator<'_> {
    fn fields(
        &self,
        fields: &[Field],
        body: &Map<String, Value>,
        path: &str,
        rebuild: &dyn Fn(Value) -> Value,
        found: &mut Vec<(String, Value)>,
    ) {
        for field in fields.iter().filter(|f| f.versions.contains(self.version)) {
            if LEFT_ALONE.contains(&(self.message.name.as_str(), field.name.as_str())) {
                continue;
            }
            let path = format!("{path}{}", field.name);
            let with = |value: Value| {
                let mut changed = body.clone();
                changed.insert(field.name.clone(), value);
                rebuild(Value::Object(changed))
            };
            let current = body.get(&field.name).cloned().unwrap_or_else(|| field.default());
            for (name, value) in others(&field.kind, &current) {
                let way = format!("{} {name}", field.name);
                if value != current && !LEFT_ALONE.contains(&(self.message.name.as_str(), way.as_str())) {
                    found.push((format!("{path} {name}"), with(value)));
                }
            }
            match (&field.kind, &current) {
                (Type::Struct(_), Value::Object(inner)) => {
                    self.fields(&field.fields, inner, &format!("{path}."), &with, found);
                }
                (Type::Array(_), Value::Array(elements)) => {
                    if let Some(Value::Object(first)) = elements.first() {
                        let rest = &elements[1..];
                        let with_first = |value: Value| with(Value::Array([&[value][..], rest].concat()));
                        self.fields(&field.fields, first, &format!("{path}."), &with_first, found);
                    }
                }
                _ => {}
            }
        }
    }
}

fn others(kind: &Type, current: &Value) -> Vec<(&'static str, Value)> {
    match kind {
        Type::Bool => vec![("flipped", json!(!current.as_bool().unwrap_or_default()))],
        Type::Int(bytes) => {
            let most = i64::MAX >> (64 - 8 * bytes);
            let values = [("0", 0), ("1", 1), ("-1", -1), ("-2", -2), ("least", -most - 1), ("most", most)];
            values.map(|(name, value)| (name, json!(value))).to_vec()
        }
        Type::Uuid => vec![("zero", json!("0".repeat(32))), ("unknown", json!("7".repeat(32)))],
        Type::String => vec![
            ("empty", json!("")),
            ("unknown", json!("nobody-knows")),
            ("odd", json!("what? \u{e9}")),
            ("long", json!("x".repeat(300))),
            ("null", Value::Null),
        ],
        Type::Bytes => vec![("empty", json!("")), ("short", json!("00ff")), ("null", Value::Null)],
        Type::Records => vec![("empty", json!("")), ("short", json!("00")), ("null", Value::Null)],
        Type::Array(_) => {
            let mut values = vec![("empty", json!([])), ("null", Value::Null)];
            if let Some(first) = current.as_array().and_then(|elements| elements.first()) {
                values.push(("twice", json!([first, first])));
            }
            values
        }
        Type::Struct(_) => vec![("null", Value::Null)],
        Type::Uint16 | Type::Float64 => Vec::new(),
    }
}
