//! Open-loop load: records are due by the clock, whatever the answers.
//!
//! Each partition has a producer of its own that sends what is due as one batch, one request at a time, and tries the
//! same batch again after a retriable error, as ordinary producers without idempotence do. What waits is bounded: a
//! record that comes due while too many wait is written down as not sent.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bytes::Bytes;
use chronik_client::{Acks, BatchBuilder, Client, ClientError, NewRecord};
use tokio::sync::mpsc;

use super::ledger::{Entry, Fate, Ledger};
use super::record::Maker;
use super::retry::{connect, meaning, name};

/// Records in one batch at most.
const BATCH_RECORDS: usize = 500;
/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(5);
/// The pause before the first retry; it doubles up to the second.
const BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];

/// What is to be sent.
#[derive(Clone, Debug)]
pub struct Plan {
    pub bootstrap: String,
    pub topic: String,
    /// Records a second, over all partitions.
    pub rate: u64,
    pub seconds: u64,
    /// End earlier, when this file is there.
    pub until: Option<PathBuf>,
    pub acks: Acks,
    pub value_bytes: usize,
    /// Records that may wait or be in flight.
    pub waiting_max: usize,
    pub request_timeout: Duration,
    /// How long a record is tried.
    pub delivery_timeout: Duration,
}

/// A record that is due.
#[derive(Clone, Copy, Debug)]
struct Due {
    number: u64,
    due_us: u64,
}

/// What the producers of a run share.
struct Run {
    plan: Plan,
    maker: Maker,
    begun: Instant,
    waiting: AtomicUsize,
    ledger: Mutex<Ledger>,
}

/// Sends by `plan`, and returns when the fate of each record is known.
///
/// # Errors
/// If the topic cannot be found at the start.
pub async fn run(plan: Plan) -> Result<Ledger> {
    let mut client = connect(&plan.bootstrap, plan.request_timeout).await?;
    let topic = client.topic(&plan.topic).await?;
    drop(client);
    let partitions = i32::try_from(topic.partitions.len()).context("too many partitions")?;
    let mut ledger = Ledger::default();
    ledger.head.run = run_name();
    ledger.head.topic = plan.topic.clone();
    ledger.head.partitions = partitions;
    ledger.head.value_bytes = plan.value_bytes;
    ledger.head.acks = plan.acks.to_string();
    ledger.head.rate = plan.rate;
    let maker = Maker::new(&ledger.head.run, plan.value_bytes);
    let (begun, waiting) = (Instant::now(), AtomicUsize::new(0));
    let run = Arc::new(Run { plan, maker, begun, waiting, ledger: Mutex::new(ledger) });

    let mut queues = Vec::new();
    let mut producers = Vec::new();
    for partition in 0..partitions {
        // Bounded by `waiting_max`, over all of them.
        let (queue, due) = mpsc::unbounded_channel();
        queues.push(queue);
        producers.push(tokio::spawn(produce(run.clone(), partition, due)));
    }
    run.clock(&queues).await;
    drop(queues);
    for producer in producers {
        producer.await?;
    }
    let mut ledger = run.lock().clone();
    ledger.head.ended_us = run.now_us();
    Ok(ledger)
}

/// Unique among the runs that a topic ever sees.
fn run_name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", now.as_nanos(), std::process::id())
}

impl Run {
    fn now_us(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out records as they come due.
    async fn clock(&self, queues: &[mpsc::UnboundedSender<Due>]) {
        let total = self.plan.rate * self.plan.seconds;
        let mut next = 0;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while next < total {
            tick.tick().await;
            let now_us = self.now_us();
            let due = (u128::from(now_us) * u128::from(self.plan.rate) / 1_000_000) as u64;
            let mut ledger = self.lock();
            while next < due.min(total) {
                let due_us = next * 1_000_000 / self.plan.rate;
                ledger.entries.push(Entry { due_us, settled_us: due_us, in_doubt: 0, fate: Fate::NotSent });
                if self.waiting.load(Ordering::Relaxed) < self.plan.waiting_max {
                    self.waiting.fetch_add(1, Ordering::Relaxed);
                    let queue = &queues[(next % queues.len() as u64) as usize];
                    let _ = queue.send(Due { number: next, due_us });
                }
                next += 1;
            }
            drop(ledger);
            if self.plan.until.as_ref().is_some_and(|file| file.exists()) {
                break;
            }
        }
    }

    fn settle(&self, batch: &[Due], in_doubt: u32, fate: impl Fn(usize) -> Fate) {
        let settled_us = self.now_us();
        let mut ledger = self.lock();
        for (n, due) in batch.iter().enumerate() {
            let fate = fate(n);
            ledger.entries[due.number as usize] = Entry { due_us: due.due_us, settled_us, in_doubt, fate };
        }
        self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
    }

    fn batch(&self, records: &[Due]) -> Bytes {
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        let mut batch = BatchBuilder::new();
        for due in records {
            let (key, value) = (self.maker.key(due.number), self.maker.value(due.number));
            let (key, value) = (Some(key.as_bytes()), Some(value.as_slice()));
            batch.push(NewRecord { timestamp, key, value, headers: &[] });
        }
        batch.build()
    }

    async fn connect(&self) -> Result<Client, ClientError> {
        let mut client = Client::connect(&self.plan.bootstrap, self.plan.request_timeout).await?;
        // Leaders are known before anything is sent: what fails later has failed while sending.
        client.topic(&self.plan.topic).await?;
        Ok(client)
    }
}

/// The producer of one partition.
async fn produce(run: Arc<Run>, partition: i32, mut queue: mpsc::UnboundedReceiver<Due>) {
    let mut client = None;
    let mut due = Vec::new();
    while queue.recv_many(&mut due, BATCH_RECORDS).await > 0 {
        deliver(&run, partition, &mut client, &due).await;
        due.clear();
    }
}

/// Sends one batch until it is acknowledged or given up.
async fn deliver(run: &Run, partition: i32, client: &mut Option<Client>, due: &[Due]) {
    let batch = run.batch(due);
    let deadline = Instant::now() + run.plan.delivery_timeout;
    let mut in_doubt = 0;
    let mut pause = BACKOFF[0];
    loop {
        let error = match attempt(run, partition, client, batch.clone()).await {
            Ok(base) => {
                return run.settle(due, in_doubt, |n| Fate::Acknowledged(base + n as i64));
            }
            Err(error) => error,
        };
        let meaning = meaning(&error);
        in_doubt += u32::from(meaning.in_doubt);
        let give_up = !meaning.retriable || Instant::now() >= deadline;
        {
            let mut ledger = run.lock();
            let seen = ledger.head.errors.entry(name(&error)).or_default();
            seen.retriable = meaning.retriable;
            seen.count += 1;
            if !give_up {
                ledger.head.retries += 1;
            }
        }
        if give_up {
            let fate = if in_doubt > 0 { Fate::Unknown } else { Fate::Failed };
            return run.settle(due, in_doubt, |_| fate);
        }
        if !matches!(error, ClientError::Refused(_)) {
            *client = None;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF[1]);
    }
}

async fn attempt(
    run: &Run,
    partition: i32,
    client: &mut Option<Client>,
    batch: Bytes,
) -> Result<i64, ClientError> {
    let client = match client {
        Some(client) => client,
        None => {
            let connected = run.connect().await?;
            run.lock().head.reconnects += 1;
            client.insert(connected)
        }
    };
    let base = client.produce(&run.plan.topic, partition, run.plan.acks, batch).await?;
    base.ok_or_else(|| ClientError::Request {
        api: "Produce".to_owned(),
        what: "without acknowledgements nothing can be checked".to_owned(),
    })
}
