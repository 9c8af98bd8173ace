//! Bounded queues: what may wait for the write-ahead log, per profile and per broker.
//!
//! A request that finds no room waits here, and its connection is not read meanwhile: memory stays bounded
//! and TCP tells the client. Nothing fails for lack of room.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug)]
struct Room {
    records: u64,
    bytes: u64,
    max_records: u64,
    max_bytes: u64,
    waiting: usize,
}

/// One bounded queue's book-keeping.
#[derive(Debug)]
pub struct Admission {
    room: Mutex<Room>,
    freed: Notify,
}

impl Admission {
    pub fn new(max_records: u64, max_bytes: u64) -> Admission {
        let room = Room { records: 0, bytes: 0, max_records, max_bytes, waiting: 0 };
        Admission { room: Mutex::new(room), freed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_limits(&self, max_records: u64, max_bytes: u64) {
        let mut room = self.lock();
        (room.max_records, room.max_bytes) = (max_records, max_bytes);
        drop(room);
        self.freed.notify_waiters();
    }

    /// Takes room if there is any. What is larger than the whole queue is let in alone.
    pub fn try_admit(&self, records: u64, bytes: u64) -> bool {
        let mut room = self.lock();
        let fits = room.records + records <= room.max_records && room.bytes + bytes <= room.max_bytes;
        if fits || (room.records == 0 && room.bytes == 0) {
            room.records += records;
            room.bytes += bytes;
            return true;
        }
        false
    }

    /// Takes room that may not be there. Whoever calls this sees to it that few do.
    pub fn force(&self, records: u64, bytes: u64) {
        let mut room = self.lock();
        room.records += records;
        room.bytes += bytes;
    }

    /// Waits for room and takes it.
    pub async fn admit(&self, records: u64, bytes: u64) {
        if self.try_admit(records, bytes) {
            return;
        }
        self.lock().waiting += 1;
        let _leave = Leave(self);
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Registered before the second look, so that no release between the two is missed.
            freed.as_mut().enable();
            if self.try_admit(records, bytes) {
                return;
            }
            freed.await;
        }
    }

    /// Gives room back.
    pub fn release(&self, records: u64, bytes: u64) {
        let mut room = self.lock();
        room.records = room.records.saturating_sub(records);
        room.bytes = room.bytes.saturating_sub(bytes);
        let wake = room.waiting > 0;
        drop(room);
        if wake {
            self.freed.notify_waiters();
        }
    }

    /// Records and bytes inside.
    pub fn held(&self) -> (u64, u64) {
        let room = self.lock();
        (room.records, room.bytes)
    }
}

struct Leave<'a>(&'a Admission);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_full_queue_makes_the_next_wait_and_an_oversized_one_goes_alone() {
        let queue = Arc::new(Admission::new(10, 1000));
        queue.admit(50, 10).await;
        assert!(!queue.try_admit(1, 1), "full: an oversized one is inside");
        let waiter = tokio::spawn({
            let queue = queue.clone();
            async move { queue.admit(4, 100).await }
        });
        while queue.lock().waiting == 0 {
            tokio::task::yield_now().await;
        }
        queue.release(50, 10);
        waiter.await.unwrap();
        assert_eq!(queue.held(), (4, 100));
        assert!(!queue.try_admit(1, 901), "bytes are bounded too");
        queue.set_limits(10, 2000);
        assert!(queue.try_admit(1, 901));
    }
}
