//! The state machine: applies committed batches to the image, tells the publishers, and takes snapshots.

use std::io::Cursor;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use chronik_core::metadata::{Changes, LocalConfig, MetadataDelta, MetadataImage};
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError};

use super::snapshot::{self, SnapshotDir, SnapshotError};
use super::types::{Entry, LogId, Membership, SnapshotMeta, StorageError, StoredMembership, TypeConfig};

/// Called in order, once per applied batch that changes something, with the image after it and what changed;
/// before the change is answered. It runs on the quorum's task: it may touch the disk briefly, and must not
/// wait for the quorum.
pub type Publisher = Box<dyn Fn(&Arc<MetadataImage>, &Changes) + Send + Sync>;

/// The newest snapshot, kept for whoever asks for it.
type CurrentSnapshot = Arc<Mutex<Option<(SnapshotMeta, Vec<u8>)>>>;

/// What the state machine shares with the [`MetadataStore`](super::MetadataStore).
pub struct Shared {
    image: ArcSwap<MetadataImage>,
    publishers: Mutex<Vec<Publisher>>,
    /// Records applied since the last snapshot.
    unsaved_records: AtomicU64,
}

impl Shared {
    pub fn new(image: MetadataImage) -> Arc<Shared> {
        Arc::new(Shared {
            image: ArcSwap::from_pointee(image),
            publishers: Mutex::default(),
            unsaved_records: AtomicU64::new(0),
        })
    }

    pub fn image(&self) -> Arc<MetadataImage> {
        self.image.load_full()
    }

    pub fn offset(&self) -> u64 {
        self.image.load().offset()
    }

    pub fn unsaved_records(&self) -> u64 {
        self.unsaved_records.load(Ordering::Relaxed)
    }

    pub fn subscribe(&self, publisher: Publisher) -> Arc<MetadataImage> {
        let mut publishers = self.publishers();
        publishers.push(publisher);
        self.image()
    }

    fn publishers(&self) -> MutexGuard<'_, Vec<Publisher>> {
        self.publishers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the next image in place. The publishers stay locked, so that one that subscribes meanwhile sees
    /// this change either in its first image or as its first change.
    fn advance(&self, next: MetadataImage, changes: &Changes) {
        let publishers = self.publishers();
        let next = Arc::new(next);
        self.image.store(next.clone());
        if !changes.is_empty() {
            publishers.iter().for_each(|publish| publish(&next, changes));
        }
    }
}

/// The library's state machine.
pub struct Machine {
    shared: Arc<Shared>,
    local: Arc<LocalConfig>,
    dir: SnapshotDir,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// The newest snapshot, as it stands in its file.
    current: CurrentSnapshot,
}

impl Machine {
    /// The machine as its newest snapshot has it.
    pub fn open(dir: SnapshotDir, local: Arc<LocalConfig>) -> Result<Machine, SnapshotError> {
        let (meta, image, current) = match dir.newest()? {
            None => (SnapshotMeta::default(), MetadataImage::empty(local.clone()), None),
            Some(bytes) => {
                let (meta, image) = snapshot::decode(&bytes, local.clone())?;
                (meta.clone(), image, Some((meta, bytes)))
            }
        };
        Ok(Machine {
            shared: Shared::new(image),
            local,
            dir,
            applied: meta.last_log_id,
            membership: meta.last_membership,
            current: Arc::new(Mutex::new(current)),
        })
    }

    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// The membership in the snapshot.
    pub fn membership(&self) -> &Membership {
        self.membership.membership()
    }

    fn apply_entry(&mut self, entry: Entry) -> Result<(), StorageError> {
        let base = self.shared.image();
        let mut delta = MetadataDelta::new(&base);
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(records) => {
                for record in &records {
                    delta.replay(record).map_err(|e| StorageIOError::apply(entry.log_id, &e))?;
                }
                let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
                self.shared.unsaved_records.fetch_add(count, Ordering::Relaxed);
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
        let (next, changes) = delta.finish(entry.log_id.index);
        self.applied = Some(entry.log_id);
        self.shared.advance(next, &changes);
        Ok(())
    }
}

fn current_lock(
    current: &Mutex<Option<(SnapshotMeta, Vec<u8>)>>,
) -> MutexGuard<'_, Option<(SnapshotMeta, Vec<u8>)>> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a snapshot away from the runtime's own threads.
async fn write(dir: SnapshotDir, meta: SnapshotMeta, bytes: Vec<u8>) -> Result<Vec<u8>, StorageError> {
    let signature = meta.signature();
    let error = |e: &(dyn std::error::Error + 'static)| {
        StorageError::from(StorageIOError::write_snapshot(
            Some(signature.clone()),
            openraft::AnyError::error(e),
        ))
    };
    let turn = dir.turn().await.ok_or_else(|| error(&SnapshotError::Closed))?;
    let written = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        dir.write(&meta, &bytes).map(|()| bytes)
    });
    let written = written.await;
    written.map_err(|e| error(&e))?.map_err(|e| error(&e))
}

/// A copy of the machine's state at one moment, to be written as a snapshot.
pub struct Builder {
    image: Arc<MetadataImage>,
    shared: Arc<Shared>,
    dir: SnapshotDir,
    meta: SnapshotMeta,
    current: CurrentSnapshot,
    records_covered: u64,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let bytes = snapshot::encode(&self.meta, &self.image)
            .map_err(|e| StorageIOError::write_snapshot(Some(self.meta.signature()), &e))?;
        let bytes = write(self.dir.clone(), self.meta.clone(), bytes).await?;
        *current_lock(&self.current) = Some((self.meta.clone(), bytes.clone()));
        self.shared.unsaved_records.fetch_sub(self.records_covered, Ordering::Relaxed);
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(bytes)) })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            self.apply_entry(entry)?;
            answers.push(());
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let index = self.applied.map_or(0, |id| id.index);
        let term = self.applied.map_or(0, |id| id.leader_id.term);
        Builder {
            image: self.shared.image(),
            shared: self.shared.clone(),
            dir: self.dir.clone(),
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
                snapshot_id: format!("{term}-{index}"),
            },
            current: self.current.clone(),
            records_covered: self.shared.unsaved_records(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let (_, image) = snapshot::decode(&bytes, self.local.clone())
            .map_err(|e| StorageIOError::read_snapshot(Some(meta.signature()), &e))?;
        let bytes = write(self.dir.clone(), meta.clone(), bytes).await?;
        *current_lock(&self.current) = Some((meta.clone(), bytes));
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.shared.unsaved_records.store(0, Ordering::Relaxed);
        let changes = Changes::between(&self.shared.image(), &image);
        self.shared.advance(image, &changes);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let current = current_lock(&self.current).clone();
        Ok(current.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}
