//! `cargo xtask charts`: writes the tables of values in the charts' READMEs; `--check` finds what does not agree.
//!
//! Checked are: the READMEs against `values.yaml`, `values.yaml` against its schema, and every metric that charts and
//! documents name against what the programs export.

mod metrics;
mod values;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Write the tables of the charts' READMEs, or check charts and documents.
#[derive(clap::Args)]
pub struct Args {
    /// Write nothing, and fail if anything does not agree
    #[arg(long)]
    check: bool,
    /// With --check: the text of a broker's /metrics, in which every metric of the charts must occur
    #[arg(long, value_name = "FILE", requires = "check")]
    live_broker: Option<PathBuf>,
    /// With --check: the same of an operator
    #[arg(long, value_name = "FILE", requires = "check")]
    live_operator: Option<PathBuf>,
}

const CHARTS: [&str; 2] = ["chronik-operator", "chronik-cluster"];
const BEGIN: &str = "<!-- The table is made from values.yaml by `cargo xtask charts`. -->\n";
const END: &str = "<!-- End of the table. -->\n";

/// What running programs export, if somebody has asked them.
#[derive(Default)]
pub struct Live {
    pub broker: Option<String>,
    pub operator: Option<String>,
}

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let read = |file: &Option<PathBuf>| -> Result<Option<String>> {
        let Some(file) = file else { return Ok(None) };
        Ok(Some(std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?))
    };
    if args.check {
        return check(root, &Live { broker: read(&args.live_broker)?, operator: read(&args.live_operator)? });
    }
    for chart in CHARTS {
        let file = root.join("charts").join(chart).join("README.md");
        std::fs::write(&file, readme(root, chart)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Fails with everything that does not agree.
pub fn check(root: &Path, live: &Live) -> Result<()> {
    let mut wrong = Vec::new();
    for chart in CHARTS {
        let directory = root.join("charts").join(chart);
        if text_of(&directory.join("README.md"))? != readme(root, chart)? {
            wrong.push(format!(
                "charts/{chart}/README.md is stale: run `cargo xtask charts` and commit the result"
            ));
        }
        let values = text_of(&directory.join("values.yaml"))?;
        let schema = text_of(&directory.join("values.schema.json"))?;
        let found = values::against_schema(&values, &schema)?;
        wrong.extend(found.into_iter().map(|what| format!("charts/{chart}/values.schema.json: {what}")));
    }
    let (named, found) = metrics::check(root, live)?;
    wrong.extend(found);
    wrong.sort();
    wrong.dedup();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("the charts' tables, values, schemas and {named} metrics agree");
    Ok(())
}

/// The README as it should be: as it is, with the table made anew.
fn readme(root: &Path, chart: &str) -> Result<String> {
    let directory = root.join("charts").join(chart);
    let text = text_of(&directory.join("README.md"))?;
    let table = values::table(&text_of(&directory.join("values.yaml"))?)
        .with_context(|| format!("charts/{chart}/values.yaml"))?;
    let marks = || format!("charts/{chart}/README.md has no place for the table");
    let (before, rest) = text.split_once(BEGIN).with_context(marks)?;
    let (_, after) = rest.split_once(END).with_context(marks)?;
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

fn text_of(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
