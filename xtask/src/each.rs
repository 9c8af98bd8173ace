//! Things that are done for many, some of them at once.

use std::sync::{Mutex, PoisonError};

/// Does something for each of them, in order, for so many at once.
pub fn each<T: Send>(at_once: usize, items: Vec<T>, act: impl Fn(T) + Sync) {
    let items = Mutex::new(items.into_iter());
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(item) = next() {
                    act(item);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn each_gets_its_turn_and_some_go_together() {
        let sum = AtomicU32::new(0);
        // Neither of two would get past it alone.
        let together = Barrier::new(2);
        each(2, vec![1, 2, 3, 4], |n| {
            together.wait();
            sum.fetch_add(n, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 10);
    }
}
