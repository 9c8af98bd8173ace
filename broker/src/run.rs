//! A broker's life: open what is on the disk, join the metadata quorum, serve, stop.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chronik_core::controller::{Registration, incremental_alter_configs, register_broker, unfence_broker};
use chronik_core::ids::Uuid;
use chronik_core::metadata::{ConfigResource, Listener as AdvertisedListener, SecurityProtocol};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{self, Access, Admin, Health};
use crate::api::{self, Broker};
use crate::config::{Config, EngineChoice, FlushMode, HostPort};
use crate::metrics::Metrics;
use crate::net::listener::{Connections, bind};
use crate::quorum::{DiskWal, MetadataStore, QuorumOptions};
use crate::storage::admission::Admission;
use crate::storage::disk::{DataObserver, Disk};
use crate::storage::identity::{self, DirIdentity};
use crate::storage::logs::{self, LogManager};
use crate::storage::profiles::ProfileTable;
use crate::storage::wal::{self, Engine, WalOptions, probe};

/// Records that may wait for the log in all profiles together.
const QUEUE_RECORDS: u64 = 1_000_000;
/// Kafka's `producer.id.expiration.check.interval.ms`.
const PRODUCER_EXPIRATION_CHECK: Duration = Duration::from_secs(600);
/// Of the shutdown's time, this part is for clients.
const CLIENTS_PART: u32 = 2;

/// Runs a broker until it is told to stop (SIGTERM, SIGINT), or fails.
pub fn run(config: Config) -> Result<()> {
    let workers = config.worker_threads.unwrap_or_else(default_workers);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(64)
        .thread_name("chronik")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve(config));
    // Whatever still blocks must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// One core is left to the WAL's thread: more workers than the rest only take turns with it.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).saturating_sub(1).max(1)
}

/// How the log is written on this machine, and why.
struct WalWay {
    engine: Engine,
    reason: String,
    flush: wal::FlushMode,
    flush_reason: String,
    in_flight: usize,
}

async fn serve(config: Config) -> Result<()> {
    let started = Instant::now();
    let health = Arc::new(Health::new());
    let metrics = Arc::new(Metrics::new(api::names()));
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    // The admin server is first: it tells what the rest is waiting for.
    let admin_listener = admin_listener(&config).await?;
    let bound_to_loopback = admin_listener.as_ref().is_some_and(|(_, address)| address.ip().is_loopback());
    let access = Access { token_file: config.admin_token_file.clone(), bound_to_loopback };
    let admin = Arc::new(Admin {
        health: health.clone(),
        metrics: metrics.clone(),
        access,
        broker: Default::default(),
    });
    let (stop_admin, admin_stopped) = watch::channel(false);
    let admin_address = admin_listener.as_ref().map(|(_, address)| *address);
    let admin_task = admin_listener.map(|(listener, _)| {
        let mut stopped = admin_stopped;
        tokio::spawn(admin::serve(listener, admin.clone(), async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }))
    });

    let (failure, mut failed) = watch::channel(None);
    let opened = open(config, &health, &metrics, failure).await?;
    let Open { broker, logs, metadata_wal, way, listeners, recovered_bytes } = opened;
    let _ = admin.broker.set(broker.clone());

    let connections = Connections::new(broker.clone());
    let mut accepting = tokio::task::JoinSet::new();
    let mut addresses = Vec::new();
    for (name, listener) in listeners {
        addresses.push(format!("{name} {}", listener.local_addr()?));
        accepting.spawn(connections.clone().accept(listener, name.into()));
    }
    accepting.spawn(connections.clone().sweep());
    accepting.spawn(expire_producers(logs.clone(), broker.config.producer_id_expiration_ms));
    health.met("listening");
    announce(&broker, &way, &addresses, admin_address, recovered_bytes, started);

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let died = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        why = wal_failure(&mut failed) => Some(why),
        why = broker.metadata.failed() => Some(format!("the metadata log: {why}")),
    };
    if let Some(why) = died {
        // Fail stop: nothing is acknowledged any more. Pending requests have been failed; their answers get
        // a moment to leave.
        health.fail(&why);
        tracing::error!("stopping, as records can no longer be made durable: {why}");
        accepting.shutdown().await;
        connections.stop(Duration::from_millis(500)).await;
        bail!("{why}");
    }
    tracing::info!("stopping");
    health.fail("the broker is stopping");
    let limit = Duration::from_millis(broker.config.shutdown_timeout_ms);
    accepting.shutdown().await;
    connections.stop(limit / CLIENTS_PART).await;
    let closing = tokio::task::spawn_blocking({
        let logs = logs.clone();
        move || logs.stop()
    });
    if tokio::time::timeout(limit, closing).await.is_err() {
        // Nothing is lost by it: what is acknowledged is in the log, and is read from there.
        tracing::warn!("moving the log into segments was not finished within chronik.shutdown.timeout.ms");
    }
    broker.metadata.shutdown().await;
    metadata_wal.stop();
    let _ = stop_admin.send(true);
    if let Some(task) = admin_task {
        let _ = tokio::time::timeout(Duration::from_secs(1), task).await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// Forgets silent idempotent producers, as often as Kafka does. Runs until dropped.
async fn expire_producers(logs: Arc<LogManager>, expiration_ms: i64) {
    let every = PRODUCER_EXPIRATION_CHECK.min(Duration::from_millis(expiration_ms.unsigned_abs().max(1_000)));
    let mut tick = tokio::time::interval(every);
    loop {
        tick.tick().await;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        logs.expire_producers(i64::try_from(now.as_millis()).unwrap_or(i64::MAX), expiration_ms);
    }
}

async fn wal_failure(failed: &mut watch::Receiver<Option<String>>) -> String {
    match failed.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        Err(_) => std::future::pending().await,
    }
}

