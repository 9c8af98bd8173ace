//! What is logged: a level for each part of the program that has one of its own, and one for the rest.
//!
//! `CHRONIK_LOG` says it at the start. While the broker runs it is altered as Kafka's loggers are (KIP-412), and what was
//! altered is forgotten when it stops.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use chronik_core::controller::{AlterOp, ConfigOp};
use thiserror::Error;
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

/// Kafka's name of the logger that all others follow.
pub const ROOT: &str = "root";

/// What is logged unless somebody says otherwise.
const DEFAULT: &str = "info,openraft=warn";

/// The parts that can be told apart by their modules, whether or not they have a level of their own.
const PARTS: [&str; 14] = [
    "chronik_broker",
    "chronik_broker::admin",
    "chronik_broker::api",
    "chronik_broker::config",
    "chronik_broker::coordinator",
    "chronik_broker::group",
    "chronik_broker::net",
    "chronik_broker::placement",
    "chronik_broker::quorum",
    "chronik_broker::run",
    "chronik_broker::storage",
    "chronik_broker::storage::wal",
    "chronik_broker::txn",
    "openraft",
];

/// Kafka's levels, and the nearest ones here.
const LEVELS: [(&str, LevelFilter); 6] = [
    ("DEBUG", LevelFilter::DEBUG),
    ("ERROR", LevelFilter::ERROR),
    ("FATAL", LevelFilter::ERROR),
    ("INFO", LevelFilter::INFO),
    ("TRACE", LevelFilter::TRACE),
    ("WARN", LevelFilter::WARN),
];

/// Why a change was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LoggerError {
    #[error("Logger {0} does not exist!")]
    Unknown(String),
    #[error(
        "Cannot set the log level of {name} to {level} as it is not a supported log level. Valid log levels are {}",
        LEVELS.map(|(name, _)| name).join(", ")
    )]
    Level { name: String, level: String },
    #[error("Removing the log level of the root logger is not allowed")]
    Root,
    #[error("{0} operation is not allowed for the BROKER_LOGGER resource")]
    Operation(&'static str),
}

/// The loggers of this process. Until [`start`], nothing is logged by them.
pub static LOGGERS: LazyLock<Loggers> = LazyLock::new(|| Loggers::new(&Targets::new()));

/// Begins to log to standard error, by a filter as in `CHRONIK_LOG`.
///
/// # Errors
/// When the filter cannot be read.
pub fn start(filter: Option<&str>) -> Result<(), ParseError> {
    let targets: Targets = filter.unwrap_or(DEFAULT).parse()?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let (filter, handle) = reload::Layer::new(targets.clone());
    tracing_subscriber::registry().with(filter).with(lines).init();
    LOGGERS.take_over(&targets, handle);
    Ok(())
}

/// Levels by name, and the subscriber that is told of changes.
pub struct Loggers(Mutex<State>);

struct State {
    root: LevelFilter,
    /// Of those that have one of their own.
    own: BTreeMap<String, LevelFilter>,
    handle: Option<reload::Handle<Targets, Registry>>,
}

