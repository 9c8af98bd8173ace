//! What happens by the clock: deadlines in order.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Deadlines of `T`: at most one of each.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    due: BTreeSet<(i64, T)>,
    deadlines: HashMap<T, i64>,
}

impl<T> Default for Timers<T> {
    fn default() -> Timers<T> {
        Timers { due: BTreeSet::new(), deadlines: HashMap::new() }
    }
}

impl<T: Clone + Ord + Hash> Timers<T> {
    /// Sets or moves a deadline.
    pub fn schedule(&mut self, timer: T, at_ms: i64) {
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

    /// As [`Timers::schedule`], if there is no such deadline yet.
    pub fn schedule_if_absent(&mut self, timer: T, at_ms: i64) {
        if !self.deadlines.contains_key(&timer) {
            self.schedule(timer, at_ms);
        }
    }

    pub fn cancel(&mut self, timer: T) {
        if let Some(at_ms) = self.deadlines.remove(&timer) {
            self.due.remove(&(at_ms, timer));
        }
    }

    /// The earliest that is due, if any; it is then no longer set.
    pub fn pop(&mut self, now_ms: i64) -> Option<T> {
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
