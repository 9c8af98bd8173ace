//! One simulated run: a broker, its clients, and everything that happens to it, from one seed.

mod chores;

use chronik_core::ids::{TopicId, TopicIdPartition, Uuid};
use chronik_core::metadata::image::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use chronik_core::wal::commit::max_entry_bytes;
use chronik_core::wal::format::BLOCK;
use chronik_core::wal::profile::{AckMode, PolicyKind, WalProfile};

use crate::bugs::Bugs;
use crate::cast::{COORDINATORS, Cast};
use crate::clients::Client;
use crate::damage;
use crate::env::{Env, Event, Halt};
use crate::invariants::{self, Violation};
use crate::post::Letter;
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::shell::{Broker, Settings};
use crate::stats::{Fault, Stats};
use crate::topics::{Catalog, DATA_TOPIC, Kind, Topic, partition_of};

/// What became of a run.
#[derive(Debug)]
pub struct Report {
    pub stats: Stats,
    pub trace_hash: u64,
    pub violation: Option<Violation>,
}

struct World {
    scenario: Scenario,
    env: Env,
    settings: Settings,
    broker: Option<Broker>,
    clients: Vec<Client>,
    cast: Cast,
    catalog: Catalog,
    topics: u128,
    lives: u64,
    lives_wanted: u64,
    damage_percent: u64,
    /// How the life before this one ended.
    killed_before: bool,
    /// How this one will end.
    power: bool,
    /// When the present clean stop began.
    stopping_since_us: Option<u64>,
}

/// A clean stop takes less, whatever the disk does.
const STOP_MAX_US: u64 = 2_000_000;

/// Runs one seed to its end, or to the first violation.
pub fn run(scenario: Scenario, seed: u64, bugs: Bugs, trace: bool) -> Report {
    let mut world = World::new(scenario, seed, bugs, trace);
    let violation = match world.live() {
        Ok(()) => None,
        Err(Halt::Violated(violation)) => Some(violation),
        Err(Halt::Crashed) => Some(Violation::new("the_simulator_is_sound", "a crash nobody handled")),
    };
    let mut stats = world.env.stats;
    stats.virtual_us = world.env.now_us;
    Report { stats, trace_hash: world.env.trace_hash, violation }
}

fn settings(rng: &mut Rng, bugs: Bugs) -> Settings {
    let profile = |policy, rng: &mut Rng| WalProfile {
        policy,
        max_delay_us: rng.between(100, 3000),
        max_group_records: rng.between(2, 200),
        max_group_bytes: rng.between(4096, 100_000),
        max_queue_records: 1000,
        max_queue_bytes: 1 << 20,
        ack: AckMode::Durable,
    };
    Settings {
        file_bytes: rng.between(32, 64) * BLOCK as u64,
        max_files: rng.between(3, 6) as usize,
        in_flight: rng.between(1, 4) as usize,
        dsync: rng.percent(50),
        profiles: PolicyKind::ALL.iter().map(|policy| profile(*policy, rng)).collect(),
        cleaner_keys: rng.between(4, 30) as usize,
        keep_percent: rng.between(0, 100),
        write_errors_permille: if rng.percent(20) { 3 } else { 0 },
        bugs,
    }
}

impl World {
    fn new(scenario: Scenario, seed: u64, bugs: Bugs, trace: bool) -> World {
        let mut rng = Rng::new(seed);
        let settings = settings(&mut rng, bugs);
        let lives_wanted = rng.between(4, 9);
        let damage_percent = if rng.percent(50) { 0 } else { 45 };
        let partitions = rng.between(1, 5);
        let clients = rng.between(2, 6) as usize;
        let mut env = Env::new(rng, trace);
        let max_batch = max_entry_bytes(settings.file_bytes) as usize;
        let clients =
            (0..clients).map(|n| Client::new(&mut env, n, settings.profiles.len(), max_batch)).collect();
        let mut world = World {
            scenario,
            env,
            settings,
            broker: None,
            clients,
            cast: Cast::default(),
            catalog: Catalog::new(),
            topics: 0,
            lives: 0,
            lives_wanted,
            damage_percent,
            killed_before: false,
            power: false,
            stopping_since_us: None,
        };
        match scenario {
            Scenario::Storage => (0..partitions).for_each(|_| _ = world.new_partition()),
            Scenario::Coordinators => world.cast_actors(partitions.min(3) as i32),
        }
        world
    }

