//! Reading `/metrics`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What `/metrics` answered.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub text: String,
}

impl Metrics {
    /// Asks `host:port`.
    pub async fn fetch(address: &str) -> Result<Metrics> {
        let text =
            http_get(address, "/metrics", None).await.with_context(|| format!("metrics of {address}"))?;
        Ok(Metrics { text })
    }

    /// The sum of all samples of this name that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name, labels).sum()
    }

    /// Whether there is a sample of this name with these labels.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.samples(name, labels).next().is_some()
    }

    fn samples(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (of_labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            if !labels.iter().all(|label| of_labels.split(',').any(|other| other == label)) {
                return None;
            }
            value.split(' ').next()?.parse().ok()
        })
    }
}

/// The body of a page that is answered with 200. HTTP/1.0: the answer comes whole, and the connection ends.
pub async fn http_get(address: &str, path: &str, token: Option<&str>) -> Result<String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let authorization =
            token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{authorization}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer =
        tokio::time::timeout(Duration::from_secs(5), ask).await.context("no answer within 5 s")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(status == "200", "{path}: status {status}: {body}");
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP chronik_wal_appended_records Records appended, by profile.
# TYPE chronik_wal_appended_records counter
chronik_wal_appended_records_total{profile="low"} 12
chronik_wal_appended_records_total{profile="high"} 30
chronik_produce_stage_seconds_sum{stage="queue",profile="low"} 0.5
chronik_wal_engine_info{engine="pwrite",reason="a seccomp profile, or a sysctl, forbids it"} 1
chronik_metadata_offset 7
"#;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let metrics = Metrics { text: TEXT.to_owned() };
        assert_eq!(metrics.sum("chronik_wal_appended_records_total", &[]), 42.0);
        assert_eq!(metrics.sum("chronik_wal_appended_records_total", &[("profile", "low")]), 12.0);
        assert_eq!(
            metrics.sum("chronik_produce_stage_seconds_sum", &[("profile", "low"), ("stage", "queue")]),
            0.5
        );
        assert_eq!(metrics.sum("chronik_metadata_offset", &[]), 7.0);
        assert!(metrics.has("chronik_wal_engine_info", &[("engine", "pwrite")]));
        assert!(!metrics.has("chronik_wal_engine_info", &[("engine", "io_uring")]));
        assert!(!metrics.has("chronik_metadata", &[]));
    }
}
