//! Subscriptions by regular expression: RE2's language, as far as it can tell names of topics apart, and of the whole name.

use std::collections::BTreeSet;

use kafka_protocol::protocol::StrBytes;
use regex::{Regex, RegexBuilder};

use crate::metadata::MetadataImage;

/// Bytes that a compiled expression may take.
const SIZE_LIMIT: usize = 1 << 20;
/// How deep its groups may be nested.
const NEST_LIMIT: u32 = 100;

/// # Errors
/// What is wrong with it, for people.
pub(super) fn compile(expression: &str) -> Result<Regex, String> {
    let expression = unquoted(expression);
    // Alone first: the two parentheses must not mend it.
    build(&expression)?;
    build(&format!(r"\A(?:{expression})\z"))
}

fn build(expression: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(expression).size_limit(SIZE_LIMIT).nest_limit(NEST_LIMIT).build();
    built.map_err(|e| e.to_string())
}

/// RE2 takes what is between `\Q` and `\E`, or the end, as it is; the library here does not know these.
fn unquoted(expression: &str) -> String {
    let mut plain = String::with_capacity(expression.len());
    let mut rest = expression;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        plain.push_str(before);
        if let Some(quoted) = escape.strip_prefix(r"\Q") {
            let (quoted, after) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
            plain.push_str(&regex::escape(quoted));
            rest = after;
        } else {
            let escaped = escape.chars().nth(1).map_or(1, |escaped| 1 + escaped.len_utf8());
            let (pair, after) = escape.split_at(escaped);
            plain.push_str(pair);
            rest = after;
        }
    }
    plain + rest
}

/// The topics that match. An expression that does not compile was never accepted.
pub(super) fn matching(expression: &str, image: &MetadataImage) -> BTreeSet<StrBytes> {
    let Ok(regex) = compile(expression) else { return BTreeSet::new() };
    let names = image.topics().map(|topic| &topic.name).filter(|name| regex.is_match(name));
    names.map(|name| StrBytes::from_string(name.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::compile;

    fn matches(expression: &str, topic: &str) -> bool {
        compile(expression).unwrap().is_match(topic)
    }

    #[test]
    fn an_expression_is_of_the_whole_name() {
        assert!(matches("a|ab", "ab"));
        assert!(matches("foo.*", "foo-1"));
        assert!(!matches("foo", "foo-1"));
        assert!(!matches("o+", "foo"));
        assert!(matches("", ""));
        assert!(!matches("", "a"));
    }

    #[test]
    fn what_is_quoted_is_taken_as_it_is() {
        assert!(matches(r"\Qa.b\E", "a.b"));
        assert!(!matches(r"\Qa.b\E", "a-b"));
        assert!(matches(r"\Qa.b", "a.b"));
        assert!(matches(r"x\Q.\E.*\Q-\E\d", "x.yz-1"));
        assert!(matches(r"\\Q", r"\Q"), "a backslash, and a letter");
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for expression in ["(", "a)|(b", "*", "[", r"\", "a{1000}{1000}{1000}", r"(?!a)", r"(a)\1"] {
            assert!(compile(expression).is_err(), "{expression}");
        }
        assert!(compile(&"(".repeat(1000)).is_err());
    }
}
