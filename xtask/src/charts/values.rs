//! `values.yaml`: its comments become a README's table, and its keys are held against the schema.

use anyhow::{Context, Result, bail, ensure};
use serde_yaml::Value;

/// Makes a Markdown table of every value that has a comment `# -- text` above it, as helm-docs reads them.
///
/// # Errors
/// When a value has no comment, neither its own nor one of a map around it.
pub fn table(yaml: &str) -> Result<String> {
    let values: Value = serde_yaml::from_str(yaml)?;
    let mut rows = String::from("| Value | Type | Default | Meaning |\n|---|---|---|---|\n");
    // The keys around the current line, each with its indentation and whether it has a comment.
    let mut around: Vec<(usize, String, bool)> = Vec::new();
    let mut comment: Option<String> = None;
    for (number, line) in yaml.lines().enumerate() {
        let text = line.trim_start();
        if let Some(begun) = text.strip_prefix("# -- ") {
            comment = Some(begun.trim().to_owned());
        } else if let Some(more) = text.strip_prefix('#') {
            if let Some(comment) = &mut comment {
                comment.push(' ');
                comment.push_str(more.trim());
            }
        } else if text.is_empty() || text.starts_with("- ") {
            comment = None;
        } else {
            let indent = line.len() - text.len();
            around.retain(|(outer, ..)| *outer < indent);
            let (key, _) = text.split_once(':').with_context(|| format!("line {}: no key", number + 1))?;
            let said = comment.take();
            let inside = around.iter().any(|(.., commented)| *commented);
            around.push((indent, key.to_owned(), said.is_some()));
            if inside {
                ensure!(said.is_none(), "line {}: {key} lies in a value that has a comment", number + 1);
                continue;
            }
            let path: Vec<&str> = around.iter().map(|(_, key, _)| key.as_str()).collect();
            let value = at(&values, &path).with_context(|| format!("line {}", number + 1))?;
            match said {
                Some(said) => rows.push_str(&row(&path.join("."), value, &said)?),
                None => ensure!(
                    value.as_mapping().is_some_and(|map| !map.is_empty()),
                    "line {}: {} has no comment `# -- text`",
                    number + 1,
                    path.join(".")
                ),
            }
        }
    }
    Ok(rows)
}

fn at<'a>(values: &'a Value, path: &[&str]) -> Result<&'a Value> {
    let mut value = values;
    for key in path {
        value = value.get(*key).with_context(|| format!("{} is not a value", path.join(".")))?;
    }
    Ok(value)
}

fn row(path: &str, value: &Value, said: &str) -> Result<String> {
    let kind = match value {
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::Sequence(_) => "list",
        Value::Mapping(_) => "map",
        Value::Null | Value::Tagged(_) => bail!("{path} has neither a value nor a type"),
    };
    let default = serde_json::to_string(value)?.replace('|', "\\|");
    Ok(format!("| `{path}` | {kind} | `{default}` | {} |\n", said.replace('|', "\\|")))
}

/// What is wrong with a schema: a default that it does not know, a map that takes any key by mistake, a key that
/// `values.yaml` does not have.
pub fn against_schema(yaml: &str, schema: &str) -> Result<Vec<String>> {
    let values: Value = serde_yaml::from_str(yaml)?;
    let schema: serde_json::Value = serde_json::from_str(schema)?;
    let mut wrong = Vec::new();
    loose(&schema, &schema, "", &mut wrong);
    compare(&schema, &schema, &values, "", &mut wrong);
    Ok(wrong)
}

/// Every object of the schema that lists its properties takes no others, and every reference leads somewhere.
fn loose(whole: &serde_json::Value, schema: &serde_json::Value, path: &str, wrong: &mut Vec<String>) {
    if let Some(name) = schema.get("$ref").and_then(serde_json::Value::as_str)
        && name.strip_prefix('#').is_none_or(|pointer| whole.pointer(pointer).is_none())
    {
        wrong.push(format!("{path} refers to {name}, which is not there"));
    }
    if schema.get("properties").is_some() && schema["additionalProperties"] != false {
        wrong.push(format!("{} takes any key", if path.is_empty() { "the whole" } else { path }));
    }
    match schema {
        serde_json::Value::Object(map) => {
            map.iter().for_each(|(key, inner)| loose(whole, inner, &format!("{path}/{key}"), wrong));
        }
        serde_json::Value::Array(list) => list.iter().for_each(|inner| loose(whole, inner, path, wrong)),
        _ => {}
    }
}

fn compare(
    whole: &serde_json::Value,
    schema: &serde_json::Value,
    values: &Value,
    path: &str,
    wrong: &mut Vec<String>,
) {
    let schema = match schema["$ref"].as_str().and_then(|name| name.strip_prefix('#')) {
        Some(pointer) => whole.pointer(pointer).unwrap_or(schema),
        None => schema,
    };
    let (Some(properties), Value::Mapping(map)) = (schema["properties"].as_object(), values) else { return };
    for (key, value) in map {
        let key = key.as_str().unwrap_or_default();
        match properties.get(key) {
            Some(inner) => compare(whole, inner, value, &format!("{path}{key}."), wrong),
            None => wrong.push(format!("{path}{key} is in values.yaml and not here")),
        }
    }
    // A map that is empty by default is filled by the user: its keys are in the schema alone. Helm adds `global`.
    for key in properties.keys().filter(|_| !map.is_empty()) {
        let spare = key == "global" || path.starts_with("resources") || path.ends_with("resources.");
        if !spare && !map.contains_key(key.as_str()) {
            wrong.push(format!("{path}{key} is here and not in values.yaml"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_become_rows() {
        let yaml = "# A heading.\nimage:\n  # -- The image's\n  # name.\n  name: a|b\n\n# -- Lists.\nlist:\n  - a: 1\n    b: 2\n# -- Maps.\nmap:\n  inner:\n    deep: true\n";
        let table = table(yaml).unwrap();
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| `image.name` | string | `\"a\\|b\"` | The image's name. |",
                "| `list` | list | `[{\"a\":1,\"b\":2}]` | Lists. |",
                "| `map` | map | `{\"inner\":{\"deep\":true}}` | Maps. |",
            ]
        );
    }

    #[test]
    fn a_value_without_a_comment_is_told() {
        assert!(table("# -- A.\na: 1\nb: 2\n").unwrap_err().to_string().contains("b has no comment"));
        assert!(table("a:\n  b: \"\"\n").unwrap_err().to_string().contains("a.b has no comment"));
        assert!(table("# -- A.\na:\n").is_err());
    }

    #[test]
    fn schemas_are_strict_and_whole() {
        let strict = r##"{"additionalProperties":false,"definitions":{"d":{"additionalProperties":false,"properties":{"x":{}}}},"properties":{"a":{"$ref":"#/definitions/d"},"b":{}}}"##;
        assert!(against_schema("a: {x: 1}\nb: 2\n", strict).unwrap().is_empty());
        let told = |yaml: &str, schema: &str| against_schema(yaml, schema).unwrap().join("; ");
        assert_eq!(
            told("a: {y: 1}\nb: 2\n", strict),
            "a.y is in values.yaml and not here; a.x is here and not in values.yaml"
        );
        assert_eq!(told("a: {}\n", strict), "b is here and not in values.yaml");
        assert_eq!(told("a: 1\n", r#"{"properties":{"a":{}}}"#), "the whole takes any key");
        let astray = r##"{"additionalProperties":false,"properties":{"a":{"$ref":"#/$defs/x"}}}"##;
        assert_eq!(told("a: 1\n", astray), "/properties/a refers to #/$defs/x, which is not there");
    }
}
