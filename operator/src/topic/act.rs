//! Carries out what was decided, and tells of each step by an Event.

use chronik_client::Resource as KafkaResource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::decide::{Action, Decision, Reason, Seen, Verdict};
use super::facts::{Difference, FINALIZER, topic_name};
use super::fetch::Look;
use super::status::status;
use super::{Scope, TopicError};
use crate::broker::kafka::KafkaError;
use crate::crd::topic::{AdoptionPolicy, ChronikTopicStatus};
use crate::crd::{ChronikTopic, FIELD_MANAGER, conditions};

/// What became of a decision's actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All are carried out. What they came to is to be seen by another look.
    Done,
    /// The object may go now; there is nothing more to do.
    Gone,
    /// Not all of them; this is what the conditions are to say.
    Failed(Verdict),
}

/// An object that is worked on, kept up to date: its metadata, and what is known of its topic.
pub struct Work {
    pub object: ChronikTopic,
    /// The status as it is stored.
    written: Option<ChronikTopicStatus>,
    pub look: Look,
}

impl Work {
    pub fn new(object: ChronikTopic, look: Look) -> Work {
        Work { written: object.status.clone(), object, look }
    }
}

/// Carries out a decision.
pub async fn carry_out(scope: &Scope, work: &mut Work, decision: &Decision) -> Result<Outcome, TopicError> {
    let mut refused: Option<Verdict> = None;
    for action in &decision.actions {
        match action {
            Action::AddFinalizer => set_finalizer(scope, &mut work.object, true).await?,
            Action::RemoveFinalizer => set_finalizer(scope, &mut work.object, false).await?,
            Action::LetGo { why } => {
                if let Some(why) = why {
                    scope.tell(&work.object, EventType::Normal, "TopicKept", why).await;
                }
                set_finalizer(scope, &mut work.object, false).await?;
                return Ok(Outcome::Gone);
            }
            action => {
                if let Action::Create { .. } = action {
                    announce_creation(scope, work, decision).await?;
                }
                match at_the_brokers(scope, work, action).await {
                    Ok(()) => {}
                    Err(KafkaError::Unreachable(why)) => {
                        return Ok(Outcome::Failed(Verdict::new(Reason::BrokerUnreachable, why)));
                    }
                    // The other actions need not suffer from it.
                    Err(KafkaError::Refused(words)) => {
                        refused.get_or_insert(Verdict::new(Reason::Refused, words.to_string()));
                    }
                }
            }
        }
    }
    Ok(refused.map_or(Outcome::Done, Outcome::Failed))
}

/// Notes that the topic is being created: if no answer comes, a topic that is as this object wants it is its own.
/// That must be stored first only where the object would not take over an existing topic otherwise.
async fn announce_creation(scope: &Scope, work: &mut Work, decision: &Decision) -> Result<(), TopicError> {
    let (verdict, seen) = (&decision.verdict, decision.seen.as_ref());
    if work.object.spec.adoption_policy == AdoptionPolicy::Never {
        return patch_status(scope, work, verdict, seen).await;
    }
    work.object.status = Some(status(&work.object, verdict, seen, &Time(Timestamp::now())));
    Ok(())
}

