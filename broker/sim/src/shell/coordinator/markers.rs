//! Markers: what was decided about a transaction is written into each of its partitions, however long that takes, and then
//! the coordinator is told (`broker/src/txn/markers.rs`).

use std::collections::BTreeMap;

use chronik_core::group;
use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::log::{AppendError, EndMarker};
use chronik_core::metadata::image::OFFSETS_TOPIC;
use chronik_core::txn::{self, Markers};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;

use super::{Asker, Broker, Call};
use crate::env::{Env, Event, Halt};
use crate::history::Meaning;
use crate::stats::Deed;
use crate::topics::partition_of;

/// A decision that is being carried out.
struct Decision {
    /// The coordinator's partition.
    of: TopicIdPartition,
    due: Markers,
    /// Partitions that have not taken their marker yet.
    left: Vec<(TopicName, i32)>,
    on_their_way: usize,
    /// When the next one is written is on the agenda.
    is_planned: bool,
}

#[derive(Default)]
pub(super) struct Writer {
    decisions: BTreeMap<u64, Decision>,
    begun: u64,
    /// Markers in partitions of data: where they are, and of which decision.
    appended: Vec<(TopicIdPartition, Offset, u64)>,
}

impl Broker {
    /// A decision is durable.
    pub(super) fn begin_markers(
        &mut self,
        env: &mut Env,
        of: TopicIdPartition,
        due: Markers,
    ) -> Result<(), Halt> {
        let standing = self.coordinators.slots.get(&of).is_some_and(|slot| slot.machine.has_decided(&due));
        if !standing {
            return Ok(());
        }
        env.stats.deed(if due.commit { Deed::TransactionCommitted } else { Deed::TransactionAborted });
        let writer = &mut self.coordinators.markers;
        writer.begun += 1;
        let (number, left) = (writer.begun, due.partitions.clone());
        let decision = Decision { of, due: due.clone(), left, on_their_way: 0, is_planned: false };
        writer.decisions.insert(number, decision);
        self.plan_marker(env, number, 600);
        match self.settings.bugs.complete_before_markers {
            true => self.markers_written(env, of, &due),
            false => Ok(()),
        }
    }

    fn plan_marker(&mut self, env: &mut Env, number: u64, within_us: u64) {
        let Some(decision) = self.coordinators.markers.decisions.get_mut(&number) else { return };
        if !std::mem::replace(&mut decision.is_planned, true) {
            let delay_us = env.rng.between(1, within_us);
            env.after(delay_us, Event::Marker { life: self.life, decision: number });
        }
    }

    fn markers_written(&mut self, env: &mut Env, of: TopicIdPartition, due: &Markers) -> Result<(), Halt> {
        let Markers { transactional_id, producer, .. } = due.clone();
        let call = Call::Txn(txn::Call::MarkersWritten { transactional_id, producer });
        self.call(env, of, call, Asker::Nobody, Meaning::default())
    }

    /// Writes one of the markers that a decision wants.
    pub fn place_marker(&mut self, env: &mut Env, number: u64) -> Result<(), Halt> {
        if self.stopping || self.has_failed() {
            return Ok(());
        }
        let Some(decision) = self.coordinators.markers.decisions.get_mut(&number) else { return Ok(()) };
        decision.is_planned = false;
        if decision.left.is_empty() {
            return Ok(());
        }
        let place = decision.left.swap_remove(env.rng.index(decision.left.len()));
        decision.on_their_way += 1;
        let more = !decision.left.is_empty();
        let marker = EndMarker {
            producer_id: decision.due.producer.id,
            producer_epoch: decision.due.producer.epoch,
            coordinator_epoch: self.life as i32,
            commit: decision.due.commit,
        };
        if more {
            self.plan_marker(env, number, 600);
        }
        let tp = partition_of(&place.0, place.1);
        env.note("marker", &[number, tp.partition as u64, u64::from(marker.commit)]);
        if **place.0 == *OFFSETS_TOPIC {
            let call = Call::Group(group::Call::Marker(marker));
            let asker = Asker::Marker { decision: number, place };
            return self.call(env, tp, call, asker, Meaning::default());
        }
        let meaning = Meaning { marker: Some(marker), ..Meaning::default() };
        match self.append_own(env, tp, meaning, |time_ms| marker.batch(time_ms))? {
            Ok(offset) => {
                self.coordinators.markers.appended.push((tp, offset, number));
                self.pump(env)?;
                self.release(env)
            }
            Err(AppendError::Producer(_)) => {
                // A newer producer, or a newer coordinator, has ended it.
                self.marker_is_there(env, number)
            }
            Err(_) => self.try_again(env, number, place),
        }
    }

    /// Partitions of data have become durable beyond their markers.
    pub(super) fn markers_landed(&mut self, env: &mut Env) -> Result<(), Halt> {
        let partitions = &self.partitions;
        let is_durable = |tp: &TopicIdPartition, offset: Offset| {
            partitions.get(tp).is_some_and(|partition| offset < partition.log.high_watermark())
        };
        let (landed, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.coordinators.markers.appended)
            .into_iter()
            .partition(|(tp, offset, _)| is_durable(tp, *offset));
        self.coordinators.markers.appended = left;
        landed.into_iter().try_for_each(|(_, _, decision)| self.marker_is_there(env, decision))
    }

    /// One marker is durable, or there is nothing to wait for.
    pub(super) fn marker_is_there(&mut self, env: &mut Env, number: u64) -> Result<(), Halt> {
        let decisions = &mut self.coordinators.markers.decisions;
        let Some(decision) = decisions.get_mut(&number) else { return Ok(()) };
        decision.on_their_way -= 1;
        if decision.on_their_way > 0 || !decision.left.is_empty() {
            return Ok(());
        }
        let Some(Decision { of, due, .. }) = decisions.remove(&number) else { return Ok(()) };
        self.markers_written(env, of, &due)
    }

    pub(super) fn marker_refused(
        &mut self,
        env: &mut Env,
        number: u64,
        place: (TopicName, i32),
        error: ResponseError,
    ) -> Result<(), Halt> {
        match error {
            ResponseError::InvalidProducerEpoch | ResponseError::TransactionCoordinatorFenced => {
                self.marker_is_there(env, number)
            }
            _ => self.try_again(env, number, place),
        }
    }

    fn try_again(&mut self, env: &mut Env, number: u64, place: (TopicName, i32)) -> Result<(), Halt> {
        env.stats.deed(Deed::MarkerLater);
        let Some(decision) = self.coordinators.markers.decisions.get_mut(&number) else { return Ok(()) };
        decision.on_their_way -= 1;
        decision.left.push(place);
        self.plan_marker(env, number, 3000);
        Ok(())
    }
}
