//! Whether rolls, retention, deletion and compaction were under way at all: a test in which they never happened shows
//! nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::journal::Journal;
use super::process::Running;
use super::rounds::Coordination;

/// Rounds after which everything must have happened.
const ROUNDS: u64 = 4;

/// What happened in a run.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Passes of the cleaner.
    passes: u64,
    /// Segments that were seen, by their partition's directory and base offset.
    segments: BTreeSet<(PathBuf, String)>,
    starts_by_size: u64,
    starts_by_request: u64,
    tombstones_gone: u64,
    /// Transactions by how they ended, those of which a crash kept the answer, and zombies that were refused.
    committed: u64,
    aborted: u64,
    in_doubt: u64,
    zombies: u64,
    /// Offsets that members of groups committed, and those that members of an epoch that is over were refused.
    offsets: u64,
    stale: u64,
}

impl Evidence {
    /// Looks at a broker that is about to die.
    pub fn look(&mut self, running: &Running) {
        // A broker that has ended by itself is a matter of others.
        self.passes += running.metric("chronik_cleaner_passes_total").unwrap_or(0);
        self.look_at_files(&running.spec().data_dir.join("topics"));
    }

    /// A file that goes while it is looked for does not count.
    fn look_at_files(&mut self, dir: &Path) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                self.look_at_files(&path);
            } else if let Some((base, _)) = entry.file_name().to_string_lossy().split_once('.') {
                self.segments.insert((dir.to_path_buf(), base.to_owned()));
            }
        }
    }

    /// Takes over what the checks have found.
    pub fn note(&mut self, journal: &Journal) {
        self.starts_by_size = journal.starts.by_size;
        self.starts_by_request = journal.starts.by_request;
        self.tombstones_gone = journal.tables.tombstones_gone;
    }

    /// The same of coordinators.
    pub fn note_coordination(&mut self, coordination: &mut Coordination) {
        let Coordination { transactors, members, consumers } = coordination;
        (self.committed, self.aborted) = (transactors.committed, transactors.aborted);
        (self.in_doubt, self.zombies) = (transactors.in_doubt, transactors.zombies_refused);
        self.offsets = members.committed() + consumers.committed();
        self.stale = consumers.iter().map(|consumer| consumer.refused).sum();
    }

    fn rolls(&self) -> usize {
        let partitions: BTreeSet<&PathBuf> = self.segments.iter().map(|(dir, _)| dir).collect();
        self.segments.len() - partitions.len()
    }

    /// Complains of what never happened.
    ///
    /// # Errors
    /// When something never did, in a run of several rounds.
    pub fn check(&self, rounds: u64) -> Result<()> {
        let all = [
            self.passes,
            self.rolls() as u64,
            self.starts_by_size,
            self.starts_by_request,
            self.committed,
            self.aborted,
            self.zombies,
            self.offsets,
            self.stale,
        ];
        let shows = rounds < ROUNDS || all.iter().all(|count| *count > 0);
        ensure!(shows, "{rounds} rounds, and something never happened in them: {self}");
        Ok(())
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passes of compaction, {} segments rolled, starts moved {} times by size and {} times by \
             DeleteRecords, {} tombstones gone; {} transactions committed, {} aborted, {} in doubt, {} zombies refused, \
             {} offsets committed, {} of former members refused",
            self.passes,
            self.rolls(),
            self.starts_by_size,
            self.starts_by_request,
            self.tombstones_gone,
            self.committed,
            self.aborted,
            self.in_doubt,
            self.zombies,
            self.offsets,
            self.stale,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_in_which_something_never_happened_fails() {
        let segment = |n: &str| (PathBuf::from("topic/0"), n.to_owned());
        let segments = BTreeSet::from([segment("0"), segment("7")]);
        let all = Evidence {
            passes: 1,
            segments,
            starts_by_size: 1,
            starts_by_request: 1,
            tombstones_gone: 0,
            committed: 1,
            aborted: 1,
            in_doubt: 0,
            zombies: 1,
            offsets: 1,
            stale: 1,
        };
        all.check(ROUNDS).unwrap();
        let mut without = [(); 9].map(|()| all.clone());
        without[0].passes = 0;
        _ = without[1].segments.pop_first();
        without[2].starts_by_size = 0;
        without[3].starts_by_request = 0;
        without[4].committed = 0;
        without[5].aborted = 0;
        without[6].zombies = 0;
        without[7].offsets = 0;
        without[8].stale = 0;
        for evidence in without {
            assert!(evidence.check(ROUNDS).is_err(), "{evidence}");
            evidence.check(1).unwrap();
        }
    }
}
