//! Rounds of load and sudden death: `kill -9`, or a power cut on the forgetful file system.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::consumers::{Consumers, consumers};
use super::evidence::Evidence;
use super::journal::{Journal, Verdict};
use super::kafka::Connection;
use super::load::{KINDS, Producer, Signals};
use super::members::{Members, members};
use super::process::{Running, Spec};
use super::starts::delete_at_random;
use super::transactors::Transactors;
use crate::mount::Mounted;
use crate::seed::Seed;
use crate::state::{CutMode, CutReport};

/// How the broker dies.
#[derive(Debug)]
pub enum Death {
    /// `kill -9`: the kernel keeps what was written.
    Kill,
    /// The power goes, and with it what was not flushed. The broker's directory is on this mount.
    Power(Mounted),
}

/// The sums of a run.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub rounds: u64,
    pub acked: u64,
    pub in_doubt: u64,
    pub recovered: u64,
    pub lost: u64,
    pub duplicates: u64,
    pub wrong: u64,
    /// The longest time from the start of the process to ready.
    pub slowest_restart: Duration,
    /// Blocks that power cuts lost, kept and tore.
    pub cut: CutReport,
    pub evidence: Evidence,
}

/// Settings under which segments roll, retention acts and the cleaner passes all the time.
pub const LIVELY: [(&str, &str); 2] =
    [("log.retention.check.interval.ms", "100"), ("log.cleaner.backoff.ms", "100")];

/// A run: one broker directory through many deaths.
pub struct Run {
    spec: Spec,
    death: Death,
    seed: u64,
    journal: Journal,
    producers: Vec<Producer>,
    /// Not where records are lost on purpose: theirs would be decisions.
    coordination: Option<Coordination>,
    totals: Totals,
}

/// The clients of coordinators.
pub struct Coordination {
    pub transactors: Transactors,
    pub members: Members,
    pub consumers: Consumers,
}

