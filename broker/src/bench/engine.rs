//! The load generator's loop: one thread, one epoll, one frame that is patched for every
//! request. It shares the machine with the broker it measures, so it may cost little: per
//! request one write, one read, a checksum, and no allocation.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use chronik_client::Acks;
use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::frame::{Frame, Layout, Request};
use super::ledger::Ledger;
use super::plan::Plan;
use super::producer::{self, Flight, Producer};
use super::response::{self, Answer};
use super::stats::{Second, Stats, cpu_time};
use super::wire::Wire;

/// How the load is shaped.
#[derive(Debug, Clone)]
pub struct Load {
    /// Connections, each a producer of its own.
    pub producers: u32,
    /// Requests each producer has under way at most.
    pub in_flight: u32,
    /// Bytes of each record's value.
    pub record_bytes: usize,
    /// Records in each request.
    pub records_per_batch: u32,
    /// What the producers wait for.
    pub acks: Acks,
    /// Load before the measured time.
    pub warmup: Duration,
    /// The measured time.
    pub duration: Duration,
    /// Records per second, all producers together; `None` for a closed loop.
    pub rate: Option<u64>,
    /// Goes into every record.
    pub seed: u64,
    /// Whether to note every acknowledgement for the reading back.
    pub keep_ledger: bool,
}

/// A request without an answer after this is lost, and its connection with it.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long the last answers are waited for.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// Between attempts to connect again.
const RECONNECT_EVERY: Duration = Duration::from_millis(100);
/// For the first connection of each producer. A crowd of them overflows a listener's backlog
/// (Kafka's has 50 places), and the kernel tries again only after a second, then two.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// For connecting again, which holds up the other producers.
const RECONNECT_WITHIN: Duration = Duration::from_secs(1);
/// The run is given up when no server takes a connection for this long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// The loop looks at its clocks at least this often.
const TICK_NS: i64 = 50_000_000;
/// Each producer's input buffer: a Produce answer has under 200 bytes.
const INPUT_BYTES: usize = 4096;
/// Kafka's DUPLICATE_SEQUENCE_NUMBER: the records are there, their offset is no longer known.
const DUPLICATE: i16 = 46;
/// The epoll tag of the timer; producers have their number.
const TIMER: u64 = u64::MAX;

/// Why a connection is given up.
enum Lost {
    /// The broker refused a batch of an idempotent producer; what follows it in sequence would be
    /// refused too, so all of it is sent again, in order.
    Refused,
    /// It broke, or what came over it is no answer.
    Broken(io::Error),
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// The engine of one run.
pub struct Engine<'a> {
    plan: &'a Plan,
    load: &'a Load,
    frame: Frame,
    poll: OwnedFd,
    producers: Vec<Producer>,
    stats: Stats,
    ledger: Ledger,
    begun: Instant,
    begun_wall_ms: i64,
    /// Open loop: nanoseconds from one request's due time to the next one's, and how many are due.
    interval_ns: Option<f64>,
    released: u64,
}

/// What a run brought.
pub struct Outcome {
    /// The counts.
    pub stats: Stats,
    /// The fate of every request; empty when it was not kept.
    pub ledger: Ledger,
    /// The measured time.
    pub elapsed: Duration,
}

