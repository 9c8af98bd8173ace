//! What a run tells.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::ledger::{Count, Ledger};
use crate::pair::Pair;
use crate::rules::RULES;
use crate::schema::Versions;

/// Values longer than this are cut.
const SHOWN_CHARS: usize = 300;

/// Prints it all. The number of things that must not be: differences that no rule knows and, of a `whole` run, rules that
/// nothing needs.
pub fn print(pair: &Pair<'_>, whole: bool) -> usize {
    let ledger = &pair.ledger;
    table(pair, ledger);
    let stale = rules(ledger, whole);
    let unserved = unserved(pair);
    if !unserved.is_empty() {
        println!("\nKafka serves these too: {}", unserved.join(", "));
    }
    for ((api, ..), found) in &ledger.unexpected {
        let versions = range(Versions(found.versions.0, found.versions.1));
        let path = &found.difference.path;
        println!("\n{api} v{versions} {path} ({} times, first in {})", found.times, found.case);
        println!("  asked    {}", short(&found.body));
        println!("  at       {}", found.difference.place);
        println!("  Kafka    {}", short(&found.difference.kafka));
        println!("  Chronik  {}", short(&found.difference.chronik));
    }
    for why in &ledger.broken {
        println!("\nBroken off: {why}");
    }
    let total = ledger.counts.values().fold(Count::default(), add);
    let beyond = beyond(pair);
    let unasked = if whole { unasked(pair) } else { Vec::new() };
    if !unasked.is_empty() {
        println!("\nServed by both and never asked for: {}", unasked.join(", "));
    }
    for api in &beyond {
        println!("\nChronik advertises what Kafka does not: {api}");
    }
    println!(
        "\n{} requests compared: {} differ as allowed, {} otherwise ({} kinds)",
        total.asked,
        total.allowed,
        total.unexpected,
        ledger.unexpected.len()
    );
    ledger.unexpected.len() + ledger.broken.len() + stale + beyond.len() + unasked.len()
}

fn add(sum: Count, count: &Count) -> Count {
    Count {
        asked: sum.asked + count.asked,
        allowed: sum.allowed + count.allowed,
        unexpected: sum.unexpected + count.unexpected,
    }
}

/// A row for each API: its versions, and the requests of each version.
fn table(pair: &Pair<'_>, ledger: &Ledger) {
    println!(
        "\n{:<26} {:>7} {:>7} {:>8} {:>8} {:>6}  requests of each version",
        "API", "Kafka", "Chronik", "requests", "allowed", "other"
    );
    let mut by_api: BTreeMap<&str, Vec<(i16, Count)>> = BTreeMap::new();
    for ((api, version), count) in &ledger.counts {
        by_api.entry(api).or_default().push((*version, *count));
    }
    for (name, counts) in by_api {
        let Ok(api) = pair.schemas.api(name) else { continue };
        let [kafka, chronik] =
            pair.sides.each_ref().map(|side| side.versions_of(api).map_or("-".into(), range));
        let total = counts.iter().map(|(_, count)| count).fold(Count::default(), add);
        let each: Vec<String> = counts.iter().map(|(v, count)| format!("{v}:{}", count.asked)).collect();
        println!(
            "{name:<26} {kafka:>7} {chronik:>7} {:>8} {:>8} {:>6}  {}",
            total.asked,
            total.allowed,
            total.unexpected,
            each.join(" ")
        );
    }
}

/// The rules that were needed, and how often. The number of those that were not.
fn rules(ledger: &Ledger, whole: bool) -> usize {
    let mut stale = 0;
    println!("\nAllowed:");
    for (n, rule) in RULES.iter().enumerate() {
        let needed = ledger.needed.get(&n).copied().unwrap_or_default();
        if needed == 0 && !whole {
            continue;
        }
        stale += usize::from(needed == 0);
        let never = if needed == 0 { "  NEVER NEEDED: take it out of rules.rs" } else { "" };
        println!("  {:<26} {:<40} {needed:>6}  {}{never}", rule.api, rule.path, rule.why);
    }
    stale
}

/// What Kafka advertises and Chronik does not: whole APIs, or versions.
fn unserved(pair: &Pair<'_>) -> Vec<String> {
    let missing = pair.schemas.all().filter_map(|api| {
        let [kafka, chronik] = pair.sides.each_ref().map(|side| side.versions_of(api));
        let kafka = kafka?;
        let lacking: Vec<i16> = kafka.all().filter(|v| !chronik.unwrap_or_default().contains(*v)).collect();
        let (first, last) = (lacking.first()?, lacking.last()?);
        Some(format!("{} {}", api.name, range(Versions(*first, *last))))
    });
    missing.collect()
}

/// The reverse, of which there must be nothing.
fn beyond(pair: &Pair<'_>) -> Vec<String> {
    let more = pair.schemas.all().filter_map(|api| {
        let [kafka, chronik] = pair.sides.each_ref().map(|side| side.versions_of(api).unwrap_or_default());
        let within = chronik.all().all(|version| kafka.contains(version));
        (!within).then(|| format!("{} {}", api.name, range(chronik)))
    });
    more.collect()
}

/// What both serve and no case has.
fn unasked(pair: &Pair<'_>) -> Vec<String> {
    let asked = |api: &str, version: i16| pair.ledger.counts.contains_key(&(api.to_owned(), version));
    let each =
        pair.schemas.all().flat_map(|api| pair.common(api).all().map(move |version| (&api.name, version)));
    each.filter(|(api, version)| !asked(api, *version))
        .map(|(api, version)| format!("{api} {version}"))
        .collect()
}

fn range(versions: Versions) -> String {
    if versions.0 == versions.1 { versions.0.to_string() } else { format!("{}-{}", versions.0, versions.1) }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
        None => text,
    }
}
