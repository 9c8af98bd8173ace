//! The simulator's command line: many seeds, then the planted bugs, then a table of what was met.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use chronik_core::wal::recovery::Row;
use chronik_sim::bugs::{Bugs, PLANTED, Planted, by_name};
use chronik_sim::stats::{Deed, Fault, Stats};
use chronik_sim::{Report, Scenario, Violation, run};
use clap::Parser;

/// Runs Chronik's core over a lying disk.
#[derive(Parser)]
struct Args {
    /// Only this one: storage, or coordinators.
    #[arg(long, value_parser = Scenario::ALL.map(Scenario::name))]
    scenario: Option<String>,
    /// How many seeds to run of each scenario.
    #[arg(long, default_value_t = 3000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Replays one seed of a scenario.
    #[arg(long, requires = "scenario")]
    seed: Option<u64>,
    /// Prints every event (with --seed).
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Plants a bug and looks for a seed that catches it.
    #[arg(long, value_parser = PLANTED.map(|planted| planted.name))]
    planted: Option<String>,
}

/// A planted bug that so many seeds do not catch is not caught.
const PLANTED_SEEDS: u64 = 400;

const PANIC: &str = "no_panic";

fn main() -> ExitCode {
    let args = Args::parse();
    let planted = args.planted.as_deref().and_then(by_name);
    let scenario = args.scenario.as_deref().and_then(Scenario::by_name);
    if let (Some(scenario), Some(seed)) = (scenario, args.seed) {
        return replay(scenario, seed, planted.map(|planted| planted.bugs).unwrap_or_default(), args.trace);
    }
    if let Some(planted) = planted {
        return if hunt(planted) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let started = Instant::now();
    let (mut stats, mut failures) = (Stats::default(), Vec::new());
    for scenario in Scenario::ALL.into_iter().filter(|each| scenario.is_none_or(|only| only == *each)) {
        let (more, failed) = run_all(scenario, args.from, args.seeds, Bugs::default(), false);
        stats.add(&more);
        failures.extend(failed.into_iter().map(|(seed, violation)| (scenario.name(), seed, violation)));
    }
    print_table(args.seeds, &stats, started);
    for (scenario, seed, violation) in &failures {
        println!("FAILED {scenario} seed {seed}: {violation}");
        println!(
            "  replay: cargo run --profile ci -p chronik-sim -- --scenario {scenario} --seed {seed} --trace"
        );
    }
    // Of one scenario alone, nobody expects everything.
    let unmet = if scenario.is_none() { stats.unmet() } else { Vec::new() };
    if !unmet.is_empty() {
        println!("FAILED: never met: {}", unmet.join(", "));
    }
    println!("\nplanted bugs");
    let here = PLANTED.iter().filter(|planted| scenario.is_none_or(|only| only == planted.scenario));
    let missed = here.filter(|planted| !hunt(**planted)).count();
    println!("\n{:.1} s in all", started.elapsed().as_secs_f64());
    if failures.is_empty() && unmet.is_empty() && missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(scenario: Scenario, seed: u64, bugs: Bugs, trace: bool) -> ExitCode {
    let Report { trace_hash, violation, stats } = run(scenario, seed, bugs, trace);
    println!("seed {seed}: {} us of virtual time, trace hash {trace_hash:016x}", stats.virtual_us);
    match violation {
        Some(violation) => {
            println!("FAILED: {violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

/// A panic in the code under test fails its seed as a violation does.
fn run_caught(scenario: Scenario, seed: u64, bugs: Bugs) -> Report {
    catch_unwind(AssertUnwindSafe(|| run(scenario, seed, bugs, false))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_string()));
        let violation = Violation { invariant: PANIC, what: text.unwrap_or_default() };
        Report { stats: Stats::default(), trace_hash: 0, violation: Some(violation) }
    })
}

/// Runs seeds on all processors; `first_only` ends with the first failure.
fn run_all(
    scenario: Scenario,
    from: u64,
    seeds: u64,
    bugs: Bugs,
    first_only: bool,
) -> (Stats, Vec<(u64, Violation)>) {
    let next = AtomicU64::new(from);
    let enough = AtomicBool::new(false);
    let all = Mutex::new((Stats::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut stats = Stats::default();
                let mut failures = Vec::new();
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from.saturating_add(seeds) {
                        break;
                    }
                    let report = run_caught(scenario, seed, bugs);
                    stats.add(&report.stats);
                    if let Some(violation) = report.violation {
                        failures.push((seed, violation));
                        enough.fetch_or(first_only || failures.len() >= 20, Ordering::Relaxed);
                    }
                }
                let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                all.0.add(&stats);
                all.1.extend(failures);
            });
        }
    });
    let (stats, mut failures) = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failures.sort_by_key(|(seed, _)| *seed);
    (stats, failures)
}

/// Looks for the first seed that catches a planted bug.
fn hunt(Planted { name, scenario, bugs }: Planted) -> bool {
    let (_, failures) = run_all(scenario, 0, PLANTED_SEEDS, bugs, true);
    // A panic is no catch: the checks must see it.
    match failures.iter().find(|(_, violation)| violation.invariant != PANIC) {
        Some((seed, violation)) => {
            let text: String = violation.to_string().chars().take(160).collect();
            println!("  {name:<26} caught by seed {seed}: {text}");
            true
        }
        None => {
            println!("  {name:<26} NOT CAUGHT in {PLANTED_SEEDS} seeds");
            false
        }
    }
}

fn print_table(seeds: u64, stats: &Stats, started: Instant) {
    println!(
        "{seeds} seeds, {:.1} s of virtual time in {:.1} s",
        stats.virtual_us as f64 / 1e6,
        started.elapsed().as_secs_f64()
    );
    println!("\nrows of the recovery table");
    for row in Row::ALL {
        println!("  {:<60} {:>12}", row.to_string(), stats.rows.get(&row).unwrap_or(&0));
    }
    println!("\nfaults");
    for fault in Fault::ALL {
        println!("  {:<60} {:>12}", format!("{fault:?}"), stats.faults.get(fault).unwrap_or(&0));
    }
    println!("\nchecks");
    for (name, n) in &stats.checks {
        println!("  {name:<60} {n:>12}");
    }
    println!("\nwhat the broker did");
    for deed in Deed::ALL {
        println!("  {:<60} {:>12}", format!("{deed:?}"), stats.deeds.get(deed).unwrap_or(&0));
    }
}
