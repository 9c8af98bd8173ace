use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

async fn start(token_file: Option<std::path::PathBuf>) -> (SocketAddr, Arc<Admin>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let admin = Arc::new(Admin {
        health: Arc::new(Health::new()),
        metrics: Arc::new(Metrics::new([(0, "Produce")])),
        access: Access { token_file, bound_to_loopback: true },
        broker: OnceLock::new(),
    });
    tokio::spawn(serve(listener, admin.clone(), std::future::pending()));
    (address, admin)
}

/// Sends one request by hand, and returns the whole answer.
async fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn health_says_why() {
    let (address, admin) = start(None).await;
    assert!(ask(address, "GET /livez HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    admin.health.unmet("log-recovered", "3 of 8 WAL files read");
    let answer = ask(address, "GET /readyz HTTP/1.1").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("log-recovered: 3 of 8 WAL files read"),
        "{answer}"
    );
    Health::CONDITIONS.iter().for_each(|c| admin.health.met(c));
    let answer = ask(address, "GET /readyz HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"ready\":true"), "{answer}");
    admin.health.fail("WAL write failed: EIO");
    for path in ["/livez", "/readyz"] {
        let answer = ask(address, &format!("GET {path} HTTP/1.1")).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("EIO"), "{answer}");
    }
}

#[tokio::test]
async fn metrics_are_open_and_v1_is_not() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "t0ken").unwrap();
    let (address, _admin) = start(Some(token.path().into())).await;
    assert!(
        ask(address, "GET /metrics HTTP/1.1").await.contains("chronik_requests_total{api=\"Produce\"} 0")
    );
    let answer = ask(address, "GET /v1/identity HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("www-authenticate: Bearer"), "{answer}");
    let answer = ask(address, "GET /v1/identity HTTP/1.1\r\nAuthorization: Bearer t0ken").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("starting"), "{answer}");
    assert!(ask(address, "GET /v2 HTTP/1.1").await.starts_with("HTTP/1.1 404"));
    assert!(ask(address, "POST /livez HTTP/1.1").await.starts_with("HTTP/1.1 405"));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (address, _admin) = start(None).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let huge = format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
    // The server may close while this is still being written.
    let _ = stream.write_all(huge.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert!(ask(address, "GET /livez HTTP/1.1").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_broker_shows_itself_and_its_cluster() {
    let (address, admin) = start(None).await;
    let broker = crate::api::testing::Fixture::new().await.broker;
    let hash = broker.config.hash();
    assert!(admin.broker.set(broker).is_ok());
    let identity = ask(address, "GET /v1/identity HTTP/1.1").await;
    for part in ["\"brokerId\":1", "\"clusterId\":\"test-cluster\"", "\"walEngine\":\"pwrite\"", &hash] {
        assert!(identity.contains(part), "{part}: {identity}");
    }
    let cluster = ask(address, "GET /v1/cluster HTTP/1.1").await;
    for part in
        ["\"controllerId\":1", "\"fenced\":false", "\"PLAINTEXT://127.0.0.1:9092\"", "\"underReplicated\":0"]
    {
        assert!(cluster.contains(part), "{part}: {cluster}");
    }
}
