//! Listeners: accept, bound, sweep, stop.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::connection::{self, Activity, Budget, End};
use crate::api::{Broker, ConnectionInfo};

const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// After an accept failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Every open connection, whichever listener it came by.
pub struct Connections {
    broker: Arc<Broker>,
    budget: Arc<Budget>,
    open: Mutex<Open>,
    started: Instant,
}

#[derive(Default)]
struct Open {
    next: u64,
    activities: HashMap<u64, Arc<Activity>>,
    tasks: JoinSet<()>,
    stopping: bool,
}

impl Connections {
    pub fn new(broker: Arc<Broker>) -> Arc<Connections> {
        let config = &broker.config;
        let budget = Arc::new(Budget::new(config.requests_max, config.request_memory_bytes));
        Arc::new(Connections { broker, budget, open: Mutex::default(), started: Instant::now() })
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts until the task is dropped.
    pub async fn accept(self: Arc<Self>, listener: TcpListener, name: Arc<str>) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.take(stream, peer, &name),
                Err(e) => {
                    tracing::warn!(listener = &*name, "accept: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take(self: &Arc<Self>, stream: tokio::net::TcpStream, peer: SocketAddr, name: &Arc<str>) {
        let network = &self.broker.metrics.network;
        let mut open = self.open();
        while open.tasks.try_join_next().is_some() {}
        if open.stopping || open.activities.len() >= self.broker.config.connections_max {
            network.connections_refused.inc();
            return; // Dropped, and so closed.
        }
        network.connections_accepted.inc();
        network.connections.inc();
        if let Err(e) = stream.set_nodelay(true) {
            tracing::debug!(%peer, "TCP_NODELAY: {e}");
        }
        let activity = Arc::new(Activity::new(self.started));
        let id = open.next;
        open.next += 1;
        open.activities.insert(id, activity.clone());
        let conn = Arc::new(ConnectionInfo::new(peer, name.clone()));
        let this = self.clone();
        open.tasks.spawn(async move {
            let _closed = Closed { connections: this.clone(), id };
            connection::serve(stream, conn, this.broker.clone(), this.budget.clone(), activity).await;
        });
    }

    /// Ends connections that have been idle, or stuck inside a frame, for too long. Runs until dropped.
    pub async fn sweep(self: Arc<Self>) {
        let config = &self.broker.config;
        let idle = Duration::from_millis(config.connection_idle_ms);
        let stalled = Duration::from_millis(config.partial_frame_timeout_ms);
        let mut tick = tokio::time::interval(SWEEP_EVERY);
        loop {
            tick.tick().await;
            let (requests, bytes) = self.budget.requests.held();
            self.broker.metrics.network.requests_in_work.set(requests as i64);
            self.broker.metrics.network.request_memory_bytes.set(bytes as i64);
            for activity in self.open().activities.values() {
                match activity.quiet() {
                    (quiet, true) if quiet > stalled => activity.end(End::Stalled),
                    (quiet, false) if quiet > idle => activity.end(End::Idle),
                    _ => {}
                }
            }
        }
    }

    /// Reads no more requests, answers those in work, and returns when all connections have ended, or after
    /// `limit`.
    pub async fn stop(&self, limit: Duration) {
        let mut tasks = {
            let mut open = self.open();
            open.stopping = true;
            open.activities.values().for_each(|a| a.end(End::Stopping));
            std::mem::take(&mut open.tasks)
        };
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("some connections did not end within chronik.shutdown.timeout.ms");
        }
    }
}

/// Takes a connection off the books, however it ended.
struct Closed {
    connections: Arc<Connections>,
    id: u64,
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.connections.open().activities.remove(&self.id);
        self.connections.broker.metrics.network.connections.dec();
    }
}

/// Binds every configured listener; the error names it.
pub async fn bind(name: &str, address: &str) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|e| io::Error::new(e.kind(), format!("listener {name} cannot bind {address}: {e}")))
}
