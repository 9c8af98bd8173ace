//! `chronik bench compare`: the same records go to two brokers, both clean, and what is left is compared. The reference is
//! Kafka, whose cleaner ours must do as; `cargo xtask compare` starts both.
//!
//! One topic of one partition for each case, so that offsets are the same. Two rounds: in each, batches are sent, one
//! after the other; a last record closes their segment; when both have cleaned, all is read. In between, time passes,
//! and settings are altered.

mod cases;
mod judge;
mod side;
mod workload;

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use self::cases::BRIEF_MS;
use self::judge::Pair;
use self::side::{Log, Side};
use self::workload::{Case, Left};
use crate::cli::{Server, runtime, table};
use crate::storage::now_ms;

/// Options of the comparison.
#[derive(Debug, Args)]
pub struct CompareArgs {
    #[command(flatten)]
    server: Server,
    /// The broker that is right
    #[arg(long, value_name = "HOST:PORT")]
    reference: String,
    /// Only cases with this in their names
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// How long either broker may take to clean, or to delete what is too old.
const PATIENCE: Duration = Duration::from_secs(60);
/// `segment.ms` of all topics, and a little more: segments by the broker's clock are old enough then.
const SEGMENT: Duration = Duration::from_millis(1_200);
/// Differences of one case that are shown.
const SHOWN: usize = 8;
/// The first round's times lie two hours back, the second one's a minute: what is kept for an hour tells them apart.
const BEGAN_BEFORE_MS: [i64; 2] = [7_200_000, 60_000];
/// Times that are searched for: some of those that the cases have, between them, before and behind.
const TIMES_MS: [i64; 10] = [-1, 0, 1, 50, 200, 250, 299, 700, 900, 30_000];

/// What was found of a case.
struct Verdict {
    sent: i64,
    /// After the second round: of the reference and of the broker.
    logs: Option<[Log; 2]>,
    differences: Vec<String>,
}

/// Runs all cases, and prints a table.
///
/// # Errors
/// When a broker cannot be reached or refuses, and when anything differs.
pub fn run(args: &CompareArgs) -> Result<()> {
    let mut cases = cases::all();
    cases.retain(|case| args.only.as_ref().is_none_or(|text| case.name.contains(text)));
    ensure!(!cases.is_empty(), "no case has {:?} in its name", args.only.as_deref().unwrap_or_default());
    let verdicts = runtime()?.block_on(drive(args, &cases))?;
    table(&mut std::io::stdout(), rows(&cases, &verdicts))?;
    let mut differing = 0;
    for (case, verdict) in cases.iter().zip(&verdicts) {
        differing += usize::from(!verdict.differences.is_empty());
        for difference in verdict.differences.iter().take(SHOWN) {
            println!("{}: {difference}", case.name);
        }
        if let Some(more) = verdict.differences.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            println!("{}: and {more} more", case.name);
        }
    }
    ensure!(differing == 0, "{differing} of {} cases differ", cases.len());
    Ok(())
}

async fn drive(args: &CompareArgs, cases: &[Case]) -> Result<Vec<Verdict>> {
    let began = now_ms();
    // Behind all others.
    let topics = [cases, &[cases::last_look()]].concat();
    let server = Server { bootstrap: args.reference.clone() };
    let (mut reference, mut broker) = tokio::try_join!(
        Side::open("the reference", &server, &topics),
        Side::open("the broker", &args.server, &topics)
    )?;
    let mut verdicts: Vec<Verdict> =
        cases.iter().map(|case| Verdict { sent: case.end(1), logs: None, differences: Vec::new() }).collect();
    let times: Vec<i64> =
        TIMES_MS.iter().flat_map(|time| BEGAN_BEFORE_MS.map(|before| began - before + time)).collect();
    for round in 0..BEGAN_BEFORE_MS.len() {
        let late = tokio::try_join!(
            one_round(&mut reference, &topics, round, began),
            one_round(&mut broker, &topics, round, began)
        )?;
        for (name, late) in [(reference.name, late.0), (broker.name, late.1)] {
            let what = format!("round {}: {name} has not cleaned it within {PATIENCE:?}", round + 1);
            let both = cases.iter().zip(&mut verdicts).filter(|(case, _)| late.contains(&case.name));
            both.for_each(|(_, verdict)| verdict.differences.push(what.clone()));
        }
        for (at, (case, verdict)) in cases.iter().zip(&mut verdicts).enumerate() {
            let (a, b) = tokio::try_join!(reference.read(at, case, &times), broker.read(at, case, &times))?;
            if case.left(round).is_some() {
                let pair = Pair { case, round, reference: &a, broker: &b };
                let found = pair.differences();
                verdict.differences.extend(found.iter().map(|what| format!("round {}: {what}", round + 1)));
            }
            verdict.logs = Some([a, b]);
        }
    }
    for (at, (case, verdict)) in cases.iter().zip(&mut verdicts).enumerate() {
        let (a, b) = tokio::try_join!(reference.answers(at, case, began), broker.answers(at, case, began))?;
        let wanted = case.answers();
        if [&a, &b].iter().any(|answers| **answers != wanted) {
            let what =
                format!("{a:?} are the reference's answers, {b:?} the broker's, {wanted:?} are wanted");
            verdict.differences.push(what);
        }
    }
    Ok(verdicts)
}