impl Run {
    /// A run on an empty directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(mut spec: Spec, death: Death, seed: u64) -> Result<Self> {
        if let Death::Kill = death
            && spec.data_dir.exists()
        {
            std::fs::remove_dir_all(&spec.data_dir)?;
        }
        std::fs::create_dir_all(&spec.data_dir)?;
        if let Death::Power(_) = death {
            // The directory stands for what an installation made long ago.
            sync_dir(spec.data_dir.parent().context("a data directory at the root")?)?;
        }
        let producers = KINDS.iter().enumerate().map(|(n, kind)| Producer::new(n, *kind, seed)).collect();
        let journal = Journal::new(seed, KINDS.len());
        let coordination = (!spec.no_flush && spec.command.is_none()).then(|| Coordination {
            transactors: Transactors::new(seed),
            members: members(seed),
            consumers: consumers(seed),
        });
        if coordination.is_some() {
            // A round is over before a group has waited for more members, or for its next assignment.
            spec = spec
                .with("group.initial.rebalance.delay.ms", "0")
                .with("group.consumer.assignment.interval.ms", "0");
        }
        Ok(Self { spec, death, seed, journal, producers, coordination, totals: Totals::default() })
    }

    /// What has happened so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Rounds until `rounds` are done or one finds a problem. Returns the last verdict.
    ///
    /// # Errors
    /// When the broker does not start, does not serve, or answers what no correct broker answers.
    pub fn rounds(&mut self, rounds: u64) -> Result<Verdict> {
        let mut running = self.spec_of(0).start()?;
        running.create_topics()?;
        Transactors::create_topic(&mut Connection::open(&self.spec.address())?)?;
        let mut verdict = Verdict::default();
        for round in 0..rounds {
            let mut random = Seed::new(self.seed).fork(round);
            let line = self.load_until_death(running, round, &mut random)?;
            running = self.restart(round + 1, &mut random)?;
            let ready = running.wait_ready()?;
            verdict = self.verify(&running)?;
            self.totals.slowest_restart = self.totals.slowest_restart.max(ready);
            println!(
                "{line}; ready after {} ms, {} records read, {} batches recovered",
                ready.as_millis(),
                verdict.read,
                verdict.recovered
            );
            for problem in &verdict.problems {
                println!("  {problem}");
            }
            if !verdict.is_good() {
                return Ok(verdict);
            }
        }
        println!("  {}", self.totals.evidence);
        if self.spec.command.is_none() && !self.spec.no_flush {
            self.totals.evidence.check(rounds)?;
        }
        Ok(verdict)
    }

    /// In two rounds of three, logs live fast. In the third the write-ahead log is all that there is of most records; and
    /// always where flushes are left out, since segments are synced even then.
    fn spec_of(&self, round: u64) -> Spec {
        let is_lively = round % 3 != 2 && !self.spec.no_flush && self.spec.command.is_none();
        let settings = if is_lively { LIVELY.as_slice() } else { &[] };
        settings.iter().fold(self.spec.clone(), |spec, (name, value)| spec.with(name, value))
    }

    /// Loads the broker, and kills it at a random moment after every producer has been answered.
    fn load_until_death(&mut self, running: Running, round: u64, random: &mut Seed) -> Result<String> {
        let signals = Signals::default();
        let address = self.spec.address();
        let before = self.journal.acked_records();
        let delay = Duration::from_millis(random.between(50, 1500));
        let (death, totals) = (&self.death, &mut self.totals);
        let deletes = random.fork(round);
        let starts = &mut self.journal.starts;
        let cut = std::thread::scope(|scope| {
            // It ends with its connection.
            scope.spawn(|| delete_at_random(&address, starts, deletes, &signals));
            for (producer, history) in self.producers.iter_mut().zip(&mut self.journal.producers) {
                scope.spawn(|| producer.run(&address, history, &signals));
            }
            if let Some(coordination) = &mut self.coordination {
                coordination.transactors.run(scope, &address, &signals);
                coordination.members.run(scope, &address, &signals);
                coordination.consumers.run(scope, &address, &signals);
            }
            let all_run = wait_until_all_run(&signals);
            if all_run {
                std::thread::sleep(delay);
            }
            let ended = signals.ended.load(Ordering::SeqCst);
            totals.evidence.look(&running);
            let cut = die(death, running, random)?;
            Ok::<_, anyhow::Error>((all_run, ended, cut))
        });
        let (all_run, ended, cut) = cut?;
        let coordinated = self.coordination.iter_mut().flat_map(|c| {
            c.transactors.complaints().chain(c.members.complaints()).chain(c.consumers.complaints())
        });
        let producers = self.producers.iter().flat_map(|p| &p.complaints);
        let complaints: Vec<&String> = producers.chain(coordinated).collect();
        ensure!(complaints.is_empty(), "answers that no correct broker gives: {complaints:#?}");
        if !all_run {
            let ends: Vec<&String> = self.producers.iter().filter_map(|p| p.end.as_ref()).collect();
            let running = signals.running.load(Ordering::SeqCst);
            bail!("{running} of {} producers were answered, {ended} gave up: {ends:#?}", KINDS.len());
        }
        totals.rounds += 1;
        totals.acked = self.journal.acked_records();
        totals.in_doubt += self.journal.in_doubt();
        Ok(format!(
            "round {round} of seed {:#x}: {} after {} ms, {} records acknowledged, {} batches in doubt{}",
            self.seed,
            if matches!(death, Death::Kill) { "killed" } else { "power cut" },
            delay.as_millis(),
            totals.acked - before,
            self.journal.in_doubt(),
            add_cut(totals, cut),
        ))
    }

    /// Starts the broker again; in one round of four it dies during recovery first.
    fn restart(&mut self, round: u64, random: &mut Seed) -> Result<Running> {
        let spec = self.spec_of(round);
        if random.one_in(4) {
            let early = spec.spawn()?;
            std::thread::sleep(Duration::from_millis(random.between(1, 150)));
            let cut = die(&self.death, early, random)?;
            add_cut(&mut self.totals, cut);
        }
        spec.spawn()
    }

    fn verify(&mut self, running: &Running) -> Result<Verdict> {
        let mut broker = Connection::open(&self.spec.address())?;
        // A topic that is gone is a loss for the verdict to report, not an error of the test.
        if let Err(error) = running.wait_leaders(&mut broker) {
            println!("  {error:#}");
        }
        let mut verdict = self.journal.verify(&mut broker);
        self.totals.evidence.note(&self.journal);
        if let Some(coordination) = &mut self.coordination {
            let Coordination { transactors, members, consumers } = coordination;
            transactors.verify(&mut broker, &mut verdict)?;
            members.verify(&mut broker, &mut verdict)?;
            consumers.verify(&mut broker, &mut verdict)?;
            self.totals.evidence.note_coordination(coordination);
        }
        self.totals.recovered += verdict.recovered;
        self.totals.lost += verdict.lost;
        self.totals.duplicates += verdict.duplicates;
        self.totals.wrong += verdict.wrong;
        Ok(verdict)
    }
}

/// False when some producer gets no answer for a long time, or the broker ends.
fn wait_until_all_run(signals: &Signals) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while signals.running.load(Ordering::SeqCst) < KINDS.len() {
        if Instant::now() > deadline || signals.ended.load(Ordering::SeqCst) > 0 {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

fn die(death: &Death, running: Running, random: &mut Seed) -> Result<Option<CutReport>> {
    match death {
        Death::Kill => {
            running.kill()?;
            Ok(None)
        }
        Death::Power(mounted) => {
            let mode = if random.one_in(2) { CutMode::Forget } else { CutMode::Mixed };
            // The power goes first: what the process does in its last moments must not reach the disk.
            let report = mounted.state().lock().cut(mode, random.draw());
            running.kill()?;
            mounted.state().lock().power_on();
            Ok(Some(report))
        }
    }
}

fn add_cut(totals: &mut Totals, cut: Option<CutReport>) -> String {
    let Some(cut) = cut else { return String::new() };
    totals.cut.lost += cut.lost;
    totals.cut.kept += cut.kept;
    totals.cut.torn += cut.torn;
    totals.cut.names_lost += cut.names_lost;
    totals.cut.names_kept += cut.names_kept;
    format!(", unflushed blocks {} lost {} kept {} torn", cut.lost, cut.kept, cut.torn)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// When it cannot be opened or flushed.
pub fn sync_dir(path: &Path) -> Result<()> {
    Ok(std::fs::File::open(path)?.sync_all()?)
}
