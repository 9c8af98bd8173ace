//! Named listeners: where the broker accepts clients, and the address it gives them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// A host name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
}

impl HostPort {
    /// Reads `host:port`, `[v6]:port` or `:port` (every address of the machine).
    pub fn parse(text: &str) -> Result<HostPort, String> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} has no port"))?;
        let port = port.parse().map_err(|_| format!("{port:?} is not a port from 0 to 65535"))?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => v6,
            None if host.contains(':') => return Err(format!("write an IPv6 address as [{host}]")),
            None if host.is_empty() => "0.0.0.0",
            None => host,
        };
        if host.chars().any(|c| c.is_whitespace() || c == '/' || c == ',') || host.len() > 255 {
            return Err(format!("{host:?} is not a host"));
        }
        Ok(HostPort { host: host.to_string(), port })
    }

    /// Whether this is every address of the machine, which no client could connect to.
    pub fn is_wildcard(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One named listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: String,
    pub bind: HostPort,
    /// The address given to clients; port 0 means the port that was bound.
    pub advertised: HostPort,
}

/// Why the listener keys do not fit: the key at fault, and the reason.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    pub key: &'static str,
    pub why: String,
}

fn misfit(key: &'static str, why: impl Into<String>) -> Misfit {
    Misfit { key, why: why.into() }
}

/// Reads `NAME://host:port,…`, in order, each name once.
fn addresses(key: &'static str, text: &str) -> Result<Vec<(String, HostPort)>, Misfit> {
    let mut found: Vec<(String, HostPort)> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (name, address) =
            part.split_once("://").ok_or_else(|| misfit(key, format!("{part:?} is not NAME://HOST:PORT")))?;
        let name = name.to_uppercase();
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(fine) {
            return Err(misfit(key, format!("{name:?} is not a listener name")));
        }
        let address = HostPort::parse(address).map_err(|why| misfit(key, why))?;
        if found.iter().any(|(n, _)| *n == name) {
            return Err(misfit(key, format!("listener {name} is named twice")));
        }
        found.push((name, address));
    }
    Ok(found)
}

/// A listener before it is known which address clients are given.
pub(super) type Bind = (String, HostPort);

/// Puts the listeners and their protocols together, in order.
pub(super) fn binds(listeners: &str, protocols: &str) -> Result<Vec<Bind>, Misfit> {
    let protocols = protocol_map(protocols)?;
    let binds = addresses("listeners", listeners)?;
    if binds.is_empty() {
        return Err(misfit("listeners", "at least one listener is needed"));
    }
    for (at, (name, bind)) in binds.iter().enumerate() {
        match protocols.get(name).map(String::as_str) {
            Some("PLAINTEXT") => {}
            Some(other) => {
                let why = format!("listener {name} asks for {other}; this version speaks PLAINTEXT only");
                return Err(misfit("listener.security.protocol.map", why));
            }
            None => {
                let why = format!(
                    "listener {name} has no security protocol; add {name}:PLAINTEXT to listener.security.protocol.map"
                );
                return Err(misfit("listeners", why));
            }
        }
        if let Some((taken, _)) = binds.iter().take(at).find(|(_, b)| b == bind && bind.port != 0) {
            return Err(misfit("listeners", format!("{taken} and {name} share {bind}")));
        }
    }
    Ok(binds)
}

/// Gives each listener the address that `advertised` (`NAME://HOST:PORT,…`) names for it, or its own.
pub(super) fn advertise(binds: Vec<Bind>, advertised: &str) -> Result<Vec<Listener>, Misfit> {
    let mut advertised: BTreeMap<String, HostPort> =
        addresses("advertised.listeners", advertised)?.into_iter().collect();
    let mut resolved: Vec<Listener> = Vec::new();
    for (name, bind) in binds {
        let given = match advertised.remove(&name) {
            Some(given) if given.is_wildcard() => {
                let why = format!(
                    "no client can connect to {given}; give listener {name} an address of this machine"
                );
                return Err(misfit("advertised.listeners", why));
            }
            Some(given) => given,
            None if bind.is_wildcard() => {
                let why = format!(
                    "listener {name} accepts on every address ({bind}), so advertised.listeners must say which one clients are given, as in {name}://broker.example:{}",
                    bind.port
                );
                return Err(misfit("listeners", why));
            }
            None => bind.clone(),
        };
        resolved.push(Listener { name, bind, advertised: given });
    }
    if let Some(name) = advertised.keys().next() {
        return Err(misfit("advertised.listeners", format!("there is no listener {name}")));
    }
    Ok(resolved)
}

fn protocol_map(text: &str) -> Result<BTreeMap<String, String>, Misfit> {
    let key = "listener.security.protocol.map";
    let mut map = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (name, protocol) =
            part.split_once(':').ok_or_else(|| misfit(key, format!("{part:?} is not NAME:PROTOCOL")))?;
        map.insert(name.trim().to_uppercase(), protocol.trim().to_uppercase());
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(listeners: &str, advertised: &str, protocols: &str) -> Result<Vec<Listener>, Misfit> {
        advertise(binds(listeners, protocols)?, advertised)
    }

    const MAP: &str = "PLAINTEXT:PLAINTEXT,IN:PLAINTEXT,SECURE:SSL";

    fn refused(listeners: &str, advertised: &str) -> String {
        resolve(listeners, advertised, MAP).unwrap_err().why
    }

    #[test]
    fn addresses_are_given_by_listener() {
        let got = resolve("PLAINTEXT://127.0.0.1:0, in://[::1]:9093", "IN://b1.example:19093", MAP).unwrap();
        assert_eq!(got[0].advertised, HostPort { host: "127.0.0.1".into(), port: 0 });
        assert_eq!((got[1].name.as_str(), got[1].bind.to_string().as_str()), ("IN", "[::1]:9093"));
        assert_eq!(got[1].advertised.to_string(), "b1.example:19093");
    }

    #[test]
    fn a_wildcard_needs_an_advertised_address() {
        for wildcard in ["PLAINTEXT://0.0.0.0:9092", "PLAINTEXT://:9092", "PLAINTEXT://[::]:9092"] {
            assert!(refused(wildcard, "").contains("advertised.listeners"), "{wildcard}");
            assert!(resolve(wildcard, "PLAINTEXT://b1:9092", MAP).is_ok());
        }
        assert!(refused("PLAINTEXT://b1:9092", "PLAINTEXT://0.0.0.0:9092").contains("no client"));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (listeners, advertised, word) in [
            ("", "", "at least one"),
            ("127.0.0.1:9092", "", "NAME://HOST:PORT"),
            ("PLAINTEXT://127.0.0.1", "", "no port"),
            ("PLAINTEXT://127.0.0.1:70000", "", "not a port"),
            ("PLAINTEXT://::1:9092", "", "write an IPv6 address"),
            ("SECURE://b1:9092", "", "PLAINTEXT only"),
            ("OTHER://b1:9092", "", "no security protocol"),
            ("IN://b1:1,IN://b1:2", "", "twice"),
            ("PLAINTEXT://b1:1,IN://b1:1", "", "share"),
            ("IN://b1:1", "OUT://b1:1", "no listener OUT"),
        ] {
            let why = refused(listeners, advertised);
            assert!(why.contains(word), "{listeners} {advertised}: {why}");
        }
    }
}