/// A round on one broker; the names of cases that it does not clean in time. The last topic is the one for the last look.
async fn one_round(side: &mut Side, topics: &[Case], round: usize, began: i64) -> Result<Vec<&'static str>> {
    let look = topics.len().saturating_sub(1);
    if round > 0 {
        // Horizons of a moment ago are to be past.
        tokio::time::sleep(Duration::from_millis(2 * BRIEF_MS)).await;
        return clean(side, topics, 0..look, round, began).await;
    }
    let late = clean(side, topics, 0..topics.len(), round, began).await?;
    // What must stay whole could have been cleaned until now: only then is it looked at.
    let looked = clean(side, topics, look..topics.len(), 1, began).await?;
    ensure!(looked.is_empty(), "{} does not clean {}", side.name, looked.join(", "));
    Ok(late)
}

/// Sends a round's batches to some of the topics, and waits until they are cleaned; those that are not in time.
async fn clean(
    side: &mut Side,
    topics: &[Case],
    chosen: Range<usize>,
    round: usize,
    began: i64,
) -> Result<Vec<&'static str>> {
    let begins_ms = began - BEGAN_BEFORE_MS[round];
    let cases = || chosen.clone().zip(&topics[chosen.clone()]);
    side.alter(&topics[chosen.clone()], round, PATIENCE).await?;
    for (at, case) in cases() {
        side.send(at, case, case.rounds[round].split().0, begins_ms).await?;
    }
    // Under LogAppendTime a segment is as old as it is, whatever the records say.
    tokio::time::sleep(SEGMENT).await;
    for (at, case) in cases() {
        side.send(at, case, case.rounds[round].split().1, begins_ms).await?;
    }
    let is_cleaned = |case: &&Case| case.rounds[round].left != Left::Everything;
    let waited_for: Vec<&Case> = topics[chosen.clone()].iter().filter(is_cleaned).collect();
    side.cleaned(&waited_for, round, PATIENCE).await
}

fn rows(cases: &[Case], verdicts: &[Verdict]) -> Vec<Vec<String>> {
    let header =
        ["CASE", "SENT", "REFERENCE KEEPS", "BROKER KEEPS", "TOMBSTONES", "EMPTY BATCHES", "DIFFERENCES"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (case, verdict) in cases.iter().zip(verdicts) {
        let counts = |count: fn(&Log) -> usize| {
            verdict
                .logs
                .as_ref()
                .map_or_else(Default::default, |logs| logs.each_ref().map(|l| count(l).to_string()))
        };
        let [reference, broker] = counts(|log| log.records().count());
        let tombstones = counts(|log| log.records().filter(|record| record.value.is_none()).count());
        let empty = counts(|log| log.batches.iter().filter(|batch| batch.records.is_empty()).count());
        let differences = match verdict.differences.len() {
            0 => "none".to_owned(),
            some => some.to_string(),
        };
        let (name, sent) = (case.name.to_owned(), verdict.sent.to_string());
        let (tombstones, empty) = (tombstones.join(" / "), empty.join(" / "));
        rows.push(vec![name, sent, reference, broker, tombstones, empty, differences]);
    }
    rows
}
