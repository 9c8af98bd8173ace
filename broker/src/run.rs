//! A broker's life: open what is on the disk, join the metadata quorum, serve, stop.

mod open;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use chronik_core::metadata::config::broker_value_of;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{self, Access, Admin, Health};
use crate::api::{self, Broker};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::net::listener::Connections;
use crate::placement;
use crate::storage::logs::LogManager;
use open::{Open, WalWay, admin_listener};

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
        .on_thread_start(crate::storage::priority::run_soon)
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

/// What a person or Kubernetes ends a broker with.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they are waited for. In a container nothing else would heed them: the first process of one
    /// has no default actions.
    fn new() -> Result<Signals> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn serve(config: Config) -> Result<()> {
    let (started, started_at) = (Instant::now(), SystemTime::now());
    let mut signals = Signals::new()?;
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
    let opened = tokio::select! {
        opened = open::open(config, &health, &metrics, failure, started_at) => opened?,
        () = signals.any() => {
            // Nothing has been served, and what is on the disk is as good as after a kill.
            tracing::info!("stopped before the start was finished");
            return Ok(());
        }
    };
    let Open { broker, logs, metadata_wal, way, listeners, followed, recovered_bytes } = opened;
    let _ = admin.broker.set(broker.clone());

    let connections = Connections::new(broker.clone());
    let mut accepting = tokio::task::JoinSet::new();
    let mut addresses = Vec::new();
    for (name, listener) in listeners {
        addresses.push(format!("{name} {}", listener.local_addr()?));
        accepting.spawn(connections.clone().accept(listener, name.into()));
    }
    accepting.spawn(connections.clone().sweep());
    accepting.spawn(expire_producers(logs.clone(), broker.clone()));
    if let Some(followed) = followed {
        accepting.spawn(placement::follow(followed));
    }
    health.met("listening");
    announce(&broker, &way, &addresses, admin_address, recovered_bytes, started);

    let died = tokio::select! {
        () = signals.any() => None,
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
    // Members that wait for their group would hold up the stop.
    broker.groups.stop();
    broker.txn.stop();
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
async fn expire_producers(logs: Arc<LogManager>, broker: Arc<Broker>) {
    loop {
        let image = broker.metadata.image();
        let expiration_ms: u32 =
            broker_value_of(&image, "producer.id.expiration.ms").parse().unwrap_or(u32::MAX);
        logs.expire_producers(crate::storage::now_ms(), i64::from(expiration_ms));
        let expiration = Duration::from_millis(u64::from(expiration_ms));
        tokio::time::sleep(PRODUCER_EXPIRATION_CHECK.min(expiration.max(Duration::from_secs(1)))).await;
    }
}

async fn wal_failure(failed: &mut watch::Receiver<Option<String>>) -> String {
    match failed.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        Err(_) => std::future::pending().await,
    }
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
    tracing::info!("default WAL profile {}", broker_value_of(&image, "chronik.wal.profile"));
    if recovered_bytes > 0 {
        tracing::info!("recovered {} KiB of write-ahead log", recovered_bytes.div_ceil(1024));
    }
}

fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).display().to_string()
}
