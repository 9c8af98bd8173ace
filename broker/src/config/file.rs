//! Configuration files: a YAML map of Kafka-named keys, or Java `.properties`.

use std::collections::BTreeSet;

/// Reads a file's text into pairs, in order. `properties` says which of the two forms it has.
pub(super) fn parse(text: &str, properties: bool) -> Result<Vec<(String, String)>, String> {
    let pairs = if properties { parse_properties(text)? } else { parse_yaml(text)? };
    let mut names = BTreeSet::new();
    match pairs.iter().find(|(name, _)| !names.insert(name)) {
        Some((name, _)) => Err(format!("{name} is set twice")),
        None => Ok(pairs),
    }
}

fn parse_yaml(text: &str) -> Result<Vec<(String, String)>, String> {
    use serde_yaml::Value;
    let map = match serde_yaml::from_str(text).map_err(|e| e.to_string())? {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(map) => map,
        _ => return Err("a map of keys to values is expected".to_string()),
    };
    fn scalar(value: &Value) -> Option<String> {
        match value {
            Value::String(s) => Some(s.clone()),
            Value::Number(n) => Some(n.to_string()),
            Value::Bool(b) => Some(b.to_string()),
            _ => None,
        }
    }
    let mut pairs = Vec::new();
    for (name, value) in &map {
        let name = name.as_str().ok_or_else(|| format!("a key is text, not {name:?}"))?;
        let text = match value {
            // What properties write with commas may be a list here.
            Value::Sequence(items) => {
                items.iter().map(scalar).collect::<Option<Vec<_>>>().map(|v| v.join(","))
            }
            other => scalar(other),
        };
        let text = text.ok_or_else(|| {
            format!("{name} must be text, a number, true or false, or a list of them; keys are written whole, with their dots")
        })?;
        pairs.push((name.to_string(), text));
    }
    Ok(pairs)
}

/// The format of `java.util.Properties.load`: `#` and `!` begin comments, `=`, `:` or white space ends the
/// key, a backslash at a line's end continues it.
fn parse_properties(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let mut logical = line.trim_start().to_string();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while logical.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1 {
            logical.pop();
            match lines.next() {
                Some((_, next)) => logical.push_str(next.trim_start()),
                None => break,
            }
        }
        pairs.push(property(&logical).map_err(|why| format!("line {}: {why}", number + 1))?);
    }
    Ok(pairs)
}

fn property(line: &str) -> Result<(String, String), String> {
    let (mut key, mut value) = (String::new(), String::new());
    let mut in_value = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let target = if in_value { &mut value } else { &mut key };
        match c {
            '\\' => target.push(escaped(&mut chars)?),
            '=' | ':' | ' ' | '\t' | '\u{c}' if !in_value => {
                in_value = true;
                // White space, at most one separator, and white space again belong to neither side.
                let mut separator = matches!(c, '=' | ':');
                while let Some(next) = chars.peek() {
                    match next {
                        ' ' | '\t' | '\u{c}' => {}
                        '=' | ':' if !separator => separator = true,
                        _ => break,
                    }
                    chars.next();
                }
            }
            other => target.push(other),
        }
    }
    Ok((key, value.trim_end().to_string()))
}

fn escaped(chars: &mut impl Iterator<Item = char>) -> Result<char, String> {
    Ok(match chars.next() {
        Some('t') => '\t',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('f') => '\u{c}',
        Some('u') => {
            let digits: String = chars.take(4).collect();
            let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
            code.and_then(char::from_u32).ok_or_else(|| format!("\\u{digits} is not a character"))?
        }
        Some(other) => other,
        None => return Err("a lone backslash".to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn yaml_takes_scalars_and_lists() {
        let text = "broker.id: 3\nauto.create.topics.enable: false\nlisteners: [A://h:1, B://h:2]\nbroker.rack: \"7\"\n";
        let got = parse(text, false).unwrap();
        let want = [
            ("broker.id", "3"),
            ("auto.create.topics.enable", "false"),
            ("listeners", "A://h:1,B://h:2"),
            ("broker.rack", "7"),
        ];
        assert_eq!(got, pairs(&want));
        assert_eq!(parse("# nothing\n", false).unwrap(), vec![]);
        for (bad, word) in [
            ("- 1", "map"),
            ("broker: {id: 3}", "whole"),
            ("broker.id:", "must be"),
            ("a: 1\na: 2", "a"),
            ("a: [", "line"),
        ] {
            assert!(parse(bad, false).unwrap_err().contains(word), "{bad}");
        }
    }

    #[test]
    fn properties_are_read_as_java_reads_them() {
        let text = "# c\n! c\n\nbroker.id=3\n  a : b c \nk v\nlong=one,\\\n   two\nu=\\u0041\\t\\\\\nempty=\nsp\\ ace==x";
        let want = [
            ("broker.id", "3"),
            ("a", "b c"),
            ("k", "v"),
            ("long", "one,two"),
            ("u", "A\t\\"),
            ("empty", ""),
            ("sp ace", "=x"),
        ];
        assert_eq!(parse(text, true).unwrap(), pairs(&want));
        assert!(parse("a=1\na=2", true).unwrap_err().contains("twice"));
        assert!(parse("\na=\\u00", true).unwrap_err().contains("line 2"));
    }
}
