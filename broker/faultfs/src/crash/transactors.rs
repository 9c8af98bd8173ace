//! Transactional producers: each writes one record to some partitions, often commits an offset of a group of its own, and
//! ends the transaction; through all rounds, with a new incarnation after each crash. What is read back must be whole
//! transactions: all that were confirmed, none that were not asked for, and nothing of a producer that was fenced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};

use super::coordinators::Transactional;
use super::journal::{Problem, Verdict};
use super::kafka::{Connection, error};
use super::load::Signals;
use crate::seed::Seed;

/// The topic that they write to.
pub const TOPIC: &str = "crash-transactions";
const PARTITIONS: i32 = 3;
/// How many there are; every other one speaks the newer protocol.
const TRANSACTORS: usize = 4;

/// A transaction, as its producer knows it.
#[derive(Clone, Debug)]
struct Transaction {
    /// The partitions that it wrote to, or began to.
    partitions: BTreeSet<i32>,
    offsets: bool,
    /// To be committed, as far as its producer has asked for anything.
    asked: Option<bool>,
    /// That was confirmed, or found out.
    ended: Option<bool>,
}

/// One transactional id through all rounds.
#[derive(Debug)]
struct Transactor {
    number: usize,
    newer: bool,
    random: Seed,
    /// Who it was before it became somebody else: nobody may hear of that one any more.
    zombie: Option<Transactional>,
    transactions: Vec<Transaction>,
    complaints: Vec<String>,
}

/// All of them.
#[derive(Debug)]
pub struct Transactors {
    all: Vec<Transactor>,
    /// Transactions that a check found committed, aborted, and to have been in doubt.
    pub committed: u64,
    pub aborted: u64,
    pub in_doubt: u64,
    pub zombies_refused: u64,
}

impl Transactors {
    pub fn new(seed: u64) -> Self {
        let all = (0..TRANSACTORS).map(|number| Transactor {
            number,
            newer: number % 2 == 0,
            random: Seed::new(seed).fork(0x7a05 + number as u64),
            zombie: None,
            transactions: Vec::new(),
            complaints: Vec::new(),
        });
        Self { all: all.collect(), committed: 0, aborted: 0, in_doubt: 0, zombies_refused: 0 }
    }

    /// # Errors
    /// When the broker refuses.
    pub fn create_topic(broker: &mut Connection) -> Result<()> {
        broker.create_topic(TOPIC, PARTITIONS, &[("segment.bytes", "1048576")])
    }

