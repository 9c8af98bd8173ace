//! [`MetadataStore`]: what the rest of the broker knows of the quorum.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chronik_core::controller::{ControllerError, ErrorCode, ProducerIdBlock, Quorum, allocate_producer_ids};
use chronik_core::ids::{BrokerId, DiskUuid, ProducerId};
use chronik_core::metadata::record::FEATURE_LEVEL;
use chronik_core::metadata::{LocalConfig, MetadataDelta, MetadataImage, MetadataRecord};
use openraft::error::{ClientWriteError, RaftError};
use openraft::{Config, RaftMetrics, SnapshotPolicy};
use thiserror::Error;
use tokio::sync::Mutex;

use super::log::{LogError, LogStore};
use super::machine::{Machine, Publisher, Shared};
use super::network::NoPeers;
use super::snapshot::{SnapshotDir, SnapshotError};
use super::state::QuorumState;
use super::types::{Membership, NodeId, Raft, Voter, broker_id as broker_id_of, node_id};
use super::wal::{MemoryWal, MetaWal, Replayed};

/// The leader tells its followers this often that it is there; also half of the pace of the library's timer.
const HEARTBEAT_MS: u64 = 500;
/// A follower that hears nothing for this long stands for election (as Kafka's controllers do).
const ELECTION_TIMEOUT_MS: (u64, u64) = (1_500, 3_000);
/// A start that takes longer than this to lead, with a quorum of one, is stuck.
const LEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What the Raft library adds to a batch in its log entry, at most, in bytes.
const ENTRY_OVERHEAD: u64 = 512;

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct QuorumOptions {
    pub cluster_id: String,
    /// The data directory's: half of the voter's identity.
    pub disk_uuid: DiskUuid,
    /// The broker's id, and its static configuration.
    pub local: Arc<LocalConfig>,
    /// Where snapshots are kept.
    pub snapshot_dir: PathBuf,
    /// Whether the cluster is to be founded on this disk, if it has not been yet. Set by the one start that
    /// formats the disk; without it, an empty log is an error, so that a disk that lost its log never founds
    /// a second cluster.
    pub bootstrap: bool,
    /// A snapshot is taken after so many log entries, or so many records.
    pub snapshot_every: u64,
}

impl QuorumOptions {
    /// A good [`QuorumOptions::snapshot_every`].
    pub const SNAPSHOT_EVERY: u64 = 10_000;
}

/// Why the quorum cannot be entered.
#[derive(Debug, Error)]
pub enum QuorumError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(
        "the metadata log is empty, but this disk was formatted as part of cluster {cluster_id}: it has lost its log, and founds no second cluster"
    )]
    LostLog { cluster_id: String },
    #[error("the metadata here is of cluster {found}, not of {expected}")]
    OtherCluster { found: String, expected: String },
    #[error(
        "broker {broker_id} votes with disk {voter}, but was started on disk {found}: a voter that lost its disk may not vote under its old identity"
    )]
    OtherDisk { broker_id: BrokerId, voter: DiskUuid, found: DiskUuid },
    #[error("the metadata here belongs to broker {voters}, not to broker {broker_id}")]
    NotAVoter { broker_id: BrokerId, voters: String },
    #[error("the metadata here has {0} voters, this version runs one only")]
    ManyVoters(usize),
    #[error("the metadata quorum failed: {0}")]
    Failed(String),
}

/// The replicated metadata: read without a lock, changed one batch at a time.
pub struct MetadataStore {
    shared: Arc<Shared>,
    raft: Raft,
    /// Held from a decision until its records are applied, so that each decides on the image before it.
    deciding: Arc<Mutex<()>>,
    snapshots: SnapshotDir,
    wal: Arc<dyn MetaWal>,
    producer_ids: Mutex<ProducerIdBlock>,
    snapshot_every: u64,
}

/// Checks that this broker on this disk is the voter that the membership names.
fn check_voter(membership: &Membership, broker_id: BrokerId, disk_uuid: DiskUuid) -> Result<(), QuorumError> {
    let voters: BTreeMap<BrokerId, Voter> =
        membership.nodes().map(|(id, voter)| (broker_id_of(*id), *voter)).collect();
    match voters.get(&broker_id) {
        None => {
            let voters = voters.keys().map(BrokerId::to_string).collect::<Vec<_>>().join(", ");
            Err(QuorumError::NotAVoter { broker_id, voters })
        }
        Some(voter) if voter.disk_uuid != disk_uuid => {
            Err(QuorumError::OtherDisk { broker_id, voter: voter.disk_uuid, found: disk_uuid })
        }
        Some(_) if voters.len() > 1 => Err(QuorumError::ManyVoters(voters.len())),
        Some(_) => Ok(()),
    }
}

fn failed(e: impl ToString) -> QuorumError {
    QuorumError::Failed(e.to_string())
}

