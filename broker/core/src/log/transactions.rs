//! Transactions that have ended in a partition: what a consumer of decided records must leave out (KIP-98), as Kafka's
//! `TransactionIndex`, and what is decided but not committed yet.

use std::collections::VecDeque;

use crate::ids::{Offset, ProducerEpoch, ProducerId};

/// A transaction whose records consumers leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer_id: ProducerId,
    /// Of its first record.
    pub first_offset: Offset,
    /// Its marker's.
    pub last_offset: Offset,
    /// All below was decided when the marker was written.
    pub last_stable_offset: Offset,
}

/// A transaction that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub transaction: AbortedTransaction,
    /// The producer's before the marker, whose own may be higher.
    pub producer_epoch: ProducerEpoch,
    pub commit: bool,
}

/// See the module's documentation. In the order of their markers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndedTransactions {
    aborted: VecDeque<AbortedTransaction>,
    /// Of both kinds, those whose marker may be cut off again, or is not committed yet.
    recent: VecDeque<Ended>,
    removals: u64,
}

impl EndedTransactions {
    /// As a checkpoint knows them. Those that contradict the order are damage, and are left out.
    pub fn of(aborted: impl IntoIterator<Item = AbortedTransaction>) -> EndedTransactions {
        let mut all = EndedTransactions::default();
        for transaction in aborted {
            let behind = all.aborted.back().is_none_or(|last| last.last_offset < transaction.last_offset);
            if behind && transaction.first_offset < transaction.last_offset {
                all.aborted.push_back(transaction);
            }
        }
        all
    }

    /// All aborted ones whose marker is below `end`.
    pub fn aborted_below(&self, end: Offset) -> impl Iterator<Item = AbortedTransaction> {
        self.aborted.iter().take_while(move |t| t.last_offset < end).copied()
    }

    /// Those with records between `from` and `to`, to be left out by who reads these.
    pub fn aborted_between(&self, from: Offset, to: Offset) -> Vec<AbortedTransaction> {
        let at = self.aborted.partition_point(|t| t.last_offset < from);
        let mut found = Vec::new();
        for transaction in self.aborted.range(at..) {
            if transaction.first_offset < to {
                found.push(*transaction);
            }
            // What ended later began at this offset or behind it.
            if transaction.last_stable_offset >= to {
                break;
            }
        }
        found
    }

    /// Grows whenever an aborted transaction is forgotten: who has read records before and asks afterwards sees by it
    /// that they may not belong together.
    pub fn removals(&self) -> u64 {
        self.removals
    }

    pub(crate) fn push(&mut self, ended: Ended) {
        self.recent.push_back(ended);
        if !ended.commit {
            self.aborted.push_back(ended.transaction);
        }
    }

    /// The first offset of those whose markers are at `high_watermark` or beyond: decided, but not for consumers yet.
    pub(super) fn first_uncommitted(&self, high_watermark: Offset) -> Option<Offset> {
        let ended = self.recent.iter().rev().map(|ended| ended.transaction);
        ended.take_while(|t| t.last_offset >= high_watermark).map(|t| t.first_offset).min()
    }

    /// Of the recent ones, those whose marker is at `offset` or beyond.
    pub(super) fn since(&self, offset: Offset) -> impl Iterator<Item = &Ended> {
        self.recent.iter().rev().take_while(move |ended| ended.transaction.last_offset >= offset)
    }

    /// Markers below `offset` stay where they are.
    pub(super) fn settle(&mut self, offset: Offset) {
        while self.recent.pop_front_if(|ended| ended.transaction.last_offset < offset).is_some() {}
    }

    /// The log starts at `offset` now.
    pub(super) fn start_at(&mut self, offset: Offset) {
        while self.aborted.pop_front_if(|t| t.last_offset < offset).is_some() {
            self.removals += 1;
        }
    }