impl<'a> Engine<'a> {
    /// Connects all producers.
    ///
    /// # Errors
    /// When a connection cannot be made.
    pub fn new(plan: &'a Plan, load: &'a Load) -> Result<Self> {
        let layout = Layout {
            version: plan.version,
            topic: &plan.topic,
            topic_id: plan.topic_id,
            acks: load.acks,
            record_bytes: load.record_bytes,
            records_per_batch: load.records_per_batch,
            seed: load.seed,
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut engine = Self {
            plan,
            load,
            frame: Frame::new(&layout),
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            producers: Vec::new(),
            stats: Stats::new(),
            ledger: Ledger::new(if load.keep_ledger { load.producers as usize } else { 0 }),
            begun: Instant::now(),
            begun_wall_ms: now.as_millis() as i64,
            interval_ns: load.rate.map(|rate| 1e9 * f64::from(load.records_per_batch) / rate.max(1) as f64),
            released: 0,
        };
        engine.producers = producer::lay_out(plan, load);
        for index in 0..engine.producers.len() {
            let address = engine.producers[index].address.clone();
            engine.connect(index, CONNECT_WITHIN).with_context(|| format!("cannot connect to {address}"))?;
        }
        engine.begun = Instant::now();
        Ok(engine)
    }

    /// Runs the load to its end, telling each second.
    ///
    /// # Errors
    /// When no server takes connections any more, or the kernel refuses epoll.
    pub fn run(mut self, mut tell: impl FnMut(&Second)) -> Result<Outcome> {
        let measured_from = self.load.warmup.as_nanos() as u64;
        let ends = measured_from + self.load.duration.as_nanos() as u64;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(&self.poll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        let mut events = Vec::with_capacity(self.producers.len() + 1);
        let mut next_second = 1_000_000_000;
        let mut next_care = 0;
        let mut last_alive = 0;
        let (mut cpu_from, mut measuring) = (Duration::ZERO, false);
        if self.interval_ns.is_none() {
            for index in 0..self.producers.len() {
                self.top_up(index, true);
            }
        }
        loop {
            let now = self.now_ns();
            if !measuring && now >= measured_from {
                (cpu_from, measuring) = (cpu_time(), true);
            }
            if now >= ends {
                break;
            }
            self.release(now, &timer)?;
            self.turn(&mut events, measured_from, ends, true)?;
            let now = self.now_ns();
            if now >= next_second {
                let at = next_second / 1_000_000_000;
                tell(&self.stats.take_second(at, now < measured_from, self.load.records_per_batch));
                next_second += 1_000_000_000;
            }
            if now >= next_care {
                next_care = now + RECONNECT_EVERY.as_nanos() as u64;
                if self.care(now) {
                    last_alive = now;
                } else if now - last_alive > GIVE_UP_AFTER.as_nanos() as u64 {
                    bail!("no server has taken a connection for {} s", GIVE_UP_AFTER.as_secs());
                }
            }
        }
        self.stats.cpu = cpu_time().saturating_sub(cpu_from);
        self.drain(&mut events, measured_from, ends)?;
        Ok(Outcome { stats: self.stats, ledger: self.ledger, elapsed: self.load.duration })
    }

    /// Waits for the last answers.
    fn drain(&mut self, events: &mut Vec<epoll::Event>, measured_from: u64, ends: u64) -> Result<()> {
        let patience = self.now_ns() + DRAIN_WITHIN.as_nanos() as u64;
        while self.producers.iter().any(Producer::awaits) && self.now_ns() < patience {
            self.turn(events, measured_from, ends, false)?;
            if self.producers.iter().any(|producer| producer.wire.is_none() && producer.awaits()) {
                self.care(self.now_ns());
            }
        }
        if self.load.acks != Acks::None {
            let left: usize = self.producers.iter().map(|producer| producer.flights.len()).sum();
            self.stats.failed("unanswered", left as u64);
        }
        Ok(())
    }

    /// Waits once and handles what is ready.
    fn turn(
        &mut self,
        events: &mut Vec<epoll::Event>,
        measured_from: u64,
        ends: u64,
        sending: bool,
    ) -> Result<()> {
        events.clear();
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK_NS };
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(events), Some(&tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll_wait"),
        }
        for event in events.iter() {
            let (flags, tag) = (event.flags, event.data.u64());
            if tag == TIMER {
                // Taken note of by being awake; the next release arms it anew.
                continue;
            }
            let index = tag as usize;
            if let Err(error) = self.ready(index, flags, measured_from, ends) {
                self.lost(index, &error);
            }
            self.top_up(index, sending);
        }
        Ok(())
    }

    /// Handles a producer's socket.
    fn ready(
        &mut self,
        index: usize,
        flags: epoll::EventFlags,
        measured_from: u64,
        ends: u64,
    ) -> Result<(), Lost> {
        let producer = &mut self.producers[index];
        let Some(wire) = &mut producer.wire else { return Ok(()) };
        if flags.contains(epoll::EventFlags::OUT) {
            wire.flush()?;
        }
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            wire.receive()?;
            let now = self.begun.elapsed().as_nanos() as u64;
            while let Some(wire) = &mut self.producers[index].wire {
                let Some(frame) = wire.next_frame()? else { break };
                let answer = response::read(frame, self.plan.version)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                self.answered(index, &answer, now, (measured_from..ends).contains(&now))?;
            }
        }
        Ok(())
    }

