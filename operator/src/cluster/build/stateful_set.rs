//! One StatefulSet for each pool. The operator deletes pods itself (`OnDelete`), one at a time and when the brokers say
//! so; it never leaves that to a controller that does not ask them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetOrdinals, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ObjectMeta;

use super::{Input, pod};
use crate::cluster::names::{CLUSTER_ID, DATA, WAL};
use crate::crd::cluster::{DeletionPolicy, Pool, Volume};

pub fn build(input: &Input<'_>, pool: &Pool, config_hash: &str) -> StatefulSet {
    let names = input.names;
    let mut metadata = names.metadata(names.stateful_set(&pool.name));
    metadata.labels = Some(names.pool_labels(&pool.name));
    let when_deleted = match input.cluster.spec.deletion_policy {
        DeletionPolicy::Retain => "Retain",
        DeletionPolicy::Delete => "Delete",
    };
    let mut claims = vec![claim(input, pool, DATA, &pool.storage.volume)];
    claims.extend(pool.storage.wal_volume.as_ref().map(|volume| claim(input, pool, WAL, volume)));
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            service_name: Some(names.brokers()),
            replicas: Some(pool.replicas),
            // A pod's ordinal is its broker's id.
            ordinals: Some(StatefulSetOrdinals { start: Some(pool.first_broker_id) }),
            pod_management_policy: Some("Parallel".to_string()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_string()),
                ..StatefulSetUpdateStrategy::default()
            }),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some(when_deleted.to_string()),
                when_scaled: Some("Retain".to_string()),
            }),
            selector: LabelSelector {
                match_labels: Some(names.pool_selector(&pool.name)),
                ..LabelSelector::default()
            },
            template: pod::template(input, pool, config_hash),
            volume_claim_templates: Some(claims),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn claim(input: &Input<'_>, pool: &Pool, name: &str, volume: &Volume) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            labels: Some(input.names.pool_labels(&pool.name)),
            // A later object of this name finds out by this whose records these are.
            annotations: Some(BTreeMap::from([(CLUSTER_ID.to_string(), input.cluster_id.to_string())])),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_string()]),
            storage_class_name: volume.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_string(), volume.size.clone())])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
