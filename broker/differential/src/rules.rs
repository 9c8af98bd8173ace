//! The differences that are known: those that are meant, and those that are to be mended.

use serde_json::Value;

use crate::normal::Difference;
use crate::schema::Versions;

/// What becomes of a difference.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It stays.
    Allowed,
    /// It goes; until then it is known.
    Open,
}

/// Differences of an API at a path.
pub struct Rule {
    pub standing: Standing,
    /// `*` for all.
    pub api: &'static str,
    pub versions: Versions,
    /// As in [`Difference::path`]; `*` stands for any text.
    pub path: &'static str,
    /// Of cases with such a name; `*` stands for any text.
    pub case: &'static str,
    /// Which values: as JSON, Kafka's and Chronik's; `*` stands for any text.
    pub values: [&'static str; 2],
    pub why: &'static str,
}

const ALL: Versions = Versions(0, i16::MAX);

const fn allowed(
    api: &'static str,
    path: &'static str,
    values: [&'static str; 2],
    why: &'static str,
) -> Rule {
    Rule { standing: Standing::Allowed, api, versions: ALL, path, case: "*", values, why }
}

const fn open(
    api: &'static str,
    path: &'static str,
    case: &'static str,
    values: [&'static str; 2],
    why: &'static str,
) -> Rule {
    Rule { standing: Standing::Open, api, versions: ALL, path, case, values, why }
}

/// What stands where one of them has a field, an element or a setting that the other has not.
const ABSENT: &str = "\"(absent)\"";
const TEXT: &str = "\"*\"";

/// All of them. The first that fits decides. One that nothing needs any more fails the run.
pub const RULES: &[Rule] = &[
    allowed("*", "*ErrorMessage", [TEXT, TEXT], "a text for people, and both have one"),
    allowed("ApiVersions", "ApiKeys[*]", ["*", ABSENT], "only what is served is advertised"),
    allowed(
        "DescribeConfigs",
        "Results[*].Configs[*]",
        ["*", ABSENT],
        "settings that nothing here acts on are not told",
    ),
    allowed(
        "CreateTopics",
        "Topics[*].Configs[*]",
        ["*", ABSENT],
        "settings that nothing here acts on are not told",
    ),
    allowed("DescribeConfigs", "Results[*].Configs[chronik.*]", [ABSENT, "*"], "Chronik's own settings"),
    allowed("CreateTopics", "Topics[*].Configs[chronik.*]", [ABSENT, "*"], "Chronik's own settings"),
    allowed("DescribeConfigs", "*.Documentation", [TEXT, TEXT], "a text for people, and both have one"),
];

/// The rule of a difference.
pub fn find(api: &str, version: i16, case: &str, difference: &Difference) -> Option<usize> {
    RULES.iter().position(|rule| {
        let value = |pattern: &str, value: &Value| glob(pattern, &value.to_string());
        (rule.api == "*" || rule.api == api)
            && rule.versions.contains(version)
            && glob(rule.path, &difference.path)
            && glob(rule.case, case)
            && value(rule.values[0], &difference.kafka)
            && value(rule.values[1], &difference.chronik)
    })
}

/// Whether a text is as a pattern says, in which `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(before) else { return false };
    let starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    rest.is_empty() || starts.into_iter().any(|at| glob(rest, &text[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        assert!(glob("*", "") && glob("a*", "a") && glob("*b", "ab") && glob("a*c*e", "abcde"));
        assert!(!glob("a*", "ba") && !glob("*b", "abc") && !glob("", "a") && !glob("a*c*e", "abced"));
    }
}
