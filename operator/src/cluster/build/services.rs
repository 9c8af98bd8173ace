//! The Services: headless for the brokers' names, bootstrap for clients inside, and node ports for clients outside.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Input;
use crate::broker::admin::ADMIN_PORT;
use crate::cluster::names;
use crate::crd::cluster::{Listener, ListenerType};

pub fn build(input: &Input<'_>) -> Vec<Service> {
    let mut services = vec![headless(input), bootstrap(input)];
    let outside = input.cluster.spec.listeners.iter().filter(|l| l.kind == ListenerType::Nodeport);
    for listener in outside {
        services.push(outside_bootstrap(input, listener));
        let brokers = names::brokers(input.cluster);
        for (nth, (broker, pool)) in (0..).zip(brokers) {
            services.push(outside_broker(input, listener, nth, broker, &input.names.pod(&pool.name, broker)));
        }
    }
    services
}

fn headless(input: &Input<'_>) -> Service {
    let mut ports: Vec<ServicePort> = input.cluster.spec.listeners.iter().map(port).collect();
    ports.push(named_port(names::ADMIN_PORT_NAME, i32::from(ADMIN_PORT)));
    service(
        input,
        input.names.brokers(),
        ServiceSpec {
            cluster_ip: Some("None".to_string()),
            // Brokers find each other, and the operator them, before they are ready.
            publish_not_ready_addresses: Some(true),
            ports: Some(ports),
            selector: Some(input.names.selector()),
            ..ServiceSpec::default()
        },
    )
}

fn bootstrap(input: &Input<'_>) -> Service {
    let inside = input.cluster.spec.listeners.iter().filter(|l| l.kind == ListenerType::Internal);
    service(
        input,
        input.names.bootstrap(),
        ServiceSpec {
            type_: Some("ClusterIP".to_string()),
            ports: Some(inside.map(port).collect()),
            selector: Some(input.names.selector()),
            ..ServiceSpec::default()
        },
    )
}

/// Any node takes clients to some broker.
fn outside_bootstrap(input: &Input<'_>, listener: &Listener) -> Service {
    let port = ServicePort { node_port: listener.bootstrap_node_port, ..port(listener) };
    service(
        input,
        input.names.listener_bootstrap(&listener.name),
        ServiceSpec {
            type_: Some("NodePort".to_string()),
            ports: Some(vec![port]),
            selector: Some(input.names.selector()),
            ..ServiceSpec::default()
        },
    )
}

/// The broker's own node takes clients to this broker. `Local` spares a hop, and the broker sees who connects.
fn outside_broker(input: &Input<'_>, listener: &Listener, nth: i32, broker: i32, pod: &str) -> Service {
    let node_port = listener.first_node_port.map(|first| first.saturating_add(nth));
    let mut selector = input.names.selector();
    selector.insert("statefulset.kubernetes.io/pod-name".to_string(), pod.to_string());
    service(
        input,
        input.names.listener_broker(&listener.name, broker),
        ServiceSpec {
            type_: Some("NodePort".to_string()),
            external_traffic_policy: Some("Local".to_string()),
            publish_not_ready_addresses: Some(true),
            ports: Some(vec![ServicePort { node_port, ..port(listener) }]),
            selector: Some(selector),
            ..ServiceSpec::default()
        },
    )
}

fn service(input: &Input<'_>, name: String, spec: ServiceSpec) -> Service {
    Service { metadata: input.names.metadata(name), spec: Some(spec), ..Service::default() }
}

fn port(listener: &Listener) -> ServicePort {
    named_port(&listener.name, listener.port)
}

/// Targets by number: a named port would have to change together with every pod.
fn named_port(name: &str, port: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_string()),
        port,
        target_port: Some(IntOrString::Int(port)),
        protocol: Some("TCP".to_string()),
        ..ServicePort::default()
    }
}

/// The node port that a Service got for a listener.
pub fn node_port(services: &BTreeMap<String, Service>, service: &str, listener: &str) -> Option<i32> {
    let ports = services.get(service)?.spec.as_ref()?.ports.as_ref()?;
    ports.iter().find(|p| p.name.as_deref() == Some(listener))?.node_port.filter(|port| *port > 0)
}
