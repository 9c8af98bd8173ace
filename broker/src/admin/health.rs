//! Whether the broker lives, and what it still waits for before it is ready.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Set by the parts of the broker, read by `/livez` and `/readyz`.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Why the broker cannot go on; set once.
    failed: Option<String>,
    conditions: BTreeMap<&'static str, Result<(), String>>,
}

impl Health {
    /// What a broker waits for: its log, its metadata, its registration, and its listeners.
    pub const CONDITIONS: [&'static str; 5] =
        ["log-recovered", "metadata-caught-up", "registered", "unfenced", "listening"];

    /// Not ready: none of [`Health::CONDITIONS`] is met yet.
    pub fn new() -> Health {
        let conditions = Self::CONDITIONS.map(|name| (name, Err("not yet".to_string())));
        Health { state: Mutex::new(State { failed: None, conditions: conditions.into() }) }
    }

    /// The condition is met.
    pub fn met(&self, condition: &'static str) {
        self.lock().conditions.insert(condition, Ok(()));
    }

    /// The condition is not met, for this reason.
    pub fn unmet(&self, condition: &'static str, why: impl Into<String>) {
        self.lock().conditions.insert(condition, Err(why.into()));
    }

    /// The broker cannot go on. The first reason stays.
    pub fn fail(&self, why: impl Into<String>) {
        self.lock().failed.get_or_insert(why.into());
    }

    /// Why the broker cannot go on, if so.
    pub fn failure(&self) -> Option<String> {
        self.lock().failed.clone()
    }

    /// What the broker waits for, a line each; empty when it is ready.
    pub fn waiting_for(&self) -> Vec<String> {
        let state = self.lock();
        let unmet = state.conditions.iter();
        let unmet = unmet.filter_map(|(name, met)| Some(format!("{name}: {}", met.as_ref().err()?)));
        state.failed.iter().map(|why| format!("failed: {why}")).chain(unmet).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Health {
    fn default() -> Health {
        Health::new()
    }
}
