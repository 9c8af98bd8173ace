//! Sends the same requests to Apache Kafka and to Chronik, and compares what they answer.
//!
//! Requests are encoded and answers decoded by Kafka's own message schemas, so that every field of every version is compared,
//! also of those that no library of ours knows. [`cases`] has the requests, [`normal`] says what must differ, and [`rules`]
//! lists what else does, and why.

mod cases;
mod ledger;
mod mutate;
mod normal;
mod pair;
mod records;
mod report;
mod rules;
mod schema;
mod side;
mod wire;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;

/// Compares the answers of two brokers. Both should be new: what is left of an earlier run is a difference.
#[derive(Parser)]
#[command(name = "chronik-differential")]
struct Args {
    /// The Kafka that is right
    #[arg(long, value_name = "HOST:PORT")]
    reference: String,
    /// Chronik
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap: String,
    /// The directory of Kafka's message schemas
    #[arg(long)]
    schemas: PathBuf,
    /// Only the cases of this API, and what they need
    #[arg(long, value_name = "API")]
    only: Option<String>,
    /// Print every request with both answers
    #[arg(long)]
    verbose: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let schemas = schema::Schemas::load(&args.schemas)?;
    if let Some(only) = &args.only {
        schemas.api(only)?;
    }
    let mut pair = pair::Pair::open(&schemas, &args.reference, &args.bootstrap)?;
    pair.ledger.verbose = args.verbose;
    let ran = cases::run(&mut pair, args.only.as_deref());
    let wrong = report::print(&pair, args.only.is_none());
    ran.with_context(|| format!("in {}", pair.case))?;
    ensure!(wrong == 0, "{wrong} things are not as they must be");
    Ok(())
}
