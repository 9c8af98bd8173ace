//! The real binary, placed by files: it waits for them, follows them, and refuses a disk that is not the one
//! that is known.

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chronik_client::Client;

use common::{Broker, PATIENCE, get};

/// A broker that is told where it is.
fn start(dir: &Path) -> Result<Broker> {
    common::start(dir, &format!("chronik.placement.dir: {}", dir.join("placement").display()))
}

fn dir() -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let placement = dir.path().join("placement");
    std::fs::create_dir(&placement)?;
    Ok((dir, placement))
}

fn write(placement: &Path, file: &str, text: &str) -> Result<()> {
    Ok(std::fs::write(placement.join(file), text)?)
}

/// What clients are told of the broker: its address and its rack.
async fn told(kafka: u16) -> Result<(String, Option<String>)> {
    let mut client = Client::connect(&format!("127.0.0.1:{kafka}"), Duration::from_secs(10)).await?;
    let cluster = client.cluster(Some(&[])).await?;
    let broker = cluster.brokers.get(&3).context("broker 3")?;
    Ok((broker.address.clone(), broker.rack.clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_waits_for_its_placement_and_follows_it() -> Result<()> {
    let (dir, placement) = dir()?;
    write(&placement, "bootstrap", "allowed")?;
    write(&placement, "advertised-listeners", "")?;
    let mut broker = start(dir.path())?;
    let waiting = broker.until("/readyz", "placed: waiting for advertised-listeners")?;
    ensure!(waiting.starts_with("HTTP/1.1 503"), "{waiting}");
    ensure!(get(broker.admin, "/livez")?.starts_with("HTTP/1.1 200"));
    write(&placement, "advertised-listeners", "OTHER://a:1")?;
    broker.until("/readyz", "there is no listener OTHER")?;
    write(&placement, "rack", "zone-a")?;
    write(&placement, "advertised-listeners", "INTERNAL://first.example:9092")?;
    broker.until("/readyz", "\"ready\":true")?;
    let first = told(broker.kafka).await?;
    ensure!(first == ("first.example:9092".to_string(), Some("zone-a".to_string())), "{first:?}");
    let before = broker.until("/v1/identity", "incarnation")?;

    // It moves while it runs: no restart, no new epoch.
    let epoch = |cluster: &str| {
        cluster.split("\"epoch\":").nth(1).map(|rest| rest.split(',').next().map(str::to_string))
    };
    let old = broker.until("/v1/cluster", "zone-a")?;
    write(&placement, "bootstrap", "forbidden")?;
    write(&placement, "rack", "")?;
    write(&placement, "advertised-listeners", "INTERNAL://second.example:31234")?;
    let new = broker.until("/v1/cluster", "second.example:31234")?;
    ensure!(epoch(&new).is_some() && epoch(&new) == epoch(&old), "{new}\n{old}");
    let begun = Instant::now();
    while told(broker.kafka).await? != ("second.example:31234".to_string(), None) {
        ensure!(begun.elapsed() < PATIENCE, "{:?}", told(broker.kafka).await?);
    }
    let incarnation =
        |identity: &str| identity.split("\"incarnation\":\"").nth(1).map(|rest| rest[..36].to_string());
    ensure!(incarnation(&before) == incarnation(&get(broker.admin, "/v1/identity")?));
    ensure!(get(broker.admin, "/readyz")?.contains("\"ready\":true"));
    let stopped = broker.stop()?;
    let log = String::from_utf8_lossy(&stopped.stderr).into_owned();
    ensure!(stopped.status.success() && log.contains("stopped"), "{}: {log}", stopped.status);
    ensure!(!log.contains('\u{1b}'), "colours where there is no terminal: {log}");

    // The disk is there again: `forbidden` is about other disks.
    let mut again = start(dir.path())?;
    again.until("/readyz", "\"ready\":true")?;
    ensure!(again.stop()?.status.success());
    Ok(())
}

#[test]
fn a_broker_that_waits_stops_when_it_is_told_to() -> Result<()> {
    let (dir, _placement) = dir()?;
    let mut broker = start(dir.path())?;
    broker.until("/readyz", "placed: waiting for bootstrap")?;
    let stopped = broker.stop()?;
    ensure!(stopped.status.code() == Some(0), "{stopped:?}");
    ensure!(!dir.path().join("data").exists(), "a broker that is nowhere has written");
    Ok(())
}

#[test]
fn an_empty_disk_where_another_is_known_is_refused_in_one_line() -> Result<()> {
    let (dir, placement) = dir()?;
    write(&placement, "bootstrap", "forbidden")?;
    write(&placement, "advertised-listeners", "INTERNAL://first.example:9092")?;
    let mut broker = start(dir.path())?;
    let refused = broker.ended()?;
    let log = String::from_utf8_lossy(&refused.stderr).into_owned();
    let last = log.lines().last().unwrap_or_default();
    ensure!(refused.status.code() == Some(1), "{}: {log}", refused.status);
    ensure!(last.starts_with("chronik: the data directory ") && last.contains("holds no data"), "{log}");
    ensure!(!dir.path().join("data").exists(), "the disk was written to");
    Ok(())
}
