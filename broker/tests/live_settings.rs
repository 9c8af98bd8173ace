//! The real binary: settings and log levels are altered while it runs. Settings outlive it, log levels do not.

mod common;
mod logs;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chronik_client::{Client, ConfigSource, Position, Resource};

use common::{Broker, PATIENCE};
use logs::{client, now_ms, produce, read, segment_files, start, topic};

/// The broker of these tests.
const BROKER: Resource = Resource::Broker(3);

async fn alter(client: &mut Client, of: &Resource, name: &str, value: Option<&str>) -> Result<()> {
    Ok(client.alter_configs(of, &[(name.to_string(), value.map(str::to_string))]).await?)
}

/// The value in effect, and those behind it, each with where it is from.
async fn values(client: &mut Client, name: &str) -> Result<Vec<(String, ConfigSource)>> {
    let told = client.config_details(&BROKER, &[name.to_string()]).await?;
    let synonyms = told.into_iter().flat_map(|setting| setting.synonyms);
    Ok(synonyms.map(|s| (s.value.unwrap_or_default(), s.source)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_act_at_once_and_outlive_the_broker() -> Result<()> {
    const STATIC: &str = "message.max.bytes: 5000";
    let dir = tempfile::tempdir()?;
    let broker = start(dir.path(), STATIC)?;
    let mut c = client(&broker).await?;
    topic(&mut c, "t", &[]).await?;
    let value = [b'v'; 3000];
    produce(&mut c, "t", &[(now_ms() - 7_200_000, b"old", Some(&value))]).await?;

    alter(&mut c, &BROKER, "message.max.bytes", Some("1000")).await?;
    let record = (now_ms(), &b"new"[..], Some(&value[..]));
    let refused = produce(&mut c, "t", &[record]).await.unwrap_err().to_string();
    ensure!(refused.contains("MESSAGE_TOO_LARGE"), "{refused}");
    let of = |value: &str, source| (value.to_string(), source);
    let all = vec![
        of("1000", ConfigSource::Broker),
        of("5000", ConfigSource::Static),
        of("1048588", ConfigSource::Default),
    ];
    ensure!(values(&mut c, "message.max.bytes").await? == all);

    // What the topic does not say itself, it has from the brokers.
    alter(&mut c, &Resource::ClusterDefault, "log.retention.ms", Some("3600000")).await?;
    let begun = Instant::now();
    let on_disk = || Ok::<u64, anyhow::Error>(segment_files(dir.path())?.values().sum());
    while c.list_offset("t", 0, Position::Earliest).await? == 0 || on_disk()? > 3000 {
        ensure!(begun.elapsed() < PATIENCE, "the old record is still there, or its file");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    for (name, words) in [
        ("chronik.data.dir", "Cannot update these configs dynamically: [chronik.data.dir]"),
        ("num.partitions", "Cannot update these configs dynamically: [num.partitions]"),
        ("log.flush.interval.ms", "no effect here yet"),
        ("no.such", "Unknown broker config name: no.such"),
    ] {
        let why = alter(&mut c, &BROKER, name, Some("1")).await.unwrap_err().to_string();
        ensure!(why.contains(words), "{why}");
    }
    drop(c);
    broker.stop()?;

    let broker = start(dir.path(), STATIC)?;
    let mut c = client(&broker).await?;
    ensure!(values(&mut c, "message.max.bytes").await? == all, "it is set as before");
    ensure!(produce(&mut c, "t", &[record]).await.is_err(), "and acts");
    alter(&mut c, &BROKER, "message.max.bytes", None).await?;
    ensure!(produce(&mut c, "t", &[record]).await? == 1);
    ensure!(read(&mut c, "t", 1).await?.len() == 1);
    Ok(())
}

/// A connection that breaks the protocol: it is closed, which is logged.
fn break_in(broker: &Broker) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", broker.kafka))?;
    stream.write_all(&[0xff; 8])?;
    // Until it is closed, or reset.
    let _ = stream.read_to_end(&mut Vec::new());
    Ok(())
}

async fn level(client: &mut Client, logger: &str) -> Result<Option<String>> {
    let told = client.config_details(&Resource::Loggers(3), &[logger.to_string()]).await?;
    Ok(told.into_iter().next().and_then(|logger| logger.entry.value))
}

#[tokio::test(flavor = "multi_thread")]
async fn log_levels_act_at_once_and_are_forgotten() -> Result<()> {
    const LOGGER: &str = "chronik_broker.net";
    let dir = tempfile::tempdir()?;
    let broker = start(dir.path(), "")?;
    let mut c = client(&broker).await?;
    ensure!(level(&mut c, LOGGER).await?.as_deref() == Some("INFO"));
    break_in(&broker)?;
    alter(&mut c, &Resource::Loggers(3), LOGGER, Some("WARN")).await?;
    ensure!(level(&mut c, LOGGER).await?.as_deref() == Some("WARN"));
    break_in(&broker)?;
    alter(&mut c, &Resource::Loggers(3), LOGGER, None).await?;
    break_in(&broker)?;
    alter(&mut c, &Resource::Loggers(3), LOGGER, Some("ERROR")).await?;
    drop(c);
    let log = String::from_utf8_lossy(&broker.stop()?.stderr).into_owned();
    ensure!(log.matches("connection closed: ").count() == 2, "{log}");

    let broker = start(dir.path(), "")?;
    ensure!(level(&mut client(&broker).await?, LOGGER).await?.as_deref() == Some("INFO"));
    Ok(())
}
