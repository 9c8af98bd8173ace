//! `cargo xtask shapes`: writes the request guard's table of message shapes.
//!
//! The source is Apache Kafka's own message schemas, which ship inside the `kafka-clients` jar under
//! `common/message/*.json` (JSON with `//` comments; the format is described in the README beside them). The
//! result is committed, so that a build needs neither Maven nor the network; `--check` fails on drift.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The Kafka release whose schemas are read.
const KAFKA_CLIENTS: &str = "org.apache.kafka:kafka-clients:4.3.1";
const OUTPUT: &str = "broker/src/net/guard/shapes.rs";

/// What the crate's decoder keeps in memory for one value: `StrBytes` and `Bytes`, `Vec`, `BTreeMap`.
const STRING_MEMORY: usize = 32;
const VEC_MEMORY: usize = 24;
const TAG_MAP_MEMORY: usize = 24;
/// A nullable struct is an `Option`, whose discriminant costs at most one aligned word.
const OPTION_MEMORY: usize = 8;

#[derive(clap::Args)]
pub struct Args {
    /// Compare with the committed file instead of writing it.
    #[arg(long)]
    check: bool,
    /// A directory that already holds the schemas, instead of fetching them with Maven.
    #[arg(long)]
    schemas: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    name: String,
    r#type: String,
    api_key: Option<usize>,
    #[serde(default)]
    listeners: Vec<String>,
    valid_versions: String,
    #[serde(default)]
    flexible_versions: String,
    #[serde(default)]
    fields: Vec<Field>,
    #[serde(default)]
    common_structs: Vec<CommonStruct>,
}

#[derive(Deserialize)]
struct CommonStruct {
    name: String,
    fields: Vec<Field>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Field {
    name: String,
    r#type: String,
    versions: String,
    #[serde(default)]
    nullable_versions: String,
    #[serde(default)]
    tagged_versions: String,
    tag: Option<u32>,
    flexible_versions: Option<String>,
    #[serde(default)]
    fields: Vec<Field>,
}

/// An inclusive range of versions; empty when `0 > 1`.
#[derive(Clone, Copy, PartialEq)]
struct Versions(i16, i16);

impl Versions {
    const NONE: Versions = Versions(0, -1);

    /// Reads `"3"`, `"3-12"`, `"3+"`, `"none"` and the empty string.
    fn parse(text: &str) -> Result<Versions> {
        let number = |s: &str| s.parse::<i16>().with_context(|| format!("not a version range: {text:?}"));
        Ok(match text {
            "" | "none" => Versions::NONE,
            _ => match (text.strip_suffix('+'), text.split_once('-')) {
                (Some(from), _) => Versions(number(from)?, i16::MAX),
                (None, Some((from, to))) => Versions(number(from)?, number(to)?),
                (None, None) => Versions(number(text)?, number(text)?),
            },
        })
    }

    fn and(self, other: Versions) -> Versions {
        let both = Versions(self.0.max(other.0), self.1.min(other.1));
        if both.is_empty() { Versions::NONE } else { both }
    }

    fn is_empty(self) -> bool {
        self.0 > self.1
    }

    fn literal(self) -> String {
        if self.is_empty() { "NEVER".into() } else { format!("v({}, {})", self.0, self.1) }
    }
}

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let directory = match &args.schemas {
        Some(directory) => directory.clone(),
        None => fetch(root)?,
    };
    let generated = generate(&directory)?;
    let output = root.join(OUTPUT);
    if args.check {
        let committed = std::fs::read_to_string(&output).with_context(|| format!("reading {OUTPUT}"))?;
        ensure!(committed == generated, "{OUTPUT} is stale: run `cargo xtask shapes` and commit the result");
        println!("{OUTPUT} agrees with {KAFKA_CLIENTS}");
    } else {
        std::fs::write(&output, generated).with_context(|| format!("writing {OUTPUT}"))?;
        println!("wrote {OUTPUT} from {KAFKA_CLIENTS}");
    }
    Ok(())
}

