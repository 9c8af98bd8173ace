//! The admin server: health, metrics, and what the operator asks. HTTP with JSON, on its own port.
//!
//! It is up before the broker is, so that `/livez` can be asked while a log is being recovered. Every answer
//! says why; an error means: do not act.

mod access;
mod health;
mod restart;
mod time;
mod views;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use chronik_core::ids::BrokerId;
use chronik_core::{group, txn};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use access::{Access, Denied};
pub use health::Health;
pub use restart::{PostRestartAnswer, PreRestartAnswer};
pub use views::{Cluster, Identity, PartitionCounts};

use crate::api::Broker;
use crate::metrics::Metrics;

/// Connections served at once; others wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// A connection serves one request, and has this long for it.
const CONNECTION_TIME: Duration = Duration::from_secs(15);
const HEADER_TIME: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
/// A configuration is some kilobytes.
const CONFIG_BYTES_MAX: usize = 256 << 10;
/// Lines of errors that one answer has room for.
const CONFIG_ERRORS_MAX: usize = 100;

/// What the admin server answers from.
pub struct Admin {
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    pub access: Access,
    /// Set once the broker is there; `/v1` answers 503 until then.
    pub broker: OnceLock<Arc<Broker>>,
}

/// Serves until `stop` is ready, then ends the connections that are still open.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>, stop: impl Future<Output = ()>) {
    let router = router(admin);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = &mut stop => return,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, peer, slot)) = accepted else { continue };
        let service = TowerToHyperService::new(router.clone().layer(Extension(Peer(peer))));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
        http.keep_alive(false).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
        connections.spawn(async move {
            let _slot = slot;
            let serving = http.serve_connection(TokioIo::new(stream), service);
            // What ends badly here is a client that stalled or spoke no HTTP: its own affair.
            let _ = tokio::time::timeout(CONNECTION_TIME, serving).await;
        });
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, slot)),
        Err(e) => {
            // Out of file descriptors, mostly: trying again at once would only burn the processor.
            tracing::warn!("admin listener: {e}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// The address the request came from.
#[derive(Clone, Copy)]
struct Peer(SocketAddr);

fn router(admin: Arc<Admin>) -> Router {
    let v1 = Router::new()
        .route("/v1/identity", get(identity))
        .route("/v1/cluster", get(cluster))
        .route("/v1/brokers/{id}/pre-restart", get(pre_restart))
        .route("/v1/brokers/{id}/post-restart", get(post_restart))
        .route("/v1/config/check", post(config_check).layer(DefaultBodyLimit::max(CONFIG_BYTES_MAX)))
        .layer(middleware::from_fn_with_state(admin.clone(), guard));
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .merge(v1)
        .fallback(|| async { error(StatusCode::NOT_FOUND, "no such path") })
        .method_not_allowed_fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
        })
        .with_state(admin)
}

fn error(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

async fn guard(
    State(admin): State<Arc<Admin>>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let access = admin.access.clone();
    let authorization = headers.get(header::AUTHORIZATION).map(|v| v.as_bytes().to_vec());
    // The token file is read, which may block.
    let judged = tokio::task::spawn_blocking(move || access.check(peer.ip(), authorization.as_deref())).await;
    match judged {
        Ok(Ok(())) => next.run(request).await,
        Ok(Err(Denied::Unauthenticated(why))) => {
            ([(header::WWW_AUTHENTICATE, "Bearer")], error(StatusCode::UNAUTHORIZED, why)).into_response()
        }
        Ok(Err(Denied::Forbidden(why))) => error(StatusCode::FORBIDDEN, why),
        Ok(Err(Denied::Unavailable(why))) => error(StatusCode::SERVICE_UNAVAILABLE, &why),
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

async fn livez(State(admin): State<Arc<Admin>>) -> Response {
    match admin.health.failure() {
        None => Json(json!({ "live": true })).into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "live": false, "reasons": [why] })))
            .into_response(),
    }
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let reasons = admin.health.waiting_for();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": reasons.is_empty(), "reasons": reasons }))).into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    if let Some(broker) = admin.broker.get() {
        admin.metrics.observe(&broker.metadata.image());
        broker.metrics.groups.set(&broker.groups.look(group::Shard::counts));
        let transactions = broker.txn.coordinator().look(txn::Shard::counts);
        broker.metrics.transactions.set(&transactions);
    }
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match admin.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

fn starting() -> Response {
    error(StatusCode::SERVICE_UNAVAILABLE, "the broker is starting; /readyz says what it waits for")
}

async fn identity(State(admin): State<Arc<Admin>>) -> Response {
    admin.broker.get().map_or_else(starting, |broker| Json(Identity::of(broker)).into_response())
}

async fn cluster(State(admin): State<Arc<Admin>>) -> Response {
    admin.broker.get().map_or_else(starting, |broker| Json(Cluster::of(broker)).into_response())
}

/// Answers about one broker with what `of` says of it.
fn about_broker<T: serde::Serialize>(
    admin: &Admin,
    id: &str,
    of: fn(&Broker, BrokerId, Vec<String>) -> Option<T>,
) -> Response {
    let Some(broker) = admin.broker.get() else { return starting() };
    let answer = id.parse().ok().and_then(|id| of(broker, BrokerId(id), admin.health.waiting_for()));
    match answer {
        Some(answer) => Json(answer).into_response(),
        None => error(StatusCode::NOT_FOUND, &format!("no broker {id:?} is registered")),
    }
}

async fn pre_restart(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Response {
    about_broker(&admin, &id, PreRestartAnswer::of)
}

async fn post_restart(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Response {
    about_broker(&admin, &id, PostRestartAnswer::of)
}

/// Would a broker start with this configuration? Nothing of it is applied.
async fn config_check(State(admin): State<Arc<Admin>>, body: Result<Bytes, BytesRejection>) -> Response {
    let Some(broker) = admin.broker.get().cloned() else { return starting() };
    let body = match body {
        Ok(body) => body,
        Err(refused) if refused.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let why = format!("a configuration of more than {CONFIG_BYTES_MAX} bytes");
            return error(StatusCode::PAYLOAD_TOO_LARGE, &why);
        }
        Err(refused) => return error(refused.status(), &refused.body_text()),
    };
    let Ok(text) = String::from_utf8(body.to_vec()) else {
        return error(StatusCode::BAD_REQUEST, "the body is not UTF-8 text");
    };
    let checking = tokio::task::spawn_blocking(move || {
        let image = broker.metadata.image();
        broker.config.check(&text, image.cluster_id())
    });
    match checking.await {
        Ok(mut errors) => {
            let valid = errors.is_empty();
            let more = errors.len().saturating_sub(CONFIG_ERRORS_MAX);
            errors.truncate(CONFIG_ERRORS_MAX);
            if more > 0 {
                errors.push(format!("and {more} more"));
            }
            Json(json!({ "valid": valid, "errors": errors })).into_response()
        }
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

#[cfg(test)]
mod tests;
