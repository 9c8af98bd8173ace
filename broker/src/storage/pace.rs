//! Threads that work in the background: they keep to a pace, rest, and are told to end.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The pace is looked at after so many bytes.
const PACE_BYTES: u64 = 256 << 10;

/// Ends a thread, whatever it waits for.
#[derive(Default)]
pub struct Ending {
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Ending {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the thread after the batch that it is at.
    pub fn stop(&self) {
        *self.lock() = true;
        self.wake.notify_all();
    }

    /// Rests for so long; true when the thread is to end.
    pub fn rest(&self, time: Duration) -> bool {
        let stopped = self.lock();
        let waited = self.wake.wait_timeout_while(stopped, time, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// So many bytes a second, on the average of a second.
pub struct Pace {
    /// Bytes moved since `from`.
    moved: u64,
    /// How much had moved when the pace was looked at.
    looked_at: u64,
    from: Instant,
}

impl Pace {
    pub fn new() -> Pace {
        Pace { moved: 0, looked_at: 0, from: Instant::now() }
    }

    /// Counts bytes that were moved; true when it is time to [`keep`](Pace::keep) to the pace. A clock is not asked for
    /// every small batch.
    pub fn moved(&mut self, bytes: u64) -> bool {
        self.moved += bytes;
        self.moved >= self.looked_at + PACE_BYTES
    }

    /// Rests until what was moved fits `bytes_per_second`; true when the thread is to end.
    pub fn keep(&mut self, bytes_per_second: u64, ending: &Ending) -> bool {
        self.looked_at = self.moved;
        let due = Duration::from_secs_f64(self.moved as f64 / bytes_per_second.max(1) as f64);
        let stopped = ending.rest(due.saturating_sub(self.from.elapsed()));
        if self.from.elapsed() > Duration::from_secs(1) {
            *self = Pace::new();
        }
        stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_bytes_take_so_long_unless_it_ends() {
        let ending = Ending::default();
        let mut pace = Pace::new();
        assert!(!pace.moved(1000), "not for a little");
        assert!(pace.moved(PACE_BYTES));
        let begun = Instant::now();
        assert!(!pace.keep(PACE_BYTES * 10, &ending));
        assert!(begun.elapsed() > Duration::from_millis(50));
        assert!(pace.moved(PACE_BYTES));
        ending.stop();
        let begun = Instant::now();
        assert!(pace.keep(1, &ending), "days otherwise");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
