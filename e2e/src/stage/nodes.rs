//! Watches the nodes: one that is not ready without having been killed by a test spoils the run, since what was
//! measured then is the test bed's weakness and not the broker's.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::api::{Api, condition, text};

/// How often the nodes are looked at. A node stays not ready for longer than this.
const PAUSE: Duration = Duration::from_secs(1);

/// What the watch has seen.
#[derive(Clone, Debug, Default)]
pub struct NodeWatch {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Killed by a test, and not ready again since.
    expected: BTreeSet<String>,
    surprises: Vec<String>,
}

impl NodeWatch {
    /// Watches until the program ends.
    pub fn start(api: Api) -> NodeWatch {
        let watch = NodeWatch::default();
        let seen = watch.clone();
        tokio::spawn(async move {
            loop {
                if let Ok(nodes) = api.list("node", "", None).await {
                    for node in &nodes {
                        let ready = condition(node, "Ready");
                        seen.look(text(node, "/metadata/name"), ready.status == "True", &ready.to_string());
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        watch
    }

    /// From now on `node` may be not ready, until [`settled`](Self::settled).
    pub fn expect(&self, node: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).expected.insert(node.to_owned());
    }

    /// `node` was seen ready again by the test that killed it.
    pub fn settled(&self, node: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).expected.remove(node);
    }

    /// Nodes that a test has killed and not started again.
    pub fn killed(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).expected.iter().cloned().collect()
    }

    /// Nodes that were not ready though nobody killed them, each once, in words.
    pub fn surprises(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).surprises.clone()
    }

    fn look(&self, node: &str, ready: bool, why: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let what = format!("{node} was not ready: {why}");
        if !ready && !seen.expected.contains(node) && !seen.surprises.contains(&what) {
            println!("!! {what}");
            seen.surprises.push(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_nobody_killed_is_a_surprise() {
        let watch = NodeWatch::default();
        watch.look("n1", true, "");
        watch.expect("n1");
        watch.look("n1", false, "killed");
        assert!(watch.surprises().is_empty());
        watch.settled("n1");
        watch.look("n1", false, "slow");
        watch.look("n1", false, "slow");
        assert_eq!(watch.surprises(), ["n1 was not ready: slow"]);
    }
}