    fn answered(&mut self, index: usize, answer: &Answer, now: u64, measured: bool) -> Result<(), Lost> {
        let producer = &mut self.producers[index];
        let flight = producer.flights.front().copied();
        let flight = flight
            .filter(|flight| flight.correlation == answer.correlation)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer out of order"))?;
        let duplicate = answer.code == DUPLICATE && producer.identity.is_some();
        if answer.code != 0 && !duplicate {
            self.stats.refused(answer.code);
            if producer.identity.is_some() {
                return Err(Lost::Refused);
            }
            producer.flights.pop_front();
            return Ok(());
        }
        producer.flights.pop_front();
        self.stats.duplicates += u64::from(duplicate);
        self.stats.acknowledged(now.saturating_sub(flight.since_ns), measured);
        if self.load.keep_ledger {
            let start = self.plan.targets[flight.target as usize].start_offset;
            let offset = (!duplicate && answer.base_offset >= 0).then(|| answer.base_offset - start);
            if !self.ledger.acknowledge(producer.number, flight.request, offset) {
                self.stats.failed("acknowledged with an impossible offset", 1);
            }
        }
        Ok(())
    }

    /// Sends as much as the producer may have under way.
    fn top_up(&mut self, index: usize, sending: bool) {
        let open_loop = self.interval_ns.is_some();
        // With acks=0 nothing but the socket's room ends this loop: let others have their turn.
        let unanswered = self.load.acks == Acks::None && !open_loop;
        let mut budget = if unanswered { self.load.in_flight } else { u32::MAX };
        while sending && budget > 0 && self.producers[index].may_send(self.load, open_loop) {
            budget -= 1;
            if let Err(error) = self.send_next(index) {
                self.lost(index, &error.into());
            }
        }
        self.watch(index);
    }

    fn send_next(&mut self, index: usize) -> io::Result<()> {
        let now = self.now_ns();
        let producer = &mut self.producers[index];
        let since_ns = match self.interval_ns {
            None => now,
            // The producer's k-th request is the (k * producers + number)-th of the run.
            Some(interval) => {
                let place = u64::from(producer.requests) * u64::from(self.load.producers)
                    + u64::from(producer.number);
                (place as f64 * interval) as u64
            }
        };
        let target = producer.targets[producer.turn];
        let sequence = producer.sequences.get_mut(producer.turn).map_or(-1, |sequence| {
            let taken = *sequence;
            // Sequences wrap to 0 after the largest.
            *sequence =
                (i64::from(taken) + i64::from(self.load.records_per_batch)).rem_euclid(1 << 31) as i32;
            taken
        });
        producer.turn = (producer.turn + 1) % producer.targets.len();
        let request = producer.requests;
        producer.requests += 1;
        if self.load.keep_ledger {
            self.ledger.open(producer.number);
        }
        let flight = Flight { correlation: 0, request, target, sequence, since_ns };
        self.send(index, flight, now)
    }

    fn send(&mut self, index: usize, mut flight: Flight, now: u64) -> io::Result<()> {
        let measured = self.is_measured(now);
        let producer = &mut self.producers[index];
        producer.correlation = producer.correlation.wrapping_add(1);
        flight.correlation = producer.correlation;
        let request = Request {
            correlation: flight.correlation,
            producer: producer.number,
            request: flight.request,
            partition: self.plan.targets[flight.target as usize].index,
            timestamp: self.begun_wall_ms + (now / 1_000_000) as i64,
            identity: producer.identity.map(|identity| (identity, flight.sequence)),
        };
        if self.load.acks == Acks::None {
            // Nothing will answer: leaving is all there is to count.
            self.stats.acknowledged(0, measured);
        } else {
            producer.flights.push_back(flight);
        }
        match &mut producer.wire {
            Some(wire) => wire.send(self.frame.patch(&request)),
            None => Ok(()),
        }
    }

    fn is_measured(&self, now: u64) -> bool {
        let from = self.load.warmup.as_nanos() as u64;
        (from..from + self.load.duration.as_nanos() as u64).contains(&now)
    }

