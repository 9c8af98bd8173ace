//! The broker's static configuration: typed, validated once, each error naming the key, its value, where it
//! came from and what is allowed.
//!
//! Sources, each before the one above it: defaults, the file of `--config`, the environment, flags, `--set`.
//! Live settings are metadata and do not pass through here; a key that has both forms is checked by the
//! metadata's table and resolved there ([`Config::local`]).

mod args;
mod file;
mod keys;
mod listeners;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use chronik_core::controller::{AlterOp, ConfigOp};
use chronik_core::ids::BrokerId;
use chronik_core::metadata::LocalConfig;
use chronik_core::metadata::config::{ConfigError as SettingError, groups};
use chronik_core::wal::profile::{self, WalProfile};
use thiserror::Error;

pub use args::BrokerArgs;
pub use keys::{KEYS, Key, find, listing};
pub use listeners::{HostPort, Listener};

use crate::storage::wal::FlushMode;

/// Whether the WAL uses io_uring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// When the kernel allows it, else `pwrite`; which and why is said at start.
    #[default]
    Auto,
    /// Refuse to start without it.
    Required,
    /// Use `pwrite`.
    Disabled,
}

/// The configuration of one broker. Fields ending in `_ms` are milliseconds, those in `_bytes` bytes; the
/// meaning of each is in [`KEYS`], beside its name.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub broker_id: BrokerId,
    pub cluster_id: Option<String>,
    pub rack: Option<String>,
    /// At least one; names are unique.
    pub listeners: Vec<Listener>,
    /// The name of one of `listeners`.
    pub inter_broker_listener: String,
    pub request_bytes_max: usize,
    pub connection_idle_ms: u64,
    pub fetch_bytes_max: usize,
    pub fetch_sessions_max: usize,
    pub data_dir: PathBuf,
    pub wal_dir: PathBuf,
    /// One of `wal_profiles`.
    pub wal_profile: String,
    /// The built-in profiles and those defined here, as changed here.
    pub wal_profiles: BTreeMap<String, WalProfile>,
    pub wal_engine: EngineChoice,
    /// `None`: whichever a probe at start finds faster.
    pub wal_flush_mode: Option<FlushMode>,
    /// `None`: chosen by measurement.
    pub wal_in_flight: Option<usize>,
    pub wal_file_bytes: u64,
    pub wal_size_bytes: u64,
    pub tail_cache_bytes: usize,
    pub request_memory_bytes: usize,
    pub requests_max: usize,
    pub responses_per_connection: usize,
    /// `None`: one fewer than the cores, at least one.
    pub worker_threads: Option<usize>,
    pub partial_frame_timeout_ms: u64,
    pub disk_reserve_bytes: u64,
    pub shutdown_timeout_ms: u64,
    pub admin_listen: Option<HostPort>,
    pub admin_token_file: Option<PathBuf>,
    /// Where the addresses for clients and the rack are told, once it is known where this broker runs. Until
    /// then `listeners` advertise what they bind.
    pub placement_dir: Option<PathBuf>,
    /// Every key that was set, with its value and its source; defaults are not here.
    pub set_keys: BTreeMap<String, (String, Source)>,
    /// What the person who starts the broker should hear about, one sentence each.
    pub notes: Vec<String>,
    raw: Raw,
}

/// Values that only make sense together with others; resolved by [`Config::resolve`].
#[derive(Clone, Debug, Default)]
struct Raw {
    listeners: String,
    advertised: String,
    protocols: String,
    inter_broker: String,
    data_dir: Option<PathBuf>,
    wal_dir: Option<PathBuf>,
}

