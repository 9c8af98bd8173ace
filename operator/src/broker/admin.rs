//! The broker's admin server: HTTP/1.1 with JSON and a bearer token.
//!
//! An error means: do not act. So nothing here is guessed: an answer that is late, too long, of another status or of
//! another shape is an error.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::metrics::Metrics;

/// The admin server's port in every pod.
pub const ADMIN_PORT: u16 = 9644;
/// What one call may take, from connecting to the answer's last byte.
const CALL_TIME: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: usize = 1 << 20;
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How much of a refusal's text is kept.
const REFUSAL_BYTES_MAX: usize = 512;

/// Why a broker gave no answer to act on.
#[derive(Debug, Error)]
pub enum AdminError {
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    #[error("{0} did not answer within {time} s", time = CALL_TIME.as_secs())]
    Timeout(SocketAddr),
    #[error("the call to {0} failed: {1}")]
    Http(SocketAddr, String),
    #[error("{path} was answered with {status}: {text}")]
    Refused { path: String, status: StatusCode, text: String },
    #[error("the answer to {path} cannot be read: {source}")]
    Malformed { path: String, source: serde_json::Error },
}

/// `GET /v1/identity`: what a broker is and runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub broker_id: i32,
    pub cluster_id: String,
    pub disk_uuid: String,
    #[serde(default)]
    pub wal_disk_uuid: Option<String>,
    pub version: String,
    /// `io_uring` or `pwrite`.
    pub wal_engine: String,
    #[serde(default)]
    pub wal_engine_reason: String,
    pub config_hash: String,
}

/// `GET /v1/cluster`: the cluster as one broker's metadata has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    pub cluster_id: String,
    pub controller_id: Option<i32>,
    pub brokers: Vec<ClusterBroker>,
    pub partitions: PartitionCounts,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterBroker {
    pub id: i32,
    pub fenced: bool,
    #[serde(default)]
    pub listeners: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionCounts {
    pub total: i64,
    pub under_replicated: i64,
    pub under_min_isr: i64,
    pub offline: i64,
    /// Not served because records are lost.
    #[serde(default)]
    pub fenced: i64,
}

/// `GET /v1/brokers/{id}/pre-restart`: whether a broker may stop now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreRestart {
    pub broker_id: i32,
    pub safe: bool,
    /// Would go offline or below min ISR, though another order of restarts could keep them. At most 100.
    #[serde(default)]
    pub blocking: Vec<PartitionReason>,
    /// Have too few replicas for any order of restarts. At most 100.
    #[serde(default)]
    pub unavoidable: Vec<PartitionReason>,
    /// What speaks against it for the broker as a whole.
    #[serde(default)]
    pub reasons: Vec<String>,
    #[serde(default)]
    pub blocking_count: u64,
    #[serde(default)]
    pub unavoidable_count: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PartitionReason {
    pub topic: String,
    pub partition: i32,
    #[serde(default)]
    pub reason: String,
}

/// `GET /v1/brokers/{id}/post-restart`: whether a broker that was restarted has caught up.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PostRestart {
    pub broker_id: i32,
    pub caught_up: bool,
    #[serde(default)]
    pub percent: f64,
    #[serde(default)]
    pub waiting_for: Vec<String>,
}

/// `POST /v1/config/check`: whether a broker of this version would start with a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ConfigCheck {
    pub valid: bool,
    #[serde(default)]
    pub errors: Vec<String>,
}

/// `GET /readyz`: whether a broker serves, and else what it waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Readiness {
    pub ready: bool,
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// One broker's admin server.
pub struct Admin {
    address: SocketAddr,
    token: String,
    metrics: Arc<Metrics>,
}

impl Admin {
    /// `token` is what the cluster's Secret holds.
    pub fn new(metrics: Arc<Metrics>, address: IpAddr, token: &str) -> Admin {
        Admin::at(metrics, SocketAddr::new(address, ADMIN_PORT), token)
    }

    pub fn at(metrics: Arc<Metrics>, address: SocketAddr, token: &str) -> Admin {
        Admin { address, token: token.trim().to_string(), metrics }
    }

    pub async fn readiness(&self) -> Result<Readiness, AdminError> {
        // Not ready is an answer too, with a status of its own.
        let fine = [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE];
        self.call("readyz", Method::GET, "/readyz", String::new(), &fine).await
    }

    pub async fn identity(&self) -> Result<Identity, AdminError> {
        self.get("identity", "/v1/identity").await
    }

    pub async fn cluster(&self) -> Result<Cluster, AdminError> {
        self.get("cluster", "/v1/cluster").await
    }

    pub async fn pre_restart(&self, broker: i32) -> Result<PreRestart, AdminError> {
        self.get("pre_restart", &format!("/v1/brokers/{broker}/pre-restart")).await
    }

    pub async fn post_restart(&self, broker: i32) -> Result<PostRestart, AdminError> {
        self.get("post_restart", &format!("/v1/brokers/{broker}/post-restart")).await
    }

    /// Asks whether a broker of this version would start with the text of a `broker.yaml`.
    pub async fn check_config(&self, yaml: &str) -> Result<ConfigCheck, AdminError> {
        let fine = [StatusCode::OK];
        self.call("config_check", Method::POST, "/v1/config/check", yaml.to_string(), &fine).await
    }

    async fn get<T: DeserializeOwned>(&self, call: &'static str, path: &str) -> Result<T, AdminError> {
        self.call(call, Method::GET, path, String::new(), &[StatusCode::OK]).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        call: &'static str,
        method: Method,
        path: &str,
        body: String,
        fine: &[StatusCode],
    ) -> Result<T, AdminError> {
        let asked = tokio::time::timeout(CALL_TIME, self.exchange(method, path, body)).await;
        let answer = asked.unwrap_or(Err(AdminError::Timeout(self.address))).and_then(|(status, bytes)| {
            if !fine.contains(&status) {
                let text = String::from_utf8_lossy(&bytes).trim().to_string();
                let text = crate::context::cut(text, REFUSAL_BYTES_MAX);
                return Err(AdminError::Refused { path: path.to_string(), status, text });
            }
            serde_json::from_slice(&bytes)
                .map_err(|source| AdminError::Malformed { path: path.to_string(), source })
        });
        let result = match &answer {
            Ok(_) => "ok",
            Err(AdminError::Refused { .. } | AdminError::Malformed { .. }) => "refused",
            Err(_) => "unreachable",
        };
        self.metrics.broker_call(call, result);
        answer
    }

    /// One connection, one request, one answer.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, Bytes), AdminError> {
        let failed = |e: &dyn std::fmt::Display| AdminError::Http(self.address, e.to_string());
        let stream = TcpStream::connect(self.address).await;
        let stream = stream.map_err(|e| AdminError::Connect(self.address, e))?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| failed(&e))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(CONTENT_TYPE, "application/yaml")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| failed(&e))?;
        let talk = async {
            let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(|e| failed(&e))?.to_bytes()))
        };
        // The connection is driven here and not by a task of its own, so that nothing outlives the call.
        let mut connection = std::pin::pin!(connection);
        let mut talk = std::pin::pin!(talk);
        tokio::select! {
            biased;
            answer = &mut talk => answer,
            ended = &mut connection => match ended {
                // The whole answer may have been read along with the connection's end.
                Ok(()) => talk.await,
                Err(e) => Err(failed(&e)),
            },
        }
    }
}

#[cfg(test)]
mod tests;