    /// One thread for each, until the broker is gone.
    pub fn run<'scope>(
        &'scope mut self,
        scope: &'scope std::thread::Scope<'scope, '_>,
        address: &'scope str,
        signals: &'scope Signals,
    ) {
        for transactor in &mut self.all {
            // It ends with its connection.
            scope.spawn(|| transactor.run(address, signals));
        }
    }

    /// Answers that no correct broker gives.
    pub fn complaints(&self) -> impl Iterator<Item = &String> {
        self.all.iter().flat_map(|transactor| &transactor.complaints)
    }

    /// Ends what is open, and compares what is there with what must be.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn verify(&mut self, broker: &mut Connection, verdict: &mut Verdict) -> Result<()> {
        for transactor in &mut self.all {
            let next = broker.begin_transactional(&transactor.id(), transactor.newer)?;
            if let Some(zombie) = transactor.zombie.replace(next) {
                self.zombies_refused += u64::from(refuses(broker, &zombie, verdict)?);
            }
        }
        let mut found: BTreeMap<(usize, usize), BTreeSet<i32>> = BTreeMap::new();
        for partition in 0..PARTITIONS {
            let decided = broker.read_decided(TOPIC, partition)?;
            if decided.last_stable != decided.high_watermark {
                let what =
                    format!("{TOPIC}-{partition}: a transaction hangs: {} is decided", decided.last_stable);
                verdict.add(Problem::Wrong(what));
            }
            verdict.read += decided.values.len() as u64;
            for (offset, value) in decided.values {
                match named(&value) {
                    Some(whose) if self.knows(whose) => {
                        if !found.entry(whose).or_default().insert(partition) {
                            let what = format!("{TOPIC}-{partition}@{offset}: {whose:?} once more");
                            verdict.add(Problem::Duplicate(what));
                        }
                    }
                    _ => {
                        let value = String::from_utf8_lossy(&value);
                        verdict.add(Problem::Wrong(format!("{TOPIC}-{partition}@{offset}: {value}")));
                    }
                }
            }
        }
        for number in 0..self.all.len() {
            self.judge(number, &found, verdict);
            let transactor = &self.all[number];
            let with_offsets = transactor.transactions.iter().enumerate().rev();
            let last = with_offsets.into_iter().find(|(_, t)| t.offsets && t.ended == Some(true));
            let expected = last.map_or(-1, |(number, _)| number as i64);
            let committed = broker.committed(&transactor.group(), TOPIC)?;
            if committed != expected {
                let what = format!("{} is at {committed}, {expected} was committed", transactor.group());
                verdict.add(Problem::Lost(1, what));
            }
        }
        Ok(())
    }

    fn knows(&self, (transactor, transaction): (usize, usize)) -> bool {
        self.all.get(transactor).is_some_and(|t| transaction < t.transactions.len())
    }

    fn judge(
        &mut self,
        number: usize,
        found: &BTreeMap<(usize, usize), BTreeSet<i32>>,
        verdict: &mut Verdict,
    ) {
        let none = BTreeSet::new();
        for (at, transaction) in self.all[number].transactions.iter_mut().enumerate() {
            let there = found.get(&(number, at)).unwrap_or(&none);
            let whole = *there == transaction.partitions;
            let what = || format!("transaction {at} of {number}, {transaction:?}, is in {there:?}");
            match (transaction.ended, transaction.asked) {
                (Some(true), _) if !whole => verdict.add(Problem::Lost(1, what())),
                (None, Some(true)) if !whole && !there.is_empty() => verdict.add(Problem::Wrong(what())),
                (Some(false), _) | (None, Some(false) | None) if !there.is_empty() => {
                    verdict.add(Problem::Wrong(what()));
                }
                _ => {}
            }
            if transaction.ended.is_none() {
                self.in_doubt += u64::from(transaction.asked == Some(true));
                // From now on it stays so.
                transaction.ended = Some(transaction.asked == Some(true) && whole);
            }
        }
        let ended = |commit| {
            let all = self.all.iter().flat_map(|transactor| &transactor.transactions);
            all.filter(|transaction| transaction.ended == Some(commit)).count() as u64
        };
        (self.committed, self.aborted) = (ended(true), ended(false));
    }
}

/// A producer that is not the one any more is not heard.
fn refuses(broker: &mut Connection, zombie: &Transactional, verdict: &mut Verdict) -> Result<bool> {
    let value = format!("zombie of {}", zombie.id).into_bytes();
    let code = match zombie.newer {
        true => broker.write_in_transaction(zombie, (TOPIC, 0), 0, value, 0)?,
        false => broker.add_partition(zombie, TOPIC, 0)?,
    };
    let refused = [error::INVALID_PRODUCER_EPOCH, error::PRODUCER_FENCED].contains(&code);
    if !refused {
        verdict.add(Problem::Wrong(format!("{zombie:?} is fenced, and gets error {code}")));
    }
    Ok(refused)
}

/// Whose record it is: the transactor's and the transaction's number.
fn named(value: &[u8]) -> Option<(usize, usize)> {
    let (transactor, transaction) = std::str::from_utf8(value).ok()?.split_once('/')?;
    Some((transactor.parse().ok()?, transaction.parse().ok()?))
}

impl Transactor {
    fn id(&self) -> String {
        format!("crash-transactor-{}", self.number)
    }

    fn group(&self) -> String {
        format!("crash-group-of-{}", self.number)
    }

    fn run(&mut self, address: &str, signals: &Signals) {
        let connected = Connection::open(address);
        let Ok(mut broker) = connected else { return };
        // The broker dies some time, and with it the connection.
        while !signals.stop.load(Ordering::SeqCst) && self.complaints.is_empty() {
            if self.live(&mut broker, signals).is_err() {
                return;
            }
        }
    }

