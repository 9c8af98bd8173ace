//! Snapshots of the metadata: synced files of JSON lines.
//!
//! ```text
//! {"format":"chronik-metadata-snapshot","v":1,"meta":{…},"records":3}
//! {"Cluster":{"cluster_id":"…"}}
//! …
//! {"crc32c":"9ae1f2b4"}
//! ```
//!
//! The last line's checksum covers all lines before it. A file is written beside its name, flushed, renamed
//! and the directory flushed, so that a name always stands for a whole file. One that does not read is an
//! error, never skipped: what it replaced, the log entries before it, is gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chronik_core::metadata::record::MetadataError;
use chronik_core::metadata::{LocalConfig, MetadataImage, MetadataRecord};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::types::SnapshotMeta;
use crate::storage::durable;

const FORMAT: &str = "chronik-metadata-snapshot";
const VERSION: u32 = 1;
const PREFIX: &str = "snapshot-";
const EXTENSION: &str = "jsonl";

/// Why a snapshot cannot be read or written.
#[derive(Debug, Error)]
pub enum SnapshotError {
    #[error("metadata snapshot {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("metadata snapshot is damaged: {0}")]
    Damaged(String),
    #[error("metadata snapshot has version {0}, this version knows {VERSION}: it was written by a newer one")]
    Version(u32),
    #[error(transparent)]
    Record(#[from] MetadataError),
    #[error("no metadata snapshot is written any more: the quorum has stopped")]
    Closed,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    v: u32,
    meta: SnapshotMeta,
    records: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    crc32c: String,
}

fn damaged(what: impl ToString) -> SnapshotError {
    SnapshotError::Damaged(what.to_string())
}

/// The bytes of a snapshot of `image`.
pub fn encode(meta: &SnapshotMeta, image: &MetadataImage) -> Result<Vec<u8>, SnapshotError> {
    let records = image.to_records();
    let header =
        Header { format: FORMAT.to_string(), v: VERSION, meta: meta.clone(), records: records.len() };
    let mut out = Vec::new();
    serde_json::to_writer(&mut out, &header).map_err(damaged)?;
    out.push(b'\n');
    for record in &records {
        out.extend_from_slice(record.encode()?.as_bytes());
        out.push(b'\n');
    }
    let trailer = Trailer { crc32c: format!("{:08x}", crc32c::crc32c(&out)) };
    serde_json::to_writer(&mut out, &trailer).map_err(damaged)?;
    out.push(b'\n');
    Ok(out)
}

/// Reads a snapshot; `local` is what effective settings are resolved by.
pub fn decode(bytes: &[u8], local: Arc<LocalConfig>) -> Result<(SnapshotMeta, MetadataImage), SnapshotError> {
    let text = std::str::from_utf8(bytes).map_err(damaged)?;
    let body = text.strip_suffix('\n').ok_or_else(|| damaged("the last line is not whole"))?;
    let trailer_at = body.rfind('\n').map_or(0, |at| at + 1);
    let (covered, trailer) = body.split_at(trailer_at);
    let trailer: Trailer = serde_json::from_str(trailer).map_err(|_| damaged("it has no checksum"))?;
    let crc = format!("{:08x}", crc32c::crc32c(covered.as_bytes()));
    if crc != trailer.crc32c {
        return Err(damaged(format!("its checksum is {crc}, it says {}", trailer.crc32c)));
    }
    let mut lines = covered.lines();
    let header = lines.next().unwrap_or_default();
    let version: serde_json::Value = serde_json::from_str(header).map_err(damaged)?;
    if version.get("format").and_then(|f| f.as_str()) != Some(FORMAT) {
        return Err(damaged("it is of another format"));
    }
    match version.get("v").and_then(|v| v.as_u64()).and_then(|v| u32::try_from(v).ok()) {
        Some(VERSION) => {}
        Some(other) => return Err(SnapshotError::Version(other)),
        None => return Err(damaged("it has no version")),
    }
    let header: Header = serde_json::from_str(header).map_err(damaged)?;
    let records = lines.map(MetadataRecord::decode).collect::<Result<Vec<_>, _>>()?;
    if records.len() != header.records {
        return Err(damaged(format!("it has {} records of {}", records.len(), header.records)));
    }
    let offset = header.meta.last_log_id.map_or(0, |id| id.index);
    let image = MetadataImage::from_records(local, offset, &records)?;
    Ok((header.meta, image))
}

/// The directory of snapshots, or memory for a store that forgets.
#[derive(Clone, Debug)]
pub struct SnapshotDir {
    path: Option<PathBuf>,
    /// Held while a snapshot is written; closed when none may be any more.
    turn: Arc<Semaphore>,
}

impl SnapshotDir {
    /// Creates the directory if need be, and clears away what a crash left half written.
    pub fn open(path: &Path) -> Result<SnapshotDir, SnapshotError> {
        let dir = SnapshotDir { path: Some(path.to_path_buf()), ..SnapshotDir::in_memory() };
        let prepare = || -> io::Result<()> {
            fs::create_dir_all(path)?;
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                // Others may have files here: the log does.
                let name = entry.file_name();
                let ours = name.to_str().filter(|name| name.starts_with(PREFIX));
                if ours.is_some_and(|name| name.ends_with(".tmp")) {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        prepare().map_err(|source| SnapshotError::Io { path: path.to_path_buf(), source })?;
        Ok(dir)
    }

    pub fn in_memory() -> SnapshotDir {
        SnapshotDir { path: None, turn: Arc::new(Semaphore::new(1)) }
    }

    /// The right to write: [`None`] once the directory is closed. To be kept until the snapshot is written.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turn.clone().acquire_owned().await.ok()
    }

    /// Waits for a snapshot that is being written, and lets no other begin: who opens the directory next
    /// must not have it change under them.
    pub async fn close(&self) {
        let last = self.turn.acquire().await;
        self.turn.close();
        drop(last);
    }

    /// The newest snapshot's bytes; names sort by their log index.
    pub fn newest(&self) -> Result<Option<Vec<u8>>, SnapshotError> {
        let Some(path) = &self.path else { return Ok(None) };
        let error = |path: &Path, source| SnapshotError::Io { path: path.to_path_buf(), source };
        let Some(newest) = snapshots(path).map_err(|e| error(path, e))?.pop() else { return Ok(None) };
        fs::read(&newest).map(Some).map_err(|e| error(&newest, e))
    }

    /// Makes a snapshot durable, then removes those before it. Blocks on the device.
    pub fn write(&self, meta: &SnapshotMeta, bytes: &[u8]) -> Result<(), SnapshotError> {
        let Some(dir) = &self.path else { return Ok(()) };
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let name = format!("{PREFIX}{index:020}.{EXTENSION}");
        let path = dir.join(&name);
        let write = || -> io::Result<()> {
            durable::replace(dir, &name, bytes)?;
            for old in snapshots(dir)?.into_iter().filter(|old| *old != path) {
                fs::remove_file(old)?;
            }
            Ok(())
        };
        write().map_err(|source| SnapshotError::Io { path: path.clone(), source })
    }
}

/// The snapshots in a directory, oldest first.
fn snapshots(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with(PREFIX) && path.extension().is_some_and(|e| e == EXTENSION) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
