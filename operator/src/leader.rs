//! One operator at a time: a Lease of `coordination.k8s.io`, as Kubernetes' own components hold theirs.
//!
//! Clocks of different machines are never compared. A lease has run out when this process has seen it unchanged for as
//! long as its holder promised to renew it. The holder gives up a good while before that, so that two never act.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error};
use thiserror::Error;

/// Others may take the lease after this long without a renewal.
const LEASE: Duration = Duration::from_secs(15);
/// The holder gives up when it could not renew for this long.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// One request to the API; a request that hangs must not outlast the lease.
const REQUEST: Duration = Duration::from_secs(4);

/// Why this process no longer leads.
#[derive(Debug, Error)]
pub enum Lost {
    #[error("the lease is now held by {0}")]
    Taken(String),
    #[error("the lease could not be renewed for {time} s: {0}", time = RENEW_WITHIN.as_secs())]
    NotRenewed(String),
}

/// Why one attempt came to nothing.
#[derive(Debug, Error)]
enum Attempt {
    #[error(transparent)]
    Api(Box<Error>),
    #[error("no answer within {time} s", time = REQUEST.as_secs())]
    Timeout,
    #[error("held by {0}")]
    Held(String),
}

impl From<Error> for Attempt {
    fn from(e: Error) -> Attempt {
        Attempt::Api(Box::new(e))
    }
}

/// A lease, and what this process has seen of it.
pub struct Leader {
    api: Api<Lease>,
    name: String,
    identity: String,
    seen: Option<Seen>,
}

/// The lease as it was when it last changed, by this process's own clock.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    version: Option<String>,
    at: Instant,
}

/// What to do about the lease as it is now.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Create,
    /// It is ours to write: held already, free, or run out.
    Write,
    Wait(String),
}

/// Decides by the lease and by how long it has been seen unchanged.
fn step(lease: Option<&Lease>, identity: &str, unchanged_for: Duration) -> Step {
    let Some(lease) = lease else { return Step::Create };
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|s| s.holder_identity.as_deref()).unwrap_or_default();
    let promised = spec.and_then(|s| s.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
    let promised = promised.map_or(LEASE, Duration::from_secs);
    if holder.is_empty() || holder == identity || unchanged_for > promised {
        Step::Write
    } else {
        Step::Wait(holder.to_string())
    }
}

impl Leader {
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Leader {
        let api = Api::namespaced(client, namespace);
        Leader { api, name: name.to_string(), identity: identity.to_string(), seen: None }
    }

    /// Waits until this process holds the lease.
    pub async fn acquire(&mut self) {
        let mut told = None;
        loop {
            match self.attempt().await {
                Ok(()) => {
                    tracing::info!(lease = self.name, "this process leads");
                    return;
                }
                Err(e) => {
                    let why = e.to_string();
                    if told.as_ref() != Some(&why) {
                        tracing::info!(lease = self.name, "waiting for the lease: {why}");
                        told = Some(why);
                    }
                }
            }
            tokio::time::sleep(RENEW_EVERY).await;
        }
    }

    /// Renews the lease until it is lost.
    pub async fn keep(&mut self) -> Lost {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            match self.attempt().await {
                Ok(()) => renewed = Instant::now(),
                Err(Attempt::Held(by)) => return Lost::Taken(by),
                Err(e) if renewed.elapsed() > RENEW_WITHIN - REQUEST => {
                    return Lost::NotRenewed(e.to_string());
                }
                Err(e) => tracing::warn!(lease = self.name, "the lease is not renewed: {e}"),
            }
        }
    }

    /// Gives the lease back, so that another takes it at once.
    pub async fn release(&mut self) {
        let given = tokio::time::timeout(REQUEST, async {
            let mut lease = self.api.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, Error>(())
        });
        match given.await {
            Ok(Ok(())) => tracing::info!(lease = self.name, "the lease is given back"),
            Ok(Err(e)) => tracing::warn!(lease = self.name, "the lease is not given back: {e}"),
            Err(_) => tracing::warn!(lease = self.name, "the lease is not given back: no answer"),
        }
    }

    /// Takes or renews the lease.
    async fn attempt(&mut self) -> Result<(), Attempt> {
        tokio::time::timeout(REQUEST, self.take_or_renew()).await.unwrap_or(Err(Attempt::Timeout))
    }

    async fn take_or_renew(&mut self) -> Result<(), Attempt> {
        let lease = self.api.get_opt(&self.name).await?;
        let version = lease.as_ref().and_then(|l| l.metadata.resource_version.clone());
        let seen = match self.seen.take() {
            Some(seen) if seen.version == version => seen,
            _ => Seen { version, at: Instant::now() },
        };
        let unchanged_for = seen.at.elapsed();
        self.seen = Some(seen);
        match (step(lease.as_ref(), &self.identity, unchanged_for), lease) {
            (Step::Wait(holder), _) => Err(Attempt::Held(holder)),
            (Step::Write, Some(mut lease)) => {
                self.sign(lease.spec.get_or_insert_default());
                // The version in the object makes the API refuse this if another was quicker.
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
                Ok(())
            }
            (Step::Create | Step::Write, _) => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let mut spec = LeaseSpec::default();
                self.sign(&mut spec);
                let lease = Lease { metadata, spec: Some(spec) };
                self.api.create(&PostParams::default(), &lease).await?;
                Ok(())
            }
        }
    }

    fn sign(&self, spec: &mut LeaseSpec) {
        let now = MicroTime(Timestamp::now());
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.lease_duration_seconds = i32::try_from(LEASE.as_secs()).ok();
        spec.renew_time = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str, seconds: i32) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_string()),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn a_lease_is_taken_only_when_it_is_free() {
        let s = Duration::from_secs;
        assert_eq!(step(None, "a", s(0)), Step::Create);
        assert_eq!(step(Some(&Lease::default()), "a", s(0)), Step::Write);
        assert_eq!(step(Some(&held_by("", 1)), "a", s(0)), Step::Write);
        assert_eq!(step(Some(&held_by("a", 15)), "a", s(0)), Step::Write);
        assert_eq!(step(Some(&held_by("b", 15)), "a", s(15)), Step::Wait("b".to_string()));
        assert_eq!(step(Some(&held_by("b", 15)), "a", s(16)), Step::Write);
        assert_eq!(step(Some(&held_by("b", -5)), "a", s(14)), Step::Wait("b".to_string()));
    }

    #[test]
    fn a_holder_gives_up_before_others_may_take_over() {
        // The last renewal, then at most this long until the holder has noticed.
        assert!(RENEW_WITHIN - REQUEST + RENEW_EVERY + REQUEST < LEASE);
    }
}
