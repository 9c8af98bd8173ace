//! What can go wrong between this client and a server, in words a user can act on.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use thiserror::Error;

/// The server's own "no": an error code in a well-formed answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what}: {}{}", error_name(*.code), .message.as_deref().map(|m| format!(" ({m})")).unwrap_or_default())]
pub struct Refusal {
    /// What was asked for, e.g. `create topic orders`.
    pub what: String,
    /// Kafka's error code.
    pub code: i16,
    /// What the server said beside the code, if anything.
    pub message: Option<String>,
}

/// Why a call to a server came to nothing.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No connection could be made.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where to, as `host:port`.
        address: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The connection broke while in use.
    #[error("lost the connection to {address}")]
    Io {
        /// The server, as `host:port`.
        address: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// No answer came in time; what the server did with the request is unknown.
    #[error("{address} did not answer {api} within {} s", .after.as_secs_f64())]
    Timeout {
        /// The server, as `host:port`.
        address: String,
        /// The request's name.
        api: String,
        /// How long the client waited.
        after: Duration,
    },
    /// The answer is not what the protocol promises.
    #[error("{address} gave an answer that cannot be read: {what}")]
    Malformed {
        /// The server, as `host:port`.
        address: String,
        /// What is wrong with it.
        what: String,
    },
    /// Client and server share no version of a request.
    #[error("{address} does not serve {api} in a version this client speaks")]
    Unsupported {
        /// The server, as `host:port`.
        address: String,
        /// The request's name.
        api: String,
    },
    /// The request could not be encoded.
    #[error("cannot build the {api} request: {what}")]
    Request {
        /// The request's name.
        api: String,
        /// What is wrong with it.
        what: String,
    },
    /// The server answered with an error code.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A partition has no leader that could be asked.
    #[error("partition {partition} of topic {topic} has no leader now")]
    NoLeader {
        /// The topic's name.
        topic: String,
        /// The partition's index.
        partition: i32,
    },
    /// The topic exists, the partition does not.
    #[error("topic {topic} has no partition {partition}")]
    NoPartition {
        /// The topic's name.
        topic: String,
        /// The partition's index.
        partition: i32,
    },
}

/// Kafka's own name of an error code, e.g. `UNKNOWN_TOPIC_OR_PARTITION` for 3.
pub fn error_name(code: i16) -> String {
    let camel = match ResponseError::try_from_code(code) {
        None => return "NONE".to_owned(),
        Some(ResponseError::Unknown(code)) => return format!("error {code}"),
        Some(error) => format!("{error:?}"),
    };
    let mut name = String::with_capacity(camel.len() + 8);
    for (at, letter) in camel.chars().enumerate() {
        if letter.is_ascii_uppercase() && at > 0 {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// `Err` when `code` is an error, naming what was asked for.
pub(crate) fn check(code: i16, message: Option<&str>, what: impl FnOnce() -> String) -> Result<(), Refusal> {
    if code == 0 {
        return Ok(());
    }
    Err(Refusal { what: what(), code, message: message.filter(|text| !text.is_empty()).map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_kafkas_names() {
        for (code, name) in [
            (0, "NONE"),
            (-1, "UNKNOWN_SERVER_ERROR"),
            (3, "UNKNOWN_TOPIC_OR_PARTITION"),
            (17, "INVALID_TOPIC_EXCEPTION"),
            (36, "TOPIC_ALREADY_EXISTS"),
            (45, "OUT_OF_ORDER_SEQUENCE_NUMBER"),
            (56, "KAFKA_STORAGE_ERROR"),
            (1000, "error 1000"),
        ] {
            assert_eq!(error_name(code), name);
        }
    }

    #[test]
    fn a_refusal_says_what_was_asked_and_what_the_server_said() {
        let refused = check(36, Some("Topic 'a' already exists."), || "create topic a".into());
        assert_eq!(
            refused.unwrap_err().to_string(),
            "create topic a: TOPIC_ALREADY_EXISTS (Topic 'a' already exists.)"
        );
        assert_eq!(
            check(3, None, || "describe topic b".into()).unwrap_err().to_string(),
            "describe topic b: UNKNOWN_TOPIC_OR_PARTITION"
        );
        assert_eq!(check(0, None, || unreachable!()), Ok(()));
    }
}