/// Where a value came from, lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Default,
    /// What a running broker knows of itself, for a configuration that is only checked.
    Known,
    File(PathBuf),
    Environment(String),
    Flag(&'static str),
    Set,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("the default"),
            Source::Known => f.write_str("the running broker"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Environment(name) => write!(f, "environment variable {name}"),
            Source::Flag(flag) => write!(f, "flag {flag}"),
            Source::Set => f.write_str("--set"),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("unknown key {key:?} ({origin}){}", hint.map(|h| format!("; did you mean {h}?")).unwrap_or_default())]
    UnknownKey { key: String, origin: Source, hint: Option<&'static str> },
    #[error("{key}={value:?} ({origin}): {allowed}")]
    BadValue { key: String, value: String, origin: Source, allowed: String },
    #[error("{key}={value:?} ({origin}): {name} is another name for it, and says {other:?}")]
    Contradiction { key: &'static str, value: String, origin: Source, name: &'static str, other: String },
    #[error("--set {0:?}: write NAME=VALUE")]
    BadSet(String),
    #[error("configuration file {path}: {why}")]
    File { path: PathBuf, why: String },
    #[error("chronik.data.dir is not set, and neither XDG_DATA_HOME nor HOME names a place for it")]
    NoDataDir,
}

/// Every reason a configuration was refused, a line each.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// What the operating system says about the process: an argument, so that tests can say it.
pub struct Surroundings {
    pub environment: BTreeMap<String, String>,
    pub is_root: bool,
}

impl Surroundings {
    /// Those of this process. Variables that are not UTF-8 are left out.
    pub fn of_this_process() -> Surroundings {
        let environment = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        Surroundings { environment, is_root: rustix::process::geteuid().is_root() }
    }
}

impl Config {
    /// Reads every source and validates the whole; all errors are returned together.
    pub fn load(args: &BrokerArgs, around: &Surroundings) -> Result<Config, ConfigErrors> {
        let mut errors = Vec::new();
        let mut values = Values::default();
        if let Some(path) = &args.config {
            match read_file(path) {
                Ok(pairs) => values.add(&pairs, &Source::File(path.clone()), &mut errors),
                Err(why) => errors.push(ConfigError::File { path: path.clone(), why }),
            }
        }
        for key in KEYS.iter() {
            let name = key.env_name();
            if let Some(value) = around.environment.get(&name) {
                values.put(key, key.name, value, Source::Environment(name), &mut errors);
            }
        }
        for (flag, name, value) in args.keys() {
            values.add(&[(name.to_string(), value)], &Source::Flag(flag), &mut errors);
        }
        for pair in &args.set {
            match pair.split_once('=') {
                Some((name, value)) => {
                    values.add(&[(name.trim().into(), value.into())], &Source::Set, &mut errors)
                }
                None => errors.push(ConfigError::BadSet(pair.clone())),
            }
        }
        Config { notes: stray_variables(around), ..Config::default() }.fill(values, around, errors)
    }

    /// What is wrong with `text`, a YAML configuration file for this very broker: nothing, if a start would take
    /// it. The environment and the flags of this process are left out, since the next may have others; but
    /// who the broker is and where its data are is known, and need not be said. The data are of `cluster_id`.
    pub fn check(&self, text: &str, cluster_id: &str) -> Vec<String> {
        let mut errors = Vec::new();
        let mut values = Values::default();
        let known = [
            ("broker.id", self.broker_id.to_string()),
            ("chronik.data.dir", self.data_dir.display().to_string()),
        ];
        values.add(&known.map(|(name, value)| (name.to_string(), value)), &Source::Known, &mut errors);
        match file::parse(text, false) {
            Ok(pairs) => values.add(&pairs, &Source::File(PathBuf::from("broker.yaml")), &mut errors),
            Err(why) => errors.push(ConfigError::File { path: PathBuf::from("broker.yaml"), why }),
        }
        let nowhere = Surroundings { environment: BTreeMap::new(), is_root: false };
        let errors = match Config::default().fill(values, &nowhere, errors) {
            Ok(next) => next.misplaced(self.broker_id, cluster_id),
            Err(errors) => errors.0,
        };
        errors.iter().map(ToString::to_string).collect()
    }

    /// What would not fit the data of this broker of this cluster.
    fn misplaced(&self, broker_id: BrokerId, cluster_id: &str) -> Vec<ConfigError> {
        let other_cluster = self.cluster_id.as_deref().is_some_and(|id| id != cluster_id);
        let checks = [
            ("broker.id", self.broker_id != broker_id, broker_id.to_string()),
            ("chronik.cluster.id", other_cluster, cluster_id.to_string()),
        ];
        let wrong = checks.into_iter().filter(|(_, wrong, _)| *wrong);
        let error = |(key, _, is): (&str, bool, String)| {
            let (value, origin) = self.set_keys.get(key)?.clone();
            let allowed = format!("must be {is}, whose data are here");
            Some(ConfigError::BadValue { key: key.to_string(), value, origin, allowed })
        };
        wrong.filter_map(error).collect()
    }

    /// Applies the values of all sources, and judges the whole.
    fn fill(
        mut self,
        values: Values,
        around: &Surroundings,
        mut errors: Vec<ConfigError>,
    ) -> Result<Config, ConfigErrors> {
        let config = &mut self;
        for key in KEYS.iter() {
            let (value, source) = values.get(key.name);
            if let Err(allowed) = key.apply(config, &value) {
                let allowed = format!("must be {allowed}");
                errors.push(ConfigError::BadValue { key: key.name.into(), value, origin: source, allowed });
            }
        }
        config.resolve(&values, around, &mut errors);
        config.set_keys = values.0;
        if errors.is_empty() { Ok(self) } else { Err(ConfigErrors(errors)) }
    }

    /// The configuration with nothing set but these keys: for tests and tools.
    pub fn of(pairs: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        let set = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let environment = BTreeMap::from([("HOME".to_string(), "/nonexistent".to_string())]);
        Config::load(
            &BrokerArgs { set, ..BrokerArgs::default() },
            &Surroundings { environment, is_root: false },
        )
    }

    /// Identifies this configuration: 16 hex digits over every key's value, the same in every process.
    pub fn hash(&self) -> String {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut add = |text: &str| {
            for byte in text.bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        let defaults = KEYS.iter().map(|k| (k.name, k.default));
        let mut all: BTreeMap<&str, &str> = defaults.collect();
        all.extend(self.set_keys.iter().map(|(name, (value, _))| (name.as_str(), value.as_str())));
        for (name, value) in all {
            add(name);
            add(value.trim());
        }
        format!("{hash:016x}")
    }

    /// What the metadata needs to resolve effective settings.
    pub fn local(&self) -> LocalConfig {
        let settings =
            self.set_keys.iter().map(|(name, (value, _))| (name.clone(), value.trim().to_string()));
        LocalConfig { broker_id: self.broker_id, settings: settings.collect(), fixed: keys::fixed() }
    }

    /// The fields of WAL profiles that are set here, as settings of the cluster. Profiles are metadata: what
    /// is set here is set again at every start.
    pub fn wal_profile_ops(&self) -> Vec<ConfigOp> {
        let fields = self.set_keys.iter().filter(|(name, _)| profile_key(name).is_some());
        let op = |(name, (value, _)): (&String, &(String, Source))| ConfigOp {
            name: name.clone(),
            op: AlterOp::Set,
            value: Some(value.trim().to_string()),
        };
        fields.map(op).collect()
    }

    /// The listeners with the addresses that `advertised` (as in `advertised.listeners`) gives them.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub fn advertise(&self, advertised: &str) -> Result<Vec<Listener>, String> {
        let binds = self.listeners.iter().map(|l| (l.name.clone(), l.bind.clone())).collect();
        listeners::advertise(binds, advertised).map_err(|misfit| misfit.why)
    }

    /// The value of a key as it was written, or its default; `None` for a name that is no key.
    pub fn value_of(&self, name: &str) -> Option<&str> {
        let key = find(name)?;
        Some(self.set_keys.get(key.name).map_or(key.default, |(value, _)| value.as_str()))
    }

    /// Checks what one key alone cannot know, and fills the fields that follow from several keys.
    fn resolve(&mut self, values: &Values, around: &Surroundings, errors: &mut Vec<ConfigError>) {
        let mut misfit = |key: &str, why: String| {
            let (value, origin) = values.get(key);
            errors.push(ConfigError::BadValue { key: key.into(), value, origin, allowed: why });
        };
        let binds = listeners::binds(&self.raw.listeners, &self.raw.protocols);
        let resolved = match &self.placement_dir {
            None => binds.and_then(|binds| listeners::advertise(binds, &self.raw.advertised)),
            Some(_) => binds.map(|binds| {
                let unplaced = |(name, bind): listeners::Bind| {
                    let advertised = bind.clone();
                    Listener { name, bind, advertised }
                };
                binds.into_iter().map(unplaced).collect()
            }),
        };
        match resolved {
            Ok(listeners) => self.listeners = listeners,
            Err(m) => misfit(m.key, m.why),
        }
        if self.placement_dir.is_some() {
            for (key, set) in [
                ("advertised.listeners", !self.raw.advertised.is_empty()),
                ("broker.rack", self.rack.is_some()),
            ] {
                if set {
                    misfit(key, "leave it out: chronik.placement.dir tells it".to_string());
                }
            }
        }
        let wanted = self.raw.inter_broker.to_uppercase();
        if let Some(first) = self.listeners.first() {
            self.inter_broker_listener = if wanted.is_empty() { first.name.clone() } else { wanted };
            if !self.listeners.iter().any(|l| l.name == self.inter_broker_listener) {
                let names: Vec<&str> = self.listeners.iter().map(|l| l.name.as_str()).collect();
                misfit(
                    "inter.broker.listener.name",
                    format!("must be one of the listeners: {}", names.join(", ")),
                );
            }
        }
        if self.request_memory_bytes < self.request_bytes_max {
            let why =
                format!("must be at least socket.request.max.bytes, which is {}", self.request_bytes_max);
            misfit("chronik.request.memory.bytes", why);
        }
        self.wal_file_bytes &= !((1 << 20) - 1);
        if self.wal_size_bytes < 4 * self.wal_file_bytes {
            let why = format!("must be at least four WAL files of {} bytes", self.wal_file_bytes);
            misfit("chronik.wal.size.bytes", why);
        }
        let message_max = values.get("message.max.bytes").0.trim().parse::<u64>().unwrap_or(0);
        if message_max > self.wal_file_bytes / 2 {
            let why =
                format!("must be at most half of chronik.wal.file.bytes, which is {}", self.wal_file_bytes);
            misfit("message.max.bytes", why);
        }
        // One that is no number was refused already.
        let number = |name: &str| values.get(name).0.trim().parse().unwrap_or_default();
        if let Err(SettingError::OutOfBounds { name, relation, other }) = groups::check_brokers(number) {
            misfit(name, format!("must be {relation} {other}"));
        }
        self.wal_profiles =
            profile::built_in().into_iter().map(|(name, (p, _))| (name.to_string(), p)).collect();
        for (key, (value, _)) in &values.0 {
            let Some((name, field)) = profile_key(key) else { continue };
            // A new profile begins as the default one; `add` has already judged the name.
            let template = profile::built_in().remove(profile::DEFAULT_PROFILE).map(|(p, _)| p);
            let entry = match template {
                Some(template) => self.wal_profiles.entry(name.to_string()).or_insert(template),
                None => continue,
            };
            if let Err(e) = entry.set(field, value.trim()) {
                misfit(key, e.to_string());
            }
        }
        if !self.wal_profiles.contains_key(&self.wal_profile) {
            let names: Vec<&str> = self.wal_profiles.keys().map(String::as_str).collect();
            misfit("chronik.wal.profile", format!("must be one of the WAL profiles: {}", names.join(", ")));
        }
        match self.raw.data_dir.clone().or_else(|| default_data_dir(around)) {
            Some(dir) => {
                self.wal_dir = self.raw.wal_dir.clone().unwrap_or_else(|| dir.join("wal"));
                self.data_dir = dir;
            }
            None => errors.push(ConfigError::NoDataDir),
        }
    }
}

/// Every key that was set so far, by its first name.
#[derive(Default)]
struct Values(BTreeMap<String, (String, Source)>);

impl Values {
    fn get(&self, name: &str) -> (String, Source) {
        self.0.get(name).cloned().unwrap_or_else(|| {
            let default = find(name).map_or("", |k| k.default);
            (default.to_string(), Source::Default)
        })
    }

    fn add(&mut self, pairs: &[(String, String)], source: &Source, errors: &mut Vec<ConfigError>) {
        for (name, value) in pairs {
            if let Some(key) = find(name) {
                self.put(key, name, value, source.clone(), errors);
            } else if let Some((profile_name, _)) = profile_key(name) {
                match profile::check_name(profile_name) {
                    Ok(()) => drop(self.0.insert(name.clone(), (value.clone(), source.clone()))),
                    Err(e) => errors.push(ConfigError::BadValue {
                        key: name.clone(),
                        value: value.clone(),
                        origin: source.clone(),
                        allowed: e.to_string(),
                    }),
                }
            } else {
                let hint = keys::nearest(name);
                errors.push(ConfigError::UnknownKey { key: name.clone(), origin: source.clone(), hint });
            }
        }
    }

    /// Sets a key, unless the same source has just said something else under its other name.
    fn put(
        &mut self,
        key: &'static Key,
        said: &str,
        value: &str,
        source: Source,
        errors: &mut Vec<ConfigError>,
    ) {
        if let (Some((earlier, from)), Some(alias)) = (self.0.get(key.name), key.alias)
            && *from == source
            && source != Source::Set
            && earlier != value
        {
            let name = if said == alias { key.name } else { alias };
            errors.push(ConfigError::Contradiction {
                key: if said == alias { alias } else { key.name },
                value: value.to_string(),
                origin: source,
                name,
                other: earlier.clone(),
            });
            return;
        }
        self.0.insert(key.name.to_string(), (value.to_string(), source));
    }
}

/// Splits `chronik.wal.profile.NAME.FIELD`.
fn profile_key(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix("chronik.wal.profile.")?.split_once('.')
}

fn read_file(path: &Path) -> Result<Vec<(String, String)>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    file::parse(&text, path.extension().is_some_and(|e| e == "properties"))
}

