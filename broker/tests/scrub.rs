//! The real binary reads its closed segments again and again: damage is found before a consumer finds it.

mod common;
mod logs;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chronik_client::{Client, Resource};

use common::{Broker, PATIENCE};
use logs::{Plain, client, now_ms, produce, read, segment_files, topic};

const RECORDS: i64 = 60;
const RECORD_BYTES: usize = 100_000;
/// A batch of one such record, at the least: its offset follows from its place.
const LOST: i64 = 4;

const OFTEN: &str = "chronik.scrub.interval.ms: 1000";
const RARELY: &str = "chronik.scrub.interval.ms: 3600000";
const NEVER: &str = "chronik.scrub.interval.ms: -1";

/// The value of a metric without labels.
fn metric(broker: &mut Broker, name: &str) -> Result<i64> {
    let answer = broker.until("/metrics", name)?;
    let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no {name}"))?.trim().parse()?)
}

fn until_metric(broker: &mut Broker, name: &str, wanted: impl Fn(i64) -> bool) -> Result<i64> {
    let begun = Instant::now();
    loop {
        let value = metric(broker, name)?;
        if wanted(value) {
            return Ok(value);
        }
        ensure!(begun.elapsed() < PATIENCE, "{name} stays {value}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// A topic of several closed segments, and the oldest file. Nothing of it is in memory.
async fn filled(dir: &Path) -> Result<PathBuf> {
    let mut broker = logs::start(dir, NEVER)?;
    let mut c = client(&broker).await?;
    topic(&mut c, "kept", &[("segment.bytes", "1048576"), ("retention.ms", "-1")]).await?;
    let value = vec![7; RECORD_BYTES];
    for _ in 0..RECORDS {
        let record: Plain<'_> = (now_ms(), b"k", Some(&value));
        produce(&mut c, "kept", &[record]).await?;
    }
    ensure!(metric(&mut broker, "chronik_scrub_verified_bytes_total")? == 0, "it is off");
    ensure!(broker.stop()?.status.success());
    let files = segment_files(dir)?;
    let logs: Vec<&PathBuf> = files.keys().filter(|f| f.extension().is_some_and(|e| e == "log")).collect();
    ensure!(logs.len() > 3, "{files:?}");
    Ok(logs[0].clone())
}

fn flip(file: &Path) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(file)?;
    let at = RECORD_BYTES as u64 * LOST as u64 + 50_000;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(file.write_all_at(&[byte[0] ^ 4], at)?)
}

/// Everything but the damaged record is served.
async fn check_rest(c: &mut Client) -> Result<()> {
    for refused in [LOST, LOST] {
        let answer = c.fetch("kept", 0, refused, 1 << 20, 0).await.map(|_| ());
        let e = answer.unwrap_err().to_string();
        ensure!(e.contains("KAFKA_STORAGE_ERROR"), "{e}");
    }
    let before = c.fetch("kept", 0, 0, 1 << 20, 0).await?.records;
    let before: Vec<i64> =
        chronik_client::batches(before).map(|batch| Ok(batch?.next_offset)).collect::<Result<_>>()?;
    ensure!(before == (1..=LOST).collect::<Vec<_>>(), "{before:?}");
    let behind: Vec<i64> = read(c, "kept", LOST + 1).await?.iter().map(|r| r.offset).collect();
    ensure!(behind == (LOST + 1..RECORDS).collect::<Vec<_>>(), "{behind:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_is_found_though_nobody_reads() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = filled(dir.path()).await?;
    flip(&file)?;
    let mut broker = logs::start(dir.path(), OFTEN)?;
    until_metric(&mut broker, "chronik_scrub_damaged_segments", |n| n == 1)?;
    let mut c = client(&broker).await?;
    check_rest(&mut c).await?;
    // Another pass tells of it no more.
    let verified = metric(&mut broker, "chronik_scrub_verified_bytes_total")?;
    let twice = verified + 2 * RECORDS * RECORD_BYTES as i64;
    until_metric(&mut broker, "chronik_scrub_verified_bytes_total", |bytes| bytes > twice)?;
    let log = String::from_utf8(broker.stop()?.stderr)?;
    let told: Vec<&str> = log.lines().filter(|line| line.contains("damage in a segment")).collect();
    ensure!(told.len() == 1, "{log}");
    for words in ["kept", &file.display().to_string(), "checksum", "offsets 4 to 4", "go on at offset 5"] {
        ensure!(told[0].contains(words), "{words} is not in {}", told[0]);
    }

    // A restart forgets what is damaged, and not where to look first.
    let mut broker = logs::start(dir.path(), RARELY)?;
    until_metric(&mut broker, "chronik_scrub_damaged_segments", |n| n == 1)?;
    check_rest(&mut client(&broker).await?).await?;
    let verified = metric(&mut broker, "chronik_scrub_verified_bytes_total")?;
    ensure!(verified < 2 << 20, "{verified} bytes: more than the damaged segment");
    ensure!(metric(&mut broker, "chronik_scrub_full_pass_timestamp_seconds")? > 0);
    ensure!(broker.stop()?.status.success());

    // From a copy, as it were.
    flip(&file)?;
    let mut broker = logs::start(dir.path(), RARELY)?;
    let size = std::fs::metadata(&file)?.len() as i64;
    until_metric(&mut broker, "chronik_scrub_verified_bytes_total", |bytes| bytes >= size)?;
    ensure!(metric(&mut broker, "chronik_scrub_damaged_segments")? == 0);
    let mut c = client(&broker).await?;
    ensure!(read(&mut c, "kept", 0).await?.len() as i64 == RECORDS);
    ensure!(broker.stop()?.status.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_meets_damage_brings_the_scrub_there_first() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = filled(dir.path()).await?;
    flip(&file)?;
    // By its age nothing is due.
    let mut broker = logs::start(dir.path(), RARELY)?;
    let mut c = client(&broker).await?;
    ensure!(c.fetch("kept", 0, LOST, 1 << 20, 0).await.is_err());
    until_metric(&mut broker, "chronik_scrub_damaged_segments", |n| n == 1)?;
    check_rest(&mut c).await?;
    let verified = metric(&mut broker, "chronik_scrub_verified_bytes_total")?;
    ensure!(verified < 2 << 20, "{verified} bytes: more than the damaged segment");
    ensure!(broker.stop()?.status.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_begins_when_it_is_turned_on() -> Result<()> {
    let dir = tempfile::tempdir()?;
    filled(dir.path()).await?;
    let mut broker = logs::start(dir.path(), NEVER)?;
    let mut c = client(&broker).await?;
    let change = [("chronik.scrub.interval.ms".to_string(), Some("1000".to_string()))];
    ensure!(metric(&mut broker, "chronik_scrub_full_pass_timestamp_seconds")? == 0, "it is off");
    c.alter_configs(&Resource::ClusterDefault, &change).await?;
    until_metric(&mut broker, "chronik_scrub_verified_bytes_total", |bytes| bytes > 3 << 20)?;
    until_metric(&mut broker, "chronik_scrub_full_pass_timestamp_seconds", |at| at > 0)?;
    ensure!(metric(&mut broker, "chronik_scrub_damaged_segments")? == 0);
    ensure!(broker.stop()?.status.success());
    Ok(())
}
