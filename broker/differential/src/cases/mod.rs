//! What is asked. A [`Case`] is one request, sent in every version that has its fields; a [`Scenario`] is a course of them, run
//! for every version of the API it is about, with names of its own. Both servers are asked in the same order, so that what one
//! request changes the next one finds.

mod admin;
mod configs;
mod data;
mod fixture;
mod group_life;
mod groups;
mod more;
mod transactions;

use anyhow::Result;
use serde_json::{Value, json};

use crate::mutate::mutations;
use crate::pair::Pair;
use crate::wire;

pub struct Case {
    pub api: &'static str,
    pub name: &'static str,
    /// `{n}` in a string is a number that no other request has; `$name` is what was kept under that name.
    pub body: Value,
    /// Whether it is also sent with one thing wrong, in all ways ([`crate::mutate`]).
    pub mutated: bool,
}

pub fn case(api: &'static str, name: &'static str, body: Value) -> Case {
    Case { api, name, body, mutated: false }
}

/// The right request that wrong ones are made from.
pub fn sample(api: &'static str, body: Value) -> Case {
    Case { api, name: "sample", body, mutated: true }
}

/// A body with more fields, or with others in their place.
pub fn json_with(mut body: Value, fields: &Value) -> Value {
    for (name, value) in fields.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

pub struct Scenario {
    /// The API whose versions it is run in.
    pub api: &'static str,
    pub name: &'static str,
    pub run: fn(&mut Pair<'_>, i16) -> Result<()>,
}

/// Sends everything, or what is about one API.
///
/// # Errors
/// When a server cannot be reached, or does not come to what all cases are built on.
pub fn run(pair: &mut Pair<'_>, only: Option<&str>) -> Result<()> {
    let wanted = |api: &str| only.is_none_or(|only| only == api);
    pair.case = "fixture".to_owned();
    fixture::build(pair)?;
    let cases = [
        data::cases(),
        admin::cases(),
        configs::cases(),
        groups::cases(),
        transactions::cases(),
        more::cases(),
    ];
    for case in cases.into_iter().flatten().filter(|case| wanted(case.api)) {
        if let Err(why) = send(pair, &case) {
            pair.ledger.broken.push(format!("{} {}: {why:#}", case.api, pair.case));
        }
    }
    let scenarios = [
        data::SCENARIOS,
        admin::SCENARIOS,
        groups::SCENARIOS,
        group_life::SCENARIOS,
        transactions::SCENARIOS,
    ];
    for scenario in scenarios.into_iter().flatten() {
        let api = pair.schemas.api(scenario.api)?;
        for version in pair.common(api).all().filter(|_| wanted(scenario.api)) {
            pair.case = format!("{}: v{version}", scenario.name);
            // What one answer lacks, a later request cannot have: the next course is another matter.
            if let Err(why) = (scenario.run)(pair, version) {
                pair.ledger.broken.push(format!("{} {}: {why:#}", scenario.api, pair.case));
            }
        }
    }
    for api in pair.schemas.all().filter(|api| wanted(&api.name)) {
        unserved(pair, &api.name)?;
    }
    Ok(())
}

fn send(pair: &mut Pair<'_>, case: &Case) -> Result<()> {
    let api = pair.schemas.api(case.api)?;
    if case.api == "DescribeConfigs" {
        fixture::catch_up(pair)?;
    }
    for version in pair.common(api).all() {
        if !wire::fits(&api.request.fields, version, &case.body) {
            continue;
        }
        pair.case = case.name.to_owned();
        let body = numbered(&case.body, pair.next());
        pair.ask_exactly(case.api, version, &body)?;
        if !case.mutated {
            continue;
        }
        for (what, body) in mutations(&api.request, version, &case.body) {
            pair.case = format!("mutated: {what}");
            let body = numbered(&body, pair.next());
            pair.ask_exactly(case.api, version, &body)?;
        }
        malformed(pair, case, version)?;
    }
    Ok(())
}

/// Bodies that are cut short, go on, or have a tag that nobody knows.
fn malformed(pair: &mut Pair<'_>, case: &Case, version: i16) -> Result<()> {
    let api = pair.schemas.api(case.api)?;
    if api.request.flexible(version) {
        pair.case = "malformed: an unknown tag".to_owned();
        let mut body = numbered(&case.body, pair.next());
        body[wire::TAGS] = json!({"9999": "0102"});
        pair.ask_exactly(case.api, version, &body)?;
    }
    type Bend = fn(&[u8]) -> Vec<u8>;
    let shapes: [(&str, Bend); 3] = [
        ("cut", |bytes| bytes[..bytes.len().saturating_sub(1)].to_vec()),
        ("empty", |_| Vec::new()),
        ("going on", |bytes| [bytes, &[0]].concat()),
    ];
    for (what, shape) in shapes {
        pair.case = format!("malformed: {what}");
        let body = numbered(&case.body, pair.next());
        let encoded = |side| wire::encode(&api.request, version, &pair.filled(&body, side));
        let bytes = [encoded(0)?, encoded(1)?];
        // Some have no body at all.
        if !bytes[0].is_empty() {
            pair.ask_raw(case.api, version, [&shape(&bytes[0]), &shape(&bytes[1])])?;
        }
    }
    Ok(())
}

/// Versions that Kafka does not serve, and those that Chronik does not, which it must refuse as Kafka refuses its own.
fn unserved(pair: &mut Pair<'_>, name: &str) -> Result<()> {
    let api = pair.schemas.api(name)?;
    let [Some(kafka), Some(chronik)] = pair.sides.each_ref().map(|side| side.versions_of(api)) else {
        return Ok(());
    };
    let below = kafka.0.min(chronik.0).checked_sub(1);
    let above = kafka.1.max(chronik.1).checked_add(1);
    let produce = (name == "Produce").then_some([0, 1, 2]).into_iter().flatten();
    for version in [below, above, Some(i16::MAX)].into_iter().flatten().chain(produce) {
        pair.case = "a version that nobody serves".to_owned();
        // Nobody answers acks=0, which is the default.
        let body = if name == "Produce" { json!({"Acks": -1}) } else { json!({}) };
        let body = wire::encode(&api.request, version, &body)?;
        pair.ask_raw(name, version, [&body, &body])?;
    }
    Ok(())
}

/// The body with a number for `{n}`.
fn numbered(body: &Value, n: u32) -> Value {
    match body {
        Value::String(text) => json!(text.replace("{n}", &n.to_string())),
        Value::Array(elements) => elements.iter().map(|e| numbered(e, n)).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, v)| (name.clone(), numbered(v, n))).collect())
        }
        other => other.clone(),
    }
}
