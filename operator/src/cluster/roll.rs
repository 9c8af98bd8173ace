//! Which broker's pod is to be deleted next, or why to wait. Pure: facts in, one decision out.
//!
//! - One pod at a time, and none while another is on its way out.
//! - A pod whose broker does not run takes nobody's service away when it is deleted: it goes at once, whatever the others
//!   do. So good YAML always mends a bad apply, even when every broker is down.
//! - Any other waits until all others are up and have caught up, the configuration is known to be fine, and the brokers
//!   say that nothing would go offline that need not.
//! - Volumes are never touched.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::broker::admin::{PartitionReason, PostRestart, PreRestart};
use crate::crd::cluster::{Operation, Restart, Unavoidable};

use super::facts::PodFacts;

/// How many partitions are named where they hold something up.
const NAMED_MAX: usize = 5;

/// One broker, as far as restarts are concerned.
#[derive(Clone, Debug, Default)]
pub struct Broker {
    pub id: i32,
    pub pod_name: String,
    pub pod: Option<PodFacts>,
    /// What its pod shall be. `None`: not known at this moment.
    pub wanted: Option<Wanted>,
    /// Whether it is the active controller.
    pub controller: bool,
    /// What it waits for before it is ready, in its own words.
    pub waits_for: Vec<String>,
    pub pre_restart: Option<Result<PreRestart, String>>,
    pub post_restart: Option<Result<PostRestart, String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub revision: String,
    pub image: String,
    pub config_hash: String,
}

/// What a broker of the same version says about the configuration that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody runs with another one, or nobody of this version is there to ask.
    #[default]
    NotNeeded,
    Valid,
    Invalid(Vec<String>),
    /// There was no answer.
    Unknown(String),
}

pub struct Input<'a> {
    pub now: Timestamp,
    pub brokers: &'a [Broker],
    pub restart: Option<&'a Restart>,
    pub unavoidable: Unavoidable,
    pub verdict: &'a Verdict,
    /// What was under way at the last look.
    pub last: Option<&'a Operation>,
}

/// Why a pod is deleted; also the label of `pods_deleted_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Config,
    Image,
    Requested,
    Broken,
}

impl Cause {
    pub const ALL: [Cause; 4] = [Cause::Config, Cause::Image, Cause::Requested, Cause::Broken];

    pub fn label(self) -> &'static str {
        match self {
            Cause::Config => "config",
            Cause::Image => "image",
            Cause::Requested => "requested",
            Cause::Broken => "broken",
        }
    }

    /// The operation's type in status.
    fn operation(self) -> &'static str {
        match self {
            Cause::Config | Cause::Image => "Roll",
            Cause::Requested => "Restart",
            Cause::Broken => "Recreate",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing is under way.
    Nothing,
    /// Something is under way, and this is what it waits for.
    Wait(Operation),
    Delete(Delete),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Delete {
    pub pod: String,
    /// The deletion is refused by Kubernetes for any other pod of the name.
    pub uid: String,
    pub cause: Cause,
    /// Why, in words.
    pub why: String,
    /// What goes offline for a while, since no order of restarts could keep it.
    pub unavoidable: Vec<String>,
    /// Whether a human asked to pass over what the brokers say.
    pub forced: bool,
    /// The operation as it stands once the pod is deleted.
    pub operation: Operation,
}

pub fn decide(input: &Input<'_>) -> Decision {
    let stopping = input.brokers.iter().find(|b| b.pod.as_ref().is_some_and(|pod| pod.terminating));
    let due: Vec<Due<'_>> = input.brokers.iter().filter_map(|broker| due(input, broker)).collect();
    if stopping.is_none()
        && let Some(broken) = due.iter().find(|due| due.broken)
    {
        return Decision::Delete(broken.delete(input, false, &[]));
    }
    let busy = input.brokers.iter().filter(|b| due.iter().all(|due| due.broker.id != b.id));
    let busy = busy.filter_map(|broker| unsettled(input, broker)).next();
    let next = due.iter().min_by_key(|due| (due.pod.ready, due.broker.controller, due.broker.id));
    let Some(next) = next else {
        // Without anything to do, a broker that is not up concerns this only where we stopped it.
        return match (busy, input.last) {
            (Some(busy), Some(last)) if last.broker_id == busy.id => {
                Decision::Wait(operation(input, &last.kind, busy.id, busy.step, busy.waits_for))
            }
            _ => Decision::Nothing,
        };
    };
    if stopping.is_none() && next.forced(input) {
        return Decision::Delete(next.delete(input, true, &[]));
    }
    let kind = next.cause.operation();
    if let Some(busy) = busy {
        let ours = input.last.filter(|last| last.broker_id == busy.id);
        return Decision::Wait(match ours {
            Some(last) => operation(input, &last.kind, busy.id, busy.step, busy.waits_for),
            None => operation(input, kind, next.broker.id, "PreRestart", busy.waits_for),
        });
    }
    match next.clearance(input) {
        Ok(unavoidable) => Decision::Delete(next.delete(input, false, &unavoidable)),
        Err(blocked_by) => Decision::Wait(operation(input, kind, next.broker.id, "PreRestart", blocked_by)),
    }
}

/// Whether it is not known of some broker what its pod shall be: look again soon.
pub fn unsure(brokers: &[Broker]) -> bool {
    brokers.iter().any(|broker| broker.wanted.is_none())
}

/// A broker whose pod has to go.
struct Due<'a> {
    broker: &'a Broker,
    pod: &'a PodFacts,
    cause: Cause,
    why: String,
    /// Whether its broker does not run, so that nobody loses anything.
    broken: bool,
}

