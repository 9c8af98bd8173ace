//! Reading from the Kubernetes API, as plain JSON: what a user sees.

use anyhow::{Context, Result, bail};
use kube::api::{GetParams, ListParams};
use kube::core::Request;
use serde_json::Value;

/// A reader of the API.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
}

/// Where the objects of a kind are.
fn path(kind: &str, namespace: &str) -> Result<String> {
    let (group, plural, namespaced) = match kind {
        "pod" => ("api/v1", "pods", true),
        "pvc" => ("api/v1", "persistentvolumeclaims", true),
        "service" => ("api/v1", "services", true),
        "secret" => ("api/v1", "secrets", true),
        "configmap" => ("api/v1", "configmaps", true),
        "event" => ("api/v1", "events", true),
        "namespace" => ("api/v1", "namespaces", false),
        "node" => ("api/v1", "nodes", false),
        "pv" => ("api/v1", "persistentvolumes", false),
        "statefulset" => ("apis/apps/v1", "statefulsets", true),
        "daemonset" => ("apis/apps/v1", "daemonsets", true),
        "deployment" => ("apis/apps/v1", "deployments", true),
        "lease" => ("apis/coordination.k8s.io/v1", "leases", true),
        "crd" => ("apis/apiextensions.k8s.io/v1", "customresourcedefinitions", false),
        "chronikcluster" => ("apis/chronik.io/v1alpha1", "chronikclusters", true),
        "chroniktopic" => ("apis/chronik.io/v1alpha1", "chroniktopics", true),
        other => bail!("nothing is known of the kind {other}"),
    };
    Ok(match namespaced {
        true => format!("/{group}/namespaces/{namespace}/{plural}"),
        false => format!("/{group}/{plural}"),
    })
}

impl Api {
    /// By `KUBECONFIG`.
    pub async fn connect() -> Result<Api> {
        let client = kube::Client::try_default().await.context("cannot reach the Kubernetes API")?;
        Ok(Api { client })
    }

    /// An object; `None` if there is none of that name.
    pub async fn find(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let request = Request::new(path(kind, namespace)?).get(name, &GetParams::default())?;
        match self.client.request::<Value>(request).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {kind} {namespace}/{name}")),
        }
    }

    /// An object that should be there.
    pub async fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        let found = self.find(kind, namespace, name).await?;
        found.with_context(|| format!("there is no {kind} {namespace}/{name}"))
    }

    /// All objects of a kind, or those with a label (`name=value`).
    pub async fn list(&self, kind: &str, namespace: &str, label: Option<&str>) -> Result<Vec<Value>> {
        let params = ListParams { label_selector: label.map(str::to_owned), ..ListParams::default() };
        let request = Request::new(path(kind, namespace)?).list(&params)?;
        let mut list = self
            .client
            .request::<Value>(request)
            .await
            .with_context(|| format!("listing {kind} in {namespace}"))?;
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => bail!("a list of {kind} without items"),
        }
    }
}

/// A text in an object, by its JSON pointer; empty if there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number in an object.
pub fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// What a condition says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// True, False or Unknown; empty if it is not there.
    pub status: String,
    pub reason: String,
    pub message: String,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status.is_empty() {
            true => write!(f, "not there yet"),
            false => write!(f, "{} {} ({})", self.status, self.reason, self.message),
        }
    }
}

/// A condition of an object. One that is of an older generation than the object is not there yet.
pub fn condition(object: &Value, kind: &str) -> Condition {
    let all = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = all.into_iter().flatten().find(|condition| text(condition, "/type") == kind);
    let Some(found) = found else { return Condition::default() };
    let seen = found.get("observedGeneration").and_then(Value::as_i64);
    if seen.is_some_and(|seen| seen < number(object, "/metadata/generation")) {
        return Condition::default();
    }
    let of = |field: &str| text(found, field).to_owned();
    Condition { status: of("/status"), reason: of("/reason"), message: of("/message") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_of_an_older_generation_does_not_count() {
        let mut object = json!({
            "metadata": {"generation": 2},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "reason": "Ready", "message": "", "observedGeneration": 1},
            ]},
        });
        assert_eq!(condition(&object, "Ready").status, "");
        object["metadata"]["generation"] = json!(1);
        assert_eq!(condition(&object, "Ready").status, "True");
        assert_eq!(condition(&object, "Available"), Condition::default());
    }
}
