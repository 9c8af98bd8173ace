//! The client against servers that answer well, badly, late or without end.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A server that answers one request with these bytes, and gives back what it was asked.
async fn one_answer(answer: Vec<u8>) -> (Admin, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let n = stream.read(&mut buffer).await.unwrap();
            asked.extend_from_slice(&buffer[..n]);
            let text = String::from_utf8_lossy(&asked).to_string();
            let body_len =
                text.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let head = text.find("\r\n\r\n").map(|at| at + 4);
            if n == 0 || head.is_some_and(|head| asked.len() >= head + body_len.unwrap_or(0)) {
                break;
            }
        }
        let _ = stream.write_all(&answer).await;
        String::from_utf8_lossy(&asked).to_string()
    });
    (Admin::at(Arc::new(Metrics::default()), address, "secret\n"), serving)
}

fn http(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
        .into_bytes()
}

#[tokio::test]
async fn an_answer_is_typed_and_the_token_is_sent() {
    let body = r#"{"brokerId":3,"safe":false,"blocking":[{"topic":"t","partition":1,"reason":"r"}],"unavoidable":[],
        "reasons":[],"blockingCount":1,"unavoidableCount":0,"added":"later"}"#;
    let (admin, serving) = one_answer(http("200 OK", body)).await;
    let answer = admin.pre_restart(3).await.unwrap();
    assert!(!answer.safe);
    assert_eq!(answer.blocking[0].topic, "t");
    let asked = serving.await.unwrap();
    assert!(asked.starts_with("GET /v1/brokers/3/pre-restart HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("authorization: Bearer secret\r\n"), "{asked}");
    assert!(admin.metrics.encode().unwrap().contains("{call=\"pre_restart\",result=\"ok\"} 1"));
}

#[tokio::test]
async fn a_configuration_is_sent_whole() {
    let (admin, serving) = one_answer(http("200 OK", r#"{"valid":false,"errors":["no"]}"#)).await;
    let answer = admin.check_config("num.partitions: 3\n").await.unwrap();
    assert_eq!(answer, ConfigCheck { valid: false, errors: vec!["no".to_string()] });
    assert!(serving.await.unwrap().ends_with("\r\n\r\nnum.partitions: 3\n"));
}

#[tokio::test]
async fn unready_is_an_answer() {
    let body = r#"{"ready":false,"reasons":["placed: waiting for an address"]}"#;
    let (admin, _serving) = one_answer(http("503 Service Unavailable", body)).await;
    assert_eq!(admin.readiness().await.unwrap().reasons, ["placed: waiting for an address"]);
}

#[tokio::test]
async fn every_other_answer_is_an_error() {
    let (admin, _serving) = one_answer(http("401 Unauthorized", r#"{"error":"no token"}"#)).await;
    let e = admin.identity().await.unwrap_err();
    assert!(matches!(&e, AdminError::Refused { status: StatusCode::UNAUTHORIZED, .. }), "{e}");
    assert!(e.to_string().contains("no token"));

    let (admin, _serving) = one_answer(http("200 OK", r#"{"safe":"yes"}"#)).await;
    assert!(matches!(admin.pre_restart(0).await, Err(AdminError::Malformed { .. })));

    let (admin, _serving) = one_answer(b"not HTTP at all\r\n\r\n".to_vec()).await;
    assert!(matches!(admin.identity().await, Err(AdminError::Http(..))));

    let (admin, _serving) = one_answer(http("200 OK", &" ".repeat(ANSWER_BYTES_MAX + 1))).await;
    assert!(matches!(admin.identity().await, Err(AdminError::Http(..))));

    // Cut off before the length it promised.
    let (admin, _serving) = one_answer(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}".to_vec()).await;
    assert!(matches!(admin.identity().await, Err(AdminError::Http(..))));
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = Admin::at(Arc::new(Metrics::default()), listener.local_addr().unwrap(), "secret");
    assert!(matches!(admin.identity().await, Err(AdminError::Timeout(_))));
}
