//! The scenarios, one file each, and the table of what they came to.

mod adoption;
mod deletion;
mod disturbances;
mod hygiene;
mod install;
mod mending;
mod profiles;
mod refusals;
mod seccomp;

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::stage::Stage;

/// What a scenario found, for the table at the end.
#[derive(Debug, Default)]
pub struct Figures {
    lines: Mutex<Vec<String>>,
}

impl Figures {
    /// Adds a line, and prints it now.
    pub fn add(&self, line: impl Into<String>) {
        let line = line.into();
        println!("   {line}");
        if let Ok(mut lines) = self.lines.lock() {
            lines.push(line);
        }
    }

    fn take(&self) -> Vec<String> {
        self.lines.lock().map(|mut lines| std::mem::take(&mut *lines)).unwrap_or_default()
    }
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A scenario. It brings what it needs, and can be run alone.
pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    run: for<'a> fn(&'a Stage, &'a Figures) -> Running<'a>,
}

macro_rules! scenario {
    ($name:ident, $what:literal) => {
        Scenario {
            name: stringify!($name),
            what: $what,
            run: |stage, figures| Box::pin($name::run(stage, figures)),
        }
    };
}

/// All scenarios, in the order in which they run.
pub const ALL: [Scenario; 9] = [
    scenario!(install, "both charts by helm; clients inside and outside; helm test"),
    scenario!(profiles, "WAL profiles of topics and clusters change live; another cluster notices nothing"),
    scenario!(disturbances, "restarts, a killed pod, a killed node, a killed operator, under load"),
    scenario!(refusals, "what is refused when it is applied"),
    scenario!(mending, "what becomes a condition, and how good YAML mends it"),
    scenario!(adoption, "existing topics under each adoption policy, and drift"),
    scenario!(seccomp, "a container that may not use io_uring"),
    scenario!(hygiene, "examples, pod security, idle cost, names of metrics"),
    scenario!(deletion, "deleting in every order; old volumes serve old records"),
];

/// What became of a scenario.
struct Outcome {
    name: &'static str,
    failed: Option<String>,
    took: Duration,
    figures: Vec<String>,
}

/// Runs the scenarios that are named, or all.
///
/// # Errors
/// If one fails, or a node was not ready that nobody had killed.
pub async fn run(stage: &Stage, names: &[String]) -> Result<()> {
    let mut outcomes = Vec::new();
    let chosen = ALL.iter().filter(|scenario| names.is_empty() || names.iter().any(|n| n == scenario.name));
    for scenario in chosen {
        println!("\n--> {}: {}", scenario.name, scenario.what);
        let (begun, figures) = (Instant::now(), Figures::default());
        let failed = (scenario.run)(stage, &figures).await.err().map(|error| format!("{error:#}"));
        let took = begun.elapsed();
        match &failed {
            None => println!("<-- {} passed in {:.1} s", scenario.name, took.as_secs_f64()),
            Some(why) => {
                println!("<-- {} FAILED after {:.1} s: {why}", scenario.name, took.as_secs_f64());
                stage.diagnose(scenario.name).await;
                if let Err(error) = stage.recover().await {
                    println!("   what it left stays in the way: {error:#}");
                }
            }
        }
        outcomes.push(Outcome { name: scenario.name, failed, took, figures: figures.take() });
    }
    let cleared = stage.all_cleared().await;
    println!("\n{:<14} {:<7} {:>8}", "scenario", "result", "seconds");
    for outcome in &outcomes {
        let result = if outcome.failed.is_some() { "FAILED" } else { "passed" };
        println!("{:<14} {result:<7} {:>8.1}", outcome.name, outcome.took.as_secs_f64());
        for line in &outcome.figures {
            println!("    {line}");
        }
        if let Some(why) = &outcome.failed {
            println!("    FAILED: {why}");
        }
    }
    let surprises = stage.nodes.surprises();
    for surprise in &surprises {
        println!("    {surprise}");
    }
    let failed = outcomes.iter().filter(|outcome| outcome.failed.is_some()).count();
    ensure!(failed == 0, "{failed} of {} scenarios failed", outcomes.len());
    cleared?;
    ensure!(
        surprises.is_empty(),
        "a node was not ready that nobody had killed: this machine is too slow, or too busy"
    );
    Ok(())
}
