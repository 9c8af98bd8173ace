//! Clients of the coordinators: members of groups of both protocols, and transactional producers. They wait for one answer
//! at a time, ask again when none comes, stall, and die.

mod consumer;
mod line;
mod member;
mod transactor;

use chronik_core::ids::TopicIdPartition;
use chronik_core::metadata::image::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use chronik_core::txn::TransactionVersion;
use kafka_protocol::protocol::StrBytes;

use crate::env::{Env, Event, Outcome, Request};
use crate::invariants::Violation;
use crate::post::{Address, Told};
use crate::shell::ASSIGNMENT_INTERVAL_MS;
use crate::topics::partition_of;
use consumer::Consumer;
use member::Member;
use transactor::Transactor;

/// Partitions of each coordinator's topic.
pub const COORDINATORS: i32 = 2;

enum Actor {
    Member(Member),
    Consumer(Consumer),
    Transactor(Transactor),
}

/// Numbered behind the plain and idempotent producers.
#[derive(Default)]
pub struct Cast {
    first: usize,
    actors: Vec<Actor>,
}

/// What two producers share, if they do: each takes itself for the one.
const IDS: [&str; 4] = ["one", "two", "one", "three"];

fn coordinator(topic: &str, name: &str) -> TopicIdPartition {
    let sum: u32 = name.bytes().map(u32::from).sum();
    partition_of(topic, (sum % COORDINATORS as u32) as i32)
}

impl Cast {
    /// `first` is the number of the first actor; `data` are the partitions of the topic that transactions write to.
    pub fn draw(env: &mut Env, first: usize, data: i32) -> Cast {
        let mut actors = Vec::new();
        let producers = env.rng.between(2, IDS.len() as u64) as usize;
        for id in IDS.into_iter().take(producers) {
            let version = match env.rng.percent(50) {
                true => TransactionVersion::V2,
                false => TransactionVersion::V0,
            };
            let id = StrBytes::from_static_str(id);
            let group = StrBytes::from_string(format!("of-{id}"));
            let groups_at = coordinator(OFFSETS_TOPIC, &group);
            if !env.history.consumer_groups.iter().any(|(known, _)| *known == group) {
                env.history.consumer_groups.push((group.clone(), groups_at));
            }
            let ids_at = coordinator(TRANSACTIONS_TOPIC, &id);
            let number = first + actors.len();
            let transactor = Transactor::new(env, number, (id, ids_at), (group, groups_at), version, data);
            actors.push(Actor::Transactor(transactor));
        }
        let group = StrBytes::from_static_str("members");
        let at = coordinator(OFFSETS_TOPIC, &group);
        env.history.consumer_groups.push((group.clone(), at));
        for _ in 0..env.rng.between(1, 4) {
            let number = first + actors.len();
            actors.push(Actor::Member(Member::new(env, number, group.clone(), at)));
        }
        let group = StrBytes::from_static_str("consumers");
        let at = coordinator(OFFSETS_TOPIC, &group);
        env.history.consumer_groups.push((group.clone(), at));
        env.history.of_consumer_protocol.insert(group.clone());
        for _ in 0..env.rng.between(1, 3) {
            let number = first + actors.len();
            actors.push(Actor::Consumer(Consumer::new(env, number, group.clone(), at)));
        }
        for actor in 0..actors.len() {
            // Not at a time at which groups take the epoch of all clocks for the time of their last assignment.
            env.after(ASSIGNMENT_INTERVAL_MS as u64, Event::Act { actor: first + actor });
        }
        Cast { first, actors }
    }

    fn actor(&mut self, number: usize) -> Option<&mut Actor> {
        self.actors.get_mut(number.checked_sub(self.first)?)
    }

    pub fn act(&mut self, env: &mut Env, number: usize) {
        match self.actor(number) {
            Some(Actor::Member(member)) => member.act(env),
            Some(Actor::Consumer(consumer)) => consumer.act(env),
            Some(Actor::Transactor(transactor)) => transactor.act(env),
            None => {}
        }
    }

    pub fn late(&mut self, env: &mut Env, actor: usize, number: u64) {
        match self.actor(actor) {
            Some(Actor::Member(member)) => member.late(env, number),
            Some(Actor::Consumer(consumer)) => consumer.late(env, number),
            Some(Actor::Transactor(transactor)) => transactor.late(env, number),
            None => {}
        }
    }

    /// A coordinator's answer has come.
    pub fn hear(&mut self, env: &mut Env, to: Address, told: Told) -> Result<(), Violation> {
        match self.actor(to.actor) {
            Some(Actor::Member(member)) => member.hear(env, to.number, told),
            Some(Actor::Consumer(consumer)) => consumer.hear(env, to.number, told),
            Some(Actor::Transactor(transactor)) => transactor.hear(env, to.number, told),
            // Some do not wait for theirs.
            None => Ok(()),
        }
    }

    /// The answer to a batch has come.
    pub fn stored(&mut self, env: &mut Env, request: Request, outcome: Outcome) {
        if let Some(Actor::Transactor(transactor)) = self.actor(request.client) {
            transactor.stored(env, request, outcome);
        }
    }
}
