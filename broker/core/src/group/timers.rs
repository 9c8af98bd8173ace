//! What happens by the clock: deadlines in order.

use std::collections::{BTreeSet, HashMap};

use kafka_protocol::protocol::StrBytes;

/// Whose time may be up. There is at most one deadline of each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// A group waits no longer for members to join.
    Join(StrBytes),
    /// A group waits no longer for its members' SyncGroup.
    Sync(StrBytes),
    /// A member of a group, or one that is to come back with the id it was given, was not heard of.
    Session(StrBytes, StrBytes),
    /// Committed offsets are looked through.
    OffsetExpiry,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(i64, Timer)>,
    deadlines: HashMap<Timer, i64>,
}

impl Timers {
    /// Sets or moves a deadline.
    pub fn schedule(&mut self, timer: Timer, at_ms: i64) {
        if let Some(before) = self.deadlines.insert(timer.clone(), at_ms) {
            if before == at_ms {
                return;
            }
            let entry = (before, timer);
            self.due.remove(&entry);
            self.due.insert((at_ms, entry.1));
        } else {
            self.due.insert((at_ms, timer));
        }
    }

    pub fn cancel(&mut self, timer: Timer) {
        if let Some(at_ms) = self.deadlines.remove(&timer) {
            self.due.remove(&(at_ms, timer));
        }
    }

    /// The earliest that is due, if any; it is then no longer set.
    pub fn pop(&mut self, now_ms: i64) -> Option<Timer> {
        if self.next_ms()? > now_ms {
            return None;
        }
        let (_, timer) = self.due.pop_first()?;
        self.deadlines.remove(&timer);
        Some(timer)
    }

    pub fn next_ms(&self) -> Option<i64> {
        self.due.first().map(|(at_ms, _)| *at_ms)
    }
}
