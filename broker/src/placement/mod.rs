//! What is known of a broker only once it has been placed on a machine: the addresses that clients are given,
//! its rack, and whether it may begin on an empty disk. Whoever placed it writes them into a directory of
//! files (`chronik.placement.dir`); on Kubernetes, the operator does by the pod's annotations.
//!
//! Here is what the files mean; [`follow`] reads them, and keeps reading.

mod follow;

use std::path::{Path, PathBuf};

use chronik_core::metadata::{Listener as AdvertisedListener, SecurityProtocol};
use thiserror::Error;

use crate::config::{Config, Listener};

pub use follow::{Followed, follow, wait};

const LISTENERS: &str = "advertised-listeners";
const RACK: &str = "rack";
const BOOTSTRAP: &str = "bootstrap";

/// The files' texts without the white space around them. A file that is not there is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// As in `advertised.listeners`.
    pub listeners: String,
    pub rack: String,
    /// `allowed`, or `forbidden` when a disk of this broker is known.
    pub bootstrap: String,
}

/// What the files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub listeners: Vec<Listener>,
    pub rack: Option<String>,
}

/// Why a broker is not placed yet, or never will be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unplaced {
    #[error("waiting for {file} in {}", dir.display())]
    Missing { file: &'static str, dir: PathBuf },
    #[error("waiting for a {file} in {} that can be used: {why}", dir.display())]
    Wrong { file: &'static str, dir: PathBuf, why: String },
    #[error(
        "the data directory {} holds no data, but a disk of this broker is known ({}: forbidden): its disk was replaced or lost, and nothing was written to this one. Bring the disk back; or, if what it held is to be given up, say so where the broker is placed (on Kubernetes: remove the annotation chronik.io/disk-uuid from the volume claim), and start it again",
        data_dir.display(),
        file.display()
    )]
    DiskLost { data_dir: PathBuf, file: PathBuf },
}

impl Unplaced {
    /// Whether waiting may help.
    pub fn may_pass(&self) -> bool {
        !matches!(self, Unplaced::DiskLost { .. })
    }
}

impl Placement {
    /// What `files` of the directory `dir` say. `is_used` tells whether the data directory holds data: if so,
    /// this is no bootstrap, and nobody is asked whether it may be one.
    ///
    /// # Errors
    /// What is missing or wrong; that the disk is not the one that is known, before everything else.
    pub fn of(dir: &Path, files: &Files, config: &Config, is_used: bool) -> Result<Placement, Unplaced> {
        let missing = |file| Unplaced::Missing { file, dir: dir.to_path_buf() };
        let wrong = |file, why| Unplaced::Wrong { file, dir: dir.to_path_buf(), why };
        match files.bootstrap.as_str() {
            "allowed" => {}
            "forbidden" if is_used => {}
            "forbidden" => {
                let (data_dir, file) = (config.data_dir.clone(), dir.join(BOOTSTRAP));
                return Err(Unplaced::DiskLost { data_dir, file });
            }
            "" if is_used => {}
            "" => return Err(missing(BOOTSTRAP)),
            other => return Err(wrong(BOOTSTRAP, format!("{other:?} is neither allowed nor forbidden"))),
        }
        if files.listeners.is_empty() {
            return Err(missing(LISTENERS));
        }
        let listeners = config.advertise(&files.listeners).map_err(|why| wrong(LISTENERS, why))?;
        if files.rack.chars().any(char::is_control) {
            return Err(wrong(RACK, format!("{:?} is not one line of text", files.rack)));
        }
        let rack = (!files.rack.is_empty()).then(|| files.rack.clone());
        Ok(Placement { listeners, rack })
    }
}

