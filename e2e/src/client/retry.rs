//! Which errors a Kafka client tries again after, and after which ones a record may be in the log all the same.

use std::time::{Duration, Instant};

use chronik_client::{Client, ClientError, error_name};

/// How long it is tried to reach a server at first.
const PATIENCE: Duration = Duration::from_secs(15);

/// Connects to `bootstrap`, trying again for a while, as ordinary clients do: a Service that was just made may not lead
/// anywhere yet.
///
/// # Errors
/// The last one.
pub async fn connect(bootstrap: &str, timeout: Duration) -> Result<Client, ClientError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Client::connect(bootstrap, timeout).await {
            Err(error) if meaning(&error).retriable && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            done => return done,
        }
    }
}

/// What an error means for a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// An ordinary client tries again, by itself.
    pub retriable: bool,
    /// The record may have been written.
    pub in_doubt: bool,
}

/// The errors that Kafka's protocol calls retriable.
const RETRIABLE: [i16; 27] =
    [2, 3, 5, 6, 7, 9, 13, 14, 15, 16, 19, 20, 41, 51, 56, 70, 71, 72, 74, 75, 78, 80, 84, 88, 89, 100, 103];

/// Refusals after which the record may be there: unknown server error, request timed out, network exception, not
/// enough replicas after append, storage error.
const IN_DOUBT: [i16; 5] = [-1, 7, 13, 20, 56];

/// What `error` means.
pub fn meaning(error: &ClientError) -> Meaning {
    let (retriable, in_doubt) = match error {
        ClientError::Connect { .. } => (true, false),
        ClientError::Io { .. } | ClientError::Timeout { .. } => (true, true),
        ClientError::NoLeader { .. } | ClientError::NoPartition { .. } => (true, false),
        ClientError::Refused(refusal) => {
            (RETRIABLE.contains(&refusal.code), IN_DOUBT.contains(&refusal.code))
        }
        ClientError::Malformed { .. } => (false, true),
        ClientError::Unsupported { .. } | ClientError::Request { .. } => (false, false),
    };
    Meaning { retriable, in_doubt }
}

/// A short name under which errors of a kind are counted.
pub fn name(error: &ClientError) -> String {
    match error {
        ClientError::Connect { source, .. } => format!("connect: {}", source.kind()),
        ClientError::Io { source, .. } => format!("connection lost: {}", source.kind()),
        ClientError::Timeout { api, .. } => format!("{api} timed out"),
        ClientError::NoLeader { .. } => "no leader".to_owned(),
        ClientError::NoPartition { .. } => "no such partition".to_owned(),
        ClientError::Refused(refusal) => error_name(refusal.code),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use chronik_client::Refusal;

    use super::*;

    fn refused(code: i16) -> Meaning {
        meaning(&ClientError::Refused(Refusal { what: "produce".to_owned(), code, message: None }))
    }

    #[test]
    fn refusals_mean_what_kafka_says() {
        assert_eq!(refused(6), Meaning { retriable: true, in_doubt: false });
        assert_eq!(refused(56), Meaning { retriable: true, in_doubt: true });
        assert_eq!(refused(10), Meaning { retriable: false, in_doubt: false });
        assert_eq!(refused(-1), Meaning { retriable: false, in_doubt: true });
    }

    #[test]
    fn a_lost_connection_leaves_it_open_and_a_refused_one_does_not() {
        let (address, kind) = ("a:1".to_owned(), std::io::ErrorKind::ConnectionReset);
        let lost = ClientError::Io { address: address.clone(), source: kind.into() };
        assert_eq!(meaning(&lost), Meaning { retriable: true, in_doubt: true });
        assert_eq!(name(&lost), "connection lost: connection reset");
        let none = ClientError::Connect { address, source: std::io::ErrorKind::ConnectionRefused.into() };
        assert_eq!(meaning(&none), Meaning { retriable: true, in_doubt: false });
    }
}
