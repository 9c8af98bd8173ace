//! What broker and clients live in: the disk, the clock, the dice, and the agenda of events.

use std::collections::BTreeMap;

use chronik_core::ids::TopicIdPartition;

use crate::disk::{Disk, DiskError, Inode};
use crate::history::History;
use crate::invariants::Violation;
use crate::post::{Letter, Post};
use crate::rng::Rng;
use crate::stats::Stats;

/// An answer to a produce request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Stored,
    /// With Kafka's error code.
    Refused(i16),
    /// The partition is deleted or fenced.
    Gone,
}

/// A produce request: from whom, over which of its connections, which batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub client: usize,
    pub connection: u64,
    /// The life of the broker that the connection was made to.
    pub life: u64,
    pub batch: usize,
}

/// `life` counts the broker's starts: what belongs to an earlier life is void.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Poll {
        life: u64,
    },
    Landed {
        life: u64,
        flight: u64,
    },
    Synced {
        life: u64,
        flight: u64,
        inode: Inode,
    },
    FileMade {
        life: u64,
    },
    Segments {
        life: u64,
    },
    Clean {
        life: u64,
    },
    Evict {
        life: u64,
    },
    Arrive(Request),
    Respond(Request, Outcome),
    Timeout {
        client: usize,
        connection: u64,
        batch: usize,
    },
    Send {
        client: usize,
    },
    /// A letter comes to whom it is for.
    Deliver {
        letter: u64,
    },
    /// A client of coordinators does something.
    Act {
        actor: usize,
    },
    /// It has waited long enough for the answer to this request.
    Late {
        actor: usize,
        number: u64,
    },
    /// A coordinator's partition is loaded.
    Load {
        life: u64,
        tp: TopicIdPartition,
    },
    /// A coordinator has something to do by the clock.
    Tick {
        life: u64,
        tp: TopicIdPartition,
    },
    /// The next marker of a decision that is being carried out.
    Marker {
        life: u64,
        decision: u64,
    },
    /// Somebody reads what is decided.
    Review,
    Fetch,
    Administer,
    DeleteRecords,
    WriteBack,
    Stop {
        life: u64,
    },
    Crash {
        life: u64,
    },
    Start,
}

/// Why the broker cannot go on with what it is doing.
#[derive(Debug)]
pub enum Halt {
    /// The machine has crashed under it.
    Crashed,
    /// An invariant does not hold.
    Violated(Violation),
}

impl From<DiskError> for Halt {
    fn from(error: DiskError) -> Halt {
        match error {
            DiskError::Crashed => Halt::Crashed,
            // Only groups and new files are made to fail, and those are handled where they fail.
            other => Halt::Violated(Violation::new("no_unexpected_error", format!("{other:?}"))),
        }
    }
}

impl From<Violation> for Halt {
    fn from(violation: Violation) -> Halt {
        Halt::Violated(violation)
    }
}

pub struct Env {
    pub disk: Disk,
    pub history: History,
    pub rng: Rng,
    pub stats: Stats,
    pub post: Post,
    pub now_us: u64,
    /// Of the broker; 0 while it is down.
    pub life: u64,
    agenda: BTreeMap<(u64, u64), Event>,
    events: u64,
    /// Prints each event.
    pub trace: bool,
    /// Of all that happened: two runs with the same hash took the same course.
    pub trace_hash: u64,
}

impl Env {
    pub fn new(rng: Rng, trace: bool) -> Env {
        Env {
            disk: Disk::default(),
            history: History::default(),
            rng,
            stats: Stats::default(),
            post: Post::default(),
            now_us: 0,
            life: 0,
            agenda: BTreeMap::new(),
            events: 0,
            trace,
            trace_hash: 0xCBF2_9CE4_8422_2325,
        }
    }

    /// The records' time, and that of what is kept how long: a thousand times as fast as the disks', so that a broker's
    /// life of some milliseconds sees records grow old.
    pub fn now_ms(&self) -> i64 {
        self.now_us as i64
    }

    /// A time for the records of a batch that no other batch has.
    pub fn fresh_time_ms(&self) -> i64 {
        self.now_ms().max(self.history.sent.last().map_or(0, |sent| sent.time_ms + 1))
    }

    /// Sends a letter that arrives so many microseconds from now; returns its number.
    pub fn send(&mut self, delay_us: u64, letter: Letter) -> u64 {
        let letter = self.post.put(letter);
        self.after(delay_us, Event::Deliver { letter });
        letter
    }

    /// Puts an event on the agenda, so many microseconds from now.
    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.events += 1;
        self.agenda.insert((self.now_us + delay_us, self.events), event);
    }

    /// The next event; the clock moves to it.
    pub fn next_event(&mut self) -> Option<Event> {
        let ((at, _), event) = self.agenda.pop_first()?;
        self.now_us = at;
        Some(event)
    }

    /// Notes what happened, for the trace and its hash.
    pub fn note(&mut self, what: &str, facts: &[u64]) {
        let mut hash = self.trace_hash;
        for byte in what.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
        }
        for fact in facts.iter().chain([&self.now_us]) {
            hash = (hash ^ fact).wrapping_mul(0x100_0000_01B3).rotate_left(29);
        }
        self.trace_hash = hash;
        if self.trace {
            println!("{:>9} us  {what} {facts:?}", self.now_us);
        }
    }
}