impl MetadataStore {
    /// Enters the quorum with the log that `replayed` tells of, continued in `wal`. Returns when this voter
    /// leads and everything committed is applied.
    pub async fn open(
        options: QuorumOptions,
        wal: Arc<dyn MetaWal>,
        replayed: &[Replayed],
    ) -> Result<Arc<MetadataStore>, QuorumError> {
        let dir = SnapshotDir::open(&options.snapshot_dir)?;
        MetadataStore::start(options, dir, wal, replayed).await
    }

    /// A store that forgets, for tests of what uses it. The code is the same but for the disk.
    pub async fn in_memory(
        local: Arc<LocalConfig>,
        cluster_id: &str,
    ) -> Result<Arc<MetadataStore>, QuorumError> {
        let options = QuorumOptions {
            cluster_id: cluster_id.to_string(),
            disk_uuid: DiskUuid::default(),
            local,
            snapshot_dir: PathBuf::new(),
            bootstrap: true,
            snapshot_every: QuorumOptions::SNAPSHOT_EVERY,
        };
        let wal = Arc::new(MemoryWal::default());
        MetadataStore::start(options, SnapshotDir::in_memory(), wal, &[]).await
    }

    async fn start(
        options: QuorumOptions,
        dir: SnapshotDir,
        wal: Arc<dyn MetaWal>,
        replayed: &[Replayed],
    ) -> Result<Arc<MetadataStore>, QuorumError> {
        let broker_id = options.local.broker_id;
        let log = LogStore::recover(wal.clone(), replayed)?;
        let machine = Machine::open(dir.clone(), options.local.clone())?;
        let shared = machine.shared();

        let membership = log.membership().unwrap_or_else(|| machine.membership().clone());
        let founded = membership.voter_ids().next().is_some();
        if founded {
            check_voter(&membership, broker_id, options.disk_uuid)?;
        } else if !options.bootstrap {
            return Err(QuorumError::LostLog { cluster_id: options.cluster_id });
        }

        let config = Config {
            cluster_name: options.cluster_id.clone(),
            heartbeat_interval: HEARTBEAT_MS,
            election_timeout_min: ELECTION_TIMEOUT_MS.0,
            election_timeout_max: ELECTION_TIMEOUT_MS.1,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_every.max(1)),
            max_in_snapshot_log_to_keep: 0,
            ..Config::default()
        };
        let config = Arc::new(config.validate().map_err(failed)?);
        let raft = Raft::new(node_id(broker_id), config, NoPeers, log, machine).await.map_err(failed)?;
        let store = Arc::new(MetadataStore {
            shared,
            raft,
            deciding: Arc::default(),
            snapshots: dir,
            wal,
            producer_ids: Mutex::new(ProducerIdBlock { first: ProducerId(0), count: 0 }),
            snapshot_every: options.snapshot_every.max(1),
        });
        match store.lead(&options, founded).await {
            Ok(()) => Ok(store),
            Err(e) => {
                store.shutdown().await;
                Err(e)
            }
        }
    }

    /// Founds the quorum if it is to be, leads it, and catches up.
    async fn lead(&self, options: &QuorumOptions, founded: bool) -> Result<(), QuorumError> {
        let broker_id = options.local.broker_id;
        if !founded {
            let voters = BTreeMap::from([(node_id(broker_id), Voter { disk_uuid: options.disk_uuid })]);
            self.raft.initialize(voters).await.map_err(failed)?;
        } else if self.leader() != Some(broker_id) {
            // The only voter need not wait for a silence before it stands for election.
            self.raft.trigger().elect().await.map_err(failed)?;
        }
        let wait = self.raft.wait(Some(LEAD_TIMEOUT));
        wait.current_leader(node_id(broker_id), "the only voter leads").await.map_err(failed)?;
        // An entry of this leader's own commits, and thereby applies, everything before it.
        self.raft.client_write(Vec::new()).await.map_err(failed)?;

        let found = self.image().cluster_id().to_string();
        if found.is_empty() && options.bootstrap {
            let founding = vec![
                MetadataRecord::Cluster { cluster_id: options.cluster_id.clone() },
                MetadataRecord::FeatureLevel { level: FEATURE_LEVEL },
            ];
            self.change(|_| Ok((founding, ()))).await.map_err(failed)?;
        } else if found != options.cluster_id {
            return Err(QuorumError::OtherCluster { found, expected: options.cluster_id.clone() });
        }
        if self.wal.is_crowded() {
            // Waited for: each start takes a file, and a broker that is started over and over must not fill
            // its disk with them.
            let upto = self.applied_offset();
            self.raft.trigger().snapshot().await.map_err(failed)?;
            let purged = |m: &RaftMetrics<NodeId, Voter>| m.purged.is_some_and(|id| id.index >= upto);
            let wait = self.raft.wait(Some(LEAD_TIMEOUT));
            wait.metrics(purged, "the log is released").await.map_err(failed)?;
        }
        Ok(())
    }

    /// The metadata as it is now. No lock, no wait.
    pub fn image(&self) -> Arc<MetadataImage> {
        self.shared.image()
    }

    /// Has `publisher` called for every change from now on; returns the image that the first of them will
    /// build on.
    pub fn subscribe(&self, publisher: Publisher) -> Arc<MetadataImage> {
        self.shared.subscribe(publisher)
    }

    /// Lets the controller decide on the newest image, and writes what it decided. Returns when the records
    /// are durable and applied and every publisher has been called. One change at a time; a decision without
    /// records writes nothing. A caller that stops waiting leaves the change under way, and those after it
    /// still wait for it.
    pub async fn change<T>(
        &self,
        decide: impl FnOnce(&MetadataImage) -> Result<(Vec<MetadataRecord>, T), ControllerError>,
    ) -> Result<T, ControllerError> {
        let deciding = self.deciding.clone().lock_owned().await;
        let image = self.image();
        let (records, outcome) = decide(&image)?;
        if records.is_empty() {
            return Ok(outcome);
        }
        // What does not fit must not get into the log: it would stop every voter that applies it.
        let mut delta = MetadataDelta::new(&image);
        for record in &records {
            let fits = delta.replay(record);
            fits.map_err(|e| ControllerError::new(ErrorCode::UnknownServerError, e.to_string()))?;
        }
        let encoded = serde_json::to_vec(&records).map(|json| json.len()).unwrap_or(usize::MAX);
        if u64::try_from(encoded).unwrap_or(u64::MAX).saturating_add(ENTRY_OVERHEAD)
            > self.wal.max_entry_bytes()
        {
            let message = "Unable to perform excessively large batch operation.";
            return Err(ControllerError::new(ErrorCode::PolicyViolation, message));
        }
        let raft = self.raft.clone();
        let write = tokio::spawn(async move {
            let written = raft.client_write(records).await;
            drop(deciding);
            written
        });
        let storage = |why: String| ControllerError::new(ErrorCode::KafkaStorageError, why);
        match write.await.map_err(|e| storage(e.to_string()))? {
            Ok(_) => {}
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(elsewhere))) => {
                return Err(ControllerError::new(ErrorCode::NotController, elsewhere.to_string()));
            }
            Err(e) => return Err(storage(format!("The metadata could not be written: {e}"))),
        }
        self.maybe_snapshot().await;
        Ok(outcome)
    }

    /// Asks for a snapshot when there is much to replay, or when the log's files run out.
    async fn maybe_snapshot(&self) {
        let due = self.shared.unsaved_records() >= self.snapshot_every || self.wal.is_crowded();
        if due && let Err(e) = self.raft.trigger().snapshot().await {
            // What was changed is done. `failed` tells that the quorum has stopped.
            tracing::warn!("no metadata snapshot: {e}");
        }
    }

    /// A producer id that no other producer has or had (KIP-98), from this broker's block.
    pub async fn allocate_producer_id(&self) -> Result<ProducerId, ControllerError> {
        let mut block = self.producer_ids.lock().await;
        if block.count == 0 {
            let take = |image: &MetadataImage| {
                let id = image.local().broker_id;
                let epoch = image.broker(id).map(|b| b.broker_epoch).unwrap_or_default();
                allocate_producer_ids(image, id, epoch)
            };
            *block = self.change(take).await?;
        }
        let id = block.first;
        *block = ProducerIdBlock { first: ProducerId(id.0.saturating_add(1)), count: block.count - 1 };
        Ok(id)
    }

    /// Index of the last metadata log entry applied here.
    pub fn applied_offset(&self) -> u64 {
        self.shared.offset()
    }

    /// The active controller, if one is known.
    pub fn leader(&self) -> Option<BrokerId> {
        self.raft.metrics().borrow().current_leader.map(broker_id_of)
    }

    /// Who votes, and who of them is known here to have all that is committed: only the leader knows of others.
    pub fn quorum(&self) -> Quorum {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let matched = |voter: &NodeId| {
            let matched = metrics.replication.as_ref().and_then(|all| all.get(voter).copied().flatten());
            *voter == metrics.id || matched.is_some_and(|log| Some(log) >= metrics.last_applied)
        };
        let voters: Vec<NodeId> = metrics.membership_config.membership().voter_ids().collect();
        let caught_up = voters.iter().copied().filter(matched).map(broker_id_of).collect();
        Quorum { voters: voters.into_iter().map(broker_id_of).collect(), caught_up }
    }

    /// How far everybody is; `None` where another broker leads, and knows.
    pub fn quorum_state(&self) -> Option<QuorumState> {
        QuorumState::of(&self.raft.metrics().borrow(), self.applied_offset())
    }

    /// Resolves when the quorum has stopped for good: a write or a flush of its log failed, say. The broker
    /// must not go on.
    pub async fn failed(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(e) = &metrics.borrow_and_update().running_state {
                return e.to_string();
            }
            if metrics.changed().await.is_err() {
                return "the metadata quorum has stopped".to_string();
            }
        }
    }

    /// Stops taking part. Nothing can be changed afterwards, and nothing is written.
    pub async fn shutdown(&self) {
        if let Err(e) = self.raft.shutdown().await {
            tracing::warn!("the metadata quorum did not stop in order: {e}");
        }
        self.snapshots.close().await;
    }
}
