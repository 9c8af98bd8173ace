//! What a client has asked, and whether it waits for the answer still.

use crate::env::{Env, Event, Request};
use crate::post::{Address, Ask, Letter};

pub(super) struct Line {
    actor: usize,
    asked: u64,
    awaited: Option<u64>,
    letter: Option<u64>,
    patience_us: u64,
    /// A request that has not arrived when its client gives it up never does.
    hangs_up: bool,
}

impl Line {
    pub fn new(actor: usize, patience_us: u64, hangs_up: bool) -> Line {
        Line { actor, asked: 0, awaited: None, letter: None, patience_us, hangs_up }
    }

    pub fn waits(&self) -> bool {
        self.awaited.is_some()
    }

    pub fn ask(&mut self, env: &mut Env, ask: Ask) {
        let number = self.begin(env);
        let from = Address { actor: self.actor, number };
        let delay_us = env.rng.between(20, 300);
        self.letter = Some(env.send(delay_us, Letter::Ask { life: env.life, from, ask }));
    }

    pub fn produce(&mut self, env: &mut Env, batch: usize) {
        let connection = self.begin(env);
        self.letter = None;
        let request = Request { client: self.actor, connection, life: env.life, batch };
        let delay_us = env.rng.between(20, 300);
        env.after(delay_us, Event::Arrive(request));
    }

    fn begin(&mut self, env: &mut Env) -> u64 {
        self.asked += 1;
        self.awaited = Some(self.asked);
        let delay_us = self.patience_us + env.rng.below(self.patience_us);
        env.after(delay_us, Event::Late { actor: self.actor, number: self.asked });
        self.asked
    }

    /// Whether this is the answer that it waits for; it waits no more then.
    pub fn hears(&mut self, number: u64) -> bool {
        self.awaited.take_if(|awaited| *awaited == number).is_some()
    }

    /// Whether it has waited in vain.
    pub fn is_late(&mut self, env: &mut Env, number: u64) -> bool {
        let late = self.hears(number);
        if late {
            self.hang_up(env);
        }
        late
    }

    /// It waits for nothing any more.
    pub fn hang_up(&mut self, env: &mut Env) {
        self.awaited = None;
        if let Some(letter) = self.letter.take().filter(|_| self.hangs_up) {
            // Gone if it has arrived.
            env.post.take(letter);
        }
    }
}