async fn at_the_brokers(scope: &Scope, work: &mut Work, action: &Action) -> Result<(), KafkaError> {
    let object = &mut work.object;
    let name = topic_name(object);
    let kafka = work.look.kafka()?;
    let (kind, reason, note) = match action {
        Action::Create { partitions, settings, vanished } => {
            let created = match kafka.create(&name, *partitions, settings.clone()).await {
                Err(error) if error.is_topic_exists() => {
                    // Somebody else was faster, or these brokers were behind: the next look decides.
                    forget_creation(object);
                    return Ok(());
                }
                other => other?,
            };
            own(object, created.id.clone());
            let with = format!("with {}, id {}", some(created.partitions, "partition"), created.id);
            match vanished {
                None => (EventType::Normal, "TopicCreated", format!("created the topic {name} {with}")),
                Some(id) => (
                    EventType::Warning,
                    "TopicRecreated",
                    format!(
                        "the topic {name} with the id {id} had vanished; created it again {with}, without records"
                    ),
                ),
            }
        }
        Action::Adopt { id, instead } => {
            own(object, id.clone());
            let note = match instead {
                None => format!("the topic {name} with the id {id} is managed by this object from now on"),
                Some(old) => format!(
                    "the topic {name} was deleted and made again by somebody else (id {old}, now {id}); it is \
                     managed by this object from now on"
                ),
            };
            (EventType::Normal, "TopicAdopted", note)
        }
        Action::Alter { changes, drift } => {
            let set = |d: &Difference| (d.setting.clone(), d.wanted.clone());
            let wanted: Vec<_> = changes.iter().map(set).collect();
            kafka.alter(&KafkaResource::Topic(name.clone()), &wanted).await?;
            let list = changes.iter().map(step).collect::<Vec<_>>().join("; ");
            match drift {
                true => (EventType::Warning, "DriftCorrected", format!("set right: {list}")),
                false => (EventType::Normal, "SettingsChanged", list),
            }
        }
        Action::Grow { from, to, drift } => {
            kafka.grow(&name, *to).await?;
            let note = format!("grew the topic {name} from {from} to {}", some(*to, "partition"));
            (if *drift { EventType::Warning } else { EventType::Normal }, "TopicGrown", note)
        }
        Action::Delete { id } => {
            if !kafka.delete(id).await? {
                return Ok(());
            }
            (
                EventType::Normal,
                "TopicDeleted",
                format!("deleted the topic {name} with the id {id} and its records"),
            )
        }
        Action::AddFinalizer | Action::RemoveFinalizer | Action::LetGo { .. } => return Ok(()),
    };
    scope.tell(object, kind, reason, &note).await;
    Ok(())
}

fn own(object: &mut ChronikTopic, id: String) {
    object.status.get_or_insert_default().topic_id = Some(id);
}

/// The announced creation did not take place.
fn forget_creation(object: &mut ChronikTopic) {
    let status = object.status.get_or_insert_default();
    let now = Time(Timestamp::now());
    let (reason, generation) = (Reason::TopicExists.name(), object.metadata.generation);
    conditions::set(&mut status.conditions, &now, generation, "Synced", false, reason, "");
}

/// A change in words.
fn step(change: &Difference) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_string());
    format!("{} from {} to {}", change.setting, text(&change.found), text(&change.wanted))
}

fn some(count: i32, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// Adds or removes the finalizer, unless the object changed since it was read.
async fn set_finalizer(scope: &Scope, object: &mut ChronikTopic, wanted: bool) -> Result<(), TopicError> {
    let mut finalizers: Vec<String> = object.finalizers().to_vec();
    finalizers.retain(|f| f != FINALIZER);
    if wanted {
        finalizers.push(FINALIZER.to_string());
    }
    let patch = json!({ "metadata": {
        "finalizers": finalizers, "resourceVersion": object.resource_version(), "uid": object.uid(),
    } });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_string()), ..PatchParams::default() };
    match scope.api(object).patch(&object.name_any(), &params, &Patch::Merge(&patch)).await {
        Ok(patched) => object.metadata = patched.metadata,
        // The last finalizer is gone, and the object with it.
        Err(kube::Error::Api(status)) if status.code == 404 && !wanted => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Writes the status if it says something new.
pub async fn patch_status(
    scope: &Scope,
    work: &mut Work,
    verdict: &Verdict,
    seen: Option<&Seen>,
) -> Result<(), TopicError> {
    let new = status(&work.object, verdict, seen, &Time(Timestamp::now()));
    if work.written.as_ref() != Some(&new) {
        write_status(scope, &work.object, &new).await?;
        work.written = Some(new.clone());
    }
    work.object.status = Some(new);
    Ok(())
}

async fn write_status(
    scope: &Scope,
    object: &ChronikTopic,
    status: &ChronikTopicStatus,
) -> Result<(), TopicError> {
    let patch = json!({
        "apiVersion": ChronikTopic::api_version(&()),
        "kind": ChronikTopic::kind(&()),
        "metadata": { "name": object.name_any(), "uid": object.uid() },
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match scope.api(object).patch_status(&object.name_any(), &params, &Patch::Apply(&patch)).await {
        // It went meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop).map_err(TopicError::from),
    }
}