fn due<'a>(input: &Input<'_>, broker: &'a Broker) -> Option<Due<'a>> {
    let pod = broker.pod.as_ref().filter(|pod| !pod.terminating)?;
    let outdated = broker.wanted.as_ref().and_then(|wanted| outdated(pod, wanted));
    let requested = requested(input, broker.id, pod);
    let (cause, why) = match (outdated, requested) {
        (Some(found), _) => found,
        (None, Some(why)) => (Cause::Requested, why),
        (None, None) => return None,
    };
    let stands_still = match &pod.not_running {
        Some(not_running) => Some(not_running.message().to_string()),
        None if !pod.placed && !pod.ready => Some("it was not told its address".to_string()),
        None => None,
    };
    Some(match stands_still {
        Some(message) => {
            Due { broker, pod, cause: Cause::Broken, why: format!("{why}; {message}"), broken: true }
        }
        None => Due { broker, pod, cause, why, broken: false },
    })
}

fn outdated(pod: &PodFacts, wanted: &Wanted) -> Option<(Cause, String)> {
    if pod.revision.as_ref() == Some(&wanted.revision) {
        return None;
    }
    Some(if pod.image.as_ref() != Some(&wanted.image) {
        let from = pod.image.as_deref().unwrap_or("none");
        (Cause::Image, format!("the image changes from {from} to {}", wanted.image))
    } else if pod.config_hash.as_ref() != Some(&wanted.config_hash) {
        (Cause::Config, "the configuration changed".to_string())
    } else {
        (Cause::Config, "the pod's template changed".to_string())
    })
}

/// A pod that is older than the request. A request of the future waits for its time, or it would never end.
fn requested(input: &Input<'_>, broker: i32, pod: &PodFacts) -> Option<String> {
    let restart = input.restart?;
    let (created, at) = (pod.created?.as_second(), restart.requested_at.0.as_second());
    let meant = restart.broker_ids.is_empty() || restart.broker_ids.contains(&broker);
    let due = meant && created < at && at <= input.now.as_second();
    due.then(|| format!("a restart was requested at {}", restart.requested_at.0))
}

impl Due<'_> {
    /// `force` is for what a human asked for, not for what changed beside it.
    fn forced(&self, input: &Input<'_>) -> bool {
        let forced = input.restart.is_some_and(|restart| restart.force);
        forced && requested(input, self.broker.id, self.pod).is_some()
    }

    /// Whether this broker may stop now: what goes offline unavoidably, or else what it waits for.
    fn clearance(&self, input: &Input<'_>) -> Result<Vec<String>, Vec<String>> {
        let wanted = self.broker.wanted.as_ref();
        let other_config = wanted.is_some_and(|wanted| {
            self.pod.image.as_ref() == Some(&wanted.image)
                && self.pod.config_hash.as_ref() != Some(&wanted.config_hash)
        });
        match input.verdict {
            Verdict::Invalid(errors) if other_config => return Err(errors.clone()),
            Verdict::Unknown(why) if other_config => {
                return Err(vec![format!("the configuration is not checked: {why}")]);
            }
            _ => (),
        }
        let answer = match &self.broker.pre_restart {
            Some(Ok(answer)) => answer,
            Some(Err(why)) => return Err(vec![why.clone()]),
            None => {
                let why = format!("no broker can say whether broker {} may stop", self.broker.id);
                return Err(std::iter::once(why).chain(self.broker.waits_for.clone()).collect());
            }
        };
        let blocking = named(&answer.blocking, answer.blocking_count);
        if !answer.safe || !blocking.is_empty() || !answer.reasons.is_empty() {
            let mut reasons = answer.reasons.clone();
            reasons.extend(blocking);
            if reasons.is_empty() {
                reasons.push("the broker says that it must not stop".to_string());
            }
            return Err(reasons);
        }
        let unavoidable = named(&answer.unavoidable, answer.unavoidable_count);
        if !unavoidable.is_empty() && input.unavoidable == Unavoidable::Wait {
            let why = "rollout.unavoidable is Wait, and no order of restarts keeps these available";
            return Err(std::iter::once(why.to_string()).chain(unavoidable).collect());
        }
        Ok(unavoidable)
    }

    fn delete(&self, input: &Input<'_>, forced: bool, unavoidable: &[String]) -> Delete {
        let stopping = vec![format!("pod {} is stopping", self.pod.name)];
        Delete {
            pod: self.pod.name.clone(),
            uid: self.pod.uid.clone(),
            cause: self.cause,
            why: self.why.clone(),
            unavoidable: unavoidable.to_vec(),
            forced,
            operation: operation(input, self.cause.operation(), self.broker.id, "Stopping", stopping),
        }
    }
}

