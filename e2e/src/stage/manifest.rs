//! Manifests, as a user would write them.

use std::path::Path;

use serde_json::{Value, json};

/// A namespace whose pods must meet the `restricted` standard.
pub fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    })
}

/// A StorageClass of volumes that somebody makes by hand, on the nodes' own disks.
pub fn storage_class(name: &str) -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Retain",
    })
}

/// A volume on a node's own disk.
pub fn local_volume(name: &str, class: &str, node: u32, path: &Path) -> Value {
    let on_node = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [format!("n{node}")]});
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": class, "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    })
}

/// A cluster of one broker on a volume of the class `local`, with a listener inside and one outside.
pub fn cluster(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "chronik.io/v1alpha1", "kind": "ChronikCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "pools": [{
                "name": "main",
                "storage": {"storageClassName": "local", "size": "10Gi"},
                "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
                "terminationGracePeriodSeconds": 30,
            }],
            "listeners": [
                {"name": "internal", "port": 9092, "type": "internal"},
                {"name": "outside", "port": 9094, "type": "nodeport"},
            ],
        },
    })
}

/// A kind of which anything may be said.
pub fn any_kind(group: &str, kind: &str, plural: &str) -> Value {
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": anything}}],
        },
    })
}

/// A topic of a cluster.
pub fn topic(namespace: &str, cluster: &str, name: &str, spec: &Value) -> Value {
    let mut topic = json!({
        "apiVersion": "chronik.io/v1alpha1", "kind": "ChronikTopic",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterRef": {"name": cluster}},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        topic["spec"][field] = value.clone();
    }
    topic
}

/// A pod that runs the client on node 1, as `restricted` wants it, with a directory for what it writes.
pub fn client_pod(namespace: &str, name: &str, args: &[String]) -> Value {
    let mut command = vec!["chronik-e2e-client".to_owned()];
    command.extend_from_slice(args);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "chronik-e2e-client"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"kubernetes.io/hostname": "n1"},
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "client",
                "image": super::CLIENT_IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "command": command,
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    })
}
