//! Every metric that the charts and the documents name must be one that the broker or the operator exports.
//!
//! Names and types are in the tables of the documents, and the tables are held against the literals in the source. A
//! live `/metrics`, if one is given, has the last word.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Live, text_of};

/// Where a program's metrics are documented, and where they are made.
struct Program {
    prefix: &'static str,
    document: &'static str,
    source: &'static str,
}

const PROGRAMS: [Program; 2] = [
    Program { prefix: "chronik_", document: "docs/operations.md", source: "broker/src/metrics" },
    Program {
        prefix: "chronik_operator_",
        document: "docs/kubernetes.md",
        source: "operator/src/metrics.rs",
    },
];

const RULES: &str = "charts/chronik-operator/templates/prometheusrule.yaml";
const DASHBOARD: &str = "charts/chronik-operator/files/dashboards/chronik.json";

/// How many names were looked at, and what is wrong.
pub fn check(root: &Path, live: &Live) -> Result<(usize, Vec<String>)> {
    let mut wrong = Vec::new();
    let mut series = BTreeSet::new();
    let mut families = BTreeSet::new();
    for program in &PROGRAMS {
        let documented = documented(&text_of(&root.join(program.document))?);
        ensure!(!documented.is_empty(), "{} has no table of metrics", program.document);
        let literals = literals(&root.join(program.source))?;
        for (name, kind) in documented {
            let registered = match kind.as_str() {
                "counter" => name.strip_suffix("_total"),
                "info" => name.strip_suffix("_info"),
                _ => Some(name.as_str()),
            };
            let full = registered.map(|registered| format!("{}{registered}", program.prefix));
            if !registered.is_some_and(|name| literals.contains(name))
                && !full.is_some_and(|n| literals.contains(&n))
            {
                wrong.push(format!(
                    "{}: {name}, a {kind}, is not made in {}",
                    program.document, program.source
                ));
            }
            let name = format!("{}{name}", program.prefix);
            if kind == "histogram" {
                series.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
            } else {
                series.insert(name.clone());
            }
            families.insert(name);
        }
    }

    let mut queried = BTreeSet::new();
    for (file, expressions) in [
        (RULES, rule_expressions(&text_of(&root.join(RULES))?)),
        (DASHBOARD, dashboard_expressions(&text_of(&root.join(DASHBOARD))?)?),
    ] {
        ensure!(!expressions.is_empty(), "{file} asks for nothing");
        for expression in expressions {
            let names = queried_by(&expression);
            if names.is_empty() {
                wrong.push(format!("{file}: asks for no metric: {expression}"));
            }
            for name in names {
                if !series.contains(&name) {
                    wrong.push(format!("{file}: no program exports {name}"));
                }
                queried.insert(name);
            }
        }
    }
    let mut files = Vec::new();
    for directory in ["charts", "docs"] {
        files_below(&root.join(directory), &mut files)?;
    }
    files.push(root.join("README.md"));
    for file in files {
        let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        for name in mentioned(&text_of(&file)?) {
            if !series.contains(&name) && !families.contains(&name) {
                wrong.push(format!("{shown}: no program exports {name}"));
            }
        }
    }
    for (program, text) in PROGRAMS.iter().zip([&live.broker, &live.operator]) {
        let Some(text) = text else { continue };
        let exported = exported(text);
        let of_program = |name: &&String| {
            name.starts_with(program.prefix)
                && (program.prefix != "chronik_" || !name.starts_with("chronik_operator_"))
        };
        for name in queried.iter().filter(of_program).filter(|name| !exported.contains(name.as_str())) {
            wrong.push(format!("{name} is asked for by the charts, and not in /metrics"));
        }
    }
    Ok((queried.len(), wrong))
}

/// The rows of a document's tables whose second column is the type of a metric: names and types.
fn documented(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let (Some(names), Some(kind)) = (cells.next(), cells.next()) else { continue };
        if ["counter", "gauge", "histogram", "info"].contains(&kind) {
            for name in names.split(',').map(|name| name.trim().trim_matches('`')) {
                found.insert(name.to_owned(), kind.to_owned());
            }
        }
    }
    found
}

/// The string literals of a source file, or of all below a directory, that could name a metric. Tests do not count.
fn literals(path: &Path) -> Result<BTreeSet<String>> {
    let mut files = Vec::new();
    if path.is_dir() {
        files_below(path, &mut files)?;
    } else {
        files.push(path.to_owned());
    }
    let mut found = BTreeSet::new();
    for file in files {
        let text = text_of(&file)?;
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        found.extend(code.split('"').skip(1).step_by(2).filter(|text| is_name(text)).map(str::to_owned));
    }
    Ok(found)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(is_part)
}

fn is_part(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

fn files_below(directory: &Path, found: &mut Vec<std::path::PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() { files_below(&path, found)? } else { found.push(path) }
    }
    found.sort();
    Ok(())
}

/// The expressions of the rules' template.
fn rule_expressions(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned).collect()
}

