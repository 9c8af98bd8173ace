//! Who a directory belongs to: written once when it is formatted, checked at every start.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use chronik_core::ids::{BrokerId, DiskUuid, Uuid};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::durable;

const FILE: &str = "chronik.identity.json";
const LOCK: &str = "chronik.lock";
const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirIdentity {
    pub format: u32,
    pub cluster_id: String,
    pub broker_id: BrokerId,
    /// `data` or `wal`.
    pub role: String,
    pub disk_uuid: DiskUuid,
    /// The identity of the directory this one belongs with: the data directory's for a WAL and the other way
    /// round. A WAL never meets another data directory's segments.
    pub paired_with: DiskUuid,
    /// The cluster's metadata was bootstrapped on this disk: an empty disk never does that again by itself.
    #[serde(default)]
    pub bootstrapped: bool,
}

#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{}: another process uses this directory (its lock is held). Stop that broker, or give this one another --data-dir",
        .0.display()
    )]
    Locked(PathBuf),
    #[error("{}: not an identity file: {source}", path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("{}: written by a newer version (format {found})", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("{}: belongs to cluster {found}, this broker is configured for {wanted} (chronik.cluster.id)", path.display())]
    OtherCluster { path: PathBuf, found: String, wanted: String },
    #[error("{}: belongs to broker {found}, this is broker {wanted} (broker.id)", path.display())]
    OtherBroker { path: PathBuf, found: BrokerId, wanted: BrokerId },
    #[error(
        "{}: this WAL directory belongs with data directory {found}, not with {wanted}: their records would be mixed",
        path.display()
    )]
    NotPaired { path: PathBuf, found: DiskUuid, wanted: DiskUuid },
    #[error(
        "{}: the data directory has been used, but this WAL directory is empty: its WAL ({wal}) is missing, and with it records that were acknowledged",
        path.display()
    )]
    WalMissing { path: PathBuf, wal: DiskUuid },
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> IdentityError {
    let path = path.to_path_buf();
    move |source| IdentityError::Io { path: path.clone(), source }
}

/// Holds a directory's lock while it lives.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Locks a directory, creating it if it is not there.
pub fn lock(dir: &Path) -> Result<DirLock, IdentityError> {
    std::fs::create_dir_all(dir).map_err(io_at(dir))?;
    let path = dir.join(LOCK);
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(io_at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(DirLock { _file: file }),
        Err(std::fs::TryLockError::WouldBlock) => Err(IdentityError::Locked(dir.to_path_buf())),
        Err(std::fs::TryLockError::Error(e)) => Err(io_at(&path)(e)),
    }
}

fn load(dir: &Path) -> Result<Option<DirIdentity>, IdentityError> {
    let path = dir.join(FILE);
    let Some(bytes) = durable::read(dir, FILE).map_err(io_at(&path))? else { return Ok(None) };
    let found: DirIdentity = serde_json::from_slice(&bytes)
        .map_err(|source| IdentityError::Malformed { path: path.clone(), source })?;
    if found.format > FORMAT {
        return Err(IdentityError::Newer { path, found: found.format });
    }
    Ok(Some(found))
}

/// Whether a broker has served from this data directory: not if it is empty, is not there, or holds no more than
/// a first start that did not get to its end.
pub fn is_used(data_dir: &Path) -> Result<bool, IdentityError> {
    Ok(load(data_dir)?.is_some_and(|identity| identity.bootstrapped))
}

/// Writes an identity durably.
pub fn store(dir: &Path, identity: &DirIdentity) -> Result<(), IdentityError> {
    let bytes = serde_json::to_vec_pretty(identity).unwrap_or_default();
    durable::replace(dir, FILE, &bytes).map_err(io_at(&dir.join(FILE)))
}