    /// The log ends at `offset` now.
    pub(crate) fn end_at(&mut self, offset: Offset) {
        while self.recent.pop_back_if(|ended| ended.transaction.last_offset >= offset).is_some() {}
        while self.aborted.pop_back_if(|t| t.last_offset >= offset).is_some() {
            self.removals += 1;
        }
    }

    /// Markers at these offsets, ascending, are about to be cleaned away: nothing else is left of their transactions.
    pub(super) fn cleaned(&mut self, markers: &[Offset]) {
        let before = self.aborted.len();
        self.aborted.retain(|t| markers.binary_search(&t.last_offset).is_err());
        self.removals += u64::from(self.aborted.len() != before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aborted(producer: i64, first: Offset, last: Offset, stable: Offset) -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId(producer),
            first_offset: first,
            last_offset: last,
            last_stable_offset: stable,
        }
    }

    fn markers(all: &[AbortedTransaction]) -> Vec<Offset> {
        all.iter().map(|t| t.last_offset).collect()
    }

    /// Producer 2 was open from 5 to 40; the others ended meanwhile.
    fn overlapping() -> EndedTransactions {
        EndedTransactions::of([
            aborted(1, 0, 10, 5),
            aborted(1, 12, 20, 5),
            aborted(2, 5, 40, 41),
            aborted(1, 42, 50, 51),
        ])
    }

    #[test]
    fn all_that_reach_into_a_stretch_are_found() {
        let all = overlapping();
        let between = |from, to| markers(&all.aborted_between(from, to));
        assert_eq!(between(0, 5), [10]);
        assert_eq!(between(0, 6), [10, 40]);
        assert_eq!(between(11, 12), [40], "one is over, one begins later");
        assert_eq!(between(10, 13), [10, 20, 40], "its marker is in the stretch still");
        assert_eq!(between(41, 43), [50]);
        assert!(between(51, 99).is_empty());
    }

    #[test]
    fn they_go_with_their_markers() {
        let mut all = overlapping();
        all.start_at(10);
        assert_eq!((markers(&all.aborted_between(0, 99)), all.removals()), (vec![10, 20, 40, 50], 0));
        all.start_at(11);
        assert_eq!((markers(&all.aborted_between(0, 99)), all.removals()), (vec![20, 40, 50], 1));
        all.cleaned(&[13, 40, 41]);
        assert_eq!((markers(&all.aborted_between(0, 99)), all.removals()), (vec![20, 50], 2));
        all.cleaned(&[40]);
        assert_eq!(all.removals(), 2, "nothing went");
        all.end_at(50);
        assert_eq!((markers(&all.aborted_between(0, 99)), all.removals()), (vec![20], 3));
        assert_eq!(all.aborted_below(20).count(), 0);
        assert_eq!(all.aborted_below(21).count(), 1);
    }

    #[test]
    fn what_is_not_committed_holds_up_what_is_stable() {
        let mut all = EndedTransactions::default();
        for (t, commit) in [(aborted(1, 0, 10, 5), true), (aborted(2, 5, 20, 21), false)] {
            all.push(Ended { transaction: t, producer_epoch: ProducerEpoch(0), commit });
        }
        assert_eq!(
            [0, 10, 11, 20, 21].map(|hw| all.first_uncommitted(hw)),
            [Some(0), Some(0), Some(5), Some(5), None]
        );
        assert_eq!(markers(&all.aborted_between(0, 99)), [20]);
        all.settle(11);
        assert_eq!(all.since(0).count(), 1);
        all.end_at(20);
        assert_eq!((all.since(0).count(), all.aborted_between(0, 99).len()), (0, 0));
    }

    #[test]
    fn a_checkpoint_that_contradicts_itself_is_not_believed() {
        let all = EndedTransactions::of([aborted(1, 0, 10, 5), aborted(1, 0, 10, 5), aborted(2, 30, 20, 5)]);
        assert_eq!(markers(&all.aborted_between(0, 99)), [10]);
    }
}
