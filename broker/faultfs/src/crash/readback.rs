//! A partition's log as a reader from its beginning gets it.

use anyhow::{Result, bail, ensure};

use super::batch::ReadBatch;
use super::kafka::Connection;
use super::topics::Part;

/// How often a log is read anew since its start has moved away meanwhile.
const ATTEMPTS: usize = 10;

/// A partition's log as read.
#[derive(Debug, Default)]
pub struct Log {
    pub start: i64,
    pub end: i64,
    pub batches: Vec<ReadBatch>,
}

/// Reads all of a partition.
///
/// # Errors
/// When the broker refuses, though the log's start has not moved, or the log cannot be read to its end.
pub fn read_log(broker: &mut Connection, part: Part) -> Result<Log> {
    for _ in 0..ATTEMPTS {
        let start = broker.offset(part.topic(), part.partition(), -2)?;
        match read_from(broker, part, start) {
            Ok(log) => return Ok(log),
            // Retention does not wait for readers.
            Err(_) if broker.offset(part.topic(), part.partition(), -2)? > start => {}
            Err(error) => return Err(error),
        }
    }
    bail!("its start moved at each of {ATTEMPTS} attempts")
}

fn read_from(broker: &mut Connection, part: Part, start: i64) -> Result<Log> {
    let (topic, partition) = (part.topic(), part.partition());
    let end = broker.offset(topic, partition, -1)?;
    let mut batches = Vec::new();
    let mut next = start;
    while next < end {
        let more = broker.fetch(topic, partition, next)?;
        ensure!(!more.is_empty(), "nothing to read at {next}, though the log ends at {end}");
        for batch in more {
            // A fetch may begin with a batch that begins before the offset asked for.
            if batch.next_offset > next {
                next = batch.next_offset;
                batches.push(batch);
            }
        }
    }
    Ok(Log { start, end, batches })
}