/// The expressions of a dashboard: every `expr`, wherever it stands.
fn dashboard_expressions(text: &str) -> Result<Vec<String>> {
    fn walk(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                found.extend(map.get("expr").and_then(|expr| expr.as_str()).map(str::to_owned));
                map.values().for_each(|inner| walk(inner, found));
            }
            serde_json::Value::Array(list) => list.iter().for_each(|inner| walk(inner, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(&serde_json::from_str(text).context(DASHBOARD)?, &mut found);
    Ok(found)
}

/// The metrics that a PromQL expression asks for: its identifiers, without functions, keywords and labels.
fn queried_by(expression: &str) -> Vec<String> {
    const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    const KEYWORDS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];
    // What stands in braces and brackets are labels and times. Helm's own braces go the same way.
    let mut plain = String::new();
    let mut depth = 0_usize;
    for c in expression.chars() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    let mut found = Vec::new();
    let mut rest = plain.as_str();
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_' || c.is_ascii_digit()) {
        let word = &rest[start..];
        let end = word.find(|c: char| !c.is_ascii_alphanumeric() && !"_:.".contains(c)).unwrap_or(word.len());
        let (word, after) = word.split_at(end);
        rest = after;
        let called = after.trim_start().starts_with('(');
        if GROUPING.contains(&word) && called {
            rest = after.split_once(')').map_or("", |(_, after)| after);
        } else if !called && !KEYWORDS.contains(&word) && !word.starts_with(|c: char| c.is_ascii_digit()) {
            // An aggregation may have its grouping behind it: `sum by (le) (…)`.
            let grouped = GROUPING.iter().any(|by| after.trim_start().starts_with(&format!("{by} (")));
            if !grouped {
                found.push(word.to_owned());
            }
        }
    }
    found
}

/// The names in a text that look like metrics of ours. A name before `::`, `=` or another one behind a dot is a module's,
/// and one that ends in `_` is only a prefix.
fn mentioned(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("chronik_") {
        let before = text[..at].chars().next_back();
        let rest = &text[at..];
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let dotted = after.strip_prefix('.').is_some_and(|next| next.starts_with(is_part));
        let module = after.starts_with("::") || after.starts_with('=') || dotted;
        if before.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_') && !module && !name.ends_with('_') {
            found.insert(name.to_owned());
        }
    }
    found
}

/// The names of the samples in the text of a `/metrics`.
fn exported(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.split(['{', ' ']).next()).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read() {
        for (expression, names) in [
            ("sum by (namespace, kind) (rate(a_total{result=\"x\"}[10m])) > 0.05", vec!["a_total"]),
            ("absent(b == 1)", vec!["b"]),
            (
                "histogram_quantile(0.99, sum by (le) (rate(c_bucket{a=~\"$x\"}[$__rate_interval]))) > {{ .Values.d }}",
                vec!["c_bucket"],
            ),
            ("a / on (pod) group_left (x) b unless c > 1e3", vec!["a", "b", "c"]),
            ("max(d) by (pod) > 3", vec!["d"]),
            ("vector(1)", vec![]),
        ] {
            assert_eq!(queried_by(expression), names, "{expression}");
        }
    }

    #[test]
    fn tables_and_texts_are_read() {
        let table = "| name | type |\n|---|---|\n| `a_total`, `b_total` | counter | | x |\n| `c` | gauge |\n| `d` | string |\n";
        let found = documented(table);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a_total", "b_total", "c"]);
        let text = "`chronik_x_total` chronik_broker::net=debug chronik_broker.net chronik_operator=debug my_chronik_y `chronik_operator_` chronik_z.";
        assert_eq!(mentioned(text).into_iter().collect::<Vec<_>>(), ["chronik_x_total", "chronik_z"]);
        let live = "# TYPE a counter\na_total{x=\"y\"} 1\nb 2\n# EOF\n";
        assert_eq!(exported(live).into_iter().collect::<Vec<_>>(), ["a_total", "b"]);
    }

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A small project in which everything agrees, and then one thing after the other does not.
    #[test]
    fn what_is_not_exported_is_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let source = "//! \"not_this\"\nregister(\"requests\", \"Requests\"); register(\"wal\", x);\n#[cfg(test)]\n\"late\"";
        write(root, "broker/src/metrics/mod.rs", source);
        write(root, "operator/src/metrics.rs", "register(\"leader\", \"Whether\")");
        write(root, "docs/operations.md", "| `requests_total` | counter |\n| `wal_info` | info |\n");
        write(root, "docs/kubernetes.md", "| `leader` | gauge |\nSee `chronik_requests_total`.\n");
        write(root, "README.md", "");
        write(root, RULES, "  expr: rate(chronik_requests_total[5m]) > 1\n");
        write(root, DASHBOARD, r#"{"panels":[{"targets":[{"expr":"chronik_operator_leader"}]}]}"#);
        let found = |live: &Live| check(root, live).unwrap().1.join("; ");
        assert_eq!(found(&Live::default()), "");
        let live = |broker: &str| Live { broker: Some(broker.to_owned()), operator: None };
        assert_eq!(found(&live("chronik_requests_total{api=\"x\"} 1\n")), "");
        assert!(found(&live("chronik_other 1\n")).contains("chronik_requests_total is asked for"));

        write(root, RULES, "  expr: up == 0\n");
        assert!(found(&Live::default()).contains("no program exports up"));
        write(root, RULES, "  expr: chronik_requests > 0\n");
        assert!(found(&Live::default()).contains("no program exports chronik_requests"));
        write(root, RULES, "  expr: chronik_wal_info > 0\n");
        write(root, "README.md", "chronik_gone_total");
        assert!(found(&Live::default()).contains("README.md: no program exports chronik_gone_total"));
        write(root, "README.md", "");
        write(
            root,
            "docs/operations.md",
            "| `requests_total` | counter |\n| `wal_info` | info |\n| `late` | gauge |\n",
        );
        assert!(found(&Live::default()).contains("late, a gauge, is not made"));
    }
}