/// Unpacks the schemas from the jar on Maven Central below `target/`, once.
///
/// # Errors
/// When Maven fails.
pub fn fetch(root: &Path) -> Result<PathBuf> {
    let unpacked = crate::target_dir(root).join(KAFKA_CLIENTS.replace(':', "-"));
    let messages = unpacked.join("common/message");
    if messages.is_dir() {
        return Ok(messages);
    }
    std::fs::create_dir_all(&unpacked)?;
    // Outside a Maven project the plugin leaves its markers in the current directory.
    let status = Command::new("mvn")
        .args(["-q", "-B", "dependency:unpack", "-Dmdep.unpack.includes=common/message/*.json"])
        .arg(format!("-Dartifact={KAFKA_CLIENTS}"))
        .arg(format!("-DoutputDirectory={}", unpacked.display()))
        .current_dir(&unpacked)
        .status()
        .context("starting mvn (or name a directory with --schemas)")?;
    ensure!(status.success(), "mvn could not unpack {KAFKA_CLIENTS}: {status}");
    Ok(messages)
}

/// Removes `//` comments, which Kafka's schemas have and JSON has not; strings are left alone.
fn strip_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let (mut in_string, mut escaped, mut end) = (false, false, line.len());
        for (at, c) in line.char_indices() {
            match c {
                '/' if !in_string && line[at..].starts_with("//") => {
                    end = at;
                    break;
                }
                '"' if !escaped => in_string = !in_string,
                _ => {}
            }
            escaped = c == '\\' && !escaped;
        }
        out.push_str(&line[..end]);
        out.push('\n');
    }
    out
}

fn generate(directory: &Path) -> Result<String> {
    let mut requests = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if !path.to_string_lossy().ends_with("Request.json") {
            continue;
        }
        let message: Message = serde_json::from_str(&strip_comments(&std::fs::read_to_string(&path)?))
            .with_context(|| format!("parsing {}", path.display()))?;
        let served = message.listeners.iter().any(|l| l == "broker") && message.valid_versions != "none";
        if message.r#type == "request" && served {
            requests.push(message);
        }
    }
    requests.sort_by_key(|m| m.api_key);
    ensure!(!requests.is_empty(), "no request schemas in {}", directory.display());

    let mut out = String::from(
        "//! The shape of every request of a broker listener.\n//!\n\
         //! generated by cargo xtask shapes from Apache Kafka's message schemas\n",
    );
    writeln!(out, "//! ({KAFKA_CLIENTS}, Apache License 2.0). Do not edit.\n")?;
    out.push_str(
        "use super::shape::Kind::{Array, Bytes, String, Struct as Nested};\nuse super::shape::*;\n\n",
    );

    let count = requests.iter().filter_map(|m| m.api_key).max().map_or(0, |key| key + 1);
    let mut index = vec!["None".to_owned(); count];
    let mut statics = String::new();
    for message in &requests {
        let key = message.api_key.with_context(|| format!("{} has no apiKey", message.name))?;
        let name = message.name.strip_suffix("Request").unwrap_or(&message.name);
        index[key] = format!("Some(&{})", constant(name));
        Shapes::new(message, name)?.request(key, &mut statics)?;
    }
    writeln!(out, "/// The shapes by API key.")?;
    writeln!(
        out,
        "pub static REQUESTS: [Option<&Request>; {count}] = [\n    {},\n];",
        index.join(",\n    ")
    )?;
    out.push_str(&statics);
    Ok(out)
}

/// The name of a static: `Produce.TopicData` becomes `PRODUCE_TOPIC_DATA`.
fn constant(path: &str) -> String {
    let mut out = String::new();
    for c in path.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        if c != '.' {
            out.push(c.to_ascii_uppercase());
        }
    }
    out
}

/// Writes the shapes of one message.
struct Shapes<'a> {
    message: &'a Message,
    name: &'a str,
    valid: Versions,
    flexible: Versions,
}

