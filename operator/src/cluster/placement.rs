//! What a broker can be told only once its pod has a node: the addresses it gives to clients, its rack, and whether it
//! may begin with an empty disk. Written as annotations on the pod, which the broker sees as files.
//!
//! This goes on while a cluster is paused: it decides nothing, and a broker that came back elsewhere would not serve
//! without it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::crd::ChronikCluster;
use crate::crd::cluster::{Listener, ListenerType, Pool};

use super::build::node_port;
use super::facts::{Facts, PodFacts};
use super::names::{self, ADVERTISED, BOOTSTRAP, Names, RACK};

/// The annotations that a pod shall have and has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub pod: String,
    pub uid: String,
    pub annotations: BTreeMap<&'static str, String>,
}

/// The changes to all pods, and what keeps a broker from being told its address.
pub fn changes(
    cluster: &ChronikCluster,
    names: &Names,
    facts: &Facts,
) -> (Vec<Change>, BTreeMap<i32, String>) {
    let mut changes = Vec::new();
    let mut waits = BTreeMap::new();
    for (broker, pool) in names::brokers(cluster) {
        let Some(pod) = facts.pods.get(&names.pod(&pool.name, broker)) else { continue };
        let found = PodFacts::of(pod);
        let Some(node) = found.node.as_ref().filter(|_| !found.terminating) else { continue };
        let wanted = match facts.nodes.get(node) {
            Some(node) => annotations(cluster, names, facts, broker, pool, node),
            None => Err(format!("node {node} is not there")),
        };
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(why) => {
                waits.insert(broker, why);
                continue;
            }
        };
        let differs = |name: &str, value: &String| pod.annotations().get(name) != Some(value);
        let annotations: BTreeMap<_, _> =
            wanted.into_iter().filter(|(name, value)| differs(name, value)).collect();
        if !annotations.is_empty() {
            changes.push(Change { pod: found.name, uid: found.uid, annotations });
        }
    }
    (changes, waits)
}

fn annotations(
    cluster: &ChronikCluster,
    names: &Names,
    facts: &Facts,
    broker: i32,
    pool: &Pool,
    node: &Node,
) -> Result<BTreeMap<&'static str, String>, String> {
    let mut addresses = Vec::new();
    for listener in &cluster.spec.listeners {
        let (host, port) = match listener.kind {
            ListenerType::Internal => (names.pod_host(&pool.name, broker), listener.port),
            ListenerType::Nodeport => {
                let service = names.listener_broker(&listener.name, broker);
                let port = node_port(&facts.services, &service, &listener.name)
                    .ok_or_else(|| format!("Service {service} has no node port yet"))?;
                (outside_host(listener, broker, node)?, port)
            }
        };
        addresses.push(format!("{}://{}", listener.name.to_uppercase(), host_port(&host, port)));
    }
    let rack = node.labels().get("topology.kubernetes.io/zone").cloned().unwrap_or_default();
    let known_disk = cluster.status.iter().flat_map(|s| &s.brokers);
    let known_disk = known_disk.filter(|b| b.id == broker).any(|b| b.disk_uuid.is_some());
    let bootstrap = if known_disk { "forbidden" } else { "allowed" };
    Ok(BTreeMap::from([(ADVERTISED, addresses.join(",")), (RACK, rack), (BOOTSTRAP, bootstrap.to_string())]))
}

/// The host that outside clients are told.
pub fn outside_host(listener: &Listener, broker: i32, node: &Node) -> Result<String, String> {
    let template = listener.host_template.as_deref().unwrap_or("{nodeAddress}");
    let host = template.replace("{brokerId}", &broker.to_string());
    if !host.contains("{nodeAddress}") {
        return Ok(host);
    }
    let address = node_address(node).ok_or_else(|| format!("node {} has no address", node.name_any()))?;
    Ok(host.replace("{nodeAddress}", address))
}

/// A node's address for others: external before internal, addresses before names.
fn node_address(node: &Node) -> Option<&str> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let of = |kind: &str| addresses.iter().find(|a| a.type_ == kind).map(|a| a.address.as_str());
    of("ExternalIP").or_else(|| of("ExternalDNS")).or_else(|| of("InternalIP")).or_else(|| of("Hostname"))
}

