//! Consumers beside the load: some follow the end of a partition, some read old records here and there. All of
//! them check what they read.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chronik_client::{Client, ClientError, Position, Record, batches, error_name};

use super::course::{Course, Partition, locked};
use super::produce::{DUE, PATIENCE};
use crate::bench::payload::next;

/// How long a fetch at the end waits, in milliseconds.
const WAIT_MS: i32 = 500;
/// Asked for by each fetch, in bytes: what Kafka's consumers ask for.
const FETCH_BYTES: i32 = 1 << 20;
/// Between two looks at old records.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Follows the end of one partition until the course is stopped.
///
/// # Errors
/// When the broker cannot be reached or refuses.
pub async fn follow(course: Arc<Course>, number: usize) -> Result<()> {
    let partition = course.partitions.get(number).context("no such partition")?;
    let place = &partition.place;
    let mut client = Client::connect(&course.bootstrap, PATIENCE).await?;
    let mut at = 0;
    while !course.is_stopped() {
        let fetched = client.fetch(place.topic, place.index, at, FETCH_BYTES, WAIT_MS).await?;
        let now = course.now_ns();
        for batch in batches(fetched.records) {
            let batch = batch?;
            let records = batch.records()?;
            let dense = place.kind.compacts() || batch.base_offset <= at;
            if !dense {
                course.fault(format!(
                    "{}-{}: a consumer at {at} was given {} next",
                    place.topic, place.index, batch.base_offset
                ));
            }
            for record in records.iter().filter(|record| record.offset >= at) {
                if let Some(fault) = place.fault(record) {
                    course.fault(fault);
                }
                if let Some(due) = due(record) {
                    locked(&course.phase().seen).saturating_record(now.saturating_sub(due));
                }
            }
            at = at.max(batch.next_offset);
        }
    }
    Ok(())
}

fn due(record: &Record) -> Option<u64> {
    let header = record.headers.iter().find(|(key, _)| key.as_ref() == DUE.as_bytes())?;
    Some(u64::from_be_bytes(header.1.as_deref()?.try_into().ok()?))
}

/// Reads from the start of a random partition, again and again, until the course is stopped.
///
/// # Errors
/// When the broker cannot be reached or refuses.
pub async fn look_back(course: Arc<Course>, mut dice: u64) -> Result<()> {
    let mut client = Client::connect(&course.bootstrap, PATIENCE).await?;
    while !course.is_stopped() {
        tokio::time::sleep(LOOK_EVERY).await;
        let roll = next(&mut dice) as usize % course.partitions.len().max(1);
        let Some(partition) = course.partitions.get(roll) else { continue };
        if partition.next.load(Relaxed) == 0 {
            continue;
        }
        let place = &partition.place;
        let start = client.list_offset(place.topic, place.index, Position::Earliest).await?;
        let asked = Instant::now();
        let fetched = match client.fetch(place.topic, place.index, start, FETCH_BYTES, 0).await {
            Ok(fetched) => fetched,
            // Retention was faster.
            Err(error) if is_out_of_range(&error) => continue,
            Err(error) => return Err(error.into()),
        };
        let took = asked.elapsed().as_nanos() as u64;
        if fetched.records.is_empty() {
            continue;
        }
        locked(&course.phase().fetch).saturating_record(took);
        for batch in batches(fetched.records) {
            check(&course, partition, &batch?.records()?);
        }
    }
    Ok(())
}

fn check(course: &Course, partition: &Partition, records: &[Record]) {
    for fault in records.iter().filter_map(|record| partition.place.fault(record)) {
        course.fault(fault);
    }
}

/// Whether retention took the records that were asked for.
pub fn is_out_of_range(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused(refusal) if error_name(refusal.code) == "OFFSET_OUT_OF_RANGE")
}
