//! The Raft log: held in memory whole, since snapshots keep it short, and written through a [`MetaWal`].

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chronik_core::ids::WalPosition;
use chronik_core::metadata::MetadataRecord;
use chronik_core::metadata::record::MetadataError;
use openraft::entry::RaftPayload;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader, StorageIOError};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::oneshot;

use super::types::{Entry, LogId, Membership, StorageError, TypeConfig, Vote};
use super::wal::{MetaEntry, MetaEntryKind, MetaWal, Replayed};

/// The first byte of each body: the version of its encoding.
const BODY_VERSION: u8 = 1;

/// Why a replayed log cannot be used.
#[derive(Debug, Error)]
pub enum LogError {
    #[error("metadata log entry at {position}: {source}")]
    Entry { position: WalPosition, source: MetadataError },
    #[error("metadata log has a gap: entry {found} follows {expected_after}")]
    Gap { expected_after: u64, found: u64 },
}

fn malformed(what: impl ToString) -> MetadataError {
    MetadataError::Malformed(what.to_string())
}

fn encode(value: &impl Serialize) -> Result<Bytes, io::Error> {
    let mut body = vec![BODY_VERSION];
    serde_json::to_writer(&mut body, value)?;
    Ok(Bytes::from(body))
}

fn json(body: &[u8]) -> Result<&[u8], MetadataError> {
    match body.split_first() {
        Some((&BODY_VERSION, json)) => Ok(json),
        Some((version, _)) => Err(malformed(format!("its version is {version}, known is {BODY_VERSION}"))),
        None => Err(malformed("it is empty")),
    }
}

fn decode_entry(body: &[u8]) -> Result<Entry, MetadataError> {
    let json = json(body)?;
    serde_json::from_slice(json).map_err(|e| {
        // A record of a newer version is to be named, not to look like a damaged one.
        let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
        let records = value.pointer("/payload/Normal").and_then(|r| r.as_array()).into_iter().flatten();
        let names = records.filter_map(|r| r.as_object()).flat_map(|r| r.keys());
        let mut unknown = names.filter(|name| !MetadataRecord::NAMES.contains(&name.as_str()));
        match unknown.next() {
            Some(name) => MetadataError::UnknownRecord { name: name.clone() },
            None => malformed(e),
        }
    })
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, MetadataError> {
    serde_json::from_slice(json(body)?).map_err(malformed)
}

/// The log as it is known to be written or on its way.
///
/// The indexes of `entries` have no gap and begin behind `purged`. Only the library's core task writes, one
/// call at a time, so the order of submission is the order of its calls.
#[derive(Default)]
struct State {
    entries: BTreeMap<u64, Entry>,
    /// Where the entries are that are durable, by index.
    positions: BTreeMap<u64, WalPosition>,
    purged: Option<LogId>,
    vote: Option<Vote>,
}

impl State {
    fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, entry)| entry.log_id).or(self.purged)
    }

    fn truncate(&mut self, from: u64) {
        self.entries.split_off(&from);
        self.positions.split_off(&from);
    }

    fn purge(&mut self, upto: LogId) {
        let keep = upto.index.saturating_add(1);
        self.entries = self.entries.split_off(&keep);
        self.positions = self.positions.split_off(&keep);
        self.purged = self.purged.max(Some(upto));
    }

    fn replay(&mut self, position: WalPosition, entry: &MetaEntry) -> Result<(), MetadataError> {
        match entry.kind {
            MetaEntryKind::Append => {
                self.truncate(entry.index);
                self.entries.insert(entry.index, decode_entry(&entry.body)?);
                self.positions.insert(entry.index, position);
            }
            MetaEntryKind::Truncate => self.truncate(entry.index),
            MetaEntryKind::Purge => self.purge(decode(&entry.body)?),
            MetaEntryKind::Vote => self.vote = Some(decode(&entry.body)?),
        }
        Ok(())
    }
}

/// The library's log storage; clones share one log.
#[derive(Clone)]
pub struct LogStore {
    wal: Arc<dyn MetaWal>,
    state: Arc<Mutex<State>>,
}

