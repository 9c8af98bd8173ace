//! One of the two brokers: what was sent to it, and what is there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use chronik_client::compression::Codec;
use chronik_client::{
    Acks, Client, ClientError, NewTopic, Position, Producer, Record, Resource, batches, error_name,
};

use super::workload::{Batch, Case, answered};
use crate::bench::endurance::create;
use crate::cli::Server;
use crate::storage::now_ms;

const FETCH_BYTES: i32 = 4 << 20;
/// How long a fetch within a log waits, in milliseconds.
const WAIT_MS: i32 = 100;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// An idempotent producer of a case.
struct Sender {
    identity: Producer,
    next_sequence: i32,
    last: Option<Bytes>,
}

/// A case's topic here.
#[derive(Default)]
struct Topic {
    senders: BTreeMap<usize, Sender>,
    end: i64,
    /// By a batch's first offset: when it was sent and when it was answered, milliseconds since 1970.
    sent_ms: BTreeMap<i64, (i64, i64)>,
}

/// What is left of a batch.
#[derive(Debug, Clone)]
pub struct Kept {
    pub base_offset: i64,
    pub last_offset: i64,
    pub codec: Codec,
    pub attributes: i16,
    pub max_timestamp: i64,
    pub delete_horizon_ms: Option<i64>,
    /// The producer's number within the case, its epoch and the sequence of the first record.
    pub producer: Option<(usize, i16, i32)>,
    /// When it was sent and when it was answered, milliseconds since 1970.
    pub sent_ms: (i64, i64),
    pub records: Vec<Record>,
}

impl Kept {
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & 0x8 != 0
    }
}

/// A whole log.
#[derive(Debug, Clone)]
pub struct Log {
    /// As the broker tells it.
    pub start: i64,
    pub end: i64,
    pub batches: Vec<Kept>,
    pub read_at_ms: i64,
    /// A time, and the offset that the broker finds by it.
    pub found_by_time: Vec<(i64, i64)>,
}

impl Log {
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.batches.iter().flat_map(|batch| &batch.records)
    }
}

/// See the module's documentation.
pub struct Side {
    /// For people.
    pub name: &'static str,
    client: Client,
    topics: Vec<Topic>,
}

impl Side {
    /// Connects, and creates the topics of all cases.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses; a topic that is there is refused by name.
    pub async fn open(name: &'static str, server: &Server, cases: &[Case]) -> Result<Self> {
        let mut side = Self { name, client: server.connect().await?, topics: Vec::new() };
        for case in cases {
            let configs = case.settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let topic = NewTopic {
                name: case.topic(),
                partitions: Some(1),
                replication_factor: Some(1),
                configs: configs.collect(),
            };
            create(&mut side.client, &topic).await.with_context(|| format!("{name}, {}", case.topic()))?;
            side.topics.push(Topic::default());
        }
        Ok(side)
    }