impl<'a> Shapes<'a> {
    fn new(message: &'a Message, name: &'a str) -> Result<Shapes<'a>> {
        let valid = Versions::parse(&message.valid_versions)?;
        let flexible = Versions::parse(&message.flexible_versions)?;
        ensure!(flexible.is_empty() || flexible.1 == i16::MAX, "{name} stops being flexible");
        Ok(Shapes { message, name, valid, flexible })
    }

    fn request(&self, key: usize, out: &mut String) -> Result<()> {
        let name = self.name;
        let body_name = constant(name) + "_BODY";
        let flexible_from =
            if self.flexible.is_empty() { "i16::MAX".to_owned() } else { self.flexible.0.to_string() };
        let mut nested = String::new();
        let body = self.structure(name, &self.message.fields, &mut nested)?;
        write!(
            out,
            "\nstatic {}: Request = Request {{ api_key: {key}, name: {name:?}, versions: {}, \
             flexible_from: {flexible_from}, body: &{body_name} }};\n\n\
             static {body_name}: Struct = {body};\n{nested}",
            constant(name),
            self.valid.literal(),
        )?;
        Ok(())
    }

    /// The literal of a struct; the structs inside it become statics of their own, appended to `out`.
    fn structure(&self, path: &str, fields: &[Field], out: &mut String) -> Result<String> {
        let (mut plain, mut tagged) = (String::new(), String::new());
        for field in fields {
            let path = format!("{path}.{}", field.name);
            ensure!(field.flexible_versions.is_none(), "{path} has flexible versions of its own");
            let versions = Versions::parse(&field.versions)?.and(self.valid);
            if versions.is_empty() {
                continue;
            }
            let nullable = Versions::parse(&field.nullable_versions)?.and(versions).literal();
            let kind = self.kind(&path, field, &field.r#type, out)?;
            let literal = format!("field({path:?}, {kind}, {}, {nullable})", versions.literal());
            match field.tag {
                None => writeln!(plain, "    {literal},")?,
                Some(tag) => {
                    let always = Versions::parse(&field.tagged_versions)?.and(self.valid);
                    ensure!(always == versions, "{path} is tagged in some of its versions only");
                    write!(tagged, "\n    Tagged {{ tag: {tag}, field: {literal} }},")?;
                }
            }
        }
        if !tagged.is_empty() {
            tagged.push('\n');
        }
        let memory = self.memory(fields)?;
        Ok(format!("Struct {{ memory: {memory}, tagged: &[{tagged}], fields: &[\n{plain}] }}"))
    }

    fn kind(&self, path: &str, field: &Field, of: &str, out: &mut String) -> Result<String> {
        Ok(match of {
            "bool" => "BOOL".into(),
            "int8" => "INT8".into(),
            "int16" => "INT16".into(),
            "uint16" => "UINT16".into(),
            "int32" => "INT32".into(),
            "int64" => "INT64".into(),
            "float64" => "FLOAT64".into(),
            "uuid" => "UUID".into(),
            "string" => "String".into(),
            "bytes" | "records" => "Bytes".into(),
            _ => match of.strip_prefix("[]") {
                Some(element) => format!("Array(&{})", self.kind(path, field, element, out)?),
                None => {
                    let mut nested = String::new();
                    let literal = self.structure(path, self.members(field, of)?, &mut nested)?;
                    let name = constant(path);
                    write!(out, "\nstatic {name}: Struct = {literal};\n{nested}")?;
                    format!("Nested(&{name})")
                }
            },
        })
    }

    /// The fields of the struct named `of`: written in place, or among the message's common structs.
    fn members<'b>(&'b self, field: &'b Field, of: &str) -> Result<&'b [Field]> {
        if !field.fields.is_empty() {
            return Ok(&field.fields);
        }
        let common = self.message.common_structs.iter().find(|c| c.name == of);
        Ok(&common.with_context(|| format!("{}: unknown type {of:?}", self.name))?.fields)
    }

    /// An upper bound of the bytes of the decoded struct itself, without what it points to. The decoder's
    /// structs hold the fields of all versions, whichever version is read.
    fn memory(&self, fields: &[Field]) -> Result<usize> {
        let mut sum = if self.flexible.is_empty() { 0 } else { TAG_MAP_MEMORY };
        for field in fields {
            sum += match field.r#type.as_str() {
                "bool" | "int8" => 1,
                "int16" | "uint16" => 2,
                "int32" => 4,
                "int64" | "float64" => 8,
                "uuid" => 16,
                "string" | "bytes" | "records" => STRING_MEMORY,
                array if array.starts_with("[]") => VEC_MEMORY,
                of => {
                    let nullable = !Versions::parse(&field.nullable_versions)?.is_empty();
                    self.memory(self.members(field, of)?)? + if nullable { OPTION_MEMORY } else { 0 }
                }
            };
        }
        Ok(sum.next_multiple_of(8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_strings_stay() {
        assert_eq!(strip_comments("// a\n\"http://x\\\"//\" // b\n"), "\n\"http://x\\\"//\" \n");
    }

    #[test]
    fn version_ranges() {
        assert!(Versions::parse("none").unwrap().is_empty());
        assert!(Versions::parse("3+").unwrap() == Versions(3, i16::MAX));
        assert!(Versions::parse("3-12").unwrap().and(Versions(5, 40)) == Versions(5, 12));
        assert!(Versions::parse("7").unwrap() == Versions(7, 7));
        assert!(Versions::parse("x").is_err());
    }
}
