//! What every reconcile works with: the Kubernetes API, how the operator was started, and what it counts and tells.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::metrics::Metrics;

/// The name under which Events are reported.
pub const REPORTER: &str = "chronik-operator";
/// The longest note that Kubernetes takes, in bytes.
const NOTE_BYTES_MAX: usize = 1024;

/// How the operator was started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespaces it works in. Empty: all of them.
    pub namespaces: Vec<String>,
    /// The image of brokers whose cluster names none.
    pub broker_image: String,
    /// The DNS domain of the Kubernetes cluster.
    pub cluster_domain: String,
    /// How often an object is looked at when nothing happens.
    pub resync: Duration,
    /// The name of this process among the operator's replicas: its pod's.
    pub identity: String,
    /// The operator's own namespace. Its pods may reach the brokers' admin port.
    pub operator_namespace: String,
}

/// Shared by all reconciles.
pub struct Context {
    pub client: Client,
    pub options: Options,
    pub metrics: Arc<Metrics>,
    recorder: Recorder,
}

impl Context {
    pub fn new(client: Client, options: Options, metrics: Arc<Metrics>) -> Context {
        let reporter =
            Reporter { controller: REPORTER.to_string(), instance: Some(options.identity.clone()) };
        let recorder = Recorder::new(client.clone(), reporter);
        Context { client, options, metrics, recorder }
    }

    /// Records an Event on an object. An Event that cannot be recorded (its namespace may be ending) is only logged:
    /// nothing depends on it.
    pub async fn event(&self, on: &ObjectReference, kind: EventType, reason: &str, note: impl Into<String>) {
        let note = cut(note.into(), NOTE_BYTES_MAX);
        let name = on.name.as_deref().unwrap_or_default();
        let namespace = on.namespace.as_deref().unwrap_or_default();
        tracing::info!(object = format_args!("{namespace}/{name}"), reason, "{note}");
        // The recorder takes Events of the same action and reason for the same one and keeps the first one's note.
        // Other words are another Event, so they are part of the action.
        let action = format!("{reason}-{:016x}", fnv(note.as_bytes()));
        let event =
            Event { type_: kind, reason: reason.to_string(), note: Some(note), action, secondary: None };
        if let Err(e) = self.recorder.publish(&event, on).await {
            tracing::warn!(
                object = format_args!("{namespace}/{name}"),
                reason,
                "the Event is not recorded: {e}"
            );
        }
    }
}

/// The text, cut to so many bytes where it is longer.
pub fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let mut end = bytes_max.saturating_sub(3);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// FNV-1a, 64 bits: the same on every machine and in every version, for hashes that are kept in objects.
pub fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_notes_are_cut_between_characters() {
        assert_eq!(cut("short".to_string(), 10), "short");
        assert_eq!(cut("a".repeat(20), 10), "aaaaaaa...");
        let cut = cut("ü".repeat(20), 10);
        assert_eq!(cut, "üüü...");
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
