//! The real binary over time: retention, compaction and deletion, and what is there after a kill.

mod common;
mod logs;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chronik_client::{Acks, BatchBuilder, Client, NewRecord, Position, Record};

use common::{Broker, PATIENCE};
use logs::{Plain, client, now_ms, produce, read, segment_files, topic};

fn start(dir: &Path) -> Result<Broker> {
    logs::start(dir, "")
}

/// As after a power cut, but for the kernel's caches.
fn killed(mut broker: Broker, dir: &Path) -> Result<Broker> {
    broker.child.kill()?;
    broker.child.wait()?;
    drop(broker);
    start(dir)
}

/// Waits until a partition begins at `wanted` or later.
async fn begins_at(client: &mut Client, topic: &str, wanted: i64) -> Result<i64> {
    let begun = Instant::now();
    loop {
        let start = client.list_offset(topic, 0, Position::Earliest).await?;
        if start >= wanted {
            return Ok(start);
        }
        ensure!(begun.elapsed() < PATIENCE, "{topic} begins at {start}, not at {wanted}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_by_their_age_and_stay_gone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let broker = start(dir.path())?;
    let mut c = client(&broker).await?;
    topic(&mut c, "aged", &[("retention.ms", "3600000")]).await?;
    topic(&mut c, "kept", &[("retention.ms", "-1")]).await?;
    let old = now_ms() - 7_200_000;
    for name in ["aged", "kept"] {
        for n in 0..50 {
            produce(&mut c, name, &[(old + n, b"k", Some(b"old")), (old + n, b"k", None)]).await?;
        }
    }
    ensure!(begins_at(&mut c, "aged", 100).await? == 100);
    ensure!(produce(&mut c, "aged", &[(now_ms(), b"k", Some(b"new"))]).await? == 100, "offsets go on");
    let refused = c.fetch("aged", 0, 99, 1000, 0).await.unwrap_err().to_string();
    ensure!(refused.contains("OFFSET_OUT_OF_RANGE"), "{refused}");
    drop(c);

    let broker = killed(broker, dir.path())?;
    let mut c = client(&broker).await?;
    ensure!(begins_at(&mut c, "aged", 0).await? == 100, "what was deleted came back");
    ensure!(read(&mut c, "aged", 100).await?.len() == 1);
    ensure!(begins_at(&mut c, "kept", 0).await? == 0 && read(&mut c, "kept", 0).await?.len() == 100);
    ensure!(broker.stop()?.status.success());
    Ok(())
}

/// Records that were deleted before they reached a segment have left their mark on the producers' state all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_producer_outlives_its_records() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let broker = start(dir.path())?;
    let mut c = client(&broker).await?;
    topic(&mut c, "brief", &[("retention.ms", "3600000")]).await?;
    let producer = c.init_producer_id().await?;
    let old = now_ms() - 7_200_000;
    let numbered = |sequence: i32| {
        let mut batch = BatchBuilder::new().producer(producer, sequence);
        batch.push(NewRecord { timestamp: old, key: None, value: Some(b"v"), headers: &[] });
        batch.build()
    };
    for sequence in 0..7 {
        c.produce("brief", 0, Acks::All, numbered(sequence)).await?;
    }
    ensure!(begins_at(&mut c, "brief", 7).await? == 7);
    drop(c);
    ensure!(broker.stop()?.status.success());
    let broker = start(dir.path())?;
    let mut c = client(&broker).await?;
    let refused = c.produce("brief", 0, Acks::All, numbered(9)).await.unwrap_err().to_string();
    ensure!(refused.contains("OUT_OF_ORDER_SEQUENCE_NUMBER"), "{refused}");
    ensure!(c.produce("brief", 0, Acks::All, numbered(7)).await? == Some(7), "7 is next");
    let broker = killed(broker, dir.path())?;
    let mut c = client(&broker).await?;
    ensure!(c.produce("brief", 0, Acks::All, numbered(7)).await? == Some(7), "a duplicate");
    ensure!(c.produce("brief", 0, Acks::All, numbered(8)).await? == Some(8));
    ensure!(broker.stop()?.status.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_keeps_to_its_size_and_its_files_go() -> Result<()> {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir()?;
    let broker = start(dir.path())?;
    let mut c = client(&broker).await?;
    topic(&mut c, "sized", &[("segment.bytes", "1048576"), ("retention.bytes", "3145728")]).await?;
    let value = vec![7; 100_000];
    for _ in 0..120 {
        produce(&mut c, "sized", &[(now_ms(), b"k", Some(&value))]).await?;
    }
    let begun = Instant::now();
    loop {
        let sizes: u64 = segment_files(dir.path())?.values().sum();
        // Three MiB, and up to a segment more.
        if (3 * MIB..=4 * MIB + MIB / 2).contains(&sizes)
            && c.list_offset("sized", 0, Position::Earliest).await? > 0
        {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "{sizes} bytes in segments: {:?}", segment_files(dir.path())?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let start = c.list_offset("sized", 0, Position::Earliest).await?;
    let records = read(&mut c, "sized", start).await?;
    let offsets: Vec<i64> = records.iter().map(|r| r.offset).collect();
    ensure!(offsets == (start..120).collect::<Vec<_>>(), "{offsets:?}");
    drop(c);

    let broker = killed(broker, dir.path())?;
    let mut c = client(&broker).await?;
    let again = c.list_offset("sized", 0, Position::Earliest).await?;
    ensure!(again >= start && read(&mut c, "sized", again).await?.len() as i64 == 120 - again);
    ensure!(broker.stop()?.status.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_record_of_each_key_stays() -> Result<()> {
    const KEYS: usize = 20;
    let dir = tempfile::tempdir()?;
    let broker = start(dir.path())?;
    let mut c = client(&broker).await?;
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "1000"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "500"),
    ];
    topic(&mut c, "keyed", &settings).await?;
    let mut keyless = BatchBuilder::new();
    keyless.push(NewRecord { timestamp: now_ms(), key: None, value: Some(b"v"), headers: &[] });
    let refused = c.produce("keyed", 0, Acks::All, keyless.build()).await.unwrap_err().to_string();
    ensure!(refused.contains("INVALID_RECORD"), "{refused}");
    let mut table: BTreeMap<Vec<u8>, (i64, Vec<u8>)> = BTreeMap::new();
    let old = now_ms() - 600_000;
    let mut offset = 0;
    for round in 0..60i64 {
        let keys: Vec<String> = (0..KEYS).map(|k| format!("key-{k}")).collect();
        let values: Vec<String> = (0..KEYS).map(|k| format!("value-{k}-{round}")).collect();
        let records: Vec<Plain<'_>> = keys
            .iter()
            .zip(&values)
            .enumerate()
            // The last keys end with a tombstone.
            .map(|(k, (key, value))| {
                let value = (k < KEYS - 3 || round < 50).then_some(value.as_bytes());
                (old + round * 1000, key.as_bytes(), value)
            })
            .collect();
        ensure!(produce(&mut c, "keyed", &records).await? == offset);
        for (_, key, value) in records {
            match value {
                Some(value) => _ = table.insert(key.to_vec(), (offset, value.to_vec())),
                None => _ = table.remove(key),
            }
            offset += 1;
        }
    }
    // Until one record of each key is left, and no tombstone.
    let (begun, first_nudge) = (Instant::now(), offset);
    loop {
        let records = read(&mut c, "keyed", 0).await?;
        // The offsets of a read are always true, whatever the cleaner is at.
        for record in records.iter().filter(|r| r.offset < first_nudge) {
            let (round, key) = (record.offset / KEYS as i64, format!("key-{}", record.offset % KEYS as i64));
            ensure!(record.key.as_deref() == Some(key.as_bytes()), "{record:?} is not of {key}");
            ensure!(record.timestamp == old + round * 1000, "{record:?} is not of round {round}");
        }
        if records.len() == table.len() {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "{} records of {} keys are left", records.len(), table.len());
        // Tombstones go with the next pass after their time, and a pass needs something dirty.
        if begun.elapsed() > Duration::from_secs(2) && offset == first_nudge {
            let keys: Vec<String> = (0..KEYS - 3).map(|k| format!("key-{k}")).collect();
            let records: Vec<Plain<'_>> =
                keys.iter().map(|key| (old + 100_000, key.as_bytes(), Some(&b"last"[..]))).collect();
            produce(&mut c, "keyed", &records).await?;
            for key in keys {
                table.insert(key.into_bytes(), (offset, b"last".to_vec()));
                offset += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let check = |records: Vec<Record>| -> Result<()> {
        let found: BTreeMap<Vec<u8>, (i64, Vec<u8>)> = records
            .into_iter()
            .filter_map(|r| Some((r.key?.to_vec(), (r.offset, r.value?.to_vec()))))
            .collect();
        ensure!(found == table, "{found:?}\nis not\n{table:?}");
        Ok(())
    };
    check(read(&mut c, "keyed", 0).await?)?;
    drop(c);
    let broker = killed(broker, dir.path())?;
    let mut c = client(&broker).await?;
    let records = read(&mut c, "keyed", 0).await?;
    ensure!(records.len() >= table.len(), "records are missing after a kill");
    let last: BTreeMap<_, _> = records.iter().map(|r| (r.key.clone(), r.value.clone())).collect();
    for (key, (_, value)) in &table {
        ensure!(last.iter().any(|(k, v)| k.as_deref() == Some(&key[..]) && v.as_deref() == Some(&value[..])));
    }
    ensure!(
        produce(&mut c, "keyed", &[(now_ms(), b"key-0", Some(b"after"))]).await? == offset,
        "offsets go on"
    );
    ensure!(broker.stop()?.status.success());
    Ok(())
}
