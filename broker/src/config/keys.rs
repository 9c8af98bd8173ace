//! The table of every key the broker knows. A key that would not act is not in it, and what is not in it is
//! refused: no setting is stored silently.

use std::path::PathBuf;
use std::sync::LazyLock;

use chronik_core::ids::BrokerId;

use chronik_core::metadata::config::table::broker_setting;
use chronik_core::metadata::config::{BROKER_SETTINGS, BrokerSetting, Check, ConfigKind, FixedSetting};

use super::{Config, EngineChoice, listeners::HostPort};
use crate::storage::wal::FlushMode;

/// One configuration key: its names, default, meaning, and how its value reaches [`Config`].
#[derive(Clone)]
pub struct Key {
    pub name: &'static str,
    /// Another name Kafka has for the same setting.
    pub alias: Option<&'static str>,
    /// As it would be written in a file; empty means not set.
    pub default: &'static str,
    pub doc: &'static str,
    pub(super) field: Field,
}

/// What a key's value may be, and where it goes.
#[derive(Clone)]
pub(super) enum Field {
    Int {
        min: i64,
        max: i64,
        set: fn(&mut Config, i64),
    },
    /// A whole number, or `auto`.
    Auto {
        min: i64,
        max: i64,
        set: fn(&mut Config, Option<i64>),
    },
    OneOf {
        names: &'static [&'static str],
        set: fn(&mut Config, &str),
    },
    /// Free text with a rule of its own. The rule's words are shown when the text breaks it.
    Text {
        rule: &'static str,
        set: fn(&mut Config, &str) -> Result<(), String>,
    },
    /// A broker setting of the metadata's table: checked here, resolved there ([`Config::local`]).
    Metadata(&'static BrokerSetting),
}

impl Key {
    /// The words for what this key takes, for errors and for the listing.
    pub fn allowed(&self) -> String {
        match &self.field {
            Field::Int { min, max, .. } => format!("a whole number from {min} to {max}"),
            Field::Auto { min, max, .. } => format!("auto, or a whole number from {min} to {max}"),
            Field::OneOf { names, .. } => format!("one of {}", names.join(", ")),
            Field::Text { rule, .. } => (*rule).to_string(),
            Field::Metadata(setting) => match setting.check {
                Check::Bool => "true or false".to_string(),
                Check::Number { min, max } => format!("a whole number from {min} to {max}"),
                Check::OneOf(words) => format!("one of {}", words.join(", ")),
                Check::SomeOf(words) => {
                    format!("some or none of {}, with commas between them", words.join(", "))
                }
                Check::InOrder { words, must } => {
                    let must = must.map(|must| format!(", {must} among them")).unwrap_or_default();
                    format!("some of {}, with commas between them{must}", words.join(", "))
                }
                Check::Ratio => "a number from 0 to 1".to_string(),
                Check::Only { value, why } => format!("{value}: {why}"),
                Check::WalProfileName => "the name of a WAL profile".to_string(),
            },
        }
    }

    /// The environment variable that sets this key: `CHRONIK_`, then the name in capitals with underscores;
    /// a leading `chronik.` is not said twice.
    pub fn env_name(&self) -> String {
        let short = self.name.strip_prefix("chronik.").unwrap_or(self.name);
        format!("CHRONIK_{}", short.replace('.', "_").to_uppercase())
    }

    /// Checks `value` and writes it into `config`. The error says what is allowed.
    pub(super) fn apply(&self, config: &mut Config, value: &str) -> Result<(), String> {
        let value = value.trim();
        let refused = || self.allowed();
        let number = |min: i64, max: i64| match value.parse::<i64>() {
            Ok(n) if n >= min && n <= max => Ok(n),
            _ => Err(refused()),
        };
        match &self.field {
            Field::Int { min, max, set } => set(config, number(*min, *max)?),
            Field::Auto { set, .. } if value.eq_ignore_ascii_case("auto") => set(config, None),
            Field::Auto { min, max, set } => set(config, Some(number(*min, *max)?)),
            Field::OneOf { names, set } => match names.iter().find(|n| n.eq_ignore_ascii_case(value)) {
                Some(name) => set(config, name),
                None => return Err(refused()),
            },
            Field::Text { set, .. } => return set(config, value),
            Field::Metadata(setting) => {
                drop(setting.check.check(setting.name, value).map_err(|_| refused())?)
            }
        }
        Ok(())
    }
}

impl Field {
    /// The type that DescribeConfigs tells.
    fn kind(&self) -> ConfigKind {
        match self {
            Field::Int { max, .. } if *max <= INT_MAX => ConfigKind::Int,
            Field::Int { .. } => ConfigKind::Long,
            Field::Text { rule, .. } if *rule == LISTENERS_RULE => ConfigKind::List,
            Field::Auto { .. } | Field::OneOf { .. } | Field::Text { .. } => ConfigKind::String,
            Field::Metadata(setting) => setting.kind,
        }
    }
}

