//! `ChronikTopic`: fetch -> validate and decide -> act -> status.
//!
//! [`fetch`] reads the object, its cluster, and the topic at the brokers; [`decide`](decide::decide) judges, without
//! a client; [`act`] carries out and tells; [`status`] writes down what is. After acting it looks again, so that the
//! status tells what is and not what was asked for.

mod act;
mod decide;
mod facts;
mod fetch;
mod status;
mod triggers;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use kube::runtime::controller::Action as Requeue;
use kube::runtime::events::EventType;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{self, applier};
use kube::{Api, Resource, ResourceExt};
use thiserror::Error;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use self::act::{Outcome, Work, carry_out, patch_status};
use self::decide::{Reason, Verdict, decide};
use crate::context::Context;
use crate::crd::{ChronikTopic, conditions};

/// Topics of one cluster that are worked on at a time, so that many of them do not crowd its brokers.
const PER_CLUSTER: usize = 4;
/// Topics of all clusters together.
const CONCURRENCY: u16 = 64;
/// A look that takes longer is given up, and tried again.
const LOOK_MAX: Duration = Duration::from_secs(60);

/// Decisions in a row about one object. Two are the rule: one that acts, one that finds nothing more to do.
const ROUNDS: usize = 4;

/// Before another try where something may be mended any moment.
const SOON: Duration = Duration::from_secs(5);
/// Before another try where somebody probably has to do something first.
const LATER: Duration = Duration::from_secs(15);

/// Why a topic could not be worked on: Kubernetes did not let it.
#[derive(Debug, Error)]
pub enum TopicError {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error("it took longer than {} s", .0.as_secs())]
    Timeout(Duration),
}

/// The topics of one namespace, or of all.
struct Scope {
    ctx: Arc<Context>,
    store: Store<ChronikTopic>,
    clusters: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

impl Scope {
    fn api(&self, object: &ChronikTopic) -> Api<ChronikTopic> {
        Api::namespaced(self.ctx.client.clone(), &object.namespace().unwrap_or_default())
    }

    /// The permits of a topic's cluster: one that does not answer holds up its own topics alone.
    fn permits(&self, topic: &ChronikTopic) -> Arc<Semaphore> {
        let cluster = &topic.spec.cluster_ref.name;
        let key = format!("{}/{cluster}", topic.namespace().unwrap_or_default());
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds are as good as new.
        clusters.retain(|_, permits| Arc::strong_count(permits) > 1);
        clusters.entry(key).or_insert_with(|| Arc::new(Semaphore::new(PER_CLUSTER))).clone()
    }

    async fn tell(&self, object: &ChronikTopic, kind: EventType, reason: &'static str, note: &str) {
        self.ctx.event(&object.object_ref(&()), kind, reason, note).await;
    }
}

/// Keeps topics as their objects say. Never ends by itself; it may be dropped.
pub async fn run(ctx: Arc<Context>) {
    let mut stores = Vec::new();
    let mut tasks = Vec::new();
    let namespaces = ctx.options.namespaces.iter().cloned().map(Some).collect::<Vec<_>>();
    for namespace in if namespaces.is_empty() { vec![None] } else { namespaces } {
        let (store, writer) = reflector::store();
        stores.push(store.clone());
        let queue = match &namespace {
            Some(name) => triggers::queue(
                Api::namespaced(ctx.client.clone(), name),
                Api::namespaced(ctx.client.clone(), name),
                writer,
                &store,
            )
            .left_stream(),
            None => {
                triggers::queue(Api::all(ctx.client.clone()), Api::all(ctx.client.clone()), writer, &store)
                    .right_stream()
            }
        };
        let scope = Scope { ctx: ctx.clone(), store: store.clone(), clusters: Mutex::default() };
        let config = runtime::Config::default().concurrency(CONCURRENCY);
        let work = |topic, scope| Box::pin(reconcile(topic, scope));
        let results = applier(work, |_, _, _| Requeue::requeue(SOON), Arc::new(scope), store, queue, config);
        // Failures are logged where they happen; what is left are objects that went before their turn came.
        tasks.push(results.for_each(|result| async move {
            if let Err(error) = result {
                debug!(%error, "a topic was not worked on");
            }
        }));
    }
    tokio::join!(join_all(tasks), count(&ctx, &stores));
}

/// Keeps the gauge of topics.
async fn count(ctx: &Context, stores: &[Store<ChronikTopic>]) {
    let mut ticks = tokio::time::interval(SOON);
    loop {
        ticks.tick().await;
        let topics: Vec<Arc<ChronikTopic>> = stores.iter().flat_map(Store::state).collect();
        let is_ready = |topic: &&Arc<ChronikTopic>| {
            topic.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, "Ready"))
        };
        let ready = topics.iter().filter(is_ready).count();
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        ctx.metrics.topics(number(ready), number(topics.len() - ready));
    }
}

