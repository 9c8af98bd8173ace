//! Producers with an open loop: each sends by the clock, and its latency counts from when a request was due.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use chronik_client::{Acks, BatchBuilder, Client, NewRecord, Producer};

use super::course::{Course, Partition};
use super::topics::key_text;
use crate::bench::payload::next;
use crate::storage::now_ms;

/// How long one request may take.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Records of a request: one to this many.
pub const BATCH_RECORDS: u64 = 5;
/// Of ten requests, so many go to the hot partitions.
const HOT_OF_TEN: u64 = 6;
/// How often an idempotent producer sends a request.
const ATTEMPTS: usize = 3;
/// Under this header a record carries when it was due: nanoseconds since the run began.
pub const DUE: &str = "due";

/// One producer: its own connection, its own partitions.
pub struct Sender {
    course: Arc<Course>,
    client: Client,
    identity: Option<Producer>,
    hot: Vec<usize>,
    cold: Vec<usize>,
    dice: u64,
}

impl Sender {
    /// The producer `number` of `of`. Every second one is idempotent.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn new(course: Arc<Course>, number: usize, of: usize, seed: u64) -> Result<Self> {
        let mut client = Client::connect(&course.bootstrap, PATIENCE).await?;
        let identity = match number % 2 {
            0 => None,
            _ => Some(client.init_producer_id().await?),
        };
        // Hot partitions are dealt out by themselves, so that every producer has its share of them.
        let deal = |hot: bool| {
            let all = course.partitions.iter().map(|p| p.place).filter(|place| place.is_hot() == hot);
            all.skip(number).step_by(of).map(|place| place.number).collect::<Vec<_>>()
        };
        let (hot, cold) = (deal(true), deal(false));
        Ok(Self { course, client, identity, hot, cold, dice: seed ^ (number as u64) << 32 })
    }

    /// Sends a request every `interval_ns` from `first_ns` on, until the course is stopped.
    pub async fn run(mut self, first_ns: u64, interval_ns: u64) {
        let course = Arc::clone(&self.course);
        let mut due_ns = first_ns;
        while !course.is_stopped() {
            tokio::time::sleep_until((course.begun + Duration::from_nanos(due_ns)).into()).await;
            if let Some(partition) = self.choose().and_then(|at| course.partitions.get(at)) {
                self.send(&course, partition, due_ns).await;
            }
            due_ns += interval_ns;
        }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        next(&mut self.dice) % sides.max(1)
    }

    fn choose(&mut self) -> Option<usize> {
        let hot = self.roll(10) < HOT_OF_TEN;
        let roll = next(&mut self.dice) as usize;
        let list = if hot && !self.hot.is_empty() { &self.hot } else { &self.cold };
        list.get(roll % list.len().max(1)).copied()
    }

    async fn send(&mut self, course: &Course, partition: &Partition, due_ns: u64) {
        if partition.given_up.load(Relaxed) {
            return;
        }
        let place = &partition.place;
        let offset = partition.next.load(Relaxed);
        let count = 1 + self.roll(BATCH_RECORDS) as i64;
        let batch = match self.batch(partition, offset, count, due_ns) {
            Ok(batch) => batch,
            Err(error) => return course.fault(format!("cannot compress: {error}")),
        };
        let attempts = self.identity.map_or(1, |_| ATTEMPTS);
        for attempt in 1..=attempts {
            let bytes = batch.len() as u64;
            match self.client.produce(place.topic, place.index, Acks::All, batch.clone()).await {
                Ok(Some(base)) if base == offset => {
                    return course.acknowledged(partition, due_ns, count, bytes);
                }
                Ok(base) => {
                    course.fault(format!(
                        "{}-{}: a batch for {offset} was acknowledged at {base:?}",
                        place.topic, place.index
                    ));
                    break;
                }
                Err(error) if attempt == attempts => course.fault(format!("not acknowledged: {error}")),
                Err(error) => eprintln!("        sent again: {error}"),
            }
        }
        partition.given_up.store(true, Relaxed);
    }

    fn batch(&self, partition: &Partition, offset: i64, count: i64, due_ns: u64) -> std::io::Result<Bytes> {
        let mut batch = BatchBuilder::new();
        if let Some(identity) = self.identity {
            // Nobody else writes there: sequences are offsets.
            batch = batch.producer(identity, (offset & i64::from(i32::MAX)) as i32);
        }
        let (timestamp, due) = (now_ms(), due_ns.to_be_bytes());
        for offset in offset..offset + count {
            let shape = partition.place.shape(offset);
            let key = shape.key.map(key_text);
            let value = shape.value_bytes.map(|bytes| partition.place.value(offset, bytes));
            batch.push(NewRecord {
                timestamp,
                key: key.as_deref().map(str::as_bytes),
                value: value.as_deref(),
                headers: &[(DUE, Some(&due))],
            });
        }
        batch.build_compressed(partition.place.codec())
    }
}
