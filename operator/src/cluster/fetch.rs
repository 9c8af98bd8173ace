//! Reads, and nothing but reads: Kubernetes' objects as they are now (never from a cache), then the brokers' answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, ListParams};
use kube::{Client, Error, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::broker::admin::Admin;
use crate::context::Context;
use crate::crd::ChronikCluster;
use crate::metrics::Metrics;

use super::facts::{Answers, Facts, PodFacts};
use super::names::{self, CLUSTER_LABEL, Names, TOKEN_KEY};

/// Reads everything that a reconcile of this cluster decides by.
pub async fn facts(ctx: &Context, cluster: &ChronikCluster, names: &Names) -> Result<Facts, Error> {
    let client = &ctx.client;
    let (stateful_sets, pods, claims, services, config_map, secret, storage_classes) = tokio::try_join!(
        labelled::<StatefulSet>(client, names),
        labelled::<Pod>(client, names),
        claims(client, cluster, names),
        labelled::<Service>(client, names),
        async { api::<ConfigMap>(client, names).get_opt(&names.config()).await },
        async { api::<Secret>(client, names).get_opt(&names.token()).await },
        classes(client),
    )?;
    // Others may label pods of theirs as this cluster's.
    let brokers: BTreeSet<String> =
        names::brokers(cluster).into_iter().map(|(id, pool)| names.pod(&pool.name, id)).collect();
    let mut facts = Facts {
        stateful_sets,
        claims,
        services,
        config_map,
        storage_classes,
        token: secret.as_ref().and_then(token),
        ..Facts::default()
    };
    let uid = cluster.uid().unwrap_or_default();
    let ours = |name: &String, pod: &Pod| brokers.contains(name) && !facts.is_foreign(&uid, pod);
    facts.pods = pods.into_iter().filter(|(name, pod)| ours(name, pod)).collect();
    facts.nodes = nodes(client, facts.pods.values()).await?;
    facts.answers = answers(&ctx.metrics, cluster, names, &facts).await;
    Ok(facts)
}

pub fn api<K>(client: &Client, names: &Names) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    Api::namespaced(client.clone(), &names.namespace)
}

/// The cluster's objects of one kind, by name.
async fn labelled<K>(client: &Client, names: &Names) -> Result<BTreeMap<String, K>, Error>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    K::DynamicType: Default,
{
    let mine = ListParams::default().labels(&format!("{CLUSTER_LABEL}={}", names.cluster));
    let found = api::<K>(client, names).list(&mine).await?;
    Ok(found.into_iter().map(|object| (object.name_any(), object)).collect())
}

/// The claims of the cluster's brokers: by label, and by name, since one without our label would be mounted as well.
async fn claims(
    client: &Client,
    cluster: &ChronikCluster,
    names: &Names,
) -> Result<BTreeMap<String, PersistentVolumeClaim>, Error> {
    let mut found = labelled::<PersistentVolumeClaim>(client, names).await?;
    let api = api::<PersistentVolumeClaim>(client, names);
    for (broker, pool) in names::brokers(cluster) {
        for name in names.claims(pool, broker) {
            if !found.contains_key(&name)
                && let Some(claim) = api.get_opt(&name).await?
            {
                found.insert(name, claim);
            }
        }
    }
    Ok(found)
}

/// `None` where the operator may not read them.
async fn classes(client: &Client) -> Result<Option<BTreeMap<String, StorageClass>>, Error> {
    match Api::<StorageClass>::all(client.clone()).list(&ListParams::default()).await {
        Ok(found) => Ok(Some(found.into_iter().map(|class| (class.name_any(), class)).collect())),
        Err(Error::Api(status)) if status.is_forbidden() => Ok(None),
        Err(e) => Err(e),
    }
}

async fn nodes<'a>(
    client: &Client,
    pods: impl Iterator<Item = &'a Pod>,
) -> Result<BTreeMap<String, Node>, Error> {
    let api = Api::<Node>::all(client.clone());
    let mut nodes = BTreeMap::new();
    for name in pods.filter_map(|pod| PodFacts::of(pod).node) {
        if let Some(node) = api.get_opt(&name).await? {
            nodes.insert(name, node);
        }
    }
    Ok(nodes)
}

fn token(secret: &Secret) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(TOKEN_KEY)?;
    let token = String::from_utf8(bytes.0.clone()).ok()?.trim().to_string();
    Some(token).filter(|token| !token.is_empty())
}

/// Asks every broker that has an address, all of them at once.
async fn answers(
    metrics: &Arc<Metrics>,
    cluster: &ChronikCluster,
    names: &Names,
    facts: &Facts,
) -> BTreeMap<i32, Answers> {
    let Some(token) = &facts.token else { return BTreeMap::new() };
    let asked = names::brokers(cluster).into_iter().filter_map(|(broker, pool)| {
        let admin = admin(metrics, facts.pods.get(&names.pod(&pool.name, broker))?, token)?;
        Some(async move { (broker, ask(&admin, broker).await) })
    });
    let mut answers: BTreeMap<i32, Answers> = join_all(asked).await.into_iter().collect();
    // A broker that cannot speak for itself is spoken for by another.
    let speaker = names::brokers(cluster).into_iter().find_map(|(broker, pool)| {
        answers.get(&broker)?.identity.as_ref()?;
        admin(metrics, facts.pods.get(&names.pod(&pool.name, broker))?, token)
    });
    if let Some(speaker) = speaker {
        for (broker, answers) in &mut answers {
            if answers.pre_restart.is_none() {
                answers.pre_restart = Some(speaker.pre_restart(*broker).await.map_err(|e| e.to_string()));
            }
        }
    }
    answers
}

/// The admin server of a broker whose container runs.
pub fn admin(metrics: &Arc<Metrics>, pod: &Pod, token: &str) -> Option<Admin> {
    let address: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    PodFacts::of(pod).not_running.is_none().then(|| Admin::new(metrics.clone(), address, token))
}

async fn ask(admin: &Admin, broker: i32) -> Answers {
    let (readiness, identity) = tokio::join!(admin.readiness(), admin.identity());
    let identity = identity.ok();
    if identity.is_none() {
        // `/v1` is not served before the broker is up; there is no use in asking on.
        return Answers { readiness: readiness.ok(), ..Answers::default() };
    }
    let (cluster, pre_restart, post_restart) =
        tokio::join!(admin.cluster(), admin.pre_restart(broker), admin.post_restart(broker));
    Answers {
        readiness: readiness.ok(),
        identity,
        cluster: cluster.ok(),
        pre_restart: Some(pre_restart.map_err(|e| e.to_string())),
        post_restart: Some(post_restart.map_err(|e| e.to_string())),
    }
}
