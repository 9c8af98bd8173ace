//! A partition's durable batches on their way from the write-ahead log into its segments, a chunk at a time. Records may be
//! appended, and deleted, between any two chunks.

use std::io;
use std::sync::Arc;

use chronik_core::log::{self, Copied};

use super::partition::Partition;
use super::segments::{Chunk, Limits};

const CHUNK_BYTES: usize = 2 << 20;

pub struct Copying<'a> {
    partition: &'a Arc<Partition>,
    limits: Limits,
    chunk_bytes: usize,
    state: log::Copying,
}

impl<'a> Copying<'a> {
    pub fn begin(partition: &'a Arc<Partition>) -> Copying<'a> {
        let limits = Limits::of(&partition.settings().topic);
        let chunk_bytes = CHUNK_BYTES.min(usize::try_from(limits.bytes / 2).unwrap_or(CHUNK_BYTES)).max(1);
        let (producers, next) = partition.copied();
        let synced_end = partition.on_disk().segments.end();
        Copying { partition, limits, chunk_bytes, state: log::Copying::begin(producers, next, synced_end) }
    }

    /// Copies some runs. False when there was nothing to copy. After an error, what is not synced is to be abandoned.
    pub fn chunk(&mut self, now_ms: i64) -> io::Result<bool> {
        let runs = self.partition.runs_from(self.state.next(), self.chunk_bytes);
        if runs.is_empty() {
            return Ok(false);
        }
        // One write for the chunk: a run may be no larger than a record.
        let mut copied = Copied::with_capacity(self.chunk_bytes);
        for run in runs {
            let bytes = match &run.bytes {
                Some(bytes) => bytes.clone(),
                None => self.partition.read_span(run.span)?.ok_or_else(|| {
                    io::Error::other(format!("WAL position {} was recycled too early", run.span.position))
                })?,
            };
            self.state.take(&run, &bytes, &mut copied, |offset| self.partition.producers_at(offset));
        }
        let Copied { bytes, first, first_timestamp, max_timestamp } = &copied;
        if let Some(first) = *first {
            let (next, first_timestamp, max_timestamp) =
                (self.state.next(), *first_timestamp, *max_timestamp);
            let chunk = Chunk { bytes, first, next, first_timestamp, max_timestamp, now_ms };
            self.partition.on_disk().segments.append(&chunk, &self.limits)?;
        }
        Ok(true)
    }

    /// Syncs the segments; from now on what was copied counts.
    pub fn finish(self) -> io::Result<()> {
        let (producers, end) = self.state.finish();
        let mut on_disk = self.partition.on_disk();
        on_disk.segments.sync()?;
        on_disk.segments.close();
        on_disk.producers = producers;
        drop(on_disk);
        self.partition.in_segments(end).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chronik_client::{BatchBuilder, NewRecord, Producer};

    use super::super::partition::Acknowledge;
    use super::super::testing::{Bed, Debris};
    use super::*;

    const PRODUCERS: i64 = 4;
    /// Of one batch of each producer.
    const RECORDS: i64 = 3;

    fn batch(bed: &Bed, producer: i64) -> Bytes {
        let mut builder = BatchBuilder::new().producer(Producer { id: producer, epoch: 0 }, 0);
        for _ in 0..RECORDS {
            let timestamp = bed.now_ms();
            builder.push(NewRecord { timestamp, key: None, value: Some(&[7; 400]), headers: &[] });
        }
        builder.build()
    }

    /// A producer's batch, durable in a run of its own.
    fn produce(bed: &mut Bed, partition: &Arc<Partition>, producer: i64) {
        let (_, accepted) = bed.append(partition, &batch(bed, producer)).unwrap();
        match accepted.acknowledge {
            Acknowledge::When(told) => _ = bed.wait(told),
            Acknowledge::Now => panic!("answered before it was durable"),
        }
    }

    /// Whenever records are deleted while they are copied, and up to wherever, also into a batch: all producers are known
    /// afterwards, by what the checkpoint says, and by what it says and the log together.
    #[test]
    fn what_is_deleted_on_its_way_leaves_its_mark_on_the_producers_state() {
        let mut bed = Bed::new();
        for chunks in 0..=PRODUCERS {
            for up_to in 1..=PRODUCERS * RECORDS {
                for all in [false, true] {
                    let case = format!("{chunks} chunks, deleted up to {up_to}, copied {all}");
                    let id = bed.create_topic("t");
                    let partition = bed.partition(id).unwrap();
                    // A run is a chunk.
                    bed.configure(id, |config| config.segment_bytes = 1000);
                    for producer in 0..PRODUCERS {
                        produce(&mut bed, &partition, producer);
                    }
                    let mut copying = Copying::begin(&partition);
                    for _ in 0..chunks {
                        assert!(copying.chunk(0).unwrap(), "{case}");
                    }
                    bed.wait(partition.delete_before(up_to).unwrap().unwrap());
                    while all && copying.chunk(0).unwrap() {}
                    let copied = partition.state().log.producers().clone();
                    assert_eq!(copied.len() as i64, PRODUCERS);
                    // One more comes too late for this time.
                    produce(&mut bed, &partition, PRODUCERS);
                    copying.finish().unwrap();
                    if all {
                        let late = batch(&bed, PRODUCERS).len() as u64;
                        assert_eq!(partition.uncopied_bytes(), late, "{case}");
                        assert_eq!(partition.segment_producers(), copied, "{case}");
                    }
                    let known = partition.state().log.producers().clone();
                    bed.checkpoint(false).unwrap();
                    let durable = bed.delivered();
                    drop(partition);
                    bed.crash(Debris::default(), durable);
                    let again = bed.partition(id).unwrap();
                    assert_eq!(*again.state().log.producers(), known, "{case}");
                    assert!(!bed.append(&again, &batch(&bed, 0)).unwrap().1.queued, "{case}");
                    bed.delete_topic("t");
                }
            }
        }
    }
}