async fn reconcile(topic: Arc<ChronikTopic>, scope: Arc<Scope>) -> Result<Requeue, TopicError> {
    let Ok(_permit) = scope.permits(&topic).acquire_owned().await else { return Ok(Requeue::requeue(SOON)) };
    let started = Instant::now();
    let result = tokio::time::timeout(LOOK_MAX, keep(&scope, &topic)).await;
    let result = result.unwrap_or(Err(TopicError::Timeout(LOOK_MAX)));
    let label = match &result {
        Ok(verdict) if verdict.as_ref().is_none_or(Verdict::is_ready) => "ok",
        Ok(_) => "waiting",
        Err(_) => "error",
    };
    scope.ctx.metrics.reconciled("topic", label, started.elapsed());
    match result {
        Ok(Some(verdict)) => Ok(Requeue::requeue(patience(verdict.reason, scope.ctx.options.resync))),
        Ok(None) => Ok(Requeue::await_change()),
        Err(error) => {
            let (namespace, name) = (topic.namespace().unwrap_or_default(), topic.name_any());
            warn!(namespace, name, %error, "cannot work on a topic");
            Err(error)
        }
    }
}

/// The pipeline. `None`: the object is gone, or on its way.
async fn keep(scope: &Scope, cached: &ChronikTopic) -> Result<Option<Verdict>, TopicError> {
    let Some(object) = fetch::object(scope, cached).await? else { return Ok(None) };
    let before = status::ready_reason(object.status.as_ref()).map(str::to_string);
    let look = fetch::look(scope, &object).await?;
    let mut work = Work::new(object, look);

    let mut decision = decide(&work.object, &work.look.facts);
    let mut drift = decision.seen.as_mut().map(|seen| std::mem::take(&mut seen.drift)).unwrap_or_default();
    let mut failed = None;
    for _ in 0..ROUNDS {
        if decision.actions.is_empty() || failed.is_some() {
            break;
        }
        match carry_out(scope, &mut work, &decision).await? {
            Outcome::Gone => return Ok(None),
            Outcome::Done => {}
            Outcome::Failed(verdict) => failed = Some(verdict),
        }
        if failed.as_ref().is_none_or(|verdict| !verdict.reason.is_blind()) {
            work.look.again(&work.object).await;
            decision = decide(&work.object, &work.look.facts);
        } else {
            decision.seen = None;
        }
    }
    if facts::is_ending(&work.object) && !facts::has_finalizer(&work.object) {
        return Ok(None);
    }

    // What was found at the first look, also where it is set right by now.
    if let Some(seen) = &mut decision.seen {
        std::mem::swap(&mut seen.drift, &mut drift);
    } else if !drift.is_empty() {
        work.object.status.get_or_insert_default().drift = drift;
    }
    let verdict = failed.unwrap_or(decision.verdict);
    patch_status(scope, &mut work, &verdict, decision.seen.as_ref()).await?;
    tell_change(scope, &work.object, before.as_deref(), &verdict).await;
    Ok(Some(verdict))
}

/// An Event where the topic waits for something else than before, or for nothing any more.
async fn tell_change(scope: &Scope, object: &ChronikTopic, before: Option<&str>, verdict: &Verdict) {
    if before == Some(verdict.reason.name()) {
        return;
    }
    let kind = if verdict.is_ready() { EventType::Normal } else { EventType::Warning };
    scope.tell(object, kind, verdict.reason.name(), &verdict.message).await;
}

/// When to look again. Changes of the object and of its cluster do not wait for it.
fn patience(reason: Reason, resync: Duration) -> Duration {
    match reason {
        Reason::BrokerUnreachable | Reason::Creating | Reason::Applying => SOON.min(resync),
        Reason::Refused | Reason::Conflict => LATER.min(resync),
        _ => resync,
    }
}