/// The listeners as they are registered; `bound` are their ports, in order, for those that advertise port 0.
pub fn advertised(listeners: &[Listener], bound: &[u16]) -> Vec<AdvertisedListener> {
    let one = |(listener, bound): (&Listener, &u16)| AdvertisedListener {
        name: listener.name.clone(),
        host: listener.advertised.host.clone(),
        port: if listener.advertised.port == 0 { *bound } else { listener.advertised.port },
        security_protocol: SecurityProtocol::Plaintext,
    };
    listeners.iter().zip(bound).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/etc/chronik/placement";

    fn config() -> Config {
        Config::of(&[
            ("listeners", "INTERNAL://0.0.0.0:9092,OUTSIDE://0.0.0.0:9094"),
            ("listener.security.protocol.map", "INTERNAL:PLAINTEXT,OUTSIDE:PLAINTEXT"),
            ("chronik.placement.dir", DIR),
            ("chronik.data.dir", "/data"),
        ])
        .unwrap()
    }

    fn files(listeners: &str, rack: &str, bootstrap: &str) -> Files {
        Files { listeners: listeners.into(), rack: rack.into(), bootstrap: bootstrap.into() }
    }

    const BOTH: &str = "INTERNAL://c-p-0.c-brokers.ns.svc.cluster.local:9092,OUTSIDE://10.89.0.11:31234";

    fn of(files: &Files, is_used: bool) -> Result<Placement, Unplaced> {
        Placement::of(Path::new(DIR), files, &config(), is_used)
    }

    #[test]
    fn a_placed_broker_knows_its_addresses_and_its_rack() {
        let placement = of(&files(BOTH, "zone-a", "allowed"), false).unwrap();
        assert_eq!(placement.rack.as_deref(), Some("zone-a"));
        let told = advertised(&placement.listeners, &[9092, 9094]);
        let shown: Vec<_> = told.iter().map(|l| format!("{}://{}:{}", l.name, l.host, l.port)).collect();
        assert_eq!(shown.join(","), BOTH);
        assert_eq!(of(&files(BOTH, "", "forbidden"), true).unwrap().rack, None);
        let any_port = of(&files("INTERNAL://a:0,OUTSIDE://b:0", "", ""), true).unwrap();
        let ports: Vec<u16> = advertised(&any_port.listeners, &[1, 2]).iter().map(|l| l.port).collect();
        assert_eq!(ports, [1, 2]);
    }

    #[test]
    fn it_waits_for_what_is_missing_or_wrong_and_says_what() {
        for (files, is_used, words) in [
            (Files::default(), true, "waiting for advertised-listeners in /etc/chronik/placement"),
            (Files::default(), false, "waiting for bootstrap in"),
            (files(BOTH, "", ""), false, "waiting for bootstrap in"),
            (files("", "zone-a", "allowed"), false, "waiting for advertised-listeners in"),
            (
                files(BOTH, "", "perhaps"),
                true,
                "bootstrap in /etc/chronik/placement that can be used: \"perhaps\"",
            ),
            (files("INTERNAL://a:1", "", "allowed"), false, "listener OUTSIDE accepts on every address"),
            (files("OTHER://a:1", "", "allowed"), false, "advertised.listeners"),
            (files("INTERNAL://a:1,OUTSIDE://b:port", "", "allowed"), false, "not a port"),
            (files("INTERNAL://a:1,OUTSIDE://b:2,MORE://c:3", "", "allowed"), false, "no listener MORE"),
            (files("INTERNAL://0.0.0.0:1,OUTSIDE://b:2", "", "allowed"), false, "no client can connect"),
            (files(BOTH, "a\nb", "allowed"), false, "not one line"),
        ] {
            let why = of(&files, is_used).unwrap_err();
            assert!(why.may_pass() && why.to_string().contains(words), "{files:?}: {why}");
        }
    }

    #[test]
    fn an_empty_disk_is_refused_where_another_is_known() {
        for listeners in [BOTH, "", "nonsense"] {
            let why = of(&files(listeners, "", "forbidden"), false).unwrap_err();
            assert!(!why.may_pass());
            let line = why.to_string();
            assert!(
                line.starts_with("the data directory /data holds no data") && !line.contains('\n'),
                "{line}"
            );
            assert!(line.contains("chronik.io/disk-uuid"), "{line}");
        }
    }
}
