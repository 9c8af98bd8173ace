//! What happens to a broker from time to time: somebody reads, deletes records, creates and deletes partitions.

use chronik_core::ids::TopicIdPartition;
use chronik_core::log::{ReadRequest, ReadUpTo};

use super::World;
use crate::env::{Env, Event, Halt};
use crate::invariants;
use crate::shell::Broker;
use crate::stats::Deed;
use crate::topics::Kind;

impl World {
    /// A consumer reads somewhere.
    pub(super) fn fetch(&mut self) -> Result<(), Halt> {
        let env = &mut self.env;
        let delay = env.rng.between(100, 2500);
        env.after(delay, Event::Fetch);
        let Some(broker) = &self.broker else { return Ok(()) };
        let Some((tp, log_start, high_watermark)) = a_log(env, broker) else { return Ok(()) };
        let recent = env.rng.percent(50);
        let from = if recent { (high_watermark - 5).max(log_start) } else { log_start };
        let from = env.rng.between(from as u64, high_watermark as u64) as i64;
        let request = ReadRequest {
            from,
            max_bytes: env.rng.between(1, 1 << 17) as usize,
            at_least_one: env.rng.percent(80),
            up_to: ReadUpTo::HighWatermark,
        };
        invariants::log_start_seen(env, tp, log_start)?;
        let slices = broker.read(env, tp, &request)?;
        let next = invariants::consumed(env, tp, from, high_watermark, &slices)?;
        env.note("fetch", &[from as u64, next as u64]);
        if next == from && from < high_watermark && request.at_least_one {
            return Err(invariants::nothing_there(tp, from, high_watermark).into());
        }
        Ok(())
    }

    /// A client deletes records, and cares little for where batches begin.
    pub(super) fn delete_records(&mut self) -> Result<(), Halt> {
        let env = &mut self.env;
        let delay = env.rng.between(1000, 12_000);
        env.after(delay, Event::DeleteRecords);
        let Some(broker) = &mut self.broker else { return Ok(()) };
        let Some((tp, log_start, high_watermark)) = a_log(env, broker) else { return Ok(()) };
        let wanted = env.rng.between(log_start as u64, high_watermark as u64) as i64;
        if wanted == log_start || broker.has_failed() {
            return Ok(());
        }
        env.stats.deed(Deed::RecordsDeleted);
        if wanted < high_watermark && !env.history.partition(tp).alive.contains_key(&wanted) {
            env.stats.deed(Deed::RecordsDeletedWithinABatch);
        }
        broker.delete_before(env, tp, wanted)
    }

    /// Partitions come and go.
    pub(super) fn administer(&mut self) -> Result<(), Halt> {
        let delay = self.env.rng.between(3000, 20_000);
        self.env.after(delay, Event::Administer);
        if self.broker.as_ref().is_none_or(Broker::has_failed) {
            return Ok(());
        }
        let all: Vec<_> = self.catalog.keys().copied().collect();
        if all.len() > 1 && self.env.rng.percent(40) {
            let Some(tp) = self.env.rng.pick(&all).copied() else { return Ok(()) };
            self.env.note("delete", &[tp.topic_id.0.as_u128() as u64]);
            self.env.stats.deed(Deed::PartitionDeleted);
            self.catalog.remove(&tp);
            self.env.history.partitions.remove(&tp);
            let Some(broker) = &mut self.broker else { return Ok(()) };
            return broker.delete(&mut self.env, tp);
        }
        if all.len() < 8 {
            let (tp, topic) = self.new_partition();
            self.env.note("create", &[tp.topic_id.0.as_u128() as u64]);
            let Some(broker) = &mut self.broker else { return Ok(()) };
            return broker.create(&mut self.env, tp, topic);
        }
        Ok(())
    }

    /// Somebody reads what is decided, or asks how far groups have come.
    pub(super) fn review(&mut self) -> Result<(), Halt> {
        let env = &mut self.env;
        let delay = env.rng.between(200, 2500);
        env.after(delay, Event::Review);
        let Some(broker) = &mut self.broker else { return Ok(()) };
        broker.look_at_transactions(env)?;
        if env.rng.percent(40) {
            return broker.tell_offsets(env);
        }
        let served: Vec<_> = broker.partitions.iter().map(|(tp, p)| (*tp, p.topic.kind)).collect();
        let decided: Vec<_> = served.into_iter().filter(|(_, kind)| *kind != Kind::Transactions).collect();
        match env.rng.pick(&decided).copied() {
            Some((tp, _)) => review_one(env, broker, tp),
            None => Ok(()),
        }
    }

    /// The same of every partition, after a start.
    pub(super) fn review_all(&mut self) -> Result<(), Halt> {
        let env = &mut self.env;
        let Some(broker) = &self.broker else { return Ok(()) };
        broker.partitions.keys().try_for_each(|tp| review_one(env, broker, *tp))
    }
}

fn review_one(env: &mut Env, broker: &Broker, tp: TopicIdPartition) -> Result<(), Halt> {
    let Some(partition) = broker.partitions.get(&tp) else { return Ok(()) };
    let log = &partition.log;
    let (last_stable, high_watermark) = (broker.last_stable_offset(log), log.high_watermark());
    invariants::stable_to(env, tp, last_stable, high_watermark)?;
    if partition.topic.compact {
        // Of what a cleaner leaves, coordinators are the judges.
        return Ok(());
    }
    // A reader goes on where a batch begins.
    let batches: Vec<_> =
        env.history.partition(tp).alive.range(..last_stable).map(|(base, _)| *base).collect();
    let from = if env.rng.percent(50) { 0 } else { env.rng.pick(&batches).copied().unwrap_or(0) };
    let read = broker.read_decided(env, tp, from, last_stable)?;
    env.note("review", &[from as u64, last_stable as u64, read.len() as u64]);
    invariants::reviewed(env, tp, from, (last_stable, high_watermark), &read)?;
    Ok(())
}

/// Some partition that is served, its log's start and its high watermark.
fn a_log(env: &mut Env, broker: &Broker) -> Option<(TopicIdPartition, i64, i64)> {
    let served: Vec<_> = broker.partitions.iter().map(|(tp, p)| (*tp, &p.log)).collect();
    env.rng.pick(&served).map(|(tp, log)| (*tp, log.log_start(), log.high_watermark()))
}