/// The first partitions by name, and how many more there are.
fn named(partitions: &[PartitionReason], count: u64) -> Vec<String> {
    let mut names: Vec<String> = partitions
        .iter()
        .take(NAMED_MAX)
        .map(|p| match p.reason.as_str() {
            "" => format!("{}-{}", p.topic, p.partition),
            reason => format!("{}-{}: {reason}", p.topic, p.partition),
        })
        .collect();
    let count = count.max(u64::try_from(partitions.len()).unwrap_or(u64::MAX));
    let more = count.saturating_sub(u64::try_from(names.len()).unwrap_or(u64::MAX));
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names
}

/// A broker that others have to wait for.
struct Unsettled {
    id: i32,
    step: &'static str,
    waits_for: Vec<String>,
}

fn unsettled(input: &Input<'_>, broker: &Broker) -> Option<Unsettled> {
    let found = |step, waits_for| Some(Unsettled { id: broker.id, step, waits_for });
    let name = &broker.pod_name;
    let Some(pod) = &broker.pod else {
        return found("Starting", vec![format!("pod {name} is not there yet")]);
    };
    if pod.terminating {
        return found("Stopping", vec![format!("pod {name} is stopping")]);
    }
    if let Some(not_running) = &pod.not_running {
        return found("Starting", vec![format!("pod {name}: {}", not_running.message())]);
    }
    if !pod.ready {
        let waits_for: Vec<String> =
            broker.waits_for.iter().map(|why| format!("broker {}: {why}", broker.id)).collect();
        let quiet = || vec![format!("pod {name} is not ready")];
        return found("Starting", if waits_for.is_empty() { quiet() } else { waits_for });
    }
    // Only a broker that we restarted is held to have caught up: another may be behind for reasons of its own.
    if input.last.is_none_or(|last| last.broker_id != broker.id || last.step == "PreRestart") {
        return None;
    }
    match &broker.post_restart {
        Some(Ok(answer)) if answer.caught_up => None,
        Some(Ok(answer)) => {
            let mut waits_for =
                vec![format!("broker {} has caught up to {:.1} %", broker.id, answer.percent)];
            waits_for.extend(answer.waiting_for.iter().take(NAMED_MAX).cloned());
            found("CatchingUp", waits_for)
        }
        Some(Err(why)) => found("CatchingUp", vec![why.clone()]),
        None => {
            found("CatchingUp", vec![format!("broker {} does not say whether it has caught up", broker.id)])
        }
    }
}

/// An operation's state. It began when it was first seen.
fn operation(input: &Input<'_>, kind: &str, broker: i32, step: &str, blocked_by: Vec<String>) -> Operation {
    let same = input.last.filter(|last| last.broker_id == broker && last.kind == kind);
    Operation {
        kind: kind.to_string(),
        broker_id: broker,
        step: step.to_string(),
        started_at: same.and_then(|last| last.started_at.clone()).or(Some(Time(input.now))),
        blocked_by,
    }
}

/// Whether one broker may be evicted: all are up, nothing blocks any of them, and nothing is under way.
pub fn disruptable(brokers: &[Broker], decision: &Decision) -> bool {
    let clean = |broker: &Broker| {
        broker.pod.as_ref().is_some_and(|pod| pod.ready && !pod.terminating)
            && matches!(&broker.pre_restart, Some(Ok(answer))
                if answer.safe && answer.blocking.is_empty() && answer.reasons.is_empty())
    };
    *decision == Decision::Nothing && brokers.iter().all(clean)
}

#[cfg(test)]
mod tests;
