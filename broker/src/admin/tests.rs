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
    send(address, &format!("{head}\r\nHost: x\r\n\r\n")).await
}

async fn check(address: SocketAddr, configuration: &str) -> String {
    let length = configuration.len();
    let head = format!("POST /v1/config/check HTTP/1.1\r\nHost: x\r\nContent-Length: {length}");
    send(address, &format!("{head}\r\n\r\n{configuration}")).await
}

async fn send(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Who refuses a large body may close before it is all written.
    let _ = stream.write_all(request.as_bytes()).await;
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
    let incarnation = admin.broker.get().unwrap().metadata.image().brokers()[&BrokerId(1)].incarnation;
    let incarnation = format!("\"incarnation\":\"{incarnation}\"");
    for part in [
        "\"brokerId\":1",
        "\"clusterId\":\"test-cluster\"",
        "\"walEngine\":\"pwrite\"",
        "\"walProfile\":\"high\"",
        "\"startedAt\":\"2000-02-29T00:00:00Z\"",
        &incarnation,
        &hash,
    ] {
        assert!(identity.contains(part), "{part}: {identity}");
    }
    let cluster = ask(address, "GET /v1/cluster HTTP/1.1").await;
    for part in
        ["\"controllerId\":1", "\"fenced\":false", "\"PLAINTEXT://127.0.0.1:9092\"", "\"underReplicated\":0"]
    {
        assert!(cluster.contains(part), "{part}: {cluster}");
    }
}

#[tokio::test]
async fn restarts_are_asked_for_by_broker() {
    let (address, admin) = start(None).await;
    let before = |call: &str| format!("GET /v1/brokers/{call} HTTP/1.1");
    assert!(ask(address, &before("1/pre-restart")).await.starts_with("HTTP/1.1 503"));
    let fixture = crate::api::testing::Fixture::new().await;
    fixture.create_topic("t", 2).await;
    assert!(admin.broker.set(fixture.broker.clone()).is_ok());

    let early = ask(address, &before("1/pre-restart")).await;
    assert!(early.contains("\"safe\":false") && early.contains("log-recovered: not yet"), "{early}");
    let early = ask(address, &before("1/post-restart")).await;
    assert!(early.contains("\"caughtUp\":false") && early.contains("log-recovered: not yet"), "{early}");

    Health::CONDITIONS.iter().for_each(|c| admin.health.met(c));
    let safe = ask(address, &before("1/pre-restart")).await;
    for part in [
        "HTTP/1.1 200",
        "\"brokerId\":1,\"safe\":true,\"blocking\":[],\"unavoidable\":[{\"topic\":\"t\",\"partition\":0,\"reason\":\"",
        "\"reasons\":[],\"blockingCount\":0,\"unavoidableCount\":2",
    ] {
        assert!(safe.contains(part), "{part}: {safe}");
    }
    let back = ask(address, &before("1/post-restart")).await;
    let want = "{\"brokerId\":1,\"caughtUp\":true,\"percent\":100.0,\"waitingFor\":[]}";
    assert!(back.ends_with(want), "{back}");
    for nobody in ["9/pre-restart", "9/post-restart", "x/pre-restart", "-1/pre-restart"] {
        let answer = ask(address, &before(nobody)).await;
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("registered"), "{answer}");
    }
}

#[tokio::test]
async fn a_configuration_is_checked_for_whoever_will_restart_the_broker() {
    let (address, admin) = start(None).await;
    assert!(check(address, "").await.starts_with("HTTP/1.1 503"));
    let fixture = crate::api::testing::Fixture::new().await;
    assert!(admin.broker.set(fixture.broker.clone()).is_ok());
    let fine = check(address, "num.partitions: 3\n").await;
    assert!(fine.ends_with("{\"errors\":[],\"valid\":true}"), "{fine}");
    let bad = check(address, "num.partitions: x\nnonsense: 1\n").await;
    assert!(bad.starts_with("HTTP/1.1 200") && bad.contains("\"valid\":false"), "{bad}");
    for key in ["unknown key \\\"nonsense\\\"", "num.partitions="] {
        assert!(bad.contains(key), "{key}: {bad}");
    }
    let many: String = (0..200).map(|n| format!("nonsense.{n}: 1\n")).collect();
    assert!(check(address, &many).await.contains("and 100 more"));
    let large = check(address, &"# comment\n".repeat(CONFIG_BYTES_MAX / 10 + 1)).await;
    assert!(large.starts_with("HTTP/1.1 413") && large.contains("262144"), "{large}");
    assert!(ask(address, "GET /v1/config/check HTTP/1.1").await.starts_with("HTTP/1.1 405"));
}

#[tokio::test]
async fn profiles_are_shown_as_they_are_now() {
    use chronik_core::controller::{AlterOp, ConfigOp, incremental_alter_configs};
    use chronik_core::metadata::ConfigResource;

    let (address, admin) = start(None).await;
    let fixture = crate::api::testing::Fixture::new().await;
    fixture.create_topic("t", 1).await;
    assert!(admin.broker.set(fixture.broker.clone()).is_ok());
    let set = async |resource: ConfigResource, op: AlterOp, settings: &[(&str, &str)]| {
        let op = |(name, value): &(&str, &str)| {
            let (name, value) = (name.to_string(), (op == AlterOp::Set).then(|| value.to_string()));
            ConfigOp { name, op, value }
        };
        let request = [(resource, settings.iter().map(op).collect::<Vec<_>>())];
        let store = &fixture.broker.metadata;
        let answers =
            store.change(|image| Ok(incremental_alter_configs(image, &request, false))).await.unwrap();
        answers.into_iter().for_each(|(_, answer)| answer.unwrap());
    };
    let bulk = [
        ("chronik.wal.profile.bulk.policy", "hybrid"),
        ("chronik.wal.profile.bulk.max.delay.us", "2500"),
        ("chronik.wal.profile.bulk.ack", "buffered"),
    ];
    set(ConfigResource::BrokerDefault, AlterOp::Set, &bulk).await;
    set(ConfigResource::Topic("t".to_string()), AlterOp::Set, &[("chronik.wal.profile", "bulk")]).await;
    let seen = ask(address, "GET /metrics HTTP/1.1").await;
    for line in [
        "chronik_wal_profile_info{profile=\"bulk\",policy=\"hybrid\",ack=\"buffered\"} 1\n",
        "chronik_wal_profile_info{profile=\"high\",policy=\"pipelined\",ack=\"durable\"} 1\n",
        "chronik_wal_profile_max_delay_seconds{profile=\"bulk\"} 0.0025\n",
        "chronik_wal_profile_max_group_records{profile=\"low\"} 1000\n",
        "chronik_wal_profile_max_queue_bytes{profile=\"low\"} 8388608\n",
        "chronik_wal_profile_topics{profile=\"bulk\"} 1\n",
        "chronik_wal_profile_topics{profile=\"high\"} 0\n",
    ] {
        assert!(seen.contains(line), "{line} is not in\n{seen}");
    }
    set(ConfigResource::Topic("t".to_string()), AlterOp::Delete, &[("chronik.wal.profile", "")]).await;
    set(ConfigResource::BrokerDefault, AlterOp::Delete, &[("chronik.wal.profile.bulk", "")]).await;
    let seen = ask(address, "GET /metrics HTTP/1.1").await;
    assert!(!seen.contains("profile=\"bulk\""), "{seen}");
    assert!(seen.contains("chronik_wal_profile_topics{profile=\"high\"} 1\n"), "{seen}");
}
