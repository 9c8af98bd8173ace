//! What a run comes to, as JSON for programs and a line for people.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ledger::{Fate, Ledger, Seen};
use super::verify::Verdict;

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub run: String,
    pub topic: String,
    pub acks: String,
    pub rate: u64,
    pub seconds: f64,
    pub sent: u64,
    pub acknowledged: u64,
    pub failed: u64,
    pub unknown: u64,
    pub not_sent: u64,
    pub retries: u64,
    pub reconnects: u64,
    pub errors: BTreeMap<String, Seen>,
    /// Whether an ordinary client would have tried again after each error.
    pub only_retriable: bool,
    /// The longest time without an acknowledgement, in milliseconds.
    pub longest_silence_ms: u64,
    pub latency_p50_ms: f64,
    pub latency_p99_ms: f64,
    /// What reading everything back showed; missing when nothing was read back.
    pub verdict: Option<Verdict>,
}

impl Report {
    pub fn new(ledger: &Ledger, verdict: Option<Verdict>) -> Report {
        let count =
            |which: fn(&Fate) -> bool| ledger.entries.iter().filter(|e| which(&e.fate)).count() as u64;
        let ms = |us: u64| (us as f64 / 10.0).round() / 100.0;
        let not_sent = count(|fate| *fate == Fate::NotSent);
        Report {
            run: ledger.head.run.clone(),
            topic: ledger.head.topic.clone(),
            acks: ledger.head.acks.clone(),
            rate: ledger.head.rate,
            seconds: (ledger.head.ended_us as f64 / 10_000.0).round() / 100.0,
            sent: ledger.entries.len() as u64 - not_sent,
            acknowledged: count(|fate| matches!(fate, Fate::Acknowledged(_))),
            failed: count(|fate| *fate == Fate::Failed),
            unknown: count(|fate| *fate == Fate::Unknown),
            not_sent,
            retries: ledger.head.retries,
            reconnects: ledger.head.reconnects,
            only_retriable: ledger.head.errors.values().all(|seen| seen.retriable),
            errors: ledger.head.errors.clone(),
            longest_silence_ms: ledger.longest_silence_us() / 1000,
            latency_p50_ms: ms(ledger.latency_us(0.5)),
            latency_p99_ms: ms(ledger.latency_us(0.99)),
            verdict,
        }
    }

    /// Every record was acknowledged, clients saw retriable errors at most, and all is there.
    pub fn is_good(&self) -> bool {
        self.acknowledged > 0
            && self.failed + self.unknown + self.not_sent == 0
            && self.only_retriable
            && self.verdict.as_ref().is_none_or(Verdict::is_good)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} records acknowledged in {:.1} s", self.acknowledged, self.sent, self.seconds)?;
        for (count, what) in [(self.failed, "failed"), (self.unknown, "unknown"), (self.not_sent, "not sent")]
        {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        write!(f, "; silent for {} ms at most", self.longest_silence_ms)?;
        write!(f, "; p50 {} ms, p99 {} ms", self.latency_p50_ms, self.latency_p99_ms)?;
        for (name, seen) in &self.errors {
            let kind = if seen.retriable { "" } else { " (not retriable)" };
            write!(f, "; {} x {name}{kind}", seen.count)?;
        }
        if let Some(verdict) = &self.verdict {
            write!(f, "; read back {}: {} lost", verdict.read, verdict.lost)?;
            write!(f, ", {} duplicates by retries", verdict.duplicates)?;
            for problem in &verdict.problems {
                write!(f, "\n  {problem}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Entry;
    use super::*;

    fn ledger(fate: Fate) -> Ledger {
        let mut ledger = Ledger::default();
        for fate in [Fate::Acknowledged(0), fate] {
            ledger.entries.push(Entry { due_us: 0, settled_us: 1, in_doubt: 0, fate });
        }
        ledger
    }

    #[test]
    fn a_good_run_has_every_record_acknowledged() {
        assert!(Report::new(&ledger(Fate::Acknowledged(1)), None).is_good());
        for fate in [Fate::Failed, Fate::Unknown, Fate::NotSent] {
            assert!(!Report::new(&ledger(fate), None).is_good(), "{fate:?}");
        }
        assert!(!Report::new(&Ledger::default(), None).is_good());
    }

    #[test]
    fn an_error_that_is_not_retriable_spoils_it() {
        let mut ledger = ledger(Fate::Acknowledged(1));
        ledger.head.errors.insert("a".to_owned(), Seen { retriable: true, count: 1 });
        assert!(Report::new(&ledger, None).is_good());
        ledger.head.errors.insert("b".to_owned(), Seen { retriable: false, count: 1 });
        assert!(!Report::new(&ledger, None).is_good());
    }

    #[test]
    fn so_does_a_bad_verdict() {
        let ledger = ledger(Fate::Acknowledged(1));
        assert!(Report::new(&ledger, Some(Verdict::default())).is_good());
        let lost = Verdict { lost: 1, ..Verdict::default() };
        assert!(!Report::new(&ledger, Some(lost)).is_good());
    }
}