impl Loggers {
    fn new(targets: &Targets) -> Loggers {
        Loggers(Mutex::new(State::of(targets)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_over(&self, targets: &Targets, handle: reload::Handle<Targets, Registry>) {
        *self.state() = State { handle: Some(handle), ..State::of(targets) };
    }

    /// Every logger with the level that acts, by [name](logger_of).
    pub fn levels(&self) -> Vec<(String, String)> {
        let state = self.state();
        let shown = |level: LevelFilter| level.to_string().to_uppercase();
        state.names().into_iter().map(|name| (logger_of(name), shown(state.level(name)))).collect()
    }

    /// Judges all changes, and then makes them, unless they were to be judged only.
    ///
    /// # Errors
    /// What Kafka refuses, too.
    pub fn alter(&self, ops: &[ConfigOp], validate_only: bool) -> Result<(), LoggerError> {
        let mut state = self.state();
        let ops = || ops.iter().map(|op| (module_of(&op.name), op));
        for (module, op) in ops() {
            state.check(&module, op)?;
        }
        if validate_only {
            return Ok(());
        }
        for (module, op) in ops() {
            let level = op.value.as_deref().and_then(level).filter(|_| op.op == AlterOp::Set);
            match level {
                Some(level) => tracing::warn!("the log level of {} is {level} from now on", op.name),
                None => tracing::warn!("{} has no log level of its own any more", op.name),
            }
            state.set(&module, level);
        }
        state.tell();
        Ok(())
    }
}

/// A part's name as a logger: Kafka's tools know no colons in names.
fn logger_of(module: &str) -> String {
    module.replace("::", ".")
}

/// The part that a logger is for; a name as in `CHRONIK_LOG` does as well.
fn module_of(logger: &str) -> String {
    logger.replace('.', "::")
}

/// A level by Kafka's name. What was compiled out does not come back.
fn level(name: &str) -> Option<LevelFilter> {
    let (_, level) = LEVELS.iter().find(|(known, _)| *known == name)?;
    Some((*level).min(STATIC_MAX_LEVEL))
}

impl State {
    fn of(targets: &Targets) -> State {
        let root = targets.default_level().unwrap_or(LevelFilter::OFF);
        let own = targets.iter().map(|(name, level)| (name.to_string(), level)).collect();
        State { root, own, handle: None }
    }

    fn names(&self) -> BTreeSet<&str> {
        let own = self.own.keys().map(String::as_str);
        PARTS.into_iter().chain([ROOT]).chain(own).collect()
    }

    /// A part without a level of its own has that of the smallest part around it that has.
    fn level(&self, name: &str) -> LevelFilter {
        let around = self.own.iter().filter(|(part, _)| name.starts_with(part.as_str()));
        around.max_by_key(|(part, _)| part.len()).map_or(self.root, |(_, level)| *level)
    }

    fn check(&self, module: &str, op: &ConfigOp) -> Result<(), LoggerError> {
        let name = op.name.clone();
        let exists = self.names().contains(module);
        match op.op {
            AlterOp::Append => Err(LoggerError::Operation("APPEND")),
            AlterOp::Subtract => Err(LoggerError::Operation("SUBTRACT")),
            AlterOp::Set | AlterOp::Delete if !exists => Err(LoggerError::Unknown(name)),
            AlterOp::Delete if op.name == ROOT => Err(LoggerError::Root),
            AlterOp::Delete => Ok(()),
            AlterOp::Set => match op.value.as_deref() {
                Some(value) if level(value).is_some() => Ok(()),
                value => Err(LoggerError::Level { name, level: value.unwrap_or_default().to_string() }),
            },
        }
    }

    fn set(&mut self, name: &str, level: Option<LevelFilter>) {
        match level {
            Some(level) if name == ROOT => self.root = level,
            Some(level) => {
                self.own.insert(name.to_string(), level);
            }
            None => {
                self.own.remove(name);
            }
        }
    }

    fn tell(&self) {
        let own = self.own.iter().map(|(name, level)| (name.clone(), *level));
        let targets = Targets::new().with_default(self.root).with_targets(own);
        if let Some(Err(e)) = self.handle.as_ref().map(|handle| handle.reload(targets)) {
            tracing::error!("log levels could not be changed: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> ConfigOp {
        ConfigOp { name: name.to_string(), op: AlterOp::Set, value: Some(value.to_string()) }
    }

    fn delete(name: &str) -> ConfigOp {
        ConfigOp { name: name.to_string(), op: AlterOp::Delete, value: None }
    }

    fn of(loggers: &Loggers, name: &str) -> String {
        loggers.levels().into_iter().find(|(known, _)| known == name).unwrap().1
    }

    #[test]
    fn a_part_follows_the_one_around_it() {
        let loggers = Loggers::new(&"info,chronik_broker::storage=error,openraft=warn".parse().unwrap());
        let of = |name: &str| of(&loggers, name);
        assert_eq!([of(ROOT), of("chronik_broker.net"), of("openraft")], ["INFO", "INFO", "WARN"]);
        assert_eq!(of("chronik_broker.storage.wal"), "ERROR");
        let ops =
            [set(ROOT, "WARN"), set("chronik_broker::storage", "DEBUG"), set("chronik_broker.net", "FATAL")];
        assert_eq!(loggers.alter(&ops, true), Ok(()));
        assert_eq!(of(ROOT), "INFO", "it was only judged");
        loggers.alter(&ops, false).unwrap();
        assert_eq!([of(ROOT), of("chronik_broker.txn")], ["WARN", "WARN"]);
        assert_eq!([of("chronik_broker.storage.wal"), of("chronik_broker.net")], ["DEBUG", "ERROR"]);
        loggers.alter(&[delete("chronik_broker::storage"), delete("openraft")], false).unwrap();
        assert_eq!([of("chronik_broker.storage.wal"), of("openraft")], ["WARN", "WARN"]);
    }

    #[test]
    fn refusals_are_kafkas_and_change_nothing() {
        let loggers = Loggers::new(&"info".parse().unwrap());
        let append = |op| ConfigOp { op, ..set(ROOT, "INFO") };
        for (op, words) in [
            (set("nobody", "INFO"), "Logger nobody does not exist!"),
            (delete("nobody"), "Logger nobody does not exist!"),
            (set("openraft", "LOUD"), "Valid log levels are DEBUG, ERROR, FATAL, INFO, TRACE, WARN"),
            (delete(ROOT), "Removing the log level of the root logger is not allowed"),
            (append(AlterOp::Append), "APPEND operation is not allowed"),
            (append(AlterOp::Subtract), "SUBTRACT operation is not allowed"),
        ] {
            let before = loggers.levels();
            let why = loggers.alter(&[set("openraft", "ERROR"), op], false).unwrap_err().to_string();
            assert!(why.contains(words), "{why}");
            assert_eq!(loggers.levels(), before);
        }
    }

    /// The list of parts is kept by hand.
    #[test]
    fn every_part_is_a_module_that_logs() {
        let broker = module_path!().split("::").next().unwrap();
        let ours = PARTS.iter().filter_map(|part| part.strip_prefix(broker));
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for part in ours.filter(|part| !part.is_empty()) {
            let path = root.join(part.trim_start_matches("::").replace("::", "/"));
            assert!(path.is_dir() || path.with_extension("rs").is_file(), "{}", path.display());
        }
    }

    #[test]
    fn what_is_altered_acts_at_once() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        struct Count;
        impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Count {
            fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
                SEEN.fetch_add(1, Ordering::Relaxed);
            }
        }
        let targets: Targets = "error".parse().unwrap();
        let loggers = Loggers::new(&targets);
        let (filter, handle) = reload::Layer::new(targets.clone());
        loggers.take_over(&targets, handle);
        let subscriber = tracing_subscriber::registry().with(filter).with(Count);
        tracing::subscriber::with_default(subscriber, || {
            let seen = || {
                tracing::warn!(target: "openraft", "something");
                SEEN.load(Ordering::Relaxed)
            };
            assert_eq!(seen(), 0);
            loggers.alter(&[set("openraft", "WARN")], false).unwrap();
            assert_eq!(seen(), 1);
            loggers.alter(&[delete("openraft")], false).unwrap();
            assert_eq!(seen(), 1);
        });
    }
}
