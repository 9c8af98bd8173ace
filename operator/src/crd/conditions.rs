//! Conditions, as Kubernetes' own API conventions have them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Sets a condition. Its transition time changes only when its status does.
pub fn set(
    conditions: &mut Vec<Condition>,
    now: &Time,
    generation: Option<i64>,
    kind: &str,
    status: bool,
    reason: &str,
    message: impl Into<String>,
) {
    let status = if status { "True" } else { "False" };
    let since = conditions.iter().find(|c| c.type_ == kind && c.status == status);
    let condition = Condition {
        type_: kind.to_string(),
        status: status.to_string(),
        reason: reason.to_string(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: since.map_or_else(|| now.clone(), |c| c.last_transition_time.clone()),
    };
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

/// Whether a condition is there and true.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|c| c.type_ == kind && c.status == "True")
}