    /// Alters what a round begins with, and waits until what that deletes is gone.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses, or does not delete in time.
    pub async fn alter(&mut self, cases: &[Case], round: usize, within: Duration) -> Result<()> {
        for case in cases {
            let changes = case.rounds[round].alter.iter();
            let changes: Vec<_> =
                changes.map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned()))).collect();
            if !changes.is_empty() {
                self.client.alter_configs(&Resource::Topic(case.topic()), &changes).await?;
            }
        }
        let begun = Instant::now();
        for case in cases.iter().filter(|case| case.rounds[round].empties) {
            while self.client.list_offset(&case.topic(), 0, Position::Earliest).await? < case.start(round) {
                ensure!(begun.elapsed() < within, "{}: {} is not emptied", self.name, case.topic());
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Sends some batches of a case, each when the one before is answered.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses, or gives another offset than the next.
    pub async fn send(&mut self, at: usize, case: &Case, batches: &[Batch], begins_ms: i64) -> Result<()> {
        for batch in batches {
            let sender = self.sender(at, batch).await?;
            let bytes = batch.build(begins_ms, sender)?;
            let before = now_ms();
            let base = self.client.produce(&case.topic(), 0, Acks::All, bytes.clone()).await?;
            let base = base.context("no offset")?;
            let topic = self.topics.get_mut(at).context("no such case")?;
            ensure!(base == topic.end, "{}: {} was put at {base}, not {}", self.name, case.name, topic.end);
            topic.sent_ms.insert(base, (before, now_ms()));
            topic.end += batch.records.len() as i64;
            if let Some(sender) = batch.producer.and_then(|number| topic.senders.get_mut(&number)) {
                sender.next_sequence += batch.records.len() as i32;
                sender.last = Some(bytes);
            }
        }
        Ok(())
    }

    async fn sender(&mut self, at: usize, batch: &Batch) -> Result<Option<(Producer, i32)>> {
        let Some(number) = batch.producer else { return Ok(None) };
        let senders = &mut self.topics.get_mut(at).context("no such case")?.senders;
        if let Some(sender) = senders.get(&number) {
            return Ok(Some((sender.identity, sender.next_sequence)));
        }
        let identity = self.client.init_producer_id().await?;
        senders.insert(number, Sender { identity, next_sequence: 0, last: None });
        Ok(Some((identity, 0)))
    }

    /// Waits until the witnesses of a round are gone; the names of the cases of which that cannot be said in the end.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub async fn cleaned(
        &mut self,
        cases: &[&Case],
        round: usize,
        within: Duration,
    ) -> Result<Vec<&'static str>> {
        let begun = Instant::now();
        let mut waiting: Vec<&Case> = cases.to_vec();
        loop {
            let mut there = Vec::new();
            for case in waiting {
                let witness = case.witness(round);
                let fetched = self.client.fetch(&case.topic(), 0, witness, FETCH_BYTES, WAIT_MS).await?;
                let first = batches(fetched.records).next().transpose()?;
                let records = first.map(|batch| batch.records()).transpose()?;
                if records.is_none_or(|records| records.iter().any(|record| record.offset == witness)) {
                    there.push(case);
                }
            }
            waiting = there;
            if waiting.is_empty() || begun.elapsed() > within {
                return Ok(waiting.iter().map(|case| case.name).collect());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// All that is left of a case, and what is found by each of these times.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses, or what it gives cannot be read.
    pub async fn read(&mut self, at: usize, case: &Case, times: &[i64]) -> Result<Log> {
        let name = case.topic();
        let start = self.client.list_offset(&name, 0, Position::Earliest).await?;
        let end = self.client.list_offset(&name, 0, Position::Latest).await?;
        let topic = self.topics.get(at).context("no such case")?;
        let mut kept = Vec::new();
        let mut next = start;
        while next < end {
            let fetched = self.client.fetch(&name, 0, next, FETCH_BYTES, WAIT_MS).await?;
            let before = next;
            for batch in batches(fetched.records) {
                let batch = batch?;
                let records = batch.records()?;
                next = next.max(batch.next_offset);
                kept.push(topic.kept(&batch, records)?);
            }
            ensure!(next > before, "{}: {name} gives nothing at {next} of {end}", self.name);
        }
        let mut found_by_time = Vec::new();
        for time in times {
            found_by_time.push((*time, self.client.list_offset(&name, 0, Position::Time(*time)).await?));
        }
        Ok(Log { start, end, batches: kept, read_at_ms: now_ms(), found_by_time })
    }

    /// Sends the last batch of each producer once more, and what must be refused. What the broker answers, in words.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn answers(&mut self, at: usize, case: &Case, begins_ms: i64) -> Result<Vec<String>> {
        let topic = self.topics.get(at).context("no such case")?;
        let mut batches: Vec<Bytes> =
            topic.senders.values().filter_map(|sender| sender.last.clone()).collect();
        for batch in &case.refused {
            batches.push(batch.build(begins_ms, None)?);
        }
        let mut answers = Vec::new();
        for batch in batches {
            answers.push(match self.client.produce(&case.topic(), 0, Acks::All, batch).await {
                Ok(offset) => answered(offset.unwrap_or(-1)),
                Err(ClientError::Refused(refusal)) => error_name(refusal.code),
                Err(error) => return Err(error.into()),
            });
        }
        Ok(answers)
    }
}

impl Topic {
    fn kept(&self, batch: &chronik_client::Batch, records: Vec<Record>) -> Result<Kept> {
        let producer = match batch.producer {
            None => None,
            Some(Producer { id, epoch }) => {
                let mut ours = self.senders.iter().filter(|(_, sender)| sender.identity.id == id);
                let Some((number, _)) = ours.next() else {
                    bail!("the batch at {} is of producer {id}, which nobody is", batch.base_offset)
                };
                Some((*number, epoch, batch.base_sequence))
            }
        };
        let sent_ms = self.sent_ms.get(&batch.base_offset);
        Ok(Kept {
            base_offset: batch.base_offset,
            last_offset: batch.next_offset - 1,
            codec: Codec::of(batch.attributes)?,
            attributes: batch.attributes,
            max_timestamp: batch.max_timestamp,
            delete_horizon_ms: batch.delete_horizon_ms(),
            producer,
            sent_ms: *sent_ms.with_context(|| format!("nobody sent a batch at {}", batch.base_offset))?,
            records,
        })
    }
}