fn default_data_dir(around: &Surroundings) -> Option<PathBuf> {
    let variable = |name: &str| around.environment.get(name).filter(|v| v.starts_with('/'));
    if around.is_root {
        return Some(PathBuf::from("/var/lib/chronik"));
    }
    match variable("XDG_DATA_HOME") {
        Some(data) => Some(Path::new(data).join("chronik")),
        None => Some(Path::new(variable("HOME")?).join(".local/share/chronik")),
    }
}

const OTHER_VARIABLES: [&str; 2] = ["CHRONIK_LOG", "CHRONIK_BOOTSTRAP"];

/// `CHRONIK_…` variables that set nothing, as a mistyped one does. They cannot be refused: Kubernetes puts
/// such variables beside every Service whose name begins with `chronik`, and those it makes are passed over.
fn stray_variables(around: &Surroundings) -> Vec<String> {
    let known: BTreeSet<String> = KEYS.iter().map(Key::env_name).collect();
    let from_kubernetes = |name: &str| {
        let port = |rest: &str| rest.chars().next().is_none_or(|c| c == '_');
        name.ends_with("_SERVICE_HOST")
            || name.contains("_SERVICE_PORT")
            || name.rsplit_once("_PORT").is_some_and(|(_, rest)| port(rest))
    };
    let strays = around.environment.keys().filter(|n| n.starts_with("CHRONIK_"));
    // CHRONIK_LOG is the log's filter, CHRONIK_BOOTSTRAP the tools'; switches of tests are no configuration.
    let strays = strays.filter(|n| !OTHER_VARIABLES.contains(&n.as_str()) && !n.starts_with("CHRONIK_TEST_"));
    let strays = strays.filter(|n| !known.contains(*n) && !from_kubernetes(n));
    strays.map(|n| format!("environment variable {n} is no configuration key and was not used")).collect()
}

#[cfg(test)]
mod tests;
