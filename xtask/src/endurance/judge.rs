//! The table, and what is made of it.

use super::Course;
use super::watch::Seen;
use crate::bench::verdict::columns;

const FIRST: &str = "quarter 1";
const LAST: &str = "quarter 4";
const WITHOUT: &str = "without the reader";
const WITH: &str = "with the reader";
const MIB: f64 = 1_048_576.0;

/// How much more the last quarter may have than the first and still be flat: a factor, and an amount that counts for little
/// figures.
struct Allowance {
    times: f64,
    plus: f64,
}

const LATENCY_MS: Allowance = Allowance { times: 1.5, plus: 1.0 };
const RESIDENT_MIB: Allowance = Allowance { times: 1.25, plus: 32.0 };
const DESCRIPTORS: Allowance = Allowance { times: 1.1, plus: 64.0 };
/// Produce p99 beside the cold consumer.
const COLD: Allowance = Allowance { times: 1.5, plus: 0.0 };

/// One line of the judgement.
struct Verdict {
    goal: String,
    figure: String,
    met: Option<bool>,
    /// Whether a broker of ours that falls short fails the run.
    binding: bool,
}

impl Course {
    fn seen(&self, phase: &str) -> Option<&Seen> {
        self.watch.phases.get(phase)
    }

    fn phase(&self, name: &str) -> Option<&super::Phase> {
        self.report.phases.iter().find(|phase| phase.name == name && phase.records > 0)
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let flat =
            |what: &str, unit: &str, first: Option<f64>, last: Option<f64>, allow: Allowance, binding| {
                let both = first.zip(last);
                let met = both.map(|(first, last)| last <= first * allow.times + allow.plus);
                let plus = if allow.plus > 0.0 { format!(" + {}{unit}", allow.plus) } else { String::new() };
                Verdict {
                    goal: format!("{what}: at most {} times{plus}", allow.times),
                    figure: both.map_or("-".to_owned(), |(first, last)| {
                        format!("{}{unit} -> {}{unit}", short(first), short(last))
                    }),
                    met,
                    binding,
                }
            };
        let seen = |get: fn(&Seen) -> Option<f64>| [FIRST, LAST].map(|phase| self.seen(phase).and_then(get));
        let load = |get: fn(&super::Phase) -> f64, phases: [&str; 2]| {
            phases.map(|name| self.phase(name).map(|phase| get(phase) / 1e3))
        };
        let mut verdicts = Vec::new();
        let mut add = |what, unit, [first, last]: [Option<f64>; 2], allow, binding| {
            verdicts.push(flat(what, unit, first, last, allow, binding));
        };
        let quarters = [FIRST, LAST];
        add("resident memory flat", " MiB", seen(Seen::resident), RESIDENT_MIB, true);
        add("file descriptors flat", "", seen(|s| Some(s.descriptors as f64)), DESCRIPTORS, true);
        add("WAL flush p99 flat", " ms", seen(|s| s.flush_p99_ms), LATENCY_MS, false);
        add("produce p99 flat", " ms", load(|p| p.produce_p99_us, quarters), LATENCY_MS, false);
        add("seen by consumers p99 flat", " ms", load(|p| p.seen_p99_us, quarters), LATENCY_MS, false);
        add("fetch of old records p99 flat", " ms", load(|p| p.fetch_p99_us, quarters), LATENCY_MS, false);
        add(
            "produce p99 beside a cold consumer",
            " ms",
            load(|p| p.produce_p99_us, [WITHOUT, WITH]),
            COLD,
            false,
        );
        let most = self.watch.phases.values().map(|seen| seen.disk_bytes).max().unwrap_or(0);
        verdicts.push(Verdict {
            goal: "disk use within its bound".to_owned(),
            figure: format!("{} of {} MiB", mib(most), mib(self.bound_bytes)),
            met: Some(most <= self.bound_bytes),
            binding: true,
        });
        let found = &self.report.found;
        verdicts.push(Verdict {
            goal: "retention and compaction acted".to_owned(),
            figure: format!("{} deleted, {} compacted", found.deleted, found.compacted),
            met: Some(found.deleted > 0 && found.compacted > 0),
            binding: true,
        });
        verdicts.push(Verdict {
            goal: "every record right".to_owned(),
            figure: format!("{} faults in {} acknowledged", self.report.fault_count, found.acknowledged),
            met: Some(self.report.fault_count == 0),
            binding: true,
        });
        verdicts
    }
}

/// What fails the run, in words. Kafka is there to be compared with.
pub fn failures(courses: &[Course]) -> Vec<String> {
    let ours = courses.iter().filter(|course| course.name == "Chronik");
    let mut failures = Vec::new();
    for course in ours {
        let bad = course.verdicts().into_iter().filter(|v| v.binding && v.met != Some(true));
        failures.extend(bad.map(|v| format!("{}: {} ({})", course.name, v.goal, v.figure)));
        failures.extend(course.report.faults.iter().cloned());
    }
    failures
}

/// Everything, for people.
pub fn table(courses: &[Course]) -> String {
    let header = [
        "",
        "records/s",
        "produce p50 ms",
        "p99 ms",
        "seen p99 ms",
        "fetch p99 ms",
        "WAL p99 ms",
        "RSS MiB",
        "fds",
        "threads",
        "disk MiB",
        "CPU %",
    ];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    for course in courses {
        for phase in &course.report.phases {
            let Some(seen) = course.seen(&phase.name) else { continue };
            let ms = |us: f64| format!("{:.2}", us / 1e3);
            lines.push(vec![
                format!("{}, {}", course.name, phase.name),
                format!("{:.0}", phase.records as f64 / seen.seconds.max(0.001)),
                ms(phase.produce_p50_us),
                ms(phase.produce_p99_us),
                ms(phase.seen_p99_us),
                ms(phase.fetch_p99_us),
                seen.flush_p99_ms.map_or("-".to_owned(), |ms| format!("{ms:.2}")),
                seen.resident().map_or("-".to_owned(), |mib| format!("{mib:.0}")),
                seen.descriptors.to_string(),
                seen.threads.to_string(),
                mib(seen.disk_bytes),
                format!("{:.0}", 100.0 * seen.processor_s / seen.seconds.max(0.001)),
            ]);
        }
    }
    let mut text = columns(&lines) + "\n";
    for course in courses {
        if let Some(cold) = &course.report.cold {
            let mib = cold.bytes / MIB;
            let rate = mib / cold.seconds.max(0.001);
            text += &format!(
                "{}: the cold consumer read {mib:.0} MiB in {:.1} s, {rate:.0} MiB/s\n",
                course.name, cold.seconds
            );
        }
        let found = &course.report.found;
        text += &format!(
            "{}: {} partitions read back, {} records of {} acknowledged ones; the others were deleted or compacted\n",
            course.name, found.partitions, found.read, found.acknowledged
        );
    }
    let mut lines = vec![["first quarter -> last", "", "", ""].map(str::to_owned).to_vec()];
    for course in courses {
        lines.extend(course.verdicts().into_iter().map(|v| {
            let verdict = match v.met {
                None => "not measured",
                Some(true) => "met",
                Some(false) => "FALLS SHORT",
            };
            vec![format!("{}: {}", course.name, v.goal), v.figure, verdict.to_owned()]
        }));
    }
    text + "\n" + &columns(&lines)
}

fn mib(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / MIB)
}

/// Three figures are enough.
fn short(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
