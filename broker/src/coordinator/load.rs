//! Loading a machine: everything its partition holds, in the order of offsets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chronik_client::compression;
use chronik_core::ids::Offset;
use chronik_core::record_batch::{Batches, Crc, EndMarker, HEADER_LEN, RecordIter};
use tokio::sync::Notify;

use super::{Machine, Origin};
use crate::api::partitions::{PartitionReader, ReadError};

/// How much is read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// A waiter is woken when the partition moves; it looks this often besides.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a load came to.
pub struct Loaded {
    pub began: Instant,
    pub records: u64,
    /// Records and batches that nobody understood.
    pub unreadable: u64,
}

/// Replays all that was appended before now into `machine`.
///
/// # Errors
/// When the partition cannot be read. A record that cannot be understood is none: it is passed over, as in Kafka.
pub async fn load<M: Machine>(
    reader: &Arc<dyn PartitionReader>,
    mut machine: M,
) -> Result<(M, Loaded), ReadError> {
    let mut facts = Loaded { began: Instant::now(), records: 0, unreadable: 0 };
    // What an earlier machine has appended may still be on its way to the disk.
    let to = reader.offsets().log_end;
    committed(reader, to).await?;
    let mut from = reader.offsets().log_start;
    while from < to {
        let read = reader.read(from, to, CHUNK_BYTES, true).await?;
        if read.is_empty() {
            // Compaction has left nothing up to there.
            break;
        }
        // Much to decode would hold up those whom this thread serves.
        let replayed = tokio::task::spawn_blocking(move || {
            let mut next = from;
            for piece in &read.pieces {
                next = replay(&mut machine, piece, from, &mut facts).max(next);
            }
            (machine, facts, next)
        });
        let next;
        (machine, facts, next) =
            replayed.await.map_err(|e| ReadError::Storage(format!("the load was abandoned: {e}")))?;
        if next <= from {
            return Err(ReadError::Storage(format!("nothing follows offset {from}")));
        }
        from = next;
    }
    Ok((machine, facts))
}

/// Waits until everything below `to` is committed.
async fn committed(reader: &Arc<dyn PartitionReader>, to: Offset) -> Result<(), ReadError> {
    if reader.offsets().high_watermark >= to {
        return Ok(());
    }
    let notify = Arc::new(Notify::new());
    let listeners = reader.listeners();
    listeners.add(notify.clone());
    let waited = loop {
        // Looked at after the waiter was added, so that no advance is missed.
        if reader.offsets().high_watermark >= to {
            break Ok(());
        }
        // A partition that was closed never gets there: reading it says why.
        if let Err(closed) = reader.read(to, to, 0, false).await {
            break Err(closed);
        }
        let _ = tokio::time::timeout(LOOK_EVERY, notify.notified()).await;
    };
    listeners.remove(&notify);
    waited
}

/// Replays the batches of a piece, from `from` on. Returns the offset behind the last one.
fn replay<M: Machine>(machine: &mut M, piece: &Bytes, from: Offset, facts: &mut Loaded) -> Offset {
    let mut next = from;
    for batch in Batches::new(piece, Crc::Skip) {
        let (header, range) = match batch {
            Ok(batch) => batch,
            Err(e) => {
                tracing::error!("a batch of {} behind offset {next} cannot be read: {e}", M::TOPIC);
                facts.unreadable += 1;
                break;
            }
        };
        next = header.next_offset();
        if header.is_control() {
            match EndMarker::of(&header, &piece[range]) {
                Some(marker) => {
                    machine.replay_end(marker);
                    facts.records += 1;
                }
                // A cleaner has emptied it.
                None if header.record_count == 0 => {}
                None => {
                    let offset = header.base_offset;
                    tracing::error!(offset, "a control batch of {} is passed over", M::TOPIC);
                    facts.unreadable += 1;
                }
            }
            continue;
        }
        let origin = Origin { producer_id: header.producer_id, producer_epoch: header.producer_epoch };
        let body = piece.slice(range.start + HEADER_LEN..range.end);
        let opened = match compression::decompress(header.attributes, &body) {
            Ok(opened) => opened,
            Err(e) => {
                tracing::error!(offset = header.base_offset, "a batch of {}: {e}", M::TOPIC);
                facts.unreadable += 1;
                continue;
            }
        };
        for record in RecordIter::opened(&header, &opened) {
            let understood = match &record {
                Ok(record) if record.offset < from => continue,
                Ok(record) => machine
                    .replay(origin, record.key.unwrap_or_default(), record.value)
                    .map_err(|why| (record.offset, why)),
                Err(e) => Err((header.base_offset, e.to_string())),
            };
            match understood {
                Ok(()) => facts.records += 1,
                Err((offset, why)) => {
                    tracing::error!(offset, "a record of {} is passed over: {why}", M::TOPIC);
                    facts.unreadable += 1;
                }
            }
        }
    }
    next
}
