//! What was asked, and what differed.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::normal::Difference;
use crate::rules;

/// One request with both answers.
pub struct Asked<'a> {
    pub api: &'a str,
    pub version: i16,
    pub case: &'a str,
    pub body: &'a Value,
    pub kafka: &'a Value,
    pub chronik: &'a Value,
}

/// What was counted of a version of an API.
#[derive(Clone, Copy, Default)]
pub struct Count {
    pub asked: u32,
    /// Requests with such differences.
    pub allowed: u32,
    pub unexpected: u32,
}

/// Differences of one kind that no rule knows.
pub struct Unexpected {
    pub times: u32,
    pub versions: (i16, i16),
    /// The first of them.
    pub case: String,
    pub body: Value,
    pub difference: Difference,
}

#[derive(Default)]
pub struct Ledger {
    pub verbose: bool,
    pub counts: BTreeMap<(String, i16), Count>,
    /// How often each of [`rules::RULES`] was needed.
    pub needed: BTreeMap<usize, u32>,
    /// By API, path, and the two values where those are errors.
    pub unexpected: BTreeMap<(String, String, String), Unexpected>,
    /// Cases that could not go on, and why.
    pub broken: Vec<String>,
}

impl Ledger {
    pub fn note(&mut self, asked: &Asked<'_>, differences: Vec<Difference>) {
        let Asked { api, version, case, .. } = *asked;
        let mut seen = Count { asked: 1, ..Count::default() };
        if self.verbose {
            println!("\n{api} v{version} {case}: {}", asked.body);
            println!("  Kafka    {}\n  Chronik  {}", asked.kafka, asked.chronik);
        }
        for difference in differences {
            match rules::find(api, version, case, &difference) {
                Some(n) => {
                    *self.needed.entry(n).or_default() += 1;
                    seen.allowed = 1;
                }
                None => {
                    seen.unexpected = 1;
                    self.note_unexpected(asked, difference);
                }
            }
        }
        let count = self.counts.entry((api.to_owned(), version)).or_default();
        count.asked += seen.asked;
        count.allowed += seen.allowed;
        count.unexpected += seen.unexpected;
    }

    fn note_unexpected(&mut self, asked: &Asked<'_>, difference: Difference) {
        // Of texts one is enough; each pair of errors is a finding of its own.
        let values = match (&difference.kafka, &difference.chronik) {
            (Value::Number(a), Value::Number(b)) if difference.path.ends_with("Code") => format!("{a} {b}"),
            _ => String::new(),
        };
        let case = asked.case.split(':').next().unwrap_or_default().to_owned();
        let key = (asked.api.to_owned(), format!("{} {case}", difference.path), values);
        let version = asked.version;
        let found = self.unexpected.entry(key).or_insert_with(|| Unexpected {
            times: 0,
            versions: (version, version),
            case: asked.case.to_owned(),
            body: asked.body.clone(),
            difference,
        });
        found.times += 1;
        found.versions = (found.versions.0.min(version), found.versions.1.max(version));
    }
}
