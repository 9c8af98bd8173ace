//! Producers of all kinds, each on its own thread and connection, that load a broker until it dies.
//!
//! Idempotent producers behave as real clients do: up to five requests in flight, sequences per partition, and
//! after a reconnect the batches without an answer first, with the same producer id, epoch and sequences.
//! Plain producers never send anything twice, so whatever they sent is in the log at most once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::batch::{Writer, encode};
use super::journal::{Fate, History, Sent};
use super::kafka::{Connection, Produced, error};
use super::records::record_for;
use super::topics::{Life, Part};
use crate::seed::Seed;

/// As many requests as Kafka lets an idempotent producer have in flight.
const IN_FLIGHT: usize = 5;
/// The batches a busy producer sends in one round at most, so that reading all back stays quick.
const BATCHES_PER_ROUND: usize = 600;
/// Answers after which a real client tries again.
const RETRIABLE: [i16; 5] = [
    error::UNKNOWN_TOPIC_OR_PARTITION,
    error::LEADER_NOT_AVAILABLE,
    error::NOT_LEADER_OR_FOLLOWER,
    error::REQUEST_TIMED_OUT,
    error::KAFKA_STORAGE_ERROR,
];

/// How a producer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// 1: the leader's answer. -1: all in-sync replicas'.
    pub acks: i16,
    pub idempotent: bool,
    /// Small batches without pause; else larger ones in bursts.
    pub busy: bool,
    pub writes: Writes,
}

/// Where a producer writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Logs that are not compacted.
    Plain,
    /// All compacted logs, records with keys and tombstones.
    Keyed,
    /// Compacted logs that keep tombstones: whether an unanswered one was there can be told in no other.
    KeyedForLong,
}

impl Kind {
    /// Its records have keys.
    pub fn is_keyed(&self) -> bool {
        self.writes != Writes::Plain
    }

    fn parts(&self) -> Vec<Part> {
        let writes = |part: &Part| match self.writes {
            Writes::Plain => !part.life().is_compacted(),
            Writes::Keyed => part.life().is_compacted(),
            Writes::KeyedForLong => part.life() == Life::Compacted,
        };
        Part::all().filter(writes).collect()
    }
}

const fn kind(acks: i16, idempotent: bool, busy: bool, writes: Writes) -> Kind {
    Kind { acks, idempotent, busy, writes }
}

/// The producers of the test: plain with either kind of acknowledgement, and idempotent ones.
pub const KINDS: [Kind; 12] = [
    kind(1, false, true, Writes::Plain),
    kind(1, false, false, Writes::Plain),
    kind(1, false, false, Writes::Plain),
    kind(-1, false, true, Writes::Plain),
    kind(-1, false, false, Writes::Plain),
    kind(-1, true, true, Writes::Plain),
    kind(-1, true, true, Writes::Plain),
    kind(-1, true, false, Writes::Plain),
    kind(-1, true, false, Writes::Plain),
    kind(-1, true, true, Writes::Keyed),
    kind(-1, true, false, Writes::Keyed),
    kind(1, false, false, Writes::KeyedForLong),
];

/// What the threads of one round share.
#[derive(Debug, Default)]
pub struct Signals {
    /// Set to end the round in peace: what is in flight is awaited.
    pub stop: AtomicBool,
    /// Producers that have been answered in this round.
    pub running: AtomicUsize,
    /// Producers whose connection has ended.
    pub ended: AtomicUsize,
    /// Produce answers with `KAFKA_STORAGE_ERROR`.
    pub storage_errors: AtomicUsize,
    /// Acknowledged batches.
    pub acked: AtomicUsize,
}

/// A producer, which lives through all rounds.
#[derive(Debug)]
pub struct Producer {
    number: usize,
    kind: Kind,
    seed: u64,
    random: Seed,
    /// The timestamp of all its records: the present, for a broker that recovers producers from its log may
    /// judge by it whether one has expired.
    timestamp_ms: i64,
    /// Producer id and epoch, once given.
    identity: Option<(i64, i16)>,
    sequences: BTreeMap<Part, i32>,
    /// Answers that no correct broker gives.
    pub complaints: Vec<String>,
    /// How its last round ended, if not in peace.
    pub end: Option<String>,
}

/// One round's state.
struct Round<'a> {
    connection: Connection,
    history: &'a mut History,
    in_flight: VecDeque<(i32, Vec<usize>)>,
    /// Batches to be sent (again) before anything new.
    again: VecDeque<usize>,
    /// A batch failed: nothing new is sent, and later sequences may fail, until all answers are in.
    disturbed: bool,
    answered: bool,
    signals: &'a Signals,
}

impl Producer {
    /// Producer `number` of a run with this seed.
    pub fn new(number: usize, kind: Kind, seed: u64) -> Self {
        let random = Seed::new(seed).fork(0xbeef + number as u64);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let timestamp_ms = now.as_millis() as i64;
        let (identity, sequences, complaints, end) = (None, BTreeMap::new(), Vec::new(), None);
        Self { number, kind, seed, random, timestamp_ms, identity, sequences, complaints, end }
    }

    /// Loads the broker until the connection ends or `signals.stop` is set.
    pub fn run(&mut self, address: &str, history: &mut History, signals: &Signals) {
        let end = self.try_run(address, history, signals);
        self.end = end.err().map(|error| format!("{error:#}"));
        signals.ended.fetch_add(1, Ordering::SeqCst);
    }

