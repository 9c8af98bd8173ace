//! The start: from the configuration to a broker that may be served from.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use chronik_core::controller::{Registration, incremental_alter_configs, register_broker};
use chronik_core::ids::Uuid;
use chronik_core::metadata::ConfigResource;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admin::Health;
use crate::api::{self, Broker};
use crate::config::{Config, EngineChoice, HostPort};
use crate::metrics::Metrics;
use crate::net::listener::bind;
use crate::placement::{self, Followed, Placement};
use crate::quorum::{DiskWal, MetadataStore, QuorumOptions};
use crate::storage::admission::Admission;
use crate::storage::disk::{DataObserver, Disk};
use crate::storage::identity::{self, DirIdentity};
use crate::storage::logs::{self, LogManager};
use crate::storage::profiles::ProfileTable;
use crate::storage::wal::{self, Engine, WalOptions, probe};

/// Records that may wait for the log in all profiles together.
const QUEUE_RECORDS: u64 = 1_000_000;

/// How the log is written on this machine, and why.
pub(super) struct WalWay {
    pub engine: Engine,
    pub reason: String,
    pub flush: wal::FlushMode,
    pub flush_reason: String,
    pub in_flight: usize,
}

/// A broker that has recovered and registered, and serves nobody yet.
pub(super) struct Open {
    pub broker: Arc<Broker>,
    pub logs: Arc<LogManager>,
    pub metadata_wal: Arc<DiskWal>,
    pub way: WalWay,
    pub listeners: Vec<(String, TcpListener)>,
    /// What is to be followed, when the broker was placed by files.
    pub followed: Option<Followed>,
    pub recovered_bytes: u64,
}

/// Waits until the broker is placed, opens the directories, recovers the logs, joins the quorum, registers.
/// Nothing is served before all of it.
pub(super) async fn open(
    config: Config,
    health: &Health,
    metrics: &Arc<Metrics>,
    failure: watch::Sender<Option<String>>,
    started_at: SystemTime,
) -> Result<Open> {
    let placed = match &config.placement_dir {
        Some(dir) => Some(placement::wait(dir, &config, health).await?),
        None => None,
    };
    // Held for the life of the process.
    for dir in [&config.data_dir, &config.wal_dir] {
        std::mem::forget(identity::lock(dir)?);
    }
    let (mut data_id, mut wal_id) =
        identity::open(&config.data_dir, &config.wal_dir, config.cluster_id.as_deref(), config.broker_id)?;
    let listeners = bind_all(&config).await?;
    let way = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || choose_way(&config)).await??
    };
    metrics.wal_engine(&way.engine.to_string(), &way.reason, &way.flush.to_string());

    let metadata_dir = config.data_dir.join("metadata");
    let (engine, flush, disk_uuid) = (way.engine, way.flush, data_id.disk_uuid);
    let opening = {
        let (dir, metrics) = (metadata_dir.clone(), metrics.wal("metadata"));
        tokio::task::spawn_blocking(move || DiskWal::open(&dir, disk_uuid, engine, flush, metrics))
    };
    let (metadata_wal, replayed) = opening.await??;
    let options = QuorumOptions {
        cluster_id: data_id.cluster_id.clone(),
        disk_uuid,
        local: Arc::new(config.local()),
        snapshot_dir: metadata_dir,
        bootstrap: !data_id.bootstrapped,
        snapshot_every: QuorumOptions::SNAPSHOT_EVERY,
    };
    let metadata = MetadataStore::open(options, metadata_wal.clone(), &replayed).await?;
    if !data_id.bootstrapped {
        remember_bootstrap(&config, &mut data_id, &mut wal_id)?;
    }
    define_wal_profiles(&config, &metadata).await?;
    health.met("metadata-caught-up");

    let profiles = Arc::new(ProfileTable::new(metrics.clone()));
    for (name, definition) in metadata.image().wal_profiles() {
        profiles.define(name, definition);
    }
    let queue = Admission::new(QUEUE_RECORDS, config.request_memory_bytes as u64);
    let observer = Arc::new(DataObserver::new(profiles, queue, metrics.wal("data"), failure));
    let options = WalOptions {
        name: "data",
        dir: config.wal_dir.clone(),
        id: wal_id.disk_uuid,
        file_bytes: config.wal_file_bytes,
        max_files: usize::try_from(config.wal_size_bytes / config.wal_file_bytes.max(1)).unwrap_or(2).max(2),
        engine: way.engine,
        flush: data_flush(way.flush),
        in_flight: way.in_flight,
        profiles: observer.profiles.definitions(),
    };
    let (logs, disk, recovered_bytes) = {
        let (config, metadata) = (config.clone(), metadata.clone());
        let (cleaner, scrub) = (metrics.cleaner.clone(), metrics.scrub.clone());
        tokio::task::spawn_blocking(move || -> Result<_> {
            let (wal, partitions) = logs::open(&config.data_dir, options)?.split();
            let recovered_bytes = wal.recovered.replayed_bytes;
            let wal = wal.start(observer.clone())?;
            let (data_dir, wal_dir) = (config.data_dir.clone(), config.wal_dir.clone());
            let disk = Arc::new(Disk::new(wal, &observer, data_dir, wal_dir, config.tail_cache_bytes));
            let image = metadata.image();
            let reserve = config.disk_reserve_bytes;
            let id = config.broker_id;
            let logs = LogManager::start(id, disk.clone(), partitions, &image, reserve, cleaner, scrub)?;
            Ok((logs, disk, recovered_bytes))
        })
        .await??
    };
    metadata.subscribe(Box::new({
        let logs = logs.clone();
        move |image, changes| logs.apply(image, changes)
    }));
    metrics.partitions_fenced.set(logs.fenced().len() as i64);
    health.met("log-recovered");

    let bound = listeners.iter().map(|(_, listener)| Ok(listener.local_addr()?.port()));
    let bound = bound.collect::<Result<Vec<u16>>>()?;
    let (given, rack) = match &placed {
        Some((Placement { listeners, rack }, _)) => (listeners, rack),
        None => (&config.listeners, &config.rack),
    };
    let registration = Registration {
        cluster_id: data_id.cluster_id.clone(),
        broker_id: config.broker_id,
        incarnation: Uuid::new_v4(),
        disk_uuid: data_id.disk_uuid,
        wal_disk_uuid: wal_id.disk_uuid,
        listeners: placement::advertised(given, &bound),
        rack: rack.clone(),
    };
    // What is recovered may be served: registering ends the fence of the incarnation before, too.
    let broker_epoch = metadata.change(|image| register_broker(image, &registration)).await?;
    health.met("registered");
    health.met("unfenced");

    let identity = api::Identity {
        disk_uuid: data_id.disk_uuid,
        wal_disk_uuid: wal_id.disk_uuid,
        wal_engine: way.engine.to_string(),
        wal_engine_reason: way.reason.clone(),
        flush_mode: way.flush.to_string(),
        started_at,
    };
    drop(disk);
    let followed = config.placement_dir.clone().zip(placed).map(|(dir, (_, files))| {
        let (config, metadata) = (config.clone(), metadata.clone());
        Followed { dir, config, bound, broker_epoch, metadata, files }
    });
    let broker = Arc::new(Broker::new(config, identity, metadata, logs.clone(), metrics.clone()));
    Ok(Open { broker, logs, metadata_wal, way, listeners, followed, recovered_bytes })
}

