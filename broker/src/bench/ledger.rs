//! What was acknowledged, in four bytes per request, so that reading back can hold the broker
//! to every offset.

/// The request was not acknowledged (yet).
const OPEN: u32 = u32::MAX;
/// It was acknowledged as a duplicate, with no offset told.
const UNPLACED: u32 = u32::MAX - 1;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Never acknowledged: its records may be in the log once, or not.
    Open,
    /// Acknowledged without an offset: its records are in the log exactly once.
    Unplaced,
    /// Acknowledged: its first record has this offset, counted from the partition's start.
    At(u32),
}

/// The fates of all requests of a run, by producer and request number.
#[derive(Debug, Default)]
pub struct Ledger {
    fates: Vec<Vec<u32>>,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(producers: usize) -> Self {
        Self { fates: vec![Vec::new(); producers] }
    }

    /// Notes that a producer's next request has left.
    pub fn open(&mut self, producer: u32) {
        if let Some(fates) = self.fates.get_mut(producer as usize) {
            fates.push(OPEN);
        }
    }

    /// Notes an acknowledgement; `offset` counts from where the partition stood at the start of
    /// the run. An offset no partition of this run can have is not noted and gives `false`.
    pub fn acknowledge(&mut self, producer: u32, request: u32, offset: Option<i64>) -> bool {
        let fate = match offset.map(u32::try_from) {
            None => UNPLACED,
            Some(Ok(offset)) if offset < UNPLACED => offset,
            Some(_) => return false,
        };
        match self.fates.get_mut(producer as usize).and_then(|fates| fates.get_mut(request as usize)) {
            Some(slot) => *slot = fate,
            None => return false,
        }
        true
    }

    /// What became of a request; `None` when it never left.
    pub fn fate(&self, producer: u32, request: u32) -> Option<Fate> {
        let fate = *self.fates.get(producer as usize)?.get(request as usize)?;
        Some(match fate {
            OPEN => Fate::Open,
            UNPLACED => Fate::Unplaced,
            offset => Fate::At(offset),
        })
    }

    /// How many requests left, producer by producer.
    pub fn requests(&self) -> impl Iterator<Item = usize> + '_ {
        self.fates.iter().map(Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_are_kept_apart() {
        let mut ledger = Ledger::new(2);
        for _ in 0..3 {
            ledger.open(1);
        }
        assert!(ledger.acknowledge(1, 0, Some(0)));
        assert!(ledger.acknowledge(1, 2, None));
        assert_eq!(ledger.fate(1, 0), Some(Fate::At(0)));
        assert_eq!(ledger.fate(1, 1), Some(Fate::Open));
        assert_eq!(ledger.fate(1, 2), Some(Fate::Unplaced));
        assert_eq!(ledger.fate(1, 3), None);
        assert_eq!(ledger.fate(0, 0), None);
        assert_eq!(ledger.requests().collect::<Vec<_>>(), [0, 3]);
    }

    #[test]
    fn offsets_out_of_range_are_not_noted() {
        let mut ledger = Ledger::new(1);
        ledger.open(0);
        for offset in [-1, i64::from(UNPLACED), i64::from(OPEN), i64::MAX] {
            assert!(!ledger.acknowledge(0, 0, Some(offset)), "{offset}");
        }
        assert_eq!(ledger.fate(0, 0), Some(Fate::Open));
        assert!(!ledger.acknowledge(0, 1, Some(0)));
    }
}
