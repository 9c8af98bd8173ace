//! The coordinator's time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::storage::now_ms;

/// Milliseconds since 1970 that never step: a clock that is set must end nobody's session.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started_ms: i64,
    started: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { started_ms: now_ms(), started: Instant::now() }
    }

    pub fn now_ms(&self) -> i64 {
        let since = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.started_ms.saturating_add(since)
    }

    fn until(&self, at_ms: i64) -> Duration {
        Duration::from_millis(u64::try_from(at_ms.saturating_sub(self.now_ms())).unwrap_or(0))
    }
}

/// Wakes the coordinator's one timekeeper when a shard wants something earlier than it sleeps.
#[derive(Debug)]
pub struct Timer {
    /// When the timekeeper looks again. Before each look it is at its highest, so that nothing is missed meanwhile.
    next_ms: AtomicI64,
    earlier: Notify,
}

impl Default for Timer {
    fn default() -> Timer {
        Timer { next_ms: AtomicI64::new(i64::MAX), earlier: Notify::new() }
    }
}

impl Timer {
    /// A shard has something to do then. To be called once that can be seen.
    pub fn wanted(&self, at_ms: i64) {
        if at_ms < self.next_ms.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    pub fn wake(&self) {
        self.earlier.notify_one();
    }

    /// The timekeeper looks at all shards now.
    pub fn look(&self) {
        self.next_ms.store(i64::MAX, Ordering::SeqCst);
    }

    pub async fn wait_until(&self, clock: &Clock, next_ms: Option<i64>) {
        let Some(next_ms) = next_ms else { return self.earlier.notified().await };
        self.next_ms.store(next_ms, Ordering::SeqCst);
        // An error is the time that is up.
        let _ = tokio::time::timeout(clock.until(next_ms), self.earlier.notified()).await;
    }
}
