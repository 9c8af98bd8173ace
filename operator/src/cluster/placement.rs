//! What a broker can be told only once its pod has a node: the addresses it gives to clients, its rack, and whether it
//! may begin with an empty disk. Written as annotations on the pod, which the broker sees as files.
//!
//! This goes on while a cluster is paused: it decides nothing, and a broker that came back elsewhere would not serve
//! without it. A pod whose listeners are not those of the spec is left alone until it is replaced: it listens where it
//! was told when it started.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::crd::ChronikCluster;
use crate::crd::cluster::{Listener, ListenerType, Pool};

use super::build::node_port;
use super::facts::{Facts, PodFacts};
use super::names::{self, ADVERTISED, BOOTSTRAP, DISK_UUID, Names, RACK};

/// A disk that its claim does not name yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDisk {
    pub claim: String,
    pub claim_uid: String,
    pub uuid: String,
}

/// Disks that brokers have told of, and that are on no record.
pub fn new_disks(cluster: &ChronikCluster, names: &Names, facts: &Facts) -> Vec<NewDisk> {
    let brokers = names::brokers(cluster).into_iter();
    let found = brokers.filter_map(|(broker, pool)| {
        let uuid = facts.answers.get(&broker)?.identity.as_ref()?.disk_uuid.clone();
        let claim = facts.claims.get(&names.data_claim(&pool.name, broker))?;
        let unknown = !claim.annotations().contains_key(DISK_UUID) && !uuid.is_empty();
        unknown.then(|| NewDisk { claim: claim.name_any(), claim_uid: claim.uid().unwrap_or_default(), uuid })
    });
    found.collect()
}

/// The disk that a broker is known to have.
pub fn known_disk<'a>(names: &Names, facts: &'a Facts, pool: &Pool, broker: i32) -> Option<&'a String> {
    facts.claims.get(&names.data_claim(&pool.name, broker))?.annotations().get(DISK_UUID)
}

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
        if !listens_as_wanted(cluster, &found) {
            if !found.placed {
                waits.insert(broker, "its listeners are no longer those of the cluster".to_string());
            }
            continue;
        }
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

/// Whether a pod's container has the ports of the cluster's listeners.
fn listens_as_wanted(cluster: &ChronikCluster, pod: &PodFacts) -> bool {
    let wanted = cluster.spec.listeners.iter().map(|listener| (listener.name.as_str(), listener.port));
    let has: Vec<(&str, i32)> = pod.listeners.iter().map(|(name, port)| (name.as_str(), *port)).collect();
    wanted.clone().count() == has.len() && wanted.into_iter().all(|listener| has.contains(&listener))
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
    let bootstrap = if known_disk(names, facts, pool, broker).is_some() { "forbidden" } else { "allowed" };
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
    use crate::broker::admin::Identity;
    use crate::cluster::build::tests::{outside, small};
    use crate::cluster::facts::Answers;
    use crate::cluster::facts::testing::{container, pod};

    fn node(addresses: serde_json::Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}},
            "status": {"addresses": addresses},
        }))
        .unwrap()
    }

    /// A pod that listens as the cluster says.
    fn facts(cluster: &ChronikCluster) -> Facts {
        let mut pod = pod(container(json!({"running": {}})));
        let ports = cluster.spec.listeners.iter().map(|l| json!({"name": l.name, "containerPort": l.port}));
        let ports: Vec<_> = ports.chain([json!({"name": "admin", "containerPort": 9644})]).collect();
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.ports = serde_json::from_value(json!(ports)).unwrap();
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
        let mut facts = facts(&cluster);
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
        let known = json!({"metadata": {"name": "data-demo-main-0", "annotations": {DISK_UUID: "d"}}});
        facts.claims.insert("data-demo-main-0".into(), serde_json::from_value(known).unwrap());
        let (found, _) = changes(&cluster, &names, &facts);
        assert_eq!(found[0].annotations, BTreeMap::from([(BOOTSTRAP, "forbidden".to_string())]));
    }

    #[test]
    fn nothing_is_told_before_it_is_known() {
        let mut cluster = small();
        cluster.spec.listeners.push(outside(9094));
        let names = Names::of(&cluster, "cluster.local");
        let mut facts = facts(&cluster);
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
    fn a_pod_with_other_listeners_is_left_alone_until_it_is_replaced() {
        let mut cluster = small();
        let names = Names::of(&cluster, "cluster.local");
        let mut facts = facts(&cluster);
        cluster.spec.listeners[0].port = 9192;
        let (found, waits) = changes(&cluster, &names, &facts);
        assert_eq!(found, []);
        assert!(waits[&0].contains("no longer"), "{waits:?}");
        // One that was told its address serves there until then.
        let annotations = facts.pods.get_mut("demo-main-0").unwrap().annotations_mut();
        annotations.insert(ADVERTISED.to_string(), "INTERNAL://a:9092".to_string());
        assert_eq!(changes(&cluster, &names, &facts), (vec![], BTreeMap::new()));
    }

    #[test]
    fn a_disk_is_recorded_once() {
        let cluster = small();
        let names = Names::of(&cluster, "cluster.local");
        let mut facts = facts(&cluster);
        let claim = json!({"metadata": {"name": "data-demo-main-0", "uid": "c1"}});
        facts.claims.insert("data-demo-main-0".into(), serde_json::from_value(claim).unwrap());
        assert_eq!(new_disks(&cluster, &names, &facts), []);
        let identity = Identity { disk_uuid: "d1".into(), ..Identity::default() };
        facts.answers.insert(0, Answers { identity: Some(identity), ..Answers::default() });
        let disk = NewDisk { claim: "data-demo-main-0".into(), claim_uid: "c1".into(), uuid: "d1".into() };
        assert_eq!(new_disks(&cluster, &names, &facts), [disk]);
        let claim = facts.claims.get_mut("data-demo-main-0").unwrap();
        claim.annotations_mut().insert(DISK_UUID.to_string(), "d0".to_string());
        assert_eq!(new_disks(&cluster, &names, &facts), [], "another disk does not replace it on record");
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