const INT_MAX: i64 = i32::MAX as i64;
const KIB: i64 = 1 << 10;
const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;

/// Shortens the table's rows: a key without an alias.
const fn key(name: &'static str, default: &'static str, field: Field, doc: &'static str) -> Key {
    Key { name, alias: None, default, doc, field }
}

const fn int(min: i64, max: i64, set: fn(&mut Config, i64)) -> Field {
    Field::Int { min, max, set }
}

const fn text(rule: &'static str, set: fn(&mut Config, &str) -> Result<(), String>) -> Field {
    Field::Text { rule, set }
}

fn optional(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_string())
}

fn optional_path(value: &str) -> Option<PathBuf> {
    (!value.is_empty()).then(|| PathBuf::from(value))
}

const LISTENERS_RULE: &str = "NAME://HOST:PORT, several separated by commas";

/// Every key, in the order it is shown: the broker's own, then those that topics and the controller resolve
/// and that may also be altered live.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let mut keys: Vec<Key> = OWN.to_vec();
    let own = |setting: &&BrokerSetting| OWN.iter().all(|k| k.name != setting.name);
    keys.extend(BROKER_SETTINGS.iter().filter(own).map(|setting| Key {
        name: setting.name,
        alias: None,
        default: setting.default,
        doc: setting.doc,
        field: Field::Metadata(setting),
    }));
    keys
});

