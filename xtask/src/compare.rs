//! `cargo xtask compare`: a real Kafka and Chronik get the same keyed records, both clean, and what is left must be the
//! same. `chronik bench compare` sends, reads and judges.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::bench::place::Place;
use crate::bench::servers;

/// Options of `cargo xtask compare`.
#[derive(clap::Args)]
pub struct Args {
    /// Only cases with this in their names
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// For both: cleaners and retention look often, so that a run takes seconds.
const OFTEN: [&str; 3] =
    ["log.cleaner.backoff.ms=100", "log.retention.check.interval.ms=200", "log.segment.delete.delay.ms=1000"];

/// Runs both servers and the comparison.
///
/// # Errors
/// When something cannot be built, fetched or started, and when Chronik's cleaner leaves anything else than Kafka's.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let target = std::path::absolute(crate::target_dir(root))?;
    let program = args.place.program(|| crate::clients::build_broker(root, &target))?;
    let jars = servers::fetch_kafka(root, &target)?;
    let dir = args.place.run_dir(&target.join("compare"))?;
    let often = OFTEN.map(str::to_owned);
    // Kafka waits half a minute before its first look at retention.
    let of_kafka = [&often[..], &["log.initial.task.delay.ms=200".to_owned()]].concat();
    let of_chronik = [&often[..], &args.place.set].concat();
    let mut judge = Command::new(&program);
    judge.args(["bench", "compare"]);
    if let Some(only) = &args.only {
        judge.args(["--only", only]);
    }
    let complaint = "Chronik does not clean as Kafka does";
    servers::compare(&dir, (&jars, &of_kafka), (&program, &of_chronik), judge, complaint)
}
