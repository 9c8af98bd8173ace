//! The operator's own HTTP server: `/livez`, `/readyz`, `/metrics`.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// What the server answers from.
pub struct Server {
    metrics: Arc<Metrics>,
    ready: AtomicBool,
}

impl Server {
    pub fn new(metrics: Arc<Metrics>) -> Arc<Server> {
        Arc::new(Server { metrics, ready: AtomicBool::new(false) })
    }

    /// Says that the Kubernetes API has been reached. A process that waits for the lease is ready, too.
    pub fn is_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Serves until `stop` is ready.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        axum::serve(listener, router(self)).with_graceful_shutdown(stop).await
    }
}

fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(server)
}

async fn readyz(State(server): State<Arc<Server>>) -> Response {
    if server.ready.load(Ordering::Relaxed) {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the Kubernetes API has not been reached yet\n").into_response()
    }
}

async fn metrics(State(server): State<Arc<Server>>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match server.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unready_until_the_kubernetes_api_was_reached() {
        let server = Server::new(Arc::new(Metrics::default()));
        assert_eq!(readyz(State(server.clone())).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        server.is_ready();
        assert_eq!(readyz(State(server)).await.status(), StatusCode::OK);
    }
}
