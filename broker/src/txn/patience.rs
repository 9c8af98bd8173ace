//! A producer whose last transaction is decided may begin the next at once, before all markers of the last are written.
//!
//! It is told CONCURRENT_TRANSACTIONS then, and how soon it asks again is its own affair: franz-go looks for another leader
//! first, and asks for metadata no more than once in five seconds. So the broker asks again in its place for a moment, as
//! Apache Kafka does (`add.partitions.to.txn.retry.backoff.max.ms`): markers are one flush away.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use tokio::time::Instant;

/// Apache Kafka's. Whoever wrote waits, and so does all that comes behind it on its connection.
pub const PATIENCE: Duration = Duration::from_millis(100);
/// A flush's time on a fast disk; longer each time.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Asks until the last transaction is complete, or patience is over. What was true of the partition before is to be asked for
/// each time: the marker that is waited for changes it.
///
/// # Errors
/// The last answer's.
pub async fn until_complete<T, F>(patience: Duration, ask: impl Fn() -> F) -> Result<T, ResponseError>
where
    F: Future<Output = Result<T, ResponseError>>,
{
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        let answer = ask().await;
        let left = deadline.saturating_duration_since(Instant::now());
        if !matches!(answer, Err(ResponseError::ConcurrentTransactions)) || left.is_zero() {
            return answer;
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// The answer, and how often it took asking, when the markers are written before the question of this number.
    async fn asked(patience: Duration, complete_at: u32) -> (Result<u32, ResponseError>, u32) {
        let times = Cell::new(0);
        let answer = until_complete(patience, || {
            times.set(times.get() + 1);
            let complete = times.get() >= complete_at;
            async move { if complete { Ok(7) } else { Err(ResponseError::ConcurrentTransactions) } }
        });
        (answer.await, times.get())
    }

    #[tokio::test]
    async fn it_is_asked_again_until_the_last_transaction_is_complete() {
        let ample = Duration::from_secs(20);
        assert_eq!(asked(ample, 1).await, (Ok(7), 1));
        assert_eq!(asked(ample, 5).await, (Ok(7), 5));
        let (answer, times) = asked(PATIENCE, u32::MAX).await;
        assert_eq!(answer, Err(ResponseError::ConcurrentTransactions));
        assert!((2..100).contains(&times), "{times}");
    }

    #[tokio::test]
    async fn other_refusals_stand() {
        let times = Cell::new(0);
        let answer = until_complete(Duration::from_secs(20), || {
            times.set(times.get() + 1);
            async { Err::<(), _>(ResponseError::ProducerFenced) }
        });
        assert_eq!((answer.await, times.get()), (Err(ResponseError::ProducerFenced), 1));
    }
}