/// Reads the identities of a data directory and its WAL directory, or formats both if both are new.
///
/// # Errors
/// When a directory belongs to another cluster, broker or partner, or the WAL of used data is missing.
pub fn open(
    data_dir: &Path,
    wal_dir: &Path,
    cluster_id: Option<&str>,
    broker_id: BrokerId,
) -> Result<(DirIdentity, DirIdentity), IdentityError> {
    let (data, wal) = (load(data_dir)?, load(wal_dir)?);
    for (dir, found) in [(data_dir, &data), (wal_dir, &wal)] {
        let Some(found) = found else { continue };
        let path = dir.to_path_buf();
        if let Some(wanted) = cluster_id.filter(|wanted| *wanted != found.cluster_id) {
            let (found, wanted) = (found.cluster_id.clone(), wanted.to_string());
            return Err(IdentityError::OtherCluster { path, found, wanted });
        }
        if found.broker_id != broker_id {
            return Err(IdentityError::OtherBroker { path, found: found.broker_id, wanted: broker_id });
        }
    }
    match (data, wal) {
        (Some(data), Some(wal)) if data.paired_with == wal.disk_uuid && wal.paired_with == data.disk_uuid => {
            Ok((data, wal))
        }
        (Some(data), Some(wal)) => Err(IdentityError::NotPaired {
            path: wal_dir.to_path_buf(),
            found: wal.paired_with,
            wanted: data.disk_uuid,
        }),
        (Some(data), None) if data.bootstrapped => {
            Err(IdentityError::WalMissing { path: wal_dir.to_path_buf(), wal: data.paired_with })
        }
        (None, Some(wal)) if wal.bootstrapped => Err(IdentityError::NotPaired {
            path: wal_dir.to_path_buf(),
            found: wal.paired_with,
            wanted: DiskUuid::default(),
        }),
        // New, or a first start that did not get to its end: nothing was ever served from it.
        _ => format(data_dir, wal_dir, cluster_id, broker_id),
    }
}

fn format(
    data_dir: &Path,
    wal_dir: &Path,
    cluster_id: Option<&str>,
    broker_id: BrokerId,
) -> Result<(DirIdentity, DirIdentity), IdentityError> {
    let cluster_id = cluster_id.map_or_else(new_cluster_id, str::to_string);
    let (data_uuid, wal_uuid) = (DiskUuid(Uuid::new_v4()), DiskUuid(Uuid::new_v4()));
    let identity = |role: &str, disk_uuid, paired_with| DirIdentity {
        format: FORMAT,
        cluster_id: cluster_id.clone(),
        broker_id,
        role: role.to_string(),
        disk_uuid,
        paired_with,
        bootstrapped: false,
    };
    let (data, wal) = (identity("data", data_uuid, wal_uuid), identity("wal", wal_uuid, data_uuid));
    store(wal_dir, &wal)?;
    store(data_dir, &data)?;
    Ok((data, wal))
}

/// A cluster id as Kafka makes them: 16 random bytes in unpadded URL-safe base64, not beginning with a dash.
fn new_cluster_id() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    loop {
        let bytes = Uuid::new_v4().into_bytes();
        let bits = u128::from_be_bytes(bytes);
        let digit = |n: u32| {
            let shift = 128 - 6 * (n as i32 + 1);
            let six = if shift >= 0 { bits >> shift } else { bits << -shift };
            char::from(DIGITS[(six & 63) as usize])
        };
        let id: String = (0..22).map(digit).collect();
        if !id.starts_with('-') {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_formatted_once_and_refused_to_strangers() {
        let tmp = tempfile::tempdir().unwrap();
        let (data, wal) = (tmp.path().join("data"), tmp.path().join("wal"));
        for dir in [&data, &wal] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let first = open(&data, &wal, None, BrokerId(1)).unwrap();
        assert!(!is_used(&data).unwrap() && !is_used(&tmp.path().join("none")).unwrap());
        assert_eq!(first.0.cluster_id.len(), 22);
        let mut used = first.clone();
        (used.0.bootstrapped, used.1.bootstrapped) = (true, true);
        store(&data, &used.0).unwrap();
        store(&wal, &used.1).unwrap();
        assert!(is_used(&data).unwrap());
        assert_eq!(open(&data, &wal, Some(&first.0.cluster_id), BrokerId(1)).unwrap(), used);
        let err =
            |r: Result<_, IdentityError>| r.map(|_: (DirIdentity, DirIdentity)| ()).unwrap_err().to_string();
        assert!(err(open(&data, &wal, Some("other"), BrokerId(1))).contains("belongs to cluster"));
        assert!(err(open(&data, &wal, None, BrokerId(2))).contains("belongs to broker 1"));
        let empty = tmp.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        assert!(err(open(&data, &empty, None, BrokerId(1))).contains("is missing"));
        assert!(err(open(&empty, &wal, None, BrokerId(1))).contains("belongs with"));
    }

    #[test]
    fn a_directory_has_one_user() {
        let tmp = tempfile::tempdir().unwrap();
        let held = lock(tmp.path()).unwrap();
        assert!(matches!(lock(tmp.path()), Err(IdentityError::Locked(_))));
        drop(held);
        lock(tmp.path()).unwrap();
    }
}