static OWN: &[Key] = &[
    Key {
        alias: Some("node.id"),
        ..key(
            "broker.id",
            "1",
            int(0, INT_MAX, |c, n| c.broker_id = BrokerId(n as i32)),
            "This broker's id. Written into the data directory when it is formatted; another id is then refused.",
        )
    },
    key(
        "chronik.cluster.id",
        "",
        text("letters, digits, '-' and '_', at most 64", |c, v| {
            let fine = |ch: char| ch.is_ascii_alphanumeric() || ch == '-' || ch == '_';
            if v.len() > 64 || !v.chars().all(fine) {
                return Err("letters, digits, '-' and '_', at most 64".to_string());
            }
            c.cluster_id = optional(v);
            Ok(())
        }),
        "The cluster this broker belongs to. A data directory of another cluster is refused. Not set: the directory's own, or a new one when it is formatted.",
    ),
    key(
        "broker.rack",
        "",
        text("any text", |c, v| {
            c.rack = optional(v);
            Ok(())
        }),
        "The rack or zone, as clients see it in Metadata.",
    ),
    key(
        "listeners",
        "PLAINTEXT://127.0.0.1:9092",
        text(LISTENERS_RULE, |c, v| {
            c.raw.listeners = v.to_string();
            Ok(())
        }),
        "Where the broker accepts Kafka clients. Port 0 takes a free port.",
    ),
    key(
        "advertised.listeners",
        "",
        text(LISTENERS_RULE, |c, v| {
            c.raw.advertised = v.to_string();
            Ok(())
        }),
        "The address given to clients, by listener name. Needed for a listener on a wildcard address; otherwise the listener's own address is given. Port 0 means the bound port.",
    ),
    key(
        "listener.security.protocol.map",
        "PLAINTEXT:PLAINTEXT",
        text("NAME:PLAINTEXT, several separated by commas", |c, v| {
            c.raw.protocols = v.to_string();
            Ok(())
        }),
        "The security protocol of each listener name. This version speaks PLAINTEXT only.",
    ),
    key(
        "inter.broker.listener.name",
        "",
        text("the name of a listener", |c, v| {
            c.raw.inter_broker = v.to_string();
            Ok(())
        }),
        "The listener other brokers use. Not set: the first listener.",
    ),
    key(
        "socket.request.max.bytes",
        "104857600",
        int(64 * KIB, INT_MAX, |c, n| c.request_bytes_max = n as usize),
        "The largest request accepted. A larger one closes its connection.",
    ),
    key(
        "connections.max.idle.ms",
        "600000",
        int(1_000, u32::MAX as i64, |c, n| c.connection_idle_ms = n as u64),
        "When a connection without requests is closed.",
    ),
    key(
        "fetch.max.bytes",
        "57671680",
        int(1_024, INT_MAX, |c, n| c.fetch_bytes_max = n as usize),
        "The most record bytes in one Fetch response, whatever the client asks.",
    ),
    key(
        "max.incremental.fetch.session.cache.slots",
        "1000",
        int(0, 1_000_000, |c, n| c.fetch_sessions_max = n as usize),
        "Fetch sessions (KIP-227) kept at once.",
    ),
    key(
        "chronik.data.dir",
        "",
        text("a directory", |c, v| {
            c.raw.data_dir = optional_path(v);
            Ok(())
        }),
        "Where segments, metadata and, unless chronik.wal.dir says otherwise, the WAL are kept. Not set: /var/lib/chronik for root, else $XDG_DATA_HOME/chronik or ~/.local/share/chronik.",
    ),
    key(
        "chronik.wal.dir",
        "",
        text("a directory", |c, v| {
            c.raw.wal_dir = optional_path(v);
            Ok(())
        }),
        "Where the WAL is kept: a volume of its own, if there is one. Not set: `wal` in the data directory.",
    ),
    key(
        "chronik.wal.profile",
        chronik_core::wal::profile::DEFAULT_PROFILE,
        text("the name of a WAL profile", |c, v| {
            c.wal_profile = v.to_string();
            Ok(())
        }),
        "The WAL profile of topics that name none. chronik.wal.profile.NAME.FIELD defines or changes one.",
    ),
    key(
        "chronik.wal.engine",
        "auto",
        Field::OneOf {
            names: &["auto", "required", "disabled"],
            set: |c, name| {
                c.wal_engine = match name {
                    "required" => EngineChoice::Required,
                    "disabled" => EngineChoice::Disabled,
                    _ => EngineChoice::Auto,
                }
            },
        },
        "Whether the WAL uses io_uring: when the kernel allows it, always (or do not start), or never.",
    ),
    key(
        "chronik.wal.flush.mode",
        "auto",
        Field::OneOf {
            names: &["auto", "dsync", "fdatasync"],
            set: |c, name| {
                c.wal_flush_mode = match name {
                    "dsync" => Some(FlushMode::Dsync),
                    "fdatasync" => Some(FlushMode::Fdatasync),
                    _ => None,
                }
            },
        },
        "How a WAL group is made durable: O_DSYNC writes, a write and then fdatasync, or whichever a probe finds faster.",
    ),
    key(
        "chronik.wal.in.flight",
        "auto",
        Field::Auto { min: 1, max: 16, set: |c, n| c.wal_in_flight = n.map(|n| n as usize) },
        "Groups at the device at once.",
    ),
    key(
        "chronik.wal.file.bytes",
        "67108864",
        int(16 * MIB, 256 * MIB, |c, n| c.wal_file_bytes = n as u64),
        "The size of one preallocated WAL file; rounded down to a multiple of 1 MiB.",
    ),
    key(
        "chronik.wal.size.bytes",
        "536870912",
        int(64 * MIB, 1024 * GIB, |c, n| c.wal_size_bytes = n as u64),
        "What all WAL files together may take. A full WAL holds producers back until segments are written.",
    ),
    key(
        "chronik.tail.cache.bytes",
        "134217728",
        int(MIB, 1024 * GIB, |c, n| c.tail_cache_bytes = n as usize),
        "Memory that may hold the newest records of all partitions, to serve consumers that keep up.",
    ),
    key(
        "chronik.request.memory.bytes",
        "268435456",
        int(MIB, 1024 * GIB, |c, n| c.request_memory_bytes = n as usize),
        "Memory that all requests in work may hold together. When it is used up, the broker reads no more from its sockets.",
    ),
    key(
        "chronik.requests.max",
        "1000",
        int(1, 1_000_000, |c, n| c.requests_max = n as usize),
        "Requests in work at once. A request that waits for data or for acknowledgements does not count.",
    ),
    key(
        "chronik.responses.per.connection",
        "100",
        int(1, 100_000, |c, n| c.responses_per_connection = n as usize),
        "Requests of one connection that may be unanswered at once.",
    ),
    key(
        "chronik.worker.threads",
        "auto",
        Field::Auto { min: 1, max: 1_024, set: |c, n| c.worker_threads = n.map(|n| n as usize) },
        "Threads that serve connections. auto: one fewer than the cores, at least one.",
    ),
    key(
        "chronik.connection.partial.frame.timeout.ms",
        "30000",
        int(10, INT_MAX, |c, n| c.partial_frame_timeout_ms = n as u64),
        "When a connection that began a request and sends no more of it is closed.",
    ),
    key(
        "chronik.disk.reserve.bytes",
        "134217728",
        int(0, 1024 * GIB, |c, n| c.disk_reserve_bytes = n as u64),
        "Free space below which produce is refused with KAFKA_STORAGE_ERROR until space returns.",
    ),
    key(
        "chronik.shutdown.timeout.ms",
        "30000",
        int(0, INT_MAX, |c, n| c.shutdown_timeout_ms = n as u64),
        "How long a stopping broker waits for requests in work.",
    ),
    key(
        "chronik.placement.dir",
        "",
        text("a directory", |c, v| {
            c.placement_dir = optional_path(v);
            Ok(())
        }),
        "A directory with the files advertised-listeners, rack and bootstrap, written by whoever placed this broker. They stand in for advertised.listeners and broker.rack; the start waits for them, and changes are followed.",
    ),
    key(
        "chronik.admin.listen",
        "127.0.0.1:9644",
        text("HOST:PORT, or none", |c, v| {
            c.admin_listen = match v {
                "none" => None,
                _ => Some(HostPort::parse(v).map_err(|why| format!("HOST:PORT, or none ({why})"))?),
            };
            Ok(())
        }),
        "Where health, metrics and the admin calls are served over HTTP.",
    ),
    key(
        "chronik.admin.token.file",
        "",
        text("a file", |c, v| {
            c.admin_token_file = optional_path(v);
            Ok(())
        }),
        "The file with the bearer token that /v1 asks for; read again when it changes. Not set: /v1 is served on loopback only.",
    ),
];