    /// Open loop: makes due what its time has come for, and arms the timer for the next.
    fn release(&mut self, now: u64, timer: &OwnedFd) -> Result<()> {
        let Some(interval) = self.interval_ns else { return Ok(()) };
        let due = (now as f64 / interval) as u64 + 1;
        while self.released < due {
            let index = (self.released % u64::from(self.load.producers)) as usize;
            self.producers[index].due += 1;
            self.released += 1;
            self.top_up(index, true);
        }
        let next = (self.released as f64 * interval) as u64;
        let wait = next.saturating_sub(self.now_ns()).max(1);
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value =
            Timespec { tv_sec: (wait / 1_000_000_000) as i64, tv_nsec: (wait % 1_000_000_000) as i64 };
        timerfd_settime(
            timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: zero, it_value: value },
        )?;
        Ok(())
    }

    /// Gives a connection up. An idempotent producer keeps what has no answer and sends it again.
    fn lost(&mut self, index: usize, why: &Lost) {
        let now = self.now_ns();
        let producer = &mut self.producers[index];
        producer.wire = None;
        producer.retry_at_ns = now + RECONNECT_EVERY.as_nanos() as u64;
        if let Lost::Broken(error) = why {
            self.stats.failed(&format!("connection lost ({error})"), 1);
        }
        if producer.identity.is_none() {
            self.stats.failed("unanswered", producer.flights.len() as u64);
            producer.flights.clear();
        }
    }

    /// Connects again who lost the connection, and gives up on connections that do not answer.
    /// Whether any producer has a connection.
    fn care(&mut self, now: u64) -> bool {
        let overdue = ANSWER_WITHIN.as_nanos() as u64;
        for index in 0..self.producers.len() {
            let producer = &self.producers[index];
            if producer.wire.is_none() {
                if now >= producer.retry_at_ns && self.connect(index, RECONNECT_WITHIN).is_ok() {
                    self.resend(index);
                }
            } else if self.interval_ns.is_none()
                && producer
                    .flights
                    .front()
                    .is_some_and(|flight| now.saturating_sub(flight.since_ns) > overdue)
            {
                let late = io::Error::new(io::ErrorKind::TimedOut, "no answer within 30 s");
                self.lost(index, &late.into());
            }
        }
        self.producers.iter().any(|producer| producer.wire.is_some())
    }

    fn resend(&mut self, index: usize) {
        let flights = std::mem::take(&mut self.producers[index].flights);
        let now = self.now_ns();
        self.stats.resent += flights.len() as u64;
        for flight in flights {
            if let Err(error) = self.send(index, flight, now) {
                self.lost(index, &error.into());
            }
        }
        let running = now < (self.load.warmup + self.load.duration).as_nanos() as u64;
        self.top_up(index, running);
    }

    fn connect(&mut self, index: usize, within: Duration) -> io::Result<()> {
        let producer = &mut self.producers[index];
        let mut refused = io::Error::other("no such host");
        for address in producer.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, within) {
                Ok(stream) => {
                    let wire = Wire::new(stream, INPUT_BYTES)?;
                    let tag = epoll::EventData::new_u64(index as u64);
                    let writes = self.load.acks == Acks::None;
                    epoll::add(&self.poll, wire.socket(), tag, interest(writes))?;
                    producer.watching_writes = writes;
                    producer.wire = Some(wire);
                    return Ok(());
                }
                Err(error) => refused = error,
            }
        }
        producer.retry_at_ns = self.begun.elapsed().as_nanos() as u64 + RECONNECT_EVERY.as_nanos() as u64;
        Err(refused)
    }

    /// Watches for room in the socket only while bytes wait for it (or nothing else would wake
    /// the producer: `acks=0`).
    fn watch(&mut self, index: usize) {
        let producer = &mut self.producers[index];
        let Some(wire) = &producer.wire else { return };
        let wanted = wire.is_blocked() || (self.load.acks == Acks::None && self.interval_ns.is_none());
        if wanted != producer.watching_writes {
            let tag = epoll::EventData::new_u64(index as u64);
            if epoll::modify(&self.poll, wire.socket(), tag, interest(wanted)).is_ok() {
                producer.watching_writes = wanted;
            }
        }
    }

    fn now_ns(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }
}

fn interest(writes: bool) -> epoll::EventFlags {
    match writes {
        true => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        false => epoll::EventFlags::IN,
    }
}
