//! After the load: everything that must still be there is read and held against what was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use chronik_client::{Client, Position, batch_header, batches};
use serde::Serialize;

use super::consume::is_out_of_range;
use super::course::{Course, Partition};
use super::produce::PATIENCE;
use super::topics::{Kind, RETENTION_BYTES};
use crate::storage::now_ms;

const FETCH_BYTES: i32 = 4 << 20;
/// Partitions read at a time.
const READERS: usize = 4;
/// How often a partition is begun again because retention moved its start.
const ATTEMPTS: usize = 5;
/// A read that brings nothing is tried again at most for this long.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Partitions that were read.
    pub partitions: u64,
    /// Acknowledged records.
    pub acknowledged: u64,
    /// Of them, deleted from the start by retention.
    pub deleted: u64,
    /// Of them, taken out by compaction.
    pub compacted: u64,
    /// Of them, read, each as it was sent.
    pub read: u64,
}

impl Found {
    fn add(&mut self, other: &Found) {
        self.partitions += other.partitions;
        self.acknowledged += other.acknowledged;
        self.deleted += other.deleted;
        self.compacted += other.compacted;
        self.read += other.read;
    }
}

/// Reads all partitions. What is wrong goes to the course's faults.
///
/// # Errors
/// When the broker cannot be reached or refuses.
pub async fn all(course: &Arc<Course>) -> Result<Found> {
    let turn = Arc::new(AtomicUsize::new(0));
    let readers = (0..READERS).map(|_| {
        let (course, turn) = (Arc::clone(course), Arc::clone(&turn));
        tokio::spawn(async move {
            let mut client = Client::connect(&course.bootstrap, PATIENCE).await?;
            let mut found = Found::default();
            while let Some(partition) = course.partitions.get(turn.fetch_add(1, Relaxed)) {
                if !partition.given_up.load(Relaxed) {
                    found.add(&one(&course, partition, &mut client).await?);
                }
            }
            anyhow::Ok(found)
        })
    });
    let mut found = Found::default();
    for reader in readers.collect::<Vec<_>>() {
        found.add(&reader.await?.context("cannot read back")?);
    }
    Ok(found)
}

async fn one(course: &Course, partition: &Partition, client: &mut Client) -> Result<Found> {
    let place = &partition.place;
    let named = |what: String| format!("{}-{}: {what}", place.topic, place.index);
    for _ in 0..ATTEMPTS {
        let end = partition.next.load(Relaxed);
        let latest = client.list_offset(place.topic, place.index, Position::Latest).await?;
        let start = client.list_offset(place.topic, place.index, Position::Earliest).await?;
        let now = now_ms();
        let Some((there, bytes)) = read(course, partition, client, start, end).await? else { continue };
        if latest != end {
            course.fault(named(format!("it ends at {latest}, and {end} was acknowledged")));
        }
        let missing = match place.kind.compacts() {
            true => last_of_keys(partition, start, end).into_iter().find(|o| !there.contains(o)),
            false => (start..end).find(|offset| !there.contains(offset)),
        };
        if let Some(missing) = missing {
            course.fault(named(format!("the record at {missing} of {start}..{end} is not there")));
        }
        match place.kind {
            Kind::Keyed if start > 0 => course.fault(named(format!("it begins at {start}"))),
            Kind::Sized if start > 0 && bytes < RETENTION_BYTES => {
                course.fault(named(format!("{bytes} bytes are left, under its retention.bytes")));
            }
            Kind::Aged | Kind::Both => {
                let young = partition.first_younger(now, course.times.retention);
                if start > young {
                    course.fault(named(format!("it begins at {start}; from {young} on all is too young")));
                }
            }
            _ => {}
        }
        let (acknowledged, deleted, read) = (end as u64, start.min(end) as u64, there.len() as u64);
        let compacted = (end - start).max(0) as u64 - read.min((end - start).max(0) as u64);
        return Ok(Found { partitions: 1, acknowledged, deleted, compacted, read });
    }
    bail!(named(format!("its start moved {ATTEMPTS} times while it was read")))
}

/// The offsets that are there, and the bytes of their batches; `None` when retention came between.
async fn read(
    course: &Course,
    partition: &Partition,
    client: &mut Client,
    start: i64,
    end: i64,
) -> Result<Option<(BTreeSet<i64>, u64)>> {
    let place = &partition.place;
    let mut there = BTreeSet::new();
    let (mut at, mut bytes) = (start, 0);
    let mut moved = Instant::now();
    while at < end {
        let fetched = match client.fetch(place.topic, place.index, at, FETCH_BYTES, 0).await {
            Ok(fetched) => fetched,
            Err(error) if is_out_of_range(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        bytes += whole_bytes(&fetched.records);
        let before = at;
        for batch in batches(fetched.records) {
            let batch = batch?;
            for record in batch.records()? {
                if let Some(fault) = place.fault(&record) {
                    course.fault(fault);
                }
                if record.offset >= at && !there.insert(record.offset) {
                    course.fault(format!("{}-{}: {} came twice", place.topic, place.index, record.offset));
                }
            }
            at = at.max(batch.next_offset);
        }
        if at > before {
            moved = Instant::now();
        } else if fetched.high_watermark <= at || place.kind.compacts() {
            // Only an empty tail can be left: compaction keeps the newest records of all keys.
            break;
        }
        ensure!(
            moved.elapsed() < STALLED_AFTER,
            "{}-{}: nothing comes at {at} of {end}",
            place.topic,
            place.index
        );
    }
    Ok(Some((there, bytes)))
}

/// The bytes of whole batches.
fn whole_bytes(records: &Bytes) -> u64 {
    let mut rest = records.as_ref();
    let mut bytes = 0;
    while let Some(length) = rest.get(batch_header::LENGTH..).and_then(<[u8]>::first_chunk) {
        let whole = 12 + i32::from_be_bytes(*length).max(0) as usize;
        let Some(after) = rest.get(whole..) else { break };
        bytes += whole as u64;
        rest = after;
    }
    bytes
}

/// Where the newest record of each key is, of `start..end`, unless it is a tombstone: those may be gone.
fn last_of_keys(partition: &Partition, start: i64, end: i64) -> Vec<i64> {
    let mut last = BTreeMap::new();
    for offset in start..end {
        let shape = partition.place.shape(offset);
        last.insert(shape.key, shape.value_bytes.map(|_| offset));
    }
    last.into_values().flatten().collect()
}