impl LogStore {
    /// The log that `replayed` tells of, to be continued in `wal`.
    pub fn recover(wal: Arc<dyn MetaWal>, replayed: &[Replayed]) -> Result<LogStore, LogError> {
        let mut state = State::default();
        for Replayed { position, entry } in replayed {
            let replayed = state.replay(*position, entry);
            replayed.map_err(|source| LogError::Entry { position: *position, source })?;
        }
        let mut before = state.purged.map(|id| id.index);
        for index in state.entries.keys().copied() {
            match before {
                Some(before) if before + 1 != index => {
                    return Err(LogError::Gap { expected_after: before, found: index });
                }
                None if index != 0 => return Err(LogError::Gap { expected_after: 0, found: index }),
                _ => before = Some(index),
            }
        }
        Ok(LogStore { wal, state: Arc::new(Mutex::new(state)) })
    }

    /// The newest membership in the log: whose log this is, before the library is started on it.
    pub fn membership(&self) -> Option<Membership> {
        self.state().entries.values().rev().find_map(|entry| entry.get_membership().cloned())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands one entry to the write-ahead log. The state must not be locked.
    fn submit(
        &self,
        kind: MetaEntryKind,
        index: u64,
        body: Bytes,
    ) -> oneshot::Receiver<io::Result<WalPosition>> {
        let (done, durable) = oneshot::channel();
        let done = move |result| drop(done.send(result));
        self.wal.submit(MetaEntry { kind, index, body }, Box::new(done));
        durable
    }
}

/// Waits for a `done`.
async fn durable(receiver: oneshot::Receiver<io::Result<WalPosition>>) -> io::Result<WalPosition> {
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the metadata log was closed")))
}

fn write_error(e: io::Error) -> StorageError {
    StorageIOError::write_logs(&e).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.state().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last() })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let error = |e: io::Error| StorageError::from(StorageIOError::write_vote(&e));
        let written = self.submit(MetaEntryKind::Vote, 0, encode(vote).map_err(error)?);
        self.state().vote = Some(*vote);
        durable(written).await.map_err(error)?;
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.state().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut bodies = Vec::new();
        for entry in entries {
            let index = entry.log_id.index;
            bodies.push((index, encode(&entry).map_err(write_error)?));
            self.state().entries.insert(index, entry);
        }
        let last = bodies.len().saturating_sub(1);
        let mut callback = Some(callback);
        for (at, (index, body)) in bodies.into_iter().enumerate() {
            // Entries become durable in order, so the last one speaks for all.
            let callback = if at == last { callback.take() } else { None };
            let state = self.state.clone();
            let done = move |result: io::Result<WalPosition>| {
                if let Ok(position) = result {
                    state.lock().unwrap_or_else(PoisonError::into_inner).positions.insert(index, position);
                }
                if let Some(callback) = callback {
                    callback.log_io_completed(result.map(|_| ()));
                }
            };
            self.wal.submit(MetaEntry { kind: MetaEntryKind::Append, index, body }, Box::new(done));
        }
        if let Some(nothing_to_write) = callback {
            nothing_to_write.log_io_completed(Ok(()));
        }
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.state().truncate(log_id.index);
        let written = self.submit(MetaEntryKind::Truncate, log_id.index, Bytes::new());
        durable(written).await.map_err(write_error)?;
        Ok(())
    }

    /// Writes what must outlive the purged part, the vote above all, again behind it; then lets go of it.
    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let vote = {
            let mut state = self.state();
            state.purge(log_id);
            state.vote
        };
        let purge = self.submit(MetaEntryKind::Purge, log_id.index, encode(&log_id).map_err(write_error)?);
        if let Some(vote) = vote {
            let written = self.submit(MetaEntryKind::Vote, 0, encode(&vote).map_err(write_error)?);
            durable(written).await.map_err(write_error)?;
        }
        let purge = durable(purge).await.map_err(write_error)?;
        // All entries that are kept were written before the purge, and so are durable, their places known.
        let needed = self.state().positions.values().fold(purge, |least, position| least.min(*position));
        let wal = self.wal.clone();
        let released = tokio::task::spawn_blocking(move || wal.release_below(needed)).await;
        released.map_err(io::Error::other).and_then(|r| r).map_err(write_error)
    }
}