/// From now on an empty metadata log on this disk is a loss, and never founds a second cluster.
fn remember_bootstrap(config: &Config, data: &mut DirIdentity, wal: &mut DirIdentity) -> Result<()> {
    (data.bootstrapped, wal.bootstrapped) = (true, true);
    identity::store(&config.wal_dir, wal)?;
    identity::store(&config.data_dir, data)?;
    Ok(())
}

/// Writes the WAL profiles of the static configuration into the metadata, where topics find them.
async fn define_wal_profiles(config: &Config, metadata: &MetadataStore) -> Result<()> {
    let ops = config.wal_profile_ops();
    if ops.is_empty() {
        return Ok(());
    }
    let request = [(ConfigResource::BrokerDefault, ops)];
    let answers = metadata.change(|image| Ok(incremental_alter_configs(image, &request, false))).await?;
    for (_, answer) in answers {
        answer.context("the WAL profiles of the configuration cannot be defined")?;
    }
    Ok(())
}

async fn bind_all(config: &Config) -> Result<Vec<(String, TcpListener)>> {
    let mut bound = Vec::new();
    for listener in &config.listeners {
        let name = listener.name.clone();
        let listener = bind(&name, &listener.bind.to_string()).await?;
        bound.push((name, listener));
    }
    Ok(bound)
}

pub(super) async fn admin_listener(config: &Config) -> Result<Option<(TcpListener, SocketAddr)>> {
    let Some(address) = &config.admin_listen else { return Ok(None) };
    let HostPort { host, port } = address;
    let listener = TcpListener::bind((host.as_str(), *port)).await;
    let listener = listener.with_context(|| format!("the admin server cannot bind {address}"))?;
    let bound = listener.local_addr()?;
    Ok(Some((listener, bound)))
}

/// Engine, flush mode and depth: as configured, or as this kernel and this device do best.
fn choose_way(config: &Config) -> Result<WalWay> {
    let choice = match config.wal_engine {
        EngineChoice::Auto => wal::EngineChoice::Auto,
        EngineChoice::Required => wal::EngineChoice::Required,
        EngineChoice::Disabled => wal::EngineChoice::Disabled,
    };
    let (engine, reason) = wal::engine::choose(choice).map_err(anyhow::Error::msg)?;
    let measured = || measure(&config.wal_dir, engine);
    let (flush, flush_reason, times) = match config.wal_flush_mode {
        Some(flush) => (flush, "configured".to_string(), None),
        None => {
            let times = measured()?;
            let (dsync, fdatasync) = (times.dsync_us, times.fdatasync_us);
            (times.best(), format!("measured: O_DSYNC {dsync} us, fdatasync {fdatasync} us"), Some(times))
        }
    };
    let in_flight = match config.wal_in_flight {
        Some(n) => n,
        None => {
            let times = times.map_or_else(measured, Ok)?;
            if times.is_short() {
                1
            } else {
                probe::choose_in_flight(&times, &probe::depth_rates(&config.wal_dir, engine, flush)?)
            }
        }
    };
    Ok(WalWay { engine, reason, flush, flush_reason, in_flight })
}

/// The data log's flush mode: the chosen one, unless a test wants to see records lost.
fn data_flush(chosen: wal::FlushMode) -> wal::FlushMode {
    #[cfg(feature = "test-switches")]
    if std::env::var_os("CHRONIK_TEST_NO_FLUSH").is_some() {
        tracing::error!("RECORDS ARE NOT FLUSHED: the test switch CHRONIK_TEST_NO_FLUSH is set");
        return wal::FlushMode::Never;
    }
    chosen
}

fn measure(dir: &Path, engine: Engine) -> Result<probe::FlushTimes> {
    probe::flush_times(dir, engine)
        .with_context(|| format!("cannot write to the WAL directory {}", dir.display()))
}
