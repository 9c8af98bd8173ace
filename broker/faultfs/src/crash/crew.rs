//! Clients that commit how far they have come, each in a group of its own, through all rounds. What was acknowledged is there
//! after each crash.

use anyhow::Result;

use super::coordinators::Committer;
use super::journal::{Problem, Verdict};
use super::kafka::Connection;
use super::load::Signals;
use super::transactors::TOPIC;

/// One of them.
pub trait Worker: Send {
    /// Until the broker is gone, with its connection.
    ///
    /// # Errors
    /// When it is.
    fn run(&mut self, address: &str, signals: &Signals) -> Result<()>;

    fn progress(&mut self) -> &mut Progress;

    /// Whether it is still what it was, after a crash.
    ///
    /// # Errors
    /// When the broker does not answer.
    fn verify(&mut self, broker: &mut Connection, verdict: &mut Verdict) -> Result<()>;
}

/// How far a group has come.
#[derive(Debug)]
pub struct Progress {
    pub group: String,
    /// The highest offset that was committed, and that was tried to.
    acknowledged: i64,
    asked: i64,
    /// Answers that no correct broker gives.
    pub complaints: Vec<String>,
}

/// All of a kind.
#[derive(Debug)]
pub struct Crew<W> {
    all: Vec<W>,
}

impl<W: Worker> Crew<W> {
    pub fn of(all: impl IntoIterator<Item = W>) -> Self {
        Self { all: all.into_iter().collect() }
    }

    pub fn iter(&self) -> impl Iterator<Item = &W> {
        self.all.iter()
    }

    /// One thread for each, until the broker is gone.
    pub fn run<'scope>(
        &'scope mut self,
        scope: &'scope std::thread::Scope<'scope, '_>,
        address: &'scope str,
        signals: &'scope Signals,
    ) {
        for worker in &mut self.all {
            // It ends with its connection.
            scope.spawn(|| _ = worker.run(address, signals));
        }
    }

    /// Answers that no correct broker gives.
    pub fn complaints(&mut self) -> impl Iterator<Item = &String> {
        self.all.iter_mut().flat_map(|worker| &worker.progress().complaints)
    }

    /// Commits that were acknowledged.
    pub fn committed(&mut self) -> u64 {
        self.all.iter_mut().map(|worker| (worker.progress().acknowledged + 1) as u64).sum()
    }

    /// # Errors
    /// When the broker does not answer.
    pub fn verify(&mut self, broker: &mut Connection, verdict: &mut Verdict) -> Result<()> {
        for worker in &mut self.all {
            worker.progress().verify(broker, verdict)?;
            worker.verify(broker, verdict)?;
        }
        Ok(())
    }
}

impl Progress {
    pub fn new(group: String) -> Self {
        Self { group, acknowledged: -1, asked: -1, complaints: Vec::new() }
    }

    /// Commits the next offset. `epoch` is the member's, or its generation.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn commit(&mut self, broker: &mut Connection, member_id: &str, epoch: i32) -> Result<()> {
        self.asked += 1;
        let who = Committer { group: &self.group, member_id, epoch };
        match broker.commit(who, TOPIC, self.asked)? {
            0 => self.acknowledged = self.asked,
            code => self.complaints.push(format!("{}: OffsetCommit: error {code}", self.group)),
        }
        Ok(())
    }

    fn verify(&mut self, broker: &mut Connection, verdict: &mut Verdict) -> Result<()> {
        broker.find_coordinator(&self.group, 0)?;
        let committed = broker.committed(&self.group, TOPIC)?;
        if let Some(problem) = self.judge(committed) {
            verdict.add(problem);
        }
        // What has been read once stays.
        self.acknowledged = self.acknowledged.max(committed);
        Ok(())
    }

    fn judge(&self, committed: i64) -> Option<Problem> {
        let Self { group, acknowledged, asked, .. } = self;
        if committed < *acknowledged {
            let what = format!("{group} is at {committed}, {acknowledged} was acknowledged");
            return Some(Problem::Lost((acknowledged - committed) as u64, what));
        }
        (committed > *asked)
            .then(|| Problem::Wrong(format!("{group} is at {committed}, and has asked for {asked} at most")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_kept_and_not_made_up() {
        let mut progress = Progress::new("g".into());
        assert!(progress.judge(-1).is_none(), "nothing was committed");
        (progress.acknowledged, progress.asked) = (5, 6);
        assert!(matches!(progress.judge(4), Some(Problem::Lost(1, _))));
        assert!(progress.judge(5).is_none());
        assert!(progress.judge(6).is_none(), "unanswered, and there");
        assert!(matches!(progress.judge(7), Some(Problem::Wrong(_))));
    }
}
