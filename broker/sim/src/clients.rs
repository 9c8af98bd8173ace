//! Producers, plain and idempotent, that retry; as a client library would, over connections that break.

use std::collections::VecDeque;

use bytes::Bytes;
use chronik_core::ids::{ProducerEpoch, ProducerId, TopicIdPartition};
use chronik_core::record_batch::BatchBuilder;

use crate::env::{Env, Event, Outcome, Request};
use crate::history::{Keyed, Meaning, Sent};
use crate::invariants::{self, Violation};
use crate::stats::Deed;
use crate::topics::{Catalog, KEYS, Kind};

/// A batch that has been sent and not answered.
struct Pending {
    batch: usize,
    attempts: u32,
    /// Answers leave a connection in the order of its requests: this one waits for those before it.
    answered: bool,
}

pub struct Client {
    number: usize,
    tp: Option<TopicIdPartition>,
    idempotent: bool,
    producer: i64,
    next_sequence: i32,
    connection: u64,
    /// The life of the broker that the connection was made to; it ends with it.
    life: u64,
    /// A connection delivers in order.
    last_arrival_us: u64,
    pending: VecDeque<Pending>,
    window: usize,
    timeout_us: u64,
    pub profile: usize,
    max_batch: usize,
}

/// A plain producer gives up after so many attempts.
const PLAIN_ATTEMPTS: u32 = 3;

impl Client {
    pub fn new(env: &mut Env, number: usize, profiles: usize, max_batch: usize) -> Client {
        let idempotent = env.rng.percent(65);
        Client {
            number,
            tp: None,
            idempotent,
            producer: 0,
            next_sequence: 0,
            connection: 0,
            life: 0,
            last_arrival_us: 0,
            pending: VecDeque::new(),
            window: env.rng.between(1, 5) as usize,
            // An impatient client repeats what is still in flight.
            timeout_us: if env.rng.percent(40) {
                env.rng.between(200, 900)
            } else {
                env.rng.between(2000, 20_000)
            },
            profile: env.rng.index(profiles),
            max_batch,
        }
    }

    /// Time for another batch, if the window has room.
    pub fn send(&mut self, env: &mut Env, catalog: &Catalog) {
        let pause_us = if env.rng.percent(10) { env.rng.between(0, 8000) } else { env.rng.between(0, 600) };
        env.after(pause_us, Event::Send { client: self.number });
        if self.tp.is_none_or(|tp| !catalog.contains_key(&tp)) {
            self.move_to(env, catalog);
        }
        let Some((tp, topic)) = self.tp.and_then(|tp| Some((tp, catalog.get(&tp)?))) else { return };
        if self.pending.len() >= self.window {
            return;
        }
        let batch = self.build(env, tp, topic.compact);
        self.pending.push_back(Pending { batch, attempts: 1, answered: false });
        self.transmit(env, batch);
    }

    /// Another partition, as another producer.
    fn move_to(&mut self, env: &mut Env, catalog: &Catalog) {
        let clients = catalog.iter().filter(|(_, topic)| topic.kind == Kind::Clients);
        let all: Vec<_> = clients.map(|(tp, _)| *tp).collect();
        self.tp = env.rng.pick(&all).copied();
        self.pending.clear();
        self.connect(env);
        self.next_sequence = 0;
        self.producer = (env.history.sent.len() * 100 + self.number) as i64;
    }

    fn connect(&mut self, env: &Env) {
        self.connection += 1;
        self.life = env.life;
        self.last_arrival_us = env.now_us;
    }

    fn build(&mut self, env: &mut Env, tp: TopicIdPartition, keyed: bool) -> usize {
        let batch = env.history.sent.len();
        let records = env.rng.between(1, 4);
        let bytes = match env.rng.below(100) {
            0..70 => env.rng.between(0, 700),
            70..92 => env.rng.between(700, 9000),
            92..99 => env.rng.between(9000, 30_000),
            _ => self.max_batch as u64,
        };
        // The header, and up to 24 bytes around each record's value and key.
        let each = ((bytes as usize).min(self.max_batch - 220) / records as usize).max(1);
        let time_ms = env.fresh_time_ms();
        let mut keys = Vec::new();
        let mut builder = BatchBuilder::new();
        if self.idempotent {
            builder = builder.producer(ProducerId(self.producer), ProducerEpoch(0), self.next_sequence);
            self.next_sequence += records as i32;
        }
        for _ in 0..records {
            let words = (0..each.div_ceil(8)).flat_map(|_| env.rng.next().to_le_bytes());
            let value: Vec<u8> = words.take(each).collect();
            if keyed {
                let record = Keyed { key: env.rng.below(KEYS), is_tombstone: env.rng.percent(25) };
                let value = (!record.is_tombstone).then_some(&value[..]);
                builder = builder.record(time_ms, Some(&[record.key as u8]), value);
                keys.push(record);
            } else {
                builder = builder.record(time_ms, None, Some(&value));
            }
        }
        let (bytes, idempotent) = (Bytes::from(builder.build()), self.idempotent);
        let meaning = Meaning::default();
        env.history.sent.push(Sent { tp, bytes, idempotent, time_ms, records: keys, meaning });
        batch
    }

    fn transmit(&mut self, env: &mut Env, batch: usize) {
        let arrival_us = (env.now_us + env.rng.between(20, 300)).max(self.last_arrival_us + 1);
        self.last_arrival_us = arrival_us;
        let request = Request { client: self.number, connection: self.connection, life: self.life, batch };
        env.after(arrival_us - env.now_us, Event::Arrive(request));
        let timeout_us = self.timeout_us + env.rng.below(self.timeout_us);
        env.after(timeout_us, Event::Timeout { client: self.number, connection: self.connection, batch });
    }

    /// No answer in time: a new connection, and everything unanswered again, in order. What is under way on
    /// the old one may still arrive.
    pub fn timed_out(&mut self, env: &mut Env, connection: u64, batch: usize) {
        if connection != self.connection || !self.pending.iter().any(|p| p.batch == batch) {
            return;
        }
        self.connect(env);
        let plain = !self.idempotent;
        self.pending.retain(|p| !(plain && p.attempts >= PLAIN_ATTEMPTS));
        let again: Vec<usize> = self.pending.iter().map(|p| p.batch).collect();
        for pending in &mut self.pending {
            pending.attempts += 1;
            pending.answered = false;
        }
        env.stats.deed(Deed::Reconnect);
        again.into_iter().for_each(|batch| self.transmit(env, batch));
    }

    /// The batches that it would send again.
    pub fn unanswered(&self) -> impl Iterator<Item = usize> {
        self.pending.iter().filter(|p| self.idempotent && !p.answered).map(|p| p.batch)
    }

    pub fn answered(&mut self, env: &mut Env, request: Request, outcome: Outcome) -> Result<(), Violation> {
        if request.connection != self.connection {
            return Ok(());
        }
        match outcome {
            Outcome::Stored => {
                let answered = self.pending.iter_mut().find(|p| p.batch == request.batch);
                answered.into_iter().for_each(|p| p.answered = true);
                while self.pending.pop_front_if(|p| p.answered).is_some() {}
            }
            Outcome::Refused(code) => return Err(invariants::refused(env, request.batch, code)),
            Outcome::Gone => self.tp = None,
        }
        Ok(())
    }
}
