//! What makes the operator look at a cluster: the cluster's own object, its pods, its volume claims, what it owns, and
//! the time.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::select_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::runtime::controller::{self, Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::crd::{ChronikCluster, conditions};

use super::names::CLUSTER_LABEL;
use super::reconcile::{Again, ReconcileError, reconcile};

/// A look that takes longer is given up, and tried again.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// Several things that happen at once are one reason to look.
const DEBOUNCE: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

struct State {
    ctx: Arc<Context>,
    /// How often in a row the looks at a cluster have failed.
    failures: Mutex<BTreeMap<String, u32>>,
}

/// Reconciles `ChronikCluster` objects. It never ends by itself, and may be dropped at any moment.
pub async fn run(ctx: Arc<Context>) {
    let state = Arc::new(State { ctx: ctx.clone(), failures: Mutex::default() });
    let scopes: Vec<Option<&str>> = match ctx.options.namespaces.as_slice() {
        [] => vec![None],
        namespaces => namespaces.iter().map(|namespace| Some(namespace.as_str())).collect(),
    };
    let mut stores = Vec::new();
    let mut streams = Vec::new();
    for scope in scopes {
        let controller = controller_of(&ctx.client, scope);
        stores.push(controller.store());
        streams.push(controller.run(look, on_error, state.clone()).boxed());
    }
    let mut looks = select_all(streams);
    while let Some(looked) = looks.next().await {
        match looked {
            // Without a watch nothing is looked at: whoever reads the log should know.
            Err(e @ controller::Error::QueueError(_)) => tracing::warn!("clusters cannot be watched: {e}"),
            Err(e) => tracing::debug!("{e}"),
            Ok(_) => {}
        }
        count(&ctx, &stores);
    }
}

/// How long a watch that failed is left alone. All watches of a controller share it, so that it stays short.
struct Patience(u64);

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0 = (self.0 * 2).clamp(1, 8);
        Some(Duration::from_secs(self.0))
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

fn controller_of(client: &Client, namespace: Option<&str>) -> Controller<ChronikCluster> {
    // Objects of the cluster's own, in every namespace or in one.
    let mine = watcher::Config::default().labels(CLUSTER_LABEL);
    Controller::new(scoped::<ChronikCluster>(client, namespace), watcher::Config::default())
        .with_config(Config::default().debounce(DEBOUNCE))
        .trigger_backoff(Patience(0))
        .watches(scoped::<StatefulSet>(client, namespace), mine.clone(), of_cluster)
        .watches(scoped::<Pod>(client, namespace), mine.clone(), of_cluster)
        .watches(scoped::<PersistentVolumeClaim>(client, namespace), mine.clone(), of_cluster)
        .watches(scoped::<Service>(client, namespace), mine.clone(), of_cluster)
        .watches(scoped::<ConfigMap>(client, namespace), mine, of_cluster)
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The cluster that an object is labelled with.
fn of_cluster<K: Resource + Clone + Debug + DeserializeOwned>(
    object: K,
) -> Option<ObjectRef<ChronikCluster>> {
    let name = object.labels().get(CLUSTER_LABEL)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

async fn look(cluster: Arc<ChronikCluster>, state: Arc<State>) -> Result<Action, ReconcileError> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let began = Instant::now();
    let looked = tokio::time::timeout(LOOK_MAX, reconcile(&state.ctx, &namespace, &name)).await;
    let looked = looked.unwrap_or(Err(ReconcileError::Timeout(LOOK_MAX)));
    let result = match &looked {
        Ok(Again::Soon(_)) => "waiting",
        Ok(Again::Idle | Again::Never) => "ok",
        Err(_) => "error",
    };
    state.ctx.metrics.reconciled("cluster", result, began.elapsed());
    let again = looked?;
    state.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(&cluster));
    Ok(match again {
        Again::Soon(time) => Action::requeue(time),
        Again::Idle => Action::requeue(state.ctx.options.resync),
        Again::Never => Action::await_change(),
    })
}

fn key(cluster: &ChronikCluster) -> String {
    format!("{}/{}", cluster.namespace().unwrap_or_default(), cluster.name_any())
}

fn on_error(cluster: Arc<ChronikCluster>, error: &ReconcileError, state: Arc<State>) -> Action {
    let key = key(&cluster);
    tracing::warn!(cluster = key, "{error}");
    let mut failures = state.failures.lock().unwrap_or_else(PoisonError::into_inner);
    let times = failures.entry(key).or_insert(0);
    *times = times.saturating_add(1);
    Action::requeue(backoff(*times))
}

/// 1, 2, 4 ... seconds.
fn backoff(failures: u32) -> Duration {
    let doubled = 1u64.checked_shl(failures.saturating_sub(1).min(30)).unwrap_or(u64::MAX);
    Duration::from_secs(doubled).min(BACKOFF_MAX)
}

/// Counts clusters by whether they are ready.
fn count(ctx: &Context, stores: &[Store<ChronikCluster>]) {
    let (mut ready, mut not_ready) = (0, 0);
    for cluster in stores.iter().flat_map(Store::state) {
        let conditions = cluster.status.as_ref().map(|status| status.conditions.as_slice());
        if conditions::is_true(conditions.unwrap_or_default(), "Ready") {
            ready += 1;
        } else {
            not_ready += 1;
        }
    }
    ctx.metrics.clusters(ready, not_ready);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_ever_more_slowly_and_never_too_slowly() {
        let seconds: Vec<u64> = [1, 2, 3, 6, 7, 100].map(|n| backoff(n).as_secs()).to_vec();
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60]);
    }
}