    fn try_run(&mut self, address: &str, history: &mut History, signals: &Signals) -> Result<()> {
        let mut connection = Connection::open(address)?;
        if self.kind.idempotent && self.identity.is_none() {
            self.identity = Some(connection.init_producer_id()?);
        }
        let again = match self.kind.idempotent {
            true => {
                (0..history.batches.len()).filter(|&i| history.batches[i].fate == Fate::InDoubt).collect()
            }
            false => VecDeque::new(),
        };
        let in_flight = VecDeque::new();
        let (disturbed, answered) = (false, false);
        let mut round = Round { connection, history, in_flight, again, disturbed, answered, signals };
        let mut budget = BATCHES_PER_ROUND;
        loop {
            let stopping = signals.stop.load(Ordering::SeqCst);
            if stopping && round.in_flight.is_empty() && (round.again.is_empty() || round.disturbed) {
                return Ok(());
            }
            if round.disturbed && round.in_flight.is_empty() {
                std::thread::sleep(Duration::from_millis(20));
                round.disturbed = false;
            }
            let room = round.in_flight.len() < IN_FLIGHT && !round.disturbed;
            if room && let Some(index) = round.again.pop_front() {
                self.send(&mut round, vec![index])?;
            } else if room && !stopping && budget > 0 {
                let batches = self.new_batches(&mut round);
                budget = budget.saturating_sub(batches.len());
                self.send(&mut round, batches)?;
                if !self.kind.busy && self.random.one_in(6) {
                    while !round.in_flight.is_empty() {
                        self.receive(&mut round)?;
                    }
                    std::thread::sleep(Duration::from_millis(self.random.between(5, 60)));
                }
            } else if !round.in_flight.is_empty() {
                self.receive(&mut round)?;
            } else {
                // The budget is used up: trickle on, so that something is always under way.
                std::thread::sleep(Duration::from_millis(20));
                budget = 1;
            }
        }
    }

    /// One to three new batches for as many partitions.
    fn new_batches(&mut self, round: &mut Round<'_>) -> Vec<usize> {
        let how_many = if self.random.one_in(4) { self.random.between(2, 3) } else { 1 };
        let parts = self.kind.parts();
        let start = self.random.below(parts.len() as u64) as usize;
        let chosen: Vec<Part> = parts.iter().cycle().skip(start).take(how_many as usize).copied().collect();
        let mut indices = Vec::new();
        for part in chosen {
            let count = self.random.between(1, if self.kind.busy { 3 } else { 20 });
            let writer = match self.identity {
                Some((producer_id, epoch)) => {
                    let next = self.sequences.entry(part).or_insert(0);
                    let sequence = *next;
                    *next += count as i32;
                    Writer { producer_id, epoch, sequence }
                }
                None => Writer::PLAIN,
            };
            let first = round.history.next_record();
            indices.push(round.history.batches.len());
            round.history.batches.push(Sent { part, first, count, writer, fate: Fate::InDoubt });
        }
        indices
    }

    fn send(&self, round: &mut Round<'_>, indices: Vec<usize>) -> Result<()> {
        let parts = indices.iter().map(|&index| {
            let sent = round.history.batches[index];
            let records: Vec<_> = (sent.first..sent.first + sent.count)
                .map(|n| record_for(self.seed, self.number, n))
                .collect();
            (sent.part.topic(), sent.part.partition(), encode(&records, sent.writer, self.timestamp_ms))
        });
        let correlation = round.connection.send_produce(self.kind.acks, parts.collect())?;
        round.in_flight.push_back((correlation, indices));
        Ok(())
    }

    fn receive(&mut self, round: &mut Round<'_>) -> Result<()> {
        let Some((correlation, indices)) = round.in_flight.pop_front() else { return Ok(()) };
        let answers = round.connection.receive_produce(correlation)?;
        for index in indices {
            let part = round.history.batches[index].part;
            let answer = answers.iter().find(|(t, p, _)| t == part.topic() && *p == part.partition());
            match answer {
                Some((_, _, produced)) => self.answered(round, index, *produced),
                None => self.complaints.push(format!("producer {}: no answer for {part}", self.number)),
            }
        }
        Ok(())
    }

    fn answered(&mut self, round: &mut Round<'_>, index: usize, produced: Produced) {
        let sent = &mut round.history.batches[index];
        let fate = match produced.error {
            0 => Fate::Acked(produced.base_offset),
            error::DUPLICATE_SEQUENCE_NUMBER if self.kind.idempotent => Fate::AckedSomewhere,
            code => {
                let follows_failure = code == error::OUT_OF_ORDER_SEQUENCE_NUMBER && round.disturbed;
                if !RETRIABLE.contains(&code) && !follows_failure {
                    self.complaints.push(format!("producer {}: {sent:?} got error {code}", self.number));
                    return;
                }
                if code == error::KAFKA_STORAGE_ERROR {
                    round.signals.storage_errors.fetch_add(1, Ordering::SeqCst);
                }
                round.disturbed = true;
                if self.kind.idempotent {
                    // In the order of the sequences, whatever order the answers came in.
                    let at = round.again.partition_point(|&other| other < index);
                    round.again.insert(at, index);
                }
                return;
            }
        };
        sent.fate = fate;
        round.signals.acked.fetch_add(1, Ordering::SeqCst);
        if !round.answered {
            round.answered = true;
            round.signals.running.fetch_add(1, Ordering::SeqCst);
        }
    }
}
