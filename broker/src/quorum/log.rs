//! The Raft log: held in memory whole, since snapshots keep it short, and written through a [`MetaWal`].

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chronik_core::metadata::MetadataRecord;
use chronik_core::metadata::record::MetadataError;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader, StorageIOError};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::oneshot;

use super::types::{Entry, LogId, StorageError, TypeConfig, Vote};
use super::wal::{MetaEntry, MetaEntryKind, MetaWal};

/// The first byte of each body: the version of its encoding.
const BODY_VERSION: u8 = 1;

/// Why a replayed log cannot be used.
#[derive(Debug, Error)]
pub enum LogError {
    #[error("metadata log entry {sequence}: {source}")]
    Entry { sequence: u64, source: MetadataError },
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
/// `purged + 1 <= first index`, and the indexes of `entries` have no gap.
#[derive(Default)]
struct State {
    /// By index; with each the sequence number under which it was written.
    entries: BTreeMap<u64, (u64, Entry)>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    next_sequence: u64,
}

impl State {
    fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, (_, entry))| entry.log_id).or(self.purged)
    }

    fn replay(&mut self, entry: &MetaEntry) -> Result<(), MetadataError> {
        match entry.kind {
            MetaEntryKind::Append => {
                self.entries.split_off(&entry.index);
                self.entries.insert(entry.index, (entry.sequence, decode_entry(&entry.body)?));
            }
            MetaEntryKind::Truncate => drop(self.entries.split_off(&entry.index)),
            MetaEntryKind::Purge => {
                self.entries = self.entries.split_off(&entry.index.saturating_add(1));
                self.purged = self.purged.max(Some(decode(&entry.body)?));
            }
            MetaEntryKind::Vote => self.vote = Some(decode(&entry.body)?),
        }
        self.next_sequence = entry.sequence.saturating_add(1);
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
    pub fn recover(wal: Arc<dyn MetaWal>, replayed: &[MetaEntry]) -> Result<LogStore, LogError> {
        let mut state = State::default();
        for entry in replayed {
            let sequence = entry.sequence;
            state.replay(entry).map_err(|source| LogError::Entry { sequence, source })?;
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

    /// Newest membership in the log, and the last entry's id: what tells whose log this is before the
    /// library is started on it.
    pub fn membership(
        &self,
    ) -> Option<openraft::Membership<chronik_core::ids::BrokerId, super::types::Voter>> {
        use openraft::entry::RaftPayload;
        self.state().entries.values().rev().find_map(|(_, entry)| entry.get_membership().cloned())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands one entry to the write-ahead log; sequence numbers follow the order of submission, since the
    /// state stays locked.
    fn submit(
        &self,
        state: &mut State,
        kind: MetaEntryKind,
        index: u64,
        body: Bytes,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> u64 {
        let sequence = state.next_sequence;
        state.next_sequence += 1;
        self.wal.submit(MetaEntry { sequence, kind, index, body }, Box::new(done));
        sequence
    }

    fn submit_vote(&self, state: &mut State, vote: &Vote) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let body = encode(vote)?;
        let (done, durable) = oneshot::channel();
        self.submit(state, MetaEntryKind::Vote, 0, body, move |result| drop(done.send(result)));
        Ok(durable)
    }
}

/// Waits for a `done`.
async fn durable(receiver: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
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
        Ok(self.state().entries.range(range).map(|(_, (_, entry))| entry.clone()).collect())
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
        let written = {
            let mut state = self.state();
            state.vote = Some(*vote);
            self.submit_vote(&mut state, vote)
        };
        durable(written.map_err(error)?).await.map_err(error)
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
            bodies.push((encode(&entry).map_err(write_error)?, entry));
        }
        let last = bodies.len().saturating_sub(1);
        let mut callback = Some(callback);
        let mut state = self.state();
        for (at, (body, entry)) in bodies.into_iter().enumerate() {
            let index = entry.log_id.index;
            // Entries become durable in order, so the last one speaks for all.
            let callback = if at == last { callback.take() } else { None };
            let done = move |result| {
                if let Some(callback) = callback {
                    callback.log_io_completed(result);
                }
            };
            let sequence = self.submit(&mut state, MetaEntryKind::Append, index, body, done);
            state.entries.insert(index, (sequence, entry));
        }
        if let Some(nothing_to_write) = callback {
            nothing_to_write.log_io_completed(Ok(()));
        }
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let (done, written) = oneshot::channel();
        {
            let mut state = self.state();
            state.entries.split_off(&log_id.index);
            let done = move |result| drop(done.send(result));
            self.submit(&mut state, MetaEntryKind::Truncate, log_id.index, Bytes::new(), done);
        }
        durable(written).await.map_err(write_error)
    }

    /// Writes what must outlive the purged part, the vote above all, again behind it; then lets go of it.
    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let body = encode(&log_id).map_err(write_error)?;
        let (done, written) = oneshot::channel();
        let (needed, vote_written) = {
            let mut state = self.state();
            state.entries = state.entries.split_off(&log_id.index.saturating_add(1));
            state.purged = Some(log_id);
            let done = move |result| drop(done.send(result));
            let purge = self.submit(&mut state, MetaEntryKind::Purge, log_id.index, body, done);
            let vote = state.vote;
            let vote = vote.map(|vote| self.submit_vote(&mut state, &vote)).transpose();
            let first = state.entries.first_key_value().map(|(_, (sequence, _))| *sequence);
            (first.unwrap_or(purge).min(purge), vote.map_err(write_error)?)
        };
        durable(written).await.map_err(write_error)?;
        if let Some(vote_written) = vote_written {
            durable(vote_written).await.map_err(write_error)?;
        }
        self.wal.release_below(needed);
        Ok(())
    }
}
