//! One PodDisruptionBudget for the brokers of all pools.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Input;

/// One broker may be evicted while the brokers say that this blocks nothing, and none otherwise. A broker that is not
/// ready serves nobody; evicting it takes nothing away, and its node can be drained.
pub fn build(input: &Input<'_>) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: input.names.metadata(input.names.brokers()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(i32::from(input.disruptable))),
            selector: Some(LabelSelector {
                match_labels: Some(input.names.selector()),
                ..LabelSelector::default()
            }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_string()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
