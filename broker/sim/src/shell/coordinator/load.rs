//! A coordinator's partition is loaded: everything that it holds, in the order of offsets (`broker/src/coordinator/load.rs`).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use chronik_core::ids::{Offset, TopicIdPartition};
use chronik_core::log::{EndMarker, ReadRequest, ReadUpTo};
use chronik_core::record_batch::{Batches, Crc, RecordIter};
use chronik_core::wal::commit::max_entry_bytes;

use super::machine::{Machine, ongoing};
use super::{Broker, Slot};
use crate::bugs::Bugs;
use crate::env::{Env, Event, Halt};
use crate::history::Meaning;
use crate::invariants::{self, INPUTS, Violation};
use crate::stats::Deed;
use crate::topics::{Kind, image, partition_of};

impl Broker {
    /// Begins to load the coordinators of what is served here.
    pub fn open_coordinators(&mut self, env: &mut Env) -> Result<(), Violation> {
        let max_batch_bytes = max_entry_bytes(self.settings.file_bytes) as usize / 2;
        let (now_ms, topics) = (env.now_ms(), image(INPUTS)?);
        let own = self.partitions.iter().filter(|(_, p)| p.topic.kind != Kind::Clients);
        let slots: BTreeMap<_, _> = own
            .map(|(tp, partition)| {
                let mut machine = Machine::new(partition.topic.kind, max_batch_bytes);
                machine.metadata(now_ms, topics.clone());
                (*tp, Slot::new(machine))
            })
            .collect();
        for tp in slots.keys() {
            let delay_us = env.rng.between(20, 1500);
            env.after(delay_us, Event::Load { life: self.life, tp: *tp });
        }
        self.coordinators.slots = slots;
        Ok(())
    }

    pub fn load(&mut self, env: &mut Env, tp: TopicIdPartition) -> Result<(), Halt> {
        if self.stopping || self.has_failed() {
            return Ok(());
        }
        let bugs = self.settings.bugs;
        let Some(slot) = self.coordinators.slots.remove(&tp) else { return Ok(()) };
        let mut machine = slot.machine;
        let Some(partition) = self.partitions.get(&tp) else { return Ok(()) };
        // Nobody else writes here, and what was found at the start is durable.
        let (mut at, end) = (partition.log.log_start(), partition.log.log_end());
        while at < end {
            let max_bytes = env.rng.between(1, 1 << 17) as usize;
            let up_to = ReadUpTo::HighWatermark;
            let read = self.read(env, tp, &ReadRequest { from: at, max_bytes, at_least_one: true, up_to })?;
            let from = at;
            for piece in &read {
                at = replay(&mut machine, piece, &bugs)?.max(at);
            }
            if at == from && partition.topic.compact {
                // Compaction has left nothing up to the end.
                break;
            }
            if at == from {
                return Err(invariants::nothing_there(tp, at, end).into());
            }
        }
        env.note("loaded", &[end as u64]);
        let mut step = machine.loaded(env.now_ms());
        if self.settings.bugs.markers_forgotten {
            step.decisions.clear();
        }
        self.between_markers(env, &step);
        invariants::coordinator_loaded(env, self, tp, &mut machine)?;
        self.coordinators.slots.insert(tp, Slot { is_loaded: true, ..Slot::new(machine) });
        self.carry_out(env, tp, step, Meaning::default())
    }

    /// Notes whether the crash has come between the markers of a decision.
    fn between_markers(&self, env: &mut Env, step: &super::Step) {
        for due in &step.decisions {
            env.stats.deed(Deed::DecisionFoundAtStart);
            let logs = due.partitions.iter().filter_map(|(topic, partition)| {
                self.partitions.get(&partition_of(topic, *partition)).map(|p| &p.log)
            });
            let (left, done): (Vec<_>, Vec<_>) =
                logs.partition(|log| ongoing(log).contains(&due.producer.id));
            if !left.is_empty() && !done.is_empty() {
                env.stats.deed(Deed::CrashBetweenMarkers);
            }
        }
    }
}

impl Slot {
    fn new(machine: Machine) -> Slot {
        Slot {
            machine,
            is_loaded: false,
            last_ticket: 0,
            waiting: BTreeMap::new(),
            releases: VecDeque::new(),
            tick_at_ms: None,
        }
    }
}

/// Replays whole batches; returns the offset behind them.
fn replay(machine: &mut Machine, piece: &Bytes, bugs: &Bugs) -> Result<Offset, Violation> {
    let unreadable = |why: String| Violation::new("coordinators_understand_their_records", why);
    let mut next = 0;
    for batch in Batches::new(piece, Crc::Check) {
        let (header, range) = batch.map_err(|e| unreadable(e.to_string()))?;
        next = header.next_offset();
        if header.is_control() {
            EndMarker::of(&header, &piece[range]).into_iter().for_each(|marker| machine.replay_end(marker));
            continue;
        }
        let producer = header.has_producer().then_some(header.producer_id);
        for record in RecordIter::new(&piece[range]).map_err(|e| unreadable(e.to_string()))? {
            let record = record.map_err(|e| unreadable(e.to_string()))?;
            let key = record.key.unwrap_or_default();
            machine.replay(producer, key, record.value, bugs).map_err(unreadable)?;
        }
    }
    Ok(next)
}