    /// One incarnation.
    fn live(&mut self, broker: &mut Connection, signals: &Signals) -> Result<()> {
        broker.find_coordinator(&self.id(), 1)?;
        broker.find_coordinator(&self.group(), 0)?;
        let mut me = broker.begin_transactional(&self.id(), self.newer)?;
        if let Some(zombie) = self.zombie.replace(me.clone())
            && self.random.one_in(3)
        {
            let mut verdict = Verdict::default();
            refuses(broker, &zombie, &mut verdict)?;
            self.complaints.extend(verdict.problems.iter().map(ToString::to_string));
        }
        let mut sequences = BTreeMap::new();
        while !signals.stop.load(Ordering::SeqCst) {
            let epoch = me.epoch;
            let goes_on = self.transact(broker, &mut me, &mut sequences)?;
            if !goes_on {
                // It dies amid a transaction, and is another one.
                return Ok(());
            }
            if me.epoch != epoch {
                sequences.clear();
            }
            self.zombie = Some(me.clone());
            std::thread::sleep(Duration::from_millis(self.random.between(0, 10)));
        }
        Ok(())
    }

    /// One transaction; false where it was left open.
    fn transact(
        &mut self,
        broker: &mut Connection,
        me: &mut Transactional,
        sequences: &mut BTreeMap<i32, i32>,
    ) -> Result<bool> {
        let number = self.transactions.len();
        let wanted = self.random.between(1, PARTITIONS as u64) as i32;
        let first = self.random.below(PARTITIONS as u64) as i32;
        let offsets = self.random.one_in(2);
        let fresh = Transaction { partitions: BTreeSet::new(), offsets, asked: None, ended: None };
        self.transactions.push(fresh);
        for partition in (first..first + wanted).map(|partition| partition % PARTITIONS) {
            self.transactions[number].partitions.insert(partition);
            if !me.newer {
                self.expect(broker.add_partition(me, TOPIC, partition)?, "AddPartitionsToTxn")?;
            }
            let sequence = sequences.entry(partition).or_insert(0);
            let value = format!("{}/{number}", self.number).into_bytes();
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let place = (TOPIC, partition);
            let code = broker.write_in_transaction(me, place, *sequence, value, now.as_millis() as i64)?;
            *sequence += 1;
            self.expect(code, "Produce")?;
        }
        if offsets {
            let code = broker.commit_in_transaction(me, &self.group(), TOPIC, number as i64)?;
            self.expect(code, "TxnOffsetCommit")?;
        }
        if self.random.one_in(12) {
            return Ok(false);
        }
        let commit = !self.random.one_in(4);
        self.transactions[number].asked = Some(commit);
        let code = broker.end_transaction(me, commit)?;
        self.expect(code, "EndTxn")?;
        self.transactions[number].ended = Some(commit);
        Ok(true)
    }

    fn expect(&mut self, code: i16, what: &str) -> Result<()> {
        if code != 0 {
            self.complaints.push(format!("transactor {}: {what}: error {code}", self.number));
        }
        ensure!(code == 0, "{what}: error {code}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transactors(transaction: Transaction) -> Transactors {
        let mut all = Transactors::new(1);
        all.all[2].transactions = vec![transaction];
        all
    }

    fn judged(ended: Option<bool>, asked: Option<bool>, there: &[i32]) -> (u64, u64, Option<bool>) {
        let partitions = BTreeSet::from([0, 2]);
        let mut all = transactors(Transaction { partitions, offsets: false, asked, ended });
        let found = BTreeMap::from([((2, 0), there.iter().copied().collect())]);
        let mut verdict = Verdict::default();
        all.judge(2, &found, &mut verdict);
        (verdict.lost, verdict.wrong, all.all[2].transactions[0].ended)
    }

    #[test]
    fn transactions_are_whole_or_nothing() {
        assert_eq!(judged(Some(true), Some(true), &[0, 2]), (0, 0, Some(true)));
        assert_eq!(judged(Some(true), Some(true), &[0]), (1, 0, Some(true)));
        assert_eq!(judged(Some(true), Some(true), &[]), (1, 0, Some(true)));
        assert_eq!(judged(None, Some(true), &[0, 2]), (0, 0, Some(true)), "in doubt, and there");
        assert_eq!(judged(None, Some(true), &[]), (0, 0, Some(false)), "in doubt, and not there");
        assert_eq!(judged(None, Some(true), &[2]).1, 1);
        for asked in [Some(false), None] {
            assert_eq!(judged(None, asked, &[]), (0, 0, Some(false)));
            assert_eq!(judged(None, asked, &[0, 2]).1, 1, "nobody asked for it");
        }
        assert_eq!(judged(Some(false), Some(true), &[0, 2]).1, 1, "it has come back");
    }

    #[test]
    fn records_name_their_transaction() {
        assert_eq!(named(b"2/71"), Some((2, 71)));
        assert_eq!(named(b"zombie of crash-transactor-2"), None);
    }
}
