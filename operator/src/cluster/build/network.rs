//! The NetworkPolicy: listeners for everybody, the admin port for the operator and for those who read metrics.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Input;
use crate::broker::admin::ADMIN_PORT;

/// `None` where it is switched off.
pub fn build(input: &Input<'_>) -> Option<NetworkPolicy> {
    let spec = &input.cluster.spec;
    if !spec.network_policy.enabled {
        return None;
    }
    let clients = NetworkPolicyIngressRule {
        ports: Some(spec.listeners.iter().map(|l| port(l.port)).collect()),
        from: None,
    };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(labelled([(
            "kubernetes.io/metadata.name",
            &*input.options.operator_namespace,
        )])),
        ..NetworkPolicyPeer::default()
    };
    let metrics = spec.network_policy.metrics_from.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let metrics =
        NetworkPolicyPeer { namespace_selector: Some(labelled(metrics)), ..NetworkPolicyPeer::default() };
    let admin = NetworkPolicyIngressRule {
        ports: Some(vec![port(i32::from(ADMIN_PORT))]),
        from: Some(vec![operator, metrics]),
    };
    Some(NetworkPolicy {
        metadata: input.names.metadata(input.names.brokers()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(input.names.selector()),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".to_string()]),
            ingress: Some(vec![clients, admin]),
            ..NetworkPolicySpec::default()
        }),
    })
}

fn port(port: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(port)),
        protocol: Some("TCP".to_string()),
        ..NetworkPolicyPort::default()
    }
}

/// Selects by these labels; without any, everything.
fn labelled<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> LabelSelector {
    let labels: BTreeMap<String, String> =
        labels.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    LabelSelector {
        match_labels: Some(labels).filter(|labels| !labels.is_empty()),
        ..LabelSelector::default()
    }
}