    /// Who transacts, and what for: `data` partitions, and those of the coordinators.
    fn cast_actors(&mut self, data: i32) {
        for (name, kind, partitions) in [
            (DATA_TOPIC, Kind::Clients, data),
            (OFFSETS_TOPIC, Kind::Groups, COORDINATORS),
            (TRANSACTIONS_TOPIC, Kind::Transactions, COORDINATORS),
        ] {
            for index in 0..partitions {
                let topic = Topic::kept(kind, &mut self.env.rng);
                self.add_partition(partition_of(name, index), topic);
            }
        }
        self.cast = Cast::draw(&mut self.env, self.clients.len(), data);
        self.clients.truncate(2);
    }

    fn add_partition(&mut self, tp: TopicIdPartition, topic: Topic) {
        self.catalog.insert(tp, topic);
        self.env.history.partition(tp).topic = Some(topic);
    }

    fn new_partition(&mut self) -> (TopicIdPartition, Topic) {
        self.topics += 1;
        let tp = TopicIdPartition { topic_id: TopicId(Uuid::from_u128(self.topics)), partition: 0 };
        let topic = Topic::draw(&mut self.env.rng);
        self.add_partition(tp, topic);
        (tp, topic)
    }

    fn live(&mut self) -> Result<(), Halt> {
        self.env.after(0, Event::Start);
        self.env.after(500, Event::Fetch);
        self.env.after(700, Event::WriteBack);
        match self.scenario {
            Scenario::Storage => {
                self.env.after(4000, Event::Administer);
                self.env.after(3000, Event::DeleteRecords);
            }
            Scenario::Coordinators => self.env.after(1000, Event::Review),
        }
        for client in 0..self.clients.len() {
            self.env.after(100, Event::Send { client });
        }
        while self.lives <= self.lives_wanted {
            let Some(event) = self.env.next_event() else { break };
            match self.handle(event) {
                Err(Halt::Crashed) => self.crash()?,
                other => other?,
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), Halt> {
        let env = &mut self.env;
        let life_of_broker = self.broker.as_ref().map(|b| b.life);
        let alive = |life: u64| life_of_broker == Some(life);
        match event {
            Event::Start => return self.start(),
            Event::Crash { life } if alive(life) => return self.crash(),
            Event::Stop { life } if alive(life) => return self.stop(life),
            Event::Fetch => return self.fetch(),
            Event::Administer => return self.administer(),
            Event::DeleteRecords => return self.delete_records(),
            Event::Send { client } => self.clients[client].send(env, &self.catalog),
            Event::Timeout { client, connection, batch } => {
                self.clients[client].timed_out(env, connection, batch);
            }
            Event::Respond(request, outcome) => match self.clients.get_mut(request.client) {
                Some(client) => client.answered(env, request, outcome)?,
                None => self.cast.stored(env, request, outcome),
            },
            Event::Review => return self.review(),
            Event::Act { actor } => self.cast.act(env, actor),
            Event::Late { actor, number } => self.cast.late(env, actor, number),
            Event::Deliver { letter } => return self.deliver(letter),
            Event::WriteBack => {
                let delay = env.rng.between(500, 5000);
                env.after(delay, Event::WriteBack);
                env.disk.write_back_some(&mut env.rng);
            }
            _ => {}
        }
        let Some(broker) = &mut self.broker else { return Ok(()) };
        let failed = broker.has_failed();
        match event {
            Event::Poll { life } if alive(life) => broker.pump(env)?,
            Event::Landed { life, flight } if alive(life) => broker.landed(env, flight)?,
            Event::Synced { life, flight, inode } if alive(life) => broker.synced(env, flight, inode)?,
            Event::FileMade { life } if alive(life) => broker.file_made(env)?,
            Event::Segments { life } if alive(life) => broker.write_segments(env)?,
            Event::Clean { life } if alive(life) => broker.clean(env)?,
            Event::Evict { life } if alive(life) => {
                broker.evict(env);
                let delay = env.rng.between(500, 8000);
                env.after(delay, Event::Evict { life });
            }
            Event::Load { life, tp } if alive(life) => broker.load(env, tp)?,
            Event::Tick { life, tp } if alive(life) => broker.tick(env, tp)?,
            Event::Marker { life, decision } if alive(life) => broker.place_marker(env, decision)?,
            Event::Arrive(request) if alive(request.life) => {
                let profile = self.clients.get(request.client).map_or(0, |client| client.profile);
                broker.produce(env, request, profile)?;
            }
            _ => {}
        }
        if broker.has_failed() && !failed {
            // The process exits, though not at once.
            let delay = env.rng.between(0, 3000);
            env.after(delay, Event::Crash { life: broker.life });
        }
        Ok(())
    }

    /// A letter has come to whom it is for.
    fn deliver(&mut self, letter: u64) -> Result<(), Halt> {
        match (self.env.post.take(letter), &mut self.broker) {
            (Some(Letter::Tell { to, told }), _) => Ok(self.cast.hear(&mut self.env, to, *told)?),
            (Some(Letter::Ask { life, from, ask }), Some(broker)) if broker.life == life => {
                broker.ask(&mut self.env, from, ask)
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self) -> Result<(), Halt> {
        let env = &mut self.env;
        self.lives += 1;
        let life = self.lives;
        env.note("start", &[life]);
        if env.rng.percent(20) && life > 1 {
            let operations = env.rng.below(25);
            env.disk.light_fuse(operations);
        }
        let started = Broker::start(env, &self.settings, life, &self.catalog);
        let broker = match started {
            Err(Halt::Crashed) => {
                env.stats.fault(Fault::CrashInRecovery);
                return Err(Halt::Crashed);
            }
            other => other?,
        };
        let unanswered: Vec<usize> = self.clients.iter().flat_map(Client::unanswered).collect();
        invariants::started(env, &broker, &unanswered)?;
        env.life = life;
        self.broker = Some(broker);
        let segments = env.rng.between(300, 4000);
        env.after(segments, Event::Segments { life });
        env.after(segments / 2, Event::Evict { life });
        env.after(segments, Event::Clean { life });
        self.plan_the_end(life);
        match self.scenario {
            Scenario::Storage => Ok(()),
            Scenario::Coordinators => self.review_all(),
        }
    }

    /// Decides how and when this life ends.
    fn plan_the_end(&mut self, life: u64) {
        let env = &mut self.env;
        let soon_again = self.killed_before && env.rng.percent(50);
        self.power = soon_again || env.rng.percent(50) || life >= self.lives_wanted;
        let lasts_us = match soon_again || env.rng.percent(20) {
            true => env.rng.between(0, 2500),
            false => env.rng.between(2000, 40_000),
        };
        match env.rng.percent(10) {
            true => env.after(lasts_us, Event::Stop { life }),
            false => env.after(lasts_us, Event::Crash { life }),
        }
    }

    fn stop(&mut self, life: u64) -> Result<(), Halt> {
        let env = &mut self.env;
        let Some(broker) = &mut self.broker else { return Ok(()) };
        broker.stop(env)?;
        if broker.is_quiet() {
            env.stats.fault(Fault::CleanStop);
            return self.crash();
        }
        let since_us = *self.stopping_since_us.get_or_insert(env.now_us);
        if env.now_us > since_us + STOP_MAX_US {
            return Err(Violation::new("a_clean_stop_ends", "the log is not quiet").into());
        }
        env.after(200, Event::Stop { life });
        Ok(())
    }

    /// The end of a life: at once, or between any two of the next operations on the disk.
    fn crash(&mut self) -> Result<(), Halt> {
        let env = &mut self.env;
        if let Some(broker) = &self.broker
            && !env.disk.has_fuse()
            && env.rng.percent(50)
        {
            let operations = env.rng.below(6);
            env.disk.light_fuse(operations);
            let delay = env.rng.between(50, 500);
            env.after(delay, Event::Crash { life: broker.life });
            return Ok(());
        }
        let power = self.power;
        env.note(if power { "power loss" } else { "kill" }, &[self.lives]);
        env.stats.fault(if power { Fault::PowerLoss } else { Fault::Kill });
        if power && self.killed_before && self.broker.is_some() {
            env.stats.fault(Fault::KillThenPowerLoss);
        }
        self.killed_before = !power;
        self.broker = None;
        self.stopping_since_us = None;
        env.life = 0;
        env.disk.crash(power, &mut env.rng, &mut env.stats);
        let strikes = if env.rng.percent(self.damage_percent) { env.rng.between(1, 2) } else { 0 };
        for _ in 0..strikes {
            damage::strike(env);
        }
        // A crash in a recovery may be of either kind, too.
        self.power = env.rng.percent(50);
        let delay = env.rng.between(100, 2000);
        env.after(delay, Event::Start);
        Ok(())
    }
}
