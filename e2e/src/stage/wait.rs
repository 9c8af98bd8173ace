//! Waiting for something to become so.

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(200);

/// Looks until `look` succeeds, and returns what it found.
///
/// # Errors
/// If it has not within `limit`: with the last reason that `look` gave.
pub async fn until<T, F, Fut>(what: impl Display, limit: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let begun = Instant::now();
    loop {
        let why = match look().await {
            Ok(found) => return Ok(found),
            Err(why) => why,
        };
        if begun.elapsed() >= limit {
            return Err(anyhow!("{what}: not within {} s: {why:#}", limit.as_secs()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Seconds, for limits.
pub const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_with_the_first_success_or_tells_the_last_reason() {
        let mut looks = 0;
        let found = until("three", s(20), || {
            looks += 1;
            let looks = looks;
            async move { if looks == 3 { Ok(looks) } else { Err(anyhow!("{looks}")) } }
        });
        assert_eq!(found.await.unwrap(), 3);
        let never = until("this", Duration::ZERO, || async { Err::<(), _>(anyhow!("no such thing")) });
        assert_eq!(never.await.unwrap_err().to_string(), "this: not within 0 s: no such thing");
    }
}
