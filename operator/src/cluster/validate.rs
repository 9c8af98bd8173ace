//! What the schema cannot say, or an older schema did not: checked before anything is built. Pure.

use std::collections::BTreeSet;

use crate::crd::ChronikCluster;
use crate::crd::cluster::ListenerType;

use super::names;

/// What is wrong with a cluster, if anything. Nothing is applied until it is mended.
pub fn problems(cluster: &ChronikCluster) -> Vec<String> {
    let spec = &cluster.spec;
    let mut problems = Vec::new();
    if spec.pools.is_empty() {
        problems.push("there is no pool".to_string());
    }
    let mut ids = BTreeSet::new();
    for pool in &spec.pools {
        if pool.replicas < 1 {
            problems.push(format!("pool {} has no broker", pool.name));
        }
        for id in names::broker_ids(pool) {
            if !ids.insert(id) {
                problems.push(format!("broker id {id} of pool {} is another pool's, too", pool.name));
            }
        }
    }
    if ids.len() > 1 {
        problems.push("a cluster has one broker, until replication is there".to_string());
    }
    if !spec.listeners.iter().any(|l| l.kind == ListenerType::Internal) {
        problems.push("no listener is of type internal; the operator uses it".to_string());
    }
    let mut ports = BTreeSet::new();
    let mut listeners = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
    for listener in &spec.listeners {
        if !listeners.insert(listener.name.to_uppercase()) {
            problems.push(format!("two listeners are named {}", listener.name));
        }
        if !ports.insert(listener.port) {
            problems.push(format!("two listeners share port {}", listener.port));
        }
        let brokers = (0..).zip(&ids).map(|(nth, _)| nth);
        let per_broker = listener
            .first_node_port
            .into_iter()
            .flat_map(|first| brokers.clone().map(move |nth: i32| first.saturating_add(nth)));
        for port in listener.bootstrap_node_port.into_iter().chain(per_broker) {
            if !node_ports.insert(port) {
                problems.push(format!("node port {port} is asked for twice"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::build::tests::{outside, small};

    #[test]
    fn a_fine_cluster_has_no_problems() {
        assert_eq!(problems(&small()), Vec::<String>::new());
    }

    #[test]
    fn what_the_schema_cannot_say_is_found() {
        let mut cluster = small();
        cluster.spec.pools.push(cluster.spec.pools[0].clone());
        let found = problems(&cluster);
        assert!(found.iter().any(|p| p.contains("broker id 0")), "{found:?}");

        let mut cluster = small();
        cluster.spec.pools[0].replicas = 2;
        assert!(problems(&cluster).iter().any(|p| p.contains("one broker")));

        let mut cluster = small();
        cluster.spec.pools.clear();
        assert_eq!(problems(&cluster), ["there is no pool"]);

        let mut cluster = small();
        cluster.spec.listeners = vec![outside(9094)];
        assert!(problems(&cluster).iter().any(|p| p.contains("internal")));

        let mut cluster = small();
        cluster.spec.listeners.push(outside(9092));
        assert!(problems(&cluster).iter().any(|p| p.contains("share port 9092")));

        let mut cluster = small();
        let mut twice = outside(9094);
        twice.bootstrap_node_port = Some(31000);
        twice.first_node_port = Some(31000);
        cluster.spec.listeners.push(twice);
        assert!(problems(&cluster).iter().any(|p| p.contains("31000")));
    }
}
