//! Which leader epoch begins at which offset (KIP-101, KIP-279, KIP-320), as Kafka's `LeaderEpochFileCache`.
//!
//! A replica that rejoins asks the leader where the last epoch it knows ends, and truncates to there; a consumer
//! asks the same to learn that what it read was lost.

use super::codec::{Reader, SnapshotError, Writer};
use crate::ids::{LeaderEpoch, Offset};

const VERSION: u16 = 1;

/// The first offset written under an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: LeaderEpoch,
    pub start_offset: Offset,
}

/// Epochs and their start offsets; both strictly increase from entry to entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    entries: Vec<EpochStart>,
}

impl LeaderEpochs {
    /// Records that `epoch` begins at `start_offset`. Entries that contradict it go: an epoch under which nothing
    /// was written leaves no trace. Returns whether anything changed.
    ///
    /// A negative epoch or offset, or an epoch below the latest, changes nothing.
    pub fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) -> bool {
        if epoch.0 < 0 || start_offset < 0 {
            return false;
        }
        if let Some(latest) = self.entries.last()
            && (epoch < latest.epoch || (epoch == latest.epoch && start_offset >= latest.start_offset))
        {
            return false;
        }
        while self.entries.pop_if(|last| last.epoch >= epoch || last.start_offset >= start_offset).is_some() {
        }
        self.entries.push(EpochStart { epoch, start_offset });
        true
    }

    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|entry| entry.epoch)
    }

    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    /// The epoch under which the record at `offset` was (or would be) written.
    pub fn epoch_for(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        self.entries.get(after.checked_sub(1)?).map(|entry| entry.epoch)
    }

    /// Where `requested` ends: the largest known epoch up to it, and the offset at which the next one begins, or
    /// `log_end` for the latest. Before the first known epoch the answer is that epoch's start. None (Kafka's
    /// undefined epoch, -1) for that one, and for one we have not heard of.
    pub fn end_offset_for(&self, requested: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        if requested.0 == -1 {
            return None;
        }
        if self.latest() == Some(requested) {
            return Some((requested, log_end));
        }
        let higher = self.entries.partition_point(|entry| entry.epoch <= requested);
        let end = self.entries.get(higher)?.start_offset;
        let epoch = higher.checked_sub(1).and_then(|floor| self.entries.get(floor));
        Some((epoch.map_or(requested, |entry| entry.epoch), end))
    }

    /// The log now ends at `log_end`: epochs that begin there or later are forgotten.
    pub fn truncate_from_end(&mut self, log_end: Offset) {
        self.entries.retain(|entry| entry.start_offset < log_end);
    }

    /// The log now starts at `log_start`: older epochs are forgotten, the one in force there begins there.
    pub fn truncate_from_start(&mut self, log_start: Offset) {
        let after = self.entries.partition_point(|entry| entry.start_offset <= log_start);
        let Some(in_force) = after.checked_sub(1) else { return };
        self.entries.drain(..in_force);
        if let Some(first) = self.entries.first_mut() {
            first.start_offset = log_start;
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION);
        out.put((self.entries.len() as i32).to_be_bytes());
        for entry in &self.entries {
            out.put(entry.epoch.0.to_be_bytes());
            out.put(entry.start_offset.to_be_bytes());
        }
        out.seal()
    }

    /// # Errors
    /// Anything but the bytes of an [`LeaderEpochs::encode`], whole and undamaged.
    pub fn decode(bytes: &[u8]) -> Result<LeaderEpochs, SnapshotError> {
        let (_, mut reader) = Reader::open(bytes, VERSION)?;
        let mut epochs = LeaderEpochs::default();
        for count in 0..reader.i32()? {
            let (epoch, start_offset) = (LeaderEpoch(reader.i32()?), reader.i64()?);
            let grown = epochs.assign(epoch, start_offset) && epochs.entries.len() == count as usize + 1;
            if !grown {
                return Err(SnapshotError::Malformed);
            }
        }
        reader.end()?;
        Ok(epochs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(entries: &[(i32, Offset)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        for (epoch, start) in entries {
            assert!(epochs.assign(LeaderEpoch(*epoch), *start));
        }
        epochs
    }

    fn pairs(epochs: &LeaderEpochs) -> Vec<(i32, Offset)> {
        epochs.entries().iter().map(|entry| (entry.epoch.0, entry.start_offset)).collect()
    }

    #[test]
    fn end_offsets() {
        let epochs = epochs(&[(2, 5), (4, 10), (7, 30)]);
        let end = |epoch| epochs.end_offset_for(LeaderEpoch(epoch), 50).map(|(epoch, end)| (epoch.0, end));
        assert_eq!(end(7), Some((7, 50)), "the latest epoch reaches to the log's end");
        assert_eq!(end(4), Some((4, 30)));
        assert_eq!(end(5), Some((4, 30)), "an epoch that wrote nothing");
        assert_eq!(end(2), Some((2, 10)));
        assert_eq!(end(1), Some((1, 5)), "older than all that is known");
        assert_eq!(end(8), None, "newer than all that is known");
        assert_eq!(end(-2), Some((-2, 5)), "older still");
        assert_eq!(end(-1), None);
        assert_eq!(LeaderEpochs::default().end_offset_for(LeaderEpoch(0), 50), None);
    }

    #[test]
    fn an_epoch_that_wrote_nothing_leaves_no_trace() {
        let mut epochs = epochs(&[(0, 0), (1, 10)]);
        assert!(epochs.assign(LeaderEpoch(3), 10));
        assert_eq!(pairs(&epochs), [(0, 0), (3, 10)]);
        assert!(!epochs.assign(LeaderEpoch(3), 12), "an epoch begins once");
        assert!(!epochs.assign(LeaderEpoch(2), 20), "epochs only grow");
        assert!(!epochs.assign(LeaderEpoch(-1), 20));
        assert_eq!(epochs.latest(), Some(LeaderEpoch(3)));
    }

    #[test]
    fn truncation_at_both_ends() {
        let start = epochs(&[(2, 5), (4, 10), (7, 30)]);
        let mut log = start.clone();
        log.truncate_from_end(30);
        assert_eq!(pairs(&log), [(2, 5), (4, 10)]);
        log.truncate_from_start(12);
        assert_eq!(pairs(&log), [(4, 12)]);
        log.truncate_from_start(3);
        assert_eq!(pairs(&log), [(4, 12)]);
        let mut log = start.clone();
        log.truncate_from_start(10);
        assert_eq!(pairs(&log), [(4, 10), (7, 30)]);
        log.truncate_from_end(0);
        assert_eq!(pairs(&log), []);
        let at = |offset| start.epoch_for(offset).map(|epoch| epoch.0);
        assert_eq!([at(4), at(5), at(9), at(10), at(99)], [None, Some(2), Some(2), Some(4), Some(7)]);
    }

    #[test]
    fn snapshots_survive_and_damage_is_refused() {
        let epochs = epochs(&[(2, 5), (4, 10)]);
        let bytes = epochs.encode();
        assert_eq!(LeaderEpochs::decode(&bytes), Ok(epochs));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(LeaderEpochs::decode(&damaged).is_err(), "byte {at}");
            assert!(LeaderEpochs::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let mut disordered = Writer::new(VERSION);
        disordered.put(2i32.to_be_bytes());
        for (epoch, start) in [(4i32, 10i64), (5, 10)] {
            disordered.put(epoch.to_be_bytes());
            disordered.put(start.to_be_bytes());
        }
        assert_eq!(LeaderEpochs::decode(&disordered.seal()), Err(SnapshotError::Malformed));
        assert_eq!(LeaderEpochs::decode(&Writer::new(9).seal()), Err(SnapshotError::Version(9)));
    }
}
