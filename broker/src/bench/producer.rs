//! A producer of the load generator: its connection, what it has under way, whose turn is next.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use chronik_client::Producer as Identity;

use super::engine::Load;
use super::plan::Plan;
use super::wire::Wire;

/// A request that left and has no answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    pub(super) correlation: i32,
    pub(super) request: u32,
    /// Index into the plan's targets.
    pub(super) target: u32,
    pub(super) sequence: i32,
    /// What its latency counts from, in nanoseconds of the run.
    pub(super) since_ns: u64,
}

/// One producer and its connection.
pub(super) struct Producer {
    pub(super) number: u32,
    /// `None` between connections.
    pub(super) wire: Option<Wire>,
    pub(super) watching_writes: bool,
    pub(super) address: Rc<str>,
    /// The targets its broker leads, and the next one's turn.
    pub(super) targets: Rc<[u32]>,
    pub(super) turn: usize,
    pub(super) identity: Option<Identity>,
    /// Next sequence per entry of `targets`; empty without an identity.
    pub(super) sequences: Vec<i32>,
    pub(super) flights: VecDeque<Flight>,
    pub(super) requests: u32,
    pub(super) correlation: i32,
    /// Open loop: how many of its requests are due, counted from the start.
    pub(super) due: u64,
    pub(super) retry_at_ns: u64,
}

/// Producers in turn over the leaders, each starting at another of its leader's partitions.
pub(super) fn lay_out(plan: &Plan, load: &Load) -> Vec<Producer> {
    let mut leaders: Vec<(Rc<str>, Vec<u32>)> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for (target, at) in plan.targets.iter().zip(0u32..) {
        let leader = *known.entry(&target.address).or_insert_with(|| {
            leaders.push((target.address.as_str().into(), Vec::new()));
            leaders.len() - 1
        });
        leaders[leader].1.push(at);
    }
    let leaders: Vec<(Rc<str>, Rc<[u32]>)> =
        leaders.into_iter().map(|(address, targets)| (address, targets.into())).collect();
    let producer = |number: u32| {
        let (address, targets) = &leaders[number as usize % leaders.len()];
        let identity = plan.identities.get(number as usize).copied();
        Producer {
            number,
            wire: None,
            watching_writes: false,
            address: address.clone(),
            targets: targets.clone(),
            turn: number as usize / leaders.len() % targets.len(),
            identity,
            sequences: if identity.is_some() { vec![0; targets.len()] } else { Vec::new() },
            flights: VecDeque::with_capacity(load.in_flight as usize),
            requests: 0,
            correlation: 0,
            due: 0,
            retry_at_ns: 0,
        }
    };
    (0..load.producers).map(producer).collect()
}

impl Producer {
    /// Whether an answer or room in the socket is waited for.
    pub(super) fn awaits(&self) -> bool {
        !self.flights.is_empty() || self.wire.as_ref().is_some_and(Wire::is_blocked)
    }

    /// Whether its next request may leave now.
    pub(super) fn may_send(&self, load: &Load, open_loop: bool) -> bool {
        let Some(wire) = &self.wire else { return false };
        !wire.is_blocked()
            && self.flights.len() < load.in_flight as usize
            && (!open_loop || u64::from(self.requests) < self.due)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chronik_client::Acks;

    use super::super::plan::Target;
    use super::*;

    #[test]
    fn producers_are_spread_over_leaders_and_partitions() {
        let target =
            |index: i32, address: &str| Target { index, address: address.to_owned(), start_offset: 0 };
        let plan = Plan {
            version: 13,
            topic: "t".to_owned(),
            topic_id: uuid::Uuid::nil(),
            targets: vec![target(0, "a:1"), target(1, "b:1"), target(2, "a:1"), target(3, "a:1")],
            identities: Vec::new(),
            created: true,
        };
        let load = Load {
            producers: 6,
            in_flight: 1,
            record_bytes: 100,
            records_per_batch: 1,
            acks: Acks::Leader,
            warmup: Duration::ZERO,
            duration: Duration::from_secs(1),
            rate: None,
            seed: 1,
            keep_ledger: false,
        };
        let producers = lay_out(&plan, &load);
        let first = |p: &Producer| (p.address.to_string(), p.targets[p.turn]);
        let first: Vec<_> = producers.iter().map(first).collect();
        let at = |address: &str, target| (address.to_owned(), target);
        assert_eq!(
            first,
            [at("a:1", 0), at("b:1", 1), at("a:1", 2), at("b:1", 1), at("a:1", 3), at("b:1", 1)]
        );
    }
}
