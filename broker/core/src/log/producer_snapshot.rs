//! The producers' state as bytes.

use std::collections::{BTreeMap, VecDeque};

use super::codec::{Reader, SnapshotError, Writer};
use super::producer_state::{BATCHES_KEPT, Batch, Producer, ProducerStateMap};
use crate::ids::{ProducerEpoch, ProducerId};

/// 1 knew nothing of transactions.
const VERSION: u16 = 2;

impl ProducerStateMap {
    /// A snapshot at `end_offset`. It may be used only with a log that reaches there: whoever writes it while
    /// batches below are in flight waits for them to be durable first.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION);
        out.put(self.end_offset.to_be_bytes());
        out.put((self.producers.len() as i32).to_be_bytes());
        for (id, producer) in &self.producers {
            out.put(id.0.to_be_bytes());
            out.put(producer.epoch.0.to_be_bytes());
            out.put(producer.last_append_ms.to_be_bytes());
            out.put(producer.ongoing.unwrap_or(-1).to_be_bytes());
            out.put(producer.marker_offset.to_be_bytes());
            out.put(producer.coordinator_epoch.to_be_bytes());
            out.put([producer.batches.len() as u8]);
            for batch in &producer.batches {
                out.put(batch.base_sequence.to_be_bytes());
                out.put(batch.last_sequence.to_be_bytes());
                out.put(batch.base_offset.to_be_bytes());
                out.put(batch.last_offset.to_be_bytes());
                out.put(batch.append_time_ms.to_be_bytes());
            }
        }
        out.seal()
    }

    /// # Errors
    /// Anything but the bytes of an [`ProducerStateMap::encode`], of this version or an older one, whole and undamaged.
    pub fn decode(bytes: &[u8], max_producers: usize) -> Result<ProducerStateMap, SnapshotError> {
        let (version, mut reader) = Reader::open(bytes, VERSION)?;
        let map = ProducerStateMap::new(reader.i64()?, max_producers);
        let mut producers = BTreeMap::new();
        for _ in 0..reader.i32()? {
            let id = ProducerId(reader.i64()?);
            producers.insert(id, producer(&mut reader, version)?);
        }
        reader.end()?;
        Ok(map.with(producers))
    }
}

fn producer(reader: &mut Reader<'_>, version: u16) -> Result<Producer, SnapshotError> {
    let epoch = ProducerEpoch(reader.i16()?);
    let mut producer = Producer::new(epoch, reader.i64()?);
    if version >= 2 {
        producer.ongoing = Some(reader.i64()?).filter(|first| *first >= 0);
        producer.marker_offset = reader.i64()?;
        producer.coordinator_epoch = reader.i32()?;
    }
    let count = usize::from(reader.u8()?);
    let something = count > 0 || producer.ongoing.is_some() || producer.marker_offset >= 0;
    if count > BATCHES_KEPT || !something {
        return Err(SnapshotError::Malformed);
    }
    producer.batches = VecDeque::with_capacity(BATCHES_KEPT);
    for _ in 0..count {
        producer.batches.push_back(Batch {
            base_sequence: reader.i32()?,
            last_sequence: reader.i32()?,
            base_offset: reader.i64()?,
            last_offset: reader.i64()?,
            append_time_ms: reader.i64()?,
        });
    }
    Ok(producer)
}