struct Open {
    broker: Arc<Broker>,
    logs: Arc<LogManager>,
    metadata_wal: Arc<DiskWal>,
    way: WalWay,
    listeners: Vec<(String, TcpListener)>,
    recovered_bytes: u64,
}

/// Opens the directories, recovers the logs, joins the quorum, registers. Nothing is served before all of it.
async fn open(
    config: Config,
    health: &Health,
    metrics: &Arc<Metrics>,
    failure: watch::Sender<Option<String>>,
) -> Result<Open> {
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
        tokio::task::spawn_blocking(move || -> Result<_> {
            let (wal, partitions) = logs::open(&config.data_dir, options)?.split();
            let recovered_bytes = wal.recovered.replayed_bytes;
            let wal = wal.start(observer.clone())?;
            let (data_dir, wal_dir) = (config.data_dir.clone(), config.wal_dir.clone());
            let disk = Arc::new(Disk::new(wal, &observer, data_dir, wal_dir, config.tail_cache_bytes));
            let image = metadata.image();
            let reserve = config.disk_reserve_bytes;
            let logs = LogManager::start(config.broker_id, disk.clone(), partitions, &image, reserve)?;
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

    let broker_epoch = register(&config, &metadata, &data_id, &wal_id, &listeners).await?;
    health.met("registered");
    metadata.change(|image| unfence_broker(image, config.broker_id, broker_epoch)).await?;
    health.met("unfenced");

    let identity = api::Identity {
        disk_uuid: data_id.disk_uuid,
        wal_disk_uuid: wal_id.disk_uuid,
        wal_engine: way.engine.to_string(),
        wal_engine_reason: way.reason.clone(),
        flush_mode: way.flush.to_string(),
    };
    drop(disk);
    let broker = Arc::new(Broker::new(config, identity, metadata, logs.clone(), metrics.clone()));
    Ok(Open { broker, logs, metadata_wal, way, listeners, recovered_bytes })
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

async fn register(
    config: &Config,
    metadata: &MetadataStore,
    data: &DirIdentity,
    wal: &DirIdentity,
    listeners: &[(String, TcpListener)],
) -> Result<chronik_core::ids::BrokerEpoch> {
    let advertised = config.listeners.iter().zip(listeners).map(|(listener, (_, bound))| {
        let port = match listener.advertised.port {
            0 => bound.local_addr()?.port(),
            port => port,
        };
        let (name, host) = (listener.name.clone(), listener.advertised.host.clone());
        Ok(AdvertisedListener { name, host, port, security_protocol: SecurityProtocol::Plaintext })
    });
    let registration = Registration {
        cluster_id: data.cluster_id.clone(),
        broker_id: config.broker_id,
        incarnation: Uuid::new_v4(),
        disk_uuid: data.disk_uuid,
        wal_disk_uuid: wal.disk_uuid,
        listeners: advertised.collect::<io::Result<_>>()?,
        rack: config.rack.clone(),
    };
    Ok(metadata.change(|image| register_broker(image, &registration)).await?)
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

async fn admin_listener(config: &Config) -> Result<Option<(TcpListener, SocketAddr)>> {
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
        FlushMode::Dsync => (wal::FlushMode::Dsync, "configured".to_string(), None),
        FlushMode::Fdatasync => (wal::FlushMode::Fdatasync, "configured".to_string(), None),
        FlushMode::Auto => {
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

/// What a person who started the broker wants to know, in a few lines.
fn announce(
    broker: &Broker,
    way: &WalWay,
    addresses: &[String],
    admin: Option<SocketAddr>,
    recovered_bytes: u64,
    started: Instant,
) {
    let config = &broker.config;
    let image = broker.metadata.image();
    tracing::info!(
        "Chronik {} is ready after {} ms: broker {} of cluster {}",
        env!("CARGO_PKG_VERSION"),
        started.elapsed().as_millis(),
        config.broker_id,
        image.cluster_id(),
    );
    tracing::info!("listening for Kafka clients on {}", addresses.join(", "));
    match admin {
        Some(address) => tracing::info!("health and metrics on http://{address}/metrics"),
        None => tracing::info!("no admin server (chronik.admin.listen=none)"),
    }
    tracing::info!(
        "segments and metadata in {}, write-ahead log in {}",
        shown(&config.data_dir),
        shown(&config.wal_dir)
    );
    tracing::info!("WAL engine {}: {}", way.engine, way.reason);
    tracing::info!("flush by {} ({}), {} group(s) in flight", way.flush, way.flush_reason, way.in_flight);
    tracing::info!("default WAL profile {}", config.wal_profile);
    if recovered_bytes > 0 {
        tracing::info!("recovered {} KiB of write-ahead log", recovered_bytes.div_ceil(1024));
    }
}

fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).display().to_string()
}