/// The keys whose values hold from the broker's start to its stop, and that no metadata knows.
pub(super) fn fixed() -> Vec<FixedSetting> {
    let fixed = OWN.iter().filter(|key| broker_setting(key.name).is_none());
    let setting = |key: &Key| FixedSetting {
        name: key.name,
        alias: key.alias,
        kind: key.field.kind(),
        default: (!key.default.is_empty()).then_some(key.default),
        doc: key.doc,
    };
    fixed.map(setting).collect()
}

/// The key with this name or alias.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name || k.alias == Some(name))
}

/// The known name nearest to a mistyped one, when one is near.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let names = KEYS.iter().flat_map(|k| [Some(k.name), k.alias]).flatten();
    let near = names.map(|known| (distance(name, known), known)).min()?;
    (near.0 <= 2.max(name.len() / 5)).then_some(near.1)
}

/// The Levenshtein distance: how many characters must be added, dropped or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (j, to) in b.iter().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or(usize::MAX - 1);
            left = (above + 1).min(left + 1).min(diagonal + usize::from(from != *to));
            diagonal = above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// A page of text with every key, its default and its meaning.
pub fn listing() -> String {
    let mut out = String::new();
    for key in KEYS.iter() {
        let default = if key.default.is_empty() { "not set" } else { key.default };
        let alias = key.alias.map(|a| format!(" (or {a})")).unwrap_or_default();
        out.push_str(&format!(
            "{}{alias}\n    {}\n    {}; default: {default}; environment: {}\n",
            key.name,
            key.doc,
            key.allowed(),
            key.env_name()
        ));
    }
    let fields = chronik_core::wal::profile::WalProfile::FIELDS.join(", ");
    out.push_str(&format!(
        "chronik.wal.profile.NAME.FIELD\n    One field of a WAL profile, built in (low, medium, high, ultra) or new; a new one begins as a copy of high. Written to the cluster's metadata at every start.\n    fields: {fields}\n"
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_defaults_are_allowed() {
        let names: BTreeSet<_> = KEYS.iter().map(|k| k.name).collect();
        let envs: BTreeSet<_> = KEYS.iter().map(Key::env_name).collect();
        assert_eq!((names.len(), envs.len()), (KEYS.len(), KEYS.len()));
        for key in KEYS.iter() {
            key.apply(&mut Config::default(), key.default).unwrap_or_else(|e| panic!("{}: {e}", key.name));
            assert!(listing().contains(key.name) && key.doc.ends_with('.'), "{}", key.name);
        }
    }

    #[test]
    fn every_key_is_told_once_by_describe_configs() {
        let fixed = fixed();
        let told: Vec<_> =
            fixed.iter().map(|s| s.name).chain(BROKER_SETTINGS.iter().map(|s| s.name)).collect();
        let names: BTreeSet<_> = KEYS.iter().map(|k| k.name).collect();
        assert_eq!((told.len(), told.into_iter().collect::<BTreeSet<_>>()), (names.len(), names));
        let kind = |name: &str| fixed.iter().find(|s| s.name == name).map(|s| s.kind);
        assert_eq!(kind("listeners"), Some(ConfigKind::List));
        assert_eq!(kind("chronik.wal.size.bytes"), Some(ConfigKind::Long));
        assert_eq!(kind("socket.request.max.bytes"), Some(ConfigKind::Int));
    }

    #[test]
    fn a_mistyped_key_finds_its_neighbour() {
        assert_eq!(nearest("num.partition"), Some("num.partitions"));
        assert_eq!(nearest("nod.id"), Some("node.id"));
        assert_eq!(nearest("chronik.wal.profil"), Some("chronik.wal.profile"));
        assert_eq!(nearest("zookeeper.connect"), None);
        assert_eq!((distance("kitten", "sitting"), distance("", "abc"), distance("abc", "")), (3, 3, 3));
    }
}
