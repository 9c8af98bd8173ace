//! Listeners: accept, bound, sweep, stop.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chronik_core::metadata::config::broker_value_of;
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
    /// How many connections there are from each address.
    from: HashMap<IpAddr, usize>,
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

    /// How many connections there may be just now, in all and from one address. Those that are open stay open when
    /// a limit is lowered.
    fn limits(&self) -> (usize, usize) {
        let image = self.broker.metadata.image();
        let number = |name: &str| broker_value_of(&image, name).parse().unwrap_or(usize::MAX);
        (number("max.connections"), number("max.connections.per.ip"))
    }

    fn take(self: &Arc<Self>, stream: tokio::net::TcpStream, peer: SocketAddr, name: &Arc<str>) {
        let network = &self.broker.metrics.network;
        let (max, max_per_address) = self.limits();
        let address = peer.ip().to_canonical();
        let mut open = self.open();
        while open.tasks.try_join_next().is_some() {}
        let from_there = open.from.get(&address).copied().unwrap_or(0);
        if open.stopping || open.activities.len() >= max || from_there >= max_per_address {
            network.connections_refused.inc();
            return; // Dropped, and so closed.
        }
        open.from.insert(address, from_there + 1);
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
            let _closed = Closed { connections: this.clone(), id, address };
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
    address: IpAddr,
}

impl Drop for Closed {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.activities.remove(&self.id);
        if let Some(count) = open.from.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.from.remove(&self.address);
            }
        }
        drop(open);
        self.connections.broker.metrics.network.connections.dec();
    }
}

/// Binds every configured listener; the error names it.
pub async fn bind(name: &str, address: &str) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|e| io::Error::new(e.kind(), format!("listener {name} cannot bind {address}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::Fixture;
    use chronik_core::controller::{AlterOp, ConfigOp, incremental_alter_configs};
    use chronik_core::metadata::ConfigResource;
    use tokio::net::TcpStream;

    async fn limit(fixture: &Fixture, name: &str, value: Option<&str>) {
        let op = if value.is_some() { AlterOp::Set } else { AlterOp::Delete };
        let op = ConfigOp { name: name.to_string(), op, value: value.map(str::to_string) };
        let change = [(ConfigResource::BrokerDefault, vec![op])];
        let store = &fixture.broker.metadata;
        let decided = store.change(|image| Ok(incremental_alter_configs(image, &change, false))).await;
        assert_eq!(decided.unwrap()[0].1, Ok(()));
    }

    async fn until(condition: impl Fn() -> bool) {
        let met = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), met).await.unwrap();
    }

    /// Connects, and tells whether the broker keeps the connection.
    async fn is_kept(connections: &Connections, address: SocketAddr, open: &mut Vec<TcpStream>) -> bool {
        let network = &connections.broker.metrics.network;
        let (accepted, refused) = (network.connections_accepted.get(), network.connections_refused.get());
        open.push(TcpStream::connect(address).await.unwrap());
        until(|| network.connections_accepted.get() + network.connections_refused.get() > accepted + refused)
            .await;
        network.connections_accepted.get() > accepted
    }

    #[tokio::test]
    async fn limits_act_from_the_next_connection_on() {
        let fixture = Fixture::new().await;
        let listener = bind("PLAINTEXT", "127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::new(fixture.broker.clone());
        tokio::spawn(connections.clone().accept(listener, "PLAINTEXT".into()));
        let mut open = Vec::new();
        for _ in 0..2 {
            assert!(is_kept(&connections, address, &mut open).await);
        }
        for name in ["max.connections", "max.connections.per.ip"] {
            limit(&fixture, name, Some("2")).await;
            assert!(!is_kept(&connections, address, &mut open).await, "{name}");
            limit(&fixture, name, None).await;
        }
        assert!(is_kept(&connections, address, &mut open).await);
        // Who has gone counts no more.
        limit(&fixture, "max.connections.per.ip", Some("1")).await;
        open.clear();
        until(|| connections.open().from.is_empty()).await;
        assert!(is_kept(&connections, address, &mut open).await);
    }
}