/// `host:port`, with an IPv6 address in brackets.
pub fn host_port(host: &str, port: i32) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::build::tests::{outside, small};
    use crate::cluster::facts::testing::{container, pod};
    use crate::crd::ChronikClusterStatus;
    use crate::crd::cluster::BrokerStatus;

    fn node(addresses: serde_json::Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}},
            "status": {"addresses": addresses},
        }))
        .unwrap()
    }

    fn facts() -> Facts {
        let pod = pod(container(json!({"running": {}})));
        let node = node(json!([{"type": "InternalIP", "address": "10.89.0.11"}]));
        Facts {
            pods: BTreeMap::from([("demo-main-0".to_string(), pod)]),
            nodes: BTreeMap::from([("n1".to_string(), node)]),
            ..Facts::default()
        }
    }

    fn service(port: Option<i32>) -> k8s_openapi::api::core::v1::Service {
        serde_json::from_value(
            json!({"spec": {"ports": [{"name": "outside", "port": 9094, "nodePort": port}]}}),
        )
        .unwrap()
    }

    #[test]
    fn a_broker_is_told_its_addresses_its_rack_and_whether_it_may_begin() {
        let mut cluster = small();
        cluster.spec.listeners.push(outside(9094));
        let names = Names::of(&cluster, "cluster.local");
        let mut facts = facts();
        facts.services.insert("demo-outside-0".into(), service(Some(31234)));
        let (found, waits) = changes(&cluster, &names, &facts);
        assert_eq!(waits, BTreeMap::new());
        let expected = BTreeMap::from([
            (
                ADVERTISED,
                "INTERNAL://demo-main-0.demo-brokers.shop.svc.cluster.local:9092,OUTSIDE://10.89.0.11:31234"
                    .to_string(),
            ),
            (RACK, "z1".to_string()),
            (BOOTSTRAP, "allowed".to_string()),
        ]);
        assert_eq!(
            found,
            [Change { pod: "demo-main-0".into(), uid: "pod-1".into(), annotations: expected.clone() }]
        );

        // What is there already is not written again; a disk that is known forbids another beginning.
        let annotations = facts.pods.get_mut("demo-main-0").unwrap().annotations_mut();
        annotations.extend(expected.into_iter().map(|(k, v)| (k.to_string(), v)));
        assert_eq!(changes(&cluster, &names, &facts).0, []);
        let broker = BrokerStatus { id: 0, disk_uuid: Some("d".into()), ..BrokerStatus::default() };
        cluster.status = Some(ChronikClusterStatus { brokers: vec![broker], ..Default::default() });
        let (found, _) = changes(&cluster, &names, &facts);
        assert_eq!(found[0].annotations, BTreeMap::from([(BOOTSTRAP, "forbidden".to_string())]));
    }

    #[test]
    fn nothing_is_told_before_it_is_known() {
        let mut cluster = small();
        cluster.spec.listeners.push(outside(9094));
        let names = Names::of(&cluster, "cluster.local");
        let mut facts = facts();
        facts.services.insert("demo-outside-0".into(), service(None));
        let (found, waits) = changes(&cluster, &names, &facts);
        assert_eq!(found, []);
        assert!(waits[&0].contains("no node port"), "{waits:?}");
        facts.nodes.clear();
        assert!(changes(&cluster, &names, &facts).1[&0].contains("node n1"));
        facts.pods.get_mut("demo-main-0").unwrap().spec.as_mut().unwrap().node_name = None;
        assert_eq!(changes(&cluster, &names, &facts), (vec![], BTreeMap::new()));
    }

    #[test]
    fn the_host_is_filled_in() {
        let two = json!([{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "ExternalIP", "address": "1.2.3.4"}]);
        let host = |template: Option<&str>, addresses| {
            let listener = Listener { host_template: template.map(str::to_string), ..outside(9094) };
            outside_host(&listener, 7, &node(addresses))
        };
        assert_eq!(host(None, two.clone()).unwrap(), "1.2.3.4");
        assert_eq!(host(Some("b{brokerId}.example.org"), json!([])).unwrap(), "b7.example.org");
        assert_eq!(host(Some("{nodeAddress}.nip.io"), two).unwrap(), "1.2.3.4.nip.io");
        assert!(host(None, json!([])).is_err());
        assert_eq!(host_port("fd00::1", 9092), "[fd00::1]:9092");
        assert_eq!(host_port("a.b", 9092), "a.b:9092");
    }
}
